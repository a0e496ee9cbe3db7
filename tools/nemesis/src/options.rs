//! What to run.

use std::path::PathBuf;
use std::time::Duration;

use heddle_types::Consistency;

use crate::faults::Fault;
use crate::workload::Workload;

pub(crate) const HELP: &str = "\
Breaks a cluster of nodes on this machine while clients use it, and judges what they saw.

Usage: cargo xtask nemesis [--nodes N] [--factor N] [--seconds S] [--seed N] [--fault F]...
                           [--workload W]... [--level L]... [--program PATH] [--keep]

  --nodes N      nodes of the cluster (default 3)
  --factor N     replicas of every shard (default: as many as nodes, at most 3)
  --seconds S    seconds of faults in each cell (default 20)
  --seed N       decides when and whom faults hit (default 1)
  --fault F      none, kill, pause, cut, one-way, slow-net, reset, clock, wipe; default all
  --workload W   w1 unique inserts and scans, w2 ten hot keys, w3 insert and delete in turns,
                 w4 vectors that a search must find; default all
  --level L      one, quorum, all; default quorum
  --program PATH the node, instead of the one that is built first
  --keep         data and logs stay
A cell of the table is one fault with one workload at one level, on a fresh cluster.
";

pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) factor: u32,
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) faults: Vec<Fault>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) levels: Vec<Consistency>,
    pub(crate) program: PathBuf,
    pub(crate) keeps: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            nodes: 3,
            factor: 0,
            time: Duration::from_secs(20),
            seed: 1,
            faults: Vec::new(),
            workloads: Vec::new(),
            levels: Vec::new(),
            program: PathBuf::from("target/debug/heddle"),
            keeps: false,
        };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{flag} takes a value"));
            match flag.as_str() {
                "--nodes" => options.nodes = number(value()?)? as usize,
                "--factor" => options.factor = number(value()?)? as u32,
                "--seconds" => options.time = Duration::from_secs(number(value()?)?),
                "--seed" => options.seed = number(value()?)?,
                "--fault" => options.faults.push(named(value()?, &Fault::ALL)?),
                "--workload" => options.workloads.push(named(value()?, &Workload::ALL)?),
                "--level" => {
                    let level = value()?.parse::<Consistency>();
                    options.levels.push(level.map_err(|error| error.to_string())?);
                }
                "--program" => options.program = PathBuf::from(value()?),
                "--keep" => options.keeps = true,
                other => return Err(format!("unknown argument {other}\n{HELP}")),
            }
        }
        if !(1..=9).contains(&options.nodes) {
            return Err(format!("--nodes {}: 1 to 9", options.nodes));
        }
        if options.factor == 0 {
            options.factor = options.nodes.min(3) as u32;
        }
        if options.faults.is_empty() {
            options.faults = Fault::ALL.to_vec();
        }
        if options.workloads.is_empty() {
            options.workloads = Workload::ALL.to_vec();
        }
        if options.levels.is_empty() {
            options.levels = vec![Consistency::Quorum];
        }
        Ok(options)
    }
}

fn number(text: &String) -> Result<u64, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn named<T: Copy + std::fmt::Display>(text: &str, all: &[T]) -> Result<T, String> {
    let found = all.iter().find(|one| one.to_string() == text);
    found.copied().ok_or_else(|| {
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        format!("{text}: expected one of {}", names.join(", "))
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
    fn a_cell_is_named_by_fault_workload_and_level() {
        let options = parse("--fault kill --workload w2 --level one --nodes 5 --seed 7").unwrap();
        assert_eq!((options.faults, options.workloads), (vec![Fault::Kill], vec![Workload::W2]));
        assert_eq!((options.levels, options.factor), (vec![Consistency::One], 3));
        let all = parse("--nodes 2").unwrap();
        assert_eq!((all.faults.len(), all.workloads.len()), (Fault::ALL.len(), 4));
        assert_eq!(all.factor, 2);
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        for line in ["--fault rain", "--workload w9", "--level most", "--nodes 0", "--seed", "x"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("--fault rain").err().unwrap().contains("one-way"));
    }
}
