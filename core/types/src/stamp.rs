//! Stamps: the one total order in which writes win.
//!
//! A write gets one stamp for life; retries, replay and (later) replicas carry the same one. The
//! clock is hybrid-logical: wall time in microseconds, pushed forward by everything seen, so a
//! clock that is set back never issues a stamp twice.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::NodeId;

/// Hybrid logical time: microseconds since the Unix epoch in the upper 48+ bits, counter below.
///
/// Layout: `micros << 8 | counter`; 56 bits of microseconds last until the year 4253.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Bits of the logical counter.
    pub const COUNTER_BITS: u32 = 8;

    /// The hybrid time of a wall clock reading, counter zero.
    #[must_use]
    pub fn from_unix_us(unix_us: u64) -> Self {
        Self(unix_us << Self::COUNTER_BITS)
    }

    /// Wall clock part, microseconds since the Unix epoch.
    #[must_use]
    pub fn unix_us(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }
}

/// Identity and order of one write: newest stamp wins, whatever order copies arrive in.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Stamp {
    /// When the write was accepted.
    pub hlc: Hlc,
    /// Start counter of the issuing node; breaks ties between runs of one node.
    pub boot: u32,
    /// Core of the issuing node; every home core stamps on its own.
    pub core: u32,
    /// The node that accepted the write.
    pub node: NodeId,
}

impl Stamp {
    /// Bytes of the encoded form.
    pub const ENCODED_BYTES: usize = 32;

    /// Encodes as `hlc u64 | boot u32 | core u32 | node [16]`, little endian.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_BYTES] {
        let mut out = [0; Self::ENCODED_BYTES];
        out[0..8].copy_from_slice(&self.hlc.0.to_le_bytes());
        out[8..12].copy_from_slice(&self.boot.to_le_bytes());
        out[12..16].copy_from_slice(&self.core.to_le_bytes());
        out[16..32].copy_from_slice(self.node.0.as_bytes());
        out
    }

    /// Decodes what [`Stamp::encode`] wrote; every bit pattern is a stamp.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::ENCODED_BYTES]) -> Self {
        let (hlc, rest) = bytes.split_first_chunk::<8>().expect("32 bytes hold 8");
        let (boot, rest) = rest.split_first_chunk::<4>().expect("24 bytes hold 4");
        let (core, rest) = rest.split_first_chunk::<4>().expect("20 bytes hold 4");
        let node = rest.first_chunk::<16>().expect("16 bytes are left");
        Self {
            hlc: Hlc(u64::from_le_bytes(*hlc)),
            boot: u32::from_le_bytes(*boot),
            core: u32::from_le_bytes(*core),
            node: NodeId(Uuid::from_bytes(*node)),
        }
    }
}

/// Issues strictly increasing stamps for one home core.
#[derive(Clone, Debug)]
pub struct StampSource {
    node: NodeId,
    boot: u32,
    core: u32,
    last: Hlc,
}

impl StampSource {
    /// A source that issues nothing at or below `floor`, the newest stamp known from disk.
    #[must_use]
    pub fn new(node: NodeId, boot: u32, core: u32, floor: Hlc) -> Self {
        Self { node, boot, core, last: floor }
    }

    /// The next stamp, at wall time `now_unix_us` or just above the last one issued or seen.
    pub fn next(&mut self, now_unix_us: u64) -> Stamp {
        self.last = Hlc::from_unix_us(now_unix_us).max(Hlc(self.last.0 + 1));
        Stamp { hlc: self.last, boot: self.boot, core: self.core, node: self.node }
    }

    /// The newest time that was issued or seen.
    #[must_use]
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// Moves the source past a stamp that came from elsewhere (replay, a peer).
    pub fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_never_repeats_a_stamp() {
        let mut source = StampSource::new(NodeId::random(), 1, 0, Hlc::from_unix_us(1_000));
        let first = source.next(2_000);
        let second = source.next(500);
        let third = source.next(500);
        assert!(first < second && second < third);
    }

    #[test]
    fn floor_and_seen_stamps_are_passed() {
        let mut source = StampSource::new(NodeId::random(), 1, 0, Hlc(77));
        assert!(source.next(0).hlc > Hlc(77));
        source.observe(Hlc::from_unix_us(9));
        assert!(source.next(0).hlc > Hlc::from_unix_us(9));
    }

    #[test]
    fn encoding_round_trips() {
        let stamp = Stamp { hlc: Hlc(u64::MAX - 1), boot: 7, core: 3, node: NodeId::random() };
        assert_eq!(Stamp::decode(&stamp.encode()), stamp);
    }
}
