//! Where an archive is fetched from: `--mirror`, the environment, the host's own mirror, the recipe.

use std::collections::BTreeMap;

use anyhow::Result;

use super::host::{AptSource, HostApt};
use crate::error::Problem;
use crate::recipe::types::{Archive, DistributionId, Recipe};
use crate::store::net::{Settings, parse};
use crate::units::Arch;

/// Before the role, in upper case with `_` for `-`: `EDGEPRESS_MIRROR_DEBIAN_SECURITY`.
pub(crate) const ENVIRONMENT_PREFIX: &str = "EDGEPRESS_MIRROR_";

/// Chooses an address for each archive of a recipe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mirrors {
    overrides: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    host: HostApt,
}

/// Parses the argument of `--mirror`.
///
/// # Errors
/// Says what is expected.
pub(crate) fn parse_override(text: &str) -> Result<(String, String), String> {
    let (role, url) =
        text.split_once('=').ok_or("expected NAME=URL, as in `debian=http://ftp.debian.org/debian`")?;
    parse(url).map_err(|error| error.to_string())?;
    Ok((role.to_owned(), url.to_owned()))
}

impl Mirrors {
    /// With the arguments of `--mirror`, this process's environment and the host's apt.
    pub(crate) fn new(overrides: Vec<(String, String)>) -> Self {
        let environment = std::env::vars()
            .filter(|(name, value)| name.starts_with(ENVIRONMENT_PREFIX) && !value.is_empty());
        Self {
            overrides: overrides.into_iter().collect(),
            environment: environment.collect(),
            host: HostApt::read(),
        }
    }

    /// Proxies and credentials of the host.
    pub(crate) fn settings(&self) -> Settings {
        self.host.settings()
    }

    /// The host's apt configuration.
    pub(crate) fn host(&self) -> &HostApt {
        &self.host
    }

    /// The address of an archive, the part before `dists/`, without a slash at its end.
    ///
    /// # Errors
    /// When the recipe has no such archive, or a `--mirror` is for one that it does not have.
    pub(crate) fn url(&self, recipe: &Recipe, role: &str) -> Result<String> {
        if let Some(unknown) = self.overrides.keys().find(|role| !recipe.archives.contains_key(*role)) {
            let roles = recipe.archives.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(Problem::input(format!(
                "--mirror {unknown}=…: the recipe has no archive `{unknown}`"
            ))
            .hint(format!("its archives are: {roles}"))
            .into());
        }
        let archive = recipe.archives.get(role).ok_or_else(|| {
            Problem::input(format!("the lock names the archive `{role}`, which the recipe does not have"))
                .hint("make the lock anew: edgepress lock --update")
        })?;
        let variable = format!("{ENVIRONMENT_PREFIX}{}", role.to_uppercase().replace('-', "_"));
        let url = self
            .overrides
            .get(role)
            .or_else(|| self.environment.get(&variable))
            .map(String::as_str)
            .or_else(|| self.of_host(recipe, archive))
            .unwrap_or_else(|| stated(archive, recipe.target.arch));
        Ok(parse(url)?.as_str().trim_end_matches('/').to_owned())
    }

    /// The host's mirror, when the archive is the distribution's own and the host runs that distribution. The
    /// signature is checked against the recipe's keys wherever the files come from, so a wrong guess is refused.
    fn of_host(&self, recipe: &Recipe, archive: &Archive) -> Option<&str> {
        let (id, domain) = match recipe.distribution.id {
            // Raspberry Pi OS takes most of its packages from Debian's archive.
            DistributionId::Debian | DistributionId::RaspberryPiOs => ("debian", "debian.org"),
            DistributionId::Ubuntu => ("ubuntu", "ubuntu.com"),
        };
        // Where archives differ by architecture, the host's mirror has only the host's.
        if self.host.id != id || (!archive.urls.is_empty() && recipe.target.arch != Arch::host()) {
            return None;
        }
        let url = parse(stated(archive, recipe.target.arch)).ok()?;
        let host = url.host_str()?;
        if host != domain && !host.ends_with(&format!(".{domain}")) {
            return None;
        }
        let folder = |url: &str| url.trim_end_matches('/').rsplit('/').next().map(String::from);
        let carrying =
            self.host.sources.iter().filter(|source| source.own && self.carries(&source.url, archive));
        // The first of the best: `max_by_key` would take the last.
        let rank = |source: &&AptSource| {
            let alike = folder(&source.url) == folder(url.as_str());
            std::cmp::Reverse((alike, self.lists_all(&source.url, archive)))
        };
        carrying.min_by_key(rank).map(|source| source.url.as_str())
    }

    /// Does the host take every suite of the archive from this address? Components do not count: a host usually has only
    /// `main` configured, and mirrors carry all of them.
    fn carries(&self, url: &str, archive: &Archive) -> bool {
        archive.suites.iter().all(|suite| self.at(url).any(|source| source.suites.contains(suite)))
    }

    /// Does it take every component of each suite from there too?
    fn lists_all(&self, url: &str, archive: &Archive) -> bool {
        archive.suites.iter().all(|suite| {
            let mut having = self.at(url).filter(|source| source.suites.contains(suite));
            having.any(|source| {
                archive.components.iter().all(|component| source.components.contains(component))
            })
        })
    }

    fn at<'a>(&'a self, url: &'a str) -> impl Iterator<Item = &'a AptSource> {
        self.host.sources.iter().filter(move |source| source.own && source.url == url)
    }
}

/// The address that the recipe states for an architecture.
pub(crate) fn stated(archive: &Archive, arch: Arch) -> &str {
    archive.urls.get(&arch).unwrap_or(&archive.url)
}

#[cfg(test)]
mod tests {
    use super::{AptSource, BTreeMap, HostApt, Mirrors, Recipe, parse_override};
    use crate::lock::tests::recipe;
    use crate::recipe::types::DistributionId;
    use crate::units::Arch;

    fn mirrors() -> Mirrors {
        let source = |url: &str, suites: &[&str], own| AptSource {
            url: url.into(),
            suites: suites.iter().map(ToString::to_string).collect(),
            components: vec!["main".into(), "contrib".into()],
            own,
        };
        let sources = vec![
            source("https://vendor.example/prod", &["bookworm", "bookworm-updates"], false),
            source("http://near.example/half", &["bookworm"], true),
            source("http://near.example/debian/", &["bookworm", "bookworm-updates"], true),
        ];
        Mirrors { host: HostApt { id: "debian".into(), sources, ..HostApt::default() }, ..Mirrors::default() }
    }

    fn url(mirrors: &Mirrors, recipe: &Recipe) -> String {
        mirrors.url(recipe, "debian").expect("chooses")
    }

    #[test]
    fn the_host_s_mirror_stands_in_for_its_own_distribution_only() {
        assert_eq!(url(&mirrors(), &recipe()), "http://near.example/debian");
        let stated = "http://ftp.debian.org/debian";
        let mut other = recipe();
        other.distribution.id = DistributionId::Ubuntu;
        assert_eq!(url(&mirrors(), &other), stated);
        let mut card = recipe();
        card.distribution.id = DistributionId::RaspberryPiOs;
        assert_eq!(url(&mirrors(), &card), "http://near.example/debian");
        let mut vendor = recipe();
        vendor.archives.get_mut("debian").expect("archive").url =
            "https://packages.vendor.example/debian".into();
        assert_eq!(url(&mirrors(), &vendor), "https://packages.vendor.example/debian");
        let mut suite = recipe();
        suite.archives.get_mut("debian").expect("archive").suites.push("bookworm-backports".into());
        assert_eq!(url(&mirrors(), &suite), stated);
        let mut component = recipe();
        component.archives.get_mut("debian").expect("archive").components.push("non-free".into());
        assert_eq!(
            url(&mirrors(), &component),
            "http://near.example/debian",
            "mirrors carry every component"
        );
        let mut fuller = mirrors();
        let more = AptSource {
            url: "http://far.example/debian".into(),
            components: ["main", "contrib", "non-free"].map(String::from).into(),
            ..fuller.host.sources[2].clone()
        };
        fuller.host.sources.push(more);
        assert_eq!(
            url(&fuller, &component),
            "http://far.example/debian",
            "but one that is known to is better"
        );
        assert_eq!(url(&fuller, &recipe()), "http://near.example/debian");
    }

    #[test]
    fn a_foreign_architecture_with_an_archive_of_its_own_keeps_it() {
        let foreign = if Arch::host() == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        let mut recipe = recipe();
        recipe.target.arch = foreign;
        assert_eq!(url(&mirrors(), &recipe), "http://near.example/debian");
        let ports = "http://ports.debian.org/debian-ports".to_owned();
        recipe.archives.get_mut("debian").expect("archive").urls = BTreeMap::from([(foreign, ports.clone())]);
        assert_eq!(url(&mirrors(), &recipe), ports);
    }

    #[test]
    fn arguments_come_before_the_environment_before_the_host() {
        let mut mirrors = mirrors();
        mirrors.environment.insert("EDGEPRESS_MIRROR_DEBIAN".into(), "http://env.example/d".into());
        assert_eq!(url(&mirrors, &recipe()), "http://env.example/d");
        mirrors.overrides.insert("debian".into(), "http://arg.example/d/".into());
        assert_eq!(url(&mirrors, &recipe()), "http://arg.example/d");
        mirrors.overrides.insert("nowhere".into(), "http://x.example".into());
        assert!(mirrors.url(&recipe(), "debian").expect_err("unknown").to_string().contains("`nowhere`"));
    }

    #[test]
    fn the_argument_is_role_and_address() {
        let parsed = parse_override("debian=http://x.example/d?a=b").expect("parses");
        assert_eq!(parsed, ("debian".into(), "http://x.example/d?a=b".into()));
        for text in ["debian", "debian=ftp", "debian=ftp://x.example/"] {
            assert!(parse_override(text).is_err(), "{text}");
        }
    }
}
