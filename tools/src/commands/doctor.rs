//! `heddle doctor`: can this machine run a node, and what to do where not.

use std::path::{Path, PathBuf};

use heddle_runtime::probe::{self, Check, CheckState};

use crate::cli::Doctor;
use crate::failure::Failure;
use crate::output::{Style, print_json};

pub(crate) fn run(arguments: &Doctor) -> Result<(), Failure> {
    let folder = nearest_existing(&arguments.data_dir)?;
    let checks = probe::checks(&folder);
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
