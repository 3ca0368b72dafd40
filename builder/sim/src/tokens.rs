//! Access tokens: given out by Entra, instance metadata and Arc, taken by the key vault.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::tls::random;
use edgepress_base::units::Digest;

/// The one audience that the key vault takes.
pub(super) const VAULT: &str = "https://vault.azure.net";
/// Tokens remembered at once; beyond, those that end first are forgotten.
const KEPT: usize = 10_000;

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Unknown,
    Expired,
    /// It is for another audience.
    Elsewhere,
}

struct Grant {
    audience: String,
    /// Seconds since 1970.
    end: u64,
}

/// The tokens given out so far, by their SHA-256.
#[derive(Default)]
pub(super) struct Tokens(Mutex<BTreeMap<Digest, Grant>>);

impl Tokens {
    /// A new token, good until `end` (seconds since 1970).
    pub(super) fn grant(&self, audience: &str, now: u64, end: u64) -> String {
        let token = counterfeit();
        let grant = Grant { audience: plain(audience), end };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT {
            all.retain(|_, grant| grant.end > now);
        }
        if all.len() >= KEPT
            && let Some(first) = all.iter().min_by_key(|(_, grant)| grant.end).map(|(digest, _)| *digest)
        {
            all.remove(&first);
        }
        all.insert(Digest::of(token.as_bytes()), grant);
        token
    }

    /// Takes a token for an audience, or says why not.
    pub(super) fn check(&self, token: &str, audience: &str, now: u64) -> Result<(), Refusal> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = all.get(&Digest::of(token.as_bytes())).ok_or(Refusal::Unknown)?;
        if now >= grant.end {
            return Err(Refusal::Expired);
        }
        if grant.audience != plain(audience) { Err(Refusal::Elsewhere) } else { Ok(()) }
    }
}

/// An audience without the slash that may or may not end it.
fn plain(audience: &str) -> String {
    audience.trim_end_matches('/').to_ascii_lowercase()
}

/// A token that nobody takes. As long as the real ones and of their form (a JWT), because their length has broken
/// clients; clients must not read it.
pub(super) fn counterfeit() -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let (claims, signature): ([u8; 1024], [u8; 256]) = (random(), random());
    format!("{}.{}.{}", encode(br#"{"typ":"JWT","alg":"RS256"}"#), encode(&claims), encode(&signature))
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Refusal, Tokens, VAULT, counterfeit};

    #[test]
    fn tokens_are_taken_for_their_audience_and_time() {
        let tokens = Tokens::default();
        let token = tokens.grant("https://vault.azure.net/", 1000, 2000);
        assert_eq!(tokens.check(&token, VAULT, 1999), Ok(()));
        assert_eq!(tokens.check(&token, VAULT, 2000), Err(Refusal::Expired));
        assert_eq!(tokens.check(&token, "https://management.azure.com", 1999), Err(Refusal::Elsewhere));
        assert_eq!(tokens.check(&counterfeit(), VAULT, 1999), Err(Refusal::Unknown));
        assert!(token.len() > 1500 && token.matches('.').count() == 2);
    }

    #[test]
    fn memory_is_bounded() {
        let tokens = Tokens::default();
        for n in 0..KEPT as u64 + 10 {
            tokens.grant(VAULT, 0, 1000 + n);
        }
        assert_eq!(tokens.0.lock().expect("lock").len(), KEPT);
        let last = tokens.grant(VAULT, 100_000, 200_000);
        assert_eq!(tokens.0.lock().expect("lock").len(), 1);
        assert_eq!(tokens.check(&last, VAULT, 100_001), Ok(()));
    }
}
