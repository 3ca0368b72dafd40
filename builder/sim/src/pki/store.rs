//! The folder that the authorities are kept in.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{
    Authorities, Authority, BOOTSTRAP, GROUP, GROUP_ROOT, Made, Pki, ROOT, SERVER, certificate,
    make_authority, read_authority,
};
use crate::exchange::hex;
use crate::tls::random;
use edgepress_base::error::Problem;
use edgepress_base::files;

/// The EST user's password and the company's server's token, each a file.
const EST_PASSWORD: &str = "est-password";
const FILES_TOKEN: &str = "files-token";

type Files = Vec<(PathBuf, Vec<u8>)>;

/// See [`Pki::open_or_create`].
pub(super) fn open_or_create(dir: &Path) -> Result<Pki> {
    let empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    if empty {
        create(dir)?;
    }
    open(dir)
}

fn create(dir: &Path) -> Result<()> {
    let root = make_authority(ROOT, None)?;
    let server = make_authority(SERVER, Some(&root))?;
    let group_root = make_authority(GROUP_ROOT, None)?;
    let group = make_authority(GROUP, Some(&group_root))?;
    let mut files = Vec::new();
    for (name, made) in [(ROOT, &root), (SERVER, &server), (GROUP_ROOT, &group_root), (GROUP, &group)] {
        files.extend(files_of(name, made));
    }
    files.extend(later(dir)?);
    match write_folder(dir, &files, secret) {
        // Another process was faster: its authorities are as good.
        Err(_) if dir.join("root.pem").exists() => Ok(()),
        result => result,
    }
}

fn files_of(name: &str, made: &Made) -> Files {
    let file = |ending: &str, text: String| (PathBuf::from(format!("{name}.{ending}")), text.into_bytes());
    // The key first: a certificate that is there has its key.
    vec![file("key", made.key().serialize_pem()), file("pem", made.pem())]
}

/// Whether a file of the folder is to have mode 0600.
fn secret(path: &Path) -> bool {
    path.extension().is_none_or(|ending| ending == "key")
}

/// What folders of the first version lack, as far as it is not in `dir`.
fn later(dir: &Path) -> Result<Files> {
    let mut files = Files::new();
    if !dir.join(format!("{BOOTSTRAP}.pem")).exists() {
        files.extend(files_of(BOOTSTRAP, &make_authority(BOOTSTRAP, None)?));
    }
    for name in [EST_PASSWORD, FILES_TOKEN] {
        if !dir.join(name).exists() {
            let secret: [u8; 16] = random();
            anyhow::ensure!(secret != [0; 16], "the operating system gives no random bytes");
            files.push((name.into(), format!("{}\n", hex(&secret)).into_bytes()));
        }
    }
    Ok(files)
}

/// Adds what an older folder lacks; of several processes one does.
fn complete(dir: &Path) -> Result<()> {
    if later(dir)?.is_empty() {
        return Ok(());
    }
    let folder = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
    let _lock = Flock::lock(folder, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("locking {}", dir.display()))?;
    for (path, bytes) in later(dir)? {
        let mode = if secret(&path) { 0o600 } else { 0o644 };
        let target = dir.join(path);
        files::write(&target, mode, &bytes)?;
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Pki> {
    let read = |file: String| {
        fs::read_to_string(dir.join(&file)).map_err(|error| {
            Problem::input(format!(
                "{} is not a folder of the simulator's authorities: {file}: {error}",
                dir.display()
            ))
            .hint("name an empty or new folder with --dir: the authorities are made there")
        })
    };
    let authority = |name: &str| -> Result<Authority> {
        let (pem, key) = (read(format!("{name}.pem"))?, read(format!("{name}.key"))?);
        read_authority(&pem, &key).with_context(|| format!("reading {name}.pem and {name}.key"))
    };
    let root_pem = read(format!("{ROOT}.pem"))?;
    certificate(&root_pem).with_context(|| format!("reading {ROOT}.pem"))?;
    let group_root =
        certificate(&read(format!("{GROUP_ROOT}.pem"))?).context("reading the enrolment root")?;
    let (server, group) = (authority(SERVER)?, authority(GROUP)?);
    // It is such a folder: now it may be written to.
    complete(dir)?;
    let secret = |file: &str| -> Result<String> { Ok(read(file.into())?.trim().to_owned()) };
    Ok(Pki(Arc::new(Authorities {
        root_pem,
        server,
        group_root,
        group,
        bootstrap: authority(BOOTSTRAP)?,
        est_password: secret(EST_PASSWORD)?,
        files_token: secret(FILES_TOKEN)?,
    })))
}

/// Writes a new folder, mode 0700, at once: beside it first, then renamed. `secret` files get mode 0600.
pub(super) fn write_folder(
    folder: &Path,
    files: &[(PathBuf, Vec<u8>)],
    secret: impl Fn(&Path) -> bool,
) -> Result<()> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let temporary = tempfile::Builder::new()
        .prefix(".edgepress-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .with_context(|| format!("creating a folder in {}", parent.display()))?;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    for (path, bytes) in files {
        let target = temporary.path().join(path);
        builder.create(target.parent().unwrap_or(parent))?;
        let mode = if secret(path) { 0o600 } else { 0o644 };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?;
        file.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    fs::rename(temporary.path(), folder).with_context(|| format!("creating {}", folder.display()))?;
    let _renamed = temporary.keep();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{BOOTSTRAP, EST_PASSWORD, FILES_TOKEN};
    use crate::pki::Pki;
    use edgepress_base::error::problem;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn authorities_are_kept_and_keys_are_secret() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path().join("pki");
        let made = Pki::open_or_create(&dir).expect("make");
        let opened = Pki::open_or_create(&dir).expect("open");
        assert_eq!(made.server_ca_pem(), opened.server_ca_pem());
        assert_eq!(made.est_password(), opened.est_password());
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 12);
        let mode = fs::metadata(&dir).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        for entry in fs::read_dir(&dir).expect("list") {
            let path = entry.expect("entry").path();
            let mode = fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
            let expected = if path.extension().is_some_and(|e| e == "pem") { 0o644 } else { 0o600 };
            assert_eq!(mode, expected, "{}", path.display());
        }
    }

    #[test]
    fn what_an_older_folder_lacks_is_added() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let old = Pki::open_or_create(folder.path()).expect("make");
        let key = folder.path().join(format!("{BOOTSTRAP}.key"));
        // As after a crash between the key and its certificate, too.
        for lost in [&["pem", "key"][..], &["pem"]] {
            for ending in lost {
                fs::remove_file(folder.path().join(format!("{BOOTSTRAP}.{ending}"))).expect("remove");
            }
            fs::remove_file(folder.path().join(EST_PASSWORD)).expect("remove");
            let new = Pki::open_or_create(folder.path()).expect("open");
            assert_eq!(new.server_ca_pem(), old.server_ca_pem());
            assert_eq!(new.files_token(), old.files_token());
            assert_ne!(new.est_password(), old.est_password());
            assert_ne!(new.est_password(), new.files_token());
            for file in [&key, &folder.path().join(EST_PASSWORD), &folder.path().join(FILES_TOKEN)] {
                assert_eq!(fs::metadata(file).expect("file").permissions().mode() & 0o777, 0o600);
            }
            assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 12, "nothing else is left");
        }
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("thesis.txt"), "x").expect("write");
        let error = Pki::open_or_create(folder.path()).expect_err("refused");
        assert!(problem(&error).is_some_and(|problem| problem.hint.is_some()), "{error:#}");
        fs::write(folder.path().join("root.pem"), "no PEM").expect("write");
        assert!(Pki::open_or_create(folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2, "nothing was written");
    }
}
