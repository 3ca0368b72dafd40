//! What the types of a recipe cannot say: legal names, pairs of keys that belong together, addresses.

mod board;
mod publish;

use url::Url;

use crate::finding::Finding;
use crate::format::{Form, listed};
use crate::oci::reference::Reference;
use crate::recipe::tree::Node;
use crate::recipe::types::{Archive, Deb, EngineImage, Format, Recipe};
use crate::units::{ByteSize, Digest};

/// Smallest FAT partition: FAT32 needs 65,525 clusters of 512 bytes.
const LEAST_FAT: ByteSize = ByteSize::mib(33);
/// Everything that is wrong with a merged recipe, with the place that states it.
pub(super) fn validate(recipe: &Recipe, tree: &Node) -> Vec<Finding> {
    let mut found = Found { tree, list: Vec::new() };
    names(recipe, &mut found);
    for (role, archive) in &recipe.archives {
        archive_is_sound(role, archive, &mut found);
    }
    target(recipe, &mut found);
    packages(recipe, &mut found);
    for (at, image) in recipe.engine.images.iter().enumerate() {
        engine_image(&format!("engine/images/{at}"), image, &mut found);
    }
    engine_log(recipe, &mut found);
    edge(recipe, &mut found);
    network(recipe, &mut found);
    board::check(recipe, &mut found);
    publish::check(recipe, &mut found);
    sizes(recipe, &mut found);
    found.list
}

/// The findings so far.
struct Found<'a> {
    tree: &'a Node,
    list: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>, expected: &str) {
        let finding = Finding::error(message).expected(expected).at(self.tree.place(key));
        self.list.push(finding);
    }

    /// The value at `key` is not what was expected.
    fn bad(&mut self, key: &str, value: &str, expected: &str) {
        let name = key.replace('/', ".").replace("~1", "/");
        if value.contains('@') {
            // Most likely `user:password@host`: neither the value nor its line is shown.
            let place = self.tree.place(key).hidden();
            self.list.push(Finding::error(format!("bad value for `{name}`")).expected(expected).at(place));
            return;
        }
        self.add(key, format!("bad value for `{name}`: {value:?}"), expected);
    }

    fn check(&mut self, good: bool, key: &str, value: &str, expected: &str) {
        if !good {
            self.bad(key, value, expected);
        }
    }
}

fn made_of(text: &str, extra: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || extra.contains(c))
}

fn begins_with_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
}

/// One DNS label: letters, digits and `-`, beginning with a letter (RFC 1035; the runtime insists).
fn label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('-')
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// A host name or an address of the network.
fn host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-:".contains(c))
}

/// A package name by Debian's policy, 5.6.1 (one letter names exist: `r`, `w`).
fn package(name: &str) -> bool {
    begins_with_word(name) && made_of(name, "+-.")
}

fn version(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
}

fn names(recipe: &Recipe, found: &mut Found<'_>) {
    let name = &recipe.name;
    let good = begins_with_word(name) && made_of(name, "-") && name.len() <= 63;
    found.check(good, "name", name, "lower-case letters, digits and `-`, beginning with a letter or digit");
    let one_line = !recipe.description.contains(char::is_control);
    found.check(one_line, "description", &recipe.description, "one line of text");
    let user = &recipe.access.user;
    let good = user.starts_with(|c: char| c.is_ascii_lowercase()) && made_of(user, "-_") && user.len() <= 32;
    found.check(
        good,
        "access/user",
        user,
        "lower-case letters, digits, `-` and `_`, beginning with a letter",
    );
    let hostname = &recipe.system.hostname;
    found.check(
        label(hostname),
        "system/hostname",
        hostname,
        "letters, digits and `-`, beginning with a letter",
    );
    let zone = &recipe.system.timezone;
    let part =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+-".contains(c));
    let good = zone.split('/').all(part);
    found.check(good, "system/timezone", zone, "a time zone, for example `Etc/UTC` or `Europe/Berlin`");
    for (at, server) in recipe.system.ntp.iter().enumerate() {
        found.check(host(server), &format!("system/ntp/{at}"), server, "a host name or address");
    }
    let os = &recipe.distribution;
    let good = begins_with_word(&os.release) && made_of(&os.release, ".");
    found.check(good, "distribution/release", &os.release, "a release number, for example `12` or `24.04`");
    let good = begins_with_word(&os.codename) && made_of(&os.codename, "-");
    found.check(good, "distribution/codename", &os.codename, "a code name, for example `bookworm`");
}

fn archive_is_sound(role: &str, archive: &Archive, found: &mut Found<'_>) {
    let key = format!("archives/{role}");
    let good = begins_with_word(role) && made_of(role, "-");
    found.check(good, &key, role, "a role made of lower-case letters, digits and `-`");
    found.check(http(&archive.url), &format!("{key}/url"), &archive.url, HTTP);
    for (arch, url) in &archive.urls {
        found.check(http(url), &format!("{key}/urls/{arch}"), url, HTTP);
    }
    let word = |text: &str| {
        !text.is_empty()
            && !text.contains("..")
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/+~".contains(c))
    };
    for (list, words) in [("suites", &archive.suites), ("components", &archive.components)] {
        let path = format!("{key}/{list}");
        if words.is_empty() {
            found.add(&path, format!("`{list}` of the archive `{role}` is empty"), "at least one name");
        }
        for (at, text) in words.iter().enumerate() {
            found.check(word(text), &format!("{path}/{at}"), text, "a name without blanks");
        }
    }
    archive_key(role, archive, found);
}

fn archive_key(role: &str, archive: &Archive, found: &mut Found<'_>) {
    let path = format!("archives/{role}/key");
    let key = &archive.key;
    if key.fingerprints.is_empty() {
        let message = format!("the archive `{role}` names no key that must have signed it");
        found.add(&path, message, "at least one fingerprint");
    }
    for (at, print) in key.fingerprints.iter().enumerate() {
        let good = print.len() == 40 && print.chars().all(|c| c.is_ascii_hexdigit());
        let expected = "the 40 hex digits of a primary key's fingerprint, without blanks";
        found.check(good, &format!("{path}/fingerprints/{at}"), print, expected);
    }
    if key.file.is_some() == key.url.is_some() {
        let message = format!(
            "the key of the archive `{role}` has {}",
            both_or_none(key.file.is_some(), "file", "url")
        );
        found.add(&path, message, "either `file` or `url`");
    }
    if let Some(url) = &key.url {
        let good = address(url).is_some_and(|url| url.scheme() == "https");
        found.check(good, &format!("{path}/url"), url, "an https address");
    }
    if let Some(name) = &key.package {
        found.check(package(name), &format!("{path}/package"), name, PACKAGE);
    }
}

fn both_or_none(both: bool, one: &str, other: &str) -> String {
    if both { format!("both `{one}` and `{other}`") } else { format!("neither `{one}` nor `{other}`") }
}

const HTTP: &str = "an http or https address without a password, query or fragment";
const PACKAGE: &str = "a package name: lower-case letters, digits, `+`, `-` and `.`";

/// An address with a host and nothing secret in it.
fn address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let clean = url.has_host() && url.username().is_empty() && url.password().is_none();
    clean.then_some(url)
}

fn http(text: &str) -> bool {
    address(text).is_some_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none()
    })
}

fn target(recipe: &Recipe, found: &mut Found<'_>) {
    for (at, name) in recipe.target.modules.iter().enumerate() {
        let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        found.check(good, &format!("target/modules/{at}"), name, "the name of one kernel module");
    }
    for (at, word) in recipe.target.cmdline.iter().enumerate() {
        // grub.cfg and the shell that writes it read these: no blanks, no quoting.
        let good =
            !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic() && !"'\"\\$`;|&<>#".contains(c));
        found.check(
            good,
            &format!("target/cmdline/{at}"),
            word,
            "one kernel argument without blanks or quotes",
        );
    }
    if recipe.target.formats.is_empty() {
        found.add("target/formats", "`target.formats` is empty", "at least one format, for example `img`");
    }
    formats(&recipe.target.formats, found);
}

fn formats(formats: &[Format], found: &mut Found<'_>) {
    for (at, format) in formats.iter().enumerate().filter(|(at, format)| formats[..*at].contains(format)) {
        let message = format!("`target.formats` names `{format}` twice");
        found.add(&format!("target/formats/{at}"), message, "each format once");
    }
    let mapped = |format: &Format| format.form().mapped;
    if let Some(at) = formats.iter().position(|format| *format == Format::Bmap)
        && !formats.iter().any(mapped)
    {
        let message = "`target.formats` has a block map and nothing that it could be used with";
        let names = Form::all().filter(|form| form.mapped).map(|form| format!("`{}`", form.name));
        let hint = format!("`bmap` beside {}", listed(names, "or"));
        found.add(&format!("target/formats/{at}"), message, &hint);
    }
}

fn packages(recipe: &Recipe, found: &mut Found<'_>) {
    let lists =
        [("packages/install", &recipe.packages.install), ("engine/packages", &recipe.engine.packages)];
    for (list, names) in lists {
        for (at, text) in names.iter().enumerate() {
            let good = match text.split_once('=') {
                Some((name, pinned)) => package(name) && version(pinned),
                None => package(text),
            };
            found.check(good, &format!("{list}/{at}"), text, &format!("{PACKAGE}; or `name=version`"));
        }
    }
    for (at, deb) in recipe.packages.debs.iter().enumerate() {
        one_deb(&format!("packages/debs/{at}"), deb, found);
    }
    let made =
        [("packages/remove", &recipe.packages.remove), ("packages/keep_keys", &recipe.packages.keep_keys)];
    for (list, paths) in made {
        for (at, path) in paths.iter().enumerate() {
            let path = path.to_string_lossy();
            found.check(
                inner_path(&path),
                &format!("{list}/{at}"),
                &path,
                "a file of the image, as /etc/app/app.key",
            );
        }
    }
}

fn one_deb(path: &str, deb: &Deb, found: &mut Found<'_>) {
    let either = "either `file`, or `url` with `sha256`";
    if deb.file.is_some() == deb.url.is_some() {
        found.add(
            path,
            format!("the package has {}", both_or_none(deb.file.is_some(), "file", "url")),
            either,
        );
    } else if deb.url.is_some() && deb.sha256.is_none() {
        found.add(path, "the package has an `url` but no `sha256`", either);
    }
    if let Some(url) = &deb.url {
        let good = address(url).is_some_and(|url| matches!(url.scheme(), "http" | "https"));
        found.check(good, &format!("{path}/url"), url, "an http or https address without a password");
    }
    if let Some(digest) = &deb.sha256 {
        found.check(digest.parse::<Digest>().is_ok(), &format!("{path}/sha256"), digest, "64 hex digits");
    }
}

/// A path inside an image or a root tree: absolute, without `.` and `..`.
fn inner_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && !path.contains(char::is_control)
    })
}

fn engine_image(path: &str, image: &EngineImage, found: &mut Found<'_>) {
    let name = &image.name;
    let made = !image.from_root.is_empty();
    match name.parse::<Reference>() {
        Err(problem) => {
            let finding = Finding::error(format!("bad value for `engine.images.name`: {}", problem.message));
            let finding = finding.at(found.tree.place(&format!("{path}/name")));
            found.list.push(match problem.hint {
                Some(hint) => finding.hint(hint),
                None => finding,
            });
        }
        Ok(reference) => found.check(
            reference.tag().is_some() || (image.is_pulled() && reference.digest().is_some()),
            &format!("{path}/name"),
            name,
            "a reference with a tag, for example `registry/name:1.0`",
        ),
    }
    if image.file.is_some() && made {
        let message = "the image has both `file` and `from_root`";
        found.add(path, message, "one of them, or neither: then it is pulled from its registry");
    }
    if made == image.entrypoint.is_empty() {
        let message = if made {
            "`from_root` stands without `entrypoint`"
        } else {
            "`entrypoint` stands without `from_root`"
        };
        found.add(path, message, "both or neither: an archive brings its own entry point");
    }
    for (inside, root) in &image.from_root {
        let key = inside.replace('/', "~1");
        for text in [inside, root] {
            found.check(inner_path(text), &format!("{path}/from_root/{key}"), text, "an absolute path");
        }
    }
}

fn engine_log(recipe: &Recipe, found: &mut Found<'_>) {
    let log = &recipe.engine.log;
    let known = ["json-file", "local", "journald"];
    if !known.contains(&log.driver.as_str()) {
        let finding = Finding::error(format!("bad value for `engine.log.driver`: {:?}", log.driver))
            .expected(format!("one of `{}`", known.join("`, `")))
            .suggest(&log.driver, known)
            .at(found.tree.place("engine/log/driver"));
        found.list.push(finding);
    }
    let number = log.max_size.strip_suffix(['k', 'm', 'g']).unwrap_or_default();
    let good = number.parse::<u32>().is_ok_and(|n| n > 0);
    found.check(good, "engine/log/max_size", &log.max_size, "a number and `k`, `m` or `g`, as in `10m`");
    found.check(log.max_files > 0, "engine/log/max_files", &log.max_files.to_string(), "1 or more");
}

fn edge(recipe: &Recipe, found: &mut Found<'_>) {
    let edge = &recipe.edge;
    found.check(version(&edge.version), "edge/version", &edge.version, "a release line (`1.6`) or a version");
    let good = !edge.agent_image.is_empty() && !edge.agent_image.contains(char::is_whitespace);
    found.check(good, "edge/agent_image", &edge.agent_image, "an image reference");
    // A colon would end the path in docker's `Binds`.
    let good = inner_path(&edge.agent_storage) && !edge.agent_storage.contains(':');
    found.check(good, "edge/agent_storage", &edge.agent_storage, "an absolute path without `:`");
    for name in edge.agent_env.keys() {
        let good = !name.is_empty() && !name.contains(['=', '\0']) && !name.contains(char::is_whitespace);
        found.check(good, &format!("edge/agent_env/{name}"), name, "the name of an environment variable");
    }
    let provisioning = &recipe.provisioning;
    let endpoint = &provisioning.global_endpoint;
    let good = address(endpoint).is_some_and(|url| url.scheme() == "https");
    found.check(good, "provisioning/global_endpoint", endpoint, "an https address without a password");
    let source = &provisioning.certificate;
    if provisioning.attestation.is_some_and(|stated| stated != source.attestation()) {
        let message = format!("this attestation does not go with certificates from `{}`", source.name());
        found.add("provisioning/attestation", message, "leave it out: it follows from certificate.from");
    }
    if provisioning.cloud_timeout_sec < 70 {
        let value = provisioning.cloud_timeout_sec.to_string();
        found.bad("provisioning/cloud_timeout_sec", &value, "at least 70 seconds (the runtime refuses less)");
    }
}

fn network(recipe: &Recipe, found: &mut Found<'_>) {
    let Some(proxy) = &recipe.network.proxy else { return };
    let url = Url::parse(&proxy.https).ok();
    if url.as_ref().is_some_and(|url| url.password().is_some() || !url.username().is_empty()) {
        let place = found.tree.place("network/proxy/https").hidden();
        found.list.push(
            Finding::error(
                "`network.proxy.https` holds a user name or password, which would be in every image",
            )
            .expected("an address without credentials")
            .at(place),
        );
    } else if !url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        let place = found.tree.place("network/proxy/https").hidden();
        let wrong = Finding::error("bad value for `network.proxy.https`");
        found.list.push(wrong.expected("an address such as `http://proxy.example:3128`").at(place));
    }
    for (at, name) in proxy.no_proxy.iter().enumerate() {
        let good =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-:*/_".contains(c));
        found.check(good, &format!("network/proxy/no_proxy/{at}"), name, "a host, domain or network");
    }
}

fn sizes(recipe: &Recipe, found: &mut Found<'_>) {
    let disk = &recipe.disk;
    let fat = disk.fat_size(recipe.target.board);
    found.check(fat >= LEAST_FAT, "disk/fat", &fat.to_string(), "at least 33M, which FAT32 needs");
    if let Some(size) = disk.size.filter(|size| *size <= fat) {
        let message = format!("`disk.size` ({size}) leaves no room beside the FAT partition ({fat})");
        found.add("disk/size", message, "more than `disk.fat`");
    }
    let journal = recipe.system.journal_max;
    found.check(journal >= ByteSize::mib(8), "system/journal_max", &journal.to_string(), "at least 8M");
}
