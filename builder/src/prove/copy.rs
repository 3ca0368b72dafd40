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

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::host;
use crate::units::ByteSize;

/// How much longer than the image its copy is, as a card is longer than the image written to it.
pub const GROWTH: ByteSize = ByteSize::mib(1024);

const DISK: &str = "disk.qcow2";
const WORN: &str = "worn.qcow2";

/// Places are had in pieces of 2 KiB, 1/32 of a cluster: less than a page of the guest.
const FINE: &str = "extended_l2=on,cluster_size=64k";

/// Most bytes of a range that are read back. A root partition is mostly holes.
const RANGE_MAX: u64 = 64 << 30;

/// A copy in a private folder.
#[derive(Debug)]
pub struct Copy {
    folder: PathBuf,
    length: u64,
    disk: &'static str,
}

impl Copy {
    /// Makes a copy of `image`, `size` bytes long, in `folder`; one that is a card is as long as cards are, a power of
    /// two, and QEMU insists on that.
    ///
    /// # Errors
    /// When qemu-img is missing or refuses.
    pub fn create(folder: &Path, image: &Path, size: u64, card: bool) -> Result<Self> {
        let length = size.saturating_add(GROWTH.0);
        let length = if card { length.checked_next_power_of_two().unwrap_or(length) } else { length };
        let mut command = host::command("qemu-img")?;
        command.current_dir(folder).args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
        host::run(command.arg(image).args([DISK, &length.to_string()]))?;
        Ok(Self { folder: folder.to_owned(), length, disk: DISK })
    }

    /// From now on the disk behaves like one with a volatile cache when QEMU is killed.
    ///
    /// # Errors
    /// When qemu-img is missing or refuses.
    pub fn wear(&mut self) -> Result<()> {
        let mut command = host::command("qemu-img")?;
        command.current_dir(&self.folder).args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
        host::run(command.args([self.disk, "-o", FINE, WORN, &self.length.to_string()]))?;
        self.disk = WORN;
        Ok(())
    }

    /// The file that the machine gets.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(self.disk)
    }

    /// Bytes of the disk.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Writes each run of bytes at its offset.
    ///
    /// # Errors
    /// When qemu-io is missing or a write fails.
    pub fn write<'a>(&self, runs: impl IntoIterator<Item = (u64, &'a [u8])>) -> Result<()> {
        let mut command = host::command("qemu-io")?;
        // Relative names in a folder of our own: qemu-io splits its commands at spaces.
        command.current_dir(&self.folder).args(["-f", "qcow2"]);
        let mut files = Vec::new();
        for (at, (offset, bytes)) in runs.into_iter().enumerate() {
            let name = format!("run-{at}");
            let path = self.folder.join(&name);
            let mut file =
                fs::File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
            file.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
            command.args(["-c", &format!("write -q -s {name} {offset} {}", bytes.len())]);
            files.push(path);
        }
        let said = host::run(command.arg(self.disk));
        for path in files {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        // Older versions exit with 0 after a command that failed; a quiet write that succeeds says nothing.
        let said = String::from_utf8_lossy(&said?).trim().to_owned();
        ensure!(said.is_empty(), "writing to the image's copy: qemu-io says: {said}");
        Ok(())
    }

    /// Reads a range into the file `name` of the private folder and returns its path. The machine must be off.
    ///
    /// # Errors
    /// When qemu-img is missing or refuses.
    pub fn read(&self, name: &str, offset: u64, size: u64) -> Result<PathBuf> {
        ensure!(size <= RANGE_MAX, "reading the image's copy: {size} bytes at {offset} are too many");
        let source = format!(
            "driver=raw,offset={offset},size={size},file.driver=qcow2,file.file.driver=file,file.file.filename={}",
            self.disk
        );
        let mut command = host::command("qemu-img")?;
        command.current_dir(&self.folder).args(["convert", "--image-opts", &source, "-O", "raw", name]);
        host::run(&mut command)?;
        Ok(self.folder.join(name))
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
        let mut copy = Copy::create(folder.path(), &image, 4 << 20, false).expect("create");
        copy.write([(8192, &[1_u8; 2048][..])]).expect("write");
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
    fn writes_reach_the_copy_and_not_the_image() {
        let folder = tempfile::Builder::new().prefix("with space,").tempdir().expect("temp dir");
        let image = folder.path().join("an image.img");
        std::fs::write(&image, vec![7_u8; 1 << 20]).expect("write");
        let copy = Copy::create(folder.path(), &image, 1 << 20, false).expect("create");
        copy.write([(512, &[1_u8; 512][..]), (65536, &[2_u8; 1024][..])]).expect("write");
        let read =
            |offset, size| std::fs::read(copy.read("range", offset, size).expect("read")).expect("file");
        assert_eq!(read(0, 1536), [[7_u8; 512], [1; 512], [7; 512]].concat());
        assert_eq!(read(65536, 1536), [[2_u8; 512], [2; 512], [7; 512]].concat());
        assert_eq!(read((1 << 20) + GROWTH.0 - 512, 512), [0; 512]);
        assert!(std::fs::read(&image).expect("read").iter().all(|byte| *byte == 7));
        assert!(copy.write([((1 << 20) + GROWTH.0, &[1_u8; 512][..])]).is_err(), "behind the end");
        assert!(copy.read("range", 0, 65 << 30).is_err(), "too much");
        let card = Copy::create(folder.path(), &image, 1 << 20, true).expect("create");
        assert_eq!(card.length(), 2 << 30);
    }
}
