//! Reading, writing and searching one collection.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream;
use heddle_types::limits::SEARCH_BATCH_MAX;
use heddle_types::row::encode_row;
use heddle_types::{ApiError, Consistency, ErrorCode, Filter, Hlc, ObjectId};
use heddle_wire::message::{
    ArchivedGetReply, ArchivedScanReply, CountAtReply, CountAtRequest, CountReply, CountRequest,
    DeleteReply, DeleteRequest, DeleteWithReply, DeleteWithRequest, Durability, GetAtReply,
    GetAtRequest, GetReply, GetRequest, PutMode, PutReply, PutRequest, PutWithReply,
    PutWithRequest, ScanAtReply, ScanAtRequest, ScanReply, ScanRequest, SearchAtReply,
    SearchAtRequest, SearchReply, SearchRequest, Want,
};

use crate::call::{Reply, Route, Sendable};
use crate::client::{Client, route_of};
use crate::error::ClientError;
use crate::limits::{
    BATCH_REQUESTS_MAX, IDS_PER_REQUEST_MAX, PUT_REQUEST_BYTES, PUT_REQUEST_OBJECTS_MAX,
    QUERIES_PER_REQUEST_MIN,
};
use crate::object::{Object, StoredObject, stored_objects};
use crate::search::{Place, Search, SearchResult, results};
use crate::topology::CollectionRoute;

/// A handle on a collection.
#[derive(Clone)]
pub struct Collection {
    client: Client,
    name: String,
    tenant: String,
    /// How many replicas must take part; none for the defaults.
    pub(crate) level: Option<Consistency>,
    /// Writes bring a stamp that they keep when they are sent again.
    pub(crate) with_tickets: bool,
}

/// A request for some objects of a batch, and their positions in it.
pub(crate) struct Piece<M> {
    route: Route,
    positions: Vec<usize>,
    pub(crate) request: M,
    /// It is sent once all pieces of lower turns are answered.
    turn: usize,
}

impl<M> Piece<M> {
    /// The same piece with another request.
    pub(crate) fn map<N>(self, request: impl FnOnce(M) -> N) -> Piece<N> {
        let Self { route, positions, request: inner, turn } = self;
        Piece { route, positions, request: request(inner), turn }
    }
}

/// Where requests for an object go first.
pub(crate) fn home(route: &CollectionRoute, id: &ObjectId) -> Route {
    route.home_of(id).map_or(Route::LeastLoaded, Route::Core)
}

impl Collection {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name, tenant: String::new(), level: None, with_tickets: false }
    }

    /// A handle whose calls are made at this level. Without one, writes and reads by id take a
    /// quorum of the replicas, searches, lists and counts one replica.
    ///
    /// A list is made at level [`Consistency::One`] alone.
    #[must_use]
    pub fn with_consistency(&self, level: Consistency) -> Self {
        Self { level: Some(level), ..self.clone() }
    }

    /// A handle whose writes bring a stamp that the cluster gave out, so that one whose outcome is
    /// not known can be sent again as the same write, and is. Costs a round trip a call.
    #[must_use]
    pub fn with_tickets(&self) -> Self {
        Self { with_tickets: true, client: self.client.retrying_writes(), ..self.clone() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Collection and tenant.
    pub(crate) fn names(&self) -> (String, String) {
        (self.name.clone(), self.tenant.clone())
    }

    fn has_terms(&self) -> bool {
        self.level.is_some() || self.with_tickets
    }

    /// The name of the collection.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle on one tenant of the collection.
    #[must_use]
    pub fn tenant(&self, tenant: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), ..self.clone() }
    }

    fn place(&self) -> Place<'_> {
        Place { collection: &self.name, tenant: &self.tenant }
    }

    /// Writes an object, replacing the one of that id; returns the hybrid time of the write.
    ///
    /// Errors: what is wrong with the object; [`ClientError::UnknownOutcome`].
    pub async fn put(&self, object: Object) -> Result<Hlc, ClientError> {
        self.put_one(PutMode::Replace, object).await
    }

    /// Writes the listed properties and vectors of an object and leaves its others as they are.
    ///
    /// Errors: as [`Collection::put`].
    pub async fn merge(&self, object: Object) -> Result<Hlc, ClientError> {
        self.put_one(PutMode::Merge, object).await
    }

    async fn put_one(&self, mode: PutMode, object: Object) -> Result<Hlc, ClientError> {
        only(self.put_batch(mode, std::slice::from_ref(&object)).await?)
    }

    /// Writes many objects; the outcomes come in the order of the objects.
    ///
    /// The batch is cut by shard and into requests of bounded size, several of which are in flight
    /// at once, so objects of one batch become visible in any order. Those of one id take effect in
    /// the order of the batch, so the last one stays: a request that repeats an id of another one
    /// is sent when that is answered. Errors: the collection does not exist or no server answered;
    /// nothing was written.
    pub async fn put_batch(
        &self,
        mode: PutMode,
        objects: &[Object],
    ) -> Result<Vec<Result<Hlc, ClientError>>, ClientError> {
        self.put_batch_with(mode, Durability::Sync, objects).await
    }

    /// As [`Collection::put_batch`], acknowledged when `durability` says: a batched write becomes
    /// durable and visible with the next sync, and is lost if the node ends before.
    pub async fn put_batch_with(
        &self,
        mode: PutMode,
        durability: Durability,
        objects: &[Object],
    ) -> Result<Vec<Result<Hlc, ClientError>>, ClientError> {
        let topology = self.client.topology_with(&self.name).await?;
        let mut outcomes = Outcomes::new(objects.len());
        let pieces = self.plan_puts(route_of(&topology, &self.name), mode, objects, &mut outcomes);
        let mut turns: BTreeMap<usize, Vec<Piece<PutRequest>>> = BTreeMap::new();
        for piece in pieces {
            turns.entry(piece.turn).or_default().push(piece);
        }
        for pieces in turns.into_values() {
            outcomes.fill(match durability {
                _ if self.has_terms() => self.put_at(pieces, durability).await?,
                Durability::Sync => {
                    let read = |reply: &Reply| Ok(reply.decode::<PutReply>()?.into_results());
                    self.send_all(pieces, read).await
                }
                Durability::Batched => {
                    let pieces = pieces.into_iter();
                    let pieces = pieces.map(|it| it.map(|it| PutWithRequest::new(durability, it)));
                    let read =
                        |reply: &Reply| Ok(reply.decode::<PutWithReply>()?.put.into_results());
                    self.send_all(pieces.collect(), read).await
                }
            });
        }
        Ok(outcomes.finish())
    }

    fn plan_puts(
        &self,
        route: &CollectionRoute,
        mode: PutMode,
        objects: &[Object],
        outcomes: &mut Outcomes<Hlc>,
    ) -> Vec<Piece<PutRequest>> {
        let mut open: BTreeMap<_, Piece<PutRequest>> = BTreeMap::new();
        // Where an id came last: its position and the turn of its piece.
        let mut latest: BTreeMap<ObjectId, (usize, usize)> = BTreeMap::new();
        let mut done = Vec::new();
        let mut row = Vec::new();
        for (position, object) in objects.iter().enumerate() {
            if let Err(error) = encode(object, &mut row) {
                outcomes.set(position, Err(error));
                continue;
            }
            let core = route.home_of(&object.id);
            let fresh = |turn| Piece {
                route: home(route, &object.id),
                positions: Vec::new(),
                request: PutRequest::new(&self.name, &self.tenant, 0, mode),
                turn,
            };
            let piece = open.entry(core).or_insert_with(|| fresh(0));
            let is_full = !has_room(&piece.request, object, row.len());
            // In one piece the server keeps the order; an earlier piece has to be answered first.
            let is_open = |twin: usize| piece.positions.first().is_some_and(|first| *first <= twin);
            let has_to_wait = latest
                .get(&object.id)
                .is_some_and(|(twin, turn)| *turn == piece.turn && (is_full || !is_open(*twin)));
            if is_full || has_to_wait {
                let turn = piece.turn + usize::from(has_to_wait);
                done.push(std::mem::replace(piece, fresh(turn)));
            }
            latest.insert(object.id, (position, piece.turn));
            piece.positions.push(position);
            piece.request.push(&object.id, &row);
            for (name, values) in &object.vectors {
                let fits = piece.request.push_vector(name, values);
                assert!(fits, "a request has room only for vectors of the lengths it holds");
            }
        }
        done.extend(open.into_values());
        done
    }

    /// Reads an object with everything in it.
    ///
    /// Errors: those of any call; an object that does not exist is `None`.
    pub async fn get(&self, id: ObjectId) -> Result<Option<StoredObject>, ClientError> {
        only(self.get_batch(&[id], Want::ALL).await?)
    }

    /// Reads many objects; the outcomes come in the order of the ids, `None` for an object that
    /// does not exist.
    ///
    /// The batch is cut into requests; an object's error is that of its request. Errors: the
    /// collection does not exist or no server answered.
    pub async fn get_batch(
        &self,
        ids: &[ObjectId],
        want: Want,
    ) -> Result<Vec<Result<Option<StoredObject>, ClientError>>, ClientError> {
        let topology = self.client.topology_with(&self.name).await?;
        let pieces = self.plan_ids(route_of(&topology, &self.name), ids, |ids| GetRequest {
            collection: self.name.clone(),
            tenant: self.tenant.clone(),
            epoch: 0,
            ids,
            want: want.bits(),
        });
        let answers = match self.level {
            None => {
                let read = |reply: &Reply| found(reply, reply.access::<GetReply>()?);
                self.send_all(pieces, read).await
            }
            Some(level) => {
                let pieces = pieces.into_iter().map(|it| it.map(|it| GetAtRequest::new(level, it)));
                let read = |reply: &Reply| found(reply, &reply.access::<GetAtReply>()?.get);
                self.send_all(pieces.collect(), read).await
            }
        };
        let mut outcomes = Outcomes::new(ids.len());
        outcomes.fill(answers);
        Ok(outcomes.finish())
    }

    /// Deletes an object; was there one?
    ///
    /// Errors: those of any call; [`ClientError::UnknownOutcome`].
    pub async fn delete(&self, id: ObjectId) -> Result<bool, ClientError> {
        only(self.delete_batch(&[id]).await?)
    }

    /// Deletes many objects; the outcomes come in the order of the ids.
    ///
    /// Errors: the collection does not exist or no server answered; nothing was deleted.
    pub async fn delete_batch(
        &self,
        ids: &[ObjectId],
    ) -> Result<Vec<Result<bool, ClientError>>, ClientError> {
        self.delete_batch_with(Durability::Sync, ids).await
    }

    /// As [`Collection::delete_batch`], acknowledged when `durability` says, as
    /// [`Collection::put_batch_with`] does.
    pub async fn delete_batch_with(
        &self,
        durability: Durability,
        ids: &[ObjectId],
    ) -> Result<Vec<Result<bool, ClientError>>, ClientError> {
        let topology = self.client.topology_with(&self.name).await?;
        let pieces = self.plan_ids(route_of(&topology, &self.name), ids, |ids| DeleteRequest {
            collection: self.name.clone(),
            tenant: self.tenant.clone(),
            epoch: 0,
            ids,
        });
        let mut outcomes = Outcomes::new(ids.len());
        outcomes.fill(match durability {
            _ if self.has_terms() => self.delete_at(pieces, durability).await?,
            Durability::Sync => {
                let read = |reply: &Reply| Ok(reply.decode::<DeleteReply>()?.into_results());
                self.send_all(pieces, read).await
            }
            Durability::Batched => {
                let pieces = pieces.into_iter();
                let pieces = pieces.map(|it| it.map(|it| DeleteWithRequest::new(durability, it)));
                let read =
                    |reply: &Reply| Ok(reply.decode::<DeleteWithReply>()?.delete.into_results());
                self.send_all(pieces.collect(), read).await
            }
        });
        Ok(outcomes.finish())
    }

    fn plan_ids<M>(
        &self,
        route: &CollectionRoute,
        ids: &[ObjectId],
        request: impl Fn(Vec<u8>) -> M,
    ) -> Vec<Piece<M>> {
        let mut by_core: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (position, id) in ids.iter().enumerate() {
            by_core.entry(route.home_of(id)).or_default().push(position);
        }
        let chunks = by_core.values().flat_map(|positions| positions.chunks(IDS_PER_REQUEST_MAX));
        let piece = |positions: &[usize]| Piece {
            route: home(route, &ids[positions[0]]),
            positions: positions.to_vec(),
            request: request(positions.iter().flat_map(|position| ids[*position].0).collect()),
            turn: 0,
        };
        chunks.map(piece).collect()
    }

    /// Finds the nearest neighbours of one query.
    ///
    /// Errors: what is wrong with the search.
    pub async fn search(&self, search: &Search) -> Result<SearchResult, ClientError> {
        only(self.send_search(search.request(self.place())?).await?.into_iter().map(Ok).collect())
    }

    /// Finds the nearest neighbours of many vectors of `dims` components, one after the other in
    /// `queries`; `search` says everything else. Large batches are spread over the data cores.
    ///
    /// Errors: what is wrong with the search; `queries` is no whole number of vectors.
    pub async fn search_batch(
        &self,
        search: &Search,
        queries: &[f32],
        dims: usize,
    ) -> Result<Vec<SearchResult>, ClientError> {
        if dims == 0 || !queries.len().is_multiple_of(dims) {
            let message = format!("{} values are no vectors of {dims}", queries.len());
            return Err(ClientError::argument(message, "a whole number of vectors"));
        }
        let cores = self.client.topology().cores().count().max(1);
        let share = (queries.len() / dims).div_ceil(cores);
        let share = share.clamp(QUERIES_PER_REQUEST_MIN, SEARCH_BATCH_MAX);
        let requests: Vec<SearchRequest> = queries
            .chunks(share * dims)
            .map(|part| search.request_for(self.place(), part, dims as u32))
            .collect::<Result<_, _>>()?;
        let calls = requests.into_iter().map(|request| self.send_search(request));
        let mut answers = stream::iter(calls).buffered(BATCH_REQUESTS_MAX);
        let mut found = Vec::with_capacity(queries.len() / dims);
        while let Some(answer) = answers.next().await {
            found.extend(answer?);
        }
        Ok(found)
    }

    async fn send_search(&self, request: SearchRequest) -> Result<Vec<SearchResult>, ClientError> {
        let Some(level) = self.level else {
            let reply = self.client.send(Route::LeastLoaded, request).await?;
            return results(reply.access::<SearchReply>()?).map_err(|it| reply.invalid(it));
        };
        let request = SearchAtRequest::new(level, request);
        let reply = self.client.send(Route::LeastLoaded, request).await?;
        results(&reply.access::<SearchAtReply>()?.search).map_err(|it| reply.invalid(it))
    }

    /// Lists objects in the order of their ids.
    #[must_use]
    pub fn scan(&self, scan: Scan) -> Scanner {
        Scanner { collection: self.clone(), scan, is_done: false }
    }

    /// One page of a scan, beginning after `scan.after`.
    ///
    /// Errors: what is wrong with the scan.
    pub async fn scan_page(&self, scan: &Scan) -> Result<Page, ClientError> {
        let request = ScanRequest {
            collection: self.name.clone(),
            tenant: self.tenant.clone(),
            epoch: 0,
            after: scan.after.map_or_else(Vec::new, |id| id.0.to_vec()),
            limit: scan.page_objects,
            filter: encoded(scan.filter.as_ref())?,
            want: scan.want.bits(),
        };
        let page = |reply: &Reply, read: &ArchivedScanReply| {
            let objects = stored_objects(&read.objects).map_err(|source| reply.invalid(source))?;
            Ok(Page { objects, next: read.next() })
        };
        let Some(level) = self.level else {
            let reply = self.client.send(Route::LeastLoaded, request).await?;
            return page(&reply, reply.access::<ScanReply>()?);
        };
        let request = ScanAtRequest::new(level, request);
        let reply = self.client.send(Route::LeastLoaded, request).await?;
        page(&reply, &reply.access::<ScanAtReply>()?.scan)
    }

    /// Counts objects; all of them without a filter.
    ///
    /// Errors: what is wrong with the filter.
    pub async fn count(&self, filter: Option<&Filter>) -> Result<u64, ClientError> {
        let request = CountRequest {
            collection: self.name.clone(),
            tenant: self.tenant.clone(),
            epoch: 0,
            filter: encoded(filter)?,
        };
        let Some(level) = self.level else {
            let reply = self.client.send(Route::LeastLoaded, request).await?;
            return Ok(reply.decode::<CountReply>()?.count);
        };
        let request = CountAtRequest::new(level, request);
        let reply = self.client.send(Route::LeastLoaded, request).await?;
        Ok(reply.decode::<CountAtReply>()?.count.count)
    }

    /// Sends the pieces of a batch, several at a time, and pairs what comes back with positions.
    pub(crate) async fn send_all<M: Sendable, T>(
        &self,
        pieces: Vec<Piece<M>>,
        read: impl Fn(&Reply) -> Result<Vec<Result<T, ApiError>>, ClientError>,
    ) -> Vec<PieceOutcome<T>> {
        let read = &read;
        let calls = pieces.into_iter().map(|piece| async move {
            let Piece { route, positions, request, turn: _ } = piece;
            let answer = match self.client.send(route, request).await {
                Ok(reply) => read(&reply),
                Err(error) => Err(error),
            };
            (positions, answer)
        });
        stream::iter(calls).buffer_unordered(BATCH_REQUESTS_MAX).collect().await
    }
}

pub(crate) type PieceOutcome<T> = (Vec<usize>, Result<Vec<Result<T, ApiError>>, ClientError>);

/// The outcomes of a batch while they come in.
struct Outcomes<T>(Vec<Option<Result<T, ClientError>>>);

impl<T> Outcomes<T> {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| None).collect())
    }

    fn set(&mut self, position: usize, outcome: Result<T, ClientError>) {
        self.0[position].get_or_insert(outcome);
    }

    fn fill(&mut self, pieces: Vec<PieceOutcome<T>>) {
        for (positions, answer) in pieces {
            match answer {
                Ok(results) => {
                    for (position, result) in positions.into_iter().zip(results) {
                        self.set(position, result.map_err(ClientError::Api));
                    }
                }
                Err(error) => {
                    for position in positions {
                        self.set(position, Err(error.clone()));
                    }
                }
            }
        }
    }

    /// The outcomes; an object that no reply speaks of is of unknown outcome.
    fn finish(self) -> Vec<Result<T, ClientError>> {
        let missing = || Err(ApiError::unknown("the reply says nothing about this object").into());
        self.0.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }
}

/// The objects of a reply, in the order of its request.
fn found(
    reply: &Reply,
    read: &ArchivedGetReply,
) -> Result<Vec<Result<Option<StoredObject>, ApiError>>, ClientError> {
    let objects = stored_objects(&read.objects).map_err(|source| reply.invalid(source))?;
    let mut objects = objects.into_iter();
    let found = read.found.iter();
    Ok(found.map(|flag| Ok(if *flag == 1 { objects.next() } else { None })).collect())
}

/// Writes the property row of an object into `row` and checks what a request cannot carry.
pub(crate) fn encode(object: &Object, row: &mut Vec<u8>) -> Result<(), ClientError> {
    row.clear();
    for (position, (name, values)) in object.vectors.iter().enumerate() {
        let is_twin = object.vectors[..position].iter().any(|(other, _)| other == name);
        if values.is_empty() || is_twin {
            let fault = if is_twin { "is given twice" } else { "has no components" };
            let message = format!("vector \"{name}\" of object {} {fault}", object.id);
            let expected = "each vector once, with at least one component";
            return Err(ApiError::new(ErrorCode::InvalidVector, message, expected).into());
        }
    }
    if !object.properties.is_empty() {
        encode_row(&object.properties, row)?;
    }
    Ok(())
}

/// May the object join the request: size, count, and vectors of the same length as those there?
fn has_room(request: &PutRequest, object: &Object, row_bytes: usize) -> bool {
    if request.is_empty() {
        return true;
    }
    let values: usize = object.vectors.iter().map(|(_, values)| values.len()).sum();
    let fits = |(name, values): &(String, Vec<f32>)| {
        let column = request.vectors.iter().find(|column| column.name == *name);
        column.is_none_or(|column| column.dims as usize == values.len())
    };
    request.len() < PUT_REQUEST_OBJECTS_MAX
        && request.size_bytes() + row_bytes + 4 * values <= PUT_REQUEST_BYTES
        && object.vectors.iter().all(fits)
}

fn encoded(filter: Option<&Filter>) -> Result<Vec<u8>, ClientError> {
    Ok(filter.map(Filter::encode).transpose()?.unwrap_or_default())
}

/// The outcome of a batch of one.
pub(crate) fn only<T>(mut outcomes: Vec<Result<T, ClientError>>) -> Result<T, ClientError> {
    let missing = || Err(ApiError::unknown("the reply says nothing about this request").into());
    outcomes.pop().unwrap_or_else(missing)
}

/// What a scan lists.
#[derive(Clone, PartialEq, Debug)]
pub struct Scan {
    /// Begin after this id.
    pub after: Option<ObjectId>,
    /// Objects of a page.
    pub page_objects: u32,
    /// Only objects that match.
    pub filter: Option<Filter>,
    /// Which parts of the objects to return.
    pub want: Want,
}

impl Default for Scan {
    fn default() -> Self {
        Self { after: None, page_objects: 100, filter: None, want: Want::ALL }
    }
}

/// A page of a scan.
#[derive(Clone, PartialEq, Debug)]
pub struct Page {
    /// The objects, by id.
    pub objects: Vec<StoredObject>,
    /// Where the next page begins; `None` = this was the last.
    pub next: Option<ObjectId>,
}

/// A scan in progress.
pub struct Scanner {
    collection: Collection,
    scan: Scan,
    is_done: bool,
}

impl Scanner {
    /// The next page with objects; `None` at the end. After an error the same page can be asked for
    /// again.
    ///
    /// Errors: what is wrong with the scan.
    pub async fn next_page(&mut self) -> Result<Option<Vec<StoredObject>>, ClientError> {
        while !self.is_done {
            let page = self.collection.scan_page(&self.scan).await?;
            // A cursor that stands still would list the same page for ever.
            self.is_done = page.next.is_none() || page.next == self.scan.after;
            self.scan.after = page.next;
            if !page.objects.is_empty() {
                return Ok(Some(page.objects));
            }
        }
        Ok(None)
    }
}
