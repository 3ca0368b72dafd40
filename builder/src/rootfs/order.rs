//! In which order packages are unpacked and configured, where no apt is at hand to say it.
//!
//! dpkg refuses to unpack a package whose `Pre-Depends` are not configured yet (Debian Policy 7.2), and configures
//! anything else in the right order by itself. So: the essential packages with all they need at once, then waves:
//! unpack what may be unpacked, configure what the next wave waits for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::error::Problem;

/// What ordering needs to know of a package: fields of its control file, as they stand there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Relations {
    /// `Package`.
    pub name: String,
    /// `Essential: yes`.
    pub essential: bool,
    /// `Depends`.
    pub depends: String,
    /// `Pre-Depends`.
    pub pre_depends: String,
    /// `Provides`.
    pub provides: String,
}

/// The order; names of packages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Extracted first and installed in one go.
    pub essential: Vec<String>,
    /// Then, in order.
    pub waves: Vec<Wave>,
}

/// One round of unpacking.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wave {
    /// Unpacked together.
    pub unpack: Vec<String>,
    /// Configured before the next wave; empty in the last, after which everything is.
    pub configure: Vec<String>,
}

struct Set<'a> {
    packages: BTreeMap<&'a str, &'a Relations>,
    providers: BTreeMap<String, Vec<&'a str>>,
}

/// Orders `packages`; `installed` are those that the tree below already has, configured.
///
/// # Errors
/// When packages pre-depend on each other in a circle.
pub(crate) fn plan(packages: &[Relations], installed: &BTreeSet<String>) -> Result<Plan> {
    let set = Set::new(packages);
    let essential = set.closure(packages.iter().filter(|package| package.essential).map(|p| p.name.as_str()));
    let mut configured: BTreeSet<&str> = essential.clone();
    let mut unpacked = essential.clone();
    let mut waves = Vec::new();
    while unpacked.len() < packages.len() {
        let waiting = || packages.iter().filter(|package| !unpacked.contains(package.name.as_str()));
        let ready: Vec<&str> = waiting()
            .filter(|package| {
                set.targets(&package.pre_depends)
                    .iter()
                    .all(|target| configured.contains(target) || installed.contains(*target))
            })
            .map(|package| package.name.as_str())
            .collect();
        if ready.is_empty() {
            let names: Vec<&str> = waiting().map(|package| package.name.as_str()).collect();
            return Err(circle(&names));
        }
        unpacked.extend(&ready);
        let wanted: BTreeSet<&str> = packages
            .iter()
            .filter(|package| !unpacked.contains(package.name.as_str()))
            .flat_map(|package| set.targets(&package.pre_depends))
            .collect();
        let closure = set.closure(wanted.into_iter());
        let configure: Vec<&str> = closure
            .into_iter()
            .filter(|name| unpacked.contains(name) && !configured.contains(name))
            .collect();
        configured.extend(&configure);
        waves.push(Wave { unpack: owned(&ready), configure: owned(&configure) });
    }
    Ok(Plan { essential: essential.into_iter().map(String::from).collect(), waves })
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn circle(names: &[&str]) -> anyhow::Error {
    Problem::work(format!("these packages pre-depend on each other in a circle: {}", names.join(", ")))
        .hint("the lock's packages do not fit together; try: edgepress lock --update")
        .into()
}

impl<'a> Set<'a> {
    fn new(packages: &'a [Relations]) -> Self {
        let mut providers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for package in packages {
            for name in alternatives(&package.provides).into_iter().flatten() {
                providers.entry(name).or_default().push(&package.name);
            }
        }
        Self {
            packages: packages.iter().map(|package| (package.name.as_str(), package)).collect(),
            providers,
        }
    }

    /// The package of this set that stands for each dependency of `field`; dependencies on others are left out:
    /// they are in the tree below, or apt saw to it that an alternative is.
    fn targets(&self, field: &str) -> Vec<&'a str> {
        alternatives(field).iter().filter_map(|names| names.iter().find_map(|name| self.find(name))).collect()
    }

    fn find(&self, name: &str) -> Option<&'a str> {
        let real = self.packages.get_key_value(name).map(|(name, _)| *name);
        real.or_else(|| self.providers.get(name)?.first().copied())
    }

    fn closure(&self, start: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let mut todo: Vec<&str> = start.collect();
        let mut found: BTreeSet<&str> = todo.iter().copied().collect();
        while let Some(package) = todo.pop().and_then(|name| self.packages.get(name)) {
            for field in [&package.pre_depends, &package.depends] {
                todo.extend(self.targets(field).into_iter().filter(|name| found.insert(name)));
            }
        }
        found
    }
}

/// `a (>= 1) | b:any, c` → [[a, b], [c]] (Debian Policy 7.1).
fn alternatives(field: &str) -> Vec<Vec<String>> {
    let name = |text: &str| {
        let end = text.find(|c: char| c.is_whitespace() || "([<:".contains(c)).unwrap_or(text.len());
        text[..end].to_owned()
    };
    field
        .split(',')
        .map(|group| group.split('|').map(|one| name(one.trim())).filter(|name| !name.is_empty()).collect())
        .filter(|group: &Vec<String>| !group.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Relations, alternatives, plan};
    use std::collections::BTreeSet;

    fn package(name: &str, depends: &str, pre_depends: &str) -> Relations {
        Relations {
            name: name.into(),
            depends: depends.into(),
            pre_depends: pre_depends.into(),
            ..Relations::default()
        }
    }

    #[test]
    fn fields_are_parsed() {
        assert_eq!(
            alternatives("a (>= 1~) | b:any [amd64], ,c<!x>"),
            [vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]]
        );
        assert!(alternatives("").is_empty());
    }

    #[test]
    fn waves_follow_pre_depends() {
        let mut dash = package("dash", "debianutils, awk", "libc");
        dash.essential = true;
        let mut mawk = package("mawk", "", "libc");
        mawk.provides = "awk (= 1)".into();
        let packages = [
            dash,
            mawk,
            package("debianutils", "", ""),
            package("libc", "", ""),
            package("systemd", "libmount", "libblkid (>= 2), libc"),
            package("systemd-sysv", "", "systemd"),
            package("libblkid", "libuuid", ""),
            package("libuuid", "", ""),
            package("libmount", "", ""),
        ];
        let plan = plan(&packages, &BTreeSet::new()).expect("can be ordered");
        assert_eq!(plan.essential, ["dash", "debianutils", "libc", "mawk"]);
        let waves: Vec<(String, String)> =
            plan.waves.iter().map(|wave| (wave.unpack.join(" "), wave.configure.join(" "))).collect();
        let expected = [
            ("libblkid libuuid libmount", "libblkid libmount libuuid"),
            ("systemd", "systemd"),
            ("systemd-sysv", ""),
        ];
        assert_eq!(waves, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn a_circle_is_named() {
        let packages = [package("a", "", "b"), package("b", "", "a")];
        let error = plan(&packages, &BTreeSet::new()).expect_err("circle");
        assert_eq!(error.to_string(), "these packages pre-depend on each other in a circle: a, b");
    }

    #[test]
    fn what_is_below_counts_as_configured() {
        let packages = [package("a", "", "below")];
        assert_eq!(plan(&packages, &BTreeSet::from(["below".into()])).expect("order").waves.len(), 1);
    }
}
