//! Where a template's tags name what: for errors with a line, and for names that tera would take for false.

use crate::error::Problem;
use crate::finding::nearest;
use crate::recipe::schema;

/// A name in a tag that no recipe can have, if there is one.
///
/// tera itself says nothing of an unknown name in a condition or before `default`: it is false, or the default, and so a
/// misspelt key would quietly never be set. What a recipe may leave out (`network.proxy`) is known here all the same.
pub(super) fn unknown_key(name: &str, text: &str) -> Option<Problem> {
    tags(text).find_map(|(at, tag)| {
        let mut paths = recipe_paths(tag);
        paths.find_map(|(offset, path)| {
            let steps: Vec<&str> = path.split('.').skip(1).collect();
            let (unknown, known) = schema::unknown_step(&steps)?;
            let line = text[..at + offset].matches('\n').count() + 1;
            let problem = Problem::input(format!("{name}:{line}: unknown variable `{path}`"));
            Some(match nearest(steps[unknown], known.iter().map(String::as_str)) {
                Some(near) => {
                    let steps =
                        steps.iter().enumerate().map(|(at, step)| if at == unknown { near } else { step });
                    let meant: Vec<&str> = std::iter::once("recipe").chain(steps).collect();
                    problem.hint(format!("did you mean `{}`?", meant.join(".")))
                }
                None => problem.hint("docs/recipe.md lists the keys of a recipe"),
            })
        })
    })
}

/// The paths in a tag that begin with `recipe.`, with their offset; strings are skipped.
fn recipe_paths(tag: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut quote = None;
    let mut start = None;
    let mut found = Vec::new();
    for (at, c) in tag.char_indices().chain([(tag.len(), ' ')]) {
        let inside = quote.is_none() && (c.is_alphanumeric() || c == '_' || c == '.');
        match (start, inside) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                found.push((from, &tag[from..at]));
                start = None;
            }
            _ => {}
        }
        match quote {
            Some(open) if open == c => quote = None,
            None if "\"'`".contains(c) => quote = Some(c),
            _ => {}
        }
    }
    let whole = |path: &str| {
        path.strip_prefix("recipe.").is_some_and(|rest| !rest.is_empty() && !rest.ends_with('.'))
    };
    found.into_iter().filter(move |(_, path)| whole(path))
}

/// The tags of a template without comments: offset, and text with the opening braces.
fn tags(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let open = find_tag(text, from)?;
        let ends = ["}}", "%}", "#}"].iter().filter_map(|end| text[open..].find(end));
        let close = ends.min().map_or(text.len(), |end| open + end);
        from = close.max(open + 2).min(text.len());
        Some((open, &text[open..close]))
    })
    .filter(|(_, tag)| !tag.starts_with("{#"))
}

/// The line of the first tag that names `word` as a whole.
pub(super) fn line_of(text: &str, word: &str) -> Option<usize> {
    tags(text).find_map(|(open, tag)| {
        let at = whole_word(tag, word)?;
        Some(text[..open + at].matches('\n').count() + 1)
    })
}

fn find_tag(text: &str, from: usize) -> Option<usize> {
    let rest = text.get(from..)?;
    ["{{", "{%", "{#"].iter().filter_map(|start| rest.find(start)).min().map(|at| from + at)
}

fn whole_word(text: &str, word: &str) -> Option<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let hits = text.match_indices(word);
    let mut whole = hits.filter(|(at, hit)| {
        !text[..*at].ends_with(part) && !text[at + hit.len()..].starts_with(|c| c != '.' && part(c))
    });
    whole.next().map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::{line_of, recipe_paths};

    #[test]
    fn paths_in_tags() {
        for (tag, paths) in [
            ("{{ recipe.name ", &["recipe.name"][..]),
            ("{% if recipe.a.b and not recipe.c[0].d ", &["recipe.a.b", "recipe.c"]),
            ("{{ x.recipe.a | f(v=recipe.b) ", &["recipe.b"]),
            ("{{ 'recipe.a' ~ \"it's recipe.b\" ~ recipe.c", &["recipe.c"]),
            ("{{ recipe }} ", &[]),
            ("{{ recipe. ", &[]),
        ] {
            assert_eq!(recipe_paths(tag).map(|(_, path)| path).collect::<Vec<_>>(), paths, "{tag}");
        }
    }

    #[test]
    fn words_are_found_in_tags_only() {
        for (text, word, line) in [
            ("x\n{{ ax }}\n{{ x }}", "x", Some(3)),
            ("x\n{{ x.y }}", "x", Some(2)),
            ("{{ y.x }}\n{%\n x %}", "x", Some(3)),
            ("x {# x #}", "x", None),
            ("{{ x", "x", Some(1)),
            ("{{", "x", None),
        ] {
            assert_eq!(line_of(text, word), line, "{text}");
        }
    }
}
