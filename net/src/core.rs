//! What the tasks of one core share: its mesh link, its engine, what it knows of the node.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::Engine;
use heddle_index::{LinkScratch, Reader};
use heddle_runtime::{CoreContext, CoreLink, GlommioDevice, RealClock};
use heddle_types::{ApiError, CoreIndex, ErrorCode, ShardId};

use crate::cluster::Cluster;
use crate::dispatch::{Held, Latencies, ObjectSize, SearchRoom, Tails};
use crate::gossip::GossipHandle;
use crate::hints::Hints;
use crate::message::{CoreAnswer, CoreReply, CoreRequest};
use crate::metrics::{Metrics, StartReport};
use crate::peer::Links;
use crate::registry::Registry;
use crate::repair::Repair;
use crate::server::Server;
use crate::shared::{NodeShared, Phase};

/// The engine of a home core.
pub(crate) type HomeEngine = Engine<GlommioDevice, RealClock>;
/// The mesh of a node.
pub(crate) type Link = CoreLink<CoreRequest, CoreAnswer>;

/// One core and what its tasks share. Stays on its thread.
pub(crate) struct Core {
    /// Position on the node: data cores first, the meta core last.
    pub(crate) index: CoreIndex,
    pub(crate) data_cores: usize,
    pub(crate) node: Arc<NodeShared>,
    pub(crate) link: Link,
    pub(crate) clock: RealClock,
    pub(crate) registry: Registry,
    pub(crate) server: Server,
    /// Connections with cores of other nodes.
    pub(crate) links: Rc<Links>,
    pub(crate) metrics: Metrics,
    /// How long other nodes take to answer.
    pub(crate) latencies: Latencies,
    /// Writes that are not settled at all of their replicas.
    pub(crate) tails: Tails,
    /// Writes that wait for replicas that did not take them.
    pub(crate) hints: Hints,
    /// Objects on which a conditional write is under way.
    pub(crate) held: Held,
    /// Comparisons with other replicas.
    pub(crate) repair: Repair,
    /// What objects weigh in replies.
    pub(crate) object_size: ObjectSize,
    /// Pins of the searches that run here.
    pub(crate) reader: Reader,
    link_scratches: RefCell<Vec<LinkScratch>>,
    search_rooms: RefCell<Vec<SearchRoom>>,
    engine: RefCell<Option<HomeEngine>>,
    /// How far the shards of this core have come since the start.
    pub(crate) starts: RefCell<BTreeMap<ShardId, StartReport>>,
    /// Gossip with the other nodes, on the meta core of a node that has any.
    pub(crate) gossip: OnceCell<GossipHandle>,
    /// The cluster, on the meta core of a node that is part of one.
    pub(crate) cluster: OnceCell<Rc<Cluster>>,
    // Views of this version are known to every data core.
    published_version: Cell<u64>,
    turns: Cell<usize>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({} of {})", self.index, self.data_cores)
    }
}

impl Core {
    pub(crate) fn new(
        context: &CoreContext<CoreRequest, CoreAnswer>,
        node: &Arc<NodeShared>,
    ) -> Rc<Self> {
        Rc::new(Self {
            index: context.core,
            data_cores: context.data_core_count,
            node: Arc::clone(node),
            link: context.link.clone(),
            clock: context.clock,
            registry: Registry::default(),
            server: Server::new(),
            links: Links::of_core(node, context.core),
            metrics: Metrics::new(),
            latencies: Latencies::default(),
            tails: Tails::default(),
            hints: Hints::default(),
            held: Held::default(),
            repair: Repair::default(),
            object_size: ObjectSize::default(),
            reader: node.quiescence.reader(context.core),
            link_scratches: RefCell::default(),
            search_rooms: RefCell::default(),
            engine: RefCell::default(),
            starts: RefCell::default(),
            gossip: OnceCell::new(),
            cluster: OnceCell::new(),
            published_version: Cell::new(0),
            turns: Cell::new(context.core),
        })
    }

    /// Position of the meta core.
    pub(crate) fn meta_index(&self) -> CoreIndex {
        self.data_cores
    }

    pub(crate) fn is_data(&self) -> bool {
        self.index < self.data_cores
    }

    pub(crate) fn phase(&self) -> Phase {
        self.node.phase()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase() == Phase::Draining
    }

    /// The engine of this core; `Unavailable` before it is open.
    pub(crate) fn engine(&self) -> Result<HomeEngine, ApiError> {
        self.engine
            .borrow()
            .clone()
            .ok_or_else(|| ApiError::transient(ErrorCode::Unavailable, "the node is starting"))
    }

    pub(crate) fn set_engine(&self, engine: HomeEngine) {
        self.engine.replace(Some(engine));
    }

    pub(crate) fn published_version(&self) -> u64 {
        self.published_version.get()
    }

    pub(crate) fn set_published_version(&self, version: u64) {
        self.published_version.set(self.published_version.get().max(version));
    }

    /// Asks a core. Errors: the core's own, or `Unavailable` when it has stopped.
    pub(crate) async fn call(&self, target: CoreIndex, request: CoreRequest) -> CoreAnswer {
        match self.link.call(target, request).await {
            Ok(answer) => answer,
            Err(error) => Err(ApiError::transient(ErrorCode::Unavailable, error.to_string())),
        }
    }

    /// Asks the home core of a shard.
    pub(crate) async fn call_home(&self, home: CoreIndex, request: CoreRequest) -> CoreAnswer {
        self.count_forward(home);
        self.call(home, request).await
    }

    /// Asks the home core of a shard to write; errors as [`Core::call_write`].
    pub(crate) async fn write_home(&self, home: CoreIndex, request: CoreRequest) -> CoreAnswer {
        self.count_forward(home);
        self.call_write(home, request).await
    }

    fn count_forward(&self, home: CoreIndex) {
        self.metrics.forwarded_to_cores.add(u64::from(home != self.index));
    }

    /// A number that grows by one each time, for choices in turns.
    pub(crate) fn next_turn(&self) -> usize {
        let turn = self.turns.get();
        self.turns.set(turn.wrapping_add(1));
        turn
    }

    /// Asks a core to write; when the core is lost meanwhile, nobody knows how far it came.
    pub(crate) async fn call_write(&self, target: CoreIndex, request: CoreRequest) -> CoreAnswer {
        match self.link.call(target, request).await {
            Ok(answer) => answer,
            Err(error) => Err(ApiError::unknown(error.to_string())),
        }
    }

    /// Asks every core, this one too, and waits for all.
    pub(crate) async fn call_all(
        &self,
        targets: std::ops::Range<CoreIndex>,
        mut request: impl FnMut(CoreIndex) -> CoreRequest,
    ) -> Result<Vec<CoreReply>, ApiError> {
        let calls = targets.map(|target| self.call(target, request(target)));
        futures::future::try_join_all(calls).await
    }

    /// Working memory for choosing links; give it back with [`Core::give_link_scratch`].
    pub(crate) fn take_link_scratch(&self) -> LinkScratch {
        self.link_scratches.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_link_scratch(&self, scratch: LinkScratch) {
        self.link_scratches.borrow_mut().push(scratch);
    }

    /// Memory for one search request; give it back with [`Core::give_search_room`].
    pub(crate) fn take_search_room(&self) -> SearchRoom {
        self.search_rooms.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_search_room(&self, room: SearchRoom) {
        self.search_rooms.borrow_mut().push(room);
    }
}
