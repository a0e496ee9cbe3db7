//! `heddle-bench memory`: what one random cache line costs, and how fast memory streams.
//!
//! A search that computes on compact codes waits for lines, not for arithmetic: lines touched times
//! the cost of a line is the time no index can go below. The cost depends on how many loads are in
//! flight at once, on the size of the pages (a miss in the TLB is another access to memory) and on
//! the size of the working set (what the caches still hold).
//!
//! Each line of a working set names the next one, all of them on one cycle in random order.
//! Several walkers go along it, evenly spread; each waits for its own line only, so as many loads
//! are in flight. Pages of 2 MiB are asked of the C library's allocator, which needs glibc 2.35 or
//! later and transparent huge pages set to `madvise` or `always`; what was given is reported.

mod chase;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use serde::{Deserialize, Serialize};

use chase::WorkingSet;

use crate::index::Failure;

/// Makes glibc ask for huge pages behind every large allocation.
const HUGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// Size of a huge page, and of a usual one.
const HUGE_BYTES: u64 = 2 << 20;
const USUAL_BYTES: u64 = 4 << 10;

/// Arguments of `heddle-bench memory`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Working sets in MiB, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "16,64,192,1024",
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    working_sets: Vec<u32>,
    /// Time spent on each figure. It is a median over many pieces of that time, so a process that
    /// is interrupted now and then still measures the memory.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    milliseconds: u32,
    /// Seed of the order in which lines are visited.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measure with the pages this process gets, and print JSON; used by the command itself.
    #[arg(long, hide = true)]
    child: bool,
}

/// All figures, one entry for each size of pages.
#[derive(Serialize)]
struct Report {
    pages: Vec<Pages>,
}

/// Figures with one size of pages.
#[derive(Debug, Serialize, Deserialize)]
struct Pages {
    /// What was asked of the system.
    page_bytes: u64,
    working_sets: Vec<Row>,
}

/// Figures of one working set.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    bytes: u64,
    /// Part of it that lay in huge pages: less than asked where memory is fragmented.
    huge_share: f64,
    random: Vec<Random>,
    sequential_gb_per_second: f64,
}

/// Random lines with so many loads in flight.
#[derive(Debug, Serialize, Deserialize)]
struct Random {
    in_flight: usize,
    ns_per_line: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.child {
        let pages = measure(arguments)?;
        println!("{}", serde_json::to_string(&pages)?);
        return Ok(());
    }
    let mut report = Report { pages: Vec::new() };
    for huge in [false, true] {
        let pages = ask_child(arguments, huge)?;
        if huge && pages.working_sets.iter().all(|row| row.huge_share < 0.5) {
            eprintln!("pages of 2 MiB were not given: /sys/kernel/mm/transparent_hugepage/enabled");
            continue;
        }
        print(&pages);
        report.pages.push(pages);
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// Runs this program once more: the allocator reads its tunables at the start of a process alone.
fn ask_child(arguments: &Arguments, huge: bool) -> Result<Pages, Failure> {
    let sizes: Vec<String> = arguments.working_sets.iter().map(u32::to_string).collect();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["memory", "--child", "--working-sets", &sizes.join(",")]);
    command.args(["--milliseconds", &arguments.milliseconds.to_string()]);
    command.args(["--seed", &arguments.seed.to_string()]);
    command.env_remove(HUGE_PAGES.0);
    if huge {
        command.env(HUGE_PAGES.0, HUGE_PAGES.1);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("measuring in a process of its own: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn measure(arguments: &Arguments) -> Result<Pages, Failure> {
    let page_bytes = match std::env::var(HUGE_PAGES.0) {
        Ok(tunables) if tunables == HUGE_PAGES.1 => HUGE_BYTES,
        _ => USUAL_BYTES,
    };
    let mut working_sets = Vec::new();
    for &mib in &arguments.working_sets {
        let bytes = u64::from(mib) << 20;
        let before = huge_page_bytes()?;
        let mut lines = WorkingSet::new(bytes, arguments.seed);
        let huge = huge_page_bytes()?.saturating_sub(before).min(bytes);
        let random = chase::IN_FLIGHT.map(|in_flight| Random {
            in_flight,
            ns_per_line: lines.ns_per_line(in_flight, arguments.milliseconds),
        });
        working_sets.push(Row {
            bytes,
            huge_share: huge as f64 / bytes as f64,
            random: random.into(),
            sequential_gb_per_second: lines.sequential_gb_per_second(arguments.milliseconds),
        });
    }
    Ok(Pages { page_bytes, working_sets })
}

/// Bytes of this process that lie in huge pages.
fn huge_page_bytes() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let kib: u64 = kib.ok_or("/proc/self/smaps_rollup tells nothing of huge pages")?.parse()?;
    Ok(kib << 10)
}

/// One line per working set.
fn print(pages: &Pages) {
    println!("pages of {} KiB, ns per random line by loads in flight", pages.page_bytes >> 10);
    let flights = chase::IN_FLIGHT.map(|count| format!("{count:>7}")).concat();
    println!("{:>10}{flights}{:>18}{:>8}", "", "sequential GB/s", "huge");
    for row in &pages.working_sets {
        let nanoseconds: String =
            row.random.iter().map(|entry| format!("{:>7.1}", entry.ns_per_line)).collect();
        let name = format!("{} MiB", row.bytes >> 20);
        let huge = format!("{:.0} %", row.huge_share * 100.0);
        println!("{name:>10}{nanoseconds}{:>18.1}{huge:>8}", row.sequential_gb_per_second);
    }
}
