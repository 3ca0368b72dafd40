//! What people have in place of a disk image, and how each becomes one.
//!
//! A download page, another builder or a colleague gives archives, other machines' virtual disks, file systems without a
//! table, error pages, pointers to large files. Each is known by its first bytes (the formats' own specifications, and
//! file(1)'s collection of them), never by its name.

use super::{qcow2, vhdx, vmdk};

/// A form that is no disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// What it is, with an article.
    pub what: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

/// So many bytes of a file's beginning are looked at: those of btrfs lie farthest from the start.
pub const HEAD: usize = 68 << 10;
/// And so many of its end.
pub const TAIL: usize = 512;

const ARCHIVE: &str = "take the image out of it, and name that";
const VIRTUAL: &str = "make it raw: qemu-img convert -O raw IMAGE IMAGE.img";
const FILE_SYSTEM: &str = "name the image of the whole disk, with its partition table";
const DOWNLOAD: &str = "fetch it again: this is what a server answers in place of a file";
const PROGRAM: &str = "name the image of a whole disk";

/// Place, bytes there, what has them, what to do.
type Magic = (usize, &'static [u8], &'static str, &'static str);

const ARCHIVES: &[Magic] = &[
    (0, b"PK\x03\x04", "a zip archive", "unpack it: unzip -p IMAGE.zip > IMAGE.img"),
    (0, b"PK\x05\x06", "an empty zip archive", DOWNLOAD),
    (0, b"PK\x07\x08", "a part of a zip archive", ARCHIVE),
    (0, b"BZh", "a bzip2 file", "unpack it: bunzip2 --keep IMAGE.bz2"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it: 7z x IMAGE.7z"),
    (0, b"Rar!\x1a\x07", "a rar archive", "unpack it: unrar x IMAGE.rar"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file", "unpack it: lz4 -d IMAGE.lz4 IMAGE.img"),
    (0, b"\x02\x21\x4c\x18", "an lz4 file", "unpack it: lz4 -d IMAGE.lz4 IMAGE.img"),
    (0, b"\x89LZO\0\r\n\x1a\n", "an lzop file", "unpack it: lzop -d IMAGE.lzo"),
    (0, b"LZIP", "an lzip file", "unpack it: lzip -d -k IMAGE.lz"),
    (0, b"\x1f\x9d", "a file of compress", "unpack it: gunzip --keep IMAGE.Z"),
    (0, b"\x1f\xa0", "a file of compress", "unpack it: gunzip --keep IMAGE.Z"),
    (0, b"070701", "a cpio archive", ARCHIVE),
    (0, b"070702", "a cpio archive", ARCHIVE),
    (0, b"070707", "a cpio archive", ARCHIVE),
    (0, b"!<arch>\n", "a package or library (ar)", ARCHIVE),
    (0, b"\xed\xab\xee\xdb", "an rpm package", ARCHIVE),
    (0, b"MSCF", "a cabinet file", ARCHIVE),
    (0, b"MSWIM\0\0\0", "a Windows image (WIM)", PROGRAM),
    (0, b"age-encryption.org/", "an encrypted file (age)", "decrypt it first"),
];

// The first three are formats of the table, which is asked before this; but they lie in compressed files, too.
const VIRTUALS: &[Magic] = &[
    (0, qcow2::MAGIC, "a qcow2", VIRTUAL),
    (0, vhdx::MAGIC, "a VHDX", VIRTUAL),
    (0, vmdk::MAGIC, "a VMDK", VIRTUAL),
    (0, b"conectix", "a VHD that is not of fixed size", VIRTUAL),
    (0, b"cxsparse", "a part of a VHD that is not of fixed size", VIRTUAL),
    (0, b"COWD", "a VMDK", VIRTUAL),
    (0, b"# Disk DescriptorFile", "a VMDK's descriptor, which names other files", VIRTUAL),
    (64, b"\x7f\x10\xda\xbe", "a VDI", VIRTUAL),
    (0, b"QED\0", "a QED", VIRTUAL),
    (0, b"WithoutFreeSpace", "a disk of Parallels", VIRTUAL),
    (0, b"WithouFreSpacExt", "a disk of Parallels", VIRTUAL),
    (0, b"OOOM", "a copy-on-write disk", VIRTUAL),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image", "make it raw: simg2img IMAGE IMAGE.img"),
];

const FILE_SYSTEMS: &[Magic] = &[
    (
        4096,
        b"EFI PART",
        "an image for disks with sectors of 4096 bytes",
        "name the one for sectors of 512 bytes",
    ),
    (0, b"hsqs", "a squashfs alone", FILE_SYSTEM),
    (0, b"XFSB", "an XFS alone", FILE_SYSTEM),
    (0, b"LUKS\xba\xbe", "an encrypted volume alone (LUKS)", FILE_SYSTEM),
    (0, b"UBI#", "a UBI image for flash chips", FILE_SYSTEM),
    (0, b"\x45\x3d\xcd\x28", "a cramfs alone", FILE_SYSTEM),
    (3, b"NTFS    ", "an NTFS alone", FILE_SYSTEM),
    (3, b"EXFAT   ", "an exFAT alone", FILE_SYSTEM),
    (54, b"FAT1", "a FAT file system alone", FILE_SYSTEM),
    (82, b"FAT32", "a FAT file system alone", FILE_SYSTEM),
    (512, b"LABELONE", "a volume of LVM alone", FILE_SYSTEM),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS alone", FILE_SYSTEM),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS alone", FILE_SYSTEM),
    (1080, b"\x53\xef", "an ext file system alone", FILE_SYSTEM),
    (4086, b"SWAPSPACE2", "a swap area", FILE_SYSTEM),
    (65600, b"_BHRfS_M", "a btrfs alone", FILE_SYSTEM),
    (
        32769,
        b"CD001",
        "an image of a CD (ISO 9660) without a partition table",
        "name an image for disks or cards",
    ),
    (32769, b"BEA01", "an image of a DVD (UDF)", "name an image for disks or cards"),
    (0, b"\x7fELF", "a program", PROGRAM),
    (0, b"MZ", "a program for Windows or EFI", PROGRAM),
    (0, b"\x27\x05\x19\x56", "an image for U-Boot", PROGRAM),
    (0, b"UF2\n", "firmware for a microcontroller (UF2)", PROGRAM),
];

/// What these bytes of a file's beginning and end are, if it is known and no disk image.
pub fn known(head: &[u8], tail: &[u8]) -> Option<Foreign> {
    let has = |(at, magic, ..): &&Magic| head.get(*at..).is_some_and(|bytes| bytes.starts_with(magic));
    let all = || ARCHIVES.iter().chain(VIRTUALS).chain(FILE_SYSTEMS);
    let found = all().find(has).map(|(.., what, hint)| Foreign { what, hint });
    found.or_else(|| structured(head, tail)).or_else(|| text(head))
}

/// What has no first bytes of its own.
fn structured(head: &[u8], tail: &[u8]) -> Option<Foreign> {
    let (what, hint) = if is_tar(head) {
        ("a tar archive", "unpack it: tar -xf IMAGE.tar")
    } else if is_lzma(head) {
        ("an lzma file", "unpack it: xz --format=lzma --decompress --keep IMAGE.lzma")
    } else if tail.len() == TAIL && tail.starts_with(b"koly") {
        ("a disk image of macOS (dmg)", "make it raw: qemu-img convert -f dmg -O raw IMAGE.dmg IMAGE.img")
    } else if tail.len() == TAIL && tail.starts_with(b"conectix") {
        ("a VHD that is not of fixed size", VIRTUAL)
    } else {
        return None;
    };
    Some(Foreign { what, hint })
}

/// By the first header's own sum, which old archives have too (POSIX.1-2017, pax, "ustar Interchange Format").
fn is_tar(head: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(header) = head.get(..512).filter(|header| header[0] != 0) else { return false };
    let digits = String::from_utf8_lossy(&header[SUM]);
    let said = u32::from_str_radix(digits.trim_matches([' ', '\0']), 8);
    let byte = |(at, byte): (usize, &u8)| if SUM.contains(&at) { u32::from(b' ') } else { u32::from(*byte) };
    said == Ok(header.iter().enumerate().map(byte).sum())
}

/// The old format of LZMA has no magic: its properties, a dictionary of a usual size, a length or none, and a zero with
/// which the coder begins (xz, `doc/lzma-file-format.txt`).
fn is_lzma(head: &[u8]) -> bool {
    let Some(header) = head.get(..14) else { return false };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (dictionary, length) = (number(&header[1..5]), number(&header[5..13]));
    let usual =
        dictionary >= 4096 && (dictionary.is_power_of_two() || (dictionary / 3 * 2).is_power_of_two());
    header[0] < 225 && usual && (length == u64::MAX || (1..1 << 48).contains(&length)) && header[13] == 0
}

/// Texts: pages, messages of a server, pointers.
fn text(head: &[u8]) -> Option<Foreign> {
    const LOOK: usize = 512;
    const ANNEX: &str = "git annex get IMAGE brings the file itself";
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Some(Foreign { what: "a text file", hint: DOWNLOAD });
    }
    let look = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let look = &look[..look.len().min(LOOK)];
    let printable = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    if look.is_empty() || !look.iter().all(printable) {
        return None;
    }
    // Cut in the middle of a character it is a text all the same; one of another code has few such bytes.
    let odd = String::from_utf8_lossy(look).matches('\u{fffd}').count();
    if odd > look.len() / 8 {
        return None;
    }
    let text = String::from_utf8_lossy(look).trim_start().to_lowercase();
    let (what, hint) = match () {
        () if text.starts_with("version https://git-lfs") => {
            ("a pointer of Git LFS, not the file itself", "git lfs pull brings the file itself")
        }
        () if text.contains("annex/objects/") => ("a pointer of git-annex, not the file itself", ANNEX),
        () if text.contains("<html") || text.contains("<!doctype html") => ("an HTML page", DOWNLOAD),
        () if text.starts_with('<') => ("an XML document", DOWNLOAD),
        () if text.starts_with(['{', '[']) => ("a JSON document", DOWNLOAD),
        () if text.starts_with("-----begin pgp") => ("an encrypted or signed message", "decrypt it first"),
        () => ("a text file", DOWNLOAD),
    };
    Some(Foreign { what, hint })
}

#[cfg(test)]
mod tests {
    use super::{ARCHIVES, FILE_SYSTEMS, HEAD, TAIL, VIRTUALS, known};
    use std::io::Write as _;

    fn what(head: &[u8]) -> Option<&'static str> {
        known(head, &[]).map(|it| it.what)
    }

    #[test]
    fn every_magic_is_found_at_its_place() {
        for (at, magic, expected, hint) in ARCHIVES.iter().chain(VIRTUALS).chain(FILE_SYSTEMS) {
            let mut head = vec![0x80; HEAD];
            head[*at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(known(&head, &[]).map(|it| (it.what, it.hint)), Some((*expected, *hint)));
            assert_ne!(what(&head[..at + magic.len() - 1]), Some(*expected), "cut");
        }
    }

    #[test]
    fn what_has_no_magic() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_old();
        header.set_size(3);
        tar.append_data(&mut header, "disk.img", &b"abc"[..]).expect("tar");
        assert_eq!(what(&tar.into_inner().expect("tar")), Some("a tar archive"));
        let options = liblzma::stream::LzmaOptions::new_preset(1).expect("options");
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("encoder");
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(&[7; 9000]).expect("lzma");
        assert_eq!(what(&lzma.finish().expect("lzma")), Some("an lzma file"));
        for (begin, expected) in
            [(&b"koly"[..], "a disk image of macOS (dmg)"), (b"conectix", "a VHD that is not of fixed size")]
        {
            let mut tail = [0; TAIL];
            tail[..begin.len()].copy_from_slice(begin);
            assert_eq!(known(&[0x80; 600], &tail).map(|it| it.what), Some(expected));
        }
    }

    #[test]
    fn texts() {
        for (text, expected) in [
            ("<!DOCTYPE html><html>404 Not Found", "an HTML page"),
            ("\u{feff}\r\n <HTML>", "an HTML page"),
            ("<?xml version=\"1.0\"?><Error><Code>NoSuchKey", "an XML document"),
            ("{\"message\":\"Not Found\"}", "a JSON document"),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
                "a pointer of Git LFS, not the file itself",
            ),
            ("/annex/objects/SHA256E-s12--ab.img\n", "a pointer of git-annex, not the file itself"),
            ("Zugriff verweigert: Schl\u{fc}ssel fehlt", "a text file"),
        ] {
            assert_eq!(what(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(what(&[&b"\xff\xfe<\0h\0t\0m\0l\0"[..]].concat()), Some("a text file"));
        assert_eq!(what(&[]), None);
        assert_eq!(what(&[0; HEAD]), None);
        assert_eq!(what(&(0..=255).cycle().take(4096).collect::<Vec<u8>>()), None);
    }

    #[test]
    fn no_bytes_panic() {
        let bytes: Vec<u8> = (0_u32..2000).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in 0..bytes.len() {
            known(&bytes[..length], &bytes[..length.min(TAIL)]);
        }
    }
}
