//! Message numbers: what a frame is about.

/// Added to the number of a request to get the number of its reply.
pub const REPLY_BIT: u16 = 0x8000;
/// Number of the reply that carries an error, whatever the request was.
pub const ERROR_NUMBER: u16 = 0xFFFF;

/// What a request asks for. Numbers are stable and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum MessageType {
    /// Agree on a version; learn who answers and what it allows.
    Hello = 0x0001,
    /// Nodes, cores, ports, collections and their routing tables.
    Topology = 0x0002,
    /// Create a collection.
    CollectionCreate = 0x0010,
    /// List every collection.
    CollectionList = 0x0011,
    /// Show one collection.
    CollectionShow = 0x0012,
    /// Drop a collection and its data.
    CollectionDrop = 0x0013,
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
    /// Find the nearest neighbours of vectors.
    Search = 0x0030,
    /// List objects in the order of their ids, page by page.
    Scan = 0x0031,
    /// Count objects.
    Count = 0x0032,
    /// What the node is doing.
    NodeStatus = 0x0040,
    /// Take a consistent copy of what the node holds.
    BackupBegin = 0x0050,
    /// Read a part of a file of that copy.
    BackupRead = 0x0051,
    /// Give the copy up.
    BackupEnd = 0x0052,
}

impl MessageType {
    /// Every type, by number.
    pub const ALL: [Self; 18] = [
        Self::Hello,
        Self::Topology,
        Self::CollectionCreate,
        Self::CollectionList,
        Self::CollectionShow,
        Self::CollectionDrop,
        Self::Put,
        Self::Get,
        Self::Delete,
        Self::PutWith,
        Self::DeleteWith,
        Self::Search,
        Self::Scan,
        Self::Count,
        Self::NodeStatus,
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
            Self::CollectionCreate => "collection_create",
            Self::CollectionList => "collection_list",
            Self::CollectionShow => "collection_show",
            Self::CollectionDrop => "collection_drop",
            Self::Put => "put",
            Self::Get => "get",
            Self::Delete => "delete",
            Self::PutWith => "put_with",
            Self::DeleteWith => "delete_with",
            Self::Search => "search",
            Self::Scan => "scan",
            Self::Count => "count",
            Self::NodeStatus => "node_status",
            Self::BackupBegin => "backup_begin",
            Self::BackupRead => "backup_read",
            Self::BackupEnd => "backup_end",
        }
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
    /// A number that this version does not know.
    Unknown(u16),
}

impl FrameKind {
    /// Reads a type field; every number is something.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        if number == ERROR_NUMBER {
            return Self::Error;
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
        for number in [0, 0x8000, 0x7FFF, 0x0099, 0x8099] {
            assert_eq!(FrameKind::from_number(number), FrameKind::Unknown(number));
        }
    }
}
