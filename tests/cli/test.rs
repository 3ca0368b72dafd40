//! `edgepress test` without a machine: bad input, boots that fail, and what is left behind.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::machine::{Bench, PATIENCE, machines, text, until};

/// The exit code and everything that was said.
fn said(output: &Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

fn assert_said(output: &Output, code: i32, parts: &[&str]) {
    let (found, words) = said(output);
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in:\n{words}");
    }
    assert_eq!(found, code, "{words}");
}

#[test]
fn no_image() {
    let bench = Bench::new();
    fs::remove_file(bench.image()).expect("remove");
    let output = bench.run("silent", &[]);
    assert_said(&output, 2, &["cannot open the image", "demo.img", "hint: `edgepress build RECIPE`"]);
}

#[test]
fn no_manifest_or_a_broken_one() {
    let bench = Bench::new();
    fs::write(bench.path("image/manifest.json"), "{\n  \"name\": }").expect("write");
    assert_said(&bench.run("silent", &[]), 2, &["manifest.json cannot be used", "line 2 column 11"]);
    fs::remove_file(bench.path("image/manifest.json")).expect("remove");
    assert_said(&bench.run("silent", &[]), 2, &["manifest.json cannot be used", "keep the two together"]);
}

#[test]
fn no_qemu() {
    let bench = Bench::new();
    let only = bench.path("only");
    fs::create_dir(&only).expect("folder");
    let output = bench.command("silent", &[]).env("PATH", &only).output().expect("edgepress");
    assert_said(&output, 1, &["is not installed", "sudo apt-get install qemu-system-x86"]);
}

#[test]
fn no_firmware() {
    let bench = Bench::new();
    fs::remove_file(bench.path("firmware/50-none.json")).expect("remove");
    assert_said(&bench.run("silent", &[]), 1, &["no UEFI firmware", "sudo apt-get install ovmf"]);
}

#[test]
fn an_image_that_trusts_nobody_and_cannot_be_told_to() {
    let bench = Bench::new();
    bench.write_manifest(|manifest| manifest["provisioning"]["overrides"] = false.into());
    assert_said(
        &bench.run("silent", &[]),
        1,
        &["making the image's copy trust the simulators", "Bad magic number"],
    );
}

#[test]
fn an_image_without_a_machine() {
    let bench = Bench::new();
    bench.write_manifest(|manifest| manifest["board"] = "raspberry-pi".into());
    assert_said(&bench.run("silent", &[]), 2, &["is for x86_64 and this board"]);
}

#[test]
fn a_card_that_the_board_would_not_boot() {
    let bench = Bench::new();
    bench.write_manifest(|manifest| {
        manifest["arch"] = "aarch64".into();
        manifest["board"] = "raspberry-pi".into();
    });
    let reason = "model 3 would not start the kernel: config.txt is missing";
    assert_said(&bench.run("silent", &[]), 1, &[&format!("FAILED: {reason}"), "cmdline.txt is missing"]);
    let report = bench.report_json();
    assert!(report["reason"].as_str().expect("a reason").starts_with(reason), "{report}");
    assert_eq!(report["seconds"], serde_json::json!({}));
    assert_eq!((&report["timeout"], &report["machine"]["cpus"]), (&240.0.into(), &4.into()));
    assert_eq!(
        (&report["machine"]["machine"], &report["machine"]["firmware"]),
        (&"raspi3b".into(), &().into())
    );
    assert_eq!(
        (bench.report("console.log"), bench.report("simulator.jsonl")),
        (String::new(), String::new())
    );
    for (arguments, said) in [
        (&["--cpus", "2"][..], "a Raspberry Pi 3 has 4 processors and 1G of memory"),
        (&["--accel", "kvm"], "KVM cannot run a Raspberry Pi 3"),
        (&["--secure-boot"], "a Raspberry Pi has no secure boot"),
        (&["--tpm"], "QEMU's Raspberry Pi 3 has no TPM"),
        (&["--rtc", "-3600"], "QEMU's Raspberry Pi 3 has no clock"),
        (&["--network-after", "9"], "QEMU's Raspberry Pi 3 has a network that is plugged in as a whole"),
    ] {
        assert_said(&bench.run("silent", arguments), 2, &[said, "hint: leave out"]);
    }
}

#[test]
fn boots_that_fail_end_at_once_and_say_why() {
    for (machine, reason) in [
        ("panics", "the kernel panicked: [    1.234567] Kernel panic - not syncing: VFS"),
        ("prompts", "the initramfs gave up and waits for a person"),
        (
            "refuses",
            "first boot refused the identity: certificate.pem and private-key.pem do not belong together",
        ),
        ("dies", "QEMU died (exit status: 3): qemu-system-x86_64: the bus is on fire"),
        ("restarts", "the machine switched itself off or started over"),
        ("stranger", "DPS answered 401 to a client without certificate for PUT /"),
    ] {
        let bench = Bench::new();
        let image = fs::read(bench.image()).expect("image");
        let began = Instant::now();
        let output = bench.run(machine, &[]);
        assert!(began.elapsed() < PATIENCE, "{machine} took {:?}", began.elapsed());
        assert_said(&output, 1, &[&format!("FAILED: {reason}")]);
        let report = bench.report_json();
        assert_eq!(report["provisioned"], false);
        assert!(report["reason"].as_str().expect("a reason").starts_with(reason), "{report}");
        assert!(report["seconds"]["firmware"].as_f64().is_some_and(|at| at < 30.0), "{report}");
        assert!(bench.report("junit.xml").contains("<failure message="));
        assert!(bench.report("console.log").lines().all(|line| line.starts_with('[')));
        assert!(bench.report("timeline.svg").contains("not provisioned"));
        assert!(fs::read(bench.image()).expect("image") == image, "{machine}: the image was written to");
    }
}

#[test]
fn a_silent_machine_runs_out_of_time() {
    let bench = Bench::new();
    let report = bench.path("elsewhere");
    let output = bench.run("silent", &["--timeout", "1", "--report", report.to_str().expect("path")]);
    assert_said(
        &output,
        1,
        &["FAILED: firmware (firmware starts the boot loader) did not come within 1 s; nothing"],
    );
    assert!(report.join("report.json").is_file() && !bench.path("image/test-report").exists());
}

#[test]
fn a_device_that_does_everything_but_wipe_its_key() {
    let bench = Bench::new();
    let output = bench.run("careless", &["--json"]);
    let mut report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let error = report.as_object_mut().and_then(|members| members.remove("error")).expect("it failed");
    assert_eq!((&error["kind"], &error["exit_code"]), (&"work".into(), &1.into()));
    assert_eq!(report, bench.report_json());
    assert_eq!((&report["provisioned"], &report["passed"]), (&true.into(), &false.into()), "{report:#}");
    assert_said(
        &output,
        1,
        &[
            "secrets-wiped: edgepress/certificate.pem, edgepress/private-key.pem are still on the FAT partition",
        ],
    );
    let seconds = report["seconds"].as_object().expect("seconds");
    assert_eq!(seconds.len(), 9, "{seconds:?}");
    let outcome = |name: &str| {
        let checks = report["checks"].as_array().expect("checks");
        let check = checks.iter().find(|check| check["name"] == name).expect("a check");
        check["outcome"].as_str().expect("an outcome").to_owned()
    };
    for name in ["image-unaltered", "image-as-built", "one-registration", "no-secret-told"] {
        assert_eq!(outcome(name), "passed", "{name}");
    }
    assert_eq!(outcome("root-grew"), "failed", "its root is not in the partition table");
    assert_no_key(&bench);
}

#[test]
fn a_key_on_the_console_gets_into_no_report() {
    let bench = Bench::new();
    assert_said(&bench.run("tells", &[]), 1, &["no-secret-told", "FAILED"]);
    assert!(bench.report("console.log").contains("private key was removed here"));
    assert_no_key(&bench);
}

/// Greps every file of the report for every line of the key.
fn assert_no_key(bench: &Bench) {
    let key = fs::read_to_string(bench.path("key.pem")).expect("the stand-in machine keeps the key");
    let lines: Vec<_> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(lines.len() >= 2, "{} lines", lines.len());
    for name in ["report.json", "junit.xml", "console.log", "simulator.jsonl", "timeline.svg"] {
        let text = bench.report(name);
        assert!(lines.iter().all(|line| !text.contains(line)), "{name} holds a piece of the key");
    }
}

#[test]
fn kept_on_demand() {
    let bench = Bench::new();
    let output = bench.command("dies", &["--keep"]).output().expect("edgepress");
    assert_said(&output, 1, &[]);
    let [kept] = &bench.leftovers()[..] else { panic!("{:?}", bench.leftovers()) };
    assert!(bench.path("tmp").join(kept).join("disk.qcow2").is_file());
}

/// Starts a test whose machine never ends, and sends edgepress (alone) a signal once the machine runs.
fn signalled(bench: &Bench, signal: Signal) -> Option<i32> {
    let mut command = bench.command("silent", &["--timeout", "600"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("edgepress");
    until("a machine", || machines(bench) > 0);
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("kill");
    let code = child.wait().expect("wait").code();
    until("no machine", || machines(bench) == 0);
    code
}

#[test]
fn a_killed_test_leaves_no_machine() {
    let bench = Bench::new();
    assert_eq!(signalled(&bench, Signal::SIGKILL), None);
}

#[test]
fn an_interrupted_test_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let bench = Bench::new();
        assert_eq!(signalled(&bench, signal), Some(130));
        assert_eq!(bench.leftovers(), Vec::<String>::new());
        assert!(!Path::new(&bench.path("image/test-report")).exists());
    }
}
