//! A pulse that wakes a sleeping core from outside, whatever else fails to.
//!
//! A fault of the runtime makes it necessary. When the preemption timer of a turn fires before the
//! first task of the turn (the thread lost its CPU for as long as a turn), the runtime takes the
//! turn for idle and sleeps until the next event, with tasks ready to run. On machines with more
//! threads than CPUs that happens often. What would end the sleep may be among the tasks that were
//! not run: a timer, a socket or the bell of the mesh tells its task once, and that task has to
//! come back to it. Cores that started under load slept so for ever.
//!
//! Hence nothing that a task of the core sets up again helps, timers of the operating system
//! included: when a core waits long enough for its CPU, all of them fall due before it runs one
//! task, and are lost together. But the runtime itself looks out for wakers of other threads, and
//! gets ready for the next one before it asks whether to run tasks. So a thread of the process
//! wakes one task of each core again and again. A core that has had nothing to do for a while is
//! woken slowly. When nothing is wrong, it finds nothing to do.

#[cfg(test)]
use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::TaskQueueHandle;
use heddle_types::Clock;

use crate::clock::RealClock;

/// Longest time that a core with work sleeps through a wake-up.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(10);
/// The same for a core without work: 20 beats a second cost less than 0.1 % of it.
pub const HEARTBEAT_INTERVAL_QUIET: Duration = Duration::from_millis(50);
/// Time without events after which a core has no work.
const QUIET_AFTER: Duration = Duration::from_secs(1);

const _: () = assert!(HEARTBEAT_INTERVAL.as_nanos() < HEARTBEAT_INTERVAL_QUIET.as_nanos());

static PULSE: OnceLock<Sender<Order>> = OnceLock::new();

thread_local! {
    static OWN: RefCell<Option<Arc<Heart>>> = const { RefCell::new(None) };
    #[cfg(test)]
    static BEATS: Cell<u64> = const { Cell::new(0) };
}

/// What a core and the pulse share.
#[derive(Debug, Default)]
struct Heart {
    /// Events that came in from outside of the core.
    activity: AtomicU64,
}

/// What the pulse is told.
enum Order {
    Begin { heart: Arc<Heart>, waker: Waker },
    End { heart: Arc<Heart> },
}

/// Says that an event came in from outside of this core.
pub(crate) fn note_activity() {
    OWN.with_borrow(|own| {
        if let Some(heart) = own {
            // This core alone writes it.
            let seen = heart.activity.load(Ordering::Relaxed);
            heart.activity.store(seen.wrapping_add(1), Ordering::Relaxed);
        }
    });
}

/// Starts the beats of the executor that runs on this thread.
pub(crate) fn start(queue: TaskQueueHandle) {
    end();
    let heart = Arc::new(Heart::default());
    OWN.set(Some(Arc::clone(&heart)));
    glommio::spawn_local_into(beat(heart), queue)
        .expect("the queue was created by the caller")
        .detach();
}

/// Ends the beats of this thread's executor: its task is not to be woken once that is gone.
pub(crate) fn end() {
    if let Some(heart) = OWN.take() {
        tell(Order::End { heart });
    }
}

async fn beat(heart: Arc<Heart>) {
    let mut is_known = false;
    poll_fn(|context| {
        #[cfg(test)]
        BEATS.set(BEATS.get() + 1);
        if !std::mem::replace(&mut is_known, true) {
            // A task keeps its waker for life.
            let waker = context.waker().clone();
            tell(Order::Begin { heart: Arc::clone(&heart), waker });
        }
        Poll::<()>::Pending
    })
    .await;
}

fn tell(order: Order) {
    let pulse = PULSE.get_or_init(|| {
        let (sender, inbox) = channel();
        let thread = std::thread::Builder::new().name("pulse".to_owned());
        if let Err(error) = thread.spawn(move || Pulse::default().run(&inbox)) {
            tracing::warn!(%error, "there is no pulse: a lost wake-up may stop a core");
        }
        sender
    });
    // Without its thread nobody is woken.
    let _ = pulse.send(order);
}

/// The thread that wakes the cores of the process.
#[derive(Default)]
struct Pulse {
    cores: Vec<Patient>,
}

struct Patient {
    heart: Arc<Heart>,
    waker: Waker,
    pace: Pace,
    due_ns: u64,
}

impl Pulse {
    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            let order = match self.cores.iter().map(|core| core.due_ns).min() {
                None => inbox.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
                Some(due_ns) => {
                    let wait_ns = due_ns.saturating_sub(RealClock.monotonic_ns());
                    inbox.recv_timeout(Duration::from_nanos(wait_ns))
                }
            };
            match order {
                Ok(order) => self.follow(order),
                Err(RecvTimeoutError::Timeout) => self.beat(RealClock.monotonic_ns()),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Begin { heart, waker } => {
                let pace = Pace::new(RealClock.monotonic_ns());
                self.cores.push(Patient { heart, waker, pace, due_ns: 0 });
            }
            Order::End { heart } => self.cores.retain(|core| !Arc::ptr_eq(&core.heart, &heart)),
        }
    }

    fn beat(&mut self, now_ns: u64) {
        for core in &mut self.cores {
            if core.due_ns > now_ns {
                continue;
            }
            let activity = core.heart.activity.load(Ordering::Relaxed);
            let interval = core.pace.follow(activity, now_ns);
            core.due_ns = now_ns + interval.as_nanos() as u64;
            core.waker.wake_by_ref();
        }
    }
}

/// How fast a core beats.
struct Pace {
    activity: u64,
    // Monotonic nanoseconds.
    active_ns: u64,
}

impl Pace {
    fn new(now_ns: u64) -> Self {
        Self { activity: 0, active_ns: now_ns }
    }

    /// Looks at the events that came so far; the time to the next beat.
    fn follow(&mut self, activity: u64, now_ns: u64) -> Duration {
        if activity != self.activity {
            self.activity = activity;
            self.active_ns = now_ns;
        }
        let idle = Duration::from_nanos(now_ns.saturating_sub(self.active_ns));
        if idle >= QUIET_AFTER { HEARTBEAT_INTERVAL_QUIET } else { HEARTBEAT_INTERVAL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_without_events_beats_slowly_until_the_next_event() {
        let second = 1_000_000_000;
        let mut pace = Pace { activity: 5, active_ns: 0 };
        assert_eq!(pace.follow(5, second / 2), HEARTBEAT_INTERVAL);
        assert_eq!(pace.follow(5, second), HEARTBEAT_INTERVAL_QUIET);
        assert_eq!(pace.follow(5, 9 * second), HEARTBEAT_INTERVAL_QUIET);
        assert_eq!(pace.follow(6, 10 * second), HEARTBEAT_INTERVAL);
    }

    #[test]
    fn the_beats_of_a_core_follow_each_other() {
        crate::run_single(async {
            let before = BEATS.get();
            while BEATS.get() < before + 8 {
                crate::queues::sleep(Duration::from_millis(1)).await;
            }
        })
        .unwrap();
    }

    /// A core that lost its turn runs nothing, so nothing of it may be needed for the next beat.
    #[test]
    fn a_core_that_does_not_answer_is_woken_again_and_again() {
        let (woken, waker) = counting_waker();
        let heart = Arc::new(Heart::default());
        let mut pulse = Pulse::default();
        pulse.follow(Order::Begin { heart: Arc::clone(&heart), waker });
        let started_ns = RealClock.monotonic_ns();
        let interval_ns = HEARTBEAT_INTERVAL_QUIET.as_nanos() as u64;
        for beat in 1..=100_u64 {
            pulse.beat(started_ns + beat * interval_ns);
            assert_eq!(woken.0.load(Ordering::Relaxed), beat);
        }
        pulse.follow(Order::End { heart });
        pulse.beat(started_ns + 200 * interval_ns);
        assert_eq!(woken.0.load(Ordering::Relaxed), 100, "nobody is left");
    }

    #[test]
    fn an_executor_that_ended_is_not_woken_any_more() {
        let ended = crate::run_single(async { OWN.with_borrow(Clone::clone) }).unwrap();
        assert!(ended.is_some(), "it had a heart while it ran");
        assert!(OWN.with_borrow(Option::is_none));
    }

    struct Counter(AtomicU64);

    impl futures::task::ArcWake for Counter {
        fn wake_by_ref(counter: &Arc<Self>) {
            counter.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting_waker() -> (Arc<Counter>, Waker) {
        let counter = Arc::new(Counter(AtomicU64::new(0)));
        (Arc::clone(&counter), futures::task::waker(counter))
    }
}
