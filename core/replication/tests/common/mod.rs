//! What tests of several machines share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use heddle_types::{ApiError, ErrorCode, Hlc, NodeId, ObjectDigest, ObjectId, Stamp};

/// A small seeded generator (xorshift*); tests print their seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for index in (1..list.len()).rev() {
            list.swap(index, self.below(index + 1));
        }
    }
}

pub(crate) fn stamp(hlc: u64) -> Stamp {
    Stamp { hlc: Hlc(hlc), boot: 1, core: 0, node: NodeId::from(1) }
}

pub(crate) fn live(hlc: u64) -> ObjectDigest {
    ObjectDigest::live(stamp(hlc), 1)
}

pub(crate) fn dead(hlc: u64) -> ObjectDigest {
    ObjectDigest::tombstone(stamp(hlc))
}

pub(crate) fn id(row: u64) -> ObjectId {
    ObjectId::from_row(row)
}

pub(crate) fn refusal(text: &str) -> Box<ApiError> {
    Box::new(ApiError::transient(ErrorCode::Overloaded, text))
}

/// Every order of the positions below `count`.
pub(crate) fn permutations(count: u8) -> Vec<Vec<u8>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(count - 1) {
        for place in 0..=shorter.len() {
            let mut longer = shorter.clone();
            longer.insert(place, count - 1);
            all.push(longer);
        }
    }
    all
}
