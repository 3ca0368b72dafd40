//! `edgepress test`: proves in QEMU that an image comes up provisioned.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;

use super::Session;
use super::sim::AllocationArguments;
use crate::error::Problem;
use crate::prove::accel::Wanted;
use crate::prove::fault_injection::{self, Injection, Moment, Planned, Rtc};
use crate::prove::{self, Stamped, TestOptions};
use crate::units::ByteSize;

/// Boots a copy of an image in QEMU and waits until it is provisioned
///
/// The copy gets a made-up identity on its FAT partition and meets simulated services (DPS, IoT hub, DNS, NTP) and
/// nothing else: no Azure account, no network, no root needed. The image itself is never written to.
///
/// x86_64 and aarch64 images for UEFI machines boot with real firmware. An image for the Raspberry Pi boots on QEMU's
/// model 3, which runs no GPU firmware: config.txt and cmdline.txt on the image say what is loaded, and a file that is
/// missing fails the test as it fails the board.
///
/// Written to the report's folder: report.json, junit.xml, console.log, simulator.jsonl and timeline.svg; after a power
/// cut also console-before-cut.log.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 if every milestone came in time and no check failed, 1 if not, 2 if there is \
                        nothing to test.\n\nExample: edgepress test demo-x86_64/demo.img --timeout 120"
)]
pub(super) struct Arguments {
    /// The image (demo.img, its manifest.json beside it), or the folder that holds both
    image: PathBuf,
    /// Seconds from power-on to the last milestone [default: 180, on a Raspberry Pi 240]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
    /// Folder for the report [default: test-report beside the image]
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// What the machine runs on; auto takes KVM where it really works
    #[arg(long, value_enum, default_value_t)]
    accel: Wanted,
    /// Memory of the machine [default: 2G; a Raspberry Pi 3 always has 1G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Processors of the machine [default: 2; a Raspberry Pi 3 always has 4, of which 2 run]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Firmware with Microsoft's keys, and secure boot on
    #[arg(long)]
    secure_boot: bool,
    /// In a simulated Azure: the machine is a VM of it, with instance metadata, wireserver and provisioning disc
    #[arg(long)]
    azure: bool,
    /// Attach an emulated TPM 2.0 (the package swtpm)
    #[arg(long)]
    tpm: bool,
    /// Cut the power at this moment of the boot, then boot once more: the second boot must come up provisioned
    ///
    /// SECONDS after power-on, a MILESTONE, MILESTONE+SECONDS, or `random`: some moment in the minute after init begins.
    /// QEMU is killed. What the device had flushed to its disk is there afterwards; what it had not may be lost.
    #[arg(long, value_name = "MOMENT", help_heading = FAULT_INJECTION)]
    cut_power: Option<Cut>,
    /// What `--cut-power random` draws from: the same number, the same moment [default: another one each time]
    #[arg(long, value_name = "N", requires = "cut_power", help_heading = FAULT_INJECTION)]
    seed: Option<u64>,
    /// A service that does wrong, as in `edgepress sim --fault`: dps=500:3, dns=silent:10
    #[arg(long, value_name = "SERVICE=FAULT", help_heading = FAULT_INJECTION)]
    fault: Vec<Planned>,
    /// The simulated world's clock, ahead of the host's
    #[arg(long, value_name = "SECONDS", default_value_t, allow_negative_numbers = true, help_heading = FAULT_INJECTION)]
    clock_offset: i64,
    /// The machine's own clock at power-on: 1980-01-01, 2060-01-01T12:00:00 (UTC), or seconds ahead: -3600, +60
    #[arg(long, value_name = "DATE|SECONDS", allow_hyphen_values = true, help_heading = FAULT_INJECTION)]
    rtc: Option<Rtc>,
    /// Plug the network's cable in so long after power-on
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400), help_heading = FAULT_INJECTION)]
    network_after: Option<u32>,
    #[command(flatten)]
    allocation: AllocationArguments,
    /// Boot the device that this patch of `edgepress stamp` makes of the image, instead of a made-up one
    #[arg(long, value_name = "FILE", requires = "pki")]
    patch: Option<PathBuf>,
    /// The authorities that issued what is in the patch: the folder of `edgepress sim --dir DIR --issue …`
    ///
    /// Without --patch: the image holds the identity already, as a flashed card does.
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// Keep the copy of the disk and everything else that is private to the run, for a look
    #[arg(long)]
    keep: bool,
}

/// The heading of what a test does to the device.
const FAULT_INJECTION: &str = "Fault injection";

/// When the power goes.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Random,
    At(Moment),
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "random" { Ok(Self::Random) } else { text.parse().map(Self::At) }
    }
}

/// Least memory that firmware and kernel start with.
const MEMORY_MIN: ByteSize = ByteSize::mib(256);

/// Runs the verb.
///
/// # Errors
/// When the test cannot be made, or the device was not provisioned.
pub(super) fn run(arguments: Arguments, session: &Session) -> Result<()> {
    let memory = arguments.memory;
    if let Some(memory) = memory.filter(|memory| *memory < MEMORY_MIN) {
        let message = format!("--memory {memory} is too little: expected at least {MEMORY_MIN}");
        return Err(Problem::input(message).into());
    }
    let injection = injection(&arguments)?;
    if let (Some(moment), Some(seed)) = (injection.cut, injection.seed) {
        session.sink.note(format!("--cut-power {moment} was drawn from --seed {seed}"));
    }
    let options = TestOptions {
        image: arguments.image,
        timeout: arguments.timeout.map(f64::from),
        report: arguments.report,
        accel: arguments.accel,
        memory,
        cpus: arguments.cpus,
        secure_boot: arguments.secure_boot,
        tpm: arguments.tpm,
        azure: arguments.azure,
        allocation: arguments.allocation.allocation()?,
        injection,
        stamped: arguments.pki.map(|pki| Stamped { patch: arguments.patch, pki }),
        keep: arguments.keep,
    };
    let report = prove::prove(&options, session.sink.as_ref())?;
    session.answer(&report)?;
    match report.passed {
        true => Ok(()),
        // Why, the report has said.
        false => Err(Problem::work(format!("{} did not pass the test", report.image.file))
            .hint(format!(
                "console.log, timeline.svg and report.json are in {}",
                options.report_folder().display()
            ))
            .into()),
    }
}

fn injection(arguments: &Arguments) -> Result<Injection> {
    let (cut, seed) = match arguments.cut_power {
        None => (None, None),
        Some(Cut::At(moment)) => (Some(moment), arguments.seed),
        Some(Cut::Random) => {
            let seed = arguments.seed.map_or_else(fault_injection::seed, Ok)?;
            (Some(Moment::draw(seed)), Some(seed))
        }
    };
    Ok(Injection {
        cut,
        seed,
        faults: arguments.fault.clone(),
        clock_offset: arguments.clock_offset,
        rtc: arguments.rtc,
        network_after: arguments.network_after.map(f64::from),
    })
}
