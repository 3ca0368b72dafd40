//! A 64-bit PC with UEFI: what Azure Gen2 and servers look like to an image.

use super::{Arguments, Boot};
use crate::prove::accel::Accel;
use crate::prove::firmware::Firmware;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";
pub(super) const NAME: &str = "q35";

pub(super) fn arguments(boot: &Boot, firmware: &Firmware, args: &mut Arguments) {
    // Secure firmware keeps its variables from the guest by system management mode.
    args.option("-machine", if firmware.secure { "q35,smm=on" } else { "q35,smm=off" });
    if firmware.secure {
        args.option("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    processor(boot, args);
    args.firmware(firmware);
    args.virtual_hardware(boot);
    args.tpm(boot, "tpm-crb");
}

/// A PC's processor, and what runs it.
pub(super) fn processor(boot: &Boot, args: &mut Arguments) {
    // systemd believes the processor before the firmware, so that one must not say who emulates it.
    let azure = boot.provisioning_disc.is_some();
    match boot.accel {
        Accel::Kvm => {
            args.option("-accel", "kvm");
            args.option("-cpu", if azure { "host,kvm=off" } else { "host" });
        }
        Accel::Tcg => {
            args.option("-accel", "tcg,thread=multi");
            // Plainer processors, fewer features and other buffers for translated code were tried: none boots faster
            // than another boot of the same, and with `max,-svm` the guest's C library aborts under QEMU 7.2.
            args.option("-cpu", if azure { "max,tcg-cpuid=off" } else { "max" });
        }
    }
}
