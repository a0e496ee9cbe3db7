//! Runs histories of the simulated cluster: `cargo xtask sim` starts it.
//!
//! `--seeds N --from S` runs many and sums up; `--seed N` runs one twice and prints its history
//! when it is broken (`--print` in any case); `--engine` takes the real engine instead of its
//! model; `--bugs` plants each bug in turn and counts the seeds until it is found; `--bug NAME`
//! plants one; `--twice` runs every seed twice and compares.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a developer's command prints, takes wall time and uses both cores"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use heddle_sim::replicas::{Bug, FaultClass, Mode, Report, Settings, run};

/// Threads that run histories.
const WORKERS: u64 = 2;
/// Seeds after which a planted bug counts as not found.
const BUG_SEEDS_MAX: u64 = 5_000;
/// Broken seeds that a sum lists.
const BROKEN_SHOWN: usize = 10;
const VIOLATION_SHOWN: usize = 90;

struct Options {
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    template: Settings,
    prints: bool,
    bugs: bool,
    twice: bool,
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        seed: None,
        seeds: 2_000,
        from: 0,
        template: Settings::new(0),
        prints: false,
        bugs: false,
        twice: false,
    };
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{flag} takes a value"));
        let number =
            |text: &String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match flag.as_str() {
            "--seed" => options.seed = Some(number(value()?)?),
            "--seeds" => options.seeds = number(value()?)?,
            "--from" => options.from = number(value()?)?,
            "--nodes" => options.template.nodes = Some(number(value()?)? as usize),
            "--operations" => options.template.operations = Some(number(value()?)? as usize),
            "--bug" => {
                let name = value()?;
                let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == *name);
                options.template.bug = Some(bug.ok_or_else(|| format!("no bug is named {name}"))?);
            }
            "--engine" => options.template.mode = Mode::Engine,
            "--twice" => options.twice = true,
            "--bugs" => options.bugs = true,
            "--print" => options.prints = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match parse(&arguments) {
        Ok(options) => options,
        Err(problem) => {
            println!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let is_good = match (options.seed, options.bugs) {
        (Some(seed), _) => one(&options, seed),
        (None, true) => bugs(&options),
        (None, false) => many(&options),
    };
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One history, twice.
fn one(options: &Options, seed: u64) -> bool {
    let settings = Settings { seed, keeps_lines: true, ..options.template };
    let report = run(settings);
    let again = run(settings);
    if options.prints || !report.violations.is_empty() {
        report.lines.iter().for_each(|line| println!("{line}"));
    }
    println!("seed {seed}: hash {:016x}, again {:016x}", report.hash, again.hash);
    report.violations.iter().for_each(|violation| println!("{violation}"));
    report.violations.is_empty() && report.hash == again.hash
}

#[derive(Default)]
struct Sum {
    histories: u64,
    operations: u64,
    acknowledged: u64,
    unknown: u64,
    repairs: u64,
    hints: u64,
    sessions: u64,
    purged: u64,
    fired: BTreeMap<FaultClass, u64>,
    broken: Vec<(u64, Report)>,
}

impl Sum {
    fn add(&mut self, seed: u64, report: Report) {
        self.histories += 1;
        self.operations += report.operations as u64;
        self.acknowledged += report.acknowledged as u64;
        self.unknown += report.unknown as u64;
        self.repairs += report.repairs;
        self.hints += report.hints_delivered;
        self.sessions += report.sessions;
        self.purged += report.purged;
        for class in &report.fired {
            *self.fired.entry(*class).or_default() += 1;
        }
        if !report.violations.is_empty() {
            self.broken.push((seed, report));
        }
    }

    fn merge(&mut self, other: Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.repairs += other.repairs;
        self.hints += other.hints;
        self.sessions += other.sessions;
        self.purged += other.purged;
        for (class, count) in other.fired {
            *self.fired.entry(class).or_default() += count;
        }
        self.broken.extend(other.broken);
    }
}

fn many(options: &Options) -> bool {
    let begin = Instant::now();
    let workers = (0..WORKERS).map(|worker| {
        let (from, seeds, template) = (options.from, options.seeds, options.template);
        let twice = options.twice;
        std::thread::spawn(move || {
            let mut sum = Sum::default();
            for seed in (from..from + seeds).filter(|seed| seed % WORKERS == worker) {
                let settings = Settings { seed, ..template };
                let mut report = run(settings);
                if twice && run(settings).hash != report.hash {
                    report.violations.push("the second run was another one".to_owned());
                }
                sum.add(seed, report);
            }
            sum
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut sum = Sum::default();
    for worker in workers {
        sum.merge(worker.join().expect("a history that panics prints its reason"));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let rate = sum.histories as f64 / seconds;
    println!(
        "{} histories in {seconds:.1} s, {rate:.1} a second on {WORKERS} cores",
        sum.histories
    );
    println!(
        "{} operations: {} acknowledged, {} unknown; {} read repairs, {} hints delivered, \
         {} whole sessions, {} deletions forgotten",
        sum.operations,
        sum.acknowledged,
        sum.unknown,
        sum.repairs,
        sum.hints,
        sum.sessions,
        sum.purged
    );
    for class in FaultClass::ALL {
        let count = sum.fired.get(&class).copied().unwrap_or(0);
        let percent = 100.0 * count as f64 / sum.histories.max(1) as f64;
        println!("{percent:5.1} % {class:?}: {}", class.story());
    }
    sum.broken.sort_by_key(|(seed, _)| *seed);
    println!("{} broken", sum.broken.len());
    for (seed, report) in sum.broken.iter().take(BROKEN_SHOWN) {
        println!("seed {seed}: {}", report.violations[0]);
    }
    sum.broken.is_empty()
}

fn bugs(options: &Options) -> bool {
    let begin = Instant::now();
    let workers = (0..WORKERS).map(|worker| {
        let (from, template) = (options.from, options.template);
        std::thread::spawn(move || {
            let mine = Bug::ALL.into_iter().enumerate();
            let mine = mine.filter(|(number, _)| *number as u64 % WORKERS == worker);
            mine.map(|(_, bug)| (bug, find(bug, from, template))).collect::<Vec<_>>()
        })
    });
    let workers: Vec<_> = workers.collect();
    let results = workers.into_iter().map(|worker| worker.join().expect("its reason is printed"));
    let mut all: Vec<(Bug, Option<(u64, String)>)> = results.flatten().collect();
    all.sort_by_key(|(bug, _)| *bug);
    for (bug, found) in &all {
        match found {
            Some((count, violation)) => {
                let short: String = violation.chars().take(VIOLATION_SHOWN).collect();
                println!("{count:5} seeds {bug:?}: {}: {short}", bug.story());
            }
            None => println!("not found in {BUG_SEEDS_MAX} seeds {bug:?}: {}", bug.story()),
        }
    }
    let found = all.iter().filter(|(_, found)| found.is_some()).count();
    println!("{found} of {} bugs found in {:.1} s", all.len(), begin.elapsed().as_secs_f64());
    found == all.len()
}

/// The number of seeds until a bug is found, and what is broken then.
fn find(bug: Bug, from: u64, template: Settings) -> Option<(u64, String)> {
    (from..from + BUG_SEEDS_MAX).find_map(|seed| {
        let report = run(Settings { seed, bug: Some(bug), ..template });
        let violation = report.violations.into_iter().next();
        violation.map(|violation| (seed - from + 1, violation))
    })
}
