//! The boot chain of a BIOS image: boot sector, core image, and where that looks for the root.
//!
//! ```text
//! sector 0 ─► core image ─► FAT: grub/grub.cfg: search.fs_uuid <root> root
//! ```

use super::embedding::{self, Embedded};
use crate::board::Evidence;
use crate::board::loaders::Loaders;
use crate::finding::{Finding, clean};
use crate::units::Arch;
use crate::verdict::Check;

/// Follows the chain.
pub(super) fn judge(evidence: &Evidence<'_>) -> (Loaders, Check) {
    let mut loaders = Loaders::default();
    if evidence.arch.is_some_and(|arch| arch != Arch::X86_64) {
        loaders.findings.push(Finding::error("only PCs have a BIOS, and the image is for another processor"));
    }
    match embedding::read(evidence.head) {
        Err(why) => {
            let hint =
                "write the image again, from its first byte to its last; if it is whole, build it again";
            loaders.findings.push(Finding::error(why).hint(hint));
        }
        Ok(found) => {
            loaders.files = vec![
                "boot sector (grub)".into(),
                format!("core image of {} sectors at sector {}", found.sectors, found.first),
            ];
            config(evidence, &found, &mut loaders);
        }
    }
    let verdict = loaders.verdict();
    (loaders, verdict)
}

/// Reads the configuration that the core image takes.
fn config(evidence: &Evidence<'_>, found: &Embedded, loaders: &mut Loaders) {
    let prefix = found.prefix.as_deref().unwrap_or_default();
    // `(,msdos1)/grub`: on the drive that the BIOS started, its first partition, which is the FAT partition.
    let Some(folder) = prefix.strip_prefix(super::FAT_DEVICE).and_then(|rest| rest.strip_prefix('/')) else {
        let message = format!("grub looks for grub.cfg in `{}`, which is not read here", clean(prefix));
        return loaders.findings.push(Finding::warning(message));
    };
    let path = format!("{folder}/grub.cfg");
    match evidence.files.read(&path) {
        Some(bytes) => loaders.read_config(clean(&path), &bytes, evidence.roots),
        None => {
            let message = format!("grub finds no {} and stops at its prompt", clean(&path));
            loaders.findings.push(Finding::error(message).hint("it tells grub the root by UUID"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::board::bios::embedding::embed;
    use crate::board::bios::embedding::tests::{boot, core, head};
    use crate::board::{Evidence, recognised};
    use crate::disk::fat::FatFile;
    use crate::recipe::types::Board;
    use crate::units::Arch;
    use crate::verdict::Outcome;

    const UUID: &str = "496e403c-81de-48e8-a48c-5de5248addec";

    fn stub() -> Vec<FatFile> {
        let content = format!("search.fs_uuid {UUID} root\nconfigfile x\n").into_bytes();
        vec![FatFile { path: "grub/grub.cfg".into(), content }]
    }

    fn said(files: &[FatFile], head: &[u8], arch: Option<Arch>) -> (Outcome, String) {
        let roots = [UUID.to_owned()];
        let evidence = Evidence { files: &files, head, arch, root: None, roots: &roots, models: &[] };
        assert_eq!(recognised(&evidence), head.starts_with(&boot()[..8]).then_some(Board::Bios));
        let (loaders, verdict) = judge(&evidence);
        let first = loaders.findings.first().map_or_else(String::new, |finding| finding.message.clone());
        (verdict.outcome, first)
    }

    #[test]
    fn a_sound_chain_and_what_breaks_it() {
        let good = head(&embed(&boot(), &core("(,msdos1)/grub")).expect("embeds"));
        assert_eq!(said(&stub(), &good, None), (Outcome::Passed, String::new()));
        assert_eq!(said(&stub(), &good, Some(Arch::Aarch64)).0, Outcome::Failed);
        let (outcome, message) = said(&[], &good, Some(Arch::X86_64));
        assert_eq!(
            (outcome, message.as_str()),
            (Outcome::Failed, "grub finds no grub/grub.cfg and stops at its prompt")
        );
        let (outcome, message) = said(&stub(), &vec![0; 1 << 20], None);
        assert_eq!(
            (outcome, message.as_str()),
            (Outcome::Failed, "the first sector holds no boot loader of grub's")
        );
        let elsewhere = head(&embed(&boot(), &core("(,gpt2)/boot/grub")).expect("embeds"));
        let (outcome, message) = said(&stub(), &elsewhere, None);
        assert_eq!(
            (outcome, message.starts_with("grub looks for grub.cfg in `(,gpt2)")),
            (Outcome::Passed, true)
        );
    }
}
