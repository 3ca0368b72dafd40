//! What of its machine a module gets hold of by createOptions: private folders, devices, namespaces, rights.
//!
//! aziot-edged takes `Privileged` and `CapAdd` away where the recipe forbids privileged modules, and nothing of this.

use edgepress_base::finding::clean;

use super::Linter;
use super::rules::{
    DOCKER_SOCKET, HOST_NETWORK_REACH, HOST_RIGHTS, HOST_RIGHTS_FORBIDDEN, PRIVATE_PLACE,
    PRIVATE_PLACE_FORBIDDEN,
};
use crate::cursor::Cursor;
use crate::json::Value;
use crate::model::container::split_bind;
use crate::model::module::truth;
use crate::private;

/// Capabilities with which a container is not kept in (capabilities(7)): mounts, modules of the kernel, other processes'
/// memory, files by their handles, memory of the machine.
const CAPABILITIES: [&str; 7] =
    ["ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "DAC_READ_SEARCH", "BPF"];
/// The namespaces that a module can share, and what it gets hold of.
const NAMESPACES: [(&str, &str); 3] = [
    (
        "PidMode",
        "it sees all processes of the machine, what they were started with, and their files by /proc/PID/root",
    ),
    ("IpcMode", "it shares the memory that the machine's programs share"),
    ("UsernsMode", "its root is the machine's root, also where the engine gives modules another"),
];
const HINT: &str = "leave it out unless the module cannot do without, and trust its image as the machine itself: docs/identity.md, \
                    \"What modules can reach\"";

pub(super) fn rules(lint: &mut Linter<'_>, host: &Cursor<'_>) {
    for at in list(host, "Binds") {
        if let Some(bind) = at.node.as_str().and_then(split_bind) {
            shown(lint, &at, &bind.source);
        }
    }
    for at in list(host, "Mounts") {
        // A volume of the driver `local` is a bind where its options name a folder.
        let device = ["VolumeOptions", "DriverConfig", "Options", "device"];
        let device = device.into_iter().try_fold(at.clone(), |at, key| at.get_any_case(key));
        for source in [at.get_any_case("Source"), device].into_iter().flatten() {
            if let Some(text) = source.node.as_str() {
                shown(lint, &source, text);
            }
        }
    }
    devices(lint, host);
    namespaces(lint, host);
    rights(lint, host);
}

fn list<'a>(host: &Cursor<'a>, key: &str) -> Vec<Cursor<'a>> {
    host.get_any_case(key).into_iter().flat_map(|at| at.elements()).collect()
}

/// A path of the machine in a container; what has no slash is a volume's name.
fn shown(lint: &mut Linter<'_>, at: &Cursor<'_>, source: &str) {
    let Some((place, what)) = private::place(source).filter(|_| source.starts_with('/')) else { return };
    let forbidden = !lint.context.privileged_allowed;
    if private::is_engine_socket(source) && !forbidden {
        let message = "the container gets the engine's socket, and with it the device";
        return lint.hit(
            &DOCKER_SOCKET,
            at,
            message,
            "leave it out unless the module must manage containers",
        );
    }
    let rule = if forbidden { &PRIVATE_PLACE_FORBIDDEN } else { &PRIVATE_PLACE };
    let message = format!("the module is given `{}`, and with it {what} ({place})", clean(source));
    lint.hit(rule, at, message, "bind a folder of the module's own");
}

fn gets(lint: &mut Linter<'_>, at: &Cursor<'_>, message: String) {
    let rule = if lint.context.privileged_allowed { &HOST_RIGHTS } else { &HOST_RIGHTS_FORBIDDEN };
    lint.hit_key(rule, at, message, HINT);
}

fn devices(lint: &mut Linter<'_>, host: &Cursor<'_>) {
    for at in list(host, "Devices") {
        let path = at.get_any_case("PathOnHost").and_then(|at| at.node.as_str()).unwrap_or_default();
        if let Some(what) = private::device(path).filter(|_| path.starts_with('/')) {
            gets(lint, &at, format!("with `{}` the module has {what}", clean(path)));
        }
    }
    for at in list(host, "DeviceCgroupRules") {
        // `b` are block devices, `a` are all.
        if at.node.as_str().is_some_and(|rule| rule.trim_start().starts_with(['a', 'b'])) {
            gets(lint, &at, "the module may make itself devices for the machine's disks".into());
        }
    }
}

fn namespaces(lint: &mut Linter<'_>, host: &Cursor<'_>) {
    for (key, what) in NAMESPACES {
        if let Some(at) = host.get_any_case(key).filter(|at| at.node.as_str() == Some("host")) {
            gets(lint, &at, format!("the module is in the machine's own namespace: {what}"));
        }
    }
    if let Some(at) = host.get_any_case("NetworkMode").filter(|at| at.node.as_str() == Some("host")) {
        let message = "in the machine's own network the module gets around the firewall: on an Azure VM it is given tokens of \
                       the machine's identity (with Arc, if it sees /var/opt/azcmagent/tokens), and reads every secret that \
                       this may read";
        lint.hit_key(&HOST_NETWORK_REACH, &at, message, HINT);
    }
}

fn rights(lint: &mut Linter<'_>, host: &Cursor<'_>) {
    // Where they are forbidden, another rule says that they are taken away.
    if lint.context.privileged_allowed {
        let yes = |at: &Cursor<'_>| at.node.as_bool().or_else(|| truth(at.node.as_str()?)) == Some(true);
        if let Some(at) = host.get_any_case("Privileged").filter(yes) {
            gets(lint, &at, "a privileged module has all of the machine, and the device's key".into());
        }
        for at in list(host, "CapAdd") {
            let name = at.node.as_str().unwrap_or_default().to_ascii_uppercase();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            if CAPABILITIES.contains(&name) {
                gets(
                    lint,
                    &at,
                    format!("with the capability {name} nothing keeps the module in its container"),
                );
            }
        }
    }
    for at in list(host, "SecurityOpt") {
        let option = at.node.as_str().unwrap_or_default().to_ascii_lowercase();
        if let Some((what, "unconfined" | "disable")) = option.split_once(['=', ':']) {
            gets(lint, &at, format!("nothing of `{}` keeps the module from the machine", clean(what)));
        }
    }
    if let Some(at) = host
        .get_any_case("VolumesFrom")
        .filter(|at| matches!(&at.node.value, Value::Array(all) if !all.is_empty()))
    {
        let message =
            "the module sees all folders of another one, the socket by which that one signs among them";
        gets(lint, &at, message.into());
    }
}
