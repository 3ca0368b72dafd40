//! `edgepress stamp` and `edgepress identity issue`, driven from outside, on an image made here.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use edgepress::disk::fat::LEAST;
use edgepress::disk::gpt::ALIGN;
use edgepress::disk::patch::look;
use edgepress::recipe::types::Provisioning;
use edgepress::stamp::output::IndexLine;
use edgepress::stamp::patch::Patch;
use edgepress::units::Digest;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::{Value, json};

use crate::support::plant::{Plant, SIZE};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

fn index(folder: &Path) -> Vec<IndexLine> {
    let text = fs::read_to_string(folder.join("fleet.jsonl")).expect("index");
    text.lines().map(|line| serde_json::from_str(line).expect("line")).collect()
}

#[test]
fn from_nothing_to_three_patches_and_images() {
    let plant = Plant::new();
    let before = plant.digest();
    plant.three();
    let folder = plant.path("issued");
    assert_eq!(names(&folder), ["pump%3A3", "pump-1", "pump-2"]);
    assert_eq!(mode(&folder.join("pump-1/private-key.pem")), 0o600);
    let stamp =
        ["stamp", "golden", "--fleet", "fleet.csv", "--identities", "issued", "--ca", "root.pem", "--out"];
    plant
        .run(&[&stamp[..], &["patches"]].concat())
        .success()
        .stdout(contains("3 devices in patches: 3 written"));
    let patches = plant.path("patches");
    assert_eq!(names(&patches), ["fleet.jsonl", "pump%3A3.patch", "pump-1.patch", "pump-2.patch"]);
    assert_eq!(mode(&patches.join("pump-1.patch")), 0o600);
    let entries = index(&patches);
    assert_eq!(
        entries.iter().map(|entry| entry.serial.as_deref()).collect::<Vec<_>>(),
        [Some("S1"), Some("S2"), Some("S3")]
    );
    assert_eq!(entries[2].file, "pump%3A3.patch");
    assert!(entries.iter().all(|entry| entry.golden_sha256 == Some(before) && entry.not_after.is_some()));

    // The folder itself is a fleet, too: the same devices, as whole images.
    plant.run(&["stamp", "golden/gateway.img", "--fleet", "issued", "--out", "images", "--full"]).success();
    for (id, host) in [("pump-1", None), ("pump-2", Some("left\n"))] {
        let patch = Patch::read(&patches.join(format!("{id}.patch"))).expect("patch");
        assert_eq!(patch.header.registration_id, id);
        assert!(fs::metadata(patches.join(format!("{id}.patch"))).expect("there").len() < 8192);
        let copy = plant.path("copy.img");
        fs::copy(plant.golden(), &copy).expect("copy");
        let file = File::options().read(true).write(true).open(&copy).expect("open");
        patch.apply_to(&file, SIZE).expect("applied");
        let read = |image: &Path, name: &str| {
            let path = format!("edgepress/{name}");
            let text = look(image, |volume| volume.read(&path, 1 << 20)).expect("read");
            text.map(|text| String::from_utf8(text).expect("text"))
        };
        assert_eq!(read(&copy, "registration-id"), Some(format!("{id}\n")));
        assert_eq!(read(&copy, "hostname").as_deref(), host);
        let image = plant.path(&format!("images/gateway-{id}.img"));
        assert_eq!(mode(&image), 0o600);
        for name in ["certificate.pem", "private-key.pem"] {
            let issued = fs::read_to_string(folder.join(id).join(name)).expect("issued").replace('\r', "");
            assert_eq!(read(&copy, name), Some(issued.clone()));
            assert_eq!(read(&image, name), Some(issued));
        }
        // Leaf and line 1, not the root.
        assert_eq!(read(&copy, "certificate.pem").expect("there").matches("BEGIN CERTIFICATE").count(), 2);
    }
    assert_eq!(plant.digest(), before, "the golden image was written to");
}

#[test]
fn a_golden_image_without_its_raw_form_is_stamped_the_same() {
    let plant = Plant::new();
    plant.three();
    plant.run(&["stamp", "golden", "--fleet", "issued", "--out", "patches"]).success();
    let raw = fs::read(plant.golden()).expect("image");
    fs::write(plant.path("golden/gateway.img.zst"), zstd::encode_all(&raw[..], 1).expect("zst"))
        .expect("write");
    fs::remove_file(plant.golden()).expect("remove");
    let manifest = fs::read_to_string(plant.path("golden/manifest.json")).expect("manifest");
    let mut manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    manifest["outputs"] = json!([{ "file": "gateway.img.zst", "format": "img.zst", "size": 1,
        "sha256": "ab".repeat(32), "raw": { "size": raw.len(), "sha256": Digest::of(&raw) } }]);
    plant.put("golden/manifest.json", &manifest.to_string());
    plant.run(&["stamp", "golden", "--fleet", "issued", "--out", "again"]).success();
    for id in ["pump-1", "pump-2", "pump%3A3"] {
        let read = |folder: &str| fs::read(plant.path(&format!("{folder}/{id}.patch"))).expect("patch");
        assert!(read("patches") == read("again"), "{id} differs");
    }
}

#[test]
fn what_is_there_is_kept_and_what_is_missing_made() {
    let plant = Plant::new();
    plant.three();
    let stamp = ["stamp", "golden", "--fleet", "issued", "--out", "patches"];
    plant.run(&stamp).success();
    let patches = plant.path("patches");
    let first = fs::read(patches.join("pump-2.patch")).expect("patch");
    fs::remove_file(patches.join("pump-2.patch")).expect("remove");
    plant.run(&stamp).success().stdout(contains("3 devices in patches: 1 written, 2 already there"));
    assert!(fs::read(patches.join("pump-2.patch")).expect("patch") == first, "the same twice");
    // Another identity under the same name.
    fs::remove_dir_all(plant.path("issued/pump-1")).expect("remove");
    plant
        .issue("fleet.csv")
        .success()
        .stdout(contains("1 certificate issued to issued: 3 devices, 2 had theirs"));
    let old = fs::read(patches.join("pump-1.patch")).expect("patch");
    plant.run(&stamp).code(2).stderr(contains("was left: pump-1.patch").and(contains("--force")));
    assert!(fs::read(patches.join("pump-1.patch")).expect("patch") == old);
    plant.run(&[&stamp[..], &["--force"]].concat()).success();
    assert!(fs::read(patches.join("pump-1.patch")).expect("patch") != old);
    assert_eq!(index(&patches).len(), 3);
    // One more device, stamped alone, does not push the others out of the index.
    plant.put("more.csv", "registration_id\npump-4\n");
    plant.issue("more.csv").success();
    plant.put(
        "pump-4.toml",
        "certificate = \"issued/pump-4/certificate.pem\"\nprivate_key = \"issued/pump-4/private-key.pem\"\n",
    );
    plant.run(&["stamp", "golden", "--identity", "pump-4.toml", "--patch", "--out", "patches"]).success();
    let ids: Vec<String> = index(&patches).into_iter().map(|entry| entry.registration_id).collect();
    assert_eq!(ids, ["pump-4", "pump%3A3", "pump-1", "pump-2"].map(|id| id.replace("%3A", ":")));
}

#[test]
fn an_identity_is_taken_off_without_a_trace() {
    let plant = Plant::new();
    plant.three();
    plant.put("wifi", "correct horse\n");
    plant.put("pump.toml", "certificate = \"issued/pump-1/certificate.pem\"\nprivate_key = \"issued/pump-1/private-key.pem\"\nca = [\"root.pem\"]\nwifi_ssid = \"plant\"\nwifi_key_file = \"wifi\"\n");
    plant
        .run(&["stamp", "golden", "--identity", "pump.toml"])
        .success()
        .stdout(contains("stamped: ./gateway-pump-1.img"));
    let image = plant.path("gateway-pump-1.img");
    let golden = fs::read(plant.golden()).expect("image");
    assert!(fs::read(&image).expect("image") != golden);
    plant.run(&["stamp", "gateway-pump-1.img", "--identity", "pump.toml"]).code(2);
    plant
        .run(&["stamp", "--remove", "gateway-pump-1.img"])
        .success()
        .stdout(contains("private-key.pem").and(contains("it is bit for bit the golden image")));
    assert!(fs::read(&image).expect("image") == golden);
    assert!(index(&plant.path("")).is_empty());

    // A device that was started: a key is gone all the same, and with the golden image every sector is.
    plant.run(&["stamp", "golden", "--identity", "pump.toml", "--force"]).success();
    let file = File::options().write(true).open(&image).expect("open");
    file.write_all_at(b"a log", ALIGN + LEAST + 8192).expect("write");
    plant
        .run(&["stamp", "--remove", "gateway-pump-1.img", "--golden", "golden/gateway.img"])
        .success()
        .stdout(contains("it differs from the golden image in other places"));
    let now = fs::read(&image).expect("image");
    assert!(now[..(ALIGN + LEAST) as usize] == golden[..(ALIGN + LEAST) as usize]);

    plant.run(&["stamp", "golden", "--fleet", "issued", "--out", "patches"]).success();
    plant.run(&["stamp", "--remove", "patches/pump-2.patch"]).success().stdout(contains("is removed"));
    assert_eq!(names(&plant.path("patches")), ["fleet.jsonl", "pump%3A3.patch", "pump-1.patch"]);
    assert_eq!(index(&plant.path("patches")).len(), 2);
}

#[test]
fn all_errors_of_a_fleet_at_once() {
    let plant = Plant::new();
    plant.three();
    plant.put("other/ca.txt", "no certificate");
    let row = |text: &str| format!("{text}\n");
    let c = |id: &str| format!("issued/{id}/certificate.pem,issued/{id}/private-key.pem");
    let rows = [
        "registration_id,certificate,private_key,serial,hostname,endpoint,source.from,source.url,bootstrap.username,ca".to_owned(),
        row(&format!("pump-1,{},S1,,,,,,", c("pump-1"))),
        row(&format!("pump-9,{},S2,,,,,,", c("pump-2"))),
        row("pump-2,issued/pump-2/certificate.pem,issued/pump-1/private-key.pem,,,,,,,"),
        row(&format!(",{},S1,,,,,,", c("pump-1"))),
        row("bad id,,,,bad_name,http://x,tpm,,user,"),
        row("e1,,,,,,est,ftp://x,,"),
        row("e2,,,,,,est,https://est.example/x,,other/ca.txt"),
        row("e3,nowhere.pem,nowhere.key,,,,,,,"),
        row("E3,,,,,,tpm,,,"),
    ];
    let fleet = rows.iter().map(|row| format!("{}\n", row.trim_end())).collect::<String>();
    plant.put("bad.csv", &fleet);
    let said = plant.run(&["stamp", "golden", "--fleet", "bad.csv", "--out", "patches"]).code(2);
    let said = String::from_utf8(said.get_output().stdout.clone()).expect("text");
    for expected in [
        "bad.csv:3: `registration_id`: `pump-9` is not the certificate's common name `pump-2`",
        "bad.csv:4: `private_key`: it does not belong to the certificate",
        "bad.csv:5: `registration_id`: line 2 has the same registration id",
        "bad.csv:5: `serial`: line 2 has the same serial",
        "bad.csv:5: `private_key`: line 2 has the same key",
        "bad.csv:6: `registration_id`: `bad id` is no registration id",
        "bad.csv:6: `hostname`: `bad_name` is no host name",
        "bad.csv:6: `endpoint`: `http://x` is no https:// address",
        "bad.csv:7: `source.url`: it is no https:// address",
        "bad.csv:8: `bootstrap.certificate`: the source `est` needs bootstrap.certificate with bootstrap.key, or",
        "bad.csv:8: `ca`: other/ca.txt holds no certificate",
        "bad.csv:9: `certificate`: cannot read nowhere.pem: it does not exist",
        "10 devices, nothing written",
    ] {
        assert!(said.contains(expected) || expected.starts_with("10"), "{expected} is not in\n{said}");
    }
    assert!(!plant.path("patches").exists());
}

/// What lies beside a device's files in its folder, or in the fleet's, is never passed over.
#[test]
fn what_a_fleets_folder_holds_besides_is_named() {
    let plant = Plant::new();
    plant.three();
    let stamp = ["stamp", "golden", "--fleet", "issued", "--check"];
    let by_table = ["stamp", "golden", "--fleet", "fleet.csv", "--identities", "issued", "--check"];
    fs::rename(plant.path("issued/pump-1/certificate.pem"), plant.path("issued/pump-1/Certificate.CRT"))
        .expect("rename");
    plant.put("issued/notes.txt", "three pumps\n");
    plant.run(&stamp).success().stdout(contains("warning: issued/notes.txt").and(contains("nothing wrong")));
    plant.run(&by_table).success();

    plant.put("issued/pump-1/hostname", "north\n");
    plant.put("issued/pump-1/hosts", "10.0.0.1 hub\n");
    plant.put("issued/pump-1/symmetric-key", "AAECAwQFBgcICQoLDA0ODw==\n");
    fs::copy(plant.path("root.pem"), plant.path("issued/pump-1/root.pem")).expect("copy");
    fs::write(plant.path("issued/pump-2.der"), [&[0x30, 0x31, 2, 1, 1, 4, 0x20][..], &[7; 44]].concat())
        .expect("write");
    // An error of a device itself stands beside those of the folder.
    plant.put("issued/pump-3.crt", "no certificate\n");
    plant.put("issued/pump-3.key", "no key\n");
    let named =
        ["hostname", "hosts", "symmetric-key", "root.pem"].map(|name| format!("issued/pump-1/{name}: "));
    let said = plant.run(&stamp).code(2);
    let said = String::from_utf8_lossy(&said.get_output().stdout).into_owned();
    for expected in named.iter().map(String::as_str).chain([
        "issued/pump-2.der: ",
        "warning: issued/notes.txt",
        "issued/pump-3.crt: `certificate`: it holds no certificate",
    ]) {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    let said = plant.run(&by_table).code(2);
    let said = String::from_utf8_lossy(&said.get_output().stdout).into_owned();
    assert!(named.iter().all(|expected| said.contains(expected)), "{said}");

    for name in ["hostname", "hosts", "symmetric-key", "root.pem"] {
        fs::remove_file(plant.path(&format!("issued/pump-1/{name}"))).expect("remove");
    }
    for name in ["pump-2.der", "pump-3.crt", "pump-3.key"] {
        fs::remove_file(plant.path("issued").join(name)).expect("remove");
    }
    plant.put("issued/pump-2/registration-id.txt", "pump-9\n");
    plant.run(&stamp).code(2).stdout(contains("`registration-id` is the same: which of them?"));
    fs::remove_file(plant.path("issued/pump-2/registration-id")).expect("remove");
    plant.run(&stamp).code(2).stdout(contains("`pump-9` is not the certificate's common name `pump-2`"));
}

#[test]
fn sources_and_their_credentials() {
    let plant = Plant::new();
    plant.authority();
    plant.put("boot.csv", "registration_id\nboot\n");
    plant.issue("boot.csv").success();
    plant.put(
        "group",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n",
    );
    plant.put("password", "hunter2\n");
    plant.put(
        "defaults.toml",
        "[source]\nfrom = \"est\"\nurl = \"https://est.example/.well-known/est\"\nca = \"root.pem\"\n",
    );
    plant.put(
        "fleet.csv",
        "registration_id,source.from,source.vault,bootstrap.certificate,bootstrap.key,bootstrap.username,bootstrap.password_file\n\
         e1,,,issued/boot/certificate.pem,issued/boot/private-key.pem,,\n\
         e2,,,,,user,password\n\
         k1,key-vault,https://f.vault.azure.net,,,,\n\
         pump-7,symmetric-key,,,,,\n\
         t1,tpm,,,,,\n",
    );
    let stamp =
        ["stamp", "golden", "--fleet", "fleet.csv", "--defaults", "defaults.toml", "--full", "--out", "out"];
    plant
        .run(&stamp)
        .code(2)
        .stdout(contains("fleet.csv:5: `symmetric_key_file`: the device has no symmetric key"));
    plant.run(&[&stamp[..], &["--enrolment-group-key", "group"]].concat()).success();
    let files = |id: &str| {
        let image = plant.path(&format!("out/gateway-{id}.img"));
        let found = look(&image, |volume| volume.list("edgepress")).expect("list");
        found.into_iter().map(|entry| entry.name).filter(|name| name != "README.txt").collect::<Vec<_>>()
    };
    let read = |id: &str, name: &str| {
        let image = plant.path(&format!("out/gateway-{id}.img"));
        let text = look(&image, |volume| volume.read(&format!("edgepress/{name}"), 9999)).expect("read");
        String::from_utf8(text.expect("there")).expect("text")
    };
    assert_eq!(
        files("e1"),
        ["bootstrap-certificate.pem", "bootstrap-key.pem", "registration-id", "source-ca.pem", "source.toml"]
    );
    assert_eq!(
        files("e2"),
        ["bootstrap-password", "bootstrap-username", "registration-id", "source-ca.pem", "source.toml"]
    );
    assert_eq!(files("k1"), ["registration-id", "source.toml"]);
    assert_eq!(files("pump-7"), ["registration-id", "source.toml", "symmetric-key"]);
    assert_eq!(files("t1"), ["registration-id", "source.toml"]);
    assert!(read("e1", "source.toml").contains("url = \"https://est.example/.well-known/est\"\n"));
    assert_eq!(read("e2", "bootstrap-password"), "hunter2\n");
    // As openssl computes it: see stamp::secret.
    assert_eq!(read("pump-7", "symmetric-key"), "M3GeUFxiWLOAZdofd33JuanHka8diHRdP0gocpjKT6o=\n");
    let image = fs::read(plant.path("out/gateway-pump-7.img")).expect("image");
    assert!(!image.windows(20).any(|part| part == b"AAECAwQFBgcICQoLDA0O"), "the group's key is on a device");
}

/// No two devices may have one identity, by whatever it is told; and nothing that is stated is ignored.
#[test]
fn what_two_devices_share_and_what_nobody_uses_is_refused() {
    let plant = Plant::new();
    plant.three();
    let same = "AAECAwQFBgcICQoLDA0ODw==";
    for (name, fleet, expected) in [
        (
            "keys.csv",
            format!(
                "registration_id;source.from;symmetric_key\na;symmetric-key;{same}\nb;symmetric-key;{same}\n"
            ),
            "keys.csv:3: `symmetric_key`: line 2 has the same symmetric key",
        ),
        (
            "one.csv",
            "registration_id,certificate,private_key\n\
             pump-1,issued/pump-1/certificate.pem,issued/pump-1/private-key.pem\n\
             pump-2,issued/pump-1/certificate.pem,issued/pump-1/private-key.pem\n"
                .to_owned(),
            "`pump-2` is not the certificate's common name `pump-1`",
        ),
        (
            "ids.csv",
            "registration_id\tsource.from\nA\ttpm\na\ttpm\n".to_owned(),
            "has the same registration id",
        ),
        (
            "excel.csv",
            "sep=;\r\nDeviceId;source.from\r\na;tpm\r\n".to_owned(),
            "excel.csv:2: `DeviceId`: there is no such column\n   = hint: did you mean `registration_id`?",
        ),
        (
            "serials.csv",
            "registration_id,source.from,serial\na,tpm,0x0012AB\nb,tpm,12ab\n".to_owned(),
            "serials.csv:3: `serial`: line 2 has the same serial",
        ),
        (
            "secrets.csv",
            "registration_id,hostname,source.from,source.vault\n\
             pump_1,a,key-vault,https://f.vault.azure.net\n\
             pump-1,b,key-vault,https://F.vault.azure.net/\n"
                .to_owned(),
            "secrets.csv:3: `source.name`: line 2 has the same secret `pump-1` in the vault",
        ),
        (
            "addresses.csv",
            "registration_id,source.from,source.url,bootstrap.token\n\
             a,https,https://e.example/mine.pem,t1\nb,https,https://e.example/mine.pem,t2\n\
             c,https,https://e.example/mine.pem,t1\n"
                .to_owned(),
            "addresses.csv:4: `source.url`: line 2 has the same address",
        ),
        ("none.csv", "serial;hostname\n1;x\n".to_owned(), "neither `registration_id` nor `certificate`"),
        ("option.csv", "registration_id,source.from\n-n,tpm\n".to_owned(), "`-n` begins with `-` or `.`"),
    ] {
        plant.put(name, &fleet);
        plant.run(&["stamp", "golden", "--fleet", name, "--check"]).code(2).stdout(contains(expected));
    }
    plant.put("group", &format!("{same}\n"));
    plant.put(
        "mixed.csv",
        &format!("registration_id,source.from,symmetric_key\na,symmetric-key,{same}\nb,symmetric-key,\n"),
    );
    let group = ["--enrolment-group-key", "group"];
    plant
        .run(&[&["stamp", "golden", "--fleet", "mixed.csv", "--check"][..], &group].concat())
        .code(2)
        .stdout(contains("mixed.csv:2: `symmetric_key`: it is the enrolment group's own key"));
    let stamp = ["stamp", "golden", "--fleet", "issued", "--check"];
    let ends = contains("the first certificate ends on 20").and(contains("no device renews it"));
    plant.run(&stamp).success().stdout(ends);
    plant
        .run(&[&stamp[..], &["--enrolment-group-key", "group"]].concat())
        .code(2)
        .stderr(contains("no device has a key that is derived from it").and(contains("leave it out")));
}

/// A certificate is issued for nobody whose name another has: in the table, or in the folder of the results.
#[test]
fn no_certificate_is_issued_for_a_name_that_is_taken() {
    let plant = Plant::new();
    plant.three();
    plant.put(
        "twice.csv",
        "registration_id,certificate,private_key,source.from\n\
         pump-8,issued/pump-1/certificate.pem,issued/pump-1/private-key.pem,\nPump-8,,,\npump-9,,,tpm\nPUMP-9,,,\n",
    );
    plant.issue("twice.csv").code(2).stdout(
        contains("twice.csv:3: `registration_id`: line 2 has the same registration id")
            .and(contains("twice.csv:5: `registration_id`: line 4 has the same registration id")),
    );
    plant.put("case.csv", "registration_id\nPump-1\n");
    plant.issue("case.csv").code(2).stdout(contains("issued/pump-1 is the same to DPS, which ignores case"));
    assert_eq!(names(&plant.path("issued")), ["pump%3A3", "pump-1", "pump-2"]);
}

/// One key in two certificates, and written in two ways.
#[test]
fn one_key_for_two_devices_is_refused_whatever_its_form() {
    let plant = Plant::new();
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let done = command.args(arguments.split(' ')).current_dir(plant.path("")).output().expect("openssl");
        assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out a.key");
    openssl("rsa -in a.key -traditional -out b.key");
    for id in ["a", "b"] {
        openssl(&format!("req -x509 -new -key {id}.key -subj /CN={id} -days 90 -out {id}.pem"));
    }
    for file in ["a.key", "b.key"] {
        fs::set_permissions(plant.path(file), fs::Permissions::from_mode(0o600)).expect("mode");
    }
    plant.put("fleet.csv", "certificate,private_key\na.pem,a.key\nb.pem,b.key\n");
    plant
        .run(&["stamp", "golden", "--fleet", "fleet.csv", "--check"])
        .code(2)
        .stdout(contains("fleet.csv:3: `private_key`: line 2 has the same key"));
}

#[test]
fn credentials_that_first_boot_would_refuse() {
    let plant = Plant::new();
    plant.authority();
    plant.put("boot.csv", "registration_id\nboot\n");
    plant.issue("boot.csv").success();
    plant.put(
        "wrong.csv",
        "registration_id,source.from,source.vault,source.token,source.client_id,source.tenant,source.url,\
         bootstrap.certificate,bootstrap.key,bootstrap.username,bootstrap.password\n\
         a,key-vault,https://f.vault.azure.net,client-certificate,c,t.example,,issued/boot/certificate.pem,issued/boot/private-key.pem,,\n\
         b,est,,,,,https://est.example/x,,,user,pässword\n\
         c,tpm,,,,,,,,user,\n",
    );
    let wrong = plant.run(&["stamp", "golden", "--fleet", "wrong.csv", "--check"]).code(2);
    for expected in [
        "wrong.csv:2: `bootstrap.key`: it is no RSA key",
        "wrong.csv:3: `bootstrap.password`: it is not printable ASCII",
        "wrong.csv:4: `bootstrap.username`: it does not belong to the source `tpm`",
    ] {
        assert!(String::from_utf8_lossy(&wrong.get_output().stdout).contains(expected), "{expected}");
    }
    assert!(
        !String::from_utf8_lossy(&wrong.get_output().stdout).contains("pässword"),
        "no secret is repeated"
    );
}

#[test]
fn credentials_of_a_registry() {
    let plant = Plant::new();
    plant.three();
    plant.put("password", "p\\a\"ss word\n");
    let known = "registry_address = \"plant.example:5000\"\nregistry_username = \"devices\"\n";
    plant.put("defaults.toml", &format!("{known}registry_password_file = \"password\"\n"));
    let stamp = ["stamp", "golden", "--fleet", "issued", "--defaults", "defaults.toml"];
    plant.run(&[&stamp[..], &["--out", "images", "--full"]].concat()).success();
    let image = fs::read(plant.path("images/gateway-pump-1.img")).expect("image");
    for content in ["plant.example:5000\n", "devices\n", "p\\a\"ss word\n"] {
        assert!(image.windows(content.len()).any(|part| part == content.as_bytes()), "{content}");
    }

    plant.put(
        "wrong.csv",
        "registration_id,registry_address,registry_username,registry_password\n\
         pump-1,plant.example,,hunter22\npump-2,https://plant.example,u,hunter22\npump:3,plant,u,\"hunter22 \"\n",
    );
    let all = ["stamp", "golden", "--fleet", "wrong.csv", "--identities", "issued", "--check"];
    let said = plant.run(&all).code(2);
    let said = String::from_utf8(said.get_output().stdout.clone()).expect("text");
    for expected in [
        "wrong.csv:2: `registry_username`: a registry's credentials are its address, a user name and a password",
        "wrong.csv:3: `registry_address`: `https://plant.example` is no registry",
        "wrong.csv:4: `registry_address`: `plant` is no registry",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!said.contains("hunter22"), "no secret is repeated");
}

#[test]
fn an_image_without_overrides_takes_only_credentials() {
    let plant = Plant::with(&Provisioning { overrides: false, ..Provisioning::default() });
    plant.three();
    plant.run(&["stamp", "golden", "--fleet", "issued", "--out", "patches"]).success();
    plant.put(
        "fleet.csv",
        "registration_id,hostname,wifi_ssid,source.from,registry_password\npump-1,h,,,\npump-2,,w,,hunter22\nt,,,tpm,\n",
    );
    let all = ["stamp", "golden", "--fleet", "fleet.csv", "--identities", "issued", "--check"];
    let said = plant.run(&all).code(2);
    let said = String::from_utf8(said.get_output().stdout.clone()).expect("text");
    for expected in [
        "csv:2: `hostname`: the image would ignore it",
        "csv:3: `wifi_ssid`: the image",
        "csv:3: `registry_password`: the image",
        "csv:4: `source.from`: the image's recipe forbids",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_command_signs() {
    let plant = Plant::new();
    plant.authority();
    plant.put("fleet.csv", "registration_id\npump-1\npump-2\n");
    plant.put("sign", "cat >\"$TMP/$EDGEPRESS_REGISTRATION_ID.csr\"\necho no smart card >&2\nexit 3\n");
    let issue = |command: &str| {
        plant.run(&["identity", "issue", "--fleet", "fleet.csv", "--out", "issued", "--ca-command", command])
    };
    issue("sh ./sign").code(1).stderr(contains(
        "signing pump-1 by --ca-command: sh -c 'sh ./sign' failed: exit status: 3\nno smart card",
    ));
    issue("cat root.pem").code(1).stderr(
        contains("issued for pump-1 cannot be used: ").and(contains("it does not belong to the certificate")),
    );
    assert_eq!(names(&plant.path("issued")), [""; 0]);
    let sign = "openssl x509 -req -CA ca.pem -CAkey ca.key -days 9 2>/dev/null && cat ca.pem";
    issue(sign).success().stdout(contains("2 certificates issued"));
    plant
        .run(&["stamp", "golden", "--fleet", "issued", "--ca", "root.pem", "--check"])
        .success()
        .stdout(contains("warning").and(contains("in 8 days")).and(contains("2 devices: nothing wrong")));
}

#[test]
fn json_and_help() {
    let plant = Plant::new();
    plant.three();
    let said = plant.run(&["--json", "stamp", "golden", "--fleet", "issued", "--out", "p"]).success();
    let said: Value = serde_json::from_slice(&said.get_output().stdout).expect("one document");
    assert_eq!((&said["devices"], &said["written"], &said["errors"]), (&json!(3), &json!(3), &json!(0)));
    let said = plant
        .run(&[
            "--json",
            "identity",
            "issue",
            "--fleet",
            "fleet.csv",
            "--out",
            "issued",
            "--ca",
            "ca.pem",
            "--ca-key",
            "ca.key",
        ])
        .success();
    let said: Value = serde_json::from_slice(&said.get_output().stdout).expect("one document");
    assert_eq!((&said["issued"], &said["kept"]), (&json!(0), &json!(3)));
    plant.run(&["stamp", "golden"]).code(2).stderr(contains("whose identity?"));
    plant.run(&["stamp", "golden", "--fleet", "issued"]).code(2).stderr(contains("--out DIR"));
    plant
        .run(&["identity", "issue", "--fleet", "fleet.csv", "--out", "x"])
        .code(2)
        .stderr(contains("who signs?"));
    for verb in [&["stamp", "--help"][..], &["identity", "issue", "--help"]] {
        plant.run(verb).success().stdout(contains("Examples:"));
    }
}
