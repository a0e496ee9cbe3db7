//! Message numbers: what a frame is about.

/// Added to the number of a request to get the number of its reply.
pub const REPLY_BIT: u16 = 0x8000;
/// Number of the reply that carries an error, whatever the request was.
pub const ERROR_NUMBER: u16 = 0xFFFF;
/// Number of the notice that a server sends unasked: the topology has changed.
pub const NOTICE_NUMBER: u16 = 0x8003;

/// What a request asks for. Numbers are stable and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum MessageType {
    /// Agree on a version; learn who answers and what it allows.
    Hello = 0x0001,
    /// Nodes, cores, ports, collections and their routing tables.
    Topology = 0x0002,
    /// The topology with every replica of every shard.
    TopologyReplicas = 0x0004,
    /// Create a collection.
    CollectionCreate = 0x0010,
    /// List every collection.
    CollectionList = 0x0011,
    /// Show one collection.
    CollectionShow = 0x0012,
    /// Drop a collection and its data.
    CollectionDrop = 0x0013,
    /// Create, activate, deactivate or delete tenants of a collection.
    TenantChange = 0x0014,
    /// List tenants of a collection.
    TenantList = 0x0015,
    /// Write objects.
    Put = 0x0020,
    /// Read objects by id.
    Get = 0x0021,
    /// Delete objects by id.
    Delete = 0x0022,
    /// Write objects, acknowledged when the request says.
    PutWith = 0x0023,
    /// Delete objects by id, acknowledged when the request says.
    DeleteWith = 0x0024,
    /// Write objects at a level, on terms.
    PutAt = 0x0025,
    /// Delete objects by id at a level, on terms.
    DeleteAt = 0x0026,
    /// Read objects by id at a level.
    GetAt = 0x0027,
    /// Take stamps to write with later.
    Tickets = 0x0028,
    /// Find the nearest neighbours of vectors.
    Search = 0x0030,
    /// List objects in the order of their ids, page by page.
    Scan = 0x0031,
    /// Count objects.
    Count = 0x0032,
    /// Find the nearest neighbours of vectors at a level.
    SearchAt = 0x0033,
    /// List objects at a level.
    ScanAt = 0x0034,
    /// Count objects at a level.
    CountAt = 0x0035,
    /// What the node is doing.
    NodeStatus = 0x0040,
    /// A node of the cluster begins to leave, stays after all, or leaves.
    NodeChange = 0x0041,
    /// Compare the replicas of a collection.
    Compare = 0x0042,
    /// Take a consistent copy of what the node holds.
    BackupBegin = 0x0050,
    /// Read a part of a file of that copy.
    BackupRead = 0x0051,
    /// Give the copy up.
    BackupEnd = 0x0052,
}

impl MessageType {
    /// Every type, by number.
    pub const ALL: [Self; 30] = [
        Self::Hello,
        Self::Topology,
        Self::TopologyReplicas,
        Self::CollectionCreate,
        Self::CollectionList,
        Self::CollectionShow,
        Self::CollectionDrop,
        Self::TenantChange,
        Self::TenantList,
        Self::Put,
        Self::Get,
        Self::Delete,
        Self::PutWith,
        Self::DeleteWith,
        Self::PutAt,
        Self::DeleteAt,
        Self::GetAt,
        Self::Tickets,
        Self::Search,
        Self::Scan,
        Self::Count,
        Self::SearchAt,
        Self::ScanAt,
        Self::CountAt,
        Self::NodeStatus,
        Self::NodeChange,
        Self::Compare,
        Self::BackupBegin,
        Self::BackupRead,
        Self::BackupEnd,
    ];

    /// Number of a request frame.
    #[must_use]
    pub const fn request_number(self) -> u16 {
        self as u16
    }

    /// Number of the reply frame.
    #[must_use]
    pub const fn reply_number(self) -> u16 {
        self as u16 | REPLY_BIT
    }

    /// The type of a request number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.request_number() == number)
    }

    /// Lower-case name, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Topology => "topology",
            Self::TopologyReplicas => "topology_replicas",
            Self::CollectionCreate => "collection_create",
            Self::CollectionList => "collection_list",
            Self::CollectionShow => "collection_show",
            Self::CollectionDrop => "collection_drop",
            Self::TenantChange => "tenant_change",
            Self::TenantList => "tenant_list",
            Self::Put => "put",
            Self::Get => "get",
            Self::Delete => "delete",
            Self::PutWith => "put_with",
            Self::DeleteWith => "delete_with",
            Self::PutAt => "put_at",
            Self::DeleteAt => "delete_at",
            Self::GetAt => "get_at",
            Self::Tickets => "tickets",
            Self::Search => "search",
            Self::Scan => "scan",
            Self::Count => "count",
            Self::SearchAt => "search_at",
            Self::ScanAt => "scan_at",
            Self::CountAt => "count_at",
            Self::NodeStatus => "node_status",
            Self::NodeChange => "node_change",
            Self::Compare => "compare",
            Self::BackupBegin => "backup_begin",
            Self::BackupRead => "backup_read",
            Self::BackupEnd => "backup_end",
        }
    }
}

/// What a node asks another one about shards. Numbers are stable and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum ShardMessage {
    /// Write objects of a shard.
    Put = 0x0110,
    /// Delete objects of a shard.
    Delete = 0x0111,
    /// Read objects by id, or the objects of hits.
    Get = 0x0112,
    /// List objects of a shard in the order of their ids.
    Scan = 0x0113,
    /// Count objects.
    Count = 0x0114,
    /// Find the nearest neighbours of vectors in some shards.
    Search = 0x0115,
    /// Write what has its stamps to a replica.
    ReplicaWrite = 0x0120,
    /// Ask a replica for versions of objects.
    ReplicaDigest = 0x0121,
    /// Ask a replica for exact copies of objects.
    ReplicaRead = 0x0122,
    /// Let a replica coordinate writes that depend on what is there.
    ReplicaConditional = 0x0123,
}

impl ShardMessage {
    /// Every type, by number.
    pub const ALL: [Self; 10] = [
        Self::Put,
        Self::Delete,
        Self::Get,
        Self::Scan,
        Self::Count,
        Self::Search,
        Self::ReplicaWrite,
        Self::ReplicaDigest,
        Self::ReplicaRead,
        Self::ReplicaConditional,
    ];

    /// Number of a request frame.
    #[must_use]
    pub const fn request_number(self) -> u16 {
        self as u16
    }

    /// Number of the reply frame.
    #[must_use]
    pub const fn reply_number(self) -> u16 {
        self as u16 | REPLY_BIT
    }

    /// The type of a request number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.request_number() == number)
    }

    /// Lower-case name, for logs and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "shard_put",
            Self::Delete => "shard_delete",
            Self::Get => "shard_get",
            Self::Scan => "shard_scan",
            Self::Count => "shard_count",
            Self::Search => "shard_search",
            Self::ReplicaWrite => "replica_write",
            Self::ReplicaDigest => "replica_digest",
            Self::ReplicaRead => "replica_read",
            Self::ReplicaConditional => "replica_conditional",
        }
    }
}

/// What a replica asks another one to become equal. Numbers are stable and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum RepairMessage {
    /// Take part in a comparison.
    Begin = 0x0130,
    /// Name the versions of some leaves.
    Page = 0x0131,
    /// Give exact copies.
    Read = 0x0132,
    /// Take exact copies.
    Write = 0x0133,
    /// Note that all replicas are the same below a time.
    Floor = 0x0134,
    /// Compare its shard with the other replicas, and change nothing.
    Check = 0x0135,
}

impl RepairMessage {
    /// Every type, by number.
    pub const ALL: [Self; 6] =
        [Self::Begin, Self::Page, Self::Read, Self::Write, Self::Floor, Self::Check];

    /// Number of a request frame.
    #[must_use]
    pub const fn request_number(self) -> u16 {
        self as u16
    }

    /// Number of the reply frame.
    #[must_use]
    pub const fn reply_number(self) -> u16 {
        self as u16 | REPLY_BIT
    }

    /// The type of a request number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.request_number() == number)
    }
}

/// What the type field of a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A request.
    Request(MessageType),
    /// The reply to a request of this type.
    Reply(MessageType),
    /// The reply that carries an error.
    Error,
    /// The topology has changed; no reply to anything.
    Notice,
    /// A number that this version does not know between clients and servers.
    Unknown(u16),
}

impl FrameKind {
    /// Reads a type field; every number is something.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        if number == ERROR_NUMBER {
            return Self::Error;
        }
        if number == NOTICE_NUMBER {
            return Self::Notice;
        }
        match MessageType::from_number(number & !REPLY_BIT) {
            Some(kind) if number & REPLY_BIT == 0 => Self::Request(kind),
            Some(kind) => Self::Reply(kind),
            None => Self::Unknown(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read_back_as_what_it_was() {
        for kind in MessageType::ALL {
            assert_eq!(FrameKind::from_number(kind.request_number()), FrameKind::Request(kind));
            assert_eq!(FrameKind::from_number(kind.reply_number()), FrameKind::Reply(kind));
        }
        assert_eq!(FrameKind::from_number(ERROR_NUMBER), FrameKind::Error);
        assert_eq!(FrameKind::from_number(NOTICE_NUMBER), FrameKind::Notice);
        for kind in ShardMessage::ALL {
            let number = kind.request_number();
            assert_eq!(ShardMessage::from_number(number), Some(kind));
            assert_eq!(FrameKind::from_number(number), FrameKind::Unknown(number));
        }
        for number in [0, 0x8000, 0x7FFF, 0x0099, 0x8099] {
            assert_eq!(FrameKind::from_number(number), FrameKind::Unknown(number));
        }
    }
}
