//! qcow2, as far as it is looked at before qemu-img reads one.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::table::Qemu;

/// First bytes.
pub(super) const MAGIC: &[u8] = b"QFI\xfb";

/// Its clusters are not compressed: QEMU reads and writes such an image as fast as a raw one. Nothing in it is random.
pub(super) static QEMU: Qemu =
    Qemu { driver: "qcow2", options: "", settle: |_, _| Ok(()), look: |file, _| look(file) };

/// Bytes of the header, with what version 3 added.
const HEADER: usize = 104;

fn look(file: &File) -> Result<u64, &'static str> {
    let mut head = [0; HEADER];
    file.read_exact_at(&mut head, 0).map_err(|_| "it is cut off")?;
    parse(&head)
}

/// The disk's size, from the head (QEMU's `docs/interop/qcow2.txt`; big endian). Refuses what would make qemu-img open
/// another file: an image may come from anybody.
fn parse(head: &[u8; HEADER]) -> Result<u64, &'static str> {
    let long = |at: usize| head[at..at + 8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (version, crypt) = (long(0) & 0xffff_ffff, long(28) & 0xffff_ffff);
    if long(8) != 0 {
        return Err("it is a layer over another file (a backing file)");
    }
    if crypt != 0 {
        return Err("it is encrypted");
    }
    match version {
        2 => {}
        // Bit 2: the data lies in another file.
        3 if long(72) & 4 == 0 => {}
        3 => return Err("its data lies in another file"),
        _ => return Err("it is of an unknown version"),
    }
    Ok(long(24))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_qcow2_that_reaches_for_other_files() {
        let mut head = [0; 104];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[31] = 9;
        assert_eq!(parse(&head), Ok(9));
        for (at, bit, why) in
            [(15, 1, "backing"), (79, 4, "another file"), (35, 1, "encrypted"), (7, 7, "version")]
        {
            let mut head = head;
            head[at] = bit;
            assert!(parse(&head).is_err_and(|said| said.contains(why)), "{why}");
        }
    }
}
