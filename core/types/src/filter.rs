//! Filters: a tree of conditions over properties, and its flat form on the wire.
//!
//! The wire form is prefix notation without recursion in the format itself:
//! `node = kind u8, …` with `And`/`Or` followed by a u16 child count, `Not` by one child, and a
//! condition by `name length u8, name, operator u8, tag u8, value` in the row codec's encoding.

use crate::limits::{FILTER_DEPTH_MAX, FILTER_NODES_MAX, NAME_LENGTH_BYTES_MAX};
use crate::row::{Reader, RowError, decode_value, encode_value};
use crate::value::Value;

/// Name under which filters address the object's UUID.
pub const PROPERTY_ID: &str = "_id";
/// Name under which filters address the creation time.
pub const PROPERTY_CREATED: &str = "_creationTimeUnix";
/// Name under which filters address the time of the last update.
pub const PROPERTY_UPDATED: &str = "_lastUpdateTimeUnix";

/// How a property is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Operator {
    /// Equal to the value; for arrays: holds the value.
    Equal = 1,
    /// Present and not equal to the value; for arrays: present and does not hold it.
    NotEqual = 2,
    /// Below the value (some element, for arrays).
    LessThan = 3,
    /// Below or equal to the value.
    LessThanEqual = 4,
    /// Above the value.
    GreaterThan = 5,
    /// Above or equal to the value.
    GreaterThanEqual = 6,
    /// Text matches a pattern: `*` any run of characters, `?` any one character.
    Like = 7,
    /// Holds at least one of the values.
    ContainsAny = 8,
    /// Holds all of the values.
    ContainsAll = 9,
    /// `Boolean(true)`: has no value; `Boolean(false)`: has one.
    IsNull = 10,
}

impl Operator {
    /// Every operator.
    pub const ALL: [Self; 10] = [
        Self::Equal,
        Self::NotEqual,
        Self::LessThan,
        Self::LessThanEqual,
        Self::GreaterThan,
        Self::GreaterThanEqual,
        Self::Like,
        Self::ContainsAny,
        Self::ContainsAll,
        Self::IsNull,
    ];

    /// The operator's name as users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "Equal",
            Self::NotEqual => "NotEqual",
            Self::LessThan => "LessThan",
            Self::LessThanEqual => "LessThanEqual",
            Self::GreaterThan => "GreaterThan",
            Self::GreaterThanEqual => "GreaterThanEqual",
            Self::Like => "Like",
            Self::ContainsAny => "ContainsAny",
            Self::ContainsAll => "ContainsAll",
            Self::IsNull => "IsNull",
        }
    }

    /// The operator of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| operator.name() == name)
    }

    fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| *operator as u8 == tag)
    }
}

/// A condition on objects.
#[derive(Clone, PartialEq, Debug)]
pub enum Filter {
    /// All of them hold; true when empty.
    And(Vec<Filter>),
    /// One of them holds; false when empty.
    Or(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
    /// A comparison of one property.
    Compare {
        /// Property name, or one of the `_` names of this module.
        property: String,
        /// How to compare.
        operator: Operator,
        /// What to compare with.
        value: Value,
    },
}

/// Why bytes are not a filter, or a filter has no encoding. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A name or value is malformed.
    #[error("filter {0}")]
    Row(#[from] RowError),
    /// No node kind or operator has this number.
    #[error("filter has unknown {what} {found} at byte {offset}")]
    UnknownKind {
        /// `node kind` or `operator`.
        what: &'static str,
        /// The number.
        found: u8,
        /// Where it stands.
        offset: usize,
    },
    /// Too deep or too many nodes.
    #[error("filter {what} {found} is above the limit {limit}")]
    TooLarge {
        /// `depth`, `nodes` or `name length`.
        what: &'static str,
        /// The count.
        found: usize,
        /// Its limit.
        limit: usize,
    },
}

const KIND_AND: u8 = 1;
const KIND_OR: u8 = 2;
const KIND_NOT: u8 = 3;
const KIND_COMPARE: u8 = 4;

impl Filter {
    /// A comparison of one property.
    #[must_use]
    pub fn compare(property: impl Into<String>, operator: Operator, value: Value) -> Self {
        Self::Compare { property: property.into(), operator, value }
    }

    /// Encodes the filter.
    ///
    /// Errors: too deep, too many nodes, or a value that has no encoding.
    pub fn encode(&self) -> Result<Vec<u8>, FilterError> {
        let mut out = Vec::new();
        let mut nodes = 0;
        encode_node(self, 1, &mut nodes, &mut out)?;
        Ok(out)
    }

    /// Decodes what [`Filter::encode`] wrote, from untrusted bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FilterError> {
        let mut reader = Reader::new(bytes);
        let mut nodes = 0;
        let filter = decode_node(&mut reader, 1, &mut nodes)?;
        match reader.remaining() {
            0 => Ok(filter),
            count => Err(RowError::TrailingBytes { count }.into()),
        }
    }
}

fn count_node(depth: usize, nodes: &mut usize) -> Result<(), FilterError> {
    *nodes += 1;
    let too_large = |what, found, limit| Err(FilterError::TooLarge { what, found, limit });
    if depth > FILTER_DEPTH_MAX {
        return too_large("depth", depth, FILTER_DEPTH_MAX);
    }
    if *nodes > FILTER_NODES_MAX {
        return too_large("nodes", *nodes, FILTER_NODES_MAX);
    }
    Ok(())
}

fn encode_node(
    filter: &Filter,
    depth: usize,
    nodes: &mut usize,
    out: &mut Vec<u8>,
) -> Result<(), FilterError> {
    count_node(depth, nodes)?;
    match filter {
        Filter::And(children) => encode_children(KIND_AND, children, depth, nodes, out),
        Filter::Or(children) => encode_children(KIND_OR, children, depth, nodes, out),
        Filter::Not(child) => {
            out.push(KIND_NOT);
            encode_node(child, depth + 1, nodes, out)
        }
        Filter::Compare { property, operator, value } => {
            out.push(KIND_COMPARE);
            check_name_length(property.len())?;
            out.push(u8::try_from(property.len()).expect("the limit is below 256"));
            out.extend_from_slice(property.as_bytes());
            out.push(*operator as u8);
            out.push(value.data_type() as u8);
            Ok(encode_value(value, 0, out)?)
        }
    }
}

fn encode_children(
    kind: u8,
    children: &[Filter],
    depth: usize,
    nodes: &mut usize,
    out: &mut Vec<u8>,
) -> Result<(), FilterError> {
    let count = u16::try_from(children.len()).or(Err(FilterError::TooLarge {
        what: "nodes",
        found: children.len(),
        limit: FILTER_NODES_MAX,
    }))?;
    out.push(kind);
    out.extend_from_slice(&count.to_le_bytes());
    children.iter().try_for_each(|child| encode_node(child, depth + 1, nodes, out))
}

fn decode_node(
    reader: &mut Reader<'_>,
    depth: usize,
    nodes: &mut usize,
) -> Result<Filter, FilterError> {
    count_node(depth, nodes)?;
    let offset = reader.offset;
    match reader.u8()? {
        KIND_AND => Ok(Filter::And(decode_children(reader, depth, nodes)?)),
        KIND_OR => Ok(Filter::Or(decode_children(reader, depth, nodes)?)),
        KIND_NOT => Ok(Filter::Not(Box::new(decode_node(reader, depth + 1, nodes)?))),
        KIND_COMPARE => decode_compare(reader),
        found => Err(FilterError::UnknownKind { what: "node kind", found, offset }),
    }
}

fn decode_children(
    reader: &mut Reader<'_>,
    depth: usize,
    nodes: &mut usize,
) -> Result<Vec<Filter>, FilterError> {
    let count = reader.u16()?;
    let mut children = Vec::new();
    for _ in 0..count {
        children.push(decode_node(reader, depth + 1, nodes)?);
    }
    Ok(children)
}

fn check_name_length(found: usize) -> Result<(), FilterError> {
    let limit = NAME_LENGTH_BYTES_MAX;
    if found > limit {
        return Err(FilterError::TooLarge { what: "name length", found, limit });
    }
    Ok(())
}

fn decode_compare(reader: &mut Reader<'_>) -> Result<Filter, FilterError> {
    let length = usize::from(reader.u8()?);
    check_name_length(length)?;
    let property = reader.utf8(length)?.to_owned();
    let offset = reader.offset;
    let tag = reader.u8()?;
    let operator = Operator::from_tag(tag).ok_or(FilterError::UnknownKind {
        what: "operator",
        found: tag,
        offset,
    })?;
    let data_type = reader.data_type()?;
    let value = decode_value(data_type, reader, 0)?;
    Ok(Filter::Compare { property, operator, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Filter {
        Filter::And(vec![
            Filter::compare("source", Operator::Equal, Value::Text("pep".to_owned())),
            Filter::Not(Box::new(Filter::Or(vec![
                Filter::compare("year", Operator::LessThan, Value::Int(2000)),
                Filter::compare(
                    "tags",
                    Operator::ContainsAny,
                    Value::TextArray(vec!["a".to_owned()]),
                ),
            ]))),
            Filter::compare("len", Operator::IsNull, Value::Boolean(false)),
        ])
    }

    #[test]
    fn filters_round_trip() {
        let bytes = sample().encode().unwrap();
        assert_eq!(Filter::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Filter::decode(&bytes[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn depth_and_node_count_are_bounded_both_ways() {
        let mut deep = Filter::And(Vec::new());
        for _ in 0..FILTER_DEPTH_MAX {
            deep = Filter::Not(Box::new(deep));
        }
        assert!(matches!(deep.encode(), Err(FilterError::TooLarge { what: "depth", .. })));
        let mut bytes = vec![KIND_NOT; FILTER_DEPTH_MAX];
        bytes.extend_from_slice(&[KIND_AND, 0, 0]);
        assert!(matches!(Filter::decode(&bytes), Err(FilterError::TooLarge { .. })));
        let wide = Filter::And(vec![Filter::Or(Vec::new()); FILTER_NODES_MAX]);
        assert!(matches!(wide.encode(), Err(FilterError::TooLarge { what: "nodes", .. })));
    }

    #[test]
    fn a_name_above_the_limit_is_refused_both_ways() {
        let longest = "n".repeat(NAME_LENGTH_BYTES_MAX);
        let filter = Filter::compare(longest, Operator::Equal, Value::Boolean(true));
        let bytes = filter.encode().unwrap();
        assert_eq!(Filter::decode(&bytes), Ok(filter));
        let mut longer = bytes;
        longer[1] += 1;
        longer.insert(2, b'n');
        assert!(matches!(Filter::decode(&longer), Err(FilterError::TooLarge { .. })));
        let filter = Filter::compare("n".repeat(129), Operator::Equal, Value::Boolean(true));
        assert!(matches!(filter.encode(), Err(FilterError::TooLarge { .. })));
    }

    #[test]
    fn operators_have_unique_names_and_tags() {
        for operator in Operator::ALL {
            assert_eq!(Operator::from_name(operator.name()), Some(operator));
            assert_eq!(Operator::from_tag(operator as u8), Some(operator));
        }
    }
}
