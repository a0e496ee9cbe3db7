//! Starts the fuzz harness, a package of its own because it links the decoders it attacks.

use std::path::Path;

use crate::command::{Failure, run_cargo};

/// `cargo xtask fuzz`: hands the arguments to the harness, built with optimisation.
///
/// The harness is built in the release profile with assertions and overflow checks on, so that a
/// long run is both fast and strict.
pub(crate) fn run(root: &Path, rest: &[String]) -> Result<(), Failure> {
    let mut arguments = vec!["run", "--quiet", "--profile", "fuzz", "--package", "heddle-fuzz"];
    arguments.push("--");
    arguments.extend(rest.iter().map(String::as_str));
    run_cargo(root, &arguments)
}

/// The short run inside `verify`, in the dev profile that the tests have just built.
pub(crate) fn smoke(root: &Path, seconds: u32) -> Result<(), Failure> {
    let seconds = seconds.to_string();
    run_cargo(
        root,
        &["run", "--quiet", "--package", "heddle-fuzz", "--", "--seconds", seconds.as_str()],
    )
}
