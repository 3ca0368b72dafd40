use std::path::{Path, PathBuf};

use super::raspi3b::{Loaded, Port};
use super::{Arguments, Boot, Machine, Start};
use crate::prove::accel::{Accel, Wanted};
use crate::prove::firmware::{Firmware, Flash};
use crate::recipe::types::Board;
use crate::units::{Arch, ByteSize};

fn line(machine: Machine, start: Start, accel: Accel) -> String {
    words(&boot(machine, start, accel))
}

fn boot(machine: Machine, start: Start, accel: Accel) -> Boot {
    let (cpus, memory) = machine.size(None, None).expect("its own");
    Boot {
        program: "qemu".into(),
        uuid: "00000000-0000-4000-8000-000000000000".into(),
        disk: "/t/disk.qcow2".into(),
        start,
        accel,
        cpus,
        memory,
        cut: false,
        clock: super::NOW.into(),
        tpm: false,
        provisioning_disc: None,
        paused: false,
        folder: "/t".into(),
    }
}

/// Everything that a test may do to a machine.
fn injected(machine: Machine, start: Start) -> String {
    let clock = "1980-01-01T00:00:00".into();
    let usual = boot(machine, start, Accel::Tcg);
    words(&Boot { cut: true, clock, tpm: true, paused: true, ..usual })
}

fn words(boot: &Boot) -> String {
    boot.arguments().iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn firmware(secure: bool) -> Firmware {
    let flash = |name: &str| Flash { file: PathBuf::from(name), format: "raw".into() };
    Firmware { code: flash("/f/code"), vars: flash("/t/vars"), secure }
}

fn pc(accel: Accel, secure: bool) -> String {
    line(Machine::Pc, Start::Pc(firmware(secure)), accel)
}

fn raspberry_pi(initramfs: bool, console: Port) -> String {
    line(Machine::Raspi3b, Start::Raspi3b(loaded(initramfs, console)), Accel::Tcg)
}

fn loaded(initramfs: bool, console: Port) -> Loaded {
    Loaded {
        kernel: "/t/kernel".into(),
        initramfs: initramfs.then(|| "/t/initramfs".into()),
        device_tree: "/t/device-tree".into(),
        cmdline: "console=ttyS0,115200 root=/dev/mmcblk0p2".into(),
        console,
    }
}

fn assert_has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn machines() {
    assert_eq!(Machine::of(Arch::X86_64, Board::Uefi), Some(Machine::Pc));
    assert_eq!(Machine::of(Arch::Aarch64, Board::Uefi), Some(Machine::Virt));
    assert_eq!(Machine::of(Arch::Aarch64, Board::RaspberryPi), Some(Machine::Raspi3b));
    assert_eq!(Machine::of(Arch::X86_64, Board::RaspberryPi), None);
    assert_eq!(Machine::of(Arch::X86_64, Board::Bios), Some(Machine::Bios));
    assert_eq!(Machine::of(Arch::Aarch64, Board::Bios), None);
}

#[test]
fn a_pc() {
    let plain = pc(Accel::Tcg, false);
    let parts = [
        "-accel tcg,thread=multi",
        "-drive if=pflash,unit=0,readonly=on,format=raw,file=/f/code",
        "-drive if=pflash,unit=1,format=raw,file=/t/vars",
        "format=qcow2,file=/t/disk.qcow2",
        "-m 2147483648B",
        "-smp 2",
        "-no-reboot",
        "-netdev user,id=net0,ipv6=off",
        "-rtc base=utc,clock=host",
        "-serial chardev:console",
    ];
    assert_has(&plain, &parts);
    assert!(!plain.contains("smm=on"));
    assert!(pc(Accel::Kvm, false).contains("-accel kvm -cpu host"));
    assert_has(&pc(Accel::Tcg, true), &["smm=on", "property=secure,value=on"]);
}

#[test]
fn a_pc_with_a_bios() {
    let line = line(Machine::Bios, Start::Bios, Accel::Tcg);
    assert_has(
        &line,
        &["-machine pc,graphics=off", "-cpu max", "virtio-blk-pci,drive=disk,bootindex=0", "-smp 2"],
    );
    assert!(!line.contains("pflash"), "{line}");
    assert!(injected(Machine::Bios, Start::Bios).contains("-device tpm-tis,"));
    assert!(
        !Machine::Bios.has_firmware()
            && Machine::Bios.has_clock_and_tpm()
            && Machine::Bios.has_power_button()
    );
}

#[test]
fn a_vm_of_azure() {
    let firmware = Start::Pc(firmware(false));
    let disc = Some("/t/a,b.iso".into());
    let azure = |accel| {
        let usual = boot(Machine::Pc, firmware.clone(), accel);
        words(&Boot { provisioning_disc: disc.clone(), ..usual })
    };
    let parts = [
        "-smbios type=3,manufacturer=Microsoft Corporation,version=Hyper-V UEFI Release v4.1,asset=7783-7084-3265",
        "media=cdrom,readonly=on,format=raw,file=/t/a,,b.iso",
        "-cpu max,tcg-cpuid=off",
    ];
    assert_has(&azure(Accel::Tcg), &parts);
    assert_has(&azure(Accel::Kvm), &["-cpu host,kvm=off"]);
    assert!(!pc(Accel::Tcg, false).contains("smbios"));
}

#[test]
fn an_arm_machine() {
    let virt = |accel| line(Machine::Virt, Start::Virt(firmware(true)), accel);
    let parts = [
        "-machine virt -accel tcg,thread=multi -cpu cortex-a72",
        "-drive if=pflash,unit=0,readonly=on,format=raw,file=/f/code",
        "-device virtio-blk-pci,drive=disk,bootindex=0",
        "-rtc base=utc,clock=host",
        "-serial chardev:console",
    ];
    assert_has(&virt(Accel::Tcg), &parts);
    assert_has(&virt(Accel::Kvm), &["-machine virt,gic-version=host -accel kvm -cpu host"]);
}

#[test]
fn a_raspberry_pi() {
    let mini = raspberry_pi(true, Port::Mini);
    let parts = [
        "-machine raspi3b",
        "-kernel /t/kernel -dtb /t/device-tree -initrd /t/initramfs",
        "-append console=ttyS0,115200 root=/dev/mmcblk0p2",
        "-drive if=sd,cache=unsafe,format=qcow2,file=/t/disk.qcow2",
        "-serial null -serial chardev:console",
        "-smp 4",
        "-m 1073741824B",
    ];
    assert_has(&mini, &parts);
    assert!(!mini.contains("-rtc") && !mini.contains("virtio") && !mini.contains("pflash"), "{mini}");
    let first = raspberry_pi(false, Port::First);
    assert!(first.contains("-serial chardev:console") && !first.contains("null"), "{first}");
    assert!(!first.contains("-initrd"), "{first}");
    let usual = boot(Machine::Raspi3b, Start::Raspi3b(loaded(true, Port::First)), Accel::Tcg);
    assert_has(&words(&Boot { cut: true, ..usual }), &["if=sd,cache=writethrough,format=qcow2"]);
}

#[test]
fn injection() {
    let parts = [
        "cache=writeback,discard=unmap,format=qcow2,file=/t/disk.qcow2",
        "-rtc base=1980-01-01T00:00:00,clock=host",
        "-chardev socket,id=tpm,path=tpm -tpmdev emulator,id=tpm0,chardev=tpm",
        " -S",
    ];
    let pc = injected(Machine::Pc, Start::Pc(firmware(false)));
    assert_has(&pc, &parts);
    assert_has(&pc, &["-device tpm-crb,tpmdev=tpm0"]);
    let virt = injected(Machine::Virt, Start::Virt(firmware(false)));
    assert_has(&virt, &parts);
    assert_has(&virt, &["-device tpm-tis-device,tpmdev=tpm0"]);
    assert!(!pc.contains("cache=unsafe") && !virt.contains("cache=unsafe"));
    let plain = self::pc(Accel::Tcg, false);
    assert!(!plain.contains("tpm") && !plain.contains(" -S"), "{plain}");
}

#[test]
fn a_raspberry_pi_is_as_large_as_it_is() {
    let pi = Machine::Raspi3b;
    let own = (4, ByteSize::mib(1024));
    assert_eq!(pi.size(Some(4), Some(ByteSize::mib(1024))).expect("its own"), own);
    for (cpus, memory) in [(Some(2), None), (None, Some(ByteSize::mib(2048)))] {
        let error = pi.size(cpus, memory).expect_err("another");
        let said = "a Raspberry Pi 3 has 4 processors and 1G of memory, and no others";
        assert_eq!(error.to_string(), said);
    }
    assert_eq!(Machine::Virt.size(Some(1), None).expect("any"), (1, ByteSize::mib(2048)));
    assert!(pi.accel(Wanted::Kvm).is_err());
    assert_eq!(pi.accel(Wanted::Auto).expect("always"), Accel::Tcg);
}

#[test]
fn commas_in_paths() {
    let mut args = Arguments::default();
    args.paths("-drive", "file=", Path::new("/a,b/c"));
    assert_eq!(args.0[1], "file=/a,,b/c");
}
