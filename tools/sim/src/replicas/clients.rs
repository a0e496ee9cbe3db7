//! Clients: what they ask for, through whom, and what they remember of it.

use std::future::Future;
use std::rc::Rc;

use futures::channel::oneshot;
use futures::future::{Either, select};
use heddle_checkers::resurrection::Sighting;
use heddle_checkers::{Action, Operation, Outcome, Seen};
use heddle_core::engine::{ItemVector, StampedChange, StampedWrite};
use heddle_replication::WriteOutcome;
use heddle_types::row::{decode_row, encode_row};
use heddle_types::{Consistency, ObjectId, Properties, ShardId, Stamp, Value};

use crate::Random;

use super::World;
use super::bugs::Bug;
use super::coordinator::Coordinator;
use super::network::exponential;
use super::plan::FACTOR;
use super::reading::Found;
use super::time::{now_us, sleep_us};

/// Longest wait of a client for an answer.
const PATIENCE_US: u64 = 5_000_000;
/// Times that a write with a stamp of its own is tried.
const ATTEMPTS_MAX: usize = 3;
/// Most keys of one request.
const BATCH_MAX: u64 = 3;

/// What became of a request.
enum Sent<T> {
    Answered(T),
    /// Nobody took it.
    NotTaken,
    /// It was taken, and no answer came.
    Silence,
}

/// One client.
pub(crate) struct Client {
    pub(crate) world: Rc<World>,
    pub(crate) number: u32,
    pub(crate) random: Random,
}

/// A write of one key, as the client remembers it.
struct Item {
    key: u64,
    /// Tells it from all other writes.
    value: u64,
    is_delete: bool,
    /// What is known after all attempts so far; none while nobody took it.
    outcome: Option<Outcome<Stamp>>,
}

impl Client {
    /// Lives its life.
    pub(crate) async fn run(mut self) {
        for _ in 0..self.world.plan.operations {
            let think_us = exponential(&mut self.random, self.world.plan.think_us);
            sleep_us(think_us).await;
            let level = self.world.plan.levels.draw(&mut self.random);
            match self.random.below(20) {
                0..=10 => self.write(level).await,
                11..=18 => {
                    let keys = self.keys();
                    let node = self.coordinator();
                    self.read(level, keys, node).await;
                }
                _ => self.search(level).await,
            }
        }
    }

    /// Some keys of one shard.
    fn keys(&mut self) -> Vec<u64> {
        let world = &self.world;
        let first = self.random.below(world.plan.keys);
        let count = if self.random.one_in(4) { 1 + self.random.below(BATCH_MAX) } else { 1 };
        let shards = world.plan.owners.len() as u64;
        (0..count).map(|step| first + step * shards).collect()
    }

    /// A node that seems to live, mostly.
    fn coordinator(&mut self) -> usize {
        let nodes = self.world.plan.nodes as u64;
        let mut node = 0;
        for _ in 0..3 {
            node = self.random.below(nodes) as usize;
            if self.world.nodes[node].is_up() {
                break;
            }
        }
        node
    }

    /// Runs a request on a node.
    async fn send<T: 'static, F: Future<Output = Option<T>> + 'static>(
        &self,
        node: usize,
        shard: ShardId,
        work: impl FnOnce(Coordinator) -> F,
    ) -> Sent<T> {
        let node = &self.world.nodes[node];
        let Some(running) = node.running() else { return Sent::NotTaken };
        let coordinator = Coordinator::new(&self.world, node, running, shard);
        let (sender, receiver) = oneshot::channel();
        let work = work(coordinator);
        node.spawn(async move {
            // The client may have given up.
            let _ = sender.send(work.await);
        });
        let patience = std::pin::pin!(sleep_us(PATIENCE_US));
        match select(receiver, patience).await {
            Either::Left((Ok(Some(answer)), _)) => Sent::Answered(answer),
            Either::Left((Ok(None), _)) => Sent::NotTaken,
            Either::Left((Err(oneshot::Canceled), _)) | Either::Right(_) => Sent::Silence,
        }
    }

    async fn write(&mut self, level: Consistency) {
        let called = now_us();
        let keys = self.keys();
        let shard = self.world.shard_of(keys[0]);
        let is_delete = self.random.one_in(4);
        let item = |key| {
            let value = self.world.next_value();
            Item { key, value, is_delete, outcome: None }
        };
        let mut items: Vec<Item> = keys.into_iter().map(item).collect();
        let has_ticket = self.random.one_in(3);
        let attempts = if has_ticket { ATTEMPTS_MAX } else { 1 };
        let mut stamp = None;
        for _ in 0..attempts {
            let node = self.coordinator();
            if has_ticket && stamp.is_none() {
                let issued = self.send(node, shard, |coordinator| async move {
                    coordinator.running.store.issue().await.ok()
                });
                let Sent::Answered(issued) = issued.await else { continue };
                stamp = Some(issued);
            }
            let node = self.coordinator();
            self.attempt(level, node, shard, stamp, &mut items).await;
            let is_done = |item: &Item| matches!(item.outcome, Some(Outcome::Done(_)));
            if items.iter().all(is_done) {
                break;
            }
        }
        let returned = now_us();
        for Item { key, value, is_delete, outcome } in items {
            let outcome = outcome.unwrap_or(Outcome::NotApplied);
            let action = match is_delete {
                true => Action::Delete { outcome },
                false => Action::Put { value, outcome },
            };
            let copies = level.needed(FACTOR) as u8;
            let client = self.number;
            let operation = Operation { client, key, called, returned, copies, action };
            self.world.record(operation, Some(value));
        }
    }

    async fn attempt(
        &self,
        level: Consistency,
        node: usize,
        shard: ShardId,
        ticket: Option<Stamp>,
        items: &mut [Item],
    ) {
        let writes: Vec<(u64, u64, bool)> =
            items.iter().map(|item| (item.key, item.value, item.is_delete)).collect();
        let sent = self.send(node, shard, |coordinator| async move {
            let world = Rc::clone(&coordinator.world);
            let store = Rc::clone(&coordinator.running.store);
            let ticket = ticket.filter(|_| world.bug != Some(Bug::RetryRestamped));
            let stamp = match ticket {
                Some(ticket) => {
                    store.observe(ticket.hlc);
                    ticket
                }
                None => store.issue().await.ok()?,
            };
            let stamped = |(key, value, is_delete)| {
                world.note_stamp(value, stamp);
                stamped_write(key, value, is_delete, stamp)
            };
            let writes = writes.into_iter().map(stamped).collect();
            let (sender, receiver) = oneshot::channel();
            let node = Rc::clone(&coordinator.node);
            node.spawn(coordinator.write(level, writes, sender));
            let outcomes = receiver.await.ok()?;
            Some((stamp, outcomes))
        });
        match sent.await {
            Sent::NotTaken => {}
            Sent::Silence => items.iter_mut().for_each(|item| {
                if !matches!(item.outcome, Some(Outcome::Done(_))) {
                    item.outcome = Some(Outcome::Unknown(None));
                }
            }),
            Sent::Answered((stamp, outcomes)) => {
                for (item, outcome) in items.iter_mut().zip(outcomes) {
                    item.outcome = match (item.outcome, outcome) {
                        (Some(Outcome::Done(stamp)), _) => Some(Outcome::Done(stamp)),
                        (_, WriteOutcome::Applied { .. }) => Some(Outcome::Done(stamp)),
                        (_, WriteOutcome::Unknown) => Some(Outcome::Unknown(Some(stamp))),
                        (before, WriteOutcome::NotApplied) => before,
                    };
                }
            }
        }
    }

    pub(crate) async fn read(&mut self, level: Consistency, keys: Vec<u64>, node: usize) -> bool {
        let called = now_us();
        let shard = self.world.shard_of(keys[0]);
        let ids: Vec<ObjectId> = keys.iter().map(|key| ObjectId::from_row(*key)).collect();
        let sent = self.send(node, shard, |coordinator| async move {
            Some(coordinator.read(level, ids).await)
        });
        let Sent::Answered(found) = sent.await else { return false };
        let returned = now_us();
        let mut is_whole = true;
        for (key, found) in keys.into_iter().zip(found) {
            let seen = match found {
                Found::Failed => {
                    is_whole = false;
                    continue;
                }
                Found::Object(write) => match value_of(&write) {
                    Some(value) => Seen::Value { version: write.stamp, value },
                    None => {
                        self.world.fail(format!("key {key} has a value nobody wrote: {write:?}"));
                        continue;
                    }
                },
                Found::Deleted(stamp) => Seen::Absent(Some(stamp)),
                Found::Absent => Seen::Absent(None),
            };
            let action = Action::Read { seen };
            let copies = level.needed(FACTOR) as u8;
            let client = self.number;
            let operation = Operation { client, key, called, returned, copies, action };
            self.world.record(operation, None);
        }
        is_whole
    }

    async fn search(&mut self, level: Consistency) {
        let called = now_us();
        let shard = ShardId(self.random.below(self.world.plan.owners.len() as u64));
        let node = self.coordinator();
        let sent = self.send(node, shard, |coordinator| coordinator.search(level));
        let Sent::Answered(found) = sent.await else { return };
        let (returned, copies) = (now_us(), level.needed(FACTOR) as u8);
        for (id, stamp) in found {
            let (key, version) = (key_of(id), Some(stamp));
            let sighting = Sighting { key, version, called, returned, copies };
            self.world.sightings.borrow_mut().push(sighting);
        }
        let numbers = [u64::from(self.number), shard.0, called];
        self.world.trace.note("search", &numbers, || format!("client {}", self.number));
    }
}

/// The key of an id.
pub(crate) fn key_of(id: ObjectId) -> u64 {
    id.as_u128() as u64
}

/// A write of a value that can be told from all others, twice: in its row and in its vector.
fn stamped_write(key: u64, value: u64, is_delete: bool, stamp: Stamp) -> StampedWrite {
    let change = if is_delete {
        StampedChange::Delete
    } else {
        let mut properties = Vec::new();
        let row = Properties::from([("value".to_owned(), Value::Int(value as i64))]);
        encode_row(&row, &mut properties).expect("a number is a row");
        let values = vec![value as f32, 1.0];
        let created_us = stamp.hlc.unix_us() as i64;
        let vectors = vec![ItemVector { index: 0, values }];
        StampedChange::Put { created_us, vectors, properties }
    };
    StampedWrite { id: ObjectId::from_row(key), stamp, change, exact: false }
}

/// The value of an object; none when row and vector do not agree on one.
fn value_of(write: &StampedWrite) -> Option<u64> {
    let StampedChange::Put { vectors, properties, .. } = &write.change else { return None };
    let row = decode_row(properties).ok()?;
    let Some(Value::Int(value)) = row.get("value") else { return None };
    let [vector] = &vectors[..] else { return None };
    let is_same = vector.values == [*value as f32, 1.0];
    is_same.then_some(*value as u64)
}
