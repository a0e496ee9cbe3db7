//! Whose packets are taken: runs that have proven to live, one per node, and the proofs asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use heddle_types::NodeId;

use super::identity::{Incarnation, Run};
use super::settings::{CHALLENGE_LIFE, CHALLENGE_REPEAT, CHALLENGES_MAX, CONFLICT_REPEAT};
use super::settings::{MEMBERS_MAX, UNDEAD_REPEAT};
use super::window::Window;

/// How the sender of a packet stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The run whose packets are taken.
    Current,
    /// A run that has proven nothing yet, of a node without one or with an earlier one.
    Unproven,
    /// The node has a later run.
    Superseded,
}

/// A node whose run has proven that it lives.
#[derive(Debug)]
struct Session {
    incarnation: Incarnation,
    /// Where its last proof came from.
    address: SocketAddr,
    window: Window,
    /// When it last proved itself.
    proven_at: Duration,
    undead_at: Option<Duration>,
}

/// To whom a challenge was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Challenged {
    /// Whoever listens there.
    Address(SocketAddr),
    /// A run.
    Run(Run),
}

#[derive(Debug)]
struct Challenge {
    to: Challenged,
    number: u64,
    made_at: Duration,
    sent_at: Duration,
}

/// What a proof has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// The run's packets are taken from now on, or still.
    Admitted,
    /// A later run of the node, last heard from there, has proven that it lives before.
    Twin(Incarnation, SocketAddr),
}

/// All sessions and challenges.
#[derive(Debug)]
pub(super) struct Sessions {
    sessions: BTreeMap<NodeId, Session>,
    challenges: Vec<Challenge>,
    /// Runs that live beside a later one, and when that was last found.
    twins: Vec<(Run, Duration)>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { sessions: BTreeMap::new(), challenges: Vec::new(), twins: Vec::new() }
    }

    pub(super) fn standing(&self, run: Run) -> Standing {
        match self.sessions.get(&run.node) {
            Some(session) if session.incarnation == run.incarnation => Standing::Current,
            Some(session) if session.incarnation > run.incarnation => Standing::Superseded,
            Some(_) | None => Standing::Unproven,
        }
    }

    /// Takes a packet's number; false for one that was taken before.
    pub(super) fn take(&mut self, node: NodeId, counter: u64) -> bool {
        self.sessions.get_mut(&node).is_some_and(|session| session.window.take(counter))
    }

    /// The number to challenge with, or `None` when that happened a moment ago.
    pub(super) fn challenge(
        &mut self,
        now: Duration,
        to: Challenged,
        draw: impl FnOnce() -> u64,
    ) -> Option<u64> {
        let due = self.challenges.iter().find(|known| known.to == to);
        if due.is_some_and(|known| now < known.sent_at + CHALLENGE_REPEAT) {
            return None;
        }
        Some(self.number_for(now, to, draw))
    }

    /// The number to challenge with, at any time: for answers to a packet of the other side.
    pub(super) fn number_for(
        &mut self,
        now: Duration,
        to: Challenged,
        draw: impl FnOnce() -> u64,
    ) -> u64 {
        self.challenges.retain(|challenge| now < challenge.made_at + CHALLENGE_LIFE);
        if let Some(known) = self.challenges.iter_mut().find(|challenge| challenge.to == to) {
            known.sent_at = now;
            return known.number;
        }
        if self.challenges.len() >= CHALLENGES_MAX {
            self.challenges.remove(0);
        }
        let number = draw();
        self.challenges.push(Challenge { to, number, made_at: now, sent_at: now });
        number
    }

    /// Takes an answer; true when `run` was challenged with it, which proves that it lives.
    pub(super) fn answered(&mut self, now: Duration, answer: u64, run: Run) -> bool {
        let found = self.challenges.iter().position(|challenge| {
            let is_asked = match challenge.to {
                Challenged::Address(_) => true,
                Challenged::Run(asked) => asked == run,
            };
            is_asked && challenge.number == answer && now < challenge.made_at + CHALLENGE_LIFE
        });
        found.map(|index| self.challenges.remove(index)).is_some()
    }

    /// Notes that `run` has proven to live, by a packet with `counter` from `address`.
    pub(super) fn admit(
        &mut self,
        now: Duration,
        run: Run,
        address: SocketAddr,
        counter: u64,
    ) -> Admission {
        if let Some(session) = self.sessions.get_mut(&run.node) {
            if session.incarnation > run.incarnation {
                return Admission::Twin(session.incarnation, session.address);
            }
            if session.incarnation == run.incarnation {
                session.address = address;
                session.proven_at = now;
                return Admission::Admitted;
            }
        } else if self.sessions.len() >= MEMBERS_MAX {
            // Whoever is forgotten must prove itself again, so nothing is lost but a round trip.
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.proven_at);
            let oldest = oldest.map(|(node, _)| *node);
            oldest.map(|node| self.sessions.remove(&node));
        }
        let window = Window::new(counter);
        let incarnation = run.incarnation;
        let session = Session { incarnation, address, window, proven_at: now, undead_at: None };
        self.sessions.insert(run.node, session);
        Admission::Admitted
    }

    /// True when `run` may be asked whether it lives beside a later one: not if that was proven a
    /// moment ago.
    pub(super) fn doubts_twin(&mut self, now: Duration, run: Run) -> bool {
        self.twins.retain(|(_, found_at)| now < *found_at + CONFLICT_REPEAT);
        self.twins.iter().all(|(twin, _)| *twin != run)
    }

    /// Notes that `run` lives beside a later one.
    pub(super) fn found_twin(&mut self, now: Duration, run: Run) {
        if self.twins.len() >= CHALLENGES_MAX {
            self.twins.remove(0);
        }
        self.twins.push((run, now));
    }

    /// True when the node may be told that it is held for down: not twice in a moment.
    pub(super) fn may_call_undead(&mut self, now: Duration, node: NodeId) -> bool {
        let Some(session) = self.sessions.get_mut(&node) else { return true };
        if session.undead_at.is_some_and(|told_at| now < told_at + UNDEAD_REPEAT) {
            return false;
        }
        session.undead_at = Some(now);
        true
    }

    /// Every node that ever proved to live and is remembered, with its address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        self.sessions.iter().map(|(node, session)| (*node, session.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn run(boot: u64) -> Run {
        Run { node: NodeId::from(1), incarnation: Incarnation { boot, run: 1 } }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn an_answer_counts_once_in_time_and_from_whom_was_asked() {
        let mut sessions = Sessions::new();
        assert_eq!(sessions.challenge(NOW, Challenged::Run(run(1)), || 7), Some(7));
        assert_eq!(sessions.challenge(NOW, Challenged::Run(run(1)), || 8), None);
        let later = NOW + CHALLENGE_REPEAT;
        assert_eq!(sessions.challenge(later, Challenged::Run(run(1)), || 8), Some(7));
        assert!(!sessions.answered(NOW, 8, run(1)));
        assert!(!sessions.answered(NOW, 7, run(2)));
        assert!(!sessions.answered(NOW + CHALLENGE_LIFE, 7, run(1)));
        assert!(sessions.answered(NOW, 7, run(1)));
        assert!(!sessions.answered(NOW, 7, run(1)));
    }

    #[test]
    fn waiting_challenges_are_bounded_and_the_oldest_goes_first() {
        let mut sessions = Sessions::new();
        for boot in 0..=CHALLENGES_MAX as u64 {
            sessions.challenge(NOW, Challenged::Run(run(boot)), || boot + 1);
        }
        assert_eq!(sessions.challenges.len(), CHALLENGES_MAX);
        assert!(!sessions.answered(NOW, 1, run(0)));
        assert!(sessions.answered(NOW, 2, run(1)));
    }

    #[test]
    fn a_later_run_replaces_an_earlier_one_and_an_earlier_one_is_a_twin() {
        let mut sessions = Sessions::new();
        assert_eq!(sessions.standing(run(2)), Standing::Unproven);
        assert_eq!(sessions.admit(NOW, run(2), address(1), 9), Admission::Admitted);
        assert_eq!(sessions.standing(run(2)), Standing::Current);
        assert_eq!(sessions.standing(run(1)), Standing::Superseded);
        assert_eq!(sessions.standing(run(3)), Standing::Unproven);
        let twin = Admission::Twin(run(2).incarnation, address(1));
        assert_eq!(sessions.admit(NOW, run(1), address(2), 1), twin);
        assert!(!sessions.take(run(2).node, 9));
        assert!(sessions.take(run(2).node, 10));
        assert_eq!(sessions.admit(NOW, run(3), address(3), 5), Admission::Admitted);
        assert!(!sessions.take(run(3).node, 5));
        assert!(sessions.take(run(3).node, 6));
    }

    #[test]
    fn remembered_nodes_are_bounded_and_the_one_proven_longest_ago_goes_first() {
        let mut sessions = Sessions::new();
        for node in 0..=MEMBERS_MAX as u64 {
            let run = Run { node: NodeId::from(node), ..run(1) };
            let now = NOW + Duration::from_secs(node);
            assert_eq!(sessions.admit(now, run, address(1), 1), Admission::Admitted);
        }
        assert_eq!(sessions.addresses().count(), MEMBERS_MAX);
        assert!(sessions.addresses().all(|(node, _)| node != NodeId::from(0)));
    }
}
