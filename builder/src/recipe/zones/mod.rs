//! Time zones by name, so that a slip is found before anything is built.
//!
//! The lists are those of Debian 13's packages, 2026f: `current.txt` of tzdata, `old.txt` of tzdata-legacy (what tz calls
//! `backward`: names by countries, and places renamed). Debian 12 and Ubuntu 22.04 have both in tzdata. A zone that is
//! newer than the lists is looked for among the names that tz itself has on the machine that checks, never among its files:
//! the folder has more, as `localtime`, `posixrules`, `right/UTC`. The tree has the last word (`rootfs`).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::load::Loaded;
use super::types::{Distribution, DistributionId};
use crate::finding::{Finding, nearest};

const CURRENT: &str = include_str!("current.txt");
const OLD: &str = include_str!("old.txt");
/// All of tz in one text (zic(8)), as Debian has it since 10.
const SOURCE: &str = "/usr/share/zoneinfo/tzdata.zi";
/// It has 100 KiB.
const LARGEST_SOURCE: u64 = 4 << 20;
/// A name of tz that is no place: that of a clock which nobody has set.
const FACTORY: &str = "Factory";
/// How every file of a zone begins (RFC 9636, 3.1).
pub(crate) const MAGIC: &[u8] = b"TZif";
/// Folder of the zones.
pub(crate) const FOLDER: &str = "/usr/share/zoneinfo";
/// Folders with all zones once more, as they are and with leap seconds.
const COPIES: [&str; 2] = ["posix/", "right/"];
/// What a recipe may state.
pub(crate) const EXPECTED: &str = "a name as in /usr/share/zoneinfo, for example `Europe/Berlin`; for a fixed offset, \
    `Etc/GMT-2` is two hours ahead of UTC";
/// Where an old name comes from.
pub(crate) const OLD_HINT: &str = "it is an old name: add the package tzdata-legacy to packages.install, or take the name of \
    the zone's largest city";
const LEGACY: &str = "tzdata-legacy";

/// Is it UTC by one of its names?
pub(crate) fn is_utc(zone: &str) -> bool {
    ["Etc/UTC", "UTC", "Etc/UCT", "Etc/Universal", "Etc/Zulu", "UCT", "Universal", "Zulu"].contains(&zone)
}

/// Is it a name that tzdata-legacy has, where there is such a package?
pub(crate) fn is_old(zone: &str) -> bool {
    OLD.lines().any(|old| old == zone)
}

/// The zone's name in what /etc/localtime leads to.
pub(crate) fn of_target(target: &Path) -> Option<String> {
    let target = target.to_str()?;
    target.split_once("zoneinfo/").map(|(_, name)| name.to_owned())
}

fn current() -> impl Iterator<Item = &'static str> {
    CURRENT.lines().filter(|zone| *zone != FACTORY)
}

fn is_known(zone: &str) -> bool {
    is_old(zone) || current().any(|current| current == zone)
}

/// Is it a name of this machine's tz?
fn is_newer(zone: &str) -> bool {
    let mut text = String::new();
    let read = File::open(SOURCE).and_then(|file| file.take(LARGEST_SOURCE).read_to_string(&mut text));
    read.is_ok() && is_named_in(&text, zone)
}

/// `Z NAME OFFSET …` makes a zone, `L TARGET NAME` another name of one (zic(8)).
fn is_named_in(source: &str, zone: &str) -> bool {
    let name = |line: &str| {
        let mut words = line.split(' ');
        match words.next() {
            Some("Z") => words.next() == Some(zone),
            Some("L") => words.nth(1) == Some(zone),
            _ => false,
        }
    };
    zone != FACTORY && source.lines().any(name)
}

/// The nearest name, or that of which it is a copy.
fn meant(zone: &str) -> Option<&str> {
    let copied = COPIES.into_iter().find_map(|folder| zone.strip_prefix(folder));
    copied.filter(|zone| is_known(zone)).or_else(|| nearest(zone, current()))
}

/// Old names are in a package of their own from Debian 13 and Ubuntu 24.04 on.
fn has_legacy(os: &Distribution) -> bool {
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    let (major, minor) = os.release.split_once('.').unwrap_or((&os.release, "0"));
    match os.id {
        DistributionId::Debian | DistributionId::RaspberryPiOs => number(major) >= 13,
        DistributionId::Ubuntu => (number(major), number(minor)) >= (24, 4),
    }
}

/// Does the recipe's distribution have its time zone?
pub(crate) fn check(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let zone = &recipe.system.timezone;
    let place = loaded.place("system/timezone");
    if !is_known(zone) && !is_newer(zone) {
        let error = Finding::error(format!("there is no time zone `{zone}`")).expected(EXPECTED).at(place);
        findings.push(match meant(zone) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        });
        return;
    }
    let legacy = recipe.packages.install.iter().any(|name| name.split('=').next() == Some(LEGACY));
    if is_old(zone) && has_legacy(&recipe.distribution) && !legacy {
        let os = &recipe.distribution;
        let message = format!(
            "the time zone `{zone}` is not in tzdata of {} {}",
            super::support::name(os.id),
            os.release
        );
        findings.push(Finding::error(message).hint(OLD_HINT).at(place));
    }
}

#[cfg(test)]
mod tests {
    use super::{CURRENT, OLD, has_legacy, is_known, is_named_in, is_newer, is_old, is_utc, meant};
    use crate::recipe::types::{Distribution, DistributionId};

    #[test]
    fn the_lists() {
        for zone in ["Etc/UTC", "UTC", "Europe/Berlin", "Europe/Kyiv", "America/Argentina/Salta", "Etc/GMT-2"]
        {
            assert!(is_known(zone) && !is_old(zone), "{zone}");
        }
        for zone in ["US/Pacific", "Asia/Calcutta", "Europe/Kiev", "GB"] {
            assert!(is_old(zone), "{zone}");
        }
        for zone in ["Europe/Berln", "UTC+2", "Europe", "europe/berlin", ""] {
            assert!(!is_known(zone) && !is_newer(zone), "{zone}");
        }
        // Files that are in a folder of zones, and name no place.
        for zone in [
            "localtime",
            "posixrules",
            "right/UTC",
            "posix/Europe/Berlin",
            "Factory",
            "zone.tab",
            "Europe/",
            "./UTC",
        ] {
            assert!(!is_known(zone) && !is_newer(zone), "{zone}");
        }
        assert_eq!(meant("posix/Europe/Berlin"), Some("Europe/Berlin"));
        assert_eq!(meant("Europe/Berln"), Some("Europe/Berlin"));
        assert!(CURRENT.lines().count() > 400 && OLD.lines().count() > 100);
        assert!(is_utc("Etc/UTC") && !is_utc("Etc/GMT-2"));
    }

    #[test]
    fn names_of_a_newer_tz() {
        let source = "# version 2030a\nR d 1916 o - Jun 14 23s 1 S\nZ Mars/Olympus 0 - %z\n0:12 - LMT 1891\nZ Factory 0 - -00\n\
                      L Mars/Olympus Mars\n";
        for zone in ["Mars/Olympus", "Mars"] {
            assert!(is_named_in(source, zone), "{zone}");
        }
        for zone in ["Factory", "d", "", "LMT", "Mars/"] {
            assert!(!is_named_in(source, zone), "{zone}");
        }
    }

    #[test]
    fn where_old_names_have_a_package_of_their_own() {
        for (id, release, has) in [
            (DistributionId::Debian, "12", false),
            (DistributionId::Debian, "13", true),
            (DistributionId::RaspberryPiOs, "13", true),
            (DistributionId::Ubuntu, "22.04", false),
            (DistributionId::Ubuntu, "24.04", true),
        ] {
            let os = Distribution { id, release: release.into(), codename: String::new() };
            assert_eq!(has_legacy(&os), has, "{release}");
        }
    }
}
