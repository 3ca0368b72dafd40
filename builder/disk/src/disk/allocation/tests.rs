use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{BLOCK, mapped};
use crate::disk::Scheme;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::disk::{self, Plan, ext4, patch};
use crate::event::Silent;
use crate::host;
use crate::units::{Arch, Digest};

const MIB: u64 = 1 << 20;

fn plan(folder: &Path, scheme: Scheme) -> Plan {
    let tree = folder.join("tree");
    fs::create_dir_all(&tree).expect("folder");
    ext4::tests::tree(&tree, false);
    Plan {
        tree,
        out: folder.join("disk.img"),
        scheme,
        arch: Arch::X86_64,
        fat_size: 40 * MIB,
        fat_spare: 0,
        // Several groups of blocks, most of them never written.
        size: Some(320 * MIB),
        free: 0,
        ids: Ids::from_seed(&Digest::of("disk")),
        epoch: 1_700_000_000,
        fat_files: vec![FatFile { path: "EFI/BOOT/BOOTX64.EFI".into(), content: vec![1; 90_000] }],
        boot_code: None,
    }
}

/// A disk and where its root lies.
fn disk(folder: &Path, scheme: Scheme) -> (PathBuf, Range<u64>) {
    let plan = plan(folder, scheme);
    let partitions = disk::make(&plan, &Silent).expect("image");
    let root = &partitions[1];
    (plan.out, root.offset..root.offset + root.size)
}

fn map(image: &Path) -> Vec<Range<u64>> {
    let file = File::open(image).expect("open");
    let size = file.metadata().expect("metadata").len();
    mapped(&file, size).expect("map")
}

fn length(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// What a writer with the map makes of a card that is full of something else.
fn written(image: &Path, card: &Path) {
    let source = File::open(image).expect("open");
    let mut target =
        File::options().read(true).write(true).create(true).truncate(true).open(card).expect("card");
    let garbage = vec![0xa5; MIB as usize];
    for _ in 0..source.metadata().expect("metadata").len() / MIB {
        target.write_all(&garbage).expect("garbage");
    }
    for range in map(image) {
        for at in (range.start..range.end).step_by(MIB as usize) {
            let mut bytes = vec![0; (range.end - at).min(MIB) as usize];
            source.read_exact_at(&mut bytes, at).expect("read");
            target.write_all_at(&bytes, at).expect("write");
        }
    }
}

fn part(image: &Path, range: &Range<u64>, out: &Path) {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    File::open(image).and_then(|file| file.read_exact_at(&mut bytes, range.start)).expect("read");
    fs::write(out, bytes).expect("write");
}

/// Every file's path and content.
fn files(file_system: &Path) -> Vec<(String, Vec<u8>)> {
    let reader = ext4_view::Ext4::load_from_path(file_system).expect("ext4");
    let mut found = Vec::new();
    let mut folders = vec!["/".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in reader.read_dir(folder.as_str()).expect("folder") {
            let entry = entry.expect("entry");
            let name = entry.file_name();
            let name = name.as_str().expect("text");
            if matches!(name, "." | "..") {
                continue;
            }
            let path = format!("{}/{name}", folder.trim_end_matches('/'));
            let kind = entry.file_type().expect("kind");
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_regular_file() {
                let content = reader.read(path.as_str()).expect("read");
                found.push((path, content));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_card_full_of_something_else_becomes_sound() {
    for board in [Scheme::Gpt, Scheme::CardMbr] {
        let folder = tempfile::tempdir().expect("folder");
        let (image, root) = disk(folder.path(), board);
        let ranges = map(&image);
        assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "not apart");
        assert!(ranges.iter().all(|range| range.start % BLOCK == 0 && range.end % BLOCK == 0));
        let card = folder.path().join("card");
        written(&image, &card);
        disk::table::read(File::open(&card).expect("open")).expect("table");
        let loader = patch::look(&card, |volume| volume.read("EFI/BOOT/BOOTX64.EFI", MIB));
        assert_eq!(loader.expect("look"), Some(vec![1; 90_000]));
        let [before, after] = ["before", "after"].map(|name| folder.path().join(name));
        part(&image, &root, &before);
        part(&card, &root, &after);
        let mut check = host::command("e2fsck").expect("e2fsprogs");
        host::run(check.args(["-f", "-n"]).arg(&after)).expect("e2fsck finds no fault");
        assert!(files(&after) == files(&before), "files differ");
        // Data, inode tables, bitmaps, a journal, the FAT's tables; not the free rest.
        assert!(length(&ranges) < 100 * MIB, "{} MiB of 320 mapped", length(&ranges) / MIB);
    }
}

#[test]
fn what_a_removed_file_left_behind_is_free() {
    let folder = tempfile::tempdir().expect("folder");
    let (image, root) = disk(folder.path(), Scheme::Gpt);
    let before = length(&map(&image));
    for name in ["etc/a", "etc/b"] {
        let device = format!("{}?offset={}", image.display(), root.start);
        let mut debugfs = host::command("debugfs").expect("e2fsprogs");
        host::run(debugfs.args(["-w", "-R", &format!("rm {name}"), &device])).expect("rm");
    }
    assert_eq!(before - length(&map(&image)), MIB, "a file of 1 MiB with two names is gone");
}

#[test]
fn what_is_not_understood_counts_as_far_as_it_is_data() {
    let folder = tempfile::tempdir().expect("folder");
    let (image, root) = disk(folder.path(), Scheme::Gpt);
    let file = File::options().read(true).write(true).open(&image).expect("open");
    let within = |ranges: &[Range<u64>]| length(&super::common(ranges, &root));
    let size = file.metadata().expect("metadata").len();
    let data = within(&disk::sparse::data_ranges(&file, size).expect("data"));
    let sound = within(&map(&image));
    // Magic; an unknown feature; a journal to be replayed; "not clean"; clusters of blocks.
    for (at, byte) in [(0x38, 0), (0x63, 0x80), (0x60, 0xc6), (0x3a, 0), (0x65, 0x06)] {
        let place = root.start + 1024 + at;
        let mut old = [0];
        file.read_exact_at(&mut old, place).expect("read");
        file.write_all_at(&[byte], place).expect("write");
        let now = within(&map(&image));
        file.write_all_at(&old, place).expect("write");
        assert!(old[0] != byte && now != sound && now >= data, "{at:#x}: {now}, {data}, {sound}");
    }
    assert_eq!(within(&map(&image)), sound);
}

#[test]
fn a_disk_without_a_table_is_what_is_not_zero() {
    let folder = tempfile::tempdir().expect("folder");
    let image = folder.path().join("image");
    let mut bytes = vec![0; 3 * MIB as usize + 512];
    bytes[9000] = 1;
    bytes[3 * MIB as usize + 3] = 1;
    fs::write(&image, &bytes).expect("write");
    assert_eq!(map(&image), [8192..12288, 3 * MIB..3 * MIB + 512]);
    fs::write(&image, "").expect("write");
    assert_eq!(map(&image), []);
}

/// Whatever stands in superblock, descriptors, boot sector and tables: an answer within the disk.
#[test]
fn no_bytes_are_too_much() {
    let folder = tempfile::tempdir().expect("folder");
    let plan = Plan { size: Some(128 * MIB), ..plan(folder.path(), Scheme::Gpt) };
    let partitions = disk::make(&plan, &Silent).expect("image");
    let (image, root) = (plan.out, partitions[1].offset..partitions[1].offset + partitions[1].size);
    let file = File::options().read(true).write(true).open(&image).expect("open");
    let size = file.metadata().expect("metadata").len();
    // Counts, sizes, features and flags of the superblock; a descriptor; the FAT's boot sector; the partition table.
    let fields = (0..0x40).chain(0x4c..0x70).chain([0xce, 0xcf, 0xfe, 0xff]).chain(0x150..0x154);
    let places = fields.map(|at| root.start + 1024 + at).chain((0..0x30).map(|at| root.start + BLOCK + at));
    let places = places.chain((11..52).map(|at| MIB + at)).chain((510..700).step_by(9));
    for place in places {
        let mut old = [0];
        file.read_exact_at(&mut old, place).expect("read");
        for new in [old[0] ^ 1, 0xff] {
            file.write_all_at(&[new], place).expect("write");
            let ranges = mapped(&file, size).expect("an answer");
            assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size), "{place}");
        }
        file.write_all_at(&old, place).expect("write");
    }
    for cut in [1, 511, 513, 4096, MIB + 5, root.start + 1030, root.start + 5000] {
        file.set_len(cut).expect("cut");
        assert!(mapped(&file, cut).expect("an answer").iter().all(|range| range.end <= cut), "{cut}");
    }
}
