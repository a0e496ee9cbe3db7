//! One call: choosing a core, sending, and deciding whether to send again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heddle_types::{ApiError, ErrorCode, Retry};
use heddle_wire::message::{
    BackupBeginRequest, BackupEndRequest, BackupReadRequest, CollectionCreateRequest,
    CollectionDropRequest, CollectionListRequest, CollectionShowRequest, CompareRequest,
    CountRequest, DeleteRequest, DeleteWithRequest, ErrorReply, GetRequest, NodeChangeRequest,
    NodeStatusRequest, PutRequest, PutWithRequest, ScanRequest, SearchRequest,
    TopologyReplicasRequest, decode,
};
use heddle_wire::message::{TenantChangeRequest, TenantListRequest};
use heddle_wire::{AlignedVec, Frame, FrameKind, Request, encode_request};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff;
use crate::error::ClientError;
use crate::limits::{ATTEMPTS_MAX, REFRESH_SHARE};
use crate::topology::{CoreAddress, Topology};
use crate::transport::{Failure, Lease, Pool, ReplyFrame};

/// What a call may do when its outcome is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// Changes nothing: always safe to send again.
    Read,
    /// Idempotent in effect: sent again only when the user asked for it.
    Write,
    /// Not idempotent (a second create fails): never sent again once it may have arrived.
    Schema,
}

/// A request and how to send it.
pub(crate) trait Sendable: Request {
    const CLASS: Class;

    /// Sets the version of the catalog that routed the request; 0 lets the server route it.
    fn set_epoch(&mut self, _epoch: u64) {}

    /// The collection that it is about: a node that holds shards of it has less to forward.
    fn collection(&self) -> Option<&str> {
        None
    }
}

macro_rules! sendable {
    ($class:ident: $($request:ident),*) => {
        $(impl Sendable for $request { const CLASS: Class = Class::$class; })*
    };
    ($class:ident routed: $($request:ident),*) => {
        $(impl Sendable for $request {
            const CLASS: Class = Class::$class;

            fn set_epoch(&mut self, epoch: u64) {
                self.epoch = epoch;
            }

            fn collection(&self) -> Option<&str> {
                Some(&self.collection)
            }
        })*
    };
}

sendable!(Read: TopologyReplicasRequest, CollectionListRequest, CollectionShowRequest);
sendable!(Read: NodeStatusRequest, BackupReadRequest, BackupEndRequest);
sendable!(Schema: CollectionCreateRequest, CollectionDropRequest, BackupBeginRequest);
sendable!(Schema: NodeChangeRequest, TenantChangeRequest);
sendable!(Read: TenantListRequest);
sendable!(Read routed: GetRequest, SearchRequest, ScanRequest, CountRequest, CompareRequest);
sendable!(Write routed: PutRequest, DeleteRequest);

impl Sendable for PutWithRequest {
    const CLASS: Class = Class::Write;

    fn set_epoch(&mut self, epoch: u64) {
        self.put.epoch = epoch;
    }

    fn collection(&self) -> Option<&str> {
        Some(&self.put.collection)
    }
}

impl Sendable for DeleteWithRequest {
    const CLASS: Class = Class::Write;

    fn set_epoch(&mut self, epoch: u64) {
        self.delete.epoch = epoch;
    }

    fn collection(&self) -> Option<&str> {
        Some(&self.delete.collection)
    }
}

/// Where a call goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    /// To this core; later attempts may go to any core of its node.
    Core(CoreAddress),
    /// To the data core with the fewest requests in flight, among those of nodes that hold shards
    /// of the collection as long as one of them answers.
    LeastLoaded,
    /// To the first of the addresses that the client was told of, the next ones and then the nodes
    /// of the topology only while it does not answer: what is asked of a node concerns that node,
    /// and whoever changes a definition sees the change there.
    Told,
}

/// How long calls wait and whether writes are repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOptions {
    pub(crate) deadline: Duration,
    pub(crate) retry_writes: bool,
}

/// What to do about an attempt that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Report it; a write was not applied.
    Fail,
    /// Report it as a write whose outcome is unknown.
    FailUnknown,
    /// Send again after a pause.
    Again,
    /// Fetch the topology, then send again.
    AgainWithNewTopology,
}

/// A request that was not answered with an error: was it sent, and may it be sent again?
fn verdict_on_failure(class: Class, retry_writes: bool, failure: &Failure) -> Verdict {
    let may_repeat = match class {
        Class::Read => true,
        Class::Write => retry_writes,
        Class::Schema => false,
    };
    match (failure.is_timeout, failure.sent) {
        (true, true) if class != Class::Read => Verdict::FailUnknown,
        (true, _) => Verdict::Fail,
        (false, true) if !may_repeat => Verdict::FailUnknown,
        (false, _) => Verdict::AgainWithNewTopology,
    }
}

/// A request that was answered with an error. Only refusals that pass by themselves are waited
/// out; a full disk or memory is the user's affair.
fn verdict_on_error(class: Class, retry_writes: bool, error: &ApiError) -> Verdict {
    match (error.retry, error.code) {
        (Retry::MayHaveApplied, _) if class == Class::Read => Verdict::Again,
        (Retry::MayHaveApplied, _) if class == Class::Write && retry_writes => Verdict::Again,
        (Retry::MayHaveApplied, _) => Verdict::FailUnknown,
        (_, ErrorCode::StaleEpoch) => Verdict::AgainWithNewTopology,
        (Retry::Safe, ErrorCode::Unavailable) => Verdict::AgainWithNewTopology,
        (Retry::Safe, ErrorCode::Overloaded) => Verdict::Again,
        _ => Verdict::Fail,
    }
}

/// What every handle of one client shares.
pub(crate) struct Shared {
    pool: Pool,
    seeds: Vec<String>,
    topology: watch::Sender<Arc<Topology>>,
    refresh: Mutex<()>,
    turns: AtomicU64,
    /// The newest epoch that a server has announced.
    announced: Arc<AtomicU64>,
}

/// A reply of the expected type; its body is not decoded yet.
pub(crate) struct Reply {
    pub(crate) body: AlignedVec<16>,
    pub(crate) address: String,
}

impl Reply {
    pub(crate) fn decode<M: heddle_wire::Body>(&self) -> Result<M, ClientError> {
        decode::<M>(&self.body).map_err(|source| self.invalid(source))
    }

    pub(crate) fn access<M: heddle_wire::Body>(&self) -> Result<&M::Archived, ClientError> {
        heddle_wire::access::<M>(&self.body).map_err(|source| self.invalid(source))
    }

    pub(crate) fn invalid(&self, source: heddle_wire::MessageError) -> ClientError {
        ClientError::InvalidReply { address: self.address.clone(), source }
    }
}

/// One attempt's end, when it is no reply.
enum Miss {
    Failure(Failure),
    Error(ApiError),
    Invalid(ClientError),
}

impl Shared {
    pub(crate) fn new(seeds: Vec<String>) -> Self {
        let announced = Arc::new(AtomicU64::new(0));
        Self {
            pool: Pool::new(Arc::clone(&announced)),
            announced,
            seeds,
            topology: watch::Sender::new(Arc::default()),
            refresh: Mutex::new(()),
            turns: AtomicU64::new(0),
        }
    }

    pub(crate) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// Says that there is a topology of this epoch.
    pub(crate) fn announce(&self, epoch: u64) {
        self.announced.fetch_max(epoch, Ordering::Relaxed);
    }

    /// The topology, fetched before when a server has announced a newer one.
    pub(crate) async fn newest_topology(&self, deadline: Instant) -> Arc<Topology> {
        let topology = self.topology();
        let announced = self.announced.load(Ordering::Relaxed);
        if announced <= topology.epoch.0 {
            return topology;
        }
        // Without the new topology the old one does: servers forward.
        let _ = self.refresh(&topology, deadline).await;
        let topology = self.topology();
        if topology.epoch.0 < announced {
            // Who announced it is gone. Asking before every call would find nothing either.
            let (seen, known) = (Ordering::Relaxed, topology.epoch.0);
            let _ = self.announced.compare_exchange(announced, known, seen, seen);
        }
        topology
    }

    /// Sends a request until it is answered, it fails for good, or its deadline passes.
    pub(crate) async fn call<M: Sendable>(
        &self,
        route: Route,
        options: CallOptions,
        mut message: M,
    ) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + options.deadline;
        let mut topology = self.newest_topology(deadline).await;
        message.set_epoch(topology.epoch.0);
        let mut frame = Arc::new(encode_request(0, 0, &message).map_err(ApiError::from)?);
        let mut may_have_applied = false;
        let mut attempt = 1;
        // Where the last attempt failed: another replica is asked next, if there is one.
        let mut avoided = None;
        loop {
            let collection = message.collection();
            let is_replicated = collection
                .and_then(|name| topology.collections.get(name))
                .is_some_and(|route| route.is_replicated);
            let (address, node) = self.choose(&topology, route, collection, (attempt, avoided));
            let miss = match self.attempt::<M>(&address, &frame, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(miss) => miss,
            };
            let (verdict, error) = match miss {
                Miss::Invalid(error) => return Err(error),
                Miss::Failure(failure) => {
                    may_have_applied |= failure.sent && M::CLASS != Class::Read;
                    let verdict = verdict_on_failure(M::CLASS, options.retry_writes, &failure);
                    (verdict, failure.error)
                }
                Miss::Error(error) => {
                    // Whatever a later attempt is answered with, this one may have done its work.
                    may_have_applied |=
                        error.retry == Retry::MayHaveApplied && M::CLASS != Class::Read;
                    let verdict = verdict_on_error(M::CLASS, options.retry_writes, &error);
                    (verdict, ClientError::Api(error))
                }
            };
            let pause = backoff::pause(attempt, self.turns.fetch_add(1, Ordering::Relaxed));
            let is_last = attempt == ATTEMPTS_MAX || Instant::now() + pause >= deadline;
            if is_last || matches!(verdict, Verdict::Fail | Verdict::FailUnknown) {
                let is_unknown = may_have_applied || verdict == Verdict::FailUnknown;
                return Err(if is_unknown { ClientError::unknown(error) } else { error });
            }
            let is_stale = error.code() == Some(ErrorCode::StaleEpoch);
            if !is_stale {
                sleep(pause).await;
            }
            avoided = node.filter(|_| is_replicated && !is_stale);
            if verdict == Verdict::AgainWithNewTopology && !(is_replicated && attempt == 1) {
                // Without a new topology the old one and the seeds are tried.
                let _ = self.refresh(&topology, deadline).await;
                topology = self.topology();
            }
            if is_stale {
                // Wherever the objects live now, the server forwards what claims no route.
                message.set_epoch(0);
                frame = Arc::new(encode_request(0, 0, &message).map_err(ApiError::from)?);
            }
            attempt += 1;
        }
    }

    async fn attempt<M: Sendable>(
        &self,
        address: &str,
        frame: &Arc<Frame>,
        deadline: Instant,
    ) -> Result<Reply, Miss> {
        let lease = self.lease(address, deadline).await.map_err(Miss::Failure)?;
        let reply = lease.connection.call(frame, deadline).await.map_err(Miss::Failure)?;
        let address = lease.connection.address().to_owned();
        let ReplyFrame { header, body } = reply;
        let reply = Reply { body, address };
        match header.kind() {
            FrameKind::Reply(kind) if kind == M::TYPE => Ok(reply),
            FrameKind::Error => match reply.decode::<ErrorReply>() {
                Ok(error) => Err(Miss::Error(error.into())),
                Err(error) => Err(Miss::Invalid(error)),
            },
            _ => {
                let number = header.type_number;
                let source = heddle_wire::MessageError::UnknownType { number };
                Err(Miss::Invalid(reply.invalid(source)))
            }
        }
    }

    async fn lease(&self, address: &str, deadline: Instant) -> Result<Lease, Failure> {
        self.pool.lease(address, deadline).await.map_err(|error| {
            let is_timeout = matches!(error, ClientError::Timeout { .. });
            Failure { sent: false, is_timeout, error }
        })
    }

    /// The address of an attempt: the wished core first, then the node's common port, in turns, so
    /// that a client behind a forwarded common port works too. A node that does not answer is asked
    /// through the others, which forward what is not theirs.
    fn choose(
        &self,
        topology: &Topology,
        route: Route,
        collection: Option<&str>,
        (attempt, avoided): (u32, Option<usize>),
    ) -> (String, Option<usize>) {
        let is_there = |core: CoreAddress| {
            let address = topology.address_of(core);
            avoided != Some(core.node)
                && address.is_some_and(|address| attempt <= 2 || !self.pool.is_down(address))
        };
        let core = match route {
            Route::Told => {
                let known = topology.nodes.iter().map(|node| &node.native_address);
                let told: Vec<&String> = self.seeds.iter().chain(known).collect();
                let is_up = |address: &&String| !self.pool.is_down(address);
                let turn = (attempt as usize).saturating_sub(1) % told.len();
                let chosen = told.iter().find(|told| is_up(told)).unwrap_or(&told[turn]);
                return (chosen.to_string(), None);
            }
            Route::Core(core) if is_there(core) => Some(core),
            _ => self.least_loaded(topology, collection, avoided),
        };
        let Some(core) = core else {
            return (self.seeds[attempt as usize % self.seeds.len()].clone(), None);
        };
        let node = Some(core.node);
        if attempt.is_multiple_of(2) {
            return (topology.nodes[core.node].native_address.clone(), node);
        }
        (topology.address_of(core).unwrap_or(&self.seeds[0]).to_owned(), node)
    }

    fn least_loaded(
        &self,
        topology: &Topology,
        collection: Option<&str>,
        avoided: Option<usize>,
    ) -> Option<CoreAddress> {
        let route = collection.and_then(|name| topology.collections.get(name));
        let holds = |node| {
            route.is_none_or(|it| it.nodes.is_empty() || it.nodes.binary_search(&node).is_ok())
        };
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) as usize;
        let count = topology.cores().count();
        // Equal cores take turns: the one that `turn` points at comes first.
        let ranked = topology.cores().enumerate().min_by_key(|(index, core)| {
            let address = topology.address_of(*core).unwrap_or_default();
            let place = (index + count - turn % count) % count;
            let is_down = self.pool.is_down(address);
            let is_avoided = avoided == Some(core.node);
            (is_avoided, is_down, !holds(core.node), self.pool.in_flight(address), place)
        });
        ranked.map(|(_, core)| core)
    }

    /// Fetches the topology unless another caller has done so since `seen` was taken.
    ///
    /// Nodes may know of it at different times: the first one is believed that knows as much as was
    /// seen or announced, else the one that knows most. Errors: no address answered; the old
    /// topology stays.
    pub(crate) async fn refresh(
        &self,
        seen: &Arc<Topology>,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let turn = timeout_at(deadline, self.refresh.lock()).await;
        let _turn = turn.map_err(|_late| ClientError::Timeout { after: Duration::ZERO })?;
        if !Arc::ptr_eq(seen, &self.topology()) {
            return Ok(());
        }
        let message = TopologyReplicasRequest { known_epoch: 0 };
        let frame = Arc::new(encode_request(0, 0, &message).map_err(ApiError::from)?);
        let expected = self.announced.load(Ordering::Relaxed).max(seen.epoch.0);
        let (mut last, mut best) = (None, None::<Topology>);
        for address in self.addresses(seen) {
            // One that hangs must not cost the others their turn.
            let until = deadline.min(Instant::now() + REFRESH_SHARE);
            match self.attempt::<TopologyReplicasRequest>(&address, &frame, until).await {
                Ok(reply) => {
                    let topology = Topology::from_reply(reply.decode()?, &reply.address)
                        .map_err(|source| reply.invalid(source))?;
                    let is_new_enough = topology.epoch.0 >= expected;
                    if best.as_ref().is_none_or(|best| topology.epoch > best.epoch) {
                        best = Some(topology);
                    }
                    if is_new_enough {
                        break;
                    }
                }
                Err(Miss::Failure(failure)) => last = Some(failure.error),
                Err(Miss::Error(error)) => last = Some(error.into()),
                Err(Miss::Invalid(error)) => last = Some(error),
            }
        }
        if let Some(topology) = best {
            self.topology.send_replace(Arc::new(topology));
            return Ok(());
        }
        Err(last.unwrap_or_else(|| ClientError::argument("no address given", "host:port")))
    }

    /// Where to ask for the topology: each address once, those that do not answer last.
    fn addresses(&self, seen: &Topology) -> Vec<String> {
        let known = seen.nodes.iter().map(|node| &node.native_address).chain(&self.seeds);
        let mut addresses: Vec<String> = Vec::new();
        for address in known {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses.sort_by_key(|address| self.pool.is_down(address));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(sent: bool, is_timeout: bool) -> Failure {
        let error = ClientError::Timeout { after: Duration::ZERO };
        Failure { sent, is_timeout, error }
    }

    #[test]
    fn only_what_is_safe_is_sent_again_after_a_lost_connection() {
        use Class::{Read, Schema, Write};
        use Verdict::{AgainWithNewTopology, Fail, FailUnknown};
        for (class, retry_writes, sent, is_timeout, expected) in [
            (Read, false, false, false, AgainWithNewTopology),
            (Read, false, true, false, AgainWithNewTopology),
            (Read, true, true, true, Fail),
            (Write, false, false, false, AgainWithNewTopology),
            (Write, false, true, false, FailUnknown),
            (Write, true, true, false, AgainWithNewTopology),
            (Write, false, false, true, Fail),
            (Write, false, true, true, FailUnknown),
            (Write, true, true, true, FailUnknown),
            (Schema, true, false, false, AgainWithNewTopology),
            (Schema, true, true, false, FailUnknown),
            (Schema, true, true, true, FailUnknown),
        ] {
            let verdict = verdict_on_failure(class, retry_writes, &failure(sent, is_timeout));
            assert_eq!(verdict, expected, "{class:?} {retry_writes} {sent} {is_timeout}");
        }
    }

    #[test]
    fn only_refusals_that_pass_are_sent_again() {
        for code in ErrorCode::ALL {
            let never = ApiError::new(code, "", "");
            let expected = match code {
                ErrorCode::StaleEpoch => Verdict::AgainWithNewTopology,
                _ => Verdict::Fail,
            };
            assert_eq!(verdict_on_error(Class::Write, true, &never), expected, "{code}");
            let safe = ApiError::transient(code, "");
            let expected = match code {
                ErrorCode::StaleEpoch | ErrorCode::Unavailable => Verdict::AgainWithNewTopology,
                ErrorCode::Overloaded => Verdict::Again,
                _ => Verdict::Fail,
            };
            assert_eq!(verdict_on_error(Class::Schema, false, &safe), expected, "{code}");
        }
        let unknown = ApiError::unknown("");
        assert_eq!(verdict_on_error(Class::Read, false, &unknown), Verdict::Again);
        assert_eq!(verdict_on_error(Class::Write, true, &unknown), Verdict::Again);
        assert_eq!(verdict_on_error(Class::Write, false, &unknown), Verdict::FailUnknown);
        assert_eq!(verdict_on_error(Class::Schema, true, &unknown), Verdict::FailUnknown);
    }
}
