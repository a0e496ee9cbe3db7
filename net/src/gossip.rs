//! Gossip of a node, on its meta core: the sockets, clocks and names around the machine of
//! `heddle-meta`, which decides everything.
//!
//! Packets go out of the call that asks for them, because a datagram never waits. What comes in,
//! the machine's one timer, the names of the join list and the node's own offer are a task each.
//! Whoever routes asks [`GossipHandle::members`]; who owns what is decided elsewhere.

mod changes;
mod node;
mod seeds;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use heddle_meta::gossip::{
    Conflict, Counters, Effect, Event, Gossip, GossipConfig, Key, Member, Offer, PACKET_BYTES_MAX,
    cluster_of_identity,
};
use heddle_runtime::queues::TaskHandle;
use heddle_runtime::{DatagramSocket, Queue, RealClock, sleep, spawn_joinable, timeout, yield_now};
use heddle_types::{Clock, ClusterId, NodeId};
use uuid::Uuid;

use changes::Changes;
pub(crate) use node::start;
use seeds::Seeds;

use crate::config::HostPort;
use crate::resolve::resolve;

/// Packets taken before other tasks may run: one costs about 5 us.
const PACKETS_PER_TURN_MAX: u32 = 32;
/// Pause after the socket refused to give a packet.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
/// How often the node's own offer is looked at anew; the machine tells it no more often.
const OFFER_PERIOD: Duration = Duration::from_secs(5);
/// Pause before the name of this very node is looked up again.
const OWN_NAME_PAUSE: Duration = Duration::from_secs(1);
/// Names of others may take this long before the start goes on without.
const FIRST_NAMES_WAIT: Duration = Duration::from_secs(1);

/// What gossip needs of a node.
pub(crate) struct GossipSettings {
    pub(crate) node: NodeId,
    /// Number of this start.
    pub(crate) boot: u64,
    pub(crate) cluster: Uuid,
    pub(crate) key: Key,
    /// Where packets are received.
    pub(crate) listen: SocketAddr,
    /// Host by which others reach this node; looked up once.
    pub(crate) advertise: String,
    /// Where other members receive gossip, each `host:port`; looked up again and again.
    pub(crate) join: Vec<String>,
    /// What the node offers now.
    pub(crate) offer: Box<dyn Fn() -> Offer>,
    /// Another process claims, or has claimed, to be this node.
    pub(crate) on_conflict: Box<dyn Fn(&Conflict)>,
}

/// Gossip that runs until it leaves. Clones are the same one.
#[derive(Clone)]
pub(crate) struct GossipHandle {
    driver: Rc<Driver>,
    tasks: Rc<RefCell<Vec<TaskHandle<()>>>>,
}

impl std::fmt::Debug for GossipHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GossipHandle({} members)", self.members().len())
    }
}

impl GossipHandle {
    /// Binds the socket and begins; there are no members at first.
    ///
    /// Errors: the operating system's, for the listen address.
    pub(crate) fn start(settings: GossipSettings) -> io::Result<Self> {
        let socket = DatagramSocket::bind(settings.listen)?;
        let driver = Rc::new(Driver {
            seeds: Seeds::new(settings.join.clone(), socket.local_address()),
            socket,
            own: settings.node,
            machine: RefCell::new(None),
            cluster: Cell::new(settings.cluster),
            armed: Cell::new(None),
            rearmed: Changes::default(),
            changes: Changes::default(),
            unsent: Cell::new(0),
            settings,
        });
        let handle = Self { driver: Rc::clone(&driver), tasks: Rc::default() };
        let tasks = Rc::clone(&handle.tasks);
        let begin = async move {
            driver.begin().await;
            let loops = [
                spawn_joinable(Queue::Control, Rc::clone(&driver).receive()),
                spawn_joinable(Queue::Control, Rc::clone(&driver).keep_time()),
                spawn_joinable(Queue::Control, Rc::clone(&driver).look_up_names()),
                spawn_joinable(Queue::Control, driver.make_offers()),
            ];
            tasks.borrow_mut().extend(loops);
        };
        handle.tasks.borrow_mut().push(spawn_joinable(Queue::Control, begin));
        Ok(handle)
    }

    /// The other members that seem to live, by node. Cost: one copy of all.
    pub(crate) fn members(&self) -> Vec<Member> {
        let machine = self.driver.machine.borrow();
        machine.as_ref().map_or_else(Vec::new, |machine| machine.members().copied().collect())
    }

    /// Grows with each change of the members.
    pub(crate) fn version(&self) -> u64 {
        self.driver.changes.version()
    }

    /// Waits until the version is another than `seen`; says which it is.
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn changed(&self, seen: u64) -> u64 {
        self.driver.changes.after(seen).await
    }

    /// More addresses to reach out to, each `host:port`, beside the join list; replaces those given
    /// before. They are looked up at once.
    pub(crate) fn set_known(&self, addresses: Vec<String>) {
        self.driver.seeds.set_known(addresses);
    }

    /// The node belongs to this cluster, of all those that may have its name.
    pub(crate) fn set_cluster(&self, name: &str, cluster: ClusterId) {
        let cluster = cluster_of_identity(name, cluster);
        self.driver.cluster.set(cluster);
        if let Some(machine) = self.driver.machine.borrow_mut().as_mut() {
            machine.set_cluster(cluster);
        }
    }

    /// Counts since the start; zeros before the machine runs.
    pub(crate) fn counters(&self) -> Counters {
        let machine = self.driver.machine.borrow();
        machine.as_ref().map_or_else(Counters::default, |machine| *machine.counters())
    }

    /// Packets that the socket did not take.
    pub(crate) fn unsent(&self) -> u64 {
        self.driver.unsent.get()
    }

    /// Tells some others that this node goes, and ends.
    pub(crate) fn leave(&self) {
        self.driver.handle(Event::Leave);
        self.end();
    }

    /// Ends without a word.
    fn end(&self) {
        // A loop must not find itself in the list while it is dropped.
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        tasks.iter().for_each(TaskHandle::cancel);
    }
}

struct Driver {
    settings: GossipSettings,
    own: NodeId,
    socket: DatagramSocket,
    seeds: Seeds,
    /// None until the address of this node is known.
    machine: RefCell<Option<Gossip>>,
    cluster: Cell<Uuid>,
    /// When the one timer ends, and its token.
    armed: Cell<Option<(Duration, u64)>>,
    rearmed: Changes,
    changes: Changes,
    unsent: Cell<u64>,
}

impl Driver {
    fn now(&self) -> Duration {
        Duration::from_nanos(RealClock.monotonic_ns())
    }

    /// Finds the own address and starts the machine.
    async fn begin(&self) {
        let gossip = self.own_address().await;
        // What is found by then is kept; the rest is looked up again later.
        let _ = timeout(FIRST_NAMES_WAIT, self.seeds.refresh()).await;
        let settings = &self.settings;
        let machine = Gossip::new(GossipConfig {
            node: settings.node,
            boot: settings.boot,
            gossip,
            offer: (settings.offer)(),
            cluster: self.cluster.get(),
            key: settings.key.clone(),
            seeds: self.seeds.addresses(),
            seed: seed_of_the_system(),
        });
        tracing::info!(%gossip, seeds = self.seeds.addresses().len(), "gossip begins");
        *self.machine.borrow_mut() = Some(machine);
        self.handle(Event::Start);
    }

    /// Where others reach this node's gossip: an address of the family it listens to.
    async fn own_address(&self) -> SocketAddr {
        let local = self.socket.local_address();
        let host = HostPort::host_alone(&self.settings.advertise);
        let host = host.map_or_else(|| local.to_string(), |host| host.with_default(local.port()));
        let mut is_first = true;
        loop {
            let looked_up = resolve(&host).await;
            let found = looked_up.as_deref().unwrap_or_default().iter();
            let own = found.copied().find(|own| own.is_ipv6() == local.is_ipv6());
            if let Some(own) = own.filter(|own| !own.ip().is_unspecified()) {
                return own;
            }
            if std::mem::take(&mut is_first) {
                let error = looked_up.err();
                tracing::warn!(host, ?error, "no address of this node is found: looked up again");
            }
            sleep(OWN_NAME_PAUSE).await;
        }
    }

    /// Lets the machine handle an event, and does what it asks for.
    fn handle(&self, event: Event<'_>) {
        let now = self.now();
        let mut effects = Vec::new();
        match self.machine.borrow_mut().as_mut() {
            Some(machine) => machine.handle(now, event, &mut effects),
            None => return,
        }
        for effect in effects {
            self.execute(now, effect);
        }
    }

    fn execute(&self, now: Duration, effect: Effect) {
        match effect {
            Effect::Send { target, bytes } => {
                if let Err(error) = self.socket.try_send(&bytes, target) {
                    tracing::debug!(%target, %error, "a packet of gossip was not sent");
                    self.unsent.set(self.unsent.get() + 1);
                }
            }
            Effect::Timer { after, token } => {
                self.armed.set(Some((now + after, token)));
                self.rearmed.note();
            }
            Effect::MemberUp(member) => {
                let Member { node, gossip, .. } = member;
                tracing::info!(%node, %gossip, "a node of the cluster is seen");
                self.changes.note();
            }
            Effect::MemberChanged(_) => self.changes.note(),
            Effect::MemberDown(node) => {
                tracing::warn!(%node, "a node of the cluster is gone, or seems dead");
                self.changes.note();
            }
            Effect::Conflict(conflict) if conflict.node == self.own => {
                (self.settings.on_conflict)(&conflict);
            }
            Effect::Conflict(Conflict { node, earlier, later }) => {
                tracing::error!(%node, ?earlier, ?later, "two processes claim to be one node");
            }
        }
    }

    async fn receive(self: Rc<Self>) {
        let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
        loop {
            for _ in 0..PACKETS_PER_TURN_MAX {
                match self.socket.receive(&mut buffer).await {
                    Ok((length, source)) => {
                        self.handle(Event::Packet { source, bytes: &buffer[..length] });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no packet of gossip can be received now");
                        sleep(FAILURE_PAUSE).await;
                    }
                }
            }
            yield_now().await;
        }
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            let seen = self.rearmed.version();
            let Some((deadline, token)) = self.armed.get() else {
                self.rearmed.after(seen).await;
                continue;
            };
            let wait = deadline.saturating_sub(self.now());
            if wait.is_zero() {
                yield_now().await;
            } else if timeout(wait, self.rearmed.after(seen)).await.is_ok() {
                continue;
            }
            if self.armed.get() == Some((deadline, token)) {
                self.armed.set(None);
                self.handle(Event::Timer { token });
            }
        }
    }

    async fn look_up_names(self: Rc<Self>) {
        loop {
            let seen = self.seeds.version();
            self.seeds.refresh().await;
            self.handle(Event::Seeds(self.seeds.addresses()));
            let is_alone =
                self.machine.borrow().as_ref().is_none_or(|gossip| gossip.members().count() == 0);
            self.seeds.until_due(seen, is_alone).await;
        }
    }

    async fn make_offers(self: Rc<Self>) {
        loop {
            sleep(OFFER_PERIOD).await;
            self.handle(Event::Offer((self.settings.offer)()));
        }
    }
}

/// 244 bits of the operating system's randomness.
fn seed_of_the_system() -> [u8; 32] {
    let mut seed = [0; 32];
    for half in seed.chunks_exact_mut(16) {
        half.copy_from_slice(Uuid::new_v4().as_bytes());
    }
    seed
}
