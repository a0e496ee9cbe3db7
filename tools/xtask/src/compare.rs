//! `cargo xtask compare`: Heddle beside other libraries. Prepares what the scripts under
//! `bench/compare` need, then leaves the work to them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Failure, finish, run_cargo};

pub(crate) const HELP: &str = "\
Heddle beside hnswlib, faiss, vsag, scann, usearch and voyager on one set of vectors.

Usage: cargo xtask compare --set DIR [options]

  --set DIR          folder with base.npy, query.npy (or queries.npy) and gt.npy (or truth.npy);
                     --base, --queries and --truth name single files instead
  --metric NAME      l2, cosine or dot; guessed from set.json or the vectors' lengths without it
  --peers LIST       configurations or first parts of their names, or none (default: the usual ones)
  --codes LIST       configurations of Heddle: default, none, half, 8bit, 4bit, 1bit; what follows
                     a colon is --raw, as in 4bit:absent (default: default)
  --passes N         passes over all queries, interleaved (default 5)
  --cpu N            where everything runs (default: the last CPU)
  --seed N           orders the passes; drawn and printed without it
  --rebuild LIST     configurations to build anew although they are cached
  --build-only       fill the cache of built indexes and end
  --quick            two passes over every other point
  --out DIR          tables, plot and JSON (default: target/compare/out-SET)
  --docs DIR         also put tables and plot into DIR/benchmarks.md and DIR/plots
  --cache DIR        built indexes (default: target/compare/cache)
  --python PROGRAM   Python 3.11 or later (default: python3)

The libraries come from PyPI in the versions of bench/compare/requirements.txt, into a virtual
environment under target/compare. What cannot be installed is passed over by name.
";

/// Where things are.
struct Places {
    root: PathBuf,
    /// Cargo's target folder.
    target: PathBuf,
}

/// What the scripts cannot know before they run, and what is handed to them as it stands.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    python: String,
    passed_on: Vec<String>,
}

/// Runs the comparison; its output goes straight to the terminal.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    let places = Places::find(root)?;
    let python = environment(&places, &options.python)?;
    run_cargo(root, &["build", "--release", "--package", "heddle-bench", "--bin", "heddle-bench"])?;
    let mut command = Command::new(python);
    command.arg(places.root.join("bench/compare"));
    command.arg("--cache").arg(places.target.join("compare/cache"));
    command.arg("--program").arg(places.target.join("release/heddle-bench"));
    // What the caller names comes last and wins; relative paths are the caller's.
    command.args(&options.passed_on);
    finish(command, "bench/compare")
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut python = "python3".to_owned();
        let mut passed_on = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--python" {
                let program = rest.next();
                let missing = || Failure::usage("`--python` needs a program".into());
                program.ok_or_else(missing)?.clone_into(&mut python);
            } else if let Some(program) = argument.strip_prefix("--python=") {
                program.clone_into(&mut python);
            } else {
                passed_on.push(argument.clone());
            }
        }
        let named =
            passed_on.iter().any(|argument| argument == "--set" || argument.starts_with("--set="));
        if named {
            Ok(Self { python, passed_on })
        } else {
            Err(Failure::usage("`--set DIR` is missing; try `cargo xtask compare --help`".into()))
        }
    }
}

impl Places {
    fn find(root: &Path) -> Result<Self, Failure> {
        // This program lies in `target/<profile>`.
        let ours = std::env::current_exe().map_err(|error| Failure::Io(error.to_string()))?;
        let target = ours.parent().and_then(Path::parent).unwrap_or(root).to_path_buf();
        Ok(Self { root: root.to_path_buf(), target })
    }
}

/// Makes the virtual environment and installs what it lacks; gives back its Python.
fn environment(places: &Places, python: &str) -> Result<PathBuf, Failure> {
    let folder = places.target.join("compare/venv");
    let inside = folder.join("bin/python");
    if !inside.exists() {
        let mut command = Command::new(python);
        command.args(["-m", "venv"]).arg(&folder);
        finish(command, &format!("{python} -m venv"))?;
    }
    let list = places.root.join("bench/compare/requirements.txt");
    let text = std::fs::read_to_string(&list).map_err(|error| Failure::io(&list, &error))?;
    let done_path = folder.join("installed.txt");
    let mut done = std::fs::read_to_string(&done_path).unwrap_or_default();
    for requirement in missing(&text, &done) {
        let mut command = Command::new(&inside);
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        command.args(["--retries", "2", "--prefer-binary", requirement]);
        match finish(command, &format!("pip install {requirement}")) {
            Ok(()) => done = format!("{done}{requirement}\n"),
            // Every script needs it.
            Err(failure) if requirement.starts_with("numpy") => return Err(failure),
            Err(failure) => eprintln!("passed over: {requirement} ({failure})"),
        }
    }
    std::fs::write(&done_path, done).map_err(|error| Failure::io(&done_path, &error))?;
    Ok(inside)
}

/// Requirements that are not among the installed ones, in their order.
fn missing<'a>(requirements: &'a str, installed: &str) -> Vec<&'a str> {
    let wanted = requirements.lines().map(str::trim);
    let wanted = wanted.filter(|line| !line.is_empty() && !line.starts_with('#'));
    wanted.filter(|line| !installed.lines().any(|known| known == *line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_interpreter_is_kept_and_everything_else_passed_on() {
        let options = Options::parse(&words("--set a --python python3.12 --quick")).unwrap();
        let passed_on = words("--set a --quick");
        assert_eq!(options, Options { python: "python3.12".into(), passed_on });
        let options = Options::parse(&words("--python=p --set=a")).unwrap();
        assert_eq!(options, Options { python: "p".into(), passed_on: words("--set=a") });
    }

    #[test]
    fn a_comparison_without_a_set_is_refused_before_anything_is_installed() {
        for text in ["--quick", "--settle a", "--set a --python"] {
            assert!(Options::parse(&words(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_is_not_installed_in_this_version_is_installed() {
        let requirements = "# why\n\nnumpy==2.0\nscann==1.4\n";
        assert_eq!(missing(requirements, ""), ["numpy==2.0", "scann==1.4"]);
        assert_eq!(missing(requirements, "numpy==1.9\nscann==1.4\n"), ["numpy==2.0"]);
    }

    #[test]
    fn every_library_has_one_exact_version() {
        let text = include_str!("../../../bench/compare/requirements.txt");
        let wanted = missing(text, "");
        assert!(wanted.len() > 1);
        assert!(wanted.iter().all(|line| line.contains("==")), "{wanted:?}");
    }
}
