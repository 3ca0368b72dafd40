//! Which device gets which identity.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::Flock;

use super::LEDGER;
use super::ledger::{Ledger, Record, Taken};
use super::source::FlashImage;
use super::target::Target;
use super::unique::{self, Lines};
use super::worn::{self, Wears, Worn};
use crate::error::Problem;
use crate::event::Sink;
use crate::stamp::names::plain_serial;
use crate::stamp::output::{Form, INDEX, IndexLine, entries, lock};
use crate::stamp::patch::Patch;
use crate::units::{Digest, counted};

/// Where identities come from.
#[derive(Debug, Clone)]
pub(crate) enum Identities {
    /// All devices get the image as it is. One that wears an identity itself is for one device.
    None {
        /// Also where a device has that identity already.
        reflash: bool,
    },
    /// One device gets this patch.
    Patch {
        /// Its file.
        path: PathBuf,
        /// Also where a device has it already.
        reflash: bool,
    },
    /// Each gets one of the patches that `edgepress stamp` left in this folder.
    Fleet {
        /// The folder.
        folder: PathBuf,
        /// By the serial of the target, not in the order of the index.
        by_serial: bool,
        /// Identities that devices have with another golden image, too: those devices get a new one.
        reflash: bool,
    },
}

impl Identities {
    /// The ledger that lies with them, or with an `image` that has its own: it remembers who is given away, wherever else that
    /// is written down.
    ///
    /// # Errors
    /// A [`Problem`] when the folder is not that of a fleet: no ledger belongs there.
    pub(crate) fn ledger(&self, image: &Path) -> Result<Option<PathBuf>> {
        let beside = |path: &Path| path.with_file_name(INDEX).exists().then(|| path.with_file_name(LEDGER));
        match self {
            // The folder of `stamp --full`.
            Self::None { .. } => Ok(beside(image)),
            Self::Patch { path, .. } => Ok(beside(path)),
            Self::Fleet { folder, .. } if folder.join(INDEX).exists() => Ok(Some(folder.join(LEDGER))),
            Self::Fleet { folder, .. } => {
                let message = format!("{} holds no patches: there is no {INDEX}", folder.display());
                Err(Problem::input(message)
                    .hint("edgepress stamp IMAGE --fleet FILE --out DIR makes them")
                    .into())
            }
        }
    }
}

/// A patch for each target, or none for any; and the fleet's folder, locked.
#[derive(Default)]
pub(crate) struct Assigned {
    /// In the order of the targets.
    pub patches: Vec<Option<Patch>>,
    /// What the image wears itself.
    pub worn: Option<Worn>,
    _lock: Option<Flock<File>>,
}

/// Whose a target becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    /// The registration id.
    pub registration_id: &'a str,
    /// SHA-256 of the certificate (DER).
    pub certificate_sha256: Option<Digest>,
    /// SHA-256 of the golden image, where it is known.
    pub golden_sha256: Option<Digest>,
}

impl Assigned {
    /// Where the secrets of the target of this number lie, bytes: what its patch writes, or the image's FAT partition.
    pub(crate) fn secrets(&self, slot: usize) -> Vec<Range<u64>> {
        let patch = self.patches.get(slot).and_then(Option::as_ref);
        let runs = patch.map(Patch::runs).unwrap_or_default().iter();
        let worn = self.worn.iter().map(|worn| worn.fat.clone());
        runs.map(|(at, bytes)| *at..at + bytes.len() as u64).chain(worn).collect()
    }

    /// Whose the target of this number becomes; none where the image is everybody's.
    pub(crate) fn named(&self, slot: usize) -> Option<Named<'_>> {
        let patch = self.patches.get(slot)?.as_ref().map(|patch| &patch.header);
        let patched = patch.map(|header| Named {
            registration_id: &header.registration_id,
            certificate_sha256: header.certificate_sha256,
            golden_sha256: header.image.sha256,
        });
        let worn = self.worn.as_ref().map(|worn| Named {
            registration_id: &worn.registration_id,
            certificate_sha256: worn.certificate_sha256,
            golden_sha256: None,
        });
        patched.or(worn)
    }
}

/// Gives every target its identity; checks that all are for this image, and that no other device has one of them.
///
/// # Errors
/// A [`Problem`] when there are too few, or one is not for this image.
pub(crate) fn assign(
    identities: &Identities,
    targets: &[Target],
    source: &FlashImage,
    ledger: Option<&Ledger>,
    sink: &dyn Sink,
) -> Result<Assigned> {
    let assigned = match identities {
        Identities::None { .. } => Assigned {
            patches: targets.iter().map(|_| None).collect(),
            worn: worn(source, targets.len(), sink)?,
            ..Assigned::default()
        },
        Identities::Patch { path, .. } => {
            if targets.len() > 1 {
                let message =
                    format!("--patch is one device's identity, and {} targets are named", targets.len());
                return Err(Problem::input(message).hint("--fleet DIR gives each its own").into());
            }
            Assigned { patches: vec![Some(read(path, source)?)], ..Assigned::default() }
        }
        Identities::Fleet { folder, by_serial, reflash } => {
            let lock = lock(folder)?;
            let free = free(folder, ledger, *reflash)?;
            let chosen = if *by_serial {
                matched(&free, targets, folder)?
            } else {
                in_order(&free, targets, (folder, ledger), sink)?
            };
            let patches = patches(&chosen, folder, source)?;
            Assigned { patches, _lock: Some(lock), ..Assigned::default() }
        }
    };
    out_there(&assigned, identities, ledger, sink)?;
    Ok(assigned)
}

/// The patches of these lines of the index, each of which is what its line says, and none another's.
fn patches(chosen: &[&IndexLine], folder: &Path, source: &FlashImage) -> Result<Vec<Option<Patch>>> {
    let read = |entry: &&IndexLine| -> Result<(PathBuf, Patch)> {
        let path = folder.join(&entry.file);
        let patch = read(&path, source)?;
        unique::same(entry, &path, &patch)?;
        Ok((path, patch))
    };
    let patches = chosen.iter().map(read).collect::<Result<Vec<_>>>()?;
    unique::apart(&patches)?;
    Ok(patches.into_iter().map(|(_, patch)| Some(patch)).collect())
}

/// What the image wears, which one target can get.
fn worn(source: &FlashImage, targets: usize, sink: &dyn Sink) -> Result<Option<Worn>> {
    match worn::find(source)? {
        Wears::Identity(worn) if targets > 1 => {
            let message = format!(
                "{} has the identity of {} in it, and {targets} targets are named: two devices with one identity lock each \
                 other out",
                source.path.display(),
                worn.registration_id
            );
            let hint = "name one target; the golden image with --fleet DIR gives each its own";
            Err(Problem::input(message).hint(hint).into())
        }
        Wears::Identity(worn) => Ok(Some(worn)),
        Wears::Nothing => Ok(None),
        Wears::Unknown(why) => {
            sink.note(format!("whether {} has an identity in it is not known: {why}", source.path.display()));
            Ok(None)
        }
    }
}

/// Has another device what is given out here? A fleet's own identities were asked for before, by their names.
fn out_there(
    assigned: &Assigned,
    identities: &Identities,
    ledger: Option<&Ledger>,
    sink: &dyn Sink,
) -> Result<()> {
    let reflash = match identities {
        Identities::Fleet { .. } => None,
        Identities::Patch { reflash, .. } | Identities::None { reflash } => Some(*reflash),
    };
    for named in (0..assigned.patches.len()).filter_map(|slot| assigned.named(slot)) {
        unique::certificate_is_free(named.registration_id, named.certificate_sha256, ledger)?;
        let taken = ledger.and_then(|ledger| ledger.taken(named.registration_id, named.golden_sha256));
        let (Some(taken), Some(reflash)) = (taken, reflash) else { continue };
        let message = format!(
            "the ledger says that {} is given away already ({taken}): two devices with one identity lock each other out",
            named.registration_id
        );
        if !reflash {
            let hint = "--reflash, if that device is gone, or is this one; else another device's patch";
            return Err(Problem::input(message).hint(hint).into());
        }
        sink.warn(message);
    }
    Ok(())
}

/// An identity that may be given away.
#[derive(Debug, PartialEq)]
struct Free<'a> {
    entry: IndexLine,
    /// The devices that have it with other golden images. Whether they are the same devices as now nobody knows, unless
    /// their serials say so.
    elsewhere: Vec<&'a Record>,
}

/// The index's lines that no good device has with this golden image.
fn free<'a>(folder: &Path, ledger: Option<&'a Ledger>, reflash: bool) -> Result<Vec<Free<'a>>> {
    let index = folder.join(INDEX);
    let mut free = Vec::new();
    let mut lines = Lines::default();
    for (at, entry) in (1..).zip(entries(&index)?) {
        let entry = entry?;
        lines.take(&index, at, &entry)?;
        // Only plain file names: an index must not point out of its folder.
        if entry.form == Form::Image || entry.file.contains('/') {
            let message = format!("{}: {} is no patch", index.display(), entry.file);
            return Err(Problem::input(message)
                .hint("stamp the fleet without --full; whole images are flashed by name")
                .into());
        }
        let taken = ledger.and_then(|ledger| ledger.taken(&entry.registration_id, entry.golden_sha256));
        let elsewhere = match taken {
            Some(Taken::Same(_)) => continue,
            Some(Taken::Other(records)) if !reflash => records,
            _ => Vec::new(),
        };
        free.push(Free { entry, elsewhere });
    }
    Ok(free)
}

/// How many are wanted, how many are left, and who says so.
fn short(targets: usize, left: usize, folder: &Path, ledger: Option<&Ledger>) -> String {
    let left = match left {
        0 => "no identity is left".to_owned(),
        1 => "1 identity is left".to_owned(),
        more => format!("{more} identities are left"),
    };
    let files: Vec<_> = ledger.map(Ledger::paths).unwrap_or_default();
    let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let who = match files.as_slice() {
        [] => String::new(),
        [one] => format!(", says the ledger {one}"),
        many => format!(", say the ledgers {}", many.join(" and ")),
    };
    format!("{}, and {left} in {}{who}", counted(targets as u64, "target"), folder.display())
}

fn in_order<'a>(
    free: &'a [Free<'_>],
    targets: &[Target],
    (folder, ledger): (&Path, Option<&Ledger>),
    sink: &dyn Sink,
) -> Result<Vec<&'a IndexLine>> {
    let (left, elsewhere): (Vec<_>, Vec<_>) = free.iter().partition(|free| free.elsewhere.is_empty());
    let ids: Vec<&str> = elsewhere.iter().map(|free| free.entry.registration_id.as_str()).collect();
    if let Some((first, others)) = ids.split_first() {
        let ids = match others {
            [] => (*first).to_owned(),
            [.., last] => format!("{first} … {last}, {} in all", ids.len()),
        };
        sink.warn(format!("passed over, because devices have them with another golden image: {ids}"));
    }
    if left.len() < targets.len() {
        let message = short(targets.len(), left.len(), folder, ledger);
        let hint = if elsewhere.is_empty() {
            "stamp more devices, or name fewer targets"
        } else {
            "--reflash, if these are the same devices and get a new golden image; else stamp more devices"
        };
        return Err(Problem::input(message).hint(hint).into());
    }
    Ok(left.into_iter().take(targets.len()).map(|free| &free.entry).collect())
}

fn matched<'a>(free: &'a [Free<'_>], targets: &[Target], folder: &Path) -> Result<Vec<&'a IndexLine>> {
    let mut wrong = Vec::new();
    let mut chosen: Vec<&IndexLine> = Vec::new();
    for target in targets {
        let path = target.path.display();
        let Some(serial) = target.serial.as_deref() else {
            wrong.push(format!("{path}: it has no serial"));
            continue;
        };
        let same =
            |other: Option<&str>| other.is_some_and(|other| plain_serial(other) == plain_serial(serial));
        let Some(Free { entry, elsewhere }) = free.iter().find(|free| same(free.entry.serial.as_deref()))
        else {
            wrong.push(format!("{path}: no identity that is left has the serial {serial}"));
            continue;
        };
        let id = &entry.registration_id;
        // The very card that has it with another golden image may get it with this one.
        if let Some(record) = elsewhere.iter().find(|record| !same(record.serial.as_deref())) {
            let other = record.serial.as_deref().unwrap_or("without a serial");
            wrong.push(format!(
                "{path}: {id} is that of its serial, but a card {other} has it with another golden image; --reflash gives it to this one as well"
            ));
        } else if chosen.contains(&entry) {
            wrong.push(format!("{path}: another target has the serial {serial} as well"));
        } else {
            chosen.push(entry);
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

fn read(path: &Path, source: &FlashImage) -> Result<Patch> {
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
    use super::{Free, Identities, Record, in_order, matched};
    use crate::error::problem;
    use crate::event::Silent;
    use crate::flash::target::{Target, TargetKind};
    use crate::stamp::output::{Form, IndexLine};
    use std::path::Path;

    fn entry(id: &str, serial: Option<&str>) -> IndexLine {
        IndexLine {
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
            kind: TargetKind::Disk,
            model: None,
            serial: serial.map(str::to_owned),
            size: 9,
            transport: "usb".into(),
        }
    }

    fn all<'a>(entries: &[IndexLine]) -> Vec<Free<'a>> {
        entries.iter().map(|entry| Free { entry: entry.clone(), elsewhere: Vec::new() }).collect()
    }

    fn ids(found: &[&IndexLine]) -> Vec<String> {
        found.iter().map(|it| it.registration_id.clone()).collect()
    }

    #[test]
    fn rows_in_order_or_by_serial() {
        let free = all(&[entry("a", Some("0x00AB")), entry("b", None), entry("c", Some("77"))]);
        let folder = Path::new("patches");
        let in_order = |targets: &[Target]| in_order(&free, targets, (folder, None), &Silent);
        let two = [target(Some("77")), target(Some("ab"))];
        assert_eq!(ids(&in_order(&two).expect("enough")), ["a", "b"]);
        assert_eq!(ids(&matched(&free, &two, folder).expect("all")), ["c", "a"]);
        let many = [two.to_vec(), two.to_vec()].concat();
        let error = in_order(&many).expect_err("too few").to_string();
        assert_eq!(error, "4 targets, and 3 identities are left in patches");
        let wrong = [target(None), target(Some("9")), target(Some("77")), target(Some("77"))];
        let error = matched(&free, &wrong, folder).expect_err("wrong").to_string();
        for expected in ["it has no serial", "has the serial 9", "another target has the serial 77"] {
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Devices have `a` and `b` with another golden image.
    #[test]
    fn what_another_golden_image_gave_away() {
        let folder = Path::new("patches");
        let had: Record = serde_json::from_value(serde_json::json!({ "verdict": "good", "serial": "AB" }))
            .expect("a record");
        let mut free = all(&[entry("a", Some("0x00AB")), entry("b", Some("77")), entry("c", Some("9"))]);
        free[0].elsewhere = vec![&had];
        free[1].elsewhere = vec![&had];
        assert_eq!(ids(&in_order(&free, &[target(None)], (folder, None), &Silent).expect("one")), ["c"]);
        let error =
            in_order(&free, &[target(None), target(None)], (folder, None), &Silent).expect_err("too few");
        let hint = problem(&error).and_then(|problem| problem.hint.clone());
        assert!(hint.is_some_and(|hint| hint.starts_with("--reflash")), "{error}");
        // The very card gets it again, another one does not.
        assert_eq!(ids(&matched(&free, &[target(Some("ab"))], folder).expect("its own")), ["a"]);
        let error = matched(&free, &[target(Some("77"))], folder).expect_err("another card").to_string();
        assert!(error.contains("b is that of its serial, but a card AB has it"), "{error}");
    }

    #[test]
    fn where_the_ledger_lies() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.patch");
        let patch = Identities::Patch { path: path.clone(), reflash: false };
        let fleet = Identities::Fleet { folder: folder.path().into(), by_serial: false, reflash: false };
        let none = Identities::None { reflash: false };
        let ledger = |identities: &Identities| identities.ledger(&path);
        assert_eq!((ledger(&patch).expect("none"), ledger(&none).expect("none")), (None, None));
        assert!(ledger(&fleet).expect_err("no fleet").to_string().contains("holds no patches"));
        std::fs::write(folder.path().join("fleet.jsonl"), "").expect("write");
        for identities in [patch, fleet, none] {
            assert_eq!(ledger(&identities).expect("one"), Some(folder.path().join("ledger.jsonl")));
        }
        let elsewhere = Identities::Patch { path: "a.patch".into(), reflash: false };
        assert_eq!(ledger(&elsewhere).expect("none"), None);
    }
}
