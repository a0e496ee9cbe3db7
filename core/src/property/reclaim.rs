//! Removing the entries of dead slots, so that the slots can be used again.

use heddle_types::ObjectId;
use roaring::RoaringBitmap;

use super::PropertyIndex;
use super::field::Values;
use super::ordered::NumberKey;

/// Where a pass over all values goes on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ReclaimCursor {
    field: usize,
    after: After,
}

/// The value after which the current property goes on.
#[derive(Clone, PartialEq, Debug, Default)]
enum After {
    #[default]
    Start,
    Whole(i64),
    Number(NumberKey),
    Boolean(bool),
    Uuid(ObjectId),
    Text(Box<str>),
    /// Whole texts are done; the cut ones go on after this prefix, if there is one.
    CutText(Option<Box<str>>),
}

impl PropertyIndex {
    /// Removes dead slots from at most `keys_max` values. True: call again with the same slots.
    ///
    /// No slot may be live, and none may be inserted again until the pass is done.
    /// Cost: one set difference for each value visited.
    pub fn reclaim_step(
        &mut self,
        slots: &RoaringBitmap,
        cursor: &mut ReclaimCursor,
        keys_max: usize,
    ) -> bool {
        let Some(field) = self.fields.get_mut(cursor.field) else { return false };
        if cursor.after == After::Start {
            field.present -= slots;
        }
        let (next, freed) =
            reclaim_values(&mut field.values, slots, cursor.after.clone(), keys_max);
        self.memory_bytes = self.memory_bytes.saturating_sub(freed);
        match next {
            Some(after) => cursor.after = after,
            None => *cursor = ReclaimCursor { field: cursor.field + 1, after: After::Start },
        }
        cursor.field < self.fields.len()
    }
}

fn reclaim_values(
    values: &mut Values,
    slots: &RoaringBitmap,
    after: After,
    keys_max: usize,
) -> (Option<After>, usize) {
    macro_rules! step {
        ($index:expr, $variant:ident) => {{
            let start = match after {
                After::$variant(key) => Some(key),
                _ => None,
            };
            let (next, freed) = $index.subtract(slots, start, keys_max);
            (next.map(After::$variant), freed)
        }};
    }
    match values {
        Values::Whole(index) => step!(index, Whole),
        Values::Numbers(index) => step!(index, Number),
        Values::Booleans(index) => step!(index, Boolean),
        Values::Uuids(index) => step!(index, Uuid),
        Values::Texts(index) => {
            if let After::CutText(start) = after {
                let (next, freed) = index.cut.subtract(slots, start, keys_max);
                return (next.map(|key| After::CutText(Some(key))), freed);
            }
            let (next, freed) = step!(index.whole, Text);
            (next.or(Some(After::CutText(None))), freed)
        }
        Values::Nothing => (None, 0),
    }
}
