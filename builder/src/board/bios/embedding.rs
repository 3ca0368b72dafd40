//! grub's two parts before the first partition: the boot sector that a BIOS starts, and the core image that this loads.
//!
//! ```text
//! sector 0     boot.img: the BIOS reads this one sector; at 0x5c stands the sector where the core image begins
//! sector 1     core image: its first sector (diskboot.img) has at its end the list of the sectors that follow
//! sector 2…    lzma_decompress.img, then kernel, modules and prefix as one raw LZMA stream
//! 1 MiB        first partition
//! ```
//! Numbers stand little-endian. The layout is that of grub's own sources, version 2.06: include/grub/i386/pc/boot.h and
//! kernel.h, grub-core/boot/i386/pc/{boot,diskboot,startup_raw}.S, util/setup.c, util/mkimage.c. Its grub-bios-setup needs the
//! disk as a device and root; writing these bytes needs neither. Redundancy against whoever else writes before the first
//! partition (Reed-Solomon codes) is left out: nobody does on a disk of ours.

use std::io::Read as _;

use anyhow::Result;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

use crate::disk::gpt::SECTOR;
use crate::disk::mbr::BootCode;
use crate::error::Problem;

/// Bytes of a sector.
const SECTOR_BYTES: usize = SECTOR as usize;
/// What the boot sector prints first; no other loader has it.
const NAME: &[u8] = b"GRUB ";
/// In the boot sector: the number of the core image's first sector, 8 bytes (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const KERNEL_SECTOR: usize = 0x5c;
/// In the boot sector: two bytes of code that leave the test for BIOSes that name no drive (`GRUB_BOOT_MACHINE_DRIVE_CHECK`).
const DRIVE_CHECK: usize = 0x66;
/// Instructions that do nothing in their place, as grub-bios-setup writes them for every hard disk: then a BIOS that passes
/// 0 for the first disk is put right.
const NO_OPERATIONS: [u8; 2] = [0x90, 0x90];
/// In the core image's first sector: start (8 bytes), sectors (2 bytes) and segment (2 bytes) of what follows.
const BLOCKS: usize = SECTOR_BYTES - 12;
/// Segment at which what follows is loaded: 0x8200.
const SEGMENT: u16 = 0x0820;
/// In the core image's second sector: bytes of the LZMA stream, and of what it unpacks to.
const COMPRESSED: usize = SECTOR_BYTES + 0x08;
const UNCOMPRESSED: usize = SECTOR_BYTES + 0x0c;
/// And bytes of redundancy behind it.
const REDUNDANCY: usize = SECTOR_BYTES + 0x10;
/// grub's LZMA properties: 3 literal context bits, 0 literal position bits, 2 position bits; a dictionary of 64 KiB.
const PROPERTIES: u8 = (2 * 5) * 9 + 3;
const DICTIONARY: u32 = 1 << 16;
/// Far above what grub with all its modules unpacks to.
const MOST_UNPACKED: usize = 16 << 20;
const UNPACKING_MEMORY: u64 = 64 << 20;
/// What begins the list of modules behind grub's kernel, and the kind of the object in it that holds the prefix.
const MODULES: &[u8] = b"mimg";
const PREFIX: u32 = 3;
/// Where the first object is: behind that head.
const FIRST_OBJECT: usize = 12;

/// The first sectors of a disk that grub's images start, which begins at sector 1.
///
/// # Errors
/// A [`Problem`] when the two are not as grub's tools make them.
pub(crate) fn embed(boot: &[u8], core: &[u8]) -> Result<BootCode> {
    let wrong = |which: &str, expected: &str| {
        let message = format!("{which} is not what grub 2 makes: expected {expected}");
        Problem::input(message).hint("take grub-pc-bin and grub-common of one version, from the distribution")
    };
    let mut sector = boot.to_vec();
    if sector.len() != SECTOR_BYTES || find(&sector, NAME).is_none() {
        return Err(wrong("boot.img", "512 bytes with the text `GRUB `").into());
    }
    let sectors = core.len().div_ceil(SECTOR_BYTES);
    let mut padded = core.to_vec();
    padded.resize(sectors * SECTOR_BYTES, 0);
    let following = u16::try_from(sectors.saturating_sub(1)).unwrap_or_default();
    if sectors < 2
        || word(&padded, BLOCKS + 8) != Some(following)
        || word(&padded, BLOCKS + 10) != Some(SEGMENT)
    {
        return Err(wrong("core.img", "a first sector that lists all that follow").into());
    }
    sector[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&1u64.to_le_bytes());
    sector[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&NO_OPERATIONS);
    padded[BLOCKS..BLOCKS + 8].copy_from_slice(&2u64.to_le_bytes());
    sector.truncate(BootCode::SECTOR_BYTES);
    Ok(BootCode { sector, core: padded })
}

/// grub as it stands before the first partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Embedded {
    /// The core image's first sector.
    pub first: u64,
    /// Its sectors.
    pub sectors: u64,
    /// Where it looks for modules and grub.cfg: `(,msdos1)/grub`.
    pub prefix: Option<String>,
}

/// Is the disk's first sector grub's?
pub(crate) fn is_grub(head: &[u8]) -> bool {
    head.get(..BootCode::SECTOR_BYTES).is_some_and(|sector| find(sector, NAME).is_some())
}

/// Follows grub from the boot sector; `head` are the bytes before the first partition.
///
/// # Errors
/// Says in words what keeps it from starting.
pub(crate) fn read(head: &[u8]) -> Result<Embedded, String> {
    if !is_grub(head) {
        return Err("the first sector holds no boot loader of grub's".into());
    }
    let first = long(head, KERNEL_SECTOR).ok_or("the first sector is cut")?;
    let outside = || format!("the boot sector loads sector {first}, which is not before the first partition");
    let start =
        usize::try_from(first).ok().and_then(|first| first.checked_mul(SECTOR_BYTES)).ok_or_else(outside)?;
    let core =
        head.get(start..).filter(|core| start > 0 && core.len() > 2 * SECTOR_BYTES).ok_or_else(outside)?;
    let place = (long(core, BLOCKS), word(core, BLOCKS + 8), word(core, BLOCKS + 10));
    let (Some(next), Some(count), Some(SEGMENT)) = place else {
        return Err(format!("sector {first}, which the boot sector loads, is no core image of grub's"));
    };
    if next != first + 1 || count == 0 {
        return Err(format!("the core image says that it goes on at sector {next}, and it lies at {first}"));
    }
    let bytes = (usize::from(count) + 1) * SECTOR_BYTES;
    let core = core.get(..bytes).ok_or_else(|| {
        format!("the core image has {} sectors, more than lie before the first partition", count + 1)
    })?;
    let unpacked = unpack(core).ok_or("the core image is cut or damaged: it does not unpack")?;
    Ok(Embedded { first, sectors: u64::from(count) + 1, prefix: prefix(&unpacked) })
}

/// Unpacks kernel and modules. How long the program that does it at boot is stands nowhere; but the stream reaches to the
/// last sector and begins with a zero.
fn unpack(core: &[u8]) -> Option<Vec<u8>> {
    let size = |at| double(core, at).and_then(|size| usize::try_from(size).ok());
    let (packed, unpacked, redundancy) = (size(COMPRESSED)?, size(UNCOMPRESSED)?, size(REDUNDANCY)?);
    if unpacked > MOST_UNPACKED {
        return None;
    }
    let latest = core.len().checked_sub(packed)?.checked_sub(redundancy)?;
    let starts = latest.saturating_sub(SECTOR_BYTES - 1).max(SECTOR_BYTES)..=latest;
    let begins = |start: &usize| core[*start..].first() == Some(&0);
    // What is no stream breaks off at once, nearly always; a file that was made to mislead shall not cost minutes.
    let mut left = MOST_UNPACKED;
    for start in starts.filter(begins) {
        // As a file of the old `lzma` tool: properties, dictionary, length.
        let mut stream = vec![PROPERTIES];
        stream.extend(DICTIONARY.to_le_bytes());
        stream.extend((unpacked as u64).to_le_bytes());
        stream.extend(&core[start..start + packed]);
        let mut decoder =
            XzDecoder::new_stream(&stream[..], Stream::new_lzma_decoder(UNPACKING_MEMORY).ok()?);
        let mut content = Vec::with_capacity(unpacked);
        // To its end: only there the decoder notices that some byte was another.
        let whole = decoder.read_to_end(&mut content).is_ok() && content.len() == unpacked;
        left = left.checked_sub(content.len())?;
        if whole && find(&content, MODULES).is_some() {
            return Some(content);
        }
    }
    None
}

/// The prefix among the objects behind grub's kernel. The kernel itself has those four letters in its code.
fn prefix(unpacked: &[u8]) -> Option<String> {
    let places = unpacked.windows(MODULES.len()).enumerate().filter(|(_, window)| *window == MODULES);
    places.filter_map(|(at, _)| prefix_among(&unpacked[at..])).next()
}

/// `mimg`, where the first object is, bytes of all; each object: kind, bytes.
fn prefix_among(modules: &[u8]) -> Option<String> {
    let mut at = usize::try_from(double(modules, 4)?).ok().filter(|first| *first == FIRST_OBJECT)?;
    let end = usize::try_from(double(modules, 8)?).ok().filter(|end| *end <= modules.len())?;
    while at < end {
        let (kind, size) = (double(modules, at)?, usize::try_from(double(modules, at + 4)?).ok()?);
        let object = modules.get(at + 8..at.checked_add(size)?)?;
        if kind == PREFIX {
            let text = object.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        at = at.checked_add(size.max(8))?;
    }
    None
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Option<[u8; BYTES]> {
    bytes.get(at..at.checked_add(BYTES)?)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn double(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        BLOCKS, COMPRESSED, DRIVE_CHECK, KERNEL_SECTOR, NAME, SECTOR_BYTES, SEGMENT, UNCOMPRESSED, embed,
        is_grub, read,
    };
    use crate::disk::mbr::BootCode;
    use liblzma::stream::{LzmaOptions, Stream};
    use std::io::Write as _;

    /// A boot sector as grub's, with nothing but what is looked at.
    pub(crate) fn boot() -> Vec<u8> {
        let mut boot = vec![0xf4; SECTOR_BYTES];
        boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&9u64.to_le_bytes());
        boot[0x180..0x185].copy_from_slice(NAME);
        boot
    }

    fn object(kind: u32, content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len() + 8).expect("small");
        [&kind.to_le_bytes()[..], &size.to_le_bytes(), content].concat()
    }

    /// A core image as grub-mkimage makes it, without programs in it.
    pub(crate) fn core(prefix: &str) -> Vec<u8> {
        let noise: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let objects = [object(0, &noise), object(3, format!("{prefix}\0").as_bytes())].concat();
        let size = u32::try_from(objects.len() + 12).expect("small");
        let content =
            [&b"kernel mimg code"[..], b"mimg", &12_u32.to_le_bytes(), &size.to_le_bytes(), &objects]
                .concat();
        let mut options = LzmaOptions::new_preset(6).expect("preset");
        options.dict_size(1 << 16);
        let encoder = Stream::new_lzma_encoder(&options).expect("encoder");
        let mut writer = liblzma::write::XzEncoder::new_stream(Vec::new(), encoder);
        writer.write_all(&content).expect("packs");
        // Without the head of the format, which grub does not keep.
        let packed = writer.finish().expect("packs").split_off(13);
        let mut core = vec![0; 2 * SECTOR_BYTES + 100];
        let length = |bytes: usize| u32::try_from(bytes).expect("small").to_le_bytes();
        core[COMPRESSED..COMPRESSED + 4].copy_from_slice(&length(packed.len()));
        core[UNCOMPRESSED..UNCOMPRESSED + 4].copy_from_slice(&length(content.len()));
        core.extend(packed);
        let following = core.len().div_ceil(SECTOR_BYTES) - 1;
        core[BLOCKS + 8..BLOCKS + 10]
            .copy_from_slice(&u16::try_from(following).expect("small").to_le_bytes());
        core[BLOCKS + 10..BLOCKS + 12].copy_from_slice(&SEGMENT.to_le_bytes());
        core
    }

    /// The bytes before the first partition.
    pub(crate) fn head(code: &BootCode) -> Vec<u8> {
        let mut head = code.sector.clone();
        head.resize(SECTOR_BYTES, 0);
        head.extend(&code.core);
        head.resize(1 << 20, 0);
        head
    }

    #[test]
    fn what_is_embedded_is_found_again() {
        let core = core("(,msdos1)/grub");
        let code = embed(&boot(), &core).expect("embeds");
        assert_eq!(code.sector.len(), BootCode::SECTOR_BYTES);
        assert_eq!(code.sector[KERNEL_SECTOR..KERNEL_SECTOR + 8], 1u64.to_le_bytes());
        assert_eq!(code.sector[DRIVE_CHECK..DRIVE_CHECK + 2], [0x90, 0x90]);
        assert_eq!(code.core.len() % SECTOR_BYTES, 0);
        assert_eq!(code.core[BLOCKS..BLOCKS + 8], 2u64.to_le_bytes());
        let found = read(&head(&code)).expect("sound");
        assert_eq!((found.first, found.prefix.as_deref()), (1, Some("(,msdos1)/grub")));
        assert_eq!(found.sectors as usize * SECTOR_BYTES, code.core.len());
        assert_eq!(embed(&boot(), &core).expect("again"), code);
    }

    #[test]
    fn what_is_not_grub_s_is_refused() {
        let core = core("/grub");
        for (boot, core) in [
            (boot()[1..].to_vec(), core.clone()),
            (vec![0; SECTOR_BYTES], core.clone()),
            (boot(), core[..core.len() - SECTOR_BYTES].to_vec()),
            (boot(), core[..100].to_vec()),
            (boot(), Vec::new()),
        ] {
            let error = embed(&boot, &core).expect_err("refused");
            assert!(crate::error::problem(&error).is_some_and(|problem| problem.hint.is_some()), "{error}");
        }
    }

    #[test]
    fn what_is_cut_says_so() {
        let good = head(&embed(&boot(), &core("(,msdos1)/grub")).expect("embeds"));
        assert!(is_grub(&good) && !is_grub(&good[..400]) && !is_grub(&vec![0; 512]));
        let said = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut head = good.clone();
            change(&mut head);
            read(&head).expect_err("broken")
        };
        let sectors = read(&good).expect("sound").sectors as usize;
        for (says, change) in [
            ("no boot loader", &(|head: &mut Vec<u8>| head.fill(0)) as &dyn Fn(&mut Vec<u8>)),
            ("loads sector 0", &|head| head[KERNEL_SECTOR] = 0),
            ("loads sector 4097", &|head| head[KERNEL_SECTOR + 1] = 16),
            ("no core image", &|head| head[SECTOR_BYTES..].fill(0)),
            ("goes on at sector 7", &|head| head[SECTOR_BYTES + BLOCKS] = 7),
            ("more than lie before", &|head| head.truncate(4 * SECTOR_BYTES)),
            ("does not unpack", &|head| head[(sectors - 3) * SECTOR_BYTES..].fill(0)),
            ("does not unpack", &|head| head[5 * SECTOR_BYTES] ^= 0x55),
            // Zeros are a stream from wherever one begins; each would unpack to 16 MiB.
            ("does not unpack", &|head| {
                head[SECTOR_BYTES + UNCOMPRESSED + 2] = 0xff;
                head[3 * SECTOR_BYTES..].fill(0);
            }),
        ] {
            let message = said(change);
            assert!(message.contains(says), "{says}: {message}");
        }
    }

    /// Whatever stands there, reading it ends.
    #[test]
    fn noise_is_read_without_harm() {
        let good = head(&embed(&boot(), &core("(,msdos1)/grub")).expect("embeds"));
        let mut state = 7_u32;
        for _ in 0..300 {
            let mut head = good[..40 * SECTOR_BYTES].to_vec();
            for _ in 0..20 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = state as usize % (4 * SECTOR_BYTES);
                head[at] = (state >> 24) as u8;
            }
            let _ = read(&head);
        }
    }
}
