//! Text -> slots. Long texts are kept by a prefix, so some answers need the stored text.

use std::ops::Bound;

use heddle_types::limits::INDEXED_TEXT_BYTES_MAX;
use heddle_types::{Operator, Slot};
use roaring::RoaringBitmap;

use super::like::LikePattern;
use super::ordered::Ordered;
use super::postings::Union;

/// Slots that hold for sure, and others that may.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Bounds {
    /// They hold.
    pub sure: RoaringBitmap,
    /// Undecided; no slot of `sure` is in it.
    pub maybe: RoaringBitmap,
}

impl Bounds {
    /// An answer without doubt.
    #[must_use]
    pub fn exact(sure: RoaringBitmap) -> Self {
        Self { sure, maybe: RoaringBitmap::new() }
    }

    /// Makes the two sets disjoint again.
    pub(super) fn settle(mut self) -> Self {
        self.maybe -= &self.sure;
        self
    }
}

/// Texts of one property: whole ones, and prefixes of those above [`INDEXED_TEXT_BYTES_MAX`].
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct TextIndex {
    pub(super) whole: Ordered<Box<str>>,
    /// Key: the longest prefix of at most [`INDEXED_TEXT_BYTES_MAX`] bytes; the text is longer.
    pub(super) cut: Ordered<Box<str>>,
}

/// How a text whose prefix alone is known compares with a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Yes,
    No,
    Open,
}

/// The part of a long text that the index keeps.
pub(super) fn kept_prefix(text: &str) -> &str {
    &text[..text.floor_char_boundary(INDEXED_TEXT_BYTES_MAX)]
}

impl TextIndex {
    /// Adds a slot to a text; returns the bytes by which memory grew, about.
    pub(super) fn insert(&mut self, text: String, slot: Slot) -> usize {
        if text.len() <= INDEXED_TEXT_BYTES_MAX {
            self.whole.insert(text.into_boxed_str(), slot)
        } else {
            self.cut.insert(kept_prefix(&text).into(), slot)
        }
    }

    /// Slots with an element equal to `text`.
    pub(super) fn equal(&self, text: &str) -> Bounds {
        if text.len() <= INDEXED_TEXT_BYTES_MAX {
            return Bounds::exact(self.whole.equal(&text.into()));
        }
        let maybe = self.cut.equal(&kept_prefix(text).into());
        Bounds { sure: RoaringBitmap::new(), maybe }
    }

    /// Slots with an element that compares with `text` as the operator says.
    pub(super) fn compare(&self, operator: Operator, text: &str) -> Bounds {
        let sure = self.whole.compare(operator, &text.into());
        let wants_less = matches!(operator, Operator::LessThan | Operator::LessThanEqual);
        let known = |prefix: &str| {
            if prefix.len() < text.len() && text.starts_with(prefix) {
                return Known::Open;
            }
            // Now either the prefixes differ, or `text` is within the prefix and so smaller.
            let is_less = prefix < text;
            if is_less == wants_less { Known::Yes } else { Known::No }
        };
        self.with_cut(sure, None, |_| true, known)
    }

    /// Slots with an element that matches the pattern.
    pub(super) fn like(&self, pattern: &LikePattern) -> Bounds {
        let prefix = pattern.literal_prefix();
        let start: Box<str> = prefix.as_str().into();
        let mut union = Union::default();
        for (text, postings) in self.whole.from(Bound::Included(&start)) {
            if !text.starts_with(&prefix) {
                break;
            }
            if pattern.matches(text) {
                union.add(postings);
            }
        }
        let prefix_decides = pattern.is_prefix_search();
        let known = |kept: &str| {
            if kept.starts_with(&prefix) {
                if prefix_decides { Known::Yes } else { Known::Open }
            } else if prefix.starts_with(kept) {
                Known::Open
            } else {
                Known::No
            }
        };
        let kept: Box<str> = kept_prefix(&prefix).into();
        let goes_on = |text: &str| text.starts_with(&*kept);
        self.with_cut(union.finish(), Some(kept.clone()), goes_on, known)
    }

    /// Adds what the cut texts from `start` on, while `goes_on`, have to say.
    fn with_cut(
        &self,
        sure: RoaringBitmap,
        start: Option<Box<str>>,
        goes_on: impl Fn(&str) -> bool,
        known: impl Fn(&str) -> Known,
    ) -> Bounds {
        let (mut yes, mut open) = (Union::default(), Union::default());
        let start = start.as_ref().map_or(Bound::Unbounded, Bound::Included);
        for (prefix, postings) in self.cut.from(start) {
            if !goes_on(prefix) {
                break;
            }
            match known(prefix) {
                Known::Yes => yes.add(postings),
                Known::Open => open.add(postings),
                Known::No => {}
            }
        }
        Bounds { sure: sure | yes.finish(), maybe: open.finish() }.settle()
    }
}
