//! The disk that an image's file holds, as a raw sparse file.
//!
//! ```text
//! zst, xz, gz, vhd  ─► decode ──┐
//! qemu-img's own    ─► qemu-img ┴► sparse file
//! ```
//! Four bounds hold whatever the file says: the disk has at most [`LARGEST`] bytes; what of it is no hole has at most
//! [`DATA`] bytes and [`RATIO`] times as many as the file (real images come to a tenth of that); [`SPARE`] of the room
//! that there is where it is unpacked stays free, for whoever else writes there; and qemu-img has its time.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::decode::{self, fill};
use super::{Container, Qemu, Way, detect};
use crate::error::Problem;
use crate::event::{Event, Sink, Unit};
use crate::host;

/// Largest disk that is unpacked, bytes; a hostile file of a few KiB could claim any size.
pub const LARGEST: u64 = 64 << 30;
/// What is no hole: so many bytes are unpacked of any file.
pub const DATA: u64 = 4 << 30;
/// And so many more for each byte of the file.
pub const RATIO: u64 = 100;
/// Of the room that there is, so much stays free: a 20th, and at least this, bytes.
pub const SPARE: u64 = 256 << 20;
/// So long may qemu-img take: these, and for each GiB of the disk as much again. The slowest disks and the fullest images
/// need a tenth of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked how much qemu-img has written.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes unpacked at a time.
const CHUNK: usize = 1 << 20;
/// Zeros of this length become a hole.
const HOLE: usize = 64 << 10;
const STEP: &str = "unpack";

/// Counts what is read of the compressed file, for the progress.
struct Counted {
    file: File,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Writes the disk that an image's file holds into an empty file, with holes where it is zeros for long; says how many
/// bytes it has.
///
/// # Errors
/// A [`Problem`] when the file is damaged, the disk larger than [`LARGEST`], or its data than is unpacked of such a file,
/// one of qemu-img's one that other files are part of, or there is no room.
pub fn unpack(path: &Path, target: &File, sink: &dyn Sink) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let packed = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
    let container = detect(&file, packed).with_context(|| format!("reading {}", path.display()))?;
    let room = Room::of(target, packed)?;
    if let Way::Qemu(qemu) = container.read() {
        return convert(qemu, (&file, packed), path, target, &room);
    }
    let begin = Instant::now();
    sink.emit(Event::Started { step: STEP.into(), total: Some(packed), unit: Unit::Bytes });
    let count = Arc::new(AtomicU64::new(0));
    let counted = Counted { file, count: Arc::clone(&count) };
    let mut stream = decode::stream(counted, container, packed, path)?;
    let mut buffer = vec![0; CHUNK];
    let (mut size, mut data) = (0, 0);
    loop {
        let filled = fill(&mut *stream, &mut buffer).map_err(|error| damaged(path, container, &error))?;
        if filled == 0 {
            break;
        }
        if size + filled as u64 > LARGEST {
            return Err(too_large(path).into());
        }
        data += holds(&buffer[..filled]);
        room.check(data, path)?;
        write_sparse(target, &buffer[..filled], size).map_err(no_room)?;
        size += filled as u64;
        let done = count.load(Ordering::Relaxed);
        sink.emit(Event::Progress { step: STEP.into(), done, message: String::new() });
    }
    target.set_len(size).map_err(no_room)?;
    let outcome = format!("{} MiB", size >> 20);
    let seconds = begin.elapsed().as_secs_f64();
    sink.emit(Event::Finished { step: STEP.into(), seconds, outcome });
    Ok(size)
}

/// How much may be written.
struct Room {
    /// Without taking what others need, bytes.
    free: u64,
    /// Of a file of this length, bytes.
    data: u64,
}

impl Room {
    /// Where `target` lies, for a file of `packed` bytes.
    fn of(target: &File, packed: u64) -> Result<Self> {
        let disk = nix::sys::statvfs::fstatvfs(target).context("looking how much room there is")?;
        let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
        Ok(Self {
            free: free.saturating_sub(SPARE.max(free / 20)),
            data: DATA.saturating_add(packed.saturating_mul(RATIO)),
        })
    }

    /// May so many bytes be written?
    fn check(&self, data: u64, path: &Path) -> Result<(), Problem> {
        if data > self.data {
            let message = format!(
                "{} is not unpacked: of a file of its length at most {} MiB of data are taken",
                path.display(),
                self.data >> 20
            );
            return Err(
                Problem::input(message).hint("if you trust it: unpack it yourself, and name the raw image")
            );
        }
        if data > self.free { Err(out_of_room()) } else { Ok(()) }
    }
}

/// Bytes of pieces that do not become holes.
fn holds(bytes: &[u8]) -> u64 {
    bytes
        .chunks(HOLE)
        .filter(|piece| piece.iter().any(|byte| *byte != 0))
        .map(|piece| piece.len() as u64)
        .sum()
}

fn write_sparse(target: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    for (at, piece) in (offset..).step_by(HOLE).zip(bytes.chunks(HOLE)) {
        if piece.iter().any(|byte| *byte != 0) {
            target.write_all_at(piece, at)?;
        }
    }
    Ok(())
}

fn damaged(path: &Path, container: Container, error: &io::Error) -> Problem {
    Problem::input(format!("{} is a damaged {container} file: {error}", path.display()))
        .hint("fetch it again, and compare it with its SHA256SUMS")
}

fn too_large(path: &Path) -> Problem {
    Problem::input(format!("{} holds a disk of more than {} GiB", path.display(), LARGEST >> 30))
        .hint("unpack it yourself, and name the raw image")
}

fn out_of_room() -> Problem {
    Problem::work("there is no room to unpack the image")
        .hint("name a folder with more room in TMPDIR (else it is /var/tmp)")
}

fn no_room(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => out_of_room().into(),
        _ => anyhow::Error::new(error).context("writing the unpacked image"),
    }
}

fn convert(
    qemu: &Qemu,
    (file, packed): (&File, u64),
    path: &Path,
    target: &File,
    room: &Room,
) -> Result<u64> {
    let driver = qemu.driver;
    let size = (qemu.look)(file, packed).map_err(|why| {
        Problem::input(format!("the {driver} {} is not read: {why}", path.display()))
            .hint(format!("if you trust it: qemu-img convert -O raw IMAGE.{driver} IMAGE.img, and name that"))
    })?;
    if size > LARGEST {
        return Err(too_large(path).into());
    }
    target.set_len(size).map_err(no_room)?;
    // As an absolute path, lest a name like `json:…` mean something to qemu-img.
    let path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
    let out = format!("/proc/{}/fd/{}", std::process::id(), target.as_raw_fd());
    let mut command = host::command("qemu-img")?;
    command.args(["convert", "-n", "--target-is-zero", "-f", driver, "-O", "raw"]).arg(&path).arg(out);
    let patience = PATIENCE * (1 + u32::try_from(size >> 30).unwrap_or(64));
    watched(&mut command, target, room, patience, (&path, driver))?;
    Ok(size)
}

/// Runs qemu-img, and ends it when it has written more than it may, or does not come to an end.
fn watched(
    command: &mut Command,
    target: &File,
    room: &Room,
    patience: Duration,
    (path, driver): (&Path, &str),
) -> Result<()> {
    let line = host::line(command);
    // Its few words on what is wrong fit into a pipe.
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let begin = Instant::now();
    let mut child = spawned.with_context(|| format!("starting {line}"))?;
    let ended = loop {
        if child.try_wait().with_context(|| format!("waiting for {line}"))?.is_some() {
            break Ok(());
        }
        let written = target.metadata().context("looking at the unpacked image")?.blocks() * 512;
        let late = Problem::input(format!(
            "{} is not unpacked: qemu-img has not ended after {} minutes",
            path.display(),
            patience.as_secs() / 60
        ));
        let in_time = if begin.elapsed() < patience { Ok(()) } else { Err(late) };
        if let Err(problem) = room.check(written, path).and(in_time) {
            child.kill().ok();
            break Err(problem);
        }
        std::thread::sleep(LOOK);
    };
    let output = child.wait_with_output().with_context(|| format!("waiting for {line}"))?;
    ended?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message =
        format!("{} is a damaged {driver}: {line} failed: {}", path.display(), host::tail(&said, 5));
    Err(Problem::input(message).into())
}

#[cfg(test)]
mod tests {
    use super::{DATA, HOLE, PATIENCE, RATIO, Room, SPARE, holds, watched, write_sparse};
    use crate::error::problem;
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn sparse_pieces() {
        let file = tempfile::tempfile().expect("file");
        let mut bytes = vec![0; 3 * HOLE + 5];
        bytes[2 * HOLE] = 1;
        write_sparse(&file, &bytes, 0).expect("write");
        assert_eq!(file.metadata().expect("stat").len(), 3 * HOLE as u64);
    }

    #[test]
    fn how_much_is_unpacked() {
        let mut bytes = vec![0; 3 * HOLE + 5];
        assert_eq!(holds(&bytes), 0);
        bytes[3 * HOLE] = 1;
        bytes[5] = 1;
        assert_eq!(holds(&bytes), HOLE as u64 + 5);
        let file = tempfile::tempfile().expect("file");
        let room = Room::of(&file, 2 << 20).expect("room");
        assert_eq!(room.data, DATA + RATIO * (2 << 20));
        assert!(
            room.free > 0,
            "the tests need {} MiB of room in the folder for temporary files",
            SPARE >> 20
        );
        let path = Path::new("x.img.zst");
        room.check(room.data.min(room.free), path).expect("fits");
        let (tight, full) = (Room { data: 9, free: 99 }, Room { data: 99, free: 9 });
        assert!(
            tight.check(10, path).expect_err("too much").message.ends_with("at most 0 MiB of data are taken")
        );
        assert!(full.check(10, path).expect_err("full").message.contains("no room"));
        assert_eq!(Room::of(&file, u64::MAX).expect("room").data, u64::MAX);
    }

    /// A file of few bytes that unpacks to data without an end.
    #[test]
    fn a_program_that_writes_too_much_is_ended() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let mut command = Command::new("dd");
        let of = format!("of={}", file.path().display());
        command.args(["if=/dev/zero", &of, "bs=64K", "count=100000", "oflag=sync", "conv=notrunc"]);
        let room = Room { data: 1 << 20, free: u64::MAX };
        let error = watched(&mut command, file.as_file(), &room, PATIENCE, (Path::new("x.qcow2"), "qcow2"));
        let error = error.expect_err("too much");
        assert!(
            problem(&error).is_some_and(|it| it.message.starts_with("x.qcow2 is not unpacked")),
            "{error:#}"
        );
        let error = watched(
            &mut Command::new("false"),
            file.as_file(),
            &Room { data: u64::MAX, ..room },
            PATIENCE,
            (Path::new("x"), "qcow2"),
        );
        assert!(error.expect_err("it fails").to_string().starts_with("x is a damaged qcow2: false failed"));
        let (mut command, none) = (Command::new("sleep"), Duration::ZERO);
        let room = Room { data: u64::MAX, free: u64::MAX };
        let error = watched(command.arg("600"), file.as_file(), &room, none, (Path::new("x"), "vmdk"));
        assert!(error.expect_err("too long").to_string().contains("has not ended after 0 minutes"));
    }
}
