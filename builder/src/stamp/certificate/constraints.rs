//! Name constraints (RFC 5280, 4.2.1.10): for which names an authority may vouch, as OpenSSL reads them.

use x509_parser::extensions::{GeneralName, GeneralSubtree, ParsedExtension};
use x509_parser::prelude::{X509Certificate, X509Name};

/// The first name of a certificate that `authority`, anywhere above it, may not vouch for; `leaf`: it is a device's.
pub(super) fn forbidden(
    authority: &X509Certificate<'_>,
    certificate: &X509Certificate<'_>,
    leaf: bool,
) -> Option<String> {
    // An authority that renews itself is not below itself.
    if !leaf && certificate.subject() == certificate.issuer() {
        return None;
    }
    let constraints = authority.name_constraints().ok().flatten()?.value;
    let permitted = constraints.permitted_subtrees.as_deref().unwrap_or_default();
    let excluded = constraints.excluded_subtrees.as_deref().unwrap_or_default();
    let names = names(certificate, leaf);
    names.iter().find(|name| !allowed(name, permitted, excluded)).map(shown)
}

fn allowed(
    name: &GeneralName<'_>,
    permitted: &[GeneralSubtree<'_>],
    excluded: &[GeneralSubtree<'_>],
) -> bool {
    let same =
        |tree: &&GeneralSubtree<'_>| std::mem::discriminant(&tree.base) == std::mem::discriminant(name);
    let mut stated = permitted.iter().filter(same).peekable();
    let inside = stated.peek().is_none() || stated.any(|tree| is_within(name, &tree.base));
    inside && !excluded.iter().filter(same).any(|tree| is_within(name, &tree.base))
}

/// Its subject, its other names, the subject's mail addresses; of a device's without DNS names the common name, where that
/// is one.
fn names<'a>(certificate: &'a X509Certificate<'_>, leaf: bool) -> Vec<GeneralName<'a>> {
    let mut names: Vec<GeneralName<'a>> = Vec::new();
    let subject = certificate.subject();
    if subject.iter_rdn().next().is_some() {
        names.push(GeneralName::DirectoryName(subject.clone()));
    }
    names.extend(subject.iter_email().filter_map(|mail| mail.as_str().ok()).map(GeneralName::RFC822Name));
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(other) = extension.parsed_extension() {
            names.extend(other.general_names.iter().cloned());
        }
    }
    let has_dns = names.iter().any(|name| matches!(name, GeneralName::DNSName(_)));
    if leaf && !has_dns {
        let common = subject.iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.filter(|name| is_host(name)).map(GeneralName::DNSName));
    }
    names
}

/// As OpenSSL's `cn2dnsid`: labels of letters, digits, `-` and `_`, with a dot between them.
fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        !label.is_empty() && label.chars().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.contains('.') && name.split('.').all(label)
}

fn is_within(name: &GeneralName<'_>, base: &GeneralName<'_>) -> bool {
    match (name, base) {
        (GeneralName::DirectoryName(name), GeneralName::DirectoryName(base)) => begins_with(name, base),
        (GeneralName::DNSName(name), GeneralName::DNSName(base)) => is_below(name, base),
        (GeneralName::RFC822Name(name), GeneralName::RFC822Name(base)) => mail_is_within(name, base),
        (GeneralName::URI(name), GeneralName::URI(base)) => {
            let host = url::Url::parse(name).ok().and_then(|url| url.host_str().map(str::to_owned));
            host.is_some_and(|host| domain_is_within(&host, base))
        }
        (GeneralName::IPAddress(name), GeneralName::IPAddress(base)) => {
            let (net, mask) = base.split_at(base.len() / 2);
            name.len() == net.len()
                && name.iter().zip(net).zip(mask).all(|((at, net), mask)| at & mask == net & mask)
        }
        // What nobody can compare, nobody vouches for.
        _ => false,
    }
}

fn begins_with(name: &X509Name<'_>, base: &X509Name<'_>) -> bool {
    let part = |name: &X509Name<'_>| -> Vec<Vec<(String, String)>> {
        let text = |value: Result<&str, _>| value.unwrap_or_default().to_lowercase();
        let words = |value: String| value.split_whitespace().collect::<Vec<_>>().join(" ");
        let pairs = |rdn: &x509_parser::x509::RelativeDistinguishedName<'_>| {
            rdn.iter().map(|pair| (pair.attr_type().to_id_string(), words(text(pair.as_str())))).collect()
        };
        name.iter_rdn().map(pairs).collect()
    };
    part(name).starts_with(&part(base))
}

/// `a.example` and `example` are below `example`, `anexample` is not.
fn is_below(name: &str, base: &str) -> bool {
    let (name, base) = (name.to_ascii_lowercase(), base.to_ascii_lowercase());
    let Some(rest) = name.strip_suffix(&base) else { return false };
    base.is_empty() || rest.is_empty() || base.starts_with('.') || rest.ends_with('.')
}

fn domain_is_within(host: &str, base: &str) -> bool {
    let (host, base) = (host.to_ascii_lowercase(), base.to_ascii_lowercase());
    if base.starts_with('.') { host.ends_with(&base) && host.len() > base.len() } else { host == base }
}

fn mail_is_within(mail: &str, base: &str) -> bool {
    match (base.contains('@'), mail.rsplit_once('@')) {
        (true, _) => mail.eq_ignore_ascii_case(base),
        (false, Some((_, domain))) => domain_is_within(domain, base),
        (false, None) => false,
    }
}

fn shown(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DirectoryName(name) => format!("the subject `{name}`"),
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            format!("the name `{name}`")
        }
        _ => "one of its other names".to_owned(),
    }
}
