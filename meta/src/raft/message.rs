//! The bytes of what Raft nodes say to each other.
//!
//! All numbers little endian. `vote`: term u64, node 16, committed u8 (0 or 1). `log id`: term u64,
//! node 16, index u64. `log id?`: u8 1 and a log id, or u8 0.
//!
//! ```text
//! append     vote, previous log id?, committed log id?, entries to the end: length u32, then
//!            log id, kind u8 (0 blank, 1 change, 2 membership), payload as in the log
//! appended   kind u8: 0 all · 1 up to: log id? · 2 conflict · 3 higher vote: vote
//! vote       vote, last log id?, transfer of leadership u8
//! voted      vote, granted u8, last log id?
//! part       vote, checksum of the snapshot u32, its bytes u32, offset u32, bytes to the end
//! taken      nothing, or after the last part: vote
//! transfer   vote of the leader, successor 16, last log id?
//! moved      kind u8: 0 yes · 1 another vote: expected, actual vote · 2 log not there: expected,
//!            actual log id?
//! ```
//!
//! A snapshot is the content of its file. Who decodes checks everything that openraft takes for
//! granted: entries follow each other, a leader's vote is committed, the state of a snapshot is
//! one.

use heddle_types::{ApiError, ErrorCode, NodeId};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use uuid::Uuid;

use super::Host;
use super::log::format::{Reader, decode_entry, encode_entry, encode_log_id, encode_vote};
use super::snapshot::{self, FILE_BYTES_MAX, StoredSnapshot};
use super::types::{Entry, LogId, RaftTypes, SnapshotMeta, Vote};
use crate::cluster::ClusterState;

/// Bytes of a snapshot that travel in one message (4 MiB): the next message of another kind does
/// not wait long.
pub const SNAPSHOT_PART_BYTES: usize = 4 << 20;
/// Largest snapshot that is taken from another node: its file.
pub const SNAPSHOT_BYTES_MAX: usize = FILE_BYTES_MAX;

const _: () = assert!(SNAPSHOT_BYTES_MAX < u32::MAX as usize);

/// Bytes that are no such message. Nothing of them was used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Raft's {message}: {what}")]
pub struct MessageError {
    /// The message.
    pub message: &'static str,
    /// What does not hold.
    pub what: String,
}

impl From<MessageError> for ApiError {
    fn from(error: MessageError) -> Self {
        Self::new(ErrorCode::Protocol, error.to_string(), "")
    }
}

type Decoded<T> = Result<T, MessageError>;

/// Takes fields off the front of a message.
struct Fields<'a> {
    message: &'static str,
    length: usize,
    reader: Reader<'a>,
}

impl<'a> Fields<'a> {
    fn of(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { message, length: bytes.len(), reader: Reader(bytes) }
    }

    fn wrong(&self, what: impl Into<String>) -> MessageError {
        MessageError { message: self.message, what: what.into() }
    }

    fn there<T>(&self, field: Option<T>) -> Decoded<T> {
        field.ok_or_else(|| self.wrong(format!("{} bytes are too few", self.length)))
    }

    fn byte(&mut self) -> Decoded<u8> {
        let byte = self.reader.array();
        self.there(byte).map(|[byte]| byte)
    }

    fn flag(&mut self) -> Decoded<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.wrong(format!("a flag is {other}"))),
        }
    }

    fn number(&mut self) -> Decoded<usize> {
        let number = self.reader.u32();
        self.there(number).map(|number| number as usize)
    }

    fn node(&mut self) -> Decoded<NodeId> {
        let node = self.reader.array();
        self.there(node).map(|node| NodeId(Uuid::from_bytes(node)))
    }

    fn vote(&mut self) -> Decoded<Vote> {
        let committed = self.reader.0.get(24).copied();
        if committed.is_some_and(|committed| committed > 1) {
            return Err(self.wrong("the state of a vote is unknown"));
        }
        let vote = self.reader.vote();
        self.there(vote)
    }

    /// The vote of somebody who leads.
    fn leader(&mut self) -> Decoded<Vote> {
        let vote = self.vote()?;
        if !vote.committed {
            return Err(self.wrong(format!("the vote {vote} is not that of a leader")));
        }
        Ok(vote)
    }

    fn log_id(&mut self) -> Decoded<Option<LogId>> {
        if !self.flag()? {
            return Ok(None);
        }
        let log_id = self.reader.log_id();
        self.there(log_id).map(Some)
    }

    fn end<T>(self, value: T) -> Decoded<T> {
        match self.reader.0.len() {
            0 => Ok(value),
            rest => Err(self.wrong(format!("{rest} bytes are too many"))),
        }
    }
}

fn put_log_id(log_id: Option<&LogId>, target: &mut Vec<u8>) {
    target.push(u8::from(log_id.is_some()));
    if let Some(log_id) = log_id {
        encode_log_id(log_id, target);
    }
}

/// A leader's entries, or a sign of life.
#[must_use]
pub fn encode_append<H: Host>(request: &AppendEntriesRequest<RaftTypes<H>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_vote(&request.vote, &mut bytes);
    put_log_id(request.prev_log_id.as_ref(), &mut bytes);
    put_log_id(request.leader_commit.as_ref(), &mut bytes);
    for entry in &request.entries {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        encode_entry(entry, &mut bytes);
        let length = (bytes.len() - start - 4) as u32;
        bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    bytes
}

/// Reads [`encode_append`].
///
/// Errors: [`MessageError`]; also when the entries do not follow each other.
pub fn decode_append<H: Host>(bytes: &[u8]) -> Decoded<AppendEntriesRequest<RaftTypes<H>>> {
    let mut fields = Fields::of("append", bytes);
    let vote = fields.leader()?;
    let (prev_log_id, leader_commit) = (fields.log_id()?, fields.log_id()?);
    let mut entries: Vec<Entry> = Vec::new();
    let mut last = prev_log_id;
    while !fields.reader.0.is_empty() {
        let length = fields.number()?;
        let body = fields.reader.take(length);
        let body = fields.there(body)?;
        let entry = decode_entry(body)
            .map_err(|what| fields.wrong(format!("entry {}: {what}", entries.len())))?;
        let next = last.map_or(Some(0), |last| last.index.checked_add(1));
        let follows = next == Some(entry.log_id.index)
            && last.is_none_or(|last| last.leader_id <= entry.log_id.leader_id);
        if !follows {
            let (found, place) = (entry.log_id, entries.len());
            return Err(fields.wrong(format!("entry {place} is {found}, which is not next")));
        }
        last = Some(entry.log_id);
        entries.push(entry);
    }
    fields.end(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// The answer to entries.
#[must_use]
pub fn encode_appended<H: Host>(response: &AppendEntriesResponse<RaftTypes<H>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match response {
        AppendEntriesResponse::Success => bytes.push(0),
        AppendEntriesResponse::PartialSuccess(log_id) => {
            bytes.push(1);
            put_log_id(log_id.as_ref(), &mut bytes);
        }
        AppendEntriesResponse::Conflict => bytes.push(2),
        AppendEntriesResponse::HigherVote(vote) => {
            bytes.push(3);
            encode_vote(vote, &mut bytes);
        }
    }
    bytes
}

/// Reads [`encode_appended`]. Errors: [`MessageError`].
pub fn decode_appended<H: Host>(bytes: &[u8]) -> Decoded<AppendEntriesResponse<RaftTypes<H>>> {
    let mut fields = Fields::of("appended", bytes);
    let response = match fields.byte()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(fields.log_id()?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(fields.vote()?),
        other => return Err(fields.wrong(format!("kind {other}"))),
    };
    fields.end(response)
}

/// A candidate asks for votes, or whether it would get them.
#[must_use]
pub fn encode_ballot<H: Host>(request: &VoteRequest<RaftTypes<H>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_vote(&request.vote, &mut bytes);
    put_log_id(request.last_log_id.as_ref(), &mut bytes);
    bytes.push(u8::from(request.leadership_transfer));
    bytes
}

/// Reads [`encode_ballot`]. Errors: [`MessageError`].
pub fn decode_ballot<H: Host>(bytes: &[u8]) -> Decoded<VoteRequest<RaftTypes<H>>> {
    let mut fields = Fields::of("vote", bytes);
    let vote = fields.vote()?;
    if vote.committed {
        return Err(fields.wrong(format!("the vote {vote} is that of a leader")));
    }
    let last_log_id = fields.log_id()?;
    let leadership_transfer = fields.flag()?;
    fields.end(VoteRequest { vote, last_log_id, leadership_transfer })
}

/// The answer to a candidate.
#[must_use]
pub fn encode_voted<H: Host>(response: &VoteResponse<RaftTypes<H>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_vote(&response.vote, &mut bytes);
    bytes.push(u8::from(response.vote_granted));
    put_log_id(response.last_log_id.as_ref(), &mut bytes);
    bytes
}

/// Reads [`encode_voted`]. Errors: [`MessageError`].
pub fn decode_voted<H: Host>(bytes: &[u8]) -> Decoded<VoteResponse<RaftTypes<H>>> {
    let mut fields = Fields::of("voted", bytes);
    let vote = fields.vote()?;
    let vote_granted = fields.flag()?;
    let last_log_id = fields.log_id()?;
    fields.end(VoteResponse { vote, vote_granted, last_log_id })
}

/// A snapshot as it travels: the content of its file.
#[must_use]
pub fn encode_snapshot(meta: &SnapshotMeta, state: Vec<u8>) -> Vec<u8> {
    snapshot::encode(&StoredSnapshot { meta: meta.clone(), state })
}

/// Reads [`encode_snapshot`]: what it covers, and the encoded state.
///
/// Errors: [`MessageError`]; also when the state is none. Cost: the state is decoded once to see.
pub fn decode_snapshot(bytes: &[u8]) -> Decoded<(SnapshotMeta, Vec<u8>)> {
    let wrong = |what: String| MessageError { message: "snapshot", what };
    let stored = snapshot::decode("it", bytes).map_err(|error| wrong(error.to_string()))?;
    ClusterState::decode(&stored.state).map_err(|error| wrong(error.to_string()))?;
    Ok((stored.meta, stored.state))
}

/// A part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotPart<'a> {
    /// Of the leader that sends it.
    pub vote: Vote,
    /// CRC-32C of the whole snapshot.
    pub checksum: u32,
    /// Bytes of the whole snapshot.
    pub length: usize,
    /// Where the part begins.
    pub offset: usize,
    /// The part: at least one byte.
    pub bytes: &'a [u8],
}

impl<'a> SnapshotPart<'a> {
    /// Is it the last one?
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.offset + self.bytes.len() == self.length
    }

    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40 + self.bytes.len());
        encode_vote(&self.vote, &mut bytes);
        for number in [self.checksum, self.length as u32, self.offset as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.bytes);
        bytes
    }

    /// Reads [`SnapshotPart::encode`].
    ///
    /// Errors: [`MessageError`]; also when the part lies outside of the snapshot, or that is above
    /// [`SNAPSHOT_BYTES_MAX`].
    pub fn decode(bytes: &'a [u8]) -> Decoded<Self> {
        let mut fields = Fields::of("part", bytes);
        let vote = fields.leader()?;
        let checksum = fields.reader.u32();
        let checksum = fields.there(checksum)?;
        let (length, offset) = (fields.number()?, fields.number()?);
        let part = std::mem::take(&mut fields.reader.0);
        if length > SNAPSHOT_BYTES_MAX {
            let limit = SNAPSHOT_BYTES_MAX;
            return Err(fields.wrong(format!("a snapshot of {length} bytes, at most {limit}")));
        }
        if part.is_empty() || part.len() > SNAPSHOT_PART_BYTES {
            return Err(fields.wrong(format!("{} bytes", part.len())));
        }
        if offset + part.len() > length {
            let end = offset + part.len();
            return Err(fields.wrong(format!("it ends at {end}, the snapshot at {length}")));
        }
        fields.end(Self { vote, checksum, length, offset, bytes: part })
    }
}

/// The answer to a part; after the last one with that of the node.
#[must_use]
pub fn encode_taken<H: Host>(response: Option<&SnapshotResponse<RaftTypes<H>>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    response.iter().for_each(|response| encode_vote(&response.vote, &mut bytes));
    bytes
}

/// Reads [`encode_taken`]. Errors: [`MessageError`].
pub fn decode_taken<H: Host>(bytes: &[u8]) -> Decoded<Option<SnapshotResponse<RaftTypes<H>>>> {
    let mut fields = Fields::of("taken", bytes);
    if bytes.is_empty() {
        return Ok(None);
    }
    let vote = fields.vote()?;
    fields.end(Some(SnapshotResponse { vote }))
}

/// A leader names its successor.
#[must_use]
pub fn encode_transfer<H: Host>(request: &TransferLeaderRequest<RaftTypes<H>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_vote(request.from_leader(), &mut bytes);
    bytes.extend_from_slice(request.to_node_id().0.as_bytes());
    put_log_id(request.last_log_id(), &mut bytes);
    bytes
}

/// Reads [`encode_transfer`]. Errors: [`MessageError`].
pub fn decode_transfer<H: Host>(bytes: &[u8]) -> Decoded<TransferLeaderRequest<RaftTypes<H>>> {
    let mut fields = Fields::of("transfer", bytes);
    let leader = fields.leader()?;
    let successor = fields.node()?;
    let last_log_id = fields.log_id()?;
    fields.end(TransferLeaderRequest::new(leader, successor, last_log_id))
}

/// The answer to a transfer.
#[must_use]
pub fn encode_moved<H: Host>(response: &TransferLeaderResponse<RaftTypes<H>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match response {
        Ok(()) => bytes.push(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            bytes.push(1);
            encode_vote(expected, &mut bytes);
            encode_vote(actual, &mut bytes);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            bytes.push(2);
            put_log_id(expected.as_ref(), &mut bytes);
            put_log_id(actual.as_ref(), &mut bytes);
        }
    }
    bytes
}

/// Reads [`encode_moved`]. Errors: [`MessageError`].
pub fn decode_moved<H: Host>(bytes: &[u8]) -> Decoded<TransferLeaderResponse<RaftTypes<H>>> {
    let mut fields = Fields::of("moved", bytes);
    let response = match fields.byte()? {
        0 => Ok(()),
        1 => {
            let (expected, actual) = (fields.vote()?, fields.vote()?);
            Err(TransferLeaderError::VoteChanged { expected, actual })
        }
        2 => {
            let (expected, actual) = (fields.log_id()?, fields.log_id()?);
            Err(TransferLeaderError::LogNotFlushed { expected, actual })
        }
        other => return Err(fields.wrong(format!("kind {other}"))),
    };
    fields.end(response)
}
