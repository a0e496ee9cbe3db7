//! Seeded data and an index under test, for the tests of this crate.

use std::sync::Arc;

use crate::distance::scalar;
use crate::view::mix;
use crate::{
    DirectoryWriter, Hit, IndexParams, LinkScratch, Metric, Quiescence, Scratch, SearchRequest,
    SearchStats, Slot, VectorWriter,
};

/// Reproducible numbers; the seed is printed so that a failure can be repeated.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Roughly normal: the sum of four uniforms.
    pub(crate) fn gauss(&mut self) -> f32 {
        (0..4).map(|_| (self.next() >> 40) as f32 / (1u32 << 24) as f32 - 0.5).sum()
    }

    /// `count` vectors around `clusters` centres (none: all around the origin).
    pub(crate) fn vectors(&mut self, count: usize, dims: usize, clusters: usize) -> Vec<Vec<f32>> {
        let point = |random: &mut Self, scale: f32| -> Vec<f32> {
            (0..dims).map(|_| random.gauss() * scale).collect()
        };
        let centres: Vec<_> = (0..clusters.max(1)).map(|_| point(self, 3.0)).collect();
        (0..count)
            .map(|_| {
                let centre = &centres[self.below(centres.len() as u64) as usize];
                let offset = point(self, 1.0);
                centre.iter().zip(offset).map(|(a, b)| a + b).collect()
            })
            .collect()
    }
}

/// The distance as users define it, from the scalar definitions alone.
pub(crate) fn definition(metric: Metric, left: &[f32], right: &[f32]) -> f32 {
    match metric {
        Metric::L2Squared => scalar::l2_squared(left, right),
        Metric::Dot => -scalar::dot(left, right),
        Metric::Manhattan => scalar::manhattan(left, right),
        Metric::Hamming => scalar::hamming(left, right),
        Metric::Cosine => {
            let norms = scalar::dot(left, left).sqrt() * scalar::dot(right, right).sqrt();
            1.0 - scalar::dot(left, right) / norms
        }
    }
}

/// A shard with one vector index.
pub(crate) struct Shard {
    pub(crate) directory: DirectoryWriter,
    pub(crate) writer: VectorWriter,
    pub(crate) quiescence: Arc<Quiescence>,
    pub(crate) scratch: Scratch,
    pub(crate) linking: LinkScratch,
    pub(crate) vectors: Vec<Option<Vec<f32>>>,
}

impl Shard {
    pub(crate) fn new(params: IndexParams) -> Self {
        let quiescence = Quiescence::new(2);
        Self {
            directory: DirectoryWriter::new(0, Arc::clone(&quiescence)).unwrap(),
            writer: VectorWriter::new(params).unwrap(),
            quiescence,
            scratch: Scratch::new(),
            linking: LinkScratch::new(),
            vectors: Vec::new(),
        }
    }

    pub(crate) fn with(params: IndexParams, vectors: &[Vec<f32>]) -> Self {
        let mut shard = Self::new(params);
        vectors.iter().for_each(|vector| {
            shard.store(vector);
        });
        shard.link_all(16);
        shard
    }

    pub(crate) fn store(&mut self, vector: &[f32]) -> Slot {
        let slot = self.directory.push([0; 16]).unwrap();
        self.writer.store(slot, vector).unwrap();
        self.directory.publish(slot);
        if self.vectors.len() <= slot as usize {
            self.vectors.resize(slot as usize + 1, None);
        }
        self.vectors[slot as usize] = Some(vector.to_vec());
        slot
    }

    /// Links until nothing waits, or what waits cannot be linked.
    pub(crate) fn link_all(&mut self, batch: usize) {
        let directory = self.directory.view();
        let backlog = |shard: &Self| shard.writer.backlog();
        loop {
            let before = backlog(self);
            self.writer.link_next(batch, &directory, &mut self.linking).unwrap();
            if backlog(self) == before {
                return;
            }
        }
    }

    pub(crate) fn kill(&mut self, slot: Slot) {
        self.directory.kill(slot);
        self.writer.kill(slot);
        self.vectors[slot as usize] = None;
    }

    /// Sweeps until nothing is dead; returns the freed slots.
    pub(crate) fn sweep(&mut self, budget: usize) -> Vec<Slot> {
        let mut freed = Vec::new();
        while self.writer.sweep_step(&self.directory.view(), budget, &mut freed)
            != crate::SweepState::Idle
        {}
        let epoch = self.quiescence.retire_epoch();
        freed.iter().for_each(|&slot| self.directory.free(slot, epoch));
        freed
    }

    pub(crate) fn search(
        &mut self,
        query: &[f32],
        request: SearchRequest<'_>,
    ) -> (Vec<Hit>, SearchStats) {
        let mut hits = Vec::new();
        let (view, directory) = (self.writer.view(), self.directory.view());
        let stats = view.search(&directory, query, request, &mut self.scratch, &mut hits);
        (hits, stats)
    }

    /// The true nearest among the live slots that pass.
    pub(crate) fn exact(&self, query: &[f32], k: usize, pass: impl Fn(Slot) -> bool) -> Vec<Hit> {
        let metric = self.writer.view().params().metric;
        let mut all: Vec<Hit> = self
            .vectors
            .iter()
            .zip(0..)
            .filter_map(|(vector, slot)| Some((vector.as_ref()?, slot)))
            .filter(|&(_, slot)| pass(slot))
            .map(|(vector, slot)| Hit { slot, distance: definition(metric, query, vector) })
            .collect();
        all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.slot.cmp(&b.slot)));
        all.truncate(k);
        all
    }

    /// Share of the true neighbours that the searches find, counting equal distances as equal.
    pub(crate) fn recall(&mut self, queries: &[Vec<f32>], request: SearchRequest<'_>) -> f64 {
        let (mut right, mut wanted) = (0, 0);
        for query in queries {
            let pass = |slot| request.filter.is_none_or(|filter| filter.contains(slot));
            let truth = self.exact(query, request.k as usize, pass);
            let (hits, _) = self.search(query, request);
            assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance));
            assert!(hits.iter().all(|hit| pass(hit.slot)));
            assert!(hits.iter().all(|hit| self.vectors[hit.slot as usize].is_some()));
            wanted += truth.len();
            let Some(farthest) = truth.last() else { continue };
            let limit = farthest.distance + farthest.distance.abs() * 1e-5 + 1e-6;
            right += hits.iter().filter(|hit| hit.distance <= limit).count().min(truth.len());
        }
        right as f64 / wanted.max(1) as f64
    }
}
