//! Writes of one request to one shard, to all of its replicas.
//!
//! The client is answered as soon as its level is reached. What is left goes on in a task of its
//! own, which also says what a replica lacks that did not take part.

use std::rc::Rc;
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use heddle_core::engine::{Durability, StampedChange, StampedWrite};
use heddle_replication::{ReplicaSet, WriteEffect, WriteEvent, WriteMachine, WriteRequest};
use heddle_runtime::{Queue, spawn, timeout};
use heddle_types::{ApiError, Clock, Consistency, Stamp};

use super::super::Deadline;
use super::ask::{Encoded, Replica, Sent};
use super::tail::Tail;
use crate::core::Core;
use crate::hints::{self, Hint};
use crate::limits::REPLICA_PATIENCE;
use crate::registry::CollectionRoute;

/// How a write ended: its stamp, and whether there was an object before.
pub(in crate::dispatch) type Stamped = Result<(Stamp, bool), ApiError>;

/// Writes of one request to one shard.
pub(in crate::dispatch) struct WriteOrder {
    pub(in crate::dispatch) core: Rc<Core>,
    pub(in crate::dispatch) route: Arc<CollectionRoute>,
    /// Position of the shard in the route.
    pub(in crate::dispatch) place: usize,
    pub(in crate::dispatch) level: Consistency,
    pub(in crate::dispatch) durability: Durability,
    pub(in crate::dispatch) writes: Vec<StampedWrite>,
    /// When the client is told what is known by then.
    pub(in crate::dispatch) deadline: Deadline<'static>,
}

/// Writes to all replicas; says what became of each write, in order, once that is decided.
pub(in crate::dispatch) async fn write(order: WriteOrder) -> Vec<Stamped> {
    let count = order.writes.len();
    let (tell, told) = oneshot::channel();
    // A request that nobody waits for any more is brought to its end all the same.
    spawn(Queue::Wal, run(order, tell));
    told.await.unwrap_or_else(|_lost| {
        vec![Err(ApiError::unknown("the coordination of the write was given up")); count]
    })
}

/// What writes take up in memory, which is no less than they are on their way but for a few bytes.
pub(super) fn bytes_of(writes: &[StampedWrite]) -> usize {
    let size = |write: &StampedWrite| match &write.change {
        StampedChange::Put { vectors, properties, .. } => {
            let values: usize = vectors.iter().map(|vector| 4 * vector.values.len()).sum();
            size_of::<StampedWrite>() + properties.len() + values
        }
        StampedChange::Delete => size_of::<StampedWrite>(),
    };
    writes.iter().map(size).sum()
}

/// A write while it is coordinated.
struct Running {
    order: WriteOrder,
    /// Encoded when the first replica elsewhere is asked.
    encoded: Option<Rc<Encoded>>,
    sends: FuturesUnordered<LocalBoxFuture<'static, (u8, Sent)>>,
}

async fn run(order: WriteOrder, tell: oneshot::Sender<Vec<Stamped>>) {
    let core = Rc::clone(&order.core);
    let _tail = Tail::begin(&core, bytes_of(&order.writes));
    let now_us = || core.clock.monotonic_ns() / 1_000;
    let patience =
        order.deadline.left().map_or(REPLICA_PATIENCE, |left| left.min(REPLICA_PATIENCE));
    let replicas = &order.route.shards[order.place].replicas;
    let health = core.registry.health();
    let alive = replicas.iter().map(|replica| replica.is_here || health.of(replica.node).is_alive);
    let reachable: ReplicaSet =
        (0..).zip(alive).filter(|(_, alive)| *alive).map(|(replica, _)| replica).collect();
    let request = WriteRequest {
        replicas: replicas.len(),
        reachable,
        level: order.level,
        items: order.writes.len(),
        deadline_us: now_us() + patience.as_micros() as u64,
    };
    let mut effects = Vec::new();
    let mut machine = WriteMachine::start(request, &mut effects);
    let mut tell = Some(tell);
    let mut running = Running { order, encoded: None, sends: FuturesUnordered::new() };
    loop {
        for effect in effects.drain(..) {
            match effect {
                WriteEffect::Send { replica } => running.send(replica),
                WriteEffect::Answer => {
                    if let Some(tell) = tell.take() {
                        // The client may have gone.
                        let _ = tell.send(running.outcomes(&machine));
                    }
                }
                WriteEffect::Hint { replica, items } => {
                    let listed = items.iter(running.order.writes.len());
                    let writes = listed.map(|item| running.order.writes[item].clone());
                    running.hint(replica, writes.collect());
                }
                WriteEffect::Finish => return,
            }
        }
        let Some(due_us) = machine.deadline() else { return };
        let wait = std::time::Duration::from_micros(due_us.saturating_sub(now_us()));
        let event = match timeout(wait, running.sends.next()).await {
            Ok(Some((replica, Sent::Answered(answers)))) => {
                WriteEvent::Answered { replica, answers }
            }
            Ok(Some((replica, Sent::Refused(error)))) => {
                WriteEvent::Refused { replica, error: Box::new(error) }
            }
            Ok(Some((replica, Sent::Lost))) => WriteEvent::Lost { replica },
            Ok(None) | Err(_) => WriteEvent::Due,
        };
        machine.handle(now_us().max(due_us_of(&event, due_us)), event, &mut effects);
    }
}

/// A timer that ended is due, however its clock and ours are rounded.
fn due_us_of(event: &WriteEvent, due_us: u64) -> u64 {
    if *event == WriteEvent::Due { due_us } else { 0 }
}

impl Running {
    fn send(&mut self, replica: u8) {
        let order = &self.order;
        let shard = order.route.shards[order.place].at(usize::from(replica));
        let (core, route) = (Rc::clone(&order.core), Arc::clone(&order.route));
        let target = Replica { core, route, shard };
        let (durability, deadline) = (order.durability, order.deadline);
        if shard.is_here {
            let writes = order.writes.clone();
            let sent = async move { (replica, target.write_here(durability, writes).await) };
            self.sends.push(Box::pin(sent));
            return;
        }
        let encoded = match &self.encoded {
            Some(encoded) => Rc::clone(encoded),
            None => {
                let encoded = Rc::new(Encoded::of(&target, durability, &order.writes));
                Rc::clone(self.encoded.insert(encoded))
            }
        };
        let sent = async move { (replica, target.write_there(&encoded, deadline).await) };
        self.sends.push(Box::pin(sent));
    }

    fn outcomes(&self, machine: &WriteMachine) -> Vec<Stamped> {
        let outcome = |(item, write): (usize, &StampedWrite)| match machine.outcome(item) {
            Some(heddle_replication::WriteOutcome::Applied { existed }) => {
                Ok((write.stamp, existed))
            }
            _ => Err(machine.error(item).unwrap_or_else(|| {
                ApiError::internal("a write was answered before it was decided")
            })),
        };
        self.order.writes.iter().enumerate().map(outcome).collect()
    }

    fn hint(&self, replica: u8, writes: Vec<StampedWrite>) {
        let WriteOrder { core, route, place, .. } = &self.order;
        let shard = route.shards[*place].at(usize::from(replica));
        hints::keep(core, Hint { collection: route.id, shard, writes });
    }
}
