//! Property values and their types.

use std::collections::BTreeMap;

use crate::ids::ObjectId;

/// Properties of one object, by name. A property without a value is absent.
pub type Properties = BTreeMap<String, Value>;

/// A point on the globe, degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GeoPoint {
    /// North positive, -90..=90.
    pub latitude: f64,
    /// East positive, -180..=180.
    pub longitude: f64,
}

/// One property value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// UTF-8 text.
    Text(String),
    /// 64-bit integer.
    Int(i64),
    /// Finite 64-bit float.
    Number(f64),
    /// Truth value.
    Boolean(bool),
    /// Microseconds since the Unix epoch, UTC.
    Date(i64),
    /// A UUID.
    Uuid(ObjectId),
    /// A place.
    Geo(GeoPoint),
    /// Nested properties.
    Object(Properties),
    /// Uninterpreted bytes; base64 in JSON.
    Blob(Vec<u8>),
    /// Several texts.
    TextArray(Vec<String>),
    /// Several integers.
    IntArray(Vec<i64>),
    /// Several floats.
    NumberArray(Vec<f64>),
    /// Several truth values.
    BooleanArray(Vec<bool>),
    /// Several dates.
    DateArray(Vec<i64>),
    /// Several UUIDs.
    UuidArray(Vec<ObjectId>),
    /// Several nested objects.
    ObjectArray(Vec<Properties>),
}

/// Type of a property.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
#[repr(u8)]
pub enum DataType {
    /// [`Value::Text`]
    #[serde(rename = "text")]
    Text = 1,
    /// [`Value::Int`]
    #[serde(rename = "int")]
    Int = 2,
    /// [`Value::Number`]
    #[serde(rename = "number")]
    Number = 3,
    /// [`Value::Boolean`]
    #[serde(rename = "boolean")]
    Boolean = 4,
    /// [`Value::Date`]
    #[serde(rename = "date")]
    Date = 5,
    /// [`Value::Uuid`]
    #[serde(rename = "uuid")]
    Uuid = 6,
    /// [`Value::Geo`]
    #[serde(rename = "geo")]
    Geo = 7,
    /// [`Value::Object`]
    #[serde(rename = "object")]
    Object = 8,
    /// [`Value::Blob`]
    #[serde(rename = "blob")]
    Blob = 9,
    /// [`Value::TextArray`]
    #[serde(rename = "text[]")]
    TextArray = 17,
    /// [`Value::IntArray`]
    #[serde(rename = "int[]")]
    IntArray = 18,
    /// [`Value::NumberArray`]
    #[serde(rename = "number[]")]
    NumberArray = 19,
    /// [`Value::BooleanArray`]
    #[serde(rename = "boolean[]")]
    BooleanArray = 20,
    /// [`Value::DateArray`]
    #[serde(rename = "date[]")]
    DateArray = 21,
    /// [`Value::UuidArray`]
    #[serde(rename = "uuid[]")]
    UuidArray = 22,
    /// [`Value::ObjectArray`]
    #[serde(rename = "object[]")]
    ObjectArray = 24,
}

impl DataType {
    /// Every type.
    pub const ALL: [Self; 16] = [
        Self::Text,
        Self::Int,
        Self::Number,
        Self::Boolean,
        Self::Date,
        Self::Uuid,
        Self::Geo,
        Self::Object,
        Self::Blob,
        Self::TextArray,
        Self::IntArray,
        Self::NumberArray,
        Self::BooleanArray,
        Self::DateArray,
        Self::UuidArray,
        Self::ObjectArray,
    ];

    /// The name used in schemas: `text`, `int[]`, …
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "int",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Uuid => "uuid",
            Self::Geo => "geo",
            Self::Object => "object",
            Self::Blob => "blob",
            Self::TextArray => "text[]",
            Self::IntArray => "int[]",
            Self::NumberArray => "number[]",
            Self::BooleanArray => "boolean[]",
            Self::DateArray => "date[]",
            Self::UuidArray => "uuid[]",
            Self::ObjectArray => "object[]",
        }
    }

    /// The type of a schema name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|data_type| data_type.name() == name)
    }

    /// The type of an encoded tag.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|data_type| *data_type as u8 == tag)
    }

    /// The type of one element: itself for scalars.
    #[must_use]
    pub fn element(self) -> Self {
        match self {
            Self::TextArray => Self::Text,
            Self::IntArray => Self::Int,
            Self::NumberArray => Self::Number,
            Self::BooleanArray => Self::Boolean,
            Self::DateArray => Self::Date,
            Self::UuidArray => Self::Uuid,
            Self::ObjectArray => Self::Object,
            scalar => scalar,
        }
    }

    /// Does a property of this type hold several values?
    #[must_use]
    pub fn is_array(self) -> bool {
        self.element() != self
    }

    /// Can filters compare values of this type by value?
    #[must_use]
    pub fn is_filterable(self) -> bool {
        !matches!(self.element(), Self::Object | Self::Blob | Self::Geo)
    }

    /// Do `LessThan` and its kin make sense for elements of this type?
    #[must_use]
    pub fn is_ordered(self) -> bool {
        matches!(self.element(), Self::Int | Self::Number | Self::Date | Self::Text)
    }
}

impl Value {
    /// The type of this value.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Text(_) => DataType::Text,
            Self::Int(_) => DataType::Int,
            Self::Number(_) => DataType::Number,
            Self::Boolean(_) => DataType::Boolean,
            Self::Date(_) => DataType::Date,
            Self::Uuid(_) => DataType::Uuid,
            Self::Geo(_) => DataType::Geo,
            Self::Object(_) => DataType::Object,
            Self::Blob(_) => DataType::Blob,
            Self::TextArray(_) => DataType::TextArray,
            Self::IntArray(_) => DataType::IntArray,
            Self::NumberArray(_) => DataType::NumberArray,
            Self::BooleanArray(_) => DataType::BooleanArray,
            Self::DateArray(_) => DataType::DateArray,
            Self::UuidArray(_) => DataType::UuidArray,
            Self::ObjectArray(_) => DataType::ObjectArray,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags_round_trip() {
        for data_type in DataType::ALL {
            assert_eq!(DataType::from_name(data_type.name()), Some(data_type));
            assert_eq!(DataType::from_tag(data_type as u8), Some(data_type));
            let json = serde_json::to_string(&data_type).unwrap();
            assert_eq!(json, format!("\"{}\"", data_type.name()));
        }
        assert_eq!(DataType::from_tag(0), None);
    }

    #[test]
    fn arrays_are_ordered_like_their_elements() {
        assert!(DataType::IntArray.is_ordered() && !DataType::BooleanArray.is_ordered());
        assert_eq!(DataType::TextArray.element(), DataType::Text);
    }
}
