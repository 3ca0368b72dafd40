//! Devices that fail on purpose: each fails alone, and the others are good.

mod damaged;
mod keys;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::block_device::BlockDevice;
use super::chunk::CHUNK;
use super::engine::{self, Target, write};
use super::feed::Feed;
use super::source::{FlashImage, Map, SourceOptions};
use super::verification::Verified;
use super::writer::{self, Watch, Work};
use crate::disk::mbr;
use crate::disk::patch as sectors;
use crate::format::bmap::{Bmap, Mapped};
use crate::stamp::patch::{Base, Identity, Patch};
use crate::units::Digest;

const MIB: usize = CHUNK;
/// What stands on a device before.
const OLD: u8 = 0xee;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Every write takes a third of what it is given, at most.
    Short,
    /// Writing here fails.
    Error(usize, i32),
    /// Reading gives another byte here.
    WrongByte(usize),
    /// It is gone after so many writes, and stays gone.
    Gone(u64),
    /// It is gone as soon as it has synced so many times.
    GoneSynced(u64),
    /// Every write of a chunk takes so long.
    Slow(Duration),
    /// It takes what it is given and forgets it from here on, as false cards do.
    Forgets(usize),
}

/// A device in memory.
struct Faulty {
    bytes: Mutex<Vec<u8>>,
    fault: Fault,
    writes: AtomicU64,
    syncs: AtomicU64,
    /// Holes are zeroed without being written.
    holes: bool,
}

impl Faulty {
    fn new(size: usize, fault: Fault) -> Self {
        let bytes = Mutex::new(vec![OLD; size]);
        Self { bytes, fault, writes: 0.into(), syncs: 0.into(), holes: false }
    }

    fn content(&self) -> Vec<u8> {
        self.bytes.lock().expect("bytes").clone()
    }

    fn gone(&self) -> io::Result<()> {
        let gone = match self.fault {
            Fault::Gone(after) => self.writes.load(Ordering::Relaxed) >= after,
            Fault::GoneSynced(after) => self.syncs.load(Ordering::Relaxed) >= after,
            _ => false,
        };
        if gone { Err(io::Error::from_raw_os_error(libc::ENODEV)) } else { Ok(()) }
    }
}

impl BlockDevice for Faulty {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.gone()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        let at = at as usize;
        let mut count = bytes.len();
        match self.fault {
            Fault::Short => count = count.div_ceil(3),
            Fault::Error(place, code) if (at..at + count).contains(&place) => {
                return Err(io::Error::from_raw_os_error(code));
            }
            Fault::Slow(time) => std::thread::sleep(time),
            Fault::Forgets(from) if at >= from => return Ok(count),
            _ => {}
        }
        let mut own = self.bytes.lock().expect("bytes");
        count = count.min(own.len().saturating_sub(at));
        if count > 0 {
            own[at..at + count].copy_from_slice(&bytes[..count]);
        }
        Ok(count)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.gone()?;
        let at = at as usize;
        bytes.copy_from_slice(&self.bytes.lock().expect("bytes")[at..at + bytes.len()]);
        if let Fault::WrongByte(place) = self.fault
            && (at..at + bytes.len()).contains(&place)
        {
            bytes[place - at] ^= 1;
        }
        Ok(bytes.len())
    }

    fn zero(&self, range: Range<u64>) -> io::Result<bool> {
        if self.holes {
            self.bytes.lock().expect("bytes")[range.start as usize..range.end as usize].fill(0);
        }
        Ok(self.holes)
    }

    fn sync(&self) -> io::Result<()> {
        self.gone()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What was seen while a device was made.
#[derive(Default)]
struct Seen {
    sealed: Mutex<Vec<Digest>>,
    refuse: bool,
}

impl Watch for Seen {
    fn progress(&self, _: bool, _: u64) {}

    fn seal(&self, verified: &Verified) -> Result<(), String> {
        self.sealed.lock().expect("sealed").push(verified.raw_sha256);
        if self.refuse { Err("the ledger's disk is full".into()) } else { Ok(()) }
    }
}

/// A table that is sane, which every disk has that is flashed.
pub(super) fn sign(disk: &mut [u8]) {
    let sectors = u32::try_from(disk.len() / 512 - 1).expect("small");
    disk[446..510].fill(0);
    disk[450] = mbr::LINUX;
    disk[454..458].copy_from_slice(&1_u32.to_le_bytes());
    disk[458..462].copy_from_slice(&sectors.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// An image of 9 MiB and a bit: something in every MiB but two.
fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0..9 * MIB + 5120).map(|at| (at / 777 % 250 + 1) as u8).collect();
    disk[3 * MIB..4 * MIB + 8192].fill(0);
    disk[6 * MIB + 65_536..7 * MIB].fill(0);
    sign(&mut disk);
    disk
}

struct Case {
    folder: tempfile::TempDir,
    disk: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let case = Self { folder: tempfile::tempdir().expect("folder"), disk: disk() };
        std::fs::write(case.image(), zstd::bulk::compress(&case.disk, 1).expect("zst")).expect("write");
        case
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("x.img.zst")
    }

    /// Only the first MiB and two others are in the map.
    fn map(&self) -> Vec<u64> {
        let parts = [0..256, 256 * 2..256 * 2 + 1, 256 * 5 + 1..256 * 6];
        let ranges = parts.iter().map(|blocks| {
            let bytes = &self.disk[blocks.start as usize * 4096..blocks.end as usize * 4096];
            Mapped { blocks: blocks.clone(), sha256: Some(Digest::of(bytes)) }
        });
        let map = Bmap { image_size: self.disk.len() as u64, block_size: 4096, ranges: ranges.collect() };
        std::fs::write(self.folder.path().join("x.bmap"), map.to_xml()).expect("write");
        parts.iter().flat_map(Clone::clone).collect()
    }

    fn source(&self) -> FlashImage {
        let options = SourceOptions { image: self.image(), bmap: Map::Beside, sha256: None };
        FlashImage::open(&options).expect("an image")
    }

    /// The image's last sector of a MiB, and one in a hole, changed by an identity.
    fn patch(&self) -> (Patch, Vec<u8>) {
        let places = [2 * MIB as u64 - 512, 3 * MIB as u64 + 1024];
        let runs = |fill: Option<u8>| sectors::Patch {
            runs: places
                .iter()
                .map(|at| {
                    let old = self.disk[*at as usize..*at as usize + 512].to_vec();
                    (*at, fill.map_or(old, |byte| vec![byte; 512]))
                })
                .collect(),
        };
        let base = Base { name: "x.img".into(), size: self.disk.len() as u64, sha256: None };
        let identity = Identity { registration_id: "pump-7".into(), ..Identity::default() };
        let patch = Patch::new(identity, base, runs(Some(9)), &runs(None));
        let mut expected = self.disk.clone();
        places.iter().for_each(|at| expected[*at as usize..*at as usize + 512].fill(9));
        (patch, expected)
    }
}

type Results = Vec<Result<Work, writer::WriteFailure>>;

/// Flashes, and says what came of each.
fn flash(source: &FlashImage, devices: &[Faulty], feed: &Feed, patch: Option<&Patch>) -> Results {
    run(source, devices, feed, patch, true)
}

fn run(source: &FlashImage, devices: &[Faulty], feed: &Feed, patch: Option<&Patch>, verify: bool) -> Results {
    let seen = Seen::default();
    let secrets = |at: &(u64, Vec<u8>)| at.0..at.0 + at.1.len() as u64;
    let secrets: Vec<_> = patch.map(Patch::runs).unwrap_or_default().iter().map(secrets).collect();
    let target = |device| {
        let size = Faulty::content(device).len() as u64;
        Target { size, device, patch, secrets: secrets.clone(), watch: &seen }
    };
    let targets: Vec<Target<'_>> = devices.iter().map(target).collect();
    let results = Mutex::new(vec![Ok(Work::default()); devices.len()]);
    let done = |slot: usize, work: &Work, result: &engine::Result| {
        results.lock().expect("results")[slot] = result.clone().map(|_| *work);
    };
    write(source, &targets, verify, feed, &done);
    results.into_inner().expect("results")
}

fn blank(device: &Faulty) -> bool {
    device.content()[..MIB].iter().all(|byte| *byte == 0)
}

/// What the image leaves on a larger device: its bytes, and zeros at the very end, where old tables were.
fn good(device: &Faulty, disk: &[u8]) -> bool {
    let content = device.content();
    let behind = &content[disk.len()..];
    let wiped = behind.len().min(MIB);
    content[..disk.len()] == *disk && behind[behind.len() - wiped..].iter().all(|byte| *byte == 0)
}

/// One device fails; the one beside it does not know.
fn fails(fault: Fault, expected: &str) {
    let case = Case::new();
    let source = case.source();
    let size = case.disk.len() + 3 * MIB;
    let devices = [Faulty::new(size, fault), Faulty::new(size, Fault::None)];
    let results = flash(&source, &devices, &engine::feed(2), None);
    let writer::WriteFailure { message, may_boot, .. } = results[0].as_ref().expect_err("it fails");
    assert!(message.contains(expected) && !may_boot, "{message}");
    assert!(results[1].is_ok() && good(&devices[1], &case.disk), "{:?}", results[1]);
    if !matches!(fault, Fault::Gone(0)) {
        assert!(blank(&devices[0]), "it would boot half-written");
    }
}

#[test]
fn all_bytes_arrive() {
    let case = Case::new();
    let source = case.source();
    let mut devices: Vec<Faulty> =
        [0, 512, MIB, 5 * MIB].map(|more| Faulty::new(case.disk.len() + more, Fault::None)).into();
    devices[1].holes = true;
    devices.push(Faulty::new(case.disk.len(), Fault::Short));
    let results = flash(&source, &devices, &engine::feed(5), None);
    for (device, result) in devices.iter().zip(&results) {
        assert_eq!(result.as_ref().expect("good").read, case.disk.len() as u64);
        assert!(good(device, &case.disk));
    }
    // Between the image and the last MiB nothing is touched.
    assert_eq!(devices[3].content()[case.disk.len() + 7], OLD);
    assert!(results[1].as_ref().expect("good").written < results[0].as_ref().expect("good").written);
}

#[test]
fn with_a_map_the_rest_stays_and_a_patch_is_written_all_the_same() {
    let case = Case::new();
    let mapped = case.map();
    let source = case.source();
    assert!(source.bmap.is_some());
    let (patch, expected) = case.patch();
    let devices = [Faulty::new(case.disk.len(), Fault::None), Faulty::new(case.disk.len(), Fault::Short)];
    let results = flash(&source, &devices, &engine::feed(2), Some(&patch));
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    for device in &devices {
        let content = device.content();
        for block in mapped.iter().map(|block| *block as usize * 4096) {
            assert!(content[block..block + 4096] == expected[block..block + 4096], "{block}");
        }
        for (at, _) in patch.runs() {
            assert_eq!(content[*at as usize..*at as usize + 512], [9; 512]);
        }
        assert_eq!(content[8 * MIB..], vec![OLD; case.disk.len() - 8 * MIB]);
    }
}

#[test]
fn a_patch_of_another_image_boots_nothing() {
    let case = Case::new();
    let (patch, expected) = case.patch();
    let devices = [Faulty::new(case.disk.len(), Fault::None)];
    assert!(flash(&case.source(), &devices, &engine::feed(1), Some(&patch))[0].is_ok());
    assert!(devices[0].content() == expected);
    let mut other = case.disk.clone();
    other[3 * MIB + 1024] = 1;
    std::fs::write(case.image(), zstd::bulk::compress(&other, 1).expect("zst")).expect("write");
    let results = flash(&case.source(), &devices, &engine::feed(1), Some(&patch));
    let fault = results[0].as_ref().expect_err("refused");
    assert_eq!(fault.message, "the patch of pump-7 is for another image");
    assert!(blank(&devices[0]));
}

#[test]
fn errors_and_no_room() {
    fails(Fault::Error(5 * MIB + 700, libc::EIO), "writing at 5.0 MiB: Input/output error");
    fails(Fault::Error(9 * MIB, libc::ENOSPC), "writing at 9.0 MiB: no space is left there");
}

#[test]
fn an_error_in_the_first_mib() {
    let case = Case::new();
    let devices = [Faulty::new(case.disk.len(), Fault::Error(5, libc::EIO))];
    let results = flash(&case.source(), &devices, &engine::feed(1), None);
    assert!(results[0].as_ref().expect_err("fails").message.starts_with("writing at 0.0 MiB"));
    // Not even wiped: nothing else was written then.
    assert_eq!(devices[0].content(), vec![OLD; case.disk.len()]);
}

#[test]
fn a_wrong_byte_is_found_wherever_it_is() {
    let found = "the device is bad: between";
    for place in [MIB, 3 * MIB + 77, 6 * MIB + 70_000, 9 * MIB + 5119] {
        fails(Fault::WrongByte(place), found);
    }
    // In the first MiB, which is read last: then it is wiped again.
    fails(Fault::WrongByte(12_345), "between 0 and 1 MiB it gives back other bytes");
}

#[test]
fn a_false_card() {
    fails(Fault::Forgets(7 * MIB), "the device is bad: between 7 and 8 MiB");
}

#[test]
fn a_device_that_is_pulled_out() {
    for after in [0, 1, 4, 9] {
        fails(Fault::Gone(after), if after == 1 { "writing" } else { "the device is gone" });
    }
}

/// Gone in the moment of its first MiB, and not to be wiped again: whether it boots nobody can say.
#[test]
fn a_device_that_is_pulled_out_when_it_would_boot() {
    let case = Case::new();
    // Synced: the wiped start, all but the first MiB, the first MiB.
    let device = Faulty::new(case.disk.len(), Fault::GoneSynced(3));
    let devices = [device, Faulty::new(case.disk.len(), Fault::None)];
    let results = flash(&case.source(), &devices, &engine::feed(2), None);
    let fault = results[0].as_ref().expect_err("gone");
    assert_eq!(fault.message, "reading back at 0.0 MiB: the device is gone");
    assert!(fault.may_boot && devices[0].content() == case.disk, "it does boot");
    assert!(results[1].is_ok());
    // Gone before: where nothing is read back, the first MiB is begun all the same, and what a device says of a write does
    // not tell what became of it.
    for (verify, expected) in [(true, "reading back at 1.0 MiB"), (false, "writing at 0.0 MiB")] {
        let devices = [Faulty::new(case.disk.len(), Fault::GoneSynced(2))];
        let results = run(&case.source(), &devices, &engine::feed(1), None, verify);
        let fault = results[0].as_ref().expect_err("gone");
        assert!(fault.message.starts_with(expected) && fault.may_boot != verify, "{fault:?}");
    }
}

/// The slow one is left behind, ends all the same, and both are good; memory is what it may be.
#[test]
fn a_slow_device_delays_only_itself() {
    let case = Case::new();
    let source = case.source();
    let devices = [
        Faulty::new(case.disk.len(), Fault::None),
        Faulty::new(case.disk.len(), Fault::Slow(Duration::from_millis(60))),
    ];
    let feed = Feed::new(2, 3, Duration::from_millis(5));
    let results = flash(&source, &devices, &feed, None);
    let (quick, slow) = (results[0].clone().expect("good"), results[1].clone().expect("good"));
    assert!(!quick.alone && slow.alone, "the slow one has a decoder of its own");
    assert!(devices.iter().all(|device| good(device, &case.disk)));
    assert!(feed.buffers() <= 3);
    assert!(quick.seconds_write < slow.seconds_write / 2.0, "{quick:?} {slow:?}");
}

#[test]
fn a_slow_device_with_an_identity() {
    let case = Case::new();
    let (patch, expected) = case.patch();
    let devices = [
        Faulty::new(case.disk.len(), Fault::None),
        Faulty::new(case.disk.len(), Fault::Slow(Duration::from_millis(60))),
    ];
    let feed = Feed::new(2, 2, Duration::from_millis(5));
    let results = flash(&case.source(), &devices, &feed, Some(&patch));
    assert!(results[1].as_ref().expect("good").alone);
    assert!(devices.iter().all(|device| device.content() == expected));
}

/// The slow one, too, ends as soon as the image is known to be damaged, and not when all of it is written.
#[test]
fn a_slow_device_and_a_damaged_image() {
    let case = Case::new();
    let mut source = case.source();
    source.file_sha256 = Some((Digest::of("other"), "SHA256SUMS".into()));
    let slow = Fault::Slow(Duration::from_millis(200));
    let devices = [Faulty::new(case.disk.len(), Fault::None), Faulty::new(case.disk.len(), slow)];
    let results = flash(&source, &devices, &Feed::new(2, 2, Duration::from_millis(5)), None);
    for result in results {
        let fault = result.expect_err("damaged");
        assert!(fault.message.starts_with("the image is damaged: its digest is"), "{fault:?}");
    }
    let writes = |device: &Faulty| device.writes.load(Ordering::Relaxed);
    assert!(writes(&devices[1]) < writes(&devices[0]) && blank(&devices[1]));
}

#[test]
fn what_cannot_be_noted_down_does_not_boot() {
    let case = Case::new();
    let (source, device) = (case.source(), Faulty::new(case.disk.len(), Fault::None));
    let seen = Seen { refuse: true, ..Seen::default() };
    let size = case.disk.len() as u64;
    let targets = [Target { device: &device, size, patch: None, secrets: Vec::new(), watch: &seen }];
    let said = Mutex::new(String::new());
    let done = |_: usize, _: &Work, result: &engine::Result| {
        *said.lock().expect("said") = result.as_ref().expect_err("refused").message.clone();
    };
    write(&source, &targets, true, &engine::feed(1), &done);
    assert_eq!(said.into_inner().expect("said"), "the ledger's disk is full");
    assert!(blank(&device));
    assert_eq!(seen.sealed.into_inner().expect("sealed"), [Digest::of(&case.disk)]);
}

#[test]
fn stopped_in_the_middle() {
    let case = Case::new();
    let source = case.source();
    let devices = [Faulty::new(case.disk.len(), Fault::Slow(Duration::from_millis(20)))];
    let feed = engine::feed(1);
    let results = std::thread::scope(|scope| {
        let flashing = scope.spawn(|| flash(&source, &devices, &feed, None));
        while devices[0].writes.load(Ordering::Relaxed) < 3 {
            std::thread::yield_now();
        }
        feed.stop();
        flashing.join().expect("flash")
    });
    assert_eq!(results[0].as_ref().expect_err("interrupted").message, "interrupted");
    assert!(blank(&devices[0]));
}
