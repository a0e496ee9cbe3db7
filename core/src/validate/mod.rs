//! The door: every rule that a request must keep before anything is appended to a log.
//!
//! All functions are pure over the collection's definition. What passes here is applied without
//! further questions, also by a replay after a restart, so the rules are at least as strict as
//! those of the row codec and of the vector index.

mod filter;
mod item;
mod profile;
mod search;
mod supported;

pub use filter::check_filter;
pub use item::{check_batch, check_item};
pub use profile::{profile_of, settle_profiles};
pub use search::{check_search, vector_index};
pub use supported::{NodeFacts, check_supported};

use heddle_types::{ApiError, Distance, ErrorCode, VectorConfig, floats};

/// How messages call a vector: its name, or "the default vector".
fn vector_name(vector: &VectorConfig) -> String {
    if vector.name.is_empty() {
        "the default vector".to_owned()
    } else {
        format!("vector \"{}\"", vector.name)
    }
}

fn invalid_vector(message: String, expected: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidVector, message, expected)
}

/// Checks the components of a vector or a query against the vector's declaration.
fn check_components(vector: &VectorConfig, values: &[f32]) -> Result<(), ApiError> {
    let name = || vector_name(vector);
    let dims_max = heddle_types::limits::VECTOR_DIMS_MAX as usize;
    let dims_fit = match vector.dims {
        Some(dims) => values.len() == dims as usize,
        None => (1..=dims_max).contains(&values.len()),
    };
    if !dims_fit {
        let expected = match vector.dims {
            Some(dims) => format!("{dims} dimensions"),
            None => format!("1 to {dims_max} dimensions"),
        };
        return Err(invalid_vector(
            format!("{} has {} dimensions", name(), values.len()),
            expected,
        ));
    }
    if let Some(index) = floats::first_not_finite(values) {
        let message = format!("{} has {} at component {index}", name(), values[index]);
        return Err(invalid_vector(message, "finite components"));
    }
    if vector.distance == Distance::Cosine {
        check_length(name, values)?;
    }
    Ok(())
}

/// Under cosine a vector must have a direction, and its length must fit an `f32` both ways.
fn check_length(name: impl Fn() -> String, values: &[f32]) -> Result<(), ApiError> {
    let square = floats::square_sum(values);
    let length = square.sqrt();
    let expected = "a length that a 32-bit float can hold, as cosine distance divides by it";
    if length == 0.0 {
        return Err(invalid_vector(format!("{} holds only zeros", name()), expected));
    }
    // The index sums squares in 32 bits, so the square must fit as well as the length.
    if square < f64::from(f32::MIN_POSITIVE) || square > f64::from(f32::MAX) / 2.0 {
        return Err(invalid_vector(format!("{} has the length {length:e}", name()), expected));
    }
    Ok(())
}
