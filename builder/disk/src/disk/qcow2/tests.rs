//! Held against the programs that define the format, and against damage.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{CLUSTER, Grain, Layer, create};
use crate::disk::overlay::{Base, Part};
use crate::host;

const SIZE: u64 = 600 << 20;

fn raw(path: &Path) -> Part {
    Part { file: File::open(path).expect("open"), start: 0 }
}

/// An image of 4 MiB of sevens, and a layer over it that is longer.
fn layer(folder: &Path, runs: &[(u64, &[u8])]) -> (PathBuf, PathBuf) {
    let (image, layer) = (folder.join("an, image.img"), folder.join("layer"));
    std::fs::write(&image, vec![7; 4 << 20]).expect("write");
    create(&layer, (&image, "raw"), SIZE, Grain::Cluster, &raw(&image), runs.iter().copied())
        .expect("create");
    (image, layer)
}

fn tool(name: &str, words: &[&str], path: &Path) {
    host::run(host::command(name).expect("qemu-utils").args(words).arg(path)).expect("it succeeds");
}

fn bytes(layer: &Layer, offset: u64, count: usize) -> Vec<u8> {
    let mut buffer = vec![9; count];
    layer.fill(&mut buffer, offset).expect("read");
    buffer
}

#[test]
fn qemu_finds_no_fault_and_the_same_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    // Within a cluster, over its end, behind the image, and in the last table.
    let long = vec![3; 3 * CLUSTER as usize];
    let runs = [(512, &[1; 512][..]), (CLUSTER - 5, &[2; 10]), (5 << 20, &long), (SIZE - 512, &[4; 512])];
    let (image, path) = layer(folder.path(), &runs);
    tool("qemu-img", &["check", "-q", "-f", "qcow2"], &path);
    let flat = folder.path().join("flat");
    tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", path.to_str().expect("text")], &flat);
    let expected = std::fs::read(flat).expect("read");
    assert_eq!(expected.len() as u64, SIZE);
    let found = bytes(&Layer::open(&path, Box::new(raw(&image))).expect("open"), 0, SIZE as usize);
    assert!(found == expected, "other bytes than QEMU reads");
    for (offset, bytes) in runs {
        assert_eq!(&found[offset as usize..][..bytes.len()], bytes);
    }
    assert!(create(&path, (&image, "raw"), SIZE, Grain::Cluster, &raw(&image), []).is_err(), "it was there");
    let behind = [(SIZE - 1, &[1; 2][..])];
    let out = folder.path().join("new");
    assert!(create(&out, (&image, "raw"), SIZE, Grain::Cluster, &raw(&image), behind).is_err());
    let endless = PathBuf::from(format!("/{}", "x".repeat(1023)));
    let error =
        create(&out, (&endless, "raw"), SIZE, Grain::Cluster, &raw(&image), []).expect_err("too long");
    assert!(error.to_string().starts_with("the image's path is 1024 bytes long"), "{error}");
}

#[test]
fn what_qemu_writes_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let (image, middle) = layer(folder.path(), &[(8192, &[1; 2048])]);
    let path = folder.path().join("fine");
    let name = Path::new("layer");
    create(&path, (name, "qcow2"), SIZE, Grain::Fine, &raw(&image), []).expect("create");
    let writes = [
        "write -P 2 8192 2k",
        "write -P 3 1M 5k",
        "write -z 2M 64k",
        "write -P 4 599M 200k",
        "discard 3M 64k",
    ];
    let commands: Vec<&str> = writes.iter().flat_map(|text| ["-c", text]).collect();
    tool("qemu-io", &[&["-f", "qcow2"], &commands[..]].concat(), &path);
    tool("qemu-img", &["check", "-q", "-f", "qcow2"], &path);
    let below = Layer::open(&middle, Box::new(raw(&image))).expect("middle");
    let layer = Layer::open(&path, Box::new(below)).expect("fine");
    let flat = folder.path().join("flat");
    tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", path.to_str().expect("text")], &flat);
    assert!(
        bytes(&layer, 0, SIZE as usize) == std::fs::read(flat).expect("read"),
        "other bytes than QEMU reads"
    );
    assert_eq!(bytes(&layer, 8190, 3), [7, 7, 2]);
    assert_eq!(bytes(&layer, (2 << 20) - 1, 2), [7, 0]);
}

#[test]
fn damage_is_an_error_or_other_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    let (image, path) = layer(folder.path(), &[(512, &[1; 512])]);
    let good = std::fs::read(&path).expect("read");
    let file = File::options().write(true).open(&path).expect("open");
    let mut buffer = vec![0; 1 << 20];
    // Every byte of the header, of the first entries of L1 and of L2.
    let places = (0..112).chain(3 * CLUSTER..3 * CLUSTER + 8).chain(4 * CLUSTER..4 * CLUSTER + 8);
    for at in places {
        for value in [0, 1, 0x7f, 0xff] {
            file.write_all_at(&[value], at).expect("write");
            if let Ok(layer) = Layer::open(&path, Box::new(raw(&image))) {
                let _ = layer.fill(&mut buffer, 0);
                let _ = layer.fill(&mut buffer, SIZE);
            }
            file.write_all_at(&good[at as usize..][..1], at).expect("write");
        }
    }
    let open = || Layer::open(&path, Box::new(raw(&image)));
    assert!(open().is_ok());
    file.set_len(80).expect("cut off");
    assert!(open().is_err());
}
