"""A whole comparison: build what is missing, interleave the passes, time two threads against one."""

from __future__ import annotations

import os
import platform
import random
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from analysis import Point
from children import Failed, HeddleChild, HeddleFlags, PeerChild, Server
from sets import VectorSet

Child = PeerChild | HeddleChild

# A pass goes on until this much time is over, so that fast points are not timed by a blink.
SECONDS_MIN = 0.2
# The sweep of a configuration ends behind the first point with this recall.
RECALL_ENOUGH = 0.9995
# Points whose pass takes longer than this are measured in fewer passes.
SLOW_SECONDS = 2.0
SLOW_PASSES = 3
COUNTS = ("evaluations", "hops", "rescored", "bytes_touched")


@dataclass
class Result:
    """Everything measured of one configuration."""

    name: str
    ours: bool
    version: str
    note: str
    parameter: str
    build: dict[str, Any]
    bytes_per_vector: float = 0.0
    resident_bytes: int = 0
    # Nanoseconds of a distance whose row is at hand; zero where it was not measured.
    kernel_ns: float = 0.0
    points: dict[int, Point] = field(default_factory=dict)

    def in_order(self) -> list[Point]:
        return [self.points[value] for value in sorted(self.points)]


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    data: VectorSet
    k: int
    passes: int
    cpu: int
    seed: int
    quick: bool
    rebuild: frozenset[str]


def heddle_flags(program: Path, codes: str) -> list[HeddleFlags]:
    """Configurations from `none,8bit,4bit:absent`: codes, and after a colon what --raw says.

    `default` passes no flags. Codes that the program does not know yet are passed over by name.
    """
    known = subprocess.run([program, "index", "--help"], capture_output=True, text=True).stdout
    wanted = [HeddleFlags("heddle", ())] if "default" in codes.split(",") else []
    for text in codes.split(","):
        if text == "default":
            continue
        kind, _, raw = text.partition(":")
        flags = ["--codes", kind] + (["--raw", raw] if raw else [])
        if any(flag.startswith("--") and flag not in known for flag in flags):
            print(f"passed over: heddle-{text} (this program has no --codes)")
            continue
        wanted.append(HeddleFlags("heddle-" + "-".join(filter(None, [kind, raw])), tuple(flags)))
    return wanted


def build_all(plan: Plan, children: list[Child]) -> dict[str, Result]:
    """Builds what is not cached; a configuration that fails is passed over by name."""
    results: dict[str, Result] = {}
    fresh: set[Path] = set()
    for child in children:
        again = child.name in plan.rebuild and child.folder not in fresh
        fresh.add(child.folder)
        try:
            built = child.build({plan.cpu}, again)
        except Failed as failed:
            print(f"passed over: {child.name} {failed}", flush=True)
            continue
        print(
            f"{child.name}: built in {built['build_cpu_seconds']:.1f} CPU s "
            f"({built['build_seconds']:.1f} s), {built['bytes_per_vector']:.0f} bytes per vector",
            flush=True,
        )
        results[child.name] = Result(
            child.name,
            isinstance(child, HeddleChild),
            child.version,
            child.note,
            child.parameter,
            built,
            bytes_per_vector=built["bytes_per_vector"],
        )
    return results


def start_all(plan: Plan, children: list[Child], results: dict[str, Result]) -> dict[str, Server]:
    servers: dict[str, Server] = {}
    for child in children:
        if child.name not in results:
            continue
        try:
            server = child.serve({plan.cpu})
        except Failed as failed:
            print(f"passed over: {child.name} {failed}", flush=True)
            del results[child.name]
            continue
        servers[child.name] = server
        result = results[child.name]
        result.resident_bytes = server.ready["resident_bytes"]
        result.bytes_per_vector += server.ready.get("extra_bytes_per_vector", 0.0)
    return servers


def interleave(
    plan: Plan, children: list[Child], servers: dict[str, Server], results: dict[str, Result]
) -> None:
    """Passes over all configurations, each time in another order; one process runs at a time."""
    dice = random.Random(plan.seed)
    sweeps = {child.name: list(child.sweep[:: 2 if plan.quick else 1]) for child in children}
    for turn in range(plan.passes):
        started = time.monotonic()
        order = list(servers)
        dice.shuffle(order)
        for name in order:
            try:
                sweeps[name] = one_turn(results[name], servers[name], sweeps[name], turn)
            except Failed as failed:
                print(f"passed over: {name} {failed}", flush=True)
                del servers[name], results[name]
        print(
            f"pass {turn + 1} of {plan.passes}: {time.monotonic() - started:.0f} s, "
            f"load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def one_turn(result: Result, server: Server, sweep: list[int], turn: int) -> list[int]:
    """All points of one configuration; gives back the values worth measuring again."""
    kept: list[int] = []
    for at, value in enumerate(sweep):
        asked = time.monotonic()
        reply = server.ask(value=value, warm=at == 0, recall=turn == 0, seconds_min=SECONDS_MIN)
        asked = time.monotonic() - asked
        point = result.points.setdefault(value, Point(value))
        point.qps.append(reply["qps"])
        point.qps_cpu.append(reply["qps_cpu"])
        if turn == 0:
            point.recall = reply["recall"]
            point.counts = {key: reply[key] for key in COUNTS if key in reply}
        if asked <= SLOW_SECONDS or turn + 1 < SLOW_PASSES:
            kept.append(value)
        if turn == 0 and point.recall >= RECALL_ENOUGH:
            break
    return kept


def scaling(plan: Plan, child: HeddleChild, points: list[Point]) -> dict[str, Any]:
    """Two threads against one: searches in turns on one loaded index, then whole builds."""
    cpus = set(sorted(os.sched_getaffinity(0) | {plan.cpu})[:2]) | {plan.cpu}
    if len(cpus) < 2:
        return {}
    cpus = {plan.cpu, min(cpus - {plan.cpu})}
    server = child.serve(cpus)
    rows = []
    for target in (0.95, 0.99):
        value = next((point.value for point in points if point.recall >= target), None)
        if value is None:
            continue
        rates: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(2 * plan.passes):
            # One, two, two, one: a drift of the machine disturbs both alike.
            for threads in (1, 2) if turn % 2 == 0 else (2, 1):
                reply = server.ask(value=value, warm=True, threads=threads, seconds_min=0.5)
                rates[threads].append(reply["qps"])
        one, two = median(rates[1]), median(rates[2])
        rows.append({"value": value, "recall_from": target, "one": one, "two": two})
    server.close()
    report: dict[str, Any] = {"name": child.name, "search": rows}
    if not plan.quick:
        one, two = child.timed_build({plan.cpu}, 1), child.timed_build(cpus, 2)
        report["build"] = {
            "one_seconds": one["build_seconds"],
            "two_seconds": two["build_seconds"],
            "same_graph": one["checksum"] == two["checksum"],
        }
    return report


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"flags\s*: (.*)", text)
    has = set(flags.group(1).split()) if flags else set()
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processor": model.group(1) if model else platform.machine(),
        "cpus": os.cpu_count(),
        "instructions": [name for name in ("avx2", "avx512f", "avx512_vnni") if name in has],
        "memory_bytes": int(memory.group(1)) * 1024 if memory else None,
        "huge_pages": pages.read_text().strip() if pages.exists() else None,
        "kernel": platform.release(),
    }
