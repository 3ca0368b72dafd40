//! A comparison as a person reads it: bounded, the whole is in the JSON.

use std::fmt;

use super::{Change, Changed, Comparison, Files};
use crate::inspect::text::shown;

/// Lines of one kind that are shown.
const MOST: usize = 20;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = &self.images;
        if self.identical {
            writeln!(f, "{} and {} are bit-identical ({} bytes)", a.display(), b.display(), self.sizes[0])?;
            return forms(self, f);
        }
        writeln!(f, "a  {}\nb  {}", a.display(), b.display())?;
        forms(self, f)?;
        let changes = self.tables.iter().map(|change| format!("{}: {}", change.what, sides(change)));
        section(f, "partition tables and file systems", &changes.collect::<Vec<_>>())?;
        files(f, "FAT partition", &self.fat)?;
        files(f, "root", &self.root)?;
        let packages = self.packages.iter().map(|change| match (&change.a, &change.b) {
            (Some(a), Some(b)) => format!("~ {} {a} -> {b}", change.package),
            (Some(a), None) => format!("- {} {a}", change.package),
            (None, b) => format!("+ {} {}", change.package, b.as_deref().unwrap_or_default()),
        });
        section(f, "packages", &packages.collect::<Vec<_>>())?;
        let containers =
            self.container_images.iter().map(|change| format!("{}: {}", change.what, sides(change)));
        section(f, "container images in the engine's store", &containers.collect::<Vec<_>>())?;
        if self.tables.is_empty()
            && self.fat.is_empty()
            && self.root.is_empty()
            && self.container_images.is_empty()
            && self.not_compared.is_empty()
        {
            writeln!(
                f,
                "\nall files are equal, those of the root with their times, owners and modes; what differs lies outside of them"
            )?;
        }
        let bytes = self.bytes.iter().map(|region| {
            let first = region.ranges.first().copied().unwrap_or_default();
            let count = region.ranges.len();
            let more = if count > 1 { format!(", {count} ranges") } else { String::new() };
            format!("{}: {} KiB from byte {}{more}", region.place, region.bytes.div_ceil(1024), first.0)
        });
        section(f, "bytes that differ, in blocks of 4 KiB", &bytes.collect::<Vec<_>>())?;
        section(f, "not compared file by file", &self.not_compared)
    }
}

fn forms(found: &Comparison, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match found.containers {
        [a, b] if a != b => writeln!(f, "(one is a {a}, the other a {b}: the disks in them are compared)"),
        _ => Ok(()),
    }
}

fn sides(change: &Change) -> String {
    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".into());
    format!("{} -> {}", side(&change.a), side(&change.b))
}

fn files(f: &mut fmt::Formatter<'_>, name: &str, files: &Files) -> fmt::Result {
    let mut lines: Vec<String> = files.removed.iter().map(|path| format!("- {path}")).collect();
    lines.extend(files.added.iter().map(|path| format!("+ {path}")));
    // Where little else differs, times do: what differs in nothing else comes last.
    let only_time = |changed: &&Changed| changed.changes.iter().all(|change| change.what == "time");
    let (times, others): (Vec<_>, Vec<_>) = files.changed.iter().partition(only_time);
    lines.extend(others.into_iter().chain(times).map(|changed| {
        let change = |change: &Change| match change.what.as_str() {
            "sha256" => "content".to_owned(),
            what => format!("{what} {}", sides(change)),
        };
        let changes: Vec<_> = changed.changes.iter().map(change).collect();
        format!("~ {}: {}", changed.path, changes.join(", "))
    }));
    section(f, &format!("files of the {name}"), &lines)
}

fn section(f: &mut fmt::Formatter<'_>, name: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{name} ({})", lines.len())?;
    lines.iter().take(MOST).try_for_each(|line| writeln!(f, "  {}", shown(line)))?;
    if lines.len() > MOST {
        writeln!(f, "  … and {} more (--json has all)", lines.len() - MOST)?;
    }
    Ok(())
}
