//! The entries of the root's grub.cfg: which kernel is started, with which command line.
//!
//! grub.cfg is a script; what is read are its lines `linux FILE ARGUMENTS…`. Variables in a file's path are passed over:
//! its last name is looked for in /boot and /.

use std::path::Path;

use anyhow::Result;

use super::system::{text, version_of};
use crate::image::root::Root;

/// Where grub has its configuration.
pub(super) const CONFIG: &str = "boot/grub/grub.cfg";
const CONFIG_MAX: u64 = 1 << 20;
const COMMANDS: [&str; 3] = ["linux", "linuxefi", "linux16"];

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MenuEntry {
    /// The kernel's file as it is written there.
    pub kernel: String,
    /// What the kernel is told.
    pub arguments: Vec<String>,
}

/// The entries in their order.
pub(super) fn entries(text: &str) -> Vec<MenuEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let command = words.next()?;
        let kernel = COMMANDS.contains(&command).then(|| words.next())??;
        Some(MenuEntry { kernel: kernel.to_owned(), arguments: words.map(str::to_owned).collect() })
    };
    text.lines().filter_map(entry).collect()
}

/// The entries of a root.
///
/// # Errors
/// When the file system cannot be read.
pub(super) fn of(root: &Root) -> Result<Vec<MenuEntry>> {
    Ok(root.text(CONFIG, CONFIG_MAX)?.map(|text| entries(&text)).unwrap_or_default())
}

/// The version of the kernel that the first entry starts; nothing without grub.
///
/// # Errors
/// When the file system cannot be read.
pub(super) fn first_kernel(root: &Root) -> Result<Option<String>> {
    let Some(first) = of(root)?.into_iter().next() else { return Ok(None) };
    // `${links}vmlinuz`, `/boot/vmlinuz-6.1.0`
    let name = first.kernel.rsplit(['/', '}']).next().unwrap_or_default().to_owned();
    for folder in ["boot", ""] {
        if let Some(end) = root.end(&Path::new(folder).join(&name))? {
            let name = end.file_name().map(text).unwrap_or_default();
            return Ok(version_of(&name).map(str::to_owned));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn lines_that_start_a_kernel() {
        let text = "set default=0\nmenuentry 'x' {\n\tlinux ${links}vmlinuz root=UUID=1 ro  quiet\n\tinitrd x\n}\n\
                    linux\nlinuxefi /boot/vmlinuz-6.1.0 a\nlinuxes /x y\n";
        let found = entries(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kernel.as_str(), found[0].arguments.len()), ("${links}vmlinuz", 3));
        assert_eq!(found[1].arguments, ["a"]);
    }
}
