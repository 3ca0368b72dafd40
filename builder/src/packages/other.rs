//! What a file is that was named as a .deb and has another beginning.

use std::io;

use crate::format::foreign;

/// How packages begin that dpkg made before 1995, and still reads: `0.939000`, a line feed, the length of the control
/// archive (deb-old(5)).
const OLD: &[u8] = b"0.93";
/// So much of a file is looked at.
pub(super) const HEAD: usize = 512;

/// Why a file that begins so is refused: as [`io::ErrorKind::Unsupported`] when it is a package all the same.
pub(super) fn refused(head: &[u8]) -> io::Error {
    if head.starts_with(OLD) {
        let version: String =
            head.iter().map(|byte| char::from(*byte)).take_while(|c| ".0123456789".contains(*c)).collect();
        let message = format!("it has the form {version}, of before 1995 (deb-old(5)), and not 2.0");
        return io::Error::new(io::ErrorKind::Unsupported, message);
    }
    let what = foreign::known(head, b"").map_or("no ar archive", |other| other.what);
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}"))
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn by_the_first_bytes() {
        for (head, expected) in [
            (
                &b"0.939000\n210\n\x1f\x8b"[..],
                "it has the form 0.939000, of before 1995 (deb-old(5)), and not 2.0",
            ),
            (b"\xed\xab\xee\xdb\x03\0", "it is an rpm package"),
            (b"<!DOCTYPE html><html>", "it is an HTML page"),
            (b"\x1f\x8b\x08\0", "it is no ar archive"),
            (b"", "it is no ar archive"),
        ] {
            assert_eq!(refused(head).to_string(), expected);
        }
    }
}
