//! The links of one core: which connections there are, and calls over them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use heddle_meta::handshake::{End, LinkKey, Party};
use heddle_runtime::net::Socket;
use heddle_runtime::{RealClock, spawn, spawn_joinable, timeout};
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_types::{ApiError, Clock, CoreIndex, ErrorCode, NodeId};
use heddle_wire::AlignedVec;

use super::accept::Stop;
use super::counters::Counters;
use super::link::{Link, late};
use super::pipe::Pipe;
use super::room::Place;
use super::served::Served;
use super::{Answer, KINDS, Lane, PeerIdentity, PeerReport, Target, dial, queue_of, watch};
use crate::limits::{
    DIAL_PAUSE_CONTROL_MAX, DIAL_PAUSE_MAX, DIAL_PAUSE_MIN, LINKS_MAX, READ_CHUNK_BYTES,
};
use crate::server::buffers::Buffers;
use crate::shared::NodeShared;

type Dialed = Result<Rc<Link>, ApiError>;

/// What a core has for one target and lane.
#[derive(Clone)]
enum State {
    /// A connection is being made; everybody waits for the same one.
    Dialing(Shared<LocalBoxFuture<'static, Dialed>>),
    Open(Rc<Link>),
    /// The last dial failed; the next one is not before a moment.
    Resting {
        until_ns: u64,
        pause: Duration,
        error: ApiError,
    },
}

struct Slot {
    node: Option<NodeId>,
    lane: Lane,
    state: State,
}

/// The links of one core, those that it dials and those that it serves.
pub(crate) struct Links {
    party: Party,
    /// Tells which cluster the node belongs to; empty in tests without one.
    node: OnceCell<Arc<NodeShared>>,
    pub(super) clock: RealClock,
    pub(super) counters: Counters,
    pub(super) buffers: Rc<Buffers>,
    /// Where sockets are read to; what was read is used up within the same poll.
    pub(super) read_buffer: RefCell<Box<[u8]>>,
    // By address; the few slots of an address follow each other.
    slots: RefCell<BTreeMap<String, Vec<Slot>>>,
    slot_count: Cell<usize>,
    /// Connections that were accepted and proven, by number.
    pub(super) served: RefCell<BTreeMap<u64, Rc<Served>>>,
    /// Connections that were accepted and have proven nothing yet, the oldest first.
    pub(super) unproven: RefCell<VecDeque<(u64, Rc<Socket>)>>,
    pub(super) next_number: Cell<u64>,
    pub(super) listeners: RefCell<Vec<Rc<Stop>>>,
    /// Bytes of requests of other nodes that are being worked on.
    pub(super) served_bytes: Cell<usize>,
    pub(super) draining: Cell<bool>,
    pub(super) watched: Cell<bool>,
    /// When a refused handshake was last logged, monotonic nanoseconds.
    pub(super) refusal_logged_ns: Cell<Option<u64>>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (dialed, served) = (self.slot_count.get(), self.served.borrow().len());
        write!(f, "Links({dialed} dialed, {served} served)")
    }
}

/// What a core of a node brings to a handshake.
fn party_of(node: &NodeShared, core: CoreIndex) -> Party {
    let identity = &node.identity;
    let core = core as u32;
    Party {
        end: End { node: identity.node, boot: u64::from(identity.boot), core },
        cluster: node.config.cluster_name.clone(),
        cluster_id: None,
        key: LinkKey::from_secret(node.config.cluster_secret.as_bytes()),
    }
}

/// Longest pause after dials that failed. Elections do not wait for long.
fn pause_max(lane: Lane) -> Duration {
    match lane {
        Lane::Control => DIAL_PAUSE_CONTROL_MAX,
        Lane::Data | Lane::Repair => DIAL_PAUSE_MAX,
    }
}

impl Links {
    /// The links of a core of a node.
    pub(crate) fn of_core(node: &Arc<NodeShared>, core: CoreIndex) -> Rc<Self> {
        let links = Self::new(party_of(node, core));
        assert!(links.node.set(Arc::clone(node)).is_ok(), "they are new");
        links
    }

    /// What this core brings to a handshake now.
    pub(super) fn party(&self) -> Party {
        let cluster_id = self.node.get().and_then(|node| node.cluster_id());
        Party { cluster_id, ..self.party.clone() }
    }

    pub(crate) fn new(party: Party) -> Rc<Self> {
        Rc::new(Self {
            party,
            node: OnceCell::new(),
            clock: RealClock,
            counters: Counters::default(),
            buffers: Rc::default(),
            read_buffer: RefCell::new(vec![0; READ_CHUNK_BYTES].into_boxed_slice()),
            slots: RefCell::default(),
            slot_count: Cell::new(0),
            served: RefCell::default(),
            unproven: RefCell::default(),
            next_number: Cell::new(0),
            listeners: RefCell::default(),
            served_bytes: Cell::new(0),
            draining: Cell::new(false),
            watched: Cell::new(false),
            refusal_logged_ns: Cell::new(None),
        })
    }

    /// The node that this core belongs to.
    pub(crate) fn own_node(&self) -> NodeId {
        self.party.end.node
    }

    /// The clock of the core.
    pub(crate) fn clock(&self) -> RealClock {
        self.clock
    }

    /// Asks a core of another node, and waits for its answer until the budget is used up.
    ///
    /// Calls over one link overlap and are answered in any order. Dropping the future gives the
    /// call up; a request that has left may be worked on all the same.
    ///
    /// Errors: `Unavailable` when the node cannot be reached or the link breaks,
    /// `DeadlineExceeded`, `Overloaded` when too many calls wait, `TooLarge` for a body above
    /// [`NODE_BODY_BYTES_MAX`], or what the node answered. Of the first three, `retry` is
    /// `MayHaveApplied` exactly when all of the request may have reached the peer.
    pub(crate) async fn call(
        self: &Rc<Self>,
        target: &Target,
        lane: Lane,
        kind: u16,
        body: AlignedVec<16>,
        budget: Duration,
    ) -> Result<Answer, ApiError> {
        let counters = self.counters.lane(lane);
        counters.calls.add(1);
        let answer = self.exchange(target, lane, kind, body, budget).await;
        if answer.is_err() {
            counters.call_errors.add(1);
        }
        answer
    }

    async fn exchange(
        self: &Rc<Self>,
        target: &Target,
        lane: Lane,
        kind: u16,
        body: AlignedVec<16>,
        budget: Duration,
    ) -> Result<Answer, ApiError> {
        assert!(KINDS.contains(&kind), "{kind:#06x} is no request between nodes");
        if body.len() > NODE_BODY_BYTES_MAX {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("a message of {} bytes between nodes", body.len()),
                format!("at most {NODE_BODY_BYTES_MAX}"),
            ));
        }
        let deadline_ns = self.clock.monotonic_ns().saturating_add(budget.as_nanos() as u64);
        let ready = self.enter(target, lane, body.len());
        let Ok(entered) = timeout(budget, ready).await else {
            return Err(late(&target.address, false));
        };
        let (link, place) = entered?;
        link.exchange(kind, body, deadline_ns, place).await
    }

    /// An open link with a place on it.
    async fn enter(
        self: &Rc<Self>,
        target: &Target,
        lane: Lane,
        bytes: usize,
    ) -> Result<(Rc<Link>, Place), ApiError> {
        let link = match self.find(target, lane)? {
            State::Open(link) => link,
            State::Dialing(dialing) => dialing.await?,
            State::Resting { error, .. } => return Err(error),
        };
        let place = link.place(bytes).await?;
        Ok((link, place))
    }

    /// The state of a slot, which begins to dial when nothing stands against it.
    fn find(self: &Rc<Self>, target: &Target, lane: Lane) -> Result<State, ApiError> {
        let now_ns = self.clock.monotonic_ns();
        let mut slots = self.slots.borrow_mut();
        let of_address = slots.get_mut(&target.address);
        let found = of_address.and_then(|of_address| {
            of_address.iter_mut().find(|slot| slot.node == target.node && slot.lane == lane)
        });
        let mut pause = DIAL_PAUSE_MIN;
        if let Some(slot) = found {
            match &slot.state {
                State::Resting { until_ns, pause: last, .. } if now_ns >= *until_ns => {
                    pause = (*last * 2).min(pause_max(lane));
                }
                State::Open(link) if link.pipe.broken.get() => {}
                state => return Ok(state.clone()),
            }
            slot.state = self.dial(target, lane, pause);
            return Ok(slot.state.clone());
        }
        if self.slot_count.get() >= LINKS_MAX {
            let message = format!("the core has {LINKS_MAX} links already");
            return Err(ApiError::transient(ErrorCode::Overloaded, message));
        }
        self.slot_count.set(self.slot_count.get() + 1);
        let state = self.dial(target, lane, pause);
        let slot = Slot { node: target.node, lane, state: state.clone() };
        slots.entry(target.address.clone()).or_default().push(slot);
        Ok(state)
    }

    /// Begins to dial, in a task: callers that give up do not stop it for the others.
    fn dial(self: &Rc<Self>, target: &Target, lane: Lane, pause: Duration) -> State {
        watch::start(self);
        let links = Rc::clone(self);
        let target = target.clone();
        let task = spawn_joinable(queue_of(lane), async move {
            let dialed = links.dialed(&target, lane).await;
            let state = match &dialed {
                Ok(link) => State::Open(Rc::clone(link)),
                Err(error) => {
                    let until_ns = links.clock.monotonic_ns() + pause.as_nanos() as u64;
                    State::Resting { until_ns, pause, error: error.clone() }
                }
            };
            links.set(&target, lane, state);
            dialed
        });
        let dialed = task.map(|dialed| {
            // The task is never cancelled; it is lost only with the whole core.
            dialed.unwrap_or_else(|| {
                Err(ApiError::transient(ErrorCode::Unavailable, "the core stops"))
            })
        });
        State::Dialing(dialed.boxed_local().shared())
    }

    async fn dialed(self: &Rc<Self>, target: &Target, lane: Lane) -> Dialed {
        let counters = self.counters.lane(lane);
        counters.dials.add(1);
        match dial::dial(&self.party(), target, lane).await {
            Ok((socket, peer)) => {
                let pipe = Pipe::new(self, Rc::new(socket), lane);
                let link = Link::new(pipe, peer);
                let PeerIdentity { node, address, .. } = peer;
                tracing::debug!(%node, %address, lane = lane.name(), "a link is open");
                let served = Rc::clone(&link);
                spawn(queue_of(lane), async move {
                    let end = served.serve().await;
                    tracing::debug!(node = %served.peer.node, ?end, "a link has ended");
                });
                Ok(link)
            }
            Err(error) => {
                counters.dial_failures.add(1);
                let node = target.node.map_or_else(String::new, |node| format!("node {node} at "));
                let message = format!("{node}{} cannot be reached: {error}", target.address);
                Err(ApiError::transient(ErrorCode::Unavailable, message))
            }
        }
    }

    /// Dials a node again with the next call: it was just heard of.
    pub(super) fn end_rests(&self, node: NodeId) {
        let mut slots = self.slots.borrow_mut();
        let resting = slots.values_mut().flatten().filter(|slot| slot.node == Some(node));
        for slot in resting {
            if let State::Resting { until_ns, .. } = &mut slot.state {
                *until_ns = 0;
            }
        }
    }

    fn set(&self, target: &Target, lane: Lane, state: State) {
        let mut slots = self.slots.borrow_mut();
        let of_address = slots.get_mut(&target.address);
        let slot = of_address.and_then(|of_address| {
            of_address.iter_mut().find(|slot| slot.node == target.node && slot.lane == lane)
        });
        // A slot stays while it is dialed.
        slot.expect("slots that are dialed are kept").state = state;
    }

    /// Closes links that are idle and forgets slots of no use: true when some are left.
    pub(super) fn sweep_dialed(&self, idle_ns: u64) -> bool {
        let now_ns = self.clock.monotonic_ns();
        let mut count = 0;
        self.slots.borrow_mut().retain(|_, of_address| {
            of_address.retain(|slot| match &slot.state {
                State::Dialing(_) => true,
                State::Open(link) => {
                    let moved_ns = link.pipe.read_ns.get().max(link.pipe.written_ns.get());
                    let is_idle =
                        link.in_flight().0 == 0 && now_ns.saturating_sub(moved_ns) > idle_ns;
                    if is_idle {
                        link.pipe.cut();
                    }
                    !link.pipe.broken.get()
                }
                // Long enough that nobody comes too early by forgetting.
                State::Resting { until_ns, .. } => {
                    now_ns < until_ns + DIAL_PAUSE_MAX.as_nanos() as u64
                }
            });
            count += of_address.len();
            !of_address.is_empty()
        });
        self.slot_count.set(count);
        count > 0
    }

    /// Ends the intake of requests: what was read is answered, then connections close. Calls to
    /// other nodes go on.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for listener in self.listeners.take() {
            listener.stop();
        }
        for served in self.served.borrow().values() {
            served.stop_reading();
        }
        for (_, socket) in &*self.unproven.borrow() {
            // One that is gone already is as good.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Connections of other nodes that are open.
    pub(crate) fn served_count(&self) -> usize {
        self.served.borrow().len()
    }

    /// Gives up every connection, dialed or served.
    pub(crate) fn cut_all(&self) {
        let served: Vec<_> = self.served.borrow().values().cloned().collect();
        served.iter().for_each(|served| served.cut());
        self.open_links().iter().for_each(|(_, link)| link.pipe.cut());
    }

    fn open_links(&self) -> Vec<(String, Rc<Link>)> {
        let slots = self.slots.borrow();
        let all = slots.iter().flat_map(|(address, slots)| slots.iter().map(move |s| (address, s)));
        let open = all.filter_map(|(address, slot)| match &slot.state {
            State::Open(link) if !link.pipe.broken.get() => {
                Some((address.clone(), Rc::clone(link)))
            }
            _ => None,
        });
        open.collect()
    }

    /// The counts of this core's links.
    pub(crate) fn report(&self) -> PeerReport {
        PeerReport::of(&self.counters, &self.open_links(), &self.served.borrow())
    }
}
