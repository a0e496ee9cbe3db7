//! What to look for, and what was found.

use heddle_types::{Filter, ObjectId};
use heddle_wire::MessageError;
use heddle_wire::message::{ArchivedSearchReply, SearchRequest, Want};

use crate::error::ClientError;
use crate::object::{StoredObject, stored_objects};

/// A search for nearest neighbours.
#[derive(Clone, PartialEq, Debug)]
pub struct Search {
    query: Query,
    vector: String,
    k: u32,
    ef: u32,
    offset: u32,
    max_distance: Option<f32>,
    autocut: u32,
    filter: Option<Filter>,
    want: Want,
}

#[derive(Clone, PartialEq, Debug)]
enum Query {
    Vector(Vec<f32>),
    Object(ObjectId),
}

impl Search {
    fn new(query: Query) -> Self {
        Self {
            query,
            vector: String::new(),
            k: 10,
            ef: 0,
            offset: 0,
            max_distance: None,
            autocut: 0,
            filter: None,
            want: Want::default(),
        }
    }

    /// Searches near a vector; ten neighbours unless [`Search::k`] says otherwise.
    #[must_use]
    pub fn near(vector: Vec<f32>) -> Self {
        Self::new(Query::Vector(vector))
    }

    /// Searches near the stored vector of an object.
    #[must_use]
    pub fn near_object(id: ObjectId) -> Self {
        Self::new(Query::Object(id))
    }

    /// A search for [`crate::Collection::search_batch`], which brings its own vectors.
    #[must_use]
    pub fn template() -> Self {
        Self::near(Vec::new())
    }

    /// Searches a named vector instead of the default one.
    #[must_use]
    pub fn in_vector(self, name: impl Into<String>) -> Self {
        Self { vector: name.into(), ..self }
    }

    /// Neighbours to return.
    #[must_use]
    pub fn k(self, k: u32) -> Self {
        Self { k, ..self }
    }

    /// Candidates to keep while searching: more = better recall, slower; 0 = as the collection
    /// says.
    #[must_use]
    pub fn ef(self, ef: u32) -> Self {
        Self { ef, ..self }
    }

    /// Nearest neighbours to leave out.
    #[must_use]
    pub fn offset(self, offset: u32) -> Self {
        Self { offset, ..self }
    }

    /// Leaves out neighbours that are farther.
    #[must_use]
    pub fn max_distance(self, distance: f32) -> Self {
        Self { max_distance: Some(distance), ..self }
    }

    /// Stops after this many jumps in distance.
    #[must_use]
    pub fn autocut(self, jumps: u32) -> Self {
        Self { autocut: jumps, ..self }
    }

    /// Only objects that match.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        Self { filter: Some(filter), ..self }
    }

    /// Returns the neighbours' properties too.
    #[must_use]
    pub fn with_properties(mut self) -> Self {
        self.want.properties = true;
        self
    }

    /// Returns the neighbours' vectors too.
    #[must_use]
    pub fn with_vectors(mut self) -> Self {
        self.want.vectors = true;
        self
    }

    /// Returns the neighbours' times and stamps too.
    #[must_use]
    pub fn with_metadata(mut self) -> Self {
        self.want.metadata = true;
        self
    }

    /// The request of this search itself.
    pub(crate) fn request(&self, place: Place<'_>) -> Result<SearchRequest, ClientError> {
        match &self.query {
            Query::Vector(vector) => self.request_for(place, vector, vector.len() as u32),
            Query::Object(id) => {
                let request = self.request_for(place, &[], 0)?;
                Ok(SearchRequest { near_id: id.0.to_vec(), ..request })
            }
        }
    }

    /// The request of this search for other vectors, `[queries, dims]`.
    pub(crate) fn request_for(
        &self,
        place: Place<'_>,
        queries: &[f32],
        dims: u32,
    ) -> Result<SearchRequest, ClientError> {
        let filter = match &self.filter {
            Some(filter) => filter.encode()?,
            None => Vec::new(),
        };
        Ok(SearchRequest {
            collection: place.collection.to_owned(),
            tenant: place.tenant.to_owned(),
            epoch: 0,
            vector: self.vector.clone(),
            queries: queries.to_vec(),
            dims,
            near_id: Vec::new(),
            k: self.k,
            ef: self.ef,
            offset: self.offset,
            max_distance: self.max_distance.unwrap_or(f32::NAN),
            autocut: self.autocut,
            filter,
            want: self.want.bits(),
        })
    }
}

/// Collection and tenant of a request.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) collection: &'a str,
    pub(crate) tenant: &'a str,
}

/// A neighbour.
#[derive(Clone, PartialEq, Debug)]
pub struct Hit {
    /// Its id.
    pub id: ObjectId,
    /// How far it is from the query.
    pub distance: f32,
    /// The object, if any part of it was asked for.
    pub object: Option<StoredObject>,
}

/// The neighbours of one query, nearest first, and what finding them took.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SearchResult {
    /// The neighbours.
    pub hits: Vec<Hit>,
    /// Distance computations.
    pub evaluations: u32,
    /// Microseconds that the server worked.
    pub server_us: u32,
    /// Microseconds that the request waited at the server before the work began.
    pub queue_us: u32,
}

/// The results of a reply, one a query.
pub(crate) fn results(reply: &ArchivedSearchReply) -> Result<Vec<SearchResult>, MessageError> {
    let mut objects = stored_objects(&reply.objects)?.into_iter();
    let mut hits = reply.ids().zip(reply.distances()).map(|(id, distance)| Hit {
        id,
        distance: *distance,
        object: objects.next(),
    });
    let mut start = 0;
    let columns = reply.ends().iter().zip(reply.evaluations()).zip(reply.server_us());
    let results = columns.map(|((end, evaluations), server_us)| {
        let count = *end as usize - start;
        start = *end as usize;
        SearchResult {
            hits: hits.by_ref().take(count).collect(),
            evaluations: *evaluations,
            server_us: *server_us,
            queue_us: reply.queue_us.to_native(),
        }
    });
    Ok(results.collect())
}
