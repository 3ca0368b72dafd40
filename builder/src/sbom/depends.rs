//! Which installed packages a package's `Depends` and `Pre-Depends` mean.
//!
//! ```text
//! Depends: libc6 (>= 2.36), default-mta | mail-transport-agent, python3:any
//!          └ a name       └ versions    └ the first alternative that is there, maybe under a name that it provides
//! ```
//! Versions are not compared: dpkg did when it configured the package, and a tree holds one version of each.

use std::collections::{BTreeMap, BTreeSet};

/// Installed packages by the names that they have and provide.
#[derive(Debug, Default)]
pub(crate) struct Names {
    real: BTreeMap<String, usize>,
    provided: BTreeMap<String, usize>,
}

impl Names {
    /// Adds the package with this number; `provides` is the field's value.
    pub(crate) fn add(&mut self, number: usize, name: &str, provides: &str) {
        self.real.entry(name.to_owned()).or_insert(number);
        for relation in provides.split(',') {
            let name = bare(relation);
            if !name.is_empty() {
                // Of several providers the first, whatever it is: one is enough for the relation.
                self.provided.entry(name.to_owned()).or_insert(number);
            }
        }
    }

    /// Numbers of the packages that these relation fields mean, in order, each once; alternatives that are not
    /// installed mean nothing.
    pub(crate) fn resolve<'a>(&self, fields: impl IntoIterator<Item = &'a str>) -> Vec<usize> {
        let relations = fields.into_iter().flat_map(|field| field.split(','));
        let found = relations.filter_map(|relation| {
            let mut names = relation.split('|').map(bare);
            names.find_map(|name| self.real.get(name).or_else(|| self.provided.get(name)))
        });
        found.copied().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The name in a relation: without versions, architectures and qualifiers.
fn bare(relation: &str) -> &str {
    relation.split(['(', '[', '<', ':']).next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn alternatives_provided_names_and_qualifiers() {
        let mut names = Names::default();
        for (number, (name, provides)) in [
            ("libc6", ""),
            ("exim4", "mail-transport-agent (= 1), mta"),
            ("python3", ""),
            ("nullmailer", "mta"),
        ]
        .iter()
        .enumerate()
        {
            names.add(number, name, provides);
        }
        for (fields, expected) in [
            (vec!["libc6 (>= 2.36)"], vec![0]),
            (vec!["default-mta | mail-transport-agent, libc6"], vec![0, 1]),
            (vec!["mta", "python3:any (>= 3.5~)", "mta"], vec![1, 2]),
            (vec!["absent", "a | b", "", ",|,("], vec![]),
        ] {
            assert_eq!(names.resolve(fields.clone()), expected, "{fields:?}");
        }
    }
}
