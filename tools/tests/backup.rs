//! Backups through the `heddle` executable: taken, checked, restored, refused.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use support::{DEMO, Folder, Node, heddle, outcome};

/// Rows of the demo data that tests import.
const ROWS: &str = "600";

fn import(node: &Node, more: &[&str]) -> serde_json::Value {
    let (vectors, properties) = (format!("{DEMO}/base.npy"), format!("{DEMO}/base.jsonl.gz"));
    let arguments = ["import", "Docs", "--vectors", &vectors, "--properties", &properties];
    node.json(&[&arguments, more].concat())
}

/// Objects of a collection.
fn count_of(node: &Node, collection: &str) -> u64 {
    node.json(&["count", collection])["count"].as_u64().expect("a count is a number")
}

#[test]
fn a_backup_of_a_busy_node_is_restored_onto_another_number_of_cores() {
    let folder = Folder::new("backup");
    let (copy, restored) = (folder.join("copy"), folder.join("restored"));
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", ROWS, "--state", &folder.join("state.json")]);
    let definition = node.json(&["collection", "show", "Docs"]);
    let first = node.json(&["get", "Docs", "17", "--vector"]);
    // Writes go on while the backup is taken.
    let (vectors, properties) = (format!("{DEMO}/base.npy"), format!("{DEMO}/base.jsonl.gz"));
    let mut busy = heddle(&["import", "Docs", "--vectors", &vectors, "--properties", &properties])
        .args(["--state", &folder.join("busy.json"), "--json"])
        .env("HEDDLE_ADDRESS", &node.address)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let report = node.json(&["backup", &copy]);
    assert_eq!(report["collections"], 1);
    assert!(report["bytes"].as_u64().unwrap() > 0);
    busy.kill().unwrap();
    busy.wait().unwrap();
    // A second one is refused where the first one lies; the first one stays whole.
    let (code, _, error) = node.run(&["backup", &copy]);
    assert!(code == 2 && error.contains("expected to be empty"), "{code}: {error}");
    drop(node);
    let (code, output, error) = outcome(&heddle(&["restore", &copy, "--check"]).output().unwrap());
    assert_eq!(code, 0, "{error}");
    assert!(output.contains("is whole"), "{output}");
    let made = heddle(&["restore", &copy, "--data-dir", &restored]).output().unwrap();
    assert_eq!(outcome(&made).0, 0, "{made:?}");
    let (code, _, error) =
        outcome(&heddle(&["restore", &copy, "--data-dir", &restored]).output().unwrap());
    assert!(code == 2 && error.contains("expected to be empty"), "{code}: {error}");
    let dealt = folder.join("dealt");
    let made = heddle(&["restore", &copy, "--data-dir", &dealt, "--shards", "3"]).output().unwrap();
    assert_eq!(outcome(&made).0, 0, "{made:?}");
    let mut counts = Vec::new();
    for (data, cores) in [(&restored, "1"), (&restored, "2"), (&dealt, "2"), (&dealt, "1")] {
        let node = Node::start_with(data, &["--cores", cores]);
        counts.push(count_of(&node, "Docs"));
        let status = node.json(&["status"]);
        let shards = status["cores"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|core| core["engine"]["shards"].as_array().map(Vec::len));
        assert_eq!(shards.sum::<usize>(), if data == &dealt { 3 } else { 1 });
        assert!(count_of(&node, "Docs") >= ROWS.parse().unwrap());
        if data == &restored {
            assert_eq!(node.json(&["collection", "show", "Docs"]), definition);
        }
        // The busy import wrote it again: the times may be others, the rest is not.
        let found = node.json(&["get", "Docs", "17", "--vector"]);
        for part in ["id", "properties", "vectors"] {
            assert_eq!(found[part], first[part], "{part}");
        }
        assert_eq!(node.stop(), Some(0));
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
}

#[test]
fn a_damaged_partial_or_hostile_backup_is_refused_by_name_and_nothing_is_made_of_it() {
    let folder = Folder::new("hostile");
    let copy = folder.join("copy");
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", "50", "--state", &folder.join("state.json")]);
    node.json(&["backup", &copy]);
    drop(node);
    let refused = |named: &str| {
        let target = folder.join("restored");
        let made = heddle(&["restore", &copy, "--data-dir", &target]).output().unwrap();
        let (code, _, error) = outcome(&made);
        assert_eq!(code, 2, "{named}: {error}");
        assert!(error.contains(named), "{named}: {error}");
        assert!(!std::path::Path::new(&target).exists(), "{named}");
    };
    let path = |name: &str| std::path::Path::new(&copy).join(name);
    let shard = std::fs::read_dir(path("shards")).unwrap().next().unwrap().unwrap().path();
    let mut files = std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path());
    let image = files.find(|path| path.to_str().unwrap().contains("image-")).unwrap();
    let name = image.strip_prefix(&copy).unwrap().to_str().unwrap();
    let bytes = std::fs::read(&image).unwrap();
    // One bit, one byte less, one byte more, no file.
    let mut wrong = bytes.clone();
    wrong[5_000] ^= 4;
    for wrong in [&wrong, &bytes[..bytes.len() - 1].to_vec(), &[&bytes[..], b"x"].concat()] {
        std::fs::write(&image, wrong).unwrap();
        refused(name);
    }
    std::fs::remove_file(&image).unwrap();
    refused(name);
    // A link to a file with just the right bytes, and a folder that is a link.
    let outside = folder.join("outside");
    std::fs::write(&outside, &bytes).unwrap();
    std::os::unix::fs::symlink(&outside, &image).unwrap();
    refused(name);
    std::fs::remove_file(&image).unwrap();
    std::fs::write(&image, &bytes).unwrap();
    let moved = folder.join("moved");
    std::fs::rename(path("shards"), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, path("shards")).unwrap();
    refused("shards/");
    std::fs::remove_file(path("shards")).unwrap();
    std::fs::rename(&moved, path("shards")).unwrap();
    // The manifest: a changed byte, and none, as after an interruption.
    let manifest = std::fs::read(path("MANIFEST")).unwrap();
    let mut wrong = manifest.clone();
    wrong[20] ^= 1;
    std::fs::write(path("MANIFEST"), wrong).unwrap();
    refused("MANIFEST");
    std::fs::rename(path("MANIFEST"), path("MANIFEST.tmp")).unwrap();
    refused("no whole backup");
    std::fs::write(path("MANIFEST"), manifest).unwrap();
    let made = heddle(&["restore", &copy, "--check"]).output().unwrap();
    assert_eq!(outcome(&made).0, 0, "{made:?}");
}

/// The log segments of a data directory.
fn log_segments(data: &str) -> Vec<PathBuf> {
    let logs = std::fs::read_dir(Path::new(data).join("logs")).unwrap();
    let logs = logs.map(|log| std::fs::read_dir(log.unwrap().path()).unwrap());
    logs.flatten().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn restored_logs_have_all_of_their_blocks() {
    // They had holes, and were written again later as if they had none: on a full disk that ends a
    // node.
    let folder = Folder::new("blocks");
    let copy = folder.join("copy");
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", "50", "--state", &folder.join("state.json")]);
    node.json(&["backup", &copy]);
    drop(node);
    for (name, more) in [("same", &[][..]), ("dealt", &["--shards", "2"])] {
        let data = folder.join(name);
        let arguments = [&["restore", &copy, "--data-dir", &data], more].concat();
        let made = heddle(&arguments).output().unwrap();
        assert_eq!(outcome(&made).0, 0, "{made:?}");
        let segments = log_segments(&data);
        assert!(!segments.is_empty());
        for path in segments {
            let file = std::fs::metadata(&path).unwrap();
            let (blocks, length) = (file.blocks() * 512, file.len());
            assert!(blocks >= length, "{}: {blocks} of {length} bytes", path.display());
        }
    }
}

#[test]
fn a_damaged_collection_is_left_out_only_if_that_is_asked_for() {
    let folder = Folder::new("partial");
    let (data, copy) = (folder.join("data"), folder.join("copy"));
    let one_core = ["--cores", "1"];
    let node = Node::start_with(&data, &one_core);
    import(&node, &["--limit", "50", "--state", &folder.join("state.json")]);
    let vectors = format!("{DEMO}/base.npy");
    let state = folder.join("other.json");
    node.json(&["import", "Other", "--vectors", &vectors, "--limit", "50", "--state", &state]);
    node.kill();
    // One bit in the payload of the first record, behind the headers of its batch and its own.
    let log = folder.0.join("data/logs/0000/0000000001.wal");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[4096 + 128 + 40] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let node = Node::start_with(&data, &one_core);
    let place = "logs/0000/0000000001.wal: corrupt at offset 4096";
    let (code, _, error) = node.run(&["backup", &copy]);
    assert!(code == 1 && error.contains("Docs: ") && error.contains(place), "{code}: {error}");
    let report = node.json(&["backup", &copy, "--leave-out-damaged"]);
    let missing = report["missing"].as_array().unwrap();
    assert_eq!((missing.len(), &missing[0]["collection"]), (1, &serde_json::json!("Docs")));
    node.kill();
    let (code, output, error) = outcome(&heddle(&["restore", &copy, "--check"]).output().unwrap());
    assert!(code == 0 && output.contains("missing: shard") && output.contains(place), "{error}");
    for more in [&[][..], &["--shards", "2"]] {
        let restored = folder.join(&format!("restored{}", more.len()));
        let arguments = [&["restore", &copy, "--data-dir", &restored], more].concat();
        let (code, _, error) = outcome(&heddle(&arguments).output().unwrap());
        assert!(code == 2 && error.contains("of Docs: ") && error.contains(place), "{error}");
        assert!(!Path::new(&restored).exists());
        let arguments = [&arguments[..], &["--allow-missing"]].concat();
        let (code, output, error) = outcome(&heddle(&arguments).output().unwrap());
        assert!(code == 0 && output.contains("missing: shard"), "{output}{error}");
        for _ in 0..2 {
            let node = Node::start_with(&restored, &one_core);
            assert_eq!(count_of(&node, "Other"), 50);
            // Not even the part of it that a log may have had.
            assert_eq!(count_of(&node, "Docs"), 0);
            node.kill();
        }
    }
}

#[test]
fn a_backup_whose_catalog_does_not_fit_together_is_refused_by_the_field() {
    let folder = Folder::new("catalog");
    let copy = folder.join("copy");
    let node = Node::start(&folder.join("data"));
    import(&node, &["--limit", "20", "--state", &folder.join("state.json")]);
    node.json(&["backup", &copy]);
    drop(node);
    let path = Path::new(&copy).join("MANIFEST");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().next().unwrap();
    let mut json: serde_json::Value = serde_json::from_str(line).unwrap();
    json["catalog"]["collections"]["Docs"]["routing"]["owners"] = serde_json::json!([]);
    let line = json.to_string();
    std::fs::write(&path, format!("{line}\ncrc32c {:08x}\n", crc32c::crc32c(line.as_bytes())))
        .unwrap();
    let target = folder.join("restored");
    for more in [&[][..], &["--shards", "2"]] {
        let arguments = [&["restore", &copy, "--data-dir", &target], more].concat();
        let (code, _, error) = outcome(&heddle(&arguments).output().unwrap());
        assert!(code == 2 && error.contains("\"Docs\".routing.owners"), "{code}: {error}");
        assert!(!Path::new(&target).exists());
    }
}
