//! Nodes that gossip over a network which delays, loses, cuts, copies and repeats, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use heddle_meta::gossip::{
    Conflict, DropReason, Effect, Event, Gossip, GossipConfig, Key, Member, Offer,
};
use heddle_sim::Random;
use heddle_types::NodeId;
use uuid::Uuid;

pub(crate) const CLUSTER: Uuid = Uuid::from_u128(0xC1);

/// Longest way of a packet in one direction.
const DELAY_MAX_US: u64 = 20_000;

pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// A node as its driver sees it.
pub(crate) struct Process {
    pub(crate) gossip: Gossip,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) ups: u64,
    pub(crate) downs: Vec<(Duration, NodeId)>,
    pub(crate) conflicts: Vec<Conflict>,
    token: u64,
    /// It gets no CPU until then.
    asleep_until: Duration,
}

enum Happening {
    Arrives { source: SocketAddr, target: SocketAddr, bytes: Vec<u8> },
    Timer { process: SocketAddr, token: u64 },
}

pub(crate) struct Network {
    seed: u64,
    pub(crate) now: Duration,
    pub(crate) random: Random,
    /// The running processes, by their address.
    pub(crate) processes: BTreeMap<SocketAddr, Process>,
    queue: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    loss_percent: u64,
    cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Everything that was ever sent, when it is kept.
    pub(crate) recorded: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Duration::from_secs(1_000),
            random: Random::new(seed),
            processes: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            loss_percent: 0,
            cuts: BTreeSet::new(),
            recorded: None,
        }
    }

    /// A network with nodes 1 to `count`, started one after the other within a second, that know
    /// the first one's address.
    pub(crate) fn cluster(seed: u64, count: u16) -> Self {
        let mut network = Self::new(seed);
        for number in 1..=count {
            network.start(number.into(), 1, number, &[1]);
            let pause = Duration::from_millis(network.random.below(200));
            network.run_for(pause);
        }
        network
    }

    pub(crate) fn config(
        &mut self,
        node: u64,
        boot: u64,
        port: u16,
        seeds: &[u16],
    ) -> GossipConfig {
        GossipConfig {
            node: NodeId::from(node),
            boot,
            gossip: address(port),
            offer: Offer { raft_port: 7_500, peer_port: port + 1, cores: 2, ..Offer::default() },
            cluster: CLUSTER,
            key: Key::from_secret(b"secret"),
            seeds: seeds.iter().map(|port| address(*port)).collect(),
            seed: *self.random.bytes(32).first_chunk().expect("so many were drawn"),
        }
    }

    pub(crate) fn start(&mut self, node: u64, boot: u64, port: u16, seeds: &[u16]) {
        let config = self.config(node, boot, port, seeds);
        self.start_as(config);
    }

    pub(crate) fn start_as(&mut self, config: GossipConfig) {
        let at = config.gossip;
        let process = Process {
            gossip: Gossip::new(config),
            members: BTreeMap::new(),
            ups: 0,
            downs: Vec::new(),
            conflicts: Vec::new(),
            token: 0,
            asleep_until: Duration::ZERO,
        };
        assert!(self.processes.insert(at, process).is_none(), "{at} is in use");
        self.tell(at, Event::Start);
    }

    /// Ends a process without a word.
    pub(crate) fn kill(&mut self, port: u16) -> Process {
        self.processes.remove(&address(port)).expect("it runs")
    }

    pub(crate) fn process(&self, port: u16) -> &Process {
        &self.processes[&address(port)]
    }

    pub(crate) fn lose(&mut self, percent: u64) {
        self.loss_percent = percent;
    }

    /// Lets nothing through between the two groups, in either direction.
    pub(crate) fn part(&mut self, left: &[u16], right: &[u16]) {
        for one in left {
            for other in right {
                self.cuts.insert((address(*one), address(*other)));
                self.cuts.insert((address(*other), address(*one)));
            }
        }
    }

    /// Lets nothing through from one to the other; the way back stays.
    pub(crate) fn cut(&mut self, source: u16, target: u16) {
        self.cuts.insert((address(source), address(target)));
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Gives a process no CPU for a while; what arrives waits in its socket.
    pub(crate) fn stall(&mut self, port: u16, time: Duration) {
        let until = self.now + time;
        self.processes.get_mut(&address(port)).expect("it runs").asleep_until = until;
    }

    pub(crate) fn tell(&mut self, at: SocketAddr, event: Event<'_>) {
        let Some(process) = self.processes.get_mut(&at) else { return };
        let mut effects = Vec::new();
        process.gossip.handle(self.now, event, &mut effects);
        assert!(effects.len() < 200, "{} effects of one event", effects.len());
        for effect in effects {
            self.execute(at, effect);
        }
    }

    fn execute(&mut self, at: SocketAddr, effect: Effect) {
        let now = self.now;
        let process = self.processes.get_mut(&at).expect("it has just acted");
        match effect {
            Effect::Send { target, bytes } => self.send(at, target, bytes),
            Effect::Timer { after, token } => {
                process.token = token;
                self.schedule(now + after, Happening::Timer { process: at, token });
            }
            Effect::MemberUp(member) => {
                let before = process.members.insert(member.node, member);
                assert_eq!(before, None, "up twice");
                process.ups += 1;
            }
            Effect::MemberChanged(member) => {
                let before = process.members.insert(member.node, member);
                assert!(before.is_some_and(|before| before != member), "no change");
            }
            Effect::MemberDown(node) => {
                assert!(process.members.remove(&node).is_some(), "down twice");
                process.downs.push((now, node));
            }
            Effect::Conflict(conflict) => process.conflicts.push(conflict),
        }
    }

    fn send(&mut self, source: SocketAddr, target: SocketAddr, bytes: Vec<u8>) {
        assert!(bytes.len() <= heddle_meta::gossip::PACKET_BYTES_MAX);
        if let Some(recorded) = &mut self.recorded {
            recorded.push((source, target, bytes.clone()));
        }
        let is_lost = self.random.below(100) < self.loss_percent;
        if is_lost || self.cuts.contains(&(source, target)) {
            return;
        }
        self.deliver(source, target, bytes);
    }

    /// Brings a packet on its way, whoever sent it.
    pub(crate) fn deliver(&mut self, source: SocketAddr, target: SocketAddr, bytes: Vec<u8>) {
        let delay = Duration::from_micros(self.random.below(DELAY_MAX_US));
        self.schedule(self.now + delay, Happening::Arrives { source, target, bytes });
    }

    fn schedule(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), happening) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = end;
    }

    /// Runs until `is_done` holds, checked every 50 ms; the time it took, or a panic at `limit`.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        is_done: impl Fn(&BTreeMap<SocketAddr, Process>) -> bool,
    ) -> Duration {
        let start = self.now;
        while !is_done(&self.processes) {
            let took = self.now - start;
            assert!(took < limit, "seed {}: not done after {took:?}", self.seed);
            self.run_for(Duration::from_millis(50));
        }
        self.now - start
    }

    fn happen(&mut self, happening: Happening) {
        let target = match &happening {
            Happening::Arrives { target, .. } => *target,
            Happening::Timer { process, .. } => *process,
        };
        let Some(process) = self.processes.get(&target) else { return };
        if self.now < process.asleep_until {
            self.schedule(process.asleep_until, happening);
            return;
        }
        match happening {
            Happening::Arrives { source, bytes, .. } => {
                self.tell(target, Event::Packet { source, bytes: &bytes });
            }
            Happening::Timer { token, .. } if token == process.token => {
                self.tell(target, Event::Timer { token });
            }
            Happening::Timer { .. } => {}
        }
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.processes.values().map(|process| process.gossip.counters().dropped(reason)).sum()
    }
}

/// Everyone sees everyone else, and the same of each.
pub(crate) fn is_whole(processes: &BTreeMap<SocketAddr, Process>) -> bool {
    let runs: Vec<_> = processes.values().map(|process| process.gossip.run()).collect();
    processes.values().all(|process| {
        let mut others = runs.iter().filter(|run| **run != process.gossip.run());
        process.members.len() + 1 == runs.len()
            && others.all(|run| {
                let member = process.members.get(&run.node);
                member.is_some_and(|member| member.incarnation == run.incarnation)
            })
    })
}
