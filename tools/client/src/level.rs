//! Calls that say how many replicas must take part, writes that can be sent again as the same
//! write, and writes that depend on what is there.

use heddle_types::{ApiError, Hlc, ObjectId, Stamp};
use heddle_wire::message::{
    Condition, CountAtRequest, DeleteAtReply, DeleteAtRequest, DeleteRequest, Durability,
    GetAtReply, GetAtRequest, GetRequest, PutAtReply, PutAtRequest, PutMode, PutRequest,
    ScanAtRequest, SearchAtRequest, TICKET_BYTES, TICKETS_MAX, TicketsReply, TicketsRequest, Want,
    WriteTerms,
};
use std::collections::BTreeSet;

use crate::call::{Class, Reply, Route, Sendable};
use crate::client::route_of;
use crate::collection::{Collection, Piece, PieceOutcome, encode, home, only};
use crate::error::ClientError;
use crate::object::{Object, StoredObject, stored_objects};

macro_rules! at_level {
    ($class:ident: $($request:ident . $field:ident),*) => {
        $(impl Sendable for $request {
            const CLASS: Class = Class::$class;

            fn set_epoch(&mut self, epoch: u64) {
                self.$field.epoch = epoch;
            }

            fn collection(&self) -> Option<&str> {
                Some(&self.$field.collection)
            }
        })*
    };
}

at_level!(Read: GetAtRequest.get, SearchAtRequest.search, ScanAtRequest.scan, CountAtRequest.count);
at_level!(Write: PutAtRequest.put, DeleteAtRequest.delete);

impl Sendable for TicketsRequest {
    const CLASS: Class = Class::Read;
}

/// Is an id of a request named twice? A ticket is one stamp, so it cannot carry both writes.
fn has_twins(ids: &[u8]) -> bool {
    let (ids, _) = ids.as_chunks::<16>();
    let mut seen = BTreeSet::new();
    !ids.iter().all(|id| seen.insert(id))
}

impl Collection {
    /// Stamps for writes that are about to be sent, one a request; none without tickets.
    async fn tickets(&self, count: usize) -> Result<Vec<Vec<u8>>, ClientError> {
        let mut tickets = Vec::with_capacity(count);
        while self.with_tickets && tickets.len() < count {
            let wanted = (count - tickets.len()).min(TICKETS_MAX) as u32;
            let client = self.client();
            let reply = client.send(Route::LeastLoaded, TicketsRequest { count: wanted }).await?;
            let given: TicketsReply = reply.decode()?;
            if given.tickets.len() != wanted as usize * TICKET_BYTES {
                let message = "tickets";
                return Err(reply.invalid(heddle_wire::MessageError::Layout { message }));
            }
            tickets.extend(given.tickets.chunks(TICKET_BYTES).map(<[u8]>::to_vec));
        }
        Ok(tickets)
    }

    fn terms(&self, durability: Durability, ticket: Option<&Vec<u8>>) -> WriteTerms {
        let ticket = ticket.cloned().unwrap_or_default();
        WriteTerms { ticket, ..WriteTerms::new(self.level, durability) }
    }

    /// Sends puts with their terms.
    pub(crate) async fn put_at(
        &self,
        pieces: Vec<Piece<PutRequest>>,
        durability: Durability,
    ) -> Result<Vec<PieceOutcome<Hlc>>, ClientError> {
        let tickets = self.tickets(pieces.len()).await?;
        let pieces = pieces.into_iter().enumerate().map(|(number, piece)| {
            let is_merge = piece.request.mode == PutMode::Merge as u8;
            let may_have = |_: &&Vec<u8>| !is_merge && !has_twins(&piece.request.ids);
            let terms = self.terms(durability, tickets.get(number).filter(may_have));
            piece.map(|put| PutAtRequest { terms, put })
        });
        let read = |reply: &Reply| Ok(reply.decode::<PutAtReply>()?.put.into_results());
        Ok(self.send_all(pieces.collect(), read).await)
    }

    /// Sends deletions with their terms.
    pub(crate) async fn delete_at(
        &self,
        pieces: Vec<Piece<DeleteRequest>>,
        durability: Durability,
    ) -> Result<Vec<PieceOutcome<bool>>, ClientError> {
        let tickets = self.tickets(pieces.len()).await?;
        let pieces = pieces.into_iter().enumerate().map(|(number, piece)| {
            let ticket = tickets.get(number).filter(|_| !has_twins(&piece.request.ids));
            let terms = self.terms(durability, ticket);
            piece.map(|delete| DeleteAtRequest { terms, delete })
        });
        let read = |reply: &Reply| Ok(reply.decode::<DeleteAtReply>()?.delete.into_results());
        Ok(self.send_all(pieces.collect(), read).await)
    }

    /// Reads an object with the stamp of its version, for [`Condition::StampIs`].
    ///
    /// Errors: as [`Collection::get`].
    pub async fn get_version(
        &self,
        id: ObjectId,
    ) -> Result<Option<(StoredObject, Stamp)>, ClientError> {
        let topology = self.client().topology_with(self.name()).await?;
        let route = home(route_of(&topology, self.name()), &id);
        let (collection, tenant) = self.names();
        let (ids, want) = (id.0.to_vec(), Want::ALL.bits());
        let get = GetRequest { collection, tenant, epoch: 0, ids, want };
        let level = self.level.unwrap_or(heddle_types::Consistency::Quorum);
        let reply = self.client().send(route, GetAtRequest::new(level, get)).await?;
        let read = reply.access::<GetAtReply>()?;
        let objects = stored_objects(&read.get.objects).map_err(|source| reply.invalid(source))?;
        Ok(objects.into_iter().zip(read.stamps()).next())
    }

    /// Writes an object if a condition holds of what is there; returns the stamp of its version.
    ///
    /// Errors: as [`Collection::put`]; `ConditionFailed`, and nothing was written.
    pub async fn put_if(
        &self,
        object: &Object,
        condition: Condition,
    ) -> Result<Stamp, ClientError> {
        let topology = self.client().topology_with(self.name()).await?;
        let route = home(route_of(&topology, self.name()), &object.id);
        let (collection, tenant) = self.names();
        let mut put = PutRequest::new(&collection, &tenant, 0, PutMode::Replace);
        let mut row = Vec::new();
        encode(object, &mut row)?;
        put.push(&object.id, &row);
        for (name, values) in &object.vectors {
            let fits = put.push_vector(name, values);
            assert!(fits, "a request of one object has room for its vectors");
        }
        let tickets = self.tickets(1).await?;
        let mut terms = self.terms(Durability::Sync, tickets.first());
        terms.set_conditions(&[condition]);
        let reply = self.client().send(route, PutAtRequest { terms, put }).await?;
        let results = reply.decode::<PutAtReply>()?.into_results();
        only(results.into_iter().map(|result| result.map_err(ClientError::Api)).collect())
    }

    /// Deletes an object if a condition holds of it; was there one?
    ///
    /// Errors: as [`Collection::delete`]; `ConditionFailed`, and nothing was deleted.
    pub async fn delete_if(&self, id: ObjectId, condition: Condition) -> Result<bool, ClientError> {
        let topology = self.client().topology_with(self.name()).await?;
        let route = home(route_of(&topology, self.name()), &id);
        let (collection, tenant) = self.names();
        let delete = DeleteRequest { collection, tenant, epoch: 0, ids: id.0.to_vec() };
        let tickets = self.tickets(1).await?;
        let mut terms = self.terms(Durability::Sync, tickets.first());
        terms.set_conditions(&[condition]);
        let reply = self.client().send(route, DeleteAtRequest { terms, delete }).await?;
        let results = reply.decode::<DeleteAtReply>()?.delete.into_results();
        let results = results.into_iter().map(|result: Result<bool, ApiError>| Ok(result?));
        only(results.collect())
    }
}
