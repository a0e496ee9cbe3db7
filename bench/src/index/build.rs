//! Building: all threads search for candidates against a frozen graph, one links in order.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use heddle_bench::vectors::VectorFile;
use heddle_index::{
    Candidates, DirectoryWriter, IndexParams, Quiescence, Scratch, Slot, SlotDirectory, VectorView,
    VectorWriter,
};

use super::Failure;

/// A finished index.
pub(crate) struct Built {
    pub(crate) writer: VectorWriter,
    pub(crate) directory: Arc<SlotDirectory>,
    pub(crate) seconds: f64,
    pub(crate) link_seconds: f64,
}

/// Candidates of the slots of a batch that one thread handles.
struct Part {
    view: Option<Arc<VectorView>>,
    slots: Vec<Slot>,
    found: Vec<Candidates>,
}

/// Makes the directory of a restored index: every slot is live.
pub(crate) fn publish_all(directory: &mut DirectoryWriter, slots: u32) -> Result<(), Failure> {
    for row in 0..slots {
        let slot = directory.push(id_of(row))?;
        directory.publish(slot);
    }
    Ok(())
}

/// The id of a row: its number in the last eight bytes.
fn id_of(row: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&u64::from(row).to_be_bytes());
    id
}

/// Rows read from the file at a time.
const READ_ROWS: usize = 4_096;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn build(
    base: &VectorFile,
    rows: usize,
    params: IndexParams,
    threads: usize,
    batch: usize,
) -> Result<Built, Failure> {
    let mut directory = DirectoryWriter::new(0, Quiescence::new(threads))?;
    let mut writer = VectorWriter::new(params)?;
    let mut piece = Vec::new();
    let mut seconds = 0.0;
    for first in (0..rows).step_by(READ_ROWS) {
        base.read_rows(first, READ_ROWS.min(rows - first), &mut piece)?;
        let started = Instant::now();
        for row in piece.chunks_exact(base.dims()) {
            let slot = directory.push(id_of(directory.view().published()))?;
            writer.store(slot, row)?;
            directory.publish(slot);
        }
        seconds += started.elapsed().as_secs_f64();
    }
    let directory = directory.view();
    let started = Instant::now();
    let link_seconds = link_all(&mut writer, &directory, threads, batch.max(1))?;
    seconds += started.elapsed().as_secs_f64();
    Ok(Built { writer, directory, seconds, link_seconds })
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn link_all(
    writer: &mut VectorWriter,
    directory: &SlotDirectory,
    threads: usize,
    batch: usize,
) -> Result<f64, Failure> {
    let mut link_seconds = 0.0;
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 1..threads {
            let (work, inbox) = channel();
            let (outbox, done) = channel();
            scope.spawn(move || serve(&inbox, &outbox, directory));
            workers.push((work, done));
        }
        let mut scratch = Scratch::new();
        let mut parts: Vec<Part> = (0..threads).map(|_| Part::new()).collect();
        let mut slots = Vec::new();
        loop {
            slots.clear();
            writer.next_unlinked(&mut slots, batch);
            if slots.is_empty() {
                return Ok(link_seconds);
            }
            for (index, part) in parts.iter_mut().enumerate() {
                part.slots.clear();
                part.slots.extend(slots.iter().skip(index).step_by(threads));
                part.view = Some(writer.view());
            }
            for (index, (work, _)) in workers.iter().enumerate() {
                work.send(core::mem::replace(&mut parts[index + 1], Part::new()))?;
            }
            parts[0].search(directory, &mut scratch);
            for (index, (_, done)) in workers.iter().enumerate() {
                parts[index + 1] = done.recv()?;
            }
            let started = Instant::now();
            for (position, &slot) in slots.iter().enumerate() {
                let found = &parts[position % threads].found[position / threads];
                writer.try_link(slot, found, directory)?;
            }
            link_seconds += started.elapsed().as_secs_f64();
        }
    })
}

/// A worker: takes parts until the sender is gone.
fn serve(inbox: &Receiver<Part>, outbox: &Sender<Part>, directory: &SlotDirectory) {
    let mut scratch = Scratch::new();
    while let Ok(mut part) = inbox.recv() {
        part.search(directory, &mut scratch);
        if outbox.send(part).is_err() {
            return;
        }
    }
}

impl Part {
    fn new() -> Self {
        Self { view: None, slots: Vec::new(), found: Vec::new() }
    }

    fn search(&mut self, directory: &SlotDirectory, scratch: &mut Scratch) {
        let Some(view) = self.view.take() else { return };
        self.found.resize_with(self.slots.len().max(self.found.len()), Candidates::new);
        for (&slot, found) in self.slots.iter().zip(&mut self.found) {
            view.candidates(directory, slot, scratch, found);
        }
    }
}
