//! Package URLs: `pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12`.
//!
//! Source: the package-url specification, with its types `deb`, `docker` and `generic`.

use std::fmt::Write as _;

/// A package URL, put together. `namespace` may be empty; qualifiers whose value is empty are left out, the others
/// are sorted, as the canonical form wants it.
pub(crate) fn purl(
    kind: &str,
    namespace: &str,
    name: &str,
    version: &str,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut out = format!("pkg:{kind}/");
    for segment in namespace.split('/').filter(|segment| !segment.is_empty()) {
        out.push_str(&encoded(segment));
        out.push('/');
    }
    out.push_str(&encoded(name));
    if !version.is_empty() {
        out.push('@');
        out.push_str(&encoded(version));
    }
    let mut qualifiers: Vec<_> = qualifiers.iter().filter(|(_, value)| !value.is_empty()).collect();
    qualifiers.sort();
    for (at, (key, value)) in qualifiers.into_iter().enumerate() {
        let mark = if at == 0 { '?' } else { '&' };
        // Writing to a String cannot fail.
        let _ = write!(out, "{mark}{key}={}", encoded(value));
    }
    out
}

/// Everything but letters, digits, `.-_~` and the colon becomes `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::purl;

    #[test]
    fn canonical_form() {
        let qualifiers = [("distro", "debian-12"), ("arch", "amd64"), ("upstream", "")];
        assert_eq!(
            purl("deb", "debian", "libstdc++6", "1:12.2.0-14+deb12u1~x", &qualifiers),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1~x?arch=amd64&distro=debian-12"
        );
        let from = [("repository_url", "https://mcr.microsoft.com")];
        assert_eq!(
            purl("docker", "azure/iot", "agent", "1.6", &from),
            "pkg:docker/azure/iot/agent@1.6?repository_url=https:%2F%2Fmcr.microsoft.com"
        );
        assert_eq!(purl("generic", "", "ü", "", &[]), "pkg:generic/%C3%BC");
    }
}
