//! The files on a boot partition, wherever they are: in memory, or on a FAT file system of an image.

use std::io::{Read, Seek, Write};

use crate::disk::fat::{FatFile, Volume};

/// Most bytes of one file that are read: kernels and initramfs have some tens of MiB.
const FILE_MAX: u64 = 512 << 20;

/// Files by path with `/`, from the top of the partition; case does not matter, as on FAT.
pub(crate) trait Files {
    /// What a file holds; nothing when it is not there or cannot be read.
    fn read(&self, path: &str) -> Option<Vec<u8>>;

    /// Bytes of a file; nothing when it is not there.
    fn size(&self, path: &str) -> Option<u64>;

    /// The names in a folder (`""` is the top), folders included.
    fn list(&self, folder: &str) -> Vec<String>;
}

fn same(a: &str, b: &str) -> bool {
    a.trim_matches('/').to_lowercase() == b.trim_matches('/').to_lowercase()
}

impl Files for &[FatFile] {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.iter().find(|file| same(&file.path, path)).map(|file| file.content.clone())
    }

    fn size(&self, path: &str) -> Option<u64> {
        self.iter().find(|file| same(&file.path, path)).map(|file| file.content.len() as u64)
    }

    fn list(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for file in self.iter() {
            let path = file.path.trim_matches('/');
            let rest = match folder.trim_matches('/') {
                "" => Some(path),
                folder => path
                    .match_indices('/')
                    .find(|(at, _)| same(&path[..*at], folder))
                    .map(|(at, _)| &path[at + 1..]),
            };
            let name = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
            if !name.is_empty() && !names.iter().any(|known| same(known, name)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names
    }
}

impl<D: Read + Write + Seek> Files for Volume<'_, D> {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.size(path)?;
        Self::read(self, path.trim_matches('/'), FILE_MAX).ok().flatten()
    }

    fn size(&self, path: &str) -> Option<u64> {
        let path = path.trim_matches('/');
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let entries = Self::list(self, folder).ok()?;
        entries.into_iter().find(|entry| !entry.folder && same(&entry.name, name)).map(|entry| entry.size)
    }

    fn list(&self, folder: &str) -> Vec<String> {
        let entries = Self::list(self, folder).unwrap_or_default();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Files;
    use crate::disk::fat::{self, FatFile, LEAST};
    use crate::disk::ids::VolumeId;
    use crate::disk::overlay::{Overlay, Zeros};

    fn check(files: &dyn Files) {
        assert_eq!(files.read("CONFIG.TXT").as_deref(), Some(&b"a=1\n"[..]));
        assert_eq!(files.read("/overlays/Disable-BT.dtbo").as_deref(), Some(&b"x"[..]));
        assert_eq!(
            (files.size("config.txt"), files.size("overlays"), files.size("none/x")),
            (Some(4), None, None)
        );
        assert_eq!((files.read("none"), files.read("overlays"), files.read("")), (None, None, None));
        assert_eq!(files.list(""), ["config.txt", "overlays"]);
        assert_eq!(files.list("Overlays/"), ["README", "disable-bt.dtbo"]);
        assert_eq!(files.list("none"), [""; 0]);
    }

    #[test]
    fn memory_and_volume_are_alike() {
        let file = |path: &str, content: &[u8]| FatFile { path: path.into(), content: content.to_vec() };
        let files = [
            file("config.txt", b"a=1\n"),
            file("overlays/disable-bt.dtbo", b"x"),
            file("overlays/README", b""),
        ];
        check(&&files[..]);
        let mut device = Overlay::new(Zeros, LEAST);
        fat::format(&mut device, LEAST, VolumeId(1), "BOOT", 0, |volume| {
            files.iter().try_for_each(|file| volume.write(&file.path, &file.content))
        })
        .expect("format");
        fat::look(&mut device, LEAST, |volume| {
            check(volume);
            Ok(())
        })
        .expect("look");
    }
}
