//! The forms in which an image lies in a file, and how its raw bytes come out of each.
//!
//! ```text
//!                    ┌─ raw           the disk, byte for byte
//!                    ├─ zst, xz, gz   the disk, compressed           ─► decode: a stream of raw bytes
//!  file ─► detect ───┤
//!                    ├─ vhd           the disk and a footer of 512 bytes
//!                    ├─ qcow2, …      only qemu-img reads them: vhdx, vmdk
//!                    └─ foreign       an archive, another machine's disk, an error page: refused, with what to do
//!  beside it: a bmap, which parts of the disk hold anything
//! ```
//! What there is to know of each stands in one [`table`]; docs/architecture.md says how one is added. A file is known by what
//! it holds, never by its name. Every verb asks [`detect`]; whether a disk could start a machine,
//! which `flash` asks before it touches a card, says [`judge`].

pub mod bmap;
pub mod decode;
pub mod foreign;
pub mod judge;
pub mod table;
pub mod unpack;

mod qcow2;
mod vhdx;
mod vmdk;

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;

pub use self::table::{Container, Form, Format, Holds, Made, Packing, Qemu, Way, listed};

use self::foreign::Foreign;
use self::table::Known;
use crate::error::Problem;

/// Length of a VHD's footer, bytes.
pub const VHD_FOOTER: u64 = 512;
/// First bytes of a VHD's footer ("Virtual Hard Disk Image Format Specification", Microsoft, 2006).
pub const VHD_COOKIE: &[u8; 8] = b"conectix";
/// How the image lies in this file.
///
/// # Errors
/// When the file cannot be read; a [`Problem`] when it is something else that is known, with how to make an image of it.
pub fn detect(file: &File, size: u64) -> Result<Container> {
    let read = |at: u64, most: usize| {
        let mut bytes = vec![0; most.min(usize::try_from(size - at).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, at).map(|()| bytes)
    };
    let head = read(0, foreign::HEAD)?;
    let one = |is: &dyn Fn(Known) -> bool| Form::all().find(|form| is(form.known))?.container;
    if let Some((container, _)) = one(&|known| matches!(known, Known::Head(is) if is(&head))) {
        return Ok(container);
    }
    let tail = read(size.saturating_sub(VHD_FOOTER), foreign::TAIL)?;
    let whole = size > VHD_FOOTER && size.is_multiple_of(VHD_FOOTER);
    if whole && let Some((container, _)) = one(&|known| matches!(known, Known::Tail(is) if is(&tail))) {
        return Ok(container);
    }
    // A disk is a disk, whatever stands in its boot sector besides.
    if let judge::Judged::Foreign(foreign) = judge::judge(&head, size) {
        return Err(refused(foreign).into());
    }
    match foreign::known(&[], &tail) {
        Some(foreign) if whole => Err(refused(foreign).into()),
        _ => Ok(Container::Raw),
    }
}

fn refused(foreign: Foreign) -> Problem {
    Problem::input(format!("this is no disk image but {}", foreign.what)).hint(foreign.hint)
}
