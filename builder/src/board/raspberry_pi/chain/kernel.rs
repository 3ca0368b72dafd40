//! Is a file a kernel that the firmware can start in 64-bit mode?
//!
//! Formats: the kernel's `Documentation/arch/arm64/booting.rst` (Image), RFC 1952 (gzip), the head of 32-bit zImages in
//! `arch/arm/boot/compressed/head.S`, and of compressed EFI images in `drivers/firmware/efi/libstub/zboot-header.S`.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;

/// Bytes at the start of a kernel that tell what it is.
const HEAD: usize = 64;
const ARM64_AT: usize = 56;
const ARM64: &[u8] = b"ARM\x64";
const ARM32_AT: usize = 36;
const ARM32: &[u8] = &0x016f_2818_u32.to_le_bytes();
const ZBOOT_AT: usize = 4;
const ZBOOT: &[u8] = b"zimg";
const GZIP: &[u8] = &[0x1f, 0x8b];
/// Most bytes that a packed kernel may unpack to.
const UNPACKED_MAX: u64 = 512 << 20;

/// Why the firmware cannot start this kernel in 64-bit mode, if so.
pub(crate) fn obstacle(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("it is empty");
    }
    let mut head = Vec::new();
    if bytes.starts_with(GZIP) {
        // What cannot be unpacked has a short head, and that is no kernel's.
        GzDecoder::new(bytes).take(HEAD as u64).read_to_end(&mut head).ok();
    } else {
        head.extend_from_slice(&bytes[..bytes.len().min(HEAD)]);
    }
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    if has(ZBOOT_AT, ZBOOT) {
        Some("it unpacks itself under EFI only, which this board has not")
    } else if has(ARM64_AT, ARM64) {
        None
    } else if has(ARM32_AT, ARM32) {
        Some("it is a 32-bit kernel")
    } else {
        Some("it is no arm64 kernel (no `ARM\\x64` at byte 56)")
    }
}

/// The kernel as it lies in memory once it is unpacked.
///
/// # Errors
/// When it is packed and damaged, or unpacks to more than 512 MiB.
pub(crate) fn unpacked(bytes: Vec<u8>) -> Result<Vec<u8>> {
    if !bytes.starts_with(GZIP) {
        return Ok(bytes);
    }
    let mut image = Vec::new();
    let mut reader = GzDecoder::new(&bytes[..]).take(UNPACKED_MAX + 1);
    reader.read_to_end(&mut image).context("unpacking the kernel")?;
    anyhow::ensure!(image.len() as u64 <= UNPACKED_MAX, "unpacking the kernel: it is too large");
    Ok(image)
}

#[cfg(test)]
pub(in crate::board::raspberry_pi) mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::{obstacle, unpacked};

    /// The head of an arm64 Image and some bytes more.
    pub(crate) fn image() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("gzip");
        encoder.finish().expect("gzip")
    }

    #[test]
    fn kernels() {
        let with = |at: usize, magic: &[u8]| {
            let mut bytes = image();
            bytes[56..60].fill(0);
            bytes[at..at + magic.len()].copy_from_slice(magic);
            bytes
        };
        let zboot = {
            let mut bytes = image();
            bytes[4..8].copy_from_slice(b"zimg");
            bytes
        };
        for (bytes, expected) in [
            (image(), None),
            (gzip(&image()), None),
            (with(36, &[0x18, 0x28, 0x6f, 0x01]), Some("32-bit")),
            (gzip(&with(0, b"x")), Some("no arm64 kernel")),
            (zboot, Some("under EFI only")),
            (Vec::new(), Some("empty")),
            (b"\x1f\x8b garbage".to_vec(), Some("no arm64 kernel")),
        ] {
            let found = obstacle(&bytes);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{found:?}");
        }
        for end in 0..64 {
            assert!(obstacle(&image()[..end]).is_some() == (end < 60));
            assert!(obstacle(&gzip(&image())[..end.min(20)]).is_some());
        }
    }

    #[test]
    fn unpacking() {
        assert_eq!(unpacked(gzip(&image())).expect("sound"), image());
        assert_eq!(unpacked(image()).expect("plain"), image());
        assert!(unpacked(gzip(&image())[..30].to_vec()).is_err());
    }
}
