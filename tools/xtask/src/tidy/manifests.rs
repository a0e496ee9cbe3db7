//! Dependencies have reasons, and fuzz targets are run.

use super::lexer::has_word;
use super::{Finding, Tree};

const POLICY_PATH: &str = "deny.toml";
const TARGETS_FOLDER: &str = "fuzz/src/targets/";
const TARGETS_LIST: &str = "fuzz/src/targets.rs";

/// Each third-party crate of the workspace has a line `# crate: reason` in the dependency policy,
/// and each such line names a crate that is still used.
pub(super) fn every_dependency_has_its_reason(tree: &Tree) -> Vec<Finding> {
    let Some(policy) = tree.file(POLICY_PATH) else {
        return vec![Finding::whole(POLICY_PATH, "is missing")];
    };
    let Some(workspace) = tree.file("Cargo.toml") else {
        return vec![Finding::whole("Cargo.toml", "is missing")];
    };
    let manifest: toml::Table = match workspace.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![Finding::whole("Cargo.toml", error.to_string())],
    };
    let crates = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies")?.as_table())
        .cloned()
        .unwrap_or_default();
    let foreign: Vec<&str> = crates
        .iter()
        .filter(|(_, value)| value.get("path").is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    let reasons: Vec<(usize, &str)> = policy
        .text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| Some((index + 1, reason_line(line)?)))
        .collect();
    let mut found = Vec::new();
    for name in &foreign {
        if !reasons.iter().any(|(_, reasoned)| reasoned == name) {
            let message = format!("`{name}` has no line `# {name}: reason` in {POLICY_PATH}");
            found.push(Finding::whole("Cargo.toml", message));
        }
    }
    for (line, name) in reasons.iter().filter(|(_, name)| !foreign.contains(name)) {
        let message = format!("gives a reason for `{name}`, which is no dependency");
        found.push(Finding::at(POLICY_PATH, *line, message));
    }
    found
}

/// The crate that a line `# crate: reason` speaks of.
fn reason_line(line: &str) -> Option<&str> {
    let (name, reason) = line.strip_prefix("# ")?.split_once(": ")?;
    let is_name = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    (is_name && !reason.trim().is_empty()).then_some(name)
}

/// A fuzz target that the harness does not know would never run.
pub(super) fn every_fuzz_target_is_registered(tree: &Tree) -> Vec<Finding> {
    let Some(list) = tree.file(TARGETS_LIST).and_then(|file| file.layers.as_ref()) else {
        return vec![Finding::whole(TARGETS_LIST, "is missing")];
    };
    tree.rust()
        .filter_map(|(file, _)| {
            let name = file.path.strip_prefix(TARGETS_FOLDER)?.strip_suffix(".rs")?;
            // Files further down are parts of a target.
            if name.contains('/') {
                return None;
            }
            let is_run = has_word(&list.code, &format!("{name}::run"));
            (!is_run).then(|| {
                Finding::whole(&file.path, format!("`{name}::run` is not in {TARGETS_LIST}"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_without_a_reason_is_rejected() {
        let manifest =
            "[workspace.dependencies]\nours = { path = \"x\" }\nserde = \"1\"\nuuid = \"1\"\n";
        let policy =
            "# serde: JSON.\n# uuid:\n# gone: was used once.\n# Not a reason. A sentence.\n";
        let tree = Tree::of(&[("Cargo.toml", manifest), ("deny.toml", policy)]);
        let found = every_dependency_has_its_reason(&tree);
        let messages: Vec<&str> = found.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "`uuid` has no line `# uuid: reason` in deny.toml",
                "gives a reason for `gone`, which is no dependency",
            ]
        );
    }

    #[test]
    fn a_missing_policy_is_rejected() {
        assert_eq!(every_dependency_has_its_reason(&Tree::of(&[])).len(), 1);
    }

    #[test]
    fn a_fuzz_target_that_never_runs_is_rejected() {
        let list = "//! a\nconst T: [fn(&[u8]); 1] = [header::run]; // row::run\n";
        let tree = Tree::of(&[
            ("fuzz/src/targets.rs", list),
            ("fuzz/src/targets/header.rs", "//! a\n"),
            ("fuzz/src/targets/row.rs", "//! a\n"),
            ("fuzz/src/targets/header/samples.rs", "//! a\n"),
        ]);
        let found = every_fuzz_target_is_registered(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "fuzz/src/targets/row.rs");
        assert_eq!(every_fuzz_target_is_registered(&Tree::of(&[])).len(), 1);
    }
}
