//! Starts the simulator of replicas, an example of its package because it links the engine.

use std::path::Path;

use crate::command::{Failure, run, run_cargo};

/// Histories of the gate, over the model of the engine and over the engine itself.
const SEEDS: &str = "2000";
const ENGINE_SEEDS: &str = "60";
/// Histories that the gate runs twice.
const TWICE_SEEDS: &str = "200";

/// `cargo xtask sim`: hands the arguments to the simulator, built with optimisation and with
/// assertions on.
pub(crate) fn explore(root: &Path, rest: &[String]) -> Result<(), Failure> {
    let mut arguments = vec!["run", "--quiet", "--profile", "fuzz", "--package", "heddle-sim"];
    arguments.extend(["--example", "replicas", "--"]);
    arguments.extend(rest.iter().map(String::as_str));
    run_cargo(root, &arguments)
}

/// The short run inside `verify`, in the dev profile, built as a part of the whole workspace as the
/// fuzz harness is: other seeds for every commit, then every planted bug.
pub(crate) fn smoke(root: &Path) -> Result<(), Failure> {
    run_cargo(root, &["build", "--workspace", "--example", "replicas"])?;
    let ours = std::env::current_exe().map_err(|error| Failure::Io(error.to_string()))?;
    let simulator = ours.with_file_name("examples").join("replicas");
    let from = first_seed(root).to_string();
    let from = ["--from", from.as_str()];
    run(&simulator, root, &[&from[..], &["--seeds", SEEDS]].concat())?;
    run(&simulator, root, &[&from[..], &["--seeds", TWICE_SEEDS, "--twice"]].concat())?;
    run(&simulator, root, &[&from[..], &["--seeds", ENGINE_SEEDS, "--engine"]].concat())?;
    run(&simulator, root, &["--bugs"])
}

/// A number that the commit decides; 0 where there is none.
fn first_seed(root: &Path) -> u64 {
    let head = std::process::Command::new("git")
        .args(["rev-parse", "--short=8", "HEAD"])
        .current_dir(root)
        .output();
    let text = head.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or(0)
}
