//! Splits Rust source into code and comments, so that a word in a string is not taken for code.

/// A source text seen twice, each with the rest blanked; both keep the original line breaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layers {
    /// Code without comments and string literals.
    pub(crate) code: String,
    /// Comments alone.
    pub(crate) comments: String,
}

#[derive(Clone, Copy)]
enum State {
    Code,
    LineComment,
    /// Nesting depth.
    BlockComment(usize),
    /// A string literal whose backslashes escape.
    Text,
    /// A raw string literal and its number of hash signs.
    RawText(usize),
}

impl Layers {
    pub(crate) fn split(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut code = Vec::with_capacity(bytes.len());
        let mut comments = Vec::with_capacity(bytes.len());
        let mut state = State::Code;
        let mut at = 0;
        while at < bytes.len() {
            let (next, length) = step(state, bytes, at);
            for &byte in &bytes[at..at + length] {
                // A comment's opening belongs to the comment; a string's quotes to the string.
                let (in_code, in_comment) = match (state, next) {
                    (State::Code, State::Code) => (true, false),
                    (State::LineComment | State::BlockComment(_), _)
                    | (State::Code, State::LineComment | State::BlockComment(_)) => (false, true),
                    _ => (false, false),
                };
                code.push(if in_code || byte == b'\n' { byte } else { b' ' });
                comments.push(if in_comment || byte == b'\n' { byte } else { b' ' });
            }
            at += length;
            state = next;
        }
        Self {
            code: String::from_utf8_lossy(&code).into_owned(),
            comments: String::from_utf8_lossy(&comments).into_owned(),
        }
    }
}

/// The state after the token at `at`, and the token's length in bytes (at least 1).
fn step(state: State, bytes: &[u8], at: usize) -> (State, usize) {
    let rest = &bytes[at..];
    match state {
        State::Code => step_code(bytes, at),
        State::LineComment if rest[0] == b'\n' => (State::Code, 1),
        State::LineComment => (State::LineComment, 1),
        State::BlockComment(depth) if rest.starts_with(b"/*") => {
            (State::BlockComment(depth + 1), 2)
        }
        State::BlockComment(1) if rest.starts_with(b"*/") => (State::Code, 2),
        State::BlockComment(depth) if rest.starts_with(b"*/") => {
            (State::BlockComment(depth - 1), 2)
        }
        State::Text if rest[0] == b'\\' && rest.len() > 1 => (State::Text, 2),
        State::Text if rest[0] == b'"' => (State::Code, 1),
        State::RawText(hashes) if closes_raw(rest, hashes) => (State::Code, 1 + hashes),
        State::BlockComment(_) | State::Text | State::RawText(_) => (state, 1),
    }
}

fn step_code(bytes: &[u8], at: usize) -> (State, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return (State::LineComment, 2);
    }
    if rest.starts_with(b"/*") {
        return (State::BlockComment(1), 2);
    }
    match rest[0] {
        b'"' => (State::Text, 1),
        b'r' if at == 0 || !is_word(bytes[at - 1]) || is_byte_prefix(bytes, at) => {
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            match rest.get(1 + hashes) {
                Some(b'"') => (State::RawText(hashes), 2 + hashes),
                _ => (State::Code, 1),
            }
        }
        // A character literal stays code, taken whole so that a quote in it opens no string.
        b'\'' => (State::Code, character_length(rest).unwrap_or(1)),
        _ => (State::Code, 1),
    }
}

/// Whether the `r` at `at` continues a `b` or `c` that opens a raw byte or C string.
fn is_byte_prefix(bytes: &[u8], at: usize) -> bool {
    matches!(bytes[at - 1], b'b' | b'c') && (at < 2 || !is_word(bytes[at - 2]))
}

/// Length of the character literal at the start of `rest`; `None` for a lifetime.
fn character_length(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let tail = rest.get(3..)?;
        return tail.iter().take(12).position(|&byte| byte == b'\'').map(|index| index + 4);
    }
    // One character of one to four bytes, then the closing quote.
    let close = rest.get(2..6.min(rest.len()))?.iter().position(|&byte| byte == b'\'')? + 2;
    let is_one = std::str::from_utf8(&rest[1..close]).is_ok_and(|text| text.chars().count() == 1);
    is_one.then_some(close + 1)
}

fn closes_raw(rest: &[u8], hashes: usize) -> bool {
    rest[0] == b'"' && rest.len() > hashes && rest[1..=hashes].iter().all(|&byte| byte == b'#')
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// Whether `text` has `word` at `index` as a whole word.
fn is_whole_word(text: &str, index: usize, word: &str) -> bool {
    let bytes = text.as_bytes();
    let end = index + word.len();
    (index == 0 || !is_word(bytes[index - 1])) && bytes.get(end).is_none_or(|&byte| !is_word(byte))
}

/// The 1-based lines on which `word` stands as a whole word.
pub(crate) fn lines_with_word(text: &str, word: &str) -> Vec<usize> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| has_word(line, word))
        .map(|(index, _)| index + 1)
        .collect()
}

/// Whether `word` stands in `text` as a whole word.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(index, _)| is_whole_word(text, index, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Layers::split(text).code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn comments(text: &str) -> String {
        Layers::split(text).comments.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn strings_and_comments_are_not_code() {
        assert_eq!(code("let a = \"un//safe\\\" x\"; // unsafe\nb();"), "let a = ; b();");
        assert_eq!(code("a /* x /* y */ z */ b"), "a b");
        assert_eq!(comments("a /* x /* y */ z */ b // tail"), "/* x /* y */ z */ // tail");
    }

    #[test]
    fn raw_and_byte_strings_end_where_their_hashes_do() {
        assert_eq!(code("f(r#\"a \"quoted\" b\"#, c)"), "f( , c)");
        assert_eq!(code("f(br\"x\\\", c)"), "f(b , c)");
        assert_eq!(code("for(r in x) { \"y\" }"), "for(r in x) { }");
        assert_eq!(code("let raw = var\"x\";"), "let raw = var ;");
    }

    #[test]
    fn quotes_in_characters_and_lifetimes_open_no_string() {
        assert_eq!(
            code("fn a<'a>(x: &'a str) { x == '\"' }"),
            "fn a<'a>(x: &'a str) { x == '\"' }"
        );
        assert_eq!(code("['\\'', '/', 'é'] b"), "['\\'', '/', 'é'] b");
    }

    #[test]
    fn lines_are_kept() {
        let text = "a\n/* b\nc */\n\"d\ne\"\nf";
        let layers = Layers::split(text);
        assert_eq!(layers.code.lines().count(), 6);
        assert_eq!(lines_with_word(&layers.code, "f"), [6]);
        assert_eq!(lines_with_word(&layers.comments, "c"), [3]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("x unsafe {", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
        assert!(!has_word("GlommioDevice glommio_x", "glommio"));
    }
}
