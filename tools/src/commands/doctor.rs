//! `heddle doctor`: can this machine run a node, and what to do where not.

use std::path::{Path, PathBuf};

use heddle_index::{KERNELS_AUTO, check_kernels, kernel_names};
use heddle_runtime::probe::{self, Check, CheckState};

use crate::cli::Doctor;
use crate::config::keys::{self, Key};
use crate::failure::Failure;
use crate::output::{Style, print_json};

pub(crate) fn run(arguments: &Doctor) -> Result<(), Failure> {
    let folder = nearest_existing(&arguments.data_dir)?;
    let mut checks = probe::checks(&folder);
    let variable = keys::find("kernels").map(Key::variable).unwrap_or_default();
    checks.push(judge_kernels(std::env::var(variable).ok().as_deref()));
    let fails = checks.iter().filter(|check| check.state == CheckState::Fail).count();
    let warns = checks.iter().filter(|check| check.state == CheckState::Warn).count();
    if arguments.json {
        print_json(&report(&folder, &checks))?;
    } else {
        print_checks(&folder, &checks);
        println!("\n{}", verdict(fails, warns));
    }
    match fails {
        0 => Ok(()),
        // The report has said it all; the exit code is what is left to say.
        _ => Err(Failure::failed("")),
    }
}

/// What the distance kernels of a node started here would use. `limit` is the variable's value.
fn judge_kernels(limit: Option<&str>) -> Check {
    let names = kernel_names();
    let limit = limit.unwrap_or(KERNELS_AUTO);
    let found = match limit {
        KERNELS_AUTO => format!("{}, the best of {}", names[0], names.join(", ")),
        limit => format!("HEDDLE_KERNELS is {limit}; this machine can run {}", names.join(", ")),
    };
    let (state, advice) = match check_kernels(limit) {
        Err(error) => (CheckState::Fail, format!("{error}; change or unset HEDDLE_KERNELS")),
        // Names are in order, and plain code is always the last.
        Ok(()) if names.len() == 1 => {
            (CheckState::Warn, "no vector instructions known here: searches are slow".to_owned())
        }
        Ok(()) if limit != KERNELS_AUTO && limit != names[0] => {
            (CheckState::Warn, "unset HEDDLE_KERNELS to use the best of the machine".to_owned())
        }
        Ok(()) => (CheckState::Ok, String::new()),
    };
    Check { name: "kernels", state, found, advice }
}

/// The folder itself, or the lowest one above it that exists: asking must not make folders.
fn nearest_existing(folder: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(folder).map_err(|error| Failure::file(folder, error))?;
    let found = absolute.ancestors().find(|ancestor| ancestor.is_dir());
    found.map(Path::to_owned).ok_or_else(|| Failure::file(folder, "no folder above it exists"))
}

fn report(folder: &Path, checks: &[Check]) -> serde_json::Value {
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(CheckState::Ok);
    let check = |check: &Check| {
        serde_json::json!({
            "name": check.name,
            "state": check.state.to_string(),
            "found": check.found,
            "advice": check.advice,
        })
    };
    serde_json::json!({
        "state": worst.to_string(),
        "folder": folder,
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
    })
}

fn print_checks(folder: &Path, checks: &[Check]) {
    let style = Style::of_stdout();
    println!("Checking this machine, and the disk at {}\n", folder.display());
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in checks {
        let state = format!("{:<4}", check.state.to_string());
        let state = match check.state {
            CheckState::Ok => style.green(&state),
            CheckState::Warn => style.yellow(&state),
            CheckState::Fail => style.red(&state),
        };
        println!("  {state}  {:<width$}  {}", check.name, check.found);
        if !check.advice.is_empty() {
            println!("  {:4}  {:width$}  -> {}", "", "", style.bold(&check.advice));
        }
    }
}

fn verdict(fails: usize, warns: usize) -> String {
    let checks =
        |count: usize| if count == 1 { "1 check".to_owned() } else { format!("{count} checks") };
    match (fails, warns) {
        (0, 0) => "All is well.".to_owned(),
        (0, warns) => format!("A node runs here; {} could be better.", checks(warns)),
        (fails, _) => format!("A node must not run here: {} failed.", checks(fails)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_kernels_is_judged_by_what_the_machine_can_run() {
        assert_eq!(judge_kernels(Some("sse9")).state, CheckState::Fail);
        assert!(judge_kernels(Some("sse9")).advice.contains("sse9"));
        let best = kernel_names()[0];
        if best != "portable" {
            assert_eq!(judge_kernels(None).state, CheckState::Ok);
            assert_eq!(judge_kernels(Some(best)).state, CheckState::Ok);
            assert_eq!(judge_kernels(Some("portable")).state, CheckState::Warn);
        }
    }
}
