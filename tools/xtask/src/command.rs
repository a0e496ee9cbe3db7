//! Running other programs, and the one error of this command.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why a task did not succeed; its text is shown to the developer as it stands.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line made no sense. Nothing was run.
    Usage(String),
    /// A file or program could not be used.
    Io(String),
    /// A check ran and said no. Its own output stands above.
    Check(String),
}

impl Failure {
    pub(crate) fn usage(message: String) -> Self {
        Self::Usage(message)
    }

    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io(format!("{}: {error}", path.display()))
    }

    pub(crate) fn check(message: impl Into<String>) -> Self {
        Self::Check(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Io(message) | Self::Check(message) => {
                formatter.write_str(message)
            }
        }
    }
}

/// Runs `cargo` with these arguments in the repository; its output goes straight to the terminal.
pub(crate) fn run_cargo(root: &Path, arguments: &[&str]) -> Result<(), Failure> {
    run_cargo_with(root, arguments, &[])
}

/// As [`run_cargo`], with environment variables added.
pub(crate) fn run_cargo_with(
    root: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<(), Failure> {
    // `cargo run` sets CARGO to the very toolchain that built this command.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).envs(variables.iter().copied()).current_dir(root);
    finish(command, &format!("cargo {}", arguments.join(" ")))
}

/// Runs another program in the repository; its output goes straight to the terminal.
pub(crate) fn run(program: &Path, root: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root);
    finish(command, &format!("{} {}", program.display(), arguments.join(" ")))
}

/// Waits for a program; its output goes straight to the terminal. `shown` names it in a failure.
pub(crate) fn finish(mut command: Command, shown: &str) -> Result<(), Failure> {
    let status = command.status().map_err(|error| Failure::Io(format!("{shown}: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Check(format!("`{shown}` failed ({status})")))
    }
}

/// Whether `cargo <subcommand>` is installed.
pub(crate) fn has_cargo_subcommand(subcommand: &str) -> bool {
    Command::new(format!("cargo-{subcommand}"))
        .args([subcommand, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
