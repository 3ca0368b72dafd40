//! Files of this machine that are there whole, or as they were before.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes a file whole or not at all, with this mode as far as the umask lets it; one that is there is replaced.
///
/// It is made beside its place under a hidden name, brought to the disk, and renamed; then the folder is brought to the
/// disk, too. After a power cut there is the old file or the new one.
///
/// # Errors
/// When the folder cannot be written; the old file is then still there.
pub fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().context("a file has a name").with_context(writing)?.to_string_lossy();
    let mut file = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .with_context(writing)?;
    file.write_all(content).with_context(writing)?;
    file.as_file().sync_all().with_context(writing)?;
    file.persist(path).with_context(writing)?;
    // Some file systems do not sync folders: the name is then as safe as it can be.
    File::open(folder).and_then(|folder| folder.sync_all()).ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn whole_or_as_before() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("report.json");
        write(&path, 0o644, b"one").expect("new");
        write(&path, 0o600, b"two").expect("over the old one");
        assert_eq!(fs::read(&path).expect("file"), b"two");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1);
        // What cannot be replaced stays, and nothing is left beside it.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).expect("folder");
        assert!(write(&taken, 0o644, b"three").is_err_and(|error| format!("{error:#}").contains("taken")));
        assert!(taken.is_dir());
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 2);
    }
}
