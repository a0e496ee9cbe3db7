//! The bytes of the Raft log file.
//!
//! ```text
//! page 0
//!  0        8        12       16               32           40       48        52
//! ┌────────┬────────┬────────┬────────────────┬────────────┬────────┬─────────┐
//! │ magic  │ version│ zero   │ node           │ generation │ file   │ header  │ zeros …
//! │ 8 B    │ u32    │ u32    │ 16 B           │ u64        │ len u64│ crc u32 │
//! └────────┴────────┴────────┴────────────────┴────────────┴────────┴─────────┘
//! batches, each from the start of a page
//!  0        4        8            16           24       28      32        36        40
//! ┌────────┬────────┬────────────┬────────────┬────────┬───────┬─────────┬─────────┐
//! │ magic  │ records│ generation │ sequence   │ length │ zero  │ payload │ header  │ payload …
//! │ u32    │ u32    │ u64        │ u64        │ u32    │ u32   │ crc u32 │ crc u32 │
//! └────────┴────────┴────────────┴────────────┴────────┴───────┴─────────┴─────────┘
//! records, one after the other in a payload
//!  0      1        4        8
//! ┌──────┬────────┬────────┐
//! │ kind │ zero   │ length │ body …
//! │ u8   │ 3 B    │ u32    │
//! └──────┴────────┴────────┘
//! ```
//!
//! All numbers little endian, checksums CRC-32C. Behind the last batch the file is zeros.

use heddle_types::NodeId;
use heddle_types::limits::PAGE_SIZE_BYTES;
use uuid::Uuid;

use crate::cluster::REQUEST_BYTES_MAX;
use crate::raft::types::{Entry, Leader, LogId, Membership, MembershipRecord, Payload, Vote};

pub(super) const FILE_MAGIC: &[u8; 8] = b"HDLRAFTL";
pub(super) const FILE_VERSION: u32 = 1;
pub(super) const FILE_HEADER_BYTES: usize = 52;
/// `HRLB` as bytes.
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"HRLB");
pub(super) const BATCH_HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 8;
const LOG_ID_BYTES: usize = 32;
/// Largest payload of a batch: the largest change and its record, rounded up.
pub(super) const BATCH_PAYLOAD_BYTES_MAX: usize = REQUEST_BYTES_MAX + PAGE_SIZE_BYTES;

const _: () = assert!(RECORD_HEADER_BYTES + LOG_ID_BYTES + 1 < PAGE_SIZE_BYTES);

/// A change of the stored Raft state.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Record {
    /// The node voted.
    Vote(Vote),
    /// Entries up to here are known to be committed.
    Committed(LogId),
    /// An entry behind the last one.
    Entry(Box<Entry>),
    /// The entries behind this one are gone; all of them for none.
    Truncated(Option<LogId>),
    /// The entries up to this one are gone, because a snapshot holds them.
    Purged(LogId),
}

/// What the first page says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileHeader {
    pub(super) node: NodeId,
    pub(super) generation: u64,
    /// Bytes of the whole file: a shorter one has lost something.
    pub(super) length: u64,
}

impl FileHeader {
    pub(super) fn encode(self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(FILE_MAGIC);
        bytes[8..12].copy_from_slice(&FILE_VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(self.node.0.as_bytes());
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.length.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..48]);
        bytes[48..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header and its version; `None` when magic or checksum are wrong.
    pub(super) fn decode(page: &[u8]) -> Option<(u32, Self)> {
        let mut reader = Reader(page.get(..FILE_HEADER_BYTES)?);
        let crc = crc32c::crc32c(&page[..48]);
        let magic = reader.array::<8>()?;
        let version = reader.u32()?;
        reader.u32()?;
        let node = NodeId(Uuid::from_bytes(reader.array()?));
        let (generation, length) = (reader.u64()?, reader.u64()?);
        let is_whole = magic == *FILE_MAGIC && reader.u32()? == crc;
        is_whole.then_some((version, Self { node, generation, length }))
    }
}

/// What the start of a batch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    pub(super) generation: u64,
    pub(super) sequence: u64,
    pub(super) record_count: u32,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
}

impl BatchHeader {
    fn encode(self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of a page; `None` when magic, checksum or length are wrong.
    pub(super) fn decode(page: &[u8]) -> Option<Self> {
        let mut reader = Reader(page.get(..BATCH_HEADER_BYTES)?);
        let crc = crc32c::crc32c(&page[..36]);
        let magic = reader.u32()?;
        let record_count = reader.u32()?;
        let (generation, sequence) = (reader.u64()?, reader.u64()?);
        let payload_bytes = reader.u32()?;
        reader.u32()?;
        let payload_crc = reader.u32()?;
        let is_whole = magic == BATCH_MAGIC
            && reader.u32()? == crc
            && payload_bytes as usize <= BATCH_PAYLOAD_BYTES_MAX;
        is_whole.then_some(Self { generation, sequence, record_count, payload_bytes, payload_crc })
    }

    /// Bytes of the batch in the file: whole pages.
    pub(super) fn file_bytes(self) -> usize {
        file_bytes(self.payload_bytes as usize)
    }

    /// The payload in the bytes of the whole batch.
    pub(super) fn payload_in(self, batch: &[u8]) -> &[u8] {
        &batch[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + self.payload_bytes as usize]
    }
}

fn file_bytes(payload_bytes: usize) -> usize {
    (BATCH_HEADER_BYTES + payload_bytes).next_multiple_of(PAGE_SIZE_BYTES)
}

/// Encoded records on their way into a file.
#[derive(Debug)]
pub(super) struct Batch {
    payload: Vec<u8>,
    record_count: u32,
}

impl Batch {
    pub(super) fn of(record: &Record) -> Self {
        let mut payload = vec![0; RECORD_HEADER_BYTES];
        payload[0] = encode_body(record, &mut payload);
        let length = (payload.len() - RECORD_HEADER_BYTES) as u32;
        payload[4..8].copy_from_slice(&length.to_le_bytes());
        Self { payload, record_count: 1 }
    }

    /// Moves the records of `other` behind those of this batch, if they fit one batch.
    pub(super) fn try_extend(&mut self, other: Self) -> Result<(), Self> {
        if self.payload.len() + other.payload.len() > BATCH_PAYLOAD_BYTES_MAX {
            return Err(other);
        }
        self.payload.extend_from_slice(&other.payload);
        self.record_count += other.record_count;
        Ok(())
    }

    /// Encoded size of all records.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Bytes of the batch in a file: whole pages.
    pub(super) fn file_bytes(&self) -> usize {
        file_bytes(self.payload.len())
    }

    /// The batch as it stands in a file, without the padding of its last page.
    pub(super) fn encode(&self, generation: u64, sequence: u64) -> Vec<u8> {
        assert!(self.payload.len() <= BATCH_PAYLOAD_BYTES_MAX, "batches are bounded as they grow");
        let header = BatchHeader {
            generation,
            sequence,
            record_count: self.record_count,
            payload_bytes: self.payload.len() as u32,
            payload_crc: crc32c::crc32c(&self.payload),
        };
        [header.encode().as_slice(), &self.payload].concat()
    }
}

const KIND_VOTE: u8 = 1;
const KIND_COMMITTED: u8 = 2;
const KIND_ENTRY: u8 = 3;
const KIND_TRUNCATED: u8 = 4;
const KIND_PURGED: u8 = 5;

const PAYLOAD_BLANK: u8 = 0;
const PAYLOAD_REQUEST: u8 = 1;
const PAYLOAD_MEMBERSHIP: u8 = 2;

fn encode_body(record: &Record, target: &mut Vec<u8>) -> u8 {
    match record {
        Record::Vote(vote) => {
            encode_vote(vote, target);
            KIND_VOTE
        }
        Record::Committed(log_id) => {
            encode_log_id(log_id, target);
            KIND_COMMITTED
        }
        Record::Entry(entry) => {
            encode_entry(entry, target);
            KIND_ENTRY
        }
        Record::Truncated(log_id) => {
            log_id.iter().for_each(|log_id| encode_log_id(log_id, target));
            KIND_TRUNCATED
        }
        Record::Purged(log_id) => {
            encode_log_id(log_id, target);
            KIND_PURGED
        }
    }
}

pub(in crate::raft) fn encode_entry(entry: &Entry, target: &mut Vec<u8>) {
    encode_log_id(&entry.log_id, target);
    let (kind, payload) = match &entry.payload {
        Payload::Blank => (PAYLOAD_BLANK, Vec::new()),
        Payload::Normal(request) => (PAYLOAD_REQUEST, request.encode()),
        Payload::Membership(membership) => {
            let record = MembershipRecord::from(membership);
            let encoded = serde_json::to_vec(&record).expect("node ids are strings");
            (PAYLOAD_MEMBERSHIP, encoded)
        }
    };
    target.push(kind);
    target.extend_from_slice(&payload);
}

pub(in crate::raft) fn encode_vote(vote: &Vote, target: &mut Vec<u8>) {
    encode_leader(&vote.leader_id, target);
    target.push(u8::from(vote.committed));
}

fn encode_leader(leader: &Leader, target: &mut Vec<u8>) {
    target.extend_from_slice(&leader.term.to_le_bytes());
    target.extend_from_slice(leader.node_id.0.as_bytes());
}

pub(in crate::raft) fn encode_log_id(log_id: &LogId, target: &mut Vec<u8>) {
    encode_leader(&log_id.leader_id, target);
    target.extend_from_slice(&log_id.index.to_le_bytes());
}

/// The records of a payload whose checksum holds, each with its encoded size.
///
/// Errors: what does not hold, in words. Memory is taken for bytes that are there, never for a
/// number that they claim.
pub(super) fn decode_records(
    payload: &[u8],
    record_count: u32,
) -> Result<Vec<(Record, usize)>, String> {
    let mut reader = Reader(payload);
    let mut records = Vec::new();
    while !reader.0.is_empty() {
        let cut = || format!("record {} is cut off", records.len());
        let kind = reader.array::<4>().ok_or_else(cut)?[0];
        let length = reader.u32().ok_or_else(cut)?;
        let body = reader.take(length as usize).ok_or_else(cut)?;
        let record = decode_body(kind, body)
            .map_err(|what| format!("record {} of kind {kind}: {what}", records.len()))?;
        records.push((record, RECORD_HEADER_BYTES + body.len()));
    }
    if records.len() != record_count as usize {
        return Err(format!("{} records, {record_count} expected", records.len()));
    }
    Ok(records)
}

fn decode_body(kind: u8, body: &[u8]) -> Result<Record, String> {
    let mut reader = Reader(body);
    let length = || format!("{} bytes", body.len());
    let record = match kind {
        KIND_VOTE => Record::Vote(reader.vote().ok_or_else(length)?),
        KIND_COMMITTED => Record::Committed(reader.log_id().ok_or_else(length)?),
        KIND_ENTRY => Record::Entry(Box::new(decode_entry(std::mem::take(&mut reader.0))?)),
        KIND_TRUNCATED if body.is_empty() => Record::Truncated(None),
        KIND_TRUNCATED => Record::Truncated(Some(reader.log_id().ok_or_else(length)?)),
        KIND_PURGED => Record::Purged(reader.log_id().ok_or_else(length)?),
        _ => return Err("unknown".to_owned()),
    };
    if reader.0.is_empty() { Ok(record) } else { Err(length()) }
}

/// An entry that takes up all of some bytes.
pub(in crate::raft) fn decode_entry(bytes: &[u8]) -> Result<Entry, String> {
    let mut reader = Reader(bytes);
    let length = || format!("{} bytes", bytes.len());
    let log_id = reader.log_id().ok_or_else(length)?;
    let [kind] = reader.array().ok_or_else(length)?;
    let payload = decode_payload(kind, reader.0)?;
    Ok(Entry { log_id, payload })
}

fn decode_payload(kind: u8, bytes: &[u8]) -> Result<Payload, String> {
    match kind {
        PAYLOAD_BLANK if bytes.is_empty() => Ok(Payload::Blank),
        PAYLOAD_REQUEST => {
            serde_json::from_slice(bytes).map(Payload::Normal).map_err(|error| error.to_string())
        }
        PAYLOAD_MEMBERSHIP => {
            let record: MembershipRecord =
                serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
            Membership::try_from(record).map(Payload::Membership)
        }
        _ => Err(format!("payload of kind {kind} and {} bytes", bytes.len())),
    }
}

/// Takes numbers off the front of some bytes.
pub(in crate::raft) struct Reader<'a>(pub(in crate::raft) &'a [u8]);

impl<'a> Reader<'a> {
    pub(in crate::raft) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    pub(in crate::raft) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    pub(in crate::raft) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn leader(&mut self) -> Option<Leader> {
        let term = self.u64()?;
        Some(Leader { term, node_id: NodeId(Uuid::from_bytes(self.array()?)) })
    }

    pub(in crate::raft) fn vote(&mut self) -> Option<Vote> {
        let leader_id = self.leader()?;
        let [committed] = self.array()?;
        Some(Vote { leader_id, committed: committed != 0 })
    }

    pub(in crate::raft) fn log_id(&mut self) -> Option<LogId> {
        let leader_id = self.leader()?;
        Some(LogId { leader_id, index: self.u64()? })
    }
}
