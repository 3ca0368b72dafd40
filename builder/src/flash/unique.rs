//! One identity, one device: what is given out is judged here once more, where it is used.
//!
//! ```text
//! fleet.jsonl ─► lines, none twice ─► entry ─┐
//! ledger.jsonl ─► who is out there ──────────┼─► the patch's own header says the same, and no other target has it
//! the patch's file, its header inside ───────┘
//! ```
//! `stamp` makes a list in which nothing stands twice. Lists are joined by hand, files are copied and renamed: the list is a
//! claim, and what counts is what lies in the patch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::ledger::Ledger;
use crate::error::Problem;
use crate::stamp::output::IndexLine;
use crate::stamp::patch::Patch;
use crate::units::Digest;

const ONE_EACH: &str = "an identity belongs to one device; `edgepress stamp` makes patches and index anew";

/// What no two lines of an index may share, and where it first stood.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    seen: BTreeMap<(&'static str, String), usize>,
}

impl Lines {
    /// Takes the next line, counted from 1.
    ///
    /// # Errors
    /// A [`Problem`] when an earlier line speaks of the same device, file or certificate.
    pub(crate) fn take(&mut self, index: &Path, line: usize, entry: &IndexLine) -> Result<()> {
        let certificate = entry.certificate_sha256.map(|sum| ("certificate", sum.to_string()));
        // DPS ignores case.
        let id = ("registration id", entry.registration_id.to_ascii_lowercase());
        for (what, value) in [id, ("file", entry.file.clone())].into_iter().chain(certificate) {
            if let Some(first) = self.seen.insert((what, value), line) {
                let message = format!(
                    "{}:{line}: the {what} of {} stands in line {first} already",
                    index.display(),
                    entry.registration_id
                );
                let hint = format!("take one of the two lines out, if they are of one device: {ONE_EACH}");
                return Err(Problem::input(message).hint(hint).into());
            }
        }
        Ok(())
    }
}

/// Is the patch the one that the index speaks of?
///
/// # Errors
/// A [`Problem`] when its own header says otherwise.
pub(crate) fn same(entry: &IndexLine, path: &Path, patch: &Patch) -> Result<()> {
    let header = &patch.header;
    let differs = |ours: Option<Digest>, its: Option<Digest>| ours.is_some() && its.is_some() && ours != its;
    let why = if header.registration_id != entry.registration_id {
        format!("it is the identity of {}", header.registration_id)
    } else if header.certificate_sha256 != entry.certificate_sha256 {
        "it has another certificate".into()
    } else if differs(header.image.sha256, entry.golden_sha256) {
        "it is for another golden image".into()
    } else {
        return Ok(());
    };
    let message =
        format!("{} is not what the index says of {}: {why}", path.display(), entry.registration_id);
    Err(Problem::input(message).hint(ONE_EACH).into())
}

/// Has any target of this run the identity of another one, by its name, its certificate or its content?
///
/// # Errors
/// A [`Problem`] that names the two.
pub(crate) fn apart(chosen: &[(PathBuf, Patch)]) -> Result<()> {
    for (at, (path, patch)) in chosen.iter().enumerate() {
        for (other, earlier) in &chosen[..at] {
            let (a, b) = (&patch.header, &earlier.header);
            let what = if a.registration_id.eq_ignore_ascii_case(&b.registration_id) {
                "identity"
            } else if a.certificate_sha256.is_some() && a.certificate_sha256 == b.certificate_sha256 {
                "certificate"
            } else if !patch.runs().is_empty() && patch.runs() == earlier.runs() {
                "content"
            } else {
                continue;
            };
            let (here, there) = (path.display(), other.display());
            let message = format!(
                "two targets would get one {what}: {there} ({}) and {here} ({})",
                b.registration_id, a.registration_id
            );
            return Err(Problem::input(message).hint(ONE_EACH).into());
        }
    }
    Ok(())
}

/// Is a certificate out there under another name?
///
/// # Errors
/// A [`Problem`] that names the device that has it.
pub(crate) fn certificate_is_free(
    id: &str,
    certificate: Option<Digest>,
    ledger: Option<&Ledger>,
) -> Result<()> {
    let Some((ledger, sum)) = ledger.zip(certificate) else { return Ok(()) };
    let Some(record) = ledger.holder(&sum, id) else { return Ok(()) };
    let other = record.registration_id.as_deref().unwrap_or("?");
    let message = format!(
        "the certificate of {id} is given away already, as that of {other} ({} of {}), says {}",
        record.target,
        record.time,
        ledger.path().display()
    );
    Err(Problem::input(message).hint(ONE_EACH).into())
}

#[cfg(test)]
mod tests {
    use super::{Lines, apart, certificate_is_free, same};
    use crate::disk::patch as sectors;
    use crate::event::Silent;
    use crate::flash::ledger::{Ledger, Record};
    use crate::stamp::output::{Form, IndexLine};
    use crate::stamp::patch::{Base, Identity, Patch};
    use crate::units::Digest;
    use std::path::{Path, PathBuf};

    fn patch(id: &str, certificate: Option<&str>, content: u8) -> Patch {
        let identity = Identity {
            registration_id: id.into(),
            certificate_sha256: certificate.map(Digest::of),
            ..Identity::default()
        };
        let base = Base { name: "x.img".into(), size: 4096, sha256: Some(Digest::of("golden")) };
        let runs = |byte| sectors::Patch { runs: vec![(512, vec![byte; 512])] };
        Patch::new(identity, base, runs(content), &runs(0))
    }

    fn entry(id: &str, file: &str, certificate: Option<&str>) -> IndexLine {
        IndexLine {
            registration_id: id.into(),
            serial: None,
            form: Form::Patch,
            file: file.into(),
            certificate_sha256: certificate.map(Digest::of),
            not_after: None,
            golden_sha256: Some(Digest::of("golden")),
        }
    }

    #[test]
    fn no_line_of_an_index_twice() {
        let first = entry("pump-1", "a.patch", Some("c"));
        for (second, what) in [
            (first.clone(), Some("registration id")),
            (entry("PUMP-1", "b.patch", None), Some("registration id")),
            (entry("pump-2", "a.patch", None), Some("file")),
            (entry("pump-2", "b.patch", Some("c")), Some("certificate")),
            (entry("pump-2", "b.patch", Some("d")), None),
        ] {
            let mut lines = Lines::default();
            lines.take(Path::new("fleet.jsonl"), 1, &first).expect("the first");
            let taken = lines.take(Path::new("fleet.jsonl"), 7, &second).map_err(|error| error.to_string());
            let expected = |what| {
                format!("fleet.jsonl:7: the {what} of {} stands in line 1 already", second.registration_id)
            };
            assert_eq!(taken.err(), what.map(expected));
        }
    }

    #[test]
    fn a_patch_is_what_its_header_says() {
        let path = Path::new("p/a.patch");
        let line = entry("pump-1", "a.patch", Some("c"));
        same(&line, path, &patch("pump-1", Some("c"), 1)).expect("its own");
        let said =
            |line: &IndexLine, patch: &Patch| same(line, path, patch).expect_err("another").to_string();
        let of_two = patch("pump-2", Some("c"), 1);
        assert!(said(&line, &of_two).ends_with("says of pump-1: it is the identity of pump-2"));
        assert!(said(&line, &patch("pump-1", None, 1)).ends_with("it has another certificate"));
        let other = IndexLine { golden_sha256: Some(Digest::of("other")), ..line };
        assert!(said(&other, &patch("pump-1", Some("c"), 1)).ends_with("it is for another golden image"));
    }

    #[test]
    fn two_targets_share_nothing() {
        let run = |second: Patch| {
            let first = (PathBuf::from("a.patch"), patch("pump-1", Some("c"), 1));
            apart(&[first, ("b.patch".into(), second)]).map_err(|error| error.to_string())
        };
        run(patch("pump-2", Some("d"), 2)).expect("two devices");
        run(patch("pump-2", None, 2)).expect("a key of its own");
        for (second, what) in [
            (patch("Pump-1", Some("d"), 2), "identity"),
            (patch("pump-2", Some("c"), 2), "certificate"),
            (patch("pump-2", Some("d"), 1), "content"),
        ] {
            let said = run(second).expect_err(what);
            assert!(
                said.starts_with(&format!("two targets would get one {what}: a.patch (pump-1)")),
                "{said}"
            );
        }
    }

    #[test]
    fn a_certificate_under_another_name() {
        let folder = tempfile::tempdir().expect("folder");
        let ledger = Ledger::open(&folder.path().join("ledger.jsonl"), &Silent).expect("opens");
        let line = |verdict: &str, id: &str, certificate: &str| {
            let json = serde_json::json!({ "verdict": verdict, "registration_id": id,
                "certificate_sha256": Digest::of(certificate) });
            ledger.add(&serde_json::from_value::<Record>(json).expect("a record")).expect("add");
        };
        line("good", "pump-1", "c");
        line("failed", "pump-3", "d");
        drop(ledger);
        let ledger = Ledger::open(&folder.path().join("ledger.jsonl"), &Silent).expect("opens");
        let free = |id, certificate: &str| {
            certificate_is_free(id, Some(Digest::of(certificate)), Some(&ledger)).is_ok()
        };
        assert!(!free("pump-2", "c"), "pump-1 has it");
        assert!(free("pump-2", "d"), "that card failed");
        assert!(free("PUMP-1", "c"), "its own: whether it may have it again is asked elsewhere");
        certificate_is_free("pump-2", None, Some(&ledger)).expect("a key of its own");
    }
}
