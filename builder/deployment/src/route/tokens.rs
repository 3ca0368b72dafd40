//! The words of a route, split as edgeHub's lexer splits them: of all tokens that fit, the longest; of those, the first.

use std::ops::Range;

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) span: Range<usize>,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Select,
    From,
    Where,
    Into,
    Not,
    /// A quoted string.
    String,
    /// One without its end.
    Unterminated,
    /// A number, `true`, `false`, `null`, `undefined`.
    Literal,
    Open,
    Close,
    OpenBrace,
    CloseBrace,
    Comma,
    Star,
    Slash,
    Minus,
    /// Any other that stands between two operands.
    Operator,
    /// `$body.temperature`, `$upstream`.
    System,
    /// A name.
    Word,
    /// What has no place in a route.
    Unknown,
    End,
}

/// Words that are no names, in whatever case.
const KEYWORDS: [(&str, TokenKind); 7] = [
    ("select", TokenKind::Select),
    ("from", TokenKind::From),
    ("where", TokenKind::Where),
    ("into", TokenKind::Into),
    ("and", TokenKind::Operator),
    ("or", TokenKind::Operator),
    ("not", TokenKind::Not),
];
/// Values that are words, in this case alone.
const VALUES: [&str; 4] = ["true", "false", "null", "undefined"];
/// In the order of the lexer; those of two characters are longer and so come first.
const SYMBOLS: [(&str, TokenKind); 20] = [
    ("!=", TokenKind::Operator),
    ("<>", TokenKind::Operator),
    ("<=", TokenKind::Operator),
    (">=", TokenKind::Operator),
    ("||", TokenKind::Operator),
    ("??", TokenKind::Operator),
    ("(", TokenKind::Open),
    (")", TokenKind::Close),
    ("{", TokenKind::OpenBrace),
    ("}", TokenKind::CloseBrace),
    (",", TokenKind::Comma),
    ("*", TokenKind::Star),
    ("/", TokenKind::Slash),
    ("-", TokenKind::Minus),
    ("+", TokenKind::Operator),
    ("%", TokenKind::Operator),
    ("=", TokenKind::Operator),
    (">", TokenKind::Operator),
    ("<", TokenKind::Operator),
    (";", TokenKind::Unknown),
];

/// All tokens of a text, `End` at its end.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if [' ', '\t', '\r', '\n'].contains(&c) {
            at += 1;
        } else if let Some(length) = comment(rest) {
            at += length;
        } else {
            let (kind, length) = token(rest, c);
            tokens.push(Token { kind, span: at..at + length });
            at += length;
        }
    }
    tokens.push(Token { kind: TokenKind::End, span: text.len()..text.len() });
    tokens
}

fn comment(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix("/*")?;
    inside.find("*/").map(|end| end + 4)
}

fn token(rest: &str, first: char) -> (TokenKind, usize) {
    let word = run(rest, is_name);
    let path = run(rest, is_path);
    let system = rest.strip_prefix('$').map_or(0, |rest| run(rest, is_path)) + 1;
    let (quoted, closed) = if first == '"' || first == '\'' { string(rest, first) } else { (0, false) };
    let number = number(rest);
    let symbol = SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol));
    // In the lexer's order: of two that are as long the earlier is taken.
    let candidates = [
        (
            keyword(&rest[..word]).unwrap_or(TokenKind::Unknown),
            if keyword(&rest[..word]).is_some() { word } else { 0 },
        ),
        (if closed { TokenKind::String } else { TokenKind::Unterminated }, quoted),
        (TokenKind::Literal, number),
        (TokenKind::Literal, if VALUES.contains(&&rest[..word]) { word } else { 0 }),
        symbol.map_or((TokenKind::Unknown, 0), |(symbol, kind)| (*kind, symbol.len())),
        (TokenKind::System, if first == '$' && system > 1 { system } else { 0 }),
        (TokenKind::Word, word),
        (TokenKind::Unknown, path),
        (TokenKind::Unknown, first.len_utf8()),
    ];
    let longest = candidates.iter().map(|(_, length)| *length).max().unwrap_or_default();
    candidates
        .into_iter()
        .find(|(_, length)| *length == longest)
        .unwrap_or((TokenKind::Unknown, first.len_utf8()))
}

fn keyword(word: &str) -> Option<TokenKind> {
    KEYWORDS.iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(word)).map(|(_, kind)| *kind)
}

fn run(text: &str, of: fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

/// `ID_CHARS`
fn is_name(c: char) -> bool {
    is_path(c) && c != '[' && c != ']'
}

/// `QUERY_PATH_CHARS`
fn is_path(c: char) -> bool {
    !"()<>@,;:\\\"/?={} \t\n\r".contains(c)
}

/// How long the string at the beginning is, and whether it has its end.
fn string(text: &str, quote: char) -> (usize, bool) {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return (at + c.len_utf8(), true),
            '\\' => match chars.next() {
                Some((_, '"' | '\'' | '\\')) => {}
                Some((at, 'u')) if text.get(at + 1..at + 5).is_some_and(is_hex) => {}
                _ => return (at, false),
            },
            _ => {}
        }
    }
    (text.len(), false)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How long the number at the beginning is: an integer, `0x…`, a real one. An exponent alone is one, too: `e5`.
fn number(text: &str) -> usize {
    let digits = |text: &str| run(text, |c| c.is_ascii_digit());
    let exponent = |text: &str| {
        let Some(rest) = text.strip_prefix(['e', 'E']) else { return 0 };
        let sign = usize::from(rest.starts_with(['+', '-']));
        match digits(&rest[sign..]) {
            0 => 0,
            length => 1 + sign + length,
        }
    };
    if let Some(rest) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let length = run(rest, |c| c.is_ascii_hexdigit());
        if length > 0 {
            return 2 + length;
        }
    }
    let sign = usize::from(text.starts_with('-'));
    let whole = digits(&text[sign..]);
    let end = sign + whole;
    let fraction = text[end..].strip_prefix('.').map_or(0, digits);
    match (fraction, exponent(&text[end..])) {
        (0, 0) if whole > 0 => end,
        (0, 0) => 0,
        (0, length) => end + length,
        (length, _) => end + 1 + length + exponent(&text[end + 1 + length..]),
    }
}
