use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::{Rules, check};
use crate::host;

type Made = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::DAY;
    params.not_after = OffsetDateTime::now_utc() + Duration::days(365);
    params
}

fn authority(name: &str, constraints: IsCa, parent: Option<&Made>) -> Made {
    let mut params = params(name);
    params.is_ca = constraints;
    let key = KeyPair::generate().expect("key");
    match parent {
        Some(parent) => CertifiedIssuer::signed_by(params, key, parent).expect("authority"),
        None => CertifiedIssuer::self_signed(params, key).expect("authority"),
    }
}

fn any_depth() -> IsCa {
    IsCa::Ca(BasicConstraints::Unconstrained)
}

/// Root, the authority below it, and a device's certificate with its key.
struct World {
    root: Made,
    line: Made,
    key: KeyPair,
}

impl World {
    fn new() -> Self {
        let root = authority("root", any_depth(), None);
        let line = authority("line", any_depth(), Some(&root));
        Self { root, line, key: KeyPair::generate().expect("key") }
    }

    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = params("pump-7");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(&self.key, &self.line).expect("leaf").pem()
    }

    fn faults(&self, chain: &str) -> Vec<String> {
        faults(chain, &self.key.serialize_pem(), &rules())
    }
}

fn rules() -> Rules {
    Rules { authorities: Vec::new(), now: OffsetDateTime::now_utc(), named: true }
}

fn faults(chain: &str, key: &str, rules: &Rules) -> Vec<String> {
    let (made, faults) = check(chain.as_bytes(), key.as_bytes(), rules);
    assert_eq!(made.is_some(), faults.iter().all(|fault| fault.warning), "{faults:?}");
    faults
        .into_iter()
        .map(|fault| format!("{}{}", if fault.in_key { "key: " } else { "" }, fault.message))
        .collect()
}

fn der(made: &Made) -> CertificateDer<'static> {
    made.der().clone()
}

#[test]
fn good_ones() {
    let world = World::new();
    let leaf = world.leaf(|_| {});
    for chain in [
        leaf.clone(),
        format!("{leaf}{}", world.line.pem()),
        format!("{leaf}{}{}", world.line.pem(), world.root.pem()),
    ] {
        assert_eq!(world.faults(&chain), [""; 0]);
        for authorities in [vec![der(&world.root)], vec![der(&world.line), der(&world.root)]] {
            let known = authorities.len() > 1 || chain.len() > leaf.len();
            let found = faults(&chain, &world.key.serialize_pem(), &Rules { authorities, ..rules() });
            assert_eq!(found.is_empty(), known, "{found:?}");
        }
    }
    let text = format!("Bag Attributes\n{}", leaf.replace('\n', "\r\n"));
    let made = check(text.as_bytes(), world.key.serialize_pem().as_bytes(), &rules()).0.expect("good");
    assert_eq!(made.name, "pump-7");
    assert!(made.chain_pem.starts_with("-----BEGIN CERTIFICATE-----\n") && !made.chain_pem.contains('\r'));
    // No extended key usage allows every use; a self-signed one serves an individual enrolment.
    assert_eq!(world.faults(&world.leaf(|params| params.extended_key_usages.clear())), [""; 0]);
    let own = params("pump-7").self_signed(&world.key).expect("self-signed").pem();
    assert_eq!(world.faults(&own), [""; 0]);
}

#[test]
fn what_is_wrong_with_a_certificate() {
    let world = World::new();
    let now = OffsetDateTime::now_utc();
    let leaf = world.leaf(|_| {});
    let (line, root) = (world.line.pem(), world.root.pem());
    let twin = authority("line", any_depth(), Some(&world.root));
    for (chain, expected) in [
        (world.leaf(|params| params.not_after = now - Duration::HOUR), "it expired on"),
        (world.leaf(|params| params.not_before = now + Duration::HOUR), "it is not valid before"),
        (world.leaf(|params| params.not_after = now + Duration::days(9)), "in 8 days"),
        (
            world.leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "does not allow clientAuth",
        ),
        (
            world.leaf(|params| params.distinguished_name = rcgen::DistinguishedName::new()),
            "exactly one common name",
        ),
        (format!("{leaf}{root}{line}"), "certificate 2 did not issue the one before it"),
        (format!("{leaf}{}", twin.pem()), "certificate 1: its signature is not that of the next certificate"),
        (format!("{leaf}{}", world.key.serialize_pem()), "it also holds a private key"),
        ("nothing".into(), "it holds no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            "certificate 1 cannot be read",
        ),
        ("-----BEGIN CERTIFICATE-----\n!!\n".into(), "no PEM file"),
        (leaf.repeat(11), "more than 10"),
    ] {
        let found = world.faults(&chain);
        assert_eq!(found.len(), 1, "{expected}: {found:?}");
        assert!(found[0].contains(expected), "{expected}: {found:?}");
    }
}

#[test]
fn issuers_that_may_not_be_any() {
    let world = World::new();
    let below = |parent: &Made, constraints: IsCa| {
        let line = authority("line", constraints, Some(parent));
        let leaf = params("pump-7").signed_by(&world.key, &line).expect("leaf").pem();
        format!("{leaf}{}{}", line.pem(), parent.pem())
    };
    let found = world.faults(&below(&world.root, IsCa::ExplicitNoCa));
    assert!(found[0].contains("its issuer is no certificate authority"), "{found:?}");
    let short = authority("root", IsCa::Ca(BasicConstraints::Constrained(0)), None);
    let found = world.faults(&below(&short, any_depth()));
    assert!(found[0].starts_with("certificate 2: its issuer may not have that many"), "{found:?}");
    let mut signs_nothing = params("line");
    signs_nothing.is_ca = any_depth();
    signs_nothing.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().expect("key");
    let line = CertifiedIssuer::signed_by(signs_nothing, key, &world.root).expect("authority");
    // rcgen itself refuses to sign with such an authority: one of the same key and name signs.
    let twin_key = KeyPair::from_pem(&line.key().serialize_pem()).expect("key");
    let mut twin = params("line");
    twin.is_ca = any_depth();
    let twin = CertifiedIssuer::signed_by(twin, twin_key, &world.root).expect("authority");
    let leaf = params("pump-7").signed_by(&world.key, &twin).expect("leaf").pem();
    let found = world.faults(&format!("{leaf}{}", line.pem()));
    assert!(found[0].contains("may not sign certificates (key usage)"), "{found:?}");
}

#[test]
fn chains_of_other_authorities() {
    let world = World::new();
    let stranger = authority("root", any_depth(), None);
    let chain = format!("{}{}", world.leaf(|_| {}), world.line.pem());
    let rules = Rules { authorities: vec![der(&stranger)], ..rules() };
    let found = faults(&chain, &world.key.serialize_pem(), &rules);
    assert_eq!(found, ["its chain does not end at one of the authorities of --ca"]);
}

#[test]
fn keys_that_are_none() {
    let world = World::new();
    let leaf = world.leaf(|_| {});
    let other = KeyPair::generate().expect("key").serialize_pem();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (key, expected) in [
        (other.as_str(), "key: it does not belong to the certificate"),
        (encrypted, "key: it is protected by a password"),
        ("", "key: it holds no private key"),
        (leaf.as_str(), "key: it holds no private key"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "key: it is no key that can be used",
        ),
    ] {
        let found = faults(&leaf, key, &rules());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected), "{found:?}");
    }
}

/// Keys and certificates as openssl writes them.
#[test]
fn every_form_of_key() {
    let openssl = host::program("openssl").expect("openssl");
    let folder = tempfile::tempdir().expect("folder");
    let run = |arguments: &str| {
        let mut command = Command::new(&openssl);
        host::run(command.args(arguments.split(' ')).current_dir(folder.path())).expect("openssl");
    };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
    run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
    run("rsa -in rsa.pem -traditional -out pkcs1.pem");
    run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out short.pem");
    run("ecparam -name secp384r1 -genkey -out sec1.pem");
    run("pkey -in sec1.pem -out ec.pem");
    run("ecparam -name secp521r1 -genkey -noout -out p521.pem");
    for (key, expected) in [
        ("rsa.pem", ""),
        ("pkcs1.pem", ""),
        ("sec1.pem", ""),
        ("ec.pem", ""),
        ("short.pem", "its RSA key has 1024 bits: at least 2048"),
        ("p521.pem", "key: it is no key that can be used"),
    ] {
        run(&format!("req -x509 -new -key {key} -subj /CN=pump-7 -days 90 -out c.pem"));
        let found = faults(&read("c.pem"), &read(key), &rules());
        assert!(found.first().map_or("", String::as_str).contains(expected), "{key}: {found:?}");
        assert_eq!(found.is_empty(), expected.is_empty(), "{key}: {found:?}");
        if expected.is_empty() {
            let made = check(read("c.pem").as_bytes(), read(key).as_bytes(), &rules()).0.expect("good");
            std::fs::write(folder.path().join("again.pem"), made.key_pem).expect("write");
            run("pkey -in again.pem -noout");
        }
    }
}
