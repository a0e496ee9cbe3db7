//! What a node leaves behind when it is down.

use std::cell::Cell;
use std::rc::Rc;

use heddle_types::NodeId;

use super::bugs::Bug;
use super::engine::{EngineDisk, SimEngine};
use super::hints::HintLog;
use super::model::{ModelDisk, ModelStore};
use super::store::ReplicaStore;
use super::time::NodeClock;

/// What holds the replicas of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A model of the engine: quick, and with bugs when told so.
    Model,
    /// The engine itself on a simulated disk.
    Engine,
}

/// A disk with an identity.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) identity: NodeId,
    pub(crate) hints: Rc<HintLog>,
    disk: Disk,
    boot: Rc<Cell<u32>>,
}

#[derive(Clone)]
enum Disk {
    Model(Rc<ModelDisk>),
    Engine(Rc<EngineDisk>),
}

/// An opened disk; an engine has a log that somebody must run.
pub(crate) type Opened = (Rc<dyn ReplicaStore>, Option<SimEngine>);

impl Storage {
    pub(crate) fn new(identity: NodeId, seed: u64, mode: Mode, shards: u64) -> Self {
        let hints = Rc::new(HintLog::default());
        let disk = match mode {
            Mode::Model => Disk::Model(ModelDisk::new(seed)),
            Mode::Engine => Disk::Engine(EngineDisk::new(seed, shards)),
        };
        Self { identity, hints, disk, boot: Rc::default() }
    }

    /// Opens the disk; none when it fails on the way.
    pub(crate) async fn open(&self, clock: NodeClock, bug: Option<Bug>) -> Option<Opened> {
        let boot = self.boot.get() + 1;
        self.boot.set(boot);
        match &self.disk {
            Disk::Model(disk) => {
                let disk = Rc::clone(disk);
                let store = ModelStore::open(disk, clock, self.identity, boot, bug);
                Some((Rc::new(store), None))
            }
            Disk::Engine(disk) => {
                let store = disk.open(clock, self.identity).await.ok()?;
                let engine = store.engine.clone();
                Some((store, Some(engine)))
            }
        }
    }

    pub(crate) fn crash(&self, is_torn: bool) {
        match &self.disk {
            Disk::Model(disk) => disk.crash(is_torn),
            Disk::Engine(disk) => disk.crash(is_torn),
        }
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        match &self.disk {
            Disk::Model(disk) => disk.is_full.set(is_full),
            Disk::Engine(disk) => disk.set_full(is_full),
        }
    }

    pub(crate) fn set_slow(&self, is_slow: bool) {
        match &self.disk {
            Disk::Model(disk) => disk.is_slow.set(is_slow),
            Disk::Engine(disk) => disk.set_slow(is_slow),
        }
    }

    /// A write or a sync fails before long.
    pub(crate) fn fail_soon(&self) {
        match &self.disk {
            Disk::Model(disk) => disk.is_failing.set(true),
            Disk::Engine(disk) => disk.fail_soon(),
        }
    }

    /// Nothing fails from now on.
    pub(crate) fn heal(&self) {
        self.set_full(false);
        self.set_slow(false);
        match &self.disk {
            Disk::Model(disk) => disk.is_failing.set(false),
            Disk::Engine(disk) => disk.heal(),
        }
    }
}
