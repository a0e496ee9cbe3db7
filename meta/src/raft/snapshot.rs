//! The snapshot file: the cluster's state as of one entry of the log.
//!
//! ```text
//!  0        8        12       16           24           32       36       40        44
//! ┌────────┬────────┬────────┬────────────┬────────────┬────────┬────────┬─────────┐
//! │ magic  │ version│ zero   │ meta       │ state      │ meta   │ state  │ header  │ meta, state …
//! │ 8 B    │ u32    │ u32    │ length u64 │ length u64 │ crc u32│ crc u32│ crc u32 │ zeros
//! └────────┴────────┴────────┴────────────┴────────────┴────────┴────────┴─────────┘
//! ```
//!
//! All numbers little endian, checksums CRC-32C. The meta part is JSON, the state is what
//! [`ClusterState::encode`] writes. A new snapshot is written beside the old one and takes its name
//! when it is durable, so there is always one whole snapshot.

use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, NodeId, OpenMode};
use serde::{Deserialize, Serialize};

use super::types::{Leader, LogId, Membership, MembershipRecord, SnapshotMeta, StoredMembership};
use crate::cluster::{CLUSTER_BYTES_MAX, ClusterState, DecodeError, EncodeError};

const MAGIC: &[u8; 8] = b"HDLRAFTS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 44;
/// Largest meta part (1 MiB): 128 members of at most 320 bytes in two configurations, and room.
const META_BYTES_MAX: usize = 1 << 20;
pub(super) const FILE_BYTES_MAX: usize =
    (HEADER_BYTES + META_BYTES_MAX + CLUSTER_BYTES_MAX).next_multiple_of(PAGE_SIZE_BYTES);

/// Why a snapshot could not be read, written or taken over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The disk refused. The old snapshot is still the valid one.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The file is damaged; no crash does that. Nothing was changed. The log does not hold what the
    /// snapshot held: remove the node and add it as a new one.
    #[error("{path} is damaged: {what}")]
    Corrupt {
        /// The file.
        path: String,
        /// What does not hold.
        what: String,
    },
    /// The file was written by a newer version. Nothing was changed.
    #[error("{path} has format version {found}, this server reads up to {VERSION}")]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
    },
    /// The state of the snapshot is none. Nothing was changed.
    #[error("the snapshot's state: {0}")]
    State(#[from] DecodeError),
    /// The state does not fit its stored form. Nothing was written.
    #[error(transparent)]
    TooLarge(#[from] EncodeError),
}

impl From<SnapshotError> for std::io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::other(error)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogIdRecord {
    term: u64,
    node: NodeId,
    index: u64,
}

impl From<&LogId> for LogIdRecord {
    fn from(log_id: &LogId) -> Self {
        let Leader { term, node_id } = log_id.leader_id;
        Self { term, node: node_id, index: log_id.index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        let leader_id = Leader { term: record.term, node_id: record.node };
        Self { leader_id, index: record.index }
    }
}

/// The stored form of the meta part: ours, so that it does not change with openraft's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaRecord {
    last: Option<LogIdRecord>,
    membership_at: Option<LogIdRecord>,
    membership: MembershipRecord,
}

/// A snapshot in memory: what it covers, and the encoded state.
#[derive(Clone, Debug)]
pub(super) struct StoredSnapshot {
    pub(super) meta: SnapshotMeta,
    pub(super) state: Vec<u8>,
}

fn snapshot_path(directory: &str) -> String {
    format!("{directory}/snapshot")
}

fn new_path(directory: &str) -> String {
    format!("{directory}/snapshot.tmp")
}

async fn remove_leftover<D: Device>(device: &D, directory: &str) -> Result<(), DeviceError> {
    match device.remove(&new_path(directory)).await {
        Ok(()) | Err(DeviceError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a snapshot in the place of the one before; durable when this returns.
pub(super) async fn write<D: Device>(
    device: &D,
    directory: &str,
    snapshot: &StoredSnapshot,
) -> Result<(), SnapshotError> {
    remove_leftover(device, directory).await?;
    let path = new_path(directory);
    let file = device.open(&path, OpenMode::CreateNew).await?;
    file.write_at(0, AlignedBuf::from_slice(&encode(snapshot))).await?;
    file.sync().await?;
    file.close().await?;
    device.rename(&path, &snapshot_path(directory)).await?;
    Ok(device.sync_dir(directory).await?)
}

/// Reads the snapshot with the state in it; none when there was never one.
pub(super) async fn read<D: Device>(
    device: &D,
    directory: &str,
) -> Result<Option<(StoredSnapshot, ClusterState)>, SnapshotError> {
    remove_leftover(device, directory).await?;
    let path = snapshot_path(directory);
    let file = match device.open(&path, OpenMode::Read).await {
        Ok(file) => file,
        Err(DeviceError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = usize::try_from(file.length().await?).unwrap_or(usize::MAX);
    let readable = length.min(FILE_BYTES_MAX) / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES;
    let bytes = file.read_at(0, readable).await?;
    file.close().await?;
    let snapshot = decode(&path, &bytes)?;
    let state = ClusterState::decode(&snapshot.state)?;
    Ok(Some((snapshot, state)))
}

pub(super) fn encode(snapshot: &StoredSnapshot) -> Vec<u8> {
    let StoredSnapshot { meta, state } = snapshot;
    let record = MetaRecord {
        last: meta.last_log_id.as_ref().map(LogIdRecord::from),
        membership_at: meta.last_membership.log_id().as_ref().map(LogIdRecord::from),
        membership: MembershipRecord::from(meta.last_membership.membership()),
    };
    let meta = serde_json::to_vec(&record).expect("its keys are strings");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + meta.len() + state.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(meta.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(state.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&meta).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(state).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend_from_slice(&meta);
    bytes.extend_from_slice(state);
    bytes
}

pub(super) fn decode(path: &str, bytes: &[u8]) -> Result<StoredSnapshot, SnapshotError> {
    let corrupt = |what: String| SnapshotError::Corrupt { path: path.to_owned(), what };
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt(format!("{} bytes are less than a header", bytes.len())));
    };
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    if header[..8] != MAGIC[..] || u32_at(40) != crc32c::crc32c(&header[..40]) {
        return Err(corrupt("the header's magic or checksum is wrong".to_owned()));
    }
    if u32_at(8) > VERSION {
        return Err(SnapshotError::Version { path: path.to_owned(), found: u32_at(8) });
    }
    if u64_at(16) > META_BYTES_MAX as u64 {
        return Err(corrupt(format!("a meta part of {} bytes", u64_at(16))));
    }
    let longer = || corrupt("its parts are longer than the file".to_owned());
    let (meta, rest) = split(rest, u64_at(16)).ok_or_else(longer)?;
    let (state, _) = split(rest, u64_at(24)).ok_or_else(longer)?;
    for (what, part, expected) in [("meta", meta, u32_at(32)), ("state", state, u32_at(36))] {
        let found = crc32c::crc32c(part);
        if found != expected {
            let found = format!("the {what} part's checksum is {found:#010x}");
            return Err(corrupt(format!("{found}, expected {expected:#010x}")));
        }
    }
    let wrong = |what: String| corrupt(format!("the meta part: {what}"));
    let record: MetaRecord =
        serde_json::from_slice(meta).map_err(|error| wrong(error.to_string()))?;
    let membership = Membership::try_from(record.membership).map_err(wrong)?;
    let last_membership = StoredMembership::new(record.membership_at.map(LogId::from), membership);
    let last_log_id = record.last.map(LogId::from);
    Ok(StoredSnapshot {
        meta: SnapshotMeta { last_log_id, last_membership },
        state: state.to_vec(),
    })
}

fn split(bytes: &[u8], length: u64) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(length).ok()?)
}
