//! Metrics and health, as a scraper and an orchestrator see them.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{TempDir, TestNode, config};
use crate::objects::{block_on, connect, docs, put_all, vector};

/// One request on a connection of its own: status code and body.
pub(crate) fn ask(node: &TestNode, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(node.http_address()).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

/// The value of the first line that begins so.
pub(crate) fn value(page: &str, line_start: &str) -> f64 {
    let line = page.lines().find(|line| line.starts_with(line_start));
    let line = line.unwrap_or_else(|| panic!("no line {line_start:?}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn health_pages_answer_and_others_do_not_exist() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    assert_eq!(ask(&node, "GET", "/v1/.well-known/live"), (200, "live\n".to_owned()));
    assert_eq!(ask(&node, "GET", "/v1/.well-known/ready"), (200, "ready\n".to_owned()));
    assert_eq!(ask(&node, "HEAD", "/v1/.well-known/ready"), (200, String::new()));
    assert_eq!(ask(&node, "GET", "/nothing").0, 404);
    assert_eq!(ask(&node, "POST", "/metrics").0, 405);
}

#[test]
fn a_connection_above_the_limit_is_told_so() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    let ready = "GET /v1/.well-known/ready HTTP/1.1\r\nHost: x\r\n\r\n";
    let open: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = TcpStream::connect(node.http_address()).unwrap();
            stream.write_all(ready.as_bytes()).unwrap();
            assert!(stream.read(&mut [0; 1_024]).unwrap() > 0);
            stream
        })
        .collect();
    assert_eq!(ask(&node, "GET", "/v1/.well-known/ready").0, 503);
    drop(open);
}

#[test]
fn a_client_that_has_asked_may_end_its_side() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    let mut stream = TcpStream::connect(node.http_address()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
}

#[test]
fn requests_of_one_connection_are_answered_in_turn() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    let mut stream = TcpStream::connect(node.http_address()).unwrap();
    let live = "GET /v1/.well-known/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{live}{live}{last}").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3);
}

#[test]
fn the_metrics_page_counts_what_was_done() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 2));
    block_on(async {
        let client = connect(&node).await;
        client.create_collection(&docs(1, Some(8))).await.unwrap();
        let docs = client.collection("Docs");
        put_all(&docs, 0..500).await;
        for row in 0..20 {
            docs.search(&heddle_client::Search::near(vector(row)).k(3)).await.unwrap();
        }
        docs.search(&heddle_client::Search::near(vec![0.0; 3])).await.unwrap_err();
    });
    let (status, page) = ask(&node, "GET", "/metrics");
    assert_eq!(status, 200);
    for line in page.lines() {
        let is_comment = line.starts_with("# HELP ") || line.starts_with("# TYPE ");
        let is_sample = line.rsplit_once(' ').is_some_and(|(name, value)| {
            name.starts_with("heddle_") && value.parse::<f64>().is_ok()
        });
        assert!(is_comment || is_sample, "{line:?}");
    }
    let searches: f64 = (0..2)
        .map(|core| {
            let line = format!(
                "heddle_request_duration_seconds_count{{core=\"{core}\",operation=\"search\"}}"
            );
            page.lines().find_map(|it| it.strip_prefix(&line)?.trim().parse().ok()).unwrap_or(0.0)
        })
        .sum();
    assert_eq!(searches, 21.0);
    assert_eq!(value(&page, "heddle_objects{"), 500.0);
    assert!(value(&page, "heddle_wal_syncs_total{core=\"0\"}") >= 1.0);
    assert!(page.contains("code=\"InvalidVector\"} 1"));
    assert!(value(&page, "heddle_memory_resident_bytes") > 1e6);
}
