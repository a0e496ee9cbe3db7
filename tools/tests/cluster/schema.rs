//! Schema changes from many clients through all nodes, while leaders die and nodes pause: what the
//! clients saw must be possible one after the other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use heddle_checkers::linear::{Event, Model, Verdict, check};
use heddle_client::{Client, ClientError, ClientOptions};
use heddle_types::{CollectionConfig, ErrorCode};
use rustix::process::Signal;

use crate::harness::Cluster;

const NAMES: usize = 8;
const DEADLINE: Duration = Duration::from_secs(15);
/// Sets of operations that a check of one name may look at.
const SETS_MAX: usize = 20_000_000;

/// What a client did to one name, and what it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Created,
    Exists,
    CreateUnknown,
    Dropped,
    Missing,
    DropUnknown,
    /// At the end, when all is quiet: is it there?
    Seen(bool),
}

/// A name that is taken or not.
struct Name;

impl Model for Name {
    type State = bool;
    type Operation = Step;

    fn start(&self) -> bool {
        false
    }

    fn apply(&self, is_taken: &bool, step: &Step) -> Option<bool> {
        match (step, *is_taken) {
            (Step::Created, false) | (Step::Exists, true) => Some(true),
            (Step::Dropped, true) | (Step::Missing, false) => Some(false),
            (Step::CreateUnknown, _) => Some(true),
            (Step::DropUnknown, _) => Some(false),
            (Step::Seen(seen), is_taken) if *seen == is_taken => Some(is_taken),
            _ => None,
        }
    }
}

fn event(called: u64, returned: Option<u64>, operation: Step) -> Event<Step> {
    Event { called, returned, operation }
}

#[test]
fn the_model_of_a_name_refuses_what_a_cluster_must_not_do() {
    let verdict = |steps: &[Step]| {
        let history: Vec<Event<Step>> = (0..)
            .zip(steps)
            .map(|(number, step)| event(number * 2, Some(number * 2 + 1), *step))
            .collect();
        check(&Name, &history, SETS_MAX)
    };
    use Step::{Created, Dropped, Exists, Missing, Seen};
    assert_eq!(verdict(&[Created, Exists, Dropped, Missing, Created]), Verdict::Linearizable);
    for (why, steps) in [
        ("a change that is forgotten", &[Created, Missing][..]),
        ("a change made twice", &[Created, Dropped, Created, Created]),
        ("a dropped collection that comes back", &[Created, Dropped, Exists]),
        ("an end that nobody made", &[Created, Seen(false)]),
    ] {
        assert!(matches!(verdict(steps), Verdict::Broken { .. }), "{why}");
    }
}

/// SplitMix64: a seed gives the same choices again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

/// What happened, on one clock.
struct Record {
    begun: Instant,
    histories: Vec<RefCell<Vec<Event<Step>>>>,
    /// Moments at which a change was acknowledged, nanoseconds.
    acknowledged: RefCell<Vec<u64>>,
    refused: Cell<u64>,
}

impl Record {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    fn note(&self, name: usize, called: u64, result: Result<Step, ()>) {
        let now = self.now();
        let Ok(step) = result else {
            // Nothing was applied: it says nothing about the name.
            self.refused.set(self.refused.get() + 1);
            return;
        };
        let is_open = matches!(step, Step::CreateUnknown | Step::DropUnknown);
        if matches!(step, Step::Created | Step::Dropped) {
            self.acknowledged.borrow_mut().push(now);
        }
        let returned = (!is_open).then_some(now);
        self.histories[name].borrow_mut().push(event(called, returned, step));
    }
}

fn step_of(
    result: Result<(), ClientError>,
    done: Step,
    code: ErrorCode,
    refused: Step,
    open: Step,
) -> Result<Step, ()> {
    match result {
        Ok(()) => Ok(done),
        Err(ClientError::Api(error)) if error.code == code => Ok(refused),
        Err(ClientError::UnknownOutcome { .. } | ClientError::InvalidReply { .. }) => Ok(open),
        Err(_) => Err(()),
    }
}

async fn client(
    addresses: Rc<Vec<String>>,
    number: usize,
    seed: u64,
    end: Instant,
    record: Rc<Record>,
) {
    let mut random = Random(seed + number as u64);
    let home = number % addresses.len();
    let options = ClientOptions { deadline: DEADLINE, ..ClientOptions::default() };
    let mut connected: Option<Client> = None;
    while Instant::now() < end {
        let client = match &connected {
            Some(client) => client.clone(),
            None => {
                let all = (0..addresses.len())
                    .map(|step| addresses[(home + step) % addresses.len()].clone());
                match Client::connect_with(all, options).await {
                    Ok(client) => connected.insert(client).clone(),
                    Err(_) => continue,
                }
            }
        };
        let name = random.below(NAMES as u64) as usize;
        let text = format!("N{name}");
        let called = record.now();
        let result = if random.below(2) == 0 {
            let config = CollectionConfig { name: text, ..CollectionConfig::default() };
            let created = client.create_collection(&config).await.map(drop);
            let (code, open) = (ErrorCode::CollectionExists, Step::CreateUnknown);
            step_of(created, Step::Created, code, Step::Exists, open)
        } else {
            let dropped = client.drop_collection(&text).await;
            let (code, open) = (ErrorCode::UnknownCollection, Step::DropUnknown);
            step_of(dropped, Step::Dropped, code, Step::Missing, open)
        };
        record.note(name, called, result);
    }
}

/// Kills whoever leads again and again, and pauses another node meanwhile. Returns the moments of
/// the kills.
fn disturb(
    cluster: &mut Cluster,
    random: &mut Random,
    end: Instant,
    record_begun: Instant,
) -> Vec<u64> {
    let mut kills = Vec::new();
    let count = cluster.members.len();
    while Instant::now() + Duration::from_secs(6) < end {
        let asked = (0..count).find(|position| cluster.is_running(*position)).unwrap();
        let leader = cluster.leader(asked);
        let others: Vec<usize> = (0..count).filter(|position| *position != leader).collect();
        let paused = others[random.below(others.len() as u64) as usize];
        kills.push(record_begun.elapsed().as_nanos() as u64);
        cluster.kill(leader);
        std::thread::sleep(Duration::from_millis(2_500 + random.below(1_000)));
        cluster.spawn(leader);
        cluster.wait_ready(leader);
        cluster.signal(paused, Signal::STOP);
        std::thread::sleep(Duration::from_millis(500 + random.below(1_500)));
        cluster.signal(paused, Signal::CONT);
        std::thread::sleep(Duration::from_millis(random.below(1_000)));
    }
    kills
}

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn changes_from_many_clients_are_linearizable_while_leaders_die() {
    let seed = number_from("HEDDLE_SEED", 1);
    let nodes = number_from("HEDDLE_NODES", 3) as usize;
    let clients = number_from("HEDDLE_CLIENTS", 16) as usize;
    let life = Duration::from_secs(number_from("HEDDLE_SECONDS", 20));
    println!("HEDDLE_SEED={seed} HEDDLE_NODES={nodes} HEDDLE_CLIENTS={clients}");
    let mut cluster = Cluster::start("schema", nodes);
    let addresses: Vec<String> = (0..nodes).map(|position| cluster.address(position)).collect();
    let (begun, end) = (Instant::now(), Instant::now() + life);
    let worker = std::thread::spawn(move || {
        let record = Rc::new(Record {
            begun,
            histories: (0..NAMES).map(|_| RefCell::default()).collect(),
            acknowledged: RefCell::default(),
            refused: Cell::new(0),
        });
        let addresses = Rc::new(addresses);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let tasks: Vec<_> = (0..clients)
                .map(|number| {
                    let (addresses, record) = (Rc::clone(&addresses), Rc::clone(&record));
                    tokio::task::spawn_local(client(addresses, number, seed * 1_000, end, record))
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        let record = Rc::into_inner(record).unwrap();
        let histories: Vec<Vec<Event<Step>>> =
            record.histories.into_iter().map(RefCell::into_inner).collect();
        (histories, record.acknowledged.into_inner(), record.refused.get())
    });
    let kills = disturb(&mut cluster, &mut Random(seed), end, begun);
    let (mut histories, acknowledged, refused) = worker.join().unwrap();
    let (epoch, hash) = cluster.agree();
    let now = begun.elapsed().as_nanos() as u64;
    let there = names(&cluster);
    for (name, history) in histories.iter_mut().enumerate() {
        let is_there = there.contains(&format!("N{name}"));
        history.push(event(now, Some(now + 1), Step::Seen(is_there)));
    }
    let gaps = kills.iter().map(|kill| {
        let next = acknowledged.iter().filter(|moment| *moment > kill).min();
        next.map_or(u64::MAX, |next| next - kill)
    });
    let longest = Duration::from_nanos(gaps.max().unwrap_or(0));
    let count: usize = histories.iter().map(Vec::len).sum();
    println!(
        "{count} operations, {} changes acknowledged, {refused} refused unapplied, {} leaders \
         killed, longest time from a kill to the next change {longest:?}, epoch {epoch}, hash \
         {hash}",
        acknowledged.len(),
        kills.len()
    );
    assert!(!kills.is_empty() && acknowledged.len() > 20);
    for (name, history) in histories.iter().enumerate() {
        let verdict = check(&Name, history, SETS_MAX);
        assert_eq!(verdict, Verdict::Linearizable, "name N{name} of {} steps", history.len());
    }
}

fn names(cluster: &Cluster) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = cluster.client(0, DEADLINE).await;
        let collections = client.collections().await.unwrap();
        collections.into_iter().map(|config| config.name).collect()
    })
}
