//! Every gate in order, cheapest first. Reads the tree and the build folder; never edits a source.

use std::path::Path;
use std::time::Instant;

use crate::command::{Failure, has_cargo_subcommand, run_cargo, run_cargo_with};
use crate::report::{Outcome, Report};
use crate::{disk, fuzz, sim, tidy};

/// Seconds per fuzz target inside `verify`: enough to catch a decoder that panics on ordinary
/// damage. Longer runs are `cargo xtask fuzz`.
const FUZZ_SECONDS_DEFAULT: u32 = 5;

/// What `verify` was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    on_failure: OnFailure,
    fuzz_seconds: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum OnFailure {
    Stop,
    KeepGoing,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self { on_failure: OnFailure::Stop, fuzz_seconds: FUZZ_SECONDS_DEFAULT };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--keep-going" => options.on_failure = OnFailure::KeepGoing,
                "--fuzz-seconds" => {
                    let number = rest.next().and_then(|text| text.parse().ok());
                    options.fuzz_seconds = number.ok_or_else(|| {
                        Failure::usage("--fuzz-seconds takes a whole number".into())
                    })?;
                }
                other => return Err(Failure::usage(format!("unexpected argument `{other}`"))),
            }
        }
        Ok(options)
    }
}

type Gate = fn(&Path, &Options) -> Outcome;

const GATES: [(&str, Gate); 10] = [
    ("format", |root, _| outcome(run_cargo(root, &["fmt", "--all", "--check"]))),
    ("tidy", |root, _| outcome(tidy::run(root))),
    ("clippy", |root, _| {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        outcome(run_cargo(root, &arguments))
    }),
    ("test", |root, _| outcome(run_cargo(root, &test_arguments()))),
    ("doctest", |root, _| outcome(run_cargo(root, &["test", "--workspace", "--doc"]))),
    ("rustdoc", |root, _| {
        let variables = [("RUSTDOCFLAGS", "-D warnings")];
        outcome(run_cargo_with(root, &["doc", "--workspace", "--no-deps"], &variables))
    }),
    ("deny", |root, _| deny(root)),
    ("sim", |root, _| outcome(sim::smoke(root))),
    ("disk", |root, _| disk::gate(root)),
    ("fuzz", |root, options| outcome(fuzz::smoke(root, options.fuzz_seconds))),
];

/// Runs the gates and prints each with its time, then a summary.
pub(crate) fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let mut report = Report::default();
    for (name, gate) in GATES {
        println!("\n== {name}");
        let (seconds, outcome) = timed(|| gate(root, options));
        println!("== {name}: {} in {:.1} s", describe(&outcome), seconds.as_secs_f64());
        report.add(name, seconds, outcome);
        if report.failed_count() > 0 && options.on_failure == OnFailure::Stop {
            break;
        }
    }
    print!("\n{}", report.summary(GATES.len()));
    match report.failed_count() {
        0 => Ok(()),
        count => Err(Failure::check(format!("{count} gate(s) failed"))),
    }
}

/// The test run without doctests: nextest when it is there, Cargo's own runner when not, so that
/// a machine with nothing but Rust and a C compiler can verify.
pub(crate) fn test_arguments() -> Vec<&'static str> {
    if has_cargo_subcommand("nextest") {
        vec!["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        vec!["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]
    }
}

fn deny(root: &Path) -> Outcome {
    if has_cargo_subcommand("deny") {
        return outcome(run_cargo(root, &["deny", "check", "bans", "licenses", "sources"]));
    }
    let advice = "install with `cargo install --locked cargo-deny`";
    if std::env::var("CI").is_ok_and(|value| value == "true") {
        Outcome::Failed(format!("cargo-deny is missing; {advice}"))
    } else {
        Outcome::Skipped(advice.to_owned())
    }
}

fn outcome(result: Result<(), Failure>) -> Outcome {
    match result {
        Ok(()) => Outcome::Passed,
        Err(failure) => Outcome::Failed(failure.to_string()),
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Skipped(note) => format!("skipped, {note}"),
        Outcome::Failed(note) => format!("FAILED, {note}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a developer's command reports wall time")]
fn timed<T>(work: impl FnOnce() -> T) -> (std::time::Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Failure> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn verify_stops_at_the_first_failure_unless_told_otherwise() {
        let plain = parse("").unwrap();
        assert_eq!(plain.on_failure, OnFailure::Stop);
        assert_eq!(plain.fuzz_seconds, FUZZ_SECONDS_DEFAULT);
        let told = parse("--keep-going --fuzz-seconds 60").unwrap();
        assert_eq!(told, Options { on_failure: OnFailure::KeepGoing, fuzz_seconds: 60 });
    }

    #[test]
    fn an_unknown_or_incomplete_option_is_refused_by_name() {
        assert!(parse("--fast").unwrap_err().to_string().contains("--fast"));
        assert!(parse("--fuzz-seconds").unwrap_err().to_string().contains("--fuzz-seconds"));
        assert!(parse("--fuzz-seconds x").is_err());
    }
}
