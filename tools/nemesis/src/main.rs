//! `heddle-nemesis`: breaks a cluster of real processes while clients use it, and judges what they
//! saw. `cargo xtask nemesis` builds the node and starts it.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a developer's command prints, takes wall time and waits; no core of a node runs here"
)]

mod cell;
mod cluster;
mod faults;
mod options;
mod proxy;
mod workload;

use std::process::ExitCode;

use options::{HELP, Options};

/// SplitMix64: the same seed gives the same faults.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(&arguments).and_then(|options| table(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            println!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every cell; true when none is broken.
fn table(options: &Options) -> Result<bool, String> {
    let program = options.program.display();
    println!(
        "{} nodes, factor {}, {} s a cell, seed {}, {program}",
        options.nodes,
        options.factor,
        options.time.as_secs(),
        options.seed
    );
    println!(
        "{:<9} {:<3} {:<7} {:>6} {:>8} {:>8} {:>7} {:>10}  verdict",
        "fault", "w", "level", "faults", "calls", "acked", "failed", "stale p99"
    );
    let folder = std::env::temp_dir().join(format!("heddle-nemesis-{}", std::process::id()));
    let (mut broken, mut invalid) = (0, 0);
    for fault in &options.faults {
        for workload in &options.workloads {
            for level in &options.levels {
                let name = format!("{fault}-{workload}-{level}");
                let place = folder.join(&name);
                std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
                let outcome = cell::run(options, &place, (*fault, *workload, *level));
                let (is_broken, is_invalid) = show(&name, (fault, workload, level), outcome);
                broken += u32::from(is_broken);
                invalid += u32::from(is_invalid);
                if !options.keeps && !is_broken {
                    std::fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
                }
            }
        }
    }
    println!("{broken} broken, {invalid} say nothing");
    if broken > 0 || options.keeps {
        println!("data and logs: {}", folder.display());
    } else {
        // Only empty folders are left.
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(broken == 0)
}

/// Prints a line of the table: is the cell broken, does it say nothing?
fn show(
    name: &str,
    (fault, workload, level): (&faults::Fault, &workload::Workload, &heddle_types::Consistency),
    outcome: Result<cell::Outcome, String>,
) -> (bool, bool) {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(problem) => {
            println!("{fault:<9} {workload:<3} {level:<7} BROKEN: {name}: {problem}");
            return (true, false);
        }
    };
    let stale = outcome.stale_us_p99.map(|us| format!("{} ms", us / 1_000)).unwrap_or_default();
    let verdict = match (&outcome.violations[..], &outcome.invalid) {
        ([], None) => "ok".to_owned(),
        ([], Some(why)) => format!("says nothing: {why}"),
        (violations, _) => format!("BROKEN: {}", violations.join("; ")),
    };
    let cell::Outcome { faults, operations, acknowledged, failed, .. } = outcome;
    println!(
        "{:<9} {:<3} {:<7} {faults:>6} {operations:>8} {acknowledged:>8} {failed:>7} {stale:>10}  \
         {verdict}",
        fault.to_string(),
        workload.to_string(),
        level.to_string()
    );
    (!outcome.violations.is_empty(), outcome.violations.is_empty() && outcome.invalid.is_some())
}
