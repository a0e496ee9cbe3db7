//! Wraps comment lines that are too long, which rustfmt leaves alone.
//!
//! Only whole-line comments are touched, and only where one of their lines is too long: its tail
//! moves to the next line of the same paragraph. Fenced blocks, tables and links stay.

use std::path::Path;

use crate::command::Failure;
use crate::tidy::{COLUMNS_MAX, Tree};

/// Wraps the comments of every Rust file.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let tree = Tree::load(root)?;
    for (file, _) in tree.rust() {
        let wrapped = wrap(&file.text);
        if wrapped != file.text {
            let path = root.join(&file.path);
            std::fs::write(&path, wrapped).map_err(|error| Failure::io(&path, &error))?;
        }
    }
    Ok(())
}

/// One whole-line comment, taken apart.
struct Comment<'a> {
    /// Indentation and marker.
    marker: &'a str,
    /// Spaces between the marker and the text.
    gap: usize,
    text: &'a str,
}

impl<'a> Comment<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let start = line.len() - line.trim_start().len();
        let marker = ["///", "//!", "//"].into_iter().find(|m| line[start..].starts_with(m))?;
        let (marker, rest) = line.split_at(start + marker.len());
        let text = rest.trim_start();
        Some(Self { marker, gap: rest.len() - text.len(), text })
    }

    /// Where lines after the first of a list item begin; 0 extra for ordinary text.
    fn hang(&self) -> usize {
        let bullet = self.text.split_once(' ').map_or("", |(bullet, _)| bullet);
        let number = bullet.strip_suffix('.').is_some_and(|n| n.parse::<u32>().is_ok());
        if number || matches!(bullet, "-" | "*") { bullet.len() + 1 } else { 0 }
    }

    fn is_prose(&self) -> bool {
        let opens = ['|', '#', '`', '+'].iter().any(|c| self.text.starts_with(*c));
        let is_code = self.text.starts_with('`') && !self.text.starts_with("```");
        !self.text.is_empty() && self.gap > 0 && (!opens || is_code)
    }

    /// Whether this line goes on with the paragraph of `other`.
    fn continues(&self, other: &Self) -> bool {
        self.marker == other.marker
            && self.gap == other.gap + other.hang()
            && self.is_prose()
            && self.hang() == 0
    }
}

/// The text with its long comment lines wrapped.
fn wrap(text: &str) -> String {
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let mut index = 0;
    let mut fenced = false;
    while index < lines.len() {
        let line = lines[index].clone();
        let comment = Comment::parse(&line);
        if comment.as_ref().is_none_or(|comment| comment.text.starts_with("```")) {
            // A fence ends with its comment at the latest.
            fenced = comment.is_some() && !fenced;
        } else if let Some(comment) = comment.filter(|comment| comment.is_prose() && !fenced)
            && let Some((head, tail)) = split(&line, &comment)
        {
            let next = lines.get(index + 1).and_then(|next| Comment::parse(next));
            let prefix = format!("{}{}", comment.marker, " ".repeat(comment.gap + comment.hang()));
            match next.filter(|next| next.continues(&comment)) {
                Some(next) => lines[index + 1] = format!("{prefix}{tail} {}", next.text),
                None => lines.insert(index + 1, format!("{prefix}{tail}")),
            }
            lines[index] = head.to_owned();
        }
        index += 1;
    }
    lines.join("\n")
}

/// The part of a long line that fits, and the rest.
fn split<'a>(line: &'a str, comment: &Comment<'_>) -> Option<(&'a str, &'a str)> {
    if line.chars().count() <= COLUMNS_MAX || line.contains("https://") {
        return None;
    }
    let text_start = line.len() - comment.text.len() + comment.hang();
    let limit = line.char_indices().nth(COLUMNS_MAX).map(|(offset, _)| offset)?;
    let space = line[..=limit.min(line.len() - 1)].rfind(' ').filter(|at| *at > text_start)?;
    Some((line[..space].trim_end(), &line[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> String {
        vec!["warp"; count].join(" ")
    }

    #[test]
    fn a_long_line_flows_into_its_paragraph() {
        let text = format!("/// {}\n/// weft.\n///\n/// Next.\nfn a() {{}}\n", words(21));
        let expected =
            format!("/// {}\n/// warp warp weft.\n///\n/// Next.\nfn a() {{}}\n", words(19));
        assert_eq!(wrap(&text), expected);
        assert_eq!(wrap(&expected), expected, "wrapped text stays as it is");
    }

    #[test]
    fn a_long_line_before_code_or_another_item_gets_a_line_of_its_own() {
        let text = format!("    // {}\n    call();\n", words(20));
        assert_eq!(wrap(&text), format!("    // {}\n    // warp warp\n    call();\n", words(18)));
        let text = format!("//! - {}\n//! - b\n", words(20));
        assert_eq!(wrap(&text), format!("//! - {}\n//!   warp\n//! - b\n", words(19)));
    }

    #[test]
    fn fences_tables_links_code_and_short_lines_stay() {
        let long = words(30);
        let text = format!(
            "//! ```\n//! {long}\n//! ```\n//! | {long} |\n/// https://a.b {long}\nlet a = \"{long}\"; \
             // {long}\n/// é{}\n",
            "x".repeat(95)
        );
        assert_eq!(wrap(&text), text);
    }

    #[test]
    fn a_line_of_exactly_the_limit_stays_and_one_more_is_wrapped() {
        let exact = format!("// {} {}", words(19), "xx");
        assert_eq!(exact.chars().count(), COLUMNS_MAX);
        assert_eq!(wrap(&exact), exact);
        let over = format!("{exact}x");
        assert_eq!(wrap(&over), format!("// {}\n// xxx", words(19)));
    }
}
