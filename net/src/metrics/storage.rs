//! The part of the metrics page about logs and shards.

use std::fmt::Display;

use super::prometheus::Page;
use super::report::{EngineReport, ShardReport, WalReport};
use crate::status::NodeReport;

/// Name, kind, help and value of one number.
type Metric<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

const LOG: [Metric<WalReport>; 10] = [
    ("heddle_wal_syncs_total", "counter", "Syncs of the log.", |wal| wal.syncs as f64),
    ("heddle_wal_batches_total", "counter", "Batches made durable.", |wal| wal.batches as f64),
    ("heddle_wal_records_total", "counter", "Records made durable.", |wal| wal.records as f64),
    ("heddle_wal_bytes_total", "counter", "Bytes made durable.", |wal| wal.bytes as f64),
    ("heddle_wal_backlog_bytes", "gauge", "Bytes accepted and not durable.", |wal| {
        wal.backlog_bytes as f64
    }),
    ("heddle_wal_segments", "gauge", "Segment files.", |wal| wal.segments as f64),
    ("heddle_wal_segment_bytes", "gauge", "Bytes of segment files.", |wal| {
        wal.segment_bytes as f64
    }),
    ("heddle_wal_spare_bytes", "gauge", "Bytes of a released segment file.", |wal| {
        wal.spare_bytes as f64
    }),
    ("heddle_wal_refused_full_total", "counter", "Appends refused: the disk is full.", |wal| {
        wal.refused_full as f64
    }),
    ("heddle_wal_durable_lsn", "gauge", "Last durable record.", |wal| wal.durable_lsn as f64),
];

const ENGINE: [Metric<EngineReport>; 7] = [
    ("heddle_writes_in_flight", "gauge", "Writes that wait for the log.", |engine| {
        engine.writes_in_flight as f64
    }),
    ("heddle_writes_held_seconds_total", "counter", "Waits of rows for linking.", |engine| {
        engine.writers_held_ns as f64 / 1e9
    }),
    ("heddle_wal_failed", "gauge", "1 once the log has failed.", |engine| {
        f64::from(u8::from(engine.failed))
    }),
    ("heddle_shards_quarantined", "gauge", "Shards not served: their log is damaged.", |engine| {
        engine.quarantined.len() as f64
    }),
    ("heddle_scrub_bytes_total", "counter", "Bytes read to look for damage.", |engine| {
        engine.scrub.bytes as f64
    }),
    ("heddle_scrub_passes_total", "counter", "Looks at all that is on disk.", |engine| {
        engine.scrub.passes as f64
    }),
    ("heddle_scrub_damaged_total", "counter", "Damaged places that were found.", |engine| {
        engine.scrub.damaged as f64
    }),
];

const SHARD: [Metric<ShardReport>; 18] = [
    ("heddle_objects", "gauge", "Live objects.", |shard| shard.objects as f64),
    ("heddle_tombstones", "gauge", "Remembered deletions.", |shard| shard.tombstones as f64),
    ("heddle_dead_slots", "gauge", "Dead slots that are not free.", |shard| {
        shard.dead_slots as f64
    }),
    ("heddle_index_tail", "gauge", "Vectors that are not in a graph yet.", |shard| {
        shard.tail as f64
    }),
    ("heddle_write_burden_ratio", "gauge", "Tail or dead slots; above 1 writers wait.", |shard| {
        shard.burden_percent as f64 / 1e2
    }),
    ("heddle_index_vectors", "gauge", "Vectors in the indexes, dead ones included.", |shard| {
        shard.vectors as f64
    }),
    ("heddle_index_used_bytes", "gauge", "Bytes of vectors, codes and links in use.", |shard| {
        shard.index_bytes as f64
    }),
    ("heddle_row_disk_bytes", "gauge", "Bytes of row segments.", |shard| {
        shard.row_disk_bytes as f64
    }),
    ("heddle_row_data_bytes", "gauge", "Bytes of rows on disk, uncompressed.", |shard| {
        shard.row_data_bytes as f64
    }),
    ("heddle_row_dead_bytes", "gauge", "Dead ones of them.", |shard| shard.row_dead_bytes as f64),
    ("heddle_row_retired_bytes", "gauge", "Bytes that go with the next image.", |shard| {
        shard.row_retired_bytes as f64
    }),
    ("heddle_row_flushed_bytes_total", "counter", "Rows written once, uncompressed.", |shard| {
        shard.row_flushed_bytes as f64
    }),
    ("heddle_row_compacted_bytes_total", "counter", "Rows written again.", |shard| {
        shard.row_compacted_bytes as f64
    }),
    ("heddle_image_bytes", "gauge", "Bytes of the checkpoint image.", |shard| {
        shard.image_bytes as f64
    }),
    ("heddle_checkpoint_log_bytes", "gauge", "Log bytes since the last checkpoint.", |shard| {
        shard.log_bytes as f64
    }),
    ("heddle_shard_poisoned", "gauge", "1 when the shard refuses writes.", |shard| {
        f64::from(u8::from(shard.poisoned))
    }),
    ("heddle_shard_served", "gauge", "0 while the shard is not served.", |shard| {
        f64::from(u8::from(shard.state == "serving"))
    }),
    ("heddle_start_records_replayed", "gauge", "Log records that the start applied.", |shard| {
        shard.records_replayed as f64
    }),
];

pub(super) fn render(page: &mut Page, report: &NodeReport) {
    logs(page, report);
    shards(page, report);
    memory(page, report);
    checkpoints(page, report);
}

fn engines(report: &NodeReport) -> impl Iterator<Item = (usize, &EngineReport)> {
    report.cores.iter().filter_map(|core| Some((core.core, core.engine.as_ref()?)))
}

fn all_shards(report: &NodeReport) -> impl Iterator<Item = (usize, &ShardReport)> {
    engines(report).flat_map(|(core, engine)| engine.shards.iter().map(move |it| (core, it)))
}

fn logs(page: &mut Page, report: &NodeReport) {
    for (name, kind, help, value) in LOG {
        page.metric(name, kind, help);
        for (core, engine) in engines(report) {
            page.line(name, &[("core", &core)], value(&engine.wal));
        }
    }
    for (name, kind, help, value) in ENGINE {
        page.metric(name, kind, help);
        for (core, engine) in engines(report) {
            page.line(name, &[("core", &core)], value(engine));
        }
    }
    const BATCHES: &str = "heddle_wal_batch_records";
    page.metric(BATCHES, "histogram", "Records of a batch: how well commits are grouped.");
    for (core, engine) in engines(report) {
        let mut total = 0;
        for (place, count) in engine.wal.batch_records.iter().enumerate() {
            total += count;
            let bound = (1u64 << (place + 1)) - 1;
            let is_last = place + 1 == engine.wal.batch_records.len();
            let bound: &dyn Display = if is_last { &"+Inf" } else { &bound };
            page.line(&format!("{BATCHES}_bucket"), &[("core", &core), ("le", bound)], total);
        }
        page.line(&format!("{BATCHES}_sum"), &[("core", &core)], engine.wal.records);
        page.line(&format!("{BATCHES}_count"), &[("core", &core)], total);
    }
}

fn shards(page: &mut Page, report: &NodeReport) {
    for (name, kind, help, value) in SHARD {
        page.metric(name, kind, help);
        for (core, shard) in all_shards(report) {
            let labels: [(&str, &dyn Display); 3] =
                [("core", &core), ("collection", &shard.collection), ("shard", &shard.id)];
            page.line(name, &labels, value(shard));
        }
    }
}

fn memory(page: &mut Page, report: &NodeReport) {
    const MEMORY: &str = "heddle_shard_memory_bytes";
    page.metric(MEMORY, "gauge", "Memory of a shard by use.");
    for (core, shard) in all_shards(report) {
        for (usage, bytes) in [
            ("vectors", shard.vector_bytes),
            ("links", shard.link_bytes),
            ("directory", shard.directory_bytes),
            ("properties", shard.property_bytes),
            ("ids", shard.id_bytes),
            ("rows", shard.row_memory_bytes),
            ("row tables", shard.row_table_bytes),
        ] {
            let labels: [(&str, &dyn Display); 4] = [
                ("core", &core),
                ("collection", &shard.collection),
                ("shard", &shard.id),
                ("use", &usage),
            ];
            page.line(MEMORY, &labels, bytes);
        }
    }
}

fn checkpoints(page: &mut Page, report: &NodeReport) {
    const AGE: &str = "heddle_checkpoint_age_seconds";
    page.metric(AGE, "gauge", "Age of the last checkpoint of a shard.");
    for (core, shard) in all_shards(report) {
        if let Some(age_us) = shard.image_age_us {
            let labels: [(&str, &dyn Display); 3] =
                [("core", &core), ("collection", &shard.collection), ("shard", &shard.id)];
            page.line(AGE, &labels, age_us as f64 / 1e6);
        }
    }
    let written = ("heddle_checkpoints_total", "counter", "Checkpoints written.");
    page.each_core(report, written, |core| core.checkpoints);
    let failed = ("heddle_checkpoint_failures_total", "counter", "Checkpoints that failed.");
    page.each_core(report, failed, |core| core.checkpoint_failures);
    const STEP: &str = "heddle_checkpoint_step_longest_seconds";
    page.metric(STEP, "gauge", "Longest time a checkpoint kept the core.");
    for core in &report.cores {
        page.line(STEP, &[("core", &core.core)], core.checkpoint_step_ns_max as f64 / 1e9);
    }
}
