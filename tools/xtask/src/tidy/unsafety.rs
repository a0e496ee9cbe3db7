//! Where `unsafe` may stand.

use super::floors::PACKAGES;
use super::lexer::lines_with_word;
use super::{Finding, Tree};

/// Files and folders (with a slash) that may hold unsafe code, each for a stated reason.
const ALLOWED: [(&str, &str); 4] = [
    ("index/src/codes/", "integer kernels, and buffers of whole lines"),
    ("index/src/distance/", "SIMD kernels through std::arch and simsimd"),
    ("index/src/arena.rs", "memory that one core writes and every core reads, and its prefetch"),
    ("index/src/search/scratch.rs", "hands rows to the kernels by slot"),
];

/// Packages in which some file of [`ALLOWED`] lives: they deny unsafe code, the others forbid it.
const DENYING: [&str; 1] = ["index"];

fn is_allowed(path: &str) -> bool {
    ALLOWED
        .iter()
        .any(|(place, _)| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

pub(super) fn unsafe_stays_in_its_files(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, layers) in tree.rust().filter(|(file, _)| !is_allowed(&file.path)) {
        for line in lines_with_word(&layers.code, "unsafe") {
            let message = "unsafe code outside the files that may hold it (tidy/unsafety.rs)";
            found.push(Finding::at(&file.path, line, message));
        }
    }
    found
}

/// Each crate root says what the rule above says, so that the compiler enforces it too.
pub(super) fn every_crate_states_its_unsafe_policy(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for package in &PACKAGES {
        let level = if DENYING.contains(&package.folder) { "deny" } else { "forbid" };
        let attribute = format!("#![{level}(unsafe_code)]");
        for root in ["src/lib.rs", "src/main.rs"] {
            let path = format!("{}/{root}", package.folder);
            let Some(layers) = tree.file(&path).and_then(|file| file.layers.as_ref()) else {
                continue;
            };
            if !layers.code.contains(&attribute) {
                found.push(Finding::at(&path, 1, format!("must state `{attribute}`")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_outside_its_files_is_rejected() {
        let text = "//! a\nfn a() { unsafe { b() } }\n";
        let tree = Tree::of(&[
            ("core/src/wal.rs", text),
            ("index/src/distance/avx2.rs", text),
            ("index/src/arena.rs", text),
            ("core/runtime/src/device.rs", text),
            ("core/src/word.rs", "//! No unsafe here.\n#![forbid(unsafe_code)]\n"),
        ]);
        let found = unsafe_stays_in_its_files(&tree);
        let places: Vec<(&str, usize)> =
            found.iter().map(|finding| (finding.path.as_str(), finding.line)).collect();
        assert_eq!(places, [("core/src/wal.rs", 2), ("core/runtime/src/device.rs", 2)]);
    }

    #[test]
    fn a_crate_root_without_its_policy_is_rejected() {
        let tree = Tree::of(&[
            ("core/src/lib.rs", "//! a\n#![deny(unsafe_code)]\n"),
            ("index/src/lib.rs", "//! a\n#![deny(unsafe_code)]\n"),
            ("meta/src/lib.rs", "//! a\n#![forbid(unsafe_code)]\n"),
        ]);
        let found = every_crate_states_its_unsafe_policy(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "core/src/lib.rs");
    }
}
