//! Writes that a replica did not take, kept on disk until it takes them.
//!
//! The core that coordinated a write keeps what a replica lacks in a log for that replica's node,
//! and sends it when the node lives again: the write as it was, with the stamp it has for life. A
//! hint is no acknowledgement, and whatever is dropped here is found when the replicas compare what
//! they have; so every bound drops, and nothing here holds up or fails a write.
//!
//! What is kept, dropped and sent when is decided by [`heddle_replication::HintPolicy`].

mod deliver;
mod run;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use heddle_core::engine::StampedWrite;
use heddle_types::{CollectionId, NodeId};

use crate::core::Core;
use crate::registry::ShardAt;
use deliver::Delivered;

pub(crate) use run::run;

/// Most bytes of writes that wait to be written to the logs of a core (16 MiB).
const INBOX_BYTES_MAX: usize = 16 << 20;

/// What one replica of a shard lacks.
#[derive(Debug)]
pub(crate) struct Hint {
    pub(crate) collection: CollectionId,
    /// The shard at that replica.
    pub(crate) shard: ShardAt,
    /// The writes, with their stamps.
    pub(crate) writes: Vec<StampedWrite>,
}

/// What the driver is told.
#[derive(Debug)]
enum News {
    /// Encoded writes that a node lacks.
    Kept { target: NodeId, hints: Vec<heddle_core::hints::Hint> },
    /// The end of a delivery.
    Delivered(Delivered),
}

/// The hints of one core.
#[derive(Debug)]
pub(crate) struct Hints {
    news: UnboundedSender<News>,
    inbox: RefCell<Option<UnboundedReceiver<News>>>,
    inbox_bytes: Cell<usize>,
    waiting: Cell<u64>,
    waiting_bytes: Cell<u64>,
    delivered: Cell<u64>,
    dropped: Cell<u64>,
}

/// The hints of one core, in numbers.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct HintsReport {
    /// Hints on disk.
    pub(crate) waiting: u64,
    /// Bytes that they take there.
    pub(crate) waiting_bytes: u64,
    /// Hints whose node has what they say.
    pub(crate) delivered: u64,
    /// Hints that were given up.
    pub(crate) dropped: u64,
}

impl Default for Hints {
    fn default() -> Self {
        let (news, inbox) = unbounded();
        Self {
            news,
            inbox: RefCell::new(Some(inbox)),
            inbox_bytes: Cell::default(),
            waiting: Cell::default(),
            waiting_bytes: Cell::default(),
            delivered: Cell::default(),
            dropped: Cell::default(),
        }
    }
}

impl Hints {
    pub(crate) fn report(&self) -> HintsReport {
        HintsReport {
            waiting: self.waiting.get(),
            waiting_bytes: self.waiting_bytes.get(),
            delivered: self.delivered.get(),
            dropped: self.dropped.get(),
        }
    }

    /// Bytes of writes that are not on disk yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.inbox_bytes.get()
    }

    fn drop_hints(&self, count: u64) {
        self.dropped.set(self.dropped.get() + count);
    }
}

/// Keeps what a replica lacks. Returns at once; the writes go to disk soon after.
pub(crate) fn keep(core: &Rc<Core>, hint: Hint) {
    let Hint { collection, shard, writes } = hint;
    core.metrics.hints_wanted.add(writes.len() as u64);
    tracing::trace!(%collection, shard = %shard.id, node = %shard.node, "a replica lacks writes");
    let hints = &core.hints;
    let encoded = |write: StampedWrite| {
        let mut bytes = Vec::new();
        write.encode(&mut bytes);
        heddle_core::hints::Hint { shard: shard.id, write: bytes }
    };
    let kept: Vec<heddle_core::hints::Hint> = writes.into_iter().map(encoded).collect();
    let bytes: usize = kept.iter().map(|hint| hint.write.len()).sum();
    if hints.inbox_bytes.get() + bytes > INBOX_BYTES_MAX {
        return hints.drop_hints(kept.len() as u64);
    }
    let count = kept.len() as u64;
    let news = News::Kept { target: shard.node, hints: kept };
    match hints.news.unbounded_send(news) {
        Ok(()) => hints.inbox_bytes.set(hints.inbox_bytes.get() + bytes),
        // The driver has ended, as it does when its logs cannot be read.
        Err(_closed) => hints.drop_hints(count),
    }
}
