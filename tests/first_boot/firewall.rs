//! The firewall that keeps containers from the machine's own identity, in namespaces of the host's kernel.
//!
//! ```text
//! platform                        device                              container
//! 169.254.169.254  10.60.0.1 ──── 10.60.0.4 ──┬─ br0 172.30.0.1 ───── 172.30.0.2
//! 168.63.129.16                   the rules   └─ br1 172.31.0.1 ───── 172.31.0.2   made when they are there
//! ```

use std::path::Path;
use std::process::{Command, Output};

use edgepress::recipe::types::Engine;
use serde_json::json;

use crate::support::project;

/// Wires the namespaces and tells, a line each, what came of asking. `$1` is the file with the rules.
const WORLD: &str = r#"
set -eu
rules=$1
mount -t tmpfs none /run
mkdir /run/ns
for ns in platform device first second; do
    : >/run/ns/$ns
    unshare --net=/run/ns/$ns true
done
inside() { ns=$1; shift; nsenter --net=/run/ns/$ns "$@"; }
for ns in platform device; do inside $ns ip link set lo up; done

inside device ip link add up0 type veth peer name eth0
inside device ip link set eth0 netns /run/ns/platform
inside platform sh -c '
    ip addr add 10.60.0.1/24 dev eth0 && ip addr add fd60::1/64 dev eth0 nodad && ip link set eth0 up
    for ip in 169.254.169.254/32 168.63.129.16/32 10.99.0.1/32; do ip addr add $ip dev lo; done
    for ip in fd00:ec2::254 fd20:ce::254 fd00:c1::a9fe:a9fe fd99::1; do ip addr add $ip/128 dev lo nodad; done
    ip route add 172.16.0.0/12 via 10.60.0.4 && ip route add fd30::/16 via fd60::4'
inside device sh -c '
    ip addr add 10.60.0.4/24 dev up0 && ip addr add fd60::4/64 dev up0 nodad && ip link set up0 up
    ip route add default via 10.60.0.1 && ip route add default via fd60::1
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'

# A bridge, and a container on it that would send what is for 127.0.0.1 to the machine, which would take it.
container() { # NAMESPACE BRIDGE PREFIX PREFIX6
    inside device sh -c "
        ip link add $2 type bridge && ip addr add $3.1/24 dev $2 && ip addr add $4::1/64 dev $2 nodad && ip link set $2 up
        ip link add $2-port type veth peer name eth0 && ip link set $2-port master $2 up
        ip link set eth0 netns /run/ns/$1
        echo 1 >/proc/sys/net/ipv4/conf/$2/route_localnet"
    inside $1 sh -c "
        ip addr add $3.2/24 dev eth0 && ip addr add $4::2/64 dev eth0 nodad && ip link set eth0 up
        ip route add default via $3.1 && ip route add default via $4::1
        echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
        ip route add 127.0.0.1/32 via $3.1"
}
# Link-local addresses are no senders until the kernel knows that nobody else has them.
settled() {
    for ns in platform device first second; do
        for _ in $(seq 200); do
            [ -n "$(inside $ns ip -6 addr show tentative)" ] || break
            sleep 0.1
        done
    done
}
container first br0 172.30.0 fd30
settled

serve() { ns=$1; shift; exec nsenter --net=/run/ns/$ns python3 -c "$SERVE" /run/$ns "$@"; }
serve platform 80 53 32526 443 & servers=$!
serve device 40342 5000 & servers="$servers $!"
serve first 8080 & servers="$servers $!"
trap 'kill $servers' EXIT
for name in platform device first; do
    for _ in $(seq 100); do [ ! -e /run/$name ] || break; sleep 0.1; done
done
ask() { # WHEN NAMESPACE TARGETS…
    who="$1 $2"; ns=$2; shift 2
    WHO=$who inside $ns python3 -c "$ASK" "$@"
}
from_container() {
    ask $1 $2 169.254.169.254,80 168.63.129.16,80 168.63.129.16,32526 168.63.129.16,53 10.99.0.1,443 10.60.0.4,5000 \
        10.60.0.4,40342 127.0.0.1,40342 fd00:ec2::254,80 fd20:ce::254,80 fd00:c1::a9fe:a9fe,80 fd99::1,443
}

ask before device 169.254.169.254,80
from_container before first
inside device nft -f "$rules"
inside device nft -f "$rules" # once more: what a reload does
# As an engine does it: chains of its own that let everything through, and are made anew.
inside device nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy accept; }
    add rule ip filter FORWARD accept; flush table ip filter; add rule ip filter FORWARD accept'
container second br1 172.31.0 fd30:1
settled
from_container after first
from_container after second
ask after device 169.254.169.254,80 168.63.129.16,80 127.0.0.1,40342
SOURCE=168.63.129.16 ask probe platform 172.30.0.2,8080
[ "$(cat /proc/self/uid_map | tr -s ' ')" = ' 0 0 4294967295' ] || exit 0
ACCOUNT=13622 ask person device 168.63.129.16,80 168.63.129.16,53
"#;

/// Answers on the ports on every address, until it is stopped or alone; the file that it makes tells that it does.
const SERVE: &str = r#"
import os, selectors, socket, sys
parent = os.getppid()
ready = selectors.DefaultSelector()
for port in sys.argv[2:]:
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    ready.register(listener, selectors.EVENT_READ)
open(sys.argv[1], "w").close()
while os.getppid() == parent:
    for key, _ in ready.select(1):
        key.fileobj.accept()[0].close()
"#;

/// Connects to each, as another account or from an address if one is named: `open`, `refused`, or `silent` after two seconds.
const ASK: &str = r#"
import encodings.idna, os, socket, sys
os.setuid(int(os.environ.get("ACCOUNT", "0")))
source = (os.environ["SOURCE"], 0) if "SOURCE" in os.environ else None
for target in sys.argv[1:]:
    host, port = target.split(",")
    try:
        socket.create_connection((host, int(port)), timeout=2, source_address=source).close()
        said = "open"
    except ConnectionRefusedError:
        said = "refused"
    except TimeoutError:
        said = "silent"
    print(f"{os.environ['WHO']} {target}: {said}", flush=True)
"#;

fn ruleset(engine: &Engine) -> String {
    let path = project().join("overlays/base/usr/lib/edgepress/firewall.nft.tera");
    let template = std::fs::read_to_string(path).expect("the template");
    let context = tera::Context::from_value(json!({"recipe": {"engine": engine}})).expect("a context");
    tera::Tera::one_off(&template, &context, false).expect("rendered")
}

fn world(rules: &Path) -> Output {
    // Root needs no user namespace, and can be another account in there.
    let mine = std::fs::metadata("/proc/self").expect("/proc");
    let root = std::os::unix::fs::MetadataExt::uid(&mine) == 0;
    let mut command = Command::new("unshare");
    command.args((!root).then_some("--map-root-user"));
    command.args(["--net", "--mount"]);
    command.args(["sh", "-c", WORLD, "sh"]).arg(rules).env("SERVE", SERVE).env("ASK", ASK);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").expect("PATH")));
    command.output().expect("unshare")
}

#[test]
fn containers_do_not_reach_the_identity_of_the_machine() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), ruleset(&Engine::default())).expect("write");
    let output = world(file.path());
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "nftables and iproute2 (ci/host-packages test)?\n{said}{errors}");
    let mut lines: Vec<&str> = said.lines().collect();
    let mut expect = |lines_of: &str, expected: &[(&str, &str)]| {
        for (to, outcome) in expected {
            let line = format!("{lines_of} {to}: {outcome}");
            let at = lines.iter().position(|found| *found == line);
            lines.remove(at.unwrap_or_else(|| panic!("no `{line}` in\n{said}{errors}")));
        }
    };
    let refused = ["169.254.169.254,80", "168.63.129.16,80", "168.63.129.16,32526", "10.60.0.4,40342"];
    let refused_6 = ["fd00:ec2::254,80", "fd20:ce::254,80", "fd00:c1::a9fe:a9fe,80"];
    let open = ["168.63.129.16,53", "10.99.0.1,443", "10.60.0.4,5000", "fd99::1,443"];
    for (who, kept) in [("before first", "open"), ("after first", "refused"), ("after second", "refused")] {
        expect(who, &refused.map(|to| (to, kept)));
        expect(who, &refused_6.map(|to| (to, kept)));
        expect(who, &[("127.0.0.1,40342", if kept == "open" { "open" } else { "silent" })]);
        expect(who, &open.map(|to| (to, "open")));
    }
    expect("before device", &[("169.254.169.254,80", "open")]);
    let own = ["169.254.169.254,80", "168.63.129.16,80", "127.0.0.1,40342"];
    expect("after device", &own.map(|to| (to, "open")));
    expect("probe platform", &[("172.30.0.2,8080", "open")]);
    if said.contains("person ") {
        expect("person device", &[("168.63.129.16,80", "refused"), ("168.63.129.16,53", "open")]);
    }
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_recipe_can_let_containers_ask() {
    let engine = Engine { metadata_access: true, ..Engine::default() };
    assert_eq!(ruleset(&engine), "", "an empty template is no file");
}
