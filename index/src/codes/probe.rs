//! The kernels by themselves, for the benchmark suite.

use super::kernels;
use super::lines::FloatLines;
use super::{CodeQuery, CodeRows, Codec, CodecScratch, RefineRows};
use crate::arena::Arena;
use crate::distance::{self, Rows};
use crate::error::IndexError;
use crate::instruction_set::{InstructionSet, limit};
use crate::params::{Codes, Metric};

/// Rows of one kind in memory of their own, with every kernel that works on them.
///
/// The rows hold codes of a few vectors again and again: what a kernel costs depends on sizes and
/// places, not on values.
#[derive(Debug)]
pub struct KernelProbe {
    form: Form,
    rows: u32,
    walk: Arena,
    factors: Arena,
    refine: Arena,
    vectors: Vec<Vec<f32>>,
    out: Vec<f32>,
    scratch: CodecScratch,
    /// One walk row, its factors, one refine row.
    planes: (Vec<u8>, Vec<f32>, Vec<u8>),
}

/// What the rows are.
#[derive(Debug)]
enum Form {
    Floats { kernels: &'static distance::Kernels, stride: usize, query: FloatLines },
    Codes { codec: Box<Codec>, query: Box<CodeQuery> },
}

/// One piece of work that a probe repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeWork {
    /// Distances (estimates, for codes) to the rows of the slots.
    Many,
    /// The same, no more rows at a time than a kernel works on together: nothing is fetched ahead.
    OneBlock,
    /// Distances from both planes.
    Refine,
    /// Planes of a vector, rotation included.
    Encode,
    /// A query from a client's vector.
    Prepare,
    /// A query from a stored row.
    PrepareRow,
    /// The rotation alone.
    Rotate,
}

/// Rows that a kernel works on together.
const BLOCK: usize = 4;

impl KernelProbe {
    /// Names of the instruction sets that this process may use, best first.
    #[must_use]
    pub fn instruction_sets(codes: Codes) -> Vec<&'static str> {
        if codes == Codes::None {
            let sets = distance::available().iter().map(|table| table[0].set);
            return sets.filter(|&set| set <= limit()).map(InstructionSet::name).collect();
        }
        let sets = kernels::available().iter().map(|table| table.set);
        sets.filter(|&set| set <= limit()).map(InstructionSet::name).collect()
    }

    /// `rows` rows of `dims` components under a metric, on one instruction set.
    ///
    /// # Errors
    /// Memory is short. None when there is no such instruction set, or the metric has no such
    /// codes.
    pub fn new(
        codes: Codes,
        dims: usize,
        metric: Metric,
        instruction_set: &str,
        rows: u32,
    ) -> Result<Option<Self>, IndexError> {
        let vectors = samples(dims);
        let form = match Self::form(codes, dims, metric, instruction_set, &vectors[0]) {
            Some(form) => form,
            None => return Ok(None),
        };
        let (walk_bytes, factor_count, refine_bytes) = match &form {
            Form::Floats { stride, .. } => (4 * stride, 0, 0),
            Form::Codes { codec, .. } => {
                let layout = codec.layout();
                (layout.walk_row_bytes, layout.factor_count, layout.refine_row_bytes)
            }
        };
        let arena = |bytes: usize| -> Result<Arena, IndexError> {
            let arena = Arena::reserve(bytes * rows as usize, bytes * rows as usize)?;
            arena.commit(bytes * rows as usize)?;
            Ok(arena)
        };
        let mut probe = Self {
            form,
            rows,
            walk: arena(walk_bytes)?,
            factors: arena(4 * factor_count)?,
            refine: arena(refine_bytes)?,
            vectors,
            out: Vec::new(),
            scratch: CodecScratch::default(),
            planes: Default::default(),
        };
        probe.fill();
        Ok(Some(probe))
    }

    fn form(
        codes: Codes,
        dims: usize,
        metric: Metric,
        instruction_set: &str,
        query: &[f32],
    ) -> Option<Form> {
        if codes == Codes::None {
            let stride = dims.next_multiple_of(crate::limits::LANE_FLOATS);
            let mut padded = FloatLines::default();
            padded.resize(stride);
            padded.floats_mut()[..dims].copy_from_slice(query);
            let table =
                distance::available().iter().find(|t| t[0].set.name() == instruction_set)?;
            let kernels = distance::of_table(table, metric);
            return Some(Form::Floats { kernels, stride, query: padded });
        }
        let table =
            kernels::available().iter().find(|table| table.set.name() == instruction_set)?;
        let codec = Codec::with_kernels(codes, dims, metric, table)?;
        let mut prepared = CodeQuery::default();
        codec.prepare(query, &mut prepared);
        Some(Form::Codes { codec: Box::new(codec), query: Box::new(prepared) })
    }

    /// Writes the samples into every row.
    fn fill(&mut self) {
        let count = self.vectors.len();
        match &self.form {
            Form::Floats { stride, .. } => {
                for slot in 0..self.rows as usize {
                    self.walk.write_floats(slot * stride, &self.vectors[slot % count]);
                }
            }
            Form::Codes { codec, .. } => {
                let layout = *codec.layout();
                let (w, r) = (layout.walk_row_bytes, layout.refine_row_bytes);
                let planes: Vec<_> = self
                    .vectors
                    .iter()
                    .map(|vector| {
                        let (mut walk, mut refine) = (vec![0; w], vec![0; r]);
                        let mut factors = vec![0.0; layout.factor_count];
                        codec.encode(
                            vector,
                            &mut self.scratch,
                            &mut walk,
                            &mut factors,
                            &mut refine,
                        );
                        (walk, factors, refine)
                    })
                    .collect();
                for slot in 0..self.rows as usize {
                    let (walk, factors, refine) = &planes[slot % count];
                    self.walk.write_bytes(slot * w, walk);
                    self.factors.write_floats(slot * layout.factor_count, factors);
                    self.refine.write_bytes(slot * r, refine);
                }
            }
        }
    }

    /// Bytes that one distance reads.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        match &self.form {
            Form::Floats { stride, .. } => 4 * stride,
            Form::Codes { codec, .. } => codec.layout().walk_row_bytes,
        }
    }

    /// Does a piece of work once and returns a number that depends on its result. Work that floats
    /// do not know does nothing. Panics: a slot that has no row (a caller bug).
    pub fn run(&mut self, work: ProbeWork, slots: &[u32]) -> f32 {
        assert!(slots.iter().all(|&slot| slot < self.rows));
        self.out.resize(slots.len(), 0.0);
        match &self.form {
            Form::Floats { kernels, stride, query } => {
                let rows = Rows { base: self.walk.float_base(), stride: *stride };
                let step = match work {
                    ProbeWork::Many => slots.len().max(1),
                    ProbeWork::OneBlock => BLOCK,
                    _ => return 0.0,
                };
                for (slots, out) in slots.chunks(step).zip(self.out.chunks_mut(step)) {
                    // SAFETY: all slots have rows (asserted), written before.
                    unsafe { kernels.many(&query.floats()[..*stride], rows, slots, out) };
                }
            }
            Form::Codes { .. } => return self.run_codes(work, slots),
        }
        self.out.iter().sum()
    }

    fn run_codes(&mut self, work: ProbeWork, slots: &[u32]) -> f32 {
        let Form::Codes { codec, query } = &mut self.form else { return 0.0 };
        let layout = *codec.layout();
        let rows = CodeRows {
            base: self.walk.float_base().cast(),
            row_bytes: layout.walk_row_bytes,
            factors: self.factors.float_base(),
            factor_count: layout.factor_count,
        };
        let residuals = RefineRows {
            base: self.refine.float_base().cast(),
            row_bytes: layout.refine_row_bytes,
        };
        let vector =
            &self.vectors[slots.first().map_or(0, |&slot| slot as usize) % self.vectors.len()];
        self.planes.0.resize(layout.walk_row_bytes, 0);
        self.planes.1.resize(layout.factor_count, 0.0);
        self.planes.2.resize(layout.refine_row_bytes, 0);
        let (walk, factors, refine) = &mut self.planes;
        match work {
            // SAFETY: all slots have rows, asserted by the caller, written before.
            ProbeWork::Many => unsafe { codec.many(query, rows, slots, &mut self.out) },
            ProbeWork::OneBlock => {
                for (slots, out) in slots.chunks(BLOCK).zip(self.out.chunks_mut(BLOCK)) {
                    // SAFETY: as above.
                    unsafe { codec.many(query, rows, slots, out) };
                }
            }
            // SAFETY: as above.
            ProbeWork::Refine => unsafe {
                codec.refine(query, rows, residuals, slots, &mut self.out);
            },
            ProbeWork::Encode => {
                codec.encode(vector, &mut self.scratch, walk, factors, refine);
                return factors[0];
            }
            ProbeWork::Prepare => codec.prepare(vector, query),
            ProbeWork::PrepareRow => {
                let slot = slots.first().map_or(0, |&slot| slot as usize);
                self.walk.read_bytes(slot * walk.len(), walk);
                self.refine.read_bytes(slot * refine.len(), refine);
                let count = layout.factor_count;
                factors.copy_from_slice(self.factors.floats(slot * count, count));
                codec.prepare_row(walk, factors, refine, query);
            }
            ProbeWork::Rotate => return codec.rotate_once(&mut self.scratch),
        }
        self.out.iter().sum::<f32>() + query.scale
    }
}

/// A few vectors of unit length.
fn samples(dims: usize) -> Vec<Vec<f32>> {
    let mut state = 1;
    (0..16)
        .map(|_| {
            let mut vector: Vec<f32> = (0..dims)
                .map(|_| {
                    state = crate::view::mix(state);
                    (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
                })
                .collect();
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|x| *x /= length);
            vector
        })
        .collect()
}
