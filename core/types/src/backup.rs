//! Which names a backup may hold: nothing else is read from one or written from one.

/// Longest number in a name, digits.
const DIGITS_MAX: usize = 20;

/// Is this the name of a file that a backup may hold: a log segment or a file of a shard's image?
///
/// Only plain names below two folders are; none with `..`, an absolute path, a link or anything
/// that the writer of a hostile backup might think of.
#[must_use]
pub fn is_backup_name(name: &str) -> bool {
    let mut parts = name.split('/');
    let found = [parts.next(), parts.next(), parts.next(), parts.next()];
    match found {
        [Some("logs"), Some(log), Some(file), None] => {
            is_number(log) && file.strip_suffix(".wal").is_some_and(is_number)
        }
        [Some("shards"), Some(shard), Some(file), None] => is_number(shard) && is_shard_file(file),
        _ => false,
    }
}

fn is_shard_file(file: &str) -> bool {
    matches!(file, "superblock.0" | "superblock.1")
        || file.strip_prefix("image-").is_some_and(is_number)
        || file.strip_prefix("ledger-").is_some_and(is_number)
        || file.strip_prefix("objects-").is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_logs_and_images_have_a_place_in_a_backup() {
        for good in [
            "logs/0000/0000000001.wal",
            "shards/0000000001/superblock.0",
            "shards/0000000001/superblock.1",
            "shards/0000000001/image-17",
            "shards/0000000001/ledger-17",
            "shards/0000000001/objects-0000000004",
        ] {
            assert!(is_backup_name(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "node.json",
            "catalog.0",
            "LOCK",
            "/logs/0000/0000000001.wal",
            "logs/../shards/1/image-1",
            "logs/0000/../0000000001.wal",
            "../logs/0000/0000000001.wal",
            "logs/0000/0000000001.wal/",
            "logs//0000000001.wal",
            "logs/0000/0000000001.wal.tmp",
            "logs/0000/+1.wal",
            "logs/0000/.wal",
            "logs/0000/123456789012345678901.wal",
            "shards/0000000001/image-",
            "shards/0000000001/image-1.tmp",
            "shards/0000000001/ledger-",
            "shards/0000000001/ledger-1.tmp",
            "shards/0000000001/superblock.2",
            "shards/0000000001/objects-1/x",
            "shards/0000000001/./image-1",
            "shards/0000000001/image-1\0",
            "shards\\0000000001\\image-1",
            "shards/١/image-1",
        ] {
            assert!(!is_backup_name(bad), "{bad}");
        }
    }
}
