//! What the node is doing, and which nodes the cluster has.

use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, at_most, known, name};
use crate::limits::STATUS_BYTES_MAX;

/// Asks for the status report of the node.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct NodeStatusRequest {
    /// 0 = everything; other values are kept for narrower reports.
    pub section: u8,
}

impl Layout for NodeStatusRequest {
    fn check(archived: &ArchivedNodeStatusRequest) -> Checked {
        known("status section", archived.section, 0)
    }
}

/// The report, for people and tools; its keys may grow from release to release.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct NodeStatusReply {
    /// A JSON object.
    pub json: String,
}

impl Layout for NodeStatusReply {
    fn check(archived: &ArchivedNodeStatusReply) -> Checked {
        at_most("status length", archived.json.len(), STATUS_BYTES_MAX)
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.json.len()
    }
}

/// What becomes of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NodeFate {
    /// It takes no new shards and does not vote: the first step of leaving.
    Drain = 0,
    /// It stays after all.
    Keep = 1,
    /// It leaves for good; it was drained and holds nothing.
    Remove = 2,
}

/// Changes what part a node has in the cluster.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct NodeChangeRequest {
    /// Its name or its identity.
    pub node: String,
    /// 0 drain, 1 keep, 2 remove.
    pub fate: u8,
}

impl NodeChangeRequest {
    /// A request for one node.
    #[must_use]
    pub fn new(node: String, fate: NodeFate) -> Self {
        Self { node, fate: fate as u8 }
    }
}

impl ArchivedNodeChangeRequest {
    /// What becomes of the node.
    #[must_use]
    pub fn fate(&self) -> NodeFate {
        match self.fate {
            0 => NodeFate::Drain,
            1 => NodeFate::Keep,
            _ => NodeFate::Remove,
        }
    }
}

impl Layout for NodeChangeRequest {
    fn check(archived: &ArchivedNodeChangeRequest) -> Checked {
        name("node name length", &archived.node)?;
        known("fate of a node", archived.fate, NodeFate::Remove as u8)
    }
}

/// The change is made.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct NodeChangeReply {
    /// Version of the catalog with it.
    pub epoch: u64,
}

impl Layout for NodeChangeReply {
    fn check(_: &ArchivedNodeChangeReply) -> Checked {
        Ok(())
    }
}
