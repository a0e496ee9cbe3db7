//! Shard-aware client of Heddle's native protocol.
//!
//! A [`Client`] fetches the topology and opens one connection to each data core that it needs.
//! Writes and reads by id go to the home core of their shard; searches go to the data core with
//! the fewest requests in flight. Requests are pipelined, every call has a deadline, and what is
//! safe to send again is sent again. Floor 2: knows heddle-types and heddle-wire, no server code.
//!
//! ```no_run
//! use heddle_client::{Client, Object, Search};
//! use heddle_types::{CollectionConfig, ObjectId, Properties, Value};
//!
//! # async fn example() -> Result<(), heddle_client::ClientError> {
//! let client = Client::connect(["127.0.0.1:7700"]).await?;
//! let config = CollectionConfig { name: "Docs".to_owned(), ..Default::default() };
//! client.create_collection(&config).await?;
//! let docs = client.collection("Docs");
//! let properties = Properties::from([("title".to_owned(), Value::Text("Looms".to_owned()))]);
//! let object = Object::new(ObjectId::random()).with_properties(properties);
//! docs.put(object.with_vector(vec![0.1, 0.9])).await?;
//! for hit in docs.search(&Search::near(vec![0.1, 0.8]).k(3)).await?.hits {
//!     println!("{} at {}", hit.id, hit.distance);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What a call may report: [`ClientError`]. A write whose connection broke after it was sent is
//! [`ClientError::UnknownOutcome`] unless [`Client::retrying_writes`] was asked for, or
//! [`Collection::with_tickets`], by which it is sent again as the very same write.

#![forbid(unsafe_code)]

mod backoff;
mod call;
mod client;
mod collection;
mod compare;
mod error;
mod level;
pub mod limits;
mod object;
mod search;
mod tenants;
mod topology;
mod transport;

pub use client::{Client, ClientOptions, DamagedShards};
pub use collection::{Collection, Page, Scan, Scanner};
pub use error::ClientError;
pub use heddle_types::Consistency;
pub use heddle_wire::message::{
    Condition, Durability, NodeFate, PutMode, ShardComparison, TenantAction, Want,
};
pub use object::{Object, StoredObject};
pub use search::{Hit, Search, SearchResult};
pub use tenants::{Tenant, TenantPage};
pub use uuid::Uuid;

pub use topology::{CollectionRoute, CoreAddress, NodeInfo, Topology};
