//! Do replicas become equal, and is a floor set only when that is certain?

mod common;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use common::{Random, dead, id, live};
use heddle_replication::{
    RepairEffect, RepairEvent, RepairReport, RepairRequest, RepairSession, ReplicaSet, TreeLeaves,
};
use heddle_types::{DeletionStrategy, Hlc, ObjectDigest, ObjectId, token_of};

type Objects = BTreeMap<ObjectId, ObjectDigest>;

fn hash(id: &ObjectId, digest: &ObjectDigest) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, id, digest).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

fn leaves(objects: &Objects, height: u8) -> TreeLeaves {
    let mut leaves = TreeLeaves::new(height);
    objects.iter().for_each(|(id, digest)| leaves.add(token_of(id), hash(id, digest)));
    leaves
}

struct World {
    replicas: Vec<Objects>,
    floors: Vec<u64>,
    heights: Vec<u8>,
    page_objects: usize,
    session: RepairSession,
    open: Vec<RepairEffect>,
    is_finished: bool,
    pages: usize,
}

impl World {
    fn new(replicas: Vec<Objects>, reachable: ReplicaSet, strategy: DeletionStrategy) -> Self {
        let request = RepairRequest { replicas: replicas.len(), reachable, strategy };
        let mut effects = Vec::new();
        let session = RepairSession::start(request, &mut effects);
        let count = replicas.len();
        let mut world = Self {
            replicas,
            floors: vec![0; count],
            heights: vec![5; count],
            page_objects: 3,
            session,
            open: Vec::new(),
            is_finished: false,
            pages: 0,
        };
        world.take(effects);
        world
    }

    fn take(&mut self, effects: Vec<RepairEffect>) {
        for effect in effects {
            assert!(!self.is_finished, "{effect:?} after the end");
            self.is_finished |= effect == RepairEffect::Finish;
            self.open.push(effect);
        }
        self.open.retain(|effect| *effect != RepairEffect::Finish);
    }

    fn feed(&mut self, event: RepairEvent) {
        let mut effects = Vec::new();
        self.session.handle(event, &mut effects);
        self.take(effects);
    }

    fn answer(&mut self, index: usize) {
        let event = match self.open.swap_remove(index) {
            RepairEffect::Begin { replica } => {
                let place = usize::from(replica);
                let leaves = leaves(&self.replicas[place], self.heights[place]);
                let (hlc, floor) = (Hlc(100 + u64::from(replica)), Hlc(self.floors[place]));
                RepairEvent::Began { replica, hlc, floor, leaves }
            }
            RepairEffect::Page { replica, after } => {
                self.pages += 1;
                let wanted = self.session.leaves();
                let rest = self.replicas[usize::from(replica)]
                    .iter()
                    .filter(|(id, _)| Some(**id) > after && wanted.contains(token_of(id)));
                let mut entries: Vec<(ObjectId, ObjectDigest)> =
                    rest.map(|(id, digest)| (*id, *digest)).take(self.page_objects + 1).collect();
                let is_last = entries.len() <= self.page_objects;
                entries.truncate(self.page_objects);
                RepairEvent::Page { replica, entries, is_last }
            }
            RepairEffect::Copy { source, target, ids } => {
                assert!(ids.is_sorted_by(|low, high| low < high));
                let copies: Vec<(ObjectId, ObjectDigest)> =
                    ids.iter().map(|id| (*id, self.replicas[usize::from(source)][id])).collect();
                let refused = self.write(target, &copies);
                RepairEvent::Copied { source: Some(source), target, refused }
            }
            RepairEffect::Bury { target, tombstones } => {
                assert!(tombstones.is_sorted_by(|low, high| low.0 < high.0));
                let dead = |(id, stamp): &(ObjectId, _)| (*id, ObjectDigest::tombstone(*stamp));
                let copies: Vec<(ObjectId, ObjectDigest)> = tombstones.iter().map(dead).collect();
                let refused = self.write(target, &copies);
                RepairEvent::Copied { source: None, target, refused }
            }
            RepairEffect::Finish => unreachable!("kept apart"),
        };
        self.feed(event);
    }

    /// Takes copies as a replica does; returns how many it refused for being below its floor.
    fn write(&mut self, target: u8, copies: &[(ObjectId, ObjectDigest)]) -> usize {
        let floor = Hlc(self.floors[usize::from(target)]);
        let here = &mut self.replicas[usize::from(target)];
        let mut refused = 0;
        for (id, version) in copies {
            match here.get(id) {
                None if version.stamp.hlc < floor => refused += 1,
                known => {
                    let newest = known.copied().max(Some(*version)).expect("one is there");
                    here.insert(*id, newest);
                }
            }
        }
        refused
    }

    fn run(&mut self, random: &mut Random) -> RepairReport {
        while !self.is_finished {
            self.answer(random.below(self.open.len()));
        }
        self.session.report()
    }
}

fn random_objects(random: &mut Random, rows: usize, common: &Objects) -> Objects {
    let mut objects = common.clone();
    for _ in 0..random.below(rows + 1) {
        let row = id(random.below(rows) as u64);
        match random.below(3) {
            0 => objects.remove(&row),
            1 => objects.insert(row, live(1 + random.next() % 4)),
            _ => objects.insert(row, dead(1 + random.next() % 4)),
        };
    }
    objects
}

fn union(replicas: &[Objects]) -> Objects {
    let mut all = Objects::new();
    for (id, version) in replicas.iter().flatten() {
        let newest = all.get(id).copied().max(Some(*version)).expect("one is there");
        all.insert(*id, newest);
    }
    all
}

fn some_world(random: &mut Random) -> World {
    let count = 2 + random.below(4);
    let rows = 1 + random.below(60);
    let common = random_objects(random, rows, &Objects::new());
    let replicas = (0..count).map(|_| random_objects(random, rows, &common)).collect();
    let everyone = ReplicaSet::first(count);
    let mut world = World::new(replicas, everyone, DeletionStrategy::TimeBasedResolution);
    world.heights = (0..count).map(|_| random.below(8) as u8).collect();
    world.page_objects = 1 + random.below(9);
    world
}

#[test]
fn replicas_become_equal_and_the_floor_is_the_least_time_of_their_beginnings() {
    for seed in 0..1_500 {
        let mut random = Random::new(seed);
        let mut world = some_world(&mut random);
        let expected = union(&world.replicas);
        let report = world.run(&mut random);
        assert!(world.replicas.iter().all(|objects| *objects == expected), "seed {seed}");
        assert_eq!(report.floor, Some(Hlc(100)), "seed {seed}");
        assert_eq!(report.took_part, ReplicaSet::first(world.replicas.len()));
    }
}

#[test]
fn copies_are_as_many_as_there_are_gaps_and_equal_replicas_read_no_page() {
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let mut world = some_world(&mut random);
        let expected = union(&world.replicas);
        let gaps = |is_tombstone: bool| -> usize {
            let lacking = |objects: &Objects| {
                let lacks = |(id, version): &(&ObjectId, &ObjectDigest)| {
                    version.is_tombstone == is_tombstone && objects.get(id) != Some(version)
                };
                expected.iter().filter(lacks).count()
            };
            world.replicas.iter().map(lacking).sum()
        };
        let (copied, buried) = (gaps(false) as u64, gaps(true) as u64);
        let report = world.run(&mut random);
        assert_eq!((report.copied, report.buried), (copied, buried), "seed {seed}");
        let count = world.replicas.len();
        let strategy = DeletionStrategy::TimeBasedResolution;
        let mut again = World::new(world.replicas, ReplicaSet::first(count), strategy);
        let report = again.run(&mut random);
        assert_eq!((again.pages, report.leaves_differing, report.copied), (0, 0, 0));
        assert_eq!(report.floor, Some(Hlc(100)));
    }
}

#[test]
fn writes_go_on_meanwhile_and_nothing_old_is_brought_back() {
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let mut world = some_world(&mut random);
        let mut everything = world.replicas.clone();
        while !world.is_finished {
            if random.chance(20) {
                let place = random.below(world.replicas.len());
                let (row, version) = (id(random.below(60) as u64), live(5 + random.next() % 9));
                let here = &mut world.replicas[place];
                let newest = here.get(&row).copied().max(Some(version)).expect("one is there");
                here.insert(row, newest);
                everything.push(Objects::from([(row, version)]));
            } else {
                world.answer(random.below(world.open.len()));
            }
        }
        let newest = union(&everything);
        let everyone = ReplicaSet::first(world.replicas.len());
        let mut again = World::new(world.replicas, everyone, DeletionStrategy::default());
        again.run(&mut random);
        assert!(again.replicas.iter().all(|objects| *objects == newest), "seed {seed}");
    }
}

#[test]
fn without_everyone_there_is_no_floor_and_the_others_become_equal_all_the_same() {
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let mut world = some_world(&mut random);
        let lost = random.below(world.replicas.len()) as u8;
        let mut steps = random.below(12);
        while !world.is_finished && steps > 0 {
            world.answer(random.below(world.open.len()));
            steps -= 1;
        }
        if world.is_finished {
            continue;
        }
        let of_lost = |effect: &RepairEffect| match effect {
            RepairEffect::Begin { replica } | RepairEffect::Page { replica, .. } => {
                *replica == lost
            }
            RepairEffect::Copy { source, target, .. } => *source == lost || *target == lost,
            RepairEffect::Bury { target, .. } => *target == lost,
            RepairEffect::Finish => false,
        };
        world.open.retain(|effect| !of_lost(effect));
        world.feed(RepairEvent::Lost { replica: lost });
        let report = world.run(&mut random);
        assert_eq!(report.floor, None, "seed {seed}");
        assert!(!report.took_part.contains(lost), "seed {seed}");
    }
    let replicas = vec![Objects::from([(id(1), live(1))]), Objects::new(), Objects::new()];
    let two: ReplicaSet = [0, 2].into_iter().collect();
    let mut world = World::new(replicas, two, DeletionStrategy::default());
    let report = world.run(&mut Random::new(0));
    assert_eq!((report.floor, report.took_part), (None, two));
    assert_eq!((world.replicas[2].len(), world.replicas[1].len()), (1, 0));
}

#[test]
fn a_replica_alone_has_nobody_to_compare_with() {
    let mut world =
        World::new(vec![Objects::new(); 3], ReplicaSet::first(1), DeletionStrategy::default());
    assert!(world.is_finished && world.open.is_empty());
    world.feed(RepairEvent::Lost { replica: 0 });
    assert_eq!(world.session.report().floor, None);
}

#[test]
fn forgotten_tombstones_are_not_spread_again_and_what_they_killed_stays_dead() {
    // Everyone was repaired past 50; the first replica still remembers a deletion from before.
    let remembers = Objects::from([(id(1), dead(40)), (id(2), dead(40))]);
    let has_old = Objects::from([(id(2), live(30))]);
    let mut world = World::new(
        vec![remembers, has_old, Objects::new()],
        ReplicaSet::first(3),
        DeletionStrategy::default(),
    );
    world.floors = vec![0, 50, 50];
    let report = world.run(&mut Random::new(1));
    assert_eq!((report.buried, report.copied, report.refused), (1, 0, 0));
    assert_eq!(world.replicas[1], Objects::from([(id(2), dead(40))]));
    assert!(world.replicas[2].is_empty());
}

#[test]
fn what_a_target_refuses_leaves_the_floor_where_it_was() {
    let stray = Objects::from([(id(1), live(40))]);
    let mut world =
        World::new(vec![stray, Objects::new()], ReplicaSet::first(2), DeletionStrategy::default());
    world.floors = vec![0, 50];
    let report = world.run(&mut Random::new(1));
    assert_eq!((report.refused, report.floor), (1, None));
    assert!(world.replicas[1].is_empty());
}

#[test]
fn the_strategy_decides_about_deletions_that_not_everyone_saw() {
    let replicas = || vec![Objects::from([(id(1), dead(1))]), Objects::from([(id(1), live(2))])];
    let everyone = ReplicaSet::first(2);
    let check = |strategy, expected: [ObjectDigest; 2], conflicts| {
        let mut world = World::new(replicas(), everyone, strategy);
        let report = world.run(&mut Random::new(1));
        let found = [world.replicas[0][&id(1)], world.replicas[1][&id(1)]];
        assert_eq!((found, report.conflicts), (expected, conflicts), "{strategy:?}");
        assert_eq!(report.floor.is_none(), conflicts > 0, "{strategy:?}");
    };
    check(DeletionStrategy::TimeBasedResolution, [live(2); 2], 0);
    check(DeletionStrategy::DeleteOnConflict, [dead(2); 2], 0);
    check(DeletionStrategy::NoAutomatedResolution, [dead(1), live(2)], 1);
}

#[test]
fn pages_out_of_order_or_without_an_end_lose_their_replica() {
    let entry = |row| (id(row), live(1));
    let bad = [vec![entry(2), entry(1)], vec![entry(1), entry(1)], Vec::new()];
    for entries in bad {
        let replicas = vec![Objects::from([(id(1), live(1))]), Objects::new(), Objects::new()];
        let mut world = World::new(replicas, ReplicaSet::first(3), DeletionStrategy::default());
        (0..3).for_each(|_| world.answer(0));
        world.open.retain(|effect| !matches!(effect, RepairEffect::Page { replica: 1, .. }));
        world.feed(RepairEvent::Page { replica: 1, entries, is_last: false });
        let report = world.run(&mut Random::new(2));
        assert!(!report.took_part.contains(1) && report.floor.is_none());
        assert_eq!(world.replicas[2].len(), 1, "the others go on");
    }
}

#[test]
fn events_that_nobody_waits_for_change_nothing() {
    let replicas = vec![Objects::from([(id(1), live(1))]), Objects::new()];
    let mut world = World::new(replicas, ReplicaSet::first(2), DeletionStrategy::default());
    let open = world.open.clone();
    world.feed(RepairEvent::Page { replica: 0, entries: Vec::new(), is_last: true });
    world.feed(RepairEvent::Copied { source: Some(0), target: 1, refused: 7 });
    let leaves = TreeLeaves::new(3);
    world.feed(RepairEvent::Began { replica: 9, hlc: Hlc(1), floor: Hlc(0), leaves });
    assert_eq!(world.open, open);
    let report = world.run(&mut Random::new(1));
    assert_eq!((report.refused, report.copied), (0, 1));
}
