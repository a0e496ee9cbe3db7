//! Writes that depend on what is there: merges, and those with a condition.
//!
//! They are made at the home core of the first replica that can be reached, one after the other for
//! each object: it reads what there is from at least a quorum, decides, and writes like any other
//! write. This orders them as long as everyone reaches the same first replica; it is no consensus.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{
    Durability, PutItem, StampedChange, StampedWrite, merge_rows, merge_vectors,
};
use heddle_runtime::timeout;
use heddle_types::{ApiError, Clock, Consistency, ErrorCode, ObjectId, ShardId, Stamp};
use heddle_wire::message::Condition;
use rustc_hash::FxHashSet;

use super::super::Deadline;
use super::read::read;
use super::write::{Stamped, WriteOrder, write};
use crate::cluster::Changed;
use crate::core::Core;
use crate::limits::REPLICA_PATIENCE;
use crate::message::{CoreAnswer, CoreReply};
use crate::registry::CollectionRoute;

/// What happens to one object, and when.
#[derive(Clone, Debug)]
pub(crate) struct ConditionalItem {
    pub(crate) condition: Condition,
    pub(crate) id: ObjectId,
    pub(crate) change: ConditionalChange,
}

/// What happens to an object.
#[derive(Clone, Debug)]
pub(crate) enum ConditionalChange {
    Replace(PutItem),
    Merge(PutItem),
    Delete,
}

/// Conditional writes to one shard, for the home core of one of its replicas.
#[derive(Debug)]
pub(crate) struct Conditional {
    pub(crate) route: Arc<CollectionRoute>,
    /// Position of the shard in the route.
    pub(crate) place: usize,
    pub(crate) level: Consistency,
    pub(crate) durability: Durability,
    /// The stamp that all of them get, when there is a ticket.
    pub(crate) ticket: Option<Stamp>,
    pub(crate) items: Vec<ConditionalItem>,
    /// Microseconds that are left; 0 for no bound.
    pub(crate) budget_us: u32,
}

/// Objects of this core on which a conditional write is under way.
#[derive(Debug, Default)]
pub(crate) struct Held {
    objects: RefCell<FxHashSet<(ShardId, ObjectId)>>,
    changed: Changed,
}

/// Objects that nobody else works on until this is dropped.
struct Hold<'a> {
    held: &'a Held,
    objects: Vec<(ShardId, ObjectId)>,
}

impl Held {
    /// Waits until all of them are free: none is held while another is waited for.
    async fn hold(&self, objects: Vec<(ShardId, ObjectId)>) -> Hold<'_> {
        self.changed
            .until(|| {
                let mut held = self.objects.borrow_mut();
                let is_free = objects.iter().all(|object| !held.contains(object));
                is_free.then(|| held.extend(objects.iter().copied()))
            })
            .await;
        Hold { held: self, objects }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut held = self.held.objects.borrow_mut();
        held.retain(|object| !self.objects.contains(object));
        drop(held);
        self.held.changed.tell();
    }
}

/// Makes conditional writes on the core that is home to a replica of their shard.
pub(crate) async fn answer(core: Rc<Core>, order: Conditional) -> CoreAnswer {
    let deadline = Deadline::of_peer(&core, core.clock.monotonic_ns(), order.budget_us);
    let mut outcomes: Vec<Option<Stamped>> = order.items.iter().map(|_| None).collect();
    let mut rest: Vec<usize> = (0..order.items.len()).collect();
    while !rest.is_empty() {
        // Of an object that is named twice the second write sees the first.
        let mut ids = FxHashSet::default();
        let is_first = |item: &usize| ids.insert(order.items[*item].id);
        let (wave, later): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(is_first);
        let made = make(&core, &order, &wave, deadline).await;
        for (item, outcome) in wave.into_iter().zip(made) {
            outcomes[item] = Some(outcome);
        }
        rest = later;
    }
    let missing = || ApiError::internal("a conditional write was not decided");
    let outcomes = outcomes.into_iter().map(|it| it.unwrap_or_else(|| Err(missing())));
    Ok(CoreReply::Stamped(outcomes.collect()))
}

/// Makes the writes of objects that differ.
async fn make(
    core: &Rc<Core>,
    order: &Conditional,
    wave: &[usize],
    deadline: Deadline<'_>,
) -> Vec<Stamped> {
    let all = |error: ApiError| wave.iter().map(|_| Err(error.clone())).collect();
    let shard = order.route.shards[order.place].id;
    let ids: Vec<ObjectId> = wave.iter().map(|item| order.items[*item].id).collect();
    // Who asked has given up by then, so that nothing is done for them any more.
    let patience = deadline.left().unwrap_or(REPLICA_PATIENCE);
    let hold = core.held.hold(ids.iter().map(|id| (shard, *id)).collect());
    let Ok(_hold) = timeout(patience, hold).await else {
        let message = "other conditional writes to the object took the whole time";
        return all(ApiError::transient(ErrorCode::DeadlineExceeded, message));
    };
    if let Err(error) = deadline.check() {
        return all(error);
    }
    let read_level = order.level.max(Consistency::Quorum);
    let found = read(core, &order.route, order.place, &ids, (read_level, deadline)).await;
    let stamp = match order.ticket {
        Some(stamp) => Ok(stamp),
        None => issue(core).await,
    };
    let stamp = match stamp {
        Ok(stamp) => stamp,
        Err(error) => return all(error),
    };
    let mut outcomes: Vec<Stamped> = Vec::with_capacity(wave.len());
    let mut writes = Vec::new();
    for (item, found) in wave.iter().zip(found) {
        match found.and_then(|found| decide(&order.items[*item], found, stamp)) {
            Ok(Decision::Write(write)) => {
                writes.push(write);
                // Replaced below.
                outcomes.push(Ok((stamp, false)));
            }
            Ok(Decision::Done) => outcomes.push(Ok((stamp, true))),
            Err(error) => outcomes.push(Err(error)),
        }
    }
    if writes.is_empty() {
        return outcomes;
    }
    let written: FxHashSet<ObjectId> = writes.iter().map(|write| write.id).collect();
    let made = write(WriteOrder {
        core: Rc::clone(core),
        route: Arc::clone(&order.route),
        place: order.place,
        level: order.level,
        durability: order.durability,
        writes,
        deadline: deadline.detached(),
    });
    let mut made = made.await.into_iter();
    for (outcome, id) in outcomes.iter_mut().zip(&ids) {
        if written.contains(id)
            && let Some(made) = made.next()
        {
            *outcome = made;
        }
    }
    outcomes
}

/// A stamp of this core.
pub(super) async fn issue(core: &Core) -> Result<Stamp, ApiError> {
    core.engine()?.issue_stamp().await
}

enum Decision {
    Write(StampedWrite),
    /// It was made before, by the same ticket.
    Done,
}

fn decide(
    item: &ConditionalItem,
    found: Option<StampedWrite>,
    stamp: Stamp,
) -> Result<Decision, ApiError> {
    if found.as_ref().is_some_and(|found| found.stamp == stamp) {
        return Ok(Decision::Done);
    }
    let found = found.filter(|found| found.change != StampedChange::Delete);
    check(item, found.as_ref())?;
    let old = found.map(|found| found.change);
    let change = match (item.change.clone(), old) {
        (ConditionalChange::Delete, _) => StampedChange::Delete,
        (
            ConditionalChange::Merge(new),
            Some(StampedChange::Put { created_us, vectors, properties }),
        ) => StampedChange::Put {
            created_us,
            vectors: merge_vectors(vectors, new.vectors),
            properties: merge_rows(&properties, &new.properties)?,
        },
        (ConditionalChange::Replace(new) | ConditionalChange::Merge(new), _) => put_of(new, stamp),
    };
    Ok(Decision::Write(StampedWrite { id: item.id, stamp, change, exact: false }))
}

/// A put of an object that may be new.
pub(super) fn put_of(item: PutItem, stamp: Stamp) -> StampedChange {
    let PutItem { properties, vectors, .. } = item;
    // The time of the write: where the object lives, a replica keeps the time that it has.
    let created_us = i64::try_from(stamp.hlc.unix_us()).unwrap_or(i64::MAX);
    StampedChange::Put { created_us, vectors, properties }
}

fn check(item: &ConditionalItem, found: Option<&StampedWrite>) -> Result<(), ApiError> {
    let id = item.id;
    let refuse = |found: String, expected: String| {
        Err(ApiError::new(ErrorCode::ConditionFailed, found, expected))
    };
    match (item.condition, found) {
        (Condition::Absent, Some(found)) => refuse(
            format!("object {id} exists, written at {}", found.stamp.hlc.0),
            "no such object".to_owned(),
        ),
        (Condition::StampIs(expected), None) => refuse(
            format!("object {id} does not exist"),
            format!("the version written at {}", expected.hlc.0),
        ),
        (Condition::StampIs(expected), Some(found)) if found.stamp != expected => refuse(
            format!("object {id} is the version written at {}", found.stamp.hlc.0),
            format!("the one written at {}", expected.hlc.0),
        ),
        _ => Ok(()),
    }
}
