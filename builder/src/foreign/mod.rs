//! Building for an architecture that this machine's processor does not run, at nearly its own speed.
//!
//! Packages' scripts are hundreds of short programs, and an emulator takes longer to start than they run. But what a
//! script writes does not depend on the machine code of the shell that ran it. So:
//!
//! ```text
//! dpkg ─► postinst ─► sed        each an aarch64 program in the tree
//!          │
//!          ▼ execve
//!   binfmt_misc, in the build's own user namespace
//!          │
//!          ▼
//!   native helper ─┬─► /.edgepress-build/native/usr/bin/sed    the same version, for this machine
//!                  └─► /.edgepress-build/qemu                  where there is none: a static qemu-user
//! ```
//!
//! The native tools are packages of the same archives at the same versions, extracted and never configured
//! ([`tools`]). They are bound into the tree while scripts run and gone with the mounts.

pub(crate) mod binfmt;
pub(crate) mod elf;
mod leftovers;
pub(crate) mod qemu;
pub(crate) mod tools;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

pub(crate) use leftovers::refuse_leftovers;
use tools::multiarch;

use crate::chroot::mounts::{self, RESERVED};
use crate::error::Problem;
use crate::event::Sink;
use crate::sandbox::{self, Job};
use crate::tree::Root;
use crate::units::Arch;

/// The program that binfmt_misc starts; `build.rs` compiles it.
const HELPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/native-helper"));

/// How a foreign tree's programs are run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Means {
    /// By qemu-user, registered on the host: slow, and all that kernels before 6.7 can do.
    Host,
    /// By this static qemu-user, registered in the build's own user namespace.
    Emulated {
        /// The program on the host.
        qemu: PathBuf,
    },
    /// By native programs where there are some, else by this static qemu-user.
    Helped {
        /// The program on the host.
        qemu: PathBuf,
        /// Tree of the native tools.
        tools: PathBuf,
    },
}

/// What a layer of a foreign tree needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Foreign {
    /// The tree's architecture.
    pub arch: Arch,
    /// How its programs are run.
    pub means: Means,
}

/// What this host can do for a foreign architecture, before it is known whether there are native tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ability {
    /// A registration of the build's own, for this static qemu-user.
    Own(PathBuf),
    /// Only the host's registration.
    Host,
}

/// Can foreign programs be registered in a user namespace?
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProbeBinfmt;

impl Job for ProbeBinfmt {
    const NAME: &'static str = "probe-binfmt";
    type Answer = bool;

    fn doing(&self) -> String {
        "looking for binfmt_misc".into()
    }

    fn execute(&self, _: &dyn Sink) -> Result<bool> {
        Ok(binfmt::mount_own())
    }
}

/// Finds out what this host can do for trees of `arch`.
///
/// # Errors
/// When qemu-user is missing, or neither kernel nor host let foreign programs run; says what to install.
pub(crate) fn ability(arch: Arch, sink: &dyn Sink) -> Result<Ability> {
    let own = sandbox::run(&ProbeBinfmt, sink)?;
    decide(arch, own, binfmt::host_has(arch), || qemu::find(arch))
}

fn decide(
    arch: Arch,
    own_binfmt: bool,
    host_binfmt: bool,
    qemu: impl Fn() -> Result<PathBuf>,
) -> Result<Ability> {
    if own_binfmt {
        return qemu().map(Ability::Own);
    }
    if host_binfmt {
        return Ok(Ability::Host);
    }
    // The first thing to mend.
    qemu()?;
    Err(Problem::work(format!(
        "this host cannot run {arch} programs: the kernel has no binfmt_misc for user namespaces (Linux 6.7 or newer), \
         and no qemu-user is registered on the host"
    ))
    .hint("register it: sudo apt-get install qemu-user-static binfmt-support (or run on a newer kernel: ten times faster)")
    .into())
}

/// A foreign tree whose programs run; see [`Foreign::enter`].
pub(crate) struct Entered {
    shown: Vec<PathBuf>,
    made: Option<PathBuf>,
}

impl Foreign {
    /// What of the host it needs.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match &self.means {
            Means::Host => Vec::new(),
            Means::Emulated { qemu } => vec![qemu.clone()],
            Means::Helped { qemu, tools } => vec![qemu.clone(), tools.clone()],
        }
    }

    /// Lets the programs of the tree `root` run, in this mount namespace; call it when
    /// [`crate::chroot::mounts::around`] is done. `scratch` is a folder that no script sees.
    ///
    /// # Errors
    /// When the kernel refuses a mount or the registration.
    pub(crate) fn enter(&self, root: &Root, scratch: &Path) -> Result<Entered> {
        let mut entered = Entered { shown: Vec::new(), made: None };
        let (qemu, tools) = match &self.means {
            Means::Host => return Ok(entered),
            Means::Emulated { qemu } => (qemu, None),
            Means::Helped { qemu, tools } => (qemu, Some(tools)),
        };
        let reserved = Path::new("/").join(RESERVED);
        root.write(reserved.join("qemu"), 0o644, b"")?;
        entered.show(root, qemu, reserved.join("qemu"))?;
        if let Some(tools) = tools {
            root.make_folders(reserved.join("native"))?;
            entered.show(root, tools, reserved.join("native"))?;
            tools::link_loader(root)?;
            let libraries = Path::new("usr/lib").join(multiarch(Arch::host()));
            if root.make_folder(&libraries, 0o755)? {
                entered.made = Some(libraries.clone());
            }
            entered.show(root, &tools.join(&libraries), libraries)?;
        }
        let helper = scratch.join("native-helper");
        fs::write(&helper, HELPER).with_context(|| format!("writing {}", helper.display()))?;
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
        binfmt::register(self.arch, &helper)?;
        Ok(entered)
    }
}

impl Entered {
    fn show(&mut self, root: &Root, from: &Path, at: PathBuf) -> Result<()> {
        mounts::show(root, from, &at)?;
        self.shown.push(at);
        Ok(())
    }

    /// Takes everything away again; call it before [`crate::chroot::mounts::clear`].
    ///
    /// # Errors
    /// When a package put something where the tools' libraries were shown.
    pub(crate) fn leave(self, root: &Root) -> Result<()> {
        for at in self.shown.iter().rev() {
            mounts::hide(root, at)?;
        }
        let Some(folder) = self.made else { return Ok(()) };
        let empty = root.list(&folder)?.is_empty();
        ensure!(empty, "/{} was this machine's, and now holds files", folder.display());
        root.remove(&folder).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::elf::Elf;
    use super::{Ability, HELPER, decide};
    use crate::chroot::mounts::RESERVED;
    use crate::units::Arch;

    #[test]
    fn abilities_of_hosts() {
        let there = || Ok("/usr/bin/qemu-aarch64-static".into());
        let missing = || anyhow::bail!("no qemu-user");
        let decide = |own, host| decide(Arch::Aarch64, own, host, there);
        let own = Ability::Own("/usr/bin/qemu-aarch64-static".into());
        assert_eq!(decide(true, false).expect("a newer kernel"), own);
        assert_eq!(decide(true, true).expect("its own goes first"), own);
        assert_eq!(decide(false, true).expect("an older kernel"), Ability::Host);
        let error = decide(false, false).expect_err("neither");
        assert!(error.to_string().contains("no qemu-user is registered on the host"), "{error}");
        for own in [true, false] {
            let error = super::decide(Arch::Aarch64, own, false, missing).expect_err("no qemu");
            assert_eq!(error.to_string(), "no qemu-user");
        }
    }

    #[test]
    fn the_helper_is_static_and_knows_its_paths() {
        let elf = Elf::parse(HELPER).expect("a program");
        assert_eq!(elf.arch(), Some(Arch::host()));
        assert_eq!(elf.interpreter(), None);
        for name in ["native", "qemu"] {
            let path = format!("/{RESERVED}/{name}");
            assert!(HELPER.windows(path.len()).any(|window| window == path.as_bytes()), "{path}");
        }
    }
}
