//! Judges a history: while it runs by what replicas say, in the end by what clients saw.

use std::collections::BTreeSet;
use std::rc::Rc;

use heddle_checkers::convergence::{self, Entry};
use heddle_checkers::register::{self, Order, Promise};
use heddle_checkers::{Action, Operation, Outcome, resurrection};
use heddle_core::engine::StampedWrite;
use heddle_types::{Consistency, Hlc, ObjectDigest, ObjectId, ShardId, Stamp};

use crate::Random;

use super::World;
use super::clients::{Client, key_of};
use super::node::Running;
use super::plan::FACTOR;
use super::time::{BEGINNING_US, now_us, sleep_us};

/// How long replicas may take to become equal once everything is well.
const CONVERGENCE_US: u64 = 60_000_000;
const LOOK_US: u64 = 1_000_000;
/// Times that a read is tried when everything is well.
const READS_MAX: usize = 3;

impl World {
    /// I1: what is acknowledged is on as many replicas as the level asks for.
    pub(crate) fn check_acknowledged(&self, shard: ShardId, write: &StampedWrite, needed: usize) {
        let owners: Vec<_> = self.owners(shard).into_iter().map(|(_, identity)| identity).collect();
        let kept = self.kept.borrow();
        let of_nodes = kept.get(&(shard, write.id)).into_iter().flatten();
        let has_it = of_nodes
            .filter(|(identity, digest)| owners.contains(identity) && digest.stamp >= write.stamp);
        let count = has_it.count();
        if count < needed {
            let (id, stamp) = (write.id, write.stamp);
            self.fail(format!("{id} {stamp:?} is acknowledged, and on {count} of {needed} needed"));
        }
    }

    /// I5, I10: what a replica said it has is there after a restart.
    pub(crate) fn check_kept(&self, running: &Running) {
        for ((shard, id), of_nodes) in self.kept.borrow().iter() {
            let Some(kept) = of_nodes.get(&running.identity) else { continue };
            let digest = running.store.digests(*shard, &[*id]);
            let found = digest.expect("a running node has its shards")[0];
            let floor = running.store.floor(*shard);
            let is_forgotten = kept.is_tombstone && kept.stamp.hlc < floor;
            if found < Some(*kept) && !(found.is_none() && is_forgotten) {
                let identity = running.identity;
                self.fail(format!("{identity} had {kept:?} of {id} and has {found:?}"));
            }
        }
    }

    /// I7: nobody has anything older of what is forgotten.
    pub(crate) fn check_purged(
        &self,
        running: &Running,
        shard: ShardId,
        id: ObjectId,
        stamp: Stamp,
    ) {
        let kept = self.kept.borrow();
        let Some(of_nodes) = kept.get(&(shard, id)) else { return };
        for (_, identity) in self.owners(shard) {
            if let Some(older) = of_nodes
                .get(&identity)
                .filter(|digest| digest.stamp < stamp && !digest.is_tombstone)
            {
                let here = running.identity;
                self.fail(format!("{here} forgets {id} {stamp:?}, {identity} has {older:?}"));
            }
        }
    }

    /// Lets the cluster come to rest and judges it.
    pub(crate) async fn verify(self: &Rc<Self>) {
        self.outlast_future_stamps().await;
        self.replace_wiped().await;
        self.converge().await;
        sleep_us(1).await;
        let settled = now_us();
        self.read_everything().await;
        self.judge(settled);
    }

    /// Stamps ahead of true time are refused by who does not have them, until it comes.
    async fn outlast_future_stamps(&self) {
        let mut newest_us = 0;
        for (position, shard) in self.replicas() {
            let running = self.up(position).await;
            for (_, digest) in running.store.dump(shard).await {
                newest_us = newest_us.max(digest.stamp.hlc.unix_us());
            }
            newest_us = newest_us.max(running.store.time().unix_us());
        }
        for position in 0..self.plan.nodes {
            let hints = self.storage(position).hints.all();
            let stamps = hints.iter().map(|(_, _, write)| write.stamp.hlc.unix_us());
            newest_us = stamps.max().unwrap_or(0).max(newest_us);
        }
        let ahead_us = newest_us.saturating_sub(BEGINNING_US + now_us());
        if ahead_us > 0 {
            self.trace.note("ahead", &[ahead_us], || format!("stamps are {ahead_us} us ahead"));
            self.is_waiting.set(ahead_us > CONVERGENCE_US);
            sleep_us(ahead_us).await;
            self.is_waiting.set(false);
        }
    }

    /// Fills the replicas of nodes that came back without their disk and makes them members.
    async fn replace_wiped(&self) {
        for position in 0..self.plan.nodes {
            let running = self.up(position).await;
            let before = self.identity(position);
            if running.identity == before {
                continue;
            }
            for (_, shard) in self.replicas().into_iter().filter(|(owner, _)| *owner == position) {
                for (owner, _) in self.owners(shard).into_iter().filter(|(at, _)| *at != position) {
                    let source = self.up(owner).await;
                    let entries = source.store.dump(shard).await;
                    let ids = entries.into_iter().map(|(id, _)| id).collect();
                    let copies = source.store.read(shard, ids).await.expect("it runs");
                    let writes: Vec<StampedWrite> = copies.into_iter().flatten().collect();
                    let results =
                        running.store.apply(shard, writes).await.expect("the disk is well");
                    assert!(results.iter().all(Result::is_ok), "a fill is taken: {results:?}");
                }
                let sources = self.owners(shard).into_iter().filter(|(at, _)| *at != position);
                let mut floor = Hlc::default();
                for (at, _) in sources {
                    floor = floor.max(self.up(at).await.store.floor(shard));
                }
                running.store.set_floor(shard, floor).await.expect("the disk is well");
            }
            self.set_member(position, running.identity);
        }
    }

    /// I12: when everything is well, replicas become equal and hints arrive.
    async fn converge(&self) {
        let deadline_us = now_us() + CONVERGENCE_US;
        loop {
            let mut differences = Vec::new();
            for shard in (0..self.plan.owners.len() as u64).map(ShardId) {
                differences.extend(self.differences(shard).await);
            }
            let hints: usize = (0..self.plan.nodes).map(|at| self.storage(at).hints.count()).sum();
            if differences.is_empty() && hints == 0 {
                return;
            }
            if now_us() > deadline_us {
                let first = differences.first();
                let count = differences.len();
                return self.fail(format!(
                    "after {} s {count} objects differ and {hints} hints wait; {first:?}",
                    CONVERGENCE_US / 1_000_000
                ));
            }
            sleep_us(LOOK_US).await;
        }
    }

    async fn differences(&self, shard: ShardId) -> Vec<convergence::Difference<Stamp>> {
        let mut replicas = Vec::new();
        let mut floor = None;
        for (position, _) in self.owners(shard) {
            let running = self.up(position).await;
            let entries = running.store.dump(shard).await;
            replicas.push(entries.iter().map(entry).collect());
            floor = floor.max(Some(running.store.floor(shard)));
        }
        let floor = floor.map(|hlc| Stamp { hlc, ..Stamp::default() });
        convergence::check(&replicas, floor)
    }

    /// Everything is read by all, from a random node.
    async fn read_everything(self: &Rc<Self>) {
        let keys: BTreeSet<u64> =
            self.history.borrow().iter().map(|operation| operation.key).collect();
        let random = Random::new(self.seed ^ 0x0045_4E44);
        let mut client = Client { world: Rc::clone(self), number: u32::MAX, random };
        for key in keys {
            let mut is_read = false;
            for _ in 0..READS_MAX {
                let node = client.random.below(self.plan.nodes as u64) as usize;
                is_read = is_read || client.read(Consistency::All, vec![key], node).await;
            }
            if !is_read {
                self.fail(format!("key {key} cannot be read though everything is well"));
            }
        }
    }

    fn judge(&self, settled: u64) {
        let history = self.known_history();
        let promise = Promise { factor: FACTOR as u8, order: Order::Monotonic };
        for violation in register::check(promise, &history).violations {
            self.fail(format!("{violation:?}: {}", story(&history, &violation)));
        }
        let sightings = self.sightings.borrow();
        for found in resurrection::check(FACTOR as u8, &history, &sightings, settled) {
            self.fail(format!("came back: {found:?}"));
        }
    }

    /// The history with everything that the world knows: stamps that clients were not told.
    fn known_history(&self) -> Vec<Operation<Stamp>> {
        let mut history = self.history.borrow().clone();
        for (position, operation) in history.iter_mut().enumerate() {
            // One copy may have been on the disk that was lost.
            if self.has_wiped.get() && operation.copies == 1 {
                operation.copies = 0;
            }
            let (Action::Put { outcome, .. } | Action::Delete { outcome }) = &mut operation.action
            else {
                continue;
            };
            if *outcome == Outcome::Unknown(None) {
                // What never got a stamp was never sent to a replica.
                *outcome = match self.stamp_of(position) {
                    Some(stamp) => Outcome::Unknown(Some(stamp)),
                    None => Outcome::NotApplied,
                };
            }
        }
        history
    }

    /// Every replica: its node and its shard.
    fn replicas(&self) -> Vec<(usize, ShardId)> {
        let shards = self.plan.owners.iter().enumerate();
        let of_shard = |(shard, owners): (usize, &Vec<usize>)| {
            let shard = ShardId(shard as u64);
            owners.iter().map(move |owner| (*owner, shard)).collect::<Vec<_>>()
        };
        shards.flat_map(of_shard).collect()
    }
}

fn entry((id, digest): &(ObjectId, ObjectDigest)) -> Entry<Stamp> {
    Entry {
        key: key_of(*id),
        version: digest.stamp,
        is_tombstone: digest.is_tombstone,
        content: digest.created_us as u64,
    }
}

/// The operations that a violation names.
fn story(history: &[Operation<Stamp>], violation: &register::Violation<Stamp>) -> String {
    use register::Violation;
    let positions = match *violation {
        Violation::Stale { read, shown_by, .. } => vec![shown_by, read],
        Violation::Phantom { read } => vec![read],
        Violation::OtherVersion { read, write } | Violation::SawSuperseded { read, write } => {
            vec![write, read]
        }
        Violation::VersionTwice { first, second } => vec![first, second],
        Violation::AckedBelow { write, shown_by } => vec![shown_by, write],
    };
    positions.into_iter().map(|at| format!("{:?}; ", history[at])).collect()
}
