//! Looks at what a program of the tree and its children take, and ends all of them when it is too much.

use std::fs;
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::{SysconfVar, sysconf};

use super::{Control, Ended, Limits};

const EVERY: Duration = Duration::from_millis(100);
/// Part of the machine's memory that stays available: below it, whoever runs beside the build suffers.
const AVAILABLE_PART: u64 = 32;
/// Files that can still be made on the file system of the store.
const FREE_INODES: u64 = 1024;
const MIB: u64 = 1 << 20;

/// What is looked at, and how much is too much.
pub(super) struct Watch {
    limits: Limits,
    memory: u64,
    available: u64,
    page: u64,
}

impl Watch {
    /// For these limits, on this machine.
    pub(super) fn new(limits: &Limits) -> Self {
        let total = meminfo("MemTotal:").unwrap_or(u64::MAX);
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
        Self {
            limits: *limits,
            memory: limits.memory_of(total),
            available: total / AVAILABLE_PART,
            page: page.unwrap_or(4096),
        }
    }

    /// Returns never: says which limit was passed and ends pid 1, and with it the namespace.
    pub(super) fn until_passed(&self) {
        loop {
            if let Some(passed) = self.passed() {
                Control::Ended(Ended { code: None, signal: None, left: Vec::new(), passed: Some(passed) })
                    .say();
                exit(0);
            }
            sleep(EVERY);
        }
    }

    fn passed(&self) -> Option<String> {
        self.too_many().or_else(|| self.too_little_memory()).or_else(|| self.too_little_room())
    }

    /// Processes, their threads, and the memory that is theirs alone.
    fn too_many(&self) -> Option<String> {
        let (mut count, mut bytes) = (0, 0_u64);
        for pid in processes() {
            let (threads, pages) = usage(pid);
            count += threads;
            bytes = bytes.saturating_add(pages.saturating_mul(self.page));
            if count > self.limits.processes {
                return Some(format!("it had more than {} processes, and was ended", self.limits.processes));
            }
        }
        (bytes > self.memory)
            .then(|| format!("it took more than {} MiB of memory, and was ended", self.memory / MIB))
    }

    fn too_little_memory(&self) -> Option<String> {
        let left = meminfo("MemAvailable:")?;
        (left < self.available).then(|| {
            format!("this machine had only {} MiB of memory left while it ran; it was ended", left / MIB)
        })
    }

    /// The tree is the root, and its files are in the store.
    fn too_little_room(&self) -> Option<String> {
        let at = statvfs("/").ok()?;
        let free = at.blocks_available().saturating_mul(at.fragment_size());
        if free < self.limits.reserve {
            let reserve = self.limits.reserve / MIB;
            return Some(format!("it left less than {reserve} MiB free where the store is, and was ended"));
        }
        (at.files() > 0 && at.files_available() < FREE_INODES).then(|| {
            "it made so many files that the store's file system has room for no more; it was ended".into()
        })
    }
}

/// The processes of this namespace.
pub(super) fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Threads, and pages in memory that belong to no file (proc(5): `stat` field 20, `statm` fields 2 and 3).
fn usage(pid: u32) -> (u64, u64) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = read("stat");
    // The second field is the program's name in brackets, and may hold anything.
    let threads = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(17)?.parse().ok());
    let statm = read("statm");
    let mut pages = statm.split_whitespace().skip(1).map_while(|field| field.parse::<u64>().ok());
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    (threads.unwrap_or(1), resident.saturating_sub(shared))
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::{Watch, meminfo, processes, usage};
    use crate::sandbox::confined::Limits;

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id();
        assert!(processes().any(|pid| pid == me));
        let (threads, pages) = usage(me);
        assert!(threads >= 1 && pages > 0);
        assert!(meminfo("MemTotal:").expect("a line") >= meminfo("MemAvailable:").expect("a line"));
    }

    #[test]
    fn each_limit_is_named() {
        let watch = |limits: Limits| Watch::new(&limits).passed();
        assert_eq!(watch(Limits::default()), None);
        let few = watch(Limits { processes: 1, ..Limits::default() }).expect("more than one");
        assert!(few.contains("processes"), "{few}");
        let little =
            watch(Limits { memory: 1, processes: u64::MAX, ..Limits::default() }).expect("more than that");
        assert!(little.contains("of memory"), "{little}");
        let full = watch(Limits { reserve: u64::MAX, ..Limits::default() }).expect("no disk has so much");
        assert!(full.contains("free where the store is"), "{full}");
    }
}
