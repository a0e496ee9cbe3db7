//! Properties and filters as users write them, in JSON.

use heddle_types::json::{
    filter_from_json, properties_from_json, properties_to_json, value_from_json,
};
use heddle_types::row::encode_row;
use heddle_types::{CollectionConfig, Properties};
use serde_json::Value as Json;

/// A collection with one property of each type.
const SCHEMA: &str = include_str!("schema.json");

fn schema() -> CollectionConfig {
    serde_json::from_str(SCHEMA).expect("the schema of this file is valid")
}

/// Reads bytes as JSON, then as properties and as a filter of a collection with every type.
pub fn run(data: &[u8]) {
    thread_local! {
        static CONFIG: CollectionConfig = schema();
    }
    let Ok(json) = serde_json::from_slice::<Json>(data) else { return };
    CONFIG.with(|config| {
        _ = filter_from_json(config, &json);
        let Some(object) = json.as_object() else { return };
        if let Ok(properties) = properties_from_json(&config.properties, object) {
            round_trip(config, &properties);
        }
        for (property, value) in config.properties.iter().zip(object.values().cycle()) {
            _ = value_from_json(property, value);
        }
    });
}

fn round_trip(config: &CollectionConfig, properties: &Properties) {
    // Too large to store is an answer, too; the codec gives it without a panic.
    _ = encode_row(properties, &mut Vec::new());
    let json = properties_to_json(properties);
    let again = properties_from_json(&config.properties, &json).expect("our own JSON is read");
    assert_eq!(*properties, again, "properties changed in a round trip through JSON");
}

/// Objects and filters that fit the schema.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    const SEEDS: [&str; 6] = [
        r#"{"text":"héllo","int":-7,"number":1.5e3,"boolean":true,"blob":"AP8=","uuid":
            "00000000-0000-0000-0000-000000000001","date":"2024-02-29T12:00:00.5+02:00",
            "geo":{"latitude":52.5,"longitude":13.4}}"#,
        r#"{"texts":["a",""],"ints":[1,3.0],"numbers":[0.1,-0.0],"booleans":[true,false],
            "dates":["1969-12-31T23:59:59Z"],"uuids":["00000000-0000-0000-0000-000000000001"],
            "object":{"text":"x"},"objects":[{"int":1},{}]}"#,
        r#"{"and":[{"property":"int","operator":"LessThan","value":3},{"not":{"property":"text",
            "operator":"Like","value":"wa*p"}},{"or":[]}]}"#,
        r#"{"property":"texts","operator":"ContainsAny","value":["a","b"]}"#,
        r#"{"property":"_creationTimeUnix","operator":"GreaterThan",
            "value":"2024-01-01T00:00:00Z"}"#,
        r#"{"property":"object","operator":"IsNull","value":true}"#,
    ];
    SEEDS.iter().map(|text| text.as_bytes().to_vec()).collect()
}
