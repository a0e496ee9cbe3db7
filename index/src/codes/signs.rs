//! One bit a component: the first look of a scan at rows of larger codes.
//!
//! A *sign row* holds the signs of a rotated vector and, in the same line of memory, the numbers
//! that make an estimate of them. A scan reads it, passes over what is too far even at the lower
//! end of the estimate, and reads the codes of the few rows that are left. Nothing of it is kept on
//! disk: the signs of four-bit and eight-bit codes are those of the components.
//!
//! | bytes | what |
//! |---|---|
//! | `D / 8` | bit `i`: component `i` is not negative |
//! | 4 | multiplier `<x, x> / <x, s>` for the signs `s`, as for one-bit codes |
//! | 4 | squared length, `<x, x>` |
//! | 4 | spread of the error, `|x - m s| / sqrt(D - 1)` |
//! | rest | zeros, at least four bytes, up to a whole line |
//!
//! Source: as for one-bit codes, see the module above.

use super::lines::LINE_BYTES;
use super::{CodeLayout, CodeQuery, CodeRows, Codec, CodecScratch, Family, exponent_of, powers};
use crate::params::Codes;

/// Shorter rows of codes are two lines: little is gained by reading one of them.
const DIMS_MIN: usize = 256;

/// Numbers behind the signs, the last one unused: kernels read four at once.
const FACTORS: usize = 4;

/// Squared error of signs as a part of the squared length, for normal components: `pi / 2 - 1`.
const ERROR2: f32 = core::f32::consts::FRAC_PI_2 - 1.0;

/// Rows of a sign plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignRows {
    /// First byte of slot 0, at a line.
    base: *const u8,
    /// Bytes from one row to the next, whole lines.
    pub(super) row_bytes: usize,
    /// Bytes of the signs; the numbers follow.
    pub(super) sign_bytes: usize,
}

impl SignRows {
    /// Address of a row; only computed, not read.
    #[inline(always)]
    pub(super) fn row(self, slot: u32) -> *const u8 {
        self.base.wrapping_add(slot as usize * self.row_bytes)
    }

    /// The same rows as one-bit codes: the signs of a query are zero where the numbers stand.
    pub(super) fn as_codes(self) -> CodeRows {
        CodeRows {
            base: self.base,
            row_bytes: self.row_bytes,
            factors: self.base.wrapping_add(self.sign_bytes).cast(),
            factor_count: self.row_bytes / size_of::<f32>(),
        }
    }

    /// From estimates to least distances.
    ///
    /// # Safety
    /// The rows of the slots must be readable.
    #[inline(always)]
    pub(super) unsafe fn subtract_spreads(self, spreads: f32, slots: &[u32], out: &mut [f32]) {
        let rows = self.as_codes();
        for (out, &slot) in out.iter_mut().zip(slots) {
            // SAFETY: passed on; the third number is the spread.
            let spread = unsafe { *rows.factors_of(slot).wrapping_add(2) };
            *out = super::finite(*out - spreads * spread);
        }
    }
}

/// Makes sign rows and estimates from them, for the rows of one [`Codec`].
#[derive(Debug)]
pub(crate) struct Signs {
    /// One-bit codes in the layout of sign rows.
    bits: Codec,
    /// Bytes of the signs alone.
    sign_bytes: usize,
}

impl Signs {
    /// Signs for the rows of a codec; none where they would not pay.
    pub(crate) fn of(codec: &Codec) -> Option<Self> {
        let padded_dims = codec.layout.padded_dims;
        let is_signed = matches!(codec.codes, Codes::EightBit | Codes::FourBit);
        if !is_signed || padded_dims < DIMS_MIN {
            return None;
        }
        let sign_bytes = padded_dims / 8;
        let row_bytes = (sign_bytes + FACTORS * size_of::<f32>()).next_multiple_of(LINE_BYTES);
        let layout = CodeLayout {
            dims: padded_dims,
            padded_dims,
            walk_row_bytes: row_bytes,
            refine_row_bytes: 0,
            factor_count: row_bytes / size_of::<f32>(),
        };
        let (family, kernels) = (codec.family, codec.kernels);
        let bits = Codec { codes: Codes::OneBit, family, layout, rotation: None, kernels };
        Some(Self { bits, sign_bytes })
    }

    /// Bytes of a sign row, whole lines.
    pub(crate) fn row_bytes(&self) -> usize {
        self.bits.layout.walk_row_bytes
    }

    /// Writes the sign row of a row of codes. Cost: one pass over the components.
    pub(crate) fn encode(
        &self,
        codec: &Codec,
        walk: &[u8],
        factors: &[f32],
        scratch: &mut CodecScratch,
        row: &mut [u8],
    ) {
        assert_eq!(row.len(), self.row_bytes());
        let dims = self.bits.layout.padded_dims;
        scratch.walk.resize(dims);
        let numbers = &mut scratch.walk.floats_mut()[..dims];
        codec.read_walk(walk, numbers);
        row.fill(0);
        let mut sums = (0.0f32, 0.0f32);
        for (byte, part) in row.iter_mut().zip(numbers.as_chunks::<8>().0) {
            for (bit, &number) in part.iter().enumerate() {
                *byte |= u8::from(number >= 0.0) << bit;
                // In one order on every machine; exact up to a thousand dimensions.
                sums.0 += number.abs();
                sums.1 += number * number;
            }
        }
        // In units of the multiplier of the codes.
        let (absolute, squared) = (sums.0, sums.1);
        let multiplier = if absolute > 0.0 { squared / absolute } else { 0.0 };
        let error2 = (multiplier * multiplier * dims as f32 - squared).max(0.0);
        let unit = factors[0];
        let spread = unit * (error2 / (dims - 1) as f32).sqrt();
        let norm2 = if codec.family == Family::Unit { 1.0 } else { factors[1] };
        let tail = row[self.sign_bytes..].as_chunks_mut::<4>().0;
        for (bytes, number) in tail.iter_mut().zip([unit * multiplier, norm2, spread]) {
            *bytes = super::finite(number).to_le_bytes();
        }
    }

    /// Prepares the query of [`Self::lowest`] from one for the codes. Cost: a few passes.
    pub(crate) fn prepare(&self, query: &CodeQuery, out: &mut CodeQuery) {
        let dims = self.bits.layout.padded_dims;
        self.bits.resize(out);
        let rotated = &mut out.rotated.floats_mut()[..dims];
        rotated.copy_from_slice(&query.rotated.floats()[..dims]);
        let exponent = exponent_of(rotated);
        if let Some(exponent) = exponent {
            let power = powers(-exponent);
            rotated.iter_mut().for_each(|x| *x = *x * power.0 * power.1);
        }
        self.bits.finish_query(exponent, out);
    }

    /// What the raw distances of some rows may be at least: their estimates less `spreads` spreads
    /// of the error. Finite.
    ///
    /// # Safety
    /// `base` is the sign row of slot 0, and the rows of `slots` lie in committed memory behind it
    /// and are published to this core.
    pub(crate) unsafe fn lowest(
        &self,
        query: &CodeQuery,
        base: *const u8,
        slots: &[u32],
        spreads: f32,
        out: &mut [f32],
    ) {
        assert_eq!(slots.len(), out.len());
        assert_eq!(query.padded_dims, self.bits.layout.padded_dims);
        let (row_bytes, sign_bytes) = (self.row_bytes(), self.sign_bytes);
        let rows = SignRows { base, row_bytes, sign_bytes };
        // Rounding the query adds to the error of every row about alike.
        let of_query = query.noise * query.noise * (self.bits.layout.padded_dims - 1) as f32;
        let length = (query.norm2 + of_query / ERROR2).sqrt();
        let sides = if self.bits.family == Family::L2 { 2.0 } else { 1.0 };
        let scale = sides * spreads * length;
        if let Some(kernels) = self.bits.kernels.lowest {
            let lowest = kernels[usize::from(self.bits.family == Family::L2)];
            // SAFETY: the kernel's instruction set was found on this machine; lengths are asserted;
            // the caller vouches for the rows.
            return unsafe { lowest(query, rows, scale, slots, out) };
        }
        // SAFETY: sign rows are one-bit rows with their factors behind them; the caller vouches for
        // them.
        unsafe { self.bits.many(query, rows.as_codes(), slots, out) };
        // SAFETY: as above.
        unsafe { rows.subtract_spreads(scale, slots, out) };
    }
}
