//! A 64-bit PC with UEFI: what Azure Gen2 and servers look like to an image.

use super::{Arguments, Boot};
use crate::prove::accel::Accel;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";
pub(super) const NAME: &str = "q35";

pub(super) fn arguments(boot: &Boot, args: &mut Arguments) {
    // Secure firmware keeps its variables from the guest by system management mode.
    args.option("-machine", if boot.firmware.secure { "q35,smm=on" } else { "q35,smm=off" });
    if boot.firmware.secure {
        args.option("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    match boot.accel {
        Accel::Kvm => {
            args.option("-accel", "kvm");
            args.option("-cpu", "host");
        }
        Accel::Tcg => {
            args.option("-accel", "tcg,thread=multi");
            // Plainer processors, fewer features and other buffers for translated code were tried: none boots faster
            // than another boot of the same, and with `max,-svm` the guest's C library aborts under QEMU 7.2.
            args.option("-cpu", "max");
        }
    }
    let (code, vars) = (&boot.firmware.code, &boot.firmware.vars);
    let before = format!("if=pflash,unit=0,readonly=on,format={},file=", code.format);
    args.paths("-drive", &before, &code.file);
    args.paths("-drive", &format!("if=pflash,unit=1,format={},file=", vars.format), &vars.file);
    // The copy is thrown away: nobody needs it to survive a crash of the host.
    args.paths("-drive", "if=none,id=disk,cache=unsafe,discard=unmap,format=qcow2,file=", &boot.disk);
    args.option("-device", "virtio-blk-pci,drive=disk,bootindex=0");
    args.option("-device", "virtio-rng-pci");
    // No boot ROM: the firmware must not wait for a network boot server.
    args.option("-device", "virtio-net-pci,netdev=net0,romfile=");
}
