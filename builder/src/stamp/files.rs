//! Files that records name: read with a limit, and remembered where many devices share them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Far above any file of an identity; first boot takes no larger ones.
const LARGEST: u64 = 256 * 1024;
/// Results that are remembered; a fleet in which every device has files of its own would fill the memory.
const REMEMBERED: usize = 64;

/// The bytes of a file.
///
/// # Errors
/// What is wrong, naming the file: it is not there, cannot be read, is empty or too large.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let name = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is not a file")),
    });
    file.and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {name}: {}", plain(&error)))?;
    match bytes.len() as u64 {
        0 => Err(format!("{name} is empty")),
        1..=LARGEST => Ok(bytes),
        _ => Err(format!("{name} has more than {LARGEST} bytes")),
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// The one word or line that a file of a secret holds, without the line's end.
///
/// # Errors
/// As [`read`]; or it holds several lines, or no text. The content is never repeated.
pub(crate) fn read_line(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(read(path)?).map_err(|_| format!("{} is no text", path.display()))?;
    let line = text.trim_start_matches('\u{feff}').trim_end_matches(['\r', '\n']);
    match line.is_empty() || line.chars().any(char::is_control) {
        true => Err(format!("{} does not hold one line of text", path.display())),
        false => Ok(line.to_owned()),
    }
}

/// Can everybody on this machine read the file?
pub(crate) fn is_public(path: &Path) -> bool {
    const OTHERS_READ: u32 = 0o004;
    path.metadata().is_ok_and(|data| data.mode() & OTHERS_READ != 0)
}

/// What came of some files, or of whatever many devices share; cheap to ask again.
pub(crate) struct Memo<K, T>(Mutex<BTreeMap<K, T>>);

impl<K, T> Default for Memo<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, T: Clone> Memo<K, T> {
    /// What `make` makes of this, or made of it before.
    pub(crate) fn get(&self, key: K, make: impl FnOnce() -> T) -> T {
        let locked = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = locked().get(&key) {
            return known.clone();
        }
        let made = make();
        let mut all = locked();
        if all.len() < REMEMBERED {
            all.insert(key, made.clone());
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::{LARGEST, Memo, is_public, read, read_line};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn limits() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("f");
        assert!(read(&path).expect_err("missing").ends_with("it does not exist"));
        assert!(read(folder.path()).is_err());
        for (bytes, good) in [(0, false), (1, true), (LARGEST, true), (LARGEST + 1, false)] {
            std::fs::write(&path, vec![b'x'; bytes as usize]).expect("write");
            assert_eq!(read(&path).is_ok(), good, "{bytes}");
        }
        for (text, line) in
            [("s3cret\r\n", Some("s3cret")), ("a b", Some("a b")), ("a\nb\n", None), ("\n", None)]
        {
            std::fs::write(&path, text).expect("write");
            assert_eq!(read_line(&path).ok().as_deref(), line);
        }
        for (mode, public) in [(0o644, true), (0o640, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            assert_eq!(is_public(&path), public);
        }
    }

    #[test]
    fn a_memo_asks_once_and_does_not_grow() {
        let memo = Memo::default();
        let mut asked = 0;
        for key in (0..200).chain(0..10).chain(190..200) {
            memo.get(key, || asked += 1);
        }
        assert_eq!(asked, 210, "the first ones are remembered, the others made again");
    }
}
