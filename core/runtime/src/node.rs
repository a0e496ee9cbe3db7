//! Starts the cores of a node, each an executor on a pinned thread, and waits for their end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Once, mpsc};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, Shared};
use futures::lock::Mutex;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use heddle_types::{CoreIndex, FatalReason};

use crate::clock::RealClock;
use crate::cores::{CorePlan, CoreRole};
use crate::fatal::fatal;
use crate::mesh::{CoreLink, MeshSeat, Routed, mesh};
use crate::queues;
use crate::shutdown::Shutdown;

/// Registered IO memory of a core when the memlock limit allows it (1 MiB).
///
/// Each core registers it in three rings, and it is counted three times.
pub const IO_MEMORY_BYTES_DEFAULT: usize = 1 << 20;
/// Registered IO memory of a core when memory is tight: the least that the runtime takes.
const IO_MEMORY_BYTES_MIN: usize = 64 << 10;
/// Times a core's IO memory is counted against the memlock limit: once a ring.
const RINGS_PER_CORE: usize = 3;
/// Places in each submission ring of a core.
const RING_DEPTH: usize = 256;
/// A core whose thread says nothing for this long after its start gets another thread.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Threads that a core is given before the start is given up.
const START_ATTEMPTS_MAX: u32 = 3;
/// Nice value of a meta core that shares its CPU with a data core: a quarter of it under load.
const SHARED_META_NICE: i32 = 6;

/// How the cores of a node are run.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Which CPU does what.
    pub plan: CorePlan,
    /// Registered IO memory of each core, bytes; lowered with a warning when it does not fit.
    pub io_memory_bytes: usize,
    /// How long an idle data core looks for work before it sleeps; zero sleeps at once. The meta
    /// core never spins.
    pub spin_before_park: Duration,
}

impl NodeConfig {
    /// A configuration for a plan; an idle core sleeps at once.
    #[must_use]
    pub fn new(plan: CorePlan) -> Self {
        Self { plan, io_memory_bytes: IO_MEMORY_BYTES_DEFAULT, spin_before_park: Duration::ZERO }
    }
}

/// The node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The operating system gave no thread or no ring for a core. No core is running.
    #[error("core {core} could not be started: {source}")]
    Start {
        /// The core.
        core: CoreIndex,
        /// What was refused.
        #[source]
        source: std::io::Error,
    },
}

/// What a core gets when it starts. Stays on its core.
#[derive(Debug)]
pub struct CoreContext<Q, R> {
    /// Position of this core: data cores first, the meta core last.
    pub core: CoreIndex,
    /// What this core is for.
    pub role: CoreRole,
    /// Data cores of the node.
    pub data_core_count: usize,
    /// The plan of the whole node.
    pub plan: Arc<CorePlan>,
    /// Messages to the other cores.
    pub link: CoreLink<Q, R>,
    /// The node's wish to stop.
    pub shutdown: Shutdown,
    /// The machine's clocks.
    pub clock: RealClock,
}

impl<Q, R> Clone for CoreContext<Q, R> {
    fn clone(&self) -> Self {
        Self {
            core: self.core,
            role: self.role,
            data_core_count: self.data_core_count,
            plan: Arc::clone(&self.plan),
            link: self.link.clone(),
            shutdown: self.shutdown.clone(),
            clock: self.clock,
        }
    }
}

/// Runs a node: one pinned, named executor a core, each with the future that `make_core` gives it.
///
/// Blocks until every core's future has ended, which they may do only after
/// [`Shutdown::request`]: a core that ends or panics before ends the process with
/// [`FatalReason::CoreLost`], because a node with a dead core looks alive and is not.
/// Errors: [`NodeError::Start`], with no core running.
pub fn run_node<Q, R, M, F>(config: &NodeConfig, make_core: M) -> Result<(), NodeError>
where
    Q: Routed + Send + 'static,
    R: Send + 'static,
    M: Fn(CoreContext<Q, R>) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    let io_memory_bytes = fitting_io_memory(config.io_memory_bytes, config.plan.core_count());
    let spawn = |core, _attempt, body: CoreBody| {
        Ok(executor_builder(config, core, io_memory_bytes).spawn(body)?)
    };
    run_on_threads(&config.plan, make_core, START_PATIENCE, &spawn)
}

fn run_on_threads<Q, R, M, F>(
    plan: &CorePlan,
    make_core: M,
    patience: Duration,
    spawn: &SpawnCore<'_>,
) -> Result<(), NodeError>
where
    Q: Routed + Send + 'static,
    R: Send + 'static,
    M: Fn(CoreContext<Q, R>) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    let plan = Arc::new(plan.clone());
    let make_core = Arc::new(make_core);
    let shutdown = Shutdown::new();
    let (go, wait) = oneshot::channel::<()>();
    let wait = wait.shared();
    let (sender, inbox) = mpsc::channel();
    let bodies = mesh(plan.core_count()).into_iter().enumerate().map(|(core, seat)| {
        let start = CoreStart {
            core,
            plan: Arc::clone(&plan),
            seat,
            wait: wait.clone(),
            shutdown: shutdown.clone(),
        };
        // The first thread that comes to it takes it.
        let start = Arc::new(Mutex::new(Some(start)));
        let (make_core, sender) = (Arc::clone(&make_core), sender.clone());
        move || -> CoreBody {
            let (start, make_core) = (Arc::clone(&start), Arc::clone(&make_core));
            let report = Report { core, sender: sender.clone(), last: Progress::Failed };
            Box::new(move || Box::pin(run_core(start, report, make_core)))
        }
    });
    let threads = Starting { bodies: bodies.collect(), spawn, inbox: &inbox, patience }.all()?;
    // Every core holds the other end.
    let _ = go.send(());
    await_ends(&inbox, &plan, &shutdown);
    for thread in threads {
        // Its end was reported; what is left of the thread cannot fail the node.
        let _ = thread.join();
    }
    Ok(())
}

/// Runs one future on this thread with the queues of a core, for tools and tests; no mesh.
///
/// Errors: [`NodeError::Start`] when the executor cannot be made.
pub fn run_single<T>(future: impl Future<Output = T>) -> Result<T, NodeError> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(fitting_io_memory(IO_MEMORY_BYTES_DEFAULT, 1))
        .ring_depth(RING_DEPTH)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(queues::BLOCKING_THREADS))
        .make()
        .map_err(|error| NodeError::Start { core: 0, source: error.into() })?;
    Ok(executor.run(async move {
        queues::install();
        let value = future.await;
        queues::ended().await;
        value
    }))
}

fn executor_builder(
    config: &NodeConfig,
    core: CoreIndex,
    io_memory_bytes: usize,
) -> LocalExecutorBuilder {
    let plan = &config.plan;
    // The meta core seldom has work; on a shared CPU, spinning would take time of a data core.
    let spins = plan.role(core) == CoreRole::Data;
    let spin = if spins { config.spin_before_park } else { Duration::ZERO };
    LocalExecutorBuilder::new(Placement::Fixed(plan.cpu(core)))
        .name(&plan.thread_name(core))
        .io_memory(io_memory_bytes)
        .ring_depth(RING_DEPTH)
        .spin_before_park(spin)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(queues::BLOCKING_THREADS))
}

/// What the thread of a core runs.
type CoreBody = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// Gives a core a thread; the number says how many it was given before.
type SpawnCore<'a> = dyn Fn(CoreIndex, u32, CoreBody) -> std::io::Result<CoreThread> + 'a;

type CoreThread = glommio::ExecutorJoinHandle<()>;

/// How far a core has come; the last state is reported when its thread lets go of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Started,
    /// Another thread has become the core.
    Superseded,
    Failed,
    Panicked,
    Ended,
}

struct Report {
    core: CoreIndex,
    sender: mpsc::Sender<(CoreIndex, Progress)>,
    last: Progress,
}

impl Report {
    fn started(&mut self) {
        self.last = Progress::Panicked;
        let _ = self.sender.send((self.core, Progress::Started));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // The receiver is gone only when the start of another core has failed.
        let _ = self.sender.send((self.core, self.last));
    }
}

struct CoreStart<Q, R> {
    core: CoreIndex,
    plan: Arc<CorePlan>,
    seat: MeshSeat<Q, R>,
    wait: Shared<oneshot::Receiver<()>>,
    shutdown: Shutdown,
}

async fn run_core<Q, R, M, F>(
    start: Arc<Mutex<Option<CoreStart<Q, R>>>>,
    mut report: Report,
    make_core: Arc<M>,
) where
    Q: Routed + Send + 'static,
    R: Send + 'static,
    M: Fn(CoreContext<Q, R>) -> F,
    F: Future<Output = ()> + 'static,
{
    let Some(start) = start.lock().await.take() else {
        report.last = Progress::Superseded;
        return;
    };
    let CoreStart { core, plan, seat, wait, shutdown } = start;
    queues::install();
    if plan.role(core) == CoreRole::Meta && plan.shares_cpu(core) {
        lower_priority();
    }
    let link = CoreLink::connect(seat);
    report.started();
    if wait.await.is_err() {
        report.last = Progress::Ended;
        return;
    }
    let context = CoreContext {
        core,
        role: plan.role(core),
        data_core_count: plan.data_cores.len(),
        plan,
        link: link.clone(),
        shutdown,
        clock: RealClock,
    };
    make_core(context).await;
    link.leave();
    queues::ended().await;
    report.last = Progress::Ended;
}

// Linux keeps nice values by thread, so this touches the meta core alone.
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, SHARED_META_NICE) {
        tracing::warn!(%error, "the meta core keeps the priority of the data cores");
    }
}

/// The threads of a node between being spawned and being cores.
struct Starting<'a, B> {
    bodies: Vec<B>,
    spawn: &'a SpawnCore<'a>,
    inbox: &'a mpsc::Receiver<(CoreIndex, Progress)>,
    patience: Duration,
}

impl<B: Fn() -> CoreBody> Starting<'_, B> {
    /// Spawns the cores and waits until each has begun to run.
    ///
    /// A thread that loses its CPU for 100 ms between arming the timer of its first turn and
    /// looking for work goes to sleep before it ran anything, and nothing would ever wake it. A
    /// core that says nothing for long is therefore given another thread, and the silent one finds
    /// nothing to do should it wake after all.
    fn all(self) -> Result<Vec<CoreThread>, NodeError> {
        let mut silent: BTreeSet<CoreIndex> = (0..self.bodies.len()).collect();
        let mut threads = BTreeMap::new();
        for attempt in 0..START_ATTEMPTS_MAX {
            for core in &silent {
                if attempt > 0 {
                    tracing::warn!(core, "the thread of this core does not begin; it gets another");
                }
                let thread = (self.spawn)(*core, attempt, (self.bodies[*core])())
                    .map_err(|source| NodeError::Start { core: *core, source })?;
                threads.insert(*core, thread);
            }
            while !silent.is_empty() {
                match self.inbox.recv_timeout(self.patience) {
                    Ok((core, Progress::Started)) => drop(silent.remove(&core)),
                    Ok((_, Progress::Superseded)) => {}
                    Ok((core, _)) => return Err(end_of(core, threads.remove(&core))),
                    Err(_nothing_for_long) => break,
                }
            }
        }
        match silent.pop_first() {
            None => Ok(threads.into_values().collect()),
            Some(core) => {
                let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Err(NodeError::Start { core, source })
            }
        }
    }
}

/// Why a thread ended before it was a core.
fn end_of(core: CoreIndex, thread: Option<CoreThread>) -> NodeError {
    let source = match thread.map(CoreThread::join) {
        Some(Err(error)) => error.into(),
        _ => std::io::Error::other("the core ended while it started"),
    };
    NodeError::Start { core, source }
}

fn await_ends(inbox: &mpsc::Receiver<(CoreIndex, Progress)>, plan: &CorePlan, shutdown: &Shutdown) {
    let mut running = plan.core_count();
    while running > 0 {
        let (core, progress) = inbox.recv().expect("a running core holds a sender");
        if progress == Progress::Superseded {
            continue;
        }
        let name = plan.thread_name(core);
        if progress != Progress::Ended {
            fatal(FatalReason::CoreLost, format_args!("core {name} panicked"));
        }
        if !shutdown.is_requested() {
            fatal(FatalReason::CoreLost, format_args!("core {name} ended by itself"));
        }
        tracing::info!(core = %name, "core ended");
        running -= 1;
    }
}

fn fitting_io_memory(wanted_bytes: usize, cores: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let fitting = fitting_io_memory_under(limit, wanted_bytes, cores);
    if fitting < wanted_bytes {
        // The self-test of a start makes executors too; the limit is the same for all of them.
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                wanted_bytes,
                fitting_bytes = fitting,
                memlock_bytes = limit,
                "the memlock limit is small: less registered IO memory; set LimitMEMLOCK=infinity"
            );
        });
    }
    fitting
}

// Half of the limit stays for rings and whatever else the process locks.
fn fitting_io_memory_under(limit: Option<u64>, wanted_bytes: usize, cores: usize) -> usize {
    let Some(limit) = limit else { return wanted_bytes };
    let share = usize::try_from(limit).unwrap_or(usize::MAX) / 2 / (cores * RINGS_PER_CORE);
    wanted_bytes.min(share.next_multiple_of(4096)).max(IO_MEMORY_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::MetaPlacement;

    #[test]
    fn a_core_whose_thread_never_begins_gets_another_one() {
        let cpu = crate::cores::online_cpus()[0];
        let plan =
            CorePlan { data_cores: vec![cpu, cpu], meta: MetaPlacement::SharedWithLast(cpu) };
        let config = NodeConfig::new(plan);
        let builder = |core| executor_builder(&config, core, IO_MEMORY_BYTES_MIN);
        let spawn = |core, attempt, body: CoreBody| {
            if core != 1 || attempt > 0 {
                return Ok(builder(core).spawn(body)?);
            }
            let silent = move || async move {
                let _never_run = body;
                std::future::pending::<()>().await;
            };
            Ok(builder(core).spawn(silent)?)
        };
        let (sender, receiver) = mpsc::channel();
        let patience = Duration::from_secs(1);
        run_on_threads(
            &config.plan,
            move |context: CoreContext<(), ()>| {
                let sender = sender.clone();
                async move {
                    context.link.serve(|_, ()| async {});
                    if context.core == 0 {
                        sender.send(context.link.call(1, ()).await).unwrap();
                        context.shutdown.request();
                    }
                    context.shutdown.requested().await;
                }
            },
            patience,
            &spawn,
        )
        .unwrap();
        assert_eq!(receiver.recv(), Ok(Ok(())));
    }
}
