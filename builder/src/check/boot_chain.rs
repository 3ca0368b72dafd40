//! Would the card boot? The chain of each model is followed over the files that a build would put there, made from the
//! locked packages, as far as the store has them already.

use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::board;
use crate::board::raspberry_pi::chain::Chain;
use crate::disk::ids::Ids;
use crate::error::problem;
use crate::finding::Finding;
use crate::interrupt;
use crate::lock;
use crate::lock::types::Locked;
use crate::packages::deb;
use crate::recipe::Loaded;
use crate::recipe::types::Initramfs;
use crate::store::Store;
use crate::tree::Root;
use crate::units::Digest;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// One per model.
    pub chains: Vec<Chain>,
    /// Why there are none.
    pub note: Option<String>,
}

/// Follows the chains; what is wrong goes to `findings`.
pub(super) fn follow(loaded: &Loaded, findings: &mut Vec<Finding>) -> Result<Followed> {
    let board = board::of(loaded.recipe.target.board);
    let Some(wanted) = board.parts() else { return Ok(Followed::default()) };
    let not = |why: &str| {
        Ok(Followed { chains: Vec::new(), note: Some(format!("boot chain not followed: {why}")) })
    };
    let lock = lock::file::read(&lock::file::path(&loaded.path, &loaded.recipe))?;
    let Some(section) = lock.and_then(|mut lock| lock.arch.remove(&loaded.recipe.target.arch)) else {
        return not("there is no lock yet (edgepress lock RECIPE --fetch makes it)");
    };
    let Ok(store) = Store::open(None) else { return not("the store cannot be opened") };
    let is_part = |package: &&Locked| wanted.packages.iter().any(|part| package.name.starts_with(part));
    let parts = section.packages.iter().filter(is_part);
    let mut there: Vec<(&Locked, Option<PathBuf>)> = Vec::new();
    for package in parts {
        there.push((package, store.sound_blob(&package.sha256)?));
    }
    let parts = there.into_iter().map(|(package, path)| Some((package, path?)));
    let Some(parts) = parts.collect::<Option<Vec<_>>>() else {
        return not("the packages are not downloaded yet (edgepress lock RECIPE --fetch)");
    };
    let tree = tempfile::tempdir().context("making a folder")?;
    let _guard = interrupt::remove_on_interrupt(tree.path());
    let root = Root::open(tree.path())?;
    for (package, path) in parts {
        extract(&path, wanted.folders, &root)
            .with_context(|| format!("reading package {} {}", package.name, package.version))?;
    }
    if loaded.recipe.target.initramfs != Initramfs::None {
        stand_in_initramfs(&root)?;
    }
    let ids = Ids::from_seed(&Digest::of("check"));
    match board.chains(&root, &loaded.recipe, &ids) {
        Ok(chains) => {
            findings.extend(chains.iter().flat_map(|chain| said(loaded, chain)));
            Ok(Followed { chains, note: None })
        }
        Err(error) => {
            let hint = problem(&error).and_then(|problem| problem.hint.clone());
            findings.push(
                Finding { hint, ..Finding::error(format!("{error:#}")) }.at(loaded.place("packages/install")),
            );
            Ok(Followed::default())
        }
    }
}

fn said(loaded: &Loaded, chain: &Chain) -> Vec<Finding> {
    let one = |finding: &Finding| {
        let message = format!("boot chain of model {}: {}", chain.model, finding.message);
        Finding { message, ..finding.clone() }.at(loaded.place("target/raspberry_pi"))
    };
    chain.findings.iter().map(one).collect()
}

/// A build makes it from the tree; here it only has to be there.
fn stand_in_initramfs(tree: &Root) -> Result<()> {
    for entry in tree.list("boot")? {
        if let Some(version) = entry.name.to_string_lossy().strip_prefix("vmlinuz-") {
            tree.write(format!("boot/initrd.img-{version}"), 0o600, b"made by the build")?;
        }
    }
    Ok(())
}

fn extract(path: &Path, folders: &[&str], tree: &Root) -> Result<()> {
    let mut archive = tar::Archive::new(deb::open_data(path)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name: PathBuf =
            entry.path()?.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        // Merged /usr: what packages have in /lib is found there too.
        let name = if name.starts_with("lib") { Path::new("usr").join(name) } else { name };
        let text = name.to_string_lossy();
        let wanted = folders
            .iter()
            .any(|folder| text.starts_with(folder) || text.starts_with(&format!("usr/{folder}")));
        // Drivers' firmware is large, and no part of a card.
        let driver = text.starts_with("usr/lib/firmware/") && !text.contains("/device-tree/");
        if entry.header().entry_type().is_file() && wanted && !driver {
            let mut file = tree.create(&name, 0o600)?;
            io::copy(&mut entry, &mut file).with_context(|| format!("writing {text}"))?;
        }
    }
    Ok(())
}
