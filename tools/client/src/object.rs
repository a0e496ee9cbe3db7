//! Objects as the user gives and gets them.

use std::collections::BTreeMap;

use heddle_types::row::decode_row;
use heddle_types::{Hlc, ObjectId, Properties};
use heddle_wire::MessageError;
use heddle_wire::message::{ArchivedObjectColumns, ObjectView};

/// An object to write.
#[derive(Clone, PartialEq, Debug)]
pub struct Object {
    /// Its id.
    pub id: ObjectId,
    /// Its properties.
    pub properties: Properties,
    /// Its vectors by name; the default vector has the empty name.
    pub vectors: Vec<(String, Vec<f32>)>,
}

impl Object {
    /// An object without properties and vectors.
    #[must_use]
    pub fn new(id: ObjectId) -> Self {
        Self { id, properties: Properties::new(), vectors: Vec::new() }
    }

    /// Sets the properties.
    #[must_use]
    pub fn with_properties(self, properties: Properties) -> Self {
        Self { properties, ..self }
    }

    /// Adds the default vector.
    #[must_use]
    pub fn with_vector(self, values: Vec<f32>) -> Self {
        self.with_named_vector("", values)
    }

    /// Adds a named vector.
    #[must_use]
    pub fn with_named_vector(mut self, name: impl Into<String>, values: Vec<f32>) -> Self {
        self.vectors.push((name.into(), values));
        self
    }
}

/// An object as the server stores it.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredObject {
    /// Its id.
    pub id: ObjectId,
    /// Creation time, microseconds since the Unix epoch.
    pub created_us: i64,
    /// Time of the last update, microseconds since the Unix epoch.
    pub updated_us: i64,
    /// Hybrid time of the write that made it.
    pub stamp: Hlc,
    /// Its properties, if they were asked for.
    pub properties: Option<Properties>,
    /// Its vectors by name, if they were asked for.
    pub vectors: BTreeMap<String, Vec<f32>>,
}

fn stored(view: ObjectView<'_>) -> Result<StoredObject, MessageError> {
    let properties = match view.row().map(decode_row) {
        None => None,
        Some(Ok(properties)) => Some(properties),
        Some(Err(_)) => return Err(MessageError::Layout { message: "property row" }),
    };
    let vectors = view.vectors().map(|(name, values)| (name.to_owned(), values.to_vec()));
    Ok(StoredObject {
        id: view.id(),
        created_us: view.created_us(),
        updated_us: view.updated_us(),
        stamp: view.stamp(),
        properties,
        vectors: vectors.collect(),
    })
}

/// Every object of a reply.
pub(crate) fn stored_objects(
    columns: &ArchivedObjectColumns,
) -> Result<Vec<StoredObject>, MessageError> {
    columns.iter().map(stored).collect()
}
