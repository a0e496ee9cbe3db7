//! Objects at the door.

use heddle_types::limits::OBJECT_BATCH_MAX;
use heddle_types::row::visit_row;
use heddle_types::{
    ApiError, CollectionConfig, ErrorCode, ObjectId, Properties, PropertyConfig, Value,
};

use super::{check_components, invalid_vector, vector_name};
use crate::engine::{PutItem, PutMode};

/// Checks the number of objects of one batch.
///
/// Errors: `TooLarge` above [`OBJECT_BATCH_MAX`].
pub fn check_batch(count: usize) -> Result<(), ApiError> {
    if count <= OBJECT_BATCH_MAX {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::TooLarge,
        format!("batch of {count} objects"),
        format!("at most {OBJECT_BATCH_MAX}"),
    ))
}

/// Checks one object against the definition of its collection.
///
/// Errors: `InvalidProperty` (unknown name, wrong type, row that does not decode), `TooLarge`
/// (row), `InvalidVector` (unknown position, twice, wrong dimension, NaN, infinity, no direction
/// under cosine, none at all in a replacing put). Nothing else is checked by whoever applies it.
/// Cost: decodes the row once and reads every component once.
pub fn check_item(
    config: &CollectionConfig,
    item: &PutItem,
    mode: PutMode,
) -> Result<(), ApiError> {
    check_properties(config, &item.id, &item.properties)?;
    if mode == PutMode::Replace && item.vectors.is_empty() {
        let message = format!("object {} has no vector", item.id);
        return Err(invalid_vector(message, "at least one vector"));
    }
    for (position, vector) in item.vectors.iter().enumerate() {
        let Some(declared) = config.vectors.get(usize::from(vector.index)) else {
            return Err(invalid_vector(
                format!("object {} has a vector number {}", item.id, vector.index),
                format!("one of the {} vectors of {}", config.vectors.len(), config.name),
            ));
        };
        if item.vectors[..position].iter().any(|other| other.index == vector.index) {
            let message = format!("object {} has {} twice", item.id, vector_name(declared));
            return Err(invalid_vector(message, "each vector once"));
        }
        check_components(declared, &vector.values).map_err(|mut error| {
            error.message = format!("object {}: {}", item.id, error.message);
            error
        })?;
    }
    Ok(())
}

fn check_properties(config: &CollectionConfig, id: &ObjectId, row: &[u8]) -> Result<(), ApiError> {
    let mut undeclared = Ok(());
    let visited = visit_row(row, |name, value| {
        if undeclared.is_ok() {
            undeclared = check_one(&config.properties, name, &value, "");
        }
    });
    // A row that does not decode has no names to speak of.
    visited.map_err(|error| {
        let code = match error {
            heddle_types::row::RowError::TooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::InvalidProperty,
        };
        ApiError::new(code, format!("property row of object {id}: {error}"), "a property row")
    })?;
    undeclared.map_err(|mut error| {
        error.message = format!("object {id}: {}", error.message);
        error
    })
}

/// Checks names and types, also of nested objects. `path` is empty or ends with a dot.
fn check_declared(
    declared: &[PropertyConfig],
    properties: &Properties,
    path: &str,
) -> Result<(), ApiError> {
    properties.iter().try_for_each(|(name, value)| check_one(declared, name, value, path))
}

fn check_one(
    declared: &[PropertyConfig],
    name: &str,
    value: &Value,
    path: &str,
) -> Result<(), ApiError> {
    let Some(property) = declared.iter().find(|property| property.name == name) else {
        return Err(heddle_types::json::unknown_property(&format!("{path}{name}"), declared));
    };
    if value.data_type() != property.data_type {
        return Err(ApiError::new(
            ErrorCode::InvalidProperty,
            format!("property {path}{name} has type {}", value.data_type().name()),
            property.data_type.name(),
        ));
    }
    let nested = |object: &Properties| {
        check_declared(&property.properties, object, &format!("{path}{name}."))
    };
    match value {
        Value::Object(object) => nested(object),
        Value::ObjectArray(objects) => objects.iter().try_for_each(nested),
        _ => Ok(()),
    }
}
