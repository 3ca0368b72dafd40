//! UEFI machines: PCs, servers, Azure Gen2, QEMU.
//!
//! The files come from the distribution's signed packages, so that the machine may have secure boot on: shim (signed by
//! Microsoft) as the fallback loader, grub (signed by the distribution) beside it. Nothing is installed by grub-install.
//!
//! Kernel updates on the device need no new configuration: the menu names the links that Debian (`/vmlinuz`) and
//! Ubuntu (`/boot/vmlinuz`) keep at the newest kernel. Where the package grub2-common is installed, its kernel hook
//! writes /boot/grub/grub.cfg anew all the same; `/etc/grub.d/01_edgepress` puts the same menu into that one.

use anyhow::{Context as _, Result};

use super::file;
use crate::disk::fat::FatFile;
use crate::disk::ids::Ids;
use crate::error::Problem;
use crate::recipe::types::{Board, Recipe};
use crate::tree::Root;
use crate::tree::entry::Entry;
use crate::units::Arch;

/// A loader: where it goes in `EFI/BOOT`, where packages have it (the first that is there is taken), and whose it is.
struct Loader {
    target: &'static str,
    sources: &'static [&'static str],
    package: &'static str,
    optional: bool,
}

const fn loader(target: &'static str, sources: &'static [&'static str], package: &'static str) -> Loader {
    Loader { target, sources, package, optional: false }
}

/// `fbx64.efi` is missing on purpose: where it stands beside shim, shim runs it, and it writes boot entries into the
/// firmware and starts the machine again.
fn loaders(arch: Arch) -> [Loader; 3] {
    match arch {
        Arch::X86_64 => [
            // On Ubuntu the first is a link into /etc/alternatives.
            loader(
                "BOOTX64.EFI",
                &["/usr/lib/shim/shimx64.efi.signed", "/usr/lib/shim/shimx64.efi.signed.latest"],
                "shim-signed",
            ),
            loader(
                "grubx64.efi",
                &["/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"],
                "grub-efi-amd64-signed",
            ),
            Loader {
                optional: true,
                ..loader(
                    "mmx64.efi",
                    &["/usr/lib/shim/mmx64.efi.signed", "/usr/lib/shim/mmx64.efi"],
                    "shim-helpers-amd64-signed",
                )
            },
        ],
        Arch::Aarch64 => [
            loader(
                "BOOTAA64.EFI",
                &["/usr/lib/shim/shimaa64.efi.signed", "/usr/lib/shim/shimaa64.efi.signed.latest"],
                "shim-signed",
            ),
            loader(
                "grubaa64.efi",
                &["/usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed"],
                "grub-efi-arm64-signed",
            ),
            Loader {
                optional: true,
                ..loader(
                    "mmaa64.efi",
                    &["/usr/lib/shim/mmaa64.efi.signed", "/usr/lib/shim/mmaa64.efi"],
                    "shim-helpers-arm64-signed",
                )
            },
        ],
    }
}

/// Everything on the FAT partition of a golden image.
///
/// # Errors
/// A [`Problem`] that names the package to install when a boot loader is not in the tree.
pub fn boot_files(tree: &Root, recipe: &Recipe, ids: &Ids) -> Result<Vec<FatFile>> {
    let mut files = Vec::new();
    let mut vendor = None;
    for loader in loaders(recipe.target.arch) {
        let Some(content) = find(tree, &loader)? else { continue };
        vendor = vendor.or_else(|| vendor_folder(&content));
        files.push(FatFile { path: format!("EFI/BOOT/{}", loader.target), content });
    }
    let vendor = vendor.context("finding in grub's image where it looks for its configuration")?;
    files.push(FatFile { path: format!("EFI/{vendor}/grub.cfg"), content: stub(recipe, ids)?.into_bytes() });
    files.push(super::readme());
    Ok(files)
}

fn find(tree: &Root, loader: &Loader) -> Result<Option<Vec<u8>>> {
    for source in loader.sources {
        if let Some(content) = tree.read(source, super::MOST_BOOT_FILE)? {
            return Ok(Some(content));
        }
    }
    if loader.optional {
        return Ok(None);
    }
    let message = format!("the image has no boot loader: {} is not there", loader.sources[0]);
    Err(Problem::input(message).hint(format!("add `{}` to packages.install", loader.package)).into())
}

/// The folders in which the signed grub looks for grub.cfg, in its order; none where its image names none.
pub fn config_folders(image: &[u8]) -> Vec<String> {
    /// The end of the script that Debian and Ubuntu build in: else, what lies beside grub itself.
    const BESIDE: &[u8] = b"source $cmdpath/grub.cfg";
    let Some(vendor) = vendor_folder(image) else { return Vec::new() };
    let beside = image.windows(BESIDE.len()).any(|window| window == BESIDE);
    [format!("EFI/{vendor}")].into_iter().chain(beside.then(|| "EFI/BOOT".to_owned())).collect()
}

/// The signed grub looks for grub.cfg in the same folder first, whatever folder it was started from. Its name is in the
/// image: `/EFI/debian`, `/EFI/ubuntu`.
fn vendor_folder(image: &[u8]) -> Option<String> {
    const START: &[u8] = b"/EFI/";
    let starts = image.windows(START.len()).enumerate().filter(|(_, window)| *window == START);
    let names = starts.map(|(at, _)| {
        let rest = &image[at + START.len()..];
        let length = rest.iter().take(32).take_while(|byte| byte.is_ascii_lowercase()).count();
        (&rest[..length], rest.get(length))
    });
    let mut ended = names.filter(|(name, end)| !name.is_empty() && *end == Some(&0));
    ended.next().map(|(name, _)| String::from_utf8_lossy(name).into_owned())
}

/// `EFI/<vendor>/grub.cfg`: hands over to the root's own menu, and holds a copy of it for the day when that one is cut
/// short by a power failure.
fn stub(recipe: &Recipe, ids: &Ids) -> Result<String> {
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

/// Files of the root: mounts and menu. They must be in the tree before it becomes a file system.
///
/// # Errors
/// A [`Problem`] when an argument of the kernel's command line cannot be written into a boot menu.
pub fn root_files(recipe: &Recipe, ids: &Ids) -> Result<Vec<Entry>> {
    let menu = menu(recipe, ids)?;
    Ok(vec![
        file("/etc/fstab", 0o644, fstab(ids)),
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

fn fstab(ids: &Ids) -> String {
    format!(
        "\
# device\tmount point\ttype\toptions\tdump\tcheck
UUID={root}\t/\text4\tnoatime,errors=remount-ro\t0\t1
UUID={fat}\t{FAT_MOUNT}\tvfat\tumask=0077,nosuid,nodev,noexec,flush,nofail\t0\t2
",
        root = ids.root,
        fat = ids.fat,
        FAT_MOUNT = super::fat_mount(Board::Uefi),
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
pub(super) mod tests {
    use super::{boot_files, config_folders, root_files, vendor_folder};
    use crate::disk::ids::Ids;
    use crate::error::problem;
    use crate::host;
    use crate::recipe::types::Recipe;
    use crate::tree::Root;
    use crate::tree::entry::{Entry, Kind};
    use crate::units::{Arch, Digest};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::Command;

    pub fn recipe() -> Recipe {
        toml::from_str(
            "name = 'x'\narchives = {}\ndistribution = { id = 'debian', release = '12', codename = 'bookworm' }\n\
             target = { arch = 'x86_64', board = 'uefi' }",
        )
        .expect("recipe")
    }

    fn ids() -> Ids {
        Ids::from_seed(&Digest::of("board"))
    }

    fn put(tree: &Path, path: &str, content: &[u8]) {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        fs::write(path, content).expect("file");
    }

    fn text(entries: &[Entry], path: &str) -> String {
        match entries.iter().find(|entry| entry.path == Path::new(path)).map(|entry| &entry.kind) {
            Some(Kind::File(content)) => String::from_utf8(content.clone()).expect("text"),
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
    fn loaders_of_both_distributions() {
        let tree = tempfile::tempdir().expect("temp folder");
        let tree = tree.path();
        // Debian.
        put(tree, "usr/lib/shim/shimx64.efi.signed", b"debian's shim");
        put(tree, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", b"..\0/EFI/debian\0..");
        put(tree, "usr/lib/shim/mmx64.efi", b"mok");
        let files = boot_files(&Root::open(tree).expect("open"), &recipe(), &ids()).expect("files");
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let loaders = ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/BOOT/mmx64.efi"];
        assert_eq!(paths, [&loaders[..], &["EFI/debian/grub.cfg", "edgepress/README.txt"]].concat());
        // Ubuntu: a link with an absolute target, which must stay within the tree.
        fs::remove_file(tree.join("usr/lib/shim/shimx64.efi.signed")).expect("remove");
        put(tree, "usr/lib/shim/shimx64.efi.signed.latest", b"ubuntu's shim");
        fs::create_dir_all(tree.join("etc/alternatives")).expect("folder");
        symlink("/usr/lib/shim/shimx64.efi.signed.latest", tree.join("etc/alternatives/shim")).expect("link");
        symlink("/etc/alternatives/shim", tree.join("usr/lib/shim/shimx64.efi.signed")).expect("link");
        let files = boot_files(&Root::open(tree).expect("open"), &recipe(), &ids()).expect("files");
        assert_eq!(files[0].content, b"ubuntu's shim");
    }

    #[test]
    fn a_missing_loader_names_its_package() {
        let tree = tempfile::tempdir().expect("temp folder");
        let mut recipe = recipe();
        for (arch, package) in
            [(Arch::X86_64, "grub-efi-amd64-signed"), (Arch::Aarch64, "grub-efi-arm64-signed")]
        {
            put(tree.path(), "usr/lib/shim/shimx64.efi.signed", b"shim");
            put(tree.path(), "usr/lib/shim/shimaa64.efi.signed", b"shim");
            recipe.target.arch = arch;
            let error =
                boot_files(&Root::open(tree.path()).expect("open"), &recipe, &ids()).expect_err("no grub");
            let hint = problem(&error).and_then(|problem| problem.hint.clone()).expect("a hint");
            assert_eq!(hint, format!("add `{package}` to packages.install"));
        }
    }

    #[test]
    fn the_vendor_is_read_from_grub() {
        for (image, vendor) in [
            (&b"x/EFI/BOOT\0/EFI/ubuntu\0"[..], Some("ubuntu")),
            (b"/EFI/debian\0", Some("debian")),
            (b"/EFI/debian", None),
            (b"/EFI/\0", None),
            (b"", None),
        ] {
            assert_eq!(vendor_folder(image).as_deref(), vendor);
        }
        let script = b"else\n\tsource $cmdpath/grub.cfg\nfi\n\0/EFI/debian\0";
        assert_eq!(config_folders(script), ["EFI/debian", "EFI/BOOT"]);
        assert_eq!(config_folders(&script[20..]), ["EFI/debian"]);
        assert_eq!(config_folders(&script[..30]), [""; 0]);
    }

    #[test]
    fn files_of_the_root() {
        let mut recipe = recipe();
        recipe.target.cmdline = vec!["audit=0".into()];
        let entries = root_files(&recipe, &ids()).expect("files");
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
        let entries = root_files(&recipe(), &ids()).expect("files");
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
            assert!(root_files(&recipe, &ids()).is_err(), "{argument:?}");
        }
    }
}
