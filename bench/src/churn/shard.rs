//! An index with its directory, as a home core keeps them: rows come and go, dead slots are swept
//! and used again.

use std::sync::Arc;
use std::time::Instant;

use heddle_index::{
    DirectoryWriter, Hit, IndexParams, LinkScratch, Quiescence, Reader, Scratch, SearchRequest,
    SearchStats, Slot, SweepState, VectorWriter,
};
use serde::Serialize;

use crate::index::Failure;
use crate::index::measure::thread_cpu_ns;

/// Dead slots below which nothing is swept.
const DEAD_SLOTS_MIN: u32 = 256;
/// A sweep begins when one slot in so many is dead.
const DEAD_SLOT_RATIO: u32 = 32;
/// Work of one sweep step, in distances.
const SWEEP_STEP: usize = 1_024;

/// The longest steps of the sweep.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Slowest {
    pub(super) evaluations: u64,
    pub(super) max_us: f64,
    pub(super) p99_us: f64,
}

/// Rows of a table that are in an index or not.
pub(super) struct Shard<'a> {
    pub(super) writer: VectorWriter,
    directory: DirectoryWriter,
    quiescence: Arc<Quiescence>,
    reader: Reader,
    rows: &'a [f32],
    dims: usize,
    batch: usize,
    random: u64,
    /// Slot of each row that is in, and row of each slot.
    slot_of: Vec<Option<Slot>>,
    row_of: Vec<usize>,
    scratch: Scratch,
    linking: LinkScratch,
    hits: Vec<Hit>,
    steps_us: Vec<f64>,
    pub(super) replaced: usize,
    pub(super) searches: u64,
    pub(super) insert_seconds: f64,
    pub(super) sweep_seconds: f64,
    pub(super) sweep_evaluations: u64,
    pub(super) slowest: Slowest,
}

impl<'a> Shard<'a> {
    pub(super) fn new(
        params: IndexParams,
        rows: &'a [f32],
        batch: usize,
        seed: u64,
    ) -> Result<Self, Failure> {
        let quiescence = Quiescence::new(1);
        let dims = params.dims as usize;
        Ok(Self {
            writer: VectorWriter::new(params)?,
            directory: DirectoryWriter::new(0, Arc::clone(&quiescence))?,
            reader: quiescence.reader(0),
            quiescence,
            rows,
            dims,
            batch: batch.max(1),
            random: seed,
            slot_of: vec![None; rows.len() / dims],
            row_of: Vec::new(),
            scratch: Scratch::new(),
            linking: LinkScratch::new(),
            hits: Vec::new(),
            steps_us: Vec::new(),
            replaced: 0,
            searches: 0,
            insert_seconds: 0.0,
            sweep_seconds: 0.0,
            sweep_evaluations: 0,
            slowest: Slowest::default(),
        })
    }

    /// Forgets the figures of the first filling.
    pub(super) fn begin_measuring(&mut self) {
        self.insert_seconds = 0.0;
    }

    /// Rows that are in, ascending.
    pub(super) fn members(&self) -> Vec<usize> {
        let rows = self.slot_of.iter().enumerate();
        rows.filter(|(_, slot)| slot.is_some()).map(|(row, _)| row).collect()
    }

    /// Some rows that are in, in random order.
    pub(super) fn any_members(&mut self, count: usize) -> Vec<usize> {
        let members = self.members();
        self.draw(members, count)
    }

    /// Some rows that are not in, in random order; rows that are in when the table is too short.
    pub(super) fn any_others(&mut self, count: usize) -> Vec<usize> {
        let others = (0..self.slot_of.len()).filter(|&row| self.slot_of[row].is_none()).collect();
        self.draw(others, count)
    }

    /// The rows nearest to a random one that is in.
    pub(super) fn region(&mut self, count: usize) -> Vec<usize> {
        let centre = self.any_members(1)[0];
        let query = &self.rows[centre * self.dims..][..self.dims];
        self.found(query, count as u32, count as u32).0
    }

    fn draw(&mut self, mut from: Vec<usize>, count: usize) -> Vec<usize> {
        let count = count.min(from.len());
        for place in 0..count {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let rest = (from.len() - place) as u64;
            from.swap(place, place + (self.random % rest) as usize);
        }
        from.truncate(count);
        from
    }

    /// Stores a row; it waits to be linked.
    pub(super) fn insert(&mut self, row: usize) -> Result<(), Failure> {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&(row as u64).to_be_bytes());
        let slot = self.directory.push(id)?;
        self.writer.store(slot, &self.rows[row * self.dims..][..self.dims])?;
        self.directory.publish(slot);
        self.slot_of[row] = Some(slot);
        self.row_of.resize(self.row_of.len().max(slot as usize + 1), 0);
        self.row_of[slot as usize] = row;
        Ok(())
    }

    /// Kills some rows, stores others, links them, and sweeps when enough is dead.
    pub(super) fn exchange(&mut self, leaving: &[usize], coming: &[usize]) -> Result<(), Failure> {
        for &row in leaving {
            let slot = self.slot_of[row].take().ok_or("a row leaves that is not in")?;
            self.directory.kill(slot);
            self.writer.kill(slot);
        }
        for &row in coming {
            self.insert(row)?;
        }
        self.replaced += coming.len();
        self.link()?;
        let view = self.directory.view();
        if view.dead_count() >= DEAD_SLOTS_MIN.max(view.published() / DEAD_SLOT_RATIO) {
            self.sweep()?;
        }
        Ok(())
    }

    /// Links everything that waits.
    pub(super) fn link(&mut self) -> Result<(), Failure> {
        let before = thread_cpu_ns();
        let directory = self.directory.view();
        let _pin = self.reader.pin();
        while self.writer.backlog() > 0 {
            if self.writer.link_next(self.batch, &directory, &mut self.linking)? == 0 {
                return Err("nothing of a batch could be linked".into());
            }
        }
        self.insert_seconds += thread_cpu_ns().saturating_sub(before) as f64 / 1e9;
        Ok(())
    }

    /// Sweeps until nothing is dead.
    pub(super) fn sweep_all(&mut self) -> Result<(), Failure> {
        while self.directory.view().dead_count() > 0 {
            self.sweep()?;
        }
        let count = self.steps_us.len();
        self.steps_us.sort_by(f64::total_cmp);
        let at = |share: f64| self.steps_us.get((count as f64 * share) as usize).copied();
        self.slowest.p99_us = at(0.99).unwrap_or_default();
        self.slowest.max_us = self.steps_us.last().copied().unwrap_or_default();
        Ok(())
    }

    /// One pass of the sweep; what it frees may be used again at once, since nobody reads.
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    fn sweep(&mut self) -> Result<(), Failure> {
        let before = thread_cpu_ns();
        let mut freed = Vec::new();
        loop {
            let work = self.writer.sweep_evaluations();
            let started = Instant::now();
            let directory = self.directory.view();
            let state = self.writer.sweep_step(&directory, SWEEP_STEP, &mut freed);
            self.steps_us.push(started.elapsed().as_secs_f64() * 1e6);
            let work = self.writer.sweep_evaluations() - work;
            self.slowest.evaluations = self.slowest.evaluations.max(work);
            self.sweep_evaluations += work;
            match state {
                SweepState::Running => {}
                SweepState::Finished => break,
                SweepState::Idle if freed.is_empty() => return Err("a dead slot stays".into()),
                SweepState::Idle => break,
            }
        }
        self.sweep_seconds += thread_cpu_ns().saturating_sub(before) as f64 / 1e9;
        let epoch = self.quiescence.retire_epoch();
        freed.iter().for_each(|&slot| self.directory.free(slot, epoch));
        // Nodes that a pass found cut off wait to be linked again.
        self.link()
    }

    pub(super) fn search(&mut self, query: &[f32], k: u32, ef: u32) -> SearchStats {
        self.searches += 1;
        let (view, directory) = (self.writer.view(), self.directory.view());
        let _pin = self.reader.pin();
        let request = SearchRequest::new(k, ef);
        view.search(&directory, query, request, &mut self.scratch, &mut self.hits)
    }

    /// Rows of the hits of a search.
    pub(super) fn found(&mut self, query: &[f32], k: u32, ef: u32) -> (Vec<usize>, SearchStats) {
        let stats = self.search(query, k, ef);
        (self.hits.iter().map(|hit| self.row_of[hit.slot as usize]).collect(), stats)
    }
}
