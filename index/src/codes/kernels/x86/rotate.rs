//! The rotation in vector registers.
//!
//! A Walsh-Hadamard transform adds and subtracts components that are a power of two apart, in
//! ascending distance: first those within a register, by swapping lanes, then whole registers that
//! are held at once, then four at a time through memory. Each sum is the one of the plain form.

use core::arch::x86_64::*;

use crate::codes::rotation::Rotation;

/// # Safety
/// Sixteen floats must be readable at `from`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load16(from: *const f32) -> __m512 {
    // SAFETY: passed on.
    unsafe { _mm512_loadu_ps(from) }
}

/// # Safety
/// Sixteen floats must be writable at `to`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store16(to: *mut f32, value: __m512) {
    // SAFETY: passed on.
    unsafe { _mm512_storeu_ps(to, value) }
}

/// Sums and differences of lanes 1, 2, 4 and 8 apart.
#[inline]
#[target_feature(enable = "avx512f")]
fn within16(x: __m512) -> __m512 {
    let other = _mm512_permute_ps::<0b10_11_00_01>(x);
    let x = _mm512_mask_sub_ps(_mm512_add_ps(x, other), 0xAAAA, other, x);
    let other = _mm512_permute_ps::<0b01_00_11_10>(x);
    let x = _mm512_mask_sub_ps(_mm512_add_ps(x, other), 0xCCCC, other, x);
    let other = _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x);
    let x = _mm512_mask_sub_ps(_mm512_add_ps(x, other), 0xF0F0, other, x);
    let other = _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x);
    _mm512_mask_sub_ps(_mm512_add_ps(x, other), 0xFF00, other, x)
}

/// Signs, and the transform of `16 COUNT` components.
///
/// # Safety
/// That many floats must be writable at `part` and readable at `signs`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn base16<const COUNT: usize>(part: *mut f32, signs: *const f32) {
    let mut x: [__m512; COUNT] = core::array::from_fn(|at| {
        // SAFETY: `16 at + 16 <= 16 COUNT`.
        let value = unsafe { load16(part.wrapping_add(16 * at)) };
        // SAFETY: as above.
        within16(_mm512_mul_ps(value, unsafe { load16(signs.wrapping_add(16 * at)) }))
    });
    let mut stride = 1;
    while stride < COUNT {
        for at in 0..COUNT {
            if at & stride == 0 {
                let (a, b) = (x[at], x[at + stride]);
                x[at] = _mm512_add_ps(a, b);
                x[at + stride] = _mm512_sub_ps(a, b);
            }
        }
        stride *= 2;
    }
    for (at, value) in x.into_iter().enumerate() {
        // SAFETY: as for the loads.
        unsafe { store16(part.wrapping_add(16 * at), value) };
    }
}

/// Two rounds of sums at once: components `stride` and `2 stride` apart; or the last round alone.
///
/// # Safety
/// `count` floats must be writable at `part`.
#[target_feature(enable = "avx512f")]
unsafe fn far16(part: *mut f32, count: usize, mut stride: usize) {
    while 2 * stride < count {
        for start in (0..count).step_by(4 * stride) {
            for at in (start..start + stride).step_by(16) {
                // SAFETY: `at + 3 stride + 16 <= start + 4 stride <= count`.
                let [a, b, c, d] = core::array::from_fn(|quarter| unsafe {
                    load16(part.wrapping_add(at + quarter * stride))
                });
                let (a, b) = (_mm512_add_ps(a, b), _mm512_sub_ps(a, b));
                let (c, d) = (_mm512_add_ps(c, d), _mm512_sub_ps(c, d));
                let sums = [
                    _mm512_add_ps(a, c),
                    _mm512_add_ps(b, d),
                    _mm512_sub_ps(a, c),
                    _mm512_sub_ps(b, d),
                ];
                for (quarter, sum) in sums.into_iter().enumerate() {
                    // SAFETY: as for the loads.
                    unsafe { store16(part.wrapping_add(at + quarter * stride), sum) };
                }
            }
        }
        stride *= 4;
    }
    if stride < count {
        for at in (0..stride).step_by(16) {
            // SAFETY: `at + stride + 16 <= 2 stride = count`.
            let a = unsafe { load16(part.wrapping_add(at)) };
            // SAFETY: as above.
            let b = unsafe { load16(part.wrapping_add(at + stride)) };
            let (sum, difference) = (_mm512_add_ps(a, b), _mm512_sub_ps(a, b));
            // SAFETY: as above.
            unsafe { store16(part.wrapping_add(at), sum) };
            // SAFETY: as above.
            unsafe { store16(part.wrapping_add(at + stride), difference) };
        }
    }
}

/// # Safety
/// Needs AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn rotate_avx512(rotation: &Rotation, vector: &mut [f32]) {
    rotation.rounds(vector, |part, signs| {
        let count = part.len();
        assert!(count == signs.len() && count.is_power_of_two() && count >= 64);
        let (part, signs) = (part.as_mut_ptr(), signs.as_ptr());
        let base = count.min(256);
        for start in (0..count).step_by(base) {
            let (part, signs) = (part.wrapping_add(start), signs.wrapping_add(start));
            match base {
                // SAFETY: `start + base <= count`, the length of both slices.
                64 => unsafe { base16::<4>(part, signs) },
                // SAFETY: as above.
                128 => unsafe { base16::<8>(part, signs) },
                // SAFETY: as above.
                _ => unsafe { base16::<16>(part, signs) },
            }
        }
        // SAFETY: `count` floats are the slice.
        unsafe { far16(part, count, base) };
    });
}

/// # Safety
/// Eight floats must be readable at `from`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load8(from: *const f32) -> __m256 {
    // SAFETY: passed on.
    unsafe { _mm256_loadu_ps(from) }
}

/// # Safety
/// Eight floats must be writable at `to`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store8(to: *mut f32, value: __m256) {
    // SAFETY: passed on.
    unsafe { _mm256_storeu_ps(to, value) }
}

/// Sums and differences of lanes 1, 2 and 4 apart. Adding the negative is subtracting.
#[inline]
#[target_feature(enable = "avx2")]
fn within8(x: __m256) -> __m256 {
    let odd = _mm256_setr_ps(0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0);
    let x = _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(x), _mm256_xor_ps(x, odd));
    let odd = _mm256_setr_ps(0.0, 0.0, -0.0, -0.0, 0.0, 0.0, -0.0, -0.0);
    let x = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(x), _mm256_xor_ps(x, odd));
    let odd = _mm256_setr_ps(0.0, 0.0, 0.0, 0.0, -0.0, -0.0, -0.0, -0.0);
    _mm256_add_ps(_mm256_permute2f128_ps::<1>(x, x), _mm256_xor_ps(x, odd))
}

/// Signs, and the transform of `8 COUNT` components.
///
/// # Safety
/// That many floats must be writable at `part` and readable at `signs`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn base8<const COUNT: usize>(part: *mut f32, signs: *const f32) {
    let mut x: [__m256; COUNT] = core::array::from_fn(|at| {
        // SAFETY: `8 at + 8 <= 8 COUNT`.
        let value = unsafe { load8(part.wrapping_add(8 * at)) };
        // SAFETY: as above.
        within8(_mm256_mul_ps(value, unsafe { load8(signs.wrapping_add(8 * at)) }))
    });
    let mut stride = 1;
    while stride < COUNT {
        for at in 0..COUNT {
            if at & stride == 0 {
                let (a, b) = (x[at], x[at + stride]);
                x[at] = _mm256_add_ps(a, b);
                x[at + stride] = _mm256_sub_ps(a, b);
            }
        }
        stride *= 2;
    }
    for (at, value) in x.into_iter().enumerate() {
        // SAFETY: as for the loads.
        unsafe { store8(part.wrapping_add(8 * at), value) };
    }
}

/// Two rounds of sums at once: components `stride` and `2 stride` apart; or the last round alone.
///
/// # Safety
/// `count` floats must be writable at `part`.
#[target_feature(enable = "avx2")]
unsafe fn far8(part: *mut f32, count: usize, mut stride: usize) {
    while 2 * stride < count {
        for start in (0..count).step_by(4 * stride) {
            for at in (start..start + stride).step_by(8) {
                // SAFETY: `at + 3 stride + 8 <= start + 4 stride <= count`.
                let [a, b, c, d] = core::array::from_fn(|quarter| unsafe {
                    load8(part.wrapping_add(at + quarter * stride))
                });
                let (a, b) = (_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
                let (c, d) = (_mm256_add_ps(c, d), _mm256_sub_ps(c, d));
                let sums = [
                    _mm256_add_ps(a, c),
                    _mm256_add_ps(b, d),
                    _mm256_sub_ps(a, c),
                    _mm256_sub_ps(b, d),
                ];
                for (quarter, sum) in sums.into_iter().enumerate() {
                    // SAFETY: as for the loads.
                    unsafe { store8(part.wrapping_add(at + quarter * stride), sum) };
                }
            }
        }
        stride *= 4;
    }
    if stride < count {
        for at in (0..stride).step_by(8) {
            // SAFETY: `at + stride + 8 <= 2 stride = count`.
            let a = unsafe { load8(part.wrapping_add(at)) };
            // SAFETY: as above.
            let b = unsafe { load8(part.wrapping_add(at + stride)) };
            let (sum, difference) = (_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
            // SAFETY: as above.
            unsafe { store8(part.wrapping_add(at), sum) };
            // SAFETY: as above.
            unsafe { store8(part.wrapping_add(at + stride), difference) };
        }
    }
}

/// # Safety
/// Needs AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn rotate_avx2(rotation: &Rotation, vector: &mut [f32]) {
    rotation.rounds(vector, |part, signs| {
        let count = part.len();
        assert!(count == signs.len() && count.is_power_of_two() && count >= 64);
        let (part, signs) = (part.as_mut_ptr(), signs.as_ptr());
        for start in (0..count).step_by(64) {
            // SAFETY: `start + 64 <= count`, the length of both slices.
            unsafe { base8::<8>(part.wrapping_add(start), signs.wrapping_add(start)) };
        }
        // SAFETY: `count` floats are the slice.
        unsafe { far8(part, count, 64) };
    });
}
