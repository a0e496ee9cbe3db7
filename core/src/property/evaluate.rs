//! Filter -> slots.

use heddle_types::filter::PROPERTY_ID;
use heddle_types::{Filter, ObjectId, Operator, Slot, Value};
use roaring::RoaringBitmap;

use super::PropertyIndex;
use super::field::{all_of, any_of, scalars};
use super::text::Bounds;

impl PropertyIndex {
    /// The live slots that pass a filter. The filter has passed `validate::check_filter`.
    ///
    /// `slot_of` answers conditions on `_id`: the live slot of an object. Slots in `maybe` must be
    /// checked with [`super::matches()`] on their stored row; there are none unless the shard holds
    /// texts above `INDEXED_TEXT_BYTES_MAX` bytes. Cost: the values that the filter covers.
    #[must_use]
    pub fn evaluate(&self, filter: &Filter, slot_of: &dyn Fn(&ObjectId) -> Option<Slot>) -> Bounds {
        let mut bounds = self.node(filter, slot_of);
        bounds.sure &= &self.live;
        bounds.maybe &= &self.live;
        bounds
    }

    fn node(&self, filter: &Filter, slot_of: &dyn Fn(&ObjectId) -> Option<Slot>) -> Bounds {
        match filter {
            Filter::And(children) => {
                all_of(children.iter().map(|child| self.node(child, slot_of)), &self.live)
            }
            Filter::Or(children) => any_of(children.iter().map(|child| self.node(child, slot_of))),
            Filter::Not(child) => {
                let holds = self.node(child, slot_of);
                let sure = &self.live - &(&holds.sure | &holds.maybe);
                Bounds { sure, maybe: holds.maybe }
            }
            Filter::Compare { property, operator, value } if property == PROPERTY_ID => {
                Bounds::exact(self.by_id(*operator, value, slot_of))
            }
            Filter::Compare { property, operator, value } => {
                match self.fields.iter().find(|field| field.name == *property) {
                    Some(field) => field.evaluate(*operator, value, &self.live),
                    None => Bounds::default(),
                }
            }
        }
    }

    fn by_id(
        &self,
        operator: Operator,
        value: &Value,
        slot_of: &dyn Fn(&ObjectId) -> Option<Slot>,
    ) -> RoaringBitmap {
        let named = || -> Vec<Option<Slot>> {
            let ids = scalars(value).into_iter().filter_map(|scalar| match scalar {
                Value::Uuid(id) => Some(id),
                _ => None,
            });
            ids.map(|id| slot_of(&id)).collect()
        };
        match operator {
            Operator::Equal | Operator::ContainsAny => named().into_iter().flatten().collect(),
            Operator::NotEqual => {
                &self.live - &named().into_iter().flatten().collect::<RoaringBitmap>()
            }
            Operator::ContainsAll => {
                let mut slots = named();
                slots.dedup();
                match slots[..] {
                    [Some(slot)] => std::iter::once(slot).collect(),
                    _ => RoaringBitmap::new(),
                }
            }
            Operator::IsNull if *value == Value::Boolean(false) => self.live.clone(),
            _ => RoaringBitmap::new(),
        }
    }
}
