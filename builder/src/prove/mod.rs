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
//! A test may inject faults ([`Injection`]): cut the power and boot once more, let services fail, set the clock wrong.
//!
//! *Milestone*: something seen from outside, with seconds since power-on by the host's monotonic clock. *Check*:
//! something looked at after the machine went off.

pub(crate) mod accel;
pub(crate) mod azure;
pub(crate) mod checks;
pub(crate) mod console;
pub(crate) mod copy;
mod device;
pub(crate) mod fault_injection;
pub(crate) mod firmware;
pub(crate) mod inside;
pub(crate) mod junit;
pub(crate) mod machine;
pub(crate) mod milestone;
pub(crate) mod processor;
mod qemu;
mod qmp;
pub(crate) mod report;
mod root;
pub(crate) mod run;
pub(crate) mod timeline;
mod tpm;
pub(crate) mod tracker;
mod trust;
mod verdict;
pub(crate) mod world;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use time::OffsetDateTime;

use self::accel::{Accel, Wanted};
use self::azure::Vm;
use self::copy::Copy;
use self::device::Device;
use self::fault_injection::Injection;
use self::firmware::Firmware;
use self::inside::{Inside, Run};
use self::machine::{Boot, Machine, NOW, Start, raspi3b};
use self::report::{Conditions, MachineFacts, Report};
use self::world::Setting;
use crate::error::Problem;
use crate::event::Sink;
use crate::files;
use crate::host;
use crate::image::Image;
use crate::image::scratch::Scratch;
use crate::recipe::types::Attestation;
use crate::sandbox;
use crate::sim::Allocation;
use crate::sim::pki::DeviceCertificate;
use crate::units::ByteSize;

/// What to prove, and how.
#[derive(Debug, Clone)]
pub(crate) struct TestOptions {
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
    /// With an emulated TPM 2.0.
    pub tpm: bool,
    /// In a simulated Azure: the machine is one of its VMs.
    pub azure: bool,
    /// What the simulated DPS makes of the device's registration.
    pub allocation: Allocation,
    /// What is done to the device besides.
    pub injection: Injection,
    /// The device that a patch makes of the image, or that the image is already, instead of a made-up one.
    pub stamped: Option<Stamped>,
    /// Keep the copy of the disk, and everything else that is private to the run.
    pub keep: bool,
}

impl TestOptions {
    /// Where the report goes.
    pub(crate) fn report_folder(&self) -> PathBuf {
        // A link stands for the image that it names, and for what lies beside that.
        let image = if self.image.is_symlink() { self.image.canonicalize().ok() } else { None };
        let image = image.as_deref().unwrap_or(&self.image);
        let beside = if image.is_dir() { Some(image) } else { image.parent() };
        self.report.clone().unwrap_or_else(|| beside.unwrap_or(Path::new("")).join(REPORT))
    }
}

/// A device with an identity of its own, and the world that knows it.
#[derive(Debug, Clone)]
pub(crate) struct Stamped {
    /// The patch made by `edgepress stamp`; none where the image holds the identity.
    pub patch: Option<PathBuf>,
    /// Folder of the simulators' authorities that issued what is in it.
    pub pki: PathBuf,
}

/// Boots a copy of the image and writes the report; the image is only read.
///
/// # Errors
/// When the test cannot be made: image, manifest, QEMU or firmware missing, no namespaces. A device that is not
/// provisioned is a [`Report`] that says so.
pub(crate) fn prove(options: &TestOptions, sink: &dyn Sink) -> Result<Report> {
    let mut image = Image::open(&options.image)?;
    image.partition("fat")?;
    refuse_missing_tpm(&image, options)?;
    let machine = machine(&image, options)?;
    let scratch = Scratch::create(options.keep)?;
    image.unpack(scratch.path(), sink)?;
    let before = image.stamp()?;
    let vm = options.azure.then(|| Vm::new(scratch.uuid()));
    let device = match &options.stamped {
        None => Device::create(scratch.path(), &image.manifest, vm.as_ref())?,
        Some(Stamped { patch, pki }) => {
            Device::stamped(&image.path, patch.as_deref(), pki, &mut image.manifest.provisioning)?
        }
    };
    let (copy, trust) = copy(&image, &machine, &device, &scratch, options, sink)?;
    let setting = Setting { azure: vm.clone(), ..setting(&image, &device, &scratch, options) };
    let logs = Logs::of(&scratch, &setting);
    let timeout = options.timeout.unwrap_or(machine.machine.timeout());
    let run: Run = match machine.start(&image, &scratch, sink)? {
        Ok(start) => {
            let inside = Inside {
                boot: Boot {
                    provisioning_disc: vm.as_ref().map(|vm| vm.disc(scratch.path())).transpose()?,
                    ..machine.boot(start, &scratch, &copy, options)?
                },
                setting,
                timeout,
                goal: device::goal(&image.manifest.provisioning),
                cut: options.injection.cut,
                network_after: options.injection.network_after,
                console: logs.console.clone(),
                console_before: logs.console_before.clone(),
            };
            sandbox::run(&inside, sink)?
        }
        Err(reason) => {
            logs.make_empty()?;
            Run::not_started(reason)
        }
    };
    let evidence = verdict::Evidence {
        image: &image,
        before,
        copy: &copy,
        device: &device.certificate,
        run: &run,
        injection: &options.injection,
        vm: vm.as_ref(),
        consoles: [&logs.console, &logs.console_before],
    };
    let conditions = Conditions::of(&options.injection, trust);
    let report = verdict::report(&evidence, machine.facts()?, conditions, timeout)?;
    publish_report(&report, options, &logs, &device.certificate)?;
    scratch.end(sink)?;
    Ok(report)
}

/// The copy with the identity, and what else was put into it that the report must say.
fn copy(
    image: &Image,
    machine: &Host,
    device: &Device,
    scratch: &Scratch,
    options: &TestOptions,
    sink: &dyn Sink,
) -> Result<(Copy, Option<String>)> {
    let mut runs = device.sectors(&image.path, &image.manifest)?;
    let mut trust = None;
    if !image.manifest.provisioning.overrides {
        let root = image.partition("root")?;
        let place = trust::Place { image: &image.path, offset: root.offset, epoch: image.manifest.epoch };
        runs.extend(
            trust::blocks(&place, &device.server_ca, scratch.path())
                .context("making the image's copy trust the simulators")?,
        );
        let message = format!(
            "the image's recipe trusts nothing from the FAT partition: the simulators' certificate authority was put \
             into the copy's {}",
            trust::STORE
        );
        sink.note(message.clone());
        trust = Some(message);
    }
    let runs = runs.iter().map(|(offset, bytes)| (*offset, bytes.as_slice()));
    let mut copy = Copy::create(scratch.path(), &image.path, image.size, machine.machine.has_card(), runs)?;
    if options.injection.cut.is_some() {
        copy.wear()?;
    }
    Ok((copy, trust))
}

/// Files that become part of the report.
struct Logs {
    console: PathBuf,
    console_before: PathBuf,
    simulator: PathBuf,
}

impl Logs {
    fn of(scratch: &Scratch, setting: &Setting) -> Self {
        let console = scratch.path().join("console.log");
        let console_before = scratch.path().join("console-before-cut.log");
        Self { console, console_before, simulator: setting.log.clone() }
    }

    /// For a machine that was never switched on.
    fn make_empty(&self) -> Result<()> {
        for log in [&self.console, &self.console_before, &self.simulator] {
            fs::write(log, "").with_context(|| format!("writing {}", log.display()))?;
        }
        Ok(())
    }
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
    tpm: bool,
}

fn machine(image: &Image, options: &TestOptions) -> Result<Host> {
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
        let message = format!("{} has no secure boot", machine.described());
        return Err(Problem::input(message).hint("leave out --secure-boot").into());
    }
    refuse_missing_hardware(machine, options)?;
    let tpm = options.tpm.then_some(tpm::PROGRAM);
    // What the sandbox and the checks run, whatever comes of the boot, and what only some tests need.
    let injected = options.injection != Injection::default() || options.azure;
    let checks = ["e2fsck", "debugfs"].into_iter().filter(|_| injected || !manifest.provisioning.overrides);
    let trust = (!manifest.provisioning.overrides).then_some("e2image");
    host::programs([machine.program(), "ip"].into_iter().chain(tpm).chain(checks).chain(trust))?;
    let program = host::program(machine.program())?;
    let firmware = if machine.has_firmware() {
        Some(firmware::find(machine.arch(), machine.short_name(), options.secure_boot)?)
    } else {
        None
    };
    Ok(Host { machine, program, firmware, accel, cpus, memory, tpm: options.tpm })
}

/// A Raspberry Pi lacks what other machines have.
fn refuse_missing_tpm(image: &Image, options: &TestOptions) -> Result<()> {
    let attestation = image.manifest.provisioning.certificate.attestation();
    if options.tpm || attestation != Attestation::Tpm {
        return Ok(());
    }
    Err(Problem::input("the image's devices prove who they are with a TPM").hint("add --tpm").into())
}

fn refuse_missing_hardware(machine: Machine, options: &TestOptions) -> Result<()> {
    if machine.has_clock_and_tpm() {
        return Ok(());
    }
    let lacks = [
        (options.azure, "no place in Azure", "--azure"),
        (options.tpm, "no TPM", "--tpm"),
        (options.injection.rtc.is_some(), "no clock that runs while it is off", "--rtc"),
        (
            options.injection.network_after.is_some(),
            "a network that is plugged in as a whole, when init runs",
            "--network-after",
        ),
    ];
    match lacks.into_iter().find(|(wanted, _, _)| *wanted) {
        Some((_, what, option)) => Err(Problem::input(format!("QEMU's Raspberry Pi 3 has {what}"))
            .hint(format!("leave out {option}"))
            .into()),
        None => Ok(()),
    }
}

impl Host {
    /// What the machine runs first, or why it cannot.
    fn start(&self, image: &Image, scratch: &Scratch, sink: &dyn Sink) -> Result<Result<Start, String>> {
        let Some(firmware) = &self.firmware else {
            if self.machine == Machine::Bios {
                return Ok(Ok(Start::Bios));
            }
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

    fn boot(&self, start: Start, scratch: &Scratch, copy: &Copy, options: &TestOptions) -> Result<Boot> {
        let clock = options.injection.rtc.map(|rtc| rtc.base(OffsetDateTime::now_utc())).transpose();
        let clock = clock.map_err(|error| Problem::input(format!("{error:#}")))?;
        Ok(Boot {
            program: self.program.clone(),
            uuid: scratch.uuid().to_owned(),
            disk: copy.disk(),
            start,
            accel: self.accel,
            cpus: self.cpus,
            memory: self.memory,
            cut: options.injection.cut.is_some(),
            clock: clock.unwrap_or_else(|| NOW.to_owned()),
            tpm: options.tpm,
            paused: options.injection.network_after.is_some(),
            provisioning_disc: None,
            folder: scratch.path().to_owned(),
        })
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
            tpm: self.tpm,
        })
    }
}

fn setting(image: &Image, device: &Device, scratch: &Scratch, options: &TestOptions) -> Setting {
    let injection = &options.injection;
    let provisioning = &image.manifest.provisioning;
    Setting {
        pki: device.pki.clone(),
        global_endpoint: provisioning.global_endpoint.clone(),
        servers: device::servers(provisioning),
        secrets: device::secrets(provisioning),
        azure: None,
        allocation: options.allocation.clone(),
        id_scope: provisioning.id_scope.clone(),
        engine_dns: image.manifest.engine_dns.clone(),
        registration_id: device.certificate.registration_id.clone(),
        faults: injection.faults.clone(),
        clock_offset: injection.clock_offset,
        log: scratch.path().join("simulator.jsonl"),
        resolv_conf: scratch.path().join("resolv.conf"),
    }
}

/// Where the report goes if the user does not say.
const REPORT: &str = "test-report";

fn publish_report(
    report: &Report,
    options: &TestOptions,
    logs: &Logs,
    device: &DeviceCertificate,
) -> Result<()> {
    let folder = options.report_folder();
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let before = options.injection.cut.map(|_| (&logs.console_before, "console-before-cut.log"));
    for (from, name) in
        [(&logs.console, "console.log"), (&logs.simulator, "simulator.jsonl")].into_iter().chain(before)
    {
        let text = fs::read_to_string(from).with_context(|| format!("reading {}", from.display()))?;
        files::write(&folder.join(name), 0o644, verdict::redact(&text, &device.key_pem).as_bytes())?;
    }
    report.write(&folder)
}
