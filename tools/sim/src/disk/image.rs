//! What a disk holds: files with volatile and durable bytes, names with volatile and durable
//! entries, and what a power cut makes of them.

use std::collections::BTreeMap;

use crate::Random;

/// Unit in which a drive writes: a sector is old or new, never mixed.
pub(super) const SECTOR_BYTES: usize = 512;

/// What survives a power cut of everything that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Nothing.
    LoseUnsynced,
    /// Everything.
    KeepAll,
    /// Directory entries, but no file contents.
    KeepNames,
    /// File contents, but no directory entries.
    KeepData,
    /// Any subset of sectors, lengths and directory entries, by this seed.
    Random(u64),
    /// Everything but the unsynced effect of this number, below [`super::SimDisk::unsynced`].
    Without(usize),
    /// Everything, but of the unsynced effect of this number only every other sector.
    Torn(usize),
}

/// Decides item by item.
struct Judge {
    crash: Crash,
    random: Random,
}

impl Judge {
    fn new(crash: Crash) -> Self {
        let seed = if let Crash::Random(seed) = crash { seed } else { 0 };
        Self { crash, random: Random::new(seed) }
    }

    /// Does the change of a name of this number survive? A name is old or new, never torn.
    fn keeps_name(&mut self, effect: usize) -> bool {
        match self.crash {
            Crash::LoseUnsynced | Crash::KeepData => false,
            Crash::KeepAll | Crash::KeepNames | Crash::Torn(_) => true,
            Crash::Random(_) => self.random.one_in(2),
            Crash::Without(lost) => lost != effect,
        }
    }

    /// Does a sector of the change of bytes of this number survive?
    fn keeps_data(&mut self, effect: usize, sector: usize) -> bool {
        match self.crash {
            Crash::LoseUnsynced | Crash::KeepNames => false,
            Crash::KeepAll | Crash::KeepData => true,
            Crash::Random(_) => self.random.one_in(2),
            Crash::Without(lost) => lost != effect,
            Crash::Torn(torn) => torn != effect || sector.is_multiple_of(2),
        }
    }
}

/// A change of a file's bytes that no sync has made durable yet.
#[derive(Clone, Debug)]
enum Pending {
    /// Whole sectors at an offset.
    Bytes { offset: usize, bytes: Vec<u8> },
    /// Zeros, for allocation.
    Zeros { offset: usize, length: usize },
    /// The file became this long.
    Length(usize),
}

#[derive(Clone, Default, Debug)]
pub(super) struct Inode {
    pub(super) volatile: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// From here on the file has no blocks.
    pub(super) hole_from: Option<usize>,
}

impl Inode {
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        let (pending, hole_from) = (Vec::new(), None);
        Self { volatile: bytes.clone(), durable: bytes, pending, hole_from }
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        self.hole_from.map_or(self.volatile.len(), |from| from.min(self.volatile.len()))
    }

    fn grow(&mut self, length: usize) {
        if length > self.volatile.len() {
            self.volatile.resize(length, 0);
            self.pending.push(Pending::Length(length));
        }
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.grow(offset + bytes.len());
        self.volatile[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.hole_from = self.hole_from.map(|from| from.max(offset + bytes.len()));
        self.pending.push(Pending::Bytes { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn allocate(&mut self, length: usize) {
        self.grow(length);
        self.volatile[..length].fill(0);
        self.hole_from = None;
        self.pending.push(Pending::Zeros { offset: 0, length });
    }

    pub(super) fn sync(&mut self) {
        // Not a copy of what readers see: what a failed sync dropped stays lost.
        let durable = std::mem::take(&mut self.durable);
        self.durable = self.apply_pending(durable, 0, &mut Judge::new(Crash::KeepAll));
        self.pending.clear();
    }

    /// A sync that failed: the kernel drops the dirty pages, so a later sync has nothing to write.
    pub(super) fn lose_pending(&mut self) {
        self.pending.clear();
    }

    /// The bytes after a power cut; `first` is the number of this file's first unsynced effect.
    fn after(&self, first: usize, judge: &mut Judge) -> Vec<u8> {
        self.apply_pending(self.durable.clone(), first, judge)
    }

    fn apply_pending(&self, mut bytes: Vec<u8>, first: usize, judge: &mut Judge) -> Vec<u8> {
        for (effect, pending) in (first..).zip(&self.pending) {
            match pending {
                Pending::Length(length) if judge.keeps_data(effect, 0) => {
                    bytes.resize(bytes.len().max(*length), 0);
                }
                Pending::Length(_) => {}
                Pending::Bytes { offset, bytes: written } => {
                    for (index, sector) in written.chunks(SECTOR_BYTES).enumerate() {
                        if judge.keeps_data(effect, index) {
                            put(&mut bytes, offset + index * SECTOR_BYTES, sector);
                        }
                    }
                }
                Pending::Zeros { offset, length } => {
                    let starts = (*offset..offset + length).step_by(SECTOR_BYTES);
                    for (index, start) in starts.enumerate() {
                        let sector = SECTOR_BYTES.min(offset + length - start);
                        if judge.keeps_data(effect, index) {
                            put(&mut bytes, start, &[0; SECTOR_BYTES][..sector]);
                        }
                    }
                }
            }
        }
        bytes
    }
}

// Bytes beyond a length that was lost are lost with it.
fn put(bytes: &mut [u8], offset: usize, sector: &[u8]) {
    let end = bytes.len().min(offset + sector.len());
    if offset < end {
        bytes[offset..end].copy_from_slice(&sector[..end - offset]);
    }
}

pub(super) type InodeId = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    Directory,
    File(InodeId),
}

/// A change of names that no directory sync has made durable yet.
#[derive(Clone, Debug)]
enum NameChange {
    Add { path: String, entry: Entry },
    Remove { path: String },
    Rename { source: String, target: String, entry: Entry },
}

impl NameChange {
    fn path(&self) -> &str {
        match self {
            Self::Add { path, .. } | Self::Remove { path } | Self::Rename { target: path, .. } => {
                path
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        match self {
            Self::Add { path, entry } => {
                names.insert(path.clone(), *entry);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
            Self::Rename { source, target, entry } => {
                names.remove(source);
                names.insert(target.clone(), *entry);
                if *entry == Entry::Directory {
                    // What is below a directory goes along with it.
                    let prefix = format!("{source}/");
                    let below: Vec<String> =
                        names.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
                    for name in below {
                        let moved = format!("{target}/{}", &name[prefix.len()..]);
                        let entry = names.remove(&name);
                        names.extend(entry.map(|entry| (moved, entry)));
                    }
                }
            }
        }
    }
}

/// The directory part of a path; the root is the empty path.
pub(super) fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// All files and names of a disk.
#[derive(Clone, Default, Debug)]
pub(super) struct Image {
    pub(super) names: BTreeMap<String, Entry>,
    durable_names: BTreeMap<String, Entry>,
    changes: Vec<NameChange>,
    pub(super) inodes: BTreeMap<InodeId, Inode>,
    inode_next: InodeId,
}

impl Image {
    pub(super) fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.names.get(path) == Some(&Entry::Directory)
    }

    pub(super) fn file(&self, path: &str) -> Option<InodeId> {
        match self.names.get(path) {
            Some(Entry::File(id)) => Some(*id),
            Some(Entry::Directory) | None => None,
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    pub(super) fn create_file(&mut self, path: &str) -> InodeId {
        let id = self.inode_next;
        self.inode_next += 1;
        self.inodes.insert(id, Inode::default());
        self.change(NameChange::Add { path: path.to_owned(), entry: Entry::File(id) });
        id
    }

    pub(super) fn create_directory(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for directory in ends.map(|end| &path[..end]).filter(|directory| !directory.is_empty()) {
            if !self.is_directory(directory) {
                let path = directory.to_owned();
                self.change(NameChange::Add { path, entry: Entry::Directory });
            }
        }
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.change(NameChange::Remove { path: path.to_owned() });
    }

    pub(super) fn below(&self, path: &str) -> Vec<String> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let names = self.names.keys().filter(|name| name.starts_with(&prefix));
        names.cloned().collect()
    }

    pub(super) fn link(&mut self, id: InodeId, target: &str) {
        self.change(NameChange::Add { path: target.to_owned(), entry: Entry::File(id) });
    }

    pub(super) fn rename(&mut self, source: &str, target: &str, entry: Entry) {
        let (source, target) = (source.to_owned(), target.to_owned());
        self.change(NameChange::Rename { source, target, entry });
    }

    pub(super) fn sync_directory(&mut self, path: &str) {
        let (synced, open) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change| parent_of(change.path()) == path);
        self.changes = open;
        let synced: Vec<NameChange> = synced;
        synced.iter().for_each(|change| change.apply(&mut self.durable_names));
    }

    /// Bytes of all named files.
    pub(super) fn used_bytes(&self) -> u64 {
        let files = self.names.values().filter_map(|entry| match entry {
            Entry::File(id) => self.inodes.get(id),
            Entry::Directory => None,
        });
        files.map(|inode| inode.allocated_bytes() as u64).sum()
    }

    /// Changes of names and bytes that no sync has made durable yet.
    pub(super) fn unsynced(&self) -> usize {
        let pending = self.inodes.values().map(|inode| inode.pending.len());
        self.changes.len() + pending.sum::<usize>()
    }

    /// What a power cut leaves.
    pub(super) fn after(&self, crash: Crash) -> Self {
        let mut judge = Judge::new(crash);
        let mut names = self.durable_names.clone();
        for (effect, change) in self.changes.iter().enumerate() {
            if judge.keeps_name(effect) {
                change.apply(&mut names);
            }
        }
        // Names below a directory that was lost are lost with it; ascending order sees parents
        // before children.
        let mut kept: BTreeMap<String, Entry> = BTreeMap::new();
        for (path, entry) in names {
            let parent = parent_of(&path);
            if parent.is_empty() || kept.get(parent) == Some(&Entry::Directory) {
                kept.insert(path, entry);
            }
        }
        let is_kept = |id: &InodeId| kept.values().any(|entry| *entry == Entry::File(*id));
        let mut inodes = BTreeMap::new();
        let mut effect = self.changes.len();
        for (id, inode) in &self.inodes {
            if is_kept(id) {
                inodes.insert(*id, Inode::durable(inode.after(effect, &mut judge)));
            }
            effect += inode.pending.len();
        }
        Self {
            names: kept.clone(),
            durable_names: kept,
            changes: Vec::new(),
            inodes,
            inode_next: self.inode_next,
        }
    }

    /// Puts a file there, durably, for tests that prepare or damage one.
    pub(super) fn plant(&mut self, path: &str, bytes: Vec<u8>) {
        self.create_directory(parent_of(path));
        let id = match self.file(path) {
            Some(id) => id,
            None => self.create_file(path),
        };
        self.inodes.insert(id, Inode::durable(bytes));
        let changes = std::mem::take(&mut self.changes);
        changes.iter().for_each(|change| change.apply(&mut self.durable_names));
    }
}
