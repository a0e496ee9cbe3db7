//! Files stay small: an aim, a ceiling, and a record of the exceptions that may only fall.

use std::collections::BTreeMap;

use super::{Finding, Tree};

/// Where the sizes of files above the aim are recorded.
pub(super) const RATCHET_PATH: &str = "tools/xtask/ratchet.toml";

/// A file above this needs an entry in the ratchet.
const LINES_AIM: usize = 600;
/// No entry may be above this.
const LINES_CEILING: usize = 1000;

/// Lines of a Rust file without its test module; `None` for a file that is all tests.
fn counted_lines(path: &str, text: &str) -> Option<usize> {
    let in_tests = path.split('/').any(|part| part == "tests" || part == "tests.rs");
    if in_tests {
        return None;
    }
    let mut count = 0;
    let mut inside_tests = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // rustfmt puts a top-level module's braces at column 0, so its end is the next `}` there.
        if inside_tests {
            inside_tests = line != "}";
            continue;
        }
        let opens_module = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
        if line == "#[cfg(test)]" && lines.peek().is_some_and(opens_module) {
            inside_tests = true;
            continue;
        }
        count += 1;
    }
    Some(count)
}

/// The `[files]` table of the ratchet, or why it cannot be read.
fn recorded(tree: &Tree) -> Result<BTreeMap<String, usize>, String> {
    let file = tree.file(RATCHET_PATH).ok_or("is missing")?;
    let table: toml::Table = file.text.parse().map_err(|error| format!("{error}"))?;
    let entries = table.get("files").and_then(toml::Value::as_table).ok_or("has no [files]")?;
    let mut sizes = BTreeMap::new();
    for (path, value) in entries {
        let lines = value.as_integer().and_then(|number| usize::try_from(number).ok());
        sizes.insert(path.clone(), lines.ok_or_else(|| format!("{path}: not a line count"))?);
    }
    Ok(sizes)
}

pub(super) fn files_stay_small(tree: &Tree) -> Vec<Finding> {
    let mut sizes = match recorded(tree) {
        Ok(sizes) => sizes,
        Err(message) => return vec![Finding::whole(RATCHET_PATH, message)],
    };
    let mut found = Vec::new();
    for (file, _) in tree.rust() {
        let entry = sizes.remove(&file.path);
        let Some(lines) = counted_lines(&file.path, &file.text) else { continue };
        let message = match entry {
            _ if lines > LINES_CEILING => format!("{lines} lines, the ceiling is {LINES_CEILING}"),
            None if lines > LINES_AIM => {
                format!("{lines} lines, the aim is {LINES_AIM}: split it")
            }
            Some(entry) if lines > entry.max(LINES_AIM) => {
                format!("{lines} lines, recorded {entry}: the size may only fall")
            }
            Some(entry) if lines < entry => {
                format!("{lines} lines, recorded {entry}: `cargo xtask fix` lowers the record")
            }
            _ => continue,
        };
        found.push(Finding::whole(&file.path, message));
    }
    for path in sizes.keys() {
        found.push(Finding::whole(RATCHET_PATH, format!("names {path}, which does not exist")));
    }
    found
}

/// The ratchet with every entry that can fall lowered or removed; `None` when all stand.
pub(super) fn lowered_ratchet(tree: &Tree) -> Option<String> {
    let ratchet = tree.file(RATCHET_PATH)?;
    let sizes = recorded(tree).ok()?;
    let mut text = String::new();
    let mut changed = false;
    for line in ratchet.text.lines() {
        let path =
            line.strip_prefix('"').and_then(|rest| rest.split_once('"')).map(|(path, _)| path);
        let entry = path.and_then(|path| Some((path, *sizes.get(path)?)));
        let Some((path, entry)) = entry else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let lines = tree.file(path).and_then(|file| counted_lines(path, &file.text)).unwrap_or(0);
        changed |= lines < entry;
        if lines > LINES_AIM {
            text.push_str(&format!("\"{path}\" = {}\n", lines.min(entry)));
        }
    }
    changed.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust_of(lines: usize) -> String {
        format!("//! a\n{}", "fn a() {}\n".repeat(lines - 1))
    }

    fn tree_with(entry: &str, files: &[(&str, &str)]) -> Tree {
        let ratchet = format!("# sizes\n[files]\n{entry}\n");
        let mut all = vec![(RATCHET_PATH, ratchet.as_str())];
        all.extend_from_slice(files);
        Tree::of(&all)
    }

    #[test]
    fn a_test_module_and_a_test_file_do_not_count() {
        let text = "//! a\nfn b() {}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\nfn d() {}\n";
        assert_eq!(counted_lines("a.rs", text), Some(4));
        assert_eq!(counted_lines("a.rs", "//! a\n#[cfg(test)]\nmod tests;\nfn b() {}\n"), Some(4));
        assert_eq!(counted_lines("core/src/wal/tests.rs", text), None);
        assert_eq!(counted_lines("core/tests/recovery.rs", text), None);
    }

    #[test]
    fn a_file_above_the_aim_without_a_record_is_rejected() {
        let tree = tree_with("", &[("a.rs", &rust_of(601)), ("b.rs", &rust_of(600))]);
        let found = files_stay_small(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "a.rs");
    }

    #[test]
    fn a_recorded_file_may_neither_grow_nor_shrink_unrecorded() {
        let file = rust_of(650);
        for (entry, count) in [(640, 1), (650, 0), (700, 1)] {
            let tree = tree_with(&format!("\"a.rs\" = {entry}"), &[("a.rs", &file)]);
            assert_eq!(files_stay_small(&tree).len(), count, "recorded {entry}");
        }
    }

    #[test]
    fn no_record_lifts_the_ceiling() {
        let tree = tree_with("\"a.rs\" = 1001", &[("a.rs", &rust_of(1001))]);
        assert_eq!(files_stay_small(&tree).len(), 1);
    }

    #[test]
    fn a_record_without_its_file_and_a_missing_ratchet_are_rejected() {
        assert_eq!(files_stay_small(&tree_with("\"gone.rs\" = 700", &[])).len(), 1);
        assert_eq!(files_stay_small(&Tree::of(&[])).len(), 1);
    }

    #[test]
    fn fix_lowers_records_and_never_raises_them() {
        let entries = "\"a.rs\" = 700\n\"b.rs\" = 610\n\"c.rs\" = 620";
        let files = [("a.rs", rust_of(650)), ("b.rs", rust_of(640)), ("c.rs", rust_of(500))];
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let lowered = lowered_ratchet(&tree_with(entries, &files)).unwrap();
        assert_eq!(lowered, "# sizes\n[files]\n\"a.rs\" = 650\n\"b.rs\" = 610\n");
        assert_eq!(lowered_ratchet(&tree_with("\"b.rs\" = 640", &files)), None);
    }
}
