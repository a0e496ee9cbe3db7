//! Do the cores of a node start, talk to each other and end together?

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heddle_runtime::{
    CoreContext, CorePlan, CoreRole, MeshError, NodeConfig, Queue, Routed, run_node, spawn,
    spawn_joinable, yield_now,
};
use heddle_types::FatalReason;

#[derive(Debug)]
enum Ask {
    Double(u64),
    // Answered by asking the sender to double first.
    DoubleBack(u64),
    Count,
    Counted,
}

impl Routed for Ask {
    fn queue(&self) -> Queue {
        match self {
            Self::Double(_) | Self::DoubleBack(_) => Queue::Search,
            Self::Count | Self::Counted => Queue::Control,
        }
    }
}

type Context = CoreContext<Ask, u64>;

fn config(data_cores: usize) -> NodeConfig {
    let cpus = heddle_runtime::cores::online_cpus();
    // More cores than CPUs are fine for a test: they share.
    let data_cores: Vec<usize> = (0..data_cores).map(|core| cpus[core % cpus.len()]).collect();
    let last = *data_cores.last().unwrap();
    NodeConfig::new(CorePlan {
        data_cores,
        meta: heddle_runtime::MetaPlacement::SharedWithLast(last),
    })
}

fn serve(context: &Context, counted: &Rc<Cell<u64>>) {
    let link = context.link.clone();
    let counted = Rc::clone(counted);
    context.link.serve(move |source, ask| {
        let link = link.clone();
        let counted = Rc::clone(&counted);
        async move {
            match ask {
                Ask::Double(value) => value * 2,
                Ask::DoubleBack(value) => link.call(source, Ask::Double(value)).await.unwrap(),
                Ask::Count => {
                    counted.set(counted.get() + 1);
                    0
                }
                Ask::Counted => counted.get(),
            }
        }
    });
}

/// Runs `work` on core 0 while every core serves; then stops the node.
fn with_node<F>(data_cores: usize, work: impl Fn(Context) -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let finished = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&finished);
    let work = Arc::new(work);
    run_node(&config(data_cores), move |context: Context| {
        let work = Arc::clone(&work);
        let finished = Arc::clone(&counter);
        async move {
            serve(&context, &Rc::new(Cell::new(0)));
            if context.core == 0 {
                work(context.clone()).await;
                finished.fetch_add(1, Ordering::SeqCst);
                context.shutdown.request();
            }
            context.shutdown.requested().await;
        }
    })
    .unwrap();
    assert_eq!(finished.load(Ordering::SeqCst), 1);
}

#[test]
fn every_core_answers_every_core_and_itself() {
    with_node(3, |context| async move {
        assert_eq!((context.core, context.role), (0, CoreRole::Data));
        assert_eq!((context.data_core_count, context.link.cores()), (3, 4));
        for target in 0..context.link.cores() {
            assert_eq!(context.link.call(target, Ask::Double(21)).await, Ok(42));
            assert_eq!(context.link.call(target, Ask::DoubleBack(4)).await, Ok(8));
        }
        assert_eq!(context.link.call_others(|_| Ask::Double(1)).await, Ok(vec![2, 2, 2]));
        let missing = context.link.call(9, Ask::Double(1)).await;
        assert_eq!(missing, Err(MeshError::NoSuchCore { target: 9, cores: 4 }));
    });
}

#[test]
fn cores_that_call_each_other_while_full_all_get_their_replies() {
    let calls = heddle_runtime::mesh::MESH_REQUESTS_QUEUED_MAX * 20;
    with_node(2, move |context| async move {
        // Each call makes the other core call back, so both directions are full at once.
        let tasks: Vec<_> = (0..calls as u64)
            .map(|value| {
                let link = context.link.clone();
                spawn_joinable(Queue::Search, async move {
                    link.call(1, Ask::DoubleBack(value)).await.unwrap()
                })
            })
            .collect();
        for (value, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await, Some(value as u64 * 2));
        }
        let stats = context.link.stats();
        assert_eq!(stats.requests_sent, calls as u64);
        assert_eq!(stats.calls_pending, 0);
        assert!(stats.waits > 0, "the permits of the pair were never used up: {stats:?}");
    });
}

#[test]
fn notices_are_all_worked_on() {
    let notices = heddle_runtime::mesh::MESH_NOTICES_UNFINISHED_MAX as u64 * 5;
    with_node(2, move |context| async move {
        for _ in 0..notices {
            context.link.notify(1, Ask::Count).await.unwrap();
        }
        while context.link.call(1, Ask::Counted).await.unwrap() < notices {
            yield_now().await;
        }
        context.link.notify(0, Ask::Count).await.unwrap();
        while context.link.call(0, Ask::Counted).await.unwrap() < 1 {
            yield_now().await;
        }
    });
}

#[test]
fn a_dropped_call_leaves_nothing_behind() {
    with_node(2, |context| async move {
        for value in 0..1_000 {
            let call = context.link.call(1, Ask::Double(value));
            let mut call = Box::pin(call);
            assert!(futures::FutureExt::now_or_never(&mut call).is_none());
        }
        assert_eq!(context.link.call(1, Ask::Double(3)).await, Ok(6));
        while context.link.stats().calls_pending > 0 {
            yield_now().await;
        }
    });
}

#[test]
fn a_spawned_task_is_not_polled_before_the_spawner_lets_go() {
    heddle_runtime::run_single(async {
        let shared = Rc::new(std::cell::RefCell::new(0));
        let other = Rc::clone(&shared);
        let held = shared.borrow_mut();
        let task = spawn_joinable(Queue::Search, async move {
            *other.borrow_mut() += 1;
        });
        drop(held);
        assert_eq!(task.await, Some(()));
        assert_eq!(*shared.borrow(), 1);
    })
    .unwrap();
}

#[test]
fn a_dropped_task_handle_lets_the_task_run_and_a_cancelled_one_stops() {
    heddle_runtime::run_single(async {
        let (sender, receiver) = futures::channel::oneshot::channel();
        drop(spawn_joinable(Queue::Background, async move {
            yield_now().await;
            sender.send(7).unwrap();
        }));
        assert_eq!(receiver.await, Ok(7));
        let endless = spawn_joinable(Queue::Background, async {
            loop {
                yield_now().await;
            }
        });
        endless.cancel();
        assert_eq!(endless.await, None);
        let slow = heddle_runtime::timeout(Duration::from_millis(1), async {
            std::future::pending::<()>().await;
        });
        assert!(slow.await.is_err());
        spawn(Queue::Wal, async {});
    })
    .unwrap();
}

#[test]
fn a_blocking_job_whose_future_was_dropped_ends_before_its_core() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let ran = heddle_runtime::run_single(async move {
        let mut job = Box::pin(heddle_runtime::run_blocking(move || {
            std::fs::read_dir("/proc").unwrap().count();
            sender.send(5).unwrap();
        }));
        assert!(futures::FutureExt::now_or_never(&mut job).is_none());
    });
    ran.unwrap();
    assert_eq!(receiver.try_recv(), Ok(5));
}

#[test]
fn lookups_that_hang_keep_no_file_from_being_synced() {
    let ran = heddle_runtime::run_single(async {
        let mut hanging = Vec::new();
        for number in 0..5 {
            let (release, released) = std::sync::mpsc::channel();
            let lookup = heddle_runtime::run_lookup(move || {
                released.recv().unwrap();
                number
            });
            hanging.push((release, heddle_runtime::spawn_joinable(Queue::Control, lookup)));
        }
        // The lookups have taken every thread that they can have.
        heddle_runtime::yield_now().await;
        assert_eq!(heddle_runtime::run_blocking(|| 7).await, 7);
        for (number, (release, lookup)) in hanging.into_iter().enumerate() {
            release.send(()).unwrap();
            assert_eq!(lookup.await, Some(number));
        }
    });
    ran.unwrap();
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "threads that take the CPU from the cores under test"
)]
fn cores_that_keep_losing_their_cpu_still_run_what_is_ready() {
    let finished = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let rivals: Vec<_> = (0..2 * heddle_runtime::cores::online_cpus().len())
        .map(|_| {
            let finished = Arc::clone(&finished);
            std::thread::spawn(move || while !finished.load(Ordering::Relaxed) {})
        })
        .collect();
    let mut config = config(2);
    config.plan.meta = heddle_runtime::MetaPlacement::Own(config.plan.data_cores[0]);
    config.spin_before_park = Duration::from_micros(100);
    run_node(&config, |context: Context| async move {
        serve(&context, &Rc::new(Cell::new(0)));
        if context.core == 0 {
            for value in 0..600 {
                let replied = context.link.call(1, Ask::Double(value)).await;
                assert_eq!(replied, Ok(2 * value));
            }
            context.shutdown.request();
        }
        context.shutdown.requested().await;
    })
    .unwrap();
    finished.store(true, Ordering::Relaxed);
    for rival in rivals {
        rival.join().unwrap();
    }
}

// The two ends of a process are seen from outside: the test runs itself in a child process.
const CHILD: &str = "HEDDLE_RUNTIME_TEST_CHILD";

fn child(test: &str) -> Option<std::process::Output> {
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    Some(command.output().unwrap())
}

#[test]
fn a_core_that_ends_by_itself_ends_the_process() {
    let Some(output) = child("a_core_that_ends_by_itself_ends_the_process") else {
        run_node(&config(2), |context: Context| async move {
            if context.core != 1 {
                context.shutdown.requested().await;
            }
        })
        .unwrap();
        unreachable!("the process has ended");
    };
    assert_eq!(output.status.code(), Some(FatalReason::CoreLost.exit_code()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("core data-1 ended by itself"), "{stderr}");
}

#[test]
fn a_core_that_panics_ends_the_process() {
    let Some(output) = child("a_core_that_panics_ends_the_process") else {
        run_node(&config(1), |context: Context| async move {
            assert!(context.role == CoreRole::Meta, "planned");
            context.shutdown.requested().await;
        })
        .unwrap();
        unreachable!("the process has ended");
    };
    assert_eq!(output.status.code(), Some(FatalReason::CoreLost.exit_code()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("core data-0 panicked"), "{stderr}");
}
