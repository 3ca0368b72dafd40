//! A report as a person reads it.

use std::collections::BTreeMap;
use std::fmt;

use super::{Partition, Report};
use crate::board::raspberry_pi::chain::{Chain, Finding, clean};
use crate::disk::table::Kind;
use crate::prove::checks::Outcome;

/// A folder with more files is shown as one line.
const FOLDER_SHOWN: usize = 12;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.table {
            Kind::Gpt => "GPT",
            Kind::Mbr => "MBR",
        };
        writeln!(f, "{}  ({}, {kind}, disk {})", self.image.display(), bytes(self.size), self.disk)?;
        self.partitions.iter().try_for_each(|partition| writeln!(f, "  {}", line(partition)))?;
        files(self, f)?;
        match &self.identity[..] {
            [] => writeln!(f, "\nidentity: none, as a golden image should be")?,
            names => writeln!(f, "\nidentity: {}: this image belongs to one device", names.join(", "))?,
        }
        self.chains.iter().try_for_each(|chain| show(chain, f))?;
        if let Some(loaders) = &self.loaders {
            writeln!(f, "\nloaders: {}", loaders.files.join(", "))?;
            let root = loaders.root_uuid.as_deref().unwrap_or("-");
            writeln!(f, "root looked for: {root} ({})", loaders.config.as_deref().unwrap_or("no grub.cfg"))?;
            findings(&loaders.findings, f)?;
        }
        writeln!(f)?;
        for verdict in &self.verdicts {
            let word = match verdict.outcome {
                Outcome::Passed => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            writeln!(f, "{:<16} {word:>9}  {}", verdict.name, verdict.detail)?;
        }
        Ok(())
    }
}

fn line(partition: &Partition) -> String {
    let entry = &partition.entry;
    let mut text = format!("{}  {:>9} at {:>9}", entry.number, bytes(entry.size), bytes(entry.offset));
    match &partition.file_system {
        None => text.push_str("  unknown"),
        Some(system) => {
            text.push_str(&format!("  {:<6} {:<11} {}", system.kind, system.label, system.uuid));
            if let Some(size) = system.size {
                text.push_str(&format!(" ({})", bytes(size)));
            }
        }
    }
    text.push_str(&format!("  PARTUUID={}", entry.partuuid));
    text
}

fn files(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut folders: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for file in &report.files {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        folders.entry(folder).or_default().push((name, file.size));
    }
    writeln!(f, "\nFAT partition: {} files", report.files.len())?;
    for (folder, files) in folders {
        let folder = if folder.is_empty() { String::new() } else { format!("{}/", shown(folder)) };
        if files.len() > FOLDER_SHOWN && !folder.is_empty() {
            let sum = files.iter().map(|(_, size)| size).sum();
            writeln!(f, "  {:>9}  {folder} ({} files)", bytes(sum), files.len())?;
            continue;
        }
        for (name, size) in files {
            writeln!(f, "  {:>9}  {folder}{}", bytes(size), shown(name))?;
        }
    }
    Ok(())
}

fn show(chain: &Chain, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let names = |names: Vec<&str>| match names.is_empty() {
        true => "-".to_owned(),
        false => names.into_iter().map(clean).collect::<Vec<_>>().join(", "),
    };
    writeln!(f, "\nmodel {}", chain.model)?;
    let firmware = match chain.firmware.is_empty() {
        true => "none on the card".to_owned(),
        false => names(chain.firmware.iter().map(String::as_str).collect()),
    };
    writeln!(f, "  firmware     {firmware}")?;
    writeln!(f, "  kernel       {}", names(chain.kernel.as_deref().into_iter().collect()))?;
    writeln!(f, "  initramfs    {}", names(chain.initramfs.iter().map(|(name, _)| name.as_str()).collect()))?;
    writeln!(f, "  device tree  {}", names(chain.device_tree.as_deref().into_iter().collect()))?;
    if !chain.overlays.is_empty() {
        writeln!(f, "  overlays     {}", names(chain.overlays.iter().map(String::as_str).collect()))?;
    }
    writeln!(f, "  cmdline      {}", shown(&chain.cmdline))?;
    writeln!(f, "  {:.1} MiB read before the kernel runs", mib(chain.bytes_read))?;
    findings(&chain.findings, f)
}

fn findings(findings: &[Finding], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for finding in findings {
        writeln!(f, "  {finding}")?;
        if let Some(hint) = &finding.hint {
            writeln!(f, "    hint: {hint}")?;
        }
    }
    Ok(())
}

/// Whole, but without control characters: a file of an image may come from anybody.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..=9999 => format!("{bytes} B"),
        10_000..=0x9f_ffff => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}
