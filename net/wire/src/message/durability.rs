//! Writes that say when they are to be acknowledged.
//!
//! The request and the reply hold those of a plain write whole, so both are read by the same code.

use rkyv::{Archive, Deserialize, Serialize};

use super::Layout;
use super::check::{Checked, known};
use super::object::{DeleteReply, DeleteRequest};
use super::put::{PutReply, PutRequest};

/// When a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Durability {
    /// When it is on disk and visible, as a plain write is.
    #[default]
    Sync = 0,
    /// When the log has taken it, before its sync.
    Batched = 1,
}

impl Durability {
    /// The meaning of a checked field.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        if number == Self::Batched as u8 { Self::Batched } else { Self::Sync }
    }
}

macro_rules! with_durability {
    ($(#[$doc:meta])* $name:ident, $archived:ident, $field:ident: $inner:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
        #[rkyv(derive(Debug))]
        pub struct $name {
            /// [`Durability`]: 0 sync, 1 batched.
            pub durability: u8,
            /// The plain message.
            pub $field: $inner,
        }

        impl $name {
            /// The message with its durability.
            #[must_use]
            pub fn new(durability: Durability, $field: $inner) -> Self {
                Self { durability: durability as u8, $field }
            }
        }

        impl $archived {
            /// When the write is, or was, acknowledged.
            #[must_use]
            pub fn durability(&self) -> Durability {
                Durability::from_number(self.durability)
            }
        }

        impl Layout for $name {
            fn check(archived: &$archived) -> Checked {
                known("durability", archived.durability, Durability::Batched as u8)?;
                $inner::check(&archived.$field)
            }

            fn size_hint_bytes(&self) -> usize {
                8 + self.$field.size_hint_bytes()
            }
        }
    };
}

with_durability! {
    /// Writes objects as [`PutRequest`] does, acknowledged when it says.
    PutWithRequest, ArchivedPutWithRequest, put: PutRequest
}
with_durability! {
    /// What happened to each object, and whether it is on disk already.
    PutWithReply, ArchivedPutWithReply, put: PutReply
}
with_durability! {
    /// Deletes objects as [`DeleteRequest`] does, acknowledged when it says.
    DeleteWithRequest, ArchivedDeleteWithRequest, delete: DeleteRequest
}
with_durability! {
    /// What happened to each object, and whether that is on disk already.
    DeleteWithReply, ArchivedDeleteWithReply, delete: DeleteReply
}
