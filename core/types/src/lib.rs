//! Ids, units, limits, stamps, schema, values, errors and seams shared by every part of Heddle.
//!
//! Floor 0: knows only the standard library and small value crates. What crosses cores, nodes or
//! a restart is named here once, so that the wire, the log and the index cannot drift apart.

#![forbid(unsafe_code)]

pub mod backup;
pub mod buffer;
pub mod consistency;
pub mod deletion;
pub mod device;
pub mod digest;
pub mod error;
pub mod fatal;
pub mod filter;
pub mod floats;
pub mod ids;
pub mod json;
pub mod limits;
pub mod placement;
pub mod routing;
pub mod row;
pub mod schema;
pub mod stamp;
pub mod value;

pub use buffer::AlignedBuf;
pub use consistency::Consistency;
pub use deletion::DeletionStrategy;
pub use device::{Clock, Device, DeviceError, DeviceFile, OpenMode};
pub use digest::ObjectDigest;
pub use error::{ApiError, ErrorCode, Retry};
pub use fatal::FatalReason;
pub use filter::{Filter, Operator};
pub use ids::{ClusterId, CollectionId, CoreIndex, Epoch, Lsn, NodeId, ObjectId, ShardId, Slot};
pub use placement::{Labels, PlacementRules};
pub use routing::{RoutingTable, token_of};
pub use schema::{
    CollectionConfig, DataType, Distance, IndexConfig, PropertyConfig, Quantization, RawVectors,
    VectorConfig,
};
pub use stamp::{Hlc, Stamp, StampSource};
pub use value::{Properties, Value};
