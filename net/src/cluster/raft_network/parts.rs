//! Snapshots of other nodes while their parts arrive: one at a time.

use std::cell::RefCell;

use heddle_meta::raft::message::{SNAPSHOT_PART_BYTES, SnapshotPart};
use heddle_types::{ApiError, ErrorCode, NodeId};

thread_local! {
    // Of the core that Raft runs on.
    static ARRIVING: RefCell<Option<Parts>> = const { RefCell::new(None) };
}

/// A snapshot of which the beginning is there.
#[derive(Debug)]
pub(super) struct Parts {
    source: NodeId,
    checksum: u32,
    length: usize,
    bytes: Vec<u8>,
}

impl Parts {
    /// Takes a part. The whole snapshot after the last one.
    ///
    /// A first part begins anew, whatever was there. Memory grows with the parts, by no more than
    /// one at a time. Errors: the part does not follow those before it, or the whole does not have
    /// its checksum; what was there is forgotten.
    pub(super) fn take(
        source: NodeId,
        part: &SnapshotPart<'_>,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        let SnapshotPart { checksum, length, offset, bytes, .. } = *part;
        let mut arriving = ARRIVING.take();
        if offset == 0 {
            arriving = Some(Self { source, checksum, length, bytes: Vec::new() });
        }
        let follows = |parts: &Self| {
            (parts.source, parts.checksum, parts.length, parts.bytes.len())
                == (source, checksum, length, offset)
        };
        let Some(mut parts) = arriving.filter(follows) else {
            return Err(ApiError::transient(
                ErrorCode::Unavailable,
                format!("the part of a snapshot at {offset} does not follow those before it"),
            ));
        };
        parts.bytes.reserve_exact(bytes.len().min(SNAPSHOT_PART_BYTES));
        parts.bytes.extend_from_slice(bytes);
        if !part.is_last() {
            ARRIVING.set(Some(parts));
            return Ok(None);
        }
        let found = crc32c::crc32c(&parts.bytes);
        if found != checksum {
            return Err(ApiError::new(
                ErrorCode::Protocol,
                format!("the checksum of a snapshot is {found:08x}"),
                format!("{checksum:08x}"),
            ));
        }
        Ok(Some(parts.bytes))
    }
}

#[cfg(test)]
mod tests {
    use heddle_meta::raft::{Leader, Vote};

    use super::*;

    fn vote() -> Vote {
        let leader_id = Leader { term: 1, node_id: NodeId::from(1) };
        Vote { leader_id, committed: true }
    }

    fn part(whole: &[u8], offset: usize, length: usize) -> SnapshotPart<'_> {
        SnapshotPart {
            vote: vote(),
            checksum: crc32c::crc32c(whole),
            length: whole.len(),
            offset,
            bytes: &whole[offset..offset + length],
        }
    }

    #[test]
    fn parts_in_order_make_the_whole_and_others_do_not() {
        let whole: Vec<u8> = (0..100).collect();
        let source = NodeId::from(1);
        let take = |offset, length| Parts::take(source, &part(&whole, offset, length));
        assert_eq!(take(0, 40), Ok(None));
        assert_eq!(take(40, 40), Ok(None));
        assert_eq!(take(80, 20), Ok(Some(whole.clone())));
        assert!(take(80, 20).is_err(), "it was handed out");
        assert_eq!(take(0, 100), Ok(Some(whole.clone())));
        assert_eq!(take(0, 40), Ok(None));
        assert!(take(50, 50).is_err(), "ten bytes are missing");
        assert!(take(40, 60).is_err(), "the beginning was forgotten");
        assert_eq!(take(0, 40), Ok(None));
        assert_eq!(take(0, 60), Ok(None), "begun anew");
        assert!(Parts::take(NodeId::from(2), &part(&whole, 60, 40)).is_err(), "another sender");
    }

    #[test]
    fn another_snapshot_between_and_damage_are_noticed() {
        let (whole, other) = ([1; 100], [2; 100]);
        let source = NodeId::from(1);
        assert_eq!(Parts::take(source, &part(&whole, 0, 50)), Ok(None));
        assert!(Parts::take(source, &part(&other, 50, 50)).is_err());
        let damaged = SnapshotPart { checksum: 7, ..part(&whole, 0, 100) };
        let error = Parts::take(source, &damaged).unwrap_err();
        assert_eq!(error.code, ErrorCode::Protocol);
    }
}
