//! Routes of edgeHub: which messages go where.
//!
//! ```text
//! FROM /messages/modules/sensor/outputs/* WHERE temperature > 30 INTO BrokeredEndpoint("/modules/filter/inputs/in")
//!      └───────────── source ───────────┘       └─ condition ──┘      └────────────────── sink ──────────────────┘
//! ```
//!
//! The grammar is edgeHub's own (Route.g4, Condition.g4, GrammarLexer.g4 in Microsoft.Azure.Devices.Routing.Core), with its
//! oddities: `==` is no operator, and text after the sink is ignored.

mod tokens;

use std::ops::Range;

use tokens::{Token, TokenKind, tokens};

/// Longest route that is read, in bytes; IoT Hub's longest string value is 4 KB.
const LONGEST: usize = 8192;
/// Parentheses within parentheses that are followed.
const DEEPEST: usize = 64;
/// Functions of conditions (ConditionVisitor.cs), in whatever case.
pub(crate) const FUNCTIONS: [&str; 24] = [
    "abs",
    "as_number",
    "ceiling",
    "concat",
    "contains",
    "ends_with",
    "exp",
    "floor",
    "index_of",
    "is_bool",
    "is_defined",
    "is_null",
    "is_number",
    "is_string",
    "length",
    "lower",
    "power",
    "sign",
    "sqrt",
    "square",
    "starts_with",
    "substring",
    "twin_change_includes",
    "upper",
];

/// A route, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The source's parts: `["messages", "*"]`.
    pub source: Vec<String>,
    /// Has it a condition?
    pub conditional: bool,
    /// Where messages go.
    pub sink: Sink,
    /// Functions that the condition calls, as they are written.
    pub functions: Vec<String>,
    /// What stands behind the sink, which edgeHub ignores.
    pub ignored: Option<String>,
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// IoT Hub, or the parent device.
    Upstream,
    /// An input of a module.
    Module {
        /// The module.
        module: String,
        /// The input.
        input: String,
        /// The address is /modules/NAME/inputs/INPUT, and not only four parts of something.
        documented: bool,
    },
}

/// Why a route does not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// Where in the route, in bytes.
    pub span: Range<usize>,
}

impl Route {
    /// The module that messages come from, where the source names one.
    pub fn from_module(&self) -> Option<&str> {
        let parts: Vec<&str> = self.source.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["messages", "modules", name, ..] if *name != "*" => Some(name),
            _ => None,
        }
    }
}

/// Parses a route.
///
/// # Errors
/// The first thing that edgeHub's grammar does not take.
pub fn parse(text: &str) -> Result<Route, Fault> {
    if text.len() > LONGEST {
        return Err(Fault { message: format!("it is longer than {LONGEST} bytes"), span: 0..0 });
    }
    let mut parser = Parser { text, tokens: tokens(text), at: 0, functions: Vec::new() };
    if parser.peek().kind == TokenKind::Select {
        parser.at += 1;
        parser.expect(TokenKind::Star, "`*` after SELECT")?;
    }
    parser.expect(TokenKind::From, "FROM")?;
    let source = parser.source()?;
    let conditional = parser.peek().kind == TokenKind::Where;
    if conditional {
        parser.at += 1;
        parser.expression(0)?;
    }
    parser.expect(TokenKind::Into, if conditional { "INTO, or an operator" } else { "WHERE or INTO" })?;
    let sink = parser.sink()?;
    let rest = text.get(parser.peek().span.start..).unwrap_or_default().trim();
    let ignored = (!rest.is_empty()).then(|| rest.to_owned());
    Ok(Route { source, conditional, sink, functions: parser.functions, ignored })
}

struct Parser<'a> {
    text: &'a str,
    /// Ends with the kind `End`.
    tokens: Vec<Token>,
    at: usize,
    functions: Vec<String>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token {
        let end = Token { kind: TokenKind::End, span: self.text.len()..self.text.len() };
        self.tokens.get(self.at).cloned().unwrap_or(end)
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn word(&self, token: &Token) -> &'a str {
        self.text.get(token.span.clone()).unwrap_or_default()
    }

    fn unexpected<T>(&self, token: &Token, wanted: &str) -> Result<T, Fault> {
        let found = match token.kind {
            TokenKind::End => "it ends".to_owned(),
            TokenKind::Unterminated => "a string has no end".to_owned(),
            _ => format!("`{}` stands", edgepress_base::finding::clean(self.word(token))),
        };
        Err(Fault { message: format!("{found} where {wanted} is expected"), span: token.span.clone() })
    }

    fn expect(&mut self, kind: TokenKind, wanted: &str) -> Result<Token, Fault> {
        let token = self.next();
        if token.kind == kind { Ok(token) } else { self.unexpected(&token, wanted) }
    }

    fn source(&mut self) -> Result<Vec<String>, Fault> {
        let mut parts = Vec::new();
        while self.peek().kind == TokenKind::Slash {
            self.at += 1;
            let part = self.next();
            match part.kind {
                TokenKind::Star | TokenKind::Word => parts.push(self.word(&part).to_owned()),
                _ => return self.unexpected(&part, "a name or `*`"),
            }
        }
        if parts.is_empty() {
            self.unexpected(&self.peek(), "a source such as /messages/*")
        } else {
            Ok(parts)
        }
    }

    /// Operators' precedence does not count for whether it parses.
    fn expression(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > DEEPEST {
            let message = format!("the condition is nested more than {DEEPEST} levels deep");
            return Err(Fault { message, span: self.peek().span });
        }
        loop {
            self.operand(depth)?;
            if !matches!(
                self.peek().kind,
                TokenKind::Operator | TokenKind::Star | TokenKind::Slash | TokenKind::Minus
            ) {
                return Ok(());
            }
            self.at += 1;
        }
    }

    fn operand(&mut self, depth: usize) -> Result<(), Fault> {
        let mut token = self.next();
        while matches!(token.kind, TokenKind::Minus | TokenKind::Not) {
            token = self.next();
        }
        match token.kind {
            TokenKind::Open => {
                self.expression(depth + 1)?;
                self.expect(TokenKind::Close, "`)`").map(drop)
            }
            TokenKind::OpenBrace => {
                self.expect(TokenKind::System, "a system property")?;
                self.expect(TokenKind::CloseBrace, "`}`").map(drop)
            }
            TokenKind::Word if self.peek().kind == TokenKind::Open => {
                self.functions.push(self.word(&token).to_owned());
                self.arguments(depth + 1)
            }
            TokenKind::Word | TokenKind::System | TokenKind::String | TokenKind::Literal => Ok(()),
            _ => self.unexpected(&token, "a property, a value or a function"),
        }
    }

    fn arguments(&mut self, depth: usize) -> Result<(), Fault> {
        self.at += 1;
        if self.peek().kind == TokenKind::Close {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.expression(depth)?;
            let token = self.next();
            match token.kind {
                TokenKind::Comma => {}
                TokenKind::Close => return Ok(()),
                _ => return self.unexpected(&token, "`,` or `)`"),
            }
        }
    }

    fn sink(&mut self) -> Result<Sink, Fault> {
        let wanted = "$upstream or BrokeredEndpoint(\"/modules/NAME/inputs/INPUT\")";
        let token = self.next();
        let word = self.word(&token);
        match token.kind {
            TokenKind::System if word.eq_ignore_ascii_case("$upstream") => Ok(Sink::Upstream),
            TokenKind::Word if word.eq_ignore_ascii_case("BrokeredEndpoint") => {
                self.expect(TokenKind::Open, "`(`")?;
                let address = self.expect(TokenKind::String, "\"/modules/NAME/inputs/INPUT\"")?;
                self.expect(TokenKind::Close, "`)`")?;
                endpoint(self.word(&address), &address.span)
            }
            _ => self.unexpected(&token, wanted),
        }
    }
}

/// EndpointFactory.cs splits the address at `/` and takes the second and the fourth part, whatever the others are.
fn endpoint(literal: &str, span: &Range<usize>) -> Result<Sink, Fault> {
    let address = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default().trim();
    let address = address.strip_prefix('/').unwrap_or(address);
    let address = address.strip_suffix('/').unwrap_or(address);
    let parts: Vec<&str> = address.split('/').collect();
    let [modules, module, inputs, input] = parts.as_slice() else {
        let message = "the address is not of the form /modules/NAME/inputs/INPUT".into();
        return Err(Fault { message, span: span.clone() });
    };
    let documented = (*modules, *inputs) == ("modules", "inputs");
    Ok(Sink::Module { module: (*module).into(), input: (*input).into(), documented })
}

#[cfg(test)]
mod tests;
