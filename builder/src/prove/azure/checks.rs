//! What is looked at after an Azure VM went off: what its platform was told, and what its disk holds.

use anyhow::Result;
use serde_json::Value;

use super::Vm;
use crate::prove::root::Root;
use crate::sim::Service;
use crate::sim::log::{LogEntry, Mark};
use crate::verdict::Check;

/// Where cloud-init keeps what came of it; /run has links to these.
const RESULT: &str = "/var/lib/cloud/data/result.json";
const STATUS: &str = "/var/lib/cloud/data/status.json";
/// Where the stand-in's agent notes what came of asking the platform from its container: an address and a word, a line each.
const ASKED: &str = "/var/lib/edgepress/agent/asked";
/// The rules that keep containers from it (overlays/base); not there where the recipe lets them ask.
const RULES: &str = "/usr/lib/edgepress/firewall.nft";
/// cloud-init's stages, in order.
const STAGES: [&str; 4] = ["init-local", "init", "modules-config", "modules-final"];

/// The names of the checks, in the order of the report.
pub(crate) const NAMES: [&str; 7] = [
    "azure-ready",
    "azure-agent",
    "azure-identity",
    "cloud-init",
    "azure-hostname",
    "azure-account",
    "azure-containers",
];

/// Every check, by [`NAMES`]. The root's journal has been replayed.
///
/// # Errors
/// When the root cannot be read.
pub(crate) fn checks(
    vm: &Vm,
    registration_id: &str,
    entries: &[LogEntry],
    root: &Root,
) -> Result<Vec<Check>> {
    let read = |path: &str| Ok(String::from_utf8_lossy(&root.read(path)?).into_owned()) as Result<String>;
    Ok(vec![
        ready(entries),
        agent(entries),
        identity(registration_id, entries),
        cloud_init(&read(RESULT)?, &read(STATUS)?),
        hostname(vm, &read("/etc/hostname")?),
        account(vm, &read(&format!("/home/{}/.ssh/authorized_keys", vm.admin))?),
        containers(&read(ASKED)?, &read(RULES)?),
    ])
}

fn ready(entries: &[LogEntry]) -> Check {
    let seen = entries.iter().find(|entry| entry.mark == Some(Mark::VmReady));
    let bad = entries.iter().find(|entry| entry.note.starts_with("NotReady ProvisioningFailed"));
    match (bad, seen) {
        (Some(bad), _) => Check::new(NAMES[0], false, bad.note.clone()),
        (None, Some(seen)) => Check::new(NAMES[0], true, format!("told the wireserver: {}", seen.note)),
        (None, None) => {
            Check::new(NAMES[0], false, "cloud-init did not tell the wireserver that the VM is ready")
        }
    }
}

fn agent(entries: &[LogEntry]) -> Check {
    let seen = entries.iter().find(|entry| entry.mark == Some(Mark::AgentReady));
    let detail = seen.map_or_else(
        || "the agent did not tell the wireserver that it is ready".to_owned(),
        |entry| format!("told the wireserver: {}", entry.note),
    );
    Check::new(NAMES[1], seen.is_some(), detail)
}

/// A token of the VM's identity, a secret for it, a registration with that: in this order, all from this device.
fn identity(registration_id: &str, entries: &[LogEntry]) -> Check {
    let token = |entry: &LogEntry| {
        entry.service == Service::Metadata
            && entry.what.ends_with("/oauth2/token")
            && entry.status == Some(200)
    };
    let secret = |entry: &LogEntry| entry.mark == Some(Mark::SecretRead);
    let registered = |entry: &LogEntry| {
        entry.mark == Some(Mark::DpsRegistered) && entry.client.as_deref() == Some(registration_id)
    };
    let mut rest = entries.iter();
    let missing = if !rest.any(token) {
        "the metadata service gave no token"
    } else if !rest.any(secret) {
        "the vault gave no secret for a token"
    } else if !rest.any(registered) {
        "nobody registered with what was in the vault"
    } else {
        let detail = format!("{registration_id}, by the VM's own identity and its secret in the vault");
        return Check::new(NAMES[2], true, detail);
    };
    Check::new(NAMES[2], false, missing)
}

fn cloud_init(result: &str, status: &str) -> Check {
    let failed = |detail: String| Check::new(NAMES[3], false, detail);
    let (Ok(result), Ok(status)) =
        (serde_json::from_str::<Value>(result), serde_json::from_str::<Value>(status))
    else {
        return failed("cloud-init has not finished: its result is not on the disk".to_owned());
    };
    let errors = |of: &Value| -> Vec<String> {
        of["errors"].as_array().map_or_else(Vec::new, |all| all.iter().map(Value::to_string).collect())
    };
    let source = result["v1"]["datasource"].as_str().unwrap_or("none");
    let mut wrong = errors(&result["v1"]);
    for stage in STAGES {
        let of = &status["v1"][stage];
        wrong.extend(errors(of).into_iter().map(|error| format!("{stage}: {error}")));
        if !of["finished"].is_number() {
            wrong.push(format!("{stage} has not finished"));
        }
    }
    if !source.starts_with("DataSourceAzure") {
        wrong.push(format!("its source is {source}"));
    }
    match wrong.is_empty() {
        true => Check::new(NAMES[3], true, format!("done, without errors, from {source}")),
        false => failed(wrong.join("; ")),
    }
}

fn hostname(vm: &Vm, found: &str) -> Check {
    let found = found.trim();
    let detail = match found == vm.name {
        true => format!("{found}, the VM's name"),
        false => format!("it is `{found}`, the VM's name is {}", vm.name),
    };
    Check::new(NAMES[4], found == vm.name, detail)
}

fn account(vm: &Vm, keys: &str) -> Check {
    let has = keys.lines().any(|line| line.trim() == vm.key);
    let detail = match has {
        true => format!("{} has the key that the VM was ordered with", vm.admin),
        false => format!("{} has not the key that the VM was ordered with", vm.admin),
    };
    Check::new(NAMES[5], has, detail)
}

/// Is a container refused what the host's first boot was given?
fn containers(asked: &str, rules: &str) -> Check {
    let name = NAMES[6];
    if rules.is_empty() {
        return Check::skipped(name, "the recipe lets containers ask for the machine's identity");
    }
    if asked.is_empty() {
        return Check::skipped(
            name,
            "the agent's image is not one that tries to ask for the machine's identity",
        );
    }
    let wrong: Vec<&str> = asked.lines().filter(|line| !line.ends_with(" refused")).collect();
    match wrong.is_empty() {
        true => Check::new(name, true, "a container asked instance metadata and wireserver, and was refused"),
        false => Check::new(name, false, format!("a container was not refused: {}", wrong.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{account, agent, cloud_init, containers, hostname, identity, ready};
    use crate::prove::azure::Vm;
    use crate::sim::log::LogEntry;
    use crate::verdict::Outcome;

    fn entry(service: &str, what: &str, mark: Option<&str>, client: Option<&str>, note: &str) -> LogEntry {
        let mut value = json!({
            "seconds": 1.0, "time": "", "service": service, "peer": "10.0.2.15:1000", "what": what, "status": 200,
            "client": client, "note": note,
        });
        if let Some(mark) = mark {
            value["mark"] = mark.into();
        }
        serde_json::from_value(value).expect("an entry")
    }

    #[test]
    fn who_reported() {
        let vm =
            entry("wireserver", "POST /machine", Some("vm-ready"), None, "Ready, says Cloud-Init/22.4.2");
        let broken =
            entry("wireserver", "POST /machine", None, None, "NotReady ProvisioningFailed: x, says y");
        assert_eq!(ready(&[]).outcome, Outcome::Failed);
        assert_eq!(ready(std::slice::from_ref(&vm)).outcome, Outcome::Passed);
        assert_eq!(agent(std::slice::from_ref(&vm)).outcome, Outcome::Failed);
        let check = ready(&[vm, broken]);
        assert_eq!((check.outcome, check.detail.contains("ProvisioningFailed")), (Outcome::Failed, true));
        let own = entry("wireserver", "POST /machine", Some("agent-ready"), None, "Ready");
        assert_eq!(agent(&[own]).outcome, Outcome::Passed);
    }

    #[test]
    fn the_way_to_an_identity() {
        let all = [
            entry("metadata", "GET /metadata/identity/oauth2/token", None, None, ""),
            entry("vault", "GET /secrets/pump-7", Some("secret-read"), None, ""),
            entry("dps", "PUT /register", Some("dps-registered"), Some("pump-7"), ""),
        ];
        assert_eq!(identity("pump-7", &all).outcome, Outcome::Passed);
        assert_eq!(identity("pump-8", &all).outcome, Outcome::Failed);
        for left_out in 0..3 {
            let mut some = all.to_vec();
            some.remove(left_out);
            assert_eq!(identity("pump-7", &some).outcome, Outcome::Failed, "without {left_out}");
        }
        let mut swapped = all.to_vec();
        swapped.swap(0, 2);
        assert_eq!(identity("pump-7", &swapped).outcome, Outcome::Failed);
    }

    #[test]
    fn what_cloud_init_says() {
        let result = json!({"v1": {"datasource": "DataSourceAzure [seed=/dev/sr0]", "errors": []}});
        let stage = json!({"start": 1.0, "finished": 2.0, "errors": []});
        let status = json!({"v1": {
            "init-local": stage, "init": stage, "modules-config": stage, "modules-final": stage, "stage": null,
        }});
        let judge = |result: &serde_json::Value, status: &serde_json::Value| {
            cloud_init(&result.to_string(), &status.to_string())
        };
        assert_eq!(judge(&result, &status).outcome, Outcome::Passed);
        for (path, value, said) in [
            ("/v1/datasource", json!("DataSourceNone"), "its source is DataSourceNone"),
            ("/v1/errors", json!(["oh"]), "oh"),
        ] {
            let mut result = result.clone();
            *result.pointer_mut(path).expect(path) = value;
            assert!(judge(&result, &status).detail.contains(said));
        }
        for (path, value, said) in [
            ("/v1/init/errors", json!(["oh"]), "init: \"oh\""),
            ("/v1/modules-final/finished", json!(null), "modules-final has not finished"),
        ] {
            let mut status = status.clone();
            *status.pointer_mut(path).expect(path) = value;
            let check = judge(&result, &status);
            assert_eq!(
                (check.outcome, check.detail.contains(said)),
                (Outcome::Failed, true),
                "{}",
                check.detail
            );
        }
        assert_eq!(cloud_init("", "").outcome, Outcome::Failed);
    }

    #[test]
    fn name_and_account() {
        let vm = Vm::new("5f1c6f0a-9d3e-4b52-8a57-0c2d9e6b7a41");
        assert_eq!(hostname(&vm, "edgepress-test-5f1c6f0a\n").outcome, Outcome::Passed);
        assert_eq!(hostname(&vm, "edge\n").outcome, Outcome::Failed);
        assert_eq!(account(&vm, &format!("# keys\n{}\n", vm.key)).outcome, Outcome::Passed);
        assert_eq!(account(&vm, "").outcome, Outcome::Failed);
    }

    #[test]
    fn what_a_container_was_told() {
        let refused = "169.254.169.254 refused\n168.63.129.16 refused\n";
        assert_eq!(containers(refused, "table").outcome, Outcome::Passed);
        for told in ["answered", "wget: download timed out"] {
            let check = containers(&refused.replacen("refused", told, 1), "table");
            assert_eq!(check.outcome, Outcome::Failed, "{told}");
            assert!(check.detail.contains(&format!("169.254.169.254 {told}")), "{}", check.detail);
        }
        for (asked, rules, why) in [("", "table", "the agent's image"), ("x answered\n", "", "the recipe")] {
            let check = containers(asked, rules);
            assert_eq!(
                (check.outcome, check.detail.contains(why)),
                (Outcome::Skipped, true),
                "{}",
                check.detail
            );
        }
    }
}
