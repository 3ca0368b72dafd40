//! Secrets of each kind, in the forms that people and tools give them, and what looks like one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{CHUNK, OVERLAP, Secret, find_in, is_raw_key, is_trust_store};

const BODY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKJvcCbDgKGsGaTTR";
/// As a hub's: 32 bytes.
const KEY: &str = "q2w9ZbX0kT7mJ4vYtR1pLs8hNcE5gUaDfOi3KxQeB6A=";

fn pem(label: &str) -> String {
    format!("-----BEGIN {label}-----\n{BODY}\n-----END {label}-----\n")
}

fn check(cases: &[(&str, Option<Secret>)]) {
    for (text, expected) in cases {
        assert_eq!(find_in(text.as_bytes()), *expected, "{text}");
    }
}

#[test]
fn keys_between_borders() {
    let one_line = pem("PRIVATE KEY").replace('\n', "\\n");
    let found = [
        pem("PRIVATE KEY"),
        pem("EC PRIVATE KEY").replace('\n', "\r\n"),
        pem("ENCRYPTED PRIVATE KEY").replace('\n', "\r"),
        pem("PGP PRIVATE KEY BLOCK").replace("-----\nM", "-----\nVersion: GnuPG v2\nComment: x\n\nlQ"),
        pem("RSA PRIVATE KEY").replace("-----\nM", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,00\n\nx"),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n".to_owned(),
        "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nComment: \"x\"\nP2/56wAAA2sAAAAmZGwtbW9kcHJpbWV7c2ln\n".to_owned(),
        "-----BEGIN OpenVPN Static key V1-----\n6acef03f62675b4b1bbd03e53b187727\n423cea742242106cb2916a8a4c829756\n".to_owned(),
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 2\nAAAAC3NzaC1lZDI1NTE5AAAAI\n\
         Private-Lines: 1\nAAAAIEkRAEWuYwLlKpYkJgr1FJZv9ygKq3Pv2gJnqCDQWg5p\n"
            .to_owned(),
        format!("{{\"key\": \"{one_line}\"}}"),
        format!("{{\"key\": \"{}\"}}", one_line.replace('\\', "\\\\")),
        format!("KEY=\"{}\"\n", pem("PRIVATE KEY")),
        format!("  key: |\n{}", pem("PRIVATE KEY").replace('\n', "\n    ")),
        format!("<key>{}</key>", pem("PRIVATE KEY")),
        format!("key = [\"-----BEGIN PRIVATE KEY-----\",\n  \"{BODY}\"]"),
        format!("x = '-----BEGIN PRIVATE KEY-----\\n' +\n  '{BODY}\\n'"),
        format!("    -----BEGIN PRIVATE KEY----- {BODY}"),
    ];
    for text in found {
        assert_eq!(find_in(text.as_bytes()), Some(Secret::Key), "{text}");
    }
    for text in [
        pem("CERTIFICATE"),
        pem("PUBLIC KEY"),
        pem("PGP PUBLIC KEY BLOCK"),
        "grep -q '-----BEGIN PRIVATE KEY-----'\n".to_owned(),
        "-----BEGIN PRIVATE KEY-----\n$key\n-----END PRIVATE KEY-----\n".to_owned(),
        "-----BEGIN PRIVATE KEY-----\n{{ key }}\n-----END PRIVATE KEY-----\n".to_owned(),
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA...\n-----END RSA PRIVATE KEY-----\n".to_owned(),
        "-----BEGIN PRIVATE KEY-----\nYOURKEYINBASE64GOESHERE\n".to_owned(),
        "\"-----BEGIN PRIVATE KEY-----\\n\" + privateKeyInBase64 + \"\\n-----END\"".to_owned(),
        "-----BEGIN PRIVATE KEY-----".to_owned(),
    ] {
        assert_eq!(find_in(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn keys_of_other_forms() {
    let age = format!("AGE-SECRET-KEY-1{}\n", "QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGP3ELJ7Z0F9D");
    check(&[
        (&age, Some(Secret::Key)),
        (
            "# AGE-SECRET-KEY-1...\npublic key: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudwlyqg3zv\n",
            None,
        ),
        (&format!("[WireGuard]\nPrivateKey = {KEY}\n"), Some(Secret::Key)),
        (&format!("[WireGuardPeer]\npresharedkey={KEY}\n"), Some(Secret::Key)),
        (&format!("[WireGuardPeer]\nPublicKey={KEY}\n"), None),
        ("[WireGuard]\nPrivateKey = <key>\nPrivateKeyFile=/etc/wg.key\n", None),
        (
            r#"{"kty":"EC","crv":"P-256","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#,
            Some(Secret::Key),
        ),
        (r#"{"d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE", "x": "", "kty" : "OKP"}"#, Some(Secret::Key)),
        (r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"}"#, Some(Secret::Key)),
        (r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"}"#, None),
        (r#"{"d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#, None),
    ]);
    assert!(is_raw_key(format!("{KEY}\n").as_bytes()) && !is_raw_key(b"trusted.gpg.d\n"));
}

#[test]
fn logins_in_plain_text() {
    let old = "wZ4X9m2h".repeat(5) + "abc=";
    let login = |text: String| (text, Some(Secret::Login));
    let nothing = |text: &str| (text.to_owned(), None);
    let address = KEY.replace('=', "%3D");
    let cases = [
        login(format!("X=HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey={old}\n")),
        login(format!("conn: \"Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey={old}\"\n")),
        login(format!("DefaultEndpointsProtocol=https;AccountName=a;AccountKey={old}{old}\n")),
        login(format!("export AWS_SECRET_ACCESS_KEY='{old}'\n")),
        login(format!("AZURE_CLIENT_SECRET={old}\n")),
        login(format!("SharedAccessSignature sr=h%2Fdevices%2Fd&sig={old}&se=99\n")),
        login(format!("id = AKIA{}\nother = {}\n", "ABCDEFGH12345678", "aB3/xK9pQ2".repeat(4))),
        login(format!("{{\"SharedAccessKey\": \"{KEY}\"}}")),
        login(format!("{{\"x\": \"{{\\\"SharedAccessKey\\\": \\\"{KEY}\\\"}}\"}}")),
        login(format!("SharedAccessKey = {KEY}\n")),
        login(format!("sharedaccesskey={KEY}\nSHARED_ACCESS_KEY={KEY}")),
        login(format!("shared-access-key: {KEY}\n")),
        login(format!("\"symmetricKey\": {{\"primaryKey\": \"{KEY}\", \"secondaryKey\": null}}")),
        login("\"primaryKey\": \"n7Dk\\u002B3xTq\\/Wz9YbR5vLh2MpEs8cGfUaJi4Ko6Xt1dA0=\"".to_owned()),
        login(format!("<add key=\"StorageAccountKey\" value=\"{KEY}\"/>")),
        login(format!("<AccountKey>{KEY}</AccountKey>")),
        login(format!("https://a.blob.core.windows.net/c?sv=2022-11-02&sp=r&se=2030-01-01&sig={address}\n")),
        login(format!("\"url\": \"https://a/?sv=2022-11-02\\u0026sig={address}\\u0026se=2030\"")),
        login("secret: kJ38Q~x7TfWb2ZrNq0YmVdLsHc5uEgA1oPiR9t.K\n".to_owned()),
        login("//registry.npmjs.org/:_authToken=npm_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6\n".to_owned()),
        login("url = https://ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6@github.com/x/y\n".to_owned()),
        nothing("SharedAccessKey=${KEY}\nAccountKey=<your key>\nSharedAccessKey=\n"),
        nothing("aws_secret_access_key = changeme\nAZURE_CLIENT_SECRET=\"$1\"\n"),
        nothing("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\nAKIAIOSFODNN7EXAMPLE\n"),
        nothing(
            "SharedAccessKey=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx=\nAccountKey=YOUR-ACCOUNT-KEY-GOES-HERE-123\n",
        ),
        nothing("clientSecret: process.env.AZURE_CLIENT_SECRET_OF_THE_APP,\n"),
        nothing("refreshToken = getRefreshTokenFromTheStorageOfTheApp()\n"),
        nothing(
            "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==\n",
        ),
        nothing("SharedAccessSignature sr={}&sig={}&se={}\n"),
        (format!("a digest: {}\nid = AKIA\n", "0".repeat(64)), None),
        (format!("https://e.example/x?id=1&sig={address}\n"), None),
    ];
    for (text, expected) in cases {
        assert_eq!(find_in(text.as_bytes()), expected, "{text}");
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(find_in(&wide), expected, "as UTF-16: {text}");
        let wide: Vec<u8> =
            ['\u{feff}'].into_iter().chain(text.chars()).flat_map(|c| (c as u16).to_be_bytes()).collect();
        assert_eq!(find_in(&wide), expected, "as UTF-16, the other way: {text}");
    }
}

/// As in Kubernetes' files: `client-key-data`, and the values of a Secret.
#[test]
fn what_is_encoded_once_more() {
    let wrapped = |bytes: &[u8]| format!("data:\n  x: {}\n", STANDARD.encode(bytes));
    check(&[
        (&wrapped(pem("EC PRIVATE KEY").as_bytes()), Some(Secret::Key)),
        (&wrapped(pem("CERTIFICATE").as_bytes()), None),
        (&wrapped(&pkcs8()), Some(Secret::Key)),
        (&wrapped(format!("HostName=h;DeviceId=d;SharedAccessKey={KEY}").as_bytes()), Some(Secret::Login)),
        (&wrapped(b"There is nothing in here, but it is as long as the others are."), None),
    ]);
}

/// However much stands before, and wherever a window ends.
#[test]
fn nothing_hides_behind_a_windows_border() {
    let key = pem("PRIVATE KEY");
    for before in [300_000, CHUNK - 40, CHUNK, 2 * CHUNK - 100, 2 * CHUNK + OVERLAP - 10] {
        for filler in ["x\n", "\0\0"] {
            let text = filler.repeat(before / 2) + &key;
            assert_eq!(find_in(text.as_bytes()), Some(Secret::Key), "after {before} bytes");
        }
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[tag, 0x82], &length[..], content].concat()
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

fn number(length: usize) -> Vec<u8> {
    der(2, &vec![0x5a; length])
}

fn pkcs8() -> Vec<u8> {
    let algorithm = sequence(&[der(6, &[0x2b, 0x65, 0x70])]);
    sequence(&[vec![2, 1, 0], algorithm, der(4, &der(4, &[7; 32]))])
}

#[test]
fn keys_in_der() {
    let oid = |last: &[u8]| der(6, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01][..], last].concat());
    let zero = || vec![2, 1, 0];
    let rsa = [number(256), number(3), number(256)];
    let rest: Vec<_> = (0..5).map(|_| number(128)).collect();
    let public = sequence(&[sequence(&[oid(&[1, 1])]), der(3, &[0; 65])]);
    for (what, bytes, expected) in [
        ("PKCS#8", pkcs8(), true),
        ("encrypted", sequence(&[sequence(&[oid(&[5, 13])]), der(4, &[9; 64])]), true),
        ("PKCS#1", sequence(&[&[zero()][..], &rsa, &rest].concat()), true),
        ("DSA", sequence(&[zero(), number(128), number(20), number(128), number(128), number(20)]), true),
        ("SEC1", sequence(&[vec![2, 1, 1], der(4, &[7; 32]), der(0xa0, &[6, 1, 1])]), true),
        ("an RSA public key", sequence(&[number(256), number(3)]), false),
        ("a public key", public, false),
        ("a digest", sequence(&[sequence(&[oid(&[1, 11])]), der(4, &[9; 32])]), false),
        ("numbers", sequence(&[zero(), number(8), number(8)]), false),
        ("a sequence", sequence(&[]), false),
    ] {
        assert_eq!(find_in(&bytes).is_some(), expected, "{what}");
        for end in 0..bytes.len() {
            assert_eq!(find_in(&bytes[..end]), None, "{what}, cut at {end}");
        }
    }
}

#[test]
fn keys_of_openpgp() {
    let packet = |tag: u8, version: u8| {
        let key = [&[version, 0x65, 0, 0, 0, 22][..], &[9; 80]].concat();
        [&[tag, 86][..], &key, &[0xb4, 1, b'x']].concat()
    };
    for (tag, version, expected) in [
        (0x94, 4, Some(Secret::Key)),
        (0xc5, 4, Some(Secret::Key)),
        // A public one, and no version that there is.
        (0x98, 4, None),
        (0x94, 9, None),
    ] {
        assert_eq!(find_in(&packet(tag, version)), expected, "{tag:x} {version}");
    }
    let long = [&[0x95, 1, 2, 4, 0x65, 0, 0, 0, 1][..], &[9; 252], &[0xb4]].concat();
    assert_eq!(find_in(&long), Some(Secret::Key));
    assert_eq!(find_in(&long[..200]), None);
}

#[test]
fn stores_with_keys_and_without() {
    let oid = |last: &[u8]| [&[6, 11, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01][..], last].concat();
    let data = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    let store = |bag: u8| {
        let safe = sequence(&[oid(&[0x0c, 0x0a, 0x01, bag]), der(0xa0, &[1; 64])]);
        sequence(&[vec![2, 1, 3], sequence(&[data.to_vec(), der(0xa0, &der(4, &safe))])])
    };
    for (bag, expected) in [(1, Some(Secret::Store)), (2, Some(Secret::Store)), (3, None)] {
        assert_eq!(find_in(&store(bag)), expected, "{bag}");
        assert_eq!(is_trust_store(store(bag).as_slice()).expect("memory"), expected.is_none());
    }
    assert!(!is_trust_store(&b"no store"[..]).expect("memory"));
    let number = |number: u32| number.to_be_bytes().to_vec();
    let entry = |tag| [number(tag), vec![0, 1, b'a'], vec![0; 8]].concat();
    let authority = [entry(2), vec![0, 5], b"X.509".to_vec(), number(3), vec![1, 2, 3]].concat();
    let java = |entries: &[Vec<u8>]| {
        let count = u32::try_from(entries.len()).expect("few");
        [vec![0xfe, 0xed, 0xfe, 0xed], number(2), number(count), entries.concat()].concat()
    };
    assert_eq!(find_in(&java(&[authority.clone(), authority.clone()])), None);
    assert_eq!(find_in(&java(&[authority, entry(1)])), Some(Secret::Store));
}

/// libgnutls.so.30, for one: it lies beside a foreign system while its packages' scripts run, and in no list of its packages.
#[test]
fn programs_carry_keys_to_test_themselves() {
    let key = pem("RSA PRIVATE KEY");
    for (beginning, expected) in
        [("\x7fELF\x02\x01\x01\0", None), ("!<arch>\n", None), ("\0\x01\0", Some(Secret::Key))]
    {
        assert_eq!(find_in(format!("{beginning}\0\0{key}\0").as_bytes()), expected, "{beginning:?}");
    }
}
