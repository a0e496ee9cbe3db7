//! Sixteen-bit floats: conversions by definition.

/// Nearest half-precision float, ties to even; overflow becomes infinity.
#[inline(always)]
pub(crate) fn from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude >= 0x4780_0000 {
        let is_nan = magnitude > 0x7f80_0000;
        return sign | if is_nan { 0x7e00 } else { 0x7c00 };
    }
    if magnitude < 0x3880_0000 {
        // Subnormal: adding one half puts the rounding where the last bit of the result is.
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0x3f00_0000) as u16;
    }
    let odd = magnitude >> 13 & 1;
    let rounded = magnitude - 0x3800_0000 + 0x0fff + odd;
    sign | (rounded >> 13) as u16
}

/// The value of a half-precision float, exactly.
#[inline(always)]
pub(crate) fn to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff) << 13;
    // The exponent bias differs by 112; multiplying by 2^112 also puts subnormals right.
    let value = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let value =
        if half & 0x7c00 == 0x7c00 { f32::from_bits(magnitude | 0x7f80_0000) } else { value };
    f32::from_bits(value.to_bits() | sign)
}
