//! All replicas of a shard compare what they have and become equal: the leaves of their trees,
//! then the objects of the leaves that differ, in order of their ids, page by page.
//!
//! Every version goes as the exact copy that its holder has, or as a tombstone; the newer one wins
//! wherever it arrives, so writes go on meanwhile and an interrupted session loses nothing.

use heddle_types::{DeletionStrategy, Hlc, ObjectDigest, ObjectId, Stamp};

use crate::replicas::ReplicaSet;
use crate::tree::{LeafSet, TreeLeaves};
use crate::winner::{Verdict, resolve};

/// Most objects of one copy: with vectors of 6 KiB, 1.5 MiB of records.
const COPY_OBJECTS_MAX: usize = 256;

/// Which shard is compared, for the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepairRequest {
    /// Configured replicas of the shard.
    pub replicas: usize,
    /// Those that seem to live; the others do not take part.
    pub reachable: ReplicaSet,
    /// What to do about an object that one has deleted and another has.
    pub strategy: DeletionStrategy,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RepairEvent {
    /// The answer to [`RepairEffect::Begin`].
    Began {
        /// The replica.
        replica: u8,
        /// Its hybrid time, taken before anything else it did for the session.
        hlc: Hlc,
        /// Up to where it was repaired before.
        floor: Hlc,
        /// Its leaves, taken last.
        leaves: TreeLeaves,
    },
    /// The answer to [`RepairEffect::Page`].
    Page {
        /// The replica.
        replica: u8,
        /// Objects and tombstones of [`RepairSession::leaves`], ids strictly rising and above the
        /// one asked for; anything else counts as no answer.
        entries: Vec<(ObjectId, ObjectDigest)>,
        /// Whether there are no more after these.
        is_last: bool,
    },
    /// The end of a [`RepairEffect::Copy`] or, without a source, of a [`RepairEffect::Bury`].
    Copied {
        /// Whose records they were.
        source: Option<u8>,
        /// Whose they are now.
        target: u8,
        /// Objects that the target did not take, or that the source did not have: all of them when
        /// the copy failed.
        refused: usize,
    },
    /// A replica does not answer any more; what it was asked for will not come.
    Lost {
        /// The replica.
        replica: u8,
    },
}

/// What must be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RepairEffect {
    /// Ask a replica to take part. It notes its hybrid time, then lets the writes end that it had
    /// begun and the hints for this shard that nodes hold for others be sent or dropped, then
    /// takes its leaves.
    Begin {
        /// Whom.
        replica: u8,
    },
    /// Read the next digests of [`RepairSession::leaves`] from a replica.
    Page {
        /// From whom.
        replica: u8,
        /// Only ids above this one.
        after: Option<ObjectId>,
    },
    /// Read records from one replica and write them to another, exactly as they are.
    Copy {
        /// Who has them.
        source: u8,
        /// Who lacks them.
        target: u8,
        /// Which, rising.
        ids: Vec<ObjectId>,
    },
    /// Write tombstones to a replica.
    Bury {
        /// Who lacks them.
        target: u8,
        /// Ids, rising, each with the stamp of its deletion.
        tombstones: Vec<(ObjectId, Stamp)>,
    },
    /// The session is over ([`RepairSession::report`]). Comes once, last.
    Finish,
}

/// What a session did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RepairReport {
    /// Who took part to the end.
    pub took_part: ReplicaSet,
    /// Leaves that were not equal everywhere.
    pub leaves_differing: usize,
    /// Objects whose digests were compared.
    pub objects_compared: u64,
    /// Versions sent to replicas that lacked them, tombstones not counted.
    pub copied: u64,
    /// Tombstones sent to replicas that lacked them.
    pub buried: u64,
    /// Versions that their target did not take.
    pub refused: u64,
    /// Objects left as they are because nobody resolves them.
    pub conflicts: u64,
    /// Every write below this time that any replica had is now on all of them. Only a session in
    /// which *every* configured replica took part, and took what it lacked, has one: the least of
    /// their times at the beginning.
    pub floor: Option<Hlc>,
}

struct Side {
    replica: u8,
    hlc: Hlc,
    floor: Hlc,
    leaves: Option<TreeLeaves>,
    page: Vec<(ObjectId, ObjectDigest)>,
    cursor: usize,
    last_id: Option<ObjectId>,
    has_more: bool,
    is_awaited: bool,
}

impl Side {
    fn front(&self) -> Option<&(ObjectId, ObjectDigest)> {
        self.page.get(self.cursor)
    }

    fn needs_page(&self) -> bool {
        self.front().is_none() && self.has_more
    }
}

/// One comparison of the replicas of a shard; see the module.
///
/// Memory: the trees until they are compared, then one page a replica and the copies of its merge.
pub struct RepairSession {
    request: RepairRequest,
    sides: Vec<Side>,
    leaves: LeafSet,
    is_comparing: bool,
    in_flight: Vec<(Option<u8>, u8)>,
    report: RepairReport,
    is_finished: bool,
}

impl RepairSession {
    /// Begins a session with everyone who is reachable; with fewer than two it is over at once.
    #[must_use]
    pub fn start(request: RepairRequest, effects: &mut Vec<RepairEffect>) -> Self {
        let reachable = request.reachable.intersection(ReplicaSet::first(request.replicas));
        let side = |replica| Side {
            replica,
            hlc: Hlc::default(),
            floor: Hlc::default(),
            leaves: None,
            page: Vec::new(),
            cursor: 0,
            last_id: None,
            has_more: true,
            is_awaited: true,
        };
        let mut session = Self {
            request,
            sides: reachable.iter().map(side).collect(),
            leaves: LeafSet::empty(0),
            is_comparing: true,
            in_flight: Vec::new(),
            report: RepairReport::default(),
            is_finished: false,
        };
        if reachable.len() > 1 {
            effects.extend(reachable.iter().map(|replica| RepairEffect::Begin { replica }));
        }
        session.advance(effects);
        session
    }

    /// Takes in what happened and appends what must be done.
    pub fn handle(&mut self, event: RepairEvent, effects: &mut Vec<RepairEffect>) {
        if self.is_finished {
            return;
        }
        match event {
            RepairEvent::Began { replica, hlc, floor, leaves } => {
                let is_comparing = self.is_comparing;
                let Some(side) = self.awaited(replica).filter(|_| is_comparing) else { return };
                side.is_awaited = false;
                (side.hlc, side.floor, side.leaves) = (hlc, floor, Some(leaves));
            }
            RepairEvent::Page { replica, entries, is_last } => {
                let is_comparing = self.is_comparing;
                let Some(side) = self.awaited(replica).filter(|_| !is_comparing) else { return };
                side.is_awaited = false;
                let rises = entries.is_sorted_by(|(left, _), (right, _)| left < right);
                let is_above = entries.first().is_none_or(|(first, _)| Some(*first) > side.last_id);
                if !rises || !is_above || (entries.is_empty() && !is_last) {
                    self.lose(replica);
                } else {
                    side.last_id = entries.last().map(|(id, _)| *id).or(side.last_id);
                    (side.page, side.cursor, side.has_more) = (entries, 0, !is_last);
                }
            }
            RepairEvent::Copied { source, target, refused } => {
                let of = |copy: &(Option<u8>, u8)| *copy == (source, target);
                let Some(index) = self.in_flight.iter().position(of) else { return };
                self.in_flight.swap_remove(index);
                self.report.refused += refused as u64;
            }
            RepairEvent::Lost { replica } => self.lose(replica),
        }
        self.advance(effects);
    }

    /// The leaves whose objects are compared, by the tree of the least height.
    #[must_use]
    pub fn leaves(&self) -> &LeafSet {
        &self.leaves
    }

    /// What was done so far; all of it once the session is over.
    #[must_use]
    pub fn report(&self) -> RepairReport {
        self.report
    }

    fn awaited(&mut self, replica: u8) -> Option<&mut Side> {
        self.sides.iter_mut().find(|side| side.replica == replica && side.is_awaited)
    }

    fn lose(&mut self, replica: u8) {
        self.sides.retain(|side| side.replica != replica);
        self.in_flight.retain(|(source, target)| *source != Some(replica) && *target != replica);
    }

    fn advance(&mut self, effects: &mut Vec<RepairEffect>) {
        let is_waiting =
            self.sides.iter().any(|side| side.is_awaited) || !self.in_flight.is_empty();
        if self.sides.len() < 2 {
            return self.finish(effects);
        }
        if is_waiting {
            return;
        }
        if self.is_comparing {
            self.compare();
            if self.leaves.is_empty() {
                return self.finish(effects);
            }
        } else {
            self.merge(effects);
            if !self.in_flight.is_empty() {
                return;
            }
        }
        let mut is_done = true;
        for side in self.sides.iter_mut().filter(|side| side.needs_page()) {
            side.is_awaited = true;
            is_done = false;
            effects.push(RepairEffect::Page { replica: side.replica, after: side.last_id });
        }
        if is_done {
            self.finish(effects);
        }
    }

    fn compare(&mut self) {
        self.is_comparing = false;
        let trees: Vec<&TreeLeaves> =
            self.sides.iter().filter_map(|side| side.leaves.as_ref()).collect();
        self.leaves = TreeLeaves::differing(&trees);
        self.report.leaves_differing = self.leaves.len();
        self.sides.iter_mut().for_each(|side| side.leaves = None);
    }

    /// Goes through the pages at hand in order of ids, as far as every side's is known.
    fn merge(&mut self, effects: &mut Vec<RepairEffect>) {
        let mut plan = Plan::default();
        let mut versions = Vec::with_capacity(self.sides.len());
        while self.sides.iter().all(|side| !side.needs_page()) {
            let fronts = self.sides.iter().filter_map(|side| side.front().map(|(id, _)| *id));
            let Some(id) = fronts.min() else { break };
            versions.clear();
            for side in &mut self.sides {
                let version = side.front().filter(|(front, _)| *front == id).map(|(_, v)| *v);
                side.cursor += usize::from(version.is_some());
                versions.push(version);
            }
            self.report.objects_compared += 1;
            if versions.iter().any(|version| *version != versions[0]) {
                self.settle(id, &versions, &mut plan);
            }
        }
        self.report.copied += plan.copies.iter().map(|(_, _, ids)| ids.len() as u64).sum::<u64>();
        self.report.buried += plan.burials.iter().map(|(_, dead)| dead.len() as u64).sum::<u64>();
        for (source, target, ids) in plan.copies {
            self.in_flight.push((Some(source), target));
            effects.push(RepairEffect::Copy { source, target, ids });
        }
        for (target, tombstones) in plan.burials {
            self.in_flight.push((None, target));
            effects.push(RepairEffect::Bury { target, tombstones });
        }
    }

    /// Plans for every side to have the version that wins.
    fn settle(&mut self, id: ObjectId, versions: &[Option<ObjectDigest>], plan: &mut Plan) {
        let winner = match resolve(self.request.strategy, versions.iter().copied()) {
            Verdict::Conflict => return self.report.conflicts += 1,
            Verdict::Wins(None) => return,
            Verdict::Wins(Some(winner)) => winner,
        };
        // Who repaired past it knows that everyone had it: those who have nothing have forgotten
        // it already, and must not be reminded.
        let floor = self.sides.iter().map(|side| side.floor).max().unwrap_or_default();
        let is_forgettable = winner.is_tombstone && winner.stamp.hlc < floor;
        let sided = || self.sides.iter().zip(versions);
        let holder = sided().find(|(_, version)| **version == Some(winner));
        let lacking = sided().filter(|(_, version)| {
            **version < Some(winner) && !(is_forgettable && version.is_none())
        });
        for (side, _) in lacking {
            match holder {
                Some((holder, _)) if !winner.is_tombstone => {
                    plan.copy(holder.replica, side.replica, id);
                }
                _ => plan.bury(side.replica, id, winner.stamp),
            }
        }
    }

    fn finish(&mut self, effects: &mut Vec<RepairEffect>) {
        self.is_finished = true;
        self.report.took_part = self.sides.iter().map(|side| side.replica).collect();
        let is_whole = self.request.replicas > 1
            && self.report.took_part == ReplicaSet::first(self.request.replicas)
            && self.report.refused == 0
            && self.report.conflicts == 0;
        let floor = self.sides.iter().map(|side| side.hlc).min();
        self.report.floor = floor.filter(|_| is_whole);
        effects.push(RepairEffect::Finish);
    }
}

/// What goes where, in batches of bounded size.
#[derive(Default)]
struct Plan {
    copies: Vec<(u8, u8, Vec<ObjectId>)>,
    burials: Vec<(u8, Vec<(ObjectId, Stamp)>)>,
}

impl Plan {
    fn copy(&mut self, source: u8, target: u8, id: ObjectId) {
        let has_place = |batch: &&mut (u8, u8, Vec<ObjectId>)| {
            (batch.0, batch.1) == (source, target) && batch.2.len() < COPY_OBJECTS_MAX
        };
        match self.copies.iter_mut().rev().find(has_place) {
            Some((_, _, ids)) => ids.push(id),
            None => self.copies.push((source, target, vec![id])),
        }
    }

    fn bury(&mut self, target: u8, id: ObjectId, stamp: Stamp) {
        let has_place = |batch: &&mut (u8, Vec<(ObjectId, Stamp)>)| {
            batch.0 == target && batch.1.len() < COPY_OBJECTS_MAX
        };
        match self.burials.iter_mut().rev().find(has_place) {
            Some((_, tombstones)) => tombstones.push((id, stamp)),
            None => self.burials.push((target, vec![(id, stamp)])),
        }
    }
}
