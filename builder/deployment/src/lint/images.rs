//! The image of a module: what edgeAgent and the engine take, and what the recipe makes of it.

use edgepress_base::finding::clean;
use edgepress_base::units::Arch;
use edgepress_oci::reference::Reference;

use super::Linter;
use super::rules::{
    BOOTSTRAP_AGENT, IMAGE_ARCH, IMAGE_LATEST, IMAGE_MISSING, IMAGE_PLACEHOLDER, IMAGE_TAG_DIGEST,
    IMAGE_WRONG, NEVER_PRELOADED, PRELOADED_PULLED,
};
use super::{Want, is_placeholder};
use crate::cursor::Cursor;
use crate::image::{Image, read};
use crate::model::{Module, ModuleKind, PullPolicy};

/// Words in names and tags of images that say for which architecture they are.
const ARCHITECTURES: [(&str, Option<Arch>); 12] = [
    ("amd64", Some(Arch::X86_64)),
    ("x86_64", Some(Arch::X86_64)),
    ("x64", Some(Arch::X86_64)),
    ("arm64", Some(Arch::Aarch64)),
    ("arm64v8", Some(Arch::Aarch64)),
    ("aarch64", Some(Arch::Aarch64)),
    ("arm32v7", None),
    ("arm32", None),
    ("armhf", None),
    ("armv7", None),
    ("i386", None),
    ("windows", None),
];

pub(super) fn rules(lint: &mut Linter<'_>, module: &Module) {
    let Some(settings) = lint.manifest.at(module).and_then(|at| at.get("settings")) else { return };
    let Some(at) = settings.get("image") else {
        return lint.hit_key(&IMAGE_MISSING, &settings, "`image` is missing", "");
    };
    if !lint.has_type(&at, Want::Text) {
        return;
    }
    let text = at.node.as_str().unwrap_or_default();
    let hint = "write REGISTRY/NAME:TAG, or REGISTRY/NAME@sha256:DIGEST";
    match read(text) {
        Image::Empty => lint.hit(&IMAGE_MISSING, &at, "the image is empty", hint),
        Image::Placeholder => placeholder(lint, &at),
        Image::Wrong { .. } if is_placeholder(text) => placeholder(lint, &at),
        Image::Wrong { message, hint: other } => {
            lint.hit(&IMAGE_WRONG, &at, message, other.unwrap_or_else(|| hint.into()));
        }
        Image::TagAndDigest(reference) => {
            let message = "edgeAgent takes a tag or a digest, not both";
            let digest = reference.digest().map_or_else(String::new, |digest| format!("@sha256:{digest}"));
            lint.hit(
                &IMAGE_TAG_DIGEST,
                &at,
                message,
                format!("write \"{}{digest}\"", reference.familiar_name()),
            );
        }
        Image::Upstream => {}
        Image::Reference(reference) => good(lint, module, &at, &reference),
    }
}

fn placeholder(lint: &mut Linter<'_>, at: &Cursor<'_>) {
    let hint = "write the image, or make the file a template (`.template.json`) with a file of values";
    lint.hit(&IMAGE_PLACEHOLDER, at, "this is still a placeholder", hint);
}

fn good(lint: &mut Linter<'_>, module: &Module, at: &Cursor<'_>, reference: &Reference) {
    if reference.tag().is_none() && reference.digest().is_none() {
        let message = "there is no tag, so edgeAgent takes `latest`, whatever that is on the day";
        lint.hit(&IMAGE_LATEST, at, message, format!("write \"{}:TAG\"", reference.familiar_name()));
    }
    if let Some((word, arch)) = lint.context.arch.and_then(|arch| foreign(reference, arch)) {
        let message = format!("`{word}` says that the image is not for {arch}");
        lint.hit(&IMAGE_ARCH, at, message, "take the image for this architecture, or one for several");
    }
    preloaded(lint, module, at, reference);
    if module.kind == ModuleKind::Agent
        && let Some(bootstrap) = &lint.context.bootstrap_agent
        && bootstrap.canonical() != reference.canonical()
    {
        let message = format!(
            "config.toml starts `{bootstrap}`: the device pulls this one after its first contact, and restarts"
        );
        lint.hit(&BOOTSTRAP_AGENT, at, message, "let both name the same image");
    }
}

/// A word of the last part of the name, the part before it, or the tag, that names another architecture.
fn foreign(reference: &Reference, arch: Arch) -> Option<(String, Arch)> {
    let text =
        format!("{}/{}", reference.repository(), reference.tag().unwrap_or_default()).to_ascii_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let known = |word: &str| {
        ARCHITECTURES.iter().find(|(name, _)| *name == word).map(|(_, arch)| (word.to_owned(), *arch))
    };
    let said: Vec<_> = words.filter_map(known).collect();
    let fits = said.iter().any(|(_, said)| *said == Some(arch));
    said.into_iter().next().filter(|_| !fits).map(|(word, _)| (word, arch))
}

/// Does the engine find the image that a module wants, by its digest or its tag?
fn is_found(preloaded: &Reference, wanted: &Reference) -> bool {
    let same = match wanted.digest() {
        Some(digest) => preloaded.digest() == Some(digest),
        None => preloaded.tag().or(preloaded.pulled_tag()) == wanted.pulled_tag(),
    };
    same && preloaded.name() == wanted.name()
}

fn preloaded(lint: &mut Linter<'_>, module: &Module, at: &Cursor<'_>, reference: &Reference) {
    let Some(preloaded) = &lint.context.preloaded else { return };
    let there = preloaded.iter().any(|image| is_found(image, reference));
    let image = clean(&reference.to_string());
    match (there, module.pull_policy) {
        (true, PullPolicy::OnCreate) => {
            let message =
                format!("`{image}` is preloaded, and is pulled all the same when the container is made");
            lint.hit(
                &PRELOADED_PULLED,
                at,
                message,
                "write \"imagePullPolicy\": \"never\" beside `settings`",
            );
        }
        (false, PullPolicy::Never) => {
            let message = format!("`{image}` is never pulled, and is not preloaded: the module cannot start");
            lint.hit(
                &NEVER_PRELOADED,
                at,
                message,
                "preload it, or write \"imagePullPolicy\": \"on-create\"",
            );
        }
        _ => {}
    }
}
