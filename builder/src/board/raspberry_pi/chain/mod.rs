//! The boot chain of one model, followed as its firmware follows it, over the files of the boot partition.
//!
//! ```text
//! ROM or EEPROM ─► bootcode.bin, start*.elf, fixup*.dat ─► config.txt ─► kernel, initramfs, device tree, overlays,
//!                                                                        cmdline.txt ─► root partition
//! ```
//! Whatever a link names must be there and be of its kind; what is not becomes a [`Finding`]. The same code judges what
//! is about to be written into an image, what an image holds, and what QEMU (which runs no GPU firmware) shall load.
//! Source: Raspberry Pi's documentation, "Boot flow" and "config.txt: boot options".

pub(crate) mod cmdline;
pub(crate) mod kernel;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub(crate) use self::cmdline::RootPartition;
use super::config_txt::{self, Config, Placement};
use super::model::{self, Facts, auto_initramfs};
use crate::board::files::Files;
use crate::finding::{Finding, Severity, clean};
use crate::recipe::types::Model;

/// Names of kernels that the firmware knows to have 64 bits.
const WIDE_KERNELS: &[&str] = &["kernel8.img", "kernel_2712.img"];
/// Overlays that give the better UART to the serial port at the GPIO pins.
const BETTER_UART: &[&str] = &["disable-bt", "miniuart-bt"];
const UART0: &str = "ttyAMA0";
const MINI_UART: &str = "ttyS0";
/// The first bytes of a compiled device tree, and the nodes without which the firmware applies no overlay and no
/// parameter to it. Kernels are often built without them.
const TREE: &[u8] = &0xd00d_feed_u32.to_be_bytes();
const SYMBOLS: &[u8] = b"__symbols__";
const OVERRIDES: &[u8] = b"__overrides__";
/// GPU memory with which the firmware without camera and codecs is taken, MiB.
const CUT_DOWN: i64 = 16;

/// What a model loads, in this order, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Chain {
    /// The model.
    pub model: Model,
    /// The firmware's files that the card holds; none for a model with all of it in EEPROM.
    pub firmware: Vec<String>,
    /// The kernel.
    pub kernel: Option<String>,
    /// Files of the initramfs; they lie one behind the other in memory.
    pub initramfs: Vec<(String, Placement)>,
    /// The device tree of the model's main variant.
    pub device_tree: Option<String>,
    /// Device tree overlays that are there.
    pub overlays: Vec<String>,
    /// Parameters of the device tree.
    pub parameters: Vec<String>,
    /// The command line as the kernel gets it: the serial ports' names stand in it.
    pub cmdline: String,
    /// How many bytes the card gives up before the kernel runs.
    pub bytes_read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Chain {
    /// Does the model boot, as far as files can tell?
    pub(crate) fn sound(&self) -> bool {
        self.errors().next().is_none()
    }

    /// The findings that keep the model from booting.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error)
    }

    /// The last serial port that is a console, for example `ttyS0`.
    pub(crate) fn serial_console(&self) -> Option<&str> {
        cmdline::consoles(&self.cmdline)
            .filter(|name| name.starts_with("ttyS") || name.starts_with("ttyAMA"))
            .last()
    }
}

/// Follows the chain of a model over the files of a boot partition. Without `root` nobody can tell whether the command
/// line names a partition that exists.
pub(crate) fn follow(files: &dyn Files, model: Model, root: Option<&RootPartition>) -> Chain {
    let mut config = config_txt::read(files, model);
    let chain = Chain {
        model,
        firmware: Vec::new(),
        kernel: None,
        initramfs: Vec::new(),
        device_tree: None,
        overlays: Vec::new(),
        parameters: config.parameters.clone(),
        cmdline: String::new(),
        bytes_read: config.files.iter().map(|(_, size)| size).sum(),
        findings: std::mem::take(&mut config.findings),
    };
    let facts = model::facts(model);
    let mut follower = Follower { files, facts, config, chain, prefix: String::new(), symbols: true };
    follower.config();
    follower.firmware();
    follower.prefix();
    follower.kernel();
    follower.initramfs();
    follower.device_trees();
    follower.overlays();
    follower.cmdline(root);
    follower.chain
}

struct Follower<'a> {
    files: &'a dyn Files,
    facts: &'static Facts,
    config: Config,
    chain: Chain,
    /// `os_prefix`, if it stands the firmware's test.
    prefix: String,
    /// Overlays can be applied to the device tree.
    symbols: bool,
}

impl Follower<'_> {
    fn find(&mut self, finding: Finding) {
        self.chain.findings.push(finding);
    }

    fn has(&self, path: &str) -> bool {
        self.files.size(path).is_some()
    }

    /// Takes a file into account, if it is there.
    fn load(&mut self, path: &str) -> bool {
        let size = self.files.size(path);
        self.chain.bytes_read += size.unwrap_or(0);
        size.is_some()
    }

    /// The path of a file of the operating system: a leading `/` is above all prefixes.
    fn path(&self, name: &str) -> String {
        join(&self.prefix, name)
    }

    fn config(&mut self) {
        let model = self.chain.model;
        if self.config.files.is_empty() {
            self.find(
                Finding::error("config.txt is missing")
                    .hint("without it the firmware starts no 64-bit kernel"),
            );
        } else if !self.wide() {
            let message =
                format!("config.txt does not set arm_64bit=1: model {model} starts a 32-bit kernel");
            self.find(Finding::error(message).hint("add arm_64bit=1 to config.txt"));
        }
    }

    fn wide(&self) -> bool {
        let known = self.config.get("kernel").is_some_and(|name| WIDE_KERNELS.contains(&name.trim()));
        // Model 5 has no 32-bit mode to start in.
        let always = self.facts.firmware.is_none();
        always || self.config.number("arm_64bit").map_or(self.facts.wide || known, |value| value != 0)
    }

    fn firmware(&mut self) {
        let mut names: Vec<String> = self.facts.loader.iter().map(|name| (*name).to_owned()).collect();
        if let Some(number) = self.facts.firmware {
            // Model 4's have no underscore: start4cd.elf.
            let join = if number.is_empty() { "_" } else { number };
            let kind =
                [("start_x", "x"), ("start_debug", "db")].into_iter().find(|(key, _)| self.config.on(key));
            let cut_down = self.config.number("gpu_mem") == Some(CUT_DOWN);
            let middle = match kind.map(|(_, kind)| kind).or(cut_down.then_some("cd")) {
                Some(kind) => format!("{join}{kind}"),
                None => number.to_owned(),
            };
            let named = |key, default: String| self.config.get(key).map_or(default, str::to_owned);
            names.push(named("start_file", format!("start{middle}.elf")));
            names.push(named("fixup_file", format!("fixup{middle}.dat")));
        }
        let model = self.chain.model;
        for name in names {
            if self.load(&name) {
                self.chain.firmware.push(name);
            } else {
                let message = format!("the firmware's file {} is missing", clean(&name));
                self.find(Finding::error(message).hint(format!(
                    "model {model} needs it on the FAT partition; the package raspi-firmware brings it"
                )));
            }
        }
    }

    /// The firmware believes a prefix only if kernel and device tree are there.
    fn prefix(&mut self) {
        let wanted = match self.config.get("os_prefix") {
            Some(prefix) => prefix.to_owned(),
            None if self.config.on("upstream_kernel") => "upstream/".to_owned(),
            None => return,
        };
        let there = |name: &String| self.has(&join(&wanted, name));
        if self.kernel_names().iter().any(there) && self.main_trees().iter().any(there) {
            self.prefix = wanted;
        } else if self.config.get("os_prefix").is_some_and(|prefix| !prefix.is_empty()) {
            let message =
                format!("os_prefix={} is ignored: kernel or device tree are not there", clean(&wanted));
            self.find(Finding::warning(message).hint("a folder's prefix ends in a slash"));
        }
    }

    fn kernel_names(&self) -> Vec<String> {
        match self.config.get("kernel") {
            Some(name) => vec![name.trim().to_owned()],
            None => self.facts.kernels.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn main_trees(&self) -> Vec<String> {
        match self.config.get("device_tree") {
            Some(name) => vec![name.trim().to_owned()],
            None => self.trees(&self.facts.variants[0]),
        }
    }

    fn trees(&self, variant: &model::Variant) -> Vec<String> {
        let names = self.facts.trees(variant, self.config.on("upstream_kernel"));
        names.into_iter().map(str::to_owned).collect()
    }

    fn kernel(&mut self) {
        let names: Vec<_> = self.kernel_names().iter().map(|name| self.path(name)).collect();
        let Some(path) = names.iter().find(|path| self.has(path)).cloned() else {
            let shown: Vec<_> = names.iter().map(|name| clean(name)).collect();
            let message = match self.config.get("kernel") {
                Some(_) => format!("config.txt names the kernel {}, which is missing", shown.join("")),
                None => format!("there is no kernel: {} is missing", shown.join(" or ")),
            };
            let hint = self.others("kernel", &["vmlinuz", "kernel"]);
            return self.find(Finding::error(message).hint(hint));
        };
        self.load(&path);
        if let Some(why) =
            self.files.read(&path).map_or(Some("it cannot be read"), |bytes| kernel::obstacle(&bytes))
        {
            let message =
                format!("model {} cannot start the kernel {}: {why}", self.chain.model, clean(&path));
            self.find(
                Finding::error(message)
                    .hint("the 64-bit kernels' packages are linux-image-arm64 and linux-image-rpi-v8"),
            );
        }
        self.chain.kernel = Some(path);
    }

    /// A hint that lists what is there instead.
    fn others(&self, what: &str, beginnings: &[&str]) -> String {
        let like = |name: &String| {
            beginnings.iter().any(|beginning| name.to_ascii_lowercase().starts_with(beginning))
        };
        let names: Vec<_> =
            self.files.list("").into_iter().filter(like).map(|name| clean(&name)).take(4).collect();
        match names.is_empty() {
            true => format!("there is no {what} on the FAT partition at all: which package should bring it?"),
            false => format!("on the FAT partition: {}", names.join(", ")),
        }
    }

    fn initramfs(&mut self) {
        if let Some((names, placement)) = self.config.initramfs.clone() {
            for name in names {
                let path = self.path(&name);
                match self.files.size(&path) {
                    None => {
                        let message =
                            format!("config.txt names the initramfs {}, which is missing", clean(&path));
                        let hint = self.others("initramfs", &["initr"]);
                        self.find(Finding::error(message).hint(hint));
                    }
                    Some(0) => self.find(Finding::error(format!("the initramfs {} is empty", clean(&path)))),
                    Some(_) => {
                        self.load(&path);
                        self.chain.initramfs.push((path, placement));
                    }
                }
            }
        } else if self.config.on("auto_initramfs") {
            let path = self.chain.kernel.as_deref().and_then(auto_initramfs);
            match path {
                Some(path) if self.load(&path) => self.chain.initramfs.push((path, Placement::FollowKernel)),
                path => {
                    let name =
                        path.map_or_else(|| "one for this kernel's name".to_owned(), |path| clean(&path));
                    let message =
                        format!("auto_initramfs=1, but there is no {name}: the kernel starts without");
                    self.find(Finding::warning(message).hint("name it: initramfs FILE followkernel"));
                }
            }
        }
    }

    fn device_trees(&mut self) {
        let model = self.chain.model;
        let named = self.config.get("device_tree").is_some();
        let main: Vec<_> = self.main_trees().iter().map(|name| self.path(name)).collect();
        match main.iter().find(|path| self.has(path)).cloned() {
            Some(path) => {
                self.load(&path);
                self.look_into_tree(&path);
                self.chain.device_tree = Some(path);
            }
            None if named => {
                let message =
                    format!("config.txt names the device tree {}, which is missing", clean(&main.join("")));
                self.find(
                    Finding::error(message).hint("leave device_tree= out: the firmware knows its board"),
                );
            }
            None => {
                let message = format!(
                    "{} is missing: the kernel's package brings no device tree for model {model}",
                    main.join(" or ")
                );
                self.find(Finding::error(message).hint(format!(
                    "take a kernel that knows model {model} (Raspberry Pi's linux-image-rpi packages do), or take the \
                     model out of target.raspberry_pi.models"
                )));
            }
        }
        // One file for all variants, or already told.
        if named || self.chain.device_tree.is_none() {
            return;
        }
        for variant in &self.facts.variants[1..] {
            let paths: Vec<_> = self.trees(variant).iter().map(|name| self.path(name)).collect();
            if !paths.iter().any(|path| self.has(path)) {
                let message = format!("{} is missing: {} does not boot", paths.join(" or "), variant.name);
                self.find(Finding::warning(message));
            }
        }
    }

    /// Can overlays and parameters be applied to it?
    fn look_into_tree(&mut self, path: &str) {
        let bytes = self.files.read(path).unwrap_or_default();
        if !bytes.starts_with(TREE) {
            return;
        }
        let has = |node: &[u8]| bytes.windows(node.len()).any(|window| window == node);
        self.symbols = has(SYMBOLS);
        let path = clean(path);
        if !self.symbols && !self.config.overlays.is_empty() {
            let message = format!("{path} has no symbols: the firmware cannot apply overlays to it");
            self.find(
                Finding::warning(message).hint("Raspberry Pi's own kernels bring device trees with symbols"),
            );
        }
        if !has(OVERRIDES) && !self.chain.parameters.is_empty() {
            let message = format!("{path} takes no parameters: dtparam= lines do nothing");
            self.find(
                Finding::warning(message)
                    .hint("Raspberry Pi's own kernels bring device trees that take them"),
            );
        }
    }

    fn overlays(&mut self) {
        let folder = self.config.get("overlay_prefix").unwrap_or("overlays/").to_owned();
        // Without a README below the prefix, overlays are shared between systems.
        let own = self.path(&folder);
        let folder = if self.has(&format!("{own}README")) { own } else { folder };
        for overlay in self.config.overlays.clone() {
            let path = format!("{folder}{}.dtbo", overlay.name);
            if self.load(&path) {
                self.chain.overlays.push(path);
            } else {
                let message = format!("dtoverlay={}: {} is missing", clean(&overlay.name), clean(&path));
                self.find(Finding::warning(message).hint("the firmware leaves it out; is the name right?"));
            }
        }
    }

    fn cmdline(&mut self, root: Option<&RootPartition>) {
        let name = self.config.get("cmdline").unwrap_or("cmdline.txt").trim().to_owned();
        let path = self.path(&name);
        let Some(bytes) = self.files.read(&path) else {
            let message = format!("{} is missing: the kernel does not learn where its root is", clean(&path));
            return self.find(Finding::error(message).hint("it is one line with root=PARTUUID=<disk id>-02"));
        };
        self.load(&path);
        let (line, finding) = cmdline::line(&String::from_utf8_lossy(&bytes), &clean(&path));
        let empty = line.is_empty();
        self.chain.findings.extend(finding);
        let (serial0, serial1) = self.ports();
        self.chain.cmdline = cmdline::with_ports(&line, serial0, serial1);
        if !empty {
            let initramfs = !self.chain.initramfs.is_empty();
            self.silent_console();
            self.chain.findings.extend(cmdline::check(&self.chain.cmdline, initramfs, root));
        }
    }

    /// Upstream device trees count the mini UART as the second port.
    fn silent_console(&mut self) {
        let upstream = self.config.on("upstream_kernel") && self.facts.serial == MINI_UART;
        if upstream && cmdline::consoles(&self.chain.cmdline).any(|name| name == MINI_UART) {
            let message =
                "upstream kernels call the serial port ttyS1: a console at serial0 or ttyS0 stays silent";
            self.find(Finding::warning(message).hint("write console=ttyS1,115200"));
        }
    }

    /// What Linux calls the first and the second serial port.
    fn ports(&self) -> (&'static str, &'static str) {
        let better =
            self.symbols && self.config.overlays.iter().any(|overlay| BETTER_UART.contains(&&*overlay.name));
        match self.facts.serial {
            MINI_UART if better => (UART0, MINI_UART),
            serial => (serial, UART0),
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    match name.strip_prefix('/') {
        Some(absolute) => absolute.to_owned(),
        None => format!("{prefix}{name}"),
    }
}
