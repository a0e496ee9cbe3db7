//! Linking with many threads: every batch is searched and pruned by all, and committed by one.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use heddle_index::{
    Choice, LinkBatch, LinkRows, LinkScratch, PrunedRows, SlotDirectory, VectorWriter,
};

use super::Failure;

/// Members a thread takes at a time: few, so that all threads end together.
const MEMBERS_PIECE: usize = 2;
/// Targets a thread takes at a time: one costs a hundredth of a member's search.
const TARGETS_PIECE: usize = 32;

/// What linking cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    /// Wall clock of searching and choosing, on all threads.
    pub(crate) choose_seconds: f64,
    /// Wall clock of choosing full rows anew, on all threads.
    pub(crate) prune_seconds: f64,
    /// Wall clock of what one thread does alone.
    pub(crate) commit_seconds: f64,
    /// Distances computed.
    pub(crate) evaluations: u64,
}

/// What is to be done for the batch at hand.
enum Stage {
    Choose(LinkBatch),
    Prune(LinkRows),
}

/// A stage shared by all threads; each takes the next piece until none is left.
struct Job {
    stage: Stage,
    next: AtomicUsize,
}

/// What a thread made of its pieces.
#[derive(Default)]
struct Share {
    choices: Vec<Choice>,
    /// With the first target of the piece.
    pruned: Vec<(usize, PrunedRows)>,
}

impl Job {
    fn new(stage: Stage) -> Self {
        Self { stage, next: AtomicUsize::new(0) }
    }

    fn take(&self, size: usize, end: usize) -> Option<Range<usize>> {
        let start = self.next.fetch_add(size, Ordering::Relaxed);
        (start < end).then(|| start..end.min(start + size))
    }

    fn work(&self, directory: &SlotDirectory, scratch: &mut LinkScratch) -> Share {
        let mut share = Share::default();
        match &self.stage {
            Stage::Choose(batch) => {
                while let Some(piece) = self.take(MEMBERS_PIECE, batch.len()) {
                    let found = piece.map(|member| batch.find(directory, member, scratch));
                    share.choices.extend(found);
                }
            }
            Stage::Prune(rows) => {
                while let Some(piece) = self.take(TARGETS_PIECE, rows.target_count()) {
                    let start = piece.start;
                    share.pruned.push((start, rows.prune(directory, piece, scratch)));
                }
            }
        }
        share
    }
}

/// The threads that help, and the home's own working memory.
struct Crew<'a> {
    directory: &'a SlotDirectory,
    helpers: Vec<(Sender<Arc<Job>>, Receiver<Share>)>,
    scratch: LinkScratch,
    phases: Phases,
}

/// Links all that waits, `batch` slots at a time.
pub(crate) fn link_all(
    writer: &mut VectorWriter,
    directory: &SlotDirectory,
    threads: usize,
    batch: usize,
) -> Result<Phases, Failure> {
    std::thread::scope(|scope| {
        let mut helpers = Vec::new();
        for _ in 1..threads {
            let (work, inbox) = channel::<Arc<Job>>();
            let (outbox, done) = channel();
            scope.spawn(move || {
                let mut scratch = LinkScratch::new();
                while let Ok(job) = inbox.recv() {
                    let share = job.work(directory, &mut scratch);
                    // Before the answer: whoever has all answers takes the job apart.
                    drop(job);
                    if outbox.send(share).is_err() {
                        return;
                    }
                }
            });
            helpers.push((work, done));
        }
        let scratch = LinkScratch::new();
        let mut crew = Crew { directory, helpers, scratch, phases: Phases::default() };
        while let Some(batch) = writer.begin_batch(batch.max(1)) {
            crew.link(writer, batch)?;
        }
        Ok(crew.phases)
    })
}

impl Crew<'_> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    fn link(&mut self, writer: &mut VectorWriter, batch: LinkBatch) -> Result<(), Failure> {
        let started = Instant::now();
        let (stage, shares) = self.run(Stage::Choose(batch))?;
        let Stage::Choose(batch) = stage else { return Err("the job changed its stage".into()) };
        let chosen = Instant::now();
        let rows = batch.gather(shares.into_iter().flat_map(|share| share.choices).collect());
        self.phases.evaluations += rows.evaluations();
        self.phases.commit_seconds += chosen.elapsed().as_secs_f64();
        let gathered = Instant::now();
        let (stage, shares) = self.run(Stage::Prune(rows))?;
        let Stage::Prune(rows) = stage else { return Err("the job changed its stage".into()) };
        let pruning_ended = Instant::now();
        let mut pruned: Vec<_> = shares.into_iter().flat_map(|share| share.pruned).collect();
        pruned.sort_unstable_by_key(|(start, _)| *start);
        let pruned: Vec<_> = pruned.into_iter().map(|(_, rows)| rows).collect();
        self.phases.evaluations += pruned.iter().map(PrunedRows::evaluations).sum::<u64>();
        if writer.commit_batch(&rows, &pruned, self.directory)? == 0 {
            return Err("no member of a batch could be linked".into());
        }
        self.phases.choose_seconds += (chosen - started).as_secs_f64();
        self.phases.prune_seconds += (pruning_ended - gathered).as_secs_f64();
        self.phases.commit_seconds += pruning_ended.elapsed().as_secs_f64();
        Ok(())
    }

    /// Has all threads work on a stage; returns it with what they made.
    fn run(&mut self, stage: Stage) -> Result<(Stage, Vec<Share>), Failure> {
        let job = Arc::new(Job::new(stage));
        for (work, _) in &self.helpers {
            work.send(Arc::clone(&job))?;
        }
        let mut shares = vec![job.work(self.directory, &mut self.scratch)];
        for (_, done) in &self.helpers {
            shares.push(done.recv()?);
        }
        let job = Arc::into_inner(job).ok_or("a helper kept the job")?;
        Ok((job.stage, shares))
    }
}
