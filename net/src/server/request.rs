//! A request between the wire and its reply, and what it holds meanwhile.

use std::cell::Cell;
use std::rc::Rc;

use heddle_runtime::Queue;
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_types::{ApiError, ErrorCode};
use heddle_wire::{AlignedVec, Frame, Header, MessageType};

use crate::core::Core;
use crate::dispatch;
use crate::server::connection::Connection;

/// A whole request as it came off the wire.
#[derive(Debug)]
pub(crate) struct RequestFrame {
    pub(crate) header: Header,
    pub(crate) kind: MessageType,
    pub(crate) body: AlignedVec<16>,
    /// When its last byte was seen, monotonic nanoseconds.
    pub(crate) arrived_ns: u64,
    /// What its reply takes while it is gathered.
    pub(crate) reply: ReplyBudget,
    pub(super) connection: Rc<Connection>,
}

/// A reply, and when it was done: monotonic nanoseconds.
pub(crate) struct Answered {
    pub(crate) frame: Frame,
    pub(crate) at_ns: u64,
}

impl RequestFrame {
    /// Does nobody want the reply any more?
    pub(crate) fn is_abandoned(&self) -> bool {
        self.connection.broken.get()
    }

    /// What the client said it understands.
    pub(crate) fn features(&self) -> u64 {
        self.connection.features.get()
    }

    /// Keeps what the client said it understands.
    pub(crate) fn set_features(&self, features: u64) {
        self.connection.features.set(features);
    }

    /// A buffer for the reply.
    pub(crate) fn reply_buffer(&self) -> AlignedVec<16> {
        self.connection.core.server.buffers.take()
    }

    /// Works on the request once the replies before leave room for its own.
    pub(crate) async fn answer(&self, core: &Rc<Core>) -> Answered {
        let connection = &self.connection;
        std::future::poll_fn(|context| connection.poll_start(context)).await;
        dispatch::answer(core, self).await
    }

    /// Gives back what the request held; its reply comes next.
    pub(crate) fn finish(self, core: &Core) -> Rc<Connection> {
        let Self { kind, body, connection, .. } = self;
        let bytes = body.len();
        connection.requests.set(connection.requests.get() - 1);
        connection.request_bytes.set(connection.request_bytes.get() - bytes);
        core.server.end(queue_of(kind), bytes);
        core.server.buffers.give(body);
        connection
    }
}

/// Bytes of a reply that is being gathered, counted for its connection, if a client asked, and its
/// core.
#[derive(Debug)]
pub(crate) struct ReplyBudget {
    core: Rc<Core>,
    connection: Option<Rc<Connection>>,
    bytes: Cell<usize>,
}

impl ReplyBudget {
    pub(super) fn new(connection: &Rc<Connection>) -> Self {
        let core = Rc::clone(&connection.core);
        Self { core, connection: Some(Rc::clone(connection)), bytes: Cell::new(0) }
    }

    /// For the reply to another node.
    pub(crate) fn of_peer(core: &Rc<Core>) -> Self {
        Self { core: Rc::clone(core), connection: None, bytes: Cell::new(0) }
    }

    /// Says that the reply takes or is going to take this many bytes in all; less than was said
    /// before changes nothing.
    ///
    /// Errors: `TooLarge` when no frame holds so much, `Overloaded` when the core holds too much.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), ApiError> {
        if bytes > NODE_BODY_BYTES_MAX {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("the reply would have more than {NODE_BODY_BYTES_MAX} bytes"),
                "fewer objects at once",
            ));
        }
        let more = bytes.saturating_sub(self.bytes.get());
        if !self.core.server.try_hold_reply(more) {
            let message = "this core holds as many reply bytes as it may";
            return Err(ApiError::transient(ErrorCode::Overloaded, message));
        }
        if let Some(connection) = &self.connection {
            connection.reserved.set(connection.reserved.get() + more);
        }
        self.bytes.set(self.bytes.get() + more);
        Ok(())
    }
}

impl Drop for ReplyBudget {
    fn drop(&mut self) {
        let bytes = self.bytes.get();
        if let Some(connection) = &self.connection {
            connection.reserved.set(connection.reserved.get() - bytes);
        }
        self.core.server.release_reply(bytes);
    }
}

/// The queue in which a request is worked on.
pub(super) fn queue_of(kind: MessageType) -> Queue {
    match kind {
        MessageType::Hello
        | MessageType::Topology
        | MessageType::TopologyReplicas
        | MessageType::Get
        | MessageType::Search
        | MessageType::Scan
        | MessageType::Count
        | MessageType::GetAt
        | MessageType::SearchAt
        | MessageType::ScanAt
        | MessageType::CountAt => Queue::Search,
        MessageType::Put
        | MessageType::Delete
        | MessageType::PutWith
        | MessageType::DeleteWith
        | MessageType::PutAt
        | MessageType::DeleteAt
        | MessageType::Tickets => Queue::Wal,
        MessageType::BackupRead | MessageType::Compare => Queue::Background,
        MessageType::CollectionCreate
        | MessageType::CollectionList
        | MessageType::CollectionShow
        | MessageType::CollectionDrop
        | MessageType::NodeStatus
        | MessageType::NodeChange
        | MessageType::TenantChange
        | MessageType::TenantList
        | MessageType::BackupBegin
        | MessageType::BackupEnd => Queue::Control,
    }
}
