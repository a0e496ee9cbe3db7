//! Starts what breaks a cluster of real nodes.

use std::path::Path;

use crate::command::{Failure, run, run_cargo};

/// `cargo xtask nemesis`: builds the node, hands the arguments on.
pub(crate) fn run_cells(root: &Path, rest: &[String]) -> Result<(), Failure> {
    let packages = ["--package", "heddle", "--package", "heddle-nemesis"];
    let binaries = ["--bin", "heddle", "--bin", "heddle-nemesis"];
    run_cargo(root, &[&["build"][..], &packages, &binaries].concat())?;
    // Cargo puts every binary of a profile beside the running one.
    let ours = std::env::current_exe().map_err(|error| Failure::Io(error.to_string()))?;
    let (node, nemesis) = (ours.with_file_name("heddle"), ours.with_file_name("heddle-nemesis"));
    let node = node.to_string_lossy().into_owned();
    let mut arguments = vec!["--program", node.as_str()];
    arguments.extend(rest.iter().map(String::as_str));
    run(&nemesis, root, &arguments)
}
