//! Filters at the door.

use heddle_types::filter::{PROPERTY_CREATED, PROPERTY_ID, PROPERTY_UPDATED};
use heddle_types::limits::{
    FILTER_DEPTH_MAX, FILTER_NODES_MAX, FILTER_VALUES_MAX, INDEXED_TEXT_BYTES_MAX,
};
use heddle_types::{ApiError, CollectionConfig, DataType, ErrorCode, Filter, Operator, Value};

/// Longest pattern of `Like`: every byte of the longest indexed text, escaped.
const PATTERN_BYTES_MAX: usize = 2 * INDEXED_TEXT_BYTES_MAX;

/// Checks a filter against the definition of its collection.
///
/// Errors: `InvalidFilter` for an operator that the property's type does not have, a property
/// without an index or an empty list; `InvalidProperty` for an unknown name or a value of another
/// type; `TooLarge` for depth, nodes or values above their limits.
pub fn check_filter(config: &CollectionConfig, filter: &Filter) -> Result<(), ApiError> {
    let mut nodes = 0;
    check_node(config, filter, 1, &mut nodes)
}

fn check_node(
    config: &CollectionConfig,
    filter: &Filter,
    depth: usize,
    nodes: &mut usize,
) -> Result<(), ApiError> {
    *nodes += 1;
    at_most("filter depth", depth, FILTER_DEPTH_MAX)?;
    at_most("filter nodes", *nodes, FILTER_NODES_MAX)?;
    match filter {
        Filter::And(children) | Filter::Or(children) => {
            children.iter().try_for_each(|child| check_node(config, child, depth + 1, nodes))
        }
        Filter::Not(child) => check_node(config, child, depth + 1, nodes),
        Filter::Compare { property, operator, value } => {
            check_compare(config, property, *operator, value)
        }
    }
}

fn check_compare(
    config: &CollectionConfig,
    name: &str,
    operator: Operator,
    value: &Value,
) -> Result<(), ApiError> {
    let data_type = filtered_type(config, name)?;
    let refuse = |message: String, expected: &str| {
        Err(ApiError::new(ErrorCode::InvalidFilter, message, expected))
    };
    let not_for_type =
        || format!("{} of property {name} of type {}", operator.name(), data_type.name());
    if operator == Operator::IsNull {
        return expect_type(name, value, DataType::Boolean);
    }
    if !data_type.is_filterable() {
        return refuse(not_for_type(), "IsNull, the only operator of this type");
    }
    match operator {
        Operator::Equal | Operator::NotEqual => expect_type(name, value, data_type.element()),
        Operator::LessThan
        | Operator::LessThanEqual
        | Operator::GreaterThan
        | Operator::GreaterThanEqual => {
            if !data_type.is_ordered() {
                return refuse(not_for_type(), "a type that has an order");
            }
            expect_type(name, value, data_type.element())
        }
        Operator::Like => {
            if data_type.element() != DataType::Text {
                return refuse(not_for_type(), "a property of type text or text[]");
            }
            expect_type(name, value, DataType::Text)?;
            let length = if let Value::Text(pattern) = value { pattern.len() } else { 0 };
            at_most("pattern bytes", length, PATTERN_BYTES_MAX)
        }
        Operator::ContainsAny | Operator::ContainsAll => {
            let list = array_of(data_type.element());
            expect_type(name, value, list)?;
            let count = value_count(value);
            if count == 0 {
                return refuse(not_for_type(), "at least one value");
            }
            at_most("filter values", count, FILTER_VALUES_MAX)
        }
        Operator::IsNull => unreachable!("answered above"),
    }
}

/// The type that filters see under a name.
fn filtered_type(config: &CollectionConfig, name: &str) -> Result<DataType, ApiError> {
    match name {
        PROPERTY_ID => return Ok(DataType::Uuid),
        PROPERTY_CREATED | PROPERTY_UPDATED if config.index_timestamps => {
            return Ok(DataType::Date);
        }
        PROPERTY_CREATED | PROPERTY_UPDATED => {
            return Err(ApiError::new(
                ErrorCode::InvalidFilter,
                format!("collection {} has no index of {name}", config.name),
                "a collection with index_timestamps",
            ));
        }
        _ => {}
    }
    let Some(property) = config.property(name) else {
        return Err(heddle_types::json::unknown_property(name, &config.properties));
    };
    if !property.filterable {
        return Err(ApiError::new(
            ErrorCode::InvalidFilter,
            format!("property {name} is not filterable"),
            "a property declared with filterable true",
        ));
    }
    Ok(property.data_type)
}

fn expect_type(name: &str, value: &Value, expected: DataType) -> Result<(), ApiError> {
    if value.data_type() != expected {
        return Err(ApiError::new(
            ErrorCode::InvalidProperty,
            format!(
                "property {name} is compared with a value of type {}",
                value.data_type().name()
            ),
            expected.name(),
        ));
    }
    let is_finite = match value {
        Value::Number(number) => number.is_finite(),
        Value::NumberArray(numbers) => numbers.iter().all(|number| number.is_finite()),
        _ => true,
    };
    if is_finite {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InvalidProperty,
        format!("property {name} is compared with a number that is not finite"),
        "a finite number",
    ))
}

fn array_of(element: DataType) -> DataType {
    let is_array_of = |candidate: &DataType| candidate.is_array() && candidate.element() == element;
    DataType::ALL.into_iter().find(is_array_of).unwrap_or(element)
}

fn value_count(value: &Value) -> usize {
    match value {
        Value::TextArray(items) => items.len(),
        Value::IntArray(items) | Value::DateArray(items) => items.len(),
        Value::NumberArray(items) => items.len(),
        Value::BooleanArray(items) => items.len(),
        Value::UuidArray(items) => items.len(),
        _ => 1,
    }
}

fn at_most(what: &str, found: usize, limit: usize) -> Result<(), ApiError> {
    if found <= limit {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::TooLarge, format!("{what} {found}"), format!("at most {limit}")))
}
