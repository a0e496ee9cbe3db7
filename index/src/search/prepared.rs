//! A query in the form that distances are computed from.

use crate::Slot;
use crate::codes::{CodeQuery, Signs};
use crate::params::{Codes, Metric};
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
    /// The query as distances on codes need it.
    pub(crate) code: CodeQuery,
    /// The same against signs, once a scan has asked for it.
    sign: CodeQuery,
    has_sign: bool,
}

impl Prepared {
    /// The padded query, for the raw plane.
    #[inline]
    pub(crate) fn floats<'a>(&'a self, view: &'a VectorView) -> &'a [f32] {
        match self.stored {
            Some(slot) => view.planes.raw_row(slot),
            None => &self.padded,
        }
    }
}

impl Prepared {
    /// The query against the signs of rows; made at the first call. A query for pairs has none.
    pub(crate) fn signs(&mut self, signs: &Signs) -> &CodeQuery {
        if !self.has_sign {
            signs.prepare(&self.code, &mut self.sign);
            self.has_sign = true;
        }
        &self.sign
    }
}

impl VectorView {
    /// Makes a query of a client's vector, `[dims]`.
    pub(crate) fn prepare(&self, query: &[f32], out: &mut Prepared) {
        debug_assert_eq!(query.len(), self.params.dims as usize);
        out.stored = None;
        out.has_sign = false;
        let padded = &mut out.padded;
        padded.clear();
        padded.extend_from_slice(query);
        padded.resize(self.planes.stride, 0.0);
        if self.params.metric == Metric::Cosine {
            let norm = (-self.kernels.pair(padded, padded)).sqrt();
            if norm > 0.0 {
                padded.iter_mut().for_each(|x| *x /= norm);
            }
        }
        if let Some(codec) = &self.planes.codec {
            codec.prepare(&padded[..self.params.dims as usize], &mut out.code);
        }
    }

    /// Makes a query of the stored vector of a slot; the slot keeps it for as long as the query is
    /// used (it is published, and a pin or the writer holds it).
    #[inline]
    pub(crate) fn query_of(&self, slot: Slot, out: &mut Prepared) {
        out.stored = Some(slot);
        out.has_sign = false;
        let planes = &self.planes;
        let Some(codec) = &planes.codec else { return };
        if planes.has_raw() {
            codec.prepare(&planes.raw_row(slot)[..self.params.dims as usize], &mut out.code);
        } else {
            let (walk, factors) = (planes.walk_row(slot), planes.factor_row(slot));
            codec.prepare_row(walk, factors, planes.refine_row(slot), &mut out.code);
        }
    }

    /// The same for comparing stored vectors with each other, as they are on the plane of the walk:
    /// what choosing links needs, and much cheaper on codes.
    #[inline]
    pub(crate) fn pair_query_of(&self, slot: Slot, out: &mut Prepared) {
        if self.params.codes == Codes::OneBit {
            // Two rows of signs say too little of each other.
            return self.query_of(slot, out);
        }
        out.stored = Some(slot);
        out.has_sign = false;
        let planes = &self.planes;
        if let Some(codec) = &planes.codec {
            codec.prepare_pair(planes.walk_row(slot), planes.factor_row(slot), &mut out.code);
        }
    }

    /// Raw distance up to which another vector counts as equal to that of a slot: kernels add in
    /// different orders, and a query on codes is rounded.
    #[inline]
    pub(crate) fn equal_distance(&self, slot: Slot) -> f32 {
        let planes = &self.planes;
        if planes.codec.is_none() {
            let row = planes.raw_row(slot);
            let own = self.kernels.pair(row, row);
            return own + own.abs() * EQUAL_RATIO;
        }
        let noise = if self.params.codes == Codes::OneBit { NOISE_PLANES } else { NOISE_BYTES };
        let noise = noise / (self.params.dims as f32).sqrt();
        match self.params.metric {
            Metric::L2Squared => 2.0 * noise * planes.factor_row(slot)[1],
            Metric::Dot => planes.factor_row(slot)[1] * (noise - 1.0),
            Metric::Cosine | Metric::Manhattan | Metric::Hamming => noise - 1.0,
        }
    }
}

/// Relative difference up to which two raw distances count as that of equal vectors.
const EQUAL_RATIO: f32 = 1e-6;

/// Three spreads of what rounding a query to bytes does to a dot product with its own vector,
/// times the root of the dimension: components up to four spreads, in 127 steps, off by a uniform
/// half of a step.
const NOISE_BYTES: f32 = 3.0 * 4.0 / 127.0 * 0.289;

/// The same for queries in four bit planes, which have seven steps.
const NOISE_PLANES: f32 = 3.0 * 4.0 / 7.0 * 0.289;
