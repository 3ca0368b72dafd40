//! The copy-on-write copy of the image that the machine writes to; the image itself is only read.
//!
//! ```text
//! disk.qcow2   what changed: the identity, then what the device writes; a little longer than the image
//!  └─ <name>.img   backing file, opened read-only
//! ```
//!
//! A test that cuts the power has one layer more, so that nothing which the device writes has its place already:
//!
//! ```text
//! worn.qcow2       what the device writes
//!  └─ disk.qcow2   the identity
//!      └─ <name>.img
//! ```
//! QEMU keeps the tables that say where written data lies in its own memory until the guest flushes its disk. When
//! QEMU is killed, what was written to a new place since the last flush is gone, as with a device whose volatile cache
//! loses its power, and what was written to an old place stays, as if the device had got round to it. What was flushed
//! is there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::disk::overlay::{Base, Part};
use crate::disk::qcow2::{self, Grain, Layer};
use crate::units::ByteSize;

/// How much longer than the image its copy is, as a card is longer than the image written to it.
pub(crate) const GROWTH: ByteSize = ByteSize::mib(1024);

const DISK: &str = "disk.qcow2";
const WORN: &str = "worn.qcow2";

/// Most bytes of a range that are read back. A root partition is mostly holes.
const RANGE_MAX: u64 = 64 << 30;
/// Bytes that are read back at a time, and the length of zeros that become a hole.
const CHUNK: usize = 1 << 20;
const HOLE: usize = 64 << 10;

/// A copy in a private folder.
#[derive(Debug)]
pub(crate) struct Copy {
    folder: PathBuf,
    image: PathBuf,
    length: u64,
    worn: bool,
}

impl Copy {
    /// Makes a copy of `image`, `size` bytes long, in `folder`, with each of `runs` at its offset; one that is a card is as
    /// long as cards are, a power of two, and QEMU insists on that.
    ///
    /// # Errors
    /// When the image cannot be read, the copy not be written, or a run reaches over its end.
    pub(crate) fn create<'a>(
        folder: &Path,
        image: &Path,
        size: u64,
        card: bool,
        runs: impl IntoIterator<Item = (u64, &'a [u8])>,
    ) -> Result<Self> {
        let length = size.saturating_add(GROWTH.0);
        let length = if card { length.checked_next_power_of_two().unwrap_or(length) } else { length };
        let copy = Self { folder: folder.to_owned(), image: image.to_owned(), length, worn: false };
        qcow2::create(&folder.join(DISK), (image, "raw"), length, Grain::Cluster, &copy.raw()?, runs)?;
        Ok(copy)
    }

    /// From now on the disk behaves like one with a volatile cache when QEMU is killed.
    ///
    /// # Errors
    /// When the layer cannot be written.
    pub(crate) fn wear(&mut self) -> Result<()> {
        let below = (Path::new(DISK), "qcow2");
        // Pieces of 2 KiB, less than a page of the guest, are had each by itself.
        qcow2::create(&self.folder.join(WORN), below, self.length, Grain::Fine, &self.raw()?, [])?;
        self.worn = true;
        Ok(())
    }

    /// The file that the machine gets.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join(if self.worn { WORN } else { DISK })
    }

    /// Bytes of the disk.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads a range into the file `name` of the private folder and returns its path. The machine must be off.
    ///
    /// # Errors
    /// When a layer cannot be read, or there is no room.
    pub(crate) fn read(&self, name: &str, offset: u64, size: u64) -> Result<PathBuf> {
        let end = offset.checked_add(size).filter(|end| *end <= self.length);
        ensure!(
            size <= RANGE_MAX && end.is_some(),
            "reading the image's copy: {size} bytes at {offset} are too many"
        );
        let path = self.folder.join(name);
        let layers = self.layers()?;
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        file.set_len(size).with_context(|| format!("writing {}", path.display()))?;
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        while done < size {
            let chunk = &mut buffer[..CHUNK.min(usize::try_from(size - done).unwrap_or(CHUNK))];
            layers.fill(chunk, offset + done).context("reading the image's copy")?;
            for (at, piece) in (done..).step_by(HOLE).zip(chunk.chunks(HOLE)) {
                if piece.iter().any(|byte| *byte != 0) {
                    file.write_all_at(piece, at).with_context(|| format!("writing {}", path.display()))?;
                }
            }
            done += chunk.len() as u64;
        }
        Ok(path)
    }

    fn raw(&self) -> Result<Part> {
        let file = File::open(&self.image).with_context(|| format!("opening {}", self.image.display()))?;
        Ok(Part { file, start: 0 })
    }

    fn layers(&self) -> Result<Layer> {
        let disk = Layer::open(&self.folder.join(DISK), Box::new(self.raw()?))?;
        if self.worn { Layer::open(&self.folder.join(WORN), Box::new(disk)) } else { Ok(disk) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Copy, GROWTH};
    use crate::host;

    /// Writes as a machine does and dies as one whose QEMU is killed.
    fn write_and_die(disk: &Path, cache: &str, commands: &[&str]) {
        let mut command = host::command("qemu-io").expect("qemu-utils");
        command.args(["-f", "qcow2", "-t", cache]);
        for text in commands.iter().chain(&["sigraise 9"]) {
            command.args(["-c", text]);
        }
        let output = command.arg(disk).output().expect("qemu-io");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{output:?}");
    }

    #[test]
    fn what_was_not_flushed_is_lost_with_qemu() {
        let folder = tempfile::tempdir().expect("temp dir");
        let image = folder.path().join("an.img");
        std::fs::write(&image, vec![7_u8; 4 << 20]).expect("write");
        let identity = [(8192, &[1_u8; 2048][..])];
        let mut copy = Copy::create(folder.path(), &image, 4 << 20, false, identity).expect("create");
        copy.wear().expect("wear");
        let read = |copy: &Copy, at: u64| {
            let path = copy.read("range", at, 2048).expect("read");
            let bytes = std::fs::read(path).expect("file");
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a piece is torn");
            bytes[0]
        };
        // A place that has the identity, its neighbours, and one far away: flushed, then not.
        write_and_die(
            &copy.disk(),
            "writeback",
            &["write -P 2 8192 2k", "write -P 2 2M 2k", "flush", "write -P 3 10240 2k", "write -P 3 3M 2k"],
        );
        assert_eq!([8192, 2 << 20, 10240, 3 << 20].map(|at| read(&copy, at)), [2, 2, 7, 7]);
        // Without its cache, as a card: nothing is lost.
        write_and_die(&copy.disk(), "writethrough", &["write -P 4 3M 2k"]);
        assert_eq!(read(&copy, 3 << 20), 4);
        host::run(host::command("qemu-img").expect("qemu-utils").args(["check", "-q"]).arg(copy.disk()))
            .expect("no table is damaged");
    }

    #[test]
    fn runs_reach_the_copy_and_not_the_image() {
        let folder = tempfile::Builder::new().prefix("with space,").tempdir().expect("temp dir");
        let image = folder.path().join("an image.img");
        std::fs::write(&image, vec![7_u8; 1 << 20]).expect("write");
        let runs = [(512, &[1_u8; 512][..]), (65536, &[2_u8; 1024][..])];
        let copy = Copy::create(folder.path(), &image, 1 << 20, false, runs).expect("create");
        let read =
            |offset, size| std::fs::read(copy.read("range", offset, size).expect("read")).expect("file");
        assert_eq!(read(0, 1536), [[7_u8; 512], [1; 512], [7; 512]].concat());
        assert_eq!(read(65536, 1536), [[2_u8; 512], [2; 512], [7; 512]].concat());
        assert_eq!(read((1 << 20) + GROWTH.0 - 512, 512), [0; 512]);
        assert!(std::fs::read(&image).expect("read").iter().all(|byte| *byte == 7));
        assert!(copy.read("range", 0, 65 << 30).is_err(), "too much");
        assert!(copy.read("range", copy.length(), 1).is_err(), "behind the end");
        assert!(Copy::create(folder.path(), &image, 1 << 20, true, []).is_err(), "one is there");
        let other = tempfile::tempdir().expect("temp dir");
        let behind = [((1 << 20) + GROWTH.0, &[1_u8; 512][..])];
        assert!(Copy::create(other.path(), &image, 1 << 20, false, behind).is_err(), "behind the end");
        let card = Copy::create(other.path(), &image, 1 << 20, true, []).expect("create");
        assert_eq!(card.length(), 2 << 30);
    }
}
