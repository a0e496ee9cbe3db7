//! Starts the fuzz harness, a package of its own because it links the decoders it attacks.

use std::path::Path;

use crate::command::{Failure, run, run_cargo};

/// `cargo xtask fuzz`: hands the arguments to the harness, built with optimisation.
///
/// The harness is built in the release profile with assertions and overflow checks on, so that a
/// long run is both fast and strict.
pub(crate) fn attack(root: &Path, rest: &[String]) -> Result<(), Failure> {
    let mut arguments = vec!["run", "--quiet", "--profile", "fuzz", "--package", "heddle-fuzz"];
    arguments.push("--");
    arguments.extend(rest.iter().map(String::as_str));
    run_cargo(root, &arguments)
}

/// The short run inside `verify`, in the dev profile.
///
/// Built as a part of the whole workspace: built alone, it would choose other features of shared
/// dependencies and compile all of them a second time.
pub(crate) fn smoke(root: &Path, seconds: u32) -> Result<(), Failure> {
    run_cargo(root, &["build", "--workspace", "--bin", "heddle-fuzz"])?;
    // Cargo puts every binary of a profile beside the running one.
    let ours = std::env::current_exe().map_err(|error| Failure::Io(error.to_string()))?;
    let harness = ours.with_file_name("heddle-fuzz");
    run(&harness, root, &["--seconds", seconds.to_string().as_str()])
}
