//! Cuts a filter expression into tokens, each with its place.

use std::fmt;

use heddle_types::Operator;
use serde_json::Value as Json;

use super::Fault;

/// One token and the byte at which it begins.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) offset: usize,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind {
    /// A name or a word of the language.
    Word(String),
    /// A number or a quoted text.
    Literal(Json),
    Operator(Operator),
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
    End,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Literal(json) => write!(f, "{json}"),
            Self::Operator(operator) => f.write_str(operator.name()),
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::OpenList => f.write_str("`[`"),
            Self::CloseList => f.write_str("`]`"),
            Self::Comma => f.write_str("`,`"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// The longer spelling first where one begins another.
const SYMBOLS: [(&str, Kind); 13] = [
    ("==", Kind::Operator(Operator::Equal)),
    ("!=", Kind::Operator(Operator::NotEqual)),
    ("<>", Kind::Operator(Operator::NotEqual)),
    ("<=", Kind::Operator(Operator::LessThanEqual)),
    (">=", Kind::Operator(Operator::GreaterThanEqual)),
    ("=", Kind::Operator(Operator::Equal)),
    ("<", Kind::Operator(Operator::LessThan)),
    (">", Kind::Operator(Operator::GreaterThan)),
    ("(", Kind::Open),
    (")", Kind::Close),
    ("[", Kind::OpenList),
    ("]", Kind::CloseList),
    (",", Kind::Comma),
];

/// Other spellings of words.
const WORD_SYMBOLS: [(&str, &str); 3] = [("&&", "and"), ("||", "or"), ("!", "not")];

/// All tokens, `Kind::End` last.
pub(super) fn tokens(expression: &str) -> Result<Vec<Token>, Fault> {
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let rest = &expression[offset..];
        let trimmed = rest.trim_start();
        offset += rest.len() - trimmed.len();
        let Some(first) = trimmed.chars().next() else {
            found.push(Token { kind: Kind::End, offset });
            return Ok(found);
        };
        let (kind, length) = match first {
            '"' | '\'' => quoted(trimmed, first, offset)?,
            '0'..='9' | '-' | '+' | '.' => number(trimmed, offset)?,
            _ if first.is_alphabetic() || first == '_' => word(trimmed),
            _ => symbol(trimmed, first, offset)?,
        };
        found.push(Token { kind, offset });
        offset += length;
    }
}

fn word(text: &str) -> (Kind, usize) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (Kind::Word(text[..end].to_owned()), end)
}

fn symbol(text: &str, first: char, offset: usize) -> Result<(Kind, usize), Fault> {
    if let Some((spelling, kind)) = SYMBOLS.iter().find(|(symbol, _)| text.starts_with(symbol)) {
        return Ok((kind.clone(), spelling.len()));
    }
    if let Some((symbol, word)) = WORD_SYMBOLS.iter().find(|(symbol, _)| text.starts_with(symbol)) {
        return Ok((Kind::Word((*word).to_owned()), symbol.len()));
    }
    Err(Fault { message: format!("`{first}` means nothing in a filter"), offset })
}

fn number(text: &str, offset: usize) -> Result<(Kind, usize), Fault> {
    let mut end = 0;
    for (index, c) in text.char_indices() {
        let after_exponent = matches!(text[..index].chars().next_back(), Some('e' | 'E'));
        let is_sign = matches!(c, '-' | '+') && (index == 0 || after_exponent);
        if !(c.is_alphanumeric() || c == '.' || is_sign) {
            break;
        }
        end = index + c.len_utf8();
    }
    let spelling = &text[..end];
    let plain = spelling.strip_prefix('+').unwrap_or(spelling);
    let json = match (plain.parse::<i64>(), plain.parse::<f64>()) {
        (Ok(whole), _) => Some(Json::from(whole)),
        (Err(_), Ok(number)) => serde_json::Number::from_f64(number).map(Json::Number),
        (Err(_), Err(_)) => None,
    };
    match json {
        Some(json) => Ok((Kind::Literal(json), end)),
        None => Err(Fault { message: format!("`{spelling}` is not a number"), offset }),
    }
}

/// A text in single or double quotes; a backslash takes the next character as it stands.
fn quoted(text: &str, quote: char, offset: usize) -> Result<(Kind, usize), Fault> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((index, c)) = characters.next() {
        if c == quote {
            return Ok((Kind::Literal(Json::String(value)), index + c.len_utf8()));
        }
        let taken = if c == '\\' { characters.next().map(|(_, next)| next) } else { Some(c) };
        value.extend(taken);
    }
    Err(Fault { message: format!("this text is not closed by {quote}"), offset })
}
