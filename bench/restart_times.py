#!/usr/bin/env python3
"""How long a killed node takes to serve again, beside what its disk needs to read the same bytes.

    python3 bench/restart_times.py --heddle target/release/heddle --data DIR --sets sift,minilm

Each set is imported in the default profile and checkpointed by a clean stop. Then, --passes times:
the node is started, killed by SIGKILL and started again, once with an image alone and once with
--tail-rows more records in the log behind it. Of each restart it prints the time from the start of
the process to the first correct answer (ten neighbours of a query, at least nine of the true ten,
asked by `heddle search`, whose own time against a warm node is shown beside it) and to full service
(ready, all images in, nothing left to replay).

The bound is the bytes of the shards' images, and of the log behind them, over the disk's rate. The
rate is measured around each restart on the same files: O_DIRECT, eight reads of 1 MiB in flight, as
the node reads. Files are dropped from the page cache before, and the node's own O_DIRECT reads are
checked: what /proc/PID/io counts as read from the device must be at least the bytes of the images.
Standard library only.
"""

import argparse
import concurrent.futures
import json
import mmap
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

METRIC = {"sift": "l2-squared", "minilm": "cosine"}
PIECE_BYTES = 1 << 20
READS_IN_FLIGHT = 8
K = 10
# A correct answer has at least so many of the true ten: what searches promise is recall.
CORRECT_MIN = 9
# The goal: so many times the bound, and so many seconds more.
GOAL_RATIO = 1.5
GOAL_SECONDS = 0.3


class Node:
    """A `heddle serve` process; `started` is the moment before it was made."""

    def __init__(self, options: argparse.Namespace, directory: str, *settings: str) -> None:
        self.heddle = options.heddle
        command = [options.heddle, "serve", "--data-dir", directory, "--cores", str(options.cores)]
        command += ["--native-port", "0", "--core-port-base", "0", "--http-port", "0"]
        command += ["--ready-line", "always", "--log-level", options.log_level, *settings]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the node ended with {self.process.wait()}")
        self.ready = json.loads(line)
        self.ready_seconds = time.monotonic() - self.started
        self.address = f"127.0.0.1:{self.ready['native_port']}"

    def status(self) -> dict:
        return run(self.heddle, "status", "--address", self.address, "--json")

    def shards(self) -> list:
        engines = [core["engine"] for core in self.status()["cores"] if core["engine"]]
        return [shard for engine in engines for shard in engine["shards"]]

    def is_whole(self) -> bool:
        """Does the node say that everything is in?"""
        url = f"http://127.0.0.1:{self.ready['http_port']}/v1/.well-known/ready"
        with urllib.request.urlopen(url) as answer:
            return answer.status == 200 and "loading" not in answer.read().decode()

    def read_bytes(self) -> int:
        for line in pathlib.Path(f"/proc/{self.process.pid}/io").read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
        raise RuntimeError("no read_bytes")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=300)
        if code != 0:
            raise RuntimeError(f"the node ended with {code}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def run(heddle: str, *arguments: str) -> dict:
    done = subprocess.run([heddle, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout.strip() else {}


def npy_row(path: pathlib.Path, row: int, columns: int) -> list:
    """A row of a little-endian int32 .npy file."""
    data = path.read_bytes()
    start = 10 + int.from_bytes(data[8:10], "little")
    width = columns * 4
    row_bytes = data[start + row * width : start + (row + 1) * width]
    return [int.from_bytes(row_bytes[at : at + 4], "little") for at in range(0, width, 4)]


def search(options: argparse.Namespace, node: Node, name: str) -> tuple:
    """Seconds of one search, and how many of the true neighbours it found."""
    folder = pathlib.Path(options.data) / name
    begun = time.monotonic()
    found = run(
        *[options.heddle, "search", name, "--address", node.address, "--json"],
        *["--row", f"{folder / 'query.npy'}:0", "--k", str(K), "--ef", "128"],
    )
    seconds = time.monotonic() - begun
    hits = found["hits"] if isinstance(found, dict) else found
    ids = {int(hit["id"].replace("-", "")[16:], 16) for hit in hits}
    truth = npy_row(folder / "gt.npy", 0, 100)[:K]
    return seconds, len(ids & set(truth))


def files_of(directory: str, pattern: str) -> list:
    return sorted(path for path in pathlib.Path(directory).glob(pattern) if path.is_file())


def drop_from_cache(paths: list) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def direct_rate(paths: list) -> float:
    """Bytes a second of sequential O_DIRECT reads of these files, several in flight."""
    pieces = []
    descriptors = []
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        descriptors.append(descriptor)
        length = os.fstat(descriptor).st_size
        pieces += [(descriptor, offset) for offset in range(0, length, PIECE_BYTES)]
    buffers = [mmap.mmap(-1, PIECE_BYTES) for _ in range(READS_IN_FLIGHT)]

    def read(worker: int) -> int:
        mine = pieces[worker::READS_IN_FLIGHT]
        return sum(os.preadv(descriptor, [buffers[worker]], offset) for descriptor, offset in mine)

    with concurrent.futures.ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        begun = time.monotonic()
        total = sum(pool.map(read, range(READS_IN_FLIGHT)))
        seconds = time.monotonic() - begun
    for descriptor in descriptors:
        os.close(descriptor)
    return total / seconds


def log_bytes_behind(node: Node) -> int:
    return sum(shard["log_bytes"] for shard in node.shards())


def restart(options: argparse.Namespace, directory: str, log_bytes: int) -> dict:
    """One start after a kill, with the disk's rate before and after it."""
    images = files_of(directory, "shards/*/image-*[0-9]")
    logs = files_of(directory, "logs/*/*.wal")
    image_bytes = sum(path.stat().st_size for path in images)
    drop_from_cache(images + logs)
    rates = [direct_rate(images)]
    keep = ["--checkpoint-interval-s", "86400", "--checkpoint-log-bytes", str(1 << 34)]
    node = Node(options, directory, *keep)
    taken = {}
    for name in options.sets:
        _, correct = search(options, node, name)
        taken[name] = {"seconds": time.monotonic() - node.started, "correct": correct}
    while not node.is_whole():
        time.sleep(0.002)
    full_seconds = max(node.ready_seconds, time.monotonic() - node.started)
    read_bytes = node.read_bytes()
    if read_bytes < image_bytes:
        raise RuntimeError(f"{read_bytes} bytes came from the disk, the images have {image_bytes}")
    own = statistics.median(search(options, node, options.sets[0])[0] for _ in range(5))
    tails = {shard["collection"]: shard["tail"] for shard in node.shards()}
    node.kill()
    # Rows that were rewritten may have made an image due.
    rates.append(direct_rate([path for path in images if path.exists()]))
    bound = (image_bytes + log_bytes) / statistics.mean(rates)
    return {
        "image_bytes": image_bytes,
        "log_bytes": log_bytes,
        "rate_bytes_s": statistics.mean(rates),
        "bound_s": bound,
        "ready_s": node.ready_seconds,
        "first_answer_s": min(row["seconds"] for row in taken.values()),
        "all_answers_s": max(row["seconds"] for row in taken.values()),
        "correct": {name: row["correct"] for name, row in taken.items()},
        "full_s": full_seconds,
        "search_command_s": own,
        "tail": tails,
        "ratio": (node.ready_seconds - GOAL_SECONDS) / bound,
    }


def import_set(options: argparse.Namespace, node: Node, scratch: str, name: str) -> None:
    folder = pathlib.Path(options.data) / name
    command = ["import", name, "--address", node.address, "--json"]
    command += ["--vectors", str(folder / "base.npy"), "--distance", METRIC[name]]
    command += ["--state", f"{scratch}/{name}.state"]
    if (folder / "base.jsonl.gz").exists() and options.properties:
        command += ["--properties", str(folder / "base.jsonl.gz")]
    if options.limit:
        command += ["--limit", str(options.limit)]
    run(options.heddle, *command)


def add_tail(options: argparse.Namespace, directory: str, scratch: str) -> int:
    """Writes the first rows of the first set once more and kills the node; the log's bytes."""
    keep = ["--checkpoint-log-bytes", str(1 << 34), "--checkpoint-interval-s", "86400"]
    node = Node(options, directory, *keep)
    name = options.sets[-1]
    folder = pathlib.Path(options.data) / name
    command = ["import", name, "--address", node.address, "--json", "--no-wait"]
    command += ["--vectors", str(folder / "base.npy"), "--limit", str(options.tail_rows)]
    if (folder / "base.jsonl.gz").exists() and options.properties:
        command += ["--properties", str(folder / "base.jsonl.gz")]
    run(options.heddle, *command, "--state", f"{scratch}/tail.state")
    behind = log_bytes_behind(node)
    node.kill()
    return behind


def show(title: str, rows: list) -> None:
    print(f"\n{title}\n")
    print("| image MB | log MB | disk MB/s | bound s | ready s | first answer s | full s | goal s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        goal = GOAL_RATIO * row["bound_s"] + GOAL_SECONDS
        print(
            f"| {row['image_bytes'] / 1e6:.0f} | {row['log_bytes'] / 1e6:.0f} "
            f"| {row['rate_bytes_s'] / 1e6:,.0f} | {row['bound_s']:.3f} | {row['ready_s']:.3f} "
            f"| {row['first_answer_s']:.3f} | {row['full_s']:.3f} | {goal:.3f} |"
        )
    middle = sorted(rows, key=lambda row: row["full_s"])[len(rows) // 2]
    print(
        f"\nmedian: full service after {middle['full_s']:.3f} s, (full - {GOAL_SECONDS}) / bound = "
        f"{(middle['full_s'] - GOAL_SECONDS) / middle['bound_s']:.2f} (goal {GOAL_RATIO}); "
        f"`heddle search` itself takes {middle['search_command_s']:.3f} s; "
        f"correct of {K}: {middle['correct']}; not in the graph: {middle['tail']}",
        flush=True,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--heddle", required=True, help="the release binary")
    arguments.add_argument("--data", required=True, help="folder that holds the sets")
    arguments.add_argument("--sets", default="sift,minilm", type=lambda text: text.split(","))
    arguments.add_argument("--cores", type=int, default=2)
    arguments.add_argument("--passes", type=int, default=3)
    arguments.add_argument("--tail-rows", type=int, default=100_000)
    arguments.add_argument("--limit", type=int, default=0, help="rows of each set; 0: all")
    arguments.add_argument("--properties", action="store_true", help="import them as well")
    arguments.add_argument("--log-level", default="warn")
    arguments.add_argument("--keep", help="data directory to fill once and use again")
    arguments.add_argument("--out")
    options = arguments.parse_args()

    scratch = tempfile.mkdtemp(prefix="heddle-restart-")
    directory = options.keep or f"{scratch}/data"
    report: dict = {"sets": options.sets, "cores": options.cores}
    try:
        if not pathlib.Path(directory).exists():
            node = Node(options, directory)
            for name in options.sets:
                import_set(options, node, scratch, name)
            node.stop()
        copy = f"{scratch}/copy"
        # Restarts replay and write: each kind of them has a directory of its own.
        shutil.copytree(directory, copy)
        os.sync()
        Node(options, copy, "--checkpoint-interval-s", "86400").kill()
        report["image"] = [restart(options, copy, 0) for _ in range(options.passes)]
        show("An image alone", report["image"])
        if options.tail_rows:
            behind = add_tail(options, copy, scratch)
            os.sync()
            report["tail"] = [restart(options, copy, behind) for _ in range(options.passes)]
            show(f"An image and {options.tail_rows:,} records behind it", report["tail"])
    finally:
        shutil.rmtree(scratch)
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(report, indent=1))
    late = [row for row in report["image"] if min(row["correct"].values()) < CORRECT_MIN]
    if late:
        sys.exit(f"wrong answers: {late}")


if __name__ == "__main__":
    main()
