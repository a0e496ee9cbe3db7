//! A node from its configuration to its exit: everything before the cores run, and their mains.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use futures::future::{Either, select};
use heddle_index::limit_kernels;
use heddle_runtime::cores::PlanError;
use heddle_runtime::guard::GuardError;
use heddle_runtime::lock::LockError;
use heddle_runtime::probe::fresh_log_bytes;
use heddle_runtime::selftest::SelfTestError;
use heddle_runtime::{
    CoreContext, CorePlan, CoreRole, DataLock, PortGuard, RealClock, SignalSource, Signals,
    boot_self_test, fatal, run_node,
};
use heddle_types::limits::CONNECTIONS_MAX;
use heddle_types::{Clock, FatalReason};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{ConfigError, NodeConfig};
use crate::core::Core;
use crate::identity::{self, IdentityError};
use crate::message::{CoreAnswer, CoreRequest};
use crate::shared::{NodeShared, ReadyReport};
use crate::{boot, home, memory};

/// Open files beside connections: logs, images, segments, listeners.
const FILES_MIN: u64 = CONNECTIONS_MAX as u64 + 2_000;

#[expect(clippy::disallowed_types, reason = "taken once, by the meta core; never waited on")]
type SignalSlot = std::sync::Mutex<Option<SignalSource>>;

/// Why a node did not start. Nothing is running and nothing was stamped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// More cores are asked for than there are.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The data directory cannot be made.
    #[error("{}: {source}", path.display())]
    DataDirectory {
        /// The directory.
        path: std::path::PathBuf,
        /// What was refused.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses the data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The identity of the node cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A port is in use.
    #[error(transparent)]
    Port(#[from] GuardError),
    /// The machine does not do what a node needs.
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// Signal handlers or executors could not be made.
    #[error("the operating system refused to start the node: {0}")]
    System(#[source] std::io::Error),
    /// A core could not be started.
    #[error(transparent)]
    Node(#[from] heddle_runtime::NodeError),
}

impl StartError {
    /// The reason with its exit code.
    #[must_use]
    pub fn reason(&self) -> FatalReason {
        match self {
            Self::Config(_) | Self::Plan(_) => FatalReason::Config,
            Self::DataDirectory { .. }
            | Self::Lock(LockError::Io { .. })
            | Self::Identity(IdentityError::Io { .. } | IdentityError::Foreign { .. }) => {
                FatalReason::DataDirectory
            }
            Self::Lock(_) => FatalReason::DataDirectoryInUse,
            Self::Identity(IdentityError::Version { .. }) => FatalReason::FormatVersion,
            Self::Identity(_) => FatalReason::Corruption,
            Self::Port(_) => FatalReason::Listen,
            Self::SelfTest(_) | Self::System(_) | Self::Node(_) => FatalReason::SelfTest,
        }
    }
}

/// Runs a node until it is told to stop by SIGTERM or SIGINT and everything is written.
///
/// `ready` hears once where the node is reached. A fault that no restart of a part can mend ends
/// the process, see [`FatalReason`]. One node a process: signal handlers are set for all of it.
///
/// Errors: [`StartError`] before any core has done anything.
pub fn run(mut config: NodeConfig, ready: Option<Sender<ReadyReport>>) -> Result<(), StartError> {
    let started_ns = RealClock.monotonic_ns();
    config.validate()?;
    config.complete()?;
    // Before any core makes an index.
    limit_kernels(&config.kernels).map_err(|error| ConfigError {
        key: "kernels",
        found: config.kernels.clone(),
        expected: error.to_string(),
    })?;
    let wanted = (config.cores > 0).then_some(config.cores);
    let plan = CorePlan::of_this_process(wanted)?;
    config.validate_ports(plan.data_cores.len())?;
    let signals = SignalSource::install().map_err(StartError::System)?;
    let _lock = lock_directory(&config)?;
    let _ports = guard_ports(&config, plan.data_cores.len())?;
    let log_bytes = fresh_log_bytes(plan.data_cores.len(), config.wal_segment_bytes);
    boot_self_test(&config.data_dir, log_bytes)?;
    let identity = identity::start(&config.data_dir)?;
    raise_file_limit();
    let memory_bytes = memory::budget(config.memory_bytes);
    tracing::info!(
        node = %identity.node,
        boot = identity.boot,
        data_dir = %config.data_dir.display(),
        %plan,
        memory_bytes,
        kernels = %config.kernels,
        "starting"
    );
    let mut runtime = heddle_runtime::NodeConfig::new(plan.clone());
    runtime.spin_before_park = Duration::from_micros(config.spin_us);
    let node =
        NodeShared::new(config, identity, started_ns, memory_bytes, plan.core_count(), ready);
    let node = Arc::new(node);
    let signals = Arc::new(SignalSlot::new(Some(signals)));
    run_node(&runtime, move |context: CoreContext<CoreRequest, CoreAnswer>| {
        let core = Core::new(&context, &node);
        core_main(context, core, Arc::clone(&signals))
    })?;
    Ok(())
}

async fn core_main(
    context: CoreContext<CoreRequest, CoreAnswer>,
    core: Rc<Core>,
    signals: Arc<SignalSlot>,
) {
    match context.role {
        CoreRole::Data => {
            let handler = Rc::clone(&core);
            core.link
                .serve(move |source, request| home::handle(Rc::clone(&handler), source, request));
            context.shutdown.requested().await;
        }
        CoreRole::Meta => {
            let signals = take_signals(&signals);
            let start = std::pin::pin!(boot::start(&core));
            let stop = std::pin::pin!(boot::until_stopped(&signals));
            match select(start, stop).await {
                Either::Left(((), stop)) => stop.await,
                Either::Right(_) => boot::abandon(),
            }
            boot::stop(&core).await;
            context.shutdown.request();
        }
    }
}

fn take_signals(slot: &SignalSlot) -> Signals {
    let source = match slot.lock() {
        Ok(mut slot) => slot.take(),
        Err(poisoned) => poisoned.into_inner().take(),
    };
    let source = source.expect("the meta core alone takes the signals");
    source.listen().unwrap_or_else(|error| fatal(FatalReason::SelfTest, error))
}

fn lock_directory(config: &NodeConfig) -> Result<DataLock, StartError> {
    let path = &config.data_dir;
    std::fs::create_dir_all(path)
        .map_err(|source| StartError::DataDirectory { path: path.clone(), source })?;
    let address = SocketAddr::new(config.listen, config.native_port);
    Ok(DataLock::acquire(path, &address.to_string())?)
}

fn guard_ports(config: &NodeConfig, data_cores: usize) -> Result<PortGuard, StartError> {
    let addresses: Vec<SocketAddr> =
        config.tcp_ports(data_cores).map(|port| SocketAddr::new(config.listen, port)).collect();
    Ok(PortGuard::acquire(&addresses)?)
}

/// Every connection is an open file; the usual soft limit of 1,024 is for programs that use select.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= FILES_MIN) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    if maximum.is_some_and(|maximum| maximum < FILES_MIN) {
        tracing::warn!(
            limit = maximum,
            wanted = FILES_MIN,
            "few open files are allowed: connections above are refused; set LimitNOFILE"
        );
    }
}
