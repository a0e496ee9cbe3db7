//! The state machine that openraft applies the log to: the cluster's state with its snapshots.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use futures::lock::Mutex;
use futures::{Stream, StreamExt};
use heddle_types::Device;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use super::Host;
use super::snapshot::{self, SnapshotError, StoredSnapshot};
use super::types::{
    Entry, Leader, LogId, Member, Payload, RaftTypes, Response, SnapshotMeta, StoredMembership,
};
use crate::cluster::ClusterState;

/// A snapshot as openraft moves it: the encoded state.
type MovedSnapshot = Snapshot<Leader, heddle_types::NodeId, Member, Vec<u8>>;

/// The cluster's state on one node.
///
/// It lives in memory; the disk has the log and the last snapshot. A start reads the snapshot, and
/// openraft applies the log behind it, so a crash loses nothing that was committed. Clones are
/// handles of the same state.
#[derive(Debug)]
pub struct ClusterMachine<D: Device> {
    shared: Rc<Shared<D>>,
}

#[derive(Debug)]
struct Shared<D> {
    device: D,
    directory: String,
    applied: RefCell<Applied>,
    // Held while a snapshot is written: a newer one never loses its place to an older one.
    snapshot: Mutex<Option<StoredSnapshot>>,
}

#[derive(Clone, Debug, Default)]
struct Applied {
    state: ClusterState,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl<D: Device> Clone for ClusterMachine<D> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<D: Device> ClusterMachine<D> {
    /// Opens the state machine of a directory that exists, with the state of its snapshot, or empty
    /// when there is none.
    ///
    /// Errors: damage, a newer format, or the disk.
    pub async fn open(device: D, directory: &str) -> Result<Self, SnapshotError> {
        let (stored, applied) = match snapshot::read(&device, directory).await? {
            None => (None, Applied::default()),
            Some((stored, state)) => {
                let applied = applied_by(&stored.meta, state);
                (Some(stored), applied)
            }
        };
        let shared = Shared {
            device,
            directory: directory.to_owned(),
            applied: RefCell::new(applied),
            snapshot: Mutex::new(stored),
        };
        Ok(Self { shared: Rc::new(shared) })
    }

    /// The state as far as this node has applied the log: it may be behind the leader's.
    ///
    /// Cost: a copy of the state; definitions are shared.
    #[must_use]
    pub fn state(&self) -> ClusterState {
        self.shared.applied.borrow().state.clone()
    }

    /// Looks at the state without copying it.
    pub fn with_state<T>(&self, look: impl FnOnce(&ClusterState) -> T) -> T {
        look(&self.shared.applied.borrow().state)
    }
}

fn applied_by(meta: &SnapshotMeta, state: ClusterState) -> Applied {
    Applied { state, last: meta.last_log_id, membership: meta.last_membership.clone() }
}

impl Applied {
    fn apply(&mut self, entry: &Entry) -> Response {
        self.last = Some(entry.log_id);
        match &entry.payload {
            Payload::Blank => Response::Nothing,
            Payload::Normal(request) => match self.state.apply(request) {
                Ok(outcome) => Response::Done(outcome),
                Err(error) => Response::Refused(error),
            },
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Response::Nothing
            }
        }
    }
}

impl<D: Device> Shared<D> {
    /// Makes a snapshot durable and the current one, unless there is a newer one.
    ///
    /// Returns the current one.
    async fn keep(&self, new: StoredSnapshot) -> Result<StoredSnapshot, SnapshotError> {
        let mut current = self.snapshot.lock().await;
        let newer = current.as_ref().filter(|old| old.meta.last_log_id > new.meta.last_log_id);
        if let Some(newer) = newer {
            return Ok(newer.clone());
        }
        snapshot::write(&self.device, &self.directory, &new).await?;
        *current = Some(new.clone());
        Ok(new)
    }
}

fn moved(stored: StoredSnapshot) -> MovedSnapshot {
    Snapshot { meta: stored.meta, snapshot: stored.state }
}

impl<H: Host, D: Device> RaftStateMachine<RaftTypes<H>> for ClusterMachine<D> {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = SnapshotBuilder<D>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.shared.applied.borrow();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<RaftTypes<H>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let response = self.shared.applied.borrow_mut().apply(&entry);
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<D> {
        let applied = self.shared.applied.borrow().clone();
        SnapshotBuilder { shared: Rc::clone(&self.shared), applied }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        let state = ClusterState::decode(&snapshot).map_err(SnapshotError::from)?;
        let new = StoredSnapshot { meta: meta.clone(), state: snapshot };
        self.shared.keep(new).await?;
        self.shared.applied.replace(applied_by(meta, state));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<MovedSnapshot>, io::Error> {
        Ok(self.shared.snapshot.lock().await.clone().map(moved))
    }
}

/// Writes a snapshot of the state as it was when this was made.
#[derive(Debug)]
pub struct SnapshotBuilder<D: Device> {
    shared: Rc<Shared<D>>,
    applied: Applied,
}

impl<H: Host, D: Device> RaftSnapshotBuilder<RaftTypes<H>> for SnapshotBuilder<D> {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<MovedSnapshot, io::Error> {
        let Applied { state, last, membership } = &self.applied;
        let meta = SnapshotMeta { last_log_id: *last, last_membership: membership.clone() };
        let state = state.encode().map_err(SnapshotError::from)?;
        Ok(moved(self.shared.keep(StoredSnapshot { meta, state }).await?))
    }
}
