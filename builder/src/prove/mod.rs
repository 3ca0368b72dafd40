//! Proving that an image comes up provisioned: a copy of it boots in QEMU, in a simulated world, under the eyes of a
//! clock.
//!
//! ```text
//! prove             the image's copy with an identity on its FAT partition ── disk, checks, report
//!  └─ sandbox       a network with nothing but the simulators
//!      ├─ world     DPS, hub, DNS, NTP on their real ports
//!      ├─ qemu      the machine; its serial console is a pipe
//!      └─ inside    reads console and simulators; milestones, the reason of a failure
//! ```
//!
//! *Milestone*: something seen from outside, with seconds since power-on by the host's monotonic clock. *Check*:
//! something looked at after the machine went off.

pub mod accel;
pub mod checks;
pub mod console;
pub mod copy;
pub mod firmware;
pub mod image;
pub mod inside;
pub mod junit;
pub mod machine;
pub mod milestone;
mod qemu;
mod qmp;
pub mod report;
mod scratch;
pub mod timeline;
pub mod tracker;
mod verdict;
pub mod world;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use self::accel::{Accel, Wanted};
use self::copy::Copy;
use self::firmware::Firmware;
use self::image::Image;
use self::inside::{Inside, Run};
use self::machine::{Boot, Machine, Start, raspi3b};
use self::report::{MachineFacts, Report, publish};
use self::scratch::Scratch;
use self::world::Setting;
use crate::disk::patch;
use crate::error::Problem;
use crate::event::Sink;
use crate::host;
use crate::sandbox::{self, Job};
use crate::sim::pki::{DeviceCertificate, DeviceOptions, Pki};
use crate::units::ByteSize;

/// What to prove, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image, or the folder that holds it; its manifest stands beside it.
    pub image: PathBuf,
    /// Seconds from power-on to the last milestone; the machine's own limit where there is none.
    pub timeout: Option<f64>,
    /// Where the report goes; `test-report` beside the image where there is none.
    pub report: Option<PathBuf>,
    /// KVM or TCG.
    pub accel: Wanted,
    /// Memory of the machine; its own where there is none.
    pub memory: Option<ByteSize>,
    /// Processors of the machine; its own where there is none.
    pub cpus: Option<u32>,
    /// With firmware that has Microsoft's keys and secure boot on.
    pub secure_boot: bool,
    /// Keep the copy of the disk, and everything else that is private to the run.
    pub keep: bool,
}

/// The identity that a test makes up.
struct Device {
    pki: PathBuf,
    server_ca: String,
    certificate: DeviceCertificate,
}

/// Boots a copy of the image and writes the report; the image is only read.
///
/// # Errors
/// When the test cannot be made: image, manifest, QEMU or firmware missing, no namespaces. A device that is not
/// provisioned is a [`Report`] that says so.
pub fn prove(options: &Options, sink: &dyn Sink) -> Result<Report> {
    let image = Image::open(&options.image)?;
    refuse_unprovable(&image)?;
    let machine = machine(&image, options)?;
    let before = image.stamp()?;
    let scratch = Scratch::create(options.keep)?;
    let device = Device::create(scratch.path())?;
    let copy = Copy::create(scratch.path(), &image.path, image.size, machine.machine.has_card())?;
    let identity = device.files();
    let runs = patch::make(&image.path, image.manifest.epoch, |volume| {
        identity.iter().try_for_each(|(path, content)| volume.write(path, content))
    });
    let runs = runs.context("putting an identity into the image's copy")?.runs;
    copy.write(runs.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())))?;
    let setting = setting(&image, &device, &scratch);
    let console = scratch.path().join("console.log");
    let logs = [console.clone(), setting.log.clone()];
    let timeout = options.timeout.unwrap_or(machine.machine.timeout());
    let run: Run = match machine.start(&image, &scratch, sink)? {
        Ok(start) => {
            let boot = machine.boot(start, &scratch, &copy);
            let inside = Inside { boot, setting, timeout, console: console.clone() };
            sandbox::run(&Job::Prove(Box::new(inside)), sink)?
        }
        Err(reason) => {
            for log in &logs {
                fs::write(log, "").with_context(|| format!("writing {}", log.display()))?;
            }
            Run::not_started(reason)
        }
    };
    let evidence = verdict::Evidence {
        image: &image,
        before,
        copy: &copy,
        device: &device.certificate,
        run: &run,
        console: &console,
    };
    let report = verdict::report(&evidence, machine.facts()?, timeout)?;
    publish_report(&report, options, &image, &logs, &device.certificate)?;
    scratch.end(sink)?;
    Ok(report)
}

fn refuse_unprovable(image: &Image) -> Result<()> {
    image.partition("fat")?;
    if image.manifest.provisioning.overrides {
        return Ok(());
    }
    Err(Problem::input(format!(
        "{} trusts no certificate authority from its FAT partition (provisioning.overrides = false), so it would \
         refuse the simulated services",
        image.path.display()
    ))
    .hint("test an image of the same recipe built with --set provisioning.overrides=true")
    .into())
}

/// What runs the machine on this host.
struct Host {
    machine: Machine,
    program: PathBuf,
    /// None for a machine whose firmware QEMU does not run.
    firmware: Option<Firmware>,
    accel: Accel,
    cpus: u32,
    memory: ByteSize,
}

fn machine(image: &Image, options: &Options) -> Result<Host> {
    let manifest = &image.manifest;
    let machine = Machine::of(manifest.arch, manifest.board).ok_or_else(|| {
        Problem::input(format!(
            "{} is for {} and this board: QEMU has no such machine",
            image.path.display(),
            manifest.arch
        ))
    })?;
    let (cpus, memory) = machine.size(options.cpus, options.memory)?;
    let accel = machine.accel(options.accel)?;
    if options.secure_boot && !machine.has_firmware() {
        return Err(Problem::input("a Raspberry Pi has no secure boot")
            .hint("leave out --secure-boot")
            .into());
    }
    for tool in ["qemu-img", "qemu-io"] {
        host::program(tool)?;
    }
    let program = host::program(machine.program())?;
    let firmware = if machine.has_firmware() {
        Some(firmware::find(machine.arch(), machine.short_name(), options.secure_boot)?)
    } else {
        None
    };
    Ok(Host { machine, program, firmware, accel, cpus, memory })
}

impl Host {
    /// What the machine runs first, or why it cannot.
    fn start(&self, image: &Image, scratch: &Scratch, sink: &dyn Sink) -> Result<Result<Start, String>> {
        let Some(firmware) = &self.firmware else {
            let (chain, loaded) = raspi3b::load(&image.path, scratch.path())?;
            if !chain.overlays.is_empty() || !chain.parameters.is_empty() {
                sink.note("QEMU gets the device tree without overlays and parameters of config.txt".into());
            }
            let why = || raspi3b::obstacles(&chain).unwrap_or_default();
            return Ok(loaded.map(Start::Raspi3b).ok_or_else(why));
        };
        let mut firmware = firmware.clone();
        let vars = scratch.path().join("vars.fd");
        // Contents only: the template is often read-only.
        let template = fs::read(&firmware.vars.file)
            .with_context(|| format!("reading {}", firmware.vars.file.display()))?;
        fs::write(&vars, template).with_context(|| format!("writing {}", vars.display()))?;
        firmware.vars.file = vars;
        Ok(Ok(if self.machine == Machine::Pc { Start::Pc(firmware) } else { Start::Virt(firmware) }))
    }

    fn boot(&self, start: Start, scratch: &Scratch, copy: &Copy) -> Boot {
        Boot {
            program: self.program.clone(),
            uuid: scratch.uuid().to_owned(),
            disk: copy.disk(),
            start,
            accel: self.accel,
            cpus: self.cpus,
            memory: self.memory,
            folder: scratch.path().to_owned(),
        }
    }

    fn facts(&self) -> Result<MachineFacts> {
        Ok(MachineFacts {
            machine: self.machine,
            arch: self.machine.arch(),
            qemu: qemu::version(&self.program)?,
            accel: self.accel,
            cpus: self.cpus,
            memory: self.memory,
            firmware: self.firmware.as_ref().map(|firmware| firmware.code.file.clone()),
            secure_boot: self.firmware.as_ref().is_some_and(|firmware| firmware.secure),
        })
    }
}

impl Device {
    fn create(scratch: &Path) -> Result<Self> {
        let pki_folder = scratch.join("pki");
        let pki = Pki::open_or_create(&pki_folder)?;
        let id = format!("edgepress-test-{}", &scratch::uuid()?[..8]);
        let certificate = pki.issue_device(&id, &DeviceOptions::default())?;
        Ok(Self { pki: pki_folder, server_ca: pki.server_ca_pem().to_owned(), certificate })
    }

    /// Files for the FAT partition.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let file = |name: &str, text: &str| (format!("{IDENTITY}/{name}"), text.as_bytes().to_vec());
        vec![
            file("registration-id", &format!("{}\n", self.certificate.registration_id)),
            file("certificate.pem", &self.certificate.chain_pem),
            file(PRIVATE_KEY, &self.certificate.key_pem),
            file("ca/simulator.pem", &self.server_ca),
        ]
    }
}

/// The folder of a device's identity on the FAT partition.
const IDENTITY: &str = "edgepress";
const PRIVATE_KEY: &str = "private-key.pem";

fn setting(image: &Image, device: &Device, scratch: &Scratch) -> Setting {
    let provisioning = &image.manifest.provisioning;
    Setting {
        pki: device.pki.clone(),
        global_endpoint: provisioning.global_endpoint.clone(),
        id_scope: provisioning.id_scope.clone(),
        engine_dns: image.manifest.engine_dns.clone(),
        registration_id: device.certificate.registration_id.clone(),
        log: scratch.path().join("simulator.jsonl"),
        resolv_conf: scratch.path().join("resolv.conf"),
    }
}

/// Where the report goes if the user does not say.
const REPORT: &str = "test-report";

fn publish_report(
    report: &Report,
    options: &Options,
    image: &Image,
    [console, simulator]: &[PathBuf; 2],
    device: &DeviceCertificate,
) -> Result<()> {
    let folder = options.report.clone().unwrap_or_else(|| image.folder().join(REPORT));
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for (from, name) in [(console, "console.log"), (simulator, "simulator.jsonl")] {
        let text = fs::read_to_string(from).with_context(|| format!("reading {}", from.display()))?;
        publish(&folder.join(name), verdict::redact(&text, &device.key_pem).as_bytes())?;
    }
    report.write(&folder)
}
