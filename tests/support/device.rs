//! A device on the host: a root prefix with the first-boot script in it, and fake programs first on its PATH.
//!
//! Each fake appends one line to `calls` and then does the least that its caller looks at. `cut` holds the number of
//! the call before which the "power" goes: the fake kills the script's whole process group.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{CONFIG_TOML, project};

/// How long a test waits for a line, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

const FAKES: &[(&str, &str)] = &[
    (
        "iotedge",
        r#"[ -e "$W/apply-fails" ] && { echo "apply went wrong" >&2; exit 1; }
        [ -e "$W/apply-writes-nothing" ] || for s in keyd certd identityd tpmd edged; do
            [ ! -e "$EP_ROOT/etc/aziot/$s/config.d/00-super.toml" ] || { echo "asks docker" >&2; exit 1; }
            echo x >"$EP_ROOT/etc/aziot/$s/config.d/00-super.toml"
        done
        echo "Starting aziot-identityd.socket...Started!""#,
    ),
    (
        "systemctl",
        r#"case "$*" in
        "start --no-block boot-efi.mount") [ ! -e "$W/mounts" ] || cat "$W/mounts" >"$EP_ROOT/proc/mounts" ;;
        *time-sync*) [ -e "$W/time-sync" ] ;;
        *) [ ! -e "$W/edged-down" ] ;; esac"#,
    ),
    (
        "date",
        r#"case "$1" in
        -s) echo "${2#@}" >"$W/now" ;;
        +%s) if [ -e "$W/now" ]; then cat "$W/now"; else exec /bin/date +%s; fi ;;
        *) exec /bin/date "$@" ;;
        esac"#,
    ),
    (
        "curl",
        r#"case "$*" in *--unix-socket*) ;; *) exec /usr/bin/curl "$@" ;; esac
        while [ "$1" != --output ]; do shift; done
        if [ -e "$W/unassigned" ]; then cat "$W/unassigned" >"$2"; printf 500; exit; fi
        echo '{"type":"aziot","spec":{"hubName":"hub.example","deviceId":"x"}}' >"$2"; printf 200"#,
    ),
    ("journalctl", r#"[ ! -e "$W/journal" ] || cat "$W/journal""#),
    ("chown", ""),
    (
        "install",
        r#"[ ! -e "$W/full" ] || { echo "install: No space left on device" >&2; exit 1; }
        [ "$1" != -d ] || { shift; set -- "$@" -d; }
        shift 4 # the users and groups of the device are not here
        exec /usr/bin/install "$@""#,
    ),
    ("sync", ""),
    ("id", "echo 0"),
    ("docker", r#"[ "$1" != ps ] || echo c0ffee"#),
    ("stat", r#"[ "$1 $2" != "-c %U %a" ] || { cat "$W/owner"; exit; }; exec /usr/bin/stat "$@""#),
    ("mount", "exit 1"),
    ("getent", "exit 2"),
    ("update-ca-certificates", ""),
    (
        "mv",
        r#"[ ! -e "$W/read-only" ] || case "$*" in *"$(cat "$W/read-only")"*) exit 1 ;; esac
        exec /bin/mv "$@""#,
    ),
    ("ln", r#"exec /bin/ln "$@""#),
    ("rm", r#"exec /bin/rm "$@""#),
    ("cp", r#"exec /bin/cp "$@""#),
    ("dd", r#"exec /bin/dd "$@""#),
];

/// The overlay's folder of the script's parts.
pub fn library() -> PathBuf {
    project().join("overlays/base/usr/lib/edgepress")
}

/// The shells of this machine that the script must run under.
pub fn shells() -> Vec<Vec<String>> {
    let known: [&[&str]; 3] = [&["dash"], &["busybox", "sh"], &["bash", "--posix"]];
    let found: Vec<_> = known
        .into_iter()
        .filter_map(|shell| {
            let rest = shell[1..].iter().map(|word| (*word).to_owned());
            Some([which(shell[0])?.display().to_string()].into_iter().chain(rest).collect())
        })
        .collect();
    assert!(!found.is_empty(), "there is no shell to test with");
    found
}

/// What functions of the device's scripts say on standard output, which is the same under every shell, and with every awk of
/// this machine. `RUN` is an empty folder.
pub fn say_in_shells(parts: &[&str], text: &str, input: impl AsRef<[u8]>) -> String {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("input"), input).expect("input");
    let mut paths = vec!["/usr/bin:/bin".to_owned()];
    for (name, link) in [("busybox", "busybox-awk"), ("gawk", "gawk"), ("original-awk", "original-awk")] {
        if let Some(program) = which(name) {
            fs::create_dir(at(link)).expect("a folder");
            std::os::unix::fs::symlink(program, folder.path().join(link).join("awk")).expect("a link");
            paths.push(format!("{}:/usr/bin:/bin", at(link)));
        }
    }
    let mut said: Vec<String> = Vec::new();
    for (shell, path) in shells().iter().flat_map(|shell| paths.iter().map(move |path| (shell, path))) {
        let run = at("run");
        fs::remove_dir_all(&run).ok();
        fs::create_dir(&run).expect("a folder");
        let parts = parts.iter().map(|part| format!(". \"$EP_LIB/{part}.sh\"\n")).collect::<String>();
        let output = Command::new(&shell[0])
            .args(&shell[1..])
            .args(["-c", &format!("set -u\nRUN=\"$EP_RUN\"\n{parts}{text}")])
            .env_clear()
            .envs([("PATH", path.as_str()), ("LC_ALL", "C"), ("EP_ROOT", ""), ("EP_RUN", &run)])
            .envs([("EP_LIB", library())])
            .stdin(fs::File::open(at("input")).expect("input"))
            .output()
            .expect("the shell");
        said.push(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
        assert_eq!(said.last(), said.first(), "{shell:?} {path}");
    }
    said.swap_remove(0)
}

/// A program on the PATH.
fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").expect("PATH");
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A device before its first boot: FAT partition mounted, network and time there, no identity.
pub struct Device {
    folder: TempDir,
    shell: Vec<String>,
    /// Every secret that was given to the device, line by line.
    secrets: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Device {
    pub fn new() -> Self {
        Self::with_shell(vec!["sh".into()])
    }

    pub fn with_shell(shell: Vec<String>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let device = Self { folder, shell, secrets: Vec::new(), environment: Vec::new() };
        for service in ["keyd", "certd", "identityd", "tpmd", "edged"] {
            device.write(&format!("etc/aziot/{service}/config.d/.keep"), "");
        }
        for entry in fs::read_dir(library()).expect("the overlay") {
            let from = entry.expect("an entry").path();
            if from.extension().is_none_or(|ending| ending != "tera") {
                let name = from.file_name().expect("a name").to_str().expect("UTF-8");
                device.write(&format!("usr/lib/edgepress/{name}"), fs::read_to_string(&from).expect(name));
            }
        }
        device.constants("yes", 1_000_000_000);
        device.write("boot/efi/.keep", "");
        device.write("proc/mounts", "/dev/vda2 / ext4 rw 0 0\n/dev/vda1 /boot/efi vfat rw 0 0\n");
        device.write(
            "proc/net/route",
            "Iface Destination Gateway Flags\neth0 00000000 0202000A 0003 0 0 0 0\n",
        );
        device.write("proc/net/ipv6_route", "");
        device.write("proc/sys/kernel/hostname", "edge\n");
        device.write("run/systemd/timesync/synchronized", "");
        device.write("dev/console", "");
        device.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 edge\n");
        device.write("etc/hostname", "edge\n");
        device.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nedge:x:1000:1000::/home/edge:/bin/bash\n");
        device.write("home/edge/.keep", "");
        device.write("etc/ssl/certs/ca-certificates.crt", "the distribution's\n");
        device.write("etc/aziot/config.toml", CONFIG_TOML);
        device.install_fakes();
        device
    }

    fn install_fakes(&self) {
        for (name, body) in FAKES {
            let text = format!(
                "#!/bin/sh\nW=$EP_ROOT/world\necho \"{name} $*\" >>\"$W/calls\"\n\
                 [ ! -e \"$W/cut\" ] || [ \"$(/usr/bin/wc -l <\"$W/calls\")\" -lt \"$(/bin/cat \"$W/cut\")\" ] || kill -9 0\n\
                 {body}\n"
            );
            self.write(&format!("world/bin/{name}"), &text);
            let path = self.path(&format!("world/bin/{name}"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        // Debian keeps these here; a host with another layout shows up as a missing file.
        for tool in ["date", "mv", "ln", "rm", "cp", "dd", "cat"] {
            assert!(Path::new("/bin").join(tool).exists(), "/bin/{tool} is missing");
        }
        self.write("world/calls", "");
    }

    /// Writes first-boot.conf.
    pub fn constants(&self, overrides: &str, epoch: u64) {
        let text =
            format!("EP_USER='edge'\nEP_OVERRIDES={overrides}\nEP_EPOCH={epoch}\nEP_FAT_MOUNT='/boot/efi'\n");
        self.write("usr/lib/edgepress/first-boot.conf", &text);
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub fn write(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, bytes).expect(relative);
    }

    /// A file's text; empty when there is none.
    pub fn read(&self, relative: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(relative)).unwrap_or_default()).into_owned()
    }

    pub fn exists(&self, relative: &str) -> bool {
        self.path(relative).exists()
    }

    pub fn remove(&self, relative: &str) {
        fs::remove_file(self.path(relative)).expect(relative);
    }

    pub fn mode(&self, relative: &str) -> u32 {
        fs::metadata(self.path(relative)).expect(relative).permissions().mode() & 0o7777
    }

    /// Puts an identity on the FAT partition.
    pub fn give(&mut self, certificate: &str, key: &str) {
        self.secrets.extend(key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned));
        self.write("boot/efi/edgepress/certificate.pem", certificate);
        self.write("boot/efi/edgepress/private-key.pem", key);
    }

    /// Puts a file with a secret beside it.
    pub fn give_secret(&mut self, name: &str, text: &str) {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----") && !line.is_empty());
        self.secrets.extend(lines.map(str::to_owned));
        self.write(&format!("boot/efi/edgepress/{name}"), text);
    }

    /// Sets a variable of the script's environment.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// Puts name and key of a Wi-Fi network beside it.
    pub fn give_wifi(&mut self, ssid: &[u8], key: &str) {
        self.secrets.push(key.trim().to_owned());
        self.write("boot/efi/edgepress/wifi-ssid", ssid);
        self.write("boot/efi/edgepress/wifi-key", key);
    }

    /// Puts a registry's address, a user name and a password beside it; nothing of an empty one.
    pub fn give_registry(&mut self, address: &str, username: &str, password: &str) {
        for (name, text) in [("address", address), ("username", username), ("password", password)] {
            if !text.is_empty() {
                self.write(&format!("boot/efi/edgepress/registry-{name}"), text);
            }
        }
        self.secrets.extend(Some(password.trim().to_owned()).filter(|password| !password.is_empty()));
    }

    /// As an image that was made for Wi-Fi; `ssid` is the recipe's own network, in hexadecimal, or empty.
    pub fn made_for_wifi(&self, ssid: &str) {
        let text = format!("EP_WIFI_COUNTRY='DE'\nEP_WIFI_SSID='{ssid}'\nEP_WIFI_HIDDEN=no\n");
        self.write("usr/lib/edgepress/wifi.conf", text);
    }

    pub fn start(&self) -> Running<'_> {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("world/bin").display());
        let output =
            |name: &str| fs::File::options().create(true).append(true).open(self.path(name)).expect(name);
        let child = Command::new(&self.shell[0])
            .args(&self.shell[1..])
            .arg(self.path("usr/lib/edgepress/first-boot"))
            .env_clear()
            .envs([("PATH", path.as_str()), ("EP_PAUSE", "0.02")])
            .env("EP_ROOT", self.folder.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output("world/stdout"))
            .stderr(output("world/stderr"))
            .process_group(0)
            .spawn()
            .expect("the shell");
        Running { device: self, child }
    }

    /// Runs first boot to its end.
    pub fn run(&self) {
        let status = self.start().end();
        assert!(status.success(), "{status}\n{}", self.story());
    }

    pub fn console(&self) -> String {
        self.read("dev/console")
    }

    /// The status file.
    pub fn state(&self) -> serde_json::Value {
        let text = self.read("var/lib/edgepress/state");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("state is no JSON ({error}): {text:?}"))
    }

    /// The status file that needs no disk.
    pub fn live_state(&self) -> serde_json::Value {
        serde_json::from_str(&self.read("run/edgepress-state")).expect("the status is JSON")
    }

    /// Everything that was said, for a failed assertion.
    pub fn story(&self) -> String {
        let part = |name: &str| format!("--- {name}\n{}", self.read(name));
        ["dev/console", "world/stderr", "world/calls", "var/lib/edgepress/state"].map(part).join("\n")
    }

    /// No secret is in what was said, shown as an argument, or readable by others.
    pub fn assert_secrets_kept(&self) {
        assert!(!self.secrets.is_empty(), "the device was given no secret");
        for name in ["dev/console", "world/stdout", "world/stderr", "world/calls", "var/lib/edgepress/state"]
        {
            let text = self.read(name);
            for secret in &self.secrets {
                assert!(!text.contains(secret.as_str()), "{name} holds a part of a key");
            }
        }
    }
}

/// First boot at work; killed when dropped.
pub struct Running<'a> {
    device: &'a Device,
    child: Child,
}

impl Running<'_> {
    /// Waits until the console shows a text; fails when the script ends or takes too long.
    pub fn until(&mut self, text: &str) {
        let device = self.device;
        self.until_true(&format!("{text:?} on the console"), || device.console().contains(text));
    }

    /// Waits until something holds; fails when the script ends or takes too long.
    pub fn until_true(&mut self, what: &str, holds: impl Fn() -> bool) {
        let started = Instant::now();
        while !holds() {
            let ended = self.child.try_wait().expect("the child").is_some();
            assert!(!ended || holds(), "first boot ended before {what}\n{}", self.device.story());
            assert!(started.elapsed() < PATIENCE, "no {what}\n{}", self.device.story());
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end of the script.
    pub fn end(mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "first boot does not end\n{}", self.device.story());
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // The group: the script may be in the middle of a `sleep`.
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).ok();
        self.child.wait().ok();
    }
}
