//! A query prepared for codes.

use super::encode::BYTE_MAX;
use super::lines::{ByteLines, FloatLines};
use super::scalar::{LANES, dot, gather_bits, largest, low_byte, round, tree};
use super::{Codec, exponent_of, finite, powers, scaled};
use crate::params::Codes;

/// Largest magnitude of a query component for one-bit rows: four planes of two's complement.
const PLANES_MAX: f32 = 7.0;

/// A query in every form that the kernels of one codec read. Grows once, then is reused.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodeQuery {
    /// What it was prepared for; none at first.
    pub(super) codes: Option<Codes>,
    pub(super) padded_dims: usize,
    /// The query as integers `[padded]`; for one-bit rows four bit planes, each as long as a row.
    pub(super) codes_bytes: ByteLines,
    /// The rotated query.
    pub(super) rotated: FloatLines,
    /// Value of one unit of the integers.
    pub(super) scale: f32,
    /// Sum of the integers.
    pub(super) sum: i32,
    /// Squared length.
    pub(super) norm2: f32,
    /// Spread of the error that rounding the query to integers makes, per unit of row length.
    pub(super) noise: f32,
}

impl Codec {
    /// Prepares a client's vector, `[dims]`, finite, of unit length under cosine.
    ///
    /// Cost: a rotation and a few passes; no allocation once `out` has grown.
    pub(crate) fn prepare(&self, query: &[f32], out: &mut CodeQuery) {
        // SAFETY: the table's instruction set was found on this machine.
        unsafe { (self.kernels.prepare)(self, query, out) }
    }

    /// The body of [`Self::prepare`], compiled for each instruction set.
    #[inline(always)]
    pub(super) fn prepare_body(&self, query: &[f32], out: &mut CodeQuery) {
        assert_eq!(query.len(), self.layout.dims);
        self.resize(out);
        let rotated = &mut out.rotated.floats_mut()[..self.layout.padded_dims];
        let exponent = self.load(query, rotated);
        self.finish_query(exponent, out);
    }

    /// Prepares a stored row; an empty `refine` is an absent plane.
    ///
    /// Cost: a few passes, no rotation; no allocation once `out` has grown.
    pub(crate) fn prepare_row(
        &self,
        walk: &[u8],
        factors: &[f32],
        refine: &[u8],
        out: &mut CodeQuery,
    ) {
        // SAFETY: the table's instruction set was found on this machine.
        unsafe { (self.kernels.prepare_row)(self, walk, factors, refine, out) }
    }

    /// The body of [`Self::prepare_row`], compiled for each instruction set.
    #[inline(always)]
    pub(super) fn prepare_row_body(
        &self,
        walk: &[u8],
        factors: &[f32],
        refine: &[u8],
        out: &mut CodeQuery,
    ) {
        self.resize(out);
        let rotated = &mut out.rotated.floats_mut()[..self.layout.padded_dims];
        self.reconstruct(walk, factors, refine, rotated);
        let exponent = exponent_of(rotated);
        if let Some(exponent) = exponent {
            let power = powers(-exponent);
            rotated.iter_mut().for_each(|x| *x = *x * power.0 * power.1);
        }
        self.finish_query(exponent, out);
    }

    /// Prepares a stored row for comparisons with other rows, as it is on the walk plane alone: an
    /// integer code is its own query. Not meant for one-bit rows, which say too little.
    ///
    /// Cost: one pass over the row. No margin comes with it.
    pub(crate) fn prepare_pair(&self, walk: &[u8], factors: &[f32], out: &mut CodeQuery) {
        if !matches!(self.codes, Codes::EightBit | Codes::FourBit) {
            return self.prepare_row(walk, factors, &[], out);
        }
        self.resize(out);
        let bytes = &mut out.codes_bytes.bytes_mut()[..self.layout.padded_dims];
        if self.codes == Codes::EightBit {
            bytes.copy_from_slice(walk);
        } else {
            for (line, part) in walk.chunks_exact(64).zip(bytes.chunks_exact_mut(128)) {
                let (low, high) = part.split_at_mut(64);
                for ((&byte, low), high) in line.iter().zip(low).zip(high) {
                    *low = ((byte & 15) * 2).wrapping_sub(15);
                    *high = ((byte >> 4) * 2).wrapping_sub(15);
                }
            }
        }
        out.sum = bytes.iter().map(|&byte| i32::from(byte as i8)).sum();
        (out.scale, out.noise) = (factors[0], 0.0);
        out.norm2 = self.norm2(factors);
    }

    #[inline(always)]
    pub(super) fn resize(&self, out: &mut CodeQuery) {
        out.codes = Some(self.codes);
        out.padded_dims = self.layout.padded_dims;
        out.rotated.resize(self.layout.padded_dims);
        out.codes_bytes.resize(match self.codes {
            Codes::None | Codes::Half => 0,
            Codes::EightBit | Codes::FourBit => self.layout.padded_dims,
            Codes::OneBit => 4 * self.layout.walk_row_bytes,
        });
    }

    /// Fills everything from the rotated query, which is given without its exponent.
    #[inline(always)]
    pub(super) fn finish_query(&self, exponent: Option<i32>, out: &mut CodeQuery) {
        let rotated = &mut out.rotated.floats_mut()[..self.layout.padded_dims];
        (out.scale, out.sum, out.norm2, out.noise) = (0.0, 0, 0.0, 0.0);
        let bytes = out.codes_bytes.bytes_mut();
        let Some(exponent) = exponent else {
            bytes.fill(0);
            rotated.fill(0.0);
            return;
        };
        let limit = if self.codes == Codes::OneBit { PLANES_MAX } else { BYTE_MAX };
        let scale = largest(rotated) / limit;
        let mut error2 = 0.0;
        if self.codes == Codes::Half {
            out.scale = 1.0;
        } else {
            out.scale = scaled(scale, exponent);
            if self.codes == Codes::OneBit {
                let row_bytes = self.layout.walk_row_bytes;
                (out.sum, error2) = write_planes(rotated, scale, row_bytes, bytes);
            } else {
                (out.sum, error2) = write_bytes(rotated, scale, bytes);
            }
        }
        let noise = (error2 / (self.layout.padded_dims - 1) as f32).sqrt();
        out.noise = scaled(noise, exponent);
        out.norm2 = finite(scaled(scaled(dot(rotated, rotated), exponent), exponent));
        let power = powers(exponent);
        rotated.iter_mut().for_each(|x| *x = finite(*x * power.0 * power.1));
    }
}

/// Sums that come about while a query is rounded.
#[derive(Default)]
struct Sums {
    /// Of the integers; exact, because they stay below 2^24.
    levels: [f32; LANES],
    /// Of the squared errors.
    error2: [f32; LANES],
}

impl Sums {
    /// Rounds sixteen components to steps of `scale`.
    #[inline(always)]
    fn round(&mut self, x: &[f32; LANES], scale: f32, inverse: f32, out: &mut [u8; LANES]) {
        for lane in 0..LANES {
            let level = round(x[lane] * inverse);
            let error = x[lane] - level * scale;
            self.error2[lane] += error * error;
            self.levels[lane] += level;
            out[lane] = low_byte(level);
        }
    }

    /// The sum of the integers, and that of the squared errors.
    #[inline(always)]
    fn totals(self) -> (i32, f32) {
        (tree(self.levels) as i32, tree(self.error2))
    }
}

/// Rounds to steps of `scale`; returns the sum of the integers and the squared error.
#[inline(always)]
fn write_bytes(rotated: &[f32], scale: f32, bytes: &mut [u8]) -> (i32, f32) {
    let inverse = 1.0 / scale;
    let mut sums = Sums::default();
    let lines = bytes.as_chunks_mut::<LANES>().0.iter_mut();
    for (out, x) in lines.zip(rotated.as_chunks::<LANES>().0) {
        sums.round(x, scale, inverse, out);
    }
    sums.totals()
}

/// The same into four bit planes of `row_bytes` each.
#[inline(always)]
fn write_planes(rotated: &[f32], scale: f32, row_bytes: usize, bytes: &mut [u8]) -> (i32, f32) {
    let inverse = 1.0 / scale;
    let mut sums = Sums::default();
    bytes.fill(0);
    for (at, x) in rotated.as_chunks::<LANES>().0.iter().enumerate() {
        let mut levels = [0; LANES];
        sums.round(x, scale, inverse, &mut levels);
        for plane in 0..4 {
            for (byte, eight) in levels.as_chunks::<8>().0.iter().enumerate() {
                bytes[plane * row_bytes + 2 * at + byte] = gather_bits(*eight, plane as u32);
            }
        }
    }
    sums.totals()
}
