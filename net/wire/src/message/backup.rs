//! Fetching a consistent copy of what a node holds.

use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, at_most, equal};
use crate::limits::{BACKUP_NAME_BYTES_MAX, BACKUP_READ_BYTES_MAX, BACKUP_TEXT_BYTES_MAX};

/// Asks the node to take a backup and to keep its files until [`BackupEndRequest`], its next start,
/// or until nobody has read of it for a while.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct BackupBeginRequest {
    /// What to do about shards that are damaged and not served: 0 refuse, 1 leave them out.
    pub damaged: u8,
}

impl Layout for BackupBeginRequest {
    fn check(archived: &ArchivedBackupBeginRequest) -> Checked {
        super::check::known("mode of damaged shards", archived.damaged, 1)
    }
}

/// The backup is complete and its files wait.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct BackupBeginReply {
    /// Identity of the backup, 16 bytes.
    pub backup: Vec<u8>,
    /// A JSON object: `manifest_bytes`, the bytes of the file `MANIFEST`, which is read like the
    /// other files and names them.
    pub json: String,
}

impl Layout for BackupBeginReply {
    fn check(archived: &ArchivedBackupBeginReply) -> Checked {
        equal("backup id length", archived.backup.len(), 16)?;
        at_most("backup description length", archived.json.len(), BACKUP_TEXT_BYTES_MAX)
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.json.len()
    }
}

/// Asks for a part of a file of a backup.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct BackupReadRequest {
    /// Identity of the backup, 16 bytes.
    pub backup: Vec<u8>,
    /// Name of the file as the description has it.
    pub name: String,
    /// Where the part begins.
    pub offset: u64,
    /// Bytes wanted.
    pub length: u32,
}

impl Layout for BackupReadRequest {
    fn check(archived: &ArchivedBackupReadRequest) -> Checked {
        equal("backup id length", archived.backup.len(), 16)?;
        at_most("file name length", archived.name.len(), BACKUP_NAME_BYTES_MAX)?;
        at_most("bytes wanted", archived.length.to_native() as usize, BACKUP_READ_BYTES_MAX)
    }
}

/// The bytes; fewer than were asked for at the end of the file.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct BackupReadReply {
    /// As they are in the file.
    pub bytes: Vec<u8>,
}

impl Layout for BackupReadReply {
    fn check(archived: &ArchivedBackupReadReply) -> Checked {
        at_most("bytes", archived.bytes.len(), BACKUP_READ_BYTES_MAX)
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.bytes.len()
    }
}

/// Gives a backup up: its files go. One that is gone already is fine.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct BackupEndRequest {
    /// Identity of the backup, 16 bytes.
    pub backup: Vec<u8>,
}

impl Layout for BackupEndRequest {
    fn check(archived: &ArchivedBackupEndRequest) -> Checked {
        equal("backup id length", archived.backup.len(), 16)
    }
}

/// The files are gone.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct BackupEndReply {
    /// Zero.
    pub section: u8,
}

impl Layout for BackupEndReply {
    fn check(archived: &ArchivedBackupEndReply) -> Checked {
        super::check::known("backup section", archived.section, 0)
    }
}
