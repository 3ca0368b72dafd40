//! From recipe and lock to layers: what each depends on and what makes it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::steps::Step;
use crate::board;
use crate::disk::ids::Ids;
use crate::lock::local::LocalDeb;
use crate::lock::types::{Locked, Section};
use crate::oci::descriptor::Descriptor;
use crate::oci::reference::Reference;
use crate::overlay;
use crate::packages::deb;
use crate::recipe::Loaded;
use crate::recipe::types::{EngineImage, Initramfs, Preload, Recipe};
use crate::registry::{self, Resolved};
use crate::rootfs::engine_store;
use crate::rootfs::files::{Files, Places};
use crate::rootfs::images::{Image, PreloadSource};
use crate::rootfs::initramfs;
use crate::rootfs::layer::Action;
use crate::rootfs::packages::DebFile;
use crate::sbom::origin::{self, Origins};
use crate::ssh;
use crate::store::{Store, layers};
use crate::tree::entry::{EntryKind, TreeEntry};
use crate::units::{Arch, Digest};

/// The runtime's packages, each a stage of its own because each needs the one before configured.
const STAGES: [&str; 2] = ["aziot-identity-service", "aziot-edge"];

/// How many times its packed size a layer takes at least, as a rule.
const UNPACKED: u64 = 2;

/// Everything that the layers are made from.
pub(crate) struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// Digests of the inputs, for the manifest.
    pub inputs: BTreeMap<String, Digest>,
    /// Time stamp of the image: that of its newest package, seconds since 1970.
    pub epoch: u64,
    /// Bytes that the packages say they take when they are installed (`Installed-Size`, an estimate).
    pub installed: u64,
    /// Digest of what enters the image; the identifiers of disk and file systems come from it.
    pub seed: Digest,
    /// The account's authorized_keys; empty: none.
    pub authorized_keys: String,
    /// The text of /etc/aziot/config.toml, from whichever overlay has it; empty where none has.
    pub config_toml: String,
    /// Where each package comes from.
    pub origins: Origins,
    places: Places,
    debs: Vec<DebFile>,
    tools: Vec<DebFile>,
    entries: Vec<TreeEntry>,
    images: Vec<Image>,
    /// Images of other places than the tree, for the engine's own store.
    stored: Vec<engine_store::Image>,
}

/// A layer before it is known what lies below.
struct Layer {
    name: &'static str,
    inputs: Vec<(String, String)>,
    action: Action,
}

impl Layer {
    /// The step over the layers `below`, what makes it, and the key of all so far.
    fn over(self, below: Option<Digest>) -> (Step, Action, Digest) {
        let inputs = self.inputs.into_iter();
        if self.action.stands_alone() {
            let step = Step::new(self.name, inputs);
            let key = Digest::of_json(&(below, step.key()));
            return (step, self.action, key);
        }
        let below = below.map(|key| ("layer below".to_owned(), key.to_string()));
        let step = Step::new(self.name, inputs.chain(below));
        let key = step.key();
        (step, self.action, key)
    }
}

/// The layers' steps, bottom first, and the key of all of them together.
pub(crate) struct Layers {
    /// Each with what makes it.
    pub steps: Vec<(Step, Action)>,
    /// Changes with any of them.
    pub key: Digest,
}

/// Which downloads are still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Packages must be installed.
    pub packages: bool,
    /// Container images must be unpacked.
    pub images: bool,
}

/// The lock as a step.
pub(crate) fn lock_step(section: &Section) -> Step {
    Step::new("lock", [("packages asked for".to_owned(), section.inputs.to_string())])
}

/// The downloads as a step.
pub(crate) fn fetch_step(section: &Section) -> Step {
    let packages = section.packages.iter();
    let packages = packages.map(|package| (format!("package {}", package.name), package.version.clone()));
    let images = section.images.iter();
    let images = images.map(|image| (format!("image {}", image.reference), image.digest().to_string()));
    Step::new("fetch", packages.chain(images))
}

impl Plan {
    /// Reads everything that the recipe names.
    ///
    /// # Errors
    /// Templates that do not render, files that are missing, packages whose time cannot be read.
    pub(crate) fn new(loaded: &Loaded, section: &Section, local: &[LocalDeb], store: &Store) -> Result<Self> {
        let recipe = loaded.recipe.clone();
        let debs = debs(section, local);
        let native = (recipe.target.arch != Arch::host()).then(|| section.tools.get(&Arch::host())).flatten();
        let tools = native.into_iter().flatten().map(deb_file).collect();
        let (epoch, installed) = heads(&debs, store)?;
        let entries = overlay::store(&overlay::render(&recipe, epoch)?, store)?;
        let config_toml = config_toml(&entries, store)?;
        let authorized_keys = ssh::joined(&recipe.access.ssh_keys)?;
        let images = recipe.engine.images.iter().map(|image| preload(image, &recipe, section, store));
        let images = images.collect::<Result<Vec<_>>>()?;
        let pulled = images.iter().filter_map(Image::pulled).cloned();
        let stored = if recipe.engine.preload == Preload::Store { pulled.collect() } else { Vec::new() };
        let inputs = BTreeMap::from([
            ("recipe".to_owned(), Digest::of_json(&digestible(&recipe))),
            ("lock".to_owned(), Digest::of_json(&(&section.inputs, &section.packages))),
            ("packages".to_owned(), Digest::of_json(&debs)),
            ("overlays".to_owned(), Digest::of_json(&entry_inputs(&entries))),
            ("images".to_owned(), Digest::of_json(&images.iter().map(Image::input).collect::<Vec<_>>())),
            ("ssh keys".to_owned(), Digest::of(&authorized_keys)),
        ]);
        let seed = seed(&recipe, &inputs);
        let origins = origin::origins(&recipe, section, local);
        let place = |key: &str| loaded.place(key).to_string();
        let places = Places { user: place("access/user"), timezone: place("system/timezone") };
        Ok(Self {
            recipe,
            inputs,
            epoch,
            installed,
            seed,
            authorized_keys,
            config_toml,
            origins,
            places,
            debs,
            tools,
            entries,
            images,
            stored,
        })
    }

    /// The native tools that build a tree of another architecture; nothing where the lock has none for this machine.
    pub(crate) fn tools(&self) -> Option<(Step, Action)> {
        if self.tools.is_empty() {
            return None;
        }
        let target = self.recipe.target.arch;
        let mut inputs: Vec<_> =
            self.tools.iter().map(|deb| (format!("package {}", deb.name), deb.sha256.to_string())).collect();
        inputs.push(("architecture".into(), target.to_string()));
        Some((Step::new("native-tools", inputs), Action::Tools { debs: self.tools.clone(), target }))
    }

    /// The layers, bottom first: the key of each holds that of the ones below, but for one that stands alone.
    ///
    /// # Errors
    /// When something that they are made from cannot be read.
    pub(crate) fn layers(&self) -> Result<Layers> {
        let mut layers = vec![self.base()?, self.identity_service()?, self.edge()?];
        layers.extend(self.boot_loader());
        layers.push(self.initramfs()?);
        layers.extend(self.stored_images());
        layers.push(self.files()?);
        let (mut steps, mut below) = (Vec::new(), None);
        for layer in layers {
            let (step, action, key) = layer.over(below);
            steps.push((step, action));
            below = Some(key);
        }
        Ok(Layers { steps, key: below.context("finding the last layer")? })
    }

    /// What of the downloads must be read, because what is made of it is not in the store.
    ///
    /// # Errors
    /// As the layers.
    pub(crate) fn missing(&self, store: &Store) -> Result<Missing> {
        let absent = |step: &Step| layers::find(store, &step.key()).is_none();
        let mut missing =
            Missing { packages: self.tools().is_some_and(|(step, _)| absent(&step)), images: false };
        for (_, action) in self.layers()?.steps.iter().filter(|(step, _)| absent(step)) {
            match action {
                Action::Bootstrap { .. } | Action::Install { .. } => missing.packages = true,
                Action::Images(_) => missing.images = true,
                Action::Files(files) => missing.images |= files.preload == Preload::Load,
                Action::BootLoader(_) | Action::Initramfs { .. } | Action::Tools { .. } => {}
            }
        }
        Ok(missing)
    }

    /// Layers of container images as they lie in the store, and their configurations.
    pub(crate) fn image_blobs(&self) -> BTreeMap<Digest, &Path> {
        let images = self.images.iter().filter_map(Image::pulled);
        let blobs = images.flat_map(|image| {
            let layers = image.layers.iter().map(|layer| (layer.digest, layer.path.as_path()));
            layers.chain([(image.id, image.config.as_path())])
        });
        blobs.collect()
    }

    /// Bytes that the container images take once they are unpacked, as a rule: an estimate, from their packed layers.
    pub(crate) fn unpacked_images(&self) -> u64 {
        let sizes =
            self.image_blobs().into_values().map(|path| fs::metadata(path).map_or(0, |data| data.len()));
        sizes.fold(0, u64::saturating_add).saturating_mul(UNPACKED)
    }

    fn base(&self) -> Result<Layer> {
        let debs: Vec<DebFile> =
            self.debs.iter().filter(|deb| !STAGES.contains(&deb.name.as_str())).cloned().collect();
        let arch = self.recipe.target.arch;
        let mut inputs = self.package_inputs(&debs);
        inputs.push(("architecture".into(), arch.to_string()));
        Ok(Layer { name: "base", inputs, action: Action::Bootstrap { debs, arch } })
    }

    fn identity_service(&self) -> Result<Layer> {
        self.stage("identity-service", STAGES[0], false)
    }

    fn edge(&self) -> Result<Layer> {
        self.stage("edge", STAGES[1], true)
    }

    fn stage(&self, name: &'static str, package: &str, last: bool) -> Result<Layer> {
        let debs: Vec<DebFile> = self.debs.iter().filter(|deb| deb.name == package).cloned().collect();
        anyhow::ensure!(!debs.is_empty(), "the lock holds no package {package}");
        Ok(Layer { name, inputs: self.package_inputs(&debs), action: Action::Install { debs, last } })
    }

    fn package_inputs(&self, debs: &[DebFile]) -> Vec<(String, String)> {
        let mut inputs: Vec<_> =
            debs.iter().map(|deb| (format!("package {}", deb.name), deb.sha256.to_string())).collect();
        inputs.push(("time stamp".into(), self.epoch.to_string()));
        // Scripts ask for it, and some write it into a file.
        inputs.push(("host name".into(), self.recipe.system.hostname.clone()));
        inputs
    }

    /// Only a board whose boot loader is put together in the tree has this layer.
    fn boot_loader(&self) -> Option<Layer> {
        let program = board::of(self.recipe.target.board).program()?;
        let inputs = vec![("program".to_owned(), program.words.join(" "))];
        Some(Layer { name: "boot-loader", inputs, action: Action::BootLoader(program) })
    }

    fn initramfs(&self) -> Result<Layer> {
        let steering = |entry: &&TreeEntry| {
            initramfs::STEERED_BY.iter().any(|folder| entry.path.starts_with(folder.trim_end_matches('/')))
        };
        let mut files = board::initramfs::files(&self.recipe);
        files.extend(self.entries.iter().filter(steering).cloned());
        let wanted = self.recipe.target.initramfs != Initramfs::None;
        let mut inputs = entry_inputs(&files);
        inputs.push(("wanted".into(), wanted.to_string()));
        Ok(Layer { name: "initramfs", inputs, action: Action::Initramfs { files, wanted } })
    }

    /// Only where there are images of other places than the tree.
    fn stored_images(&self) -> Option<Layer> {
        if self.stored.is_empty() {
            return None;
        }
        let inputs = self.stored.iter().map(|image| {
            let names: Vec<&str> = image.names.iter().map(|name| name.reference.as_str()).collect();
            (format!("container image {}", names.join(", ")), image.input().to_string())
        });
        Some(Layer { name: "images", inputs: inputs.collect(), action: Action::Images(self.stored.clone()) })
    }

    fn files(&self) -> Result<Layer> {
        let recipe = &self.recipe;
        let mut entries = self.entries.clone();
        entries.extend(board::root_files(recipe, &Ids::from_seed(&self.seed))?);
        let mut inputs = entry_inputs(&entries);
        for (name, digest) in ["images", "ssh keys"].map(|name| (name, self.inputs.get(name))) {
            inputs.push((name.into(), digest.map(ToString::to_string).unwrap_or_default()));
        }
        for (name, value) in
            [("access.user", &recipe.access.user), ("system.timezone", &recipe.system.timezone)]
        {
            inputs.push((name.into(), value.clone()));
        }
        for path in &recipe.packages.remove {
            inputs.push((format!("removed {}", path.display()), String::new()));
        }
        let files = Files {
            entries,
            user: recipe.access.user.clone(),
            authorized_keys: self.authorized_keys.clone(),
            timezone: recipe.system.timezone.clone(),
            places: self.places.clone(),
            images: self.images.clone(),
            preload: recipe.engine.preload,
        };
        Ok(Layer { name: "files", inputs, action: Action::Files(files) })
    }
}

/// What enters the image, as far as it does: never formats, paths, or where packages came from.
fn seed(recipe: &Recipe, inputs: &BTreeMap<String, Digest>) -> Digest {
    let content: Vec<&Digest> =
        ["packages", "overlays", "images", "ssh keys"].iter().filter_map(|name| inputs.get(*name)).collect();
    let target = &recipe.target;
    let boot = (&target.cmdline, target.initramfs, &target.modules, &target.raspberry_pi);
    let shape = (target.arch, target.board, boot, recipe.disk.fat_size(target.board));
    // Never the key itself: identifiers are public.
    let wifi = recipe.network.wifi.as_ref().map(|wifi| (&wifi.country, &wifi.ssid, wifi.hidden));
    Digest::of_json(&(content, shape, wifi, &recipe.access.user, &recipe.system, &recipe.disk))
}

/// A recipe without what says only where things are: two folders, one digest.
fn digestible(recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.extends = None;
    recipe.overlays.clear();
    (recipe.modules.manifest, recipe.modules.values) = (None, None);
    recipe.packages.sources.clear();
    recipe.access.ssh_keys.clear();
    recipe.provisioning = recipe.provisioning.in_image();
    if let Some(wifi) = &mut recipe.network.wifi {
        wifi.key_file = None;
    }
    for deb in &mut recipe.packages.debs {
        deb.file = None;
    }
    for image in &mut recipe.engine.images {
        image.file = None;
    }
    for archive in recipe.archives.values_mut() {
        archive.key.file = None;
    }
    recipe
}

fn entry_inputs(entries: &[TreeEntry]) -> Vec<(String, String)> {
    entries.iter().map(|entry| (entry.path.display().to_string(), entry.digest().to_string())).collect()
}

fn debs(section: &Section, local: &[LocalDeb]) -> Vec<DebFile> {
    let archive = section.packages.iter().map(deb_file);
    let local = local.iter().map(|package| DebFile {
        name: package.name.clone(),
        version: package.version.clone(),
        sha256: package.sha256,
    });
    archive.chain(local).collect()
}

fn deb_file(package: &Locked) -> DebFile {
    DebFile { name: package.name.clone(), version: package.version.clone(), sha256: package.sha256 }
}

/// When the newest package was built, in seconds since 1970, and the bytes that all take when they are installed.
fn heads(debs: &[DebFile], store: &Store) -> Result<(u64, u64)> {
    let (mut newest, mut installed) = (0, 0u64);
    for deb in debs {
        let read = deb::Deb::read(&store.blob_path(&deb.sha256));
        let head = read.with_context(|| format!("reading package {} {}", deb.name, deb.version))?;
        newest = newest.max(head.built);
        // In KiB (policy 5.6.20); a package that does not say counts for nothing.
        let size = head.control.get("Installed-Size").and_then(|text| text.parse::<u64>().ok());
        installed = installed.saturating_add(size.unwrap_or_default().saturating_mul(1024));
    }
    Ok((newest, installed))
}

/// A locked image as the engine will have it: by the name that the recipe says, and by its digest.
fn stored(image: &Resolved, store: &Store) -> Result<engine_store::Image> {
    let reference = &image.reference;
    let repository = reference.familiar_name();
    let by_digest = format!("{repository}@sha256:{}", image.digest());
    let mut names = vec![by_digest];
    if let Some(tag) = reference.pulled_tag() {
        names.push(format!("{repository}:{tag}"));
    }
    let name = |reference| engine_store::Name { repository: repository.clone(), reference };
    let layer = |layer: &Descriptor| engine_store::Blob {
        path: store.blob_path(&layer.digest),
        digest: layer.digest,
    };
    Ok(engine_store::Image {
        names: names.into_iter().map(name).collect(),
        id: image.config.digest,
        config: store.blob(&image.config.digest).context("finding an image's configuration in the store")?,
        layers: image.layers.iter().map(layer).collect(),
        origin: Some(reference.name()),
    })
}

/// Most bytes of a config.toml: the largest sensible one is a hundred times smaller.
const LARGEST_CONFIG: u64 = 1 << 20;

fn config_toml(entries: &[TreeEntry], store: &Store) -> Result<String> {
    let entry = entries.iter().rev().find(|entry| entry.path.as_os_str() == "/etc/aziot/config.toml");
    let Some(TreeEntry { kind: EntryKind::Blob(digest), .. }) = entry else { return Ok(String::new()) };
    let mut text = Vec::new();
    let blob = store.blob(digest).context("finding config.toml in the store")?;
    fs::File::open(blob)?.take(LARGEST_CONFIG).read_to_end(&mut text).context("reading config.toml")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// An image of the recipe, and where what it is made of lies now.
fn preload(image: &EngineImage, recipe: &Recipe, section: &Section, store: &Store) -> Result<Image> {
    let (arch, name) = (recipe.target.arch, image.name.clone());
    let from = match &image.file {
        None if image.is_pulled() => {
            let reference: Reference = name.parse()?;
            let locked = section.images.iter().find(|locked| locked.reference == reference);
            PreloadSource::Pulled(stored(locked.context("finding the image in the lock")?, store)?)
        }
        None => PreloadSource::Tree { files: image.from_root.clone(), entrypoint: image.entrypoint.clone() },
        // As it is, for an engine to load.
        Some(file) if recipe.engine.preload == Preload::Load && file.is_file() => {
            PreloadSource::Archive(file.clone(), Digest::of_file(file)?)
        }
        Some(file) => {
            let taken = registry::take(file, &name.parse()?, arch, store);
            let taken = taken.with_context(|| format!("reading the container image {}", file.display()))?;
            PreloadSource::Pulled(of_file(&taken, store)?)
        }
    };
    Ok(Image { name, arch, from })
}

/// An image of a file has the recipe's name and no other: what digest a registry would know it by, nobody can tell.
fn of_file(image: &Resolved, store: &Store) -> Result<engine_store::Image> {
    let mut stored = stored(image, store)?;
    stored.names.retain(|name| !name.reference.contains('@'));
    stored.origin = None;
    Ok(stored)
}
