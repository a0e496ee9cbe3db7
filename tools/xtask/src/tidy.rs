//! The repository's own rules, those that no compiler or linter checks.
//!
//! Each rule is a pure function from the tree of files to findings, in a file of its own family,
//! and each has tests that hand it a tree it must reject.

mod constants;
mod floors;
mod lexer;
mod manifests;
mod size;
mod text;
mod tree;
mod unsafety;

use std::fmt;
use std::path::Path;

use crate::command::Failure;
pub(crate) use text::COLUMNS_MAX;
pub(crate) use tree::Tree;

/// One place that breaks one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// 1-based; 0 where the finding concerns the whole file.
    line: usize,
    message: String,
}

impl Finding {
    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }

    fn whole(path: &str, message: impl Into<String>) -> Self {
        Self::at(path, 0, message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(formatter, "{}: {}", self.path, self.message),
            line => write!(formatter, "{}:{line}: {}", self.path, self.message),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: [Rule; 16] = [
    text::every_file_opens_with_its_purpose,
    text::no_tabs,
    text::no_line_is_too_long,
    text::no_unfinished_work,
    text::no_switched_off_tests,
    text::no_paths_of_one_machine,
    text::readme_is_short,
    size::files_stay_small,
    unsafety::unsafe_stays_in_its_files,
    unsafety::every_crate_states_its_unsafe_policy,
    floors::packages_point_downwards,
    floors::ring_crates_stay_in_their_packages,
    floors::pure_packages_do_no_io,
    manifests::every_dependency_has_its_reason,
    manifests::every_fuzz_target_is_registered,
    constants::every_constant_is_documented,
];

/// All findings in a tree, sorted by place.
fn findings(tree: &Tree) -> Vec<Finding> {
    let mut all: Vec<Finding> = RULES.iter().flat_map(|rule| rule(tree)).collect();
    all.sort();
    all.dedup();
    all
}

/// Checks the repository and prints what breaks a rule.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let tree = Tree::load(root)?;
    let all = findings(&tree);
    for finding in &all {
        println!("{finding}");
    }
    match all.len() {
        0 => Ok(()),
        count => Err(Failure::check(format!("tidy: {count} finding(s)"))),
    }
}

/// Lowers the recorded sizes of files that have shrunk. Sizes are never raised here.
pub(crate) fn lower_ratchet(root: &Path) -> Result<(), Failure> {
    let tree = Tree::load(root)?;
    let Some(lowered) = size::lowered_ratchet(&tree) else { return Ok(()) };
    let path = root.join(size::RATCHET_PATH);
    std::fs::write(&path, lowered).map_err(|error| Failure::io(&path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let tree = Tree::load(&root).unwrap();
        assert!(tree.file("Cargo.toml").is_some(), "the tree was not found at {root:?}");
        let all = findings(&tree);
        let lines: Vec<String> = all.iter().map(Finding::to_string).collect();
        assert!(lines.is_empty(), "tidy findings:\n{}", lines.join("\n"));
    }
}
