//! Which device gets which identity.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::Flock;

use super::ledger::Ledger;
use super::source::Source;
use super::target::Target;
use crate::error::Problem;
use crate::event::Sink;
use crate::stamp::output::{Entry, Form, INDEX, entries, lock};
use crate::stamp::patch::Patch;

/// Where identities come from.
#[derive(Debug, Clone)]
pub enum Identities {
    /// All devices get the image as it is.
    None,
    /// One device gets this patch.
    Patch(PathBuf),
    /// Each gets one of the patches that `edgepress stamp` left in this folder.
    Fleet {
        /// The folder.
        folder: PathBuf,
        /// By the serial of the target, not in the order of the index.
        by_serial: bool,
    },
}

/// A patch for each target, or none for any; and the fleet's folder, locked.
pub struct Assigned {
    /// In the order of the targets.
    pub patches: Vec<Option<Patch>>,
    _lock: Option<Flock<File>>,
}

/// Gives every target its identity; checks that all are for this image, and that no other device has one of them.
///
/// # Errors
/// A [`Problem`] when there are too few, or one is not for this image.
pub fn assign(
    identities: &Identities,
    targets: &[Target],
    source: &Source,
    ledger: Option<&Ledger>,
    sink: &dyn Sink,
) -> Result<Assigned> {
    match identities {
        Identities::None => Ok(Assigned { patches: targets.iter().map(|_| None).collect(), _lock: None }),
        Identities::Patch(path) => {
            if targets.len() > 1 {
                let message =
                    format!("--patch is one device's identity, and {} targets are named", targets.len());
                return Err(Problem::input(message).hint("--fleet DIR gives each its own").into());
            }
            let patch = read(path, source)?;
            let id = &patch.header.registration_id;
            if let Some(record) = ledger.and_then(|ledger| ledger.taken(id, patch.header.image.sha256)) {
                let said = format!("{} of {}", record.target, record.time);
                sink.warn(format!("the ledger says that {id} is given away already ({said}): two devices with one identity lock each other out"));
            }
            Ok(Assigned { patches: vec![Some(patch)], _lock: None })
        }
        Identities::Fleet { folder, by_serial } => {
            let lock = lock(folder)?;
            let free = free(folder, ledger)?;
            let chosen =
                if *by_serial { matched(&free, targets, folder)? } else { in_order(&free, targets, folder)? };
            let patches: Result<Vec<_>> =
                chosen.into_iter().map(|entry| read(&folder.join(&entry.file), source).map(Some)).collect();
            Ok(Assigned { patches: patches?, _lock: Some(lock) })
        }
    }
}

/// The index's lines that no good device has.
fn free(folder: &Path, ledger: Option<&Ledger>) -> Result<Vec<Entry>> {
    let index = folder.join(INDEX);
    if !index.exists() {
        let message = format!("{} holds no patches: there is no {INDEX}", folder.display());
        return Err(Problem::input(message)
            .hint("edgepress stamp IMAGE --fleet FILE --out DIR makes them")
            .into());
    }
    let mut free = Vec::new();
    for entry in entries(&index)? {
        let entry = entry?;
        // Only plain file names: an index must not point out of its folder.
        if entry.form == Form::Image || entry.file.contains('/') {
            let message = format!("{}: {} is no patch", index.display(), entry.file);
            return Err(Problem::input(message)
                .hint("stamp the fleet without --full; whole images are flashed by name")
                .into());
        }
        let taken =
            ledger.is_some_and(|ledger| ledger.taken(&entry.registration_id, entry.golden_sha256).is_some());
        if !taken {
            free.push(entry);
        }
    }
    Ok(free)
}

fn in_order<'a>(free: &'a [Entry], targets: &[Target], folder: &Path) -> Result<Vec<&'a Entry>> {
    if free.len() < targets.len() {
        let message = format!(
            "{} targets, and {} identities are left in {}",
            targets.len(),
            free.len(),
            folder.display()
        );
        return Err(Problem::input(message).hint("stamp more devices, or name fewer targets").into());
    }
    Ok(free.iter().take(targets.len()).collect())
}

fn matched<'a>(free: &'a [Entry], targets: &[Target], folder: &Path) -> Result<Vec<&'a Entry>> {
    let mut wrong = Vec::new();
    let mut chosen: Vec<&Entry> = Vec::new();
    for target in targets {
        let path = target.path.display();
        let Some(serial) = target.serial.as_deref() else {
            wrong.push(format!("{path}: it has no serial"));
            continue;
        };
        let same =
            |entry: &&Entry| entry.serial.as_deref().is_some_and(|other| plain(other) == plain(serial));
        match free.iter().find(same) {
            None => wrong.push(format!("{path}: no identity that is left has the serial {serial}")),
            Some(entry) if chosen.contains(&entry) => {
                wrong.push(format!("{path}: another target has the serial {serial} as well"));
            }
            Some(entry) => chosen.push(entry),
        }
    }
    if wrong.is_empty() {
        return Ok(chosen);
    }
    let message =
        format!("nothing was written, because not every target has an identity:\n  {}", wrong.join("\n  "));
    let hint = format!("the column `serial` of the fleet is matched; {}/{INDEX} shows it", folder.display());
    Err(Problem::input(message).hint(hint).into())
}

/// Serials are written in many ways: 0x0012AB is 12ab.
fn plain(serial: &str) -> String {
    let serial = serial.trim().to_ascii_lowercase();
    let digits = serial.strip_prefix("0x").unwrap_or(&serial).trim_start_matches('0');
    digits.to_owned()
}

fn read(path: &Path, source: &Source) -> Result<Patch> {
    let patch = Patch::read(path)?;
    let image = &patch.header.image;
    // Its sectors are compared while the image goes by; this is to say it before anything is written.
    let other = |ours: Option<_>| ours.is_some() && image.sha256.is_some() && ours != image.sha256;
    if image.size != source.size || other(source.raw_sha256) {
        let message = format!("{} is for another image than {}", path.display(), source.name());
        let hint = format!("it was made for {} of {} bytes", image.name, image.size);
        return Err(Problem::input(message).hint(hint).into());
    }
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::{in_order, matched, plain};
    use crate::flash::target::{Kind, Target};
    use crate::stamp::output::{Entry, Form};
    use std::path::Path;

    fn entry(id: &str, serial: Option<&str>) -> Entry {
        Entry {
            registration_id: id.into(),
            serial: serial.map(str::to_owned),
            form: Form::Patch,
            file: format!("{id}.patch"),
            certificate_sha256: None,
            not_after: None,
            golden_sha256: None,
        }
    }

    fn target(serial: Option<&str>) -> Target {
        Target {
            path: "/dev/sdb".into(),
            kind: Kind::Disk,
            model: None,
            serial: serial.map(str::to_owned),
            size: 9,
            transport: "usb".into(),
        }
    }

    #[test]
    fn rows_in_order_or_by_serial() {
        let free = [entry("a", Some("0x00AB")), entry("b", None), entry("c", Some("77"))];
        let ids = |found: Vec<&Entry>| found.iter().map(|it| it.registration_id.clone()).collect::<Vec<_>>();
        let folder = Path::new("patches");
        let two = [target(Some("77")), target(Some("ab"))];
        assert_eq!(ids(in_order(&free, &two, folder).expect("enough")), ["a", "b"]);
        assert_eq!(ids(matched(&free, &two, folder).expect("all")), ["c", "a"]);
        let many = [two.to_vec(), two.to_vec()].concat();
        let error = in_order(&free, &many, folder).expect_err("too few").to_string();
        assert_eq!(error, "4 targets, and 3 identities are left in patches");
        let wrong = [target(None), target(Some("9")), target(Some("77")), target(Some("77"))];
        let error = matched(&free, &wrong, folder).expect_err("wrong").to_string();
        for expected in ["it has no serial", "has the serial 9", "another target has the serial 77"] {
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(plain(" 0x0012AB "), "12ab");
    }
}
