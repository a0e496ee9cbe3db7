//! Objects of one shard by id, from as many replicas as the level asks for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use heddle_core::engine::{Durability, StampedChange, StampedWrite};
use heddle_replication::{
    Copy, Items, ReadEffect, ReadEvent, ReadMachine, ReadOutcome, ReadRequest,
};
use heddle_runtime::timeout;
use heddle_types::{ApiError, Clock, Consistency, ObjectDigest, ObjectId};

use super::super::Deadline;
use super::ask::{Encoded, Replica, Sent};
use super::selection::order_of;
use super::write::bytes_of;
use crate::core::Core;
use crate::limits::{PEER_REPLY_BYTES, READ_CHUNK_OBJECTS, REPLICA_PATIENCE};
use crate::registry::CollectionRoute;

/// Writes in order, in parts that fit a message each.
fn parted(writes: Vec<StampedWrite>) -> Vec<Vec<StampedWrite>> {
    let (mut parts, mut bytes) = (Vec::<Vec<StampedWrite>>::new(), usize::MAX);
    for write in writes {
        let more = bytes_of(std::slice::from_ref(&write));
        bytes = bytes.saturating_add(more);
        match parts.last_mut() {
            Some(part) if bytes <= PEER_REPLY_BYTES => part.push(write),
            _ => {
                bytes = more;
                parts.push(vec![write]);
            }
        }
    }
    parts
}

/// The newest version of each object as its level knows it, deletions too; none of one that there
/// never was.
pub(in crate::dispatch) type Copies = Vec<Result<Option<StampedWrite>, ApiError>>;

type Event = ReadEvent<StampedWrite>;

fn digest_of(copy: &StampedWrite) -> ObjectDigest {
    match &copy.change {
        StampedChange::Put { created_us, .. } => ObjectDigest::live(copy.stamp, *created_us),
        StampedChange::Delete => ObjectDigest::tombstone(copy.stamp),
    }
}

/// Reads objects of one shard. Replicas that turn out to be stale have the newest version, durably,
/// before this returns, as far as the level asks for them.
pub(in crate::dispatch) async fn read(
    core: &Rc<Core>,
    route: &Arc<CollectionRoute>,
    place: usize,
    ids: &[ObjectId],
    (level, deadline): (Consistency, Deadline<'_>),
) -> Copies {
    let mut copies = Copies::with_capacity(ids.len());
    for ids in ids.chunks(READ_CHUNK_OBJECTS) {
        let (core, route) = (Rc::clone(core), Arc::clone(route));
        let reading = Reading { core, route, place, ids, deadline, asks: FuturesUnordered::new() };
        copies.extend(reading.run(level).await);
    }
    copies
}

/// A read while it is coordinated.
struct Reading<'a> {
    core: Rc<Core>,
    route: Arc<CollectionRoute>,
    place: usize,
    ids: &'a [ObjectId],
    deadline: Deadline<'a>,
    asks: FuturesUnordered<LocalBoxFuture<'a, Event>>,
}

impl Reading<'_> {
    async fn run(mut self, level: Consistency) -> Copies {
        let clock = self.core.clock;
        let now_us = || clock.monotonic_ns() / 1_000;
        let patience = self.deadline.left().unwrap_or(REPLICA_PATIENCE).min(REPLICA_PATIENCE);
        let shard = &self.route.shards[self.place];
        let request = ReadRequest {
            replicas: shard.replicas.len(),
            order: &order_of(&self.core, shard),
            level,
            strategy: self.route.config.replication.deletion_strategy,
            items: self.ids.len(),
            now_us: now_us(),
            hedge_after_us: self.core.latencies.hedge_after().as_micros() as u64,
            deadline_us: now_us() + patience.as_micros() as u64,
        };
        let mut effects = Vec::new();
        let mut machine = ReadMachine::start(&request, &mut effects);
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    ReadEffect::Fetch { replica, items } => self.fetch(replica, &items),
                    ReadEffect::Digest { replica, items } => self.digest(replica, &items),
                    ReadEffect::Repair { replica, items } => {
                        self.repair(replica, &machine, &items);
                    }
                    ReadEffect::Answer => return self.outcomes(&mut machine),
                }
            }
            let due_us = machine.deadline().unwrap_or_else(now_us);
            let wait = Duration::from_micros(due_us.saturating_sub(now_us()));
            let (now_us, event) = match timeout(wait, self.asks.next()).await {
                Ok(Some(event)) => (now_us(), event),
                Ok(None) | Err(_) => (now_us().max(due_us), Event::Due),
            };
            machine.handle(now_us, event, &mut effects);
        }
    }

    fn target(&self, replica: u8) -> Replica {
        let shard = self.route.shards[self.place].at(usize::from(replica));
        Replica { core: Rc::clone(&self.core), route: Arc::clone(&self.route), shard }
    }

    fn listed(&self, items: &Items) -> Vec<ObjectId> {
        items.iter(self.ids.len()).map(|item| self.ids[item]).collect()
    }

    fn fetch(&mut self, replica: u8, items: &Items) {
        let (target, ids, deadline) = (self.target(replica), self.listed(items), self.deadline);
        self.asks.push(Box::pin(async move {
            let begun_ns = target.core.clock.monotonic_ns();
            match target.copies(ids, deadline).await {
                Ok(copies) => {
                    target.note_latency(begun_ns);
                    let copy = |copy: StampedWrite| (digest_of(&copy), copy);
                    let copies = copies.into_iter().map(|it| it.map(copy)).collect();
                    Event::Copies { replica, copies }
                }
                Err(error) => Event::Failed { replica, error: Some(Box::new(error)) },
            }
        }));
    }

    fn digest(&mut self, replica: u8, items: &Items) {
        let (target, ids, deadline) = (self.target(replica), self.listed(items), self.deadline);
        self.asks.push(Box::pin(async move {
            let begun_ns = target.core.clock.monotonic_ns();
            match target.versions(ids, deadline).await {
                Ok(digests) => {
                    target.note_latency(begun_ns);
                    Event::Digests { replica, digests }
                }
                Err(error) => Event::Failed { replica, error: Some(Box::new(error)) },
            }
        }));
    }

    /// Sends a stale replica the version that won, exactly as it is.
    fn repair(&mut self, replica: u8, machine: &ReadMachine<StampedWrite>, items: &[u32]) {
        let mut writes = Vec::with_capacity(items.len());
        for item in items {
            let item = *item as usize;
            writes.extend(machine.copy(item).map(|copy| match copy {
                Copy::Record(record) => StampedWrite { exact: true, ..record.clone() },
                Copy::Tombstone(stamp) => {
                    let (id, change) = (self.ids[item], StampedChange::Delete);
                    StampedWrite { id, stamp, change, exact: true }
                }
            }));
        }
        self.core.metrics.replicas_repaired.add(writes.len() as u64);
        let (target, deadline) = (self.target(replica), self.deadline);
        self.asks.push(Box::pin(async move {
            let mut answers = Vec::with_capacity(writes.len());
            for part in parted(writes) {
                let sent = if target.shard.is_here {
                    target.write_here(Durability::Sync, part).await
                } else {
                    let encoded = Encoded::of(&target, Durability::Sync, &part);
                    target.write_there(&encoded, deadline).await
                };
                match sent {
                    Sent::Answered(part) => answers.extend(part),
                    Sent::Refused(_) | Sent::Lost if answers.is_empty() => {
                        return Event::RepairFailed { replica };
                    }
                    // Too few answers say that it takes no more, and what it has taken counts.
                    Sent::Refused(_) | Sent::Lost => break,
                }
            }
            Event::Repaired { replica, answers }
        }));
    }

    fn outcomes(&self, machine: &mut ReadMachine<StampedWrite>) -> Copies {
        let mut newest = heddle_types::Hlc::default();
        let mut copies = Copies::with_capacity(self.ids.len());
        for item in 0..self.ids.len() {
            copies.push(match machine.outcome(item) {
                Some(ReadOutcome::Found(found)) => {
                    newest = newest.max(found.stamp.hlc);
                    Ok(machine.take(item))
                }
                Some(ReadOutcome::Deleted(stamp)) => {
                    newest = newest.max(stamp.hlc);
                    let (id, change) = (self.ids[item], StampedChange::Delete);
                    Ok(Some(StampedWrite { id, stamp, change, exact: true }))
                }
                Some(ReadOutcome::Absent) => Ok(None),
                Some(ReadOutcome::Conflict | ReadOutcome::Failed) | None => {
                    Err(machine.error(item).unwrap_or_else(|| {
                        ApiError::internal("a read was answered before it was decided")
                    }))
                }
            });
        }
        // What was read comes before what this core writes next.
        if let Ok(engine) = self.core.engine() {
            engine.observe(newest);
        }
        copies
    }
}

#[cfg(test)]
mod tests {
    use heddle_types::{Hlc, NodeId, Stamp};

    use super::*;

    fn write(row: u64, bytes: usize) -> StampedWrite {
        let stamp = Stamp { hlc: Hlc(row), boot: 1, core: 0, node: NodeId(uuid::Uuid::nil()) };
        let properties = vec![0; bytes];
        let change = StampedChange::Put { created_us: 0, vectors: Vec::new(), properties };
        StampedWrite { id: ObjectId::from_row(row), stamp, change, exact: true }
    }

    #[test]
    fn large_objects_are_repaired_in_several_messages_and_in_order() {
        let sizes = [1, 2, 5 << 20, 5 << 20, 8 << 20, 8 << 20, 1, 1];
        let writes: Vec<StampedWrite> =
            (0..).zip(sizes).map(|(row, bytes)| write(row, bytes)).collect();
        let parts = parted(writes.clone());
        let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(lengths, [3, 1, 1, 1, 2]);
        assert_eq!(parts.concat(), writes);
        assert!(parted(Vec::new()).is_empty());
    }
}
