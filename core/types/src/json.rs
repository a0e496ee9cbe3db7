//! JSON in and out: properties under a schema, and filters.
//!
//! JSON has no dates, UUIDs, integers or bytes of its own, so a value is read as the type its
//! property declares.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Number, Value as Json};

use crate::error::{ApiError, ErrorCode};
use crate::filter::{Filter, Operator, PROPERTY_CREATED, PROPERTY_ID, PROPERTY_UPDATED};
use crate::schema::{CollectionConfig, DataType, PropertyConfig};
use crate::value::{GeoPoint, Properties, Value};

/// Reads a JSON object as properties of a collection; `null` means no value.
///
/// Errors: `InvalidProperty` for an unknown name or a value of another type.
pub fn properties_from_json(
    declared: &[PropertyConfig],
    object: &Map<String, Json>,
) -> Result<Properties, ApiError> {
    let mut properties = Properties::new();
    for (name, json) in object {
        let Some(property) = declared.iter().find(|property| property.name == *name) else {
            return Err(unknown_property(name, declared));
        };
        if !json.is_null() {
            properties.insert(name.clone(), value_from_json(property, json)?);
        }
    }
    Ok(properties)
}

/// The error for a property that the schema does not have.
#[must_use]
pub fn unknown_property(name: &str, declared: &[PropertyConfig]) -> ApiError {
    let names: Vec<&str> = declared.iter().map(|property| property.name.as_str()).collect();
    ApiError::new(
        ErrorCode::InvalidProperty,
        format!("property {name:?} is not in the schema"),
        format!("one of {}", names.join(", ")),
    )
}

/// Properties as a JSON object.
#[must_use]
pub fn properties_to_json(properties: &Properties) -> Map<String, Json> {
    properties.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect()
}

/// The type that a JSON value has when no schema says: whole numbers are `int`, texts `text`.
///
/// `None` for null, empty and mixed arrays, which say nothing.
#[must_use]
pub fn infer_type(json: &Json) -> Option<DataType> {
    match json {
        Json::Null => None,
        Json::Bool(_) => Some(DataType::Boolean),
        Json::Number(number) => {
            Some(if number.is_i64() { DataType::Int } else { DataType::Number })
        }
        Json::String(_) => Some(DataType::Text),
        Json::Object(_) => Some(DataType::Object),
        Json::Array(items) => {
            let first = infer_type(items.first()?)?;
            let same = items.iter().all(|item| infer_type(item) == Some(first));
            let array = DataType::from_name(&format!("{}[]", first.name()))?;
            same.then_some(array)
        }
    }
}

/// Parses an RFC 3339 date into microseconds since the Unix epoch.
pub fn date_from_text(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

/// A date as RFC 3339 text in UTC.
#[must_use]
pub fn date_to_text(unix_us: i64) -> String {
    Timestamp::from_microsecond(unix_us)
        .map_or_else(|_| format!("{unix_us}us"), |timestamp| timestamp.to_string())
}

/// Reads one JSON value as the type of its property.
pub fn value_from_json(property: &PropertyConfig, json: &Json) -> Result<Value, ApiError> {
    let items = |json: &Json| -> Option<Vec<Json>> { json.as_array().cloned() };
    let read = || -> Result<Option<Value>, ApiError> {
        let nested = &property.properties;
        Ok(match property.data_type {
            DataType::Object => match json.as_object() {
                Some(object) => Some(Value::Object(properties_from_json(nested, object)?)),
                None => None,
            },
            DataType::ObjectArray => match json.as_array() {
                Some(array) => {
                    let mut objects = Vec::with_capacity(array.len());
                    for item in array {
                        let Some(object) = item.as_object() else { return Ok(None) };
                        objects.push(properties_from_json(nested, object)?);
                    }
                    Some(Value::ObjectArray(objects))
                }
                None => None,
            },
            array if array.is_array() => items(json).and_then(|items| array_value(array, &items)),
            scalar => scalar_value(scalar, json),
        })
    };
    read()?.ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidProperty,
            format!("property {} has the value {}", property.name, shortened(json)),
            expected_form(property.data_type),
        )
    })
}

fn expected_form(data_type: DataType) -> String {
    let hint = match data_type.element() {
        DataType::Date => " (RFC 3339, such as 2024-01-31T12:00:00Z)",
        DataType::Blob => " (base64)",
        DataType::Geo => " ({\"latitude\": …, \"longitude\": …})",
        DataType::Int => " (a whole number of 64 bits)",
        _ => "",
    };
    format!("a value of type {}{hint}", data_type.name())
}

fn shortened(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn array_value(data_type: DataType, items: &[Json]) -> Option<Value> {
    let element = data_type.element();
    let values = items.iter().map(|item| scalar_value(element, item));
    macro_rules! collect {
        ($array:ident, $variant:ident) => {
            values
                .map(|value| match value {
                    Some(Value::$variant(inner)) => Some(inner),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>()
                .map(Value::$array)
        };
    }
    match element {
        DataType::Text => collect!(TextArray, Text),
        DataType::Int => collect!(IntArray, Int),
        DataType::Number => collect!(NumberArray, Number),
        DataType::Boolean => collect!(BooleanArray, Boolean),
        DataType::Date => collect!(DateArray, Date),
        DataType::Uuid => collect!(UuidArray, Uuid),
        _ => None,
    }
}

fn scalar_value(data_type: DataType, json: &Json) -> Option<Value> {
    match data_type {
        DataType::Text => json.as_str().map(|text| Value::Text(text.to_owned())),
        DataType::Int => whole_number(json).map(Value::Int),
        DataType::Number => json.as_f64().filter(|number| number.is_finite()).map(Value::Number),
        DataType::Boolean => json.as_bool().map(Value::Boolean),
        DataType::Date => json.as_str().and_then(date_from_text).map(Value::Date),
        DataType::Uuid => json.as_str().and_then(|text| text.parse().ok()).map(Value::Uuid),
        DataType::Blob => json.as_str().and_then(|text| BASE64.decode(text).ok()).map(Value::Blob),
        DataType::Geo => {
            let latitude = json.get("latitude")?.as_f64()?;
            let longitude = json.get("longitude")?.as_f64()?;
            let on_globe =
                (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
            on_globe.then_some(Value::Geo(GeoPoint { latitude, longitude }))
        }
        _ => None,
    }
}

/// JSON writers may say `3.0` for 3; anything with a fraction is not an integer.
fn whole_number(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| {
        let number = json.as_f64()?;
        let exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
        exact.then_some(number as i64)
    })
}

fn number_json(number: f64) -> Json {
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

/// One value as JSON.
#[must_use]
pub fn value_to_json(value: &Value) -> Json {
    fn list<T>(items: &[T], to_json: impl Fn(&T) -> Json) -> Json {
        Json::Array(items.iter().map(to_json).collect())
    }
    match value {
        Value::Text(text) => Json::String(text.clone()),
        Value::Int(number) => Json::from(*number),
        Value::Number(number) => number_json(*number),
        Value::Boolean(truth) => Json::Bool(*truth),
        Value::Date(unix_us) => Json::String(date_to_text(*unix_us)),
        Value::Uuid(id) => Json::String(id.to_string()),
        Value::Geo(point) => serde_json::json!({
            "latitude": point.latitude, "longitude": point.longitude,
        }),
        Value::Object(properties) => Json::Object(properties_to_json(properties)),
        Value::Blob(bytes) => Json::String(BASE64.encode(bytes)),
        Value::TextArray(items) => list(items, |text| Json::String(text.clone())),
        Value::IntArray(items) => list(items, |number| Json::from(*number)),
        Value::NumberArray(items) => list(items, |number| number_json(*number)),
        Value::BooleanArray(items) => list(items, |truth| Json::Bool(*truth)),
        Value::DateArray(items) => list(items, |unix_us| Json::String(date_to_text(*unix_us))),
        Value::UuidArray(items) => list(items, |id| Json::String(id.to_string())),
        Value::ObjectArray(items) => list(items, |item| Json::Object(properties_to_json(item))),
    }
}

/// Reads a filter from JSON:
/// `{"and": […]}`, `{"or": […]}`, `{"not": {…}}` or
/// `{"property": NAME, "operator": "Equal", "value": …}`.
///
/// Errors: `InvalidFilter` for another form or operator, `InvalidProperty` for an unknown name or
/// a value that does not fit the property.
pub fn filter_from_json(config: &CollectionConfig, json: &Json) -> Result<Filter, ApiError> {
    let malformed = || {
        ApiError::new(
            ErrorCode::InvalidFilter,
            format!("filter {} is malformed", shortened(json)),
            "{\"and\": […]}, {\"or\": […]}, {\"not\": {…}} or \
             {\"property\": …, \"operator\": …, \"value\": …}",
        )
    };
    let object = json.as_object().ok_or_else(malformed)?;
    let children = |json: &Json| -> Result<Vec<Filter>, ApiError> {
        let items = json.as_array().ok_or_else(malformed)?;
        items.iter().map(|item| filter_from_json(config, item)).collect()
    };
    if object.len() == 1 {
        let (key, inner) = object.iter().next().ok_or_else(malformed)?;
        return match key.as_str() {
            "and" => Ok(Filter::And(children(inner)?)),
            "or" => Ok(Filter::Or(children(inner)?)),
            "not" => Ok(Filter::Not(Box::new(filter_from_json(config, inner)?))),
            _ => Err(malformed()),
        };
    }
    let text = |key: &str| object.get(key).and_then(Json::as_str).ok_or_else(malformed);
    let (property, operator) = (text("property")?, text("operator")?);
    let value = object.get("value").ok_or_else(malformed)?;
    if object.len() != 3 {
        return Err(malformed());
    }
    let operator = Operator::from_name(operator).ok_or_else(|| {
        let names: Vec<&str> = Operator::ALL.iter().map(|operator| operator.name()).collect();
        ApiError::new(
            ErrorCode::InvalidFilter,
            format!("filter operator {operator:?} is unknown"),
            format!("one of {}", names.join(", ")),
        )
    })?;
    let value = comparison_value(config, property, operator, value)?;
    Ok(Filter::compare(property, operator, value))
}

/// Reads the right-hand side of a comparison as the type that property and operator call for.
pub fn comparison_value(
    config: &CollectionConfig,
    property: &str,
    operator: Operator,
    json: &Json,
) -> Result<Value, ApiError> {
    let declared = match property {
        PROPERTY_ID => DataType::Uuid,
        PROPERTY_CREATED | PROPERTY_UPDATED => DataType::Date,
        name => match config.property(name) {
            Some(found) => found.data_type,
            None => return Err(unknown_property(name, &config.properties)),
        },
    };
    let element = declared.element();
    let data_type = match operator {
        Operator::IsNull => DataType::Boolean,
        Operator::ContainsAny | Operator::ContainsAll => {
            DataType::from_name(&format!("{}[]", element.name())).unwrap_or(element)
        }
        _ => element,
    };
    let as_property = PropertyConfig {
        name: property.to_owned(),
        data_type,
        filterable: true,
        searchable: false,
        properties: Vec::new(),
    };
    value_from_json(&as_property, json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> CollectionConfig {
        serde_json::from_str(
            r#"{"name":"Docs","properties":[
                {"name":"year","type":"int"},{"name":"text","type":"text"},
                {"name":"when","type":"date"},{"name":"tags","type":"text[]"},
                {"name":"raw","type":"blob"},{"name":"place","type":"geo"},
                {"name":"who","type":"object","properties":[{"name":"age","type":"int"}]}]}"#,
        )
        .unwrap()
    }

    fn parse(text: &str) -> Result<Properties, ApiError> {
        let json: Json = serde_json::from_str(text).unwrap();
        properties_from_json(&config().properties, json.as_object().unwrap())
    }

    #[test]
    fn properties_round_trip_through_json() {
        let text = r#"{"year":3,"text":"x","when":"2024-01-31T12:00:00Z","tags":["a","b"],
            "raw":"AP8=","place":{"latitude":1.5,"longitude":2.0},"who":{"age":4}}"#;
        let properties = parse(text).unwrap();
        assert_eq!(properties["when"], Value::Date(1_706_702_400_000_000));
        let json = Json::Object(properties_to_json(&properties));
        assert_eq!(parse(&json.to_string()), Ok(properties));
    }

    #[test]
    fn null_is_no_value_and_wrong_types_are_named() {
        assert_eq!(parse(r#"{"year":null}"#), Ok(Properties::new()));
        for (text, name) in [
            (r#"{"year":1.5}"#, "year"),
            (r#"{"year":"1"}"#, "year"),
            (r#"{"when":"yesterday"}"#, "when"),
            (r#"{"tags":["a",1]}"#, "tags"),
            (r#"{"who":{"height":1}}"#, "height"),
            (r#"{"nope":1}"#, "nope"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidProperty);
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn filters_read_values_as_their_property_declares() {
        let json = serde_json::json!({"and": [
            {"property": "year", "operator": "GreaterThan", "value": 2000},
            {"not": {"property": "tags", "operator": "ContainsAny", "value": ["a"]}},
            {"property": "text", "operator": "IsNull", "value": false},
        ]});
        let filter = filter_from_json(&config(), &json).unwrap();
        assert_eq!(
            filter,
            Filter::And(vec![
                Filter::compare("year", Operator::GreaterThan, Value::Int(2000)),
                Filter::Not(Box::new(Filter::compare(
                    "tags",
                    Operator::ContainsAny,
                    Value::TextArray(vec!["a".to_owned()])
                ))),
                Filter::compare("text", Operator::IsNull, Value::Boolean(false)),
            ])
        );
        let bad = serde_json::json!({"property": "year", "operator": "Near", "value": 1});
        assert_eq!(filter_from_json(&config(), &bad).unwrap_err().code, ErrorCode::InvalidFilter);
    }

    #[test]
    fn types_are_inferred_only_where_the_value_says() {
        assert_eq!(infer_type(&serde_json::json!(1)), Some(DataType::Int));
        assert_eq!(infer_type(&serde_json::json!(1.5)), Some(DataType::Number));
        assert_eq!(infer_type(&serde_json::json!(["a"])), Some(DataType::TextArray));
        assert_eq!(infer_type(&serde_json::json!(["a", 1])), None);
        assert_eq!(infer_type(&serde_json::json!([])), None);
    }
}
