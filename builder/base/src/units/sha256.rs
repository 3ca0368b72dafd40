//! SHA-256 (FIPS 180-4), for everybody here: the one place that says by which code it is computed.
//!
//! ring chooses when the program runs: the SHA extension of x86-64 or ARMv8 where the processor has it, else assembly for
//! AVX or SSSE3, else NEON or plain. The crate `sha2` 0.10 knows the extension or plain code and nothing between: measured
//! on one core without the extension 190 MB/s beside ring's 290 and OpenSSL's 360 (which has code for AVX2 besides), and all
//! three 1,220 MB/s with it. `ci/bench-lib` measures it anew in every benchmark.

use std::io;

use ring::digest::{Context, SHA256};

use super::Digest;

/// A hash in the making. A copy of it goes on from the same bytes: what two files begin with is hashed once.
#[derive(Clone)]
pub struct Sha256(Context);

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// Takes so many zeros, which nobody has to read.
    pub fn zeros(&mut self, mut count: u64) {
        // Short enough to stay in the fastest cache.
        const ZEROS: &[u8] = &[0; 16 << 10];
        while count > 0 {
            let part = ZEROS.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            self.0.update(&ZEROS[..part]);
            count -= part as u64;
        }
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        Digest(digest)
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows nothing of what was taken.
impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

impl io::Write for Sha256 {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Sha256;
    use std::io::Write as _;

    /// NIST's examples (Cryptographic Standards and Guidelines, `SHA256.pdf`), nothing, and a million of `a`.
    #[test]
    fn known_answers() {
        let million = "a".repeat(1_000_000);
        for (text, expected) in [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ] {
            let mut hasher = Sha256::new();
            hasher.update(text);
            assert_eq!(hasher.finish().to_string(), expected);
        }
    }

    /// However it is given, and wherever a copy goes on.
    #[test]
    fn the_same_bytes_give_the_same() {
        let bytes: Vec<u8> =
            (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut whole = Sha256::new();
        whole.update(&bytes);
        let expected = whole.clone().finish();
        for part in [1, 63, 64, 65, 4097, 99_999] {
            let mut pieces = Sha256::default();
            bytes.chunks(part).for_each(|piece| pieces.update(piece));
            assert_eq!(pieces.finish(), expected, "{part}");
        }
        let mut written = Sha256::new();
        written.write_all(&bytes).expect("memory");
        assert_eq!(written.finish(), expected);
        for count in [0, 1, 64, 16 << 10, (48 << 10) + 5] {
            let (mut read, mut known) = (whole.clone(), whole.clone());
            read.update(vec![0; count]);
            known.zeros(count as u64);
            assert_eq!(read.finish(), known.finish(), "{count} zeros");
        }
    }
}
