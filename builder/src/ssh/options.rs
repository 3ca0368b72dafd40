//! The options before a key. sshd drops a line with one that it does not know, and says so in its log only
//! (`sshauthopt_parse` in OpenSSH's auth-options.c).

/// Options without a value; those marked may stand with `no-` before them.
const FLAGS: [(&str, bool); 9] = [
    ("restrict", false),
    ("cert-authority", false),
    ("port-forwarding", true),
    ("agent-forwarding", true),
    ("x11-forwarding", true),
    ("touch-required", true),
    ("verify-required", true),
    ("pty", true),
    ("user-rc", true),
];
/// Options with a value in quotation marks, and whether they may stand more than once.
const VALUES: [(&str, bool); 8] = [
    ("command", false),
    ("principals", false),
    ("from", false),
    ("expiry-time", false),
    ("environment", true),
    ("permitopen", true),
    ("permitlisten", true),
    ("tunnel", false),
];

/// Where the options at the start of a line end: at the first blank outside of quotation marks. Nothing when a mark is
/// never closed.
pub(super) fn end(line: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            ' ' | '\t' if !quoted => return Some(at),
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    (!quoted).then_some(line.len())
}

/// Does sshd know these options?
pub(super) fn judge(text: &str) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for option in divide(text) {
        let name = option.split('=').next().unwrap_or_default();
        match option.split_once('=') {
            None => flag(name)?,
            Some((name, value)) => seen.push(with_value(name, value, &seen)?),
        }
    }
    Ok(())
}

/// The options, which commas outside of quotation marks separate.
fn divide(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            ',' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

fn flag(name: &str) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    let known = |flag: &str| FLAGS.iter().any(|(name, _)| *name == flag);
    let negated = |flag: &str| FLAGS.contains(&(flag, true));
    match lower.strip_prefix("no-") {
        _ if known(&lower) => Ok(()),
        Some(rest) if negated(rest) => Ok(()),
        _ if lower.is_empty() => Err("has a comma in its options that nothing follows".into()),
        _ => Err("has an option that sshd does not know: it would pass over the whole line".into()),
    }
}

/// The option's name as it is in the table.
fn with_value(name: &str, value: &str, seen: &[&str]) -> Result<&'static str, String> {
    let lower = name.to_ascii_lowercase();
    let Some((known, many)) = VALUES.into_iter().find(|(known, _)| *known == lower) else {
        return Err("has an option that sshd does not know: it would pass over the whole line".into());
    };
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if inner.is_none_or(|inner| inner.replace("\\\"", "").contains('"')) {
        return Err(format!("has the option `{known}` without its value in quotation marks"));
    }
    if !many && seen.contains(&known) {
        return Err(format!("has the option `{known}` twice"));
    }
    if known == "expiry-time" && !inner.is_some_and(is_time) {
        return Err(
            "has an `expiry-time` that is no time: expected YYYYMMDD[Z] or YYYYMMDDHHMM[SS][Z]".into()
        );
    }
    Ok(known)
}

fn is_time(text: &str) -> bool {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    [8, 12, 14].contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{end, judge};

    #[test]
    fn options_end_at_a_blank_that_is_not_quoted() {
        for (line, expected) in [
            ("a key", Some(1)),
            ("c=\"a b\",d key", Some(9)),
            ("c=\"a\\\" b\" key", Some(9)),
            ("c=\"a b", None),
            ("only", Some(4)),
            ("é\tkey", Some(2)),
        ] {
            assert_eq!(end(line), expected, "{line}");
        }
    }

    #[test]
    fn only_what_sshd_knows() {
        for good in [
            "restrict",
            "NO-X11-Forwarding,pty,no-user-rc,touch-required",
            "command=\"a,b \\\"c\\\"\",from=\"*.example\"",
            "environment=\"A=b\",environment=\"C=d\",permitopen=\"h:1\"",
            "cert-authority,principals=\"a\"",
            "expiry-time=\"20270101\",tunnel=\"0\"",
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
        for bad in [
            "no-restrict",
            "comand=\"x\"",
            "command=x",
            "command",
            "pty=\"x\"",
            "restrict,",
            "command=\"a\"b\"",
            "command=\"a\",command=\"b\"",
            "expiry-time=\"soon\"",
            "hello",
            "no-no-pty",
        ] {
            assert!(judge(bad).is_err(), "{bad}");
        }
    }
}
