"""Tables in Markdown and the whole result as JSON."""

from __future__ import annotations

from typing import Any

from analysis import TARGETS, Memory, at_recall, bound_seconds
from runs import Result


def as_json(results: dict[str, Result], memory: Memory | None) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, result in results.items():
        out[name] = {
            "version": result.version,
            "note": result.note,
            "parameter": result.parameter,
            "build": result.build,
            "bytes_per_vector": result.bytes_per_vector,
            "resident_bytes": result.resident_bytes,
            "kernel_ns": result.kernel_ns,
            "points": [
                {
                    "value": point.value,
                    "recall": point.recall,
                    "qps_median": point.middle(),
                    "qps_min": min(point.qps),
                    "qps_max": max(point.qps),
                    "qps_cpu_median": sorted(point.qps_cpu)[len(point.qps_cpu) // 2],
                    "passes": len(point.qps),
                    **point.counts,
                }
                for point in result.in_order()
            ],
            "at": {str(target): at(result, target, memory) for target in TARGETS},
        }
    return out


def at(result: Result, target: float, memory: Memory | None) -> dict[str, float]:
    """Speed and counts at a recall; empty when the recall is not reached."""
    points = result.in_order()
    qps = at_recall(points, target)
    if qps is None:
        return {}
    values = {"qps": qps}
    for count in ("evaluations", "hops", "rescored", "bytes_touched"):
        value = at_recall(points, target, count)
        if value is not None:
            values[count] = value
    if memory and result.ours and "bytes_touched" in values:
        counts = values | {"kernel_ns": result.kernel_ns}
        working_set = result.bytes_per_vector * result.build["vectors"]
        values["bound_qps"] = 1 / bound_seconds(counts, memory, working_set)
    return values


def number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def summary(results: dict[str, Result], memory: Memory | None) -> str:
    """One line per configuration: cost of building and keeping it, speed at each recall."""
    head = ["", "build CPU s", "bytes/vector"]
    head += [f"queries/s at {target}" for target in TARGETS]
    head += ["evaluations .95 / .99 / .999", "KiB touched .95 / .99 / .999", "best recall"]
    rows = []
    for name, result in results.items():
        found = [at(result, target, memory) for target in TARGETS]
        row = [f"**{name}**" if result.ours else name]
        row += [number(result.build["build_cpu_seconds"]), number(result.bytes_per_vector)]
        row += [number(values.get("qps")) for values in found]
        row.append(" / ".join(number(values.get("evaluations")) for values in found))
        kib = [values.get("bytes_touched") for values in found]
        row.append(" / ".join(number(None if value is None else value / 1024) for value in kib))
        row.append(f"{max(point.recall for point in result.points.values()):.4f}")
        rows.append(row)
    return table(head, rows)


def ratios(results: dict[str, Result]) -> str:
    """How many times faster each Heddle configuration is than each peer, at each recall."""
    ours = [result for result in results.values() if result.ours]
    head = ["faster than"] + [f"{result.name} .95 / .99 / .999" for result in ours]
    rows = []
    for peer in results.values():
        if peer.ours:
            continue
        row = [peer.name]
        for result in ours:
            row.append(" / ".join(ratio(result, peer, target) for target in TARGETS))
        rows.append(row)
    fastest = ["the fastest peer"]
    for result in ours:
        cells = []
        for target in TARGETS:
            rates = [
                rate
                for peer in results.values()
                if not peer.ours and (rate := at_recall(peer.in_order(), target)) is not None
            ]
            mine = at_recall(result.in_order(), target)
            cells.append("–" if mine is None or not rates else f"{mine / max(rates):.2f}x")
        fastest.append(" / ".join(cells))
    return table(head, [*rows, fastest])


def ratio(result: Result, peer: Result, target: float) -> str:
    mine, theirs = at_recall(result.in_order(), target), at_recall(peer.in_order(), target)
    if mine is None:
        return "–"
    return "only here" if theirs is None else f"{mine / theirs:.2f}x"


def bounds(results: dict[str, Result], memory: Memory) -> str:
    """What share of the memory bound each Heddle configuration reaches."""
    head = ["", "bound, queries/s .95 / .99 / .999", "share of it .95 / .99 / .999"]
    rows = []
    for name, result in results.items():
        if not result.ours:
            continue
        found = [at(result, target, memory) for target in TARGETS]
        shares = [
            f"{values['qps'] / values['bound_qps']:.0%}" if "bound_qps" in values else "–"
            for values in found
        ]
        limits = " / ".join(number(values.get("bound_qps")) for values in found)
        rows.append([name, limits, " / ".join(shares)])
    return table(head, rows)


def sweeps(results: dict[str, Result]) -> str:
    """Every point: parameter, recall, median and extremes."""
    lines = []
    for name, result in results.items():
        points = "; ".join(
            f"{point.value}: {point.recall:.4f}, {point.middle():,.0f} "
            f"({min(point.qps):,.0f}–{max(point.qps):,.0f})"
            for point in result.in_order()
        )
        note = f" ({result.note})" if result.note else ""
        lines.append(f"- **{name}**{note}, {result.parameter}: {points}")
    return "\n".join(lines) + "\n"


def memory_table(report: dict[str, Any]) -> str:
    """Nanoseconds per random line by working set and loads in flight, and sequential speed."""
    parts = []
    for page in report["pages"]:
        flights = [row["in_flight"] for row in page["working_sets"][0]["random"]]
        head = [f"{page['page_bytes'] // 1024} KiB pages"]
        head += [f"{count} in flight" for count in flights] + ["sequential GB/s"]
        rows = []
        for working_set in page["working_sets"]:
            row = [f"{working_set['bytes'] // 2**20} MiB"]
            row += [number(entry["ns_per_line"], 1) for entry in working_set["random"]]
            row.append(number(working_set["sequential_gb_per_second"], 1))
            rows.append(row)
        parts.append(table(head, rows))
    return "\n".join(parts)


def scaling_text(report: dict[str, Any]) -> str:
    if not report:
        return "Not measured: there is one CPU.\n"
    lines = [
        f"- search, {report['name']}, ef {row['value']}: {row['one']:,.0f} queries/s on one thread, "
        f"{row['two']:,.0f} on two: {row['two'] / row['one']:.2f}x"
        for row in report["search"]
    ]
    if "build" in report:
        build = report["build"]
        same = "the same graph" if build["same_graph"] else "another graph"
        lines.append(
            f"- build: {build['one_seconds']:.1f} s on one thread, {build['two_seconds']:.1f} s on "
            f"two: {build['one_seconds'] / build['two_seconds']:.2f}x, {same}"
        )
    return "\n".join(lines) + "\n"


def with_section(text: str, name: str, body: str) -> str:
    """`text` with what stands between the marks of `name` replaced, or put at its end with marks."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n\n{body.strip()}\n\n{end}"
    if begin not in text or end not in text:
        return f"{text.rstrip()}\n\n{section}\n"
    before, _, rest = text.partition(begin)
    return before + section + rest.partition(end)[2]
