//! A packet that arrives at a node which gossips with one other.
//!
//! The input is taken as it is, and as a new packet of that other node with a right seal.

use std::net::SocketAddr;
use std::time::Duration;

use heddle_meta::gossip::packet::{ENVELOPE_BYTES, MAGIC, VERSION};
use heddle_meta::gossip::{
    Effect, Event, Gossip, GossipConfig, Key, Kind, Offer, PACKET_BYTES_MAX, Packet, Run,
};
use heddle_types::NodeId;
use uuid::Uuid;

const CLUSTER: Uuid = Uuid::from_u128(0xC1);
const NOW: Duration = Duration::from_secs(10);
/// Above every counter that the other node has used.
const NEW_COUNTER: u64 = 1 << 32;
/// A packet of a pair changes two members at most.
const EFFECTS_MAX: usize = 32;

/// Feeds the bytes to a node, then lets it go on for a while.
pub fn run(data: &[u8]) {
    let mut bytes = data.to_vec();
    feed(&bytes);
    let (mut node, other) = (pair(), address(2));
    mend(&mut bytes, node.sender(), node.subject.run());
    node.feed(other, &bytes);
    node.go_on();
}

fn feed(bytes: &[u8]) {
    let mut subject = gossip(1, &[]);
    let mut effects = Vec::new();
    subject.handle(NOW, Event::Start, &mut effects);
    subject.handle(NOW, Event::Packet { source: address(2), bytes }, &mut effects);
    check(&effects);
}

fn check(effects: &[Effect]) {
    assert!(effects.len() <= EFFECTS_MAX, "{} effects", effects.len());
    for effect in effects {
        if let Effect::Send { bytes, .. } = effect {
            assert!((ENVELOPE_BYTES..=PACKET_BYTES_MAX).contains(&bytes.len()));
        }
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn key() -> Key {
    Key::from_secret(b"fuzz")
}

fn gossip(number: u16, seeds: &[u16]) -> Gossip {
    Gossip::new(GossipConfig {
        node: NodeId::from(u64::from(number)),
        boot: 1,
        gossip: address(number),
        offer: Offer::default(),
        cluster: CLUSTER,
        key: key(),
        seeds: seeds.iter().map(|port| address(*port)).collect(),
        seed: [u8::try_from(number).unwrap_or(u8::MAX); 32],
    })
}

/// Two nodes that have met; packets of the second to the first are kept.
struct Pair {
    subject: Gossip,
    other: Gossip,
    token: u64,
    other_token: u64,
    now: Duration,
    kept: Vec<Vec<u8>>,
}

fn pair() -> Pair {
    let (subject, other) = (gossip(1, &[]), gossip(2, &[1]));
    let mut pair = Pair { subject, other, token: 0, other_token: 0, now: NOW, kept: Vec::new() };
    let mut effects = Vec::new();
    pair.other.handle(NOW, Event::Start, &mut effects);
    pair.exchange(effects);
    assert_eq!(pair.subject.members().count(), 1, "they have met");
    pair
}

impl Pair {
    fn sender(&self) -> Run {
        self.other.run()
    }

    /// Carries packets between the two until nothing is on its way.
    fn exchange(&mut self, mut from_other: Vec<Effect>) {
        let mut from_subject = Vec::new();
        while !from_other.is_empty() {
            for effect in from_other.drain(..) {
                match effect {
                    Effect::Send { bytes, .. } => {
                        let event = Event::Packet { source: address(2), bytes: &bytes };
                        self.subject.handle(self.now, event, &mut from_subject);
                        self.kept.push(bytes);
                    }
                    Effect::Timer { token, .. } => self.other_token = token,
                    _ => {}
                }
            }
            for effect in from_subject.drain(..) {
                match effect {
                    Effect::Send { bytes, .. } => {
                        let event = Event::Packet { source: address(1), bytes: &bytes };
                        self.other.handle(self.now, event, &mut from_other);
                    }
                    Effect::Timer { token, .. } => self.token = token,
                    _ => {}
                }
            }
        }
    }

    fn feed(&mut self, source: SocketAddr, bytes: &[u8]) {
        let mut effects = Vec::new();
        self.subject.handle(self.now, Event::Packet { source, bytes }, &mut effects);
        self.note(&effects);
    }

    /// Runs the next timers of the first node, with nobody answering.
    fn go_on(&mut self) {
        for _ in 0..6 {
            self.now += Duration::from_millis(400);
            let mut effects = Vec::new();
            self.subject.handle(self.now, Event::Timer { token: self.token }, &mut effects);
            self.note(&effects);
        }
    }

    fn note(&mut self, effects: &[Effect]) {
        check(effects);
        for effect in effects {
            if let Effect::Timer { token, .. } = effect {
                self.token = *token;
            }
        }
    }
}

/// Makes the envelope that of a new packet of `sender` to `target`; what it says stays.
fn mend(bytes: &mut [u8], sender: Run, target: Run) {
    if bytes.len() < ENVELOPE_BYTES {
        return;
    }
    let mut run = sender.node.0.as_bytes().to_vec();
    run.extend_from_slice(&sender.incarnation.boot.to_le_bytes());
    run.extend_from_slice(&sender.incarnation.run.to_le_bytes());
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[8..24].copy_from_slice(CLUSTER.as_bytes());
    bytes[24..56].copy_from_slice(&run);
    bytes[56..64].copy_from_slice(&NEW_COUNTER.to_le_bytes());
    bytes[64..72].copy_from_slice(&target.incarnation.run.to_le_bytes());
    key().mend(bytes);
}

/// What the second node sends while they meet and for some seconds, and a notice of a conflict.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut pair = pair();
    for tick in 0..80 {
        pair.now += Duration::from_millis(100);
        let mut effects = Vec::new();
        if tick == 10 {
            let offer = Offer { cores: 4, disk_free_bytes: 1 << 40, ..Offer::default() };
            pair.other.handle(pair.now, Event::Offer(offer), &mut effects);
        }
        // A timer that ends early is set again.
        let event = Event::Timer { token: pair.other_token };
        pair.other.handle(pair.now, event, &mut effects);
        pair.exchange(effects);
    }
    let (sender, target) = (pair.sender(), pair.subject.run());
    let mut notice = Vec::new();
    for boot in [target.incarnation.boot, target.incarnation.boot + 1] {
        notice.extend_from_slice(target.node.0.as_bytes());
        notice.extend_from_slice(&boot.to_le_bytes());
        notice.extend_from_slice(&target.incarnation.run.to_le_bytes());
    }
    let (kind, body) = (Kind::Conflict, &notice[..]);
    let target = target.incarnation.run;
    let packet = Packet { kind, sender, counter: NEW_COUNTER, target, body };
    pair.kept.push(packet.seal(CLUSTER, &key()));
    pair.kept
}

#[cfg(test)]
mod tests {
    use heddle_meta::gossip::DropReason;

    use super::*;

    #[test]
    fn a_mended_seed_is_taken_and_a_conflict_reaches_the_driver() {
        let all = seeds();
        assert!(all.len() > 10, "{} seeds", all.len());
        for seed in &all {
            let mut pair = pair();
            let mut bytes = seed.clone();
            bytes[80] ^= 1;
            mend(&mut bytes, pair.sender(), pair.subject.run());
            let before = pair.subject.counters().taken;
            pair.feed(address(2), &bytes);
            assert_eq!(pair.subject.counters().taken, before + 1);
            assert_eq!(pair.subject.counters().dropped(DropReason::Forged), 0);
        }
        let mut pair = pair();
        let mut effects = Vec::new();
        let bytes = all.last().unwrap();
        pair.subject.handle(NOW, Event::Packet { source: address(2), bytes }, &mut effects);
        assert!(matches!(effects[..], [Effect::Conflict(_), ..]));
    }
}
