//! The kernel's command line: cmdline.txt, and what the firmware makes of it.
//!
//! Source: Raspberry Pi's documentation, "Kernel command line" and "Configure UARTs"; the kernel's
//! `Documentation/admin-guide/kernel-parameters.txt` for `root=`.

use serde::Serialize;

use crate::finding::{Finding, clean};

/// The partition that the kernel shall mount as root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RootPartition {
    /// Its number, from 1.
    pub number: u32,
    /// How many partitions the disk has.
    pub partitions: u32,
    /// As the kernel writes it: `1a2b3c4d-02`, or a GPT's GUID.
    pub partuuid: String,
    /// UUID of its file system; none when it is not known.
    pub uuid: Option<String>,
    /// Label of its file system; none when it is not known.
    pub label: Option<String>,
}

/// The one line of cmdline.txt, and whether that is all there is.
pub(crate) fn line(text: &str, name: &str) -> (String, Option<Finding>) {
    let mut lines =
        text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    let finding = if first.is_empty() {
        Some(
            Finding::error(format!("{name} is empty"))
                .hint("it must name the root partition: root=PARTUUID=…"),
        )
    } else {
        lines.next().map(|_| {
            Finding::error(format!("{name} has more than one line: the kernel gets only the first"))
                .hint("write all arguments into one line")
        })
    };
    (first, finding)
}

/// The value of the last argument with this name.
pub(crate) fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The names of the consoles, in order, without their speeds.
pub(crate) fn consoles(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
        .filter_map(|word| word.strip_prefix("console="))
        .map(|console| console.split(',').next().unwrap_or(console))
}

/// As the firmware hands it to the kernel: `serial0` and `serial1` become the names of the ports.
pub(crate) fn with_ports(line: &str, serial0: &str, serial1: &str) -> String {
    let port = |word: &str| {
        for (alias, name) in [("serial0", serial0), ("serial1", serial1)] {
            for key in ["console=", "kgdboc="] {
                let rest = word.strip_prefix(key).and_then(|value| value.strip_prefix(alias));
                if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(',')) {
                    return format!("{key}{name}{rest}");
                }
            }
        }
        word.to_owned()
    };
    line.split_whitespace().map(port).collect::<Vec<_>>().join(" ")
}

/// What is wrong with `root=` and what goes with it.
pub(crate) fn check(line: &str, initramfs: bool, root: Option<&RootPartition>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match value(line, "root") {
        None => findings.push(
            Finding::error("the kernel's command line names no root partition")
                .hint("add root=PARTUUID=<disk id>-02 to cmdline.txt"),
        ),
        Some(value) => findings.extend(root_finding(value, initramfs, root)),
    }
    let waits = line.split_whitespace().any(|word| word == "rootwait" || word.starts_with("rootdelay="));
    if !initramfs && !waits {
        findings.push(
            Finding::error(
                "the kernel's command line has no `rootwait`, and there is no initramfs: the kernel looks for its root \
                 before the card is there",
            )
            .hint("add rootwait to cmdline.txt"),
        );
    }
    findings
}

fn root_finding(value: &str, initramfs: bool, root: Option<&RootPartition>) -> Option<Finding> {
    let shown = clean(value);
    if let Some(number) = value.strip_prefix("/dev/mmcblk").and_then(|rest| rest.split_once('p')) {
        let number = number.1.parse::<u32>().ok();
        return match root {
            Some(root) if number != Some(root.number) => Some(absent(&shown, number, root)),
            _ => Some(
                Finding::warning(format!(
                    "root={shown} names a place, not a partition: it fails on a USB drive"
                ))
                .hint("write root=PARTUUID=<disk id>-02"),
            ),
        };
    }
    let (kind, id) = value.split_once('=').unwrap_or(("", value));
    let known = match (kind, root) {
        (_, None) => return None,
        ("PARTUUID", Some(root)) => {
            if id.eq_ignore_ascii_case(&root.partuuid) {
                return None;
            }
            return Some(partuuid(&shown, id, root));
        }
        ("UUID", Some(root)) => root.uuid.as_deref(),
        ("LABEL", Some(root)) => root.label.as_deref(),
        _ => return None,
    };
    if !initramfs {
        let message =
            format!("root={shown} means a file system, which only an initramfs can find, and there is none");
        return Some(Finding::error(message).hint("write root=PARTUUID=<disk id>-02"));
    }
    let known = known?;
    (!id.eq_ignore_ascii_case(known)).then(|| {
        Finding::error(format!("root={shown} does not exist: the root file system's {kind} is {known}"))
            .hint(format!("write root={kind}={known}"))
    })
}

fn partuuid(shown: &str, id: &str, root: &RootPartition) -> Finding {
    let disk =
        |id: &str| id.rsplit_once('-').map(|(disk, number)| (disk.to_ascii_lowercase(), number.to_owned()));
    match (disk(id), disk(&root.partuuid)) {
        (Some((disk, number)), Some((ours, _))) if disk == ours => {
            absent(shown, u32::from_str_radix(&number, 16).ok(), root)
        }
        _ => Finding::error(format!(
            "root={shown} is on another disk: the root partition is {}",
            root.partuuid
        ))
        .hint(format!("write root=PARTUUID={}", root.partuuid)),
    }
}

fn absent(shown: &str, number: Option<u32>, root: &RootPartition) -> Finding {
    let what = match number {
        Some(number) if (1..=root.partitions).contains(&number) => "is not the root partition".to_owned(),
        _ => format!("does not exist: the disk has {} partitions", root.partitions),
    };
    Finding::error(format!("root={shown} {what}; the root partition is number {}", root.number))
        .hint(format!("write root=PARTUUID={}", root.partuuid))
}

#[cfg(test)]
mod tests {
    use super::{RootPartition, check, consoles, line, with_ports};
    use crate::finding::Severity;

    fn root() -> RootPartition {
        RootPartition {
            number: 2,
            partitions: 2,
            partuuid: "1a2b3c4d-02".into(),
            uuid: Some("496e403c-81de-48e8-a48c-5de5248addec".into()),
            label: Some("root".into()),
        }
    }

    #[test]
    fn roots() {
        use Severity::{Error, Warning};
        for (value, initramfs, expected) in [
            ("PARTUUID=1a2b3c4d-02", true, None),
            ("PARTUUID=1A2B3C4D-02", false, None),
            ("PARTUUID=1a2b3c4d-01", true, Some((Error, "is not the root partition"))),
            ("PARTUUID=1a2b3c4d-03", true, Some((Error, "does not exist: the disk has 2 partitions"))),
            ("PARTUUID=1a2b3c4d-zz", true, Some((Error, "does not exist"))),
            (
                "PARTUUID=99999999-02",
                true,
                Some((Error, "on another disk: the root partition is 1a2b3c4d-02")),
            ),
            ("PARTUUID=", true, Some((Error, "on another disk"))),
            ("UUID=496e403c-81de-48e8-a48c-5de5248addec", true, None),
            ("UUID=496e403c-81de-48e8-a48c-5de5248addec", false, Some((Error, "only an initramfs"))),
            ("UUID=0", true, Some((Error, "the root file system's UUID is 496e403c"))),
            ("LABEL=root", true, None),
            ("LABEL=other", true, Some((Error, "the root file system's LABEL is root"))),
            ("/dev/mmcblk0p2", true, Some((Warning, "names a place"))),
            ("/dev/mmcblk0p3", true, Some((Error, "does not exist"))),
            ("/dev/mmcblk0p1", true, Some((Error, "is not the root"))),
            ("/dev/nfs", true, None),
        ] {
            let found = check(&format!("quiet root={value} rootwait"), initramfs, Some(&root()));
            assert_eq!(found.first().map(|finding| finding.severity), expected.map(|(s, _)| s), "{value}");
            let said = found.first().map_or("", |finding| &finding.message);
            assert!(said.contains(expected.map_or("", |(_, words)| words)), "{value}: {said}");
        }
        assert!(check("root=PARTUUID=99999999-02", true, None).is_empty());
        assert!(check("quiet", true, None)[0].message.contains("names no root partition"));
    }

    #[test]
    fn waiting_for_the_card() {
        assert!(check("root=PARTUUID=1a2b3c4d-02", true, None).is_empty());
        assert!(check("root=PARTUUID=1a2b3c4d-02 rootwait", false, None).is_empty());
        let found = check("root=PARTUUID=1a2b3c4d-02", false, None);
        assert!(found[0].message.contains("has no `rootwait`"), "{found:?}");
    }

    #[test]
    fn one_line() {
        assert_eq!(line("a b\n", "cmdline.txt"), ("a b".into(), None));
        assert_eq!(line(" \r\n\r\na b\r\n\r\n", "cmdline.txt"), ("a b".into(), None));
        let (first, finding) = line("a\nb\n", "cmdline.txt");
        assert_eq!(first, "a");
        assert!(finding.expect("two lines").message.contains("more than one line"));
        assert_eq!(line("", "c").1.expect("empty").message, "c is empty");
    }

    #[test]
    fn ports() {
        let text = with_ports(
            "console=serial0,115200 console=tty1 kgdboc=serial1 x=serial0 console=serial01",
            "ttyS0",
            "ttyAMA0",
        );
        assert_eq!(text, "console=ttyS0,115200 console=tty1 kgdboc=ttyAMA0 x=serial0 console=serial01");
        assert_eq!(consoles(&text).collect::<Vec<_>>(), ["ttyS0", "tty1", "serial01"]);
    }
}
