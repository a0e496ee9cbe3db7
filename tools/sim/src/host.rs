//! An executor with virtual time and seeded randomness, for Raft.
//!
//! Tasks run in the order in which they were woken. When none can run, time jumps to the next
//! timer, so a minute of timeouts takes no longer than the work in it. Equal seeds give equal runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use heddle_meta::raft::Host;

use crate::Random;

/// The simulated executor of this thread; see [`SimHost::run`].
#[derive(Debug)]
pub struct SimHost;

type TaskNumber = u64;
/// The task of [`SimHost::run`] itself.
const MAIN: TaskNumber = 0;

struct Executor {
    now: Duration,
    random: Random,
    ready: VecDeque<TaskNumber>,
    tasks: BTreeMap<TaskNumber, LocalBoxFuture<'static, ()>>,
    task_next: TaskNumber,
    // Two timers of one instant go off in the order in which they were set.
    timers: BTreeMap<(Duration, u64), Waker>,
    timer_next: u64,
    steps: u64,
}

thread_local! {
    static EXECUTOR: RefCell<Option<Executor>> = const { RefCell::new(None) };
}

fn with<T>(work: impl FnOnce(&mut Executor) -> T) -> T {
    EXECUTOR.with_borrow_mut(|executor| {
        work(executor.as_mut().expect("tasks of a simulation run inside SimHost::run"))
    })
}

struct TaskWaker(TaskNumber);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        EXECUTOR.with_borrow_mut(|executor| {
            // Wakers may outlive their executor.
            let Some(executor) = executor else { return };
            if !executor.ready.contains(&self.0) {
                executor.ready.push_back(self.0);
            }
        });
    }
}

fn waker_of(task: TaskNumber) -> Waker {
    Waker::from(Arc::new(TaskWaker(task)))
}

/// Takes the executor away when the run ends, also by a panic.
struct Installed;

impl Installed {
    fn new(seed: u64) -> Self {
        let executor = Executor {
            now: Duration::ZERO,
            random: Random::new(seed),
            ready: VecDeque::from([MAIN]),
            tasks: BTreeMap::new(),
            task_next: MAIN + 1,
            timers: BTreeMap::new(),
            timer_next: 0,
            steps: 0,
        };
        let before = EXECUTOR.replace(Some(executor));
        assert!(before.is_none(), "a simulation inside a simulation");
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // Tasks wake others when they are dropped, so they go while the executor stands.
        while let Some(task) = with(|executor| executor.tasks.pop_first()) {
            drop(task);
        }
        drop(EXECUTOR.take());
    }
}

impl SimHost {
    /// Runs a future, and the tasks it spawns, until it ends. Equal seeds give equal runs.
    ///
    /// Panics: nothing can run and no timer is set, so the future would never end.
    pub fn run<F: Future>(seed: u64, future: F) -> F::Output {
        let _installed = Installed::new(seed);
        let mut future = std::pin::pin!(future);
        loop {
            match with(next_task) {
                Some(MAIN) => {
                    let polled = future.as_mut().poll(&mut Context::from_waker(&waker_of(MAIN)));
                    if let Poll::Ready(value) = polled {
                        return value;
                    }
                }
                Some(number) => poll_task(number),
                None => assert!(advance(), "every task waits for another"),
            }
        }
    }

    /// Steps of tasks so far in this run: equal in equal runs.
    #[must_use]
    pub fn steps() -> u64 {
        with(|executor| executor.steps)
    }
}

fn next_task(executor: &mut Executor) -> Option<TaskNumber> {
    let number = executor.ready.pop_front()?;
    executor.steps += 1;
    Some(number)
}

fn poll_task(number: TaskNumber) {
    // A task that has ended may still be woken.
    let Some(mut task) = with(|executor| executor.tasks.remove(&number)) else { return };
    if task.as_mut().poll(&mut Context::from_waker(&waker_of(number))).is_pending() {
        with(|executor| executor.tasks.insert(number, task));
    }
}

/// Moves time to the next timer and wakes all that are due then; false when there is none.
fn advance() -> bool {
    let due = with(|executor| {
        let Some((at, _)) = executor.timers.keys().next().copied() else { return Vec::new() };
        executor.now = executor.now.max(at);
        let later = executor.timers.split_off(&(at, u64::MAX));
        let due = std::mem::replace(&mut executor.timers, later);
        due.into_values().collect()
    });
    let is_any = !due.is_empty();
    due.into_iter().for_each(Waker::wake);
    is_any
}

struct Sleep {
    deadline: Duration,
    timer: Option<(Duration, u64)>,
}

impl Sleep {
    fn forget(&mut self) {
        if let Some(timer) = self.timer.take() {
            EXECUTOR.with_borrow_mut(|executor| {
                // A sleep may be dropped after its executor.
                let waker = executor.as_mut().and_then(|executor| executor.timers.remove(&timer));
                drop(waker);
            });
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.forget();
        let deadline = self.deadline;
        let timer = with(|executor| {
            if executor.now >= deadline {
                return None;
            }
            let timer = (deadline, executor.timer_next);
            executor.timer_next += 1;
            executor.timers.insert(timer, context.waker().clone());
            Some(timer)
        });
        self.timer = timer;
        if timer.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Host for SimHost {
    fn now() -> Duration {
        with(|executor| executor.now)
    }

    fn sleep(duration: Duration) -> LocalBoxFuture<'static, ()> {
        // An instant passes even for the shortest sleep, so a loop of sleeps moves time.
        let deadline = Self::now() + duration.max(Duration::from_nanos(1));
        Box::pin(Sleep { deadline, timer: None })
    }

    fn spawn(task: LocalBoxFuture<'static, ()>) {
        with(|executor| {
            let number = executor.task_next;
            executor.task_next += 1;
            executor.tasks.insert(number, task);
            executor.ready.push_back(number);
        });
    }

    fn random() -> u64 {
        with(|executor| executor.random.next_u64())
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        Self::run(0, future)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_jumps_to_the_next_timer_and_tasks_run_in_the_order_of_their_timers() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        let end = SimHost::run(1, async move {
            for (name, seconds) in [("late", 3_600), ("early", 60), ("too", 60)] {
                let seen = Rc::clone(&seen);
                let sleep = SimHost::sleep(SECOND * seconds);
                SimHost::spawn(Box::pin(async move {
                    sleep.await;
                    seen.borrow_mut().push((name, SimHost::now().as_secs()));
                }));
            }
            SimHost::sleep(SECOND * 7_200).await;
            SimHost::now()
        });
        assert_eq!(*order.borrow(), [("early", 60), ("too", 60), ("late", 3_600)]);
        assert_eq!(end, SECOND * 7_200);
    }

    #[test]
    fn equal_seeds_give_equal_random_numbers_and_steps() {
        let run = |seed| {
            SimHost::run(seed, async {
                let sleeps =
                    (0..5).map(|_| SimHost::sleep(SECOND * (SimHost::random() % 9) as u32));
                futures::future::join_all(sleeps).await;
                (SimHost::random(), SimHost::now(), SimHost::steps())
            })
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_dropped_sleep_holds_nobody_up() {
        SimHost::run(1, async {
            let polled = futures::future::poll_immediate(SimHost::sleep(SECOND * 100)).await;
            assert_eq!(polled, None);
            SimHost::sleep(SECOND).await;
            assert_eq!(SimHost::now(), SECOND);
        });
    }
}
