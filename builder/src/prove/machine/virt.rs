//! A 64-bit Arm machine with UEFI: what Arm servers and clouds look like to an image.

use super::{Arguments, Boot};
use crate::prove::accel::Accel;
use crate::prove::firmware::Firmware;

pub(super) const PROGRAM: &str = "qemu-system-aarch64";
pub(super) const NAME: &str = "virt";

pub(super) fn arguments(boot: &Boot, firmware: &Firmware, args: &mut Arguments) {
    match boot.accel {
        Accel::Kvm => {
            // The interrupt controller cannot be another one than the host's.
            args.option("-machine", "virt,gic-version=host");
            args.option("-accel", "kvm");
            args.option("-cpu", "host");
        }
        Accel::Tcg => {
            args.option("-machine", NAME);
            args.option("-accel", "tcg,thread=multi");
            // `max` has pointer authentication, which is slow to emulate.
            args.option("-cpu", "cortex-a72");
        }
    }
    args.firmware(firmware);
    args.virtual_hardware(boot);
    args.tpm(boot, "tpm-tis-device");
}
