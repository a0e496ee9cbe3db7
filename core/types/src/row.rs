//! The property row: how properties travel and rest. The same bytes go over the wire, into the
//! log and into object segments, so a put is never re-encoded on its way to disk.
//!
//! ```text
//! row    = count u16 , count x field
//! field  = name length u8 , name , tag u8 , value            (names strictly ascending)
//! value  = text, blob:  length u32 , bytes
//!          int, number, date: 8 bytes    boolean: 1    uuid: 16    geo: two f64
//!          object: row        arrays: count u32 , count x element
//! ```
//!
//! All numbers little endian. An empty slice is a valid row without fields.

use crate::ids::ObjectId;
use crate::limits::{
    ARRAY_LENGTH_MAX, NAME_LENGTH_BYTES_MAX, PROPERTIES_PER_COLLECTION_MAX, PROPERTY_DEPTH_MAX,
    PROPERTY_ROW_BYTES_MAX, ROW_FIELDS_MAX,
};
use crate::value::{DataType, GeoPoint, Properties, Value};

/// Why bytes are not a property row. The reader's state is unchanged; retrying does not help.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The bytes end inside a field.
    #[error("ends at byte {offset} inside a field")]
    Truncated {
        /// Where the missing bytes should have been.
        offset: usize,
    },
    /// Bytes follow the last field.
    #[error("{count} bytes follow the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// No type has this tag.
    #[error("unknown type tag {tag} at byte {offset}")]
    UnknownTag {
        /// The tag.
        tag: u8,
        /// Where it stands.
        offset: usize,
    },
    /// A name or text is not UTF-8.
    #[error("text at byte {offset} is not UTF-8")]
    NotUtf8 {
        /// Where it stands.
        offset: usize,
    },
    /// A number is NaN or infinite, a truth value neither 0 nor 1, or a place is off the globe.
    #[error("value at byte {offset} is out of range")]
    OutOfRange {
        /// Where it stands.
        offset: usize,
    },
    /// Names are not strictly ascending.
    #[error("property names are not in ascending order at byte {offset}")]
    NamesNotAscending {
        /// Where the offending name stands.
        offset: usize,
    },
    /// A count, length or depth is above its limit.
    #[error("{what} {found} is above the limit {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The count.
        found: usize,
        /// Its limit.
        limit: usize,
    },
}

/// Appends the row of `properties` to `out`.
///
/// Errors: a count, length or depth above its limit, or a number that is not finite; `out` is then
/// as long as before. Cost: one pass.
pub fn encode_row(properties: &Properties, out: &mut Vec<u8>) -> Result<(), RowError> {
    at_most("field count", field_count(properties), ROW_FIELDS_MAX)?;
    let start = out.len();
    let result = encode_fields(properties, 0, out)
        .and_then(|()| at_most("row bytes", out.len() - start, PROPERTY_ROW_BYTES_MAX));
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Decodes a row; an empty slice is the row without fields.
pub fn decode_row(bytes: &[u8]) -> Result<Properties, RowError> {
    let mut properties = Properties::new();
    visit_row(bytes, |name, value| drop(properties.insert(name.to_owned(), value)))?;
    Ok(properties)
}

/// Hands the fields of a row to `visit`, in the order of their names, which stay where they are.
///
/// Errors: those of [`decode_row`]; fields before the fault were handed over then.
pub fn visit_row<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(&'a str, Value),
) -> Result<(), RowError> {
    at_most("row bytes", bytes.len(), PROPERTY_ROW_BYTES_MAX)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let mut reader = Reader::new(bytes);
    visit_fields(&mut reader, 0, &mut visit)?;
    match reader.remaining() {
        0 => Ok(()),
        count => Err(RowError::TrailingBytes { count }),
    }
}

/// Appends one value without its tag; the filter codec shares this.
pub(crate) fn encode_value(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), RowError> {
    match value {
        Value::Text(text) => encode_bytes(text.as_bytes(), out),
        Value::Int(number) | Value::Date(number) => encode_i64(*number, out),
        Value::Number(number) => encode_f64(*number, out),
        Value::Boolean(truth) => {
            out.push(u8::from(*truth));
            Ok(())
        }
        Value::Uuid(id) => encode_id(id, out),
        Value::Geo(point) => {
            if !is_on_globe(*point) {
                return Err(RowError::OutOfRange { offset: out.len() });
            }
            encode_f64(point.latitude, out)?;
            encode_f64(point.longitude, out)
        }
        Value::Object(properties) => encode_fields(properties, depth + 1, out),
        Value::Blob(bytes) => encode_bytes(bytes, out),
        Value::TextArray(items) => {
            encode_items(items, out, |t, out| encode_bytes(t.as_bytes(), out))
        }
        Value::IntArray(items) | Value::DateArray(items) => {
            encode_items(items, out, |n, out| encode_i64(*n, out))
        }
        Value::NumberArray(items) => encode_items(items, out, |n, out| encode_f64(*n, out)),
        Value::BooleanArray(items) => encode_items(items, out, |truth, out| {
            out.push(u8::from(*truth));
            Ok(())
        }),
        Value::UuidArray(items) => encode_items(items, out, encode_id),
        Value::ObjectArray(items) => {
            encode_items(items, out, |object, out| encode_fields(object, depth + 1, out))
        }
    }
}

/// Reads one value of a known type; the filter codec shares this.
pub(crate) fn decode_value(
    data_type: DataType,
    reader: &mut Reader<'_>,
    depth: usize,
) -> Result<Value, RowError> {
    Ok(match data_type {
        DataType::Text => Value::Text(reader.text()?),
        DataType::Int => Value::Int(reader.i64()?),
        DataType::Date => Value::Date(reader.i64()?),
        DataType::Number => Value::Number(reader.f64()?),
        DataType::Boolean => Value::Boolean(reader.boolean()?),
        DataType::Uuid => Value::Uuid(reader.id()?),
        DataType::Geo => Value::Geo(reader.geo()?),
        DataType::Object => Value::Object(decode_fields(reader, depth + 1)?),
        DataType::Blob => {
            let length = reader.u32()? as usize;
            Value::Blob(reader.take(length)?.to_vec())
        }
        DataType::TextArray => Value::TextArray(reader.items(4, Reader::text)?),
        DataType::IntArray => Value::IntArray(reader.items(8, Reader::i64)?),
        DataType::DateArray => Value::DateArray(reader.items(8, Reader::i64)?),
        DataType::NumberArray => Value::NumberArray(reader.items(8, Reader::f64)?),
        DataType::BooleanArray => Value::BooleanArray(reader.items(1, Reader::boolean)?),
        DataType::UuidArray => Value::UuidArray(reader.items(16, Reader::id)?),
        DataType::ObjectArray => {
            Value::ObjectArray(reader.items(2, |reader| decode_fields(reader, depth + 1))?)
        }
    })
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), RowError> {
    if found > limit { Err(RowError::TooLarge { what, found, limit }) } else { Ok(()) }
}

fn is_on_globe(point: GeoPoint) -> bool {
    (-90.0..=90.0).contains(&point.latitude) && (-180.0..=180.0).contains(&point.longitude)
}

/// Fields of a row, those of nested objects included.
fn field_count(properties: &Properties) -> usize {
    let nested = |value: &Value| match value {
        Value::Object(inner) => field_count(inner),
        Value::ObjectArray(items) => items.iter().map(field_count).sum(),
        _ => 0,
    };
    properties.len() + properties.values().map(nested).sum::<usize>()
}

fn encode_fields(properties: &Properties, depth: usize, out: &mut Vec<u8>) -> Result<(), RowError> {
    at_most("nesting depth", depth, PROPERTY_DEPTH_MAX)?;
    at_most("property count", properties.len(), PROPERTIES_PER_COLLECTION_MAX)?;
    let count = u16::try_from(properties.len()).expect("the limit is below 65,536");
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in properties {
        at_most("name length", name.len(), NAME_LENGTH_BYTES_MAX)?;
        out.push(u8::try_from(name.len()).expect("the limit is below 256"));
        out.extend_from_slice(name.as_bytes());
        out.push(value.data_type() as u8);
        encode_value(value, depth, out)?;
    }
    Ok(())
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), RowError> {
    at_most("value bytes", bytes.len(), PROPERTY_ROW_BYTES_MAX)?;
    let length = u32::try_from(bytes.len()).expect("the limit is below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn encode_i64(number: i64, out: &mut Vec<u8>) -> Result<(), RowError> {
    out.extend_from_slice(&number.to_le_bytes());
    Ok(())
}

fn encode_f64(number: f64, out: &mut Vec<u8>) -> Result<(), RowError> {
    if !number.is_finite() {
        return Err(RowError::OutOfRange { offset: out.len() });
    }
    out.extend_from_slice(&number.to_le_bytes());
    Ok(())
}

fn encode_id(id: &ObjectId, out: &mut Vec<u8>) -> Result<(), RowError> {
    out.extend_from_slice(&id.0);
    Ok(())
}

fn encode_items<T>(
    items: &[T],
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&T, &mut Vec<u8>) -> Result<(), RowError>,
) -> Result<(), RowError> {
    at_most("array length", items.len(), ARRAY_LENGTH_MAX)?;
    let count = u32::try_from(items.len()).expect("the limit is below 4 G");
    out.extend_from_slice(&count.to_le_bytes());
    items.iter().try_for_each(|item| encode(item, out))
}

fn decode_fields(reader: &mut Reader<'_>, depth: usize) -> Result<Properties, RowError> {
    let mut properties = Properties::new();
    visit_fields(reader, depth, &mut |name, value| {
        properties.insert(name.to_owned(), value);
    })?;
    Ok(properties)
}

fn visit_fields<'a>(
    reader: &mut Reader<'a>,
    depth: usize,
    visit: &mut dyn FnMut(&'a str, Value),
) -> Result<(), RowError> {
    at_most("nesting depth", depth, PROPERTY_DEPTH_MAX)?;
    let count = usize::from(reader.u16()?);
    at_most("property count", count, PROPERTIES_PER_COLLECTION_MAX)?;
    reader.fields += count;
    at_most("field count", reader.fields, ROW_FIELDS_MAX)?;
    let mut last = None;
    for _ in 0..count {
        let offset = reader.offset;
        let length = usize::from(reader.u8()?);
        at_most("name length", length, NAME_LENGTH_BYTES_MAX)?;
        let name = reader.utf8(length)?;
        if last.is_some_and(|last| last >= name) {
            return Err(RowError::NamesNotAscending { offset });
        }
        last = Some(name);
        let data_type = reader.data_type()?;
        visit(name, decode_value(data_type, reader, depth)?);
    }
    Ok(())
}

/// A cursor over foreign bytes: every read is checked, nothing is allocated from a length alone.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) offset: usize,
    /// Fields announced so far: small on the wire, wide in memory.
    fields: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0, fields: 0 }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], RowError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let taken = rest.get(..length).ok_or(RowError::Truncated { offset: self.bytes.len() })?;
        self.offset += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        Ok(*self.take(N)?.first_chunk().expect("take returned N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, RowError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, RowError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RowError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, RowError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    fn f64(&mut self) -> Result<f64, RowError> {
        let offset = self.offset;
        let number = f64::from_le_bytes(self.array()?);
        if number.is_finite() { Ok(number) } else { Err(RowError::OutOfRange { offset }) }
    }

    fn boolean(&mut self) -> Result<bool, RowError> {
        let offset = self.offset;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RowError::OutOfRange { offset }),
        }
    }

    fn id(&mut self) -> Result<ObjectId, RowError> {
        Ok(ObjectId(self.array()?))
    }

    fn geo(&mut self) -> Result<GeoPoint, RowError> {
        let offset = self.offset;
        let point = GeoPoint { latitude: self.f64()?, longitude: self.f64()? };
        if is_on_globe(point) { Ok(point) } else { Err(RowError::OutOfRange { offset }) }
    }

    pub(crate) fn utf8(&mut self, length: usize) -> Result<&'a str, RowError> {
        let offset = self.offset;
        std::str::from_utf8(self.take(length)?).or(Err(RowError::NotUtf8 { offset }))
    }

    fn text(&mut self) -> Result<String, RowError> {
        let length = self.u32()? as usize;
        Ok(self.utf8(length)?.to_owned())
    }

    pub(crate) fn data_type(&mut self) -> Result<DataType, RowError> {
        let offset = self.offset;
        let tag = self.u8()?;
        DataType::from_tag(tag).ok_or(RowError::UnknownTag { tag, offset })
    }

    /// Reads a counted list; `item_bytes_min` bounds the count by the bytes that are there.
    fn items<T>(
        &mut self,
        item_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, RowError>,
    ) -> Result<Vec<T>, RowError> {
        let count = self.u32()? as usize;
        at_most("array length", count, ARRAY_LENGTH_MAX)?;
        if count > self.remaining() / item_bytes_min {
            return Err(RowError::Truncated { offset: self.bytes.len() });
        }
        (0..count).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Properties {
        let nested = Properties::from([("deep".to_owned(), Value::Int(-1))]);
        Properties::from([
            ("a".to_owned(), Value::Text("héllo".to_owned())),
            ("b".to_owned(), Value::Number(1.5)),
            ("c".to_owned(), Value::Boolean(true)),
            ("d".to_owned(), Value::Date(1_700_000_000_000_000)),
            ("e".to_owned(), Value::Uuid(ObjectId::from_row(5))),
            ("f".to_owned(), Value::Geo(GeoPoint { latitude: 52.5, longitude: 13.4 })),
            ("g".to_owned(), Value::Object(nested.clone())),
            ("h".to_owned(), Value::Blob(vec![0, 255])),
            ("i".to_owned(), Value::TextArray(vec![String::new(), "x".to_owned()])),
            ("j".to_owned(), Value::IntArray(vec![i64::MIN, i64::MAX])),
            ("k".to_owned(), Value::NumberArray(vec![0.0])),
            ("l".to_owned(), Value::BooleanArray(vec![true, false])),
            ("m".to_owned(), Value::DateArray(vec![0])),
            ("n".to_owned(), Value::UuidArray(vec![ObjectId::from_row(1)])),
            ("o".to_owned(), Value::ObjectArray(vec![nested, Properties::new()])),
        ])
    }

    fn encoded(properties: &Properties) -> Vec<u8> {
        let mut out = Vec::new();
        encode_row(properties, &mut out).unwrap();
        out
    }

    #[test]
    fn every_type_round_trips() {
        assert_eq!(decode_row(&encoded(&sample())), Ok(sample()));
        assert_eq!(decode_row(&[]), Ok(Properties::new()));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encoded(&sample());
        for length in 1..bytes.len() {
            assert!(decode_row(&bytes[..length]).is_err(), "length {length}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(decode_row(&longer), Err(RowError::TrailingBytes { count: 1 }));
    }

    #[test]
    fn huge_counts_are_refused_before_anything_is_reserved() {
        let mut bytes = vec![1, 0, 1, b'x', DataType::IntArray as u8];
        bytes.extend_from_slice(&60_000u32.to_le_bytes());
        assert!(matches!(decode_row(&bytes), Err(RowError::Truncated { .. })));
        bytes[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode_row(&bytes), Err(RowError::TooLarge { .. })));
    }

    #[test]
    fn nested_fields_are_counted_over_the_whole_row_both_ways() {
        let flag = Properties::from([("f".to_owned(), Value::Boolean(true))]);
        let objects = |count| Value::ObjectArray(vec![flag.clone(); count]);
        let row = |count| Properties::from([("a".to_owned(), objects(count))]);
        let most = ROW_FIELDS_MAX - 1;
        let mut bytes = encoded(&row(most));
        assert_eq!(decode_row(&bytes), Ok(row(most)));
        let refused = encode_row(&row(most + 1), &mut Vec::new());
        assert!(matches!(refused, Err(RowError::TooLarge { what: "field count", .. })));
        // One more element: the array's count stands after `1 0 | 1 'a' tag`.
        bytes[5..9].copy_from_slice(&u32::try_from(most + 1).unwrap().to_le_bytes());
        bytes.extend_from_slice(&[1, 0, 1, b'f', DataType::Boolean as u8, 1]);
        let refused = decode_row(&bytes);
        assert!(matches!(refused, Err(RowError::TooLarge { what: "field count", .. })));
    }

    #[test]
    fn duplicate_and_unordered_names_are_refused() {
        let one = |name: u8| [1, name, DataType::Boolean as u8, 1];
        for names in [[b'a', b'a'], [b'b', b'a']] {
            let bytes = [vec![2, 0], one(names[0]).to_vec(), one(names[1]).to_vec()].concat();
            assert!(matches!(decode_row(&bytes), Err(RowError::NamesNotAscending { .. })));
        }
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused_both_ways() {
        let mut properties = Properties::new();
        for _ in 0..=PROPERTY_DEPTH_MAX {
            properties = Properties::from([("n".to_owned(), Value::Object(properties))]);
        }
        let mut out = vec![9];
        assert!(matches!(encode_row(&properties, &mut out), Err(RowError::TooLarge { .. })));
        assert_eq!(out, [9], "a failed encoding leaves nothing behind");
        let mut bytes = Vec::new();
        for _ in 0..=PROPERTY_DEPTH_MAX {
            bytes.extend_from_slice(&[1, 0, 1, b'n', DataType::Object as u8]);
        }
        bytes.extend_from_slice(&[0, 0]);
        assert!(matches!(decode_row(&bytes), Err(RowError::TooLarge { .. })));
    }

    #[test]
    fn nan_and_places_off_the_globe_are_refused() {
        for value in [
            Value::Number(f64::NAN),
            Value::NumberArray(vec![f64::INFINITY]),
            Value::Geo(GeoPoint { latitude: 91.0, longitude: 0.0 }),
        ] {
            let properties = Properties::from([("x".to_owned(), value)]);
            let mut out = Vec::new();
            assert!(matches!(encode_row(&properties, &mut out), Err(RowError::OutOfRange { .. })));
        }
    }
}
