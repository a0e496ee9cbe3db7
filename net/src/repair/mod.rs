//! Replicas that become equal by themselves: each home core compares the replicas of its shards now
//! and then, and what one lacks goes to it from one that has it, in batches.
//!
//! The first replica of a shard drives. Another one begins only when nobody has asked it for some
//! rounds, each later the further behind it stands, so that a node that is down stops nothing.
//!
//! ```text
//! run ─▶ session ─▶ heddle_replication::RepairSession (what is to be done)
//!                       ├▶ Side::Own    the engine of this core
//!                       └▶ Side::Other  a home core of another node, Lane::Repair ─▶ answer
//! ```
//!
//! Whatever is lost on the way is found again by the next comparison: nothing here is kept on disk
//! but the floor, which is set only after a comparison in which everybody took part.

mod answer;
mod check;
mod side;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use heddle_core::engine::{StampedChange, StampedWrite};
use heddle_replication::{
    LeafSet, RepairEffect, RepairEvent, RepairReport as Outcome, RepairRequest, RepairSession,
    ReplicaSet,
};
use heddle_runtime::{Queue, sleep, spawn};
use heddle_types::{ApiError, Clock, Hlc, NodeId, ObjectId, ShardId, Stamp};
use heddle_wire::message::Copies;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::core::{Core, HomeEngine};
use crate::health::Health;
use crate::limits::{
    REPAIR_BYTES_PER_S, REPAIR_COPIES_AT_ONCE, REPAIR_FLOOR_LAG, REPAIR_FLOOR_STEP,
    REPAIR_HANGS_AFTER, REPAIR_PAGE_ENTRIES,
};
use crate::metrics::{Counter, RepairReport};
use crate::registry::{CollectionRoute, ReplicaPlace, ShardPlace};
pub(crate) use answer::{answer, answers};
pub(crate) use check::{check, check_here};
use side::Side;

/// Rounds without a comparison after which the next replica in order begins one.
const ROUNDS_MISSED: u64 = 3;

/// Where hardly anything differs, comparing takes this part of the time at most: while much is
/// written, trees always differ by what is on its way.
const IDLE_SHARE: u64 = 20;

/// What a core knows of its comparisons.
#[derive(Default)]
pub(crate) struct Repair {
    /// When a shard was last asked to take part in one, or has driven one, monotonic nanoseconds.
    begun_ns: RefCell<FxHashMap<ShardId, u64>>,
    /// When all of its replicas were equal at the end of one that it has driven.
    whole_ns: RefCell<FxHashMap<ShardId, u64>>,
    /// When a shard may be compared again, monotonic nanoseconds, while the same replicas of it
    /// live as then.
    next_ns: RefCell<FxHashMap<ShardId, (u64, ReplicaSet)>>,
    /// Nodes that seem to live and were waited for in vain in this round.
    silent: RefCell<FxHashSet<NodeId>>,
    sessions: Counter,
    whole: Counter,
    compared: Counter,
    copied: Counter,
    buried: Counter,
    refused: Counter,
    bytes: Counter,
    /// Leaves that were not equal, by shard: what is known to be out of step.
    debt: RefCell<FxHashMap<ShardId, u64>>,
    started_ns: Cell<u64>,
}

impl Repair {
    /// Counts and ages as they are now.
    pub(crate) fn report(&self, now_ns: u64) -> RepairReport {
        let oldest_ns = self.whole_ns.borrow().values().copied().min();
        RepairReport {
            sessions: self.sessions.get(),
            whole: self.whole.get(),
            compared: self.compared.get(),
            copied: self.copied.get(),
            buried: self.buried.get(),
            refused: self.refused.get(),
            bytes: self.bytes.get(),
            leaves_differing: self.debt.borrow().values().sum(),
            lag_us: oldest_ns.map_or(0, |at| now_ns.saturating_sub(at) / 1_000),
        }
    }

    fn note_begun(&self, shard: ShardId, now_ns: u64) {
        self.begun_ns.borrow_mut().insert(shard, now_ns);
    }

    /// Shards that are gone count no longer.
    fn keep(&self, is_own: impl Fn(&ShardId) -> bool) {
        self.begun_ns.borrow_mut().retain(|shard, _| is_own(shard));
        self.whole_ns.borrow_mut().retain(|shard, _| is_own(shard));
        self.debt.borrow_mut().retain(|shard, _| is_own(shard));
        self.next_ns.borrow_mut().retain(|shard, _| is_own(shard));
    }

    fn note_session(&self, shard: ShardId, outcome: &Outcome, is_whole: bool, now_ns: u64) {
        self.sessions.add(1);
        self.compared.add(outcome.objects_compared);
        self.copied.add(outcome.copied);
        self.buried.add(outcome.buried);
        self.refused.add(outcome.refused);
        self.debt.borrow_mut().insert(shard, outcome.leaves_differing as u64);
        if is_whole {
            self.whole.add(1);
            self.whole_ns.borrow_mut().insert(shard, now_ns);
            self.debt.borrow_mut().insert(shard, 0);
        }
    }
}

/// Starts the comparisons of a data core.
pub(crate) fn start(core: &Rc<Core>, engine: &HomeEngine) {
    core.repair.started_ns.set(core.clock.monotonic_ns());
    spawn(Queue::Background, run(Rc::clone(core), engine.clone()));
}

async fn run(core: Rc<Core>, engine: HomeEngine) {
    let interval = Duration::from_millis(core.node.config.repair_interval_ms);
    for turn in 0_usize.. {
        sleep(interval).await;
        if core.is_draining() {
            return;
        }
        let mut shards = own_shards(&core);
        // A node that hangs is asked for one shard a round: not always for the same one.
        let first = turn.checked_rem(shards.len()).unwrap_or_default();
        shards.rotate_left(first);
        core.repair.silent.borrow_mut().clear();
        let ids: BTreeSet<ShardId> = shards.iter().map(|(_, place, _)| place.id).collect();
        core.repair.keep(|shard| ids.contains(shard));
        for (route, place, own) in shards {
            if core.is_draining() {
                return;
            }
            if is_due(&core, &place, own, interval) {
                drive(&core, &engine, &route, &place, own).await;
            }
        }
    }
}

/// The shards with several replicas of which one is at home on this core, and which.
fn own_shards(core: &Core) -> Vec<(Arc<CollectionRoute>, ShardPlace, u8)> {
    let mut own = Vec::new();
    let all = core.registry.routes().into_iter();
    for route in all.flat_map(|route| core.registry.replicated_here(route)) {
        for place in route.shards.iter().filter(|place| place.replicas.len() > 1) {
            let Some(here) = place.here() else { continue };
            if place.replicas[here].home == core.index
                && let Ok(replica) = u8::try_from(here)
            {
                own.push((Arc::clone(&route), place.clone(), replica));
            }
        }
    }
    own
}

/// The replicas of a shard that are here or seem to live.
fn living(place: &ShardPlace, health: &Health) -> ReplicaSet {
    let is_alive = |replica: &ReplicaPlace| replica.is_here || health.of(replica.node).is_alive;
    let replicas = (0..).zip(&place.replicas);
    replicas.filter(|(_, replica)| is_alive(replica)).map(|(replica, _)| replica).collect()
}

fn is_due(core: &Core, place: &ShardPlace, own: u8, interval: Duration) -> bool {
    let shard = place.id;
    if let Some((next_ns, lived)) = core.repair.next_ns.borrow().get(&shard).copied()
        && core.clock.monotonic_ns() < next_ns
        && living(place, &core.registry.health()) == lived
    {
        return false;
    }
    if own == 0 {
        return true;
    }
    let begun_ns = core.repair.begun_ns.borrow().get(&shard).copied();
    let since_ns = begun_ns.unwrap_or(core.repair.started_ns.get());
    let patience_ns = interval.as_nanos() as u64 * (ROUNDS_MISSED * u64::from(own));
    core.clock.monotonic_ns().saturating_sub(since_ns) > patience_ns
}

/// One comparison of a shard, from beginning to end.
async fn drive(
    core: &Rc<Core>,
    engine: &HomeEngine,
    route: &CollectionRoute,
    place: &ShardPlace,
    own: u8,
) {
    let began_ns = core.clock.monotonic_ns();
    core.repair.note_begun(place.id, began_ns);
    let living = living(place, &core.registry.health());
    let session = Session::new(core, engine, (route, place), own, Mode::Repair);
    let outcome = session.run().await;
    let is_whole = outcome.floor.is_some();
    core.repair.note_session(place.id, &outcome, is_whole, core.clock.monotonic_ns());
    let moved = outcome.copied + outcome.buried;
    if moved * IDLE_SHARE <= outcome.objects_compared && outcome.took_part == living {
        let next_ns = core.clock.monotonic_ns() + session.worked_ns.get() * IDLE_SHARE;
        core.repair.next_ns.borrow_mut().insert(place.id, (next_ns, living));
    }
    if moved + outcome.refused > 0 {
        tracing::info!(
            shard = place.id.0,
            copied = outcome.copied,
            buried = outcome.buried,
            refused = outcome.refused,
            "replicas were not the same"
        );
    }
    if let Some(floor) = outcome.floor {
        session.raise_floors(floor).await;
    }
}

/// A comparison that this core drives.
struct Session<'a> {
    core: &'a Rc<Core>,
    engine: &'a HomeEngine,
    route: &'a CollectionRoute,
    place: &'a ShardPlace,
    own: u8,
    mode: Mode,
    /// Up to when the rate of repairs is used up, monotonic nanoseconds.
    paced_ns: Cell<u64>,
    /// How long it took, but for what was waited for a replica that was lost.
    worked_ns: Cell<u64>,
}

/// What a comparison is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// What a replica lacks is sent to it.
    Repair,
    /// Everything stays as it is.
    Check,
}

impl<'a> Session<'a> {
    fn new(
        core: &'a Rc<Core>,
        engine: &'a HomeEngine,
        (route, place): (&'a CollectionRoute, &'a ShardPlace),
        own: u8,
        mode: Mode,
    ) -> Self {
        let (paced_ns, worked_ns) = (Cell::default(), Cell::default());
        Self { core, engine, route, place, own, mode, paced_ns, worked_ns }
    }

    async fn run(&self) -> Outcome {
        let replicas = self.place.replicas.len();
        let request = RepairRequest {
            replicas,
            reachable: self.reachable(),
            strategy: self.route.config.replication.deletion_strategy,
        };
        let mut effects = Vec::new();
        let mut session = RepairSession::start(request, &mut effects);
        loop {
            let round = std::mem::take(&mut effects);
            if round.is_empty() || round.contains(&RepairEffect::Finish) {
                return session.report();
            }
            let began_ns = self.core.clock.monotonic_ns();
            let mut is_lost = false;
            let leaves = session.leaves().clone();
            // All replicas are asked together; copies hold whole objects, so few go at a time.
            let is_copying = round.iter().any(|effect| {
                matches!(effect, RepairEffect::Copy { .. } | RepairEffect::Bury { .. })
            });
            let at_once = if is_copying { REPAIR_COPIES_AT_ONCE } else { round.len() };
            let running = round.into_iter().map(|effect| self.execute(effect, &leaves));
            let mut events = stream::iter(running).buffer_unordered(at_once);
            while let Some(event) = events.next().await {
                if let Some(event) = event {
                    is_lost |= matches!(event, RepairEvent::Lost { .. });
                    session.handle(event, &mut effects);
                }
            }
            if !is_lost {
                let took_ns = self.core.clock.monotonic_ns().saturating_sub(began_ns);
                self.worked_ns.set(self.worked_ns.get() + took_ns);
            }
        }
    }

    /// Whom to ask: those that live, and in the background not those that hang.
    fn reachable(&self) -> ReplicaSet {
        let mut reachable = living(self.place, &self.core.registry.health());
        if self.mode == Mode::Repair {
            let silent = self.core.repair.silent.borrow();
            let hanging = (0..).zip(&self.place.replicas);
            let hanging = hanging.filter(|(_, replica)| silent.contains(&replica.node));
            hanging.for_each(|(replica, _)| reachable.remove(replica));
        }
        reachable
    }

    /// Waits until what was moved since `began_ns` fits the rate of repairs, together with what
    /// else this comparison moves.
    async fn keep_pace(&self, bytes: u64, began_ns: u64) {
        let due_ns = u128::from(bytes) * 1_000_000_000 / u128::from(REPAIR_BYTES_PER_S);
        let due_ns = u64::try_from(due_ns).unwrap_or(u64::MAX);
        let paced_ns = self.paced_ns.get().max(began_ns).saturating_add(due_ns);
        self.paced_ns.set(paced_ns);
        let left_ns = paced_ns.saturating_sub(self.core.clock.monotonic_ns());
        if left_ns > 0 {
            sleep(Duration::from_nanos(left_ns)).await;
        }
    }

    fn side(&self, replica: u8) -> Side<'_> {
        if replica == self.own {
            return Side::own(self.core, self.engine, self.place.id);
        }
        Side::other(self.core, self.route, self.place.at(usize::from(replica)))
    }

    async fn execute(&self, effect: RepairEffect, leaves: &LeafSet) -> Option<RepairEvent> {
        let began_ns = self.core.clock.monotonic_ns();
        match effect {
            RepairEffect::Begin { replica } => Some(match self.side(replica).begin().await {
                Ok((hlc, floor, leaves)) => RepairEvent::Began { replica, hlc, floor, leaves },
                Err(error) => self.lost(replica, began_ns, &error),
            }),
            RepairEffect::Page { replica, after } => {
                let page = self.side(replica).page(leaves, after).await;
                Some(match page {
                    Ok(entries) => {
                        let is_last = entries.len() < REPAIR_PAGE_ENTRIES;
                        RepairEvent::Page { replica, entries, is_last }
                    }
                    Err(error) => self.lost(replica, began_ns, &error),
                })
            }
            // It counts as arrived, so that the comparison goes on.
            RepairEffect::Copy { source, target, .. } if self.mode == Mode::Check => {
                Some(RepairEvent::Copied { source: Some(source), target, refused: 0 })
            }
            RepairEffect::Bury { target, .. } if self.mode == Mode::Check => {
                Some(RepairEvent::Copied { source: None, target, refused: 0 })
            }
            RepairEffect::Copy { source, target, ids } => {
                let refused = self.copy(source, target, &ids).await;
                Some(RepairEvent::Copied { source: Some(source), target, refused })
            }
            RepairEffect::Bury { target, tombstones } => {
                let refused = self.bury(target, &tombstones).await;
                Some(RepairEvent::Copied { source: None, target, refused })
            }
            RepairEffect::Finish => None,
        }
    }

    fn lost(&self, replica: u8, began_ns: u64, error: &ApiError) -> RepairEvent {
        let waited_ns = self.core.clock.monotonic_ns().saturating_sub(began_ns);
        if replica != self.own && Duration::from_nanos(waited_ns) >= REPAIR_HANGS_AFTER {
            let node = self.place.replicas[usize::from(replica)].node;
            self.core.repair.silent.borrow_mut().insert(node);
        }
        tracing::debug!(shard = self.place.id.0, replica, %error, "it takes no part in a repair");
        RepairEvent::Lost { replica }
    }

    /// Moves exact copies, a message at a time; how many did not arrive.
    async fn copy(&self, source: u8, target: u8, ids: &[ObjectId]) -> usize {
        let (from, to) = (self.side(source), self.side(target));
        let hops = u64::from(source != self.own) + u64::from(target != self.own);
        let (mut rest, mut refused) = (ids, 0);
        while !rest.is_empty() {
            let began_ns = self.core.clock.monotonic_ns();
            let moved = async {
                let (answered, copies) = from.read(rest).await?;
                let missing = answered - copies.ends.len();
                let bytes = copies.bytes.len() as u64;
                Ok::<_, ApiError>((answered, bytes, missing + to.write(copies).await?))
            };
            match moved.await {
                Ok((answered, bytes, left)) => {
                    refused += left;
                    rest = &rest[answered..];
                    self.keep_pace(bytes * hops, began_ns).await;
                }
                Err(error) => {
                    tracing::debug!(shard = self.place.id.0, source, target, %error, "no copy");
                    return refused + rest.len();
                }
            }
        }
        refused
    }

    async fn bury(&self, target: u8, tombstones: &[(ObjectId, Stamp)]) -> usize {
        let mut copies = Copies::default();
        for (id, stamp) in tombstones {
            let change = StampedChange::Delete;
            add_copy(&mut copies, &StampedWrite { id: *id, stamp: *stamp, change, exact: true });
        }
        match self.side(target).write(copies).await {
            Ok(refused) => refused,
            Err(error) => {
                tracing::debug!(shard = self.place.id.0, target, %error, "tombstones did not go");
                tombstones.len()
            }
        }
    }

    /// Tells all replicas up to where they are the same. Writes may be older than the comparison
    /// when they come in: those of a coordinator whose clock lags, and those that take long.
    /// So the floor stays behind by more than any request lives.
    async fn raise_floors(&self, floor: Hlc) {
        let lagging_us = floor.unix_us().saturating_sub(REPAIR_FLOOR_LAG.as_micros() as u64);
        let Ok(before) = self.engine.repaired_through(self.place.id) else { return };
        let step_us = REPAIR_FLOOR_STEP.as_micros() as u64;
        if lagging_us < before.unix_us().saturating_add(step_us) {
            return;
        }
        let floor = Hlc::from_unix_us(lagging_us);
        // Its own last: while some replica has not heard of it, the next round tries again.
        let others =
            (0..self.place.replicas.len()).filter_map(|replica| u8::try_from(replica).ok());
        let others: Vec<u8> = others.filter(|replica| *replica != self.own).collect();
        for replica in others.into_iter().chain([self.own]) {
            if let Err(error) = self.side(replica).raise_floor(floor).await {
                return tracing::debug!(shard = self.place.id.0, replica, %error, "floor not set");
            }
        }
    }
}

/// Appends an encoded write.
fn add_copy(copies: &mut Copies, write: &StampedWrite) {
    write.encode(&mut copies.bytes);
    copies.ends.push(u32::try_from(copies.bytes.len()).expect("a batch of copies is bounded"));
}
