//! The boot chain of a UEFI image: the loaders on its EFI system partition, and where they look for the root.
//!
//! ```text
//! EFI/BOOT/BOOTX64.EFI (shim) ─► EFI/BOOT/grubx64.efi ─► EFI/<vendor>/grub.cfg: search.fs_uuid <root> root
//! ```
//! Which vendor is written in grub itself.
//!
//! Source: the UEFI specification 2.10, chapter 3.5.1.1 (names of the fallback loaders).

use super::config_folders;
use crate::board::files::Files;
use crate::board::loaders::Loaders;
use crate::finding::{Finding, clean};
use crate::units::Arch;
use crate::verdict::Check;

/// Fallback loader and grub of each architecture.
const NAMES: [(Arch, &str, &str); 2] =
    [(Arch::X86_64, "BOOTX64.EFI", "grubx64.efi"), (Arch::Aarch64, "BOOTAA64.EFI", "grubaa64.efi")];
const FOLDER: &str = "EFI/BOOT";
/// The first bytes of a program for EFI.
const PROGRAM: &[u8] = b"MZ";

/// Follows the chain; `roots` are the UUIDs of the image's ext4 file systems.
pub(super) fn judge(files: &dyn Files, arch: Option<Arch>, roots: &[String]) -> (Loaders, Check) {
    let mut loaders = Loaders::default();
    let fallback = |name: &str| format!("{FOLDER}/{name}");
    let names = NAMES.iter().filter(|(of, name, _)| match arch {
        Some(arch) => *of == arch,
        None => files.size(&fallback(name)).is_some(),
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        let message = format!("neither {FOLDER}/BOOTX64.EFI nor {FOLDER}/BOOTAA64.EFI is there");
        loaders.findings.push(Finding::error(message).hint("the package shim-signed brings the loader"));
        config(files, None, roots, &mut loaders);
    }
    for (_, loader, grub) in names {
        program(files, &fallback(loader), &mut loaders);
        let grub = program(files, &fallback(grub), &mut loaders);
        config(files, grub.as_deref(), roots, &mut loaders);
    }
    let verdict = loaders.verdict();
    (loaders, verdict)
}

/// A program, which must be there.
fn program(files: &dyn Files, path: &str, loaders: &mut Loaders) -> Option<Vec<u8>> {
    let bytes = files.read(path);
    if files.size(path).is_some() {
        loaders.files.push(path.to_owned());
    }
    let finding = match &bytes {
        None => Finding::error(format!("{path} is missing")).hint(
            "the packages shim-signed and grub-efi-amd64-signed (on aarch64 grub-efi-arm64-signed) bring the loaders",
        ),
        Some(bytes) if !bytes.starts_with(PROGRAM) => {
            Finding::error(format!("{path} is no program for EFI"))
        }
        Some(_) => return bytes,
    };
    loaders.findings.push(finding);
    bytes
}

/// Reads the configuration that `grub`, a program's bytes, takes: the first that is there where it names no folder.
fn config(files: &dyn Files, grub: Option<&[u8]>, roots: &[String], loaders: &mut Loaders) {
    let named = grub.map(config_folders).unwrap_or_default();
    let folders = match named.is_empty() {
        true => files.list("EFI").into_iter().map(|vendor| format!("EFI/{vendor}")).collect(),
        false => named.clone(),
    };
    let paths: Vec<_> = folders.iter().map(|folder| format!("{folder}/grub.cfg")).collect();
    let Some((path, bytes)) = paths.iter().find_map(|path| files.read(path).map(|bytes| (path, bytes)))
    else {
        let message = match named.is_empty() {
            true => "no folder of EFI/ has a grub.cfg: grub stops at its prompt".to_owned(),
            false => format!("grub finds no {} and stops at its prompt", paths.join(" or ")),
        };
        return loaders.findings.push(Finding::error(message).hint("it tells grub the root by UUID"));
    };
    let path = clean(path);
    if grub.is_some() && named.is_empty() {
        let message = format!("grub does not tell where it looks for grub.cfg; {path} is taken for it");
        loaders.findings.push(Finding::warning(message));
    }
    // Another architecture's grub took it already.
    if loaders.config.as_ref() == Some(&path) {
        return;
    }
    loaders.read_config(path, &bytes, roots);
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::disk::fat::FatFile;
    use crate::units::Arch;
    use crate::verdict::Outcome;

    const UUID: &str = "496e403c-81de-48e8-a48c-5de5248addec";

    fn files() -> Vec<FatFile> {
        let file = |path: &str, text: &str| FatFile { path: path.into(), content: text.into() };
        vec![
            file("EFI/BOOT/BOOTAA64.EFI", "MZ shim"),
            file("EFI/BOOT/grubaa64.efi", "MZ grub\0/EFI/debian\0"),
            file("EFI/debian/grub.cfg", &format!("search.fs_uuid {UUID} root\nconfigfile x\n")),
        ]
    }

    /// The first finding.
    fn said(files: &[FatFile], arch: Option<Arch>, root: &str) -> String {
        let (loaders, verdict) = judge(&files, arch, &[root.to_owned()]);
        assert_eq!(verdict.outcome == Outcome::Passed, loaders.findings.is_empty(), "{loaders:?}");
        loaders.findings.first().map_or_else(String::new, |finding| finding.message.clone())
    }

    #[test]
    fn a_sound_chain_and_what_breaks_it() {
        assert_eq!(said(&files(), None, UUID), "");
        assert_eq!(said(&files(), Some(Arch::Aarch64), UUID), "");
        assert_eq!(said(&files(), Some(Arch::X86_64), UUID), "EFI/BOOT/BOOTX64.EFI is missing");
        assert!(said(&files(), None, "0").ends_with("5de5248addec, and the image has 0"));
        let without = |at: usize| {
            let mut files = files();
            files.remove(at);
            said(&files, None, UUID)
        };
        assert!(without(0).starts_with("neither EFI/BOOT/BOOTX64.EFI nor"));
        assert_eq!(without(1), "EFI/BOOT/grubaa64.efi is missing");
        assert_eq!(without(2), "grub finds no EFI/debian/grub.cfg and stops at its prompt");
        let mut files = files();
        files[0].content = b"no program".to_vec();
        assert_eq!(said(&files, None, UUID), "EFI/BOOT/BOOTAA64.EFI is no program for EFI");
    }

    #[test]
    fn grub_tells_which_configuration_counts() {
        let mut files = files();
        // Another system's, which comes first in the list.
        let other = "search.fs_uuid 00000000-0000-4000-8000-000000000000 root\n";
        files.push(FatFile { path: "EFI/arch/grub.cfg".into(), content: other.into() });
        assert_eq!(said(&files, None, UUID), "");
        files.remove(2);
        assert_eq!(said(&files, None, UUID), "grub finds no EFI/debian/grub.cfg and stops at its prompt");
        // Debian's goes on to its own folder.
        files[1].content = b"MZ source $cmdpath/grub.cfg\0/EFI/debian\0".to_vec();
        let neither = "grub finds no EFI/debian/grub.cfg or EFI/BOOT/grub.cfg and stops at its prompt";
        assert_eq!(said(&files, None, UUID), neither);
        let beside = format!("search.fs_uuid {UUID} root\n");
        files.push(FatFile { path: "EFI/BOOT/grub.cfg".into(), content: beside.into() });
        assert_eq!(said(&files, None, UUID), "");
    }

    /// The verdict passes and says so, with this warning.
    fn untold(files: &[FatFile]) -> String {
        let (loaders, verdict) = judge(&files, None, &[UUID.to_owned()]);
        assert_eq!(verdict.outcome, Outcome::Passed);
        assert_eq!(verdict.detail, "the loaders are there; whether they find the root cannot be told");
        loaders.findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn no_more_is_claimed_than_is_known() {
        let mut files = files();
        files[2].content = b"search --label root\n".to_vec();
        assert_eq!(untold(&files), "EFI/debian/grub.cfg does not search for the root by UUID");
        files = self::files();
        files[1].content = b"MZ grub".to_vec();
        let message = "grub does not tell where it looks for grub.cfg; EFI/debian/grub.cfg is taken for it";
        assert_eq!(untold(&files), message);
        files[2].content = b"search.fs_uuid 00000000-0000-4000-8000-000000000000 root\n".to_vec();
        assert_eq!(judge(&&files[..], None, &[UUID.to_owned()]).1.outcome, Outcome::Failed);
    }
}
