use super::{Files, MAX_EXTENSIONS};
use std::io::Read as _;
use std::path::PathBuf;
use tar::{Builder, EntryType, Header};

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

/// Members: kind, name, and content or target.
fn archive(members: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content) in members {
        let mut header = header(*kind, 0);
        // As a hostile packer writes it: set_path refuses what leads out.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if kind.is_symlink() || kind.is_hard_link() {
            header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
            header.set_cksum();
            builder.append(&header, &b""[..]).expect("appends");
        } else {
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).expect("appends");
        }
    }
    builder.into_inner().expect("ends")
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("image.tar");
        std::fs::write(&path, bytes).expect("writes");
        path
    }

    fn open(&self, bytes: &[u8]) -> anyhow::Result<Files> {
        Files::open(&self.file(bytes))
    }
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn names_lead_to_content_in_any_order() {
    let folder = Folder::new();
    let long = format!("{}/layer.tar", "d/".repeat(100));
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header(FILE, 4), &long, &b"long"[..]).expect("appends");
    let mut bytes = archive(&[
        (EntryType::Symlink, "b/layer.tar", "../a/layer.tar"),
        (EntryType::Link, "c", "b/layer.tar"),
        (EntryType::Directory, "a/", ""),
        (EntryType::Char, "null", ""),
        (FILE, "./a/layer.tar", "content"),
    ]);
    // Without the two empty blocks at its end it goes on.
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(builder.into_inner().expect("ends"));
    let files = folder.open(&bytes).expect("opens");
    for name in ["a/layer.tar", "./a//layer.tar", "b/layer.tar", "c"] {
        assert_eq!(files.read(name, 10).expect(name).as_deref(), Some(&b"content"[..]), "{name}");
    }
    assert_eq!(files.read(&long, 10).expect("reads").as_deref(), Some(&b"long"[..]));
    assert!(files.read("null", 10).expect("none").is_none() && files.file("a").expect("none").is_none());
    assert!(
        files.read("a/layer.tar", 6).expect_err("large").to_string().contains("7 bytes, and 6 is the most")
    );
    // Two readers do not disturb each other.
    let (mut one, _) = files.file("c").expect("opens").expect("there");
    let (mut two, _) = files.file("c").expect("opens").expect("there");
    let (mut first, mut all) = ([0; 3], String::new());
    one.read_exact(&mut first).expect("reads");
    two.read_to_string(&mut all).expect("reads");
    assert_eq!((&first, all.as_str()), (b"con", "content"));
}

#[test]
fn what_leads_out_is_refused() {
    let folder = Folder::new();
    for (members, what) in [
        (vec![(FILE, "../x", "")], "outside of it"),
        (vec![(FILE, "/etc/passwd", "")], "outside of it"),
        (vec![(FILE, "a/../../x", "")], "outside of it"),
        (vec![(EntryType::Symlink, "a/b", "/etc/passwd")], "leads out"),
        (vec![(EntryType::Symlink, "a/b", "../../x")], "leads out"),
        (vec![(EntryType::Link, "a", "../x")], "leads out"),
        (vec![(FILE, "a", "1"), (FILE, "./a", "2")], "in it twice"),
        (vec![(EntryType::Directory, "a", "")], "has no files"),
        (vec![], "has no files"),
    ] {
        let error = folder.open(&archive(&members)).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    }
    let circle = archive(&[(EntryType::Symlink, "a", "b"), (EntryType::Symlink, "b", "a")]);
    let files = folder.open(&circle).expect("opens");
    assert!(files.file("a").expect_err("a circle").to_string().contains("leads nowhere"));
    assert!(files.file("../a").expect_err("out").to_string().contains("not in it"));
    std::os::unix::fs::symlink("/etc/hostname", folder.0.path().join("out")).expect("a link");
    let layout = Files::open(folder.0.path()).expect("a folder");
    assert!(layout.read("out", 4096).ok().flatten().is_none(), "a link out of a folder");
}

#[test]
fn packed_damaged_and_endless_archives() {
    let folder = Folder::new();
    for (bytes, hint) in [
        (&[0x1f, 0x8b, 8, 0][..], "gunzip --keep"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0], "unzstd"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"BZh9", "bunzip2"),
    ] {
        let error = folder.open(bytes).expect_err(hint);
        let problem = crate::error::problem(&error).expect("a problem");
        assert!(problem.hint.as_ref().expect("a hint").contains(hint), "{problem:?}");
    }
    let whole = archive(&[(FILE, "a", &"x".repeat(700)), (FILE, "b", "y")]);
    for at in 0..whole.len() {
        if let Ok(files) = folder.open(&whole[..at]) {
            // What was cut off is not there; what is there is whole.
            let a = files.read("a", 1000).expect("reads");
            assert!(a.is_none_or(|bytes| bytes.len() == 700), "cut at {at}");
        }
    }
    for at in 0..1024 {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        let _ = folder.open(&changed);
    }
    let huge = |kind: EntryType, size: u64| {
        let mut header = header(kind, size);
        header.as_mut_bytes()[0] = b'a';
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([b'x'; 2048]);
        bytes
    };
    for kind in [FILE, EntryType::GNULongName, EntryType::XHeader, EntryType::GNUSparse] {
        for size in [1 << 40, u64::MAX, u64::MAX - 511] {
            assert!(folder.open(&huge(kind, size)).is_err(), "{kind:?} of {size}");
        }
    }
}

#[test]
fn names_and_extensions_take_no_memory_that_others_decide() {
    let folder = Folder::new();
    let long = "n".repeat(5000);
    for (kind, content, what) in [
        (EntryType::GNULongName, long.clone(), "too long"),
        (EntryType::GNULongLink, long, "too long"),
        (EntryType::XHeader, "x".repeat(MAX_EXTENSIONS as usize + 1), "what precedes a member"),
        (EntryType::XHeader, "20 size=99999999999\n".to_owned(), "more than 8 GiB"),
        (EntryType::XHeader, "22 GNU.sparse.major=1\n".to_owned(), "has holes"),
        (EntryType::XHeader, "12 path=../x\n".to_owned(), ""),
    ] {
        let bytes = archive(&[(kind, "x", &content), (FILE, "a", "1")]);
        let error = folder.open(&bytes).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    }
    let bytes = archive(&[(EntryType::XHeader, "x", "15 path=named\n\n"), (FILE, "a", "1")]);
    let _ = folder.open(&bytes);
    let bytes = archive(&[(EntryType::XHeader, "x", "14 path=named\n"), (FILE, "a", "1")]);
    assert!(folder.open(&bytes).expect("opens").file("named").expect("looks").is_some());
}
