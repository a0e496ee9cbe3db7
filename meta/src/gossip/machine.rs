//! The machine: packets and timers in, packets, timers and changes of members out.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use foca::Foca;
use heddle_types::NodeId;
use uuid::Uuid;

use super::codec::{KIND_OFFSET, TURN_UNDEAD, WireCodec};
use super::counters::{Counters, DropReason};
use super::details::{Details, Roster, SharedRoster};
use super::event::{Conflict, Effect, Event, Member};
use super::identity::{Identity, Incarnation, RUN_BYTES, Run};
use super::outbox::Outbox;
use super::packet::{Handshake, Kind, Notice, Packet};
use super::random::Random;
use super::session::{Admission, Challenged, Sessions, Standing};
use super::settings::{
    GossipConfig, JOIN_AFTER_REJOIN, JOIN_PERIOD, JOIN_PERIOD_ALONE, LATE_MAX, OFFER_PERIOD,
    OFFER_PERIODS_IDLE, REACH_OUT_MAX, foca_config,
};
use super::timers::{Due, Timers};

/// Gossip of one run of a node.
///
/// It says who seems to live, and never who owns what. Not known to it: sockets, clocks, executors.
pub struct Gossip {
    config: GossipConfig,
    own: Run,
    foca: Foca<Identity, WireCodec, Random, SharedRoster>,
    roster: Rc<RefCell<Roster>>,
    sessions: Sessions,
    random: Random,
    timers: Timers,
    outbox: Outbox,
    /// What the driver was told of each member.
    told: BTreeMap<NodeId, Member>,
    /// Packets sent in this run.
    counter: u64,
    offers_made: u64,
    is_offer_news: bool,
    periods_idle: u32,
    /// Time that does not count, because the machine slept when it should have acted.
    missed: Duration,
    has_left: bool,
    counters: Counters,
}

impl Gossip {
    /// A run that starts now. The first event must be [`Event::Start`].
    #[must_use]
    pub fn new(config: GossipConfig) -> Self {
        let mut random = Random::new(&config.seed, "heddle gossip: runs and challenges");
        let incarnation = Incarnation { boot: config.boot, run: random.number() };
        let own = Run { node: config.node, incarnation };
        let roster = Rc::new(RefCell::new(Roster::new(own.node)));
        let foca = Foca::with_custom_broadcast(
            Identity { node: own.node, incarnation, renewal: 0, gossip: config.gossip },
            foca_config(),
            Random::new(&config.seed, "heddle gossip: foca"),
            WireCodec,
            SharedRoster(Rc::clone(&roster)),
        );
        Self {
            own,
            foca,
            roster,
            sessions: Sessions::new(),
            random,
            timers: Timers::new(),
            outbox: Outbox::default(),
            told: BTreeMap::new(),
            counter: 0,
            offers_made: 0,
            is_offer_news: true,
            periods_idle: 0,
            missed: Duration::ZERO,
            has_left: false,
            counters: Counters::default(),
            config,
        }
    }

    /// Takes one event and appends what must be done about it, in order.
    ///
    /// `now` is the time since any fixed moment and never goes back. Effects per event are bounded
    /// by the number of members. Bytes of any kind are fine: what is no packet is counted.
    pub fn handle(&mut self, now: Duration, event: Event<'_>, effects: &mut Vec<Effect>) {
        if self.has_left {
            return;
        }
        let now = self.own_time(now);
        match event {
            Event::Start => {
                self.offer(now);
                self.join(now, effects);
            }
            Event::Packet { source, bytes } => match self.receive(now, source, bytes, effects) {
                Ok(()) => self.counters.taken += 1,
                Err(reason) => self.counters.count_drop(reason),
            },
            Event::Timer { token } => {
                if self.timers.fired(token) {
                    self.run_due(now, effects);
                }
            }
            Event::Offer(offer) => {
                self.is_offer_news |= offer != self.config.offer;
                self.config.offer = offer;
            }
            Event::Seeds(seeds) => self.config.seeds = seeds,
            Event::Leave => {
                self.count_error(|gossip| gossip.foca.leave_cluster(&mut gossip.outbox));
                self.has_left = true;
            }
        }
        self.flush(now, effects);
        if self.has_left {
            self.timers.clear();
        }
        if let Some((after, token)) = self.timers.arm(now) {
            effects.push(Effect::Timer { after, token });
        }
    }

    /// This run of the node.
    #[must_use]
    pub fn run(&self) -> Run {
        self.own
    }

    /// The other members that seem to live, by node.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.told.values()
    }

    /// Packets of another cluster than this one are dropped from now on.
    pub fn set_cluster(&mut self, cluster: Uuid) {
        self.config.cluster = cluster;
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The time of the machine: that of the driver without what it slept through.
    fn own_time(&mut self, now: Duration) -> Duration {
        let own = now.saturating_sub(self.missed);
        let late = self.timers.next_at().map_or(Duration::ZERO, |due| own.saturating_sub(due));
        if late <= LATE_MAX {
            return own;
        }
        self.missed += late;
        self.counters.stalls += 1;
        own - late
    }

    fn run_due(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Foca(timer) => {
                    self.count_error(|gossip| gossip.foca.handle_timer(timer, &mut gossip.outbox));
                }
                Due::Join => self.join(now, effects),
                Due::Offer => self.offer(now),
            }
            // What foca does next may depend on the timers it has just asked for.
            self.flush(now, effects);
        }
    }

    fn count_error(&mut self, call: impl FnOnce(&mut Self) -> Result<(), foca::Error>) {
        if call(self).is_err() {
            self.counters.foca_errors += 1;
        }
    }

    fn receive(
        &mut self,
        now: Duration,
        source: SocketAddr,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), DropReason> {
        let packet = Packet::open(bytes, self.config.cluster, &self.config.key)?;
        let sender = packet.sender;
        if sender == self.own {
            return Err(DropReason::Own);
        }
        let is_for_anyone = packet.target == 0 && packet.kind == Kind::Handshake;
        if packet.target != self.own.incarnation.run && !is_for_anyone {
            return Err(DropReason::Misdirected);
        }
        let standing = self.standing_of(sender);
        if standing == Standing::Current && !self.sessions.take(sender.node, packet.counter) {
            return Err(DropReason::Replayed);
        }
        match (packet.kind, standing) {
            (Kind::Handshake, _) => self.shake_hands(now, source, &packet, standing, effects),
            (Kind::Gossip, Standing::Current) => self.gossip(&packet),
            (Kind::Conflict, Standing::Current) => self.notice(now, &packet, effects),
            (Kind::Gossip | Kind::Conflict, _) => {
                self.ask_for_proof(now, source, sender, effects);
                Err(match standing {
                    Standing::Superseded => DropReason::Superseded,
                    Standing::Current | Standing::Unproven => DropReason::Unproven,
                })
            }
        }
    }

    fn gossip(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        let mut sender = Vec::with_capacity(RUN_BYTES);
        packet.sender.encode(&mut sender);
        if !packet.body.starts_with(&sender) {
            return Err(DropReason::Malformed);
        }
        let handled = self.foca.handle_data(packet.body, &mut self.outbox);
        handled.map_err(|_error| DropReason::Malformed)
    }

    fn notice(
        &mut self,
        now: Duration,
        packet: &Packet<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), DropReason> {
        let Notice([one, other]) = Notice::decode(packet.body)?;
        let twin = match (one == self.own, other == self.own) {
            (true, false) => other,
            (false, true) => one,
            // It is about another node, or an earlier run of this one.
            (true, true) | (false, false) => return Ok(()),
        };
        if twin.node == self.own.node && self.sessions.doubts_twin(now, twin) {
            self.sessions.found_twin(now, twin);
            effects.push(Effect::Conflict(Conflict::new(twin, self.own.incarnation)));
        }
        Ok(())
    }

    /// Asks a run that is not the current one of its node whether it lives.
    fn ask_for_proof(
        &mut self,
        now: Duration,
        address: SocketAddr,
        run: Run,
        effects: &mut Vec<Effect>,
    ) {
        if !self.sessions.doubts_twin(now, run) {
            return;
        }
        let random = &mut self.random;
        let number = self.sessions.challenge(now, Challenged::Run(run), || random.number());
        if let Some(challenge) = number {
            self.send_handshake(address, run.incarnation.run, challenge, 0, effects);
        }
    }

    fn shake_hands(
        &mut self,
        now: Duration,
        source: SocketAddr,
        packet: &Packet<'_>,
        standing: Standing,
        effects: &mut Vec<Effect>,
    ) -> Result<(), DropReason> {
        let sender = packet.sender;
        let handshake = Handshake::decode(packet.body, sender)?;
        let is_proven =
            handshake.answer != 0 && self.sessions.answered(now, handshake.answer, sender);
        let is_known = is_proven || standing == Standing::Current;
        if handshake.challenge != 0 {
            let is_asked = !is_known && self.sessions.doubts_twin(now, sender);
            let random = &mut self.random;
            let challenge = if is_asked {
                self.sessions.number_for(now, Challenged::Run(sender), || random.number())
            } else {
                0
            };
            let target = sender.incarnation.run;
            self.send_handshake(source, target, challenge, handshake.challenge, effects);
        }
        if is_proven {
            self.admit(now, source, packet, effects);
        }
        if self.standing_of(sender) == Standing::Current {
            self.roster.borrow_mut().merge(handshake.details);
            return Ok(());
        }
        match (is_proven, standing) {
            (false, Standing::Superseded) => Err(DropReason::Superseded),
            _ => Ok(()),
        }
    }

    fn standing_of(&self, run: Run) -> Standing {
        // There is one run of this node, whatever others say.
        if run.node == self.own.node { Standing::Superseded } else { self.sessions.standing(run) }
    }

    /// The sender has proven that it lives now.
    fn admit(
        &mut self,
        now: Duration,
        source: SocketAddr,
        packet: &Packet<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let sender = packet.sender;
        if sender.node == self.own.node {
            self.found_twin(now, sender, self.own.incarnation, &[source], effects);
            return;
        }
        match self.sessions.admit(now, sender, source, packet.counter) {
            Admission::Admitted => {
                if self.active(sender.node).is_none_or(|known| known.run() != sender) {
                    let Run { node, incarnation } = sender;
                    let target = Identity { node, incarnation, renewal: 0, gossip: source };
                    self.count_error(|gossip| gossip.foca.announce(target, &mut gossip.outbox));
                }
            }
            Admission::Twin(later, address) => {
                self.found_twin(now, sender, later, &[source, address], effects);
            }
        }
    }

    /// Reports that `run` lives beside another run of its node, to the driver and to the two.
    fn found_twin(
        &mut self,
        now: Duration,
        run: Run,
        other: Incarnation,
        addresses: &[SocketAddr],
        effects: &mut Vec<Effect>,
    ) {
        if !self.sessions.doubts_twin(now, run) {
            return;
        }
        self.sessions.found_twin(now, run);
        effects.push(Effect::Conflict(Conflict::new(run, other)));
        let other = Run { node: run.node, incarnation: other };
        let notice = Notice([run, other]).encode();
        for (address, concerned) in addresses.iter().zip([run, other]) {
            let target = concerned.incarnation.run;
            self.send(*address, target, Kind::Conflict, &notice, effects);
        }
    }

    /// Reaches out to those on the join list, and those known from before, that are no members.
    fn join(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let members: BTreeMap<NodeId, SocketAddr> =
            self.foca.iter_members().map(|member| (member.id().node, member.id().gossip)).collect();
        let reached: BTreeSet<SocketAddr> = members.values().copied().collect();
        let remembered = self.sessions.addresses();
        let remembered = remembered.filter(|(node, _)| !members.contains_key(node));
        let wanted: BTreeSet<SocketAddr> = self.config.seeds.iter().copied().collect();
        let wanted = wanted.into_iter().chain(remembered.map(|(_, address)| address));
        let wanted = wanted.filter(|address| *address != self.config.gossip);
        let wanted: BTreeSet<SocketAddr> =
            wanted.filter(|address| !reached.contains(address)).collect();
        let mut wanted: Vec<SocketAddr> = wanted.into_iter().collect();
        self.random.choose(&mut wanted, REACH_OUT_MAX);
        for address in wanted {
            let random = &mut self.random;
            let to = Challenged::Address(address);
            if let Some(challenge) = self.sessions.challenge(now, to, || random.number()) {
                self.send_handshake(address, 0, challenge, 0, effects);
            }
        }
        let period = if members.is_empty() { JOIN_PERIOD_ALONE } else { JOIN_PERIOD };
        self.timers.replace(now + period, Due::Join);
    }

    /// Tells the others what this node offers, when that changed or was not said for a while.
    fn offer(&mut self, now: Duration) {
        self.timers.replace(now + OFFER_PERIOD, Due::Offer);
        self.periods_idle += 1;
        if !self.is_offer_news && self.periods_idle < OFFER_PERIODS_IDLE {
            return;
        }
        self.is_offer_news = false;
        self.periods_idle = 0;
        self.offers_made += 1;
        let details = self.details().to_bytes();
        self.count_error(|gossip| gossip.foca.add_broadcast(&details).map(|_is_news| ()));
    }

    fn details(&self) -> Details {
        Details { run: self.own, sequence: self.offers_made, offer: self.config.offer }
    }

    fn send_handshake(
        &mut self,
        address: SocketAddr,
        target: u64,
        challenge: u64,
        answer: u64,
        effects: &mut Vec<Effect>,
    ) {
        let body = Handshake { challenge, answer, details: self.details() }.encode();
        self.send(address, target, Kind::Handshake, &body, effects);
    }

    fn send(
        &mut self,
        address: SocketAddr,
        target: u64,
        kind: Kind,
        body: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        self.counter += 1;
        self.counters.sent += 1;
        let packet = Packet { kind, sender: self.own, counter: self.counter, target, body };
        let bytes = packet.seal(self.config.cluster, &self.config.key);
        effects.push(Effect::Send { target: address, bytes });
    }

    /// Turns what foca asked for into effects, and tells what changed.
    fn flush(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.outbox.has_rejoined {
            // A new identity ends all timers of foca, which sets new ones when it next looks at its
            // members. A packet would make it look, but may never come.
            let nothing = std::iter::empty();
            self.count_error(|gossip| gossip.foca.apply_many(nothing, false, &mut gossip.outbox));
        }
        let outbox = std::mem::take(&mut self.outbox);
        for (after, timer) in outbox.timers {
            self.timers.add(now + after, Due::Foca(timer));
        }
        if outbox.has_rejoined {
            self.timers.replace(now + JOIN_AFTER_REJOIN, Due::Join);
        }
        for member in outbox.met {
            if self.standing_of(member.run()) == Standing::Unproven {
                self.ask_for_proof(now, member.gossip, member.run(), effects);
            }
        }
        for (target, body) in outbox.sends {
            let is_undead = body.get(KIND_OFFSET) == Some(&TURN_UNDEAD);
            if is_undead && !self.sessions.may_call_undead(now, target.node) {
                continue;
            }
            self.send(target.gossip, target.incarnation.run, Kind::Gossip, &body, effects);
        }
        let news = self.roster.borrow_mut().take_news();
        let touched: BTreeSet<NodeId> = outbox.touched.into_iter().chain(news).collect();
        for node in touched {
            self.tell(node, effects);
        }
    }

    fn active(&self, node: NodeId) -> Option<&Identity> {
        self.foca.iter_members().map(foca::Member::id).find(|identity| identity.node == node)
    }

    /// Tells the driver of a node when something about it is new.
    fn tell(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(identity) = self.active(node) else {
            if self.told.remove(&node).is_some() {
                effects.push(Effect::MemberDown(node));
            }
            let told = &self.told;
            self.roster.borrow_mut().prune(|node| told.contains_key(&node));
            return;
        };
        // A member counts once it has said what it offers, which it does when it proves itself.
        let Some(offer) = self.roster.borrow().get(identity.run()) else { return };
        let gossip = identity.gossip;
        let member = Member { node, incarnation: identity.incarnation, gossip, offer };
        match self.told.insert(node, member) {
            None => effects.push(Effect::MemberUp(member)),
            Some(before) if before != member => effects.push(Effect::MemberChanged(member)),
            Some(_) => {}
        }
    }
}
