//! The definition of every estimate, one component after the other.
//!
//! The fast forms return the same bits: integers are exact in any order, and floating point sums
//! have one fixed order (sixteen lanes, then a tree) without fused operations.

/// Lanes of a floating point sum.
pub(crate) const LANES: usize = 16;

/// Sum of the lanes, halves first.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Dot product of two slices of whole lines in the fixed order.
#[inline(always)]
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (left, right) = (left.as_chunks::<LANES>().0, right.as_chunks::<LANES>().0);
    for (a, b) in left.iter().zip(right) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    tree(lanes)
}

/// Largest magnitude, of whole lines.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let magnitude = x[lane].abs();
            lanes[lane] = if magnitude > lanes[lane] { magnitude } else { lanes[lane] };
        }
    }
    lanes.into_iter().fold(0.0, |most, lane| if lane > most { lane } else { most })
}

/// 1.5 * 2^23: a number plus this has no fraction bits left, and ends in the number's integer.
const MAGIC: f32 = 12_582_912.0;

/// Nearest integer, ties to even, for magnitudes below 2^22.
#[inline(always)]
pub(crate) fn round(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// The lowest byte of an integer below 2^22, in two's complement.
#[inline(always)]
pub(crate) fn low_byte(integer: f32) -> u8 {
    (integer + MAGIC).to_bits() as u8
}

/// Bit `bit` of each of eight bytes, the first byte's lowest.
#[inline(always)]
pub(crate) fn gather_bits(bytes: [u8; 8], bit: u32) -> u8 {
    let bits = u64::from_le_bytes(bytes) >> bit & 0x0101_0101_0101_0101;
    // Moves the bit of byte i to place 56 + i; nothing else arrives there.
    (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// `sum(row * query)` of signed bytes.
pub(crate) fn dot_bytes(row: &[u8], query: &[i8]) -> i32 {
    row.iter().zip(query).map(|(&r, &q)| i32::from(r as i8) * i32::from(q)).sum()
}

/// `sum((2 c - 15) * query)` over four-bit codes `c`. A line of 64 bytes holds 128 components:
/// low nibbles the first 64, high nibbles the others.
pub(crate) fn dot_nibbles(row: &[u8], query: &[i8]) -> i32 {
    let mut sum = 0;
    for (line, part) in row.chunks_exact(64).zip(query.chunks_exact(128)) {
        for (at, &byte) in line.iter().enumerate() {
            let (low, high) = (i32::from(byte & 15), i32::from(byte >> 4));
            sum += (2 * low - 15) * i32::from(part[at]);
            sum += (2 * high - 15) * i32::from(part[at + 64]);
        }
    }
    sum
}

/// `sum(query where the bit is set)`: the query in four planes of two's complement, lowest first,
/// each as long as the row.
pub(crate) fn dot_bits(row: &[u8], planes: &[u8]) -> i32 {
    let plane = |index: usize| {
        let plane = &planes[index * row.len()..][..row.len()];
        row.iter().zip(plane).map(|(a, b)| (a & b).count_ones() as i32).sum::<i32>()
    };
    plane(0) + 2 * plane(1) + 4 * plane(2) - 8 * plane(3)
}
