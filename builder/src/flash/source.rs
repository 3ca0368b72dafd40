//! The image that is flashed: which file, what beside it says what it must hold, and its bytes.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::beside::{Beside, text};
use super::chunk::CHUNK;
use super::size;
use crate::error::Problem;
use crate::format::bmap::Bmap;
use crate::format::decode::fill;
use crate::format::unpack::LARGEST;
use crate::format::{Container, Format, Holds, Packing, Way, decode, detect, judge};
use crate::manifest::FILE_NAME;
use crate::units::{Digest, Sha256};

/// Which image.
#[derive(Debug, Clone)]
pub(crate) struct SourceOptions {
    /// The image, or the folder that `edgepress build` made.
    pub image: PathBuf,
    /// Its block map.
    pub bmap: Map,
    /// What the file's digest must be.
    pub sha256: Option<Digest>,
}

/// Which block map.
#[derive(Debug, Clone)]
pub(crate) enum Map {
    /// What lies beside the image, if anything.
    Beside,
    /// This one.
    File(PathBuf),
    /// None: the whole image is written.
    None,
}

/// An image.
#[derive(Debug)]
pub(crate) struct FlashImage {
    /// Its file.
    pub path: PathBuf,
    /// How it lies in it.
    pub container: Container,
    /// Bytes of the disk.
    pub size: u64,
    /// What is written of it.
    pub bmap: Option<Bmap>,
    /// Where the map was found.
    pub bmap_path: Option<PathBuf>,
    /// What the file's digest must be, and who says so.
    pub file_sha256: Option<(Digest, String)>,
    /// What the disk's digest must be, where the manifest says so.
    pub raw_sha256: Option<Digest>,
    /// What is to be said of lists of digests that lie beside it.
    pub notes: Vec<String>,
}

impl FlashImage {
    /// Finds the image, its block map and its digests. Only where nothing says how long the disk is (gzip; Zstandard from
    /// a pipe) it is unpacked for that.
    ///
    /// # Errors
    /// A [`Problem`] when it is none that can be flashed, or what lies beside it contradicts itself.
    pub(crate) fn open(options: &SourceOptions) -> Result<Self> {
        let path = if options.image.is_dir() { preferred(&options.image)? } else { options.image.clone() };
        let file = File::open(&path).map_err(|error| {
            Problem::input(format!("cannot open the image {}: {error}", path.display()))
                .hint("`edgepress build RECIPE` prints the path of the image that it made")
        })?;
        let length = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
        let container = detect(&file, length).with_context(|| format!("reading {}", path.display()))?;
        // What has no order from start to end is refused here, before anything else is looked at.
        decode::stream(io::empty(), container, length, &path)?;
        if length == 0 {
            return Err(Problem::input(format!("the image {} is empty", path.display())).into());
        }
        let beside = Beside::of(&path, options.sha256.is_some())?;
        let file_sha256 = beside.expected(options.sha256, &path)?;
        whole(&path, length, beside.size)?;
        let (bmap, bmap_path) = map(&options.bmap, &path)?.unzip();
        let size = match container.read() {
            Way::Plain(behind) => Some(length.saturating_sub(behind)),
            Way::Packed(Packing::Zst) => size::zst(&file, length).map_err(|why| cut(&path, why))?,
            Way::Packed(Packing::Xz) => size::xz(&file, length).map_err(|why| cut(&path, why))?,
            Way::Packed(Packing::Gz) | Way::Qemu(_) | Way::Never => None,
        };
        let known = size.or(beside.raw_size);
        let said = bmap.as_ref().map(|map| map.image_size);
        if let (Some(size), Some(said), Some(map)) = (known, said, &bmap_path)
            && size != said
        {
            let message = format!(
                "the block map {} is for an image of {said} bytes, and this one has {size}",
                map.display()
            );
            return Err(Problem::input(message)
                .hint("--bmap FILE names another, --no-bmap writes the whole image")
                .into());
        }
        let size = match known.or(said) {
            Some(size) => size,
            None => counted(decode::stream(file, container, length, &path)?, &path)?,
        };
        // A VHD's disk is rounded up to whole MiB, and the manifest has the digest of what it was made from.
        let padded = container == Container::Vhd && beside.raw_size.is_some_and(|raw| raw != size);
        let raw_sha256 = beside.raw_sha256.filter(|_| !padded);
        let source =
            Self { path, container, size, bmap, bmap_path, file_sha256, raw_sha256, notes: beside.notes };
        source.judge()?;
        Ok(source)
    }

    /// Is it a disk that a machine could start from?
    fn judge(&self) -> Result<()> {
        let name = self.path.display().to_string();
        let mut head = vec![0; judge::HEAD.min(usize::try_from(self.size).unwrap_or(usize::MAX))];
        let read = self.read_from(0, &|| true).and_then(|mut stream| Ok(fill(&mut stream, &mut head)?));
        let length = read.map_err(|error| cut(&self.path, &format!("it cannot be read: {error:#}")))?;
        if length < head.len() {
            return Err(cut(&self.path, &format!("it holds only {length} of {} bytes", self.size)).into());
        }
        let end = judge::disk(&head, self.size, &name)?;
        if end > self.size && self.file_sha256.is_none() {
            let message = format!(
                "{name} is cut off: its partitions reach to byte {end}, and it has {} bytes",
                self.size
            );
            let hint = "fetch it again; if it must be so, --sha256 HEX of the file says that it is whole";
            return Err(Problem::input(message).hint(hint).into());
        }
        Ok(())
    }

    /// Its file's name.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What is written of it, in bytes.
    pub(crate) fn mapped(&self) -> Option<Vec<Range<u64>>> {
        self.bmap.as_ref().map(|map| map.bytes().collect())
    }

    /// The disk's bytes from the first on, and a digest of the file that grows with them.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(crate) fn read(&self) -> Result<(Box<dyn Read + Send>, Hashed)> {
        let (file, length) = self.file()?;
        let hashed = Hashed(Arc::new(Mutex::new((file, Sha256::new()))));
        Ok((decode::stream(hashed.clone(), self.container, length, &self.path)?, hashed))
    }

    /// The disk's bytes from `at` on, a place inside it. Up to there it may have to be unpacked, for as long as `going_on`.
    ///
    /// # Errors
    /// When the file cannot be read, or somebody does not want it any more.
    pub(crate) fn read_from(&self, at: u64, going_on: &dyn Fn() -> bool) -> Result<Box<dyn Read + Send>> {
        let (mut file, length) = self.file()?;
        if let Way::Plain(behind) = self.container.read() {
            file.seek(SeekFrom::Start(at))?;
            return decode::stream(file, Container::Raw, length.saturating_sub(behind + at), &self.path);
        }
        let mut stream = decode::stream(file, self.container, length, &self.path)?;
        for start in (0..at).step_by(CHUNK) {
            ensure!(going_on(), "nobody wants it any more");
            io::copy(&mut (&mut stream).take((at - start).min(CHUNK as u64)), &mut io::sink())?;
        }
        Ok(stream)
    }

    fn file(&self) -> Result<(File, u64)> {
        let file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }
}

fn cut(path: &Path, why: &str) -> Problem {
    Problem::input(format!("{} is cut off or damaged: {why}", path.display()))
        .hint("fetch it again, and compare it with its SHA256SUMS")
}

/// Is the file as long as its manifest says?
fn whole(path: &Path, length: u64, said: Option<u64>) -> Result<(), Problem> {
    match said.filter(|said| *said != length) {
        Some(said) => Err(cut(path, &format!("it has {length} bytes, and {FILE_NAME} says {said}"))),
        None => Ok(()),
    }
}

/// How long the disk is, by unpacking it: up to a limit, since a file of few bytes could go on for ever.
fn counted(stream: Box<dyn Read + Send>, path: &Path) -> Result<u64> {
    let size = io::copy(&mut stream.take(LARGEST + 1), &mut io::sink());
    let size = size.map_err(|error| cut(path, &format!("it cannot be unpacked: {error}")))?;
    if size > LARGEST {
        let message = format!("{} does not end: it holds more than {} GiB", path.display(), LARGEST >> 30);
        let hint = "unpack it yourself, and name the raw image";
        return Err(Problem::input(message).hint(hint).into());
    }
    Ok(size)
}

/// A file that is hashed as it is read.
#[derive(Clone)]
pub(crate) struct Hashed(Arc<Mutex<(File, Sha256)>>);

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = inner.0.read(buffer)?;
        inner.1.update(&buffer[..count]);
        Ok(count)
    }
}

impl Hashed {
    /// Reads what no decoder wanted, to the end of the file, and says the digest of all of it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut inner.1).finish())
    }
}

/// As bmaptool looks for it: NAME.bmap, then with the name's endings taken off, one after the other.
fn map(which: &Map, image: &Path) -> Result<Option<(Bmap, PathBuf)>> {
    let path = match which {
        Map::None => return Ok(None),
        Map::File(path) => path.clone(),
        Map::Beside => {
            let mut name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
            loop {
                let path = image.with_file_name(format!("{name}.bmap"));
                if path.is_file() {
                    break path;
                }
                let Some((shorter, _)) = name.rsplit_once('.') else { return Ok(None) };
                name = shorter.to_owned();
            }
        }
    };
    let found =
        text(&path)?.ok_or_else(|| Problem::input(format!("there is no block map {}", path.display())))?;
    let map = Bmap::parse(&found).map_err(|reason| {
        Problem::input(format!("the block map {} cannot be used: {reason}", path.display()))
            .hint("--no-bmap writes the whole image; `bmaptool create` makes a map")
    })?;
    Ok(Some((map, path)))
}

/// The file of a build's folder that is flashed.
fn preferred(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(FILE_NAME);
    let unusable = |why: &str| {
        Problem::input(format!("{} is no folder of a build: {why}", folder.display()))
            .hint("name the image's file itself")
    };
    let manifest = text(&path)?.ok_or_else(|| unusable("it has no manifest.json"))?;
    let manifest: Value = serde_json::from_str(&manifest).map_err(|error| unusable(&error.to_string()))?;
    let outputs = manifest["outputs"].as_array().into_iter().flatten();
    // Only plain file names: a manifest must not point out of its folder.
    let files: Vec<&str> =
        outputs.filter_map(|output| output["file"].as_str()).filter(|file| !file.contains('/')).collect();
    let there = |file: &str| fs::metadata(folder.join(file)).is_ok_and(|data| data.is_file());
    let found = Format::flashed()
        .into_iter()
        .find_map(|form| files.iter().find(|file| form.is_name_of(file) && there(file)));
    // What no card takes is refused with the way to make it raw.
    let disks = || {
        let mut disks = Format::ALL.into_iter().filter(|format| format.form().holds == Holds::Disk);
        disks.find_map(|format| files.iter().find(|file| format.form().is_name_of(file) && there(file)))
    };
    found
        .or_else(disks)
        .map(|file| folder.join(file))
        .ok_or_else(|| unusable("its manifest.json lists no image that is there").into())
}

#[cfg(test)]
mod tests {
    use super::{FlashImage, Map, SourceOptions};
    use crate::disk::ids::Uuid;
    use crate::error::problem;
    use crate::export::vhd;
    use crate::flash::faults::sign;
    use crate::format::bmap::{Bmap, Mapped};
    use crate::units::Digest;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::cell::Cell;
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::path::Path;

    fn options(image: &Path) -> SourceOptions {
        SourceOptions { image: image.to_owned(), bmap: Map::Beside, sha256: None }
    }

    fn refusal(options: &SourceOptions) -> String {
        let error = FlashImage::open(options).expect_err("refused");
        assert!(problem(&error).is_some(), "{error:#}");
        error.to_string()
    }

    /// A disk of so many bytes, with a partition table.
    fn disk(length: usize) -> Vec<u8> {
        let mut disk: Vec<u8> = (0..length).map(|at| (at / 777 % 250 + 1) as u8).collect();
        sign(&mut disk);
        disk
    }

    fn map(size: u64) -> String {
        Bmap { image_size: size, block_size: 4096, ranges: vec![Mapped { blocks: 0..1, sha256: None }] }
            .to_xml()
    }

    #[test]
    fn a_folder_gives_its_best_image_and_what_is_known_of_it() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        let raw = disk(5000);
        let packed = zstd::encode_all(raw.as_slice(), 1).expect("zst");
        fs::write(at("x.img"), &raw).expect("write");
        fs::write(at("x.img.zst"), &packed).expect("write");
        fs::write(at("x.bmap"), map(5000)).expect("write");
        let sum = Digest::of(&packed);
        let manifest = serde_json::json!({ "outputs": [
            { "file": "x.img", "size": 5000, "sha256": Digest::of(&raw) },
            { "file": "../x.img.zst", "size": 1 }, { "file": "x.img.zst", "sha256": sum },
        ]});
        fs::write(at("manifest.json"), manifest.to_string()).expect("write");
        let source = FlashImage::open(&options(folder.path())).expect("opens");
        assert_eq!(source.path, at("x.img.zst"));
        assert_eq!((source.size, source.raw_sha256), (5000, Some(Digest::of(&raw))));
        assert_eq!(source.file_sha256, Some((sum, "manifest.json".into())));
        assert_eq!(source.bmap_path, Some(at("x.bmap")));
        let (mut stream, hashed) = source.read().expect("read");
        let mut found = Vec::new();
        stream.read_to_end(&mut found).expect("read");
        assert!(found == raw && hashed.finish().expect("digest") == sum);
        for path in [at("x.img"), at("x.img.zst")] {
            let source = FlashImage::open(&options(&path)).expect("opens");
            found.clear();
            source.read_from(1000, &|| true).expect("read").read_to_end(&mut found).expect("read");
            assert!(found == raw[1000..]);
        }
        let asked = Cell::new(0);
        let twice = || asked.replace(asked.get() + 1) < 2;
        let packed = FlashImage::open(&options(&at("x.img.zst"))).expect("opens");
        assert!(packed.read_from(4 << 20, &twice).is_err() && asked.get() == 3, "asked for every MiB");
        // A list that says otherwise.
        fs::write(at("SHA256SUMS"), format!("{}  x.img.zst\n", Digest::of("?"))).expect("write");
        assert!(refusal(&options(folder.path())).starts_with("SHA256SUMS and manifest.json give "));
        fs::write(at("SHA256SUMS"), "12  x.img.zst\n").expect("write");
        assert!(refusal(&options(folder.path())).contains("SHA256SUMS: line 1 names "));
        fs::write(at("x.img.zst.bmap"), map(9999)).expect("write");
        fs::remove_file(at("SHA256SUMS")).expect("remove");
        assert!(refusal(&options(folder.path())).contains("is for an image of 9999 bytes"));
        let all = SourceOptions { bmap: Map::None, ..options(folder.path()) };
        assert!(FlashImage::open(&all).expect("opens").bmap.is_none());
    }

    /// What a build makes without `img`: only the outputs themselves say what is in them.
    #[test]
    fn the_disk_is_known_without_a_raw_image() {
        const LENGTH: usize = 3_000_832;
        const SIZE: u64 = LENGTH as u64;
        const PADDED: u64 = SIZE + 512;
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        // Longer than what is looked at before a card is touched.
        let raw = disk(LENGTH);
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&raw).expect("gz");
        // Cut: what the manifest says of the disk spares unpacking it.
        let gz = gz.finish().expect("gz");
        let gz = &gz[..gz.len() - 1];
        fs::write(at("x.img.gz"), gz).expect("write");
        fs::write(at("x.img.zst"), zstd::encode_all(raw.as_slice(), 1).expect("zst")).expect("write");
        fs::write(at("x.bmap"), map(LENGTH as u64)).expect("write");
        let footer = vhd::footer(PADDED, &vhd::Identity { id: Uuid([1; 16]), epoch: 0 });
        fs::write(at("x.vhd"), [&raw[..], &vec![0; PADDED as usize - LENGTH], &footer].concat())
            .expect("write");
        let digest = Digest::of(&raw);
        let known = |raw: &serde_json::Value| {
            let names = ["x.img.zst", "x.img.gz", "x.vhd"];
            let outputs = names.map(|file| serde_json::json!({ "file": file, "raw": raw }));
            let manifest = serde_json::json!({ "outputs": outputs });
            fs::write(at("manifest.json"), manifest.to_string()).expect("write");
            names.map(|name| {
                let source = FlashImage::open(&SourceOptions { bmap: Map::None, ..options(&at(name)) });
                source.ok().map(|source| (source.size, source.raw_sha256))
            })
        };
        let found = known(&serde_json::json!({ "size": LENGTH, "sha256": digest }));
        // The VHD holds a longer disk than that.
        assert_eq!(found, [Some((SIZE, Some(digest))), Some((SIZE, Some(digest))), Some((PADDED, None))]);
        let found = known(&serde_json::json!({ "size": PADDED, "sha256": digest }));
        assert_eq!(found[2], Some((PADDED, Some(digest))));
        for nothing in [serde_json::json!({ "size": LENGTH }), serde_json::json!("?")] {
            assert_eq!(known(&nothing), [Some((SIZE, None)), None, Some((PADDED, None))]);
        }
    }

    #[test]
    fn what_cannot_be_flashed() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("q"), b"QFI\xfb\0\0\0\x03").expect("write");
        assert!(refusal(&options(&at("q"))).contains("is a qcow2"));
        fs::write(at("x"), b"vhdxfile").expect("write");
        assert!(refusal(&options(&at("x"))).contains("is a vhdx"));
        fs::write(at("k"), b"KDMV\x03\0\0\0").expect("write");
        assert!(refusal(&options(&at("k"))).contains("is a vmdk"));
        fs::write(at("e"), b"").expect("write");
        assert!(refusal(&options(&at("e"))).contains("is empty"));
        assert!(refusal(&options(&at("n"))).starts_with("cannot open the image"));
        assert!(refusal(&options(folder.path())).contains("has no manifest.json"));
        fs::write(at("manifest.json"), r#"{ "outputs": [{ "file": "d.qcow2" }] }"#).expect("write");
        assert!(refusal(&options(folder.path())).contains("lists no image that is there"));
        fs::copy(at("q"), at("d.qcow2")).expect("copy");
        assert!(refusal(&options(folder.path())).contains("is a qcow2"));
        fs::write(at("e.bmap"), "<bmap").expect("write");
        fs::write(at("e"), disk(4096)).expect("write");
        assert!(refusal(&options(&at("e"))).contains("e.bmap cannot be used: it is no XML"));
    }

    /// Whatever people have in place of an image: refused before anything is written, and named.
    #[test]
    fn what_is_no_disk() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.img");
        let said = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("write");
            refusal(&options(&path))
        };
        let zst = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).expect("zst");
        let gz = |bytes: &[u8]| {
            let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
            gz.write_all(bytes).expect("gz");
            gz.finish().expect("gz")
        };
        let noise: Vec<u8> = (0..9000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        assert!(
            problem_chain(&options(&path), b"PK\x03\x04\0\0")
                .contains("this is no disk image but a zip archive")
        );
        for (bytes, expected) in [
            (vec![0; 4 << 20], "it is blank"),
            (noise.clone(), "it has no MBR and no GPT"),
            (zst(b"<!DOCTYPE html>"), "holds an HTML page, and no disk"),
            (gz(&[&b"BZh91AY"[..], &noise].concat()), "holds a bzip2 file, and no disk"),
            (gz(b"QFI\xfb\0\0\0\x03"), "holds a qcow2, and no disk"),
            (gz(b"KDMV\x03\0\0\0"), "holds a VMDK, and no disk"),
            (b"\x50\x2a\x4d\x18\x01\0\0\0x".to_vec(), "it holds nothing"),
            (zst(&disk(70_000))[..200].to_vec(), "is cut off or damaged: its structure"),
            (gz(&disk(70_000))[..200].to_vec(), "is cut off or damaged: it cannot be unpacked"),
            (disk(70_000)[..20_000].to_vec(), "is cut off: its partitions reach to byte 69632"),
        ] {
            let said = said(&bytes);
            assert!(said.contains(expected), "{expected}: {said}");
        }
        // Cut, or so made: who knows its digest knows that it is whole.
        let whole = SourceOptions { sha256: Some(Digest::of(&disk(70_000)[..20_000])), ..options(&path) };
        FlashImage::open(&whole).expect("as it must be");
        let manifest = serde_json::json!({ "outputs": [{ "file": "x.img", "size": 70_000 }] });
        fs::write(folder.path().join("manifest.json"), manifest.to_string()).expect("write");
        assert!(refusal(&whole).contains("it has 20000 bytes, and manifest.json says 70000"));
    }

    fn problem_chain(options: &SourceOptions, bytes: &[u8]) -> String {
        fs::write(&options.image, bytes).expect("write");
        format!("{:#}", FlashImage::open(options).expect_err("refused"))
    }
}
