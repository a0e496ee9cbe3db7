//! From a vector to its planes, and back.

use super::scalar::{LANES, dot, gather_bits, largest, low_byte, round, tree};
use super::{
    Codec, CodecScratch, Family, exponent_of, half, pack, powers, scaled, short_up, unpack,
};
use crate::params::Codes;

/// Largest magnitude of an eight-bit code. The lowest value of the type is left out so that every
/// code has a negative.
pub(super) const BYTE_MAX: f32 = 127.0;

/// Distance of two four-bit levels in units of the spread of the components: the uniform quantiser
/// of sixteen levels that distorts a normal variable least.
const NIBBLE_STEP: f32 = 0.345;

/// A vector whose largest component is small gets a smaller step: this many largest components per
/// level, 15 levels apart. Together the two rules lose 10.3 % of a normal vector of 128 components
/// and 10.7 % of one of 384, where the first rule alone loses 10.6 and 10.8 %.
const NIBBLE_REACH: f32 = 0.9 * 2.0 / 15.0;

/// Outermost four-bit number. What lies beyond it leaves large residuals, ...
pub(super) const NIBBLE_EDGE: f32 = 15.0;

/// ... so the refine plane counts in units this many times larger there, and can be fine elsewhere.
pub(super) const EDGE_SCALE: f32 = 8.0;

/// Largest scale of a refine plane. [`EDGE_SCALE`] times it is finite, so that a kernel may
/// multiply a residual by the two in either order: by a power of two nothing is rounded.
const SCALE_MAX: f32 = f32::MAX / (2.0 * EDGE_SCALE);

impl Codec {
    /// Writes the planes of a vector.
    ///
    /// Shapes: `vector` `[dims]`, finite, of unit length under cosine; the others as
    /// [`Codec::layout`] says; an empty `refine` leaves that plane out. Panics: wrong lengths (a
    /// bug of the index). Cost: a rotation and a few passes; no allocation once buffers have grown.
    pub(crate) fn encode(
        &self,
        vector: &[f32],
        scratch: &mut CodecScratch,
        walk: &mut [u8],
        factors: &mut [f32],
        refine: &mut [u8],
    ) {
        // SAFETY: the table's instruction set was found on this machine.
        unsafe { (self.kernels.encode)(self, vector, scratch, walk, factors, refine) }
    }

    /// The body of [`Self::encode`], compiled for each instruction set.
    #[inline(always)]
    pub(super) fn encode_body(
        &self,
        vector: &[f32],
        scratch: &mut CodecScratch,
        walk: &mut [u8],
        factors: &mut [f32],
        refine: &mut [u8],
    ) {
        let layout = &self.layout;
        assert_eq!(vector.len(), layout.dims);
        assert_eq!(walk.len(), layout.walk_row_bytes);
        assert_eq!(factors.len(), layout.factor_count);
        assert!(refine.is_empty() || refine.len() == layout.refine_row_bytes);
        scratch.rotated.resize(layout.padded_dims);
        scratch.walk.resize(layout.padded_dims);
        let x = &mut scratch.rotated.floats_mut()[..layout.padded_dims];
        let w = &mut scratch.walk.floats_mut()[..layout.padded_dims];
        let Some(exponent) = self.load(vector, x) else {
            walk.fill(0);
            factors.fill(0.0);
            refine.fill(0);
            return;
        };
        self.quantise(x, w);
        self.write_walk(w, walk);
        let (xx, xw) = (dot(x, x), dot(x, w));
        // Half-precision rows are no estimate that needs correction.
        let multiplier = if self.codes == Codes::Half { 1.0 } else { xx / xw };
        let error2 = squared_error(x, w, multiplier);
        // An error that no rotation has spread may point along the query: the margin of
        // half-precision rows is their whole error, which never fails.
        let spread = if self.codes == Codes::Half {
            error2.sqrt() / super::MARGIN_SPREADS
        } else {
            (error2 / (layout.padded_dims - 1) as f32).sqrt()
        };
        let spread = short_up(spread);
        let mut scale = 0.0;
        if layout.refine_row_bytes > 0 {
            scale = self.write_refine(x, w, multiplier, refine);
        }
        factors[0] = scaled(multiplier, exponent);
        if self.family != Family::Unit {
            factors[1] = super::finite(scaled(scaled(xx, exponent), exponent));
        }
        let scale = scaled(scale, exponent).min(SCALE_MAX);
        factors[layout.factor_count - 1] = pack(scale, scaled(spread, exponent));
    }

    /// Loads a vector without its exponent, padded and rotated. None when it is zero.
    #[inline(always)]
    pub(super) fn load(&self, vector: &[f32], out: &mut [f32]) -> Option<i32> {
        let exponent = exponent_of(vector)?;
        let (head, tail) = out.split_at_mut(vector.len());
        let power = powers(-exponent);
        for (x, &value) in head.iter_mut().zip(vector) {
            *x = value * power.0 * power.1;
        }
        tail.fill(0.0);
        if let Some(rotation) = &self.rotation {
            // SAFETY: the table's instruction set was found on this machine.
            unsafe { (self.kernels.rotate)(rotation, out) };
        }
        Some(exponent)
    }

    /// The walk plane as numbers: integers, or floats of half precision.
    #[inline(always)]
    fn quantise(&self, x: &[f32], w: &mut [f32]) {
        match self.codes {
            Codes::None => {}
            Codes::Half => {
                for (w, &x) in w.iter_mut().zip(x) {
                    *w = half::to_f32(half::from_f32(x));
                }
            }
            Codes::EightBit => {
                let inverse = BYTE_MAX / largest(x);
                for (w, &x) in w.iter_mut().zip(x) {
                    *w = round(x * inverse);
                }
            }
            Codes::FourBit => {
                let spread = (dot(x, x) / x.len() as f32).sqrt();
                let step = (NIBBLE_STEP * spread).min(NIBBLE_REACH * largest(x));
                let inverse = 1.0 / step;
                for (w, &x) in w.iter_mut().zip(x) {
                    let level = round(x * inverse + 7.5);
                    let level = if level < 15.0 { level } else { 15.0 };
                    let level = if level > 0.0 { level } else { 0.0 };
                    *w = level + level - 15.0;
                }
            }
            Codes::OneBit => {
                for (w, &x) in w.iter_mut().zip(x) {
                    *w = if x >= 0.0 { 1.0 } else { -1.0 };
                }
            }
        }
    }

    /// Packs the numbers of the walk plane.
    #[inline(always)]
    fn write_walk(&self, w: &[f32], walk: &mut [u8]) {
        match self.codes {
            Codes::None => {}
            Codes::Half => {
                for (bytes, &w) in walk.as_chunks_mut::<2>().0.iter_mut().zip(w) {
                    *bytes = half::from_f32(w).to_le_bytes();
                }
            }
            Codes::EightBit => {
                for (byte, &w) in walk.iter_mut().zip(w) {
                    *byte = low_byte(w);
                }
            }
            Codes::FourBit => {
                let level = |w: f32| low_byte(w * 0.5 + 7.5);
                for (line, part) in walk.chunks_exact_mut(64).zip(w.chunks_exact(128)) {
                    let (low, high) = part.split_at(64);
                    for ((byte, &low), &high) in line.iter_mut().zip(low).zip(high) {
                        *byte = level(low) | level(high) << 4;
                    }
                }
            }
            Codes::OneBit => {
                walk.fill(0);
                for (byte, part) in walk.iter_mut().zip(w.as_chunks::<8>().0) {
                    *byte = gather_bits(part.map(|w| u8::from(w > 0.0)), 0);
                }
            }
        }
    }

    /// The numbers of a walk plane.
    #[inline(always)]
    pub(super) fn read_walk(&self, walk: &[u8], w: &mut [f32]) {
        match self.codes {
            Codes::None => {}
            Codes::Half => {
                for (w, &bytes) in w.iter_mut().zip(walk.as_chunks::<2>().0) {
                    *w = half::to_f32(u16::from_le_bytes(bytes));
                }
            }
            Codes::EightBit => {
                for (w, &byte) in w.iter_mut().zip(walk) {
                    *w = f32::from(byte as i8);
                }
            }
            Codes::FourBit => {
                for (line, part) in walk.chunks_exact(64).zip(w.chunks_exact_mut(128)) {
                    let (low, high) = part.split_at_mut(64);
                    for ((&byte, low), high) in line.iter().zip(low).zip(high) {
                        *low = f32::from(byte & 15) * 2.0 - 15.0;
                        *high = f32::from(byte >> 4) * 2.0 - 15.0;
                    }
                }
            }
            Codes::OneBit => {
                for (&byte, part) in walk.iter().zip(w.as_chunks_mut::<8>().0) {
                    for (bit, w) in part.iter_mut().enumerate() {
                        // One, and its sign.
                        let sign = (u32::from(byte) >> bit & 1 ^ 1) << 31;
                        *w = f32::from_bits(sign | 0x3f80_0000);
                    }
                }
            }
        }
    }

    /// In how many units of the refine plane's scale a residual beside this number counts.
    #[inline(always)]
    fn edge_factor(&self, number: f32) -> f32 {
        let is_edge = self.codes == Codes::FourBit && number.abs() == NIBBLE_EDGE;
        if is_edge { EDGE_SCALE } else { 1.0 }
    }

    /// Writes `(x - m w) / scale` and returns the scale; an empty plane has the same scale.
    #[inline(always)]
    fn write_refine(&self, x: &[f32], w: &[f32], multiplier: f32, refine: &mut [u8]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                let residual = (x[lane] - multiplier * w[lane]).abs();
                let residual = residual / self.edge_factor(w[lane]);
                lanes[lane] = if residual > lanes[lane] { residual } else { lanes[lane] };
            }
        }
        let scale = short_up(lanes.into_iter().fold(0.0, f32::max) / BYTE_MAX);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for ((byte, &x), &w) in refine.iter_mut().zip(x).zip(w) {
            let level = round((x - multiplier * w) * inverse / self.edge_factor(w));
            let level = if level < BYTE_MAX { level } else { BYTE_MAX };
            *byte = low_byte(if level > -BYTE_MAX { level } else { -BYTE_MAX });
        }
        scale
    }

    /// The padded, rotated vector that the planes stand for.
    #[inline(always)]
    pub(super) fn reconstruct(&self, walk: &[u8], factors: &[f32], refine: &[u8], out: &mut [f32]) {
        self.read_walk(walk, out);
        let multiplier = factors[0];
        let (scale, _) = unpack(factors[self.layout.factor_count - 1]);
        if refine.is_empty() {
            out.iter_mut().for_each(|x| *x = super::finite(*x * multiplier));
            return;
        }
        for (x, &residual) in out.iter_mut().zip(refine) {
            let scale = scale * self.edge_factor(*x);
            *x = super::finite(*x * multiplier + f32::from(residual as i8) * scale);
        }
    }

    /// The vector that the planes stand for, `[dims]`; an empty `refine` is an absent plane.
    pub(crate) fn decode(
        &self,
        walk: &[u8],
        factors: &[f32],
        refine: &[u8],
        scratch: &mut CodecScratch,
        out: &mut [f32],
    ) {
        assert_eq!(out.len(), self.layout.dims);
        scratch.rotated.resize(self.layout.padded_dims);
        let x = &mut scratch.rotated.floats_mut()[..self.layout.padded_dims];
        self.reconstruct(walk, factors, refine, x);
        let Some(exponent) = exponent_of(x) else { return out.fill(0.0) };
        let power = powers(-exponent);
        x.iter_mut().for_each(|x| *x = *x * power.0 * power.1);
        if let Some(rotation) = &self.rotation {
            rotation.invert(x);
        }
        for (out, &x) in out.iter_mut().zip(&*x) {
            *out = super::finite(scaled(x, exponent));
        }
    }
}

/// `sum((x - m w)^2)`, computed as it stands: the short form cancels where the error is small.
#[inline(always)]
fn squared_error(x: &[f32], w: &[f32], multiplier: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let residual = x[lane] - multiplier * w[lane];
            lanes[lane] += residual * residual;
        }
    }
    tree(lanes)
}
