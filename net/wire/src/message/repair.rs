//! What the replicas of a shard say to each other to become equal: trees, versions, exact copies.

use heddle_types::limits::{NODE_BODY_BYTES_MAX, OBJECT_BATCH_MAX};
use heddle_types::{ObjectDigest, ObjectId};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{Checked, at_most, ends, equal, ids, known, optional_id};
use super::{Body, Layout, MessageError, ShardComparison, ShardHead, id_chunks, u32s, u64s, walk};
use crate::kind::{REPLY_BIT, RepairMessage};

/// Levels of a hash tree, at most.
const HEIGHT_MAX: u8 = 20;
/// Bytes of a version in a page: id and digest.
const ENTRY_BYTES: usize = 16 + ObjectDigest::ENCODED_BYTES;

/// A request of a replica to another one.
pub trait RepairRequest: Body {
    /// The body of its answer, when that is no error.
    type Reply: Body;
}

/// Asks a replica to take part in a comparison.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct RepairBeginRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
}

impl Layout for RepairBeginRequest {
    fn check(_archived: &ArchivedRepairBeginRequest) -> Checked {
        Ok(())
    }
}

/// What a replica has, in short.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct RepairBeginReply {
    /// Its hybrid time, taken before anything else.
    pub hlc: u64,
    /// Up to where it was repaired.
    pub floor: u64,
    /// The sums of the leaves of its tree, 16 bytes each.
    pub sums: Vec<u8>,
}

impl ArchivedRepairBeginReply {
    /// The sums of the leaves.
    #[must_use]
    pub fn sums(&self) -> Vec<u128> {
        id_chunks(&self.sums).iter().map(|sum| u128::from_le_bytes(*sum)).collect()
    }
}

impl Layout for RepairBeginReply {
    fn check(archived: &ArchivedRepairBeginReply) -> Checked {
        let count = archived.sums.len() / 16;
        equal("bytes of sums", archived.sums.len(), count * 16)?;
        at_most("sums", count, 1 << HEIGHT_MAX)?;
        equal("sums that are no power of two", count, count.next_power_of_two())
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.sums.len()
    }
}

/// Asks for the versions of some leaves, in order of ids.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct RepairPageRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// Levels of the tree that `leaves` are of.
    pub height: u8,
    /// The leaves, a bit each, in words of 64.
    pub leaves: Vec<u64>,
    /// Begin after this id; empty = at the first.
    pub after: Vec<u8>,
    /// Most versions.
    pub limit: u32,
}

impl ArchivedRepairPageRequest {
    /// Begin after this id.
    #[must_use]
    pub fn after(&self) -> Option<ObjectId> {
        id_chunks(&self.after).first().map(|id| ObjectId(*id))
    }

    /// The leaves, in words of 64.
    #[must_use]
    pub fn leaves(&self) -> &[u64] {
        u64s(&self.leaves)
    }
}

impl Layout for RepairPageRequest {
    fn check(archived: &ArchivedRepairPageRequest) -> Checked {
        known("height of a tree", archived.height, HEIGHT_MAX)?;
        let words = (1_usize << archived.height).div_ceil(64);
        equal("words of leaves", archived.leaves.len(), words)?;
        optional_id("cursor length", &archived.after)?;
        at_most("limit", archived.limit.to_native() as usize, OBJECT_BATCH_MAX)
    }

    fn size_hint_bytes(&self) -> usize {
        128 + 8 * self.leaves.len()
    }
}

/// Versions in order of their ids; fewer than asked for only when there are no more.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct RepairPageReply {
    /// Of each the id (16 bytes) and the digest (41 bytes).
    pub entries: Vec<u8>,
}

impl RepairPageReply {
    /// A page of these versions.
    #[must_use]
    pub fn of(entries: &[(ObjectId, ObjectDigest)]) -> Self {
        let bytes =
            |(id, digest): &(ObjectId, ObjectDigest)| [&id.0[..], &digest.encode()].concat();
        Self { entries: entries.iter().flat_map(bytes).collect() }
    }
}

impl ArchivedRepairPageReply {
    /// The versions.
    #[must_use]
    pub fn entries(&self) -> Vec<(ObjectId, ObjectDigest)> {
        entries(&self.entries).flatten().collect()
    }
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = Option<(ObjectId, ObjectDigest)>> + '_ {
    bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(|entry| {
        let (id, digest) = entry.split_first_chunk::<16>()?;
        Some((ObjectId(*id), ObjectDigest::decode(digest.first_chunk()?)?))
    })
}

impl Layout for RepairPageReply {
    fn check(archived: &ArchivedRepairPageReply) -> Checked {
        let count = archived.entries.len() / ENTRY_BYTES;
        equal("bytes of versions", archived.entries.len(), count * ENTRY_BYTES)?;
        at_most("versions", count, OBJECT_BATCH_MAX)?;
        equal("versions of a known kind", entries(&archived.entries).flatten().count(), count)
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.entries.len()
    }
}

/// Asks for exact copies.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct RepairReadRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// 16 bytes an id.
    pub ids: Vec<u8>,
}

impl ArchivedRepairReadRequest {
    /// The ids.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        id_chunks(&self.ids).iter().map(|id| ObjectId(*id))
    }
}

impl Layout for RepairReadRequest {
    fn check(archived: &ArchivedRepairReadRequest) -> Checked {
        ids("ids", &archived.ids).map(drop)
    }

    fn size_hint_bytes(&self) -> usize {
        128 + self.ids.len()
    }
}

/// Encoded writes, one after the other.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct Copies {
    /// Where each ends in `bytes`.
    pub ends: Vec<u32>,
    /// As the engine encodes them (docs/format.md).
    pub bytes: Vec<u8>,
}

impl ArchivedCopies {
    /// The encoded writes, in place.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        let mut start = 0;
        u32s(&self.ends).iter().map(move |end| {
            let copy = &self.bytes[start..*end as usize];
            start = *end as usize;
            copy
        })
    }

    fn check(&self) -> Checked {
        at_most("copies", self.ends.len(), OBJECT_BATCH_MAX)?;
        ends("ends of copies", u32s(&self.ends), self.ends.len(), self.bytes.len())
    }
}

/// Copies of what is there of the first ids of the request, of at least one; the others have to be
/// asked for again. What is not there is left out.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct RepairReadReply {
    /// Ids of the request that it speaks of.
    pub answered: u32,
    /// The copies.
    pub copies: Copies,
}

impl Layout for RepairReadReply {
    fn check(archived: &ArchivedRepairReadReply) -> Checked {
        archived.copies.check()
    }

    fn size_hint_bytes(&self) -> usize {
        128 + 4 * self.copies.ends.len() + self.copies.bytes.len()
    }
}

/// Gives exact copies to a replica.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct RepairWriteRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// The copies.
    pub copies: Copies,
}

impl Layout for RepairWriteRequest {
    fn check(archived: &ArchivedRepairWriteRequest) -> Checked {
        archived.copies.check()
    }

    fn size_hint_bytes(&self) -> usize {
        128 + 4 * self.copies.ends.len() + self.copies.bytes.len()
    }
}

/// What a replica took.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct RepairWriteReply {
    /// Copies that it did not take.
    pub refused: u32,
}

impl Layout for RepairWriteReply {
    fn check(_archived: &ArchivedRepairWriteReply) -> Checked {
        Ok(())
    }
}

/// Tells a replica that all replicas of the shard are the same below a time.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct RepairFloorRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
    /// The time.
    pub floor: u64,
}

impl Layout for RepairFloorRequest {
    fn check(_archived: &ArchivedRepairFloorRequest) -> Checked {
        Ok(())
    }
}

/// The replica has noted it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct RepairFloorReply {
    /// Up to where it is repaired now.
    pub floor: u64,
}

impl Layout for RepairFloorReply {
    fn check(_archived: &ArchivedRepairFloorReply) -> Checked {
        Ok(())
    }
}

/// Asks a replica to compare its shard with the other replicas, and to change nothing.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct RepairCheckRequest {
    /// How it was routed.
    pub head: ShardHead,
    /// The shard.
    pub shard: u64,
}

impl Layout for RepairCheckRequest {
    fn check(_archived: &ArchivedRepairCheckRequest) -> Checked {
        Ok(())
    }
}

/// What the comparison found.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct RepairCheckReply {
    /// As a client gets it.
    pub found: ShardComparison,
}

impl Layout for RepairCheckReply {
    fn check(_archived: &ArchivedRepairCheckReply) -> Checked {
        Ok(())
    }
}

macro_rules! repair_messages {
    ($($kind:ident: $request:ident => $reply:ident,)*) => {
        $(
            impl Body for $request {
                const NUMBER: u16 = RepairMessage::$kind.request_number();
                const NAME: &'static str = stringify!($request);
                const BODY_BYTES_MAX: usize = NODE_BODY_BYTES_MAX;
            }

            impl Body for $reply {
                const NUMBER: u16 = RepairMessage::$kind.reply_number();
                const NAME: &'static str = stringify!($reply);
                const BODY_BYTES_MAX: usize = NODE_BODY_BYTES_MAX;
            }

            impl RepairRequest for $request {
                type Reply = $reply;
            }
        )*

        /// Checks a body between replicas and walks all of it; `None` for a number of no such one.
        pub(super) fn decode_any(number: u16, body: &[u8]) -> Option<Result<(), MessageError>> {
            match (RepairMessage::from_number(number & !REPLY_BIT)?, number & REPLY_BIT == 0) {
                $(
                    (RepairMessage::$kind, true) => Some(walk::<$request>(body)),
                    (RepairMessage::$kind, false) => Some(walk::<$reply>(body)),
                )*
            }
        }
    };
}

repair_messages! {
    Begin: RepairBeginRequest => RepairBeginReply,
    Page: RepairPageRequest => RepairPageReply,
    Read: RepairReadRequest => RepairReadReply,
    Write: RepairWriteRequest => RepairWriteReply,
    Floor: RepairFloorRequest => RepairFloorReply,
    Check: RepairCheckRequest => RepairCheckReply,
}

#[cfg(test)]
mod tests {
    use heddle_types::{Hlc, NodeId, Stamp};

    use super::*;
    use crate::{access, encode_body};

    const HEAD: ShardHead = ShardHead { collection: [7; 16], epoch: 3 };

    #[test]
    fn pages_come_back_and_versions_of_an_unknown_kind_are_refused() {
        let stamp = Stamp { hlc: Hlc(9), node: NodeId::from(1), ..Stamp::default() };
        let versions = [
            (ObjectId::from_row(1), ObjectDigest::live(stamp, -7)),
            (ObjectId::from_row(2), ObjectDigest::tombstone(stamp)),
        ];
        let mut page = RepairPageReply::of(&versions);
        let body = encode_body(&page).unwrap();
        assert_eq!(access::<RepairPageReply>(&body).unwrap().entries(), versions);
        *page.entries.last_mut().unwrap() = 2;
        assert!(access::<RepairPageReply>(&encode_body(&page).unwrap()).is_err());
        page.entries.pop();
        assert!(access::<RepairPageReply>(&encode_body(&page).unwrap()).is_err());
    }

    #[test]
    fn trees_leaves_and_copies_must_fit_together() {
        let begin = |bytes| RepairBeginReply { hlc: 1, floor: 2, sums: vec![1; bytes] };
        for (bytes, is_tree) in [(16, true), (64, true), (48, false), (17, false), (0, false)] {
            let body = encode_body(&begin(bytes)).unwrap();
            assert_eq!(access::<RepairBeginReply>(&body).is_ok(), is_tree, "{bytes}");
        }
        let page = |height, words| RepairPageRequest {
            head: HEAD,
            shard: 1,
            height,
            leaves: vec![1; words],
            after: Vec::new(),
            limit: 10,
        };
        for (height, words, fits) in [(3, 1, true), (8, 4, true), (8, 3, false), (21, 1, false)] {
            let body = encode_body(&page(height, words)).unwrap();
            assert_eq!(access::<RepairPageRequest>(&body).is_ok(), fits, "{height} {words}");
        }
        let write = |ends: &[u32]| RepairWriteRequest {
            head: HEAD,
            shard: 1,
            copies: Copies { ends: ends.to_vec(), bytes: b"onetwo".to_vec() },
        };
        let body = encode_body(&write(&[3, 6])).unwrap();
        let copies: Vec<&[u8]> =
            access::<RepairWriteRequest>(&body).unwrap().copies.iter().collect();
        assert_eq!(copies, [b"one", b"two"]);
        for wrong in [&[3, 5][..], &[6, 3], &[3, 7]] {
            assert!(access::<RepairWriteRequest>(&encode_body(&write(wrong)).unwrap()).is_err());
        }
    }
}
