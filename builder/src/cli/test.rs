//! `edgepress test`: proves in QEMU that an image comes up provisioned.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Session;
use crate::error::Problem;
use crate::prove::accel::Wanted;
use crate::prove::{self, Options};
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
/// Written to the report's folder: report.json, junit.xml, console.log, simulator.jsonl and timeline.svg.
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
    /// Keep the copy of the disk and everything else that is private to the run, for a look
    #[arg(long)]
    keep: bool,
}

/// Least memory that firmware and kernel start with.
const MEMORY_MIN: ByteSize = ByteSize::mib(256);

/// Runs the verb.
///
/// # Errors
/// When the test cannot be made, or the device was not provisioned.
pub(super) fn run(arguments: Arguments, session: &Session) -> Result<()> {
    let Arguments { image, timeout, report, accel, memory, cpus, secure_boot, keep } = arguments;
    if let Some(memory) = memory.filter(|memory| *memory < MEMORY_MIN) {
        let message = format!("--memory {memory} is too little: expected at least {MEMORY_MIN}");
        return Err(Problem::input(message).into());
    }
    let timeout = timeout.map(f64::from);
    let options = Options { image, timeout, report, accel, memory, cpus, secure_boot, keep };
    let report = prove::prove(&options, session.sink.as_ref())?;
    session.answer(&report)?;
    match report.reason {
        None => Ok(()),
        Some(reason) => Err(Problem::work(reason).into()),
    }
}
