//! Collection definitions: what a user declares, and the rules a declaration must keep.
//!
//! Definitions travel and rest as JSON (a cold path that has to evolve); unknown keys are refused,
//! so a typo never silently becomes a default.

use serde::{Deserialize, Serialize};

use crate::deletion::DeletionStrategy;
use crate::error::{ApiError, ErrorCode};
use crate::limits::{
    NAME_LENGTH_BYTES_MAX, PROPERTIES_PER_COLLECTION_MAX, PROPERTY_DEPTH_MAX,
    SHARDS_PER_COLLECTION_MAX, TENANT_NAME_BYTES_MAX, VECTOR_DIMS_MAX, VECTORS_PER_COLLECTION_MAX,
    VIRTUAL_PER_PHYSICAL_DEFAULT,
};
use crate::placement::PlacementRules;
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

    /// Are there codes that such a distance can be computed on?
    #[must_use]
    pub fn has_codes(self) -> bool {
        !matches!(self, Self::Manhattan | Self::Hamming)
    }

    /// The distance of a schema name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|distance| distance.name() == name)
    }
}

/// What a search computes distances on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Quantization {
    /// Full precision, four bytes a component.
    #[serde(rename = "none")]
    None,
    /// Rotated components of two bytes.
    #[serde(rename = "half")]
    Half,
    /// Rotated 8-bit codes, refined to about 16 bits.
    #[serde(rename = "8bit")]
    Bits8,
    /// Rotated 4-bit codes, refined to about 12 bits.
    #[serde(rename = "4bit")]
    Bits4,
    /// Rotated 1-bit codes, refined to about 8 bits.
    #[serde(rename = "1bit")]
    Bits1,
}

impl Quantization {
    /// Every quantization, the finest first.
    pub const ALL: [Self; 5] = [Self::None, Self::Half, Self::Bits8, Self::Bits4, Self::Bits1];

    /// The name used in schemas.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Half => "half",
            Self::Bits8 => "8bit",
            Self::Bits4 => "4bit",
            Self::Bits1 => "1bit",
        }
    }

    /// The quantization of a schema name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quantization| quantization.name() == name)
    }

    /// Do codes of this kind tell near neighbours apart without the vectors in memory?
    #[must_use]
    pub fn is_refined(self) -> bool {
        matches!(self, Self::Bits8 | Self::Bits4 | Self::Bits1)
    }
}

/// Where the vectors rest as they were given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawVectors {
    /// In memory, beside the codes: searches end on exact distances.
    Memory,
    /// On disk, beside the properties: memory holds the codes alone.
    Disk,
}

impl RawVectors {
    /// Both places.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Disk];

    /// The name used in schemas.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    /// The place of a schema name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.name() == name)
    }
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
    /// Compression; chosen by the server as soon as the dimension is known, when not declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// Where the vectors rest as given; follows from the quantization when not declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawVectors>,
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
    /// How a deletion that not every replica has seen is resolved.
    #[serde(skip_serializing_if = "DeletionStrategy::is_default")]
    pub deletion_strategy: DeletionStrategy,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self { factor: 1, deletion_strategy: DeletionStrategy::default() }
    }
}

/// Whether a collection is divided among tenants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultiTenancyConfig {
    /// Every object belongs to a tenant, every tenant has its own shards: as many as
    /// `sharding.count` says, one if that says nothing.
    pub enabled: bool,
    /// A put for a tenant that does not exist creates it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_create: bool,
    /// A request for an inactive tenant activates it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_activate: bool,
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
    /// Which nodes may hold it; none named means any.
    #[serde(skip_serializing_if = "PlacementRules::is_empty")]
    pub placement: PlacementRules,
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
                return Err(ApiError::new(
                    ErrorCode::InvalidVector,
                    format!("{} is declared twice", vector.shown_name()),
                    "unique vector names",
                ));
            }
        }
        self.check_tenancy()?;
        check_range("sharding.count", self.sharding.count, 0, SHARDS_PER_COLLECTION_MAX)?;
        check_range("sharding.virtual_per_physical", self.sharding.virtual_per_physical, 1, 4_096)?;
        check_range("replication.factor", self.replication.factor, 1, 64)?;
        self.placement.validate()
    }

    fn check_tenancy(&self) -> Result<(), ApiError> {
        let MultiTenancyConfig { enabled, auto_create, auto_activate } = self.multi_tenancy;
        if enabled || !(auto_create || auto_activate) {
            return Ok(());
        }
        let what = if auto_create { "auto_create" } else { "auto_activate" };
        let message = format!("multi_tenancy.{what} of {} without multi_tenancy", self.name);
        Err(ApiError::new(ErrorCode::InvalidArgument, message, "multi_tenancy.enabled true"))
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
        check_range("index.ef", self.index.ef, 1, crate::limits::SEARCH_EF_MAX)?;
        self.check_profile()
    }

    /// Codes exist for some distances only, and vectors may leave memory only behind refined codes.
    fn check_profile(&self) -> Result<(), ApiError> {
        let refuse = |what: &str, expected: &str| {
            let (name, distance) = (self.shown_name(), self.distance.name());
            let message = format!("{name} with distance {distance} has {what}");
            Err(ApiError::new(ErrorCode::InvalidArgument, message, expected))
        };
        let has_codes = self.distance.has_codes();
        let quantization = self.quantization.map_or("the default", Quantization::name);
        if !has_codes && self.quantization.is_some_and(|codes| codes != Quantization::None) {
            return refuse(
                &format!("quantization {quantization}"),
                "quantization none, or distance cosine, dot or l2-squared",
            );
        }
        let is_refined = self.quantization.map_or(has_codes, Quantization::is_refined);
        if self.raw == Some(RawVectors::Disk) && !is_refined {
            return refuse(
                &format!("raw disk and quantization {quantization}"),
                "raw memory, or quantization 8bit, 4bit or 1bit",
            );
        }
        Ok(())
    }

    /// The name as messages show it.
    #[must_use]
    pub fn shown_name(&self) -> String {
        match self.name.as_str() {
            "" => "the default vector (the one without a name)".to_owned(),
            name => format!("vector \"{name}\""),
        }
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

/// Checks the name of a tenant: letters, digits, `_` and `-`, 1 to 64 of them.
///
/// Errors: `InvalidName` with the rule.
pub fn check_tenant_name(name: &str) -> Result<(), ApiError> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=TENANT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_known) {
        return Ok(());
    }
    let shown: String = name.chars().take(TENANT_NAME_BYTES_MAX).collect();
    Err(ApiError::new(
        ErrorCode::InvalidName,
        format!("tenant name {shown:?} is not allowed"),
        format!("1 to {TENANT_NAME_BYTES_MAX} letters, digits, _ or -"),
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
    fn a_deletion_strategy_is_written_only_where_it_is_not_the_usual_one() {
        assert!(!serde_json::to_string(&minimal()).unwrap().contains("deletion_strategy"));
        for strategy in DeletionStrategy::ALL {
            let replication =
                format!(r#"{{"factor":3,"deletion_strategy":"{}"}}"#, strategy.name());
            let text = format!(r#"{{"name":"Docs","replication":{replication}}}"#);
            let parsed: CollectionConfig = serde_json::from_str(&text).unwrap();
            assert_eq!(parsed.replication.deletion_strategy, strategy);
            let back = serde_json::to_string(&parsed).unwrap();
            let is_usual = strategy == DeletionStrategy::TimeBasedResolution;
            assert_eq!(back.contains(&replication), !is_usual, "{back}");
            assert_eq!(serde_json::from_str::<CollectionConfig>(&back).unwrap(), parsed);
        }
        let bad = r#"{"name":"Docs","replication":{"deletion_strategy":"LastWins"}}"#;
        let error = serde_json::from_str::<CollectionConfig>(bad).unwrap_err();
        assert!(error.to_string().contains("LastWins"), "{error}");
    }

    #[test]
    fn rules_of_placement_are_written_only_where_there_are_some() {
        assert!(!serde_json::to_string(&minimal()).unwrap().contains("placement"));
        let text = r#"{"name":"Docs","placement":{"require":{"disk":"nvme"}}}"#;
        let parsed: CollectionConfig = serde_json::from_str(text).unwrap();
        assert_eq!(parsed.placement.require["disk"], "nvme");
        let back = serde_json::to_string(&parsed).unwrap();
        assert!(back.contains(r#""placement":{"require":{"disk":"nvme"}}"#), "{back}");
        assert_eq!(serde_json::from_str::<CollectionConfig>(&back).unwrap(), parsed);
        let typo = r#"{"name":"Docs","placement":{"required":{"disk":"nvme"}}}"#;
        let error = serde_json::from_str::<CollectionConfig>(typo).unwrap_err();
        assert!(error.to_string().contains("required"), "{error}");
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
    fn names_of_tenants_may_be_numbers_and_hold_dashes() {
        for name in ["a", "7", "-", "_", "6f9619ff-8b86-d011-b42d-00c04fc964ff", &"a".repeat(64)] {
            assert_eq!(check_tenant_name(name), Ok(()));
        }
        for name in ["", "a b", "a/b", "ä", ".", &"a".repeat(65)] {
            assert_eq!(check_tenant_name(name).unwrap_err().code, ErrorCode::InvalidName, "{name}");
        }
    }

    #[test]
    fn automatic_tenants_need_tenants() {
        let mut config = minimal();
        config.multi_tenancy.auto_create = true;
        assert_eq!(code_of(&config), ErrorCode::InvalidArgument);
        config.multi_tenancy.enabled = true;
        assert_eq!(config.validate(), Ok(()));
        let text = serde_json::to_string(&minimal()).unwrap();
        assert!(text.contains(r#""multi_tenancy":{"enabled":false}"#), "as ever: {text}");
    }

    #[test]
    fn every_pair_of_quantization_and_place_is_accepted_or_refused_by_name() {
        let mut refused = 0;
        for distance in Distance::ALL {
            let codes = distance.has_codes();
            for quantization in Quantization::ALL {
                for raw in RawVectors::ALL {
                    let mut config = minimal();
                    let vector = &mut config.vectors[0];
                    vector.distance = distance;
                    (vector.quantization, vector.raw) = (Some(quantization), Some(raw));
                    let is_good = (codes || quantization == Quantization::None)
                        && (raw == RawVectors::Memory || quantization.is_refined());
                    match config.validate() {
                        Ok(()) => assert!(is_good, "{distance:?} {quantization:?} {raw:?}"),
                        Err(error) => {
                            assert!(!is_good, "{error}");
                            assert!(error.message.contains(distance.name()), "{error}");
                            assert!(error.message.contains(quantization.name()), "{error}");
                            refused += 1;
                        }
                    }
                    let text = serde_json::to_string(&config).unwrap();
                    assert_eq!(serde_json::from_str::<CollectionConfig>(&text).unwrap(), config);
                }
            }
        }
        assert_eq!(refused, 3 * 2 + 2 * 9);
    }

    #[test]
    fn the_place_alone_may_be_declared_where_there_are_codes() {
        let mut config = minimal();
        config.vectors[0].raw = Some(RawVectors::Disk);
        assert_eq!(config.validate(), Ok(()));
        config.vectors[0].distance = Distance::Hamming;
        assert_eq!(code_of(&config), ErrorCode::InvalidArgument);
        let names = Quantization::ALL.map(|known| Quantization::from_name(known.name()));
        assert_eq!(names, Quantization::ALL.map(Some));
        let names = RawVectors::ALL.map(|known| RawVectors::from_name(known.name()));
        assert_eq!(names, RawVectors::ALL.map(Some));
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
        let mut config = minimal();
        config.placement.avoid.insert("tier".to_owned(), "a b".to_owned());
        let error = config.validate().unwrap_err();
        assert!(error.message.contains("avoided labels hold \"tier=a b\""), "{error}");
    }
}
