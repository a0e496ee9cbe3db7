//! The definition of every distance, one component after the other.
//!
//! The fast forms in this folder add in another order; they agree with these within a stated
//! relative error. Unit of all results: see each function. Lengths must be equal.

/// Squared Euclidean distance.
///
/// ```
/// assert_eq!(heddle_index::distance::scalar::l2_squared(&[0.0, 3.0], &[4.0, 0.0]), 25.0);
/// ```
#[must_use]
pub fn l2_squared(left: &[f32], right: &[f32]) -> f32 {
    debug_assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Dot product, not negated.
#[must_use]
pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    debug_assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}

/// Sum of absolute differences.
#[must_use]
pub fn manhattan(left: &[f32], right: &[f32]) -> f32 {
    debug_assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| (a - b).abs()).sum()
}

/// Number of components that differ. Exact: at most 65,536 components are counted.
#[must_use]
pub fn hamming(left: &[f32], right: &[f32]) -> f32 {
    debug_assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| if a == b { 0.0 } else { 1.0 }).sum()
}
