//! The harness's command line.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use heddle_fuzz::targets::{ALL, Target};

/// Seconds per target when nothing is said.
const SECONDS_DEFAULT: u64 = 60;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// One, or all.
    pub(crate) targets: Vec<Target>,
    /// For each target.
    pub(crate) time: Duration,
    /// Printed with every run; the same seed gives the same inputs.
    pub(crate) seed: u64,
    /// A recorded input to run once instead.
    pub(crate) input: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments; the error is for the person who typed them.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            targets: ALL.to_vec(),
            time: Duration::from_secs(SECONDS_DEFAULT),
            seed: RandomState::new().build_hasher().finish(),
            input: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next().ok_or_else(|| format!("{argument} needs a value")).map(String::as_str)
            };
            match argument.as_str() {
                "--seconds" => options.time = Duration::from_secs(number("--seconds", value()?)?),
                "--seed" => options.seed = number("--seed", value()?)?,
                "--input" => options.input = Some(PathBuf::from(value()?)),
                name => options.targets = vec![target(name)?],
            }
        }
        if options.input.is_some() && options.targets.len() != 1 {
            return Err("--input needs the one target to run it on".to_owned());
        }
        Ok(options)
    }
}

fn number(option: &str, text: &str) -> Result<u64, String> {
    text.parse().ok().ok_or_else(|| format!("{option} takes a whole number, not {text:?}"))
}

fn target(name: &str) -> Result<Target, String> {
    ALL.iter().find(|target| target.name == name).copied().ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|target| target.name).collect();
        format!("no target is called {name:?}; there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn one_target_a_time_and_a_seed_are_read() {
        let options = parse("row --seconds 7 --seed 9").unwrap();
        assert_eq!(options.targets.len(), 1);
        assert_eq!(options.targets[0].name, "row");
        assert_eq!((options.time, options.seed), (Duration::from_secs(7), 9));
        assert_eq!(parse("").unwrap().targets.len(), ALL.len());
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        assert!(parse("rows").unwrap_err().contains("\"rows\""));
        assert!(parse("--seconds").unwrap_err().contains("--seconds"));
        assert!(parse("--seed x").unwrap_err().contains("\"x\""));
        assert!(parse("--input file").unwrap_err().contains("one target"));
    }
}
