//! KVM where it can really run, else software emulation.

use std::fmt;
use std::fs;
use std::str::FromStr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::units::Arch;

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wanted {
    /// KVM if it works here, else TCG
    #[default]
    Auto,
    /// The processor's virtualisation
    Kvm,
    /// QEMU's software emulation
    Tcg,
}

/// What a machine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Accel {
    /// The processor's virtualisation.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        clap::ValueEnum::from_str(text, false)
    }
}

/// Chooses for a guest of `arch` on this host.
///
/// # Errors
/// When KVM is demanded and cannot run: says why.
pub(crate) fn choose(wanted: Wanted, arch: Arch) -> Result<Accel> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = fs::File::options().read(true).write(true).open("/dev/kvm").map(drop);
    decide(wanted, obstacle(arch, Arch::host(), &cpuinfo, device))
}

fn decide(wanted: Wanted, obstacle: Option<String>) -> Result<Accel> {
    match (wanted, obstacle) {
        (Wanted::Tcg, _) | (Wanted::Auto, Some(_)) => Ok(Accel::Tcg),
        (Wanted::Auto | Wanted::Kvm, None) => Ok(Accel::Kvm),
        (Wanted::Kvm, Some(why)) => Err(Problem::input(format!("KVM cannot run this image here: {why}"))
            .hint("leave out --accel, or say --accel tcg: software emulation works everywhere")
            .into()),
    }
}

/// Why KVM cannot run a guest, if so. On x86 a nested host may have a /dev/kvm that opens and yet runs no ordinary
/// guest: the processor's flags tell.
fn obstacle(guest: Arch, host: Arch, cpuinfo: &str, device: std::io::Result<()>) -> Option<String> {
    if guest != host {
        return Some(format!("the image is for {guest} and the host is {host}"));
    }
    let flagged = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    if host == Arch::X86_64 && !flagged {
        return Some("the processor's flags name neither vmx nor svm".into());
    }
    device.err().map(|error| format!("opening /dev/kvm: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::{Accel, Wanted, decide, obstacle};
    use crate::units::Arch::{Aarch64, X86_64};

    const PLAIN: &str = "processor\t: 0\nflags\t\t: fpu vme svmx avx\n";
    const VMX: &str = "processor\t: 0\nflags\t\t: fpu vmx avx\n";

    #[test]
    fn obstacles() {
        let denied = || Err(Error::from(ErrorKind::PermissionDenied));
        for (guest, host, cpuinfo, device, expected) in [
            (X86_64, X86_64, VMX, Ok(()), None),
            (X86_64, X86_64, PLAIN, Ok(()), Some("neither vmx nor svm")),
            (X86_64, X86_64, VMX, denied(), Some("/dev/kvm")),
            (Aarch64, X86_64, VMX, Ok(()), Some("for aarch64")),
            (Aarch64, Aarch64, "", Ok(()), None),
        ] {
            let found = obstacle(guest, host, cpuinfo, device);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }

    #[test]
    fn only_a_demand_fails() {
        let why = || Some("no".to_owned());
        assert_eq!(decide(Wanted::Auto, None).expect("kvm"), Accel::Kvm);
        assert_eq!(decide(Wanted::Auto, why()).expect("tcg"), Accel::Tcg);
        assert_eq!(decide(Wanted::Tcg, None).expect("tcg"), Accel::Tcg);
        assert!(decide(Wanted::Kvm, why()).is_err());
    }
}
