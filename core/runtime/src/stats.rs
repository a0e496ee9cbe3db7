//! What a core did since it started, for metrics.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::queues::{Queue, handles};

/// One queue of a core since the core started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueStats {
    /// CPU time of its tasks.
    pub runtime: Duration,
    /// Times the scheduler chose it.
    pub selected: u64,
}

/// A core since it started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CoreStats {
    /// Time spent in tasks.
    pub busy: Duration,
    /// Time spent in tasks and in asking the kernel for events; neither sleep nor spinning.
    pub awake: Duration,
    /// Tasks polled.
    pub polls: u64,
    /// The queues, in the order of [`Queue::ALL`].
    pub queues: [QueueStats; Queue::ALL.len()],
    /// Handing on messages between cores.
    pub mesh: QueueStats,
    /// Files opened.
    pub files_opened: u64,
    /// Direct reads.
    pub reads: u64,
    /// Bytes of direct reads.
    pub read_bytes: u64,
    /// Direct writes.
    pub writes: u64,
    /// Bytes of direct writes.
    pub write_bytes: u64,
}

thread_local! {
    static TOTALS: Cell<CoreStats> = const { Cell::new(CoreStats {
        busy: Duration::ZERO,
        awake: Duration::ZERO,
        polls: 0,
        queues: [QueueStats { runtime: Duration::ZERO, selected: 0 }; Queue::ALL.len()],
        mesh: QueueStats { runtime: Duration::ZERO, selected: 0 },
        files_opened: 0,
        reads: 0,
        read_bytes: 0,
        writes: 0,
        write_bytes: 0,
    }) };
}

/// The counters of the core that runs this task.
///
/// The runtime forgets its counters each time they are read, so they are summed up here.
/// Panics: the thread was not started by this crate.
#[must_use]
pub fn core_stats() -> CoreStats {
    let executor = glommio::executor();
    let mut totals = TOTALS.get();
    let run = executor.executor_stats();
    totals.busy += run.executor_runtime();
    totals.awake += run.total_runtime();
    totals.polls += run.tasks_executed();
    let handles = handles();
    for (total, handle) in totals.queues.iter_mut().zip(handles.queues) {
        add_queue(total, handle);
    }
    add_queue(&mut totals.mesh, handles.mesh);
    let io = executor.io_stats().all_rings();
    let (reads, read_bytes) = io.file_reads();
    let (writes, write_bytes) = io.file_writes();
    totals.files_opened += io.files_opened();
    totals.reads += reads;
    totals.read_bytes += read_bytes;
    totals.writes += writes;
    totals.write_bytes += write_bytes;
    TOTALS.set(totals);
    totals
}

/// CPU time of this thread since it started, nanoseconds. Time in which the operating system ran
/// something else does not count.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    crate::clock::nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

fn add_queue(total: &mut QueueStats, handle: glommio::TaskQueueHandle) {
    if let Ok(stats) = glommio::executor().task_queue_stats(handle) {
        total.runtime += stats.runtime();
        total.selected += stats.queue_selected();
    }
}
