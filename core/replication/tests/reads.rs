//! Does a read return the newest version of those it asked, on as many replicas as its level says,
//! whatever they have, refuse or lose, and in whatever order they answer?

mod common;

use common::{Random, dead, id, live, refusal, stamp};
use heddle_replication::{
    Copy, ItemAnswer, ReadEffect, ReadEvent, ReadMachine, ReadOutcome, ReadRequest, ReplicaSet,
};
use heddle_types::{Consistency, DeletionStrategy, ObjectDigest, ObjectId};

const HEDGE_US: u64 = 100;
const DEADLINE_US: u64 = 10_000;

type Version = Option<ObjectDigest>;

/// A record as the test has it: what it says it is.
type Record = (ObjectId, ObjectDigest);

/// How a replica behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Answers,
    /// Refuses reads.
    Refuses,
    /// Says nothing to reads.
    IsSilent,
    /// Answers reads, and refuses each repaired item.
    TakesNoItem,
    /// Answers reads, and repairs fail as a whole.
    TakesNoRepair,
    /// Answers reads, and refuses what it has no version of: it is older than its floor.
    HasForgotten,
}

const MANNERS: [Manner; 6] = [
    Manner::Answers,
    Manner::Refuses,
    Manner::IsSilent,
    Manner::TakesNoItem,
    Manner::TakesNoRepair,
    Manner::HasForgotten,
];

struct World {
    versions: Vec<Vec<Version>>,
    manners: Vec<Manner>,
    level: Consistency,
    strategy: DeletionStrategy,
    machine: ReadMachine<Record>,
    open: Vec<ReadEffect>,
    is_answered: bool,
    now_us: u64,
    asked: ReplicaSet,
    hedges: usize,
    /// The repair under way to each replica, as it was sent.
    sent: Vec<Vec<ObjectDigest>>,
    is_written: bool,
}

impl World {
    fn new(
        versions: Vec<Vec<Version>>,
        manners: Vec<Manner>,
        level: Consistency,
        strategy: DeletionStrategy,
    ) -> Self {
        let order: Vec<u8> = (0..versions.len() as u8).collect();
        let request = ReadRequest {
            replicas: versions.len(),
            order: &order,
            level,
            strategy,
            items: versions[0].len(),
            now_us: 0,
            hedge_after_us: HEDGE_US,
            deadline_us: DEADLINE_US,
        };
        let mut effects = Vec::new();
        let machine = ReadMachine::start(&request, &mut effects);
        let mut world = Self {
            versions,
            manners,
            level,
            strategy,
            machine,
            open: Vec::new(),
            is_answered: false,
            now_us: 0,
            asked: ReplicaSet::EMPTY,
            hedges: 0,
            sent: vec![Vec::new(); order.len()],
            is_written: false,
        };
        world.take(effects);
        world
    }

    fn items(&self) -> usize {
        self.versions[0].len()
    }

    fn take(&mut self, effects: Vec<ReadEffect>) {
        for effect in effects {
            assert!(!self.is_answered, "{effect:?} after the answer");
            match effect {
                ReadEffect::Answer => self.is_answered = true,
                ReadEffect::Repair { replica, ref items } => {
                    assert!(items.is_sorted_by(|low, high| low < high));
                    let sent: Vec<ObjectDigest> =
                        items.iter().map(|item| self.copy(*item as usize)).collect();
                    self.check_repair(replica, items, &sent);
                    self.sent[usize::from(replica)] = sent;
                    self.open.push(effect);
                }
                ReadEffect::Fetch { replica, .. } | ReadEffect::Digest { replica, .. } => {
                    self.asked.insert(replica);
                    self.open.push(effect);
                }
            }
        }
    }

    fn copy(&self, item: usize) -> ObjectDigest {
        match self.machine.copy(item).expect("what is repaired is at hand") {
            Copy::Record((object, version)) => {
                assert_eq!(*object, id(item as u64), "the record of that object and no other");
                *version
            }
            Copy::Tombstone(stamp) => ObjectDigest::tombstone(stamp),
        }
    }

    fn check_repair(&self, replica: u8, items: &[u32], sent: &[ObjectDigest]) {
        assert!(self.machine.answered().contains(replica));
        for (item, version) in items.iter().zip(sent) {
            let here = self.versions[usize::from(replica)][*item as usize];
            assert!(self.is_written || here < Some(*version), "a repair brings something newer");
        }
    }

    /// Carries out one open message.
    fn answer(&mut self, index: usize) {
        let effect = self.open.swap_remove(index);
        let event = match effect {
            ReadEffect::Fetch { replica, items } => match self.read(replica) {
                Err(event) => event,
                Ok(()) => {
                    let here = &self.versions[usize::from(replica)];
                    let copy = |item: usize| {
                        here[item].map(|version| (version, (id(item as u64), version)))
                    };
                    let copies = items.iter(self.items()).map(copy).collect();
                    Some(ReadEvent::Copies { replica, copies })
                }
            },
            ReadEffect::Digest { replica, items } => match self.read(replica) {
                Err(event) => event,
                Ok(()) => {
                    let here = &self.versions[usize::from(replica)];
                    let digests = items.iter(self.items()).map(|item| here[item]).collect();
                    Some(ReadEvent::Digests { replica, digests })
                }
            },
            ReadEffect::Repair { replica, items } => Some(self.repair(replica, &items)),
            ReadEffect::Answer => unreachable!("answers are not messages"),
        };
        let mut effects = Vec::new();
        if let Some(event) = event {
            self.machine.handle(self.now_us, event, &mut effects);
        }
        self.take(effects);
    }

    fn read(&self, replica: u8) -> Result<(), Option<ReadEvent<Record>>> {
        match self.manners[usize::from(replica)] {
            Manner::Refuses => {
                let error = Some(refusal("busy"));
                Err(Some(ReadEvent::Failed { replica, error }))
            }
            Manner::IsSilent => Err(None),
            _ => Ok(()),
        }
    }

    fn repair(&mut self, replica: u8, items: &[u32]) -> ReadEvent<Record> {
        match self.manners[usize::from(replica)] {
            Manner::TakesNoItem => {
                let answers = vec![ItemAnswer::Refused(refusal("full")); items.len()];
                ReadEvent::Repaired { replica, answers }
            }
            Manner::TakesNoRepair => ReadEvent::RepairFailed { replica },
            _ => {
                let forgets = self.manners[usize::from(replica)] == Manner::HasForgotten;
                let mut answers = Vec::new();
                let sent = std::mem::take(&mut self.sent[usize::from(replica)]);
                for (item, sent) in items.iter().zip(sent) {
                    let (item, sent) = (*item as usize, Some(sent));
                    let here = &mut self.versions[usize::from(replica)][item];
                    if forgets && here.is_none() {
                        answers.push(ItemAnswer::BelowFloor);
                        continue;
                    }
                    answers.push(match *here > sent {
                        true => ItemAnswer::Superseded,
                        false => ItemAnswer::Applied { existed: here.is_some() },
                    });
                    *here = (*here).max(sent);
                }
                ReadEvent::Repaired { replica, answers }
            }
        }
    }

    fn wait(&mut self) {
        let Some(deadline_us) = self.machine.deadline() else { return };
        assert!(deadline_us >= self.now_us, "deadlines lie ahead");
        self.now_us = deadline_us;
        self.hedges += 1;
        let mut effects = Vec::new();
        self.machine.handle(self.now_us, ReadEvent::Due, &mut effects);
        self.take(effects);
    }

    /// Runs to the answer: messages in an order that `random` picks, time when nothing else.
    fn run(&mut self, random: &mut Random) {
        while !self.is_answered {
            let may_hedge = self.machine.deadline() < Some(DEADLINE_US) && random.chance(5);
            if self.open.is_empty() || may_hedge {
                self.wait();
            } else {
                self.answer(random.below(self.open.len()));
            }
        }
        assert_eq!(self.machine.deadline(), None);
    }

    /// What an answer must be, from what replicas have in the end.
    fn check(&mut self, before: &[Vec<Version>], story: &str) {
        let needed = self.level.needed(self.versions.len());
        for item in 0..self.items() {
            let outcome = self.machine.outcome(item).expect("answered");
            let winner = match outcome {
                ReadOutcome::Failed => continue,
                ReadOutcome::Conflict => {
                    assert_eq!(self.strategy, DeletionStrategy::NoAutomatedResolution, "{story}");
                    let is_dead = |version: &ObjectDigest| version.is_tombstone;
                    let had = || before.iter().filter_map(|versions| versions[item]);
                    assert!(had().any(|v| is_dead(&v)) && had().any(|v| !is_dead(&v)), "{story}");
                    continue;
                }
                ReadOutcome::Found(version) => {
                    assert_eq!(
                        self.machine.take(item),
                        Some((id(item as u64), version)),
                        "{story}"
                    );
                    assert_eq!(self.machine.take(item), None, "{story}");
                    Some(version)
                }
                ReadOutcome::Deleted(stamp) => Some(ObjectDigest::tombstone(stamp)),
                ReadOutcome::Absent => None,
            };
            // A deletion that is forgotten is as good as one that is kept.
            let is_dead = winner.is_none_or(|winner| winner.is_tombstone);
            let holds = |(versions, manner): &(&Vec<Version>, &Manner)| {
                let forgets = **manner == Manner::HasForgotten && versions[item].is_none();
                versions[item] >= winner || is_dead && forgets
            };
            let holders = self.versions.iter().zip(&self.manners).filter(holds).count();
            assert!(holders >= needed, "{story}: item {item} is on {holders} replicas");
            let was_there = before.iter().any(|versions| versions[item] == winner);
            let is_made = self.strategy == DeletionStrategy::DeleteOnConflict
                && winner.is_some_and(|winner| winner.is_tombstone);
            assert!(winner.is_none() || was_there || is_made, "{story}: nobody wrote {winner:?}");
        }
    }
}

const VERSIONS: [fn() -> Version; 5] =
    [|| None, || Some(live(1)), || Some(dead(1)), || Some(live(2)), || Some(dead(2))];

#[test]
fn one_object_of_every_history_is_read_as_defined() {
    let strategies = [
        DeletionStrategy::TimeBasedResolution,
        DeletionStrategy::DeleteOnConflict,
        DeletionStrategy::NoAutomatedResolution,
    ];
    let mut random = Random::new(1);
    for number in 0..125 {
        let had: Vec<Version> = [number % 5, number / 5 % 5, number / 25]
            .iter()
            .map(|kind| VERSIONS[*kind]())
            .collect();
        for manner in 0..216 {
            let manners: Vec<Manner> = [manner % 6, manner / 6 % 6, manner / 36]
                .iter()
                .map(|kind| MANNERS[*kind])
                .collect();
            for (level, strategy) in
                Consistency::LEVELS.into_iter().flat_map(|level| strategies.map(|s| (level, s)))
            {
                let story = format!("{had:?} {manners:?} {level} {strategy:?}");
                let before: Vec<Vec<Version>> = had.iter().map(|version| vec![*version]).collect();
                let mut world = World::new(before.clone(), manners.clone(), level, strategy);
                world.run(&mut random);
                world.check(&before, &story);
                check_single(&world, &had, &manners, &story);
            }
        }
    }
}

/// Of one object it can be said when its read must succeed, and with what.
fn check_single(world: &World, had: &[Version], manners: &[Manner], story: &str) {
    let needed = world.level.needed(3);
    let outcome = world.machine.outcome(0).expect("answered");
    let answers =
        |replica: &usize| !matches!(manners[*replica], Manner::Refuses | Manner::IsSilent);
    let answering: Vec<usize> = (0..3).filter(answers).collect();
    if answering.len() < needed {
        assert_eq!(outcome, ReadOutcome::Failed, "{story}");
        let error = world.machine.error(0).expect("a failure has an error").message;
        let expected = format!("of 3 replicas took part in the read, {needed} needed for");
        assert!(error.contains(&expected), "{story}: {error}");
    }
    if answering.iter().filter(|replica| manners[**replica] == Manner::Answers).count() >= needed
        && world.strategy == DeletionStrategy::TimeBasedResolution
    {
        assert_ne!(outcome, ReadOutcome::Failed, "{story}");
    }
    let has_nothing = |replica: &usize| had[*replica].is_none();
    let has_forgotten =
        |replica: &usize| has_nothing(replica) && manners[*replica] == Manner::HasForgotten;
    let forgotten = (0..3).filter(has_forgotten).count();
    if outcome == ReadOutcome::Absent {
        let nobody = (0..3).filter(has_nothing).count();
        assert!(nobody >= needed || forgotten >= 2, "{story}: one cannot outvote the others");
    }
    if needed == 3 && outcome != ReadOutcome::Failed && forgotten < 2 {
        let newest = had.iter().copied().max().flatten();
        let is_split = had.iter().flatten().any(|version| version.is_tombstone)
            && had.iter().flatten().any(|version| !version.is_tombstone);
        let expected = match (newest, world.strategy) {
            (_, DeletionStrategy::NoAutomatedResolution) if is_split => ReadOutcome::Conflict,
            (None, _) => ReadOutcome::Absent,
            (Some(newest), DeletionStrategy::DeleteOnConflict) if is_split => {
                ReadOutcome::Deleted(newest.stamp)
            }
            (Some(newest), _) if newest.is_tombstone => ReadOutcome::Deleted(newest.stamp),
            (Some(newest), _) => ReadOutcome::Found(newest),
        };
        assert_eq!(outcome, expected, "{story}");
    }
}

#[test]
fn many_objects_are_read_as_defined_while_writes_go_on() {
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let replicas = 2 + random.below(4);
        let items = 1 + random.below(12);
        let version = |random: &mut Random| VERSIONS[random.below(5)]();
        let mut versions: Vec<Vec<Version>> = Vec::new();
        for _ in 0..replicas {
            versions.push((0..items).map(|_| version(&mut random)).collect());
        }
        let manners: Vec<Manner> = (0..replicas)
            .map(|_| if random.chance(70) { Manner::Answers } else { MANNERS[random.below(6)] })
            .collect();
        let level = Consistency::LEVELS[random.below(3)];
        let story = format!("seed {seed}");
        let mut world =
            World::new(versions.clone(), manners, level, DeletionStrategy::TimeBasedResolution);
        let mut written = versions.clone();
        while !world.is_answered {
            if random.chance(20) {
                world.is_written = true;
                let (replica, item) = (random.below(replicas), random.below(items));
                let newer = Some(live(3 + random.next() % 4));
                let here = &mut world.versions[replica][item];
                *here = (*here).max(newer);
                written.push((0..items).map(|other| newer.filter(|_| other == item)).collect());
            } else if world.open.is_empty() || random.chance(5) {
                world.wait();
            } else {
                world.answer(random.below(world.open.len()));
            }
        }
        world.check(&written, &story);
    }
}

#[test]
fn equal_replicas_cost_one_fetch_and_digests_and_nothing_else() {
    let versions = vec![vec![Some(live(1)), None, Some(dead(2))]; 3];
    let manners = vec![Manner::Answers; 3];
    let strategy = DeletionStrategy::default();
    let mut world = World::new(versions, manners, Consistency::Quorum, strategy);
    let is_fetch = |effect: &ReadEffect| matches!(effect, ReadEffect::Fetch { replica: 0, .. });
    assert!(world.open.len() == 2 && is_fetch(&world.open[0]));
    world.answer(1);
    world.answer(0);
    assert!(world.is_answered && world.open.is_empty());
    assert_eq!(world.machine.outcome(0), Some(ReadOutcome::Found(live(1))));
    assert_eq!(world.machine.outcome(1), Some(ReadOutcome::Absent));
    assert_eq!(world.machine.outcome(2), Some(ReadOutcome::Deleted(stamp(2))));
}

#[test]
fn a_silent_replica_is_replaced_after_the_delay_and_a_failed_one_at_once() {
    let strategy = DeletionStrategy::default();
    let versions = vec![vec![Some(live(1))]; 3];
    let silent = vec![Manner::IsSilent, Manner::Answers, Manner::Answers];
    let mut world = World::new(versions.clone(), silent, Consistency::Quorum, strategy);
    world.answer(1);
    world.answer(0);
    assert_eq!(world.machine.deadline(), Some(HEDGE_US));
    world.machine.handle(HEDGE_US - 1, ReadEvent::Due, &mut Vec::new());
    assert!(!world.is_answered && world.open.is_empty());
    world.wait();
    assert!(matches!(world.open[..], [ReadEffect::Fetch { replica: 2, .. }]), "{:?}", world.open);
    world.answer(0);
    assert_eq!(world.machine.outcome(0), Some(ReadOutcome::Found(live(1))));

    let refusing = vec![Manner::Refuses, Manner::Answers, Manner::Answers];
    let mut world = World::new(versions, refusing, Consistency::Quorum, strategy);
    world.answer(0);
    assert!(
        world
            .open
            .contains(&ReadEffect::Fetch { replica: 2, items: heddle_replication::Items::All })
    );
    world.run(&mut Random::new(0));
    assert_eq!((world.machine.outcome(0), world.hedges), (Some(ReadOutcome::Found(live(1))), 0));
}

#[test]
fn a_tombstone_needs_no_record_and_reaches_who_missed_it() {
    let versions = vec![vec![Some(live(1))], vec![Some(dead(2))], vec![None]];
    let manners = vec![Manner::Answers; 3];
    let mut world = World::new(versions, manners, Consistency::Quorum, DeletionStrategy::default());
    world.answer(0);
    world.answer(0);
    assert_eq!(world.open, [ReadEffect::Repair { replica: 0, items: vec![0] }]);
    assert!(!world.is_answered, "the client waits for the repair");
    world.answer(0);
    assert_eq!(world.machine.outcome(0), Some(ReadOutcome::Deleted(stamp(2))));
    assert_eq!(world.versions, [vec![Some(dead(2))], vec![Some(dead(2))], vec![None]]);
}

#[test]
fn what_a_replica_has_repaired_past_and_forgotten_is_absent() {
    let versions = vec![vec![Some(live(1)), Some(live(9))], vec![None, Some(live(9))]];
    let manners = vec![Manner::Answers; 2];
    let mut world = World::new(versions, manners, Consistency::Quorum, DeletionStrategy::default());
    world.answer(0);
    world.answer(0);
    assert_eq!(world.open, [ReadEffect::Repair { replica: 1, items: vec![0] }]);
    let answers = vec![ItemAnswer::BelowFloor];
    let mut effects = Vec::new();
    world.machine.handle(0, ReadEvent::Repaired { replica: 1, answers }, &mut effects);
    assert_eq!(effects, [ReadEffect::Answer]);
    assert_eq!(world.machine.outcome(0), Some(ReadOutcome::Absent));
    assert_eq!(world.machine.outcome(1), Some(ReadOutcome::Found(live(9))));
}

#[test]
fn one_replica_that_has_forgotten_an_object_does_not_outvote_those_that_have_it() {
    for (last, expected) in [
        (Manner::Answers, ReadOutcome::Found(live(1))),
        (Manner::IsSilent, ReadOutcome::Failed),
        (Manner::Refuses, ReadOutcome::Failed),
    ] {
        let versions = vec![vec![Some(live(1))], vec![None], vec![Some(live(1))]];
        let manners = vec![Manner::Answers, Manner::HasForgotten, last];
        let strategy = DeletionStrategy::default();
        let mut world = World::new(versions, manners, Consistency::Quorum, strategy);
        world.run(&mut Random::new(5));
        assert_eq!(world.machine.outcome(0), Some(expected), "{last:?}");
        assert_eq!(world.versions[1], [None]);
    }
    // What two of three have forgotten was deleted, and so was what one has forgotten of which
    // another still has the deletion.
    for (newest, last, expected) in [
        (live(1), Manner::HasForgotten, ReadOutcome::Absent),
        (dead(1), Manner::IsSilent, ReadOutcome::Deleted(stamp(1))),
    ] {
        let versions = vec![vec![Some(newest)], vec![None], vec![None]];
        let manners = vec![Manner::Answers, Manner::HasForgotten, last];
        let strategy = DeletionStrategy::default();
        let mut world = World::new(versions, manners, Consistency::Quorum, strategy);
        world.run(&mut Random::new(6));
        assert_eq!(world.machine.outcome(0), Some(expected), "{last:?}");
    }
}

#[test]
fn answers_that_do_not_fit_count_as_none() {
    let versions = vec![vec![Some(live(1))]; 3];
    let manners = vec![Manner::Answers; 3];
    let mut world = World::new(versions, manners, Consistency::Quorum, DeletionStrategy::default());
    let mut effects = Vec::new();
    let unasked = ReadEvent::Digests { replica: 2, digests: vec![Some(live(7))] };
    world.machine.handle(0, unasked, &mut effects);
    world.machine.handle(0, ReadEvent::Repaired { replica: 0, answers: Vec::new() }, &mut effects);
    world.machine.handle(0, ReadEvent::Copies { replica: 9, copies: Vec::new() }, &mut effects);
    assert!(effects.is_empty());
    let short = ReadEvent::Digests { replica: 1, digests: Vec::new() };
    world.machine.handle(0, short, &mut effects);
    assert!(matches!(effects[..], [ReadEffect::Digest { replica: 2, .. }]), "{effects:?}");
}

#[test]
fn the_deadline_answers_with_what_is_known() {
    let versions = vec![vec![Some(live(1))]; 3];
    let manners = vec![Manner::IsSilent; 3];
    let mut world = World::new(versions, manners, Consistency::Quorum, DeletionStrategy::default());
    world.run(&mut Random::new(3));
    assert_eq!((world.now_us, world.asked.len()), (DEADLINE_US, 3));
    let error = world.machine.error(0).expect("nobody answered").to_string();
    assert_eq!(error, "Unavailable: 0 of 3 replicas took part in the read, 2 needed for quorum");
}
