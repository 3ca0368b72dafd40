//! The verdict azure-preflight.

use std::fs;

use predicates::str::contains;
use serde_json::Value;

use super::footer;
use crate::support::card::{Card, SIZE, UUID, edgepress, with_gpt};

/// Everything that Azure asks.
fn azure() -> Card {
    let mut card = Card::uefi();
    const KERNEL: &str = "6.1.0-cloud-amd64";
    let line = "console=tty1 console=ttyS0,115200n8 earlyprintk=ttyS0,115200 rootdelay=300";
    let modules = ["hv_vmbus", "hv_storvsc", "hv_netvsc", "nvme"];
    let names: Vec<_> =
        modules.iter().map(|name| format!("usr/lib/modules/{KERNEL}/kernel/{name}.ko")).collect();
    card.root("boot/grub/grub.cfg", format!("linux /boot/vmlinuz-{KERNEL} root=UUID={UUID} ro {line}\n"));
    card.root(&format!("boot/vmlinuz-{KERNEL}"), "kernel");
    card.root(&format!("boot/initrd.img-{KERNEL}"), zstd::encode_all(&cpio(&names)[..], 1).expect("zst"));
    card.root(&format!("boot/config-{KERNEL}"), "CONFIG_VFAT_FS=y\n");
    card.root(&format!("usr/lib/modules/{KERNEL}/modules.dep"), "kernel/fs/udf/udf.ko:\n");
    // As Ubuntu's package leaves it, and a file that sorts after that.
    card.root("etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list: [ NoCloud, Azure, None ]\n");
    card.root("etc/cloud/cloud.cfg.d/99-azure.cfg", "datasource_list: [ Azure ]\n");
    card.root("etc/waagent.conf", "Provisioning.Agent=auto\nResourceDisk.EnableSwap=n\n");
    let package =
        |name| format!("Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n");
    let packages = ["cloud-init", "waagent", "gdisk", "linux-image-6.1.0-cloud-amd64"].map(package);
    card.root("var/lib/dpkg/status", packages.concat());
    card
}

fn cpio(names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names.iter().map(String::as_str).chain(["TRAILER!!!"]) {
        bytes.extend(format!("070701{}{:08x}{}", "0".repeat(88), name.len() + 1, "0".repeat(8)).bytes());
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[test]
fn azure_takes_it() {
    let card = azure();
    card.write(with_gpt);
    let vhd = card.folder.path().join("card.vhd");
    let raw = fs::read(card.path()).expect("image");
    fs::write(&vhd, [&raw[..], &footer(SIZE)].concat()).expect("write");
    edgepress()
        .arg(&vhd)
        .assert()
        .success()
        .stdout(contains("azure-preflight         ok  15 points are right"));
    // As a raw image it has no footer; without the flag nobody asks.
    card.inspect(&["--azure"]).success().stdout(contains("14 points are right, 1 do not apply"));
    assert_eq!(card.json(&[])["azure"], Value::Null);
}

#[test]
fn azure_refuses_it() {
    let mut card = azure();
    card.root("etc/fstab", format!("UUID={UUID} / ext4 defaults 0 1\n/swapfile none swap sw 0 0\n"));
    card.root("boot/initrd.img-6.1.0-cloud-amd64", [0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0]);
    card.root("home/edge/.ssh/authorized_keys", "ssh-ed25519 AAAA ops\n");
    card.root("etc/cloud/cloud-init.disabled", "");
    card.root("etc/systemd/system/walinuxagent.service", "-> /dev/null");
    card.root("etc/systemd/system/swap.target.wants/var-more.swap", "-> ../var-more.swap");
    card.root("etc/cloud/cloud.cfg.d/99-azure.cfg", "");
    card.root("etc/cloud/cloud.cfg.d/90-azure.cfg", "datasource_list: [ Azure ]\n");
    card.write(with_gpt);
    card.inspect(&["--azure"])
        .code(1)
        .stdout(contains("cloud-init: datasource_list: [ NoCloud, Azure, None ]; hint: "))
        .stdout(contains("cloud-init-starts: /etc/cloud/cloud-init.disabled is there; hint: remove the file"))
        .stdout(contains("agent: walinuxagent.service is masked; hint: "))
        .stdout(contains("no-swap: fstab swaps to /swapfile; var-more.swap is enabled; hint: remove it"))
        .stdout(contains("kernel 6.1.0-cloud-amd64: the initramfs cannot be read: it is compressed with lz4"))
        .stdout(contains("generalised: /home/edge/.ssh/authorized_keys"));
}
