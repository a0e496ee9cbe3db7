//! The boot self-test: what must work before a node says that it is ready.
//!
//! On some kernels a sleep or a wake-up from another thread never ends, and nothing reports it. So
//! a small node is run first, against the clock: a timer, messages between two cores, and a page of
//! the data directory written, synced and read back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use heddle_types::{AlignedBuf, Clock, Device, DeviceError, DeviceFile, OpenMode};

use crate::clock::RealClock;
use crate::cores::{CorePlan, PlanError};
use crate::device::GlommioDevice;
use crate::mesh::MeshError;
use crate::node::{CoreContext, NodeConfig, NodeError, run_node};
use crate::probe::{Check, CheckState, checks_for};

/// How long all of it may take: a page may wait seconds for its sync on a disk that others keep
/// busy, and a core that slept through its start is given another thread only after ten.
const LIMIT: Duration = Duration::from_secs(30);
/// Messages there and back.
const PINGS: u64 = 100;
/// The file that is written and removed.
const TEST_FILE: &str = "selftest.tmp";

/// Why a node must not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelfTestError {
    /// Checks of the machine failed.
    #[error("{}", show_failed(checks))]
    Machine {
        /// Those that failed.
        checks: Vec<Check>,
    },
    /// Something never ended: a timer, a message or a write.
    #[error("the runtime hangs: no timer, message or write ended within {} s", limit.as_secs())]
    Hangs {
        /// How long it was waited for.
        limit: Duration,
    },
    /// No thread or no ring.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// No CPU.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No thread for the test itself.
    #[error("no thread: {0}")]
    Thread(#[from] io::Error),
    /// The data directory cannot be written or read back.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A core did not answer.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// What was read is not what was written.
    #[error("the data directory returned other bytes than were written")]
    OtherBytes,
}

fn show_failed(checks: &[Check]) -> String {
    let lines: Vec<String> = checks
        .iter()
        .map(|check| format!("{}: {}; {}", check.name, check.found, check.advice))
        .collect();
    lines.join(" | ")
}

/// What the self-test measured, microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SelfTestReport {
    /// A timer of 1 ms took this long.
    pub timer_us: u64,
    /// A message to another core and its reply, mean.
    pub ping_us: u64,
    /// A page written and synced; none on a full disk.
    pub write_sync_us: Option<u64>,
}

/// Tests the machine and the runtime; blocks for a few milliseconds, half a minute at most.
///
/// `log_bytes` is what the logs take in a fresh directory, see [`crate::probe::fresh_log_bytes`].
/// Every warning is logged. An error is a reason to end with `FatalReason::SelfTest`.
pub fn boot_self_test(
    data_directory: &Path,
    log_bytes: u64,
) -> Result<SelfTestReport, SelfTestError> {
    let mut failed = Vec::new();
    for check in checks_for(data_directory, log_bytes) {
        match check.state {
            CheckState::Ok => {}
            CheckState::Warn => {
                tracing::warn!(name = check.name, found = check.found, advice = check.advice);
            }
            CheckState::Fail => failed.push(check),
        }
    }
    if !failed.is_empty() {
        return Err(SelfTestError::Machine { checks: failed });
    }
    let cpus = crate::cores::online_cpus();
    let plan = CorePlan::new(&cpus, Some(1))?;
    let directory = data_directory.to_owned();
    within(LIMIT, move || try_node(plan, directory))?
}

// The thread is left behind when it hangs: the process is about to end.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SelfTestError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("self-test".to_owned()).spawn(move || {
        // Nobody waits any more when the limit has passed.
        let _ = sender.send(work());
    })?;
    receiver.recv_timeout(limit).map_err(|_late| SelfTestError::Hangs { limit })
}

fn try_node(plan: CorePlan, directory: PathBuf) -> Result<SelfTestReport, SelfTestError> {
    let (sender, receiver) = mpsc::channel();
    run_node(&NodeConfig::new(plan), move |context: CoreContext<(), ()>| {
        let sender = sender.clone();
        let directory = directory.clone();
        async move {
            context.link.serve(|_, ()| async {});
            if context.core == 0 {
                // The receiver outlives the node.
                let _ = sender.send(exercise(&context, &directory).await);
                context.shutdown.request();
            }
            context.shutdown.requested().await;
        }
    })?;
    receiver.recv().expect("core 0 reports before it asks for the end")
}

async fn exercise(
    context: &CoreContext<(), ()>,
    directory: &Path,
) -> Result<SelfTestReport, SelfTestError> {
    let clock = RealClock;
    let since = |start: u64| clock.monotonic_ns().saturating_sub(start) / 1_000;
    let start = clock.monotonic_ns();
    crate::queues::sleep(Duration::from_millis(1)).await;
    let timer_us = since(start);
    let start = clock.monotonic_ns();
    for _ in 0..PINGS {
        context.link.call(1, ()).await?;
    }
    let ping_us = since(start) / PINGS;
    let write_sync_us = match write_page(directory).await {
        Ok(us) => Some(us),
        // The checks before have judged that; there is nothing to measure.
        Err(SelfTestError::Device(DeviceError::NoSpace { .. })) => None,
        Err(error) => return Err(error),
    };
    Ok(SelfTestReport { timer_us, ping_us, write_sync_us })
}

async fn write_page(directory: &Path) -> Result<u64, SelfTestError> {
    let clock = RealClock;
    let device = GlommioDevice::new(directory)?;
    match device.remove(TEST_FILE).await {
        Ok(()) | Err(DeviceError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = device.open(TEST_FILE, OpenMode::CreateNew).await?;
    let page = AlignedBuf::from_slice(b"heddle");
    let start = clock.monotonic_ns();
    let written = match file.write_at(0, page).await {
        Ok(page) => file.sync().await.map(|()| page),
        Err(error) => Err(error),
    };
    let write_sync_us = clock.monotonic_ns().saturating_sub(start) / 1_000;
    let read = match written {
        Ok(page) => file.read_at(0, page.padded().len()).await.map(|back| (page, back)),
        Err(error) => Err(error),
    };
    file.close().await?;
    device.remove(TEST_FILE).await?;
    let (page, back) = read?;
    if back.as_slice() != page.padded() {
        return Err(SelfTestError::OtherBytes);
    }
    Ok(write_sync_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    // On the disk of the source tree: the place of temporary files may be tmpfs.
    fn scratch() -> std::path::PathBuf {
        let name = format!("../../target/tmp/selftest-{}", std::process::id());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn this_machine_passes_and_the_file_is_gone() {
        let directory = scratch();
        let report = boot_self_test(&directory, 0).unwrap();
        println!("{report:?}");
        assert!(report.timer_us >= 1_000, "{report:?}");
        std::fs::remove_dir(directory).unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = boot_self_test(Path::new("/nonexistent"), 0).unwrap_err();
        assert!(matches!(error, SelfTestError::Machine { .. }));
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let (_sender, receiver) = mpsc::channel::<()>();
        let given_up = within(Duration::from_millis(5), move || receiver.recv());
        assert!(matches!(given_up, Err(SelfTestError::Hangs { .. })));
    }
}
