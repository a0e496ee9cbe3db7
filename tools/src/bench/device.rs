//! What a disk does by itself with the writes of a log: direct writes into preallocated files, each
//! followed by fdatasync.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use heddle_types::AlignedBuf;
use rustix::fs::{Mode, OFlags};

/// Bytes of a file that is written round and round, as a log segment is.
const FILE_BYTES: u64 = 64 << 20;
const STEP_BYTES: usize = 1 << 20;

/// Who syncs when several logs share a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Syncing {
    /// Each log its own file.
    Each,
    /// All write, then one of them syncs for all.
    Elected,
}

/// Batches of `batch_bytes` that `logs` logs on one disk make durable a second, all together.
pub(crate) fn batches_per_s(
    folder: &Path,
    batch_bytes: usize,
    logs: usize,
    syncing: Syncing,
    time: Duration,
) -> io::Result<f64> {
    let files = (0..logs).map(|log| prepared(folder, log)).collect::<io::Result<Vec<File>>>()?;
    let barrier = Barrier::new(logs);
    let start = Instant::now();
    let counts: Vec<io::Result<u64>> = std::thread::scope(|scope| {
        let writers: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(log, file)| {
                let barrier = &barrier;
                scope.spawn(move || match syncing {
                    Syncing::Each => write_alone(file, batch_bytes, start + time),
                    Syncing::Elected => write_together(file, batch_bytes, time, log, barrier),
                })
            })
            .collect();
        let joined = writers.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|count| count.unwrap_or_else(|_| Err(io::Error::other("it panicked")))).collect()
    });
    let elapsed = start.elapsed();
    let total = counts.into_iter().sum::<io::Result<u64>>()?;
    for log in 0..logs {
        std::fs::remove_file(path_of(folder, log))?;
    }
    Ok(total as f64 / elapsed.as_secs_f64())
}

/// Bytes a second of large direct writes with one sync at the end.
pub(crate) fn bytes_per_s(folder: &Path, time: Duration) -> io::Result<f64> {
    let file = prepared(folder, 0)?;
    let buffer = AlignedBuf::zeroed(STEP_BYTES);
    let start = Instant::now();
    let mut written = 0;
    while start.elapsed() < time {
        file.write_all_at(buffer.padded(), written % FILE_BYTES)?;
        written += STEP_BYTES as u64;
    }
    file.sync_data()?;
    let rate = written as f64 / start.elapsed().as_secs_f64();
    std::fs::remove_file(path_of(folder, 0))?;
    Ok(rate)
}

fn path_of(folder: &Path, log: usize) -> PathBuf {
    folder.join(format!("device-{log}"))
}

/// A file whose blocks are all written, opened for direct writes.
fn prepared(folder: &Path, log: usize) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(path_of(folder, log), flags, Mode::RUSR | Mode::WUSR)?;
    let file = File::from(file);
    let zeros = AlignedBuf::zeroed(STEP_BYTES);
    for offset in (0..FILE_BYTES).step_by(STEP_BYTES) {
        file.write_all_at(zeros.padded(), offset)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Offsets of batches, one behind the other and round again.
fn place(count: u64, batch_bytes: usize) -> u64 {
    let batch = batch_bytes.next_multiple_of(4096) as u64;
    (count % (FILE_BYTES / batch)) * batch
}

fn write_alone(file: &File, batch_bytes: usize, end: Instant) -> io::Result<u64> {
    let buffer = AlignedBuf::from_slice(&vec![7; batch_bytes]);
    let mut count = 0;
    while Instant::now() < end {
        file.write_all_at(buffer.padded(), place(count, batch_bytes))?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count)
}

/// In lockstep with the other logs, so that all stop after the same batch.
fn write_together(
    file: &File,
    batch_bytes: usize,
    time: Duration,
    log: usize,
    barrier: &Barrier,
) -> io::Result<u64> {
    let buffer = AlignedBuf::from_slice(&vec![7; batch_bytes]);
    let start = Instant::now();
    let mut count = 0;
    let mut failure = None;
    loop {
        if let Err(error) = file.write_all_at(buffer.padded(), place(count, batch_bytes)) {
            failure.get_or_insert(error);
        }
        if barrier.wait().is_leader() && failure.is_none() {
            // Direct writes of the others are in the drive; its flush covers them all.
            failure = file.sync_data().err();
        }
        barrier.wait();
        count += 1;
        // A fixed share of the clock, read once in so many rounds, must not part the logs.
        let is_over = log == 0 && start.elapsed() >= time;
        if agreed(barrier, is_over) {
            return failure.map_or(Ok(count), Err);
        }
    }
}

/// Does log 0 say that the time is over? All logs hear the same answer.
fn agreed(barrier: &Barrier, is_over: bool) -> bool {
    static IS_OVER: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    if is_over {
        IS_OVER.store(true, order);
    }
    barrier.wait();
    let answer = IS_OVER.load(order);
    if barrier.wait().is_leader() {
        IS_OVER.store(false, order);
    }
    barrier.wait();
    answer
}
