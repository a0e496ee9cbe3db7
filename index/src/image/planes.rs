//! What the rows of vectors and codes must look like to be taken from an image.

use super::Restorer;
use crate::Slot;
use crate::error::IndexError;
use crate::params::{Codes, Metric};

/// The byte that no eight-bit code has: the negative of every code is one as well.
const NO_CODE: u8 = 0x80;

/// A section and what is wrong in it.
type Fault = (&'static str, &'static str);

impl Restorer {
    /// Checks the rows of all slots that hold a vector, in every plane that exists.
    pub(super) fn check_vectors(&self) -> Result<(), IndexError> {
        let planes = &self.view.planes;
        for slot in (0..self.slots).filter(|&slot| self.view.holds(slot)) {
            let raw = if planes.has_raw() { self.check_raw(slot) } else { Ok(()) };
            let codes = if planes.codec.is_some() { self.check_codes(slot) } else { Ok(()) };
            if let Err((section, problem)) = raw.and(self.check_norm(slot)).and(codes) {
                let row = match section {
                    "vectors" => planes.bytes.raw,
                    "walk" => planes.bytes.walk,
                    "factors" => planes.bytes.factors,
                    "refine" => planes.bytes.refine,
                    _ => size_of::<f32>(),
                };
                let offset = u64::from(slot) * row as u64;
                return Err(IndexError::Image { section, offset, problem });
            }
        }
        Ok(())
    }

    fn check_raw(&self, slot: Slot) -> Result<(), Fault> {
        let row = self.view.planes.raw_row(slot);
        let (vector, padding) = row.split_at(self.view.params.dims as usize);
        if !vector.iter().all(|x| x.is_finite()) {
            return Err(("vectors", "a component is not finite"));
        }
        if padding.iter().any(|x| *x != 0.0) {
            return Err(("vectors", "padding that is not zero"));
        }
        if self.view.params.metric == Metric::Cosine {
            let squared = -self.view.kernels.pair(row, row);
            if (squared - 1.0).abs() > 1e-3 {
                return Err(("vectors", "a vector that is not of unit length"));
            }
        }
        Ok(())
    }

    fn check_norm(&self, slot: Slot) -> Result<(), Fault> {
        // The length that every other metric reports is one.
        let norm = self.view.norm(slot);
        if norm.is_normal() && norm > 0.0 {
            Ok(())
        } else {
            Err(("norms", "a length that is not positive"))
        }
    }

    /// Any bytes but one are codes; the numbers that scale them must be such.
    fn check_codes(&self, slot: Slot) -> Result<(), Fault> {
        let planes = &self.view.planes;
        let factors = planes.factor_row(slot);
        let (packed, plain) = factors.split_last().ok_or(("factors", "no factors"))?;
        if !plain.iter().all(|x| x.is_finite() && *x >= 0.0) {
            return Err(("factors", "a factor that is negative or not finite"));
        }
        // Two short floats in one word: the scale of the residuals and the spread of the error.
        let word = packed.to_bits();
        for short in [word & 0xffff_0000, word << 16] {
            let value = f32::from_bits(short);
            if !value.is_finite() || value.is_sign_negative() {
                return Err(("factors", "a scale that is negative or not finite"));
            }
        }
        if self.view.params.codes == Codes::EightBit && planes.walk_row(slot).contains(&NO_CODE) {
            return Err(("walk", "a byte that is no code"));
        }
        if planes.refine_row(slot).contains(&NO_CODE) {
            return Err(("refine", "a byte that is no code"));
        }
        Ok(())
    }
}
