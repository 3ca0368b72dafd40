//! Block maps (bmap 2.0): which parts of a disk hold anything, with a digest of each.
//!
//! ```text
//! <bmap version="2.0">
//!   ImageSize, BlockSize, BlocksCount, MappedBlocksCount
//!   ChecksumType, BmapFileChecksum        over the file itself, with this digest written as zeros
//!   BlockMap
//!     Range chksum="…"  first-last        blocks, both counted from 0 and both meant; a single block is one number
//! </bmap>
//! ```
//! Source: the format's description in bmaptool's own generated files, and its reader `BmapCopy.py`. Blocks outside the
//! ranges may hold anything; a card's old content stays there.

use std::fmt::Write as _;
use std::ops::Range;

use crate::units::{Digest, Sha256};

/// Bytes of a block: what bmaptool itself writes.
pub const BLOCK: u64 = 4096;
/// Far above any image's map; bounds what a hostile file can make us allocate.
const LARGEST_FILE: usize = 64 << 20;
const LARGEST_BLOCK: u64 = 64 << 20;

/// A block map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bmap {
    /// Bytes of the disk.
    pub image_size: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// The parts that hold something, ascending, none touches the next.
    pub ranges: Vec<Mapped>,
}

/// One part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Blocks, the end not meant.
    pub blocks: Range<u64>,
    /// SHA-256 of its bytes; of the last block only as far as the disk goes. Absent where a foreign map has none.
    pub sha256: Option<Digest>,
}

impl Bmap {
    /// The parts in bytes; the last one ends with the disk.
    pub fn bytes(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|range| {
            let at = |block: u64| (block * self.block_size).min(self.image_size);
            at(range.blocks.start)..at(range.blocks.end)
        })
    }

    /// Bytes of all parts.
    pub fn mapped(&self) -> u64 {
        self.bytes().map(|range| range.end - range.start).sum()
    }

    /// The map as a file: XML that bmaptool reads, with the digest of itself.
    pub fn to_xml(&self) -> String {
        let zeros = "0".repeat(64);
        let text = self.render(&zeros);
        // The placeholder stands before the ranges, and their digests are never all zeros.
        text.replacen(&zeros, &Digest::of(&text).to_string(), 1)
    }

    fn render(&self, checksum: &str) -> String {
        let mapped: u64 = self.ranges.iter().map(|range| range.blocks.end - range.blocks.start).sum();
        let mut text = format!(
            "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> {} </ImageSize>\n    \
             <BlockSize> {} </BlockSize>\n    <BlocksCount> {} </BlocksCount>\n    \
             <MappedBlocksCount> {mapped} </MappedBlocksCount>\n    <ChecksumType> sha256 </ChecksumType>\n    \
             <BmapFileChecksum> {checksum} </BmapFileChecksum>\n    <BlockMap>\n",
            self.image_size,
            self.block_size,
            self.image_size.div_ceil(self.block_size)
        );
        for range in &self.ranges {
            let Range { start, end } = range.blocks;
            let sum = range.sha256.map_or_else(String::new, |sum| format!(" chksum=\"{sum}\""));
            // Writing to a string cannot fail.
            let _ = if start + 1 == end {
                writeln!(text, "        <Range{sum}> {start} </Range>")
            } else {
                writeln!(text, "        <Range{sum}> {start}-{} </Range>", end - 1)
            };
        }
        text + "    </BlockMap>\n</bmap>\n"
    }

    /// Reads a map of version 2.0 with SHA-256, whoever made it.
    ///
    /// # Errors
    /// Says why this text is none that can be used.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LARGEST_FILE {
            return Err("it is too large".into());
        }
        let document = roxmltree::Document::parse(text).map_err(|error| format!("it is no XML: {error}"))?;
        let root = document.root_element();
        let version = root.attribute("version").unwrap_or_default();
        if !root.has_tag_name("bmap") || !version.starts_with("2.") {
            return Err(format!("it is no bmap of version 2.x (it says `{version}`)"));
        }
        let field = |name: &str| {
            let node = root.children().find(|node| node.has_tag_name(name));
            node.and_then(|node| node.text()).map(str::trim).ok_or_else(|| format!("it has no {name}"))
        };
        let number = |name: &str| field(name)?.parse::<u64>().map_err(|_| format!("its {name} is no number"));
        if field("ChecksumType")? != "sha256" {
            return Err("its digests are not SHA-256".into());
        }
        check_itself(text, field("BmapFileChecksum")?)?;
        let (image_size, block_size) = (number("ImageSize")?, number("BlockSize")?);
        if block_size == 0 || block_size > LARGEST_BLOCK {
            return Err(format!("its BlockSize is {block_size}"));
        }
        let map = root.children().find(|node| node.has_tag_name("BlockMap")).ok_or("it has no BlockMap")?;
        let count = image_size.div_ceil(block_size);
        let mut ranges: Vec<Mapped> = Vec::new();
        for node in map.children().filter(|node| node.has_tag_name("Range")) {
            let said = node.text().unwrap_or_default().trim();
            let blocks = blocks(said).ok_or_else(|| format!("its range `{said}` is none"))?;
            let after = ranges.last().map_or(0, |last| last.blocks.end);
            if blocks.start < after || blocks.end > count {
                return Err(format!("its range `{said}` overlaps another or lies behind the disk's end"));
            }
            let sha256 = match node.attribute("chksum") {
                None => None,
                Some(sum) => {
                    Some(digest(sum).ok_or_else(|| format!("the digest of range `{said}` is none"))?)
                }
            };
            ranges.push(Mapped { blocks, sha256 });
        }
        Ok(Self { image_size, block_size, ranges })
    }
}

/// The file's digest is over the file with the digest itself as zeros.
fn check_itself(text: &str, said: &str) -> Result<(), String> {
    let expected = digest(said).ok_or("its BmapFileChecksum is no SHA-256")?;
    let at = text.find(said).ok_or("its BmapFileChecksum cannot be found")?;
    let mut hasher = Sha256::new();
    hasher.update(&text[..at]);
    hasher.update("0".repeat(said.len()));
    hasher.update(&text[at + said.len()..]);
    if hasher.finish() == expected { Ok(()) } else { Err("it is damaged: its digest differs".into()) }
}

fn digest(text: &str) -> Option<Digest> {
    Digest::try_from(text.trim().to_ascii_lowercase()).ok()
}

/// `7` or `7-9`.
fn blocks(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let end = last.checked_add(1)?;
    (first <= last).then_some(first..end)
}

#[cfg(test)]
mod tests {
    use super::{Bmap, Mapped};
    use crate::units::Digest;

    fn map() -> Bmap {
        let range = |blocks, text| Mapped { blocks, sha256: Some(Digest::of(text)) };
        Bmap {
            image_size: 10 * 4096 + 5,
            block_size: 4096,
            ranges: vec![range(0..1, "a"), range(3..11, "b")],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = map().to_xml();
        assert!(text.contains("> 0 </Range>") && text.contains("> 3-10 </Range>"), "{text}");
        assert!(text.contains("<MappedBlocksCount> 9 </MappedBlocksCount>"), "{text}");
        assert_eq!(Bmap::parse(&text), Ok(map()));
        assert_eq!(map().bytes().collect::<Vec<_>>(), [0..4096, 3 * 4096..10 * 4096 + 5]);
        assert_eq!(map().mapped(), 4096 + 7 * 4096 + 5);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = map().to_xml();
        let said = |from: &str, to: &str| Bmap::parse(&good.replacen(from, to, 1)).expect_err(from);
        assert_eq!(said("3-10", "3-11"), "it is damaged: its digest differs");
        assert!(said("<bmap", "<bmaq").starts_with("it is no XML"));
        assert_eq!(said("version=\"2.0", "version=\"1.4"), "it is no bmap of version 2.x (it says `1.4`)");
        assert_eq!(said("sha256", "sha1"), "its digests are not SHA-256");
        // Signed anew, as a hostile file would be.
        let resigned = |change: fn(&mut Bmap)| {
            let mut map = map();
            change(&mut map);
            Bmap::parse(&map.to_xml()).expect_err("wrong")
        };
        assert!(resigned(|map| map.ranges[0].blocks = 4..5).starts_with("its range `3-10` overlaps"));
        assert!(resigned(|map| map.ranges[1].blocks.end = 99).starts_with("its range `3-98` overlaps"));
        assert_eq!(resigned(|map| map.block_size = 1 << 40), format!("its BlockSize is {}", 1_u64 << 40));
    }

    #[test]
    fn no_text_panics() {
        let good = map().to_xml();
        for end in 0..good.len() {
            assert!(end + 1 == good.len() || Bmap::parse(&good[..end]).is_err(), "cut to {end}");
        }
        for text in ["", "<bmap version=\"2.0\"/>", "<bmap version=\"2.0\"><ChecksumType/></bmap>"] {
            assert!(Bmap::parse(text).is_err(), "{text}");
        }
    }
}
