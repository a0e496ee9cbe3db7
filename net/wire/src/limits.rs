//! Bounds of the protocol that no other part of Heddle needs; the rest are `heddle_types::limits`.

use heddle_types::limits::{CLIENT_BODY_BYTES_MAX, NODE_BODY_BYTES_MAX, SHARDS_PER_COLLECTION_MAX};

/// Most bytes of a collection definition as JSON text (1 MiB).
pub const DEFINITION_BYTES_MAX: usize = 1 << 20;
/// Most bytes of each text of an error; longer ones are cut when the error is encoded.
pub const ERROR_TEXT_BYTES_MAX: usize = 4_096;
/// Most bytes of an encoded filter (4 MiB).
pub const FILTER_BYTES_MAX: usize = 4 << 20;
/// Most bytes of the name and version texts of a hello, and of addresses in a topology.
pub const HELLO_TEXT_BYTES_MAX: usize = 256;
/// Most bytes of a status report (4 MiB).
pub const STATUS_BYTES_MAX: usize = 4 << 20;
/// Most bytes of the name of a file in a backup.
pub const BACKUP_NAME_BYTES_MAX: usize = 256;
/// Most bytes of the text that says what a backup begins with (4 KiB).
pub const BACKUP_TEXT_BYTES_MAX: usize = 4 << 10;
/// Most bytes of one read of a file of a backup (4 MiB).
pub const BACKUP_READ_BYTES_MAX: usize = 4 << 20;
/// Most nodes of a cluster.
pub const NODES_MAX: usize = 1_024;
/// Most virtual shards of a collection: 4,096 for each physical one.
pub const VIRTUAL_SHARDS_MAX: usize = 4_096 * SHARDS_PER_COLLECTION_MAX as usize;

const _: () = assert!(FILTER_BYTES_MAX < CLIENT_BODY_BYTES_MAX);
const _: () = assert!(STATUS_BYTES_MAX < NODE_BODY_BYTES_MAX);
const _: () = assert!(2 * VIRTUAL_SHARDS_MAX < NODE_BODY_BYTES_MAX);
