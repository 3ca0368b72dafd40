//! iotedgedev's templates of deployment manifests, filled in from a file of values that the user names.
//!
//! ```text
//! deployment.template.json    "image": "${REGISTRY}/filter:${TAG}",  "createOptions": { "HostConfig": { … } }
//!   + deployment.env          REGISTRY=factory.azurecr.io …
//!   = the manifest            "image": "factory.azurecr.io/filter:1.0",  "createOptions": "{\"HostConfig\":{…}}"
//! ```
//!
//! Unlike with iotedgedev, the environment fills in nothing: a build would differ from machine to machine, and a password
//! might come into it unseen. Within a string a value is escaped as JSON; outside (`"timeToLiveSecs": ${TTL}`) it is put in
//! as it is.

mod values;

use std::collections::BTreeSet;

use edgepress_base::finding::{Finding, Place};
use serde_json::Value;

use values::LONGEST_NAME;
pub use values::Values;

use crate::json::LONGEST;
use crate::options::{CHUNK, KEY, chunk_number};
use crate::source::{Piece, SourceText};

/// What iotedgedev fills in with images that it built.
const BUILT: [&str; 2] = ["MODULES.", "MODULEDIR<"];
/// The key of a template's version, which a manifest does not have.
const TEMPLATE_VERSION: &str = "$schema-template";
/// How iotedgedev's templates are called.
pub(crate) const ENDING: &str = ".template.json";
/// Missing values that are told.
const MOST_MISSING: usize = 100;
/// Unused values that are told one by one.
const MOST_UNUSED: usize = 3;

/// Is there a placeholder in it, `${NAME}`?
pub(crate) fn has_placeholder(text: &str) -> bool {
    next(text, 0).is_some()
}

/// The next placeholder from `from` on: where it begins, its name.
fn next(text: &str, from: usize) -> Option<(usize, &str)> {
    let mut at = from;
    loop {
        let start = at + text.get(at..)?.find("${")?;
        let inside = &text[start + 2..];
        let mut near = inside.bytes().take(LONGEST_NAME + 1);
        let end = near.position(|byte| matches!(byte, b'}' | b'"' | b'\n'));
        let end = end.filter(|end| inside.as_bytes()[*end] == b'}');
        match end {
            Some(end) if end > 0 => return Some((start, &inside[..end])),
            _ => at = start + 2,
        }
    }
}

/// Fills in a template.
///
/// # Errors
/// All placeholders that have no value.
pub(crate) fn fill(
    file: &str,
    template: &str,
    values: &Values,
) -> Result<(SourceText, Vec<Finding>), Vec<Finding>> {
    let mut filler = Filler {
        values,
        text: String::new(),
        pieces: Vec::new(),
        used: BTreeSet::new(),
        missing: Vec::new(),
    };
    let (mut at, mut in_string) = (0, false);
    while let Some((start, name)) = next(template, at) {
        in_string = filler.copy(template, at..start, in_string);
        let end = start + name.len() + "${}".len();
        filler.put(file, template, start..end, name, in_string);
        if filler.text.len() > LONGEST {
            let message = format!("with its values the manifest is longer than {} MiB", LONGEST >> 20);
            return Err(vec![Finding::error(message).at(Place::file(file))]);
        }
        at = end;
    }
    filler.copy(template, at..template.len(), in_string);
    if !filler.missing.is_empty() {
        return Err(filler.missing);
    }
    let notes = filler.notes();
    Ok((SourceText::rendered(file, filler.text, template, filler.pieces), notes))
}

struct Filler<'a> {
    values: &'a Values,
    text: String,
    pieces: Vec<Piece>,
    used: BTreeSet<&'a str>,
    missing: Vec<Finding>,
}

impl<'a> Filler<'a> {
    /// Takes over a stretch of the template; whether its end stands within a string.
    fn copy(&mut self, template: &str, from: std::ops::Range<usize>, mut in_string: bool) -> bool {
        let stretch = &template[from.clone()];
        let mut escaped = false;
        for byte in stretch.bytes() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ => {}
            }
        }
        self.pieces.push(Piece { start: self.text.len(), from, copied: true });
        self.text.push_str(stretch);
        in_string
    }

    fn put(&mut self, file: &str, template: &str, from: std::ops::Range<usize>, name: &str, in_string: bool) {
        let Some((stated, value)) = self.values.get(name) else {
            if self.missing.len() >= MOST_MISSING {
                return;
            }
            self.missing.push(missing(self.values, name).at(Place::of_span(file, template, &from)));
            return;
        };
        self.used.insert(stated);
        self.pieces.push(Piece { start: self.text.len(), from, copied: false });
        if in_string {
            let quoted = Value::from(value).to_string();
            self.text.push_str(&quoted[1..quoted.len() - 1]);
        } else {
            self.text.push_str(value);
        }
    }

    /// What was found in the values, and those that nobody uses: many at once, as in a file for several templates, are told
    /// as one.
    fn notes(&self) -> Vec<Finding> {
        let unused: Vec<&str> = self.values.names().filter(|name| !self.used.contains(name)).collect();
        let mut notes = self.values.notes.clone();
        if unused.len() > MOST_UNUSED {
            let names = edgepress_base::finding::clean(&unused.join(", "));
            let message =
                format!("the template has no placeholders for {} of the names: {names}", unused.len());
            notes.push(Finding::warning(message).at(Place::file(self.values.file())));
            return notes;
        }
        notes.extend(unused.into_iter().map(|name| {
            let finding = Finding::warning("the template has no placeholder of this name").key(name);
            finding
                .at(self.values.place(name))
                .hint(format!("remove it, or write ${{{name}}} where it belongs"))
        }));
        notes
    }
}

fn missing(values: &Values, name: &str) -> Finding {
    let shown = edgepress_base::finding::clean(name);
    if BUILT.iter().any(|start| name.starts_with(start)) {
        let message = format!(
            "`${{{shown}}}` is filled in by iotedgedev, which builds the module; nothing is built here"
        );
        return Finding::error(message)
            .hint(format!("write the image instead, give `{shown}` a value, or use the manifest that `iotedgedev build` wrote"));
    }
    let finding = Finding::error(format!("`${{{shown}}}` has no value"));
    let file =
        if values.file().is_empty() { "a file of values".to_owned() } else { values.file().to_owned() };
    let finding = finding.hint(format!("state {shown} in {file}: the environment is not looked at"));
    finding.suggest(name, values.names())
}

/// Makes a manifest of what a template has become: createOptions are strings in chunks, as iotedgedev writes them.
pub(crate) fn finish(json: &mut Value, modules: &[&str]) {
    if let Some(root) = json.as_object_mut() {
        root.shift_remove(TEMPLATE_VERSION);
    }
    for pointer in modules {
        let settings = json.pointer_mut(&format!("{pointer}/settings"));
        let Some(settings) = settings.and_then(Value::as_object_mut) else { continue };
        let text = match settings.get(KEY) {
            Some(Value::String(text))
                if settings.keys().filter(|key| chunk_number(key).is_some()).count() == 1 =>
            {
                text.clone()
            }
            Some(options @ Value::Object(_)) => options.to_string(),
            _ => continue,
        };
        let chars: Vec<char> = text.chars().collect();
        for (index, chunk) in chars.chunks(CHUNK).enumerate() {
            let key = if index == 0 { KEY.to_owned() } else { format!("{KEY}{index:02}") };
            settings.insert(key, chunk.iter().collect::<String>().into());
        }
    }
}

#[cfg(test)]
mod tests;
