//! Developer tasks of Heddle: `cargo xtask <command>`. CI calls the same commands and nothing else.
//!
//! Depends on as little as possible: this package stands before every other build on a new machine.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks by printing")]

mod cluster;
mod command;
mod compare;
mod cross;
mod disk;
mod fuzz;
mod nemesis;
mod report;
mod sim;
mod tidy;
mod verify;
mod wrap;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use command::{Failure, run_cargo, run_cargo_with};

const HELP: &str = "\
Developer tasks of Heddle.

Usage: cargo xtask <command>

  verify [--keep-going] [--fuzz-seconds N]
                            every gate; changes nothing. Stops at the first failure unless told
                            otherwise; the fuzz gate runs N seconds per target (default 5)
  fix                       apply clippy's suggestions, format, wrap long comments, lower the
                            size ratchet
  tidy                      the repository's own rules alone
  test [FILTER]             unit and integration tests whose name contains FILTER
  fuzz [TARGET] [--seconds N] [--seed N]
                            feed mutated bytes to one decoder, or to each in turn (default 60 s)
  sim [--seeds N] [--from S] [--seed N] [--engine] [--bugs]
                            histories of simulated clusters of replicas, judged; --seed replays
                            one and prints it when it is broken, --bugs plants each known bug
  exhaustive-wal            every way to damage a small log, every crash and failure of a script
  disk                      a node on a full disk and on a failing one; needs root and loop devices
  cluster [--nodes N] [-- COMMAND]
                            a cluster of nodes on this machine; --help says more
  nemesis [--fault F] [--workload W] [--level L] [--seconds S] [--seed N]
                            a cluster of real nodes is broken while clients use it, and what
                            they saw is judged; --help says more
  compare --set DIR         Heddle beside other libraries: recall, queries per second, memory
  cross-test [FILTER...]    the kernels of aarch64 in an emulator; --help says what it needs
  help                      this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command that the arguments name.
fn dispatch(arguments: &[String]) -> Result<(), Failure> {
    let root = repository_root()?;
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("help", arguments),
    };
    match name {
        "verify" => verify::run(&root, &verify::Options::parse(rest)?),
        "fix" => refuse_arguments(rest).and_then(|()| fix(&root)),
        "tidy" => refuse_arguments(rest).and_then(|()| tidy::run(&root)),
        "test" => test(&root, rest),
        "fuzz" => fuzz::attack(&root, rest),
        "sim" => sim::explore(&root, rest),
        "nemesis" => nemesis::run_cells(&root, rest),
        "cross-test" => cross::run(&root, rest),
        "exhaustive-wal" => refuse_arguments(rest).and_then(|()| exhaustive_wal(&root)),
        "disk" => refuse_arguments(rest).and_then(|()| disk::run(&root)),
        "cluster" => cluster::run(&root, rest),
        "compare" => compare::run(&root, rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(Failure::usage(format!("unknown command `{other}`; try `cargo xtask help`"))),
    }
}

fn refuse_arguments(rest: &[String]) -> Result<(), Failure> {
    match rest.first() {
        None => Ok(()),
        Some(extra) => Err(Failure::usage(format!("unexpected argument `{extra}`"))),
    }
}

fn fix(root: &Path) -> Result<(), Failure> {
    run_cargo(
        root,
        &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"],
    )?;
    run_cargo(root, &["fmt", "--all"])?;
    wrap::run(root)?;
    tidy::lower_ratchet(root)
}

/// The tests of the log that take every case when asked to, one at a time: they count allocations.
fn exhaustive_wal(root: &Path) -> Result<(), Failure> {
    let tests = ["test", "--release", "-p", "heddle-sim", "--test", "wal_exhaustive"];
    let crash = ["--test", "crash", "--", "--nocapture", "--test-threads=1"];
    run_cargo_with(root, &[&tests[..], &crash[..]].concat(), &[("HEDDLE_EXHAUSTIVE", "1")])
}

fn test(root: &Path, rest: &[String]) -> Result<(), Failure> {
    let filters: Vec<&str> = rest.iter().map(String::as_str).collect();
    let mut arguments = verify::test_arguments();
    match filters.as_slice() {
        [] => {}
        [filter] if !filter.starts_with('-') => arguments.push(filter),
        _ => return Err(Failure::usage("`test` takes one filter, a part of a test's name".into())),
    }
    run_cargo(root, &arguments)
}

/// The folder that holds the workspace manifest, fixed when this command was compiled by Cargo.
fn repository_root() -> Result<PathBuf, Failure> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = package.join("../..");
    root.canonicalize().map_err(|error| Failure::io(&root, &error))
}
