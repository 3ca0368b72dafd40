//! Client assertions: a JWT that a client signs with its certificate's key (RFC 7523), as Entra takes them.
//!
//! Header: `alg` RS256, PS256 or ES256; `x5t` or `x5t#S256`, the certificate's SHA-1 or SHA-256; perhaps `x5c`, the
//! certificate itself. <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value;
use sha1::{Digest as _, Sha1};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use edgepress_base::units::Digest;

/// Longest time that an assertion may hold, seconds.
const LONGEST: u64 = 86_400;
/// How far clocks may be apart, seconds.
const SKEW: u64 = 300;

/// A refusal as Entra words it: the number of its message, and the message.
pub(super) type Refusal = (u32, String);

#[derive(Deserialize)]
struct Header {
    alg: String,
    x5t: Option<String>,
    #[serde(rename = "x5t#S256")]
    x5t_s256: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

#[derive(Deserialize)]
struct Claims {
    aud: Value,
    iss: String,
    sub: String,
    exp: u64,
    nbf: Option<u64>,
}

/// An assertion that could be read; nothing of it is checked yet.
pub(super) struct Assertion<'a> {
    header: Header,
    claims: Claims,
    signed: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Assertion<'a> {
    /// # Errors
    /// When it is no JWT with what an assertion must hold.
    pub(super) fn read(text: &'a str) -> Result<Self, Refusal> {
        let malformed = |what: String| (50_027, format!("JWT token is invalid or malformed: {what}"));
        let (signed, signature) = text.rsplit_once('.').ok_or_else(|| malformed("no signature".into()))?;
        let (header, claims) =
            signed.split_once('.').ok_or_else(|| malformed("expected three parts".into()))?;
        let part = |name: &str, text: &str| {
            BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|error| malformed(format!("{name}: {error}")))
        };
        // Where a JSON error stands is told, not what stands there.
        let unfit = |name: &str, error: &serde_json::Error| {
            malformed(format!("{name}: {:?} at column {}", error.classify(), error.column()))
        };
        Ok(Self {
            header: serde_json::from_slice(&part("header", header)?).map_err(|e| unfit("header", &e))?,
            claims: serde_json::from_slice(&part("claims", claims)?).map_err(|e| unfit("claims", &e))?,
            signed: signed.as_bytes(),
            signature: part("signature", signature)?,
        })
    }

    /// Whether the algorithm is one that the real Entra does not take.
    pub(super) fn beyond_entra(&self) -> bool {
        self.header.alg == "ES256"
    }

    /// The certificates that it brings along (DER), the client's own first.
    pub(super) fn certificates(&self) -> Vec<Vec<u8>> {
        self.header.x5c.iter().filter_map(|text| BASE64_STANDARD.decode(text).ok()).collect()
    }

    /// Checks that the certificate (DER) is the one named, and that its key signed.
    ///
    /// # Errors
    /// Says which of them is not so.
    pub(super) fn verify(&self, certificate: &[u8]) -> Result<(), Refusal> {
        let refused = |why: &str| (700_027, format!("Client assertion failed signature validation: {why}"));
        let named = |text: &str, digest: &[u8]| {
            BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).is_ok_and(|named| named == digest)
        };
        let fits = match (&self.header.x5t_s256, &self.header.x5t) {
            (Some(text), _) => named(text, &Digest::of(certificate).0),
            (None, Some(text)) => named(text, &Sha1::digest(certificate)),
            (None, None) => return Err(refused("the header has neither x5t nor x5t#S256")),
        };
        if !fits {
            return Err(refused("the certificate with the thumbprint in the header is not registered"));
        }
        let algorithm: &dyn VerificationAlgorithm = match self.header.alg.as_str() {
            "RS256" => &RSA_PKCS1_2048_8192_SHA256,
            "PS256" => &RSA_PSS_2048_8192_SHA256,
            "ES256" => &ECDSA_P256_SHA256_FIXED,
            _ => return Err(refused("alg is none of RS256, PS256 and ES256")),
        };
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| refused("the certificate cannot be read"))?;
        UnparsedPublicKey::new(algorithm, &certificate.public_key().subject_public_key.data)
            .verify(self.signed, &self.signature)
            .map_err(|_| refused("the signature is not by the certificate's key"))
    }

    /// Checks who it is about, for whom, and when.
    ///
    /// # Errors
    /// Says which claim does not hold.
    pub(super) fn check(
        &self,
        client_id: &str,
        is_audience: impl Fn(&str) -> bool,
        now: u64,
    ) -> Result<(), Refusal> {
        let Claims { aud, iss, sub, exp, nbf } = &self.claims;
        if iss != client_id || sub != client_id {
            let why = "Client assertion application identifier doesn't match 'client_id' parameter: iss and sub \
                       must both be it";
            return Err((700_021, why.into()));
        }
        let audience = match aud {
            Value::String(one) => is_audience(one),
            Value::Array(all) => all.iter().filter_map(Value::as_str).any(is_audience),
            _ => false,
        };
        if !audience {
            let why = "Client assertion audience claim does not match Realm issuer: aud must be this endpoint's \
                       address";
            return Err((700_023, why.into()));
        }
        let early = nbf.is_some_and(|start| start > now.saturating_add(SKEW));
        let late = exp.saturating_add(SKEW) <= now;
        let long = *exp > now.saturating_add(LONGEST + SKEW);
        for (wrong, what) in
            [(early, "nbf is ahead"), (late, "it expired"), (long, "exp is more than a day ahead")]
        {
            if wrong {
                let why = format!("Client assertion is not within its valid time range: {what}");
                return Err((700_024, why));
            }
        }
        Ok(())
    }
}
