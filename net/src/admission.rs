//! What a node that runs out of disk or memory refuses, before it reads the body of the request.

use heddle_core::engine::{SpaceLevel, refused_for_space};
use heddle_types::{ApiError, ErrorCode};
use heddle_wire::MessageType;

use crate::core::Core;

/// May a request with a body of so many bytes be read? It is asked when only its header is known.
///
/// Puts need memory for their body and for what they leave behind, about as much again. Bodies that
/// are being read count as well: the memory of the process is looked at once a second, and many
/// requests can come in meanwhile.
pub(crate) fn of_header(core: &Core, kind: MessageType, body_bytes: usize) -> Result<(), ApiError> {
    check(core, kind, 2 * body_bytes as u64 + core.server.request_bytes() as u64)
}

/// May a request that was read be worked on? Nothing was applied if not.
///
/// Deletions, reads and searches go on: they are what makes room, and what the node is there for.
pub(crate) fn of_node(core: &Core, kind: MessageType) -> Result<(), ApiError> {
    check(core, kind, 0)
}

fn check(core: &Core, kind: MessageType, more_bytes: u64) -> Result<(), ApiError> {
    let puts = matches!(kind, MessageType::Put | MessageType::PutWith | MessageType::PutAt);
    if !puts && kind != MessageType::CollectionCreate {
        return Ok(());
    }
    let level = core.node.space();
    let is_creation = kind == MessageType::CollectionCreate;
    if level == SpaceLevel::DeletesOnly || (is_creation && level == SpaceLevel::NoInserts) {
        return Err(refused_for_space(level));
    }
    if core.node.is_memory_full(more_bytes) {
        let budget = core.node.memory_bytes;
        let message = format!("the node would hold more than its {budget} bytes");
        return Err(ApiError::transient(ErrorCode::MemoryFull, message));
    }
    Ok(())
}
