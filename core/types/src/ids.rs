//! Newtypes for every identifier, so that a slot can never be passed where a shard is meant.
//!
//! `index` counts positions, `slot` is local to one shard, `id` is global.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Position of a core on its node: data cores are `0..data_cores`, the meta core comes last.
pub type CoreIndex = usize;

/// Position of an object inside one shard; written once, reused only after a quiescent point.
pub type Slot = u32;

/// Identity of an object: the 16 bytes of its UUID in RFC 4122 (text) order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectId(pub [u8; 16]);

impl ObjectId {
    /// The id that an import gives to row `row`: eight zero bytes, then the row, big endian.
    #[must_use]
    pub fn from_row(row: u64) -> Self {
        Self(u128::from(row).to_be_bytes())
    }

    /// A random (version 4) id.
    #[must_use]
    pub fn random() -> Self {
        Self(*Uuid::new_v4().as_bytes())
    }

    /// The id as an integer; its order equals the order of the text form.
    #[must_use]
    pub fn as_u128(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Uuid::from_bytes(self.0), f)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(*Uuid::parse_str(text)?.as_bytes()))
    }
}

impl Serialize for ObjectId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

uuid_id!(
    /// Identity of a node: written into the data directory when it is formatted, never reused.
    NodeId
);
uuid_id!(
    /// Identity of a collection; dropping and recreating the same name gives a new one.
    CollectionId
);

uuid_id!(
    /// Identity of a cluster: that of the first change it ever made, drawn at random.
    ClusterId
);

impl From<u64> for NodeId {
    /// The node of a number: for tests and simulations, which count their nodes.
    fn from(number: u64) -> Self {
        Self(Uuid::from_u64_pair(0, number))
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_id!(
    /// Identity of a physical shard, unique in the cluster, never reused.
    ShardId
);
number_id!(
    /// Log sequence number: position of a record in one core's write-ahead log, from 1.
    Lsn
);
number_id!(
    /// Version of the catalog; every change of it adds one.
    Epoch
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn import_row_is_the_last_eight_bytes_big_endian() {
        let id = ObjectId::from_row(0x0102_0304);
        assert_eq!(id.to_string(), "00000000-0000-0000-0000-000001020304");
        assert_eq!(id.to_string().parse::<ObjectId>(), Ok(id));
    }

    #[test]
    fn order_of_ids_is_the_order_of_their_text() {
        let (low, high) = (ObjectId::from_row(9), ObjectId::from_row(10));
        assert!(low < high && low.to_string() < high.to_string());
        assert!(low.as_u128() < high.as_u128());
    }
}
