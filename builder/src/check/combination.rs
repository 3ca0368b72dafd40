//! Does the combination of distribution, architecture, kernel, engine and runtime exist, and does the template of names
//! fit the board's?

use crate::board;
use crate::finding::Finding;
use crate::provisioning::source::DeviceSource;
use crate::provisioning::{apart, room};
use crate::recipe::Loaded;
use crate::recipe::support;
use crate::recipe::types::{CertificateSource, DistributionId, EdgeSource, VaultToken};

/// Where Microsoft's packages come from.
const MICROSOFT_HOST: &str = "packages.microsoft.com";
/// The registry's name of the agent, whose tags are releases.
const AGENT: &str = "mcr.microsoft.com/azureiotedge-agent";
/// What kernel packages are called in Debian, Ubuntu and Raspberry Pi OS.
const KERNELS: [&str; 8] = [
    "linux-image-",
    "linux-azure",
    "linux-virtual",
    "linux-generic",
    "linux-aws",
    "linux-gcp",
    "linux-kvm",
    "linux-raspi",
];

pub(super) fn check(loaded: &Loaded, findings: &mut Vec<Finding>) {
    distribution(loaded, findings);
    kernel(loaded, findings);
    engine(loaded, findings);
    metadata(loaded, findings);
    runtime(loaded, findings);
    source(loaded, findings);
    registration_id(loaded, findings);
    if loaded.recipe.edge.from == EdgeSource::Archive {
        microsoft_archive(loaded, findings);
    }
}

/// The certificate's source has what it needs, its values can be written into the device's files, and devices differ.
fn source(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let source = DeviceSource::of(&loaded.recipe.provisioning);
    let mut add = |found: Finding, what: &str| {
        let key = found.key.as_deref().unwrap_or_default();
        let outer = ["registration_id", "hostname"].contains(&key);
        let table = if outer { "provisioning" } else { "provisioning/certificate" };
        let message = format!("{what}`{}.{key}`: {}", table.replace('/', "."), found.message);
        let place = loaded.place(&format!("{table}/{key}"));
        findings.push(Finding { key: None, message, ..found }.at(place));
    };
    source.findings().into_iter().for_each(|found| add(found, "bad value for "));
    apart::alike(&source).into_iter().for_each(|found| add(found, ""));
}

/// The template of the registration id leaves its words the room that they need: nothing of it is cut later.
fn registration_id(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let source = DeviceSource::of(&loaded.recipe.provisioning);
    if let Some(short) = room::shortage(&source, loaded.recipe.target.board) {
        let message = format!("`provisioning.registration_id` is too long: {}", short.message);
        findings.push(Finding { message, ..short }.at(loaded.place("provisioning/registration_id")));
    }
}

fn distribution(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let os = &loaded.recipe.distribution;
    let name = format!("{} {}", support::name(os.id), os.release);
    let known = support::codename(os);
    if let Some(codename) = known.filter(|codename| *codename != os.codename) {
        let message = format!("{name} is called `{codename}`, not `{}`", os.codename);
        findings.push(Finding::error(message).at(loaded.place("distribution/codename")));
    }
    if support::runtime_is_built_for(os) {
        return suites(loaded, findings);
    }
    let place = loaded.place("distribution/release");
    let built = format!("it is built for {}", support::BUILT_FOR);
    findings.push(match loaded.recipe.edge.from {
        EdgeSource::Archive => {
            Finding::error(format!("there is no build of aziot-edge for {name}: {built}")).hint(
                "take one of those releases, or bring packages of your own: edge.from = \"packages\" and packages.debs",
            )
        }
        EdgeSource::Packages => Finding::warning(format!(
            "nobody builds aziot-edge for {name}: {built}, and packages made for another release may not install"
        )),
    }
    .at(place));
}

/// Some archive must have the distribution's own suite.
fn suites(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let codename = &recipe.distribution.codename;
    let mut suites = recipe.archives.values().flat_map(|archive| &archive.suites);
    if !suites.any(|suite| suite == codename) {
        let message = format!("no archive has the suite `{codename}`, which the base system comes from");
        findings.push(Finding::error(message).at(loaded.place("archives")));
    }
}

/// Is it the name of a kernel package, by what distributions call theirs?
pub(super) fn is_kernel(name: &str) -> bool {
    KERNELS.iter().any(|kernel| name.starts_with(kernel))
}

/// Raspberry Pi OS keeps one kernel for model 5 beside one for the others, under different names.
fn is_pair(kernels: &[&str]) -> bool {
    let of = |flavour: &str| kernels.iter().filter(|name| name.contains(flavour)).count();
    kernels.len() == 2 && of("-rpi-v8") == 1 && of("-rpi-2712") == 1
}

fn kernel(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let packages = &loaded.recipe.packages.install;
    let example = board::of(loaded.recipe.target.board).kernel(loaded.recipe.distribution.id);
    let kernels: Vec<&str> = packages.iter().map(String::as_str).filter(|name| is_kernel(name)).collect();
    let place = loaded.place("packages/install");
    match kernels[..] {
        [] => findings.push(
            Finding::error("no kernel is installed: `packages.install` names no kernel package")
                .hint(format!("for example {example}"))
                .at(place),
        ),
        [one] => kernel_architecture(loaded, one, findings),
        _ if is_pair(&kernels) => {}
        _ => findings.push(
            Finding::warning(format!("more than one kernel is installed: {}", kernels.join(", ")))
                .hint("each takes room on the disk, and the newest boots")
                .at(place),
        ),
    }
}

fn kernel_architecture(loaded: &Loaded, kernel: &str, findings: &mut Vec<Finding>) {
    let own = loaded.recipe.target.arch.debian();
    let name = kernel.split('=').next().unwrap_or(kernel);
    if let Some(other) = ["amd64", "arm64"].into_iter().find(|arch| *arch != own && name.ends_with(arch)) {
        let fitting = name.replace(other, own);
        let message = format!("the kernel `{name}` is for {other}, and the image for {own}");
        let at =
            loaded.recipe.packages.install.iter().position(|package| package == kernel).unwrap_or_default();
        let place = loaded.place(&format!("packages/install/{at}"));
        findings.push(Finding::error(message).hint(format!("install `{fitting}`")).at(place));
    }
}

fn engine(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let place = loaded.place("engine/packages");
    if recipe.engine.packages.is_empty() {
        let message = "no container engine: `engine.packages` is empty, and aziot-edge refuses to be installed without one";
        findings.push(
            Finding::error(message)
                .hint("[\"docker.io\"], or [\"moby-engine\", \"moby-cli\"] from Microsoft's archive")
                .at(place),
        );
        return;
    }
    let pinned = recipe.engine.packages.iter().filter_map(|package| package.split_once('='));
    let engines = pinned.filter(|(name, _)| ["docker.io", "moby-engine", "docker-ce"].contains(name));
    let mut known = false;
    for (name, version) in engines {
        known = true;
        if let Some(problem) = support::engine_problem(version, &recipe.edge.version) {
            let message = format!("`{name}` {version} does not work with the runtime: {problem}");
            let hint = "take an engine before 29.0, or with the runtime 1.6 one from 29.3 on";
            findings.push(Finding::error(message).hint(hint).at(place.clone()));
        }
    }
    // Debian 12 stays at 20.10; elsewhere the archive decides when the lock is made.
    let frozen = recipe.distribution.id == DistributionId::Debian && recipe.distribution.release == "12";
    let old = support::line(&recipe.edge.version).is_some_and(|line| line < (1, 6));
    let docker_io = recipe.engine.packages.iter().any(|name| name == "docker.io");
    if old && !known && !(frozen && docker_io) {
        let message = format!("the runtime {} does not work with engine 29 and newer", recipe.edge.version);
        findings.push(
            Finding::warning(message)
                .hint("pin an older engine (`moby-engine=VERSION`), or take the runtime 1.6")
                .at(place),
        );
    }
}

/// Containers that may be who the machine is, where what the machine is lets it read its key.
fn metadata(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let own = match &recipe.provisioning.certificate {
        CertificateSource::KeyVault { token: VaultToken::ManagedIdentity, .. } => "the VM's identity",
        CertificateSource::KeyVault { token: VaultToken::Arc, .. } => "Azure Arc",
        _ => return,
    };
    if recipe.engine.metadata_access {
        let message = format!(
            "every module can read the device's key: it comes from the vault by {own}, and containers may ask for its tokens"
        );
        let hint =
            "leave `engine.metadata_access` out, or take the certificate from elsewhere (docs/identity.md)";
        let place = loaded.place("engine/metadata_access");
        findings.push(Finding::warning(message).hint(hint).at(place));
    }
}

fn runtime(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let edge = &loaded.recipe.edge;
    let place = loaded.place("edge/version");
    match support::line(&edge.version) {
        Some((1, 6)) => {}
        Some((1, 5)) => findings.push(
            Finding::warning("the support of Azure IoT Edge 1.5 ended in November 2026")
                .hint("take 1.6, which is supported until November 2028")
                .at(place),
        ),
        _ if edge.from == EdgeSource::Packages => {}
        Some(line) if line < (1, 5) => {
            let message =
                format!("the runtime {} is no longer supported, and is not in the archive", edge.version);
            findings.push(Finding::error(message).hint("take 1.6").at(place));
        }
        _ => {
            let message = format!("the runtime {} is not known to edgepress", edge.version);
            findings.push(Finding::warning(message).hint("1.6 is").at(place));
        }
    }
    agent_tag(loaded, findings);
}

fn agent_tag(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let edge = &loaded.recipe.edge;
    let Some((AGENT, tag)) = edge.agent_image.rsplit_once(':') else { return };
    let (Some(agent), Some(runtime)) = (tag_line(tag), support::line(&edge.version)) else { return };
    if agent != runtime {
        let message = format!("the agent's image has the tag `{tag}`, and the runtime is {}", edge.version);
        findings.push(
            Finding::warning(message)
                .hint("the agent of another release line is not tested with the runtime: take the same")
                .at(loaded.place("edge/agent_image")),
        );
    }
}

/// Tags are `1.6.1`, or `1.6` for the newest of a line.
fn tag_line(tag: &str) -> Option<(u32, u32)> {
    tag.starts_with(|c: char| c.is_ascii_digit()).then(|| support::line(tag)).flatten()
}

/// The runtime comes from an archive: one of them should be Microsoft's, for this release.
fn microsoft_archive(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let recipe = &loaded.recipe;
    let tree = support::microsoft_tree(&recipe.distribution);
    let microsoft: Vec<_> = recipe
        .archives
        .iter()
        .filter(|(role, archive)| role.contains("microsoft") || archive.url.contains(MICROSOFT_HOST))
        .collect();
    if microsoft.is_empty() {
        let url = format!("https://{MICROSOFT_HOST}/{tree}/prod");
        let message = "`edge.from` is \"archive\", and no archive has the runtime";
        findings.push(
            Finding::warning(message)
                .hint(format!("add [archives.microsoft] with url = \"{url}\""))
                .at(loaded.place("archives")),
        );
    }
    for (role, archive) in microsoft {
        if archive.url.contains(MICROSOFT_HOST) && !archive.url.contains(&format!("/{tree}/")) {
            let message = format!("the archive `{role}` is made for another release: {}", archive.url);
            findings.push(
                Finding::error(message)
                    .expected(format!("an address with /{tree}/prod"))
                    .at(loaded.place(&format!("archives/{role}/url"))),
            );
        }
    }
}
