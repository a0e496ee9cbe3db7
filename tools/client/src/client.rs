//! The handle on a cluster.

use std::sync::Arc;
use std::time::Duration;

use heddle_types::{ApiError, CollectionConfig, Epoch, ErrorCode};
use heddle_wire::message::{
    BackupBeginReply, BackupBeginRequest, BackupEndRequest, BackupReadReply, BackupReadRequest,
    CollectionCreateReply, CollectionCreateRequest, CollectionDropReply, CollectionDropRequest,
    CollectionEntry, CollectionListReply, CollectionListRequest, CollectionShowReply,
    CollectionShowRequest, NodeChangeReply, NodeChangeRequest, NodeFate, NodeStatusReply,
    NodeStatusRequest,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::call::{CallOptions, Reply, Route, Sendable, Shared};
use crate::collection::Collection;
use crate::error::ClientError;
use crate::limits::DEADLINE_DEFAULT;
use crate::topology::{CollectionRoute, Topology};

/// How a client behaves unless a handle says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// How long a call waits for its reply, all attempts together.
    pub deadline: Duration,
    /// Send a put or delete again when its outcome is unknown. Repeating them does no harm unless
    /// another writer changes the same object at the same moment.
    pub retry_writes: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { deadline: DEADLINE_DEFAULT, retry_writes: false }
    }
}

/// What a backup does about shards that are damaged and not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DamagedShards {
    /// It is refused with their names.
    #[default]
    Refuse,
    /// It goes on without them; its manifest says which are missing.
    LeaveOut,
}

/// A handle on a cluster; clones share connections and topology.
///
/// Needs a tokio runtime with IO and time enabled.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    options: CallOptions,
}

impl Client {
    /// Connects through the first of `addresses` (`host:port`) that answers.
    ///
    /// Errors: none answered; the error of the last one.
    pub async fn connect<I>(addresses: I) -> Result<Self, ClientError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::connect_with(addresses, ClientOptions::default()).await
    }

    /// Connects with other options.
    ///
    /// Errors: as [`Client::connect`].
    pub async fn connect_with<I>(addresses: I, options: ClientOptions) -> Result<Self, ClientError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let seeds: Vec<String> = addresses.into_iter().map(Into::into).collect();
        if seeds.is_empty() {
            return Err(ClientError::argument("no address to connect to", "host:port"));
        }
        let ClientOptions { deadline, retry_writes } = options;
        let options = CallOptions { deadline, retry_writes };
        let client = Self { shared: Arc::new(Shared::new(seeds)), options };
        client.refresh_topology().await?;
        Ok(client)
    }

    /// A handle whose calls wait this long.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { options: CallOptions { deadline, ..self.options }, ..self.clone() }
    }

    /// A handle that sends puts and deletes again when their outcome is unknown.
    #[must_use]
    pub fn retrying_writes(&self) -> Self {
        Self { options: CallOptions { retry_writes: true, ..self.options }, ..self.clone() }
    }

    /// The topology as last fetched.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.shared.topology()
    }

    /// Fetches the topology.
    ///
    /// Errors: no address answered.
    pub async fn refresh_topology(&self) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.options.deadline;
        self.shared.refresh(&self.shared.topology(), deadline).await
    }

    /// Creates a collection and returns its definition with every default filled in.
    ///
    /// Errors: `CollectionExists` and what is wrong with the definition.
    pub async fn create_collection(
        &self,
        config: &CollectionConfig,
    ) -> Result<CollectionConfig, ClientError> {
        let definition = serde_json::to_string(config).map_err(|error| {
            ClientError::argument(format!("definition: {error}"), "a definition that is JSON")
        })?;
        let reply = self.call(CollectionCreateRequest { definition }).await?;
        let created: CollectionCreateReply = reply.decode()?;
        self.refresh_after_change(created.epoch).await;
        config_of(&reply, &created.collection)
    }

    /// Every collection, by name.
    ///
    /// Errors: those of any call.
    pub async fn collections(&self) -> Result<Vec<CollectionConfig>, ClientError> {
        let reply = self.call(CollectionListRequest::default()).await?;
        let list: CollectionListReply = reply.decode()?;
        list.collections.iter().map(|entry| config_of(&reply, entry)).collect()
    }

    /// The definition of one collection.
    ///
    /// Errors: `UnknownCollection`.
    pub async fn collection_config(&self, name: &str) -> Result<CollectionConfig, ClientError> {
        let reply = self.call(CollectionShowRequest { name: name.to_owned() }).await?;
        config_of(&reply, &reply.decode::<CollectionShowReply>()?.collection)
    }

    /// Drops a collection and everything in it.
    ///
    /// Errors: `UnknownCollection`.
    pub async fn drop_collection(&self, name: &str) -> Result<(), ClientError> {
        let reply = self.call(CollectionDropRequest { name: name.to_owned() }).await?;
        let dropped: CollectionDropReply = reply.decode()?;
        self.refresh_after_change(dropped.epoch).await;
        Ok(())
    }

    /// Fetches the topology after a change that is done. When that fails the change is done all the
    /// same, and the next call that needs the new topology fetches it.
    async fn refresh_after_change(&self, epoch: u64) {
        // Another node may not know of the change yet.
        self.shared.announce(epoch);
        let _ = self.refresh_topology().await;
    }

    /// A handle on a collection. Whether it exists shows when the handle is used.
    #[must_use]
    pub fn collection(&self, name: impl Into<String>) -> Collection {
        Collection::new(self.clone(), name.into())
    }

    /// The status report of a node, a JSON object.
    ///
    /// Errors: those of any call.
    pub async fn status(&self) -> Result<serde_json::Value, ClientError> {
        let reply = self.call(NodeStatusRequest::default()).await?;
        let status: NodeStatusReply = reply.decode()?;
        parsed(&status.json, &reply, "status report")
    }

    /// Changes what part a node has in the cluster, by its name or identity; returns the epoch that
    /// this makes.
    ///
    /// Errors: those of any call; `InvalidArgument` for a node that is not there or cannot go yet,
    /// `Unsupported` from a node that is alone. Not repeated by itself.
    pub async fn change_node(&self, node: &str, fate: NodeFate) -> Result<Epoch, ClientError> {
        let reply = self.call(NodeChangeRequest::new(node.to_owned(), fate)).await?;
        Ok(Epoch(reply.decode::<NodeChangeReply>()?.epoch))
    }

    /// Lets the node take a backup: its identity, and the bytes of its manifest, the file
    /// `MANIFEST` of it, which names all others.
    ///
    /// The files wait on the node until [`Client::end_backup`], its next start, or until nobody has
    /// read of them for a while. Errors: those of any call; `Corrupt` when shards are damaged and
    /// not to be left out, `DiskFull` when the disk is nearly full. A deadline that is too short
    /// for images of all shards leaves a backup behind. Not repeated by itself.
    pub async fn begin_backup(&self, damaged: DamagedShards) -> Result<(Uuid, u64), ClientError> {
        let damaged = match damaged {
            DamagedShards::Refuse => 0,
            DamagedShards::LeaveOut => 1,
        };
        let reply = self.call(BackupBeginRequest { damaged }).await?;
        let begun: BackupBeginReply = reply.decode()?;
        let invalid = |message| reply.invalid(heddle_wire::MessageError::Layout { message });
        let id = Uuid::from_slice(&begun.backup).map_err(|_short| invalid("backup id"))?;
        let description: serde_json::Value = parsed(&begun.json, &reply, "backup description")?;
        let bytes = description["manifest_bytes"].as_u64();
        Ok((id, bytes.ok_or_else(|| invalid("bytes of the manifest"))?))
    }

    /// Reads up to `length` bytes (at most 4 MiB) of a file of a backup; fewer at its end.
    ///
    /// Errors: those of any call; `InvalidArgument` for a file or backup that is not there.
    pub async fn read_backup(
        &self,
        backup: Uuid,
        name: &str,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, ClientError> {
        let (backup, name) = (backup.as_bytes().to_vec(), name.to_owned());
        let reply = self.call(BackupReadRequest { backup, name, offset, length }).await?;
        let read: BackupReadReply = reply.decode()?;
        Ok(read.bytes)
    }

    /// Gives a backup up; its files on the node go.
    ///
    /// Errors: those of any call.
    pub async fn end_backup(&self, backup: Uuid) -> Result<(), ClientError> {
        self.call(BackupEndRequest { backup: backup.as_bytes().to_vec() }).await.map(drop)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) async fn call<M: Sendable>(&self, message: M) -> Result<Reply, ClientError> {
        self.send(Route::Told, message).await
    }

    pub(crate) async fn send<M: Sendable>(
        &self,
        route: Route,
        message: M,
    ) -> Result<Reply, ClientError> {
        self.shared.call(route, self.options, message).await
    }

    /// The topology once it holds a collection, fetched again if it does not.
    ///
    /// Errors: `UnknownCollection`.
    pub(crate) async fn topology_with(&self, name: &str) -> Result<Arc<Topology>, ClientError> {
        let deadline = Instant::now() + self.options.deadline;
        let topology = self.shared.newest_topology(deadline).await;
        if topology.collections.contains_key(name) {
            return Ok(topology);
        }
        self.shared.refresh(&topology, deadline).await?;
        let topology = self.topology();
        if topology.collections.contains_key(name) {
            return Ok(topology);
        }
        let message = format!("collection {name:?} does not exist");
        Err(ApiError::new(ErrorCode::UnknownCollection, message, "a collection that exists").into())
    }
}

/// The route of a collection that [`Client::topology_with`] has found.
pub(crate) fn route_of<'a>(topology: &'a Topology, name: &str) -> &'a CollectionRoute {
    &topology.collections[name]
}

fn parsed<T: serde::de::DeserializeOwned>(
    json: &str,
    reply: &Reply,
    message: &'static str,
) -> Result<T, ClientError> {
    match serde_json::from_str(json) {
        Ok(value) => Ok(value),
        Err(_) => Err(reply.invalid(heddle_wire::MessageError::Layout { message })),
    }
}

fn config_of(reply: &Reply, entry: &CollectionEntry) -> Result<CollectionConfig, ClientError> {
    parsed(&entry.definition, reply, "collection definition")
}
