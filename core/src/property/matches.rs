//! What a filter means: one object at a time, from its values.
//!
//! This is the definition that the indexes must agree with, and the check of objects that an index
//! cannot decide on (texts longer than it keeps).

use std::cmp::Ordering;

use heddle_types::filter::{PROPERTY_CREATED, PROPERTY_ID, PROPERTY_UPDATED};
use heddle_types::{Filter, ObjectId, Operator, Properties, Value};

use super::like::LikePattern;

/// The parts of an object that a filter can see.
#[derive(Clone, Copy, Debug)]
pub struct FilterFacts<'a> {
    /// Identity, `_id`.
    pub id: ObjectId,
    /// Creation time, `_creationTimeUnix`, microseconds since the Unix epoch.
    pub created_us: i64,
    /// Time of the last write, `_lastUpdateTimeUnix`, microseconds since the Unix epoch.
    pub updated_us: i64,
    /// Properties.
    pub properties: &'a Properties,
}

/// Does an object pass a filter? The filter has passed `validate::check_filter`.
///
/// An absent property fails every comparison but `IsNull(true)`; `Not` is the plain complement, so
/// `Not(Equal)` holds for absent properties and `NotEqual` does not.
#[must_use]
pub fn matches(filter: &Filter, facts: &FilterFacts<'_>) -> bool {
    match filter {
        Filter::And(children) => children.iter().all(|child| matches(child, facts)),
        Filter::Or(children) => children.iter().any(|child| matches(child, facts)),
        Filter::Not(child) => !matches(child, facts),
        Filter::Compare { property, operator, value } => match property.as_str() {
            PROPERTY_ID => matches_value(Some(&Value::Uuid(facts.id)), *operator, value),
            PROPERTY_CREATED => {
                matches_value(Some(&Value::Date(facts.created_us)), *operator, value)
            }
            PROPERTY_UPDATED => {
                matches_value(Some(&Value::Date(facts.updated_us)), *operator, value)
            }
            name => matches_value(facts.properties.get(name), *operator, value),
        },
    }
}

fn matches_value(found: Option<&Value>, operator: Operator, wanted: &Value) -> bool {
    if operator == Operator::IsNull {
        return *wanted == Value::Boolean(found.is_none());
    }
    let Some(found) = found else { return false };
    let found = elements(found);
    let some = |test: &dyn Fn(Ordering) -> bool| {
        let wanted = elements(wanted);
        let Some(wanted) = wanted.first() else { return false };
        found.iter().any(|element| element.compare(wanted).is_some_and(test))
    };
    let holds = |wanted: &Element<'_>| {
        found.iter().any(|element| element.compare(wanted) == Some(Ordering::Equal))
    };
    match operator {
        Operator::Equal => some(&Ordering::is_eq),
        Operator::NotEqual => !some(&Ordering::is_eq),
        Operator::LessThan => some(&Ordering::is_lt),
        Operator::LessThanEqual => some(&Ordering::is_le),
        Operator::GreaterThan => some(&Ordering::is_gt),
        Operator::GreaterThanEqual => some(&Ordering::is_ge),
        Operator::Like => {
            let Value::Text(pattern) = wanted else { return false };
            let pattern = LikePattern::parse(pattern);
            let fits = |element: &Element<'_>| match element {
                Element::Text(text) => pattern.matches(text),
                _ => false,
            };
            found.iter().any(fits)
        }
        Operator::ContainsAny => elements(wanted).iter().any(holds),
        Operator::ContainsAll => elements(wanted).iter().all(holds),
        Operator::IsNull => unreachable!("answered above"),
    }
}

/// One comparable value: a scalar or an element of an array.
#[derive(Clone, Copy)]
enum Element<'a> {
    Text(&'a str),
    Whole(i64),
    Number(f64),
    Boolean(bool),
    Uuid(ObjectId),
}

impl Element<'_> {
    fn compare(&self, other: &Element<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(left), Element::Text(right)) => Some((*left).cmp(right)),
            (Self::Whole(left), Element::Whole(right)) => Some(left.cmp(right)),
            (Self::Number(left), Element::Number(right)) => left.partial_cmp(right),
            (Self::Boolean(left), Element::Boolean(right)) => Some(left.cmp(right)),
            (Self::Uuid(left), Element::Uuid(right)) => Some(left.cmp(right)),
            _ => None,
        }
    }
}

fn elements(value: &Value) -> Vec<Element<'_>> {
    match value {
        Value::Text(text) => vec![Element::Text(text)],
        Value::Int(number) | Value::Date(number) => vec![Element::Whole(*number)],
        Value::Number(number) => vec![Element::Number(*number)],
        Value::Boolean(truth) => vec![Element::Boolean(*truth)],
        Value::Uuid(id) => vec![Element::Uuid(*id)],
        Value::TextArray(items) => items.iter().map(|text| Element::Text(text)).collect(),
        Value::IntArray(items) | Value::DateArray(items) => {
            items.iter().map(|number| Element::Whole(*number)).collect()
        }
        Value::NumberArray(items) => items.iter().map(|n| Element::Number(*n)).collect(),
        Value::BooleanArray(items) => items.iter().map(|t| Element::Boolean(*t)).collect(),
        Value::UuidArray(items) => items.iter().map(|id| Element::Uuid(*id)).collect(),
        Value::Geo(_) | Value::Object(_) | Value::Blob(_) | Value::ObjectArray(_) => Vec::new(),
    }
}
