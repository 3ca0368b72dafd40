//! The .deb format: an `ar` archive with two tar archives in it.
//!
//! ```text
//! !<arch>\n
//! debian-binary       "2.0\n"
//! control.tar[.gz|.xz|.zst]              control, maintainer scripts, conffiles, md5sums
//! data.tar[.gz|.xz|.zst|.bz2|.lzma]      the files; the last two are of older and of other tools
//! ```
//! Each member has a 60-byte header (name 16, mtime 12, uid 6, gid 6, mode 8, size 10, `` `\n ``) and is padded to an
//! even length (deb(5), ar(5)).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::bounds::{self, Bounded};
use super::control::Control;
use super::other;
use crate::error::Problem;

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;
/// No control archive is near this size; what a larger one holds beyond it is not there.
const CONTROL_LIMIT: u64 = 32 << 20;
/// What decompressing xz or lzma may take; `xz -9`, the most that dpkg-deb makes, needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// The same for zstd, as the binary logarithm of its window: 128 MiB, which is the library's own limit.
const ZSTD_WINDOW: u32 = 27;
/// The largest control file accepted.
const CONTROL_FILE_LIMIT: u64 = 4 << 20;

/// What the head of a .deb says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deb {
    /// The control file.
    pub control: Control,
    /// The newest time stamp among the archive's members: when the package was built, in seconds since 1970.
    pub built: u64,
}

impl Deb {
    /// Reads a .deb's control data and checks that every member is there to its last byte (not what is in
    /// `data.tar`: that is read when it is unpacked).
    ///
    /// # Errors
    /// Names the file when it cannot be opened, is no .deb, or is cut short.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Self::read_as(path, &path.display().to_string())
    }

    /// As [`Self::read`]; errors about the content call the file `name`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_as(path: &Path, name: &str) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let size = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
        Self::parse(BufReader::new(file), size).map_err(|error| broken(name, &error).into())
    }

    fn parse(mut reader: impl Read + Seek + Send, size: u64) -> io::Result<Self> {
        start(&mut reader)?;
        let mut at = MAGIC.len() as u64;
        let (mut control, mut data, mut built) = (None, false, 0);
        while let Some(member) = Member::read(&mut reader)? {
            let first = at == MAGIC.len() as u64;
            at += HEADER as u64;
            let end = at.checked_add(member.size).filter(|end| *end <= size).ok_or_else(cut_short)?;
            built = built.max(member.mtime);
            if first {
                member.version(&mut reader)?;
            } else {
                member.in_order(control.is_some(), data)?;
            }
            if let Some(compression) = member.tar("control.tar")? {
                control =
                    Some(read_control((&mut reader).take(member.size.min(CONTROL_LIMIT)), compression)?);
            }
            data |= member.tar("data.tar")?.is_some();
            at = end + end % 2;
            reader.seek(SeekFrom::Start(at))?;
        }
        let control = control.ok_or_else(|| invalid("it has no control.tar"))?;
        if data { Ok(Self { control, built }) } else { Err(cut_short()) }
    }
}

/// The decompressed `data.tar` of a .deb, within [`bounds`].
///
/// # Errors
/// When it is no .deb. The reader's: when the file is cut short, or its files are more than it announces.
pub(crate) fn open_data(path: &Path) -> Result<impl Read + Send + use<>> {
    let deb = Deb::read(path)?;
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let most = bounds::most(&deb.control, file.metadata()?.len());
    Ok(Bounded::new(data(BufReader::new(file))?, most))
}

/// The bytes of a .deb's files as a tar archive, which are read and thrown away: for packages from nowhere, that the
/// tree's own dpkg will unpack without asking for how much.
///
/// # Errors
/// As [`open_data`]; errors about the content call the file `name`.
pub(crate) fn measure(path: &Path, name: &str) -> Result<u64> {
    let deb = Deb::read_as(path, name)?;
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let most = bounds::most(&deb.control, file.metadata()?.len());
    let count = || -> io::Result<u64> {
        let data = data(BufReader::new(file))?;
        match io::copy(&mut data.take(most.saturating_add(1)), &mut io::sink())? {
            count if count > most => Err(bounds::too_large(most)),
            count => Ok(count),
        }
    };
    count().map_err(|error| broken(name, &error).into())
}

/// The decompressed `data.tar` of a .deb that is read from its start. Ending early is an error of the reader, never
/// an early end of the stream.
fn data<R: Read + Send + 'static>(mut reader: R) -> io::Result<Box<dyn Read + Send>> {
    start(&mut reader)?;
    while let Some(member) = Member::read(&mut reader)? {
        if let Some(compression) = member.tar("data.tar")? {
            return decompress(Exact { reader, left: member.size }, compression);
        }
        let padded = member.size + member.size % 2;
        if io::copy(&mut (&mut reader).take(padded), &mut io::sink())? < padded {
            return Err(cut_short());
        }
    }
    Err(cut_short())
}

/// The user-facing form of an error of a .deb's reader.
fn broken(name: &str, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            Problem::work(format!("the package {name} is refused: {error}")).hint(bounds::TOO_LARGE_HINT)
        }
        io::ErrorKind::Unsupported => Problem::work(format!("{name} cannot be read: {error}")).hint(REPACK),
        io::ErrorKind::InvalidInput => {
            Problem::work(format!("{name} is no Debian package: {error}")).hint(NO_DEB)
        }
        _ => Problem::work(format!("{name} is not a whole Debian package: {error}"))
            .hint("fetch or build the package again"),
    }
}

/// What to do with another file.
const NO_DEB: &str =
    "name a .deb, as dpkg-deb builds it; where one was to be downloaded, the server sent something else";
/// What to do with a .deb of a form or compression that deb(5) does not know.
const REPACK: &str =
    "pack it anew: dpkg-deb -R FILE.deb folder, then dpkg-deb -Zxz --root-owner-group --build folder";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    Lzma,
}

struct Member {
    name: String,
    mtime: u64,
    size: u64,
}

impl Member {
    /// The next member's header; nothing at the archive's end.
    fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        match fill(reader, &mut header)? {
            0 => return Ok(None),
            // Some tools leave one byte of padding at the end.
            1 if header[0] == b'\n' => return Ok(None),
            HEADER => {}
            _ => return Err(cut_short()),
        }
        if header[58..] != *b"`\n" {
            return Err(invalid("a member's header is damaged"));
        }
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().to_owned();
        let number = |range, what| text(range).parse::<u64>().map_err(|_| invalid(what));
        Ok(Some(Self {
            name: text(0..16).trim_end_matches('/').to_owned(),
            // Written blank by some tools, which means the beginning of time.
            mtime: if text(16..28).is_empty() { 0 } else { number(16..28, "a member's time is no number")? },
            size: number(48..58, "a member's size is no number")?,
        }))
    }

    /// The first member says which form of .deb it is; dpkg takes what begins with `2.`.
    fn version(&self, reader: &mut impl Read) -> io::Result<()> {
        if self.name != "debian-binary" {
            let message = format!("it is an ar archive that begins with {}, not debian-binary", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut text = [0; 8];
        let length = fill(&mut reader.take(self.size), &mut text)?;
        let text = String::from_utf8_lossy(&text[..length]);
        let line = text.lines().next().unwrap_or_default();
        if line.starts_with("2.") {
            return Ok(());
        }
        let message = format!("it has the form {line}, and dpkg takes 2.0");
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    /// dpkg passes over what comes after the files, and before them only names with `_` (deb(5)).
    fn in_order(&self, control: bool, data: bool) -> io::Result<()> {
        let after = if control { "data.tar" } else { "control.tar" };
        if data || self.name.starts_with(after) || self.name.starts_with('_') {
            return Ok(());
        }
        let message = format!("it has a member {} before {after}, and dpkg would not unpack it", self.name);
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    /// The compression of this member, if it is the tar archive `stem`. dpkg takes the older two of files only.
    fn tar(&self, stem: &str) -> io::Result<Option<Compression>> {
        match self.name.strip_prefix(stem) {
            None => Ok(None),
            Some("") => Ok(Some(Compression::None)),
            Some(".gz") => Ok(Some(Compression::Gzip)),
            Some(".xz") => Ok(Some(Compression::Xz)),
            Some(".zst") => Ok(Some(Compression::Zstd)),
            Some(".bz2") if stem == "data.tar" => Ok(Some(Compression::Bzip2)),
            Some(".lzma") if stem == "data.tar" => Ok(Some(Compression::Lzma)),
            Some(_) => {
                let message = format!("deb(5) knows no member {}, and dpkg would not unpack it", self.name);
                Err(io::Error::new(io::ErrorKind::Unsupported, message))
            }
        }
    }
}

fn start(reader: &mut impl Read) -> io::Result<()> {
    let mut magic = [0; 8];
    match fill(reader, &mut magic)? {
        8 if magic == *MAGIC => Ok(()),
        8 => {
            let mut head = [&magic[..], &[0; other::HEAD]].concat();
            let length = 8 + fill(reader, &mut head[8..])?;
            Err(other::refused(&head[..length]))
        }
        _ => Err(cut_short()),
    }
}

fn read_control(reader: impl Read + Send, compression: Compression) -> io::Result<Control> {
    let mut archive = tar::Archive::new(decompress(reader, compression)?.take(CONTROL_LIMIT));
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.path()?.as_os_str().to_string_lossy().trim_start_matches("./") == "control" {
            let mut text = Vec::new();
            entry.take(CONTROL_FILE_LIMIT).read_to_end(&mut text)?;
            let text = String::from_utf8_lossy(&text);
            return Control::parse(&text).map_err(|error| invalid(&format!("in its control file, {error}")));
        }
    }
    Err(invalid("its control.tar has no control file"))
}

fn decompress<'a, R: Read + Send + 'a>(
    reader: R,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(MultiGzDecoder::new(reader)),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(reader, stream))
        }
        Compression::Lzma => Box::new(XzDecoder::new_stream(reader, Stream::new_lzma_decoder(XZ_MEMORY)?)),
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(reader)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(reader)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
    })
}

/// Reads until the buffer is full or the input ends, and returns how much there was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A member's bytes; the input ending before them is an error.
struct Exact<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(cut_short());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short")
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::{Deb, HEADER, data};
    use crate::error::problem;
    use std::io::{Cursor, Read as _, Write as _};

    const CONTROL: &str = "Package: hello\nVersion: 1.0-1\nArchitecture: all\nDescription: greets\n";

    const VERSION: (&str, u64, &[u8]) = ("debian-binary", 0, b"2.0\n");

    const ENDINGS: [&str; 6] = ["", ".gz", ".xz", ".zst", ".bz2", ".lzma"];

    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).expect("appends");
        }
        builder.into_inner().expect("finishes")
    }

    fn compress(ending: &str, bytes: &[u8]) -> Vec<u8> {
        match ending {
            ".gz" => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(bytes).expect("writes");
                writer.finish().expect("finishes")
            }
            ".xz" => {
                let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
                writer.write_all(bytes).expect("writes");
                writer.finish().expect("finishes")
            }
            ".zst" => zstd::encode_all(bytes, 1).expect("compresses"),
            ".bz2" => {
                let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                writer.write_all(bytes).expect("writes");
                writer.finish().expect("finishes")
            }
            ".lzma" => {
                let options = liblzma::stream::LzmaOptions::new_preset(1).expect("preset");
                let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("encoder");
                let mut writer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                writer.write_all(bytes).expect("writes");
                writer.finish().expect("finishes")
            }
            _ => bytes.to_vec(),
        }
    }

    fn ar(members: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, mtime, bytes) in members {
            writeln!(out, "{name:<16}{mtime:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 100_644, bytes.len())
                .expect("writes");
            out.extend_from_slice(bytes);
            out.resize(out.len() + bytes.len() % 2, b'\n');
        }
        out
    }

    fn deb(ending: &str) -> Vec<u8> {
        // The older ways are for files only.
        let control_ending = if matches!(ending, ".bz2" | ".lzma") { ".gz" } else { ending };
        let control = compress(control_ending, &tar(&[("./md5sums", ""), ("./control", CONTROL)]));
        let data = compress(ending, &tar(&[("./usr/bin/hello", "#!/bin/sh\necho hello\n")]));
        ar(&[
            ("debian-binary", 1_700_000_000, b"2.0\n"),
            (&format!("control.tar{control_ending}"), 1_700_000_001, &control),
            (&format!("data.tar{ending}"), 1_700_000_002, &data),
        ])
    }

    fn read(bytes: &[u8]) -> std::io::Result<Deb> {
        Deb::parse(Cursor::new(bytes), bytes.len() as u64)
    }

    fn unpack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        data(Cursor::new(bytes.to_vec()))?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn reads_every_compression() {
        for ending in ENDINGS {
            let bytes = deb(ending);
            let deb = read(&bytes).expect(ending);
            assert_eq!((deb.control.package.as_str(), deb.built), ("hello", 1_700_000_002), "{ending}");
            let mut archive = tar::Archive::new(Cursor::new(unpack(&bytes).expect(ending)));
            let mut text = String::new();
            let mut entry = archive.entries().expect("entries").next().expect("one").expect("reads");
            entry.read_to_string(&mut text).expect("text");
            assert_eq!(text, "#!/bin/sh\necho hello\n", "{ending}");
        }
    }

    #[test]
    fn a_deb_cut_anywhere_is_refused() {
        for ending in ENDINGS {
            let bytes = deb(ending);
            let padding = usize::from(bytes.last() == Some(&b'\n'));
            for length in (0..bytes.len() - 1 - padding).step_by(7) {
                assert!(read(&bytes[..length]).is_err(), "{ending} cut at {length}");
                assert!(unpack(&bytes[..length]).is_err(), "{ending} cut at {length}");
            }
        }
    }

    #[test]
    fn a_damaged_deb_is_an_error_and_never_a_panic() {
        let bytes = deb(".gz");
        for at in 0..HEADER * 3 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x15;
            let _ = (read(&damaged), unpack(&damaged));
        }
        let control = tar(&[("./control", CONTROL)]);
        for (bytes, expected) in [
            (b"not an archive".to_vec(), "it is a text file"),
            (ar(&[VERSION]), "it has no control.tar"),
            (
                ar(&[VERSION, ("control.tar.lz4", 0, b"")]),
                "deb(5) knows no member control.tar.lz4, and dpkg would not unpack it",
            ),
            (ar(&[VERSION, ("control.tar", 0, &tar(&[("./x", "")]))]), "its control.tar has no control file"),
            (ar(&[VERSION, ("control.tar", 0, &control)]), "it is cut short"),
            (ar(&[("debian-binary", 0, b"3.0\n")]), "it has the form 3.0, and dpkg takes 2.0"),
            (ar(&[("lib.o", 0, b"")]), "it is an ar archive that begins with lib.o, not debian-binary"),
            (
                ar(&[VERSION, ("data.tar", 0, b""), ("control.tar", 0, &control)]),
                "it has a member data.tar before control.tar, and dpkg would not unpack it",
            ),
            (
                ar(&[VERSION, ("control.tar", 0, &control), ("more", 0, b""), ("data.tar", 0, b"")]),
                "it has a member more before data.tar, and dpkg would not unpack it",
            ),
        ] {
            assert_eq!(read(&bytes).expect_err(expected).to_string(), expected);
        }
        // What dpkg passes over, and names as GNU's ar ends them.
        let good = [
            ("debian-binary/", 0, &b"2.1\nmore\n"[..]),
            ("_gpgorigin/", 0, b"x"),
            ("control.tar/", 0, &control),
            ("data.tar/", 0, b""),
            ("_gpgbuilder", 0, b""),
            ("more", 0, b""),
        ];
        assert_eq!(read(&ar(&good)).expect("a package").control.package, "hello");
    }

    #[test]
    fn the_error_names_the_file() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), &deb(".xz")[..200]).expect("writes");
        let error = Deb::read(file.path()).expect_err("cut short").to_string();
        assert_eq!(
            error,
            format!("{} is not a whole Debian package: it is cut short", file.path().display())
        );
        std::fs::write(file.path(), b"0.939000\n210\n\x1f\x8b").expect("writes");
        let error = Deb::read(file.path()).expect_err("an old form");
        assert!(format!("{error:#}").contains(" cannot be read: it has the form 0.939000"), "{error:#}");
        let hint = problem(&error).and_then(|problem| problem.hint.as_deref());
        assert!(hint.is_some_and(|hint| hint.contains("dpkg-deb -R")), "{hint:?}");
    }
}
