//! Elements of vector files and their conversion.

/// How a component is stored; all little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Signed 32 bits.
    I32,
    /// Signed 64 bits.
    I64,
}

impl ElementType {
    /// Size of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    pub(super) fn is_integer(self) -> bool {
        !matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
}

/// Appends a row as floats.
pub(super) fn append_floats(element: ElementType, row: &[u8], out: &mut Vec<f32>) {
    match element {
        ElementType::F16 => {
            let (halves, _) = row.as_chunks::<2>();
            out.extend(halves.iter().map(|half| half_to_float(u16::from_le_bytes(*half))));
        }
        ElementType::F32 => {
            let (words, _) = row.as_chunks::<4>();
            out.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
        }
        ElementType::F64 => {
            let (words, _) = row.as_chunks::<8>();
            out.extend(words.iter().map(|word| f64::from_le_bytes(*word) as f32));
        }
        ElementType::U8 => out.extend(row.iter().map(|&byte| f32::from(byte))),
        ElementType::I8 => out.extend(row.iter().map(|&byte| f32::from(byte.cast_signed()))),
        ElementType::I32 => {
            let (words, _) = row.as_chunks::<4>();
            out.extend(words.iter().map(|word| i32::from_le_bytes(*word) as f32));
        }
        ElementType::I64 => {
            let (words, _) = row.as_chunks::<8>();
            out.extend(words.iter().map(|word| i64::from_le_bytes(*word) as f32));
        }
    }
}

/// Appends a row of integers; rows of floats give nothing.
pub(super) fn append_integers(element: ElementType, row: &[u8], out: &mut Vec<i64>) {
    match element {
        ElementType::U8 => out.extend(row.iter().map(|&byte| i64::from(byte))),
        ElementType::I8 => out.extend(row.iter().map(|&byte| i64::from(byte.cast_signed()))),
        ElementType::I32 => {
            let (words, _) = row.as_chunks::<4>();
            out.extend(words.iter().map(|word| i64::from(i32::from_le_bytes(*word))));
        }
        ElementType::I64 => {
            let (words, _) = row.as_chunks::<8>();
            out.extend(words.iter().map(|word| i64::from_le_bytes(*word)));
        }
        ElementType::F16 | ElementType::F32 | ElementType::F64 => {}
    }
}

/// Exact value of a half-precision number.
fn half_to_float(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1F;
    let fraction = u32::from(half) & 0x3FF;
    let magnitude = match exponent {
        // Subnormal: a multiple of 2^-24.
        0 => return f32::from_bits(sign | (fraction as f32 / 16_777_216.0).to_bits()),
        0x1F => 0x7F80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_their_exact_value() {
        let cases = [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65_504.0),
            (0x0001, 2.0f32.powi(-24)),
            (0x0400, 2.0f32.powi(-14)),
            (0x8000, -0.0),
            (0x7C00, f32::INFINITY),
            (0x3555, 0.333_251_95),
        ];
        for (half, value) in cases {
            assert_eq!(half_to_float(half).to_bits(), value.to_bits(), "{half:04x}");
        }
        assert!(half_to_float(0x7E00).is_nan());
    }
}
