"""Heddle beside other libraries on one data set; `cargo xtask compare` runs this.

Every index is built in a process of its own on one thread and kept. Then each library sits in a
process of its own with its index loaded, pinned to one CPU, and answers passes over all queries one
at a time, in an order shuffled anew for each pass, so that what disturbs the machine disturbs all.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import time
from pathlib import Path

# Before numpy is loaded: its own threads would disturb the single one that is measured.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import analysis  # noqa: E402
import children  # noqa: E402
import peers  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402
import runs  # noqa: E402
import sets  # noqa: E402
import worker  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cargo xtask compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--set", type=Path, required=True, help="folder with base.npy, query.npy and gt.npy")
    add("--base", type=Path, help="base vectors, instead of base.npy in the folder")
    add("--queries", type=Path, help="queries, instead of query.npy")
    add("--truth", type=Path, help="row numbers of the true neighbours, instead of gt.npy")
    add(
        "--metric",
        choices=sets.METRICS,
        help="without it, what set.json says; without one, cosine for unit vectors, else l2",
    )
    add("--peers", help=f"some of {', '.join(peers.PEERS)}, or first parts of them; or none")
    add(
        "--codes",
        default="default",
        help="configurations of Heddle, such as default,none,8bit,4bit:absent (after a colon: --raw)",
    )
    add("--passes", type=int, default=5)
    add("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="where everything runs")
    add("--k", type=int, default=10)
    add("--seed", type=int, help="orders the passes; drawn and printed when absent")
    add("--out", type=Path, help="folder for results.json, tables.md and the plot")
    add("--docs", type=Path, help="also put tables and plot into this folder's benchmarks.md")
    add("--cache", type=Path, default=Path("target/compare/cache"), help="keeps built indexes")
    add("--program", type=Path, help="the heddle-bench to run; without it, peers alone")
    add("--rebuild", default="", help="configurations to build anew, separated by commas")
    add("--quick", action="store_true", help="two passes over every other point")
    add("--build-only", action="store_true", help="fill the cache and end")
    add("--worker", nargs=3, metavar=("TASK", "NAME", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    # Some libraries keep the folder of an index inside it.
    options.cache = options.cache.resolve()
    data = sets.open_set(
        options.set, options.base, options.queries, options.truth, options.metric
    )
    if options.worker:
        task, name, folder = options.worker
        run = worker.build if task == "build" else worker.serve
        run(data, name, options.k, Path(folder))
        return
    compare(options, data)


def compare(options: argparse.Namespace, data: sets.VectorSet) -> None:
    seed = random.randrange(2**32) if options.seed is None else options.seed
    plan = runs.Plan(
        data,
        options.k,
        2 if options.quick else options.passes,
        options.cpu,
        seed,
        options.quick,
        frozenset(filter(None, options.rebuild.split(","))),
    )
    rows, dims = data.shape()
    print(f"{data.name}: {rows} x {dims}, {data.metric}, CPU {plan.cpu}, seed {seed}", flush=True)
    family = family_of(options, data)
    results = runs.build_all(plan, family)
    if options.build_only:
        return
    memory_report = None
    if options.program:
        memory_report = children.measured_memory(
            options.program, plan.cpu, options.cache / "memory.json"
        )
        kernels = children.kernel_nanoseconds(
            options.program, dims, plan.cpu, options.cache / f"kernels-{dims}.json"
        )
        for result in results.values():
            result.kernel_ns = kernels.get(result.build.get("codes", ""), 0.0)
    servers = runs.start_all(plan, family, results)
    runs.interleave(plan, family, servers, results)
    for server in servers.values():
        server.close()
    scaling = {}
    ours = next((c for c in family if isinstance(c, children.HeddleChild)), None)
    if ours is not None and ours.name in results:
        scaling = runs.scaling(plan, ours, results[ours.name].in_order())
    out = options.out or options.cache.parent / f"out-{data.name}"
    write(out, plan, results, memory_report, scaling)
    if options.docs:
        document(options.docs, out, data.name)


def family_of(options: argparse.Namespace, data: sets.VectorSet) -> list[runs.Child]:
    """Heddle's configurations and the peers that are installed."""
    family: list[runs.Child] = []
    if options.program:
        for flags in runs.heddle_flags(options.program, options.codes):
            family.append(
                children.HeddleChild(data, flags, options.program, options.k, options.cache)
            )
    for name in [] if options.peers == "none" else peers.chosen(options.peers):
        try:
            family.append(children.PeerChild(data, name, options.k, options.cache))
        except importlib.metadata.PackageNotFoundError as missing:
            print(f"passed over: {name} ({missing.name} is not installed)")
    return family


def write(
    out: Path,
    plan: runs.Plan,
    results: dict[str, runs.Result],
    memory_report: dict | None,
    scaling: dict,
) -> None:
    """Prints the tables; writes them, the plot and all figures."""
    data = plan.data
    rows, dims = data.shape()
    memory = analysis.memory_of(memory_report) if memory_report else None
    finished = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    title = f"{data.name}: {rows:,} x {dims}, {data.metric}, k = {plan.k}"
    text = f"### {title}\n\n{plan.passes} passes, seed {plan.seed}, finished {finished}, "
    text += f"load average {os.getloadavg()[0]:.1f}.\n\n"
    text += report.summary(results, memory) + "\n" + report.ratios(results) + "\n"
    if memory:
        text += report.bounds(results, memory) + "\n"
    text += report.scaling_text(scaling) + "\n"
    text += "Points (value: recall, median queries/s, slowest–fastest pass):\n\n"
    text += report.sweeps(results)
    out.mkdir(parents=True, exist_ok=True)
    whole = {
        "set": data.name,
        "metric": data.metric,
        "rows": rows,
        "dims": dims,
        "k": plan.k,
        "passes": plan.passes,
        "cpu": plan.cpu,
        "seed": plan.seed,
        "finished": finished,
        "load_average": os.getloadavg(),
        "machine": runs.machine(),
        "memory": memory_report,
        "results": report.as_json(results, memory),
        "scaling": scaling,
    }
    (out / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
    (out / "tables.md").write_text(text)
    if memory_report:
        (out / "memory.md").write_text(report.memory_table(memory_report))
    curves = {name: result.in_order() for name, result in results.items()}
    ours = {name for name, result in results.items() if result.ours}
    (out / f"{data.name}.svg").write_text(plot.svg(title, curves, ours))
    print(f"\n{text}\nwritten to {out}")


def document(docs: Path, out: Path, name: str) -> None:
    """Puts the plot and the tables of this run where the last run's were."""
    plots = docs / "plots"
    plots.mkdir(exist_ok=True)
    (plots / f"{name}.svg").write_text((out / f"{name}.svg").read_text())
    page = docs / "benchmarks.md"
    text = page.read_text()
    tables = (out / "tables.md").read_text()
    picture = f"![recall and queries per second on {name}](plots/{name}.svg)\n\n"
    text = report.with_section(text, name, picture + tables)
    if (out / "memory.md").exists():
        text = report.with_section(text, "memory", (out / "memory.md").read_text())
    page.write_text(text)


if __name__ == "__main__":
    main()
