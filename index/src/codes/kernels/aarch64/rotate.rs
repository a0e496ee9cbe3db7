//! The rotation in NEON registers.
//!
//! As on other machines: sums and differences of components that are a power of two apart, in
//! ascending distance, first those within a register, then whole registers that are held at once,
//! then four at a time through memory. Each sum is the one of the plain form.

use core::arch::aarch64::*;

use crate::codes::rotation::Rotation;

/// Floats of a register.
const LANES: usize = 4;

/// Registers held at once.
const HELD: usize = 16;

/// # Safety
/// Four floats must be readable at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(from: *const f32) -> float32x4_t {
    // SAFETY: passed on.
    unsafe { vld1q_f32(from) }
}

/// # Safety
/// Four floats must be writable at `to`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(to: *mut f32, value: float32x4_t) {
    // SAFETY: passed on.
    unsafe { vst1q_f32(to, value) }
}

/// Changes the sign where the mask has its highest bits.
#[inline]
#[target_feature(enable = "neon")]
fn negate(x: float32x4_t, mask: uint32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), mask))
}

/// Sums and differences of lanes 1 and 2 apart. Adding the negative is subtracting.
#[inline]
#[target_feature(enable = "neon")]
fn within(x: float32x4_t) -> float32x4_t {
    // The sign bit of the upper half of each pair of lanes, and of the upper pair.
    let odd = vreinterpretq_u32_u64(vdupq_n_u64(1 << 63));
    let x = vaddq_f32(vrev64q_f32(x), negate(x, odd));
    let upper = vcombine_u32(vdup_n_u32(0), vdup_n_u32(1 << 31));
    vaddq_f32(vextq_f32::<2>(x, x), negate(x, upper))
}

/// Signs, and the transform of the components held at once.
///
/// # Safety
/// That many floats must be writable at `part` and readable at `signs`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn base(part: *mut f32, signs: *const f32) {
    let mut x: [float32x4_t; HELD] = core::array::from_fn(|at| {
        // SAFETY: `4 at + 4 <= 64`.
        let value = unsafe { load(part.wrapping_add(LANES * at)) };
        // SAFETY: as above.
        within(vmulq_f32(value, unsafe { load(signs.wrapping_add(LANES * at)) }))
    });
    let mut stride = 1;
    while stride < HELD {
        for at in 0..HELD {
            if at & stride == 0 {
                let (a, b) = (x[at], x[at + stride]);
                x[at] = vaddq_f32(a, b);
                x[at + stride] = vsubq_f32(a, b);
            }
        }
        stride *= 2;
    }
    for (at, value) in x.into_iter().enumerate() {
        // SAFETY: as for the loads.
        unsafe { store(part.wrapping_add(LANES * at), value) };
    }
}

/// Two rounds of sums at once: components `stride` and `2 stride` apart; or the last round alone.
///
/// # Safety
/// `count` floats must be writable at `part`.
#[target_feature(enable = "neon")]
unsafe fn far(part: *mut f32, count: usize, mut stride: usize) {
    while 2 * stride < count {
        for start in (0..count).step_by(4 * stride) {
            for at in (start..start + stride).step_by(LANES) {
                // SAFETY: `at + 3 stride + 4 <= start + 4 stride <= count`.
                let [a, b, c, d] = core::array::from_fn(|quarter| unsafe {
                    load(part.wrapping_add(at + quarter * stride))
                });
                let (a, b) = (vaddq_f32(a, b), vsubq_f32(a, b));
                let (c, d) = (vaddq_f32(c, d), vsubq_f32(c, d));
                let sums = [vaddq_f32(a, c), vaddq_f32(b, d), vsubq_f32(a, c), vsubq_f32(b, d)];
                for (quarter, sum) in sums.into_iter().enumerate() {
                    // SAFETY: as for the loads.
                    unsafe { store(part.wrapping_add(at + quarter * stride), sum) };
                }
            }
        }
        stride *= 4;
    }
    if stride < count {
        for at in (0..stride).step_by(LANES) {
            // SAFETY: `at + stride + 4 <= 2 stride = count`.
            let a = unsafe { load(part.wrapping_add(at)) };
            // SAFETY: as above.
            let b = unsafe { load(part.wrapping_add(at + stride)) };
            // SAFETY: as above.
            unsafe { store(part.wrapping_add(at), vaddq_f32(a, b)) };
            // SAFETY: as above.
            unsafe { store(part.wrapping_add(at + stride), vsubq_f32(a, b)) };
        }
    }
}

/// # Safety
/// Needs NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn rotate(rotation: &Rotation, vector: &mut [f32]) {
    rotation.rounds(vector, |part, signs| {
        let count = part.len();
        assert!(count == signs.len() && count.is_power_of_two() && count >= LANES * HELD);
        let (part, signs) = (part.as_mut_ptr(), signs.as_ptr());
        for start in (0..count).step_by(LANES * HELD) {
            // SAFETY: `start + 64 <= count`, the length of both slices.
            unsafe { base(part.wrapping_add(start), signs.wrapping_add(start)) };
        }
        // SAFETY: `count` floats are the slice.
        unsafe { far(part, count, LANES * HELD) };
    });
}
