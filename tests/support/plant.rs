//! A company's plant: a golden image made here, its manifest, and an authority of two levels.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;

use assert_cmd::Command;
use edgepress::disk::fat::{self, LEAST};
use edgepress::disk::gpt::{self, ALIGN, ESP, Partition};
use edgepress::disk::ids::{Ids, VolumeId};
use edgepress::disk::overlay::{Overlay, Zeros};
use edgepress::recipe::types::Provisioning;
use edgepress::units::{Arch, Digest};
use predicates::str::contains;
use serde_json::json;
use tempfile::TempDir;

use super::CONFIG_TOML;

pub const SIZE: u64 = ALIGN + LEAST + 3 * ALIGN;
const EPOCH: u64 = 1_700_000_000;

/// A folder with a golden image, its manifest, and an authority of two levels.
pub struct Plant {
    folder: TempDir,
}

impl Plant {
    pub fn new() -> Self {
        Self::with(&Provisioning::default())
    }

    pub fn with(provisioning: &Provisioning) -> Self {
        let plant = Self { folder: tempfile::tempdir().expect("folder") };
        fs::create_dir(plant.path("golden")).expect("folder");
        let image = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(true)
            .open(plant.golden())
            .expect("image");
        image.set_len(SIZE).expect("size");
        let mut device = Overlay::new(Zeros, LEAST);
        fat::format(&mut device, LEAST, VolumeId(0x1234_5678), "EDGEPRESS", EPOCH, |volume| {
            volume.write("EFI/BOOT/BOOTX64.EFI", &[7; 9000])?;
            volume.write("edgepress/README.txt", b"An identity goes here.\r\n")
        })
        .expect("format");
        for (at, bytes) in device.changes().expect("changes") {
            image.write_all_at(&bytes, ALIGN + at).expect("write");
        }
        let ids = Ids::from_seed(&Digest::of("stamp"));
        let part = |kind, guid, offset, size| Partition { kind, guid, offset, size, name: "x".into() };
        let partitions = vec![
            part(ESP, ids.fat_partition, ALIGN, LEAST),
            part(gpt::root_type(Arch::X86_64), ids.root_partition, ALIGN + LEAST, ALIGN),
        ];
        gpt::write(&image, SIZE, &gpt::Table { disk: ids.disk, partitions }).expect("table");
        image.write_all_at(b"the root file system", ALIGN + LEAST + 4096).expect("write");
        plant.manifest(provisioning);
        plant
    }

    fn manifest(&self, provisioning: &Provisioning) {
        let manifest = json!({
            "edgepress": "0.1.0", "name": "gateway", "description": "", "arch": "x86_64", "board": "uefi",
            "inputs": {}, "kernels": [], "epoch": EPOCH, "provisioning": provisioning, "config_toml": CONFIG_TOML,
            "engine_dns": [],
            "partitions": [{ "role": "fat", "offset": ALIGN, "size": LEAST, "uuid": "1234-5678" }],
            "outputs": [{ "file": "gateway.img", "size": SIZE, "sha256": self.digest() }],
            "seconds": {},
        });
        self.put("golden/manifest.json", &manifest.to_string());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn golden(&self) -> PathBuf {
        self.path("golden/gateway.img")
    }

    pub fn digest(&self) -> Digest {
        Digest::of(fs::read(self.golden()).expect("image"))
    }

    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    pub fn run(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = Command::cargo_bin("edgepress").expect("built");
        command.current_dir(self.folder.path()).args(arguments).assert()
    }

    /// A root, and below it the authority that signs.
    pub fn authority(&self) {
        use rcgen::{
            BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
        };
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let key = || KeyPair::generate().expect("key");
        let root = CertifiedIssuer::self_signed(params("Plant root"), key()).expect("root");
        let below = CertifiedIssuer::signed_by(params("Plant line 1"), key(), &root).expect("authority");
        self.put("root.pem", &root.pem());
        self.put("ca.pem", &format!("{}{}", below.pem(), root.pem()));
        self.put("ca.key", &below.key().serialize_pem());
    }

    pub fn issue(&self, fleet: &str) -> assert_cmd::assert::Assert {
        self.run(&[
            "identity", "issue", "--fleet", fleet, "--out", "issued", "--ca", "ca.pem", "--ca-key", "ca.key",
        ])
    }

    /// A fleet of three with certificates from the authority.
    pub fn three(&self) {
        self.authority();
        self.put("fleet.csv", "registration_id,serial,hostname\npump-1,S1,\npump-2,S2,left\npump:3,S3,\n");
        self.issue("fleet.csv").success().stdout(contains("3 certificates issued"));
    }
}
