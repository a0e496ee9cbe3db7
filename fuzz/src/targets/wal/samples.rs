//! Segments as the log itself writes them.

use std::pin::pin;

use futures::executor::block_on;
use futures::future::{Either, select};
use heddle_core::wal::{RecordKind, Wal};
use heddle_sim::SimDisk;
use heddle_types::{Hlc, NodeId, ShardId, StampSource};

use super::{CONFIG, DIRECTORY};

/// Segments with one batch of several records, with several batches, sealed and not, and without.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let plans: [(&[usize], bool); 5] =
        [(&[], false), (&[1], false), (&[3], true), (&[1, 2, 1], false), (&[2, 1], true)];
    plans.iter().flat_map(|(batches, sealed)| segments(batches, *sealed)).collect()
}

/// The segments of a log that took `batches[i]` records at once, each batch after the last one was
/// durable.
fn segments(batches: &[usize], sealed: bool) -> Vec<Vec<u8>> {
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    let write = async {
        let opened = Wal::recover(disk.clone(), DIRECTORY, CONFIG, &mut |_| Ok(())).await;
        let (wal, _) = opened.expect("an empty disk holds an empty log");
        let runs = pin!(wal.run());
        let fills = pin!(fill(&wal, batches, sealed));
        match select(fills, runs).await {
            Either::Left(((), _)) => {}
            Either::Right((error, _)) => panic!("the log failed on a sound disk: {error}"),
        }
    };
    block_on(write);
    let files = disk.files();
    let segments = files.iter().filter(|path| path.ends_with(".wal"));
    segments.map(|path| disk.file_bytes(path).expect("it was just listed")).collect()
}

async fn fill(wal: &Wal<SimDisk>, batches: &[usize], sealed: bool) {
    let mut stamps = StampSource::new(NodeId::default(), 1, 0, Hlc(0));
    let mut payload_bytes = 0;
    for count in batches {
        let mut last = wal.durable_lsn();
        for _ in 0..*count {
            let stamp = stamps.next(1_700_000_000_000_000);
            let kind = if payload_bytes == 0 { RecordKind::Delete } else { RecordKind::Put };
            let payload = vec![0xA5; payload_bytes];
            wal.room().await;
            last =
                wal.append(ShardId(7), kind, &stamp, &[payload.as_slice()]).expect("there is room");
            payload_bytes += 37;
        }
        wal.durable(last).await.expect("the disk is sound");
    }
    if sealed {
        wal.seal().await.expect("the disk is sound");
    }
}

#[cfg(test)]
mod tests {
    use heddle_core::wal::fuzz::recover_bytes;

    #[test]
    fn samples_hold_the_records_that_were_written() {
        let counts: Vec<u64> =
            super::seeds().iter().map(|segment| recover_bytes(segment, &mut |_| {})).collect();
        assert_eq!(counts.iter().sum::<u64>(), 1 + 3 + 4 + 3, "{counts:?}");
        assert!(counts.iter().any(|&count| count >= 3), "{counts:?}");
    }
}
