//! Time zones by name, so that a slip is found before anything is built.
//!
//! The lists are those of Debian 13's packages, 2026f: `current.txt` of tzdata, `old.txt` of tzdata-legacy (what tz calls
//! `backward`: names by countries, and places renamed). Debian 12 and Ubuntu 22.04 have both in tzdata. A zone that is
//! newer than the lists is looked for on the machine that checks; the tree has the last word (`rootfs`).

use std::path::Path;

use super::load::Loaded;
use super::types::{Distribution, DistributionId};
use crate::finding::{Finding, nearest};

const CURRENT: &str = include_str!("current.txt");
const OLD: &str = include_str!("old.txt");
/// What a recipe may state.
pub const EXPECTED: &str = "a name as in /usr/share/zoneinfo, for example `Europe/Berlin`; for a fixed offset, \
    `Etc/GMT-2` is two hours ahead of UTC";
/// Where an old name comes from.
pub const OLD_HINT: &str = "it is an old name: add the package tzdata-legacy to packages.install, or take the name of \
    the zone's largest city";
const LEGACY: &str = "tzdata-legacy";

/// Is it UTC by one of its names?
pub fn is_utc(zone: &str) -> bool {
    ["Etc/UTC", "UTC", "Etc/UCT", "Etc/Universal", "Etc/Zulu", "UCT", "Universal", "Zulu"].contains(&zone)
}

/// Is it a name that tzdata-legacy has, where there is such a package?
pub fn is_old(zone: &str) -> bool {
    OLD.lines().any(|old| old == zone)
}

fn is_known(zone: &str) -> bool {
    is_old(zone) || CURRENT.lines().any(|current| current == zone)
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
    if !is_known(zone) && !Path::new("/usr/share/zoneinfo").join(zone).is_file() {
        let error = Finding::error(format!("there is no time zone `{zone}`")).expected(EXPECTED).at(place);
        let near = nearest(zone, CURRENT.lines());
        findings.push(match near {
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
    use super::{CURRENT, OLD, has_legacy, is_known, is_old, is_utc};
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
            assert!(!is_known(zone), "{zone}");
        }
        assert!(CURRENT.lines().count() > 400 && OLD.lines().count() > 100);
        assert!(is_utc("Etc/UTC") && !is_utc("Etc/GMT-2"));
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
