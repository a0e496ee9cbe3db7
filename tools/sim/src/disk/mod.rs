//! A disk in memory that loses, tears and fails as told.

mod image;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use heddle_meta::raft::Host;
use heddle_types::device::DeviceSpace;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode};

use crate::{Random, SimHost};
use image::{Entry, Image, InodeId, SECTOR_BYTES, parent_of};

pub use image::Crash;

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// With an IO error. A failed write may have written any part; a failed sync drops what it
    /// should have written, so that a later sync succeeds without it.
    Io,
    /// For lack of space.
    NoSpace,
    /// A write stops half way, a read finds fewer bytes than asked for; others as [`Fault::Io`].
    Short,
    /// The power goes: this operation and all later ones fail. What reached the disk is decided by
    /// [`SimDisk::crashed`].
    PowerCut,
}

/// A disk in memory; clones are handles of the same disk.
///
/// Every operation gives other tasks a chance to run before it takes effect.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Rc<RefCell<DiskState>>,
}

#[derive(Debug)]
struct DiskState {
    image: Image,
    random: Random,
    /// Most turns an operation waits before it takes effect.
    latency_turns_max: u64,
    /// Longest time that an operation takes in a simulation with virtual time.
    latency_us_max: u64,
    space_bytes: u64,
    operations: u64,
    changes: u64,
    syncs: u64,
    bytes_written: u64,
    bytes_read: u64,
    largest_read_bytes: usize,
    fault: Option<PlannedFault>,
    powered: bool,
}

#[derive(Clone, Copy, Debug)]
struct PlannedFault {
    count: Count,
    at: u64,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Count {
    Operations,
    Changes,
}

/// Is the operation one that changes the disk?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Read,
    Change,
}

impl SimDisk {
    /// An empty disk without a space limit, each operation of which waits one turn.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_image(Image::default(), seed)
    }

    fn with_image(image: Image, seed: u64) -> Self {
        let state = DiskState {
            image,
            random: Random::new(seed),
            latency_turns_max: 1,
            latency_us_max: 0,
            space_bytes: u64::MAX,
            operations: 0,
            changes: 0,
            syncs: 0,
            bytes_written: 0,
            bytes_read: 0,
            largest_read_bytes: 0,
            fault: None,
            powered: true,
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// The disk as it is found after a power cut now. This one goes on unchanged.
    #[must_use]
    pub fn crashed(&self, crash: Crash) -> Self {
        let state = self.state.borrow();
        let other = Self::with_image(state.image.after(crash), state.random.clone().next_u64());
        {
            let mut other_state = other.state.borrow_mut();
            other_state.latency_turns_max = state.latency_turns_max;
            other_state.latency_us_max = state.latency_us_max;
            other_state.space_bytes = state.space_bytes;
        }
        other
    }

    /// Changes of names and bytes that no sync has made durable yet: what [`Crash::Without`] and
    /// [`Crash::Torn`] choose from.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.state.borrow().image.unsynced()
    }

    /// Lets each operation wait a random number of turns, at most this many; 0 for none.
    pub fn set_latency_turns_max(&self, turns: u64) {
        self.state.borrow_mut().latency_turns_max = turns;
    }

    /// Lets changes of the disk take up to so many microseconds of virtual time; 0 for none. Needs
    /// [`SimHost::run`] unless it is 0.
    pub fn set_latency_us_max(&self, us: u64) {
        self.state.borrow_mut().latency_us_max = us;
    }

    /// Limits the bytes of all files; a limit below what is used refuses growth only.
    pub fn set_space_bytes(&self, bytes: u64) {
        self.state.borrow_mut().space_bytes = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.borrow().image.used_bytes()
    }

    /// Operations so far, reads included.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.borrow().operations
    }

    /// Operations so far that change the disk, syncs included.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state.borrow().changes
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.borrow().syncs
    }

    /// Bytes written to files so far, allocation not counted.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.state.borrow().bytes_written
    }

    /// Bytes read from files so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.state.borrow().bytes_read
    }

    /// The largest single read so far, bytes.
    #[must_use]
    pub fn largest_read_bytes(&self) -> usize {
        self.state.borrow().largest_read_bytes
    }

    /// Lets the operation number `at` fail (counted as [`SimDisk::operations`] does, from 1).
    pub fn fail_operation(&self, at: u64, fault: Fault) {
        self.state.borrow_mut().fault = Some(PlannedFault { count: Count::Operations, at, fault });
    }

    /// Lets the changing operation number `at` fail (counted as [`SimDisk::changes`] does, from 1).
    pub fn fail_change(&self, at: u64, fault: Fault) {
        self.state.borrow_mut().fault = Some(PlannedFault { count: Count::Changes, at, fault });
    }

    /// Paths of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let state = self.state.borrow();
        let names = state.image.names.iter();
        let files = names.filter(|(_, entry)| matches!(entry, Entry::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// The bytes of a file as a reader sees them; `None` when there is no such file.
    #[must_use]
    pub fn file_bytes(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let id = state.image.file(path)?;
        state.image.inodes.get(&id).map(|inode| inode.volatile.clone())
    }

    /// Puts a file there, durably, whatever stood there: for tests that damage or prepare one.
    pub fn plant_file(&self, path: &str, bytes: Vec<u8>) {
        self.state.borrow_mut().image.plant(path, bytes);
    }

    /// Gives back the blocks of a file from an offset on: it has a hole there, as a copy of it may
    /// have, and a write into the hole takes space again. Files are filled from the front.
    ///
    /// Panics: there is no such file.
    pub fn punch_hole(&self, path: &str, from: usize) {
        let mut state = self.state.borrow_mut();
        let id = state.image.file(path).expect("a file to make a hole in");
        state.image.inodes.get_mut(&id).expect("a named file has bytes").hole_from = Some(from);
    }

    /// Waits its turns, then counts the operation and says how it fails, if it does.
    async fn begin(
        &self,
        path: &str,
        operation: &'static str,
        effect: Effect,
    ) -> Result<Option<Fault>, DeviceError> {
        let (turns, us) = {
            let mut state = self.state.borrow_mut();
            let (most, us_most) = (state.latency_turns_max, state.latency_us_max);
            let turns = if most <= 1 { most } else { state.random.below(most + 1) };
            let takes_time = us_most > 0 && effect == Effect::Change;
            (turns, if takes_time { 1 + state.random.below(us_most) } else { 0 })
        };
        wait_turns(turns).await;
        if us > 0 {
            SimHost::sleep(Duration::from_micros(us)).await;
        }
        let mut state = self.state.borrow_mut();
        if !state.powered {
            return Err(io_error(path, operation));
        }
        state.operations += 1;
        state.changes += u64::from(effect == Effect::Change);
        let fault = state.due_fault(effect);
        if fault == Some(Fault::PowerCut) {
            state.powered = false;
        }
        Ok(fault)
    }

    /// For operations that either happen or fail without a trace.
    async fn begin_whole(
        &self,
        path: &str,
        operation: &'static str,
        effect: Effect,
    ) -> Result<(), DeviceError> {
        match self.begin(path, operation, effect).await? {
            None => Ok(()),
            Some(fault) => Err(error_of(fault, path, operation)),
        }
    }
}

impl DiskState {
    fn due_fault(&mut self, effect: Effect) -> Option<Fault> {
        let planned = self.fault?;
        let reached = match planned.count {
            Count::Operations => self.operations,
            Count::Changes if effect == Effect::Change => self.changes,
            Count::Changes => return None,
        };
        (reached == planned.at).then(|| {
            self.fault = None;
            planned.fault
        })
    }

    fn has_space_for(&self, id: InodeId, length: usize) -> bool {
        let current = self.image.inodes.get(&id).map_or(0, image::Inode::allocated_bytes);
        let growth = length.saturating_sub(current) as u64;
        growth == 0 || self.image.used_bytes() + growth <= self.space_bytes
    }
}

fn io_error(path: &str, operation: &'static str) -> DeviceError {
    DeviceError::Io {
        path: path.to_owned(),
        operation,
        os_code: Some(5),
        source_text: "simulated fault".to_owned(),
    }
}

fn error_of(fault: Fault, path: &str, operation: &'static str) -> DeviceError {
    match fault {
        Fault::NoSpace => DeviceError::NoSpace { path: path.to_owned() },
        Fault::Io | Fault::Short | Fault::PowerCut => io_error(path, operation),
    }
}

fn not_found(path: &str) -> DeviceError {
    DeviceError::NotFound { path: path.to_owned() }
}

fn wait_turns(turns: u64) -> impl Future<Output = ()> {
    let mut left = turns;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

impl Device for SimDisk {
    type File = SimFile;

    async fn open(&self, path: &str, mode: OpenMode) -> Result<SimFile, DeviceError> {
        let effect = if mode == OpenMode::CreateNew { Effect::Change } else { Effect::Read };
        self.begin_whole(path, "open", effect).await?;
        let mut state = self.state.borrow_mut();
        let id = match (state.image.file(path), mode) {
            (Some(_), OpenMode::CreateNew) => {
                return Err(DeviceError::Exists { path: path.to_owned() });
            }
            (Some(id), OpenMode::Read | OpenMode::Write) => id,
            (None, OpenMode::CreateNew) if state.image.is_directory(parent_of(path)) => {
                state.image.create_file(path)
            }
            (None, _) => return Err(not_found(path)),
        };
        let writable = mode != OpenMode::Read;
        Ok(SimFile { disk: self.clone(), id, path: Rc::from(path), writable })
    }

    async fn list(&self, path: &str) -> Result<Vec<String>, DeviceError> {
        self.begin_whole(path, "list", Effect::Read).await?;
        let state = self.state.borrow();
        if !state.image.is_directory(path) {
            return Err(not_found(path));
        }
        let names = state.image.names.keys().filter(|name| parent_of(name) == path);
        Ok(names.map(|name| name[parent_of(name).len()..].trim_start_matches('/').into()).collect())
    }

    async fn create_dir(&self, path: &str) -> Result<(), DeviceError> {
        self.begin_whole(path, "create_dir", Effect::Change).await?;
        self.state.borrow_mut().image.create_directory(path);
        Ok(())
    }

    async fn rename(&self, source: &str, target: &str) -> Result<(), DeviceError> {
        self.begin_whole(source, "rename", Effect::Change).await?;
        assert_eq!(parent_of(source), parent_of(target), "renames stay in one directory");
        let mut state = self.state.borrow_mut();
        let entry = state.image.names.get(source).copied().ok_or_else(|| not_found(source))?;
        state.image.rename(source, target, entry);
        Ok(())
    }

    async fn link(&self, source: &str, target: &str) -> Result<(), DeviceError> {
        self.begin_whole(source, "link", Effect::Change).await?;
        let mut state = self.state.borrow_mut();
        let id = state.image.file(source).ok_or_else(|| not_found(source))?;
        state.image.link(id, target);
        Ok(())
    }

    async fn remove(&self, path: &str) -> Result<(), DeviceError> {
        self.begin_whole(path, "remove", Effect::Change).await?;
        let mut state = self.state.borrow_mut();
        state.image.file(path).ok_or_else(|| not_found(path))?;
        state.image.remove(path);
        Ok(())
    }

    async fn remove_tree(&self, path: &str) -> Result<(), DeviceError> {
        self.begin_whole(path, "remove_tree", Effect::Change).await?;
        let mut state = self.state.borrow_mut();
        if state.image.is_directory(path) {
            let below = state.image.below(path);
            below.iter().rev().for_each(|name| state.image.remove(name));
            state.image.remove(path);
        }
        Ok(())
    }

    async fn sync_dir(&self, path: &str) -> Result<(), DeviceError> {
        self.begin_whole(path, "sync_dir", Effect::Change).await?;
        let mut state = self.state.borrow_mut();
        if !state.image.is_directory(path) {
            return Err(not_found(path));
        }
        state.image.sync_directory(path);
        Ok(())
    }

    async fn space(&self) -> Result<DeviceSpace, DeviceError> {
        self.begin_whole("", "space", Effect::Read).await?;
        let state = self.state.borrow();
        let used = state.image.used_bytes();
        let free_bytes = state.space_bytes.saturating_sub(used);
        Ok(DeviceSpace { total_bytes: state.space_bytes, free_bytes })
    }
}

/// An open file of a [`SimDisk`]; it outlives its name, as on Linux.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    id: InodeId,
    path: Rc<str>,
    writable: bool,
}

fn assert_pages(offset: u64, length: usize) {
    let offset_ok = offset.is_multiple_of(PAGE_SIZE_BYTES as u64);
    assert!(offset_ok && length.is_multiple_of(PAGE_SIZE_BYTES), "direct IO needs whole pages");
}

fn in_memory(number: u64) -> usize {
    usize::try_from(number).expect("a simulated file fits into memory")
}

impl DeviceFile for SimFile {
    async fn length(&self) -> Result<u64, DeviceError> {
        self.disk.begin_whole(&self.path, "length", Effect::Read).await?;
        Ok(self.disk.state.borrow().image.inodes[&self.id].volatile.len() as u64)
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<AlignedBuf, DeviceError> {
        assert_pages(offset, length);
        let fault = self.disk.begin(&self.path, "read", Effect::Read).await?;
        let mut state = self.disk.state.borrow_mut();
        state.bytes_read += length as u64;
        state.largest_read_bytes = state.largest_read_bytes.max(length);
        let bytes = &state.image.inodes[&self.id].volatile;
        let start = in_memory(offset).min(bytes.len());
        let end = (start + length).min(bytes.len());
        let short = |found| DeviceError::Short {
            path: self.path.to_string(),
            offset,
            expected: length,
            found,
        };
        match fault {
            Some(Fault::Short) => Err(short((end - start) / 2)),
            Some(fault) => Err(error_of(fault, &self.path, "read")),
            None if end - start < length => Err(short(end - start)),
            None => Ok(AlignedBuf::from_slice(&bytes[start..end])),
        }
    }

    async fn write_at(&self, offset: u64, buffer: AlignedBuf) -> Result<AlignedBuf, DeviceError> {
        assert!(self.writable, "{} was opened for reading", self.path);
        let pages = buffer.padded();
        assert_pages(offset, pages.len());
        let fault = self.disk.begin(&self.path, "write", Effect::Change).await?;
        let start = in_memory(offset);
        let mut state = self.disk.state.borrow_mut();
        if !state.has_space_for(self.id, start + pages.len()) || fault == Some(Fault::NoSpace) {
            return Err(DeviceError::NoSpace { path: self.path.to_string() });
        }
        let half = (pages.len() / 2).next_multiple_of(SECTOR_BYTES);
        let written = if fault == Some(Fault::Short) { &pages[..half] } else { pages };
        state.bytes_written += written.len() as u64;
        let inode = state.image.inodes.get_mut(&self.id).expect("an open file keeps its inode");
        inode.write(start, written);
        match fault {
            None => Ok(buffer),
            Some(fault) => Err(error_of(fault, &self.path, "write")),
        }
    }

    async fn sync(&self) -> Result<(), DeviceError> {
        let fault = self.disk.begin(&self.path, "sync", Effect::Change).await?;
        let mut state = self.disk.state.borrow_mut();
        state.syncs += 1;
        let inode = state.image.inodes.get_mut(&self.id).expect("an open file keeps its inode");
        match fault {
            None => {
                inode.sync();
                Ok(())
            }
            // With the power gone nobody syncs again: what was pending is still in flight.
            Some(Fault::PowerCut) => Err(error_of(Fault::PowerCut, &self.path, "sync")),
            Some(fault) => {
                inode.lose_pending();
                Err(error_of(fault, &self.path, "sync"))
            }
        }
    }

    async fn allocate(&self, length: u64) -> Result<(), DeviceError> {
        assert!(self.writable, "{} was opened for reading", self.path);
        assert_pages(length, 0);
        self.disk.begin_whole(&self.path, "allocate", Effect::Change).await?;
        let length = in_memory(length);
        let mut state = self.disk.state.borrow_mut();
        if !state.has_space_for(self.id, length) {
            return Err(DeviceError::NoSpace { path: self.path.to_string() });
        }
        let inode = state.image.inodes.get_mut(&self.id).expect("an open file keeps its inode");
        inode.allocate(length);
        Ok(())
    }

    async fn allocated_bytes(&self) -> Result<u64, DeviceError> {
        self.disk.begin_whole(&self.path, "allocated_bytes", Effect::Read).await?;
        Ok(self.disk.state.borrow().image.inodes[&self.id].allocated_bytes() as u64)
    }

    async fn close(self) -> Result<(), DeviceError> {
        Ok(())
    }
}
