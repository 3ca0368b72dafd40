//! A 64-bit PC with a BIOS: what Azure VMs of generation 1 and older PCs look like to an image. The BIOS is SeaBIOS, which
//! comes with QEMU and is started where nothing else is named.

use super::{Arguments, Boot, pc};

pub(super) const PROGRAM: &str = pc::PROGRAM;
/// The chip set of 1996, i440FX, and the only one that QEMU calls plainly a PC.
pub(super) const NAME: &str = "pc";

pub(super) fn arguments(boot: &Boot, args: &mut Arguments) {
    // Without a screen SeaBIOS, and through it grub, speak on the serial port.
    args.option("-machine", "pc,graphics=off");
    pc::processor(boot, args);
    args.virtual_hardware(boot);
    args.tpm(boot, "tpm-tis");
}
