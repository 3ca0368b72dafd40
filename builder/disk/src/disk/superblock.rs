//! The superblock of an ext4 file system, as far as somebody who finds one needs it.

use anyhow::{Context as _, Result, ensure};

/// Bytes of an ext4 file system's superblock that are read here, at 1,024 bytes from its start.
pub const SUPERBLOCK: (u64, u64) = (1024, 1024);

/// How many bytes an ext4 file system spans, from its superblock.
///
/// Format: the kernel's `Documentation/filesystems/ext4/super.rst`.
///
/// # Errors
/// When it is none.
pub fn ext4_size(superblock: &[u8]) -> Result<u64> {
    let word = |at: usize| -> Result<u64> {
        let bytes = superblock.get(at..at + 4).context("reading a superblock: it is cut off")?;
        Ok(u64::from(u32::from_le_bytes(bytes.try_into()?)))
    };
    ensure!(word(0x38)? & 0xffff == 0xef53, "reading a superblock: it is not ext4's");
    let (low, high) = (word(0x4)?, word(0x150)?);
    let wide = word(0x60)? & 0x80 != 0;
    let shift = word(0x18)?;
    ensure!(shift <= 6, "reading a superblock: blocks of 2^{shift} KiB");
    let blocks = if wide { high << 32 | low } else { low };
    blocks.checked_mul(1024 << shift).context("reading a superblock: too many blocks")
}

#[cfg(test)]
mod tests {
    use super::ext4_size;

    #[test]
    fn sizes_of_ext4() {
        let mut block = vec![0; 1024];
        block[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        block[0x4..0x8].copy_from_slice(&1000_u32.to_le_bytes());
        block[0x18] = 2;
        assert_eq!(ext4_size(&block).expect("narrow"), 4_096_000);
        block[0x150] = 1;
        assert_eq!(ext4_size(&block).expect("narrow"), 4_096_000);
        block[0x60] = 0x80;
        assert_eq!(ext4_size(&block).expect("wide"), ((1_u64 << 32) + 1000) * 4096);
        block[0x18] = 200;
        assert!(ext4_size(&block).is_err());
        assert!(ext4_size(&[0; 1024]).is_err());
        assert!(ext4_size(&block[..0x100]).is_err());
    }
}
