//! Messages between the cores of a node: requests with a reply, and notices without.
//!
//! Each core owns one inbox; every other core may push into it. A push wakes the owner only when
//! its inbox was idle, so a burst costs one wake-up. Requests and notices take a permit of their
//! (source, target) pair, and a caller waits while none is left; replies and permits going back
//! never wait, so two cores that call each other while both are full still make progress.
//!
//! Why not the runtime's own shared channels: their `send` panics when two tasks race for the last
//! place, each channel is polled in every turn of the reactor (cores x cores of them), and each
//! direction would need its own wake-up. What we use of it is the wake-up of a task from another
//! thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::task::{Context, Poll, Waker};

use futures::future::LocalBoxFuture;
use futures::task::AtomicWaker;
use heddle_types::CoreIndex;

use crate::gate::Gate;
use crate::heartbeat;
use crate::queues::{self, Queue};

/// Requests of one core that may wait unread in the inbox of another.
pub const MESH_REQUESTS_QUEUED_MAX: usize = 256;
/// Notices of one core that another may have unread or unfinished.
pub const MESH_NOTICES_UNFINISHED_MAX: usize = 256;
/// Packets handled before the mesh offers to yield.
const DRAIN_BATCH: usize = 64;
/// Permits go back in lumps of this many: one packet for each.
const PERMIT_LUMP: usize = MESH_REQUESTS_QUEUED_MAX / 4;

const _: () = assert!(PERMIT_LUMP > 0 && PERMIT_LUMP <= MESH_NOTICES_UNFINISHED_MAX / 4);

/// A request that knows in which queue it is to be worked on.
pub trait Routed {
    /// The queue of the core that receives it.
    fn queue(&self) -> Queue;
}

impl Routed for () {
    fn queue(&self) -> Queue {
        Queue::Control
    }
}

/// Why a call has no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The node has no such core (a bug of the caller). Nothing was sent.
    #[error("core {target} does not exist: the node has {cores}")]
    NoSuchCore {
        /// The core asked for.
        target: CoreIndex,
        /// Cores of the node.
        cores: usize,
    },
    /// The core has stopped: the node is going down. The request may have been worked on.
    #[error("core {target} has stopped")]
    CoreGone {
        /// The core asked for.
        target: CoreIndex,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lane {
    Request,
    Notice,
}

enum Packet<Q, R> {
    Request { source: CoreIndex, call: usize, body: Q },
    Notice { source: CoreIndex, body: Q },
    Reply { call: usize, body: R },
    Permits { target: CoreIndex, lane: Lane, count: usize },
    Gone { target: CoreIndex },
}

struct Bell {
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        // Whoever turns the bell on wakes the owner; everyone else's packet is found by that turn.
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// One core's end of the mesh before its core runs; it is moved to the core's thread.
pub struct MeshSeat<Q, R> {
    own: CoreIndex,
    inbox: Receiver<Packet<Q, R>>,
    outboxes: Vec<Sender<Packet<Q, R>>>,
    bells: Arc<[Bell]>,
}

impl<Q, R> std::fmt::Debug for MeshSeat<Q, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MeshSeat(core {} of {})", self.own, self.outboxes.len())
    }
}

/// Makes the seats of a mesh of `cores` cores.
#[must_use]
pub fn mesh<Q: Send, R: Send>(cores: usize) -> Vec<MeshSeat<Q, R>> {
    let bells: Arc<[Bell]> = (0..cores)
        .map(|_| Bell { rung: AtomicBool::new(false), waker: AtomicWaker::new() })
        .collect();
    let (outboxes, inboxes): (Vec<_>, Vec<_>) = (0..cores).map(|_| channel()).unzip();
    inboxes
        .into_iter()
        .enumerate()
        .map(|(own, inbox)| MeshSeat {
            own,
            inbox,
            outboxes: outboxes.clone(),
            bells: Arc::clone(&bells),
        })
        .collect()
}

/// Counts of one core's mesh traffic since it started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MeshStats {
    /// Requests sent to other cores.
    pub requests_sent: u64,
    /// Notices sent to other cores.
    pub notices_sent: u64,
    /// Packets taken out of the inbox.
    pub packets_received: u64,
    /// Times the inbox was drained; packets divided by this is the batching.
    pub drains: u64,
    /// Requests and notices that had to wait for a permit.
    pub waits: u64,
    /// Calls without a reply yet.
    pub calls_pending: u64,
}

type Handler<Q, R> = Rc<dyn Fn(CoreIndex, Q) -> LocalBoxFuture<'static, R>>;

enum Call<R> {
    Waiting { target: CoreIndex, waker: Option<Waker> },
    Replied(R),
    Gone,
    Abandoned { target: CoreIndex },
}

struct Peer {
    requests: Gate,
    notices: Gate,
    owed_requests: Cell<usize>,
    owed_notices: Cell<usize>,
}

struct Shared<Q, R> {
    own: CoreIndex,
    outboxes: Vec<Sender<Packet<Q, R>>>,
    bells: Arc<[Bell]>,
    peers: Vec<Peer>,
    calls: RefCell<BTreeMap<usize, Call<R>>>,
    next_call: Cell<usize>,
    handler: RefCell<Option<Handler<Q, R>>>,
    served: RefCell<Vec<Waker>>,
    stats: Cell<MeshStats>,
}

/// One core's end of the mesh. Cheap to clone; stays on its core.
pub struct CoreLink<Q, R> {
    shared: Rc<Shared<Q, R>>,
}

impl<Q, R> Clone for CoreLink<Q, R> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<Q, R> std::fmt::Debug for CoreLink<Q, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CoreLink(core {} of {})", self.shared.own, self.shared.peers.len())
    }
}

impl<Q: Routed + Send + 'static, R: Send + 'static> CoreLink<Q, R> {
    /// Connects this core; called once, on the core's thread, by the node runner.
    pub(crate) fn connect(seat: MeshSeat<Q, R>) -> Self {
        let peers = (0..seat.outboxes.len())
            .map(|_| Peer {
                requests: Gate::new(MESH_REQUESTS_QUEUED_MAX),
                notices: Gate::new(MESH_NOTICES_UNFINISHED_MAX),
                owed_requests: Cell::new(0),
                owed_notices: Cell::new(0),
            })
            .collect();
        let shared = Rc::new(Shared {
            own: seat.own,
            outboxes: seat.outboxes,
            bells: seat.bells,
            peers,
            calls: RefCell::new(BTreeMap::new()),
            next_call: Cell::new(0),
            handler: RefCell::new(None),
            served: RefCell::new(Vec::new()),
            stats: Cell::new(MeshStats::default()),
        });
        let pump = pump(Rc::clone(&shared), seat.inbox);
        glommio::spawn_local_into(pump, queues::handles().mesh)
            .expect("the mesh queue lives as long as the core")
            .detach();
        Self { shared }
    }

    /// This core.
    #[must_use]
    pub fn own(&self) -> CoreIndex {
        self.shared.own
    }

    /// Cores of the node, data and meta.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.shared.peers.len()
    }

    /// Says how this core works on requests. Those that came earlier have waited for it.
    ///
    /// The handler runs in the queue that the request names. It may call other cores and its own.
    pub fn serve<H, F>(&self, handler: H)
    where
        H: Fn(CoreIndex, Q) -> F + 'static,
        F: Future<Output = R> + 'static,
    {
        let handler: Handler<Q, R> =
            Rc::new(move |source, request| Box::pin(handler(source, request)));
        self.shared.handler.replace(Some(handler));
        for waker in self.shared.served.take() {
            waker.wake();
        }
    }

    /// Asks a core and waits for its reply.
    ///
    /// Waits first while [`MESH_REQUESTS_QUEUED_MAX`] requests of this core lie unread there. A
    /// call to the own core runs the handler in place. Dropping the future does not stop the work
    /// there. Cost: two wake-ups at most, one allocation each side.
    pub async fn call(&self, target: CoreIndex, request: Q) -> Result<R, MeshError> {
        if target == self.shared.own {
            let handler = self.shared.handler().await;
            return Ok(handler(target, request).await);
        }
        self.shared.take_permit(target, Lane::Request).await?;
        let call = self.shared.next_call.get();
        self.shared.next_call.set(call.wrapping_add(1));
        let waiting = Call::Waiting { target, waker: None };
        self.shared.calls.borrow_mut().insert(call, waiting);
        let pending = PendingCall { shared: Rc::clone(&self.shared), call, target };
        self.shared.count(|stats| stats.requests_sent += 1);
        self.shared.send(target, Packet::Request { source: self.shared.own, call, body: request });
        pending.await
    }

    /// Tells a core something without waiting for the work to be done.
    ///
    /// Waits while [`MESH_NOTICES_UNFINISHED_MAX`] earlier ones of this core are unfinished there;
    /// the handler of a notice must therefore not wait for a notice in the other direction.
    pub async fn notify(&self, target: CoreIndex, request: Q) -> Result<(), MeshError> {
        let own = self.shared.own;
        if target == own {
            let handler = self.shared.handler().await;
            queues::spawn(request.queue(), async move {
                drop(handler(own, request).await);
            });
            return Ok(());
        }
        self.shared.take_permit(target, Lane::Notice).await?;
        self.shared.count(|stats| stats.notices_sent += 1);
        self.shared.send(target, Packet::Notice { source: own, body: request });
        Ok(())
    }

    /// Asks every core but this one; replies come in core order.
    pub async fn call_others(
        &self,
        mut request: impl FnMut(CoreIndex) -> Q,
    ) -> Result<Vec<R>, MeshError> {
        let calls: Vec<_> = (0..self.cores())
            .filter(|target| *target != self.shared.own)
            .map(|target| self.call(target, request(target)))
            .collect();
        futures::future::try_join_all(calls).await
    }

    /// Counts since the core started.
    #[must_use]
    pub fn stats(&self) -> MeshStats {
        let calls_pending = self.shared.calls.borrow().len() as u64;
        MeshStats { calls_pending, ..self.shared.stats.get() }
    }

    /// Tells the other cores that this one takes part no longer.
    pub(crate) fn leave(&self) {
        for target in 0..self.cores() {
            if target != self.shared.own {
                self.shared.send(target, Packet::Gone { target: self.shared.own });
            }
        }
    }
}

impl<Q, R> Shared<Q, R> {
    fn count(&self, change: impl FnOnce(&mut MeshStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    // A send fails only when the other core's thread has ended, and then `Gone` was sent before.
    fn send(&self, target: CoreIndex, packet: Packet<Q, R>) {
        if self.outboxes[target].send(packet).is_ok() {
            self.bells[target].ring();
        }
    }

    async fn take_permit(&self, target: CoreIndex, lane: Lane) -> Result<(), MeshError> {
        let Some(peer) = self.peers.get(target) else {
            return Err(MeshError::NoSuchCore { target, cores: self.peers.len() });
        };
        let gate = match lane {
            Lane::Request => &peer.requests,
            Lane::Notice => &peer.notices,
        };
        let mut take = gate.take();
        if let Some(taken) = futures::FutureExt::now_or_never(&mut take) {
            return taken.map_err(|_closed| MeshError::CoreGone { target });
        }
        self.count(|stats| stats.waits += 1);
        take.await.map_err(|_closed| MeshError::CoreGone { target })
    }

    async fn handler(&self) -> Handler<Q, R> {
        std::future::poll_fn(|context| match &*self.handler.borrow() {
            Some(handler) => Poll::Ready(Rc::clone(handler)),
            None => {
                self.served.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    // Returns permits to the core that sent, in lumps, so that they cost few packets.
    fn owe(&self, source: CoreIndex, lane: Lane) {
        let peer = &self.peers[source];
        let owed = match lane {
            Lane::Request => &peer.owed_requests,
            Lane::Notice => &peer.owed_notices,
        };
        let count = owed.get() + 1;
        if count < PERMIT_LUMP {
            owed.set(count);
            return;
        }
        owed.set(0);
        self.send(source, Packet::Permits { target: self.own, lane, count });
    }

    fn settle(&self, call: usize, outcome: Call<R>) {
        let mut calls = self.calls.borrow_mut();
        let waker = match calls.get_mut(&call) {
            Some(Call::Waiting { waker, .. }) => waker.take(),
            Some(Call::Abandoned { .. }) => {
                calls.remove(&call);
                return;
            }
            // Each call is settled once: by its reply or by the end of its target.
            Some(Call::Replied(_) | Call::Gone) | None => return,
        };
        calls.insert(call, outcome);
        drop(calls);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn target_gone(&self, gone: CoreIndex) {
        self.peers[gone].requests.close();
        self.peers[gone].notices.close();
        let lost: Vec<usize> = self
            .calls
            .borrow()
            .iter()
            .filter(|(_, call)| {
                matches!(call, Call::Waiting { target, .. } | Call::Abandoned { target }
                    if *target == gone)
            })
            .map(|(call, _)| *call)
            .collect();
        for call in lost {
            self.settle(call, Call::Gone);
        }
    }
}

/// A sent request whose reply is awaited.
struct PendingCall<Q, R> {
    shared: Rc<Shared<Q, R>>,
    call: usize,
    target: CoreIndex,
}

impl<Q, R> Future for PendingCall<Q, R> {
    type Output = Result<R, MeshError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut calls = self.shared.calls.borrow_mut();
        if let Some(Call::Waiting { waker, .. }) = calls.get_mut(&self.call) {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        match calls.remove(&self.call) {
            Some(Call::Replied(reply)) => Poll::Ready(Ok(reply)),
            _ => Poll::Ready(Err(MeshError::CoreGone { target: self.target })),
        }
    }
}

impl<Q, R> Drop for PendingCall<Q, R> {
    fn drop(&mut self) {
        let mut calls = self.shared.calls.borrow_mut();
        match calls.get_mut(&self.call) {
            // The entry stays until the reply comes, so its number cannot be taken again.
            Some(call @ Call::Waiting { .. }) => {
                *call = Call::Abandoned { target: self.target };
            }
            Some(Call::Replied(_) | Call::Gone) => {
                calls.remove(&self.call);
            }
            Some(Call::Abandoned { .. }) | None => {}
        }
    }
}

/// Takes packets out of the inbox and hands them on; runs as long as the core.
async fn pump<Q: Routed + Send + 'static, R: Send + 'static>(
    shared: Rc<Shared<Q, R>>,
    inbox: Receiver<Packet<Q, R>>,
) {
    loop {
        let own = shared.own;
        std::future::poll_fn(|context| shared.bells[own].poll_rung(context)).await;
        heartbeat::note_activity();
        shared.count(|stats| stats.drains += 1);
        let mut batch = 0;
        loop {
            match inbox.try_recv() {
                Ok(packet) => {
                    shared.count(|stats| stats.packets_received += 1);
                    receive(&shared, packet);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
            batch += 1;
            if batch == DRAIN_BATCH {
                batch = 0;
                queues::yield_if_needed().await;
            }
        }
    }
}

fn receive<Q: Routed + Send + 'static, R: Send + 'static>(
    shared: &Rc<Shared<Q, R>>,
    packet: Packet<Q, R>,
) {
    match packet {
        Packet::Reply { call, body } => shared.settle(call, Call::Replied(body)),
        Packet::Permits { target, lane, count } => match lane {
            Lane::Request => shared.peers[target].requests.give_back(count),
            Lane::Notice => shared.peers[target].notices.give_back(count),
        },
        Packet::Gone { target } => shared.target_gone(target),
        Packet::Request { source, call, body } => {
            let worker = Rc::clone(shared);
            shared.owe(source, Lane::Request);
            queues::spawn(body.queue(), async move {
                let handler = worker.handler().await;
                let reply = handler(source, body).await;
                worker.send(source, Packet::Reply { call, body: reply });
            });
        }
        Packet::Notice { source, body } => {
            let worker = Rc::clone(shared);
            queues::spawn(body.queue(), async move {
                let handler = worker.handler().await;
                drop(handler(source, body).await);
                worker.owe(source, Lane::Notice);
            });
        }
    }
}
