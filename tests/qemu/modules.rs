//! A manifest of two modules, whose images come from a real registry with TLS and a password. The registry is gone when the
//! device boots: its engine has the images by their names and digests, runs them, saves them with the digests that they had, and
//! their files are those of the same images as the engine loads them itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgepress::units::Digest;
use serde_json::{Value, json};
use tar::EntryType;

use crate::support::registry::{Door, PASSWORD, Registry, USER, run};
use crate::support::report::assert_passed;
use crate::{LIMIT, boot_by_default, edgepress, scratch, store};

const TIME: u64 = 1_700_000_000;
/// A file capability as the kernel keeps it (linux/capability.h, `vfs_cap_data` version 2): cap_net_raw, effective.
const CAPABILITY: &str = "SCHILY.xattr.security.capability";
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What the device is asked, before its first boot goes on.
const PROOF: &str = r#"#!/bin/sh
# Differences between an image that was in the store and one that the engine loads.
view() { # view IMAGE: a digest of all its files, with owners, times, links, devices and attributes
    upper=$(docker image inspect -f '{{.GraphDriver.Data.UpperDir}}' "$1")
    lower=$(docker image inspect -f '{{.GraphDriver.Data.LowerDir}}' "$1")
    mkdir -p /run/view && mount -t overlay view -o "ro,lowerdir=$upper:$lower" /run/view
    # Not the top itself: the engine gives it the time of day. Nor when a file was used, or the number of this process.
    (cd /run/view && tar --sort=name --numeric-owner --xattrs --xattrs-include='*' -cf /run/view.tar \
        --pax-option='exthdr.name=%d/%f,delete=atime,delete=ctime' -- *)
    tar --xattrs -tvvf /run/view.tar >&2
    sha256sum </run/view.tar
    umount /run/view
}
{
    docker images --digests --no-trunc --format '{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}}'
    for image in "$@"; do
        docker run --rm --network none -v /bin/busybox:/busybox:ro --entrypoint /busybox "$image" sh -c \
            '/busybox cat /etc/name; /busybox ls /etc/motd /data/old' 2>&1
    done
    before=$(view "$1")
    docker save "$1" -o /opt/saved.tar
    for layer in $(tar -tf /opt/saved.tar | grep 'layer.tar$'); do
        echo "saved $(tar -xOf /opt/saved.tar "$layer" | sha256sum)"
    done
    docker history -q "$1" | wc -l | sed 's/^/history /'
    for image in "$@"; do docker rmi "$image" >/dev/null; done
    docker images -q --digests --filter "reference=${1%/*}/*" | xargs -r docker rmi -f >/dev/null
    echo "left $(docker images -q --filter "reference=${1%/*}/*" | wc -l)"
    docker load -q -i /opt/tool.tar
    after=$(view plant/tool:1)
    [ "$before" = "$after" ] && echo "the same files" || echo "other files: $before, $after"
} 2>/run/proof.err | sed 's/^/proof: /'
sed 's/^/proof-detail: /' /run/proof.err
echo "proof: end"
"#;

const UNIT: &str = "\
[Unit]
After=docker.service
Requires=docker.service
Before=edgepress-first-boot.service
[Service]
Type=oneshot
ExecStart=/bin/sh /opt/proof.sh IMAGES
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
RequiredBy=edgepress-first-boot.service
";

type Member<'a> = (EntryType, &'a str, &'a str, u32);

fn layer(members: &[Member<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, name, content, mode) in members {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_size(0);
        header.set_uid(if name.contains("owned") { 1000 } else { 0 });
        header.set_gid(if name.contains("owned") { 1001 } else { 0 });
        header.set_mtime(TIME);
        header.set_device_major(1).expect("major");
        header.set_device_minor(3).expect("minor");
        if name.contains("capable") {
            tar.append_pax_extensions([(CAPABILITY, &NET_RAW[..])]).expect("attribute");
        }
        match kind {
            EntryType::Symlink | EntryType::Link => tar.append_link(&mut header, name, content),
            _ => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_bytes())
            }
        }
        .expect("append");
    }
    tar.into_inner().expect("tar")
}

/// An archive as docker saves one; returns the diff ids.
fn archive(file: &Path, name: &str, layers: &[Vec<u8>]) -> Vec<String> {
    let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2023-11-14T22:13:20Z", "config": { "Cmd": ["/busybox"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids.iter().map(|id| format!("sha256:{id}")).collect::<Vec<_>>() },
        "history": diff_ids.iter().map(|id| json!({ "created_by": id })).collect::<Vec<_>>(),
    })
    .to_string();
    let config_name = format!("{}.json", Digest::of(&config));
    let layer_names: Vec<String> = diff_ids.iter().map(|id| format!("{id}.tar")).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": layer_names }]).to_string();
    let mut tar = tar::Builder::new(fs::File::create(file).expect("archive"));
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).expect("append");
    };
    put("manifest.json", manifest.as_bytes());
    put(&config_name, config.as_bytes());
    layer_names.iter().zip(layers).for_each(|(name, layer)| put(name, layer));
    tar.finish().expect("finish");
    diff_ids
}

/// A layer with a bit of everything, and one over it that hides some.
fn layers() -> [Vec<u8>; 2] {
    use EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};

    let long = format!("srv/{}", "long-".repeat(24));
    let below = layer(&[
        (Directory, "./", "", 0o755),
        (Directory, "etc/", "", 0o755),
        (Directory, "data/", "", 0o750),
        (Directory, "srv/", "", 0o1777),
        (Regular, "etc/motd", "from below", 0o644),
        (Regular, "etc/name", "tool", 0o644),
        (Regular, "etc/owned", "somebody's", 0o640),
        (Regular, "data/old", "old", 0o644),
        (Regular, "srv/set-id", "program", 0o6755),
        (Regular, "srv/capable", "program", 0o755),
        (Link, "srv/again", "srv/set-id", 0o6755),
        (Regular, &long, "long", 0o600),
    ]);
    let above = layer(&[
        (Directory, "etc/", "", 0o755),
        (Regular, "etc/.wh.motd", "", 0),
        (Directory, "data/", "", 0o700),
        (Regular, "data/.wh..wh..opq", "", 0),
        (Regular, "data/new", "new", 0o644),
        (Directory, "srv/", "", 0o1777),
        (Char, "srv/null", "", 0o666),
        (Fifo, "srv/pipe", "", 0o620),
        (Symlink, "srv/link", "/etc/name", 0o777),
    ]);
    [below, above]
}

fn module(image: &str) -> Value {
    json!({ "type": "docker", "status": "running", "restartPolicy": "always", "version": "1.0",
            "imagePullPolicy": "never", "settings": { "image": image, "createOptions": "{}" } })
}

fn manifest(tool: &str, base: &str) -> Value {
    let system = |image: &str| {
        let mut system = module(image);
        system.as_object_mut().expect("an object").remove("version");
        system
    };
    json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": { "minDockerVersion": "v1.25" } },
            "systemModules": { "edgeAgent": system("localhost/edgepress-agent:standin"), "edgeHub": system(base) },
            "modules": { "tool": module(tool), "base": module(base) } } },
        "$edgeHub": { "properties.desired": {
            "schemaVersion": "1.1", "routes": { "up": "FROM /messages/* INTO $upstream" },
            "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 } } },
    } })
}

/// A recipe of the demo with these modules; the folder, and the diff ids of the first.
fn recipe(registry: &Registry) -> (PathBuf, Vec<String>) {
    let folder = scratch().join("modules");
    fs::create_dir_all(folder.join("over/opt")).expect("folder");
    fs::create_dir_all(folder.join("over/etc/systemd/system/edgepress-first-boot.service.requires"))
        .expect("folder");
    let [tool, base] = ["tool", "base"].map(|name| format!("{}/plant/{name}:1", registry.address));
    let [below, above] = layers();
    let ids = archive(&folder.join("over/opt/tool.tar"), "plant/tool:1", &[below.clone(), above]);
    archive(&folder.join("base.tar"), "plant/base:1", &[below]);
    for (file, name) in [("over/opt/tool.tar", &tool), ("base.tar", &base)] {
        let mut push = registry.skopeo("copy", &["dest"]);
        run(push
            .arg(format!("docker-archive:{}", folder.join(file).display()))
            .arg(format!("docker://{name}")));
    }
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect(name);
    write("over/opt/proof.sh", PROOF);
    write("over/etc/systemd/system/proof.service", &UNIT.replace("IMAGES", &format!("{tool} {base}")));
    let link = folder.join("over/etc/systemd/system/edgepress-first-boot.service.requires/proof.service");
    fs::remove_file(&link).ok();
    std::os::unix::fs::symlink("../proof.service", link).expect("link");
    write("deployment.json", &serde_json::to_string_pretty(&manifest(&tool, &base)).expect("JSON"));
    let auth = json!({ "auths": { registry.address.clone(): { "username": USER, "password": PASSWORD } } });
    write("auth.json", &auth.to_string());
    let demo = crate::support::project().canonicalize().expect("project").join("recipes/demo.toml");
    let demo = demo.display();
    write(
        "modules.toml",
        &format!(
            "name = \"modules\"\nextends = \"{demo}\"\noverlays = [\"over\"]\n[modules]\nmanifest = \"deployment.json\"\n"
        ),
    );
    (folder, ids)
}

/// Changes one byte of a layer in the store, as a disk that lost it.
fn damage_a_layer(lock: &str) {
    let images = lock.split_once(".image]]").expect("images in the lock").1;
    let layers = images.split_once("layers").expect("layers").1;
    let digest = &layers.split_once("sha256:").expect("a digest").1[..64];
    let blob = store().join("blobs/sha256").join(&digest[..2]).join(digest);
    let mut bytes = fs::read(&blob).expect("the blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&blob).expect("remove");
    fs::write(&blob, bytes).expect("damaged");
}

#[test]
fn modules_run_with_the_registry_gone() {
    let registry = Registry::start(Door::Basic);
    let (folder, ids) = recipe(&registry);
    let address = registry.address.clone();
    let ca = format!("{address}={}", registry.ca().display());
    let on_recipe = |command: &str, more: &[&str]| {
        let mut called = edgepress();
        called.arg(command).arg(folder.join("modules.toml")).args(more);
        called.arg("--registry-auth").arg(folder.join("auth.json")).args(["--registry-ca", &ca]);
        called.output().expect("edgepress")
    };
    let build = || on_recipe("build", &["--out", folder.to_str().expect("text")]);
    assert!(on_recipe("lock", &["--fetch"]).status.success());
    damage_a_layer(&fs::read_to_string(folder.join("modules.lock")).expect("lock"));
    let output = build();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains(PASSWORD), "{said}");
    assert!(said.contains("of a container image has lost its content on the disk"), "{said}");
    drop(registry);
    let image = folder.join("modules-x86_64/modules.img");
    let first = Digest::of_file(&image).expect("digest");
    fs::remove_dir_all(folder.join("modules-x86_64")).expect("remove");
    assert!(build().status.success(), "with the registry gone, all is in the store");
    assert_eq!(Digest::of_file(&image).expect("digest"), first);

    let listed = Command::new(env!("CARGO_BIN_EXE_edgepress")).arg("inspect").arg(&image).output();
    let listed = String::from_utf8_lossy(&listed.expect("inspect").stdout).into_owned();
    assert!(listed.contains(&format!("{address}/plant/tool@sha256:")), "{listed}");

    let report = boot_by_default(&image, "modules", LIMIT, 1);
    assert_passed(&report);
    let console = fs::read_to_string(scratch().join("modules/console.log")).expect("console");
    let proof: Vec<&str> =
        console.lines().filter_map(|line| Some(line.split_once("proof: ")?.1.trim())).collect();
    let has = |text: &str| proof.iter().any(|line| line.contains(text));
    for expected in [
        format!("{address}/plant/tool 1 sha256:"),
        format!("{address}/plant/base 1 sha256:"),
        "history 2".into(),
        "left 0".into(),
        "the same files".into(),
        "end".into(),
    ] {
        assert!(has(&expected), "{expected}: {proof:#?}\n{console}");
    }
    for id in ids {
        assert!(has(&format!("saved {id}")), "a layer is saved as it was: {proof:#?}");
    }
    let hidden = proof.iter().filter(|line| line.contains("No such file")).count();
    assert_eq!(hidden, 2, "the upper layer hides two files of the lower one: {proof:#?}");
}
