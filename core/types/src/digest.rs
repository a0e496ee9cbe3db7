//! What replicas compare: of each object its stamp, whether it is deleted, and when it was made.

use std::cmp::{Ordering, Reverse};

use crate::stamp::Stamp;

/// Identity of one version of an object, live or deleted.
///
/// The greater one wins: the newer stamp; on equal stamps the deletion, then the older creation
/// time. So replicas that have seen the same writes, in whatever order, keep the same version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ObjectDigest {
    /// The write that made it.
    pub stamp: Stamp,
    /// Is it a deletion?
    pub is_tombstone: bool,
    /// When the object was created, microseconds since the Unix epoch; 0 for a deletion.
    pub created_us: i64,
}

impl ObjectDigest {
    /// Bytes of the encoded form.
    pub const ENCODED_BYTES: usize = Stamp::ENCODED_BYTES + 8 + 1;

    /// The version that a deletion makes.
    #[must_use]
    pub fn tombstone(stamp: Stamp) -> Self {
        Self { stamp, is_tombstone: true, created_us: 0 }
    }

    /// The version that a put makes.
    #[must_use]
    pub fn live(stamp: Stamp, created_us: i64) -> Self {
        Self { stamp, is_tombstone: false, created_us }
    }

    /// Encodes as `stamp [32] | created i64 | is a tombstone u8`, little endian.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_BYTES] {
        let mut out = [0; Self::ENCODED_BYTES];
        out[..32].copy_from_slice(&self.stamp.encode());
        out[32..40].copy_from_slice(&self.created_us.to_le_bytes());
        out[40] = u8::from(self.is_tombstone);
        out
    }

    /// Decodes what [`ObjectDigest::encode`] wrote; `None` for a kind that there is none of, or a
    /// tombstone with a creation time.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::ENCODED_BYTES]) -> Option<Self> {
        let (stamp, rest) = bytes.split_first_chunk::<32>()?;
        let (created_us, rest) = rest.split_first_chunk::<8>()?;
        let (stamp, created_us) = (Stamp::decode(stamp), i64::from_le_bytes(*created_us));
        match (rest, created_us) {
            ([0], _) => Some(Self::live(stamp, created_us)),
            ([1], 0) => Some(Self::tombstone(stamp)),
            _ => None,
        }
    }

    fn order(&self) -> (Stamp, bool, Reverse<i64>) {
        (self.stamp, self.is_tombstone, Reverse(self.created_us))
    }
}

impl Ord for ObjectDigest {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for ObjectDigest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hlc, NodeId};

    fn stamp(hlc: u64) -> Stamp {
        Stamp { hlc: Hlc(hlc), boot: 1, core: 2, node: NodeId::default() }
    }

    #[test]
    fn newer_stamps_win_then_deletions_then_older_creation_times() {
        let ascending = [
            ObjectDigest::live(stamp(1), 9),
            ObjectDigest::live(stamp(1), 8),
            ObjectDigest::tombstone(stamp(1)),
            ObjectDigest::live(stamp(2), i64::MAX),
            ObjectDigest::tombstone(stamp(3)),
        ];
        for (left, earlier) in ascending.iter().enumerate() {
            for (right, later) in ascending.iter().enumerate() {
                assert_eq!(earlier.cmp(later), left.cmp(&right), "{earlier:?} {later:?}");
            }
        }
    }

    #[test]
    fn encoding_round_trips_and_no_other_kind_is_read() {
        for digest in [ObjectDigest::live(stamp(7), -3), ObjectDigest::tombstone(stamp(u64::MAX))] {
            let mut bytes = digest.encode();
            assert_eq!(ObjectDigest::decode(&bytes), Some(digest));
            bytes[40] = 2;
            assert_eq!(ObjectDigest::decode(&bytes), None);
        }
        let mut made = ObjectDigest::live(stamp(7), 5).encode();
        made[40] = 1;
        assert_eq!(ObjectDigest::decode(&made), None, "a tombstone has no creation time");
    }
}
