//! Does a file that nobody takes hold a certificate or key, whatever its name? Judged by what is in it: PEM in any encoding, DER
//! of any length, base64 without borders.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::certificate::blocks::{self, is_der};

/// So much of a file is looked at; identities have far less.
const LOOKED_AT: u64 = 256 * 1024;
/// Folders within folders that are looked into.
const DEPTH: usize = 4;
const BEGIN: &str = "-----BEGIN ";

/// How certificates and keys are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Material {
    /// PEM, as it is taken.
    Pem,
    /// PEM in UTF-16, as Windows saves "Unicode".
    Utf16,
    /// DER, PFX, or base64 of one of them.
    Binary,
}

impl Material {
    /// What a file or folder holds, if it is a certificate or key; an error says why that cannot be told.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, String> {
        look(path, DEPTH).map_err(|error| format!("it cannot be read, and may hold a key: {error}"))
    }

    /// How to make of it what is taken; `certificate` and `key` are the names to choose.
    pub(super) fn hint(self, path: &Path, certificate: &str, key: &str) -> String {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match self {
            Self::Pem => format!("name it {certificate} or {key}, or put it elsewhere"),
            Self::Utf16 => format!("save it as UTF-8 or ANSI, as {certificate} or {key}"),
            Self::Binary if is_pfx(&name) => format!(
                "`openssl pkcs12 -in {name} -noenc -nokeys -out {certificate}` and `… -nocerts -out {key}` take it apart"
            ),
            Self::Binary => format!(
                "make PEM of it: `openssl x509 -in {name} -out {certificate}` or `openssl pkey -in {name} -out {key}`"
            ),
        }
    }
}

fn is_pfx(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".pfx", ".p12", ".pkcs12"].iter().any(|ending| name.ends_with(ending))
}

fn look(path: &Path, depth: usize) -> std::io::Result<Option<Material>> {
    let data = path.metadata()?;
    if data.is_dir() && depth > 0 {
        for child in path.read_dir()? {
            if let Some(found) = look(&child?.path(), depth - 1)? {
                return Ok(Some(found));
            }
        }
    }
    if !data.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LOOKED_AT).read_to_end(&mut bytes)?;
    Ok(within(&bytes))
}

/// What these bytes are.
fn within(bytes: &[u8]) -> Option<Material> {
    if is_der(bytes) {
        return Some(Material::Binary);
    }
    let has_zeros = bytes.contains(&0);
    let plain: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&plain);
    if text.contains(BEGIN) || blocks::seems_pem(&text) {
        let other = blocks::read(&plain).is_ok_and(|blocks| blocks.iter().all(is_neither));
        return match (other, has_zeros) {
            (true, _) => None,
            (false, true) => Some(Material::Utf16),
            (false, false) => Some(Material::Pem),
        };
    }
    let words: String = text.split_whitespace().collect();
    let der = STANDARD.decode(words.trim_start_matches('\u{feff}')).ok()?;
    is_der(&der).then_some(Material::Binary)
}

/// Requests, revocation lists, parameters and public keys lie beside certificates, and no device lacks them.
fn is_neither(block: &blocks::Block) -> bool {
    let others = ["REQUEST", "CRL", "PARAMETERS", "PUBLIC KEY"];
    others.iter().any(|ending| block.label.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::{Material, within};
    use crate::certificate::pem;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::path::Path;

    #[test]
    fn certificates_and_keys_in_any_form() {
        let key = rcgen::KeyPair::generate().expect("key").serialize_der();
        let mut long = vec![0x30, 0x82, 4, 0xa0, 2, 1, 0];
        long.resize(1188, 7);
        let short = [&[0x30, 0x31, 2, 1, 1, 4, 0x20][..], &[7; 44]].concat();
        let sec1 = [&[0x30, 0x77, 2, 1, 1, 4, 0x20][..], &[7; 114]].concat();
        assert_eq!(key[..2], [0x30, 0x81]);
        for der in [&key, &long, &short, &sec1, &vec![0x30, 0x80, 2, 1, 3, 0x30, 0x80]] {
            assert_eq!(within(der), Some(Material::Binary), "{:x?}", &der[..7]);
            assert_eq!(within(STANDARD.encode(der).as_bytes()), Some(Material::Binary));
            assert_eq!(within(&[der, &b"\n"[..]].concat()), Some(Material::Binary));
            for label in ["PRIVATE KEY", "CERTIFICATE", "PKCS7"] {
                let text = pem(der, label);
                assert_eq!(within(text.as_bytes()), Some(Material::Pem), "{label}");
                let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                assert_eq!(within(&wide), Some(Material::Utf16));
                let wide: Vec<u8> =
                    format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_be_bytes).collect();
                assert_eq!(within(&wide), Some(Material::Utf16));
            }
            for label in ["CERTIFICATE REQUEST", "PUBLIC KEY", "X509 CRL"] {
                assert_eq!(within(pem(der, label).as_bytes()), None, "{label}");
            }
        }
        let torn = pem(&key, "PRIVATE KEY").replace("-----BEGIN", "\u{2014}BEGIN");
        assert_eq!(within(torn.as_bytes()), Some(Material::Pem));
        for text in [
            &b""[..],
            b"0",
            b"0\n",
            b"02\n",
            b"pump-1\n",
            b"shipped in begin of May",
            b"AAECAwQFBgcICQoLDA0ODw==",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            b"PK\x03\x04",
        ] {
            assert_eq!(within(text), None, "{}", String::from_utf8_lossy(text));
        }
        let hint = Material::Binary.hint(Path::new("a/p.PFX"), "p.pem", "p.key");
        assert!(hint.contains("openssl pkcs12 -in p.PFX"), "{hint}");
        assert!(Material::of(Path::new("/nowhere")).is_err_and(|error| error.contains("cannot be read")));
    }
}
