//! Writes that another core stamped: what travels between replicas, and how it takes effect here.
//!
//! Copies of a write may arrive in any order, more than once, and beside other writes to the same
//! object that are in the log and not applied yet. What is there in the end depends on the writes
//! alone: of each object the greatest [`ObjectDigest`] stays. A copy that wins over everything that
//! is applied or on its way is appended; one that does not leaves no record. So the records of an
//! object stand in the log in the order in which they win, and a replay ends where serving did.

use std::rc::Rc;

use heddle_types::limits::{STAMP_AHEAD_US_MAX, TOMBSTONE_AGE_US_MIN};
use heddle_types::{
    ApiError, Clock, Device, ErrorCode, Hlc, ObjectDigest, ObjectId, ShardId, Stamp,
};

use super::error::append_refused;
use super::pending::{Batch, Effect, Outcome, Source};
use super::types::{Durability, ItemVector, PutItem, PutMode, Want};
use super::write::{APPENDS_PER_TURN, Answer, Appended, NewWrite};
use super::yielding::yield_now;
use super::{Engine, ShardCell};
use crate::shard::record::{decode_delete, decode_put, encode_put_head};
use crate::shard::{RecordError, updated_us};
use crate::validate::check_batch;
use crate::wal::WalError;

/// Version of the encoded form.
const VERSION: u8 = 1;
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
/// Bytes of the encoded form before the payload.
const HEAD_BYTES: usize = 4 + Stamp::ENCODED_BYTES;
/// Times that an object is looked for again because it came or went while it was read.
const READ_ATTEMPTS_MAX: usize = 8;

/// One write with the stamp that it has for life.
#[derive(Clone, PartialEq, Debug)]
pub struct StampedWrite {
    /// The object.
    pub id: ObjectId,
    /// Identity and order of the write.
    pub stamp: Stamp,
    /// What it does.
    pub change: StampedChange,
    /// A copy of what a replica has, made by repair, a hint or a fill: its creation time is taken
    /// as it is. A fresh write keeps that of the object it replaces.
    pub exact: bool,
}

/// What a stamped write does.
#[derive(Clone, PartialEq, Debug)]
pub enum StampedChange {
    /// The object becomes this one.
    Put {
        /// When the object was created, microseconds since the Unix epoch.
        created_us: i64,
        /// Vectors, each at most once.
        vectors: Vec<ItemVector>,
        /// Property row; empty for none.
        properties: Vec<u8>,
    },
    /// The object is gone. Remembered also of one that is not there.
    Delete,
}

/// What became of a stamped write. In each case what is said is durable, unless `batched` was
/// asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replicated {
    /// It took effect.
    Applied {
        /// Did the object exist before?
        existed: bool,
        /// Creation time of the object; 0 for a deletion.
        created_us: i64,
    },
    /// It had taken effect before.
    Known {
        /// Did the object exist before that? Of a deletion that is no longer known: true.
        existed: bool,
        /// Creation time of the object; 0 for a deletion.
        created_us: i64,
    },
    /// The object has a version that wins; the write left no trace.
    Superseded {
        /// Stamp of that version.
        newest: Stamp,
    },
}

impl StampedWrite {
    /// Appends the write as it travels between nodes and rests in hints:
    /// `version u8 (1) | kind u8 (1 put, 2 delete) | exact u8 | zero u8 | stamp [32] | payload`,
    /// the payload as in the log.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self.change {
            StampedChange::Put { .. } => KIND_PUT,
            StampedChange::Delete => KIND_DELETE,
        };
        out.extend_from_slice(&[VERSION, kind, u8::from(self.exact), 0]);
        out.extend_from_slice(&self.stamp.encode());
        match &self.change {
            StampedChange::Put { created_us, vectors, properties } => {
                encode_put_head(&self.id, *created_us, vectors, properties.len(), out);
                out.extend_from_slice(properties);
            }
            StampedChange::Delete => out.extend_from_slice(&self.id.0),
        }
    }

    /// Reads what [`StampedWrite::encode`] wrote; the row is not decoded.
    ///
    /// Errors: nothing else is read, and no more is allocated than the bytes hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let wrong = |offset, problem| RecordError { length: bytes.len(), offset, problem };
        let Some((head, payload)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(wrong(0, "ends too early"));
        };
        let ([version, kind, exact, zero], stamp) =
            head.split_first_chunk::<4>().expect("36 bytes hold 4");
        if *version != VERSION {
            return Err(wrong(0, "unknown version"));
        }
        let exact = match (exact, zero) {
            (0, 0) => false,
            (1, 0) => true,
            _ => return Err(wrong(2, "unknown flag")),
        };
        let stamp = Stamp::decode(stamp.first_chunk().expect("32 bytes are left"));
        let behind = |error: RecordError| RecordError {
            length: bytes.len(),
            offset: error.offset + HEAD_BYTES,
            ..error
        };
        match *kind {
            KIND_PUT => {
                let put = decode_put(payload).map_err(behind)?;
                let (created_us, vectors) = (put.created_us, put.vectors);
                let change =
                    StampedChange::Put { created_us, vectors, properties: put.row.to_vec() };
                Ok(Self { id: put.id, stamp, change, exact })
            }
            KIND_DELETE => {
                let id = decode_delete(payload).map_err(behind)?;
                Ok(Self { id, stamp, change: StampedChange::Delete, exact })
            }
            _ => Err(wrong(1, "unknown kind")),
        }
    }
}

/// Where a write stands among those to its object that are applied or in the log.
enum Standing {
    /// It wins over all of them, and gives the object this creation time.
    Newer { created_us: i64, existed: bool },
    /// It does not; here is what to tell about it.
    Settled(Outcome),
    /// It does not win over one that is not durable yet.
    Waits,
    /// Nothing is known of its object, and it is so old that the object may have been deleted.
    Forgotten,
}

/// A write that was checked.
struct Checked {
    id: ObjectId,
    stamp: Stamp,
    /// Creation time that it brings along, and whether that counts in any case.
    created_us: i64,
    exact: bool,
    past: Past,
    write: NewWrite,
}

/// Are writes taken that are older than what all replicas have compared?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Past {
    /// Not unless something is known of their object.
    Refused,
    /// They are: the replica is being filled.
    Taken,
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Applies writes that have stamps; resolves when what it says of each is durable and visible.
    ///
    /// One result a write, in order. An error of a write: it was not applied, unless its code is
    /// `Unknown`; `ClockSkew` when its stamp is more than 500 ms ahead of the clock, `BelowFloor`
    /// when it is older than [`Engine::repaired_through`], three hours old, and nothing is known of
    /// its object. An error of the call: nothing was applied. Writes may come in any order and any
    /// number of times. Needs [`Engine::run_wal`] to be running; what was appended takes effect
    /// also when the future is dropped.
    pub async fn apply_stamped(
        &self,
        shard: ShardId,
        durability: Durability,
        writes: Vec<StampedWrite>,
    ) -> Result<Vec<Result<Replicated, ApiError>>, ApiError> {
        let cell = self.cell(shard)?;
        self.apply_all(&cell, durability, Past::Refused, writes).await
    }

    pub(super) async fn apply_all(
        &self,
        cell: &Rc<ShardCell<D>>,
        durability: Durability,
        past: Past,
        writes: Vec<StampedWrite>,
    ) -> Result<Vec<Result<Replicated, ApiError>>, ApiError> {
        check_batch(writes.len())?;
        self.check_writable(cell)?;
        let memory = self.check_memory();
        let batch = Batch::new(writes.len());
        for (position, write) in writes.into_iter().enumerate() {
            if position % APPENDS_PER_TURN == APPENDS_PER_TURN - 1 {
                yield_now().await;
            }
            let source = Source::Coordinator;
            let answer = Answer { batch: &batch, position, durability, source };
            let applied = match &write.change {
                StampedChange::Put { .. } => memory.clone(),
                StampedChange::Delete => Ok(()),
            };
            let applied = match applied {
                Ok(()) => self.apply_one(cell, past, write, &answer).await,
                Err(refused) => Err(refused),
            };
            if let Err(error) = applied {
                batch.resolve(position, Err(error));
            }
        }
        let results = batch.wait().await.into_iter();
        Ok(results.map(|result| result.map(Replicated::from)).collect())
    }

    async fn apply_one(
        &self,
        cell: &Rc<ShardCell<D>>,
        past: Past,
        write: StampedWrite,
        answer: &Answer<'_>,
    ) -> Result<(), ApiError> {
        let checked = Checked { past, ..self.check_stamped(cell, write)? };
        let (id, stamp) = (checked.id, checked.stamp);
        if matches!(checked.write, NewWrite::Put { .. }) {
            self.rows_fit(cell).await?;
            self.paced(cell).await;
        }
        let may_append = || self.has_room() && !self.is_merging(cell.id, id);
        loop {
            self.inner.settled.wait_until(may_append).await;
            self.check_writable(cell)?;
            let (created_us, existed) = match self.standing(cell, &checked) {
                Standing::Newer { created_us, existed } => (created_us, existed),
                Standing::Settled(outcome) => {
                    answer.batch.resolve(answer.position, Ok(outcome));
                    return Ok(());
                }
                Standing::Forgotten => return Err(below_floor(id)),
                Standing::Waits => {
                    let is_quiet =
                        || self.in_flight(cell.id, id) == 0 || self.inner.state.borrow().failed;
                    self.inner.settled.wait_until(is_quiet).await;
                    continue;
                }
            };
            match self.append_record(cell.id, id, &checked.write, stamp, created_us) {
                Ok((lsn, log_bytes)) => {
                    self.inner.state.borrow_mut().stamps.observe(stamp.hlc);
                    let appended = Appended { lsn, stamp, created_us, existed, log_bytes };
                    self.enqueue(cell.id, id, appended, checked.write, answer);
                    return Ok(());
                }
                Err(WalError::Backlog { .. }) => self.inner.wal.room().await,
                Err(error) => {
                    // The log tries for space again when it gets a turn.
                    yield_now().await;
                    return Err(append_refused(&error));
                }
            }
        }
    }

    /// Refuses what could not be applied: a durable record that cannot is a poisoned shard.
    fn check_stamped(&self, cell: &ShardCell<D>, write: StampedWrite) -> Result<Checked, ApiError> {
        let StampedWrite { id, stamp, change, exact } = write;
        let now_us = self.inner.clock.unix_us();
        if stamp.hlc.unix_us() > now_us.saturating_add(STAMP_AHEAD_US_MAX) {
            let ahead_ms = (stamp.hlc.unix_us() - now_us).div_ceil(1_000);
            let message = format!("the stamp of object {id} is {ahead_ms} ms ahead of the clock");
            return Err(ApiError::transient(ErrorCode::ClockSkew, message));
        }
        match change {
            StampedChange::Delete => {
                let (created_us, write) = (0, NewWrite::Delete);
                Ok(Checked { id, stamp, created_us, exact, past: Past::Refused, write })
            }
            StampedChange::Put { created_us, vectors, properties } => {
                let item = PutItem { id, properties, vectors };
                self.check_item(cell, &item, PutMode::Replace)?;
                self.check_space(cell, id)?;
                let write = NewWrite::Put { vectors: item.vectors, row: item.properties };
                Ok(Checked { id, stamp, created_us, exact, past: Past::Refused, write })
            }
        }
    }

    fn standing(&self, cell: &ShardCell<D>, checked: &Checked) -> Standing {
        let Checked { id, stamp, created_us, exact, ref write, .. } = *checked;
        let busy = self.inner.state.borrow().busy.get(&(cell.id, id)).copied();
        let on_its_way = busy.filter(|busy| busy.in_flight > 0).and_then(|busy| busy.last);
        let known = on_its_way.or_else(|| cell.shard.borrow().digest(&id));
        let live = known.filter(|known| !known.is_tombstone);
        let version = match write {
            NewWrite::Delete => ObjectDigest::tombstone(stamp),
            NewWrite::Put { .. } => {
                let kept_us = live.filter(|_| !exact).map(|live| live.created_us);
                ObjectDigest::live(stamp, kept_us.unwrap_or(created_us))
            }
        };
        let created_us = version.created_us;
        match known {
            Some(known) if known >= version && on_its_way.is_some() => Standing::Waits,
            Some(known) if known == version => {
                let existed = version.is_tombstone || created_us != updated_us(&stamp);
                Standing::Settled(Outcome { stamp, created_us, existed, effect: Effect::Known })
            }
            Some(known) if known > version => {
                let (stamp, effect) = (known.stamp, Effect::Superseded);
                Standing::Settled(Outcome { stamp, created_us, existed: true, effect })
            }
            None if self.is_forgotten(cell, checked) => Standing::Forgotten,
            _ => Standing::Newer { created_us, existed: live.is_some() },
        }
    }

    /// May the object have been deleted and its deletion forgotten?
    fn is_forgotten(&self, cell: &ShardCell<D>, checked: &Checked) -> bool {
        let floor = cell.shard.borrow().floor;
        // A deletion that is younger is remembered wherever it was seen, so a write above this is
        // none that was deleted and forgotten: it was on its way while replicas were compared.
        let old_us = self.inner.clock.unix_us().saturating_sub(TOMBSTONE_AGE_US_MIN);
        let forgotten = floor.repaired_through.min(Hlc::from_unix_us(old_us));
        checked.past == Past::Refused && checked.stamp.hlc < forgotten.max(floor.purged_through)
    }

    /// What is known of each id, in the order asked for: of deleted ones too, `None` of those that
    /// were never here. Only what is durable and visible.
    ///
    /// Errors: `Unavailable` for an unknown shard. Cost: two look-ups an id, no IO.
    pub fn digests(
        &self,
        shard: ShardId,
        ids: &[ObjectId],
    ) -> Result<Vec<Option<ObjectDigest>>, ApiError> {
        check_batch(ids.len())?;
        let cell = self.readable(shard)?;
        let shard = cell.shard.borrow();
        Ok(ids.iter().map(|id| shard.digest(id)).collect())
    }

    /// Exact copies of what is known of each id, deletions too, in the order asked for.
    ///
    /// Errors and cost as for [`Engine::get`] with everything wanted.
    pub async fn read_stamped(
        &self,
        shard: ShardId,
        ids: Vec<ObjectId>,
    ) -> Result<Vec<Option<StampedWrite>>, ApiError> {
        let mut copies = vec![None; ids.len()];
        let mut missing: Vec<usize> = (0..ids.len()).collect();
        for _ in 0..READ_ATTEMPTS_MAX {
            let wanted: Vec<ObjectId> = missing.iter().map(|position| ids[*position]).collect();
            let objects = self.get(shard, &wanted, Want::ALL).await?;
            // What is not there was deleted, or never here; or it was put meanwhile.
            let digests = self.digests(shard, &wanted)?;
            let mut again = Vec::new();
            for ((position, object), digest) in missing.into_iter().zip(objects).zip(digests) {
                let id = ids[position];
                copies[position] = match (object, digest) {
                    (Some(object), _) => Some(StampedWrite {
                        id,
                        stamp: object.stamp,
                        change: StampedChange::Put {
                            created_us: object.created_us,
                            vectors: object.vectors,
                            properties: object.properties,
                        },
                        exact: true,
                    }),
                    (None, Some(ObjectDigest { stamp, is_tombstone: true, .. })) => {
                        Some(StampedWrite { id, stamp, change: StampedChange::Delete, exact: true })
                    }
                    (None, Some(_)) => {
                        again.push(position);
                        None
                    }
                    (None, None) => None,
                };
            }
            if again.is_empty() {
                return Ok(copies);
            }
            missing = again;
        }
        Err(ApiError::internal("objects come and go faster than they are read"))
    }
}

/// The refusal of a write of the past.
fn below_floor(id: ObjectId) -> ApiError {
    let message = format!("object {id} is not known, and the write is older than the last repair");
    ApiError::new(ErrorCode::BelowFloor, message, "")
}

impl From<Outcome> for Replicated {
    fn from(outcome: Outcome) -> Self {
        let Outcome { stamp, created_us, existed, effect } = outcome;
        match effect {
            Effect::Applied => Self::Applied { existed, created_us },
            Effect::Known => Self::Known { existed, created_us },
            Effect::Superseded => Self::Superseded { newest: stamp },
        }
    }
}
