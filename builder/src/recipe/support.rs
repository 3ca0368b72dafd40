//! What exists in the world: releases of distributions, builds of the runtime, engines that fit it. Known offline, as of
//! Azure IoT Edge 1.6.0.

use super::types::{Distribution, DistributionId};

/// Releases that edgepress knows: the distribution, the release, its code name, and is the runtime built for it?
const RELEASES: [(DistributionId, &str, &str, bool); 8] = [
    (DistributionId::Debian, "11", "bullseye", false),
    (DistributionId::Debian, "12", "bookworm", true),
    (DistributionId::Debian, "13", "trixie", false),
    (DistributionId::Ubuntu, "22.04", "jammy", true),
    (DistributionId::Ubuntu, "24.04", "noble", true),
    (DistributionId::Ubuntu, "26.04", "resolute", false),
    // Raspberry Pi OS has no repository of its own: Debian's packages are used.
    (DistributionId::RaspberryPiOs, "12", "bookworm", true),
    (DistributionId::RaspberryPiOs, "13", "trixie", false),
];

/// For whom Microsoft builds the runtime, for messages.
pub(crate) const BUILT_FOR: &str =
    "Debian 12, Ubuntu 22.04 and Ubuntu 24.04 (each amd64 and arm64); Raspberry Pi OS 12 takes Debian's";

/// The distribution's name for people.
pub(crate) fn name(id: DistributionId) -> &'static str {
    match id {
        DistributionId::Debian => "Debian",
        DistributionId::Ubuntu => "Ubuntu",
        DistributionId::RaspberryPiOs => "Raspberry Pi OS",
    }
}

/// The code name of a release, if it is known.
pub(crate) fn codename(os: &Distribution) -> Option<&'static str> {
    release(os).map(|(codename, _)| codename)
}

/// Is there a build of the runtime for this release?
pub(crate) fn runtime_is_built_for(os: &Distribution) -> bool {
    release(os).is_some_and(|(_, built)| built)
}

fn release(os: &Distribution) -> Option<(&'static str, bool)> {
    let known = RELEASES.iter().find(|(id, release, ..)| *id == os.id && *release == os.release)?;
    Some((known.2, known.3))
}

/// The path of the release's tree at packages.microsoft.com, for example `debian/12`.
pub(crate) fn microsoft_tree(os: &Distribution) -> String {
    match os.id {
        DistributionId::Ubuntu => format!("ubuntu/{}", os.release),
        DistributionId::Debian | DistributionId::RaspberryPiOs => format!("debian/{}", os.release),
    }
}

/// The release line of a version: `1.6` of `1.6.0-1`. `None` where it does not begin so.
pub(crate) fn line(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The lowest Docker API version that an engine still answers, as far as it is higher than what every runtime speaks.
///
/// Engine 29.0 raised it to 1.44, and 29.3 lowered it to 1.40.
fn engine_minimum_api(engine: (u32, u32)) -> Option<(u32, u32)> {
    match engine {
        (29, 0..=2) => Some((1, 44)),
        (29.., _) => Some((1, 40)),
        _ => None,
    }
}

/// Why an engine of this version does not work with a runtime of this version, if it does not. Both are package
/// versions (`5:29.1.0-1~debian.12`, `1.6.0-1`) or release lines.
pub(crate) fn engine_problem(engine: &str, edge: &str) -> Option<String> {
    let upstream = engine.split_once(':').map_or(engine, |(_, version)| version);
    let minimum = engine_minimum_api(line(upstream)?)?;
    let speaks = match line(edge)? {
        (1, ..=5) => (1, 34),
        _ => (1, 41),
    };
    let text = |(major, minor)| format!("{major}.{minor}");
    (speaks < minimum).then(|| {
        format!(
            "the runtime {edge} speaks version {} of Docker's API, and the engine {upstream} answers {} and newer only",
            text(speaks),
            text(minimum)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{engine_problem, line, runtime_is_built_for};
    use crate::recipe::types::{Distribution, DistributionId};

    #[test]
    fn engines_that_fit() {
        for (engine, edge, fits) in [
            ("20.10.24+dfsg1-1", "1.6", true),
            ("28.5.1", "1.5.21-1", true),
            ("29.0.0", "1.6", false),
            ("5:29.2.1-1~debian.12", "1.6.0-1", false),
            ("29.3.0", "1.6", true),
            ("29.3.0", "1.5", false),
            ("30.1", "1.6", true),
            ("nonsense", "1.6", true),
            ("29.1", "stand-in", true),
        ] {
            assert_eq!(engine_problem(engine, edge).is_none(), fits, "{engine} {edge}");
        }
    }

    #[test]
    fn lines_of_versions() {
        for (version, expected) in
            [("1.6", Some((1, 6))), ("1.5.21-1", Some((1, 5))), ("1", None), ("", None)]
        {
            assert_eq!(line(version), expected, "{version}");
        }
    }

    #[test]
    fn builds_of_the_runtime() {
        let os = |id, release: &str| Distribution { id, release: release.into(), codename: String::new() };
        for (id, release, built) in [
            (DistributionId::Debian, "12", true),
            (DistributionId::Debian, "13", false),
            (DistributionId::Ubuntu, "24.04", true),
            (DistributionId::Ubuntu, "26.04", false),
            (DistributionId::Ubuntu, "25.10", false),
            (DistributionId::RaspberryPiOs, "12", true),
        ] {
            assert_eq!(runtime_is_built_for(&os(id, release)), built, "{id:?} {release}");
        }
    }
}
