//! What is about to happen, for the user to agree to, and what came of it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::identity::Assigned;
use super::ledger::{Record, Verdict};
use super::source::FlashImage;
use super::target::Target;
use super::writer::Key;
use crate::units::counted;

const MIB: f64 = 1024.0 * 1024.0;

/// What is about to happen.
pub(crate) struct Plan {
    /// About the image, a line each.
    pub image: Vec<String>,
    /// The targets, and who each becomes.
    pub targets: Vec<(Target, Option<String>)>,
}

impl Plan {
    /// Of a run.
    pub(crate) fn new(source: &FlashImage, targets: &[Target], assigned: &Assigned, verify: bool) -> Self {
        let mut image = vec![format!(
            "image   {} ({}, {:.0} MiB)",
            source.path.display(),
            source.container,
            source.size as f64 / MIB
        )];
        image.push(match &source.file_sha256 {
            Some((sum, who)) => format!("digest  {} ({who})", sum.short()),
            None => {
                "digest  not known: nothing says what the image must be (SHA256SUMS, manifest.json, --sha256)"
                    .into()
            }
        });
        image.push(match (&source.bmap, &source.bmap_path) {
            (Some(map), Some(path)) => {
                format!(
                    "map     {}: {:.0} MiB are written, the rest is left as it is",
                    path.display(),
                    map.mapped() as f64 / MIB
                )
            }
            _ => "map     none: the whole image is written, zeros included".into(),
        });
        if !verify {
            image.push("verify  OFF: nothing is read back, a bad card passes for a good one".into());
        }
        let id = |slot| assigned.named(slot).map(|named| named.registration_id.to_owned());
        let targets = targets.iter().cloned().zip((0..).map(id)).collect();
        Self { image, targets }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.image.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let row = |(target, id): &(Target, Option<String>)| {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            let size = if target.size == 0 { "new".into() } else { gigabytes(target.size) };
            let path = target.path.display().to_string();
            [path, text(&target.model), text(&target.serial), size, target.transport.clone(), text(id)]
        };
        let head = ["target", "model", "serial", "size", "transport", "identity"].map(str::to_owned);
        let rows: Vec<[String; 6]> = [head].into_iter().chain(self.targets.iter().map(row)).collect();
        table(f, &rows)
    }
}

/// As it stands on cards: powers of ten.
fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

fn table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// What came of one target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The target as it was found.
    #[serde(skip)]
    pub target: Target,
    /// Its line in the ledger.
    #[serde(flatten)]
    pub record: Record,
    /// It was too slow for the others.
    pub left_behind: bool,
}

impl Row {
    /// In a line.
    pub(crate) fn said(&self) -> String {
        let id = self.record.registration_id.as_ref().map_or_else(String::new, |id| format!(", {id}"));
        match self.record.verdict {
            Verdict::Good if self.record.bytes_read_back == 0 => format!("written, NOT read back{id}"),
            Verdict::Good => format!("good{id}"),
            Verdict::Interrupted => format!("interrupted; it boots nothing{}", self.key()),
            Verdict::Uncertain => format!("MAY BOOT{id}; wipe or destroy it: {}", self.why()),
            Verdict::Failed | Verdict::Finishing => format!("FAILED: {}{}", self.why(), self.key()),
        }
    }

    /// What became of the secrets of an identity that is free again.
    fn key(&self) -> String {
        let id = self.record.registration_id.as_deref().unwrap_or("the device");
        match self.record.key {
            None => String::new(),
            Some(Key::Wiped) => format!("; the key of {id} was wiped from it"),
            Some(Key::Left) => format!("; it STILL HAS THE KEY of {id}, which another card gets: destroy it"),
        }
    }

    fn why(&self) -> &str {
        self.record.error.as_deref().unwrap_or("?")
    }

    fn rate(&self) -> String {
        let megabytes = |bytes: u64, seconds: f64| match seconds {
            seconds if seconds > 0.0 && bytes > 0 => format!("{:.0}", bytes as f64 / 1e6 / seconds),
            _ => "-".into(),
        };
        let Record { bytes_written, bytes_read_back, seconds_write, seconds_verify, .. } = self.record;
        format!(
            "{} / {}",
            megabytes(bytes_written, seconds_write),
            megabytes(bytes_read_back, seconds_verify)
        )
    }
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FlashOutcome {
    /// The image.
    pub image: PathBuf,
    /// Bytes of the disk in it.
    pub size: u64,
    /// Seconds of the whole.
    pub seconds: f64,
    /// Where it is written down.
    pub ledger: Option<PathBuf>,
    /// Every target, in the order in which they were named.
    pub devices: Vec<Row>,
}

impl FlashOutcome {
    /// The targets that are not good.
    pub(crate) fn bad(&self) -> impl Iterator<Item = &Row> {
        self.devices.iter().filter(|row| row.record.verdict != Verdict::Good)
    }

    /// In a line, what is not as it should be.
    pub(crate) fn shortfall(&self) -> Option<String> {
        let bad = self.bad().count();
        let are = if bad == 1 { "is" } else { "are" };
        let mut said = format!("{bad} of {} {are} not good", counted(self.devices.len() as u64, "target"));
        let keys = self.bad().filter(|row| row.record.key == Some(Key::Left));
        let keys: Vec<_> = keys.map(|row| row.target.path.to_string_lossy()).collect();
        if !keys.is_empty() {
            said += &format!("; destroy what was in {}: it still has a device's key", keys.join(", "));
        }
        let uncertain = self.bad().filter(|row| row.record.verdict == Verdict::Uncertain);
        let uncertain: Vec<_> = uncertain.map(|row| row.target.path.to_string_lossy()).collect();
        if !uncertain.is_empty() {
            said += &format!("; wipe or destroy what was in {}: it may boot", uncertain.join(", "));
        }
        (bad > 0).then_some(said)
    }
}

impl fmt::Display for FlashOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |row: &Row| {
            let Record { seconds_write, seconds_verify, ref serial, .. } = row.record;
            let alone = if row.left_behind { " (slower than the others)" } else { "" };
            [
                row.target.path.display().to_string(),
                serial.clone().unwrap_or_else(|| "-".into()),
                format!("{:.1}", seconds_write + seconds_verify),
                row.rate(),
                format!("{}{alone}", row.said()),
            ]
        };
        let head = ["target", "serial", "seconds", "MB/s write / read", "verdict"].map(str::to_owned);
        let rows: Vec<[String; 5]> = [head].into_iter().chain(self.devices.iter().map(row)).collect();
        table(f, &rows)?;
        let (all, bad) = (self.devices.len(), self.bad().count());
        write!(f, "{} of {all} good, {:.1} s", all - bad, self.seconds)?;
        self.ledger.as_ref().map_or(Ok(()), |ledger| write!(f, "; ledger: {}", ledger.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{FlashOutcome, Row};
    use crate::flash::ledger::{Record, Verdict};
    use crate::flash::target::{Target, TargetKind};
    use crate::flash::writer::Key;

    fn row(verdict: Verdict) -> Row {
        let json = serde_json::json!({ "verdict": verdict, "registration_id": "pump-7", "error": "it is gone",
            "bytes_read_back": 9 });
        let record: Record = serde_json::from_value(json).expect("a record");
        let target = Target {
            path: "/dev/sdb".into(),
            kind: TargetKind::Disk,
            model: None,
            serial: None,
            size: 9,
            transport: "usb".into(),
        };
        Row { target, record, left_behind: false }
    }

    #[test]
    fn what_came_of_each() {
        let verdicts = [Verdict::Good, Verdict::Failed, Verdict::Uncertain, Verdict::Interrupted];
        let said = verdicts.map(|verdict| row(verdict).said());
        assert_eq!(
            said,
            [
                "good, pump-7",
                "FAILED: it is gone",
                "MAY BOOT, pump-7; wipe or destroy it: it is gone",
                "interrupted; it boots nothing"
            ]
        );
        let devices = verdicts.map(row).into();
        let outcome =
            |devices| FlashOutcome { image: "x.img".into(), size: 9, seconds: 1.0, ledger: None, devices };
        let expected = "3 of 4 targets are not good; wipe or destroy what was in /dev/sdb: it may boot";
        assert_eq!(outcome(devices).shortfall().as_deref(), Some(expected));
        assert_eq!(
            outcome(vec![row(Verdict::Failed)]).shortfall().as_deref(),
            Some("1 of 1 target is not good")
        );
        assert_eq!(outcome(vec![row(Verdict::Good)]).shortfall(), None);
        let mut left = row(Verdict::Failed);
        left.record.key = Some(Key::Left);
        let said = left.said();
        assert_eq!(
            said,
            "FAILED: it is gone; it STILL HAS THE KEY of pump-7, which another card gets: destroy it"
        );
        let expected = "1 of 1 target is not good; destroy what was in /dev/sdb: it still has a device's key";
        assert_eq!(outcome(vec![left]).shortfall().as_deref(), Some(expected));
        let mut wiped = row(Verdict::Interrupted);
        wiped.record.key = Some(Key::Wiped);
        assert_eq!(wiped.said(), "interrupted; it boots nothing; the key of pump-7 was wiped from it");
    }
}
