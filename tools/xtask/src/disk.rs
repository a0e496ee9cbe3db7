//! A real node on real bad disks: `heddle disk-test` in a mount namespace of its own.

use std::path::Path;
use std::process::Command;

use crate::command::{Failure, run_cargo};
use crate::report::Outcome;

/// How the test says that this machine cannot run a scenario.
const SKIPPED: &str = "skipped: ";

/// Runs the test; what was skipped is a failure here.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    match gate(root) {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(note) | Outcome::Failed(note) => Err(Failure::check(note)),
    }
}

/// Runs the test; skipped by name where root or loop devices are missing.
pub(crate) fn gate(root: &Path) -> Outcome {
    if let Err(failure) = run_cargo(root, &["build", "-p", "heddle", "--bin", "heddle"]) {
        return Outcome::Failed(failure.to_string());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    let heddle = target.join("debug/heddle");
    // What it mounts is gone with it, however it ends. Without the right to do so it says itself
    // what is missing.
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(&heddle).arg("disk-test").current_dir(root);
    let output = match command.output() {
        Ok(output) if output.status.success() || !output.stdout.is_empty() => output,
        _ => match Command::new(&heddle).arg("disk-test").current_dir(root).output() {
            Ok(output) => output,
            Err(error) => return Outcome::Failed(format!("{}: {error}", heddle.display())),
        },
    };
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let skipped: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(SKIPPED)).collect();
    match (output.status.success(), skipped.is_empty()) {
        (true, _) => Outcome::Passed,
        (false, false) => Outcome::Skipped(skipped.join("; ")),
        (false, true) => Outcome::Failed(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
