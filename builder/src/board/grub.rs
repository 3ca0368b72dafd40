//! grub on a PC, whichever firmware starts it: its menu, what hands over to that, and the mounts.
//!
//! ```text
//! FAT: grub.cfg (finds the root by UUID) ─► root: /boot/grub/grub.cfg ─► kernel
//!         └─ holds a copy of that menu
//! ```
//! Kernel updates on the device need no new configuration: the menu names the links that Debian (`/vmlinuz`) and
//! Ubuntu (`/boot/vmlinuz`) keep at the newest kernel. Where the package grub2-common is installed, its kernel hook
//! writes /boot/grub/grub.cfg anew all the same; `/etc/grub.d/01_edgepress` puts the same menu into that one.

use anyhow::Result;

use super::file;
use crate::disk::ids::Ids;
use crate::recipe::types::Recipe;
use crate::tree::entry::TreeEntry;
use crate::units::Arch;

/// The FAT partition's `grub.cfg`: hands over to the root's own menu, and holds a copy of it for the day when that one is
/// cut short by a power failure.
///
/// # Errors
/// As [`root_files`].
pub(super) fn stub(recipe: &Recipe, ids: &Ids) -> Result<String> {
    Ok(format!(
        "\
search.fs_uuid {root} root
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg

# Only reached when that file is missing or holds no menu.
set timeout=0
{menu}",
        root = ids.root,
        menu = menu(recipe, ids)?,
    ))
}

/// Files of the root: mounts and menu, with the FAT partition at `fat_mount`. They must be in the tree before it becomes a
/// file system.
///
/// # Errors
/// A [`crate::error::Problem`] when an argument of the kernel's command line cannot be written into a boot menu.
pub(super) fn root_files(recipe: &Recipe, ids: &Ids, fat_mount: &str) -> Result<Vec<TreeEntry>> {
    let menu = menu(recipe, ids)?;
    Ok(vec![
        file("/etc/fstab", 0o644, fstab(ids, fat_mount)),
        file("/boot/grub/grub.cfg", 0o644, format!("# Written by edgepress.\nset timeout=0\n{menu}")),
        file(
            "/etc/grub.d/01_edgepress",
            0o755,
            format!(
                "#!/bin/sh\n# Written by edgepress: the menu of the golden image.\nexec tail -n +4 \"$0\"\n{menu}"
            ),
        ),
        file("/etc/default/grub.d/edgepress.cfg", 0o644, defaults(recipe)?),
    ])
}

fn fstab(ids: &Ids, fat_mount: &str) -> String {
    format!(
        "\
# device\tmount point\ttype\toptions\tdump\tcheck
UUID={root}\t/\text4\tnoatime,errors=remount-ro\t0\t1
UUID={fat}\t{fat_mount}\tvfat\tumask=0077,nosuid,nodev,noexec,flush,nofail\t0\t2
",
        root = ids.root,
        fat = ids.fat,
    )
}

/// The menu: newest kernel, the one before, restart. An unattended device tries them in this order (an entry that boots
/// nothing falls through to the next) and never waits for a key.
///
/// A kernel package points the link at a new kernel before that has its initramfs. A power cut in between must boot the
/// old one: grub starts a kernel whose `initrd` failed, hence the test first.
fn menu(recipe: &Recipe, ids: &Ids) -> Result<String> {
    let arguments = command_line(recipe)?;
    let root = ids.root;
    let entry = |title: &str, suffix: &str| {
        format!(
            "\
menuentry '{title}' {{
\tif [ -s ${{links}}vmlinuz{suffix} -a -s ${{links}}initrd.img{suffix} ]; then
\t\tlinux ${{links}}vmlinuz{suffix} root=UUID={root} ro {arguments}
\t\tinitrd ${{links}}initrd.img{suffix}
\tfi
}}
"
        )
    };
    Ok(format!(
        "\
set default=0
set fallback=\"1 2\"
search.fs_uuid {root} root
set links=($root)/
if [ -s ($root)/boot/vmlinuz -o -s ($root)/boot/vmlinuz.old ]; then set links=($root)/boot/; fi
export links
{}{}menuentry 'restart' {{
\tsleep 10
\treboot
}}
",
        entry("edgepress", ""),
        entry("edgepress, the kernel before", ".old")
    ))
}

/// Settings for when grub-mkconfig runs on the device (grub2-common's kernel hook): as static as the menu above, no
/// graphics to wait for, no menu after a boot that failed.
fn defaults(recipe: &Recipe) -> Result<String> {
    Ok(format!(
        "\
# Written by edgepress: what grub-mkconfig makes on the device boots as the golden image does.
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_TIMEOUT_STYLE=hidden
GRUB_RECORDFAIL_TIMEOUT=0
GRUB_TERMINAL=console
GRUB_DISABLE_OS_PROBER=true
GRUB_CMDLINE_LINUX=\"{}\"
GRUB_CMDLINE_LINUX_DEFAULT=\"\"
",
        command_line(recipe)?
    ))
}

/// The kernel's arguments but for the root. The last console is /dev/console: what a machine without a screen says. A recipe
/// that names consoles has those and no others.
/// `panic`: restarts after a panic, and keeps the initramfs from offering a root shell when the root does not appear.
/// No `rootwait`: the initramfs waits by itself, and a kernel without one, which cannot find a UUID, would wait for ever.
fn command_line(recipe: &Recipe) -> Result<String> {
    let serial = match recipe.target.arch {
        Arch::X86_64 => "console=ttyS0,115200",
        Arch::Aarch64 => "console=ttyAMA0,115200",
    };
    let own = super::own_arguments(recipe)?;
    let mut arguments = vec!["panic=30"];
    if !own.iter().any(|argument| argument.starts_with("console=")) {
        arguments.extend(["console=tty0", serial]);
    }
    arguments.extend(own);
    Ok(arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use super::root_files;
    use crate::board::uefi::tests::recipe;
    use crate::disk::ids::Ids;
    use crate::host;
    use crate::tree::entry::{EntryKind, TreeEntry};
    use crate::units::Digest;
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    fn ids() -> Ids {
        Ids::from_seed(&Digest::of("board"))
    }

    fn text(entries: &[TreeEntry], path: &str) -> String {
        match entries.iter().find(|entry| entry.path == Path::new(path)).map(|entry| &entry.kind) {
            Some(EntryKind::File(content)) => String::from_utf8(content.clone()).expect("text"),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn consoles_of_a_recipe_take_the_place_of_the_board_s() {
        let line = |cmdline: &[&str]| {
            let mut recipe = recipe();
            recipe.target.cmdline = cmdline.iter().map(ToString::to_string).collect();
            super::command_line(&recipe).expect("a line")
        };
        assert_eq!(line(&["a=b"]), "panic=30 console=tty0 console=ttyS0,115200 a=b");
        assert_eq!(line(&["console=tty1", "a=b"]), "panic=30 console=tty1 a=b");
    }

    #[test]
    fn files_of_the_root() {
        let mut recipe = recipe();
        recipe.target.cmdline = vec!["audit=0".into()];
        let entries = root_files(&recipe, &ids(), "/boot/efi").expect("files");
        let root = ids().root.to_string();
        let fstab = text(&entries, "/etc/fstab");
        assert!(
            fstab.contains(&format!("UUID={root}\t/\text4\tnoatime,errors=remount-ro\t0\t1\n")),
            "{fstab}"
        );
        assert!(fstab.contains(&format!("UUID={}\t/boot/efi\tvfat\t", ids().fat)), "{fstab}");
        let line = "root=UUID=ROOT ro panic=30 console=tty0 console=ttyS0,115200 audit=0\n";
        let menu = text(&entries, "/boot/grub/grub.cfg");
        assert_eq!(menu.matches(&line.replace("ROOT", &root)).count(), 2, "{menu}");
        let defaults = text(&entries, "/etc/default/grub.d/edgepress.cfg");
        assert!(defaults.contains("GRUB_CMDLINE_LINUX=\"panic=30 console=tty0"), "{defaults}");
        for shell in ["/etc/grub.d/01_edgepress", "/etc/default/grub.d/edgepress.cfg"] {
            let script = text(&entries, shell);
            let head: String = script.lines().take(3).map(|line| format!("{line}\n")).collect();
            host::run_with_input(Command::new("sh").arg("-n"), head.as_bytes()).expect("syntax");
        }
    }

    #[test]
    fn the_menu_survives_grub_mkconfig() {
        let entries = root_files(&recipe(), &ids(), "/boot/efi").expect("files");
        let folder = tempfile::tempdir().expect("temp folder");
        let script = folder.path().join("01_edgepress");
        fs::write(&script, text(&entries, "/etc/grub.d/01_edgepress")).expect("write");
        let printed = host::run(Command::new("sh").arg(&script)).expect("runs");
        let menu = text(&entries, "/boot/grub/grub.cfg");
        assert!(menu.ends_with(&String::from_utf8(printed).expect("text")), "{menu}");
    }

    #[test]
    fn arguments_that_would_break_out_are_refused() {
        for argument in ["", "a b", "a\"", "$(x)", "a;b", "a\n", "é"] {
            let mut recipe = recipe();
            recipe.target.cmdline = vec![argument.into()];
            assert!(root_files(&recipe, &ids(), "/boot/efi").is_err(), "{argument:?}");
        }
    }
}
