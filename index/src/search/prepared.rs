//! A query in the form that distances are computed from.

use crate::Slot;
use crate::params::Metric;
use crate::view::VectorView;

/// A query against one index: a client's vector, or a stored one.
///
/// Reusable; made by [`VectorView::prepare`] or [`VectorView::query_of`] and good for views of the
/// same index alone. Distances to it come from `Walker::evaluate`.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// A client's vector, padded to the stride of the index; of unit length under cosine.
    padded: Vec<f32>,
    /// The stored vector that is the query; its row is read in place.
    stored: Option<Slot>,
}

impl Prepared {
    /// The padded query.
    #[inline]
    pub(crate) fn floats<'a>(&'a self, view: &'a VectorView) -> &'a [f32] {
        match self.stored {
            Some(slot) => view.row(slot),
            None => &self.padded,
        }
    }
}

impl VectorView {
    /// Makes a query of a client's vector, `[dims]`.
    pub(crate) fn prepare(&self, query: &[f32], out: &mut Prepared) {
        debug_assert_eq!(query.len(), self.params.dims as usize);
        out.stored = None;
        let padded = &mut out.padded;
        padded.clear();
        padded.extend_from_slice(query);
        padded.resize(self.layout.stride, 0.0);
        if self.params.metric == Metric::Cosine {
            let norm = (-self.kernels.pair(padded, padded)).sqrt();
            if norm > 0.0 {
                padded.iter_mut().for_each(|x| *x /= norm);
            }
        }
    }

    /// Makes a query of the stored vector of a slot; the slot keeps it for as long as the query is
    /// used (it is published, and a pin or the writer holds it).
    #[inline]
    pub(crate) fn query_of(&self, slot: Slot, out: &mut Prepared) {
        out.stored = Some(slot);
    }

    /// Raw distance of the stored vector of a slot to itself: zero under a difference, the negated
    /// squared length under a product.
    #[inline]
    pub(crate) fn own_distance(&self, slot: Slot) -> f32 {
        let row = self.row(slot);
        self.kernels.pair(row, row)
    }
}
