//! Searches at the door.

use heddle_types::limits::{SEARCH_EF_MAX, SEARCH_K_MAX};
use heddle_types::{ApiError, CollectionConfig, ErrorCode};

use super::{check_components, invalid_vector};

/// The position of a named vector; the empty name stands for the only vector of a collection.
///
/// Errors: `InvalidVector` naming the vectors that exist.
pub fn vector_index(config: &CollectionConfig, name: &str) -> Result<usize, ApiError> {
    if let Some((index, _)) = config.vector(name) {
        return Ok(index);
    }
    if name.is_empty() && config.vectors.len() == 1 {
        return Ok(0);
    }
    let message = if name.is_empty() {
        format!("collection {} has no default vector", config.name)
    } else {
        format!("collection {} has no vector \"{name}\"", config.name)
    };
    let names: Vec<String> = config.vectors.iter().map(super::vector_name).collect();
    Err(invalid_vector(message, names.join(" or ")))
}

/// Checks one query. `k` counts the offset in; `ef` 0 means the collection's default.
///
/// Errors: `InvalidVector` for the query or its position, `InvalidArgument` for `k` and `ef`.
pub fn check_search(
    config: &CollectionConfig,
    vector_index: usize,
    query: &[f32],
    k: u32,
    ef: u32,
) -> Result<(), ApiError> {
    let Some(vector) = config.vectors.get(vector_index) else {
        return Err(invalid_vector(
            format!("search asks for vector number {vector_index}"),
            format!("one of the {} vectors of {}", config.vectors.len(), config.name),
        ));
    };
    check_components(vector, query).map_err(|mut error| {
        error.message = format!("query: {}", error.message);
        error
    })?;
    let check = |what: &str, found: u32, low: u32, high: u32| {
        if (low..=high).contains(&found) {
            return Ok(());
        }
        let message = format!("{what} is {found}");
        Err(ApiError::new(ErrorCode::InvalidArgument, message, format!("{low} to {high}")))
    };
    check("k", k, 1, SEARCH_K_MAX)?;
    check("ef", ef, 0, SEARCH_EF_MAX)
}
