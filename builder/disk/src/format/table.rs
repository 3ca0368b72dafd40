//! The table of all formats: what a build makes, what a verb reads, and how. Whoever adds a format adds a row.

use std::fmt;
use std::fs::File;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{VHD_COOKIE, VHD_FOOTER, qcow2, vhdx, vmdk};
use crate::disk::ids::Uuid;

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// A sparse raw disk image.
    #[serde(rename = "img")]
    Img,
    /// The raw image as Zstandard, in frames that can be read singly.
    #[serde(rename = "img.zst")]
    ImgZst,
    /// The raw image as xz: smallest, slowest.
    #[serde(rename = "img.xz")]
    ImgXz,
    /// The raw image as gzip.
    #[serde(rename = "img.gz")]
    ImgGz,
    /// A block map: which parts of the disk a writer needs to write.
    #[serde(rename = "bmap")]
    Bmap,
    /// A fixed VHD, as Azure takes it.
    #[serde(rename = "vhd")]
    Vhd,
    /// QEMU's qcow2.
    #[serde(rename = "qcow2")]
    Qcow2,
    /// A dynamic VHDX, for Hyper-V and Azure Local.
    #[serde(rename = "vhdx")]
    Vhdx,
    /// A stream-optimised VMDK, for ESXi and OVF.
    #[serde(rename = "vmdk")]
    Vmdk,
    /// The root file system's files as a tar, compressed with Zstandard.
    #[serde(rename = "tar.zst")]
    TarZst,
}

/// How an image lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// The disk's bytes and nothing else.
    Raw = Format::Img as isize,
    /// Zstandard (RFC 8878), any number of frames.
    Zst = Format::ImgZst as isize,
    /// xz.
    Xz = Format::ImgXz as isize,
    /// gzip (RFC 1952), any number of members.
    Gz = Format::ImgGz as isize,
    /// A fixed VHD: the disk's bytes, then a footer.
    Vhd = Format::Vhd as isize,
    /// QEMU's qcow2.
    Qcow2 = Format::Qcow2 as isize,
    /// Hyper-V's VHDX.
    Vhdx = Format::Vhdx as isize,
    /// VMware's VMDK, in one file.
    Vmdk = Format::Vmdk as isize,
}

/// What is known of a format.
#[derive(Debug)]
pub struct Form {
    /// The format.
    pub format: Format,
    /// As the recipe has it, and the ending of its file.
    pub name: &'static str,
    /// What the file holds.
    pub holds: Holds,
    /// The disk's container, and its name in reports; none where there is no disk in it.
    pub container: Option<(Container, &'static str)>,
    /// Who makes it.
    pub made: Made,
    /// How a file of it is known.
    pub known: Known,
    /// How the disk comes out.
    pub read: Way,
    /// Which of a folder's files `inspect`, `test` and `stamp` open: the lowest, which is what is there fastest.
    pub opened: Option<u8>,
    /// Which of a folder's files `flash` takes: the lowest, which is read fastest and checked best.
    pub flashed: Option<u8>,
    /// Can a block map be used with it?
    pub mapped: bool,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// The disk, in whatever container.
    Disk,
    /// Which parts of the disk hold anything.
    Map,
    /// The root file system's files.
    Tree,
}

/// Who makes a file of the raw image.
#[derive(Debug, Clone, Copy)]
pub enum Made {
    /// Nobody: it is the raw image.
    Itself,
    /// One that takes its chunks from the one pass.
    Pass(Packing),
    /// What the pass has of digests is put into a file.
    Map,
    /// The raw image or a copy of it gets a footer.
    Footer,
    /// qemu-img, beside the pass.
    Qemu(&'static Qemu),
    /// The root tree is packed, without the disk.
    Tree,
}

/// A compressor of the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Zstandard in frames.
    Zst,
    /// xz in blocks.
    Xz,
    /// gzip in one member.
    Gz,
}

/// How a file is known: by what it holds, never by its name.
#[derive(Debug, Clone, Copy)]
pub enum Known {
    /// By how it begins.
    Head(fn(&[u8]) -> bool),
    /// By its last 512 bytes.
    Tail(fn(&[u8]) -> bool),
    /// A disk is what is nothing else.
    Else,
    /// No verb reads it as an image.
    Never,
}

/// How the disk's bytes come out.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// They lie there as they are, and so many others behind them.
    Plain(u64),
    /// From the first to the last, through a decoder.
    Packed(Packing),
    /// In no order: qemu-img makes a raw file of it.
    Qemu(&'static Qemu),
    /// There is none.
    Never,
}

/// A format that qemu-img writes and reads.
#[derive(Debug)]
pub struct Qemu {
    /// Its name there (`-f`, `-O`).
    pub driver: &'static str,
    /// What its writer is told (`-o`).
    pub options: &'static str,
    /// Puts what follows from the image's id in place of what qemu-img draws by lot.
    pub settle: fn(&File, Uuid) -> Result<()>,
    /// How long the disk is in a file of so many bytes: before qemu-img sees it, which may come from anybody, and why it
    /// shall not see it.
    pub look: fn(&File, u64) -> Result<u64, &'static str>,
}

/// One row for each format, in the order of [`Format`].
static TABLE: [Form; Format::ALL.len()] = [
    Form {
        format: Format::Img,
        name: "img",
        holds: Holds::Disk,
        container: Some((Container::Raw, "raw")),
        made: Made::Itself,
        known: Known::Else,
        read: Way::Plain(0),
        opened: Some(0),
        flashed: Some(1),
        mapped: true,
    },
    Form {
        format: Format::ImgZst,
        name: "img.zst",
        holds: Holds::Disk,
        container: Some((Container::Zst, "zst")),
        made: Made::Pass(Packing::Zst),
        known: Known::Head(is_zst),
        read: Way::Packed(Packing::Zst),
        opened: Some(2),
        flashed: Some(0),
        mapped: true,
    },
    Form {
        format: Format::ImgXz,
        name: "img.xz",
        holds: Holds::Disk,
        container: Some((Container::Xz, "xz")),
        made: Made::Pass(Packing::Xz),
        known: Known::Head(|head| head.starts_with(b"\xfd7zXZ\0")),
        read: Way::Packed(Packing::Xz),
        opened: Some(4),
        flashed: Some(2),
        mapped: true,
    },
    Form {
        format: Format::ImgGz,
        name: "img.gz",
        holds: Holds::Disk,
        container: Some((Container::Gz, "gz")),
        made: Made::Pass(Packing::Gz),
        known: Known::Head(|head| head.starts_with(&[0x1f, 0x8b, 8])),
        read: Way::Packed(Packing::Gz),
        opened: Some(3),
        flashed: Some(3),
        mapped: true,
    },
    Form {
        format: Format::Bmap,
        name: "bmap",
        holds: Holds::Map,
        container: None,
        made: Made::Map,
        known: Known::Never,
        read: Way::Never,
        opened: None,
        flashed: None,
        mapped: false,
    },
    Form {
        format: Format::Vhd,
        name: "vhd",
        holds: Holds::Disk,
        container: Some((Container::Vhd, "vhd")),
        made: Made::Footer,
        known: Known::Tail(is_fixed_vhd),
        read: Way::Plain(VHD_FOOTER),
        opened: Some(1),
        flashed: Some(4),
        mapped: true,
    },
    Form {
        format: Format::Qcow2,
        name: "qcow2",
        holds: Holds::Disk,
        container: Some((Container::Qcow2, "qcow2")),
        made: Made::Qemu(&qcow2::QEMU),
        known: Known::Head(|head| head.starts_with(qcow2::MAGIC)),
        read: Way::Qemu(&qcow2::QEMU),
        opened: Some(5),
        flashed: None,
        mapped: false,
    },
    Form {
        format: Format::Vhdx,
        name: "vhdx",
        holds: Holds::Disk,
        container: Some((Container::Vhdx, "vhdx")),
        made: Made::Qemu(&vhdx::QEMU),
        known: Known::Head(|head| head.starts_with(vhdx::MAGIC)),
        read: Way::Qemu(&vhdx::QEMU),
        opened: Some(6),
        flashed: None,
        mapped: false,
    },
    Form {
        format: Format::Vmdk,
        name: "vmdk",
        holds: Holds::Disk,
        container: Some((Container::Vmdk, "vmdk")),
        made: Made::Qemu(&vmdk::QEMU),
        known: Known::Head(|head| head.starts_with(vmdk::MAGIC)),
        read: Way::Qemu(&vmdk::QEMU),
        opened: Some(7),
        flashed: None,
        mapped: false,
    },
    Form {
        format: Format::TarZst,
        name: "tar.zst",
        holds: Holds::Tree,
        container: None,
        made: Made::Tree,
        known: Known::Never,
        read: Way::Never,
        opened: None,
        flashed: None,
        mapped: false,
    },
];

/// First bytes of a frame, or of one to be skipped: sixteen begin those (RFC 8878, 3.1.2); pzstd's files have one first.
fn is_zst(head: &[u8]) -> bool {
    let skippable = head.len() > 4 && (0x50..0x60).contains(&head[0]) && head[1..4] == [0x2a, 0x4d, 0x18];
    head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable
}

/// Where the footer has the disk's kind, and the number of a fixed one ("Virtual Hard Disk Image Format Specification").
fn is_fixed_vhd(tail: &[u8]) -> bool {
    tail.starts_with(VHD_COOKIE) && tail.get(0x3c..0x40) == Some(&[0, 0, 0, 2])
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Img,
        Self::ImgZst,
        Self::ImgXz,
        Self::ImgGz,
        Self::Bmap,
        Self::Vhd,
        Self::Qcow2,
        Self::Vhdx,
        Self::Vmdk,
        Self::TarZst,
    ];

    /// Its row.
    pub fn form(self) -> &'static Form {
        &TABLE[self as usize]
    }

    /// Those that `inspect`, `test` and `stamp` open, the first choice first.
    pub fn opened() -> Vec<&'static Form> {
        ranked(|form| form.opened)
    }

    /// Those that `flash` takes, the first choice first.
    pub fn flashed() -> Vec<&'static Form> {
        ranked(|form| form.flashed)
    }
}

fn ranked(rank: impl Fn(&Form) -> Option<u8>) -> Vec<&'static Form> {
    let mut forms: Vec<_> = TABLE.iter().filter_map(|form| Some((rank(form)?, form))).collect();
    forms.sort_by_key(|(rank, _)| *rank);
    forms.into_iter().map(|(_, form)| form).collect()
}

impl Form {
    /// Every row.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        TABLE.iter()
    }

    /// Is the file with this name one of these, by its ending?
    pub fn is_name_of(&self, file: &str) -> bool {
        self.stem(file).is_some()
    }

    /// A file's name without the ending.
    pub fn stem<'a>(&self, file: &'a str) -> Option<&'a str> {
        file.strip_suffix(self.name)?.strip_suffix('.')
    }
}

impl Container {
    /// The row of the format that has it.
    pub fn form(self) -> &'static Form {
        &TABLE[self as usize]
    }

    /// How the disk comes out of it.
    pub fn read(self) -> Way {
        self.form().read
    }

    /// Does the disk lie in the file as it is, from its start?
    pub fn is_plain(self) -> bool {
        matches!(self.read(), Way::Plain(_))
    }

    /// Names of all, as a sentence has them: `raw, zst and xz`.
    pub fn names() -> String {
        listed(Form::all().filter_map(|form| form.container).map(|(_, name)| name.to_owned()), "and")
    }
}

/// `a, b and c`.
pub fn listed(names: impl Iterator<Item = String>, last: &str) -> String {
    let names: Vec<_> = names.collect();
    match names.split_last() {
        Some((end, rest)) if !rest.is_empty() => format!("{} {last} {end}", rest.join(", ")),
        _ => names.concat(),
    }
}

impl fmt::Display for Format {
    /// As the recipe has it, and the ending of its file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form().name)
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form().container.map_or(self.form().name, |(_, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::{Container, Form, Format, Holds, Known, Made, Way};
    use std::collections::BTreeSet;

    #[test]
    fn the_rows_are_those_of_the_enums() {
        for (form, format) in Form::all().zip(Format::ALL) {
            assert_eq!(form.format, format);
            assert_eq!(serde_json::to_value(format).expect("plain"), form.name);
            assert_eq!(format.to_string(), form.name);
            if let Some((container, name)) = form.container {
                assert_eq!(container.form().format, format);
                assert_eq!(serde_json::to_value(container).expect("plain"), name);
                assert_eq!(container.to_string(), name);
            }
        }
        assert!(Container::names().starts_with("raw, zst, xz, "));
    }

    /// What one column says follows for others.
    #[test]
    fn rows_do_not_contradict_themselves() {
        for form in Form::all() {
            let disk = form.holds == Holds::Disk;
            assert_eq!(form.container.is_some(), disk, "{}", form.name);
            assert_eq!(form.opened.is_some(), disk, "{}", form.name);
            assert_eq!(matches!(form.read, Way::Never), !disk, "{}", form.name);
            assert_eq!(matches!(form.known, Known::Never), !disk, "{}", form.name);
            // flash reads from start to end, and a map helps nobody else.
            let streams = matches!(form.read, Way::Plain(_) | Way::Packed(_));
            assert_eq!((form.flashed.is_some(), form.mapped), (streams, streams), "{}", form.name);
            let qemu = matches!(form.made, Made::Qemu(_));
            assert_eq!(qemu, matches!(form.read, Way::Qemu(_)), "{}", form.name);
        }
    }

    #[test]
    fn what_is_taken_first() {
        let names = |forms: Vec<&'static Form>| forms.iter().map(|form| form.name).collect::<Vec<_>>();
        assert_eq!(names(Format::opened())[..6], ["img", "vhd", "img.zst", "img.gz", "img.xz", "qcow2"]);
        assert_eq!(names(Format::flashed()), ["img.zst", "img", "img.xz", "img.gz", "vhd"]);
        for rank in [|form: &Form| form.opened, |form: &Form| form.flashed] {
            let ranks: Vec<_> = Form::all().filter_map(rank).collect();
            assert_eq!(ranks.iter().collect::<BTreeSet<_>>().len(), ranks.len(), "two have one rank");
        }
    }

    #[test]
    fn endings() {
        let stem = |format: Format, file| format.form().stem(file);
        assert_eq!(stem(Format::ImgZst, "a.b.img.zst"), Some("a.b"));
        assert_eq!(stem(Format::Img, "a.img.zst"), None);
        assert_eq!(stem(Format::Img, "aimg"), None);
        assert_eq!(stem(Format::Vhd, "a.vhdx"), None);
    }
}
