"""Arithmetic on measured points: fronts, interpolation, medians, the bound set by memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

TARGETS = (0.95, 0.99, 0.999)


@dataclass
class Point:
    """All passes of one configuration at one value of its parameter."""

    value: int
    recall: float = 0.0
    qps: list[float] = field(default_factory=list)
    qps_cpu: list[float] = field(default_factory=list)
    # Counts per query, where the library gives them: evaluations, hops, bytes_touched, ...
    counts: dict[str, float] = field(default_factory=dict)

    def middle(self) -> float:
        return median(self.qps)


def front(points: Iterable[Point]) -> list[Point]:
    """Points that no other one beats in both recall and speed, by rising recall."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.recall, -point.middle())):
        if not kept or point.middle() > kept[-1].middle():
            kept.append(point)
    return kept[::-1]


def interpolate(pairs: Sequence[tuple[float, float]], target: float) -> float | None:
    """The positive value at a recall: its logarithm runs linearly in log(1 - recall).

    `pairs` are (recall, value) by rising recall. None when the target is beyond the last recall;
    the first value when it is below the first recall. A recall of 1 counts as 1 - 1e-6.
    """
    if not pairs or pairs[-1][0] < target:
        return None
    if pairs[0][0] >= target:
        return pairs[0][1]
    for (recall_0, value_0), (recall_1, value_1) in zip(pairs, pairs[1:]):
        if recall_0 < target <= recall_1:
            start, end = missing(recall_0), missing(recall_1)
            share = (missing(target) - start) / (end - start)
            return math.exp(math.log(value_0) + share * (math.log(value_1) - math.log(value_0)))
    raise AssertionError("some interval holds a target between the first and the last recall")


def missing(recall: float) -> float:
    return math.log(max(1 - recall, 1e-6))


def at_recall(points: Iterable[Point], target: float, count: str | None = None) -> float | None:
    """Queries per second, or a count per query, interpolated at a recall on the front."""
    pairs = []
    for point in front(points):
        value = point.middle() if count is None else point.counts.get(count)
        if value is None:
            return None
        pairs.append((point.recall, max(value, 1e-12)))
    return interpolate(pairs, target)


@dataclass(frozen=True)
class Memory:
    """What `heddle-bench memory` measured, for 2 MiB pages where they were given, else 4 KiB."""

    # (working set in bytes, nanoseconds per line at the best number of loads in flight)
    lines: tuple[tuple[float, float], ...]
    in_flight: int

    def line_ns(self, working_set_bytes: float) -> float:
        """Nanoseconds per random cache line, by the logarithm of the working set's size."""
        if working_set_bytes <= self.lines[0][0]:
            return self.lines[0][1]
        for (size_0, ns_0), (size_1, ns_1) in zip(self.lines, self.lines[1:]):
            if working_set_bytes <= size_1:
                share = math.log(working_set_bytes / size_0) / math.log(size_1 / size_0)
                return ns_0 + share * (ns_1 - ns_0)
        return self.lines[-1][1]


def memory_of(report: dict) -> Memory:
    """From the JSON of `heddle-bench memory`."""
    pages = {page["page_bytes"]: page for page in report["pages"]}
    best = pages[max(pages)]
    lines, in_flight = [], 1
    for working_set in best["working_sets"]:
        fastest = min(working_set["random"], key=lambda row: row["ns_per_line"])
        lines.append((float(working_set["bytes"]), fastest["ns_per_line"]))
        in_flight = max(in_flight, fastest["in_flight"])
    return Memory(tuple(sorted(lines)), in_flight)


def bound_seconds(counts: dict[str, float], memory: Memory, working_set_bytes: float) -> float:
    """The time one query's lines and arithmetic take when nothing else costs anything."""
    lines = counts["bytes_touched"] / 64 * memory.line_ns(working_set_bytes) * 1e-9
    return lines + counts["evaluations"] * counts.get("kernel_ns", 0.0) * 1e-9
