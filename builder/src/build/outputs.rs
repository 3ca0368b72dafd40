//! The last two steps: the raw image, and from it the files that the recipe asks for, with manifest and digests.
//!
//! Everything is written under temporary names in the output folder and renamed when all of it is whole; what stood
//! there before stays until then. The manifest and the digests come last, so that they never speak of what is not there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::Build;
use super::documents;
use super::image::{ImageJob, Made};
use super::output_cache::{CachedImage, CachedOutputs, OutputCache, Seen, manifest_in};
use super::partial::Partial;
use super::plan::Plan;
use super::steps::Step;
use crate::disk::ids::Ids;
use crate::event::{Event, Sink, Unit};
use crate::export::root::{Packed, RootJob};
use crate::export::{self, Request, vhd};
use crate::files;
use crate::format::Holds;
use crate::manifest::{self, Manifest, Output, Raw};
use crate::recipe::types::{Format, Preload};
use crate::rootfs::images;
use crate::sandbox;
use crate::store::Store;
use crate::units::Digest;
use crate::{board, disk};

/// Name of the digests beside an image, in the form that `sha256sum --check` reads.
pub(crate) const DIGESTS: &str = "SHA256SUMS";

/// The image as files in the output folder.
pub(crate) struct Outputs<'a> {
    /// Recipe and inputs.
    pub plan: &'a Plan,
    /// Key of the last layer.
    pub below: Digest,
    /// Trees of the layers.
    pub trees: Vec<PathBuf>,
    /// Where they go, absolute.
    pub folder: PathBuf,
    /// For scratch space.
    pub store: &'a Store,
    /// Listener.
    pub sink: &'a dyn Sink,
}

/// A file that is there.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    /// The file.
    pub path: PathBuf,
    /// Bytes that it takes on the disk; the rest are holes.
    pub allocated: u64,
    /// As the manifest has it.
    #[serde(flatten)]
    pub output: Output,
}

/// The raw image while the other files are made of it.
enum Source {
    /// It was there already, at its place.
    InPlace(PathBuf),
    /// It was made just now.
    New(Partial),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::InPlace(path) => path,
            Self::New(partial) => &partial.path,
        }
    }
}

impl Outputs<'_> {
    /// Is every file in the output folder already, made from the same inputs and not touched since?
    pub(super) fn are_there(&self) -> bool {
        let export = self.export_step(&self.image_step());
        OutputCache::read(&self.kept_file(&self.folder)).outputs(&self.folder, export.key()).is_some()
    }

    /// Makes the files, unless those in the output folder were made from the same inputs and not touched since.
    ///
    /// # Errors
    /// See [`ImageJob::make`] and [`export::run`]; or the output folder cannot be written.
    pub(super) fn make(&self, build: &mut Build<'_>) -> Result<Vec<Ready>> {
        let timer = Instant::now();
        let folder = self.folder.clone();
        let image_step = self.image_step();
        let export_step = self.export_step(&image_step);
        let kept_file = self.kept_file(&folder);
        let kept = OutputCache::read(&kept_file);
        if let Some(manifest) = kept.outputs(&folder, export_step.key()) {
            build.finish(&image_step, true, timer);
            build.finish(&export_step, true, Instant::now());
            return ready(&folder, &manifest.outputs);
        }
        let raw = folder.join(self.file(Format::Img));
        // Also what keeps two builds out of one folder.
        let partial = Partial::claim(&raw)?;
        let (source, made) = match kept.image(&folder, image_step.key()) {
            Some(made) => {
                build.finish(&image_step, true, timer);
                (Source::InPlace(raw), made)
            }
            None => {
                let made = self.image(&partial.path)?;
                build.finish(&image_step, false, timer);
                (Source::New(partial), made)
            }
        };
        let timer = Instant::now();
        let (mut outputs, raw) = self.export(&folder, source)?;
        outputs.extend(documents::write(self.plan, &folder, &made, raw, &outputs)?);
        build.finish(&export_step, false, timer);
        self.remove_stale(&folder, &outputs)?;
        self.describe(&folder, &made, &outputs, build.seconds())?;
        self.remember(&folder, made, (&image_step, &export_step), &outputs)?.write(&kept_file)?;
        ready(&folder, &outputs)
    }

    fn image(&self, out: &Path) -> Result<Made> {
        self.sink.emit(Event::Started { step: disk::STEP.into(), total: None, unit: Unit::Items });
        let staging = self.store.staging("image")?;
        let recipe = &self.plan.recipe;
        let job = ImageJob {
            lowers: self.trees.clone(),
            scratch: staging.path().to_owned(),
            out: out.to_owned(),
            recipe: recipe.clone(),
            seed: self.plan.seed,
            epoch: self.plan.epoch,
            authorized_keys: Digest::of(&self.plan.authorized_keys),
            wifi: board::wifi::allowed(recipe.network.wifi.as_ref())?,
        };
        sandbox::run(&job, self.sink)
    }

    /// Makes what the recipe asks for and moves all of it to its places; says also what the raw image is.
    fn export(&self, folder: &Path, source: Source) -> Result<(Vec<Output>, Raw)> {
        let formats = &self.plan.recipe.target.formats;
        let wanted = |format| formats.contains(&format);
        // The raw image becomes the VHD where nobody else wants it.
        let becomes = wanted(Format::Vhd) && !wanted(Format::Img) && matches!(source, Source::New(_));
        let partials = self.claims(folder, becomes)?;
        let made = self.pass(&partials, &source, becomes).map_err(|error| disk::full(error, folder))?;
        let outputs = formats.iter().map(|format| self.output(*format, &made, &partials));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        partials.into_iter().try_for_each(|(_, partial)| partial.persist())?;
        if let Source::New(partial) = source {
            if wanted(Format::Img) {
                partial.persist()?;
            } else if becomes {
                partial.persist_as(&folder.join(self.file(Format::Vhd)))?;
            }
        }
        Ok((outputs, Raw { size: made.size, sha256: made.sha256 }))
    }

    /// The places of all files but the raw image and what it becomes; what a killed build left of others goes.
    fn claims(&self, folder: &Path, becomes: bool) -> Result<Vec<(Format, Partial)>> {
        let formats = &self.plan.recipe.target.formats;
        let mut partials = Vec::new();
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Img) {
            let path = folder.join(self.file(format));
            if formats.contains(&format) && !(format == Format::Vhd && becomes) {
                partials.push((format, Partial::claim(&path)?));
            } else {
                Partial::sweep(&path)?;
            }
        }
        Ok(partials)
    }

    /// The one pass over the raw image.
    fn pass(
        &self,
        partials: &[(Format, Partial)],
        source: &Source,
        becomes: bool,
    ) -> Result<export::ExportOutcome> {
        let disks = partials.iter().filter(|(format, _)| format.form().holds != Holds::Tree);
        let mut targets: Vec<_> = disks.map(|(format, partial)| (*format, partial.path.clone())).collect();
        if becomes {
            targets.push((Format::Vhd, source.path().to_owned()));
        }
        let id = Ids::from_seed(&self.plan.seed).vhd;
        let request = Request {
            raw: source.path(),
            targets,
            vhd: vhd::Identity { id, epoch: self.plan.epoch },
            threads: export::threads(),
        };
        export::run(&request, self.sink)
    }

    /// What the manifest says of one format; the tar is made here, since it is not made of the disk.
    fn output(
        &self,
        format: Format,
        made: &export::ExportOutcome,
        partials: &[(Format, Partial)],
    ) -> Result<Output> {
        let raw = Raw { size: made.size, sha256: made.sha256 };
        let form = format.form();
        let (size, sha256, raw) = if format == Format::Img {
            (raw.size, raw.sha256, None)
        } else if form.holds == Holds::Tree {
            let partial = partials.iter().find(|(other, _)| *other == format);
            let packed = self.root(&partial.context("packing the root tree")?.1.path)?;
            let raw = Raw { size: packed.raw_size, sha256: packed.raw_sha256 };
            (packed.size, packed.sha256, Some(raw))
        } else {
            let done =
                made.files.iter().find(|file| file.format == format).context("finding what was made")?;
            (done.size, done.sha256, (form.holds == Holds::Disk).then_some(raw))
        };
        Ok(Output { file: self.file(format), format: Some(format), size, sha256, raw })
    }

    fn root(&self, out: &Path) -> Result<Packed> {
        let staging = self.store.staging("root")?;
        let job = RootJob {
            lowers: self.trees.clone(),
            scratch: staging.path().to_owned(),
            out: out.to_owned(),
            epoch: self.plan.epoch,
        };
        sandbox::run(&job, self.sink)
    }

    /// The file's name for a format: bmaptool finds `name.bmap` beside `name.img.zst`.
    fn file(&self, format: Format) -> PathBuf {
        PathBuf::from(format!("{}.{format}", self.plan.recipe.name))
    }

    fn image_step(&self) -> Step {
        let recipe = &self.plan.recipe;
        let fat = recipe.disk.fat_size(recipe.target.board);
        let mut target = recipe.target.clone();
        target.formats.clear();
        let inputs = [
            ("layer below".to_owned(), self.below.to_string()),
            ("identifiers".to_owned(), self.plan.seed.to_string()),
            ("time stamp".to_owned(), self.plan.epoch.to_string()),
            ("target".to_owned(), Digest::of_json(&target).to_string()),
            ("disk".to_owned(), Digest::of_json(&(&recipe.disk, fat)).to_string()),
        ];
        Step::new(disk::STEP, inputs)
    }

    fn export_step(&self, image: &Step) -> Step {
        let recipe = &self.plan.recipe;
        let formats: Vec<_> = recipe.target.formats.iter().map(ToString::to_string).collect();
        let inputs = [
            ("image".to_owned(), image.key().to_string()),
            ("formats".to_owned(), formats.join(" ")),
            ("papers".to_owned(), documents::VERSION.to_owned()),
            // The manifest carries these.
            ("manifest".to_owned(), Digest::of_json(&(&self.plan.inputs, &recipe.description)).to_string()),
        ];
        Step::new(export::STEP, inputs)
    }

    fn kept_file(&self, folder: &Path) -> PathBuf {
        let id = Digest::of(folder.join(self.file(Format::Img)).display().to_string()).short();
        self.store.steps_dir().join(format!("{id}.image.json"))
    }

    /// Removes what an earlier build made and this one does not: only what its manifest lists.
    fn remove_stale(&self, folder: &Path, outputs: &[Output]) -> Result<()> {
        let Some(old) = manifest_in(folder).filter(|old| old.name == self.plan.recipe.name) else {
            return Ok(());
        };
        for stale in old.outputs.iter().filter_map(Output::plain_name) {
            if outputs.iter().any(|output| output.file == *stale) {
                continue;
            }
            let path = folder.join(stale);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("removing {}, which is out of date", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes manifest and digests.
    fn describe(
        &self,
        folder: &Path,
        made: &Made,
        outputs: &[Output],
        seconds: BTreeMap<String, f64>,
    ) -> Result<()> {
        let recipe = &self.plan.recipe;
        let manifest = Manifest {
            edgepress: env!("CARGO_PKG_VERSION").into(),
            name: recipe.name.clone(),
            description: recipe.description.clone(),
            arch: recipe.target.arch,
            board: recipe.target.board,
            models: board::of(recipe.target.board).models(recipe),
            inputs: self.plan.inputs.clone(),
            kernels: made.kernels.clone(),
            epoch: self.plan.epoch,
            provisioning: recipe.provisioning.in_image(),
            config_toml: self.plan.config_toml.clone(),
            preloaded: images::archive_names(&recipe.engine),
            container_images: match recipe.engine.preload {
                Preload::Store => {
                    made.inventory.images.iter().map(|one| (one.name.clone(), one.sha256)).collect()
                }
                Preload::Load => BTreeMap::new(),
            },
            engine_dns: recipe.engine.dns.clone(),
            partitions: made.partitions.clone(),
            outputs: outputs.to_owned(),
            seconds,
        };
        let manifest = serde_json::to_vec_pretty(&manifest)?;
        let mut sums: String =
            outputs.iter().map(|output| format!("{}  {}\n", output.sha256, output.file.display())).collect();
        sums += &format!("{}  {}\n", Digest::of(&manifest), manifest::FILE_NAME);
        files::write(&folder.join(manifest::FILE_NAME), 0o644, &manifest)?;
        files::write(&folder.join(DIGESTS), 0o644, sums.as_bytes())
    }

    fn remember(
        &self,
        folder: &Path,
        made: Made,
        (image, export): (&Step, &Step),
        outputs: &[Output],
    ) -> Result<OutputCache> {
        let files = outputs.iter().map(|output| output.file.as_path());
        let files = files.chain([manifest::FILE_NAME, DIGESTS].map(Path::new));
        let seen = files
            .map(|file| Seen::of(folder, file).with_context(|| format!("looking at {}", file.display())));
        let seen = seen.collect::<Result<Vec<_>>>()?;
        let raw = self.plan.recipe.target.formats.contains(&Format::Img);
        let raw = raw.then(|| Seen::of(folder, &self.file(Format::Img))).flatten();
        Ok(OutputCache {
            image: raw.map(|seen| CachedImage { key: image.key(), seen, made }),
            outputs: Some(CachedOutputs { key: export.key(), seen }),
        })
    }
}

fn ready(folder: &Path, outputs: &[Output]) -> Result<Vec<Ready>> {
    const BLOCK: u64 = 512;
    let files = outputs.iter().map(|output| {
        let path = folder.join(&output.file);
        let data = fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
        Ok(Ready { path, allocated: data.blocks() * BLOCK, output: output.clone() })
    });
    files.collect()
}
