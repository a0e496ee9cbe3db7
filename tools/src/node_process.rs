//! A node as a child process of this command: started on free ports, killed, started again.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use heddle_net::ReadyReport;

use crate::failure::Failure;
use crate::leftovers::Leftovers;

/// Longest time a node may take until it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Lines of the node's log that a failed start shows.
const LOG_LINES_SHOWN: usize = 12;

/// How to start a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    /// Folder of the node's data; its log goes to a file beside it.
    pub(crate) data_dir: PathBuf,
    /// Data cores; 0 takes every CPU.
    pub(crate) cores: usize,
    /// Further flags.
    pub(crate) flags: Vec<&'static str>,
    /// Told of the running node.
    pub(crate) leftovers: Arc<Leftovers>,
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    child: Child,
    log: PathBuf,
    /// Says when the node serves; `None` when it ended first.
    lines: Receiver<String>,
    started: Instant,
    ends_with_us: bool,
    leftovers: Arc<Leftovers>,
}

impl NodeProcess {
    /// Starts `heddle serve` from this very executable; does not wait for it to serve.
    pub(crate) fn spawn(options: &NodeOptions) -> Result<Self, Failure> {
        let executable = std::env::current_exe()?;
        if let Some(parent) = options.data_dir.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Failure::file(parent, error))?;
        }
        let log = log_path(&options.data_dir);
        let log_file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|error| Failure::file(&log, error))?;
        let mut child = Command::new(executable)
            .args(arguments(options))
            // Settings of the caller's shell are meant for the caller's own node.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !is_setting(name)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            // A Ctrl-C of the terminal is for this command, which then ends the node.
            .process_group(0)
            .spawn()?;
        options.leftovers.node_started(child.id());
        let output = child.stdout.take().ok_or_else(|| Failure::failed("no pipe to the node"))?;
        let (sender, lines) = mpsc::channel();
        // Ends with the pipe, that is with the node.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let (started, leftovers) = (Instant::now(), Arc::clone(&options.leftovers));
        Ok(Self { child, log, lines, started, ends_with_us: true, leftovers })
    }

    /// Waits until the node serves; returns where, and how long the start took.
    pub(crate) fn wait_ready(&mut self) -> Result<(ReadyReport, Duration), Failure> {
        let deadline = self.started + READY_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Ok(ready) = serde_json::from_str(&line) {
                        return Ok((ready, self.started.elapsed()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure("the node did not serve in time"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    return Err(self.failure(&format!("the node ended at its start ({status})")));
                }
            }
        }
    }

    /// What to report when the node has ended by itself.
    pub(crate) fn own_end(&mut self) -> Option<Failure> {
        let status = self.child.try_wait().ok()??;
        Some(self.failure(&format!("the node ended by itself ({status})")))
    }

    /// Has the node ended by itself?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits for a node that ends by itself.
    pub(crate) fn end_status(&mut self) -> Result<ExitStatus, Failure> {
        let status = self.child.wait()?;
        self.leftovers.node_gone();
        Ok(status)
    }

    /// Ends the node as a power cut would: no signal handler runs.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        // Before the wait gives the process id free.
        self.leftovers.node_gone();
        self.child.wait()?;
        Ok(())
    }

    /// Asks the node to drain and waits for its end.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus, Failure> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|error| Failure::failed(format!("cannot signal the node: {error}")))?;
        Ok(self.child.wait()?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Lets the node live on after this command.
    pub(crate) fn release(mut self) -> u32 {
        self.ends_with_us = false;
        self.leftovers.node_gone();
        self.child.id()
    }

    fn failure(&self, what: &str) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        Failure::failed(format!("{what}; its log ends:\n  {}", tail.join("\n  ")))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.ends_with_us {
            // It may have ended already; then there is nothing to kill.
            let _ = self.child.kill();
            self.leftovers.node_gone();
            let _ = self.child.wait();
        }
    }
}

/// The log of a node whose data lies in `data_dir`.
fn log_path(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().map_or_else(|| OsString::from("node"), OsString::from);
    name.push(".log");
    data_dir.with_file_name(name)
}

fn is_setting(name: &OsString) -> bool {
    name.to_string_lossy().starts_with("HEDDLE_")
}

fn arguments(options: &NodeOptions) -> Vec<OsString> {
    let cores = options.cores.to_string();
    // Not the heddle.toml of the folder in which the command happens to run.
    let fixed = ["serve", "--config", "/dev/null", "--native-port", "0", "--core-port-base", "0"];
    let mut arguments: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    let more = ["--http-port", "0", "--ready-line", "always", "--cores", cores.as_str()];
    arguments.extend(more.iter().chain(&options.flags).map(OsString::from));
    arguments.push("--data-dir".into());
    arguments.push(options.data_dir.clone().into_os_string());
    arguments
}

/// Where clients connect to a node.
pub(crate) fn native_address(report: &ReadyReport) -> String {
    std::net::SocketAddr::new(report.listen, report.native_port).to_string()
}
