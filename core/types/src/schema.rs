//! Collection definitions: what a user declares, and the rules a declaration must keep.
//!
//! Definitions travel and rest as JSON (a cold path that has to evolve); unknown keys are refused,
//! so a typo never silently becomes a default.

use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ErrorCode};
use crate::limits::{
    NAME_LENGTH_BYTES_MAX, PROPERTIES_PER_COLLECTION_MAX, PROPERTY_DEPTH_MAX,
    SHARDS_PER_COLLECTION_MAX, VECTOR_DIMS_MAX, VECTORS_PER_COLLECTION_MAX,
    VIRTUAL_PER_PHYSICAL_DEFAULT,
};
pub use crate::value::DataType;

/// How far apart two vectors are. Values follow Weaviate's definitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Distance {
    /// `1 - cosine similarity`, 0..=2. Vectors are stored normalised.
    #[default]
    #[serde(rename = "cosine")]
    Cosine = 1,
    /// Negated inner product; the smaller, the nearer.
    #[serde(rename = "dot")]
    Dot = 2,
    /// Squared Euclidean distance.
    #[serde(rename = "l2-squared")]
    L2Squared = 3,
    /// Sum of absolute differences.
    #[serde(rename = "manhattan")]
    Manhattan = 4,
    /// Number of components that differ.
    #[serde(rename = "hamming")]
    Hamming = 5,
}

impl Distance {
    /// Every distance.
    pub const ALL: [Self; 5] =
        [Self::Cosine, Self::Dot, Self::L2Squared, Self::Manhattan, Self::Hamming];

    /// The name used in schemas.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::L2Squared => "l2-squared",
            Self::Manhattan => "manhattan",
            Self::Hamming => "hamming",
        }
    }

    /// The distance of a schema name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|distance| distance.name() == name)
    }
}

/// How vectors are compressed for traversal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Quantization {
    /// Full precision.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Rotated 8-bit codes.
    #[serde(rename = "8bit")]
    Bits8,
    /// Rotated 4-bit codes.
    #[serde(rename = "4bit")]
    Bits4,
    /// Rotated 1-bit codes.
    #[serde(rename = "1bit")]
    Bits1,
}

/// Which index serves a vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexType {
    /// Graph search.
    #[default]
    Hnsw,
    /// Exact scan, always.
    Flat,
    /// Exact scan until `dynamic_threshold` objects, then graph search.
    Dynamic,
}

/// Index of one vector and its parameters (names as in Malkov & Yashunin).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Kind of index.
    pub kind: IndexType,
    /// Links per node on the upper layers; layer 0 has twice as many.
    pub m: u16,
    /// Candidates kept while inserting.
    pub ef_construction: u16,
    /// Candidates kept while searching, when the request does not say.
    pub ef: u32,
    /// Objects above which a `dynamic` index builds its graph.
    pub dynamic_threshold: u32,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            kind: IndexType::Hnsw,
            m: 16,
            ef_construction: 200,
            ef: 64,
            dynamic_threshold: 10_000,
        }
    }
}

/// One vector that objects of a collection carry.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorConfig {
    /// Name; empty for the default vector.
    pub name: String,
    /// Number of components; fixed by the first insert when not declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dims: Option<u32>,
    /// Distance.
    pub distance: Distance,
    /// Index.
    pub index: IndexConfig,
    /// Compression.
    pub quantization: Quantization,
}

/// One property that objects of a collection may carry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PropertyConfig {
    /// Name.
    pub name: String,
    /// Type of its values.
    #[serde(rename = "type")]
    pub data_type: DataType,
    /// Keep an index for filters.
    #[serde(default = "yes")]
    pub filterable: bool,
    /// Keep an index for text search (text only).
    #[serde(default)]
    pub searchable: bool,
    /// Properties of nested objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<PropertyConfig>,
}

fn yes() -> bool {
    true
}

/// How a collection is cut into shards.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShardingConfig {
    /// Physical shards; 0 = one a node.
    pub count: u32,
    /// Virtual shards per physical shard: the grain of later resharding.
    pub virtual_per_physical: u32,
}

impl Default for ShardingConfig {
    fn default() -> Self {
        Self { count: 0, virtual_per_physical: VIRTUAL_PER_PHYSICAL_DEFAULT }
    }
}

/// How a collection is replicated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationConfig {
    /// Copies of every object, each on a node of its own.
    pub factor: u32,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self { factor: 1 }
    }
}

/// Whether a collection is divided among tenants.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultiTenancyConfig {
    /// Every object belongs to a tenant, every tenant is a shard.
    pub enabled: bool,
}

/// The definition of a collection.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectionConfig {
    /// Name: a letter, then letters, digits and `_`.
    pub name: String,
    /// Free text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Properties that objects may carry.
    pub properties: Vec<PropertyConfig>,
    /// Vectors that objects carry; none declared means one default vector.
    pub vectors: Vec<VectorConfig>,
    /// Keep indexes for filters on creation and update time.
    pub index_timestamps: bool,
    /// Sharding.
    pub sharding: ShardingConfig,
    /// Replication.
    pub replication: ReplicationConfig,
    /// Tenants.
    pub multi_tenancy: MultiTenancyConfig,
}

impl CollectionConfig {
    /// The property of a name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&PropertyConfig> {
        self.properties.iter().find(|property| property.name == name)
    }

    /// The vector of a name and its position.
    #[must_use]
    pub fn vector(&self, name: &str) -> Option<(usize, &VectorConfig)> {
        self.vectors.iter().enumerate().find(|(_, vector)| vector.name == name)
    }

    /// Adds what a declaration may leave out: the default vector.
    pub fn fill_defaults(&mut self) {
        if self.vectors.is_empty() {
            self.vectors.push(VectorConfig::default());
        }
    }

    /// Checks every rule of a definition that holds on any cluster.
    ///
    /// Errors: `InvalidName`, `InvalidProperty`, `InvalidVector`, `InvalidArgument`, `TooLarge`,
    /// each naming the offending part.
    pub fn validate(&self) -> Result<(), ApiError> {
        check_name("collection", &self.name)?;
        check_count("properties", self.properties.len(), PROPERTIES_PER_COLLECTION_MAX)?;
        check_count("vectors", self.vectors.len(), VECTORS_PER_COLLECTION_MAX)?;
        check_properties(&self.properties, 1)?;
        if self.vectors.is_empty() {
            return Err(ApiError::new(
                ErrorCode::InvalidVector,
                format!("collection {} has no vector", self.name),
                "at least one vector",
            ));
        }
        for (index, vector) in self.vectors.iter().enumerate() {
            vector.validate()?;
            if self.vectors[..index].iter().any(|other| other.name == vector.name) {
                let name = match vector.name.as_str() {
                    "" => "the default vector (the one without a name)".to_owned(),
                    name => format!("vector \"{name}\""),
                };
                return Err(ApiError::new(
                    ErrorCode::InvalidVector,
                    format!("{name} is declared twice"),
                    "unique vector names",
                ));
            }
        }
        check_range("sharding.count", self.sharding.count, 0, SHARDS_PER_COLLECTION_MAX)?;
        check_range("sharding.virtual_per_physical", self.sharding.virtual_per_physical, 1, 4_096)?;
        check_range("replication.factor", self.replication.factor, 1, 64)
    }
}

impl VectorConfig {
    fn validate(&self) -> Result<(), ApiError> {
        if !self.name.is_empty() {
            check_name("vector", &self.name)?;
        }
        if let Some(dims) = self.dims {
            check_range("dims", dims, 1, VECTOR_DIMS_MAX)?;
        }
        check_range("index.m", u32::from(self.index.m), 2, 128)?;
        check_range("index.ef_construction", u32::from(self.index.ef_construction), 4, 4_096)?;
        check_range("index.ef", self.index.ef, 1, crate::limits::SEARCH_EF_MAX)
    }
}

fn check_properties(properties: &[PropertyConfig], depth: usize) -> Result<(), ApiError> {
    check_count("levels of nested properties", depth, PROPERTY_DEPTH_MAX)?;
    for (index, property) in properties.iter().enumerate() {
        check_name("property", &property.name)?;
        let refuse = |message: String, expected: &str| {
            Err(ApiError::new(ErrorCode::InvalidProperty, message, expected))
        };
        let name = &property.name;
        if properties[..index].iter().any(|other| other.name == *name) {
            return refuse(format!("property {name} is declared twice"), "unique property names");
        }
        let is_object = property.data_type.element() == DataType::Object;
        if !is_object && !property.properties.is_empty() {
            let found = property.data_type.name();
            return refuse(
                format!("property {name} of type {found} has nested properties"),
                "nested properties only under object or object[]",
            );
        }
        if property.searchable && property.data_type.element() != DataType::Text {
            return refuse(
                format!("property {name} of type {} is searchable", property.data_type.name()),
                "searchable only for text and text[]",
            );
        }
        if is_object {
            check_properties(&property.properties, depth + 1)?;
        }
    }
    Ok(())
}

/// Checks a name: a letter or `_` is not enough, a letter must come first.
///
/// Errors: `InvalidName` with the rule. `what` is the kind of thing named, for the message.
pub fn check_name(what: &str, name: &str) -> Result<(), ApiError> {
    let mut characters = name.bytes();
    let starts_well = characters.next().is_some_and(|first| first.is_ascii_alphabetic());
    let goes_on_well = characters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if starts_well && goes_on_well && name.len() <= NAME_LENGTH_BYTES_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_LENGTH_BYTES_MAX).collect();
    Err(ApiError::new(
        ErrorCode::InvalidName,
        format!("{what} name {shown:?} is not allowed"),
        format!("a letter, then letters, digits or _, at most {NAME_LENGTH_BYTES_MAX} bytes"),
    ))
}

fn check_count(what: &str, found: usize, limit: usize) -> Result<(), ApiError> {
    if found <= limit {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::TooLarge, format!("{found} {what}"), format!("at most {limit}")))
}

fn check_range(what: &str, found: u32, low: u32, high: u32) -> Result<(), ApiError> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InvalidArgument,
        format!("{what} is {found}"),
        format!("{low} to {high}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> CollectionConfig {
        let mut config = CollectionConfig { name: "Docs".to_owned(), ..Default::default() };
        config.fill_defaults();
        config
    }

    fn code_of(config: &CollectionConfig) -> ErrorCode {
        config.validate().expect_err("the definition is bad").code
    }

    #[test]
    fn a_bare_name_makes_a_valid_collection() {
        assert_eq!(minimal().validate(), Ok(()));
        let parsed: CollectionConfig = serde_json::from_str(r#"{"name":"Docs"}"#).unwrap();
        assert_eq!(parsed, CollectionConfig { vectors: Vec::new(), ..minimal() });
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = r#"{"name":"Docs","vectors":[{"dimension":3}]}"#;
        let error = serde_json::from_str::<CollectionConfig>(text).unwrap_err();
        assert!(error.to_string().contains("dimension"), "{error}");
    }

    #[test]
    fn names_must_start_with_a_letter() {
        for name in ["", "1a", "_a", "a-b", "a b", "ä", &"a".repeat(129), "../x"] {
            assert_eq!(check_name("collection", name).unwrap_err().code, ErrorCode::InvalidName);
        }
        assert_eq!(check_name("collection", "aZ_09"), Ok(()));
    }

    #[test]
    fn each_rule_is_enforced_by_name() {
        let mut config = minimal();
        config.vectors[0].dims = Some(0);
        assert_eq!(code_of(&config), ErrorCode::InvalidArgument);
        let mut config = minimal();
        config.vectors.push(config.vectors[0].clone());
        assert_eq!(code_of(&config), ErrorCode::InvalidVector);
        let mut config = minimal();
        let property = |name: &str, data_type, searchable| PropertyConfig {
            name: name.to_owned(),
            data_type,
            filterable: true,
            searchable,
            properties: Vec::new(),
        };
        config.properties =
            vec![property("a", DataType::Int, false), property("a", DataType::Text, false)];
        assert_eq!(code_of(&config), ErrorCode::InvalidProperty);
        config.properties = vec![property("a", DataType::Int, true)];
        assert_eq!(code_of(&config), ErrorCode::InvalidProperty);
        let mut config = minimal();
        config.sharding.count = SHARDS_PER_COLLECTION_MAX + 1;
        assert_eq!(code_of(&config), ErrorCode::InvalidArgument);
    }
}
