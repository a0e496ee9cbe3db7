//! The `heddle` executable as its users meet it: exit codes, messages, and data over a restart.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use support::{DEMO, Folder, Node, heddle, outcome};

/// Rows of the demo data that tests import.
const ROWS: &str = "600";

fn import(node: &Node, more: &[&str]) -> serde_json::Value {
    let (vectors, properties) = (format!("{DEMO}/base.npy"), format!("{DEMO}/base.jsonl.gz"));
    let arguments = ["import", "Docs", "--vectors", &vectors, "--properties", &properties];
    node.json(&[&arguments, more].concat())
}

#[test]
fn sigterm_drains_and_exits_zero() {
    let folder = Folder::new("sigterm");
    let node = Node::start(&folder.join("data"));
    assert_eq!(node.stop(), Some(0));
    let node = Node::start(&folder.join("data"));
    assert_eq!(node.stop(), Some(0), "the directory is free again");
}

#[test]
fn a_second_server_on_a_directory_is_refused_with_the_holder() {
    let folder = Folder::new("directory");
    let data = folder.join("data");
    let node = Node::start(&data);
    let ports = ["--native-port", "0", "--core-port-base", "0", "--http-port", "0"];
    let second =
        heddle(&["serve", "--config", "/dev/null", "--data-dir", &data]).args(ports).output();
    let (code, _, error) = outcome(&second.unwrap());
    assert_eq!(code, 66, "{error}");
    assert!(error.contains(&node.pid().to_string()), "{error}");
    assert!(error.contains("data_dir") && error.contains("stop that process"), "{error}");
}

#[test]
fn a_second_server_on_a_port_is_refused() {
    let folder = Folder::new("port");
    let node = Node::start(&folder.join("first"));
    for taken in ["native_port", "http_port"] {
        let port = node.ready[taken].to_string();
        let flag = |name: &str| if name == taken { port.clone() } else { "0".to_owned() };
        let second = heddle(&["serve", "--config", "/dev/null", "--core-port-base", "0"])
            .args(["--data-dir", &folder.join("second")])
            .args(["--native-port", &flag("native_port"), "--http-port", &flag("http_port")])
            .output();
        let (code, _, error) = outcome(&second.unwrap());
        assert_eq!(code, 67, "{error}");
        assert!(error.contains(&port), "{error}");
    }
}

#[test]
fn unknown_settings_end_the_start_by_name() {
    let folder = Folder::new("settings");
    let file = folder.join("heddle.toml");
    std::fs::write(&file, "nativ_port = 7700\n").unwrap();
    let (code, _, error) = outcome(&heddle(&["serve", "--config", &file]).output().unwrap());
    assert_eq!(code, 64, "{error}");
    assert!(error.contains("nativ_port") && error.contains(&file), "{error}");
    let command = heddle(&["serve", "--config", "/dev/null"]).env("HEDDLE_CORS", "2").output();
    let (code, _, error) = outcome(&command.unwrap());
    assert_eq!(code, 64, "{error}");
    assert!(error.contains("HEDDLE_CORS") && error.contains("cores"), "{error}");
}

#[test]
fn printed_settings_name_their_origin() {
    let command = heddle(&["serve", "--config", "/dev/null", "--print-config", "--cores", "1"])
        .env("HEDDLE_HTTP_PORT", "9090")
        .output();
    let (code, output, _) = outcome(&command.unwrap());
    assert_eq!(code, 0);
    for (key, origin) in [("cores = 1", "flag"), ("http_port = 9090", "environment")] {
        let line = output.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line.ends_with(origin), "{line}");
    }
}

#[test]
fn doctor_reports_every_check() {
    let folder = Folder::new("doctor");
    let command =
        heddle(&["doctor", "--json", "--data-dir", &folder.join("not/yet/there")]).output();
    let (code, output, error) = outcome(&command.unwrap());
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 8, "{output}");
    let has_failed = checks.iter().any(|check| check["state"] == "fail");
    assert_eq!(code, i32::from(has_failed), "{error}");
    assert!(!folder.0.join("not").exists(), "asking makes no folders");
    for check in checks.iter().filter(|check| check["state"] != "ok") {
        assert!(!check["advice"].as_str().unwrap().is_empty(), "{check}");
    }
}

#[test]
fn imported_rows_are_found_before_and_after_a_kill() {
    let folder = Folder::new("restart");
    let data = folder.join("data");
    let state = folder.join("state.json");
    let node = Node::start(&data);
    let report = import(&node, &["--limit", ROWS, "--state", &state]);
    assert_eq!((report["rows"].as_u64(), report["created"].as_bool()), (Some(600), Some(true)));
    let look = |node: &Node| {
        let mut object = node.json(&["get", "Docs", "7", "--vector"]);
        assert_eq!(object["properties"]["source"].as_str().map(str::is_empty), Some(false));
        object["updated"].take();
        let hits = node.json(&["search", "Docs", "--like", "7", "--k", "5"])["hits"].take();
        assert_eq!(hits.as_array().unwrap().len(), 5);
        assert!(hits.as_array().unwrap().iter().all(|hit| hit["id"] != object["id"]));
        let count = node.json(&["count", "Docs"])["count"].take();
        let filtered = node.json(&["count", "Docs", "--filter", "source = 'pep'"])["count"].take();
        assert!(filtered.as_u64().unwrap() > 0 && filtered.as_u64() < count.as_u64());
        let json = r#"{"property": "source", "operator": "Equal", "value": "pep"}"#;
        assert_eq!(node.json(&["count", "Docs", "--filter-json", json])["count"], filtered);
        (object, count, filtered, hits)
    };
    let before = look(&node);
    assert_eq!(before.1, 600);
    node.kill();
    let node = Node::start(&data);
    let after = look(&node);
    assert_eq!((&before.0, &before.1, &before.2), (&after.0, &after.1, &after.2));
    let ids = |hits: &serde_json::Value| -> Vec<String> {
        hits.as_array().unwrap().iter().map(|hit| hit["id"].to_string()).collect()
    };
    assert_eq!(ids(&before.3), ids(&after.3));
    // The same rows again: nothing is added.
    import(&node, &["--limit", ROWS, "--state", &state]);
    assert_eq!(node.json(&["count", "Docs"])["count"], 600);
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_damaged_log_takes_one_collection_away_until_the_loss_is_accepted() {
    let folder = Folder::new("damage");
    let data = folder.join("data");
    let one_core = ["--cores", "1"];
    let node = Node::start_with(&data, &one_core);
    import(&node, &["--limit", "50"]);
    let vectors = format!("{DEMO}/base.npy");
    node.json(&["import", "Other", "--vectors", &vectors, "--limit", "50"]);
    node.kill();
    // One bit in the payload of the first record, behind the headers of its batch and its own.
    let log = folder.0.join("data/logs/0000/0000000001.wal");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[4096 + 128 + 40] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    for _ in 0..2 {
        let node = Node::start_with(&data, &one_core);
        let place = "logs/0000/0000000001.wal: corrupt at offset 4096";
        let query = format!("{vectors}:0");
        for command in [&["count", "Docs"][..], &["search", "Docs", "--row", &query]] {
            let (code, _, error) = node.run(command);
            assert!(code == 1 && error.contains(place), "{command:?}: {code}, {error}");
        }
        assert_eq!(node.json(&["count", "Other"])["count"], 50);
        let (_, status, _) = node.run(&["status"]);
        assert!(status.contains("is quarantined") && status.contains(place), "{status}");
        node.kill();
    }
    let node = Node::start_with(&data, &[&one_core[..], &["--accept-data-loss"]].concat());
    assert_eq!(node.json(&["count", "Docs"])["count"], 49);
    assert_eq!(node.json(&["count", "Other"])["count"], 50);
    assert_eq!(node.stop(), Some(0));
    let node = Node::start_with(&data, &one_core);
    assert_eq!(node.json(&["count", "Docs"])["count"], 49, "the loss is settled");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn kills_at_random_moments_lose_nothing() {
    // The first run of this test found a node that ended when a row was updated while its first
    // vector waited to be linked.
    let folder = Folder::new("crash");
    let test = ["crash-test", "--rounds", "4", "--life-ms", "900", "--data-dir", &folder.join("x")];
    let (code, output, error) = outcome(&heddle(&test).output().unwrap());
    assert_eq!(code, 0, "{output}{error}");
    let verdict = "lost 0, resurrected 0, wrong 0, failed starts 0, ended by itself 0";
    assert!(output.contains(verdict), "{output}");
    assert!(!output.contains(" 0 of them updates") && !output.contains("\n0 searches"), "{output}");
}

#[test]
fn an_import_that_failed_goes_on_where_it_stopped() {
    let folder = Folder::new("resume");
    let node = Node::start(&folder.join("data"));
    let (state, vectors) = (folder.join("state.json"), folder.join("rows.fvecs"));
    let mut bytes = Vec::new();
    for row in 0u16..400 {
        bytes.extend_from_slice(&2i32.to_le_bytes());
        let bad = if row == 300 { f32::NAN } else { 1.0 };
        for value in [f32::from(row) + 1.0, bad] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    std::fs::write(&vectors, bytes).unwrap();
    let arguments = ["import", "Rows", "--vectors", &vectors, "--state", &state];
    let more = ["--batch", "50", "--connections", "1"];
    let (code, _, error) = node.run(&[arguments.as_slice(), &more].concat());
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("row 300") && error.contains("300 rows are acknowledged"), "{error}");
    let report = node.json(&[arguments.as_slice(), &["--resume", "--limit", "300"]].concat());
    assert_eq!((report["resumed_at"].as_u64(), report["rows"].as_u64()), (Some(300), Some(0)));
    let count = node.json(&["count", "Rows"])["count"].take();
    assert_eq!(count, 349, "the good rows of the bad row's batch were written too");
}

/// The objects of a collection, with their properties.
fn property_count(node: &Node, name: &str) -> u64 {
    node.json(&["count", name, "--filter", "source is not null"])["count"]
        .as_u64()
        .expect("a count is a number")
}

#[test]
fn going_on_with_nothing_is_refused_and_properties_stay() {
    // An import with properties, then one of the vectors alone with --resume: it began at row 0
    // and replaced whole objects.
    let folder = Folder::new("nothing");
    let node = Node::start(&folder.join("data"));
    let state = folder.join("state.json");
    let vectors = format!("{DEMO}/base.npy");
    let arguments = ["import", "Docs", "--vectors", &vectors, "--state", &state, "--resume"];
    let (code, _, error) = node.run(&arguments);
    assert!(code == 2 && error.contains("does not exist"), "{error}");
    assert_eq!(node.run(&["count", "Docs"]).0, 4, "nothing was created");
    import(&node, &["--limit", "200", "--state", &state]);
    let before = property_count(&node, "Docs");
    assert!(before > 0);
    let (code, _, error) = node.run(&arguments);
    assert!(code == 2 && error.contains("start without --resume"), "{error}");
    assert_eq!(property_count(&node, "Docs"), before);
}

#[test]
fn a_waiting_import_says_for_what() {
    let folder = Folder::new("waiting");
    let data = folder.join("data");
    let node = Node::start(&data);
    import(&node, &["--limit", "50", "--state", &folder.join("state.json")]);
    let vectors = format!("{DEMO}/base.npy");
    let state = folder.join("other.json");
    let mut import = heddle(&["import", "Docs", "--vectors", &vectors, "--state", &state])
        .env("HEDDLE_ADDRESS", &node.address)
        .args(["--timeout", "1", "--connections", "1", "--batch", "1"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The progress file says that rows were acknowledged; then the server goes.
    while !std::path::Path::new(&state).exists() {
        assert!(import.try_wait().unwrap().is_none(), "the import ended before its first note");
        std::thread::yield_now();
    }
    node.kill();
    let mut lines = BufReader::new(import.stderr.take().unwrap()).lines();
    let line = lines.find(|line| line.as_ref().unwrap().contains("waiting")).unwrap().unwrap();
    assert!(line.contains("no connection") || line.contains("outcome unknown"), "{line}");
    import.kill().unwrap();
    import.wait().unwrap();
}

#[test]
fn an_interrupted_demo_leaves_neither_node_nor_folder() {
    let folder = Folder::new("interrupt");
    let mut demo = heddle(&["demo"])
        .env("TMPDIR", &folder.0)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let start = lines.find(|line| line.as_ref().unwrap().contains("process ")).unwrap().unwrap();
    let mut words = start.split_whitespace().skip_while(|word| *word != "process");
    let node: i32 = words.nth(1).unwrap().parse().unwrap();
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
    // The node was killed before its folder was removed; who reaps it decides when its id is free.
    let status = std::fs::read_to_string(format!("/proc/{node}/stat")).unwrap_or_default();
    assert!(status.is_empty() || status.contains(") Z "), "{status}");
}

#[test]
fn a_missing_or_wrong_file_is_wrong_usage() {
    let folder = Folder::new("files");
    let node = Node::start(&folder.join("data"));
    let cut = folder.join("cut.npy");
    let whole = std::fs::read(format!("{DEMO}/base.npy")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let lines = folder.join("bad.jsonl");
    std::fs::write(&lines, "{\"a\": 1}\n{\"a\": }\n").unwrap();
    let (missing, vectors) = (folder.join("missing"), format!("{DEMO}/base.npy"));
    let bench = ["bench", "search", "Docs", "--queries", &missing, "--truth", &missing];
    let import = |vectors: &str| -> Vec<String> {
        ["import", "Docs", "--vectors", vectors].map(str::to_owned).to_vec()
    };
    let with_lines = [import(&vectors), vec!["--properties".to_owned(), lines.clone()]].concat();
    let create = ["collection", "create", "--file", &missing].map(str::to_owned).to_vec();
    let check = |arguments: &[String], expected: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, _, error) = node.run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {error}");
        for part in expected {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    };
    check(&create, &[&missing]);
    check(&import(&missing), &[&missing]);
    check(&bench.map(str::to_owned), &[&missing]);
    let bytes = [whole.len().to_string(), (whole.len() / 2).to_string()];
    check(&import(&cut), &[&bytes[0], &bytes[1]]);
    check(&with_lines, &["bad.jsonl: line 2, column 7: expected value"]);
}

#[test]
fn the_port_of_http_is_recognised() {
    let folder = Folder::new("http");
    let node = Node::start(&folder.join("data"));
    let address = format!("127.0.0.1:{}", node.ready["http_port"]);
    let (code, _, error) = node.run(&["count", "Docs", "--address", &address, "--timeout", "3"]);
    assert!(code == 3 && error.contains("an HTTP server answers there"), "{error}");
}

#[test]
fn collections_are_created_listed_shown_and_dropped() {
    let folder = Folder::new("collections");
    let node = Node::start(&folder.join("data"));
    let create = ["collection", "create", "Tiny", "--dims", "3", "--distance", "l2-squared"];
    let created = node.json(&[create.as_slice(), &["--property", "year:int"]].concat());
    assert_eq!(created["vectors"][0]["dims"], 3);
    let file = folder.join("schema.json");
    let shown = node.json(&["collection", "show", "Tiny"]);
    std::fs::write(&file, shown.to_string()).unwrap();
    let (code, _, error) = node.run(&["collection", "create", "--file", &file]);
    assert!(code == 1 && error.contains("Tiny"), "{error}");
    node.json(&["collection", "create", "Second", "--file", &file]);
    let list = node.json(&["collection", "list"]);
    let names: Vec<&str> =
        list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Second", "Tiny"]);
    let (code, _, error) = node.run(&["collection", "drop", "Tiny"]);
    assert!(code == 2 && error.contains("--yes"), "{error}");
    let dropped = node.json(&["collection", "drop", "Tiny", "--yes"]);
    assert_eq!((dropped["dropped"].as_str(), dropped["objects"].as_u64()), (Some("Tiny"), Some(0)));
    assert_eq!(node.run(&["count", "Tiny"]).0, 4);
}

#[test]
fn exit_codes_tell_failures_apart() {
    let folder = Folder::new("codes");
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", "50", "--no-wait", "--state", &folder.join("state.json")]);
    assert_eq!(node.run(&["count", "Nothing"]).0, 4);
    assert_eq!(node.run(&["get", "Docs", "51"]).0, 4);
    assert_eq!(node.run(&["get", "Docs", "not-a-uuid"]).0, 2);
    let (code, _, error) = node.run(&["count", "Docs", "--filter", "yaer > 1"]);
    assert!(code == 2 && error.contains("yaer") && error.contains('^'), "{error}");
    let (code, _, error) = node.run(&["search", "Docs", "--vector", "[1, 2]"]);
    assert!(code == 1 && error.contains("384"), "{error}");
    let nobody = ["count", "Docs", "--address", "127.0.0.1:1"];
    assert_eq!(outcome(&heddle(&nobody).output().unwrap()).0, 3);
}

#[test]
fn a_benchmark_reports_exactly_the_agreed_keys() {
    let folder = Folder::new("bench");
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", "100", "--state", &folder.join("state.json")]);
    let (queries, truth) = (format!("{DEMO}/queries.npy"), format!("{DEMO}/truth.npy"));
    let out = folder.join("out.json");
    for more in [&["--connections", "2"][..], &["--rate", "500", "--connections", "3"]] {
        let arguments = ["bench", "search", "Docs", "--queries", &queries, "--truth", &truth];
        let rest = ["--ef", "10,20", "--seconds", "0.2", "--json", &out];
        let (code, _, error) = node.run(&[&arguments, &rest[..], more].concat());
        assert_eq!(code, 0, "{error}");
        let text = std::fs::read_to_string(&out).unwrap();
        let rows: Vec<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_str(&text).unwrap();
        assert_eq!(rows.len(), 2);
        let mut keys: Vec<&str> = rows[0].keys().map(String::as_str).collect();
        keys.sort_unstable();
        let agreed = [
            "connections",
            "ef",
            "errors",
            "max_us",
            "p50_us",
            "p90_us",
            "p999_us",
            "p99_us",
            "qps",
            "recall",
        ];
        assert_eq!(keys, agreed);
        assert_eq!(rows[0]["errors"], 0);
    }
}

#[test]
fn an_ingest_benchmark_writes_beside_searches_and_deletes_what_it_wrote() {
    let folder = Folder::new("ingest");
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", "100", "--state", &folder.join("state.json")]);
    let vectors = format!("{DEMO}/base.npy");
    let ingest = ["bench", "ingest", "Docs", "--vectors", &vectors, "--first", "100"];
    let rest = ["--rate", "2000", "--batch", "5", "--seconds", "0.3", "--json", "-"];
    let objects = || node.json(&["count", "Docs"])["count"].as_u64();
    for (more, kept) in [(&[][..], false), (&["--keep"][..], true)] {
        let (code, output, error) = node.run(&[&ingest, &rest[..], more].concat());
        assert_eq!(code, 0, "{error}");
        let report: serde_json::Value = serde_json::from_str(&output).unwrap();
        let rows = report["rows"].as_u64().unwrap();
        assert!((5..=600).contains(&rows), "{report}");
        assert_eq!(report["errors"], 0);
        assert_eq!(report["deleted"].as_u64(), Some(if kept { 0 } else { rows }));
        assert_eq!(objects(), Some(if kept { 100 + rows } else { 100 }));
    }
    let (code, _, error) = node.run(&[&ingest[..5], &["--first", "1000000"]].concat());
    assert!(code == 2 && error.contains("--first 1000000"), "{error}");
}

#[test]
fn every_metric_is_documented() {
    let folder = Folder::new("metrics");
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", "100", "--state", &folder.join("state.json")]);
    let mut stream = TcpStream::connect(format!("127.0.0.1:{}", node.ready["http_port"])).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: heddle\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let names: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.len() > 20, "{page}");
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let document = std::fs::read_to_string(document).unwrap();
    for name in names {
        assert!(document.contains(&format!("| `{name}` |")), "{name} is not in docs/operations.md");
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = outcome(&heddle(&["completions", shell]).output().unwrap());
        assert_eq!(code, 0);
        for command in ["serve", "demo", "doctor", "import", "bench", "search"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}
