//! Are hints bounded, sent one batch at a time, and held back while nobody can take them?

use heddle_replication::{Admission, HintEffect, HintEvent, HintLimits, HintPolicy};
use heddle_types::{Hlc, NodeId, Stamp};

const DISK_BYTES: u64 = 100_000;

fn limits() -> HintLimits {
    HintLimits {
        age_us_max: 1_000_000,
        target_bytes_max: 10_000,
        disk_percent_max: 15,
        batch_bytes_max: 1_000,
        bytes_per_second_max: 10_000,
        pause_us_min: 100,
        pause_us_max: 350,
    }
}

fn node(number: u64) -> NodeId {
    NodeId::from(number)
}

fn feed(policy: &mut HintPolicy, now_us: u64, event: HintEvent) -> Vec<HintEffect> {
    let mut effects = Vec::new();
    policy.handle(now_us, event, &mut effects);
    effects
}

fn deliver(number: u64) -> HintEffect {
    HintEffect::Deliver { target: node(number), bytes_max: 1_000 }
}

#[test]
fn a_node_has_its_share_and_all_of_them_have_a_share_of_the_disk() {
    let mut policy = HintPolicy::new(limits());
    let mut admit = |target, bytes| policy.admit(0, node(target), bytes, DISK_BYTES);
    assert_eq!(admit(1, 10_000), Admission::Keep);
    assert_eq!(admit(1, 1), Admission::Drop);
    assert_eq!(admit(2, 5_001), Admission::Drop);
    assert_eq!(admit(2, 5_000), Admission::Keep);
    assert_eq!(admit(3, u64::MAX), Admission::Drop);
    assert_eq!(policy.waiting_bytes(node(1)), 10_000);
    assert_eq!(policy.waiting_bytes(node(9)), 0);
    // What was delivered makes room.
    let left = HintEvent::Waiting { target: node(1), bytes: 0, oldest_us: None };
    assert_eq!(feed(&mut policy, 0, left), []);
    assert_eq!(policy.admit(0, node(1), 10_000, DISK_BYTES), Admission::Keep);
}

#[test]
fn one_batch_at_a_time_goes_to_a_node_that_lives_and_no_faster_than_allowed() {
    let mut policy = HintPolicy::new(limits());
    assert_eq!(policy.admit(0, node(1), 3_000, DISK_BYTES), Admission::Keep);
    assert_eq!(feed(&mut policy, 0, HintEvent::Due), []);
    assert_eq!(feed(&mut policy, 0, HintEvent::Up { target: node(1) }), [deliver(1)]);
    assert_eq!(feed(&mut policy, 10, HintEvent::Up { target: node(1) }), []);
    assert_eq!(feed(&mut policy, 10, HintEvent::Due), []);
    assert_eq!(policy.deadline(), None, "the delivery is waited for");
    let delivered = HintEvent::Delivered { target: node(1), bytes: 1_000 };
    assert_eq!(feed(&mut policy, 20, delivered), []);
    let left = HintEvent::Waiting { target: node(1), bytes: 2_000, oldest_us: Some(5) };
    assert_eq!(feed(&mut policy, 20, left), []);
    assert_eq!(policy.deadline(), Some(20 + 100_000), "1,000 of 10,000 bytes a second");
    assert_eq!(feed(&mut policy, 100_019, HintEvent::Due), []);
    assert_eq!(feed(&mut policy, 100_020, HintEvent::Due), [deliver(1)]);
}

#[test]
fn failures_pause_longer_and_longer_until_one_succeeds_or_the_node_comes_anew() {
    let mut policy = HintPolicy::new(limits());
    assert_eq!(policy.admit(0, node(1), 3_000, DISK_BYTES), Admission::Keep);
    assert_eq!(feed(&mut policy, 0, HintEvent::Up { target: node(1) }), [deliver(1)]);
    let mut now_us = 0;
    for pause_us in [100, 200, 350, 350] {
        assert_eq!(feed(&mut policy, now_us, HintEvent::Failed { target: node(1) }), []);
        assert_eq!(policy.deadline(), Some(now_us + pause_us));
        now_us += pause_us;
        assert_eq!(feed(&mut policy, now_us, HintEvent::Due), [deliver(1)]);
    }
    feed(&mut policy, now_us, HintEvent::Failed { target: node(1) });
    feed(&mut policy, now_us, HintEvent::Down { target: node(1) });
    assert_eq!(feed(&mut policy, now_us + 350, HintEvent::Due), [], "nobody is there");
    assert_eq!(feed(&mut policy, now_us + 350, HintEvent::Up { target: node(1) }), [deliver(1)]);
    feed(&mut policy, now_us + 350, HintEvent::Failed { target: node(1) });
    assert_eq!(policy.deadline(), Some(now_us + 350 + 100), "it is forgiven what was before");
}

#[test]
fn what_waits_too_long_goes_whether_or_not_the_node_lives() {
    let mut policy = HintPolicy::new(limits());
    assert_eq!(policy.admit(7, node(1), 50, DISK_BYTES), Admission::Keep);
    assert_eq!(policy.admit(9, node(1), 50, DISK_BYTES), Admission::Keep);
    assert_eq!(policy.deadline(), Some(1_000_007));
    assert_eq!(feed(&mut policy, 1_000_006, HintEvent::Due), []);
    let expire = HintEffect::Expire { target: node(1), before_us: 8 };
    assert_eq!(feed(&mut policy, 1_000_007, HintEvent::Due), [expire]);
    assert_eq!(feed(&mut policy, 1_000_008, HintEvent::Due), [], "said once");
    let left = HintEvent::Waiting { target: node(1), bytes: 50, oldest_us: Some(9) };
    assert_eq!(feed(&mut policy, 1_000_008, left), []);
    assert_eq!(policy.deadline(), Some(1_000_009));
}

#[test]
fn what_cannot_be_dropped_is_tried_again_after_a_pause() {
    let mut policy = HintPolicy::new(limits());
    assert_eq!(policy.admit(0, node(1), 50, DISK_BYTES), Admission::Keep);
    let mut now_us = 1_000_000;
    let stays = HintEvent::Waiting { target: node(1), bytes: 50, oldest_us: Some(0) };
    for pause_us in [100, 200, 350] {
        let expire = HintEffect::Expire { target: node(1), before_us: now_us + 1 - 1_000_000 };
        assert_eq!(feed(&mut policy, now_us, HintEvent::Due), [expire]);
        assert_eq!(feed(&mut policy, now_us, HintEvent::Up { target: node(1) }), [], "one thing");
        assert_eq!(feed(&mut policy, now_us, HintEvent::Failed { target: node(1) }), []);
        assert_eq!(feed(&mut policy, now_us, stays), []);
        assert_eq!(policy.deadline(), Some(now_us + pause_us));
        now_us += pause_us;
    }
}

#[test]
fn hints_that_are_refused_hold_up_those_behind_them_for_the_shortest_pause() {
    let mut policy = HintPolicy::new(limits());
    assert_eq!(policy.admit(0, node(1), 3_000, DISK_BYTES), Admission::Keep);
    assert_eq!(feed(&mut policy, 0, HintEvent::Up { target: node(1) }), [deliver(1)]);
    for now_us in [0, 100, 200, 300] {
        assert_eq!(feed(&mut policy, now_us, HintEvent::Refused { target: node(1) }), []);
        assert_eq!(policy.deadline(), Some(now_us + 100));
        assert_eq!(feed(&mut policy, now_us + 100, HintEvent::Due), [deliver(1)]);
    }
}

#[test]
fn a_node_that_left_for_good_takes_its_hints_along() {
    let mut policy = HintPolicy::new(limits());
    assert_eq!(policy.admit(0, node(1), 50, DISK_BYTES), Admission::Keep);
    let discard = HintEffect::Discard { target: node(1) };
    assert_eq!(feed(&mut policy, 0, HintEvent::Removed { target: node(1) }), [discard]);
    assert_eq!(feed(&mut policy, 0, HintEvent::Removed { target: node(1) }), []);
    assert_eq!(feed(&mut policy, 0, HintEvent::Delivered { target: node(1), bytes: 50 }), []);
    assert_eq!(policy.deadline(), None);
}

#[test]
fn hints_below_the_floor_are_not_delivered() {
    let stamp = |hlc| Stamp { hlc: Hlc(hlc), ..Stamp::default() };
    assert!(HintPolicy::is_below(Hlc(5), stamp(4)));
    assert!(!HintPolicy::is_below(Hlc(5), stamp(5)));
    assert!(!HintPolicy::is_below(Hlc::default(), stamp(0)));
}
