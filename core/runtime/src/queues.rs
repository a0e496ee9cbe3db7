//! Task queues of a core: who runs first when there is more work than time.
//!
//! Every core has the same queues. A queue gets CPU time in proportion to its shares while others
//! are busy, and all of it while they are not. Every half millisecond the running task sees
//! `need_preempt`, so [`yield_if_needed`] is what keeps a search short behind an index build.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use glommio::{Latency, Shares, TaskQueueHandle};

use crate::gate::Gate;

/// Threads a core keeps for system calls that block.
pub(crate) const BLOCKING_THREADS: usize = 3;
/// Closures of [`run_lookup`] that run at once.
const LOOKUPS_MAX: usize = 2;

const _: () = assert!(LOOKUPS_MAX < BLOCKING_THREADS);

/// A kind of work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Queue {
    /// Queries, connections and replies: shares 1000.
    Search,
    /// Writes until they are acknowledged: checks, log appends, group commit: shares 500.
    Wal,
    /// Linking of what was written into graphs: shares 200.
    Insert,
    /// Checkpoints, index builds, repair, rebalance: shares 50.
    Background,
    /// Catalog, gossip, admin, metrics: shares 100.
    Control,
}

impl Queue {
    /// Every queue, in the order of the numbers used in metrics.
    pub const ALL: [Self; 5] =
        [Self::Search, Self::Wal, Self::Insert, Self::Background, Self::Control];

    /// Name for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Wal => "wal",
            Self::Insert => "insert",
            Self::Background => "background",
            Self::Control => "control",
        }
    }

    /// Shares of CPU time while every queue is busy.
    #[must_use]
    pub fn shares(self) -> usize {
        match self {
            Self::Search => 1000,
            Self::Wal => 500,
            Self::Insert => 200,
            Self::Background => 50,
            Self::Control => 100,
        }
    }

    /// Position in [`Queue::ALL`].
    #[must_use]
    pub fn position(self) -> usize {
        self as usize
    }
}

/// The handles of this core's queues; the last one belongs to the mesh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handles {
    pub(crate) queues: [TaskQueueHandle; Queue::ALL.len()],
    pub(crate) mesh: TaskQueueHandle,
}

thread_local! {
    static HANDLES: Cell<Option<Handles>> = const { Cell::new(None) };
}

/// How long tasks run before the core looks for new events and for other queues.
///
/// It is the same for every queue: the events of a search that comes in while only an index build
/// runs are seen at the end of the build's turn, not the search's.
const TURN: Duration = Duration::from_micros(500);
/// Creates the queues of the executor that runs on this thread.
pub(crate) fn install() -> Handles {
    let executor = glommio::executor();
    let latency = Latency::Matters(TURN);
    let queues = Queue::ALL.map(|queue| {
        executor.create_task_queue(Shares::Static(queue.shares()), latency, queue.name())
    });
    // A message is only handed on here, never worked on, so the mesh may go first.
    // Without a latency goal a message wakes a core that sleeps, and a core that works sees it at
    // the end of its turn. With one, each message would also break into the turn, through a system
    // call of the sender: measured, that made the round trip between two idle cores three times as
    // long.
    let mesh = executor.create_task_queue(Shares::Static(1000), Latency::NotImportant, "mesh");
    let handles = Handles { queues, mesh };
    HANDLES.set(Some(handles));
    crate::poller::reset();
    LOOKUPS.set(Rc::new(Gate::new(LOOKUPS_MAX)));
    crate::heartbeat::start(mesh);
    handles
}

pub(crate) fn handles() -> Handles {
    HANDLES.get().expect("tasks are spawned on threads that run_node or run_single started")
}

fn spawn_task<T: 'static>(
    queue: Queue,
    future: impl Future<Output = T> + 'static,
) -> glommio::Task<T> {
    glommio::spawn_local_into(future, handles().queues[queue.position()])
        .expect("the queues of a core live as long as the core")
}

/// Runs a future to its end in a queue of this core.
///
/// The future is first polled when its queue gets a turn, never inside this call, so the caller may
/// hold a borrow. Panics: the thread was not started by this crate. Cost: one allocation.
pub fn spawn(queue: Queue, future: impl Future<Output = ()> + 'static) {
    spawn_task(queue, future).detach();
}

/// Runs a future in a queue of this core and hands back its result.
///
/// The task runs to its end even when the handle is dropped; [`TaskHandle::cancel`] stops it.
pub fn spawn_joinable<T: 'static>(
    queue: Queue,
    future: impl Future<Output = T> + 'static,
) -> TaskHandle<T> {
    let (sender, receiver) = futures::channel::oneshot::channel();
    let (abort, registration) = futures::future::AbortHandle::new_pair();
    let future = futures::future::Abortable::new(future, registration);
    spawn(queue, async move {
        if let Ok(value) = future.await {
            // A dropped handle means that nobody wants the value.
            drop(sender.send(value));
        }
    });
    TaskHandle { receiver, abort }
}

/// A running task whose result can be awaited; `None` when it was cancelled.
#[derive(Debug)]
pub struct TaskHandle<T> {
    receiver: futures::channel::oneshot::Receiver<T>,
    abort: futures::future::AbortHandle,
}

impl<T> TaskHandle<T> {
    /// Stops the task at its next suspension point; its future is dropped there.
    ///
    /// Writes in flight are not undone: never cancel a task that writes to files.
    pub fn cancel(&self) {
        self.abort.abort();
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Option<T>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        std::pin::Pin::new(&mut self.receiver).poll(context).map(Result::ok)
    }
}

/// Offers the core to whoever waits; returns at once when nobody does.
///
/// Call it at least every [`heddle_types::limits::STEP_US_MAX`] microseconds of work.
/// Cost when not needed: two loads.
pub async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

/// Looks for events of sockets and lets tasks of other queues run, also when the turn is not over.
///
/// For work that nobody waits for, between steps of about 100 us: what comes in meanwhile waits for
/// a step, not for the rest of the turn. Cost: a system call and the choice of a queue, about 1 us.
pub async fn let_others_run() {
    crate::poller::look_for_events();
    glommio::executor().yield_task_queue_now().await;
}

/// Should the running task yield? For loops that cannot await at each step.
#[must_use]
pub fn need_preempt() -> bool {
    glommio::executor().need_preempt()
}

/// Goes to the end of its queue whatever waits there.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}

/// Sleeps; no finer than about 1 ms.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// The deadline passed before the future ended; the future was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("timed out")]
pub struct TimedOut;

/// Drops `future` when it takes longer than `limit`.
///
/// Never wrap a file write in it: a dropped write still happens.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, TimedOut> {
    let future = std::pin::pin!(future);
    let timer = std::pin::pin!(glommio::timer::sleep(limit));
    match futures::future::select(future, timer).await {
        futures::future::Either::Left((value, _)) => Ok(value),
        futures::future::Either::Right(_) => Err(TimedOut),
    }
}

thread_local! {
    static BLOCKING_JOBS: Cell<usize> = const { Cell::new(0) };
    static LOOKUPS: RefCell<Rc<Gate>> = RefCell::new(Rc::new(Gate::new(LOOKUPS_MAX)));
}

/// Runs a closure that blocks (a slow system call) off the core's thread.
///
/// The closure runs to its end even when the future is dropped. Must not panic.
/// Cost: two thread hops, about 20 us.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    run_holding((), work).await
}

/// Runs a closure that may block for seconds, such as a question to a name server, off the core's
/// thread; waits while as many run as there are threads for them.
///
/// They leave a thread for [`run_blocking`], on which files wait. Otherwise like it.
pub async fn run_lookup<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let gate = LOOKUPS.with_borrow(Rc::clone);
    run_holding(gate.permit().await, work).await
}

/// Runs a closure off the core's thread and keeps `guard` until it has ended.
async fn run_holding<G: 'static, T: Send + 'static>(
    guard: G,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = futures::channel::oneshot::channel();
    let queue = glommio::executor().current_task_queue();
    BLOCKING_JOBS.set(BLOCKING_JOBS.get() + 1);
    // A task of its own, so that the job is counted until the pool has handed back its answer: the
    // pool panics when the executor is gone by then.
    let job = async move {
        let value = glommio::executor().spawn_blocking(work).await;
        BLOCKING_JOBS.set(BLOCKING_JOBS.get() - 1);
        drop(guard);
        drop(sender.send(value));
    };
    glommio::spawn_local_into(job, queue).expect("the queue of the running task exists").detach();
    receiver.await.expect("the job sends its value before it ends")
}

/// Waits until no closure of [`run_blocking`] or [`run_lookup`] is under way on this core, and lets
/// go of what must not outlive the executor.
pub(crate) async fn ended() {
    while BLOCKING_JOBS.get() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    crate::heartbeat::end();
    crate::poller::reset();
}
