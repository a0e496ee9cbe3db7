//! What a node that runs out of disk or memory refuses, before it reads the body of the request.

use heddle_core::engine::{SpaceLevel, refused_for_space};
use heddle_types::{ApiError, ErrorCode};
use heddle_wire::MessageType;

use crate::core::Core;

/// May a request with a body of so many bytes be read and worked on? Nothing was applied if not.
///
/// Puts need memory for their body and for what they leave behind, about as much again. Deletions,
/// reads and searches go on: they are what makes room, and what the node is there for.
pub(crate) fn of_node(core: &Core, kind: MessageType, body_bytes: usize) -> Result<(), ApiError> {
    let puts = matches!(kind, MessageType::Put | MessageType::PutWith);
    if !puts && kind != MessageType::CollectionCreate {
        return Ok(());
    }
    let level = core.node.space();
    let is_creation = kind == MessageType::CollectionCreate;
    if level == SpaceLevel::DeletesOnly || (is_creation && level == SpaceLevel::NoInserts) {
        return Err(refused_for_space(level));
    }
    if core.node.is_memory_full(2 * body_bytes as u64) {
        let budget = core.node.memory_bytes;
        let message = format!("the node would hold more than its {budget} bytes");
        return Err(ApiError::transient(ErrorCode::MemoryFull, message));
    }
    Ok(())
}
