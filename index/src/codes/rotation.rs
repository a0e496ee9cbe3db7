//! The rotation that makes every vector look alike before it is quantised.
//!
//! A vector is padded with zeros and goes through a few rounds of random signs and a
//! Walsh-Hadamard transform, after which its components are close to normal with one spread,
//! whatever they were before: a quantiser needs no training. The rotation is orthonormal up to
//! rounding, so lengths and dot products stay. Its signs follow from a constant of the format: all
//! nodes of a cluster rotate alike, for all time.
//!
//! When the padded length is no power of two, a round transforms the largest power of two that
//! fits, at the front in even rounds and at the end in odd ones, and then mixes component `i` with
//! `i + half` (a step of Kac's random walk), so that what only one end has seen spreads.
//!
//! Every component of the result is a fixed tree of single additions, subtractions and
//! multiplications, never fused: all instruction sets give the same bits.

use super::scalar::LANES;
use crate::view::mix;

/// Constant of the format: changing it makes every stored code meaningless.
const ROTATION_SEED: u64 = 0x4865_6464_6c65_0001;

/// Rounds when the padded length is a power of two.
const ROUNDS_WHOLE: usize = 3;

/// Rounds when it is not: each end is transformed twice.
const ROUNDS_SPLIT: usize = 4;

/// The rotation of vectors of one length.
#[derive(Debug)]
pub(crate) struct Rotation {
    padded: usize,
    /// Components of one transform, a power of two.
    block: usize,
    /// `1 / sqrt(block)` with the sign of each component, `[rounds][block]`.
    signs: Vec<f32>,
}

impl Rotation {
    /// The rotation for `padded` components, a multiple of 64.
    pub(crate) fn new(padded: usize) -> Self {
        assert!(padded > 0 && padded.is_multiple_of(64), "whole lines of components");
        let block = 1 << padded.ilog2();
        let rounds = if block == padded { ROUNDS_WHOLE } else { ROUNDS_SPLIT };
        let scale = 1.0 / (block as f32).sqrt();
        let signs = (0..rounds * block)
            .map(|at| {
                let word = mix(ROTATION_SEED ^ mix((at / 64) as u64));
                if word >> (at % 64) & 1 == 1 { -scale } else { scale }
            })
            .collect();
        Self { padded, block, signs }
    }

    /// First component of the transform of a round.
    fn start(&self, round: usize) -> usize {
        if round.is_multiple_of(2) { 0 } else { self.padded - self.block }
    }

    /// Rotates in place; `vector` has the padded length. The plain form.
    pub(crate) fn apply(&self, vector: &mut [f32]) {
        self.rounds(vector, |part, signs| {
            for (x, sign) in part.iter_mut().zip(signs) {
                *x *= sign;
            }
            transform(part);
        });
    }

    /// Runs every round with one way to apply signs and transform a block.
    #[inline(always)]
    pub(super) fn rounds(&self, vector: &mut [f32], block: impl Fn(&mut [f32], &[f32])) {
        let vector = &mut vector[..self.padded];
        for (round, signs) in self.signs.chunks_exact(self.block).enumerate() {
            let start = self.start(round);
            block(&mut vector[start..start + self.block], signs);
            if self.block != self.padded {
                mix_halves(vector);
            }
        }
    }

    /// Undoes [`Self::apply`] up to rounding.
    pub(crate) fn invert(&self, vector: &mut [f32]) {
        let vector = &mut vector[..self.padded];
        for (round, signs) in self.signs.chunks_exact(self.block).enumerate().rev() {
            if self.block != self.padded {
                mix_halves(vector);
            }
            let start = self.start(round);
            let part = &mut vector[start..start + self.block];
            transform(part);
            for (x, sign) in part.iter_mut().zip(signs) {
                *x *= sign;
            }
        }
    }
}

/// Walsh-Hadamard transform without a scale, in ascending strides.
fn transform(part: &mut [f32]) {
    for line in part.as_chunks_mut::<LANES>().0 {
        *line = within::<8>(within::<4>(within::<2>(within::<1>(*line))));
    }
    let mut stride = LANES;
    while stride < part.len() {
        for pair in part.chunks_exact_mut(2 * stride) {
            let (low, high) = pair.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride *= 2;
    }
}

/// Sums and differences of lanes `STRIDE` apart, in a form that becomes vector instructions.
#[inline(always)]
fn within<const STRIDE: usize>(x: [f32; LANES]) -> [f32; LANES] {
    core::array::from_fn(|lane| {
        let other = x[lane ^ STRIDE];
        if lane & STRIDE == 0 { x[lane] + other } else { other - x[lane] }
    })
}

/// Keeps lengths when two components are mixed.
const MIX_SCALE: f32 = core::f32::consts::FRAC_1_SQRT_2;

/// Component `i` with component `i + half`; its own inverse.
#[inline(always)]
fn mix_halves(vector: &mut [f32]) {
    let (low, high) = vector.split_at_mut(vector.len() / 2);
    for (a, b) in low.iter_mut().zip(high) {
        (*a, *b) = ((*a + *b) * MIX_SCALE, (*a - *b) * MIX_SCALE);
    }
}
