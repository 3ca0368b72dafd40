//! A module: one container, its image, and when edgeAgent starts and restarts it.

use std::fmt;

use edgepress_oci::reference::Reference;

use super::container::{Bind, HostPort, binds, host_ports};
use crate::cursor::Cursor;
use crate::image::{self, Image};
use crate::options::CreateOptions;

/// Whose module it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// edgeAgent, which runs the others.
    Agent,
    /// edgeHub, which carries their messages.
    Hub,
    /// The user's.
    Custom,
}

/// When edgeAgent starts a module again (RestartPolicy in IModule.cs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    Never,
    /// When it ended with an error.
    OnFailure,
    /// When it ended with an error, or is unhealthy.
    OnUnhealthy,
    /// Whenever it ended.
    Always,
}

/// What a module shall be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Running.
    Running,
    /// There, but not running.
    Stopped,
}

/// When the image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Whenever the container is made; the default.
    OnCreate,
    /// Never: it must be on the device.
    Never,
}

/// The words of a manifest for a type's values.
pub(crate) trait Words: Sized + Copy + 'static {
    /// Each word and its value.
    const WORDS: &'static [(&'static str, Self)];

    /// The value of a word. edgeAgent's reader of enumerations does not look at the case.
    fn of(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, value)| *value)
    }
}

impl Words for RestartPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("always", Self::Always),
        ("on-unhealthy", Self::OnUnhealthy),
        ("on-failure", Self::OnFailure),
        ("never", Self::Never),
    ];
}

impl Words for Status {
    const WORDS: &'static [(&'static str, Self)] = &[("running", Self::Running), ("stopped", Self::Stopped)];
}

impl Words for PullPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[("on-create", Self::OnCreate), ("never", Self::Never)];
}

/// A module of a manifest, as far as it can be read; what cannot be is absent here.
#[derive(Clone)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub kind: ModuleKind,
    /// Its JSON pointer in the manifest.
    pub pointer: String,
    /// Its image, where that is a reference both edgeAgent and the engine take.
    pub image: Option<Reference>,
    /// What it shall be doing.
    pub status: Option<Status>,
    /// When it is started again.
    pub restart_policy: Option<RestartPolicy>,
    /// When its image is pulled.
    pub pull_policy: PullPolicy,
    /// Its turn at start: those of lower numbers come first. Without one it comes last.
    pub startup_order: Option<u32>,
    /// Its author's version, which edgeAgent only compares.
    pub version: Option<String>,
    /// Environment variables, by name; a value may be a secret.
    pub env: Vec<(String, String)>,
    /// Ports of the host that it takes.
    pub host_ports: Vec<HostPort>,
    /// Folders, files and volumes of the host that it sees.
    pub binds: Vec<Bind>,
    /// Does it run privileged, or with added capabilities?
    pub privileged: bool,
    /// It stands under systemModules.
    pub(crate) is_system: bool,
    pub(crate) options: CreateOptions,
}

/// Name and image: the environment may hold secrets.
impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Module");
        shown
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

impl Module {
    pub(super) fn read(text: &str, name: &str, is_system: bool, at: &Cursor<'_>) -> Self {
        let kind = match name {
            "edgeAgent" if is_system => ModuleKind::Agent,
            "edgeHub" if is_system => ModuleKind::Hub,
            _ => ModuleKind::Custom,
        };
        let settings = at.get("settings");
        let options =
            settings.as_ref().map(|settings| CreateOptions::read(text, settings)).unwrap_or_default();
        let image = settings.as_ref().and_then(|settings| reference(settings));
        let inner = options.node.as_ref().map(Cursor::root);
        Self {
            name: name.to_owned(),
            kind,
            pointer: at.pointer.clone(),
            image,
            status: word(at, "status"),
            restart_policy: word(at, "restartPolicy"),
            pull_policy: word(at, "imagePullPolicy").unwrap_or(PullPolicy::OnCreate),
            startup_order: startup_order(at),
            version: at.get("version").and_then(|at| at.node.as_str().map(str::to_owned)),
            env: env(at),
            host_ports: inner.as_ref().map(host_ports).unwrap_or_default(),
            binds: inner.as_ref().map(binds).unwrap_or_default(),
            privileged: inner.as_ref().is_some_and(is_privileged),
            is_system,
            options,
        }
    }

    /// The value of an environment variable; edgeAgent and edgeHub do not look at the case of theirs.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let found = self.env.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// createOptions, joined and parsed; `null` where there are none or they are not JSON.
    pub fn create_options(&self) -> serde_json::Value {
        self.options.node.as_ref().map(crate::json::Node::to_json).unwrap_or_default()
    }

    /// The parsed createOptions, with their places.
    pub(crate) fn inside(&self) -> Option<Cursor<'_>> {
        let node = self.options.node.as_ref()?;
        let pointer = self.options.pointer.as_deref().unwrap_or_default();
        if self.options.is_object {
            let root = Cursor::root(node);
            return Some(Cursor { pointer: pointer.to_owned(), ..root });
        }
        Some(Cursor::embedded(node, pointer))
    }
}

fn reference(settings: &Cursor<'_>) -> Option<Reference> {
    match image::read(settings.get("image")?.node.as_str()?) {
        Image::Reference(reference) => Some(reference),
        _ => None,
    }
}

fn word<T: Words>(at: &Cursor<'_>, key: &str) -> Option<T> {
    T::of(at.get(key)?.node.as_str()?)
}

fn startup_order(at: &Cursor<'_>) -> Option<u32> {
    u32::try_from(at.get("startupOrder")?.node.as_number()?.as_u64()?).ok()
}

fn env(at: &Cursor<'_>) -> Vec<(String, String)> {
    let value = |(name, at): (&str, Cursor<'_>)| {
        let node = at.get("value")?.node;
        let text = match (node.as_str(), node.as_number(), node.as_bool()) {
            (Some(text), _, _) => text.to_owned(),
            (_, Some(number), _) => number.to_string(),
            (_, _, Some(value)) => value.to_string(),
            _ => return None,
        };
        Some((name.to_owned(), text))
    };
    at.get("env").map(|env| env.entries().filter_map(value).collect()).unwrap_or_default()
}

fn is_privileged(options: &Cursor<'_>) -> bool {
    let Some(host) = options.get_any_case("HostConfig") else { return false };
    let privileged = host.get_any_case("Privileged");
    let privileged = privileged.and_then(|at| at.node.as_bool().or_else(|| truth(at.node.as_str()?)));
    let added = host.get_any_case("CapAdd").is_some_and(|at| !at.node.elements().is_empty());
    privileged == Some(true) || added
}

/// A text that edgeAgent's reader takes for a boolean.
pub(crate) fn truth(text: &str) -> Option<bool> {
    text.trim().to_ascii_lowercase().parse().ok()
}
