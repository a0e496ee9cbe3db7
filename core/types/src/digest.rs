//! What replicas compare: an object without its content.

use crate::stamp::Stamp;

/// One version of an object as replicas compare it. Equal digests stand for equal content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ObjectDigest {
    /// The stamp of the write.
    pub stamp: Stamp,
    /// Whether the write was a deletion.
    pub is_tombstone: bool,
    /// When the object was created, microseconds since the Unix epoch; 0 for a tombstone.
    pub created_us: i64,
}

impl ObjectDigest {
    /// The digest of a deletion.
    #[must_use]
    pub fn tombstone(stamp: Stamp) -> Self {
        Self { stamp, is_tombstone: true, created_us: 0 }
    }

    /// The digest of an object that lives.
    #[must_use]
    pub fn live(stamp: Stamp, created_us: i64) -> Self {
        Self { stamp, is_tombstone: false, created_us }
    }
}

/// The greater version wins: the newer stamp; of equal stamps the tombstone; of two living ones
/// the one created earlier. Nothing is less than any version: `None < Some(_)`.
impl Ord for ObjectDigest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.stamp
            .cmp(&other.stamp)
            .then(self.is_tombstone.cmp(&other.is_tombstone))
            .then(other.created_us.cmp(&self.created_us))
    }
}

impl PartialOrd for ObjectDigest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hlc, NodeId};

    #[test]
    fn newer_stamp_then_tombstone_then_earlier_creation_wins() {
        let stamp = |hlc| Stamp { hlc: Hlc(hlc), node: NodeId::from(1), ..Stamp::default() };
        let rising = [
            None,
            Some(ObjectDigest::tombstone(stamp(1))),
            Some(ObjectDigest::live(stamp(2), 9)),
            Some(ObjectDigest::live(stamp(2), 8)),
            Some(ObjectDigest::tombstone(stamp(2))),
            Some(ObjectDigest::live(stamp(3), 10)),
        ];
        assert!(rising.is_sorted_by(|low, high| low < high));
    }
}
