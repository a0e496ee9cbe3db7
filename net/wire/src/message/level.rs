//! Requests that say how many replicas must take part, and writes that bring a condition or a
//! stamp.
//!
//! Each holds the plain request whole, so both are read by the same code. A plain request is one of
//! the default level: `Quorum` for writes and reads by id, `One` for everything else.

use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::{ApiError, Consistency, Stamp};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{Checked, at_most, equal, known};
use super::durability::Durability;
use super::object::{DeleteReply, DeleteRequest, GetReply, GetRequest};
use super::put::{PutReply, PutRequest};
use super::scan::{CountReply, CountRequest, ScanReply, ScanRequest};
use super::search::{SearchReply, SearchRequest};
use super::{Layout, MessageError};

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = Stamp::ENCODED_BYTES;
/// Bytes of a ticket: a stamp and its tag.
pub const TICKET_BYTES: usize = STAMP_BYTES + 16;
/// Most tickets of a request.
pub const TICKETS_MAX: usize = 1_024;

/// What must hold of an object for a write to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is none.
    Absent,
    /// It is the version of this stamp.
    StampIs(Stamp),
}

const ALWAYS: u8 = 0;
const ABSENT: u8 = 1;
const STAMP_IS: u8 = 2;

/// How a write is to be made.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct WriteTerms {
    /// [`Consistency::number`]; 0 = the default.
    pub level: u8,
    /// [`Durability`]: 0 sync, 1 batched.
    pub durability: u8,
    /// One of `Tickets`: all objects get its stamp. Empty = none.
    pub ticket: Vec<u8>,
    /// 0 always, 1 absent, 2 stamp is, for each object; empty = always.
    pub conditions: Vec<u8>,
    /// The stamps of the conditions that name one, in their order.
    pub expected: Vec<u8>,
}

impl WriteTerms {
    /// Terms of a level, of the default one for none.
    #[must_use]
    pub fn new(level: Option<Consistency>, durability: Durability) -> Self {
        let level = level.map_or(0, Consistency::number);
        Self { level, durability: durability as u8, ..Self::default() }
    }

    /// Sets what must hold of each object.
    pub fn set_conditions(&mut self, conditions: &[Condition]) {
        self.expected.clear();
        let number = |condition: &Condition| match condition {
            Condition::Always => ALWAYS,
            Condition::Absent => ABSENT,
            Condition::StampIs(stamp) => {
                self.expected.extend_from_slice(&stamp.encode());
                STAMP_IS
            }
        };
        self.conditions = conditions.iter().map(number).collect();
    }
}

impl ArchivedWriteTerms {
    /// How many replicas must have it.
    #[must_use]
    pub fn level(&self) -> Consistency {
        Consistency::from_number(self.level).unwrap_or(Consistency::Quorum)
    }

    /// When the write is to be acknowledged.
    #[must_use]
    pub fn durability(&self) -> Durability {
        Durability::from_number(self.durability)
    }

    /// The ticket, if there is one.
    #[must_use]
    pub fn ticket(&self) -> Option<[u8; TICKET_BYTES]> {
        self.ticket.first_chunk().copied()
    }

    /// What must hold of each object; empty for nothing.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        let mut expected = stamps(&self.expected);
        let conditions = self.conditions.iter().map(|kind| match *kind {
            ABSENT => Condition::Absent,
            STAMP_IS => expected.next().map_or(Condition::Always, Condition::StampIs),
            _ => Condition::Always,
        });
        conditions.collect()
    }

    pub(super) fn check(&self, objects: usize) -> Checked {
        level(self.level)?;
        known("durability", self.durability, Durability::Batched as u8)?;
        if !self.ticket.is_empty() {
            equal("ticket length", self.ticket.len(), TICKET_BYTES)?;
        }
        if !self.conditions.is_empty() {
            equal("conditions", self.conditions.len(), objects)?;
        }
        self.conditions.iter().try_for_each(|kind| known("condition", *kind, STAMP_IS))?;
        let named = self.conditions.iter().filter(|kind| **kind == STAMP_IS).count();
        equal("bytes of expected stamps", self.expected.len(), named * STAMP_BYTES)
    }
}

fn level(number: u8) -> Checked {
    if number == 0 || Consistency::from_number(number).is_some() {
        return Ok(());
    }
    Err(MessageError::UnknownValue { field: "consistency level", found: u64::from(number) })
}

/// The stamps of a column.
pub(super) fn stamps(bytes: &[u8]) -> impl Iterator<Item = Stamp> {
    bytes.as_chunks::<STAMP_BYTES>().0.iter().map(Stamp::decode)
}

/// Writes objects as [`PutRequest`] does, on the terms given.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct PutAtRequest {
    /// The terms.
    pub terms: WriteTerms,
    /// The plain request.
    pub put: PutRequest,
}

impl Layout for PutAtRequest {
    fn check(archived: &ArchivedPutAtRequest) -> Checked {
        PutRequest::check(&archived.put)?;
        archived.terms.check(archived.put.len())
    }

    fn size_hint_bytes(&self) -> usize {
        128 + self.terms.expected.len() + self.put.size_hint_bytes()
    }
}

/// What happened to each object.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct PutAtReply {
    /// As of a plain write.
    pub put: PutReply,
    /// The whole stamp of each write, 32 bytes; zeros where it failed.
    pub stamps: Vec<u8>,
}

impl ArchivedPutAtReply {
    /// The stamp of each write.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        stamps(&self.stamps)
    }
}

impl PutAtReply {
    /// Adds the outcome of the next object.
    pub fn push(&mut self, outcome: Result<Stamp, &ApiError>) {
        self.put.push(outcome.map(|stamp| stamp.hlc));
        self.stamps.extend_from_slice(&outcome.map_or([0; STAMP_BYTES], |stamp| stamp.encode()));
    }

    /// The outcomes one by one.
    #[must_use]
    pub fn into_results(self) -> Vec<Result<Stamp, ApiError>> {
        let stamps: Vec<Stamp> = stamps(&self.stamps).collect();
        let results = self.put.into_results().into_iter().zip(stamps);
        results.map(|(outcome, stamp)| outcome.map(|_hlc| stamp)).collect()
    }
}

impl Layout for PutAtReply {
    fn check(archived: &ArchivedPutAtReply) -> Checked {
        PutReply::check(&archived.put)?;
        equal("whole stamps", archived.stamps.len(), archived.put.outcomes.len() * STAMP_BYTES)
    }

    fn size_hint_bytes(&self) -> usize {
        self.put.size_hint_bytes() + self.stamps.len()
    }
}

/// Deletes objects as [`DeleteRequest`] does, on the terms given.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct DeleteAtRequest {
    /// The terms.
    pub terms: WriteTerms,
    /// The plain request.
    pub delete: DeleteRequest,
}

impl Layout for DeleteAtRequest {
    fn check(archived: &ArchivedDeleteAtRequest) -> Checked {
        DeleteRequest::check(&archived.delete)?;
        archived.terms.check(archived.delete.ids().len())
    }

    fn size_hint_bytes(&self) -> usize {
        128 + self.terms.expected.len() + self.delete.size_hint_bytes()
    }
}

/// What happened to each object.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct DeleteAtReply {
    /// As of a plain deletion.
    pub delete: DeleteReply,
    /// The whole stamp of each deletion, 32 bytes; zeros where it failed.
    pub stamps: Vec<u8>,
}

impl DeleteAtReply {
    /// Adds the outcome of the next object: the stamp of its deletion, and whether it existed.
    pub fn push(&mut self, outcome: Result<(Stamp, bool), &ApiError>) {
        self.delete.push(outcome.map(|(_, existed)| existed));
        let stamp = outcome.map_or([0; STAMP_BYTES], |(stamp, _)| stamp.encode());
        self.stamps.extend_from_slice(&stamp);
    }
}

impl Layout for DeleteAtReply {
    fn check(archived: &ArchivedDeleteAtReply) -> Checked {
        DeleteReply::check(&archived.delete)?;
        equal("whole stamps", archived.stamps.len(), archived.delete.outcomes.len() * STAMP_BYTES)
    }

    fn size_hint_bytes(&self) -> usize {
        self.delete.size_hint_bytes() + self.stamps.len()
    }
}

/// The objects that exist, each with its whole stamp.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct GetAtReply {
    /// As of a plain read.
    pub get: GetReply,
    /// The whole stamp of each object, 32 bytes.
    pub stamps: Vec<u8>,
}

impl ArchivedGetAtReply {
    /// The stamp of each object.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        stamps(&self.stamps)
    }
}

impl Layout for GetAtReply {
    fn check(archived: &ArchivedGetAtReply) -> Checked {
        GetReply::check(&archived.get)?;
        equal("whole stamps", archived.stamps.len(), archived.get.objects.len() * STAMP_BYTES)
    }

    fn size_hint_bytes(&self) -> usize {
        self.get.size_hint_bytes() + self.stamps.len()
    }
}

macro_rules! at_level {
    ($(#[$doc:meta])* $name:ident, $archived:ident, $default:ident, $field:ident: $inner:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
        #[rkyv(derive(Debug))]
        pub struct $name {
            /// [`Consistency::number`]; 0 = the default.
            pub level: u8,
            /// The plain request.
            pub $field: $inner,
        }

        impl $name {
            /// The request at a level.
            #[must_use]
            pub fn new(level: Consistency, $field: $inner) -> Self {
                Self { level: level.number(), $field }
            }
        }

        impl $archived {
            /// How many replicas must take part.
            #[must_use]
            pub fn level(&self) -> Consistency {
                Consistency::from_number(self.level).unwrap_or(Consistency::$default)
            }
        }

        impl Layout for $name {
            fn check(archived: &$archived) -> Checked {
                level(archived.level)?;
                $inner::check(&archived.$field)
            }

            fn size_hint_bytes(&self) -> usize {
                8 + self.$field.size_hint_bytes()
            }
        }
    };
}

at_level! {
    /// Reads objects by id as [`GetRequest`] does, at a level.
    GetAtRequest, ArchivedGetAtRequest, Quorum, get: GetRequest
}
at_level! {
    /// Searches as [`SearchRequest`] does, at a level.
    SearchAtRequest, ArchivedSearchAtRequest, One, search: SearchRequest
}
at_level! {
    /// Lists as [`ScanRequest`] does, at a level.
    ScanAtRequest, ArchivedScanAtRequest, One, scan: ScanRequest
}
at_level! {
    /// Counts as [`CountRequest`] does, at a level.
    CountAtRequest, ArchivedCountAtRequest, One, count: CountRequest
}

macro_rules! wraps {
    ($(#[$doc:meta])* $name:ident, $archived:ident, $field:ident: $inner:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
        #[rkyv(derive(Debug))]
        pub struct $name {
            /// The plain reply.
            pub $field: $inner,
        }

        impl Layout for $name {
            fn check(archived: &$archived) -> Checked {
                $inner::check(&archived.$field)
            }

            fn size_hint_bytes(&self) -> usize {
                self.$field.size_hint_bytes()
            }
        }
    };
}

wraps! {
    /// The neighbours of each query.
    SearchAtReply, ArchivedSearchAtReply, search: SearchReply
}
wraps! {
    /// One page.
    ScanAtReply, ArchivedScanAtReply, scan: ScanReply
}
wraps! {
    /// How many.
    CountAtReply, ArchivedCountAtReply, count: CountReply
}

/// Asks for stamps to write with later: a write that is sent again with the same one is the same
/// write.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TicketsRequest {
    /// How many.
    pub count: u32,
}

impl Layout for TicketsRequest {
    fn check(archived: &ArchivedTicketsRequest) -> Checked {
        at_most("tickets", archived.count.to_native() as usize, TICKETS_MAX)
    }
}

/// Tickets.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct TicketsReply {
    /// 48 bytes a ticket, which mean nothing to a client.
    pub tickets: Vec<u8>,
    /// Seconds for which they are good.
    pub good_s: u32,
}

impl Layout for TicketsReply {
    fn check(archived: &ArchivedTicketsReply) -> Checked {
        let count = archived.tickets.len() / TICKET_BYTES;
        equal("bytes of tickets", archived.tickets.len(), count * TICKET_BYTES)?;
        at_most("tickets", count, TICKETS_MAX)
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.tickets.len()
    }
}

const _: () =
    assert!(OBJECT_BATCH_MAX * STAMP_BYTES < 1 << 20, "stamps are a small part of a body");
