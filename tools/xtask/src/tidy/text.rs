//! Rules about the text of files.

use super::lexer::has_word;
use super::{Finding, Tree};

/// Most columns of a line of Rust.
pub(crate) const COLUMNS_MAX: usize = 100;
const README_LINES_MAX: usize = 120;

/// Every Rust file begins with `//!`: a reader learns from the first line why the file exists.
pub(super) fn every_file_opens_with_its_purpose(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|(file, _)| !file.text.starts_with("//! "))
        .map(|(file, _)| Finding::at(&file.path, 1, "must begin with `//! ` and its purpose"))
        .collect()
}

pub(super) fn no_tabs(tree: &Tree) -> Vec<Finding> {
    let is_ours = |path: &str| [".rs", ".toml", ".md", ".sh"].iter().any(|end| path.ends_with(end));
    let mut found = Vec::new();
    for file in tree.files().filter(|file| is_ours(&file.path)) {
        for (index, _) in file.text.lines().enumerate().filter(|(_, line)| line.contains('\t')) {
            found.push(Finding::at(&file.path, index + 1, "tab; use spaces"));
        }
    }
    found
}

/// Rust lines fit 100 columns. rustfmt leaves long strings and comments alone, this does not.
pub(super) fn no_line_is_too_long(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, _) in tree.rust() {
        for (index, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !line.contains("https://") {
                let message = format!("{columns} columns, at most {COLUMNS_MAX}");
                found.push(Finding::at(&file.path, index + 1, message));
            }
        }
    }
    found
}

/// Work that is left over belongs in the tracker; in the source it rots.
pub(super) fn no_unfinished_work(tree: &Tree) -> Vec<Finding> {
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let macros = ["todo", "unimplemented"];
    let mut found = Vec::new();
    for (file, layers) in tree.rust() {
        for (index, line) in layers.comments.lines().enumerate() {
            for note in notes.iter().filter(|note| has_word(line, note)) {
                found.push(Finding::at(&file.path, index + 1, format!("`{note}` in a comment")));
            }
        }
        for (index, line) in layers.code.lines().enumerate() {
            for name in macros.iter().filter(|name| line.contains(&format!("{name}!"))) {
                found.push(Finding::at(&file.path, index + 1, format!("`{name}!` in code")));
            }
        }
    }
    found
}

/// A test that does not run, or passes because anything at all panicked, proves nothing.
pub(super) fn no_switched_off_tests(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, layers) in tree.rust() {
        for (index, line) in layers.code.lines().enumerate() {
            for attribute in ["#[ignore", "#[should_panic"] {
                if line.contains(attribute) {
                    let message = format!("`{attribute}]`: run the test, or state what it expects");
                    found.push(Finding::at(&file.path, index + 1, message));
                }
            }
        }
    }
    found
}

/// Absolute paths of somebody's machine mean nothing on the next one.
pub(super) fn no_paths_of_one_machine(tree: &Tree) -> Vec<Finding> {
    // In two pieces, so that this file does not contain them itself.
    let roots = [concat!("/wo", "rk"), concat!("/ro", "ot"), concat!("/tmp/br", "ief")];
    let mut found = Vec::new();
    for file in tree.files() {
        for (index, line) in file.text.lines().enumerate() {
            for root in roots.iter().filter(|root| names_path(line, root)) {
                let message = format!("`{root}` is a path of one machine");
                found.push(Finding::at(&file.path, index + 1, message));
            }
        }
    }
    found
}

/// Whether `line` holds the absolute path `root` or something below it.
fn names_path(line: &str, root: &str) -> bool {
    line.match_indices(root).any(|(index, _)| {
        let before = line[..index].chars().next_back();
        let after = line[index + root.len()..].chars().next();
        let continues = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        !before.is_some_and(|c| continues(c) || matches!(c, '/' | '}' | '>' | '*'))
            && !after.is_some_and(continues)
    })
}

pub(super) fn readme_is_short(tree: &Tree) -> Vec<Finding> {
    let Some(readme) = tree.file("README.md") else {
        return vec![Finding::whole("README.md", "is missing")];
    };
    match readme.text.lines().count() {
        lines if lines > README_LINES_MAX => {
            let message = format!("{lines} lines, at most {README_LINES_MAX}");
            vec![Finding::whole("README.md", message)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(found: &[Finding]) -> Vec<usize> {
        found.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_file_without_a_purpose_is_rejected() {
        let tree = Tree::of(&[("a.rs", "use b;\n"), ("b.rs", "//! Does b.\n"), ("c.md", "c")]);
        let found = every_file_opens_with_its_purpose(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "a.rs");
    }

    #[test]
    fn a_tab_is_rejected() {
        let tree = Tree::of(&[("a.toml", "[a]\n\tb = 1\n"), ("data.tsv", "a\tb")]);
        assert_eq!(lines(&no_tabs(&tree)), [2]);
    }

    #[test]
    fn line_101_columns_wide_is_rejected_and_100_is_not() {
        let long = format!("//! a\n{}\n{}\n", "x".repeat(101), "é".repeat(100));
        let tree = Tree::of(&[("a.rs", &long)]);
        assert_eq!(lines(&no_line_is_too_long(&tree)), [2]);
    }

    #[test]
    fn unfinished_work_is_rejected_in_comments_and_code_but_not_in_strings() {
        let note = concat!("// FIX", "ME later\n");
        let text = format!("//! a\n{note}fn a() {{ todo!() }}\nlet s = \"todo!\";\n");
        let tree = Tree::of(&[("a.rs", &text)]);
        assert_eq!(lines(&no_unfinished_work(&tree)), [2, 3]);
    }

    #[test]
    fn a_switched_off_test_is_rejected() {
        let tree = Tree::of(&[("a.rs", "//! a\n#[test]\n#[ignore = \"slow\"]\nfn b() {}\n")]);
        assert_eq!(lines(&no_switched_off_tests(&tree)), [3]);
        let tree = Tree::of(&[("a.rs", "//! a\n#[test]\n#[should_panic]\nfn b() {}\n")]);
        assert_eq!(lines(&no_switched_off_tests(&tree)), [3]);
    }

    #[test]
    fn a_path_of_one_machine_is_rejected_wherever_it_stands() {
        let root = concat!("/wo", "rk");
        let bad = format!("see {root}/main\n\"{root}\"\n");
        let good = format!("net{root}/x\n{root}ers\n/usr{root}\n");
        let tree = Tree::of(&[("a.md", &bad), ("b.md", &good)]);
        let found = no_paths_of_one_machine(&tree);
        assert_eq!(lines(&found), [1, 2]);
        assert!(found.iter().all(|finding| finding.path == "a.md"));
    }

    #[test]
    fn a_long_or_missing_readme_is_rejected() {
        assert_eq!(readme_is_short(&Tree::of(&[])).len(), 1);
        let long = "x\n".repeat(121);
        assert_eq!(readme_is_short(&Tree::of(&[("README.md", &long)])).len(), 1);
        assert!(readme_is_short(&Tree::of(&[("README.md", &long[2..])])).is_empty());
    }
}
