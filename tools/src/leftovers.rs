//! What a command that starts nodes of its own leaves behind when it is interrupted: nothing.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;

/// Exit code after Ctrl-C, as shells expect it: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;
/// Attempts to remove the folder while the killed node still ends, and the pause between them.
const REMOVALS_MAX: usize = 40;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// Set before the interruption takes the node away: what the command sees fail from then on is no
/// failure of its own.
static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The folder and the node of a command.
#[derive(Debug)]
pub(crate) struct Leftovers {
    folder: PathBuf,
    is_removed: AtomicBool,
    /// Process id of the running node; 0 = none that ends with the command.
    node: AtomicU32,
}

impl Leftovers {
    /// A folder of the user, which stays.
    pub(crate) fn of_user(folder: PathBuf) -> Self {
        Self { folder, is_removed: AtomicBool::new(false), node: AtomicU32::new(0) }
    }

    /// A folder that goes with the command.
    pub(crate) fn temporary(folder: PathBuf) -> Self {
        Self { folder, is_removed: AtomicBool::new(true), node: AtomicU32::new(0) }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(&self) {
        self.is_removed.store(false, Ordering::SeqCst);
    }

    /// A node runs that must end with the command.
    pub(crate) fn node_started(&self, process: u32) {
        self.node.store(process, Ordering::SeqCst);
    }

    /// The node has ended, or may live on.
    pub(crate) fn node_gone(&self) {
        self.node.store(0, Ordering::SeqCst);
    }

    /// Removes the folder, unless it is to stay.
    pub(crate) fn remove(&self) {
        if !self.is_removed.load(Ordering::SeqCst) {
            return;
        }
        for _ in 0..REMOVALS_MAX {
            // A node that is being killed may still make a file; then the next attempt gets it.
            if std::fs::remove_dir_all(&self.folder).is_ok() || !self.folder.exists() {
                return;
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
        eprintln!("heddle: {} could not be removed", self.folder.display());
    }

    fn kill_node(&self) {
        let node = i32::try_from(self.node.load(Ordering::SeqCst)).ok().and_then(Pid::from_raw);
        if let Some(node) = node {
            // It may have ended by itself; then there is nothing to kill.
            let _ = kill_process(node, Signal::KILL);
        }
    }
}

/// From here on SIGINT and SIGTERM kill the node, remove the folder and end the process.
pub(crate) fn clear_when_interrupted(leftovers: &Arc<Leftovers>) -> Result<(), Failure> {
    let (mut signals, wake) = UnixStream::pair()?;
    for signal in [Signal::INT, Signal::TERM] {
        signal_hook::low_level::pipe::register(signal.as_raw(), wake.try_clone()?)?;
    }
    let leftovers = Arc::clone(leftovers);
    // Waits in the kernel for the whole life of the command.
    std::thread::spawn(move || {
        if signals.read_exact(&mut [0]).is_ok() {
            IS_INTERRUPTED.store(true, Ordering::SeqCst);
            leftovers.kill_node();
            leftovers.remove();
            std::process::exit(INTERRUPTED);
        }
    });
    Ok(())
}

/// Leaves the end of the process to the interruption, if there is one: it knows the exit code.
pub(crate) fn yield_to_interruption() {
    while IS_INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
