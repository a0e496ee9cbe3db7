//! Patterns of the `Like` operator.
//!
//! `*` stands for any run of characters, also none; `?` for exactly one character (a Unicode
//! scalar value); a backslash makes the next character stand for itself, and a backslash at the
//! end stands for itself. Everything else is compared as it is: case matters, as it does for
//! `Equal`.

/// One element of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Char(char),
    AnyOne,
    AnyRun,
}

/// A parsed pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LikePattern {
    tokens: Vec<Token>,
}

impl LikePattern {
    /// Parses a pattern; every text is one.
    #[must_use]
    pub fn parse(pattern: &str) -> Self {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '*' if tokens.last() == Some(&Token::AnyRun) => continue,
                '*' => Token::AnyRun,
                '?' => Token::AnyOne,
                '\\' => Token::Char(characters.next().unwrap_or('\\')),
                other => Token::Char(other),
            });
        }
        Self { tokens }
    }

    /// The text that every match begins with.
    #[must_use]
    pub fn literal_prefix(&self) -> String {
        let literal = |token: &Token| match token {
            Token::Char(character) => Some(*character),
            Token::AnyOne | Token::AnyRun => None,
        };
        self.tokens.iter().map_while(literal).collect()
    }

    /// Is the pattern a literal and then `*`, so that the prefix alone decides?
    #[must_use]
    pub fn is_prefix_search(&self) -> bool {
        self.tokens.split_last().is_some_and(|(last, rest)| {
            *last == Token::AnyRun && rest.iter().all(|token| matches!(token, Token::Char(_)))
        })
    }

    /// Does the whole text match? Cost: at worst characters times tokens; no allocation.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text.chars();
        let mut position = 0;
        // Where to resume when the current attempt fails: the last run swallows one more character.
        let mut resume: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let token = self.tokens.get(position);
            if token == Some(&Token::AnyRun) {
                position += 1;
                resume = Some((position, rest.clone()));
                continue;
            }
            let mut next = rest.clone();
            let fits = match (token, next.next()) {
                (None, None) => return true,
                (Some(Token::Char(wanted)), Some(found)) => *wanted == found,
                (Some(Token::AnyOne), Some(_)) => true,
                _ => false,
            };
            if fits {
                rest = next;
                position += 1;
                continue;
            }
            let Some((after_run, mut swallowed)) = resume.take() else { return false };
            if swallowed.next().is_none() {
                return false;
            }
            position = after_run;
            rest = swallowed.clone();
            resume = Some((after_run, swallowed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(pattern: &str, text: &str) -> bool {
        LikePattern::parse(pattern).matches(text)
    }

    #[test]
    fn stars_question_marks_and_escapes() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("**a**", "bab"),
            ("a?c", "abc"),
            ("a?c", "aéc"),
            ("?", "語"),
            ("a*b*c", "a-b-b-c"),
            ("*ab", "aab"),
            ("*aab", "aaaab"),
            (r"a\*", "a*"),
            (r"\?", "?"),
            (r"\\", r"\"),
            ("a\\", "a\\"),
            (r"\a", "a"),
            ("*.rs", "lib.rs"),
        ] {
            assert!(like(pattern, text), "{pattern} should match {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("?", ""),
            ("??", "語"),
            ("abc", "ABC"),
            ("a?c", "ac"),
            (r"a\*", "ab"),
            (r"\?", "x"),
            ("a*b", "abc"),
            ("*ab", "aba"),
        ] {
            assert!(!like(pattern, text), "{pattern} should not match {text}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let text = "a".repeat(1_000);
        assert!(!like(&"a*".repeat(200).replace("a*a*", "*a"), &format!("{text}b")));
        assert!(!like(&format!("{}b", "*a".repeat(100)), &text));
    }

    #[test]
    fn prefixes_are_literal() {
        assert_eq!(LikePattern::parse(r"ab\*c*d?").literal_prefix(), "ab*c");
        assert!(LikePattern::parse("ab*").is_prefix_search());
        assert!(LikePattern::parse("*").is_prefix_search());
        assert!(!LikePattern::parse("ab").is_prefix_search());
        assert!(!LikePattern::parse("a?*").is_prefix_search());
        assert!(!LikePattern::parse(r"ab\*").is_prefix_search());
    }
}
