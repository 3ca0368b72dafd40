//! Every verb with standard streams that are closed, full or read by nobody, and every verb's failure as JSON: neither
//! changes what the work comes to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::plant::{Plant, SIZE};
use crate::support::project;

/// What is run, with `{out}` for a name that nothing has yet, and its exit code.
const RUNS: &[(i32, &str)] = &[
    (0, "check gateway.toml"),
    (2, "check wrong.toml"),
    (0, "store --store {out}"),
    (2, "store --store golden/gateway.img"),
    (2, "lock wrong.toml"),
    (2, "build wrong.toml --out {out}"),
    (2, "build none.toml --out {out}"),
    (2, "test none.img"),
    (0, "inspect golden/gateway.img golden/gateway.img"),
    (1, "inspect golden/gateway.img other.img"),
    (2, "inspect none.img"),
    (0, "stamp golden --fleet issued --out {out}"),
    (2, "stamp golden --fleet wrong.csv --out {out}"),
    (2, "stamp none.img --fleet issued --out {out}"),
    (0, "flash golden --to {out} --create --yes"),
    (2, "flash golden --to {out} --create"),
    (2, "flash none.img --to {out} --create --yes"),
    (0, "azure azure.toml --out {out}"),
    (2, "azure wrong.toml --out {out}"),
    (0, "identity issue --fleet fleet.csv --out {out} --ca ca.pem --ca-key ca.key"),
    (2, "identity issue --fleet wrong.csv --out {out} --ca ca.pem --ca-key ca.key"),
    (2, "sign none --key none"),
    (0, "sim --dir pki-of-sim --issue edge-1 --out {out}"),
    (2, "sim --issue edge-1"),
];

/// A folder in which all of them can be run.
fn plant() -> Plant {
    let plant = Plant::new();
    plant.three();
    let recipe = project().join("recipes");
    let extends =
        |name: &str| format!("name = \"gateway\"\nextends = \"{}/{name}.toml\"\n", recipe.display());
    plant.put("gateway.toml", &extends("demo"));
    plant.put("azure.toml", &extends("debian-12-azure"));
    plant.put("wrong.toml", &format!("{}[packages]\ninstal = []\n[edge]\nversoin = 1\n", extends("demo")));
    plant.put("wrong.csv", "registration_id,colour\npump-1,red\n");
    plant.put("fleet.csv", "registration_id\npump-9\n");
    fs::copy(plant.golden(), plant.path("other.img")).expect("copy");
    let other = File::options().write(true).open(plant.path("other.img")).expect("open");
    other.set_len(SIZE + 4096).expect("longer");
    plant
}

/// Runs a line of [`RUNS`] through `sh`, which sets the streams.
fn run(plant: &Plant, line: &str, out: &str, streams: &str, more: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec \"$@\" {streams}")).arg("sh").arg(env!("CARGO_BIN_EXE_edgepress"));
    command.args(line.replace("{out}", out).split(' ')).args(more).current_dir(plant.path(""));
    command.env("EDGEPRESS_STORE", plant.path("store")).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The write end of a pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    writer.into()
}

#[test]
fn all_verbs_are_here() {
    let help = Command::new(env!("CARGO_BIN_EXE_edgepress")).arg("--help").output().expect("edgepress");
    let help = String::from_utf8(help.stdout).expect("text");
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What is longer than a line goes on further to the right.
    let verbs = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let verbs: BTreeSet<_> = verbs.filter_map(|line| line.split(' ').next()).collect();
    let run: BTreeSet<_> =
        RUNS.iter().filter_map(|(_, line)| line.split(' ').next()).chain(["help"]).collect();
    assert!(verbs.len() > 10, "{help}");
    assert_eq!(verbs, run);
}

#[test]
fn nobody_reads_or_the_streams_are_closed() {
    let plant = plant();
    for (number, (code, line)) in RUNS.iter().enumerate() {
        let exit = |way: usize, command: &mut Command| {
            let found = command.status().expect("edgepress").code();
            assert_eq!(found, Some(*code), "way {way}: edgepress {line}");
        };
        let out = |way: usize| format!("out-{number}-{way}");
        exit(0, &mut run(&plant, line, &out(0), "", &[]));
        exit(1, run(&plant, line, &out(1), "", &[]).stdout(unread()));
        exit(2, run(&plant, line, &out(2), "", &[]).stderr(unread()));
        exit(3, run(&plant, line, &out(3), "2>&1", &["--json"]).stdout(unread()));
        exit(4, &mut run(&plant, line, &out(4), "<&- >&- 2>&-", &[]));
        exit(5, &mut run(&plant, line, &out(5), "<&- >&- 2>&-", &["--json"]));
        exit(6, &mut run(&plant, line, &out(6), "2>/dev/full", &[]));
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let plant = plant();
    for (number, (code, line)) in RUNS.iter().enumerate() {
        for more in [&[][..], &["--json"]] {
            let out = format!("out-{number}-{}", more.len());
            let output = run(&plant, line, &out, ">/dev/full", more)
                .stderr(Stdio::piped())
                .output()
                .expect("edgepress");
            let words = String::from_utf8_lossy(&output.stderr);
            // What failed besides has the last word; a failure before there was an answer has none to lose.
            assert_eq!(
                output.status.code(),
                Some(if *code == 0 { 1 } else { *code }),
                "edgepress {line}: {words}"
            );
            let lost = words.contains("error: writing to standard output: No space left on device");
            assert!(lost || (*code != 0 && more.is_empty()), "edgepress {line}: {words}");
        }
    }
}

#[test]
fn a_failure_is_in_the_document() {
    let plant = plant();
    for (number, (code, line)) in RUNS.iter().enumerate() {
        let output = run(&plant, line, &format!("out-{number}"), "", &["--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .expect("edgepress");
        assert_eq!(output.status.code(), Some(*code), "edgepress {line}");
        let words = String::from_utf8_lossy(&output.stderr);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("edgepress {line}: {error}: {}", String::from_utf8_lossy(&output.stdout))
        });
        let error = &document["error"];
        if *code == 0 {
            assert!(error.is_null() && document.is_object(), "edgepress {line}: {document}");
            continue;
        }
        assert_eq!(error["exit_code"], *code, "edgepress {line}");
        assert_eq!(error["kind"], if *code == 2 { "input" } else { "work" }, "edgepress {line}");
        let message = error["message"].as_str().expect("a message");
        assert!(!message.is_empty() && words.contains(message), "edgepress {line}: {message}\n{words}");
        if let Some(hint) = error["hint"].as_str() {
            assert!(words.contains(hint) || words.contains("--help"), "edgepress {line}: {hint}\n{words}");
        }
    }
}

#[test]
fn a_failure_names_its_place() {
    let plant = plant();
    let document = |line: &str| -> Value {
        let output =
            run(&plant, line, "out", "", &["--json"]).stdout(Stdio::piped()).output().expect("edgepress");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    for verb in ["check", "build", "lock", "azure"] {
        let line =
            if verb == "azure" { "azure wrong.toml --out x".into() } else { format!("{verb} wrong.toml") };
        let found = document(&line);
        let place = &found["error"]["place"];
        assert!(place["file"].as_str().is_some_and(|file| file.ends_with("wrong.toml")), "{verb}: {found}");
        assert!(place["line"].as_u64().is_some_and(|line| line > 2), "{verb}: {found}");
    }
    let found = document("build wrong.toml");
    let messages: Vec<_> = found["error"]["findings"].as_array().expect("several").iter().collect();
    assert_eq!((messages.len(), &messages[0]["message"]), (2, &"unknown key `instal` in `packages`".into()));
    let found = document("stamp golden --fleet wrong.csv --out x");
    assert_eq!(found["error"]["place"]["file"], "wrong.csv", "{found}");
}

#[test]
fn a_wrong_command_line_is_in_the_document() {
    let plant = plant();
    let verbs: BTreeSet<_> = RUNS.iter().filter_map(|(_, line)| line.split(' ').next()).collect();
    for verb in verbs.into_iter().chain(["no-such-verb", "--no-such-option"]) {
        let lines = [
            verb.to_owned(),
            format!("{verb} --no-such-option"),
            format!("{verb} --timeout=x --port=y --days=z"),
        ];
        // Without an option, the simulators run.
        for line in lines.iter().filter(|line| *line != "sim") {
            let output =
                run(&plant, line, "", "", &["--json"]).stdout(Stdio::piped()).output().expect("edgepress");
            if output.status.success() {
                continue;
            }
            let text = String::from_utf8(output.stdout).expect("text");
            let found: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"));
            let error = &found["error"];
            assert_eq!(
                (&error["kind"], &error["exit_code"]),
                (&"input".into(), &2.into()),
                "{line}: {found}"
            );
            let message = error["message"].as_str().expect("a message");
            assert!(
                !message.is_empty() && !message.contains("Usage") && !message.starts_with("error"),
                "{message}"
            );
            assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{line}: {found}");
        }
    }
}

#[test]
fn a_simulator_answers_in_lines() {
    let plant = plant();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("port");
    let port = taken.local_addr().expect("address").port();
    let line = format!("sim --port-offset 20000 --port dps={port}");
    let output = run(&plant, &line, "", "", &["--json"]).stdout(Stdio::piped()).output().expect("edgepress");
    let text = String::from_utf8(output.stdout).expect("text");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["event"], &last["error"]["exit_code"]),
        (&"error".into(), &output.status.code().into()),
        "{text}"
    );
    let output = run(&plant, "sim --port none=1", "", "", &["--json"])
        .stdout(Stdio::piped())
        .output()
        .expect("edgepress");
    let only: Value = serde_json::from_slice(&output.stdout).expect("one line");
    assert_eq!(
        (&only["event"], output.stdout.iter().filter(|byte| **byte == b'\n').count()),
        (&"error".into(), 1)
    );
}

/// A simulator that runs; `before` is what its shell does first.
fn simulator(
    plant: &Plant,
    before: &str,
) -> (std::process::Child, BufReader<std::process::ChildStdout>, String) {
    let ports = edgepress::sim::Service::ALL.map(|service| format!("--port={service}=0"));
    // Whoever runs these tests may have been started by nohup.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", "sh", "-c"]).arg(format!("{before} exec \"$@\"")).arg("sh");
    command.arg(env!("CARGO_BIN_EXE_edgepress"));
    command.args(["sim", "--json"]).args(&ports).current_dir(plant.path("")).stdout(Stdio::piped());
    let mut child = command.spawn().expect("edgepress");
    let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("it listens");
    let listening: Value = serde_json::from_str(&line).expect("JSON");
    let address = listening["files"].as_str().expect("an address").to_owned();
    (child, reader, address)
}

fn send(child: &std::process::Child, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("kill");
}

/// `nohup edgepress …`: a signal that is ignored from the start stays so.
#[test]
fn who_ignores_a_signal_means_it() {
    let plant = plant();
    let (mut child, mut reader, address) = simulator(&plant, "trap '' HUP;");
    send(&child, Signal::SIGHUP);
    let mut stream = TcpStream::connect(&address).expect("it listens still");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("request");
    let mut line = String::new();
    assert!(reader.read_line(&mut line).expect("a line") > 0, "it ended");
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let (mut child, _reader, _) = simulator(&plant, "");
    send(&child, Signal::SIGHUP);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

/// `edgepress sim … | head -n 1`: it ends at the next request.
#[test]
fn a_simulator_ends_with_its_reader() {
    let plant = plant();
    for (json, streams) in [(&["--json"][..], ""), (&[], "2>&1")] {
        let ports = edgepress::sim::Service::ALL.map(|service| format!("--port={service}=0"));
        let more: Vec<&str> = ports.iter().map(String::as_str).chain(json.iter().copied()).collect();
        let mut child =
            run(&plant, "sim", "", streams, &more).stdout(Stdio::piped()).spawn().expect("edgepress");
        let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
        let mut address = String::new();
        while address.is_empty() {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).expect("a line") > 0, "it ended");
            let words: Vec<_> = line.split(|c: char| c.is_whitespace() || c == '"').collect();
            let at =
                words.iter().position(|word| *word == "files").map(|at| &words[at + 1..]).unwrap_or_default();
            address = at
                .iter()
                .find(|word| word.starts_with("127.0.0.1:"))
                .map_or(String::new(), |word| (*word).into());
        }
        drop(reader);
        // No TLS: the connection fails, which is a line of the log.
        while child.try_wait().expect("a child").is_none() {
            if let Ok(mut stream) = TcpStream::connect(&address) {
                let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
                let _ = stream.read(&mut [0; 64]);
            }
        }
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{json:?}");
    }
}
