"""One library in a process of its own: builds an index once, or keeps it loaded and answers passes.

A serving process prints one JSON line when it is ready, then one for each line it reads:

    {"value": 64, "recall": true, "seconds_min": 0.2, "warm": true}
    {"qps": 5120.4, "qps_cpu": 5133.0, "recall": 0.9774, "evaluations": 1210.3, "row_bytes": 384}

It sleeps between them, and ends when its input does. `heddle-bench index --serve` speaks the same.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from peers import PEERS
from sets import VectorSet

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WARM_QUERIES = 200


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def size_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def build(data: VectorSet, name: str, k: int, folder: Path) -> None:
    """Builds and saves `folder/index`, then writes the figures to `folder/build.json`."""
    peer = PEERS[name](data, k)
    base = data.base()
    before = resident_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    peer.build(base)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    folder.mkdir(parents=True, exist_ok=True)
    peer.save(folder / "index")
    figures = {
        "name": name,
        "version": peer.version(),
        "rows": len(base),
        "build_seconds": wall,
        "build_cpu_seconds": cpu,
        "peak_extra_bytes": peak - before,
        "index_bytes": size_bytes(folder / "index"),
        "load_average": os.getloadavg()[0],
    }
    (folder / "build.json").write_text(json.dumps(figures, indent=1))


def recall(found: Any, truth: list[set[int]], k: int) -> float:
    right = sum(len(true & set(ids)) for true, ids in zip(truth, np.asarray(found).tolist()))
    return right / (len(truth) * k)


def serve(data: VectorSet, name: str, k: int, folder: Path) -> None:
    # Libraries print; replies go to the real output, everything else to the log.
    replies: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = PEERS[name](data, k)
    before, started = resident_bytes(), time.perf_counter()
    peer.load(folder / "index")
    seconds = time.perf_counter() - started
    queries = peer.prepare(data.queries())
    truth = [set(row) for row in data.truth(k).tolist()]
    if len(truth) != len(queries):
        raise SystemExit(f"{len(truth)} rows of truth for {len(queries)} queries")
    gc.collect()
    ready = {
        "ready": name,
        "load_seconds": seconds,
        "resident_bytes": resident_bytes() - before,
        "extra_bytes_per_vector": peer.extra_bytes_per_vector(),
    }
    replies.write(json.dumps(ready) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        value = request["value"]
        if request.get("warm"):
            peer.search(queries[:WARM_QUERIES], value)
        reply, found = timed(peer, queries, value, request.get("seconds_min", 0.0))
        if request.get("recall"):
            reply["recall"] = recall(found, truth, k)
        if peer.evaluations is not None:
            reply["evaluations"] = peer.evaluations
            row_bytes = peer.row_bytes()
            if row_bytes is not None:
                reply["bytes_touched"] = peer.evaluations * row_bytes
        replies.write(json.dumps(reply) + "\n")


def timed(peer: Any, queries: Any, value: int, seconds_min: float) -> tuple[dict[str, float], Any]:
    """All queries, again and again until `seconds_min` have passed."""
    answered = 0
    cpu, wall = time.process_time(), time.perf_counter()
    while True:
        found = peer.search(queries, value)
        answered += len(queries)
        seconds = time.perf_counter() - wall
        if seconds >= seconds_min:
            break
    cpu = time.process_time() - cpu
    return {"qps": answered / seconds, "qps_cpu": answered / max(cpu, 1e-9)}, found
