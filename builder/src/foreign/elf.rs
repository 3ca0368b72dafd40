//! As much of ELF as building for another machine takes: for which machine a program is, and what loads it.
//!
//! Format: System V ABI, "Object Files"; only the 64-bit little-endian form, which both architectures have.

use crate::units::Arch;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_INTERP: u32 = 3;

/// A 64-bit little-endian ELF file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    /// Looks at a file's bytes, of which the first 64 decide; nothing when it is no such file.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        // Class 2: 64 bits; data 1: little-endian; version 1.
        (bytes.len() >= HEADER && bytes.starts_with(b"\x7fELF\x02\x01\x01")).then_some(Self(bytes))
    }

    /// The machine, if it is one that edgepress knows.
    pub(crate) fn arch(&self) -> Option<Arch> {
        match self.number(18, 2)? {
            62 => Some(Arch::X86_64),
            183 => Some(Arch::Aarch64),
            _ => None,
        }
    }

    /// The path of its loader; nothing when it is static, or no whole program.
    pub(crate) fn interpreter(&self) -> Option<&'a [u8]> {
        let (start, end) = self.interpreter_place()?;
        let text = self.0.get(start..end)?;
        Some(text.split(|byte| *byte == 0).next().unwrap_or(text))
    }

    /// Where the path of its loader stands: first byte and the one behind the last, the final NUL included.
    pub(crate) fn interpreter_place(&self) -> Option<(usize, usize)> {
        let table = self.number(32, 8)?;
        let (size, count) = (self.number(54, 2)?, self.number(56, 2)?);
        if size < PROGRAM_HEADER {
            return None;
        }
        let header = (0..count).find_map(|at| {
            let header = table.checked_add(at.checked_mul(size)?)?;
            (self.number(header, 4)? == PT_INTERP as usize).then_some(header)
        })?;
        let start = self.number(header.checked_add(8)?, 8)?;
        let end = start.checked_add(self.number(header.checked_add(32)?, 8)?)?;
        (end <= self.0.len()).then_some((start, end))
    }

    fn number(&self, at: usize, bytes: usize) -> Option<usize> {
        let raw = self.0.get(at..at.checked_add(bytes)?)?;
        usize::try_from(raw.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Elf, HEADER, PROGRAM_HEADER};
    use crate::units::Arch;

    /// A program for `machine` that `loader` loads; followed by `rest`.
    pub(crate) fn program(machine: u8, loader: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + PROGRAM_HEADER];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[18] = machine;
        bytes[32] = HEADER as u8;
        bytes[54] = PROGRAM_HEADER as u8;
        bytes[56] = 1;
        bytes[HEADER] = 3;
        bytes[HEADER + 8] = (HEADER + PROGRAM_HEADER) as u8;
        bytes[HEADER + 32] = loader.len() as u8;
        bytes.extend_from_slice(loader);
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn machine_and_loader() {
        let bytes = program(183, b"/lib/ld.so\0", b"");
        let elf = Elf::parse(&bytes).expect("ELF");
        assert_eq!(elf.arch(), Some(Arch::Aarch64));
        assert_eq!(elf.interpreter(), Some(&b"/lib/ld.so"[..]));
        assert_eq!(Elf::parse(&program(62, b"", b"")).expect("ELF").arch(), Some(Arch::X86_64));
        assert_eq!(Elf::parse(&program(40, b"", b"")).expect("ELF").arch(), None);
    }

    #[test]
    fn anything_may_be_given() {
        let bytes = program(62, b"/lib64/ld-linux-x86-64.so.2\0", b"");
        for length in 0..bytes.len() {
            let _ = Elf::parse(&bytes[..length]).map(|elf| (elf.arch(), elf.interpreter()));
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] = 0xff;
            let _ = Elf::parse(&bytes).map(|elf| (elf.arch(), elf.interpreter()));
        }
    }
}
