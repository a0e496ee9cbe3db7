//! The types of properties, from the JSON objects that hold them.

use std::collections::BTreeMap;

use heddle_types::json::infer_type;
use heddle_types::schema::{DataType, PropertyConfig};
use serde_json::{Map, Value as Json};

/// A property whose values have no common type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "property {name} is {first} in one row and {second} in row {row}: create the collection with \
     the type you want (heddle collection create), or make the values alike"
)]
pub(crate) struct InferError {
    name: String,
    first: &'static str,
    second: &'static str,
    row: u64,
}

/// What was seen of one property.
#[derive(Default, Debug)]
struct Seen {
    data_type: Option<DataType>,
    nested: Inferred,
}

/// The properties of all objects seen so far.
#[derive(Default, Debug)]
pub(crate) struct Inferred {
    /// In the order of their names.
    properties: BTreeMap<String, Seen>,
}

impl Inferred {
    /// Adds one object; `row` is for the error.
    pub(crate) fn add(&mut self, object: &Map<String, Json>, row: u64) -> Result<(), InferError> {
        for (name, json) in object {
            let seen = self.properties.entry(name.clone()).or_default();
            let Some(found) = infer_type(json) else { continue };
            let known = *seen.data_type.get_or_insert(found);
            seen.data_type = Some(common(known, found).ok_or_else(|| InferError {
                name: name.clone(),
                first: known.name(),
                second: found.name(),
                row,
            })?);
            match json {
                Json::Object(nested) => seen.nested.add(nested, row)?,
                Json::Array(items) => {
                    for nested in items.iter().filter_map(Json::as_object) {
                        seen.nested.add(nested, row)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The definitions; a property that never had a telling value is text.
    pub(crate) fn into_definitions(self) -> Vec<PropertyConfig> {
        let definition = |(name, seen): (String, Seen)| {
            let data_type = seen.data_type.unwrap_or(DataType::Text);
            PropertyConfig {
                name,
                data_type,
                filterable: data_type.is_filterable(),
                searchable: false,
                properties: seen.nested.into_definitions(),
            }
        };
        self.properties.into_iter().map(definition).collect()
    }
}

/// The narrowest type that holds values of both.
fn common(left: DataType, right: DataType) -> Option<DataType> {
    let is_number =
        |data_type: DataType| matches!(data_type.element(), DataType::Int | DataType::Number);
    if left == right {
        return Some(left);
    }
    let alike = left.is_array() == right.is_array() && is_number(left) && is_number(right);
    alike.then_some(if left.is_array() { DataType::NumberArray } else { DataType::Number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(rows: &[Json]) -> Result<Vec<(String, DataType)>, InferError> {
        let mut inferred = Inferred::default();
        for (row, json) in rows.iter().enumerate() {
            inferred.add(json.as_object().unwrap(), row as u64)?;
        }
        let definitions = inferred.into_definitions();
        Ok(definitions.into_iter().map(|found| (found.name, found.data_type)).collect())
    }

    fn check(rows: &[Json], expected: &[(&str, DataType)]) {
        let expected: Vec<(String, DataType)> =
            expected.iter().map(|(name, data_type)| ((*name).to_owned(), *data_type)).collect();
        assert_eq!(infer(rows), Ok(expected));
    }

    #[test]
    fn types_come_from_all_rows() {
        let rows = [
            serde_json::json!({"a": 1, "b": null, "tags": []}),
            serde_json::json!({"a": 2.5, "b": true, "tags": ["x"]}),
            serde_json::json!({"sizes": [1, 2], "none": null}),
            serde_json::json!({"sizes": [1.5]}),
        ];
        check(
            &rows,
            &[
                ("a", DataType::Number),
                ("b", DataType::Boolean),
                ("none", DataType::Text),
                ("sizes", DataType::NumberArray),
                ("tags", DataType::TextArray),
            ],
        );
    }

    #[test]
    fn contradictions_name_property_and_row() {
        let rows = [serde_json::json!({"a": 1}), serde_json::json!({"a": "x"})];
        let error = infer(&rows).unwrap_err();
        assert_eq!((error.name.as_str(), error.row), ("a", 1));
        assert!(infer(&[serde_json::json!({"a": 1}), serde_json::json!({"a": [1]})]).is_err());
    }

    #[test]
    fn nested_objects_are_inferred_too() {
        let mut inferred = Inferred::default();
        let row = serde_json::json!({"who": {"age": 3}, "all": [{"x": 1.5}, {"y": "z"}]});
        inferred.add(row.as_object().unwrap(), 0).unwrap();
        let definitions = inferred.into_definitions();
        assert_eq!(definitions[0].data_type, DataType::ObjectArray);
        assert_eq!(definitions[0].properties.len(), 2);
        assert_eq!(definitions[1].properties[0].data_type, DataType::Int);
    }
}
