//! The command line of `cargo xtask cluster`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::command::Failure;

pub(crate) const HELP: &str = "\
A cluster of nodes on this machine, for trying things out.

Usage: cargo xtask cluster [options] [-- COMMAND ...]

  --nodes N          nodes (default 3)
  --cores N          data cores of each (default 1)
  --first ADDRESS    address of the first node; each next one has the next (default 127.0.0.11)
  --flag FLAG=VALUE  further setting of every node, as for `heddle serve`; may be repeated
  --dir DIR          folder for data and logs, which stays (default: a temporary one)
  --keep             leave the temporary folder
  --release          the release build
  --program FILE     this executable of the node; nothing is built then

Builds the node, starts the cluster, waits until all serve and agree, prints their addresses, and
stops them on Ctrl-C. With a COMMAND it stops them when that has ended; HEDDLE_ADDRESS names the
nodes to it.

  cargo xtask cluster --nodes 3
  cargo xtask cluster --flag checkpoint-interval-s=5 -- heddle status
";

/// Most nodes: each is a process with threads and logs of its own.
const NODES_MAX: usize = 16;

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) nodes: usize,
    pub(super) cores: usize,
    pub(super) first: Ipv4Addr,
    /// Flags of every node, with their hyphens.
    pub(super) flags: Vec<String>,
    pub(super) folder: Option<PathBuf>,
    pub(super) is_kept: bool,
    pub(super) is_release: bool,
    /// The node that is started instead of the one of this repository.
    pub(super) program: Option<PathBuf>,
    /// What is run beside the cluster; empty for nothing.
    pub(super) command: Vec<String>,
}

impl Options {
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self {
            nodes: 3,
            cores: 1,
            first: Ipv4Addr::new(127, 0, 0, 11),
            flags: Vec::new(),
            folder: None,
            is_kept: false,
            is_release: false,
            program: None,
            command: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--keep" => options.is_kept = true,
                "--release" => options.is_release = true,
                "--" => options.command = rest.by_ref().cloned().collect(),
                name @ ("--nodes" | "--cores" | "--first" | "--flag" | "--dir" | "--program") => {
                    let missing = || Failure::usage(format!("`{name}` needs a value"));
                    options.set(name, rest.next().ok_or_else(missing)?)?;
                }
                other => {
                    let hint = "try `cargo xtask cluster --help`";
                    return Err(Failure::usage(format!("unexpected argument `{other}`; {hint}")));
                }
            }
        }
        let last = options.first.octets()[3] as usize + options.nodes - 1;
        if !options.first.is_loopback() || last > 254 {
            let expected = "an address of 127.0.0.0/8 whose last number leaves room for all nodes";
            return Err(Failure::usage(format!(
                "--first is {}, expected {expected}",
                options.first
            )));
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let refusal =
            |expected: &str| Failure::usage(format!("{name} is {value}, expected {expected}"));
        match name {
            "--nodes" => {
                let count = value.parse().ok().filter(|count| (1..=NODES_MAX).contains(count));
                self.nodes = count.ok_or_else(|| refusal("1 to 16"))?;
            }
            "--cores" => {
                let count = value.parse().ok().filter(|count| *count > 0);
                self.cores = count.ok_or_else(|| refusal("a number from 1"))?;
            }
            "--first" => self.first = value.parse().map_err(|_text| refusal("an IPv4 address"))?,
            "--flag" => {
                let is_flag = value.split_once('=').is_some_and(|(flag, _)| !flag.is_empty());
                let flag = value.trim_start_matches('-');
                self.flags.push(if is_flag {
                    format!("--{flag}")
                } else {
                    return Err(refusal("FLAG=VALUE"));
                });
            }
            "--program" => self.program = Some(PathBuf::from(value)),
            _ => self.folder = Some(PathBuf::from(value)),
        }
        Ok(())
    }

    /// The address of each node.
    pub(super) fn addresses(&self) -> Vec<Ipv4Addr> {
        let [a, b, c, d] = self.first.octets();
        (0..self.nodes).map(|index| Ipv4Addr::new(a, b, c, d + index as u8)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, Failure> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_option_is_understood() {
        let options = parse(
            "--nodes 5 --cores 2 --first 127.0.1.250 --flag spin-us=50 --flag --name=x --dir d \
             --keep --release --program p -- heddle status --json",
        )
        .unwrap();
        let expected = Options {
            nodes: 5,
            cores: 2,
            first: Ipv4Addr::new(127, 0, 1, 250),
            flags: vec!["--spin-us=50".to_owned(), "--name=x".to_owned()],
            folder: Some("d".into()),
            is_kept: true,
            is_release: true,
            program: Some("p".into()),
            command: ["heddle", "status", "--json"].map(str::to_owned).to_vec(),
        };
        assert_eq!(options, expected);
        assert_eq!(options.addresses().last(), Some(&Ipv4Addr::new(127, 0, 1, 254)));
        assert_eq!(parse("").unwrap().addresses().len(), 3);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, named) in [
            ("--nodes", "--nodes"),
            ("--nodes 0", "--nodes is 0"),
            ("--nodes 17", "--nodes is 17"),
            ("--cores x", "--cores is x"),
            ("--first 10.0.0.1", "--first is 10.0.0.1"),
            ("--first 127.0.0.253", "--first is 127.0.0.253"),
            ("--flag spin-us", "--flag is spin-us"),
            ("--verbose", "--verbose"),
        ] {
            let failure = parse(text).unwrap_err().to_string();
            assert!(failure.contains(named), "{text}: {failure}");
        }
    }
}
