//! First boot on the host: files as people, their editors and their servers make them. What is right for the eye is taken,
//! and what is not taken is named; nothing of it takes for ever.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::device::{Device, library, say_in_shells, shells};
use crate::support::pki::Identity;

const FAT: &str = "boot/efi/edgepress";
const CERTIFICATE: &str = "var/secrets/aziot/certs/device-id.pem";

fn utf16(text: &str) -> Vec<u8> {
    "\u{feff}"
        .chars()
        .chain(text.chars())
        .collect::<String>()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// A device with this chain and key on its partition.
fn given(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Device {
    let device = Device::new();
    device.write(&format!("{FAT}/certificate.pem"), chain);
    device.write(&format!("{FAT}/private-key.pem"), key);
    device
}

fn assert_refused(device: &Device, reason: &str) {
    device.start().until(&format!("edgepress: first boot: refused: {reason}"));
    assert!(!device.exists(CERTIFICATE), "{}", device.story());
}

#[test]
fn chains_that_are_whole_for_the_eye_are_taken_whole() {
    let identity = Identity::new("dev-01");
    let (leaf, line, key) = (&identity.leaf, &identity.intermediate, &identity.key);
    let (leaf, chain) = (leaf.replace("\r\n", "\n"), identity.chain().replace("\r\n", "\n"));
    let as_it_is = |text: &str| text.as_bytes().to_vec();
    let forms: [(&str, Vec<u8>, Vec<u8>); 8] = [
        ("glued", as_it_is(&format!("{}{line}", leaf.trim_end())), as_it_is(key)),
        (
            "byte order marks",
            as_it_is(&format!("\u{feff}{leaf}\u{feff}{line}")),
            as_it_is(&format!("\u{feff}{key}")),
        ),
        ("CR alone", as_it_is(&chain.replace('\n', "\r")), as_it_is(&key.replace('\n', "\r"))),
        ("UTF-16", utf16(&chain), utf16(key)),
        ("one line", as_it_is(&chain.replace('\n', " ")), as_it_is(&key.replace('\n', ""))),
        ("indented", as_it_is(&chain.replace('\n', "\n\t ")), as_it_is(&key.replace('\n', " \n"))),
        (
            "with text",
            as_it_is(&format!("subject=CN = dev-01\n{leaf}\nthe end of it, and BEGIN of the next\n{line}")),
            as_it_is(&format!("Bag Attributes\n    localKeyID: 01\n{key}")),
        ),
        ("an old label", as_it_is(&chain.replace("CERTIFICATE", "X509 CERTIFICATE")), as_it_is(key)),
    ];
    for (name, chain, key) in forms {
        let device = given(chain, key);
        device.run();
        assert_eq!(device.read(CERTIFICATE), identity.chain().replace("\r\n", "\n"), "{name}");
    }
}

#[test]
fn a_block_that_cannot_be_taken_is_named_with_its_line() {
    let identity = Identity::new("dev-01");
    let (leaf, line, key) = (&identity.leaf, &identity.intermediate, &identity.key);
    let lines = leaf.lines().count();
    let cut = line.rsplit_once("-----END").expect("PEM").0;
    let border =
        format!("certificate.pem, line {}: what looks like the border of a block is none", lines + 1);
    let no_end = format!("certificate.pem, line {}: the block that begins in line {}", lines * 2, lines + 1);
    for (chain, key, reason) in [
        (format!("{leaf}{}", line.replace("-----BEGIN", "----BEGIN")), key.clone(), border.as_str()),
        (format!("{leaf}{}", line.replace("-----", "\u{2014}\u{2014}")), key.clone(), &border),
        (format!("{leaf}{}", line.replace("BEGIN", "Begin")), key.clone(), &border),
        (format!("{leaf}{cut}"), key.clone(), &no_end[..34]),
        (format!("{cut}{leaf}"), key.clone(), "certificate.pem, line "),
        (format!("{leaf}{}", line.replace("CERTIFICATE", "TRUSTED CERTIFICATE")), key.clone(), "certificate.pem, line "),
        (format!("{leaf}{}", line.replace("CERTIFICATE", "PKCS7")), key.clone(), "certificate.pem, line "),
        (leaf.replacen("MI", "M!", 1), key.clone(), "certificate.pem, line 2: a sign that is no base64"),
        (leaf.repeat(21), key.clone(), "certificate.pem, line "),
        (identity.chain(), format!("{key}{key}"), "private-key.pem, line "),
        (
            identity.chain(),
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n".into(),
            "private-key.pem, line 2: the key is protected by a password",
        ),
    ] {
        assert_refused(&given(chain, key), reason);
    }
}

#[test]
fn authorities_are_taken_by_any_name_that_people_give_them() {
    let identity = Identity::new("dev-01");
    let trusted = "usr/local/share/ca-certificates/edgepress-1-1.crt";
    let der = {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), &identity.root).expect("write");
        let made = Command::new("openssl").args(["x509", "-outform", "DER", "-in"]).arg(file.path()).output();
        made.expect("openssl").stdout
    };
    for name in ["root.pem", "ROOT.PEM", "Root.Crt", "root.cer", "ROOT.CER", "root.pem.txt", "root.cert"] {
        let device = given(identity.chain(), &identity.key);
        device.write(&format!("{FAT}/ca/{name}"), &identity.root);
        device.write(&format!("{FAT}/ca/._{name}"), "macOS leaves these");
        device.run();
        assert_eq!(device.read(trusted), identity.root.replace("\r\n", "\n"), "{name}");
        assert!(device.state().get("not_taken").is_none(), "{name}: {}", device.state());
    }
    // As Windows exports it; and beside it what is none.
    let device = given(identity.chain(), &identity.key);
    device.write(&format!("{FAT}/ca/root.cer"), &der);
    device.write(&format!("{FAT}/ca/README.doc"), "call the plant");
    device.run();
    assert_eq!(device.read(trusted), identity.root.replace("\r\n", "\n"));
    let not_taken = device.state()["not_taken"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(not_taken.starts_with("ca/README.doc (no .pem"), "{not_taken}");
    assert!(device.console().contains("not taken from edgepress/: ca/README.doc"), "{}", device.console());
    let device = given(identity.chain(), &identity.key);
    device.write(&format!("{FAT}/ca/root.pem"), identity.root.replace("-----END", "----END"));
    assert_refused(&device, "ca/root.pem, line ");
}

#[test]
fn what_nobody_reads_is_named() {
    let identity = Identity::new("dev-01");
    let device = given(identity.chain(), &identity.key);
    device.write(&format!("{FAT}/certifcate.pem"), "x");
    device.write(&format!("{FAT}/private-key.pem.txt"), "x");
    device.write(
        &format!("{FAT}/hosts"),
        "10.0.0.5 hub # the hub\r\n#\r\nfe80::1%eth0 gw\r\n10.0.0.6 h\u{fc}b\r\n",
    );
    device.run();
    let not_taken = device.state()["not_taken"].as_str().map(str::to_owned).unwrap_or_default();
    for name in
        ["certifcate.pem", "private-key.pem.txt (there is private-key.pem)", "hosts, line 3", "line 4"]
    {
        assert!(not_taken.contains(name), "{name}: {not_taken}");
    }
    let hosts = device.read("etc/hosts");
    assert!(
        hosts.contains("\n10.0.0.5 hub\n") && !hosts.contains("gw") && !hosts.contains("10.0.0.6"),
        "{hosts}"
    );
}

#[test]
fn values_lose_no_sign() {
    let identity = Identity::new("dev-01");
    for (name, text, reason) in [
        ("registration-id", "d\u{e9}v-01", "registration-id holds a sign that is no plain ASCII"),
        ("registration-id", "dev-01\ndev-02\n", "registration-id holds 2 lines"),
        ("registration-id", "dev-01 x", "registration id 'dev-01 x' differs"),
        ("hostname", "pump 7", "hostname 'pump 7' is no host name"),
        ("hostname", &"p".repeat(64), "hostname 'pppp"),
        ("endpoint", "https://dps.example https://other.example", "endpoint 'https://dps.example h"),
    ] {
        let device = given(identity.chain(), &identity.key);
        device.write(&format!("{FAT}/{name}"), text);
        assert_refused(&device, reason);
    }
}

/// What a shell takes for an option, and a file system for a folder.
#[test]
fn common_names_that_programs_treat_specially_are_refused() {
    for name in ["-n", "-rf", ".", "..", ".hidden", "pump.", "pump_", &"p".repeat(65)] {
        let identity = Identity::new(name);
        assert_refused(&given(identity.chain(), &identity.key), "the certificate's common name ");
    }
}

/// As `stamp` has it: what the services do not know is refused before the runtime does it with a backtrace.
#[test]
fn keys_of_kinds_that_the_services_do_not_know_are_refused() {
    for (arguments, kind) in [
        ("-algorithm ed25519", "ED25519"),
        ("-algorithm ed448", "ED448"),
        ("-algorithm rsa-pss -pkeyopt rsa_keygen_bits:2048", "rsassaPss"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "RSA of 1024 bits"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "P-521"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "secp256k1"),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
            "an elliptic curve without",
        ),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", ""),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", ""),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", ""),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:4096", ""),
    ] {
        let (certificate, key) = self_signed(arguments);
        let device = given(&certificate, &key);
        if kind.is_empty() {
            device.run();
            assert!(device.exists(CERTIFICATE), "{arguments}: {}", device.story());
            continue;
        }
        assert_refused(&device, &format!("the key of the certificate is {kind}"));
        assert!(
            device.console().contains("RSA of 2048 to 4096 bits, P-256 or P-384 are taken"),
            "{arguments}"
        );
        // What a source is shown is judged alike.
        let device = Device::new();
        device.write(&format!("{FAT}/source.toml"), "from = \"https\"\nurl = \"https://x.example/\"\n");
        device.write(&format!("{FAT}/bootstrap-certificate.pem"), certificate);
        device.write(&format!("{FAT}/bootstrap-key.pem"), key);
        assert_refused(&device, &format!("the key of the bootstrap certificate is {kind}"));
    }
}

/// Certificate and key of `openssl genpkey ARGUMENTS`. Its names look like what openssl says of a good key.
fn self_signed(arguments: &str) -> (String, String) {
    let folder = tempfile::tempdir().expect("folder");
    let run = |arguments: &[&str]| {
        let made =
            Command::new("openssl").args(arguments).current_dir(folder.path()).output().expect("openssl");
        assert!(made.status.success(), "{made:?}");
    };
    run(&[&["genpkey"], arguments.split(' ').collect::<Vec<_>>().as_slice(), &["-out", "k.pem"]].concat());
    let subject = "/CN=dev-01/O=            ASN1 OID: prime256v1/OU=                NIST CURVE: P-256";
    run(&["req", "-x509", "-new", "-key", "k.pem", "-subj", subject, "-days", "9", "-out", "c.pem"]);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
    (read("c.pem"), read("k.pem"))
}

#[test]
fn a_registration_id_is_refused_and_not_cut() {
    let source = |from: &str, prefix: usize| {
        let device = Device::new();
        let id = format!("{}{{{{ serial }}}}", "p".repeat(prefix));
        let url = if from == "tpm" { "" } else { "url = \"https://est.example/x\"\n" };
        device.write(
            &format!("{FAT}/source.toml"),
            format!("from = \"{from}\"\n{url}registration_id = \"{id}\"\n"),
        );
        device.write("proc/device-tree/serial-number", b"10000000abcdef01\0");
        device.write("dev/tpmrm0", "");
        device.write("world/owner", "aziottpm 660\n");
        device.write(&format!("{FAT}/bootstrap-username"), "u");
        device.write(&format!("{FAT}/bootstrap-password"), "p");
        device
    };
    assert_refused(
        &source("est", 49),
        "the registration id has 65 characters, and at most 64 are possible here: 'ppp",
    );
    assert_refused(
        &source("tpm", 113),
        "the registration id has 129 characters, and at most 128 are possible",
    );
    let longest = source("tpm", 112);
    longest.run();
    let id = format!("{}10000000abcdef01", "p".repeat(112));
    assert_eq!(longest.state()["registration_id"].as_str(), Some(id.as_str()));
    assert_eq!(longest.read("etc/hostname").trim(), edgepress::stamp::names::label(&id));
}

#[test]
fn files_that_are_too_large_are_refused_unread() {
    let identity = Identity::new("dev-01");
    for name in ["certificate.pem", "hosts", "ca/root.pem", "source.toml"] {
        let device = given(identity.chain(), &identity.key);
        device.write(&format!("{FAT}/{name}"), "# x\n".repeat(70_000));
        assert_refused(&device, &format!("{name} has 280000 bytes, and at most 262144 are taken"));
    }
}

/// A PFX says itself how many rounds its password takes.
#[test]
fn a_pfx_that_wants_millions_of_rounds_is_given_up() {
    let folder = tempfile::tempdir().expect("folder");
    let identity = Identity::new("dev-01");
    std::fs::write(folder.path().join("c.pem"), identity.chain()).expect("write");
    std::fs::write(folder.path().join("k.pem"), &identity.key).expect("write");
    let made = Command::new("openssl")
        .args("pkcs12 -export -in c.pem -inkey k.pem -passout pass: -iter 65537 -out p.pfx".split(' '))
        .current_dir(folder.path())
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let unpack = |patience: &str, shell: &[String]| {
        let text = "RUN=$1/run trouble=; mkdir -p \"$RUN\"; . \"$2/identity.sh\"; . \"$2/chain.sh\"; unpack \"$1/p.pfx\" \"$1\" && \
                    echo taken || echo \"trouble: $trouble\"";
        let said = Command::new(&shell[0])
            .args(&shell[1..])
            .args(["-c", text, "sh"])
            .args([folder.path(), library().as_path()])
            .env("EP_PATIENCE", patience)
            .output()
            .expect("shell");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    for shell in shells() {
        assert_eq!(unpack("30", &shell), "taken\n");
    }
    let mut pfx = std::fs::read(folder.path().join("p.pfx")).expect("read");
    let rounds: Vec<usize> =
        (0..=pfx.len() - 5).filter(|at| pfx[*at..*at + 5] == [0x02, 0x03, 0x01, 0x00, 0x01]).collect();
    assert!(!rounds.is_empty(), "the rounds stand in the file");
    for at in rounds {
        pfx[at + 2..at + 5].copy_from_slice(&[0x7f, 0xff, 0xff]);
    }
    std::fs::write(folder.path().join("p.pfx"), pfx).expect("write");
    let timer = Instant::now();
    assert_eq!(unpack("1", &shells()[0]), "trouble: it takes more than 1 s to open\n");
    assert!(timer.elapsed() < Duration::from_secs(20), "{:?}", timer.elapsed());
}

/// By the same measure as `stamp`, which asks Rust's parser.
#[test]
fn lines_of_hosts_begin_with_an_address() {
    let words = [
        "10.0.0.5",
        "0.0.0.0",
        "255.255.255.255",
        "10.0.0.500",
        "10.0.0.256",
        "10.0.5",
        "10.0.0.5.6",
        "10.0.0",
        "10",
        "1.2.3.",
        ".1.2.3",
        "10.0.0.05",
        "10.0.0.00",
        "1..2.3",
        "10.0.0.0005",
        "a.b.c.d",
        "...",
        ".",
        ":",
        "::",
        ":::",
        "::1",
        "1::",
        "1:2",
        "fe80::1",
        "FE80::ABCD",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "1:2:3:4::5:6:7:8",
        "1::2::3",
        "12345::",
        "g::",
        "::ffff:10.0.0.1",
        "::10.0.0.256",
        "1:2:3:4:5:6:1.2.3.4",
        "1:2:3:4:5:6:7:1.2.3.4",
        "1:2:3:4:5::1.2.3.4",
        "1:2:3:4:5:6::1.2.3.4",
        "1.2.3.4::",
        "1.2.3.4:5",
        "::1.2.3",
        ":1",
        "1:",
        "64:ff9b::192.0.2.33",
        "::1:",
        "2001:db8:0:0:0:0:0:0001",
        "hub",
        "hub.example",
        "-1.2.3.4",
        "1e1.0.0.1",
        "0x7f.0.0.1",
    ];
    let lines: String = words.iter().map(|word| format!("{word}\thub.plant hub\n")).collect();
    let script = "cat >\"$RUN/hosts\"; for wanted in good other; do hosts_lines \"$RUN/hosts\" $wanted; done";
    let said = say_in_shells(&["overrides"], script, lines);
    let is_address = |word: &&&str| word.parse::<std::net::IpAddr>().is_ok();
    let good = words.iter().filter(is_address).map(|word| format!("{word}\thub.plant hub\n"));
    let other =
        (1..).zip(&words).filter(|(_, word)| !is_address(word)).map(|(number, _)| format!("{number}\n"));
    assert_eq!(said, good.chain(other).collect::<String>());
}

/// How much lies on the partition is anybody's to choose; the device takes its identity all the same, and counts the rest.
#[test]
fn what_fills_the_partition_costs_little_and_hides_nothing() {
    let identity = Identity::new("dev-01");
    let device = given(identity.chain(), &identity.key);
    for number in 0..10_000 {
        device.write(&format!("{FAT}/0-{number}.bak"), "");
        device.write(&format!("{FAT}/ca/{number}"), "");
    }
    device.write(&format!("{FAT}/hosts"), "10.0.0.500 x\n".repeat(20_000));
    device.write(&format!("{FAT}/authorized_keys"), "x\n".repeat(100_000));
    let timer = Instant::now();
    device.run();
    assert!(timer.elapsed() < Duration::from_secs(20), "{:?}", timer.elapsed());
    let not_taken = device.state()["not_taken"].as_str().map(str::to_owned).unwrap_or_default();
    for text in [
        "0-0.bak; ",
        "; and 9995 more files; ca/0 (no .pem",
        "; and 9995 more files in ca/; ",
        "; and 19995 more lines of hosts",
    ] {
        assert!(not_taken.contains(text), "{text}: {not_taken}");
    }
    assert!(device.console().contains("; and 19995 more lines of hosts\n"), "{}", device.console());
}

/// One block of as many lines as fit, in as many files as are taken.
#[test]
fn certificates_that_are_none_cost_little() {
    let identity = Identity::new("dev-01");
    let block = format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", "A\n".repeat(130_000));
    let device = given(&block, &identity.key);
    let timer = Instant::now();
    assert_refused(&device, "certificate.pem holds no certificate that can be read");
    let device = given(identity.leaf.repeat(400), &identity.key);
    assert_refused(&device, "certificate.pem, line ");
    let device = given(identity.chain(), &identity.key);
    for number in 0..200 {
        device.write(&format!("{FAT}/ca/{number}.pem"), &block);
    }
    assert_refused(&device, "ca/ holds more than 2097152 bytes of authorities");
    let device = given(identity.chain(), &identity.key);
    device.write(&format!("{FAT}/source.toml"), "#\n".repeat(130_000));
    assert_refused(&device, "source.toml has more than 1000 lines");
    assert!(timer.elapsed() < Duration::from_secs(60), "{:?}", timer.elapsed());
}

/// What a person does about it is seen, however much lies beside it.
#[test]
fn a_better_identity_is_seen_among_many_files() {
    let identity = Identity::new("dev-01");
    let device = given("scribble", &identity.key);
    for number in 0..1000 {
        device.write(&format!("{FAT}/0-{number}.bak"), "x");
        device.write(&format!("{FAT}/ca/{number}.bak"), "x");
    }
    for number in 0..201 {
        device.write(&format!("{FAT}/ca/{number}.pem"), "");
    }
    device.write(&format!("{FAT}/endpoint"), "x".repeat(300_000));
    let mut running = device.start();
    running.until("refused: endpoint has 300000 bytes");
    device.remove(&format!("{FAT}/endpoint"));
    running.until("refused: ca/ holds more than 200 authorities");
    device.remove(&format!("{FAT}/ca/99.pem"));
    running.until("refused: certificate.pem holds no certificate");
    device.write(&format!("{FAT}/certificate.pem"), identity.chain());
    running.until("refused: ca/0.pem is no certificate");
    for number in (0..201).filter(|number| *number != 99) {
        device.remove(&format!("{FAT}/ca/{number}.pem"));
    }
    assert!(running.end().success(), "{}", device.story());
}

#[test]
fn what_is_cut_says_so() {
    let text = "printable \"$(cat)\"; printable short; LONGEST_REMARKS=30; \
                printf '%s\\n' first second third 'and 7 more files' fourth | remarks_line";
    let said = say_in_shells(&["report"], text, "x".repeat(300));
    let cut = format!("{} ...", "x".repeat(196));
    assert_eq!(said, format!("{cut}\nshort\nfirst; second; third; and 8 more\n"));
}
