//! The part of a node that coordinates one request: drives the machine, executes its effects.

use std::rc::Rc;

use futures::StreamExt;
use futures::channel::mpsc;
use futures::future::{Either, select};
use heddle_core::engine::StampedWrite;
use heddle_replication::ReplicaSet;
use heddle_types::{ApiError, NodeId, ShardId};

use super::World;
use super::node::{Node, Running};
use super::rpc::{Answer, Call, Request};

/// Time limit of a request.
pub(crate) const LIMIT_US: u64 = 2_000_000;

/// A request on its node.
#[derive(Clone)]
pub(crate) struct Coordinator {
    pub(crate) world: Rc<World>,
    pub(crate) node: Rc<Node>,
    pub(crate) running: Running,
    pub(crate) shard: ShardId,
    /// The nodes of the shard, by position, with the identities that the catalog has.
    owners: Vec<(usize, NodeId)>,
}

impl Coordinator {
    pub(crate) fn new(
        world: &Rc<World>,
        node: &Rc<Node>,
        running: Running,
        shard: ShardId,
    ) -> Self {
        let owners = world.owners(shard);
        Self { world: Rc::clone(world), node: Rc::clone(node), running, shard, owners }
    }

    pub(crate) fn replicas(&self) -> usize {
        self.owners.len()
    }

    /// Who seems to live: what gossip says, which is sometimes wrong.
    pub(crate) fn reachable(&self) -> ReplicaSet {
        let positions = 0..self.owners.len() as u8;
        positions.filter(|replica| self.seems_alive(*replica)).collect()
    }

    pub(crate) fn seems_alive(&self, replica: u8) -> bool {
        let (target, _) = self.owner(replica);
        if target == self.node.position {
            return true;
        }
        let is_wrong = self.world.random.borrow_mut().one_in(20) && !self.world.is_healed.get();
        self.world.nodes[target].is_up() != is_wrong
    }

    pub(crate) fn owner(&self, replica: u8) -> (usize, NodeId) {
        self.owners[usize::from(replica)]
    }

    pub(crate) fn is_here(&self, replica: u8) -> bool {
        self.owner(replica).0 == self.node.position
    }

    /// Asks a replica; pending for ever when a message is lost.
    pub(crate) async fn ask(&self, replica: u8, call: Call) -> Result<Answer, ApiError> {
        let (target, identity) = self.owner(replica);
        let request = Request { identity, shard: self.shard, is_copy: false, call };
        self.world.call(&self.node, target, request).await
    }

    /// Asks a replica in a task of its own and feeds what `event` makes of the answer.
    pub(crate) fn ask_for<E: 'static>(
        &self,
        replica: u8,
        call: Call,
        sender: &mpsc::UnboundedSender<E>,
        event: impl FnOnce(Result<Answer, ApiError>) -> Option<E> + 'static,
    ) {
        let (this, sender) = (self.clone(), sender.clone());
        self.node.spawn(async move {
            let answer = this.ask(replica, call).await;
            if let Some(event) = event(answer) {
                // The request may have ended.
                let _ = sender.unbounded_send(event);
            }
        });
    }

    /// The next event; none when a time of the node's clock comes first.
    pub(crate) async fn next<E>(
        &self,
        events: &mut mpsc::UnboundedReceiver<E>,
        deadline_us: u64,
    ) -> Option<E> {
        let due = std::pin::pin!(self.node.sleep_until(deadline_us));
        match select(events.next(), due).await {
            Either::Left((event, _)) => event,
            Either::Right(((), _)) => None,
        }
    }
}

/// What travels.
pub(crate) fn encode(write: &StampedWrite) -> Rc<[u8]> {
    let mut bytes = Vec::new();
    write.encode(&mut bytes);
    Rc::from(bytes)
}
