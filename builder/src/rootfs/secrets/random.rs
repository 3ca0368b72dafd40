//! Does text look like chance, as keys and tokens do? Names, words and examples do not.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// As people and tools write them: padding is left out at times.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

/// What examples have in place of a secret. Of letters enough that chance does not make them: one of four is in one key of
/// 25,000.
const EXAMPLES: [&str; 9] =
    ["example", "your", "changeme", "change-me", "change_me", "replace", "placeholder", "redacted", "xxxx"];

/// Public by their makers' documentation, the same for everybody: of Azurite (learn.microsoft.com/azure/storage/common/
/// storage-connect-azurite) and of the emulator of Cosmos DB (learn.microsoft.com/azure/cosmos-db/emulator).
const PUBLIC: [&str; 2] = [
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw==",
];

/// More than one kind of character, or none that says it is a word: a line of base64 has both cases, one of hexadecimal digits
/// letters and digits.
pub(super) fn is_mixed(text: &[u8]) -> bool {
    let lower = text.iter().any(u8::is_ascii_lowercase);
    let upper = text.iter().any(u8::is_ascii_uppercase);
    let digit = text.iter().any(u8::is_ascii_digit);
    let long = text.len() >= 40;
    !is_example(text) && ((lower && upper && (digit || !long)) || ((lower || upper) && digit))
}

/// A value that is a secret by the look of it: base64 with its end, or characters whose kinds change as those of chance do
/// (in 62 of 100 places, digits among them; in names like `getTheTokenOfTheApp` in 40, without digits).
pub(super) fn is_secret(value: &[u8], least: usize) -> bool {
    if value.len() < least || is_example(value) || PUBLIC.iter().any(|public| public.as_bytes() == value) {
        return false;
    }
    let padded = value.ends_with(b"=") && value.len().is_multiple_of(4) && is_varied(value);
    let kind = |byte: &u8| match byte {
        b'a'..=b'z' => 0,
        b'A'..=b'Z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    let changes = value.windows(2).filter(|pair| kind(&pair[0]) != kind(&pair[1])).count();
    let digits = value.iter().any(u8::is_ascii_digit);
    padded || (digits && is_varied(value) && changes * 100 >= (value.len() - 1) * 35)
}

/// `0000…`, `abababab…` are nobody's.
pub(super) fn is_varied(value: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in value {
        seen[usize::from(*byte)] = true;
    }
    seen.iter().filter(|seen| **seen).count() >= 8
}

fn is_example(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    let has = |word: &str| super::places(&lower, word.as_bytes()).next().is_some();
    EXAMPLES.iter().any(|word| has(word))
}

/// 32 bytes in base64, as a key of Curve25519 has them.
pub(super) fn is_32_bytes(text: &[u8]) -> bool {
    text.len() == 44 && is_varied(text) && decode(text).is_some_and(|bytes| bytes.len() == 32)
}

/// Base64 of either alphabet.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let url = text.iter().any(|byte| b"-_".contains(byte));
    let alphabet = if url { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()
}
