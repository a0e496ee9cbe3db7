//! Why a change of the catalog is refused.

use heddle_types::{ApiError, ErrorCode, NodeId, ShardId};

/// Why a command was refused. The catalog is unchanged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The definition breaks a rule.
    #[error(transparent)]
    Invalid(#[from] ApiError),
    /// The name is taken.
    #[error("collection {name} exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// No such collection.
    #[error("collection {name} does not exist")]
    Unknown {
        /// The name or id asked for.
        name: String,
    },
    /// No such vector, or its dimension is fixed to another number.
    #[error("vector {vector:?} of {collection} cannot have {asked} dimensions, it has {fixed:?}")]
    Dims {
        /// The collection's name.
        collection: String,
        /// The vector's name.
        vector: String,
        /// The dimension asked for.
        asked: u32,
        /// The dimension it has; none when there is no such vector.
        fixed: Option<u32>,
    },
    /// No such shard, or not on that node.
    #[error("shard {shard} has no replica on node {node}")]
    UnknownShard {
        /// The shard asked for.
        shard: ShardId,
        /// The node asked for.
        node: NodeId,
    },
    /// No core can take a shard.
    #[error("no data core can take a shard")]
    NoPlacement,
    /// Tenants keep the shards that they were created with.
    #[error("collection {collection} has tenants, which cannot be cut into other shards")]
    HasTenants {
        /// Its name.
        collection: String,
    },
    /// The collection is not divided among tenants.
    #[error("collection {collection} has no tenants")]
    NoTenants {
        /// Its name.
        collection: String,
    },
    /// No such tenant.
    #[error("collection {collection} has no tenant {tenant}")]
    UnknownTenant {
        /// The collection's name.
        collection: String,
        /// The tenant asked for.
        tenant: String,
    },
    /// Places for another number of shards or replicas than the definition asks for.
    #[error("tenant {tenant} has not one place for each shard and replica of the definition")]
    TenantPlaces {
        /// The tenant.
        tenant: String,
    },
    /// A core would work on more tenants than it may.
    #[error("core {home} of node {node} would have more than {limit} shards of active tenants")]
    CoreFull {
        /// The node.
        node: NodeId,
        /// Its data core.
        home: u32,
        /// The limit for each core.
        limit: usize,
    },
    /// There would be more tenants than there may be.
    #[error("there would be more than {limit} tenants")]
    TooManyTenants {
        /// The limit, for all collections.
        limit: usize,
    },
    /// The tenants would not fit into what a state may hold.
    #[error("the tenants would take more than {limit} bytes of the catalog")]
    TenantsTooLarge {
        /// The limit, for all collections.
        limit: u64,
    },
    /// There are as many collections as there may be.
    #[error("there are {limit} collections already")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let (code, expected) = match &error {
            CatalogError::Invalid(inner) => return inner.clone(),
            CatalogError::Exists { .. } => (ErrorCode::CollectionExists, "a new name"),
            CatalogError::Unknown { .. } => {
                (ErrorCode::UnknownCollection, "the name of an existing collection")
            }
            CatalogError::Dims { .. } => (ErrorCode::InvalidVector, "the fixed dimension"),
            CatalogError::UnknownShard { .. } => (ErrorCode::Internal, ""),
            CatalogError::NoPlacement => (ErrorCode::Unavailable, ""),
            CatalogError::HasTenants { .. } => (ErrorCode::Unsupported, "no other shards"),
            CatalogError::NoTenants { .. } => {
                (ErrorCode::InvalidArgument, "a collection with multi_tenancy.enabled true")
            }
            CatalogError::UnknownTenant { .. } => {
                (ErrorCode::UnknownTenant, "the name of an existing tenant")
            }
            CatalogError::TenantPlaces { .. } => (ErrorCode::Internal, ""),
            CatalogError::CoreFull { .. } => {
                (ErrorCode::TooLarge, "fewer active tenants, or more cores or nodes")
            }
            CatalogError::TooManyTenants { .. } | CatalogError::TenantsTooLarge { .. } => {
                (ErrorCode::TooLarge, "fewer tenants")
            }
            CatalogError::TooMany { .. } => (ErrorCode::TooLarge, "fewer collections"),
        };
        Self::new(code, error.to_string(), expected)
    }
}
