use std::fs::{self, File};
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::pass::CHUNK;
use super::{ExportOutcome, Request, run, vhd};
use crate::disk::ids::Uuid;
use crate::event::Silent;
use crate::format::bmap::Bmap;
use crate::format::{Made, Way, decode};
use crate::recipe::types::Format;
use crate::units::Digest;

/// All that are made of the raw image.
fn formats() -> Vec<Format> {
    let made = |format: &Format| !matches!(format.form().made, Made::Itself | Made::Tree);
    Format::ALL.into_iter().filter(made).collect()
}

/// Five chunks and a bit: text, noise, zeros that are written and zeros that are a hole.
fn image(path: &Path) -> Vec<u8> {
    let file = File::create_new(path).expect("image");
    let size = 5 * CHUNK as u64 + (1 << 20);
    file.set_len(size).expect("size");
    let mut noise: u32 = 1;
    let noise: Vec<u8> = (0..CHUNK + 777)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .collect();
    file.write_all_at(&noise, 4096).expect("write");
    file.write_all_at(&vec![0; CHUNK], 2 * CHUNK as u64).expect("write");
    file.write_all_at(b"the end", size - 7).expect("write");
    fs::read(path).expect("read")
}

fn export(folder: &Path, threads: usize, formats: &[Format]) -> ExportOutcome {
    let targets = formats.iter().map(|format| (*format, target(folder, *format)));
    let targets: Vec<_> = targets.inspect(|(_, path)| drop(File::create(path).expect("claimed"))).collect();
    let request = Request {
        raw: &folder.join("raw"),
        targets,
        vhd: vhd::Identity { id: Uuid([7; 16]), epoch: 1_700_000_000 },
        threads: NonZeroUsize::new(threads).expect("some"),
    };
    run(&request, &Silent).expect("export")
}

fn target(folder: &Path, format: Format) -> PathBuf {
    folder.join(format!("made.{format}"))
}

#[test]
fn every_format_holds_the_disk_whatever_the_number_of_threads() {
    let mut all = Vec::new();
    for threads in [1, 3] {
        let folder = tempfile::tempdir().expect("folder");
        let raw = image(&folder.path().join("raw"));
        let outcome = export(folder.path(), threads, &formats());
        assert_eq!((outcome.size, outcome.sha256), (raw.len() as u64, Digest::of(&raw)));
        for made in &outcome.files {
            let path = target(folder.path(), made.format);
            let bytes = fs::read(&path).expect("read");
            assert_eq!((made.size, made.sha256), (bytes.len() as u64, Digest::of(&bytes)), "{}", made.format);
            let Some((container, _)) = made.format.form().container else { continue };
            if matches!(container.read(), Way::Qemu(_)) {
                continue;
            }
            let (found, mut stream) = decode::open(&path).expect("opens");
            let mut unpacked = Vec::new();
            stream.read_to_end(&mut unpacked).expect("unpacks");
            assert_eq!(found, container);
            assert!(unpacked == raw, "{container}: other bytes");
        }
        all.push(outcome.files);
    }
    assert_eq!(all[0], all[1], "the number of threads shows");
}

/// Whoever has an image's digest shall find it again: a change here makes every image differ from the one built yesterday.
/// (A newer zstd, xz or deflate in Cargo.lock may be such a change; then CHANGELOG.md says so.)
#[test]
fn old_formats_keep_their_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    image(&folder.path().join("raw"));
    let known = [
        (Format::ImgZst, "652803f0dbd641ae17369d78f657a18ebfdd064c9a17590fa4d80cf69eaab719"),
        (Format::ImgXz, "f8c8af95394c58aed25e38f458101bf627558973449418534da70aff3ac88242"),
        (Format::ImgGz, "8fd329fb516cb092a1295a35f3d75181ea5d4127370e2e4de8d83219eca788d7"),
        (Format::Bmap, "37ab68913894e2f886897deaf1bcef48981c97bf488f7c9e9987de4b372b383e"),
        (Format::Vhd, "64ba978a17622af9867be47b19cf3cc03c61b4fc60dc96c0842ab56c675f3053"),
    ];
    let outcome = export(folder.path(), 2, &known.map(|(format, _)| format));
    let made: Vec<_> = outcome.files.iter().map(|file| (file.format, file.sha256.to_string())).collect();
    assert_eq!(made, known.map(|(format, digest)| (format, digest.to_owned())));
}

#[test]
fn a_map_has_the_digest_of_each_range() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = image(&folder.path().join("raw"));
    export(folder.path(), 2, &[Format::Bmap]);
    let text = fs::read_to_string(target(folder.path(), Format::Bmap)).expect("read");
    let map = Bmap::parse(&text).expect("a map");
    assert_eq!(map.image_size, raw.len() as u64);
    assert_eq!(map.ranges.len(), 2, "{text}");
    for (range, mapped) in map.bytes().zip(&map.ranges) {
        let bytes = &raw[range.start as usize..range.end as usize];
        assert_eq!(mapped.sha256, Some(Digest::of(bytes)), "{range:?}");
    }
}

#[test]
fn the_raw_image_itself_becomes_the_vhd() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("raw");
    let raw = image(&path);
    let identity = vhd::Identity { id: Uuid([7; 16]), epoch: 1_700_000_000 };
    let targets = vec![(Format::Vhd, path.clone()), (Format::Qcow2, target(folder.path(), Format::Qcow2))];
    File::create(&targets[1].1).expect("claimed");
    let request = Request { raw: &path, targets, vhd: identity, threads: NonZeroUsize::MIN };
    let outcome = run(&request, &Silent).expect("export");
    let bytes = fs::read(&path).expect("read");
    assert!(bytes[..raw.len()] == raw);
    assert_eq!(bytes[raw.len()..], vhd::footer(raw.len() as u64, &identity));
    assert_eq!(outcome.files[0].sha256, Digest::of(&bytes));
    assert_eq!(outcome.sha256, Digest::of(&raw), "the disk's digest is without the footer");
}

#[test]
fn a_disk_that_is_no_whole_mib_grows_in_its_vhd() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("raw"), [3; 5000]).expect("write");
    let outcome = export(folder.path(), 1, &[Format::Vhd]);
    let bytes = fs::read(target(folder.path(), Format::Vhd)).expect("read");
    assert_eq!(bytes.len(), (1 << 20) + 512);
    assert_eq!(outcome.files[0].sha256, Digest::of(&bytes));
}

#[test]
fn zstandard_frames_are_found_by_the_table() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = image(&folder.path().join("raw"));
    export(folder.path(), 2, &[Format::ImgZst]);
    let file = fs::read(target(folder.path(), Format::ImgZst)).expect("read");
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    let end = file.len();
    assert_eq!(word(end - 4), 0x8f92_eab1);
    assert_eq!(file[end - 5], 0);
    let frames = word(end - 9);
    assert_eq!(frames, 6);
    let table = end - 9 - 8 * frames;
    assert_eq!((word(table - 8), word(table - 4)), (0x184d_2a5e, 8 * frames + 9));
    let (mut packed, mut unpacked) = (0, 0);
    for frame in 0..frames {
        let (from, to) = (word(table + 8 * frame), word(table + 8 * frame + 4));
        let bytes = zstd::bulk::decompress(&file[packed..packed + from], to).expect("one frame alone");
        assert!(bytes == raw[unpacked..unpacked + to], "frame {frame}");
        (packed, unpacked) = (packed + from, unpacked + to);
    }
    assert_eq!((packed, unpacked), (table - 8, raw.len()));
}

#[test]
fn what_cannot_be_written_is_said_and_nobody_waits() {
    let folder = tempfile::tempdir().expect("folder");
    image(&folder.path().join("raw"));
    for format in formats() {
        let path = folder.path().join("missing").join("made");
        let request = Request {
            raw: &folder.path().join("raw"),
            targets: vec![(format, path)],
            vhd: vhd::Identity { id: Uuid([7; 16]), epoch: 0 },
            threads: NonZeroUsize::MIN,
        };
        let error = format!("{:#}", run(&request, &Silent).expect_err("no folder"));
        assert!(error.contains("missing/made"), "{format}: {error}");
    }
}

/// Where writing stops in the middle: a full disk, without one.
#[test]
fn a_full_disk_ends_the_pass() {
    let folder = tempfile::tempdir().expect("folder");
    image(&folder.path().join("raw"));
    for format in [Format::ImgZst, Format::ImgGz, Format::ImgXz] {
        let request = Request {
            raw: &folder.path().join("raw"),
            targets: vec![(format, "/dev/full".into())],
            vhd: vhd::Identity { id: Uuid([7; 16]), epoch: 0 },
            threads: NonZeroUsize::MIN,
        };
        let error = format!("{:#}", run(&request, &Silent).expect_err("full"));
        assert!(error.contains("No space left"), "{format}: {error}");
    }
}
