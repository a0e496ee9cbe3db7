//! `cargo xtask cluster`: a cluster of `heddle serve` processes on addresses of this machine.
//!
//! Every address of 127.0.0.0/8 belongs to the machine, so each node has one of its own, and all
//! have the same ports, as on machines of their own.

mod options;
mod process;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::command::{Failure, finish, run_cargo};
use options::Options;
use process::{Node, NodeOptions};

pub(crate) use options::HELP;

/// Longest time until all nodes serve and agree.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Longest time for all nodes to end.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at the nodes.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the cluster and runs it until Ctrl-C, or until the command it is given has ended.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    let program = build(root, &options)?;
    let is_over = watch_signals()?;
    let folder = Folder::new(root, &options)?;
    let mut cluster = Cluster::start(&program, &folder.path, &options)?;
    let outcome = cluster.until_over(&options, &is_over);
    let stopped = cluster.stop();
    let kept = if outcome.is_ok() && stopped.is_ok() { folder.end() } else { folder.keep() };
    outcome.and(stopped).and(kept)
}

/// Builds the node, unless one is given, and says where it is.
fn build(root: &Path, options: &Options) -> Result<PathBuf, Failure> {
    if let Some(program) = &options.program {
        return program.canonicalize().map_err(|error| Failure::io(program, &error));
    }
    let mut arguments = vec!["build", "--package", "heddle", "--bin", "heddle"];
    if options.is_release {
        arguments.push("--release");
    }
    run_cargo(root, &arguments)?;
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root.join("target"), |target| root.join(target));
    Ok(target.join(if options.is_release { "release/heddle" } else { "debug/heddle" }))
}

fn watch_signals() -> Result<Arc<AtomicBool>, Failure> {
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends this command at once, and leaves the nodes where they are.
        let second = signal_hook::flag::register_conditional_default(signal, Arc::clone(&is_over));
        let first = signal_hook::flag::register(signal, Arc::clone(&is_over));
        second.and(first).map_err(|error| Failure::Io(format!("signals: {error}")))?;
    }
    Ok(is_over)
}

/// Where the nodes keep their data and logs.
struct Folder {
    path: PathBuf,
    is_kept: bool,
}

impl Folder {
    fn new(root: &Path, options: &Options) -> Result<Self, Failure> {
        let name = format!("tmp/cluster-{}", std::process::id());
        let own = || root.join("target").join(name);
        let path = options.folder.clone().unwrap_or_else(own);
        std::fs::create_dir_all(&path).map_err(|error| Failure::io(&path, &error))?;
        Ok(Self { path, is_kept: options.is_kept })
    }

    fn end(self) -> Result<(), Failure> {
        if self.is_kept {
            return self.keep();
        }
        std::fs::remove_dir_all(&self.path).map_err(|error| Failure::io(&self.path, &error))
    }

    fn keep(self) -> Result<(), Failure> {
        println!("data and logs: {}", self.path.display());
        Ok(())
    }
}

struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts every node; does not wait for any.
    fn start(program: &Path, folder: &Path, options: &Options) -> Result<Self, Failure> {
        let addresses: Vec<Ipv4Addr> = options.addresses();
        let join: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
        let mut cluster = Self { nodes: Vec::new() };
        for (index, address) in addresses.iter().enumerate() {
            let node = Node::spawn(&NodeOptions {
                program,
                folder,
                name: format!("node-{}", index + 1),
                address: *address,
                join: &join,
                cores: options.cores,
                flags: &options.flags,
            });
            // What was started by then is stopped when the cluster is dropped.
            cluster.nodes.push(node?);
        }
        Ok(cluster)
    }

    fn until_over(&mut self, options: &Options, is_over: &AtomicBool) -> Result<(), Failure> {
        if !self.wait_ready(is_over)? {
            return Ok(());
        }
        let addresses: Vec<String> = self.nodes.iter().map(Node::native).collect();
        let addresses = addresses.join(",");
        for node in &self.nodes {
            println!("{}  native {}  http {}", node.name, node.native(), node.http());
        }
        println!("export HEDDLE_ADDRESS={addresses}");
        if let Some((program, arguments)) = options.command.split_first() {
            let mut command = Command::new(program);
            command.args(arguments).env("HEDDLE_ADDRESS", &addresses);
            return finish(command, &options.command.join(" "));
        }
        println!("Ctrl-C stops the cluster.");
        while !is_over.load(Ordering::Relaxed) {
            self.fail_when_one_ended()?;
            pause();
        }
        Ok(())
    }

    /// Waits until all serve, see each other and have the same catalog; false when told to stop.
    fn wait_ready(&mut self, is_over: &AtomicBool) -> Result<bool, Failure> {
        let deadline = after(READY_LIMIT);
        loop {
            if is_over.load(Ordering::Relaxed) {
                return Ok(false);
            }
            self.fail_when_one_ended()?;
            let states: Vec<_> = self.nodes.iter().map(Node::state).collect();
            let others = (self.nodes.len() - 1) as u64;
            let is_whole = |state: &process::State| state.is_ready && state.members == Some(others);
            let epoch = states[0].epoch;
            let agree = states.iter().all(|state| is_whole(state) && state.epoch == epoch);
            if agree {
                return Ok(true);
            }
            if is_past(deadline) {
                let shown =
                    |(node, state): (&Node, &process::State)| format!("{}: {state}", node.name);
                let shown: Vec<String> = self.nodes.iter().zip(&states).map(shown).collect();
                let limit = READY_LIMIT.as_secs();
                let what = format!("no cluster after {limit} s\n  {}", shown.join("\n  "));
                return Err(Failure::check(what));
            }
            pause();
        }
    }

    fn fail_when_one_ended(&mut self) -> Result<(), Failure> {
        self.nodes.iter_mut().try_for_each(Node::fail_when_ended)
    }

    /// Asks all to drain, then waits for each.
    fn stop(&mut self) -> Result<(), Failure> {
        for node in &self.nodes {
            node.terminate();
        }
        let deadline = after(STOP_LIMIT);
        let ended: Vec<Result<(), Failure>> =
            self.nodes.iter_mut().map(|node| node.wait(|| is_past(deadline))).collect();
        ended.into_iter().collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "a developer's command waits for other processes")]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[expect(clippy::disallowed_methods, reason = "a developer's command limits its wait")]
fn after(limit: Duration) -> Instant {
    Instant::now() + limit
}

#[expect(clippy::disallowed_methods, reason = "a developer's command limits its wait")]
fn is_past(deadline: Instant) -> bool {
    Instant::now() > deadline
}
