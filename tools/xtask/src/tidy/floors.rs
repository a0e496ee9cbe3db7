//! The crate graph: packages stand on floors and depend only downwards, glommio and io_uring stay
//! where cores are driven, and the packages that the simulator runs do no IO of their own.

use super::lexer::has_word;
use super::{Finding, Tree};

/// A package of the workspace and what it may be built from.
pub(super) struct Package {
    name: &'static str,
    pub(super) folder: &'static str,
    /// Dependencies point to a lower floor only.
    floor: u8,
    /// The packages of this workspace that it may use outside its tests.
    knows: &'static [&'static str],
    ring: Ring,
    io: Io,
}

/// Whether a package may use glommio and io_uring themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ring {
    Direct,
    /// Only io_uring, for the raw device baseline.
    Baseline,
    Never,
}

/// Whether a package may do IO outside its tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Io {
    Free,
    /// Everything goes through the seams, so that the simulator can stand behind them.
    Seams,
}

const TYPES: &str = "heddle-types";
const INDEX: &str = "heddle-index";
const WIRE: &str = "heddle-wire";
const REPLICATION: &str = "heddle-replication";
const RUNTIME: &str = "heddle-runtime";
const CORE: &str = "heddle-core";
const CLIENT: &str = "heddle-client";
const META: &str = "heddle-meta";
const NET: &str = "heddle-net";
const SIM: &str = "heddle-sim";
const CHECKERS: &str = "heddle-checkers";
const BENCH: &str = "heddle-bench";

const fn package(
    name: &'static str,
    folder: &'static str,
    floor: u8,
    knows: &'static [&'static str],
) -> Package {
    Package { name, folder, floor, knows, ring: Ring::Never, io: Io::Free }
}

const fn sealed(package: Package) -> Package {
    Package { io: Io::Seams, ..package }
}

const fn with_ring(package: Package, ring: Ring) -> Package {
    Package { ring, ..package }
}

/// The code map of docs/architecture.md.
pub(super) const PACKAGES: [Package; 16] = [
    sealed(package(TYPES, "core/types", 0, &[])),
    sealed(package(INDEX, "index", 0, &[])),
    sealed(package(CHECKERS, "tools/checkers", 0, &[])),
    sealed(package(WIRE, "net/wire", 1, &[TYPES])),
    sealed(package(REPLICATION, "core/replication", 1, &[TYPES])),
    with_ring(package(RUNTIME, "core/runtime", 1, &[TYPES]), Ring::Direct),
    sealed(package(CORE, "core", 2, &[TYPES, INDEX, WIRE, REPLICATION])),
    package(CLIENT, "tools/client", 2, &[TYPES, WIRE]),
    sealed(package(META, "meta", 3, &[TYPES, WIRE, CORE])),
    with_ring(
        package(NET, "net", 4, &[TYPES, INDEX, WIRE, REPLICATION, RUNTIME, CORE, CLIENT, META]),
        Ring::Direct,
    ),
    sealed(package(SIM, "tools/sim", 4, &[TYPES, INDEX, CHECKERS, WIRE, REPLICATION, CORE, META])),
    with_ring(
        package(
            BENCH,
            "bench",
            5,
            &[TYPES, INDEX, WIRE, REPLICATION, RUNTIME, CORE, CLIENT, META, NET, SIM],
        ),
        Ring::Baseline,
    ),
    package("heddle-fuzz", "fuzz", 5, &[TYPES, INDEX, WIRE, REPLICATION, CORE, META, CLIENT, SIM]),
    package("heddle-nemesis", "tools/nemesis", 5, &[TYPES, CHECKERS, CLIENT]),
    package("xtask", "tools/xtask", 5, &[]),
    // The command imports the same files of vectors that the benchmark suite reads.
    package("heddle", "tools", 6, &[TYPES, INDEX, WIRE, RUNTIME, CORE, CLIENT, META, NET, BENCH]),
];

/// Packages of ours that link glommio; a test that pulls one in has left the simulator's world.
const LINKS_RING: [&str; 4] = [RUNTIME, NET, BENCH, "heddle"];

const RING_CRATES: [&str; 3] = ["glommio", "glommio-ng", "io-uring"];

fn floor_of(name: &str) -> Option<u8> {
    PACKAGES.iter().find(|package| package.name == name).map(|package| package.floor)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Normal and build dependencies.
    Built,
    /// Dev-dependencies.
    Tests,
}

/// The dependencies that a manifest names: kind, and the crate's own name after renames.
fn dependencies(manifest: &toml::Table) -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    collect(manifest, &mut all);
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    for target in targets.into_iter().flat_map(toml::Table::values) {
        if let Some(table) = target.as_table() {
            collect(table, &mut all);
        }
    }
    all
}

fn collect(table: &toml::Table, all: &mut Vec<(Kind, String)>) {
    let sections = [
        ("dependencies", Kind::Built),
        ("build-dependencies", Kind::Built),
        ("dev-dependencies", Kind::Tests),
    ];
    for (section, kind) in sections {
        let Some(entries) = table.get(section).and_then(toml::Value::as_table) else { continue };
        for (key, value) in entries {
            let renamed = value.get("package").and_then(toml::Value::as_str);
            all.push((kind, renamed.unwrap_or(key).to_owned()));
        }
    }
}

/// Members of the workspace stand in the table, and depend only on what it lets them know.
pub(super) fn packages_point_downwards(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.files().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let manifest: toml::Table = match file.text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                found.push(Finding::whole(&file.path, format!("cannot be read: {error}")));
                continue;
            }
        };
        let folder = file.path.trim_end_matches("/Cargo.toml");
        let Some(package) = PACKAGES.iter().find(|package| package.folder == folder) else {
            found.push(Finding::whole(&file.path, "is on no floor (tidy/floors.rs)"));
            continue;
        };
        for (kind, name) in dependencies(&manifest) {
            if let Some(message) = refusal(package, kind, &name) {
                found.push(Finding::whole(&file.path, message));
            }
        }
    }
    found
}

/// Why `package` may not depend on `name`, if so.
fn refusal(package: &Package, kind: Kind, name: &str) -> Option<String> {
    let is_ring = RING_CRATES.contains(&name);
    let may_ring = match package.ring {
        Ring::Direct => true,
        Ring::Baseline => name == "io-uring",
        Ring::Never => false,
    };
    if is_ring && !may_ring {
        return Some(format!("{} may not use {name}", package.name));
    }
    let floor = floor_of(name)?;
    match kind {
        Kind::Built if !package.knows.contains(&name) || floor >= package.floor => Some(format!(
            "{} (floor {}) may not depend on {name} (floor {floor})",
            package.name, package.floor
        )),
        Kind::Tests if LINKS_RING.contains(&name) && !package.knows.contains(&name) => {
            Some(format!("the tests of {} may not pull in glommio through {name}", package.name))
        }
        Kind::Built | Kind::Tests => None,
    }
}

/// The package a file belongs to: the one with the longest folder above it.
fn package_of(path: &str) -> Option<&'static Package> {
    let holds = |package: &&Package| {
        path.strip_prefix(package.folder).is_some_and(|rest| rest.starts_with('/'))
    };
    PACKAGES.iter().filter(holds).max_by_key(|package| package.folder.len())
}

/// Names `glommio::` and `io_uring::` in source text, not only in manifests: a re-export would get
/// past the manifests.
pub(super) fn ring_crates_stay_in_their_packages(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, layers) in tree.rust() {
        let ring = package_of(&file.path).map_or(Ring::Never, |package| package.ring);
        let refused: &[&str] = match ring {
            Ring::Direct => continue,
            Ring::Baseline => &["glommio"],
            Ring::Never => &["glommio", "io_uring"],
        };
        for (index, line) in layers.code.lines().enumerate() {
            for name in refused.iter().filter(|name| names_crate(line, name)) {
                let message = format!("`{name}` outside heddle-runtime and heddle-net");
                found.push(Finding::at(&file.path, index + 1, message));
            }
        }
    }
    found
}

fn names_crate(line: &str, name: &str) -> bool {
    has_word(line, name)
        && [format!("{name}::"), format!("use {name}"), format!("extern crate {name}")]
            .iter()
            .any(|form| line.contains(form.as_str()))
}

/// Packages behind the seams name no file system, socket or thread outside their tests.
pub(super) fn pure_packages_do_no_io(tree: &Tree) -> Vec<Finding> {
    const REFUSED: [&str; 5] =
        ["std::fs", "std::net::Tcp", "std::net::Udp", "std::thread", "std::process::Command"];
    let mut found = Vec::new();
    for (file, layers) in tree.rust() {
        let is_sealed = package_of(&file.path).is_some_and(|package| package.io == Io::Seams);
        let in_package_source = file.path.contains("/src/") && !file.path.ends_with("tests.rs");
        if !is_sealed || !in_package_source {
            continue;
        }
        let code = layers.code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (index, line) in code.lines().enumerate() {
            for name in REFUSED.iter().filter(|name| line.contains(**name)) {
                let message = format!("`{name}` in a package that works through the seams");
                found.push(Finding::at(&file.path, index + 1, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, manifest: &str, expected: &[&str]) {
        let path = format!("{folder}/Cargo.toml");
        let found = packages_point_downwards(&Tree::of(&[(&path, manifest)]));
        let messages: Vec<&str> = found.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(messages, expected, "{folder}: {manifest}");
    }

    #[test]
    fn the_table_itself_points_downwards() {
        for package in &PACKAGES {
            for name in package.knows {
                let floor = floor_of(name).unwrap();
                assert!(floor < package.floor, "{} knows {name}", package.name);
            }
        }
    }

    #[test]
    fn a_dependency_upwards_or_sideways_is_rejected() {
        let up = "[dependencies]\nheddle-core.workspace = true\n";
        check(
            "core/types",
            up,
            &["heddle-types (floor 0) may not depend on heddle-core (floor 2)"],
        );
        let runtime = "[target.'cfg(unix)'.dependencies]\nx = { package = \"heddle-runtime\" }\n";
        check(
            "core",
            runtime,
            &["heddle-core (floor 2) may not depend on heddle-runtime (floor 1)"],
        );
        check("meta", "[dependencies]\nheddle-core.workspace = true\nserde = \"1\"\n", &[]);
    }

    #[test]
    fn glommio_in_a_manifest_outside_its_packages_is_rejected() {
        let renamed = "[dependencies]\nring = { package = \"glommio-ng\", version = \"1\" }\n";
        check("tools/client", renamed, &["heddle-client may not use glommio-ng"]);
        check("core/runtime", renamed, &[]);
        check(
            "meta",
            "[dev-dependencies]\nglommio.workspace = true\n",
            &["heddle-meta may not use glommio"],
        );
        check("bench", "[dependencies]\nio-uring = \"1\"\n", &[]);
        check("bench", "[dependencies]\nglommio = \"1\"\n", &["heddle-bench may not use glommio"]);
    }

    #[test]
    fn tests_may_look_up_but_not_at_glommio() {
        let net = "[dev-dependencies]\nheddle-net.workspace = true\n";
        check(
            "meta",
            net,
            &["the tests of heddle-meta may not pull in glommio through heddle-net"],
        );
        check("tools/client", "[dev-dependencies]\nheddle-core.workspace = true\n", &[]);
    }

    #[test]
    fn a_package_outside_the_table_and_a_broken_manifest_are_rejected() {
        check("extra", "[package]\n", &["is on no floor (tidy/floors.rs)"]);
        let tree = Tree::of(&[("core/Cargo.toml", "[dependencies\n")]);
        assert_eq!(packages_point_downwards(&tree).len(), 1);
    }

    #[test]
    fn glommio_in_source_outside_its_packages_is_rejected() {
        let text = "//! Not like glommio::Task.\nuse glommio::Task;\nlet glommio_x = 1;\n";
        let tree = Tree::of(&[
            ("core/src/a.rs", text),
            ("core/runtime/src/a.rs", text),
            ("net/src/b.rs", text),
        ]);
        let found = ring_crates_stay_in_their_packages(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("core/src/a.rs", 2));
        let raw = "//! a\nuse io_uring::IoUring;\n";
        let tree = Tree::of(&[
            ("bench/src/raw.rs", raw),
            ("net/wire/src/a.rs", raw),
            ("tools/src/a.rs", raw),
        ]);
        assert_eq!(ring_crates_stay_in_their_packages(&tree).len(), 2);
    }

    #[test]
    fn io_in_a_sealed_package_is_rejected_outside_tests() {
        let text = "//! a\nuse std::fs::File;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        let tree = Tree::of(&[
            ("core/src/a.rs", text),
            ("core/runtime/src/a.rs", text),
            ("core/tests/a.rs", text),
        ]);
        let found = pure_packages_do_no_io(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("core/src/a.rs", 2));
    }
}
