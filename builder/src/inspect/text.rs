//! A report as a person reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::system::{Config, ContainerImages, System};
use super::{Partition, Report};
use crate::board::raspberry_pi::chain::Chain;
use crate::disk::table::TableKind;
use crate::finding::{Finding, clean};
use crate::format::Container;
use crate::units::counted;
use crate::verdict::Check;

/// A folder with more files is shown as one line.
const FOLDER_SHOWN: usize = 12;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.table {
            TableKind::Gpt => "GPT",
            TableKind::Mbr => "MBR",
        };
        let form = match self.container {
            Container::Raw => String::new(),
            container => format!("{container} of {}, ", bytes(self.packed)),
        };
        writeln!(f, "{}  ({form}{}, {kind}, disk {})", self.image.display(), bytes(self.size), self.disk)?;
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
        if let Some(system) = &self.system {
            installed(system, self.list_packages, f)?;
        }
        meant(self, f)?;
        if let Some(points) = &self.azure {
            writeln!(f, "\nfor Azure")?;
            points.iter().try_for_each(|point| show_point(point, f))?;
        }
        writeln!(f)?;
        self.verdicts.iter().try_for_each(|verdict| show_verdict(verdict, f))
    }
}

/// A verdict; several faults stand one below the other.
fn show_verdict(verdict: &Check, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut lines = verdict.detail.lines();
    let first = shown(lines.next().unwrap_or_default());
    writeln!(f, "{:<16} {}  {first}", verdict.name, verdict.outcome.word(9, f.alternate()))?;
    lines.try_for_each(|line| writeln!(f, "{:<26}  {}", "", shown(line)))
}

fn show_point(point: &Check, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "  {:<20} {}  {}", point.name, point.outcome.word(7, f.alternate()), shown(&point.detail))
}

/// What a recipe may have brought on purpose.
fn meant(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let meant: Vec<_> = report.leaks.iter().filter(|leak| leak.perhaps_meant()).collect();
    if meant.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nto be known: right if the recipe brings it, for only the recipe tells")?;
    meant.iter().try_for_each(|leak| writeln!(f, "  {}: {}", shown(leak.path()), leak.finding.message))
}

/// What is installed on the root.
fn installed(system: &System, list: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let name = system.os_release.get("PRETTY_NAME").map_or("unknown", String::as_str);
    writeln!(f, "\nsystem       {}", shown(name))?;
    for kernel in &system.kernels {
        let boots = if kernel.boots { "  (boots)" } else { "" };
        writeln!(f, "kernel       {}{boots}", shown(&kernel.version))?;
    }
    for (name, packages) in [("engine", &system.engine), ("runtime", &system.runtime)] {
        if !packages.is_empty() {
            let packages: Vec<_> =
                packages.iter().map(|one| format!("{} {}", one.name, one.version)).collect();
            writeln!(f, "{name:<12} {}", shown(&packages.join(", ")))?;
        }
    }
    match &system.container_images {
        ContainerImages::CannotBeRead { cannot_be_read: why } => writeln!(f, "containers   {}", shown(why))?,
        ContainerImages::Known(known) if known.is_empty() => {}
        ContainerImages::Known(known) => {
            let ids: BTreeSet<&String> = known.values().collect();
            writeln!(f, "containers   {} in the engine's store", counted(ids.len() as u64, "image"))?;
            for (name, id) in known {
                writeln!(f, "  {}  {}", shown(id), shown(name))?;
            }
        }
    }
    let more = if list { "" } else { "  (--packages lists them)" };
    writeln!(f, "packages     {}{more}", system.packages.len())?;
    for package in system.packages.iter().filter(|_| list) {
        let line = format!("{:<36} {:<6} {}", package.name, package.architecture, package.version);
        writeln!(f, "  {}", shown(&line))?;
    }
    for package in &system.unfinished {
        writeln!(f, "  not whole: {}", shown(package))?;
    }
    units(system, f)?;
    let id = system.first_boot.registration_id.as_deref().map_or_else(String::new, |id| format!(" as {id}"));
    let marks = match system.first_boot.marks.is_empty() {
        true => String::new(),
        false => format!("  ({})", system.first_boot.marks.join(", ")),
    };
    writeln!(f, "first boot   {}{}", system.first_boot.state, shown(&format!("{id}{marks}")))?;
    match &system.config {
        None => Ok(()),
        Some(Config::CannotBeRead { cannot_be_read: why }) => {
            writeln!(f, "\n/etc/aziot/config.toml cannot be read: {}", shown(why))
        }
        Some(Config::Masked(table)) => {
            writeln!(f, "\n/etc/aziot/config.toml, without comments, secrets masked")?;
            let text = toml::to_string(table).unwrap_or_default();
            text.lines().try_for_each(|line| writeln!(f, "{}", format!("  {}", shown(line)).trim_end()))
        }
    }
}

/// Enabled units by what starts them.
fn units(system: &System, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for unit in system.units.iter().filter(|unit| unit.enabled) {
        by.entry(&unit.by).or_default().push(&unit.unit);
    }
    let enabled: usize = by.values().map(Vec::len).sum();
    let others = system.units.len() - enabled;
    writeln!(f, "units        {enabled} enabled; {others} more that packages start always")?;
    for (by, units) in by {
        writeln!(f, "  {}: {}", shown(by), shown(&units.join(" ")))?;
    }
    match &system.masked[..] {
        [] => Ok(()),
        masked => writeln!(f, "  masked: {}", shown(&masked.join(" "))),
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
                let used =
                    system.free.map_or_else(String::new, |free| format!("{} used of ", bytes(size - free)));
                text.push_str(&format!(" ({used}{})", bytes(size)));
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
    writeln!(f, "\nFAT partition: {}", counted(report.files.len() as u64, "file"))?;
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
        writeln!(f, "  {}: {}", finding.severity, finding.message)?;
        if let Some(hint) = &finding.hint {
            writeln!(f, "    hint: {hint}")?;
        }
    }
    Ok(())
}

/// Whole, but without control characters: a file of an image may come from anybody.
pub(crate) fn shown(text: &str) -> String {
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
