//! Property rows as they stand in log records and on the wire.

use heddle_types::row::{decode_row, encode_row};
use heddle_types::value::GeoPoint;
use heddle_types::{ObjectId, Properties, Value};

/// Decodes a row; one that is accepted must survive another round.
pub fn run(data: &[u8]) {
    let Ok(properties) = decode_row(data) else { return };
    let mut encoded = Vec::new();
    encode_row(&properties, &mut encoded).expect("a decoded row is within every limit");
    let again = decode_row(&encoded).expect("an encoded row decodes");
    assert_eq!(properties, again, "a row changed in a round trip");
}

/// One value of each type, nesting, and the shapes that are small on the wire and wide in memory.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let id = ObjectId::from_row(5);
    let flag = Properties::from([(String::new(), Value::Boolean(true))]);
    let mut values = vec![
        Value::Text("héllo".to_owned()),
        Value::Int(-1),
        Value::Number(1.5),
        Value::Boolean(true),
        Value::Date(1_700_000_000_000_000),
        Value::Uuid(id),
        Value::Geo(GeoPoint { latitude: 52.5, longitude: 13.4 }),
        Value::Object(flag.clone()),
        Value::Blob(vec![0, 255]),
        Value::TextArray(vec![String::new(); 40]),
        Value::IntArray(vec![i64::MIN, i64::MAX]),
        Value::NumberArray(vec![0.0]),
        Value::BooleanArray(vec![true, false]),
        Value::DateArray(vec![0]),
        Value::UuidArray(vec![id]),
        Value::ObjectArray(vec![flag.clone(), Properties::new()]),
        Value::ObjectArray(vec![Properties::new(); 1_000]),
        Value::ObjectArray(vec![flag.clone(); 3_000]),
    ];
    let mut nested = Properties::new();
    for _ in 0..4 {
        nested = Properties::from([("n".to_owned(), Value::Object(nested))]);
    }
    values.push(Value::Object(nested));
    let whole: Properties = values
        .iter()
        .enumerate()
        .map(|(index, value)| (format!("p{index:02}"), value.clone()))
        .collect();
    let mut rows = vec![whole];
    rows.extend(values.into_iter().map(|value| Properties::from([("a".to_owned(), value)])));
    rows.iter()
        .map(|row| {
            let mut bytes = Vec::new();
            encode_row(row, &mut bytes).expect("seeds are within every limit");
            bytes
        })
        .collect()
}
