//! What nodes ask of each other, and how it gets there and back.

use std::cell::Cell;
use std::rc::Rc;

use futures::channel::oneshot;
use heddle_core::engine::{Replicated, StampedWrite};
use heddle_replication::{LeafSet, TreeLeaves};
use heddle_types::{ApiError, ErrorCode, Hlc, NodeId, ObjectDigest, ObjectId, ShardId, Stamp};

use super::World;
use super::node::Node;
use super::time::sleep_us;

/// A request to the replica of a shard on another node.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Who is meant; another identity under the same name refuses.
    pub(crate) identity: NodeId,
    pub(crate) shard: ShardId,
    /// It has arrived before.
    pub(crate) is_copy: bool,
    pub(crate) call: Call,
}

#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// Encoded writes: what travels.
    Write(Vec<Rc<[u8]>>),
    /// Writes that waited for this node.
    Hint {
        kept_for: NodeId,
        writes: Vec<Rc<[u8]>>,
    },
    Digest(Vec<ObjectId>),
    Read(Vec<ObjectId>),
    /// Everything that lives.
    Live,
    /// Takes part in a session.
    Begin,
    Entries {
        leaves: LeafSet,
        after: Option<ObjectId>,
    },
    SetFloor(Hlc),
}

#[derive(Debug)]
pub(crate) enum Answer {
    Written(Vec<Result<Replicated, ApiError>>),
    Digests(Vec<Option<ObjectDigest>>),
    Copies(Vec<Option<StampedWrite>>),
    Live(Vec<(ObjectId, Stamp)>),
    Began { hlc: Hlc, floor: Hlc, leaves: TreeLeaves },
    Entries(Vec<(ObjectId, ObjectDigest)>),
    Done,
}

/// Entries of one answer.
pub(crate) const ENTRIES_MAX: usize = 16;
/// How late the second copy of a request may be.
const COPY_LATE_US_MAX: u64 = 6_000_000;

impl World {
    /// Asks a node; pending for ever when a message is lost, so callers have a time limit.
    pub(crate) async fn call(
        self: &Rc<Self>,
        source: &Rc<Node>,
        target: usize,
        request: Request,
    ) -> Result<Answer, ApiError> {
        let is_taken = Rc::new(Cell::new(false));
        if target != source.position && self.network.doubles() {
            let (world, from, is_taken) = (Rc::clone(self), source.position, Rc::clone(&is_taken));
            let copy = Request { is_copy: true, ..request.clone() };
            let late_us = self.random.borrow_mut().below(COPY_LATE_US_MAX);
            // The copy is on its way even when its sender is gone.
            self.spawn(async move {
                sleep_us(late_us).await;
                // A sender repeats what got no answer, not what was refused.
                if is_taken.get() {
                    // Nobody waits for the answer to a copy.
                    let _ = world.deliver(from, target, copy).await;
                }
            });
        }
        let answer = self.deliver(source.position, target, request).await;
        is_taken.set(match &answer {
            Ok(Answer::Written(results)) => results.iter().all(Result::is_ok),
            Ok(_) => true,
            Err(_) => false,
        });
        if !self.network.travel(target, source.position).await {
            return std::future::pending().await;
        }
        answer
    }

    async fn deliver(
        self: &Rc<Self>,
        source: usize,
        target: usize,
        request: Request,
    ) -> Result<Answer, ApiError> {
        if !self.network.travel(source, target).await {
            return std::future::pending().await;
        }
        let node = &self.nodes[target];
        let Some(running) = node.running() else { return Err(refused("the node is down")) };
        let (sender, receiver) = oneshot::channel();
        let (world, serving) = (Rc::clone(self), Rc::clone(node));
        node.spawn(async move {
            let answer = world.serve(&serving, &running, request).await;
            // Whoever asked may be gone.
            let _ = sender.send(answer);
        });
        match receiver.await {
            Ok(answer) => answer,
            // The node went down with the request; its peer hears nothing.
            Err(oneshot::Canceled) => std::future::pending().await,
        }
    }
}

pub(crate) fn refused(message: &str) -> ApiError {
    ApiError::transient(ErrorCode::Unavailable, message)
}
