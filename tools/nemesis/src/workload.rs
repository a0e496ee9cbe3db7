//! What clients do to the cluster, and what they remember of it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use heddle_checkers::set::{Add, Added, Scan as Scanned};
use heddle_checkers::{Action, Operation, Outcome, Seen};
use heddle_client::{
    Client, ClientError, ClientOptions, Collection, Object, PutMode, Scan, Search,
};
use heddle_types::{ObjectId, Properties, Retry, Value};

use crate::Random;

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Workload {
    W1,
    W2,
    W3,
    W4,
}

impl Workload {
    pub(crate) const ALL: [Self; 4] = [Self::W1, Self::W2, Self::W3, Self::W4];
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::W1 => "w1",
            Self::W2 => "w2",
            Self::W3 => "w3",
            Self::W4 => "w4",
        })
    }
}

/// Clients at a time.
pub(crate) const CLIENTS: u64 = 8;
const HOT_KEYS: u64 = 10;
/// Keys of each client of W3 and W4: nobody else writes them.
const OWN_KEYS: u64 = 25;
const DEADLINE: Duration = Duration::from_secs(3);
/// Pause after a failure.
const REST: Duration = Duration::from_millis(5);
/// W1 lists everything once in so many inserts of a client.
const SCAN_EVERY: u64 = 200;
const PAGE_OBJECTS: u32 = 1_000;
pub(crate) const COLLECTION: &str = "Things";

/// Versions of the history: the hybrid time of a stamp, or the number of a client's write.
pub(crate) type Version = u64;

/// What clients remember.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) history: RefCell<Vec<Operation<Version>>>,
    pub(crate) adds: RefCell<Vec<Add>>,
    pub(crate) scans: RefCell<Vec<Scanned>>,
    /// The last acknowledged vector of each key of W4 that no unknown write followed.
    pub(crate) vectors: RefCell<std::collections::BTreeMap<u64, u64>>,
    pub(crate) acknowledged: Cell<u64>,
    pub(crate) operations: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    /// What the last call that failed was told.
    pub(crate) last_error: RefCell<String>,
    values: Cell<u64>,
}

/// A client of one workload.
pub(crate) struct Worker {
    pub(crate) record: Rc<Record>,
    pub(crate) begin: Instant,
    pub(crate) number: u64,
    pub(crate) random: Random,
    pub(crate) copies: u8,
    pub(crate) collection: Collection,
}

/// How a write ended.
enum Fate<T> {
    Done(T),
    Unknown(ClientError),
    NotApplied(ClientError),
}

fn fate<T>(result: Result<T, ClientError>) -> Fate<T> {
    match result {
        Ok(value) => Fate::Done(value),
        Err(ClientError::Api(error)) if error.retry != Retry::MayHaveApplied => {
            Fate::NotApplied(error.into())
        }
        Err(error @ (ClientError::Connection { .. } | ClientError::Timeout { .. })) => {
            Fate::NotApplied(error)
        }
        Err(error) => Fate::Unknown(error),
    }
}

/// The vector of a write: each has one of its own, on a circle, so that it is nearest to itself.
pub(crate) fn vector_of(key: u64, sequence: u64) -> Vec<f32> {
    let mut random = Random(key << 32 ^ sequence);
    (0..8).map(|_| random.below(2_000_001) as f32 / 1_000.0 - 1_000.0).collect()
}

pub(crate) async fn connect(addresses: &[String]) -> Result<Client, ClientError> {
    let options = ClientOptions { deadline: DEADLINE, ..ClientOptions::default() };
    Client::connect_with(addresses.iter().cloned(), options).await
}

impl Worker {
    pub(crate) async fn run(mut self, workload: Workload, end: Instant) {
        let mut turn = 0;
        while Instant::now() < end {
            match workload {
                Workload::W1 => self.insert(turn).await,
                Workload::W2 => self.hot().await,
                Workload::W3 => self.churn(turn).await,
                Workload::W4 => self.vectors(turn).await,
            }
            turn += 1;
        }
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_micros() as u64
    }

    fn next_value(&self) -> u64 {
        let value = self.record.values.get() + 1;
        self.record.values.set(value);
        value
    }

    /// A call has ended.
    async fn count<T>(&self, fate: &Fate<T>) {
        let Record { operations, acknowledged, failed, last_error, .. } = &*self.record;
        operations.set(operations.get() + 1);
        match fate {
            Fate::Done(_) => acknowledged.set(acknowledged.get() + 1),
            Fate::Unknown(error) | Fate::NotApplied(error) => {
                failed.set(failed.get() + 1);
                last_error.replace(error.to_string());
                tokio::time::sleep(REST).await;
            }
        }
    }

    fn object(key: u64, value: u64) -> Object {
        let properties = Properties::from([("value".to_owned(), Value::Int(value as i64))]);
        Object::new(ObjectId::from_row(key))
            .with_properties(properties)
            .with_named_vector("v", vector_of(key, value))
    }

    /// W1: an element that nobody else adds; sometimes all of them are listed.
    async fn insert(&mut self, turn: u64) {
        let element = self.next_value();
        let called = self.now();
        let fate = fate(self.collection.put(Self::object(element, element)).await);
        self.count(&fate).await;
        let added = match fate {
            Fate::Done(_) => Added::At(self.now()),
            Fate::Unknown(_) => Added::Unknown,
            Fate::NotApplied(_) => Added::Refused,
        };
        self.record.adds.borrow_mut().push(Add { element, called, added });
        if turn % SCAN_EVERY == SCAN_EVERY - 1 && self.number == 0 {
            self.scan().await;
        }
    }

    /// Lists everything; one that fails is not remembered.
    pub(crate) async fn scan(&self) -> bool {
        let called = self.now();
        let scan = Scan { page_objects: PAGE_OBJECTS, ..Scan::default() };
        let mut scanner = self.collection.scan(scan);
        let mut elements = Vec::new();
        loop {
            match scanner.next_page().await {
                Ok(Some(page)) => elements.extend(page.iter().map(|object| key_of(object.id))),
                Ok(None) => break,
                Err(_) => return false,
            }
        }
        let returned = self.now();
        self.record.scans.borrow_mut().push(Scanned { called, returned, elements });
        true
    }

    fn remember(&self, key: u64, called: u64, action: Action<Version>) {
        let (client, returned, copies) = (self.number as u32, self.now(), self.copies);
        let operation = Operation { client, key, called, returned, copies, action };
        self.record.history.borrow_mut().push(operation);
    }

    /// W2: a few keys that everybody writes and reads; versions are stamps.
    async fn hot(&mut self) {
        let key = self.random.below(HOT_KEYS);
        let called = self.now();
        if self.random.below(2) == 0 {
            let value = self.next_value();
            let fate = fate(self.collection.put(Self::object(key, value)).await);
            self.count(&fate).await;
            let outcome = match fate {
                Fate::Done(stamp) => Outcome::Done(stamp.0),
                Fate::Unknown(_) => Outcome::Unknown(None),
                Fate::NotApplied(_) => Outcome::NotApplied,
            };
            self.remember(key, called, Action::Put { value, outcome });
        } else {
            self.read(key, |stamp, _| stamp).await;
        }
    }

    /// Reads a key; `version` makes one of the stamp and the value.
    pub(crate) async fn read(&self, key: u64, version: impl Fn(u64, u64) -> Version) -> bool {
        let called = self.now();
        let fate = fate(self.collection.get(ObjectId::from_row(key)).await);
        self.count(&fate).await;
        let Fate::Done(found) = fate else { return false };
        let seen = match found {
            None => Seen::Absent(None),
            Some(object) => {
                let value =
                    object.properties.as_ref().and_then(|properties| properties.get("value"));
                let Some(Value::Int(value)) = value else { return false };
                let value = *value as u64;
                Seen::Value { version: version(object.stamp.0, value), value }
            }
        };
        self.remember(key, called, Action::Read { seen });
        true
    }

    fn own_key(&self, turn: u64) -> u64 {
        1_000 + self.number * OWN_KEYS + turn / 3 % OWN_KEYS
    }

    /// W3: keys of one's own are put, deleted and read in turn. Nobody else writes them, so the
    /// order of the calls is the order of versions.
    async fn churn(&mut self, turn: u64) {
        let key = self.own_key(turn);
        let called = self.now();
        let value = self.next_value();
        match turn % 3 {
            0 => {
                let fate = fate(self.collection.put(Self::object(key, value)).await);
                self.count(&fate).await;
                let outcome = outcome_of(&fate, value);
                self.remember(key, called, Action::Put { value, outcome });
            }
            1 if self.random.below(3) > 0 => {
                let fate = fate(self.collection.delete(ObjectId::from_row(key)).await);
                self.count(&fate).await;
                let outcome = outcome_of(&fate, value);
                self.remember(key, called, Action::Delete { outcome });
            }
            _ => {
                let other = 1_000 + self.random.below(CLIENTS * OWN_KEYS);
                let key = if self.random.below(2) == 0 { key } else { other };
                self.read(key, |_, value| value).await;
            }
        }
    }

    /// W4: batches of objects whose vectors say which write they are.
    async fn vectors(&mut self, turn: u64) {
        let keys: Vec<u64> = (0..5)
            .map(|step| 1_000 + self.number * OWN_KEYS + (turn * 5 + step) % OWN_KEYS)
            .collect();
        let value = self.next_value();
        let objects: Vec<Object> = keys.iter().map(|key| Self::object(*key, value)).collect();
        match self.collection.put_batch(PutMode::Replace, &objects).await {
            Ok(results) => {
                for (key, result) in keys.iter().zip(results) {
                    let fate = fate(result);
                    self.count(&fate).await;
                    self.know(*key, value, &fate);
                }
            }
            Err(error) => {
                let fate: Fate<()> = fate(Err(error));
                self.count(&fate).await;
                keys.iter().for_each(|key| self.know(*key, value, &fate));
            }
        }
    }

    fn know<T>(&self, key: u64, value: u64, fate: &Fate<T>) {
        let mut vectors = self.record.vectors.borrow_mut();
        match fate {
            Fate::Done(_) => drop(vectors.insert(key, value)),
            Fate::Unknown(_) => drop(vectors.remove(&key)),
            Fate::NotApplied(_) => {}
        }
    }

    /// Does a search for the vector of a key's last write find the key first?
    pub(crate) async fn finds(&self, key: u64, value: u64) -> Result<bool, ClientError> {
        let search = Search::near(vector_of(key, value)).in_vector("v").k(1);
        let found = self.collection.search(&search).await?;
        Ok(found.hits.first().is_some_and(|hit| hit.id == ObjectId::from_row(key)))
    }
}

fn outcome_of<T>(fate: &Fate<T>, version: Version) -> Outcome<Version> {
    match fate {
        Fate::Done(_) => Outcome::Done(version),
        Fate::Unknown(_) => Outcome::Unknown(Some(version)),
        Fate::NotApplied(_) => Outcome::NotApplied,
    }
}

pub(crate) fn key_of(id: ObjectId) -> u64 {
    id.as_u128() as u64
}
