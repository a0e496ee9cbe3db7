//! The index of one property.

use heddle_types::{DataType, ObjectId, Operator, Slot, Value};
use roaring::RoaringBitmap;

use super::like::LikePattern;
use super::ordered::{NumberKey, Ordered};
use super::text::{Bounds, TextIndex};

/// Values of one property, by the type of its elements.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Values {
    Whole(Ordered<i64>),
    Numbers(Ordered<NumberKey>),
    Booleans(Ordered<bool>),
    Uuids(Ordered<ObjectId>),
    Texts(TextIndex),
    /// A type that has no comparable values: presence alone.
    Nothing,
}

impl Values {
    /// Only collects what is inserted, until [`Values::end_bulk`].
    pub(super) fn begin_bulk(&mut self) {
        match self {
            Self::Whole(index) => index.begin_bulk(),
            Self::Numbers(index) => index.begin_bulk(),
            Self::Booleans(index) => index.begin_bulk(),
            Self::Uuids(index) => index.begin_bulk(),
            Self::Texts(index) => {
                index.whole.begin_bulk();
                index.cut.begin_bulk();
            }
            Self::Nothing => {}
        }
    }

    /// Sorts in what was collected; returns the bytes by which memory grew, about.
    pub(super) fn end_bulk(&mut self) -> usize {
        match self {
            Self::Whole(index) => index.end_bulk(),
            Self::Numbers(index) => index.end_bulk(),
            Self::Booleans(index) => index.end_bulk(),
            Self::Uuids(index) => index.end_bulk(),
            Self::Texts(index) => index.whole.end_bulk() + index.cut.end_bulk(),
            Self::Nothing => 0,
        }
    }

    /// Bytes of what a bulk has collected.
    pub(super) fn waiting_bytes(&self) -> usize {
        match self {
            Self::Whole(index) => index.waiting_bytes(),
            Self::Numbers(index) => index.waiting_bytes(),
            Self::Booleans(index) => index.waiting_bytes(),
            Self::Uuids(index) => index.waiting_bytes(),
            Self::Texts(index) => index.whole.waiting_bytes() + index.cut.waiting_bytes(),
            Self::Nothing => 0,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) present: RoaringBitmap,
    pub(super) values: Values,
}

impl Field {
    pub(super) fn new(name: &str, data_type: DataType) -> Self {
        let values = match data_type.element() {
            DataType::Int | DataType::Date => Values::Whole(Ordered::default()),
            DataType::Number => Values::Numbers(Ordered::default()),
            DataType::Boolean => Values::Booleans(Ordered::default()),
            DataType::Uuid => Values::Uuids(Ordered::default()),
            DataType::Text => Values::Texts(TextIndex::default()),
            _ => Values::Nothing,
        };
        Self { name: name.to_owned(), data_type, present: RoaringBitmap::new(), values }
    }

    /// Adds a value; returns the bytes by which memory grew, about. A value of another type than
    /// declared was refused at the door and is ignored here.
    pub(super) fn insert(&mut self, slot: Slot, value: Value) -> usize {
        if value.data_type() != self.data_type {
            return 0;
        }
        self.present.insert(slot);
        match (&mut self.values, value) {
            (Values::Whole(index), Value::Int(number) | Value::Date(number)) => {
                index.insert(number, slot)
            }
            (Values::Whole(index), Value::IntArray(items) | Value::DateArray(items)) => {
                items.into_iter().map(|number| index.insert(number, slot)).sum()
            }
            (Values::Numbers(index), Value::Number(number)) => {
                index.insert(NumberKey::new(number), slot)
            }
            (Values::Numbers(index), Value::NumberArray(items)) => {
                items.into_iter().map(|number| index.insert(NumberKey::new(number), slot)).sum()
            }
            (Values::Booleans(index), Value::Boolean(truth)) => index.insert(truth, slot),
            (Values::Booleans(index), Value::BooleanArray(items)) => {
                items.into_iter().map(|truth| index.insert(truth, slot)).sum()
            }
            (Values::Uuids(index), Value::Uuid(id)) => index.insert(id, slot),
            (Values::Uuids(index), Value::UuidArray(items)) => {
                items.into_iter().map(|id| index.insert(id, slot)).sum()
            }
            (Values::Texts(index), Value::Text(text)) => index.insert(text, slot),
            (Values::Texts(index), Value::TextArray(items)) => {
                items.into_iter().map(|text| index.insert(text, slot)).sum()
            }
            _ => 0,
        }
    }

    /// Slots whose property has an element equal to a scalar.
    fn equal(&self, value: &Value) -> Bounds {
        match (&self.values, value) {
            (Values::Whole(index), Value::Int(number) | Value::Date(number)) => {
                Bounds::exact(index.equal(number))
            }
            (Values::Numbers(index), Value::Number(number)) => {
                Bounds::exact(index.equal(&NumberKey::new(*number)))
            }
            (Values::Booleans(index), Value::Boolean(truth)) => Bounds::exact(index.equal(truth)),
            (Values::Uuids(index), Value::Uuid(id)) => Bounds::exact(index.equal(id)),
            (Values::Texts(index), Value::Text(text)) => index.equal(text),
            _ => Bounds::default(),
        }
    }

    /// Answers one comparison; the operator fits the type (`validate::check_filter`).
    pub(super) fn evaluate(
        &self,
        operator: Operator,
        value: &Value,
        live: &RoaringBitmap,
    ) -> Bounds {
        match operator {
            Operator::Equal => self.equal(value),
            Operator::NotEqual => {
                let equal = self.equal(value);
                let sure = &self.present - &(&equal.sure | &equal.maybe);
                Bounds { sure, maybe: equal.maybe }
            }
            Operator::LessThan
            | Operator::LessThanEqual
            | Operator::GreaterThan
            | Operator::GreaterThanEqual => self.compare(operator, value),
            Operator::Like => match (&self.values, value) {
                (Values::Texts(index), Value::Text(pattern)) => {
                    index.like(&LikePattern::parse(pattern))
                }
                _ => Bounds::default(),
            },
            Operator::ContainsAny => any_of(scalars(value).iter().map(|scalar| self.equal(scalar))),
            Operator::ContainsAll => {
                all_of(scalars(value).iter().map(|scalar| self.equal(scalar)), live)
            }
            Operator::IsNull => {
                let is_null = *value == Value::Boolean(true);
                Bounds::exact(if is_null { live - &self.present } else { self.present.clone() })
            }
        }
    }

    fn compare(&self, operator: Operator, value: &Value) -> Bounds {
        match (&self.values, value) {
            (Values::Whole(index), Value::Int(number) | Value::Date(number)) => {
                Bounds::exact(index.compare(operator, number))
            }
            (Values::Numbers(index), Value::Number(number)) => {
                Bounds::exact(index.compare(operator, &NumberKey::new(*number)))
            }
            (Values::Texts(index), Value::Text(text)) => index.compare(operator, text),
            _ => Bounds::default(),
        }
    }
}

/// The union: one of them holds.
pub(super) fn any_of(parts: impl Iterator<Item = Bounds>) -> Bounds {
    let mut all = Bounds::default();
    for part in parts {
        all.sure |= part.sure;
        all.maybe |= part.maybe;
    }
    all.settle()
}

/// The intersection: all of them hold; all live slots when there are none.
pub(super) fn all_of(mut parts: impl Iterator<Item = Bounds>, live: &RoaringBitmap) -> Bounds {
    let Some(mut all) = parts.next() else { return Bounds::exact(live.clone()) };
    for part in parts {
        if all.maybe.is_empty() && part.maybe.is_empty() {
            all.sure &= part.sure;
            continue;
        }
        let possible = (&all.sure | &all.maybe) & (&part.sure | &part.maybe);
        all.sure &= part.sure;
        all.maybe = possible;
        all = all.settle();
    }
    all
}

/// The elements of an array as scalar values; a scalar is its own only element.
pub(super) fn scalars(value: &Value) -> Vec<Value> {
    match value {
        Value::TextArray(items) => items.iter().cloned().map(Value::Text).collect(),
        Value::IntArray(items) => items.iter().copied().map(Value::Int).collect(),
        Value::DateArray(items) => items.iter().copied().map(Value::Date).collect(),
        Value::NumberArray(items) => items.iter().copied().map(Value::Number).collect(),
        Value::BooleanArray(items) => items.iter().copied().map(Value::Boolean).collect(),
        Value::UuidArray(items) => items.iter().copied().map(Value::Uuid).collect(),
        scalar => vec![scalar.clone()],
    }
}
