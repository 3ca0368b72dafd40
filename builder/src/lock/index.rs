//! Package indices, as apt verified and kept them: from the address of a .deb to what the lock says about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::types::Locked;
use crate::error::Problem;
use crate::packages::control::{Paragraph, is_package_name, is_version, paragraphs};

/// One index that apt downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    /// Role of its archive.
    pub role: String,
    /// Address of its archive, with a slash at the end, as apt writes it.
    pub base: String,
    /// The file.
    pub file: PathBuf,
}

/// A .deb that apt would fetch: its address, as `apt-get --print-uris` prints it.
///
/// Lines are `'URI' FILE SIZE HASH`; anything else that apt prints is not for us.
pub(crate) fn parse_uris(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_once('\''))
        .map(|(uri, _)| uri.to_owned())
        .collect()
}

/// Finds the .debs at these addresses in the indices.
///
/// # Errors
/// Names the address that no index has, or the field that an index lacks.
pub(crate) fn locate(uris: &[String], indices: &[Index]) -> Result<Vec<Locked>> {
    // By index, the paths wanted from it. An address may belong to several: roles may share a mirror.
    let mut wanted: Vec<BTreeMap<String, &String>> = vec![BTreeMap::new(); indices.len()];
    for uri in uris {
        for (paths, index) in wanted.iter_mut().zip(indices) {
            if let Some(path) = uri.strip_prefix(&index.base) {
                paths.insert(plain(&decode(path)).to_owned(), uri);
            }
        }
    }
    let mut found: BTreeMap<&String, Locked> = BTreeMap::new();
    for (paths, index) in wanted.iter().zip(indices).filter(|(paths, _)| !paths.is_empty()) {
        let bytes = fs::read(&index.file).with_context(|| format!("reading {}", index.file.display()))?;
        scan(&String::from_utf8_lossy(&bytes), paths, &index.role, &mut found)?;
    }
    if let Some(missing) = uris.iter().find(|uri| !found.contains_key(uri)) {
        return Err(Problem::work(format!("apt chose {missing}, which no package index has")).into());
    }
    let mut packages: Vec<Locked> = found.into_values().collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

fn scan<'a>(
    text: &str,
    paths: &BTreeMap<String, &'a String>,
    role: &str,
    found: &mut BTreeMap<&'a String, Locked>,
) -> Result<()> {
    for paragraph in text.split("\n\n") {
        let filename = paragraph.lines().find_map(|line| line.strip_prefix("Filename: "));
        let Some(uri) = filename.and_then(|name| paths.get(plain(name.trim()))) else { continue };
        let fields = paragraphs(paragraph).ok().and_then(|all| all.into_iter().next());
        let package = locked(&fields.unwrap_or_default(), role).map_err(|field| {
            Problem::work(format!(
                "the package index of the archive `{role}` has no usable {field} for {uri}"
            ))
        })?;
        // The first index that has it gives the role.
        found.entry(uri).or_insert(package);
    }
    Ok(())
}

fn locked(fields: &Paragraph, role: &str) -> Result<Locked, &'static str> {
    let need = |name: &'static str| fields.get(name).filter(|value| !value.is_empty()).ok_or(name);
    let text = |name| need(name).map(String::from);
    Ok(Locked {
        name: text("Package").ok().filter(|name| is_package_name(name)).ok_or("Package")?,
        version: text("Version").ok().filter(|version| is_version(version)).ok_or("Version")?,
        architecture: text("Architecture")?,
        archive: role.to_owned(),
        path: plain(need("Filename")?).to_owned(),
        size: need("Size")?.parse().map_err(|_| "Size")?,
        sha256: need("SHA256")?.parse().map_err(|_| "SHA256")?,
    })
}

/// A path without the `./` that flat archives put before it.
fn plain(path: &str) -> &str {
    path.trim_start_matches("./")
}

/// Undoes `%XX`; what is no such escape stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Index, decode, locate, parse_uris};

    const OUTPUT: &str = "Reading package lists...\nThe following NEW packages will be installed:\n  a libb\n\
        'http://m.example/debian/pool/a_1%3a2%2b1_all.deb' a_1%3a2+1_all.deb 7 SHA256:00\n\
        'http://m.example/debian-security/pool/libb.deb' libb_1_amd64.deb 8 \n";
    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn indices(folder: &std::path::Path) -> Vec<Index> {
        let paragraph = |name: &str, file: &str| {
            format!(
                "Package: {name}\nArchitecture: all\nVersion: 1:2+1\nDescription: x\n more\nFilename: {file}\n\
                 Size: 7\nSHA256: {HASH}\n\n"
            )
        };
        let files = [
            ("security", "http://m.example/debian-security/", paragraph("libb", "pool/libb.deb")),
            (
                "main",
                "http://m.example/debian/",
                paragraph("x", "pool/x") + &paragraph("a", "./pool/a_1:2+1_all.deb"),
            ),
            ("again", "http://m.example/debian/", paragraph("a", "pool/a_1:2+1_all.deb")),
        ];
        let index = |(role, base, text): (&str, &str, String)| {
            let file = folder.join(role);
            std::fs::write(&file, text).expect("writes");
            Index { role: role.into(), base: base.into(), file }
        };
        files.map(index).into()
    }

    #[test]
    fn finds_what_apt_chose() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let uris = parse_uris(OUTPUT);
        let found = locate(&uris, &indices(folder.path())).expect("locates");
        let brief: Vec<_> =
            found.iter().map(|p| (p.name.as_str(), p.archive.as_str(), p.path.as_str())).collect();
        assert_eq!(brief, [("a", "main", "pool/a_1:2+1_all.deb"), ("libb", "security", "pool/libb.deb")]);
        assert_eq!((found[0].size, found[0].sha256.to_string().as_str()), (7, HASH));
    }

    #[test]
    fn what_no_index_has_is_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let uris = vec!["http://m.example/debian/pool/other.deb".to_owned()];
        let error = locate(&uris, &indices(folder.path())).expect_err("missing").to_string();
        assert!(error.contains("pool/other.deb"), "{error}");
        std::fs::write(folder.path().join("main"), "Package: a\nFilename: pool/other.deb\n").expect("writes");
        let mut indices = indices(folder.path());
        std::fs::write(&indices[1].file, "Package: a\nFilename: pool/other.deb\n").expect("writes");
        indices.truncate(2);
        let error = locate(&uris, &indices).expect_err("no version").to_string();
        assert!(error.contains("`main` has no usable Version"), "{error}");
    }

    #[test]
    fn decodes_only_escapes() {
        for (text, expected) in
            [("a%2bb", "a+b"), ("%", "%"), ("%4", "%4"), ("%zz%41", "%zzA"), ("%+1", "%+1")]
        {
            assert_eq!(decode(text), expected);
        }
    }
}
