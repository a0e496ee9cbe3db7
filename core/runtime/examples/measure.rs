//! What the runtime costs on this machine: messages between cores, blocking jobs, direct IO.
//!
//! `cargo run --release -p heddle-runtime --example measure -- <directory on the data disk>`

#![expect(clippy::print_stdout, reason = "a measuring tool reports on standard output")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails has no result")]

use std::path::PathBuf;
use std::time::Duration;

use glommio::channels::shared_channel;
use glommio::{LocalExecutorBuilder, Placement};
use heddle_runtime::{
    CoreContext, CorePlan, GlommioDevice, MetaPlacement, NodeConfig, Queue, RealClock, Routed,
    run_blocking, run_node, run_single, spawn_joinable,
};
use heddle_types::{AlignedBuf, Clock, Device, DeviceFile, OpenMode};

const ROUNDS: usize = 20_000;

struct Ping;

impl Routed for Ping {
    fn queue(&self) -> Queue {
        Queue::Search
    }
}

fn now_ns() -> u64 {
    RealClock.monotonic_ns()
}

fn report(name: &str, mut samples_ns: Vec<u64>) {
    samples_ns.sort_unstable();
    let at = |share: usize| samples_ns[(samples_ns.len() - 1) * share / 1_000] as f64 / 1_000.0;
    println!("{name:<44} p50 {:9.1} us  p99 {:9.1} us", at(500), at(990));
}

fn mesh_on(cpus: [usize; 2], spin: Duration, name: &'static str) {
    let plan = CorePlan { data_cores: vec![cpus[0]], meta: MetaPlacement::Own(cpus[1]) };
    let mut config = NodeConfig::new(plan);
    config.spin_before_park = spin;
    run_node(&config, move |context: CoreContext<Ping, ()>| async move {
        context.link.serve(|_, _| async {});
        if context.core == 0 {
            one_at_a_time(&context, name).await;
            many_at_once(&context, name).await;
            context.shutdown.request();
        }
        context.shutdown.requested().await;
    })
    .unwrap();
}

async fn one_at_a_time(context: &CoreContext<Ping, ()>, name: &str) {
    let mut samples = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = now_ns();
        context.link.call(1, Ping).await.unwrap();
        samples.push(now_ns() - start);
    }
    report(&format!("mesh call and reply, {name}"), samples);
}

async fn many_at_once(context: &CoreContext<Ping, ()>, name: &str) {
    let before = context.link.stats();
    let start = now_ns();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let link = context.link.clone();
            spawn_joinable(Queue::Search, async move {
                for _ in 0..ROUNDS / 16 {
                    link.call(1, Ping).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let seconds = (now_ns() - start) as f64 / 1e9;
    let after = context.link.stats();
    let calls = (after.requests_sent - before.requests_sent) as f64;
    let packets = (after.packets_received - before.packets_received) as f64;
    let drains = (after.drains - before.drains) as f64;
    println!(
        "mesh, 64 callers, {name:<26} {:.0} calls/s, {:.1} packets a wake-up",
        calls / seconds,
        packets / drains
    );
}

// The same ping over the runtime's own channels, for comparison.
fn shared_channel_on(cpus: [usize; 2], spin: Duration, name: &str) {
    let (ask, asked) = shared_channel::new_bounded::<u64>(256);
    let (answer, answered) = shared_channel::new_bounded::<u64>(256);
    let builder = |cpu| {
        LocalExecutorBuilder::new(Placement::Fixed(cpu)).spin_before_park(spin).io_memory(1 << 16)
    };
    let near = builder(cpus[0])
        .spawn(move || async move {
            let (ask, answered) = (ask.connect().await, answered.connect().await);
            let mut samples = Vec::with_capacity(ROUNDS);
            for round in 0..ROUNDS as u64 {
                let start = now_ns();
                ask.send(round).await.unwrap();
                answered.recv().await.unwrap();
                samples.push(now_ns() - start);
            }
            samples
        })
        .unwrap();
    let far = builder(cpus[1])
        .spawn(move || async move {
            let (asked, answer) = (asked.connect().await, answer.connect().await);
            while let Some(round) = asked.recv().await {
                answer.send(round).await.unwrap();
            }
        })
        .unwrap();
    report(&format!("shared channel there and back, {name}"), near.join().unwrap());
    far.join().unwrap();
}

async fn blocking_jobs() {
    let mut samples = Vec::new();
    for _ in 0..2_000 {
        let start = now_ns();
        run_blocking(|| ()).await;
        samples.push(now_ns() - start);
    }
    report("blocking job", samples);
}

async fn write_and_sync(file: &impl DeviceFile, name: &str, page_bytes: usize) {
    let mut buffer = AlignedBuf::zeroed(page_bytes);
    let (mut writes, mut syncs) = (Vec::new(), Vec::new());
    for round in 0..400_u64 {
        buffer.as_mut_slice()[0] = round.to_le_bytes()[0];
        let start = now_ns();
        buffer = file.write_at(round * page_bytes as u64, buffer).await.unwrap();
        let written = now_ns();
        file.sync().await.unwrap();
        writes.push(written - start);
        syncs.push(now_ns() - written);
    }
    report(&format!("write {page_bytes} bytes, {name}"), writes);
    report(&format!("sync after {page_bytes} bytes, {name}"), syncs);
}

async fn disk(directory: PathBuf) {
    let device = GlommioDevice::new(&directory).unwrap();
    let _ = device.remove_tree("measure").await;
    device.create_dir("measure").await.unwrap();
    let length = 256 << 20;
    let file = device.open("measure/allocated", OpenMode::CreateNew).await.unwrap();
    let start = now_ns();
    file.allocate(length).await.unwrap();
    let seconds = (now_ns() - start) as f64 / 1e9;
    println!("allocate 256 MiB: {:.0} MB/s", length as f64 / 1e6 / seconds);
    write_and_sync(&file, "allocated", 4096).await;
    write_and_sync(&file, "allocated", 64 << 10).await;
    let growing = device.open("measure/growing", OpenMode::CreateNew).await.unwrap();
    write_and_sync(&growing, "growing", 4096).await;
    for in_flight in [1, 4, 16] {
        let start = now_ns();
        file.read_pieces(length, 1 << 20, in_flight, |_, piece| drop(piece)).await.unwrap();
        let seconds = (now_ns() - start) as f64 / 1e9;
        println!(
            "read 1 MiB pieces, {in_flight:>2} in flight: {:.0} MB/s",
            length as f64 / 1e6 / seconds
        );
    }
    growing.close().await.unwrap();
    file.close().await.unwrap();
    let start = now_ns();
    device.sync_dir("measure").await.unwrap();
    println!("sync of a directory: {:.0} us", (now_ns() - start) as f64 / 1e3);
    device.remove_tree("measure").await.unwrap();
}

// What cores without work cost.
fn idle_on(cpus: [usize; 2]) {
    let plan = CorePlan { data_cores: vec![cpus[0]], meta: MetaPlacement::Own(cpus[1]) };
    let cpu_ns = || {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        used.tv_sec * 1_000_000_000 + used.tv_nsec
    };
    let before = cpu_ns();
    run_node(&NodeConfig::new(plan), |context: CoreContext<Ping, ()>| async move {
        if context.core == 0 {
            heddle_runtime::sleep(Duration::from_secs(3)).await;
            context.shutdown.request();
        }
        context.shutdown.requested().await;
    })
    .unwrap();
    let share = (cpu_ns() - before) as f64 / 3e9 / 2.0;
    println!("an idle core: {:.2} % of a CPU", share * 100.0);
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let only = arguments.next().map(|part| part.to_string_lossy().into_owned());
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let cpus = heddle_runtime::cores::online_cpus();
    let pair = [cpus[0], *cpus.last().unwrap()];
    for (spin, name) in [(Duration::ZERO, "parked"), (Duration::from_micros(100), "spinning")] {
        if wanted("mesh") || wanted(name) {
            mesh_on(pair, spin, name);
        }
        if wanted("channel") {
            shared_channel_on(pair, spin, name);
        }
    }
    if wanted("idle") {
        idle_on(pair);
    }
    run_single(async {
        if wanted("blocking") {
            blocking_jobs().await;
        }
        if wanted("disk") {
            disk(directory).await;
        }
    })
    .unwrap();
}
