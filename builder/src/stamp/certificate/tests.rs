use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::{PairFile, Role, Rules, check};
use crate::finding::Severity;
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
    Rules { authorities: Vec::new(), now: OffsetDateTime::now_utc(), named: true, role: Role::Client }
}

fn faults(chain: &str, key: &str, rules: &Rules) -> Vec<String> {
    let (made, faults) = check(chain.as_bytes(), key.as_bytes(), rules);
    assert_eq!(
        made.is_some(),
        faults.iter().all(|(_, found)| found.severity == Severity::Warning),
        "{faults:?}"
    );
    faults
        .into_iter()
        .map(|(file, found)| format!("{}{}", if file == PairFile::Key { "key: " } else { "" }, found.message))
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
        ("-----BEGIN CERTIFICATE-----\n!!\n".into(), "line 1: the block that begins there has no end"),
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
    assert!(found[0].contains("it is no certificate authority (basic constraints)"), "{found:?}");
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
        ("p521.pem", "its key is of the kind P-521"),
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

/// What the device's services and DPS do not know is refused, although the TLS library here would take some of it.
#[test]
fn keys_of_kinds_that_the_services_do_not_know() {
    let openssl = host::program("openssl").expect("openssl");
    let folder = tempfile::tempdir().expect("folder");
    for (arguments, expected) in [
        (
            "-algorithm ed25519",
            "its key is of the kind Ed25519, which the identity service or DPS refuses: RSA of",
        ),
        ("-algorithm ed448", "its key is of the kind Ed448"),
        ("-algorithm rsa-pss -pkeyopt rsa_keygen_bits:2048", "its key is of the kind RSA for PSS only"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "its key is of the kind secp256k1"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:secp224r1", "its key is of the kind P-224"),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1",
            "its key is of the kind brainpoolP256r1",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
            "its elliptic curve is not one",
        ),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", ""),
    ] {
        let run = |arguments: &str| {
            let mut command = Command::new(&openssl);
            host::run(command.args(arguments.split(' ')).current_dir(folder.path())).expect("openssl");
        };
        run(&format!("genpkey {arguments} -out k.pem"));
        run("req -x509 -new -key k.pem -subj /CN=pump-7 -days 90 -out c.pem");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
        let found = faults(&read("c.pem"), &read("k.pem"), &rules());
        assert_eq!(found.is_empty(), expected.is_empty(), "{arguments}: {found:?}");
        assert!(found.first().map_or("", String::as_str).starts_with(expected), "{arguments}: {found:?}");
    }
}

/// Root, the authority below it, and the device's: their extensions, and whether that is taken. OpenSSL is asked as well, so
/// that the measure cannot be wrong.
const TAKEN: [(&str, &str, &str, bool); 36] = [
    (CA, CA, "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth", true),
    (CA, CA, "subjectKeyIdentifier=hash", true),
    (CA, CA, "keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth", true),
    (CA, CA, "keyUsage=keyAgreement", true),
    (CA, CA, "keyUsage=keyEncipherment", false),
    (CA, CA, "keyUsage=critical,nonRepudiation", false),
    (CA, CA, "extendedKeyUsage=serverAuth", false),
    (CA, CA, "extendedKeyUsage=emailProtection,codeSigning", false),
    (CA, CA, "extendedKeyUsage=anyExtendedKeyUsage", false),
    (CA, CA, "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign", false),
    (CA, CA, "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,digitalSignature", true),
    (CA, CA, "basicConstraints=CA:FALSE", true),
    (CA, CA, "1.3.6.1.4.1.99999.1=critical,ASN1:UTF8String:plant", false),
    (CA, CA, "1.3.6.1.4.1.99999.1=ASN1:UTF8String:plant", true),
    (CA, CA, "nsCertType=client", true),
    (CA, CA, "nsCertType=server", false),
    (CA, CA, "certificatePolicies=critical,1.2.3.4", true),
    (CA, CA, "subjectAltName=critical,DNS:pump-7.plant.example", true),
    (CA, CA, "authorityInfoAccess=critical,OCSP;URI:http://ocsp.example", false),
    (CA, CA, "keyUsage=critical,DER:04:00", false),
    (CA, "basicConstraints=CA:FALSE", "subjectKeyIdentifier=hash", false),
    (CA, "subjectKeyIdentifier=hash", "subjectKeyIdentifier=hash", false),
    (CA, "basicConstraints=CA:TRUE\nkeyUsage=cRLSign", "subjectKeyIdentifier=hash", false),
    (CA, "basicConstraints=CA:TRUE\nextendedKeyUsage=serverAuth", "subjectKeyIdentifier=hash", false),
    (CA, "basicConstraints=CA:TRUE\nextendedKeyUsage=clientAuth", "subjectKeyIdentifier=hash", true),
    (
        CA,
        "basicConstraints=CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign",
        "subjectKeyIdentifier=hash",
        true,
    ),
    (
        CA,
        "basicConstraints=CA:TRUE\n1.3.6.1.4.1.99999.1=critical,ASN1:NULL",
        "subjectKeyIdentifier=hash",
        false,
    ),
    ("basicConstraints=CA:TRUE,pathlen:0", CA, "subjectKeyIdentifier=hash", false),
    ("basicConstraints=CA:TRUE,pathlen:1", CA, "subjectKeyIdentifier=hash", true),
    ("basicConstraints=CA:TRUE\nkeyUsage=digitalSignature", CA, "subjectKeyIdentifier=hash", false),
    ("basicConstraints=CA:TRUE\nextendedKeyUsage=emailProtection", CA, "subjectKeyIdentifier=hash", false),
    (
        CA,
        "basicConstraints=CA:TRUE\nnameConstraints=critical,permitted;DNS:plant.example",
        "subjectAltName=DNS:pump-7.plant.example",
        true,
    ),
    (
        CA,
        "basicConstraints=CA:TRUE\nnameConstraints=critical,permitted;DNS:plant.example",
        "subjectAltName=DNS:pump-7.other.example",
        false,
    ),
    (
        CA,
        "basicConstraints=CA:TRUE\nnameConstraints=critical,excluded;email:plant.example",
        "subjectAltName=email:a@plant.example",
        false,
    ),
    (
        "basicConstraints=CA:TRUE\nnameConstraints=critical,permitted;IP:10.0.0.0/255.0.0.0",
        CA,
        "subjectAltName=IP:192.168.0.1",
        false,
    ),
    (
        "basicConstraints=CA:TRUE\nnameConstraints=permitted;dirName:there\n[there]\nO=Another",
        CA,
        "subjectKeyIdentifier=hash",
        false,
    ),
];
const CA: &str = "basicConstraints=critical,CA:TRUE";

#[test]
fn what_a_tls_server_refuses_is_refused() {
    let openssl = host::program("openssl").expect("openssl");
    let folder = tempfile::tempdir().expect("folder");
    let run = |arguments: &str| {
        let mut command = Command::new(&openssl);
        command
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .expect("openssl")
            .status
            .success()
    };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
    for (name, subject) in [("root", "/CN=Root"), ("line", "/CN=Line"), ("leaf", "/O=Works/CN=pump-7")] {
        let new = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc";
        assert!(run(&format!("{new} -subj {subject} -keyout {name}.key -out {name}.csr")));
    }
    let sign = |name: &str, by: &str, extensions: &str| {
        std::fs::write(folder.path().join("ext.cnf"), format!("{extensions}\n")).expect("write");
        let signer =
            if name == by { format!("-signkey {by}.key") } else { format!("-CA {by}.pem -CAkey {by}.key") };
        let made =
            run(&format!("x509 -req -in {name}.csr {signer} -days 300 -extfile ext.cnf -out {name}.pem"));
        assert!(made, "{extensions}");
    };
    for (root, line, leaf, taken) in TAKEN {
        sign("root", "root", root);
        sign("line", "root", line);
        sign("leaf", "line", leaf);
        let theirs = run("verify -purpose sslclient -CAfile root.pem -untrusted line.pem leaf.pem");
        let authorities = super::blocks::certificates(read("root.pem").as_bytes()).expect("root");
        let rules =
            Rules { authorities: authorities.into_iter().map(CertificateDer::from).collect(), ..rules() };
        let chain = format!("{}{}", read("leaf.pem"), read("line.pem"));
        let (made, found) = check(chain.as_bytes(), read("leaf.key").as_bytes(), &rules);
        let row = format!("{root} | {line} | {leaf}: {found:?}");
        assert_eq!(theirs, taken, "openssl: {row}");
        assert_eq!(made.is_some(), taken, "{row}");
    }
}

#[test]
fn what_ended_or_is_signed_weakly_vouches_for_nobody() {
    let openssl = host::program("openssl").expect("openssl");
    let folder = tempfile::tempdir().expect("folder");
    let run = |arguments: &str| {
        let mut command = Command::new(&openssl);
        host::run(command.args(arguments.split(' ')).current_dir(folder.path())).expect("openssl");
    };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
    run("req -x509 -newkey rsa:2048 -noenc -days 30 -sha1 -subj /CN=Root -keyout root.key -out root.pem");
    run("req -new -newkey rsa:2048 -noenc -subj /CN=pump-7 -keyout leaf.key -out leaf.csr");
    let root = super::blocks::certificates(read("root.pem").as_bytes()).expect("root");
    let authorities: Vec<CertificateDer<'static>> = root.into_iter().map(CertificateDer::from).collect();
    for (digest, days, expected) in [
        ("sha256", 0, ""),
        ("sha1", 0, "it is signed with SHA-1"),
        ("md5", 0, "it is signed with MD5"),
        ("sha256", 40, "the authority of --ca cannot vouch for it: it is valid from"),
    ] {
        run(&format!(
            "x509 -req -in leaf.csr -CA root.pem -CAkey root.key -days 300 -{digest} -out leaf.pem"
        ));
        let now = OffsetDateTime::now_utc() + Duration::days(days);
        let rules = Rules { authorities: authorities.clone(), now, ..rules() };
        let found = faults(&read("leaf.pem"), &read("leaf.key"), &rules);
        assert_eq!(found.is_empty(), expected.is_empty(), "{digest}: {found:?}");
        assert!(
            found.iter().any(|fault| fault.starts_with(expected)) || expected.is_empty(),
            "{digest}: {found:?}"
        );
    }
}

/// How an authority's key is made, with which further arguments it signs, and why that is refused: of the device's certificate
/// by itself, and beside its authority's. (A signature does not tell secp256k1 from P-256.)
const SIGNERS: [(&str, &str, &str, &str); 20] = [
    (P256, "-sha256", "", ""),
    (P256, "-sha384", "", ""),
    (P384, "-sha256", "", ""),
    (P384, "-sha384", "", ""),
    (RSA2048, "-sha256", "", ""),
    (RSA2048, "-sha384", "", ""),
    (RSA2048, "-sha512", "", ""),
    (P384, "-sha512", "", "warning: its signature (ECDSA with SHA-512) cannot be verified here"),
    ("-algorithm ed25519", "", "it is signed with Ed25519, which", "its key is of the kind Ed25519"),
    ("-algorithm ed448", "", "it is signed with Ed448, which", "its key is of the kind Ed448"),
    (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
        "-sha256",
        "it is signed on a curve that is longer than P-384",
        "its key is of the kind P-521",
    ),
    (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-224",
        "-sha256",
        "it is signed on a curve that is shorter than P-256",
        "its key is of the kind P-224",
    ),
    ("-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "-sha256", "", "its key is of the kind secp256k1"),
    (
        "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
        "-sha256",
        "it is signed with an RSA key of 1024 bits",
        "its RSA key has 1024 bits: at least 2048, at most 8192",
    ),
    (RSA2048, "-sha256 -sigopt rsa_padding_mode:pss", "it is signed with RSA-PSS, which", ""),
    (
        "-algorithm rsa-pss -pkeyopt rsa_keygen_bits:2048",
        "-sha256",
        "it is signed with RSA-PSS, which",
        "its key is of the kind RSA for PSS only",
    ),
    (RSA2048, "-sha224", "it is signed with SHA-224, which", ""),
    (RSA2048, "-sha1", "it is signed with SHA-1, which", ""),
    (RSA2048, "-sha3-256", "it is signed with 2.16.840.1.101.3.4.3.14, which", ""),
    (P256, "-sha1", "it is signed with SHA-1, which", ""),
];
const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";
const RSA2048: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

#[test]
fn signatures_and_authorities_keys_that_are_not_listed_are_refused_with_the_right_reason() {
    let openssl = host::program("openssl").expect("openssl");
    let folder = tempfile::tempdir().expect("folder");
    let run = |arguments: &str| {
        let mut command = Command::new(&openssl);
        host::run(command.args(arguments.split_whitespace()).current_dir(folder.path())).expect("openssl");
    };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
    let shown = |chain: &str, authorities: Vec<CertificateDer<'static>>| -> Vec<String> {
        let rules = Rules { authorities, ..rules() };
        let found = check(chain.as_bytes(), read("leaf.key").as_bytes(), &rules).1;
        found.into_iter().map(|(_, found)| format!("{}: {}", found.severity, found.message)).collect()
    };
    run(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=pump-7 -keyout leaf.key -out leaf.csr",
    );
    for (key, how, alone, beside) in SIGNERS {
        run(&format!("genpkey {key} -out ca.key"));
        // Its own signature says nothing: the digest is the one of the library.
        run("req -x509 -new -key ca.key -subj /CN=Root -days 90 -out ca.pem");
        run(&format!("x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -days 80 {how} -out leaf.pem"));
        let (leaf, ca) = (read("leaf.pem"), read("ca.pem"));
        let authority: Vec<CertificateDer<'static>> = super::blocks::certificates(ca.as_bytes())
            .expect("authority")
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        for (found, two) in [
            (shown(&leaf, Vec::new()), false),
            (shown(&format!("{leaf}{ca}"), Vec::new()), true),
            (shown(&leaf, authority.clone()), true),
            (shown(&format!("{leaf}{ca}"), authority), true),
        ] {
            let row = format!("{key} {how} {two}: {found:?}");
            let expected: Vec<&str> = [(alone, true), (beside, two)]
                .into_iter()
                .filter(|(expected, here)| *here && !expected.is_empty())
                .map(|(expected, _)| expected.trim_start_matches("warning: "))
                .collect();
            assert_eq!(found.is_empty(), expected.is_empty(), "{row}");
            assert!(expected.iter().all(|one| found.iter().any(|found| found.contains(one))), "{row}");
            // And no other reason than these.
            assert!(found.iter().all(|found| expected.iter().any(|one| found.contains(one))), "{row}");
            if beside.starts_with("warning") && two && found.len() == 1 {
                assert!(found[0].starts_with("warning") || found[0].contains("--ca"), "{row}");
            }
        }
    }
}

/// A name that is its authority's too does not make a certificate one that signs itself.
#[test]
fn a_weak_signature_by_an_authority_of_the_same_name() {
    let openssl = host::program("openssl").expect("openssl");
    let folder = tempfile::tempdir().expect("folder");
    let run = |arguments: &str| {
        let mut command = Command::new(&openssl);
        host::run(command.args(arguments.split(' ')).current_dir(folder.path())).expect("openssl");
    };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
    std::fs::write(folder.path().join("none.cnf"), "basicConstraints=CA:FALSE\n").expect("write");
    run("req -x509 -newkey rsa:2048 -noenc -subj /CN=pump-7 -days 90 -keyout ca.key -out ca.pem");
    run("req -new -newkey rsa:2048 -noenc -subj /CN=pump-7 -keyout leaf.key -out leaf.csr");
    let sign = "x509 -req -in leaf.csr -extfile none.cnf -days 80";
    for (arguments, expected) in [
        ("-CA ca.pem -CAkey ca.key -sha256 -out leaf.pem", ""),
        ("-CA ca.pem -CAkey ca.key -sha1 -out leaf.pem", "it is signed with SHA-1"),
        // An individual enrolment knows it by its thumbprint.
        ("-signkey leaf.key -sha1 -out leaf.pem", ""),
        ("-signkey leaf.key -md5 -out leaf.pem", ""),
    ] {
        run(&format!("{sign} {arguments}"));
        let found = faults(&read("leaf.pem"), &read("leaf.key"), &rules());
        assert_eq!(found.is_empty(), expected.is_empty(), "{arguments}: {found:?}");
        assert!(found.iter().all(|found| found.starts_with(expected)), "{arguments}: {found:?}");
    }
    for arguments in ["-sha1", "-md5"] {
        run(&format!("{sign} -CA ca.pem -CAkey ca.key {arguments} -out leaf.pem"));
        let found = faults(&format!("{}{}", read("leaf.pem"), read("ca.pem")), &read("leaf.key"), &rules());
        assert!(!found.is_empty(), "{arguments}");
    }
}
