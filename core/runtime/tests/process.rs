//! How does a process end: by signals, by a fatal fault, by a panic?
//!
//! Each test runs itself again in a child process and looks at it from outside.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use heddle_runtime::{SignalEvent, SignalSource, fatal, run_single};
use heddle_types::FatalReason;
use rustix::process::{Pid, Signal, kill_process};

const CHILD: &str = "HEDDLE_RUNTIME_TEST_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn start(test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads lines until one is `wanted`; says so when the child ends before.
fn await_line(lines: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the child never said {wanted:?}");
        if line.trim() == wanted {
            return;
        }
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout();
    writeln!(out, "\n{text}").unwrap();
    out.flush().unwrap();
}

#[test]
fn signals_arrive_as_events_and_the_second_end_is_at_once() {
    if is_child() {
        let source = SignalSource::install().unwrap();
        run_single(async {
            let signals = source.listen().unwrap();
            say("ready");
            assert_eq!(signals.next().await.unwrap(), SignalEvent::Reload);
            say("reload");
            assert_eq!(signals.next().await.unwrap(), SignalEvent::Terminate);
            say("draining");
            // A core that hangs: only the handler itself can end the process now.
            loop {
                std::hint::spin_loop();
            }
        })
        .unwrap();
        return;
    }
    let mut child = start("signals_arrive_as_events_and_the_second_end_is_at_once");
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    await_line(&mut lines, "ready");
    send(&child, Signal::HUP);
    await_line(&mut lines, "reload");
    send(&child, Signal::TERM);
    await_line(&mut lines, "draining");
    send(&child, Signal::INT);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(FatalReason::DrainTimeout.exit_code()));
}

#[test]
fn a_fatal_fault_says_one_line_and_ends_with_its_code() {
    if is_child() {
        fatal(FatalReason::WalWrite, "segment 7: no space");
    }
    let mut child = start("a_fatal_fault_says_one_line_and_ends_with_its_code");
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(FatalReason::WalWrite.exit_code()));
    let expected = "fatal: write-ahead log cannot be written (exit code 71): segment 7: no space\n";
    assert_eq!(text, expected);
}

#[test]
fn a_panic_anywhere_ends_the_process_when_that_was_asked_for() {
    if is_child() {
        heddle_runtime::fatal::end_process_on_panic();
        run_single(async {
            heddle_runtime::run_blocking(|| assert!(!is_child(), "planned")).await;
        })
        .unwrap();
        return;
    }
    let mut child = start("a_panic_anywhere_ends_the_process_when_that_was_asked_for");
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(FatalReason::CoreLost.exit_code()), "{text}");
    assert!(text.contains("planned"), "{text}");
}
