//! What every report of a device that came up provisioned must say.

use serde_json::Value;

/// Checks that no provisioned device may fail.
const CHECKS: [&str; 6] =
    ["image-unaltered", "image-as-built", "one-registration", "secrets-wiped", "root-grew", "no-secret-told"];

/// The milestones on the console, in order, and those that the simulators see.
const BOOT: [&str; 5] = ["firmware", "kernel", "userspace", "engine", "first-boot"];
const SERVICES: [&str; 4] = ["dps-registered", "dps-assigned", "agent-identity", "agent-running"];

/// The outcome of a check: `passed`, `failed` or `skipped`.
pub fn outcome<'a>(report: &'a Value, name: &str) -> &'a str {
    let all = report["checks"].as_array().expect("checks");
    let check = all.iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("{name}: {report:#}"))["outcome"].as_str().expect("outcome")
}

/// Every milestone within `limit` seconds, and every check passed.
pub fn assert_provisioned(report: &Value, limit: u32) {
    assert_eq!(report["provisioned"], true, "{report:#}");
    assert_eq!(report["reason"], Value::Null, "{report:#}");
    let seconds =
        |name: &str| report["seconds"][name].as_f64().unwrap_or_else(|| panic!("{name}: {report:#}"));
    // DPS may see the device before first boot says that it is done: those two are not compared.
    let (boot, services) = (BOOT.map(seconds), SERVICES.map(seconds));
    assert!(boot.iter().chain(&services).all(|at| (0.0..f64::from(limit)).contains(at)), "{report:#}");
    assert!(boot.is_sorted() && services.is_sorted(), "{report:#}");
    for name in CHECKS {
        assert_eq!(outcome(report, name), "passed", "{name}: {report:#}");
    }
}

/// Provisioned, and no check failed.
pub fn assert_passed(report: &Value) {
    assert_eq!((&report["provisioned"], &report["passed"]), (&true.into(), &true.into()), "{report:#}");
    assert_eq!(report["reason"], Value::Null, "{report:#}");
}
