//! Points on what is installed: kernel, initramfs, command line, mounts, cloud-init, the agent, packages.

use super::Disk;
use super::facts::{Inside, Kernel};
use crate::units::Arch;
use crate::verdict::Check;

/// The drivers of a VM's disks and network.
const DRIVERS: [&str; 4] = ["hv_vmbus", "hv_storvsc", "hv_netvsc", "nvme"];
/// The provisioning disk is a CD in UDF, the EFI system partition FAT.
const FILE_SYSTEMS: [(&str, &str); 2] = [("vfat", "CONFIG_VFAT_FS"), ("udf", "CONFIG_UDF_FS")];
/// Seconds that a root's disk may take to appear.
const ROOT_DELAY: u64 = 300;
/// The agent's package, at Debian and at Ubuntu.
const AGENT: [&str; 2] = ["waagent", "walinuxagent"];

/// The agent's unit, at Debian and Ubuntu, and as upstream has it.
const AGENT_UNITS: [&str; 2] = ["walinuxagent.service", "waagent.service"];
/// cloud-init's stages; `-main` and `-network` are those of version 24.3 and newer.
const CLOUD_INIT_UNITS: [&str; 8] = [
    "cloud-init-local.service",
    "cloud-init.service",
    "cloud-init-main.service",
    "cloud-init-network.service",
    "cloud-config.service",
    "cloud-config.target",
    "cloud-final.service",
    "cloud-init.target",
];

/// Every point on the software.
pub(super) fn points(inside: &Inside, disk: &Disk) -> Vec<Check> {
    let arch = disk.arch.unwrap_or(Arch::X86_64);
    vec![
        root_by_uuid(inside, disk),
        swap(inside),
        drivers(inside),
        file_systems(inside),
        console(inside, arch),
        root_delay(inside),
        cloud_init(inside),
        cloud_init_starts(inside),
        agent(inside),
        packages(inside),
    ]
}

fn root_by_uuid(inside: &Inside, disk: &Disk) -> Check {
    const NAME: &str = "root-by-uuid";
    let known =
        |ids: &[String], id: &str| ids.iter().any(|known| known.eq_ignore_ascii_case(id.trim_matches('"')));
    let named = |device: &str| match device.split_once('=') {
        Some(("UUID", uuid)) => known(&disk.roots, uuid),
        Some(("PARTUUID", uuid)) => known(&disk.partuuids, uuid),
        _ => false,
    };
    let mut faults = Vec::new();
    if inside.entries.is_empty() {
        faults.push("boot/grub/grub.cfg starts no kernel".to_owned());
    }
    for entry in &inside.entries {
        let root = entry.arguments.iter().find_map(|argument| argument.strip_prefix("root="));
        match root {
            Some(root) if named(root) => {}
            Some(root) => faults.push(format!("grub.cfg says root={}", clean(root))),
            None => faults.push("an entry of grub.cfg has no root=".into()),
        }
    }
    match inside.mounts.iter().find(|[_, at, _]| at == "/") {
        Some([device, ..]) if named(device) => {}
        Some([device, ..]) => faults.push(format!("fstab mounts {} on /", clean(device))),
        None => faults.push("fstab mounts nothing on /".into()),
    }
    faults.dedup();
    let hint = "name the root by its UUID, in /etc/fstab and in GRUB_CMDLINE_LINUX or the recipe's board";
    Check::of(NAME, &faults, "in grub.cfg and fstab", hint)
}

fn swap(inside: &Inside) -> Check {
    let mut faults: Vec<_> = inside
        .mounts
        .iter()
        .filter(|[_, _, kind]| kind == "swap")
        .map(|[device, ..]| format!("fstab swaps to {}", clean(device)))
        .collect();
    faults.extend(inside.swap_files.iter().map(|file| format!("{file} is there")));
    faults.extend(inside.swap_units.iter().map(|unit| format!("{} is enabled", clean(unit))));
    if switched_on(inside, "ResourceDisk.EnableSwap") {
        faults.push("waagent.conf has ResourceDisk.EnableSwap=y".into());
    }
    let hint = "remove it: the OS disk is no place for swap, and ResourceDisk.EnableSwap=n";
    Check::of("no-swap", &faults, "none in fstab, in files, in units, by the agent", hint)
}

fn drivers(inside: &Inside) -> Check {
    const NAME: &str = "initramfs";
    let faults = of_kernels(inside, |kernel| {
        let there = |driver: &str| {
            kernel.builtin.contains(driver)
                || kernel.initramfs.as_ref().is_ok_and(|files| files.has_module(driver))
        };
        let missing: Vec<_> = DRIVERS.into_iter().filter(|driver| !there(driver)).collect();
        match (&kernel.initramfs, missing.is_empty()) {
            (_, true) => None,
            (Err(why), false) => Some(format!("the initramfs cannot be read: {why}")),
            (Ok(_), false) => Some(format!("without {}", missing.join(", "))),
        }
    });
    let hint = "target.modules = [\"hv_vmbus\", \"hv_storvsc\", \"hv_netvsc\", \"nvme\"], or the same lines in \
               /etc/initramfs-tools/modules and update-initramfs -u";
    Check::of(NAME, &faults, format!("has {}, or the kernel has them built in", DRIVERS.join(", ")), hint)
}

fn file_systems(inside: &Inside) -> Check {
    let faults = of_kernels(inside, |kernel| {
        let there = |(module, option): (&str, &str)| {
            let config = kernel.config.as_deref().unwrap_or_default();
            let builtin = config.lines().any(|line| line == format!("{option}=y"));
            builtin || kernel.builtin.contains(module) || kernel.modules.contains(module)
        };
        let missing = FILE_SYSTEMS.into_iter().filter(|known| !there(*known)).map(|(module, _)| module);
        let missing: Vec<_> = missing.collect();
        (!missing.is_empty()).then(|| format!("without {}", missing.join(" and ")))
    });
    let hint = "install a kernel made for clouds: linux-image-cloud-amd64 (Debian), linux-azure (Ubuntu)";
    Check::of("kernel-file-systems", &faults, "vfat and udf", hint)
}

/// What is wrong, kernel by kernel.
fn of_kernels(inside: &Inside, fault: impl Fn(&Kernel) -> Option<String>) -> Vec<String> {
    if inside.kernels.is_empty() {
        return vec!["there is no kernel".into()];
    }
    let fault = |kernel| fault(kernel).map(|fault| format!("kernel {}: {fault}", clean(&kernel.version)));
    inside.kernels.iter().filter_map(fault).collect()
}

fn console(inside: &Inside, arch: Arch) -> Check {
    let (serial, wanted): (_, &[&str]) = match arch {
        Arch::X86_64 => ("ttyS0", &["console=tty1", "console=ttyS0,115200n8", "earlyprintk=ttyS0,115200"]),
        Arch::Aarch64 => ("ttyAMA0", &["console=tty1", "console=ttyAMA0,115200n8"]),
    };
    let mut faults = Vec::new();
    let Some(entry) = inside.entries.first() else {
        return Check::failed("command-line", "grub.cfg starts no kernel", "install grub");
    };
    for wanted in wanted {
        if !entry.arguments.iter().any(|argument| argument == wanted) {
            faults.push(format!("no {wanted}"));
        }
    }
    for unwanted in ["quiet", "rhgb", "crashkernel=auto"] {
        if entry.arguments.iter().any(|argument| argument == unwanted) {
            faults.push(format!("`{unwanted}` is there"));
        }
    }
    let hint = format!(
        "target.cmdline = {wanted:?}, or the same in GRUB_CMDLINE_LINUX and update-grub: Azure shows what goes to {serial}"
    );
    Check::of("command-line", &faults, wanted.join(" "), hint)
}

/// Either on the command line, or as the limit that initramfs-tools waits at most: with the argument it sleeps all of
/// that at each boot (its `init`, after "Loading essential drivers").
fn root_delay(inside: &Inside) -> Check {
    const NAME: &str = "rootdelay";
    let entry = inside.entries.first();
    let on_line = entry.and_then(|entry| {
        let arguments = entry.arguments.iter().rev();
        arguments
            .filter_map(|argument| argument.strip_prefix("rootdelay="))
            .find_map(|delay| delay.parse().ok())
    });
    if on_line.is_some_and(|delay: u64| delay >= ROOT_DELAY) {
        return Check::passed(NAME, "on the command line");
    }
    let of_kernel = |kernel: &Kernel| {
        let scripts = kernel.initramfs.as_ref().map(|files| files.scripts.as_str()).unwrap_or_default();
        let words = scripts.split(|c: char| c.is_whitespace() || "'\";".contains(c));
        words
            .filter_map(|word| word.strip_prefix("ROOTDELAY="))
            .any(|delay| delay.parse().is_ok_and(|delay: u64| delay >= ROOT_DELAY))
    };
    if !inside.kernels.is_empty() && inside.kernels.iter().all(of_kernel) {
        return Check::passed(NAME, "a script of the initramfs waits as long");
    }
    Check::failed(
        NAME,
        format!("a root's disk may take {ROOT_DELAY} s to appear, and nothing waits for it"),
        format!(
            "rootdelay={ROOT_DELAY} on the command line, or ROOTDELAY={ROOT_DELAY} in /conf/param.conf by a script of the initramfs"
        ),
    )
}

fn cloud_init(inside: &Inside) -> Check {
    const NAME: &str = "cloud-init";
    if !inside.packages.contains("cloud-init") {
        return Check::failed(NAME, "it is not installed", "install cloud-init");
    }
    // Alone: with a second source to choose from it looks for each, and None is what it is left with at the end.
    let only_azure =
        |list: &[String]| list.iter().map(String::as_str).filter(|source| *source != "None").eq(["Azure"]);
    let hint = "datasource_list: [ Azure ] in a file of /etc/cloud/cloud.cfg.d that sorts last: 99-azure.cfg, after the package's 90_dpkg.cfg";
    match &inside.sources {
        None => Check::failed(NAME, "no datasource_list: it would look for every cloud", hint),
        Some(list) if only_azure(list) => {
            Check::passed(NAME, format!("datasource_list: [ {} ]", clean(&list.join(", "))))
        }
        Some(list) => Check::failed(NAME, format!("datasource_list: [ {} ]", clean(&list.join(", "))), hint),
    }
}

/// What turns cloud-init off: the two ways that its cloud-init.target describes, and a mask.
fn cloud_init_starts(inside: &Inside) -> Check {
    const ARGUMENT: &str = "cloud-init=disabled";
    let mut faults = Vec::new();
    if inside.disabled {
        faults.push("/etc/cloud/cloud-init.disabled is there".to_owned());
    }
    let mut arguments = inside.entries.first().into_iter().flat_map(|entry| &entry.arguments);
    if arguments.any(|argument| argument == ARGUMENT) {
        faults.push(format!("the command line says {ARGUMENT}"));
    }
    faults.extend(masked(inside, &CLOUD_INIT_UNITS));
    let hint = "remove the file and the argument; systemctl unmask the unit: without cloud-init no VM gets its name and users";
    Check::of("cloud-init-starts", &faults, "nothing turns it off", hint)
}

/// Those of `units` that cannot be started.
fn masked<'a>(inside: &'a Inside, units: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    let masked = units.iter().filter(|unit| inside.masked.iter().any(|masked| masked == *unit));
    masked.map(|unit| format!("{unit} is masked"))
}

fn setting<'a>(inside: &'a Inside, name: &str) -> Option<&'a str> {
    inside.agent.as_ref()?.get(name).map(String::as_str)
}

/// As the agent's `get_switch` has it, whose default is off for what is asked here.
fn switched_on(inside: &Inside, name: &str) -> bool {
    setting(inside, name).is_some_and(|value| value.eq_ignore_ascii_case("y"))
}

fn agent(inside: &Inside) -> Check {
    const NAME: &str = "agent";
    if !AGENT.iter().any(|package| inside.packages.contains(*package)) {
        return Check::failed(NAME, "it is not installed", "install walinuxagent (Ubuntu), waagent (Debian)");
    }
    if inside.agent.is_none() {
        return Check::failed(NAME, "/etc/waagent.conf is not there", "install the agent's package again");
    }
    let mut faults = Vec::new();
    match setting(inside, "Provisioning.Agent") {
        // Without the line it is `auto`.
        None | Some("auto" | "cloud-init") => {}
        Some(other) => faults.push(format!("Provisioning.Agent={}", clean(other))),
    }
    if switched_on(inside, "ResourceDisk.Format") {
        faults.push("ResourceDisk.Format=y: that is cloud-init's".into());
    }
    faults.extend(masked(inside, &AGENT_UNITS));
    let hint = "in /etc/waagent.conf: Provisioning.Agent=auto, ResourceDisk.Format=n, ResourceDisk.EnableSwap=n; \
               systemctl unmask the unit";
    Check::of(NAME, &faults, "leaves provisioning and the resource disk to cloud-init", hint)
}

fn packages(inside: &Inside) -> Check {
    let is_ubuntu = inside.id == "ubuntu";
    let (mut faults, mut fixes) = (Vec::new(), Vec::new());
    let cloud = match inside.id.as_str() {
        "ubuntu" => Some(("-azure", "linux-azure")),
        "debian" => Some(("-cloud-", "linux-image-cloud-amd64 (or -arm64)")),
        _ => None,
    };
    if let Some((mark, package)) = cloud {
        let fault = "no package for clouds brings it";
        let other = |kernel: &Kernel| (!is_from(inside, kernel, mark)).then(|| fault.to_owned());
        faults.extend(of_kernels(inside, other));
        if !faults.is_empty() {
            fixes.push(format!("{package} as the only kernel"));
        }
    }
    let wanted = ["gdisk"].into_iter().chain(is_ubuntu.then_some("netplan.io"));
    for name in wanted.filter(|name| !inside.packages.contains(*name)) {
        faults.push(format!("no {name}"));
        fixes.push(name.to_owned());
    }
    Check::of("packages", &faults, "a kernel for clouds, gdisk", format!("install {}", fixes.join(", ")))
}

/// Is it a kernel with `mark` in its version, and from a package? `linux-image-6.1.0-18-cloud-amd64`; one that is not signed is
/// `linux-image-unsigned-…` at Ubuntu, `…-unsigned` at Debian. Headers and tools have the mark, too, and start nothing.
fn is_from(inside: &Inside, kernel: &Kernel, mark: &str) -> bool {
    let version = &kernel.version;
    let names = [
        format!("linux-image-{version}"),
        format!("linux-image-unsigned-{version}"),
        format!("linux-image-{version}-unsigned"),
    ];
    version.contains(mark) && names.iter().any(|name| inside.packages.contains(name))
}

/// Text of a file that anybody may have written.
fn clean(text: &str) -> String {
    crate::finding::clean(text)
}

#[cfg(test)]
mod tests {
    use super::points;
    use crate::inspect::grub::entries;
    use crate::inspect::preflight::disk;
    use crate::inspect::preflight::facts::{Inside, Kernel};
    use crate::inspect::preflight::initramfs::Initramfs;
    use crate::verdict::Outcome;

    const LINE: &str = "linux /vmlinuz root=UUID=1 console=tty1 console=ttyS0,115200n8 earlyprintk=ttyS0,115200 rootdelay=300";

    fn names(names: &[&str]) -> std::collections::BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Everything is right.
    fn inside() -> Inside {
        let files = ["hv_vmbus.ko", "hv_storvsc.ko", "hv_netvsc.ko"];
        let agent = [("Provisioning.Agent", "auto"), ("ResourceDisk.EnableSwap", "n")];
        Inside {
            entries: entries(LINE),
            mounts: vec![["UUID=1".into(), "/".into(), "ext4".into()]],
            swap_files: Vec::new(),
            swap_units: Vec::new(),
            masked: vec!["apt-daily.timer".into()],
            disabled: false,
            kernels: vec![Kernel {
                version: "6.1.0-18-cloud-amd64".into(),
                initramfs: Ok(Initramfs { names: names(&files), scripts: String::new() }),
                builtin: names(&["nvme"]),
                modules: names(&["udf"]),
                config: Some("CONFIG_VFAT_FS=y\n".into()),
            }],
            sources: Some(vec!["Azure".into()]),
            agent: Some(agent.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            packages: names(&["cloud-init", "waagent", "gdisk", "linux-image-6.1.0-18-cloud-amd64"]),
            id: "debian".into(),
        }
    }

    fn failed(change: impl Fn(&mut Inside)) -> Vec<String> {
        let mut inside = inside();
        change(&mut inside);
        let points = points(&inside, &disk::tests::disk());
        assert!(points.iter().all(|point| (point.outcome == Outcome::Failed) == point.hint.is_some()));
        points.into_iter().filter(|point| point.outcome == Outcome::Failed).map(|point| point.name).collect()
    }

    #[test]
    fn each_point_fails_by_itself() {
        assert_eq!(failed(|_| {}), [""; 0]);
        let line = |from: &'static str, to: &'static str| {
            move |inside: &mut Inside| inside.entries = entries(&LINE.replace(from, to))
        };
        assert_eq!(failed(line("UUID=1", "/dev/sda1")), ["root-by-uuid"]);
        assert_eq!(failed(line("UUID=1", "UUID=2")), ["root-by-uuid"]);
        assert_eq!(failed(line("UUID=1", "PARTUUID=1A2B-02")), [""; 0]);
        assert_eq!(failed(line("UUID=1", "PARTUUID=1a2b-01")), ["root-by-uuid"]);
        assert_eq!(failed(line("console=tty1", "quiet console=tty1")), ["command-line"]);
        assert_eq!(failed(line("earlyprintk", "x")), ["command-line"]);
        assert_eq!(failed(line("rootdelay=300", "rootdelay=30")), ["rootdelay"]);
        assert_eq!(failed(line("rootdelay", "cloud-init=disabled rootdelay")), ["cloud-init-starts"]);
        for device in ["/dev/sda1", "PARTUUID=2", "LABEL=1"] {
            assert_eq!(failed(|inside| inside.mounts[0][0] = device.into()), ["root-by-uuid"], "{device}");
        }
        assert_eq!(failed(|inside| inside.disabled = true), ["cloud-init-starts"]);
        for (unit, point) in [
            ("cloud-init-local.service", "cloud-init-starts"),
            ("cloud-init.target", "cloud-init-starts"),
            ("walinuxagent.service", "agent"),
        ] {
            assert_eq!(failed(|inside| inside.masked.push(unit.into())), [point], "{unit}");
        }
        assert_eq!(failed(|inside| inside.swap_units.push("var-swap.swap".into())), ["no-swap"]);
        assert_eq!(failed(|inside| inside.swap_files.push("/swapfile".into())), ["no-swap"]);
        assert_eq!(
            failed(|inside| inside.mounts.push(["UUID=3", "none", "swap"].map(str::to_owned))),
            ["no-swap"]
        );
        assert_eq!(failed(|inside| inside.kernels[0].builtin.clear()), ["initramfs"]);
        assert_eq!(failed(|inside| inside.kernels[0].initramfs = Err("lz4".into())), ["initramfs"]);
        assert_eq!(failed(|inside| inside.kernels[0].modules.clear()), ["kernel-file-systems"]);
        assert_eq!(failed(|inside| inside.kernels.clear()), ["initramfs", "kernel-file-systems", "packages"]);
        assert_eq!(failed(|inside| inside.sources = None), ["cloud-init"]);
        let sources = |sources: &'static [&'static str]| {
            failed(move |inside| {
                inside.sources = Some(sources.iter().map(|source| (*source).into()).collect());
            })
        };
        assert_eq!(sources(&["Azure", "None"]), [""; 0]);
        for wrong in [&["NoCloud"][..], &["None"], &["NoCloud", "Azure", "None"], &[]] {
            assert_eq!(sources(wrong), ["cloud-init"], "{wrong:?}");
        }
        for package in ["cloud-init", "waagent", "gdisk", "linux-image-6.1.0-18-cloud-amd64"] {
            let without = |inside: &mut Inside| assert!(inside.packages.remove(package));
            assert_eq!(failed(without).len(), 1, "{package}");
        }
        let agent = |name: &'static str, value: &'static str| {
            move |inside: &mut Inside| {
                inside.agent.as_mut().expect("settings").insert(name.into(), value.into());
            }
        };
        assert_eq!(failed(agent("Provisioning.Agent", "waagent")), ["agent"]);
        for on in ["y", "Y"] {
            assert_eq!(failed(agent("ResourceDisk.EnableSwap", on)), ["no-swap"]);
            assert_eq!(failed(agent("ResourceDisk.Format", on)), ["agent"]);
        }
        assert_eq!(failed(|inside| inside.agent.as_mut().expect("settings").clear()), [""; 0]);
    }

    #[test]
    fn the_kernel_that_boots_is_one_for_clouds() {
        let with = |id: &'static str, version: &'static str, package: &'static str| {
            move |inside: &mut Inside| {
                inside.id = id.into();
                inside.kernels[0].version = version.into();
                inside
                    .packages
                    .extend(["netplan.io", "linux-headers-6.8.0-1-azure", package].map(str::to_owned));
            }
        };
        for (id, version, package) in [
            ("ubuntu", "6.8.0-1-azure", "linux-image-6.8.0-1-azure"),
            ("ubuntu", "6.8.0-1-azure-fde", "linux-image-unsigned-6.8.0-1-azure-fde"),
            ("debian", "6.1.0-1-cloud-arm64", "linux-image-6.1.0-1-cloud-arm64-unsigned"),
            ("alma", "6.1.0", "gdisk"),
        ] {
            assert_eq!(failed(with(id, version, package)), [""; 0], "{version}");
        }
        for (id, version, package) in [
            ("ubuntu", "6.8.0-31-generic", "linux-image-6.8.0-31-generic"),
            ("ubuntu", "6.8.0-31-generic", "linux-image-6.8.0-1-azure"),
            ("ubuntu", "6.8.0-1-azure", "linux-modules-6.8.0-1-azure"),
            ("debian", "6.1.0-1-amd64", "linux-image-6.1.0-1-amd64"),
        ] {
            assert_eq!(failed(with(id, version, package)), ["packages"], "{version}");
        }
    }

    #[test]
    fn a_script_may_wait_instead() {
        let wait = |inside: &mut Inside| {
            inside.entries = entries(&LINE.replace("rootdelay=300", ""));
            if let Ok(files) = &mut inside.kernels[0].initramfs {
                files.scripts = "echo 'ROOTDELAY=300' >>/conf/param.conf\n".into();
            }
        };
        assert_eq!(failed(wait), [""; 0]);
    }
}
