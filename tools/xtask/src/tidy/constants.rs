//! Numbers that leave the process are documented: error codes, message types, exit codes.

use super::lexer::has_word;
use super::tree::SourceFile;
use super::{Finding, Tree};

/// An enum whose numbers others rely on, and the document that lists them.
struct Documented {
    /// Folder below which the enum is defined; it may move between files.
    folder: &'static str,
    name: &'static str,
    document: &'static str,
}

const DOCUMENTED: [Documented; 3] = [
    Documented { folder: "core/types/src/", name: "ErrorCode", document: "docs/protocol.md" },
    Documented { folder: "core/types/src/", name: "FatalReason", document: "docs/operations.md" },
    Documented { folder: "net/wire/src/", name: "MessageType", document: "docs/protocol.md" },
];

/// A variant with its number, as written in the source.
#[derive(Debug, PartialEq, Eq)]
struct Variant {
    name: String,
    number: u64,
    line: usize,
}

/// The numbered variants of `enum name` in one file; `None` when the file does not define it.
fn variants(file: &SourceFile, name: &str) -> Option<Vec<Variant>> {
    let code = &file.layers.as_ref()?.code;
    let head = format!("enum {name}");
    let mut lines = code.lines().enumerate();
    lines.find(|(_, line)| has_word(line, &head))?;
    let body = lines.take_while(|(_, line)| line.trim_end() != "}");
    Some(body.filter_map(|(index, line)| variant(index + 1, line)).collect())
}

fn variant(line_number: usize, line: &str) -> Option<Variant> {
    let (name, number) = line.trim().split_once(" = ")?;
    // What follows the comma is for the macro that makes the enum.
    let number = number.split(',').next()?;
    let is_name = name.chars().next().is_some_and(|c| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    let number = number.trim().replace('_', "");
    let number = match number.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    is_name.then(|| Variant { name: name.to_owned(), number, line: line_number })
}

/// `DiskFull` as `disk_full`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// Whether some line of the document gives the variant's name and number together.
fn is_documented(document: &str, variant: &Variant) -> bool {
    let names = [variant.name.clone(), snake_case(&variant.name)];
    let numbers = [
        variant.number.to_string(),
        format!("{:#06x}", variant.number),
        format!("{:#x}", variant.number),
    ];
    document.lines().any(|line| {
        names.iter().any(|name| has_word(line, name))
            && numbers.iter().any(|number| has_word(line, number))
    })
}

pub(super) fn every_constant_is_documented(tree: &Tree) -> Vec<Finding> {
    DOCUMENTED.iter().flat_map(|documented| missing(tree, documented)).collect()
}

fn missing(tree: &Tree, documented: &Documented) -> Vec<Finding> {
    let Documented { folder, name, document } = documented;
    let Some(text) = tree.file(document).map(|file| file.text.as_str()) else {
        return vec![Finding::whole(document, format!("is missing; it lists every {name}"))];
    };
    let definition = tree
        .rust()
        .filter(|(file, _)| file.path.starts_with(folder))
        .find_map(|(file, _)| Some((file, variants(file, name)?)));
    // A check that finds nothing to check has lost its subject, and says so.
    let Some((file, variants)) = definition.filter(|(_, variants)| !variants.is_empty()) else {
        return vec![Finding::whole(folder, format!("no numbered `enum {name}` found here"))];
    };
    variants
        .iter()
        .filter(|variant| !is_documented(text, variant))
        .map(|variant| {
            let message = format!(
                "no line of {document} names `{}` with its number {}",
                variant.name, variant.number
            );
            Finding::at(&file.path, variant.line, message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: &str = "//! a\npub enum FatalReason {\n    /// Doc = 9,\n    Config = 64,\n    \
                         WalWrite = 0x47,\n}\nconst OTHER: u8 = 3;\n";

    const REASONS: Documented = Documented {
        folder: "core/types/src/",
        name: "FatalReason",
        document: "docs/operations.md",
    };

    fn check(document: &str, expected: &[&str]) {
        let tree =
            Tree::of(&[("core/types/src/fatal.rs", CODES), ("docs/operations.md", document)]);
        let found = missing(&tree, &REASONS);
        let lines: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_constant_that_no_document_names_is_rejected() {
        let miss = "core/types/src/fatal.rs:5: no line of docs/operations.md names `WalWrite` \
                    with its number 71";
        check("| 64 | Config |\n| 71 | `wal_write` |\n", &[]);
        check("| 64 | Config |\n| 0x47 | `WalWrite` |\n", &[]);
        check("| 64 | Config |\n", &[miss]);
        check("| 64 | Config |\n| WalWrite | 711 |\n71\n", &[miss]);
    }

    #[test]
    fn a_lost_enum_or_document_is_rejected() {
        assert_eq!(missing(&Tree::of(&[("docs/operations.md", "")]), &REASONS).len(), 1);
        assert_eq!(missing(&Tree::of(&[("core/types/src/fatal.rs", CODES)]), &REASONS).len(), 1);
        let renamed = CODES.replace("FatalReason", "FatalReasons");
        let tree = Tree::of(&[("core/types/src/fatal.rs", &renamed), ("docs/operations.md", "")]);
        assert_eq!(missing(&tree, &REASONS).len(), 1);
    }
}
