//! config.txt as the GPU's firmware reads it on one model.
//!
//! ```text
//! arm_64bit=1                          applies everywhere
//! [pi4]                                applies to model 4 …
//! [EDID=VSC-TD2220]                    … with this monitor: filters of different kinds add up
//! [pi3]                                … of the same kind replace each other
//! [all]                                everywhere again
//! initramfs initrd.img followkernel    no equals sign
//! include other.txt                    is read as if it stood here, filters and all
//! ```
//! Source: Raspberry Pi's documentation, "config.txt": file format, conditional filters, boot options, and part 3 of
//! "Device Trees, overlays, and parameters". What only a running device knows (monitors, GPIO levels, serial number, a
//! `tryboot` restart) counts as not so.

use std::collections::BTreeMap;

use super::model::facts;
use crate::board::files::Files;
use crate::finding::{Finding, clean};
use crate::recipe::types::Model;

/// The name of the file.
pub(crate) const NAME: &str = "config.txt";

/// Characters of a line that the firmware reads.
const LINE_MAX: usize = 98;
/// Files that may include each other in a row; the firmware's own limit is not documented.
const DEPTH_MAX: usize = 8;
/// Most lines that are read, files that are read (one may be read often) and findings that are told: no text must take
/// for ever.
const LINES_MAX: usize = 20_000;
const FILES_MAX: usize = 64;
const FINDINGS_MAX: usize = 50;
/// Most bytes of one file; real ones have a few thousand.
const BYTES_MAX: u64 = 1 << 20;

/// Names in brackets that mean a kind of board, all that the documentation lists.
const BOARDS: &[&str] = &[
    "pi0", "pi0w", "pi02", "pi1", "pi2", "pi3", "pi3+", "pi4", "pi400", "pi5", "pi500", "cm0", "cm1", "cm3",
    "cm3+", "cm4", "cm4s", "cm5",
];

/// What config.txt sets on one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    settings: BTreeMap<String, String>,
    /// Files for the initramfs, joined in memory, and where to.
    pub initramfs: Option<(Vec<String>, Placement)>,
    /// Device tree overlays in order, each with its parameters.
    pub overlays: Vec<Overlay>,
    /// Parameters of the device tree itself.
    pub parameters: Vec<String>,
    /// The files that were read, with their sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// One `dtoverlay=` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// `vc4-kms-v3d`, without ending.
    pub name: String,
    /// Its parameters, those of `dtparam=` lines below it included.
    pub parameters: Vec<String>,
}

/// Where an initramfs goes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placement {
    /// Behind the kernel.
    FollowKernel,
    /// At this address.
    Address(u64),
}

impl Config {
    /// The last value of a setting that applies.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    /// A setting as a number; as the firmware does it, what is no number is 0.
    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        self.get(key).map(|value| number(value).unwrap_or(0))
    }

    /// Is a setting on?
    pub(crate) fn on(&self, key: &str) -> bool {
        self.number(key).is_some_and(|value| value != 0)
    }
}

/// Reads config.txt and what it includes; without the file nothing is set.
pub(crate) fn read(files: &dyn Files, model: Model) -> Config {
    let mut reader = Reader {
        files,
        model,
        filters: Filters::default(),
        config: Config::default(),
        lines: 0,
        in_overlay: false,
    };
    reader.file(NAME, &mut Vec::new());
    reader.config
}

/// Filters by kind: one of a kind replaces the one before.
#[derive(Default)]
struct Filters {
    kinds: BTreeMap<&'static str, bool>,
}

struct Reader<'a> {
    files: &'a dyn Files,
    model: Model,
    filters: Filters,
    config: Config,
    lines: usize,
    /// A `dtparam=` line belongs to the overlay above it.
    in_overlay: bool,
}

impl Reader<'_> {
    /// False when there is no such file.
    fn file(&mut self, name: &str, above: &mut Vec<String>) -> bool {
        let size = self.files.size(name).unwrap_or(0);
        if size > BYTES_MAX || self.config.files.len() >= FILES_MAX {
            self.find(Finding::error(format!("{} is too long, or the last of too many files", clean(name))));
            return true;
        }
        let Some(bytes) = self.files.read(name) else { return false };
        self.config.files.push((name.to_owned(), bytes.len() as u64));
        above.push(name.to_ascii_lowercase());
        for (at, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            self.lines += 1;
            if self.lines > LINES_MAX {
                break;
            }
            self.line(line.trim_start_matches('\u{feff}').trim(), &format!("{name}:{}", at + 1), above);
        }
        above.pop();
        true
    }

    fn line(&mut self, line: &str, place: &str, above: &mut Vec<String>) {
        if line.is_empty() || line.starts_with('#') {
            return;
        }
        if let Some(filter) = line.strip_prefix('[') {
            let filter = filter.split_once(']').map_or(filter, |(filter, _)| filter);
            return self.filter(filter.trim(), place);
        }
        if self.filters.kinds.values().any(|applies| !applies) {
            return;
        }
        let line = match line.char_indices().nth(LINE_MAX) {
            None => line,
            Some((end, _)) => {
                let message = format!(
                    "{place} has {} characters: the firmware cuts it after {LINE_MAX}",
                    line.chars().count()
                );
                self.find(
                    Finding::error(message).hint("shorten the line, or split it (dtparam= may be repeated)"),
                );
                &line[..end]
            }
        };
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("include"), Some(name), _) => self.include(name, place, above),
            (Some("initramfs"), Some(names), at) => self.initramfs(names, at),
            _ => match line.split_once('=') {
                Some((key, value)) => self.setting(key, value, place),
                None => {
                    let message = format!("{place} is neither a setting nor a filter: {}", clean(line));
                    self.find(Finding::warning(message).hint("write key=value, without spaces"));
                }
            },
        }
    }

    fn include(&mut self, name: &str, place: &str, above: &mut Vec<String>) {
        if above.len() >= DEPTH_MAX || above.contains(&name.to_ascii_lowercase()) {
            let message = format!("{place} includes {}, which includes itself or goes too deep", clean(name));
            return self.find(Finding::error(message));
        }
        if !self.file(name, above) {
            self.find(Finding::warning(format!("{place} includes {}, which is missing", clean(name))));
        }
    }

    fn initramfs(&mut self, names: &str, at: Option<&str>) {
        let placement = match at.and_then(number).and_then(|address| u64::try_from(address).ok()) {
            // `followkernel` is no number, and 0 means the same.
            None | Some(0) => Placement::FollowKernel,
            Some(address) => Placement::Address(address),
        };
        self.config.initramfs = Some((list(names), placement));
    }

    fn setting(&mut self, key: &str, value: &str, place: &str) {
        if key != key.trim_end() || value != value.trim_start() {
            let message =
                format!("{place} has a space at its equals sign: the firmware takes it for part of the name");
            return self.find(Finding::warning(message).hint("write key=value, without spaces"));
        }
        match key {
            "dtoverlay" => self.overlay(value),
            "dtparam" => {
                let parameters = match (self.in_overlay, self.config.overlays.last_mut()) {
                    (true, Some(overlay)) => &mut overlay.parameters,
                    _ => &mut self.config.parameters,
                };
                parameters.extend(list(value));
            }
            "ramfsfile" => {
                let at = self.config.number("ramfsaddr").and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
                let placement = if at == 0 { Placement::FollowKernel } else { Placement::Address(at) };
                self.config.initramfs = Some((list(value), placement));
            }
            "initramfs" | "include" => {
                let message =
                    format!("{place} writes `{key}` with an equals sign: the firmware does not read that");
                self.find(Finding::error(message).hint(format!("write: {key} {}", clean(value))));
            }
            _ => {
                self.config.settings.insert(key.to_owned(), value.to_owned());
            }
        }
    }

    /// `dtoverlay=name,parameter,…`; without a name the parameters below belong to the device tree again.
    fn overlay(&mut self, value: &str) {
        let mut parts = list(value).into_iter();
        let name = parts.next();
        self.in_overlay = name.is_some();
        if let Some(name) = name {
            self.config.overlays.push(Overlay { name, parameters: parts.collect() });
        }
    }

    fn filter(&mut self, filter: &str, place: &str) {
        let facts = facts(self.model);
        let kinds = &mut self.filters.kinds;
        let lower = filter.to_ascii_lowercase();
        let (key, value) = lower.split_once('=').unwrap_or((&lower, ""));
        let board = BOARDS.contains(&key);
        match key {
            "all" => kinds.clear(),
            "none" => drop(kinds.insert("none", false)),
            _ if board => drop(kinds.insert("board", facts.filters.contains(&key))),
            "board-type" => drop(kinds.insert("board", number(value) == Some(i64::from(facts.board_type)))),
            "tryboot" => drop(kinds.insert("tryboot", false)),
            // The firmware reads the first FAT partition.
            "boot_partition" | "partition" => drop(kinds.insert("partition", number(value) == Some(1))),
            "edid" => drop(kinds.insert("edid", false)),
            _ if key.starts_with("gpio") => drop(kinds.insert("gpio", false)),
            // Chooses the port that settings are for, not whether they apply.
            _ if key.starts_with("hdmi:") => {}
            _ if key.starts_with("0x") => drop(kinds.insert("serial", false)),
            _ => {
                kinds.insert("unknown", false);
                let message = format!("{place} has a filter that no firmware knows: [{}]", clean(filter));
                self.find(
                    Finding::warning(message).hint("filters are for example [all], [pi4], [pi02], [cm4]"),
                );
            }
        }
    }

    fn find(&mut self, finding: Finding) {
        if self.config.findings.len() < FINDINGS_MAX && !self.config.findings.contains(&finding) {
            self.config.findings.push(finding);
        }
    }
}

/// Names separated by commas.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Decimal or `0x` numbers.
fn number(text: &str) -> Option<i64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, NAME, Overlay, Placement, read};
    use crate::disk::fat::FatFile;
    use crate::recipe::types::Model;

    fn with(model: Model, files: &[(&str, &str)]) -> Config {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| FatFile { path: (*path).into(), content: text.as_bytes().to_vec() })
            .collect();
        read(&&files[..], model)
    }

    fn on(model: Model, text: &str) -> Config {
        with(model, &[(NAME, text)])
    }

    #[test]
    fn filters() {
        for (text, expected) in [
            ("kernel=a\n[pi4]\nkernel=b\n", ["a", "b", "a", "a"]),
            ("kernel=a\n[pi3]\n[pi4]\nkernel=b\n", ["a", "b", "a", "a"]),
            ("kernel=a\n[pi0]\nkernel=b\n[pi02]\nkernel=c\n", ["a", "a", "a", "c"]),
            ("kernel=a\n[pi3+]\nkernel=b\n[cm4]\nkernel=c\n[pi400]\nkernel=c\n", ["a", "a", "a", "a"]),
            ("kernel=a\n[none]\nkernel=b\n[pi4]\nkernel=c\n", ["a", "a", "a", "a"]),
            ("kernel=a\n[none]\n[all]\nkernel=b\n", ["b", "b", "b", "b"]),
            ("kernel=a\n[board-type=0x11]\nkernel=b\n", ["a", "b", "a", "a"]),
            ("kernel=a\n[EDID=VSC-TD2220]\n[pi4]\nkernel=b\n", ["a", "a", "a", "a"]),
            ("kernel=a\n[gpio4=1]\nkernel=b\n[all]\n[pi5]\nkernel=c\n", ["a", "a", "c", "a"]),
            ("kernel=a\n[tryboot]\nkernel=b\n", ["a", "a", "a", "a"]),
            ("kernel=a\n[boot_partition=1]\nkernel=b\n[boot_partition=2]\nkernel=c\n", ["b", "b", "b", "b"]),
            ("kernel=a\n[HDMI:0]\nkernel=b\n[0x12345678]\nkernel=c\n", ["b", "b", "b", "b"]),
        ] {
            let found = [Model::Pi3, Model::Pi4, Model::Pi5, Model::Zero2].map(|model| on(model, text));
            assert_eq!(found.each_ref().map(|config| config.get("kernel").expect("set")), expected, "{text}");
            assert!(found.iter().all(|config| config.findings.is_empty()), "{text}: {found:?}");
        }
        let config = on(Model::Pi4, "[pi9]\nkernel=b\n");
        assert_eq!(config.get("kernel"), None);
        assert_eq!(config.findings[0].message, "config.txt:1 has a filter that no firmware knows: [pi9]");
    }

    #[test]
    fn settings_and_what_looks_like_them() {
        let config = on(
            Model::Pi4,
            "\u{feff}# arm_64bit=0\r\n  arm_64bit=1\r\ngpu_mem=0x10\nkernel=one\nkernel=two\nhdmi_mode:1=4\nempty=\nnonsense\n\
             bad = 1\ninitramfs=initrd.img followkernel\n",
        );
        assert!(config.on("arm_64bit") && !config.on("empty") && !config.on("bad"));
        assert_eq!((config.number("gpu_mem"), config.get("kernel")), (Some(16), Some("two")));
        assert_eq!(config.get("hdmi_mode:1"), Some("4"));
        let said: Vec<_> = config.findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "config.txt:8 is neither a setting nor a filter: nonsense",
                "config.txt:9 has a space at its equals sign: the firmware takes it for part of the name",
                "config.txt:10 writes `initramfs` with an equals sign: the firmware does not read that",
            ]
        );
        assert_eq!(config.findings[2].hint.as_deref(), Some("write: initramfs initrd.img followkernel"));
        assert_eq!(with(Model::Pi4, &[]), Config::default());
    }

    #[test]
    fn initramfs_and_where_to() {
        for (line, names, placement) in [
            ("initramfs initrd.img followkernel", &["initrd.img"][..], Placement::FollowKernel),
            ("initramfs initrd.img 0", &["initrd.img"], Placement::FollowKernel),
            ("initramfs initrd.img", &["initrd.img"], Placement::FollowKernel),
            ("initramfs a.gz,b.gz 0x00800000", &["a.gz", "b.gz"], Placement::Address(0x80_0000)),
            ("ramfsaddr=0x1000\nramfsfile=a", &["a"], Placement::Address(0x1000)),
        ] {
            let (found, at) = on(Model::Pi3, line).initramfs.expect("an initramfs");
            assert_eq!(
                (found.iter().map(String::as_str).collect::<Vec<_>>(), at),
                (names.to_vec(), placement)
            );
        }
    }

    #[test]
    fn overlays_take_the_parameters_below_them() {
        let config = on(
            Model::Pi4,
            "dtparam=i2c_arm=on,spi=on\ndtoverlay=i2c-rtc,ds3231\ndtparam=wakeup-source\ndtoverlay=\ndtparam=audio=on\n",
        );
        assert_eq!(config.parameters, ["i2c_arm=on", "spi=on", "audio=on"]);
        let rtc =
            Overlay { name: "i2c-rtc".into(), parameters: vec!["ds3231".into(), "wakeup-source".into()] };
        assert_eq!(config.overlays, [rtc]);
    }

    #[test]
    fn long_lines_are_cut() {
        let line = format!("kernel={}", "k".repeat(100));
        let config = on(Model::Pi4, &line);
        assert_eq!(config.get("kernel"), Some(&*"k".repeat(91)));
        assert_eq!(
            config.findings[0].message,
            "config.txt:1 has 107 characters: the firmware cuts it after 98"
        );
        assert!(on(Model::Pi4, &format!("#{line}\n[pi3]\n{line}")).findings.is_empty());
        let wide = format!("kernel={}", "é".repeat(100));
        assert_eq!(on(Model::Pi4, &wide).get("kernel"), Some(&*"é".repeat(91)));
    }

    #[test]
    fn included_files_stand_where_they_are_named() {
        let config = with(
            Model::Pi4,
            &[
                (
                    NAME,
                    "[pi3]\ninclude none.txt\n[pi4]\ninclude Mine.TXT\nkernel=c\n[all]\ninclude none.txt\n",
                ),
                ("mine.txt", "kernel=a\nfirst=1\n[pi3]\n"),
            ],
        );
        assert_eq!((config.get("kernel"), config.on("first")), (Some("a"), true));
        assert_eq!(config.findings[0].message, "config.txt:7 includes none.txt, which is missing");
        assert_eq!(config.files.len(), 2);
        let config =
            with(Model::Pi4, &[(NAME, "include a.txt\n"), ("a.txt", "include config.txt\nkernel=a\n")]);
        assert_eq!(config.get("kernel"), Some("a"));
        assert!(config.findings[0].message.contains("includes itself"), "{config:?}");
        // Each of eight files names the next one a hundred times: that ends too.
        let names: Vec<_> = (0..8).map(|at| format!("{at}.txt")).collect();
        let texts: Vec<_> = (1..9).map(|at| format!("include {at}.txt\n").repeat(100)).collect();
        let mut files: Vec<_> =
            names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())).collect();
        files.push((NAME, "include 0.txt\n"));
        with(Model::Pi4, &files);
    }

    #[test]
    fn garbage_is_read_without_harm() {
        let sound: &[u8] =
            b"[pi4]\r\ninclude x\ninitramfs a,b 0x10\ndtoverlay=a,b\nkernel=\xc3\xa9\n[board-type=0x11]\n";
        for cut in 0..sound.len() {
            for byte in [0, b'[', b'=', b'\n', 0xff] {
                let mut bytes = sound.to_vec();
                bytes[cut] = byte;
                bytes.truncate(sound.len() - cut / 2);
                let files = [FatFile { path: NAME.into(), content: bytes }];
                read(&&files[..], Model::Pi4);
            }
        }
    }
}
