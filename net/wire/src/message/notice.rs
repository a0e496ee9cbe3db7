//! What a server says unasked.

use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::Checked;

/// The topology has changed. Sent with request id 0 to clients that asked for it in their hello.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TopologyNotice {
    /// Version of the catalog now.
    pub epoch: u64,
}

impl Layout for TopologyNotice {
    fn check(_: &ArchivedTopologyNotice) -> Checked {
        Ok(())
    }
}
