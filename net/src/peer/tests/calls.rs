//! What callers rely on: answers, budgets, and what a failure says.

use futures::future::join_all;
use heddle_runtime::{sleep, spawn_joinable, yield_now};
use heddle_types::Retry;
use heddle_types::limits::NODE_BODY_BYTES_MAX;

use super::*;

#[test]
fn bodies_of_every_size_come_back_over_one_connection() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        for length in [0, 1, 31, 70_000, 5 << 20] {
            let request = body(length);
            let expected: Vec<u8> = request.iter().rev().copied().collect();
            let answer = links.call(&node.target(), Lane::Data, ECHO, request, PATIENCE).await;
            let answer = answer.unwrap();
            assert_eq!(answer.node, NodeId::from(2));
            assert_eq!(answer.header.type_number, ECHO | REPLY_BIT);
            assert!(answer.body[..] == expected[..], "{length} bytes");
        }
        let report = links.report();
        assert_eq!((report.lanes[0].dials, report.lanes[0].calls), (1, 5));
        assert_eq!((report.links.len(), report.lanes[0].in_flight), (1, 0));
        let served = node.report().await;
        assert_eq!((served.accepted, served.lanes[0].served, served.served), (1, 5, 1));
        assert_eq!(served.lanes[0].bytes_received, report.lanes[0].bytes_sent);
    });
}

#[test]
fn the_answering_side_knows_who_asks_and_on_which_lane() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        for lane in Lane::ALL {
            let budget = Duration::from_millis(4_000_000);
            let answer = links.call(&node.target(), lane, WHO, body(0), budget).await.unwrap();
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            let (who, budget_us) = text.split_once('\n').unwrap();
            assert_eq!(who, format!("{} boot 3 core 1 {}", NodeId::from(1), lane.name()));
            assert!((1..=4_000_000_000).contains(&budget_us.parse::<u64>().unwrap()));
        }
        let report = links.report();
        assert_eq!(report.links.len(), 3, "a connection a lane");
    });
}

#[test]
fn a_target_without_a_node_takes_whoever_answers() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = Target { node: None, ..node.target() };
        assert_eq!(call(&links, &target, ECHO).await.unwrap().node, NodeId::from(2));
    });
}

#[test]
fn a_thousand_calls_at_once_share_one_connection() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        let calls = (0..1_000).map(|number| {
            let (links, target) = (Rc::clone(&links), target.clone());
            async move {
                let answer = links.call(&target, Lane::Data, ECHO, body(number), PATIENCE).await;
                answer.unwrap().body.len()
            }
        });
        let lengths = join_all(calls).await;
        assert_eq!(lengths, (0..1_000).collect::<Vec<_>>());
        let report = links.report();
        assert_eq!((report.lanes[0].dials, report.lanes[0].calls), (1, 1_000));
        assert_eq!(node.report().await.lanes[0].served, 1_000);
    });
}

#[test]
fn more_calls_than_the_link_holds_wait_for_their_turn() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        let calls = (0..3 * crate::limits::LINK_CALLS_IN_FLIGHT_MAX).map(|_| {
            let (links, target) = (Rc::clone(&links), target.clone());
            async move { call(&links, &target, ECHO).await.map(|answer| answer.body.len()) }
        });
        assert!(join_all(calls).await.iter().all(|length| *length == Ok(100)));
    });
}

#[test]
fn an_error_of_the_peer_comes_as_it_was_and_the_link_goes_on() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let error = call(&links, &node.target(), FAIL).await.unwrap_err();
        let expected = ApiError::new(ErrorCode::UnknownCollection, "no \"Docs\"", "another");
        assert_eq!(error, expected);
        let error = call(&links, &node.target(), 0x01FF).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::UnknownMessage);
        call(&links, &node.target(), ECHO).await.unwrap();
        let lane = &links.report().lanes[0];
        assert_eq!((lane.dials, lane.calls, lane.call_errors), (1, 3, 2));
    });
}

#[test]
fn calls_to_a_peer_that_dies_may_have_been_applied_and_later_ones_were_not() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        let held: Vec<_> = (0..50)
            .map(|_| {
                let (links, target) = (Rc::clone(&links), target.clone());
                spawn_joinable(Queue::Search, async move { call(&links, &target, HOLD).await })
            })
            .collect();
        // An answer to the last one: the peer has taken all those before.
        while node.report().await.lanes[0].served < 50 {
            yield_now().await;
        }
        node.order(Order::Kill);
        for held in join_all(held).await {
            let error = held.expect("it was not cancelled").unwrap_err();
            assert_eq!((error.code, error.retry), (ErrorCode::Unavailable, Retry::MayHaveApplied));
        }
        let error = call(&links, &target, ECHO).await.unwrap_err();
        assert_eq!((error.code, error.retry), (ErrorCode::Unavailable, Retry::Safe), "{error}");
    });
}

#[test]
fn a_peer_that_comes_back_is_dialed_again() {
    let node = Node::start(2, SECRET);
    let (target, address) = (node.target(), node.address);
    with_links(SECRET, async |links| {
        call(&links, &target, ECHO).await.unwrap();
        drop(node);
        let _again = Node::start_at(2, SECRET, address);
        // The end of the old connection may be seen by a call.
        let mut answer = call(&links, &target, ECHO).await;
        while let Err(error) = answer {
            assert_eq!(error.code, ErrorCode::Unavailable);
            yield_now().await;
            answer = call(&links, &target, ECHO).await;
        }
        assert!(links.report().lanes[0].dials >= 2);
    });
}

#[test]
fn an_address_where_nobody_listens_is_not_dialed_by_every_call() {
    let node = Node::start(2, SECRET);
    let target = node.target();
    drop(node);
    with_links(SECRET, async |links| {
        for _ in 0..100 {
            let error = call(&links, &target, ECHO).await.unwrap_err();
            assert_eq!((error.code, error.retry), (ErrorCode::Unavailable, Retry::Safe));
            assert!(error.message.contains(&target.address), "{error}");
        }
        let lane = &links.report().lanes[0];
        assert!(lane.dials < 50, "{} dials", lane.dials);
        assert_eq!(lane.dial_failures, lane.dials);
    });
}

#[test]
fn a_node_that_is_heard_of_is_dialed_at_once() {
    let node = Node::start(2, SECRET);
    let target = node.target();
    let address = node.address;
    drop(node);
    with_links(SECRET, async |links| {
        let local = links.listen(SocketAddr::from(([127, 0, 0, 1], 0)), handler()).unwrap();
        while links.report().lanes[0].dials < 6 {
            call(&links, &target, ECHO).await.unwrap_err();
            sleep(Duration::from_millis(1)).await;
        }
        // Its next turn would be in more than a second.
        let node = Node::start_at(2, SECRET, address);
        call(&links, &target, ECHO).await.unwrap_err();
        let back = Target { node: Some(NodeId::from(1)), address: local.to_string() };
        node.call(back).await;
        call(&links, &target, ECHO).await.unwrap();
    });
}

#[test]
fn a_name_that_does_not_exist_is_named() {
    with_links(SECRET, async |links| {
        let address = "no-such-node.invalid:7500".to_owned();
        let target = Target { node: None, address };
        let error = call(&links, &target, ECHO).await.unwrap_err();
        assert_eq!((error.code, error.retry), (ErrorCode::Unavailable, Retry::Safe));
        assert!(error.message.contains("no-such-node.invalid"), "{error}");
    });
}

#[test]
fn a_budget_that_ends_while_the_peer_works_leaves_the_outcome_open() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        call(&links, &target, ECHO).await.unwrap();
        let budget = Duration::from_millis(20);
        let error = links.call(&target, Lane::Data, HOLD, body(1), budget).await.unwrap_err();
        assert_eq!((error.code, error.retry), (ErrorCode::DeadlineExceeded, Retry::MayHaveApplied));
        assert_eq!(links.report().lanes[0].in_flight, 0);
        // Nothing of it is left that would disturb the next call.
        call(&links, &target, ECHO).await.unwrap();
    });
}

#[test]
fn a_call_that_is_given_up_leaves_nothing_behind() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        call(&links, &target, ECHO).await.unwrap();
        let mut held = Box::pin(call(&links, &target, HOLD));
        assert!(futures::poll!(&mut held).is_pending());
        assert_eq!(links.report().lanes[0].in_flight, 1);
        drop(held);
        assert_eq!(links.report().lanes[0].in_flight, 0);
        let mut echo = Box::pin(call(&links, &target, ECHO));
        assert!(futures::poll!(&mut echo).is_pending());
        drop(echo);
        call(&links, &target, ECHO).await.unwrap();
        let link = &links.report().links[0];
        assert_eq!((link.in_flight, link.bytes_in_flight), (0, 0));
        // The two were taken back before they left.
        assert_eq!(node.report().await.lanes[0].served, 2);
    });
}

#[test]
fn a_body_above_the_limit_is_refused_by_its_length() {
    with_links(SECRET, async |links| {
        let target = Target { node: None, address: "127.0.0.1:1".to_owned() };
        let mut large = AlignedVec::<16>::new();
        large.resize(NODE_BODY_BYTES_MAX + 1, 0);
        let error = links.call(&target, Lane::Data, ECHO, large, PATIENCE).await.unwrap_err();
        assert_eq!((error.code, error.retry), (ErrorCode::TooLarge, Retry::Never));
    });
}

#[test]
fn an_idle_link_is_closed_and_one_that_is_used_is_not() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        call(&links, &target, ECHO).await.unwrap();
        let mut held = Box::pin(call(&links, &target, HOLD));
        assert!(futures::poll!(&mut held).is_pending());
        assert!(links.sweep_dialed(0), "a call is in flight");
        drop(held);
        yield_now().await;
        assert!(links.sweep_dialed(u64::MAX), "it was used a moment ago");
        assert!(!links.sweep_dialed(0));
        call(&links, &target, ECHO).await.unwrap();
        assert_eq!(links.report().lanes[0].dials, 2);
    });
}

#[test]
fn a_draining_node_answers_what_it_has_taken_in_and_hears_nobody_new() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        call(&links, &target, ECHO).await.unwrap();
        node.order(Order::Drain);
        while node.report().await.served > 0 {
            yield_now().await;
        }
        // The end of the old connection may be seen by the first call.
        let error = loop {
            let error = call(&links, &target, ECHO).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::Unavailable);
            if error.retry == Retry::Safe {
                break error;
            }
        };
        assert!(error.message.contains(&target.address), "{error}");
    });
}

#[test]
fn what_a_stopping_node_has_not_answered_was_never_worked_on() {
    const CALLS: usize = 200;
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = node.target();
        call(&links, &target, ECHO).await.unwrap();
        let calls = (0..CALLS).map(|number| {
            if number == CALLS / 2 {
                node.order(Order::Drain);
            }
            // Large ones: many are on their way when the node stops reading.
            let (links, target) = (Rc::clone(&links), target.clone());
            async move { links.call(&target, Lane::Data, ECHO, body(200_000), PATIENCE).await }
        });
        let mut refused = 0;
        for answer in join_all(calls).await {
            if let Err(error) = answer {
                assert_eq!((error.code, error.retry), (ErrorCode::Unavailable, Retry::Safe));
                refused += 1;
            }
        }
        let served = node.report().await.lanes[0].served;
        assert_eq!(served, (1 + CALLS - refused) as u64, "what was worked on was answered");
        assert!(refused > 0, "all of it was read before the node stopped");
    });
}
