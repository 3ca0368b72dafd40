//! The steps from recipe to image, and their keys.
//!
//! ```text
//! lock ─► fetch ─► base ─► identity-service ─► edge ─► initramfs ─► files ─► image ─► export
//! ```
//! A step whose key is in the store is skipped. The key of each holds that of the one below, so a change travels
//! upwards only: another overlay file remakes `files`, `image` and `export`, another package everything from its layer
//! on, another output format only `export`.

mod begin;
pub(crate) mod documents;
pub(crate) mod image;
pub(crate) mod output_cache;
pub(crate) mod outputs;
pub(crate) mod partial;
pub(crate) mod plan;
mod programs;
pub(crate) mod steps;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::error::Problem;
use crate::event::{Event, Sink};
use crate::finding::Severity;
use crate::foreign::{self, Ability, Foreign, Means};
use crate::lock::network::{Network, Origins};
use crate::lock::{Action, Policy};
use crate::manifest::Output;
use crate::recipe::types::Format;
use crate::recipe::{self, Loaded};
use crate::rootfs::layer::{self, LayerJob};
use crate::sandbox;
use crate::sandbox::confined::Limits;
use crate::store::{Store, layers};
use crate::units::{Arch, Digest};
use crate::{check, lock};
use outputs::{Outputs, Ready};
use plan::{Layers, Missing, Plan};
use steps::{Explained, History, Step};

/// What `edgepress build` is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct BuildOptions {
    /// The recipe file.
    pub recipe: PathBuf,
    /// Folder of the results.
    pub out: PathBuf,
    /// Instead of the recipe's architecture.
    pub arch: Option<Arch>,
    /// `KEY=VALUE`, laid over the recipe.
    pub sets: Vec<String>,
    /// Where archives and registries are, and whom they know us as.
    pub origins: Origins,
    /// Refuse a lock that the recipe has outgrown.
    pub locked: bool,
    /// Run foreign packages' scripts by qemu-user alone.
    pub emulate: bool,
    /// Store, instead of the user's.
    pub store: Option<PathBuf>,
    /// What packages' scripts may take.
    pub limits: Limits,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct BuildOutcome {
    /// The image: raw where the recipe asks for it, else the first of its formats.
    pub image: PathBuf,
    /// Its digest.
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
    /// Bytes that it takes on the disk; the rest are holes.
    pub allocated: u64,
    /// Every file, in the recipe's order.
    pub outputs: Vec<Ready>,
    /// Every step, in order.
    pub steps: Vec<Explained>,
    /// Wall-clock seconds of the whole build.
    pub seconds: f64,
    /// Most memory that this program had, in bytes; see [`sandbox::peak_memory`].
    pub peak_memory: u64,
}

/// A build under way.
struct Build<'a> {
    store: &'a Store,
    history: History,
    sink: &'a dyn Sink,
    limits: Limits,
    explained: Vec<Explained>,
}

/// Builds the image of a recipe.
///
/// # Errors
/// A wrong recipe, packages that cannot be had, a failing package script, a leak of identity, a disk that is too
/// small; each with what to do.
pub(crate) fn build(options: &BuildOptions, sink: &dyn Sink) -> Result<BuildOutcome> {
    let start = Instant::now();
    let loaded = recipe::load(&options.recipe, &options.sets, options.arch)?;
    refuse_mistakes(&loaded, sink)?;
    programs::look(&loaded.recipe)?;
    let store = Store::open(options.store.clone())?;
    store.stacks()?;
    let folder = begin::folder(&options.out, &loaded.recipe)?;
    let arch = loaded.recipe.target.arch;
    let history = History::open(&store, &fs::canonicalize(&options.recipe)?, &arch.to_string());
    // Asked before anything is downloaded.
    let ability = (arch != Arch::host()).then(|| foreign::ability(arch, sink)).transpose()?;
    let mut build = Build { store: &store, history, sink, limits: options.limits, explained: Vec::new() };

    let local = lock::local::gather(&loaded.recipe, &store, sink)?;
    let network = Network::new(options.origins.clone());
    let timer = Instant::now();
    let lock_file = begin::lock_file(options, &loaded.recipe, &local, &folder, sink);
    let policy = if options.locked { Policy::Locked } else { Policy::Renew };
    let ensured = lock::ensure(&lock_file, policy, &loaded.recipe, &local, &network, &store, sink);
    let ensured = store.explained(ensured)?;
    build.explain(&plan::lock_step(&ensured.section), ensured.action == Action::Kept, timer);
    let section = ensured.section;
    let timer = Instant::now();
    let fetched = lock::fetch(&section, &loaded.recipe, network.mirrors(), &store, sink)?;
    let images = lock::images::fetch(&section, &network, &store, sink)?;
    build.explain(&plan::fetch_step(&section), fetched.packages == 0 && images == 0, timer);

    let plan = Plan::new(&loaded, &section, &local, &store);
    // One that could not be made may have met a damaged package.
    let missing =
        plan.as_ref().map_or(Ok(Missing { packages: true, images: true }), |plan| plan.missing(&store))?;
    let downloads =
        begin::Downloads { section: &section, recipe: &loaded.recipe, network: &network, store: &store };
    let plan = match downloads.mended(plan.as_ref().ok(), missing, sink)? {
        true => Plan::new(&loaded, &section, &local, &store)?,
        false => plan?,
    };
    let packages = if missing.packages { plan.installed } else { 0 };
    let images = if missing.images { plan.unpacked_images() } else { 0 };
    begin::room(packages, images, &store, &folder)?;
    let Layers { steps, key: below } = plan.layers()?;
    let trees: Vec<PathBuf> = steps.iter().map(|(step, _)| layers::place(&store, &step.key())).collect();
    let outputs =
        Outputs { plan: &plan, below, trees: trees.clone(), folder: folder.clone(), store: &store, sink };
    if !outputs.are_there() || !steps.iter().all(|(step, _)| layers::has(&store, &step.key())) {
        build.mistrust(plan.tools().iter().chain(&steps).map(|(step, _)| step))?;
    }
    let foreign = match ability {
        Some(ability) => Some(build.foreign(&plan, ability, options.emulate)?),
        None => None,
    };
    store.explained(build.layers(&plan, steps, &trees, foreign.as_ref()))?;
    let outputs = begin::explained(outputs.make(&mut build), &store, &folder)?;
    build.history.save()?;
    let image = main(&outputs).context("finding the image among the outputs")?;
    Ok(BuildOutcome {
        image: image.path.clone(),
        sha256: image.output.sha256,
        size: image.output.size,
        allocated: image.allocated,
        outputs,
        steps: build.explained,
        seconds: start.elapsed().as_secs_f64(),
        peak_memory: sandbox::peak_memory(),
    })
}

/// The file that stands for all.
fn main(outputs: &[Ready]) -> Option<&Ready> {
    let raw = outputs.iter().find(|ready| ready.output.format == Some(Format::Img));
    raw.or_else(|| outputs.iter().find(|ready| ready.output.is_disk())).or(outputs.first())
}

/// `check` found errors: no build is worth its minutes then.
fn refuse_mistakes(loaded: &Loaded, sink: &dyn Sink) -> Result<()> {
    let report = check::check(loaded)?;
    let (errors, warnings): (Vec<_>, Vec<_>) =
        report.findings.iter().partition(|finding| finding.severity == Severity::Error);
    for warning in warnings {
        sink.warn(warning.to_string());
    }
    if errors.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(Problem::input(shown.join("\n"))
        .findings(errors)
        .hint("`edgepress check` shows all that is wrong with a recipe")
        .into())
}

impl Build<'_> {
    /// How a foreign tree's programs will run; makes the native tools where they can be used.
    fn foreign(&mut self, plan: &Plan, ability: Ability, emulate: bool) -> Result<Foreign> {
        let arch = plan.recipe.target.arch;
        let slow =
            |why: &str| format!("{why}: the scripts of {arch} packages run in qemu-user, ten times slower");
        let means = match (ability, plan.tools()) {
            (Ability::Host, _) => {
                self.sink.warn(slow("this kernel has no binfmt_misc for user namespaces (Linux 6.7 has)"));
                Means::Host
            }
            (Ability::Own(qemu), _) if emulate => Means::Emulated { qemu },
            (Ability::Own(qemu), None) => {
                self.sink.warn(slow("the lock has no tools for this machine (`edgepress lock` adds them)"));
                Means::Emulated { qemu }
            }
            (Ability::Own(qemu), Some((step, action))) => {
                let limits = self.limits;
                let tools = self.layer(&step, |tree, scratch| LayerJob {
                    step: step.record.step.clone(),
                    lowers: Vec::new(),
                    scratch,
                    tree,
                    blobs: self.store.blobs_dir(),
                    epoch: plan.epoch,
                    foreign: None,
                    hostname: plan.recipe.system.hostname.clone(),
                    limits,
                    remove: Vec::new(),
                    keep_keys: Vec::new(),
                    action,
                })?;
                Means::Helped { qemu, tools }
            }
        };
        Ok(Foreign { arch, means })
    }

    /// Something will be made of these layers, or of some: those that the store has are read, and what is damaged is taken
    /// out, so that it is made anew.
    fn mistrust<'s>(&self, steps: impl Iterator<Item = &'s Step>) -> Result<()> {
        let steps: Vec<(&str, Digest)> = steps.map(|step| (step.record.step.as_str(), step.key())).collect();
        let keys: Vec<Digest> = steps.iter().map(|(_, key)| *key).collect();
        let damaged = layers::damaged(self.store, &keys)?;
        for (name, _) in steps.iter().filter(|(_, key)| damaged.contains(key)) {
            self.sink.warn(format!(
                "the store {} is damaged: its layer `{name}` is not what was put there, and is made anew \
                 (`edgepress store verify` looks at all of it)",
                self.store.root().display()
            ));
        }
        Ok(())
    }

    /// Sees to it that the layers are at `trees`, bottom first.
    fn layers(
        &mut self,
        plan: &Plan,
        steps: Vec<(Step, layer::Action)>,
        trees: &[PathBuf],
        foreign: Option<&Foreign>,
    ) -> Result<()> {
        let (blobs, limits) = (self.store.blobs_dir(), self.limits);
        for (at, (step, action)) in steps.into_iter().enumerate() {
            self.layer(&step, |tree, scratch| LayerJob {
                step: step.record.step.clone(),
                lowers: if action.stands_alone() { Vec::new() } else { trees[..at].to_vec() },
                scratch,
                tree,
                blobs: blobs.clone(),
                epoch: plan.epoch,
                foreign: foreign.cloned(),
                hostname: plan.recipe.system.hostname.clone(),
                limits,
                remove: plan.recipe.packages.remove.clone(),
                keep_keys: plan.recipe.packages.keep_keys.clone(),
                action,
            })?;
        }
        Ok(())
    }

    /// The tree of a layer: from the store, or made now.
    fn layer(&mut self, step: &Step, job: impl FnOnce(PathBuf, PathBuf) -> LayerJob) -> Result<PathBuf> {
        let timer = Instant::now();
        if let Some(tree) = layers::find(self.store, &step.key()) {
            self.finish(step, true, timer);
            return Ok(tree);
        }
        let tree = layers::create(self.store, &step.key(), &step.record, self.sink, |tree, scratch| {
            sandbox::run(&job(tree.to_owned(), scratch.to_owned()), self.sink)
        })?;
        self.finish(step, false, timer);
        Ok(tree)
    }

    /// Notes what became of a step that tells the listener itself.
    fn explain(&mut self, step: &Step, hit: bool, timer: Instant) {
        let changed = self.history.changes(step);
        let (step, key, seconds) = (step.record.step.clone(), step.key(), timer.elapsed().as_secs_f64());
        self.explained.push(Explained { step, key, hit, changed, seconds });
    }

    /// Notes what became of a step, and tells the listener.
    fn finish(&mut self, step: &Step, hit: bool, timer: Instant) {
        let outcome = if hit { "unchanged" } else { "made" };
        self.sink.emit(Event::Finished {
            step: step.record.step.clone(),
            seconds: timer.elapsed().as_secs_f64(),
            outcome: outcome.into(),
        });
        self.explain(step, hit, timer);
    }

    /// Step → seconds, for the manifest.
    fn seconds(&self) -> BTreeMap<String, f64> {
        self.explained.iter().map(|step| (step.step.clone(), step.seconds)).collect()
    }
}

impl fmt::Display for BuildOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Ready { path, allocated, output: Output { size, sha256, .. } } in &self.outputs {
            writeln!(f, "{}  ({})\nsha256 {sha256}", path.display(), amount(*size, *allocated))?;
        }
        write!(f, "in {:.1} s", self.seconds)
    }
}

/// The holes of a compressed file are none worth a word.
fn amount(size: u64, allocated: u64) -> String {
    const MIB: u64 = 1 << 20;
    match (size / MIB, allocated / MIB) {
        (0, _) => format!("{} KiB", size.div_ceil(1024)),
        (size, allocated) if allocated < size => format!("{size} MiB, {allocated} MiB on disk"),
        (size, _) => format!("{size} MiB"),
    }
}
