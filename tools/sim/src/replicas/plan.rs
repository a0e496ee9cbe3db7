//! What a seed stands for: the cluster, its clients, and what goes wrong when.

use std::collections::BTreeSet;

use heddle_types::Consistency;

use crate::Random;

use super::network::{Cut, Weather, exponential};
use super::time::ClockError;

/// Copies of every shard.
pub(crate) const FACTOR: usize = 3;
const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

/// A kind of fault; each is part of about half of the seeds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the names say it, and `FaultClass::story` says it in words")]
pub enum FaultClass {
    Loss,
    Doubles,
    Delay,
    Clog,
    Halves,
    Isolation,
    Bridge,
    Ring,
    OneWay,
    Crash,
    TornWrite,
    LongDown,
    Pause,
    Offset,
    Drift,
    Jump,
    BackAtRestart,
    DiskFull,
    DiskError,
    SlowDisk,
    WipedDisk,
}

impl FaultClass {
    /// Every class.
    pub const ALL: [Self; 21] = [
        Self::Loss,
        Self::Doubles,
        Self::Delay,
        Self::Clog,
        Self::Halves,
        Self::Isolation,
        Self::Bridge,
        Self::Ring,
        Self::OneWay,
        Self::Crash,
        Self::TornWrite,
        Self::LongDown,
        Self::Pause,
        Self::Offset,
        Self::Drift,
        Self::Jump,
        Self::BackAtRestart,
        Self::DiskFull,
        Self::DiskError,
        Self::SlowDisk,
        Self::WipedDisk,
    ];

    /// What happens, in words.
    #[must_use]
    pub fn story(self) -> &'static str {
        match self {
            Self::Loss => "messages are lost",
            Self::Doubles => "requests arrive twice, the second time late",
            Self::Delay => "messages take long and overtake each other",
            Self::Clog => "a direction holds messages back for seconds",
            Self::Halves => "the nodes fall into two parts",
            Self::Isolation => "a node is alone",
            Self::Bridge => "two parts hear each other through one node only",
            Self::Ring => "every node hears its neighbours only",
            Self::OneWay => "a direction is cut, the way back stays",
            Self::Crash => "a node loses power and comes back",
            Self::TornWrite => "of what was not synced any part survives a crash",
            Self::LongDown => "a node stays away for long",
            Self::Pause => "a node stops and goes on",
            Self::Offset => "clocks are wrong from the beginning",
            Self::Drift => "clocks run fast or slow",
            Self::Jump => "a clock jumps and is set right again",
            Self::BackAtRestart => "a clock is set back while its node is down",
            Self::DiskFull => "a disk is full for a while",
            Self::DiskError => "a write or sync fails and the node ends",
            Self::SlowDisk => "a disk is slow for a while",
            Self::WipedDisk => "a node comes back with an empty disk",
        }
    }
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Cut { cut: Cut, for_us: u64 },
    Clog { direction: (usize, usize), for_us: u64 },
    Crash { node: usize, is_torn: bool, down_us: u64, back_us: i64 },
    Pause { node: usize, for_us: u64 },
    Jump { node: usize, us: i64, for_us: u64 },
    DiskFull { node: usize, for_us: u64 },
    DiskError { node: usize },
    SlowDisk { node: usize, for_us: u64 },
    Wipe { node: usize, down_us: u64 },
}

/// A fault and its time.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) at_us: u64,
    pub(crate) class: FaultClass,
    pub(crate) fault: Fault,
}

/// How clients choose levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Levels {
    Quorum,
    One,
    Mixed,
}

impl Levels {
    pub(crate) fn draw(self, random: &mut Random) -> Consistency {
        match self {
            Self::Quorum => Consistency::Quorum,
            Self::One => Consistency::One,
            Self::Mixed => match random.below(6) {
                0 | 1 => Consistency::One,
                2 => Consistency::All,
                _ => Consistency::Quorum,
            },
        }
    }
}

/// One history.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// The nodes of each shard.
    pub(crate) owners: Vec<Vec<usize>>,
    pub(crate) clients: usize,
    /// Operations of each client.
    pub(crate) operations: usize,
    pub(crate) keys: u64,
    pub(crate) levels: Levels,
    /// Mean pause of a client between two operations.
    pub(crate) think_us: u64,
    pub(crate) weather: Weather,
    pub(crate) clocks: Vec<ClockError>,
    pub(crate) faults: Vec<Planned>,
    pub(crate) classes: BTreeSet<FaultClass>,
}

impl Plan {
    /// The history of a seed. `operations`: of all clients, instead of what the seed says.
    pub(crate) fn new(seed: u64, nodes: Option<usize>, operations: Option<usize>) -> Self {
        let mut random = Random::new(seed ^ 0x504C_414E);
        let drawn = if random.one_in(2) { 3 } else { 3 + random.below(5) as usize };
        let nodes = nodes.unwrap_or(drawn);
        let shards = 1 + random.below(2) as usize;
        let owners = (0..shards).map(|shard| (0..FACTOR).map(|at| (shard + at) % nodes).collect());
        let clients = 1 + random.below(10) as usize;
        let drawn = match random.below(10) {
            0 => 50 + random.below(100),
            1 => 600 + random.below(1_400),
            _ => 150 + random.below(350),
        };
        let all = operations.unwrap_or(drawn as usize);
        let classes: BTreeSet<FaultClass> =
            FaultClass::ALL.into_iter().filter(|_| random.one_in(2)).collect();
        let levels = match random.below(10) {
            0 => Levels::One,
            1..=3 => Levels::Mixed,
            _ => Levels::Quorum,
        };
        let mut plan = Self {
            nodes,
            owners: owners.collect(),
            clients,
            operations: all.div_ceil(clients),
            keys: 3 + random.below(20),
            levels,
            think_us: (20 + random.below(200)) * MS,
            weather: weather(&classes, &mut random),
            clocks: clocks(&classes, nodes, &mut random),
            faults: Vec::new(),
            classes,
        };
        plan.faults(&mut random);
        plan
    }

    /// How long clients are at work, about.
    pub(crate) fn span_us(&self) -> u64 {
        (self.think_us + 20 * MS) * self.operations as u64
    }

    fn faults(&mut self, random: &mut Random) {
        let span_us = self.span_us();
        for class in self.classes.clone() {
            for _ in 0..=random.below(3) {
                let at_us = random.below(span_us.max(1));
                if let Some(fault) = self.fault(class, random) {
                    self.faults.push(Planned { at_us, class, fault });
                }
                if class == FaultClass::WipedDisk {
                    break;
                }
            }
        }
        self.faults.sort_by_key(|planned| planned.at_us);
    }

    fn fault(&self, class: FaultClass, random: &mut Random) -> Option<Fault> {
        let node = random.below(self.nodes as u64) as usize;
        let for_us = 100 * MS + exponential(random, 2 * SECOND);
        let short_us = 50 * MS + random.below(SECOND);
        let crash = |is_torn, down_us, back_us| Fault::Crash { node, is_torn, down_us, back_us };
        Some(match class {
            FaultClass::Halves
            | FaultClass::Isolation
            | FaultClass::Bridge
            | FaultClass::Ring
            | FaultClass::OneWay => Fault::Cut { cut: cut(class, self.nodes, random), for_us },
            FaultClass::Clog => {
                let target = (node + 1 + random.below(self.nodes as u64 - 1) as usize) % self.nodes;
                Fault::Clog { direction: (node, target), for_us: random.below(5 * SECOND) }
            }
            FaultClass::Crash => crash(false, short_us, 0),
            FaultClass::TornWrite => crash(true, short_us, 0),
            FaultClass::LongDown => crash(random.one_in(2), 3 * SECOND + for_us, 0),
            FaultClass::BackAtRestart => {
                let back_us = -(random.below(10 * SECOND) as i64);
                crash(random.one_in(2), short_us, back_us)
            }
            FaultClass::Pause => Fault::Pause { node, for_us },
            FaultClass::Jump => {
                let far = if random.one_in(2) { 3_600 * SECOND } else { 3 * SECOND };
                let us = random.below(2 * far) as i64 - far as i64;
                Fault::Jump { node, us, for_us }
            }
            FaultClass::DiskFull => Fault::DiskFull { node, for_us },
            FaultClass::DiskError => Fault::DiskError { node },
            FaultClass::SlowDisk => Fault::SlowDisk { node, for_us },
            FaultClass::WipedDisk => Fault::Wipe { node, down_us: short_us },
            FaultClass::Loss
            | FaultClass::Doubles
            | FaultClass::Delay
            | FaultClass::Offset
            | FaultClass::Drift => return None,
        })
    }
}

fn weather(classes: &BTreeSet<FaultClass>, random: &mut Random) -> Weather {
    let mut draw = |class, most| if classes.contains(&class) { 1 + random.below(most) } else { 0 };
    Weather {
        loss_percent: draw(FaultClass::Loss, 20),
        double_percent: draw(FaultClass::Doubles, 50),
        delay_us_mean: (1 + draw(FaultClass::Delay, 100)) * MS,
    }
}

fn clocks(classes: &BTreeSet<FaultClass>, nodes: usize, random: &mut Random) -> Vec<ClockError> {
    let mut around = |class, most: u64| {
        if classes.contains(&class) { random.below(2 * most) as i64 - most as i64 } else { 0 }
    };
    let clock = |_| ClockError {
        offset_us: around(FaultClass::Offset, 400 * MS),
        drift_ppm: around(FaultClass::Drift, 50_000),
    };
    (0..nodes).map(clock).collect()
}

fn cut(class: FaultClass, nodes: usize, random: &mut Random) -> Cut {
    let first = random.below(nodes as u64) as usize;
    let part = 1 + random.below(nodes as u64 - 1) as usize;
    let place = |node: usize| (node + nodes - first) % nodes;
    let is_cut = |source: usize, target: usize| {
        let (source, target) = (place(source), place(target));
        match class {
            FaultClass::Halves => (source < part) != (target < part),
            FaultClass::Isolation => (source == 0) != (target == 0),
            // The first node is the bridge.
            FaultClass::Bridge => {
                source != 0 && target != 0 && (source % 2 == 0) != (target % 2 == 0)
            }
            FaultClass::Ring => {
                let steps = source.abs_diff(target);
                steps > 1 && steps < nodes - 1
            }
            _ => source == 0 && target == part,
        }
    };
    let all = (0..nodes).flat_map(|source| (0..nodes).map(move |target| (source, target)));
    // Some partitions let one direction through.
    let is_half_open = random.one_in(3);
    let cut: Cut = all.filter(|(source, target)| is_cut(*source, *target)).collect();
    let keeps =
        |(source, target): &(usize, usize)| !is_half_open || place(*source) < place(*target);
    cut.into_iter().filter(|direction| class == FaultClass::OneWay || keeps(direction)).collect()
}
