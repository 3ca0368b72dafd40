//! The output formats, read back by the programs that people use for them; and what a build hands out.
//!
//! Needs bmap-tools, dosfstools, e2fsprogs, qemu-utils, xz-utils, zstd. The builds take their layers from the
//! one that all tests start from.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use edgepress::disk::fat::FatFile;
use edgepress::disk::ids::Ids;
use edgepress::disk::{self, Plan, sparse};
use edgepress::disk::{Partition, Scheme};
use edgepress::event::Silent;
use edgepress::export::{self, Request, vhd};
use edgepress::format::Made as How;
use edgepress::format::bmap::Bmap;
use edgepress::format::unpack::unpack;
use edgepress::host;
use edgepress::recipe::types::Format;
use edgepress::units::{Arch, Digest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::demo::first;
use crate::edgepress;

const MIB: u64 = 1 << 20;

/// All that are made of the raw image.
fn formats() -> Vec<Format> {
    let made = |format: &Format| !matches!(format.form().made, How::Itself | How::Tree);
    Format::ALL.into_iter().filter(made).collect()
}

/// Those that qemu-img makes, with their names there.
fn by_qemu() -> Vec<(Format, &'static str)> {
    let driver = |format: Format| match format.form().made {
        How::Qemu(qemu) => Some((format, qemu.driver)),
        _ => None,
    };
    Format::ALL.into_iter().filter_map(driver).collect()
}

/// A disk with a FAT and an ext4 partition, and every format of it.
struct Made {
    folder: TempDir,
    sha256: Digest,
    partitions: Vec<Partition>,
}

impl Made {
    fn path(&self, format: Format) -> PathBuf {
        self.folder.path().join(format!("disk.{format}"))
    }

    fn size(&self) -> u64 {
        self.path(Format::Img).metadata().expect("image").len()
    }
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("usr/lib")).expect("folder");
        for number in 0..200_u32 {
            let content = number.to_le_bytes().repeat(1 + number as usize * 300);
            fs::write(tree.join(format!("usr/lib/{number}")), content).expect("file");
        }
        let plan = Plan {
            tree,
            out: folder.path().join("disk.img"),
            scheme: Scheme::Gpt,
            arch: Arch::X86_64,
            fat_size: 64 * MIB,
            fat_spare: 0,
            size: Some(320 * MIB),
            free: 0,
            ids: Ids::from_seed(&Digest::of("export")),
            epoch: 1_700_000_000,
            fat_files: vec![FatFile { path: "EFI/BOOT/BOOTX64.EFI".into(), content: vec![1; 900_000] }],
            boot_code: None,
        };
        let partitions = disk::make(&plan, &Silent).expect("image");
        let target = |format| (format, folder.path().join(format!("disk.{format}")));
        let targets: Vec<_> = formats().into_iter().map(target).collect();
        targets.iter().for_each(|(_, path)| drop(File::create(path).expect("claimed")));
        let request = Request {
            raw: &plan.out,
            targets,
            vhd: vhd::Identity { id: plan.ids.vhd, epoch: plan.epoch },
            threads: NonZeroUsize::new(2).expect("two"),
        };
        let outcome = export::run(&request, &Silent).expect("export");
        Made { folder, sha256: outcome.sha256, partitions }
    })
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let mut command =
        host::command(program).unwrap_or_else(|error| panic!("{error:#} (ci/host-packages test)"));
    host::run(command.args(arguments)).unwrap_or_else(|error| panic!("{error:#}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("path")
}

fn part(image: &File, range: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    image.read_exact_at(&mut bytes, range.start).expect("read");
    bytes
}

#[test]
fn bmaptool_makes_a_sound_disk_of_a_card_full_of_something_else() {
    let made = made();
    let folder = tempfile::tempdir().expect("folder");
    let (copied, card) = (folder.path().join("copied"), folder.path().join("card"));
    let (image, map) = (made.path(Format::ImgZst), made.path(Format::Bmap));
    // bmaptool checks the digest of every range while it copies. It empties a file first, unlike a card: what it wrote
    // is laid over the garbage here.
    run("bmaptool", &["copy", "--bmap", text(&map), text(&image), text(&copied)]);
    let map = Bmap::parse(&fs::read_to_string(map).expect("map")).expect("a map");
    assert!(map.mapped() < made.size() / 2, "{} of {} bytes mapped", map.mapped(), made.size());
    let (raw, copied) = [made.path(Format::Img), copied].map(|path| File::open(path).expect("open")).into();
    let file = File::options().read(true).write(true).create_new(true).open(&card).expect("card");
    let garbage = vec![0xa5; MIB as usize];
    (0..made.size() / MIB).for_each(|at| file.write_all_at(&garbage, at * MIB).expect("garbage"));
    for range in map.bytes() {
        let bytes = part(&copied, range.clone());
        assert!(part(&raw, range.clone()) == bytes, "{range:?} differs");
        file.write_all_at(&bytes, range.start).expect("write");
    }
    for (role, check) in [("fat", ["fsck.vfat", "-n"]), ("root", ["e2fsck", "-fn"])] {
        let partition = made.partitions.iter().find(|partition| partition.role == role).expect(role);
        let path = folder.path().join(role);
        fs::write(&path, part(&file, partition.offset..partition.offset + partition.size)).expect("write");
        run(check[0], &[check[1], text(&path)]);
    }
}

#[test]
fn ordinary_programs_unpack_to_the_same_disk() {
    let made = made();
    for (program, format) in [("zstd", Format::ImgZst), ("xz", Format::ImgXz), ("gzip", Format::ImgGz)] {
        let path = made.path(format);
        run(program, &["-t", text(&path)]);
        let raw = run(program, &["-d", "-c", text(&path)]);
        assert_eq!(Digest::of(raw), made.sha256, "{program}");
    }
    let said =
        String::from_utf8(run("xz", &["--list", "--robot", text(&made.path(Format::ImgXz))])).expect("text");
    let line = said.lines().find(|line| line.starts_with("file")).expect("a line");
    let counts: Vec<&str> = line.split('\t').collect();
    assert_eq!(
        (counts[1], counts[2]),
        ("1", (made.size().div_ceil(24 * MIB)).to_string().as_str()),
        "{said}"
    );
}

#[test]
fn one_frame_is_unpacked_alone() {
    let made = made();
    let file = fs::read(made.path(Format::ImgZst)).expect("read");
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    let frames = word(file.len() - 9);
    let table = file.len() - 9 - 8 * frames;
    let wanted = frames / 3;
    let start: usize = (0..wanted).map(|frame| word(table + 8 * frame)).sum();
    let at: u64 = (0..wanted).map(|frame| word(table + 8 * frame + 4) as u64).sum();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("frame.zst");
    fs::write(&path, &file[start..start + word(table + 8 * wanted)]).expect("write");
    let bytes = run("zstd", &["-d", "-c", text(&path)]);
    let raw = File::open(made.path(Format::Img)).expect("image");
    assert!(bytes == part(&raw, at..at + word(table + 8 * wanted + 4) as u64));
}

#[test]
fn qemu_reads_what_is_for_virtual_machines() {
    let made = made();
    for (format, name) in [(Format::Vhd, "vpc")].into_iter().chain(by_qemu()) {
        let path = made.path(format);
        // Named, because QEMU does not look for a fixed VHD's footer by itself.
        let said = run("qemu-img", &["info", "-f", name, "--output=json", text(&path)]);
        let said: Value = serde_json::from_slice(&said).expect("JSON");
        assert_eq!((&said["format"], &said["virtual-size"]), (&name.into(), &made.size().into()), "{said}");
        run("qemu-img", &["compare", "-f", "raw", "-F", name, text(&made.path(Format::Img)), text(&path)]);
    }
    let folder = tempfile::tempdir().expect("folder");
    for (format, _) in by_qemu() {
        run("qemu-img", &["check", "-q", text(&made.path(format))]);
        let raw = folder.path().join(format.to_string());
        let unpacked = unpack(&made.path(format), &File::create_new(&raw).expect("raw"), &Silent);
        assert_eq!(unpacked.expect("unpacks"), made.size(), "{format}");
        assert_eq!(sparse::digest(&raw).expect("digest"), made.sha256, "{format}");
    }
    let vhd = fs::read(made.path(Format::Vhd)).expect("read");
    let footer = &vhd[made.size() as usize..];
    assert_eq!((footer.len(), &footer[..8]), (512, &b"conectix"[..]));
    assert_eq!(made.size() % MIB, 0);
    let word = |at: usize| u64::from_be_bytes(footer[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!((word(40), word(48), word(16)), (made.size(), made.size(), u64::MAX));
    let holes = std::os::unix::fs::MetadataExt::blocks(&made.path(Format::Vhd).metadata().expect("metadata"));
    assert!(holes * 512 < made.size() / 2, "the VHD has no holes");
}

/// qemu-img draws ids by lot, and takes the time and the file's name into some formats.
#[test]
fn what_qemu_makes_is_the_same_every_time() {
    let made = made();
    let folder = tempfile::tempdir().expect("folder");
    let export = |name: &str, seed: &str| {
        let target = |(format, _)| (format, folder.path().join(format!("{name}.{format}")));
        let targets: Vec<_> = by_qemu().into_iter().map(target).collect();
        targets.iter().for_each(|(_, path)| drop(File::create(path).expect("claimed")));
        let request = Request {
            raw: &made.path(Format::Img),
            targets,
            vhd: vhd::Identity { id: Ids::from_seed(&Digest::of(seed)).vhd, epoch: 1_700_000_000 },
            threads: NonZeroUsize::MIN,
        };
        export::run(&request, &Silent).expect("export").files
    };
    let again = export("another-name", "export");
    for file in &again {
        assert_eq!(sparse::digest(&made.path(file.format)).expect("digest"), file.sha256, "{}", file.format);
    }
    for (one, other) in again.iter().zip(export("x", "another image")).skip(1) {
        assert_ne!(one.sha256, other.sha256, "{}: two images have one id", one.format);
    }
    let said = run("qemu-img", &["info", "-f", "vmdk", "--output=json", text(&made.path(Format::Vmdk))]);
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    let kind = &said["format-specific"]["data"]["create-type"];
    assert_eq!(kind, "streamOptimized", "{said}");
}

/// A build of the demo, whose layers are there.
fn build(out: &Path, formats: &str) -> Command {
    let mut command = edgepress(&first().store);
    command.args(["--json", "build", "recipes/demo.toml", "--explain", "--out"]).arg(out);
    command.args(["--set", &format!("target.formats={formats}")]);
    command
}

fn built(out: &Path, formats: &str) -> Value {
    let output = build(out, formats).output().expect("edgepress runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{stderr}"))
}

fn missed(answer: &Value) -> Vec<&str> {
    let steps = answer["steps"].as_array().expect("steps").iter().filter(|step| step["hit"] == false);
    steps.filter_map(|step| step["step"].as_str()).filter(|step| ["image", "export"].contains(step)).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// Names of a build's folder that has these files, sorted.
fn with_papers(files: &[&'static str]) -> Vec<&'static str> {
    let mut all = [files, &["SHA256SUMS", "manifest.json", "sbom.cdx.json", "sbom.spdx.json"]].concat();
    all.sort_unstable();
    all
}

#[test]
fn a_build_hands_out_what_its_recipe_asks_for_and_remakes_only_that() {
    let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
    let folder = out.path().join("demo-x86_64");
    let first = built(out.path(), "['img.zst', 'bmap', 'vhd', 'tar.zst']");
    assert_eq!(missed(&first), ["image", "export"]);
    assert_eq!(names(&folder), with_papers(&["demo.bmap", "demo.img.zst", "demo.tar.zst", "demo.vhd"]));
    let check =
        Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&folder).output();
    let check = check.expect("sha256sum");
    assert!(check.status.success() && check.stdout.split(|byte| *byte == b'\n').count() == 8, "{check:?}");
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).expect("manifest")).expect("JSON");
    let outputs = manifest["outputs"].as_array().expect("outputs");
    let disks: Vec<_> = outputs.iter().filter(|output| output["format"] != "tar.zst").collect();
    assert_eq!(disks[0]["raw"], disks[2]["raw"]);
    assert_eq!(disks[2]["size"].as_u64(), disks[0]["raw"]["size"].as_u64().map(|size| size + 512));
    let raw = run("zstd", &["-d", "-c", text(&folder.join("demo.img.zst"))]);
    assert_eq!(disks[0]["raw"]["sha256"], Digest::of(raw).to_string());
    assert!(manifest["seconds"]["export"].as_f64().is_some_and(|seconds| seconds > 0.0), "{manifest}");
    let tar =
        String::from_utf8(run("tar", &["--zstd", "-tf", text(&folder.join("demo.tar.zst"))])).expect("text");
    for file in ["etc/aziot/config.toml", "usr/bin/", "var/lib/dpkg/status"] {
        assert!(tar.lines().any(|line| line == file), "{file}");
    }
    assert_eq!(
        missed(&built(out.path(), "['img.zst', 'bmap', 'vhd', 'tar.zst']")),
        [""; 0],
        "nothing changed"
    );
    assert_eq!(missed(&built(out.path(), "['img']")), ["image", "export"], "the raw image became the VHD");
    assert_eq!(names(&folder), with_papers(&["demo.img"]), "what is out of date goes");
    let again = built(out.path(), "['img', 'vhd']");
    assert_eq!(missed(&again), ["export"], "the raw image was there");
    assert_eq!(again["outputs"][0]["sha256"], disks[0]["raw"]["sha256"], "two builds differ");
    assert_eq!(again["outputs"][1]["sha256"], disks[2]["sha256"], "two ways to a VHD differ");
}

#[test]
fn an_interrupted_export_leaves_nothing() {
    let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
    let wanted: Vec<String> = formats().iter().map(|format| format!("'{format}'")).collect();
    let mut command = build(out.path(), &format!("[{}]", wanted.join(", ")));
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let stderr = BufReader::new(child.stderr.take().expect("stderr"));
    let mut lines = stderr.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("export: started")), "the build never came to its export");
    let folder = out.path().join("demo-x86_64");
    assert!(names(&folder).contains(&".demo.img.xz.partial".to_owned()), "{:?}", names(&folder));
    kill(Pid::from_raw(i32::try_from(child.id()).expect("pid")), Signal::SIGINT).expect("kill");
    assert_eq!(child.wait().expect("wait").code(), Some(130));
    assert_eq!(names(&folder), [""; 0]);
}
