//! Every bound of the system, in one place, each with its arithmetic.
//!
//! A queue, pool, batch or length without a line here is a mistake.

/// Bytes of a page: unit of direct IO, of checksums and of buffer alignment.
pub const PAGE_SIZE_BYTES: usize = 4096;

/// Most dimensions of a vector.
pub const VECTOR_DIMS_MAX: u32 = 65_535;
/// Most named vectors of a collection.
pub const VECTORS_PER_COLLECTION_MAX: usize = 16;
/// Most properties of a collection, nested ones not counted.
pub const PROPERTIES_PER_COLLECTION_MAX: usize = 512;
/// Most bytes of a collection, property, vector or tenant name.
pub const NAME_LENGTH_BYTES_MAX: usize = 128;
/// Most bytes of a tenant's name where one is made.
pub const TENANT_NAME_BYTES_MAX: usize = 64;
/// Most tenants of all collections together, and so of one: the state of the cluster, which every
/// node keeps in memory and writes whole, has at most some 200 bytes for each.
pub const TENANTS_MAX: usize = 100_000;
/// Most tenants that one change names.
pub const TENANT_BATCH_MAX: usize = 1_000;
/// Most tenants of one page of a list.
pub const TENANT_LIST_MAX: u32 = 10_000;
/// Most shards of active tenants on one data core: each has its memory and its open files, and all
/// of them are looked at by whatever looks at shards.
pub const TENANT_SHARDS_PER_CORE_MAX: usize = 10_000;
/// Most collections of a cluster.
pub const COLLECTIONS_MAX: usize = 1_000;
/// Deepest nesting of object properties.
pub const PROPERTY_DEPTH_MAX: usize = 8;
/// Most bytes of one encoded property row (4 MiB).
pub const PROPERTY_ROW_BYTES_MAX: usize = 4 << 20;
/// Most fields of one row, those of nested objects included. A field of 5 bytes can take 1.4 KiB
/// when decoded (an object with one field), so this bounds a decoded row by 22 MiB of maps.
pub const ROW_FIELDS_MAX: usize = 16_384;
/// Most elements of one array value.
pub const ARRAY_LENGTH_MAX: usize = 65_536;
/// Longest text prefix that a property index keeps per value; longer texts are matched by it and
/// then checked against the stored object.
pub const INDEXED_TEXT_BYTES_MAX: usize = 1_024;

/// Deepest nesting of a filter.
pub const FILTER_DEPTH_MAX: usize = 16;
/// Most nodes of a filter.
pub const FILTER_NODES_MAX: usize = 1_024;
/// Most values of one `ContainsAny` or `ContainsAll`.
pub const FILTER_VALUES_MAX: usize = 4_096;

/// Largest `k`, `offset + k` and list page.
pub const SEARCH_K_MAX: u32 = 10_000;
/// Largest `ef`.
pub const SEARCH_EF_MAX: u32 = 100_000;
/// Most queries of one search batch.
pub const SEARCH_BATCH_MAX: usize = 1_024;
/// Most objects of one put, get or delete batch.
pub const OBJECT_BATCH_MAX: usize = 10_000;

/// Largest frame body a client may send (16 MiB).
pub const CLIENT_BODY_BYTES_MAX: usize = 16 << 20;
/// Largest frame body a node may send, to clients or peers (64 MiB).
pub const NODE_BODY_BYTES_MAX: usize = 64 << 20;
/// A body buffer grows by at most this as bytes arrive (256 KiB), so a length alone costs nothing.
pub const BODY_GROWTH_BYTES: usize = 256 << 10;
/// Most requests of one connection that are not answered yet.
pub const CONNECTION_REQUESTS_IN_FLIGHT_MAX: usize = 128;
/// Most request bytes of one connection that are not answered yet (32 MiB).
pub const CONNECTION_BYTES_IN_FLIGHT_MAX: usize = 32 << 20;
/// Most reply bytes that wait for a slow reader before the server stops reading from it (4 MiB).
pub const CONNECTION_REPLY_BYTES_MAX: usize = 4 << 20;
/// Most client connections of a node.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Physical shards of one collection on one cluster.
pub const SHARDS_PER_COLLECTION_MAX: u32 = 512;
/// Most replicas of a shard; a set of them fits 16 bits.
pub const REPLICAS_PER_SHARD_MAX: usize = 16;
/// Virtual shards per physical shard when the collection does not say otherwise.
pub const VIRTUAL_PER_PHYSICAL_DEFAULT: u32 = 128;

/// Bytes of one log segment: preallocated and zeroed, so an append changes no file metadata.
pub const WAL_SEGMENT_BYTES: u64 = 64 << 20;
/// Largest payload of one log record (a batch is split into one record an object).
pub const WAL_RECORD_BYTES_MAX: usize = 8 << 20;
/// Log bytes that may wait for the disk on one core before writers are told to wait (64 MiB).
pub const WAL_BACKLOG_BYTES_MAX: usize = 64 << 20;
/// Pool of the walk whose cost a flat tail may have before writers are slowed.
pub const TAIL_WALK_EF: u32 = 64;
/// Rows of a flat tail that never slow writers: scanning so many takes less than 100 us.
pub const TAIL_ROWS_MIN: u64 = 2_048;
/// Times as long a flat tail may be while nobody searches: a load into an empty node need not wait
/// for its graph, and the tail still has a bound.
pub const TAIL_UNSEARCHED_FACTOR: u64 = 32;
/// One slot in so many may be dead before writers are slowed: a sweep repairs nearly every node
/// once a thirtieth is dead, so letting more die first makes each dead one cheaper.
pub const DEAD_SHARE_QUIET: u64 = 6;
/// A burden (tail or dead slots) this many times as large as the one that begins to slow writers
/// makes them wait. At twice of it they are as fast as linking; the rest is for the time that an
/// image takes.
pub const BURDEN_MAX: u64 = 8;
/// Bytes of property values that a start of a core collects before it sorts them in (64 MiB), ...
pub const REPLAY_VALUES_BYTES_MAX: u64 = 64 << 20;
/// ... and at most this part of the memory that the core may take.
pub const REPLAY_VALUES_SHARE: u64 = 16;
/// Bytes of one checkpoint chunk: unit of its checksums and of one device write.
pub const CHECKPOINT_CHUNK_BYTES: usize = 256 << 10;

/// A replica refuses stamps that lie further ahead of its clock (500 ms): nothing could be written
/// over an object with a stamp of the far future.
pub const STAMP_AHEAD_US_MAX: u64 = 500_000;
/// The log says so far ahead which stamps may have been issued (1 s), so that one record of it
/// stands for all stamps of that time.
pub const STAMP_HIGH_WATER_STEP_US: u64 = 1_000_000;
/// Tombstones younger than this are kept in any case (3 h, as long as hints are).
pub const TOMBSTONE_AGE_US_MIN: u64 = 3 * 3_600 * 1_000_000;

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 128;
/// Most voters of the cluster's Raft group: a write waits for four of seven, more only cost.
pub const VOTERS_MAX: usize = 7;
/// Identities of removed nodes that are remembered, so that none of them comes back (160 KiB of
/// text at 40 bytes each).
pub const NODES_REMOVED_MAX: usize = 4_096;
/// Most labels of a node, and of each rule that asks for labels.
pub const LABELS_MAX: usize = 32;
/// Longest `host:port` of a node, bytes: a DNS name of 253, the colon, a port of 5.
pub const ADDRESS_BYTES_MAX: usize = 259;
/// Most aliases of a cluster.
pub const ALIASES_MAX: usize = 1_000;
/// Applied commands whose ids are remembered, so that a retry is recognised. A client retries
/// within seconds, and a cluster changes its catalog far less than 1,024 times in that time.
pub const RECENT_COMMANDS_MAX: usize = 1_024;

/// Longest step of any task without offering to yield.
pub const STEP_US_MAX: u64 = 200;
/// Most data cores of a node.
pub const CORES_MAX: usize = 1_024;

const _: () = assert!(OBJECT_BATCH_MAX >= SEARCH_BATCH_MAX);
const _: () = assert!(TENANT_NAME_BYTES_MAX <= NAME_LENGTH_BYTES_MAX);
const _: () =
    assert!(PROPERTY_ROW_BYTES_MAX + 4 * VECTOR_DIMS_MAX as usize <= WAL_RECORD_BYTES_MAX);
const _: () = assert!(WAL_RECORD_BYTES_MAX < CLIENT_BODY_BYTES_MAX);
const _: () = assert!(CLIENT_BODY_BYTES_MAX <= CONNECTION_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(WAL_RECORD_BYTES_MAX as u64 * 2 < WAL_SEGMENT_BYTES);
const _: () = assert!(BURDEN_MAX > 2);
// Dead slots alone never make writers wait: who has deleted nearly everything goes on.
const _: () = assert!(DEAD_SHARE_QUIET < BURDEN_MAX);
const _: () = assert!(CHECKPOINT_CHUNK_BYTES.is_multiple_of(PAGE_SIZE_BYTES));
