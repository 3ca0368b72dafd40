//! What a layer's tar has besides its files: written down while it is unpacked, so that the engine can make the same tar
//! again for `docker save` and `docker push`.
//!
//! ```text
//! tar          [header][content][padding][header][content]…[zeros]
//! tar-split    {"type":2,"payload":BASE64,"position":0}                          bytes as they are
//!              {"type":1,"name":"etc/hosts","size":12,"payload":CRC,"position":1}  a file's content: taken from the disk
//!              {"type":2,…}
//! ```
//! The format is that of github.com/vbatts/tar-split, tar/storage (entry.go, packer.go) and tar/asm/disassemble.go: one JSON
//! object a line; the checksum is CRC-64 (ISO 3309), big-endian, in Base64.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Component, Path};
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc::{CRC_64_GO_ISO, Crc, Digest as CrcDigest, Table};
use edgepress_base::units::{Digest, Sha256};
use serde::Serialize;

/// Most bytes between two files: a header with its extensions; and zeros after the last.
const MOST_BETWEEN: usize = 4 << 20;
/// Most files of a layer.
const MOST_FILES: usize = 4_000_000;
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);
const WRITING: &str = "writing the list of the layer's headers";

/// A member of the layer's tar.
pub type Entry<'a, R> = tar::Entry<'a, Tape<R>>;

/// What a layer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the tar, the layer's *diff id*.
    pub diff_id: Digest,
    /// Bytes of the files in it, as the engine counts a layer's size.
    pub size: u64,
}

/// One line; the names are tar-split's.
#[derive(Default, Serialize)]
struct Line<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_raw: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Reads the tar once: gives each member to `put`, and writes to `to` what is needed to make the tar again.
///
/// # Errors
/// What `put` says; a tar that is cut or none; two members of one name, which the engine refuses as well; headers larger than
/// any that a file system needs.
pub fn disassemble<R: Read>(
    tar: R,
    to: impl Write,
    mut put: impl FnMut(&mut Entry<'_, R>) -> Result<()>,
) -> Result<Unpacked> {
    let state = Rc::new(RefCell::new(State::default()));
    let mut archive = tar::Archive::new(Tape { inner: tar, state: Rc::clone(&state) });
    let mut lines = Lines { to, position: 0 };
    let mut names = HashSet::new();
    let mut size = 0u64;
    for entry in archive.entries().context("reading the tar")? {
        let mut entry = entry.context("reading the tar")?;
        lines.bytes(&state.borrow_mut().take_raw())?;
        let name = entry.path_bytes().into_owned();
        ensure!(names.insert(key(&name)), "it has two files of the name {}", shown(&name));
        ensure!(names.len() <= MOST_FILES, "it has more than {MOST_FILES} files");
        ensure!(
            !entry.header().entry_type().is_gnu_sparse(),
            "{} is a sparse member, which no engine makes",
            shown(&name)
        );
        let stated = entry.size();
        state.borrow_mut().begin_content();
        put(&mut entry).with_context(|| format!("writing {}", shown(&name)))?;
        io::copy(&mut entry, &mut io::sink()).with_context(|| format!("reading {}", shown(&name)))?;
        drop(entry);
        let (checksum, read) = state.borrow_mut().end_content();
        ensure!(read == stated, "{} is cut short", shown(&name));
        size = size.saturating_add(stated);
        lines.file(&name, stated, checksum)?;
    }
    let mut tape = archive.into_inner();
    io::copy(&mut tape, &mut io::sink()).context("reading the end of the tar")?;
    lines.bytes(&state.borrow_mut().take_raw())?;
    lines.to.flush().context(WRITING)?;
    let diff_id = std::mem::take(&mut state.borrow_mut().hasher).finish();
    Ok(Unpacked { diff_id, size })
}

/// Names that are one file, as tar-split compares them: Go's `filepath.Clean`.
fn key(name: &[u8]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;

    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let clean: std::path::PathBuf = parts.collect();
    clean.as_os_str().as_bytes().to_vec()
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

struct Lines<W> {
    to: W,
    position: u64,
}

impl<W: Write> Lines<W> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.line(Line { r#type: 2, payload: Some(STANDARD.encode(bytes)), ..Line::default() })
    }

    fn file(&mut self, name: &[u8], size: u64, checksum: u64) -> Result<()> {
        let text = std::str::from_utf8(name).ok();
        self.line(Line {
            r#type: 1,
            name: text,
            name_raw: text.is_none().then(|| STANDARD.encode(name)),
            size,
            payload: (size > 0).then(|| STANDARD.encode(checksum.to_be_bytes())),
            position: 0,
        })
    }

    fn line(&mut self, line: Line<'_>) -> Result<()> {
        let line = Line { position: self.position, ..line };
        self.position += 1;
        serde_json::to_writer(&mut self.to, &line).context(WRITING)?;
        self.to.write_all(b"\n").context(WRITING)
    }
}

/// The tar as it is read: its bytes hashed, and those that are no file's content kept.
pub struct Tape<R> {
    inner: R,
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    hasher: Sha256,
    raw: Vec<u8>,
    /// The content that is being read: its checksum so far, and its bytes.
    content: Option<(CrcDigest<'static, u64, Table<16>>, u64)>,
}

impl State {
    fn take_raw(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.raw)
    }

    fn begin_content(&mut self) {
        self.content = Some((CRC.digest(), 0));
    }

    fn end_content(&mut self) -> (u64, u64) {
        self.content.take().map_or((0, 0), |(checksum, count)| (checksum.finalize(), count))
    }

    fn saw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        match &mut self.content {
            Some((checksum, count)) => {
                checksum.update(bytes);
                *count += bytes.len() as u64;
            }
            None if self.raw.len() + bytes.len() > MOST_BETWEEN => {
                let message = format!("it has more than {} MiB between two files", MOST_BETWEEN >> 20);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
            None => self.raw.extend_from_slice(bytes),
        }
        Ok(())
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.state.borrow_mut().saw(&buffer[..count])?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{Cursor, Read as _};

    use anyhow::Result;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use edgepress_base::units::Digest;
    use serde_json::Value;

    use super::{CRC, disassemble};

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *content).expect("append");
        }
        let mut bytes = tar.into_inner().expect("tar");
        // As GNU tar fills up its last record.
        bytes.resize(bytes.len().next_multiple_of(10240), 0);
        bytes
    }

    /// What tar-split's own assembler does with the list and the files.
    fn assemble(list: &[u8], files: &Files) -> Vec<u8> {
        let mut tar = Vec::new();
        for (at, line) in list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
            let line: Value = serde_json::from_slice(line).expect("JSON");
            assert_eq!(line["position"], at);
            let payload = line["payload"].as_str().map(|text| STANDARD.decode(text).expect("base64"));
            match (line["type"].as_u64(), line["size"].as_u64()) {
                (Some(2), None) => tar.extend(payload.expect("bytes")),
                (Some(1), None) => assert_eq!(payload, None),
                (Some(1), Some(size)) => {
                    let content = &files[line["name"].as_str().expect("name")];
                    assert_eq!(content.len() as u64, size);
                    assert_eq!(payload.expect("checksum"), CRC.checksum(content).to_be_bytes());
                    tar.extend(content);
                }
                other => panic!("{other:?}"),
            }
        }
        tar
    }

    type Files = HashMap<String, Vec<u8>>;

    fn split(bytes: &[u8]) -> Result<(Vec<u8>, Files, super::Unpacked)> {
        let (mut list, mut files) = (Vec::new(), HashMap::new());
        let unpacked = disassemble(Cursor::new(bytes.to_vec()), &mut list, |entry| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut content = Vec::new();
            // Only half of some: the rest is read all the same.
            entry.take(if name.contains("half") { 3 } else { u64::MAX }).read_to_end(&mut content)?;
            files.insert(name, content);
            Ok(())
        })?;
        Ok((list, files, unpacked))
    }

    #[test]
    fn a_tar_is_made_again_from_list_and_files() {
        let long = "a/".repeat(90) + "name";
        let bytes = tar(&[("etc/hosts", b"127.0.0.1"), ("empty", b""), (&long, &[7; 3000]), ("ü", b"x")]);
        let (list, files, unpacked) = split(&bytes).expect("split");
        assert!(assemble(&list, &files) == bytes);
        assert_eq!(unpacked.diff_id, Digest::of(&bytes));
        assert_eq!(unpacked.size, 9 + 3000 + 1);
    }

    #[test]
    fn what_nobody_reads_counts_too() {
        let bytes = tar(&[("half", b"0123456789"), ("next", b"n")]);
        let (list, mut files, unpacked) = split(&bytes).expect("split");
        assert_eq!(files["half"], b"012");
        files.insert("half".into(), b"0123456789".to_vec());
        assert!(assemble(&list, &files) == bytes);
        assert_eq!(unpacked.diff_id, Digest::of(&bytes));
    }

    #[test]
    fn bad_tars_are_refused() {
        let good = tar(&[("a", &[1; 700]), ("b", b"x")]);
        for cut in [100, 600, 1400] {
            split(&good[..cut]).expect_err("cut");
        }
        let error = |bytes: &[u8]| format!("{:#}", split(bytes).expect_err("refused"));
        assert!(error(&tar(&[("a/b", b"1"), ("a//b", b"2")])).contains("two files of the name a/b"));
        let mut endless = good.clone();
        endless.resize(endless.len() + (5 << 20), 0);
        assert!(error(&endless).contains("more than 4 MiB between two files"));
        for at in (0..good.len()).step_by(37) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x55;
            // Whatever it is now: no panic, and the digest is that of these bytes.
            if let Ok((_, _, unpacked)) = split(&bytes) {
                assert_eq!(unpacked.diff_id, Digest::of(&bytes));
            }
        }
    }
}
