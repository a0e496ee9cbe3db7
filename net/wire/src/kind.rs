//! Message numbers: what a frame is about.

/// Added to the number of a request to get the number of its reply.
pub const REPLY_BIT: u16 = 0x8000;
/// Number of the reply that carries an error, whatever the request was.
pub const ERROR_NUMBER: u16 = 0xFFFF;
/// Number of the notice that a server sends unasked: the topology has changed.
pub const NOTICE_NUMBER: u16 = 0x8003;

/// An enum of messages, each with its number and its lower-case name.
macro_rules! numbered {
    (
        $(#[$doc:meta])*
        pub enum $name:ident {
            $($(#[$what:meta])* $kind:ident = $number:literal, $label:literal;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum $name {
            $($(#[$what])* $kind = $number,)*
        }

        impl $name {
            /// Every type, by number.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$kind),*];

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

            /// Lower-case name, for logs, errors and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $label,)*
                }
            }
        }
    };
}

numbered! {
    /// What a request asks for. Numbers are stable and never reused.
    pub enum MessageType {
        /// Agree on a version; learn who answers and what it allows.
        Hello = 0x0001, "hello";
        /// Nodes, cores, ports, collections and their routing tables.
        Topology = 0x0002, "topology";
        /// The topology with every replica of every shard.
        TopologyReplicas = 0x0004, "topology_replicas";
        /// Create a collection.
        CollectionCreate = 0x0010, "collection_create";
        /// List every collection.
        CollectionList = 0x0011, "collection_list";
        /// Show one collection.
        CollectionShow = 0x0012, "collection_show";
        /// Drop a collection and its data.
        CollectionDrop = 0x0013, "collection_drop";
        /// Create, activate, deactivate or delete tenants of a collection.
        TenantChange = 0x0014, "tenant_change";
        /// List tenants of a collection.
        TenantList = 0x0015, "tenant_list";
        /// Write objects.
        Put = 0x0020, "put";
        /// Read objects by id.
        Get = 0x0021, "get";
        /// Delete objects by id.
        Delete = 0x0022, "delete";
        /// Write objects, acknowledged when the request says.
        PutWith = 0x0023, "put_with";
        /// Delete objects by id, acknowledged when the request says.
        DeleteWith = 0x0024, "delete_with";
        /// Write objects at a level, on terms.
        PutAt = 0x0025, "put_at";
        /// Delete objects by id at a level, on terms.
        DeleteAt = 0x0026, "delete_at";
        /// Read objects by id at a level.
        GetAt = 0x0027, "get_at";
        /// Take stamps to write with later.
        Tickets = 0x0028, "tickets";
        /// Find the nearest neighbours of vectors.
        Search = 0x0030, "search";
        /// List objects in the order of their ids, page by page.
        Scan = 0x0031, "scan";
        /// Count objects.
        Count = 0x0032, "count";
        /// Find the nearest neighbours of vectors at a level.
        SearchAt = 0x0033, "search_at";
        /// List objects at a level.
        ScanAt = 0x0034, "scan_at";
        /// Count objects at a level.
        CountAt = 0x0035, "count_at";
        /// What the node is doing.
        NodeStatus = 0x0040, "node_status";
        /// A node of the cluster begins to leave, stays after all, or leaves.
        NodeChange = 0x0041, "node_change";
        /// Compare the replicas of a collection.
        Compare = 0x0042, "compare";
        /// Take a consistent copy of what the node holds.
        BackupBegin = 0x0050, "backup_begin";
        /// Read a part of a file of that copy.
        BackupRead = 0x0051, "backup_read";
        /// Give the copy up.
        BackupEnd = 0x0052, "backup_end";
    }
}

numbered! {
    /// What a node asks another one about shards. Numbers are stable and never reused.
    pub enum ShardMessage {
        /// Write objects of a shard.
        Put = 0x0110, "shard_put";
        /// Delete objects of a shard.
        Delete = 0x0111, "shard_delete";
        /// Read objects by id, or the objects of hits.
        Get = 0x0112, "shard_get";
        /// List objects of a shard in the order of their ids.
        Scan = 0x0113, "shard_scan";
        /// Count objects.
        Count = 0x0114, "shard_count";
        /// Find the nearest neighbours of vectors in some shards.
        Search = 0x0115, "shard_search";
        /// Write what has its stamps to a replica.
        ReplicaWrite = 0x0120, "replica_write";
        /// Ask a replica for versions of objects.
        ReplicaDigest = 0x0121, "replica_digest";
        /// Ask a replica for exact copies of objects.
        ReplicaRead = 0x0122, "replica_read";
        /// Let a replica coordinate writes that depend on what is there.
        ReplicaConditional = 0x0123, "replica_conditional";
    }
}

numbered! {
    /// What a replica asks another one to become equal. Numbers are stable and never reused.
    pub enum RepairMessage {
        /// Take part in a comparison.
        Begin = 0x0130, "repair_begin";
        /// Name the versions of some leaves.
        Page = 0x0131, "repair_page";
        /// Give exact copies.
        Read = 0x0132, "repair_read";
        /// Take exact copies.
        Write = 0x0133, "repair_write";
        /// Note that all replicas are the same below a time.
        Floor = 0x0134, "repair_floor";
        /// Compare its shard with the other replicas, and change nothing.
        Check = 0x0135, "repair_check";
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
