#!/usr/bin/env python3
"""Does anything grow while a node is updated for a long time, and do searches stay quick?

    python3 bench/steady_state.py --heddle target/release/heddle --data DIR --set minilm --minutes 30

DIR/SET holds base.npy, query.npy and gt.npy. The set is imported and linked; half of the rows a
second that this took is then the rate of updates and deletions (--delete-share of them), of random
rows, for --minutes. Searches come at a fixed rate, before (idle) and in every interval of the load,
and their 99th percentile counts from when each was due. Every interval prints the memory of the
process, the bytes that the data directory takes on disk (log, images, rows), vectors that wait for
the graph, dead slots, checkpoints and the longest uninterrupted step of a checkpoint. At the end the
medians of the second and the last quarter of the load are compared: memory and disk may differ by
--flat, searches may take twice the idle time. Standard library only.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

METRIC = {"sift": "l2-squared", "minilm": "cosine"}
SEARCH_RATIO_MAX = 2.0


class Node:
    """A `heddle serve` process."""

    def __init__(self, options: argparse.Namespace, directory: str) -> None:
        command = [options.heddle, "serve", "--data-dir", directory, "--cores", str(options.cores)]
        command += ["--native-port", "0", "--core-port-base", "0", "--http-port", "0"]
        command += ["--ready-line", "always", "--log-level", "warn"]
        command += ["--checkpoint-log-bytes", str(options.checkpoint_log_bytes)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.address = f"127.0.0.1:{ready['native_port']}"
        self.http = f"http://127.0.0.1:{ready['http_port']}"
        self.directory = directory

    def rss_bytes(self) -> int:
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def disk_bytes(self) -> int:
        total = 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_blocks * 512
                except FileNotFoundError:
                    pass  # Removed since the folder was read.
        return total

    def metrics(self) -> dict:
        """Every metric summed over its labels; the highest value for those of a longest step."""
        found: dict = {}
        with urllib.request.urlopen(f"{self.http}/metrics") as answer:
            for line in answer.read().decode().splitlines():
                match = re.match(r"([a-z_]+)(?:\{.*\})? ([0-9.e+-]+)$", line)
                if match:
                    name, value = match.group(1), float(match.group(2))
                    old = found.get(name, 0.0)
                    found[name] = max(old, value) if name.endswith("_longest_seconds") else old + value
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=300)
        if code != 0:
            raise RuntimeError(f"the node ended with {code}")


def run(heddle: str, *arguments: str) -> dict:
    done = subprocess.run([heddle, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout.strip() else {}


def searches(options: argparse.Namespace, node: Node, seconds: float) -> dict:
    folder = pathlib.Path(options.data) / options.set
    rows = run(
        *[options.heddle, "bench", "search", options.set, "--address", node.address, "--json", "-"],
        *["--queries", str(folder / "query.npy"), "--truth", str(folder / "gt.npy")],
        *["--k", "10", "--ef", "64", "--connections", "4", "--rate", str(options.search_rate)],
        *["--seconds", str(seconds)],
    )
    return rows[0]


def sample(options: argparse.Namespace, node: Node, begun: float) -> dict:
    found = searches(options, node, options.search_seconds)
    metrics = node.metrics()
    return {
        "minute": (time.monotonic() - begun) / 60,
        "rss_bytes": node.rss_bytes(),
        "disk_bytes": node.disk_bytes(),
        "log_bytes": metrics.get("heddle_wal_segment_bytes", 0),
        "row_bytes": metrics.get("heddle_row_disk_bytes", 0),
        "objects": metrics.get("heddle_objects", 0),
        "tombstones": metrics.get("heddle_tombstones", 0),
        "tail": metrics.get("heddle_index_tail", 0),
        "dead_slots": metrics.get("heddle_dead_slots", 0),
        "vectors": metrics.get("heddle_index_vectors", 0),
        "checkpoints": metrics.get("heddle_checkpoints_total", 0),
        "longest_step_ms": metrics.get("heddle_checkpoint_step_longest_seconds", 0) * 1e3,
        "p50_us": found["p50_us"],
        "p99_us": found["p99_us"],
        "errors": found["errors"],
    }


def show(row: dict) -> None:
    print(
        f"{row['minute']:5.1f} min  rss {row['rss_bytes'] / 1e6:6.0f} MB  disk "
        f"{row['disk_bytes'] / 1e6:6.0f} MB (log {row['log_bytes'] / 1e6:4.0f}, rows "
        f"{row['row_bytes'] / 1e6:4.0f})  objects {row['objects']:,.0f}  tail {row['tail']:,.0f}  "
        f"dead {row['dead_slots']:,.0f}  slots {row['vectors']:,.0f}  images "
        f"{row['checkpoints']:.0f} (step {row['longest_step_ms']:.2f} ms)  "
        f"p50 {row['p50_us']:,.0f} us  p99 {row['p99_us']:,.0f} us  errors {row['errors']}",
        flush=True,
    )


def import_set(options: argparse.Namespace, node: Node, scratch: str) -> float:
    """Imports and links the set; rows a second over all of it."""
    folder = pathlib.Path(options.data) / options.set
    command = ["import", options.set, "--address", node.address, "--json"]
    command += ["--vectors", str(folder / "base.npy"), "--distance", METRIC[options.set]]
    command += ["--state", f"{scratch}/import.state"]
    if options.limit:
        command += ["--limit", str(options.limit)]
    begun = time.monotonic()
    run(options.heddle, *command)
    return node.metrics()["heddle_objects"] / (time.monotonic() - begun)


def judge(options: argparse.Namespace, idle: dict, rows: list) -> bool:
    quarter = max(1, len(rows) // 4)
    early, late = rows[quarter : 2 * quarter] or rows[:1], rows[-quarter:]
    flat = True
    for key in ["rss_bytes", "disk_bytes"]:
        before = statistics.median(row[key] for row in early)
        after = statistics.median(row[key] for row in late)
        growth = after / before - 1
        flat &= growth <= options.flat
        print(f"{key}: {before / 1e6:,.0f} MB in the second quarter, {after / 1e6:,.0f} MB in the "
              f"last: {growth:+.1%}")
    p99 = statistics.median(row["p99_us"] for row in rows)
    print(f"p99 of searches: idle {idle['p99_us']:,.0f} us, under load {p99:,.0f} us (median of the "
          f"intervals): {p99 / idle['p99_us']:.2f} times")
    quick = p99 <= SEARCH_RATIO_MAX * idle["p99_us"]
    print(f"flat: {'yes' if flat else 'NO'}; searches within {SEARCH_RATIO_MAX:g} times idle: "
          f"{'yes' if quick else 'NO'}")
    return flat and quick


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--heddle", required=True, help="the release binary")
    arguments.add_argument("--data", required=True, help="folder that holds the sets")
    arguments.add_argument("--set", choices=sorted(METRIC), default="minilm")
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--cores", type=int, default=2)
    arguments.add_argument("--limit", type=int, default=0, help="rows of the set; 0: all")
    arguments.add_argument("--interval", type=float, default=30.0, help="seconds")
    arguments.add_argument("--rate", type=float, default=0.0, help="0: half of the import's")
    arguments.add_argument("--delete-share", type=float, default=0.2)
    arguments.add_argument("--search-rate", type=float, default=200.0)
    arguments.add_argument("--search-seconds", type=float, default=10.0)
    arguments.add_argument("--checkpoint-log-bytes", type=int, default=512 << 20)
    arguments.add_argument("--flat", type=float, default=0.05, help="growth that counts as none")
    arguments.add_argument("--out")
    options = arguments.parse_args()

    folder = pathlib.Path(options.data) / options.set
    scratch = tempfile.mkdtemp(prefix="heddle-steady-")
    report: dict = {"set": options.set, "minutes": options.minutes}
    node = Node(options, f"{scratch}/data")
    try:
        rate = import_set(options, node, scratch)
        wanted = options.rate or rate / 2
        print(f"import: {rate:,.0f} rows/s; load: {wanted:,.0f} updates and deletions/s", flush=True)
        report["idle"] = sample(options, node, time.monotonic())
        show(report["idle"])
        churn = subprocess.Popen(
            [options.heddle, "bench", "churn", options.set, "--address", node.address]
            + ["--vectors", str(folder / "base.npy"), "--rate", str(wanted)]
            + ["--delete-share", str(options.delete_share), "--seconds", str(options.minutes * 60)]
            + ["--json", f"{scratch}/churn.json"]
        )
        begun = time.monotonic()
        report["load"] = []
        while churn.poll() is None:
            row = sample(options, node, begun)
            if churn.poll() is None:
                report["load"].append(row)
                show(row)
            time.sleep(max(0.0, options.interval - options.search_seconds))
        if churn.returncode != 0:
            raise RuntimeError(f"the load ended with {churn.returncode}")
        report["churn"] = json.loads(pathlib.Path(f"{scratch}/churn.json").read_text())
        print(f"load: {report['churn']}")
        node.stop()
    finally:
        node.process.kill()
        shutil.rmtree(scratch)
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(report, indent=1))
    if not judge(options, report["idle"], report["load"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
