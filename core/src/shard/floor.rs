//! How far a replica has been compared with all others, and what it may forget for that.
//!
//! Below `repaired_through` all replicas of the shard have had the same. So a write below it whose
//! object is unknown here is not news: the object was deleted, and the deletion may be forgotten.

use heddle_types::{Hlc, ShardId};

/// Name of the file in a shard's directory.
pub(crate) const FLOOR_NAME: &str = "floor";
/// Bytes of the file's first page that count.
const FLOOR_BYTES: usize = 48;
const MAGIC: [u8; 8] = *b"HEDDLFLR";
const VERSION: u32 = 1;

/// What a shard remembers of its comparisons with other replicas. Zeros: never compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Floor {
    /// All replicas have had the same up to here.
    pub(crate) repaired_through: Hlc,
    /// Tombstones up to here may have been forgotten.
    pub(crate) purged_through: Hlc,
    /// It is being filled from another replica, and lacks what that one has.
    pub(crate) is_filling: bool,
}

/// Why the bytes of a floor are not to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FloorFault {
    #[error("floor: {what} is {found:#x}, expected {expected:#x}")]
    Damaged { what: &'static str, expected: u64, found: u64 },
    #[error("floor has version {found}, this server reads {VERSION}")]
    Version { found: u32 },
}

impl Floor {
    /// The first bytes of the file; the rest of its page is zero.
    pub(crate) fn encode(&self, shard: ShardId) -> [u8; FLOOR_BYTES] {
        let mut out = [0; FLOOR_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&shard.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.repaired_through.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.purged_through.0.to_le_bytes());
        out[40..44].copy_from_slice(&u32::from(self.is_filling).to_le_bytes());
        let crc = checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the file of a shard.
    pub(crate) fn decode(bytes: &[u8], shard: ShardId) -> Result<Self, FloorFault> {
        let damaged = |what, expected, found| Err(FloorFault::Damaged { what, expected, found });
        let Some(bytes) = bytes.first_chunk::<FLOOR_BYTES>() else {
            return damaged("length", FLOOR_BYTES as u64, bytes.len() as u64);
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the 48 bytes"))
        };
        let u64_at = |at: usize| {
            u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the 48 bytes"))
        };
        if bytes[0..8] != MAGIC {
            return damaged("magic", u64::from_le_bytes(MAGIC), u64_at(0));
        }
        if u32_at(12) != checksum(bytes) {
            return damaged("checksum", checksum(bytes).into(), u32_at(12).into());
        }
        if u32_at(8) != VERSION {
            return Err(FloorFault::Version { found: u32_at(8) });
        }
        if u64_at(16) != shard.0 {
            return damaged("shard", shard.0, u64_at(16));
        }
        let (repaired_through, purged_through) = (Hlc(u64_at(24)), Hlc(u64_at(32)));
        Ok(Self { repaired_through, purged_through, is_filling: u32_at(40) != 0 })
    }
}

fn checksum(bytes: &[u8; FLOOR_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_floor_is_checked_and_whose_it_is() {
        let floor = Floor { repaired_through: Hlc(77), purged_through: Hlc(55), is_filling: true };
        let mut bytes = floor.encode(ShardId(3));
        assert_eq!(Floor::decode(&bytes, ShardId(3)), Ok(floor));
        assert!(Floor::decode(&bytes, ShardId(4)).is_err());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Floor::decode(&bytes, ShardId(3)).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert!(Floor::decode(&bytes[..length], ShardId(3)).is_err());
        }
    }
}
