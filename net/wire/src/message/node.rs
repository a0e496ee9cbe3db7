//! What the node is doing.

use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, at_most, known};
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
