#!/usr/bin/env python3
"""The node beside its own index: rate per CPU second, tails at 70 % load, searches while writing.

    python3 bench/node_load.py --heddle target/release/heddle \
        --heddle-bench target/release/heddle-bench --data DIR --set minilm --work WORK

DIR/SET holds base.npy, query.npy and gt.npy (and base.jsonl.gz with properties, when there is one).
WORK keeps imported collections and the graph of the index in process, so that a second run only
measures. A second --heddle is measured beside the first one, in turns.

rate     Queries per CPU second of the node, all of its threads, beside those of the same graph,
         codes, pool and k searched in a process of its own (`heddle-bench index --serve`). Node and
         index sit on one CPU, the client on the other; the two are measured in turns, so what
         disturbs the machine disturbs both. The pools are the smallest at which the node reaches
         the recalls asked for.
latency  Open loop at 70 % of the closed-loop rate measured just before, one and two data cores;
         with one the client has a CPU of its own, with two it shares both with the node. Before it
         a loop that does nothing runs on each CPU and says for how long the machine took it away:
         no percentile beyond that share of time says anything about the node.
ingest   Closed-loop searches, idle and during 1,000 durable inserts a second into the same
         collection, in turns; one data core on a CPU of its own, clients on the other.

Standard library only.
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

METRIC = {"sift": ("l2-squared", "l2"), "minilm": ("cosine", "cosine")}
# Codes of the default profile by set: eight bits below 256 dimensions, four from there.
CODES = {"sift": "8bit", "minilm": "4bit"}
POOLS = [16, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64, 72, 80, 96, 112, 128, 160, 200, 256]
NODE_CPU, CLIENT_CPU = 0, 1
# Rows that are inserted while searches go on: the last ones of the set.
HELD_BACK = 30_000


# Processes that end with the script, however it ends.
STARTED: list = []


class Node:
    """A `heddle serve` process; `cpus` are those it may use."""

    def __init__(self, heddle: str, directory: str, cores: int, cpus: str) -> None:
        command = ["taskset", "-c", cpus, heddle, "serve", "--data-dir", directory]
        command += ["--cores", str(cores), "--native-port", "0", "--core-port-base", "0"]
        command += ["--http-port", "0", "--ready-line", "always", "--log-level", "error"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        STARTED.append(self.process)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.address = f"127.0.0.1:{ready['native_port']}"
        self.metrics_url = f"http://127.0.0.1:{ready['http_port']}/metrics"

    def cpu_seconds(self) -> float:
        """What all threads have run, to the nanosecond."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def queries(self) -> int:
        page = urllib.request.urlopen(self.metrics_url).read().decode()
        found = re.findall(r"^heddle_queries_total(?:\{[^}]*\})? (\d+)", page, re.MULTILINE)
        return sum(int(value) for value in found)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(timeout=120) != 0:
            raise RuntimeError("the node did not end well")


class InProcess:
    """The same index in a process of its own, on the node's CPU."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        cache = pathlib.Path(options.work) / f"{options.set}.index"
        command = ["taskset", "-c", str(NODE_CPU), options.heddle_bench, "index", "--serve"]
        command += ["--base", str(folder / "base.npy"), "--queries", str(folder / "query.npy")]
        command += ["--truth", str(folder / "gt.npy"), "--metric", METRIC[options.set][1]]
        # The node was loaded with two data cores, which link batches of 64.
        command += ["--codes", CODES[options.set], "--raw", "absent", "--batch", "64"]
        command += ["--cache", str(cache)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        STARTED.append(self.process)
        self.answer()

    def answer(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def measure(self, pool: int, seconds: float) -> dict:
        assert self.process.stdin is not None
        request = {"value": pool, "recall": True, "warm": True, "seconds_min": seconds}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def rows_of(path: pathlib.Path) -> int:
    header = path.read_bytes()[:256].decode("latin-1")
    return int(re.search(r"'shape': \((\d+),", header).group(1))


def steal_seconds() -> float:
    """CPU time that the machine below gave to others."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


# A loop on one CPU; the gaps between its readings of the clock that are longer than a system call.
PAUSES = """
import json, sys, time
clock = time.perf_counter
end, last, gaps = clock() + float(sys.argv[1]), clock(), []
while last < end:
    now = clock()
    if now - last > 0.0002:
        gaps.append(now - last)
    last = now
print(json.dumps(gaps))
"""


def machine_pauses(seconds: float) -> dict:
    """What the machine takes away from a CPU that has nothing else to do, both CPUs at once."""
    command = [sys.executable, "-c", PAUSES, str(seconds)]
    pinned = [["taskset", "-c", str(cpu), *command] for cpu in (NODE_CPU, CLIENT_CPU)]
    loops = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in pinned]
    STARTED.extend(loops)
    gaps = [gap for loop in loops for gap in json.loads(loop.communicate()[0])]
    share, longest = sum(gaps) / (2 * seconds), max(gaps, default=0.0)
    print(
        f"the machine took {share:.2%} of a CPU away, {len(gaps) / (2 * seconds):.1f} times a second, "
        f"for {longest * 1e3:.2f} ms at most",
        flush=True,
    )
    return {"share": share, "a_second": len(gaps) / (2 * seconds), "longest_ms": longest * 1e3}


def load(options, heddle: str, directory: pathlib.Path, limit: int) -> None:
    """Imports the first `limit` rows with two data cores, unless that was done before."""
    if directory.exists():
        return
    folder = pathlib.Path(options.data) / options.set
    unfinished = directory.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    node = Node(heddle, str(unfinished), 2, f"{NODE_CPU},{CLIENT_CPU}")
    command = [heddle, "import", options.set, "--address", node.address, "--json"]
    command += ["--vectors", str(folder / "base.npy"), "--limit", str(limit)]
    command += ["--distance", METRIC[options.set][0], "--state", f"{directory}.state"]
    if (folder / "base.jsonl.gz").exists():
        command += ["--properties", str(folder / "base.jsonl.gz")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    node.stop()
    unfinished.rename(directory)


def bench(options, heddle: str, node: Node, cpus: str, *more: str, efs: str) -> list:
    """Rows of `heddle bench search`."""
    folder = pathlib.Path(options.data) / options.set
    command = ["taskset", "-c", cpus, heddle, "bench", "search", options.set]
    command += ["--address", node.address, "--queries", str(folder / "query.npy")]
    command += ["--truth", str(folder / "gt.npy"), "--k", "10", "--ef", efs, "--json", "-", *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def pools_for(options, heddle: str, node: Node) -> list:
    """The smallest pools at which the node reaches the recalls."""
    pools = ",".join(map(str, POOLS))
    rows = bench(options, heddle, node, str(CLIENT_CPU), "--seconds", "0.05", efs=pools)
    chosen = []
    for recall in map(float, options.recalls.split(",")):
        fitting = [row["ef"] for row in rows if row["recall"] >= recall]
        if not fitting:
            raise SystemExit(f"no pool up to {POOLS[-1]} reaches recall {recall}")
        chosen.append(fitting[0])
    return chosen


def median(samples: list, key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


def measure_rate(options, full: pathlib.Path, scratch: str) -> list:
    folder = pathlib.Path(options.data) / options.set
    # A node changes its directory, so copies are made before the first one starts.
    others = range(1, len(options.heddle))
    places = [full, *(copied(full, f"{scratch}/full-{other}") for other in others)]
    index = InProcess(options, folder)
    nodes = [
        (heddle, Node(heddle, str(place), 1, str(NODE_CPU)))
        for heddle, place in zip(options.heddle, places)
    ]
    pools = pools_for(options, *nodes[0])
    rows = []
    for connections in options.connections.split(","):
        for pool in pools:
            inside, served = [], [[] for _ in nodes]
            for _ in range(options.passes):
                inside.append(index.measure(pool, options.seconds))
                for place, (heddle, node) in enumerate(nodes):
                    more = ["--connections", connections, "--seconds", str(options.seconds)]
                    cpu, queries, steal = node.cpu_seconds(), node.queries(), steal_seconds()
                    found = bench(
                        options, heddle, node, str(CLIENT_CPU), *more, efs=str(pool)
                    )[0]
                    found["qps_cpu"] = (node.queries() - queries) / (node.cpu_seconds() - cpu)
                    found["steal_s"] = steal_seconds() - steal
                    served[place].append(found)
            for heddle, samples in zip(options.heddle, served):
                ratios = [a["qps_cpu"] / b["qps_cpu"] for a, b in zip(samples, inside)]
                rows.append({
                    "heddle": heddle, "connections": int(connections), "ef": pool,
                    "recall": median(samples, "recall"),
                    "recall_in_process": median(inside, "recall"),
                    "qps": median(samples, "qps"), "qps_cpu": median(samples, "qps_cpu"),
                    "qps_cpu_in_process": median(inside, "qps_cpu"),
                    "ratio": statistics.median(ratios), "ratios": ratios,
                    "p50_us": median(samples, "p50_us"), "p99_us": median(samples, "p99_us"),
                    "steal_s": sum(sample["steal_s"] for sample in samples),
                })
                show_rate(rows[-1])
    index.stop()
    for _, node in nodes:
        node.stop()
    return rows


def show_rate(row: dict) -> None:
    print(
        f"{row['heddle']}: {row['connections']} connections, ef {row['ef']}, "
        f"recall {row['recall']:.4f} ({row['recall_in_process']:.4f} in process): "
        f"{row['qps_cpu']:,.0f} of {row['qps_cpu_in_process']:,.0f} queries per CPU second, "
        f"ratio {row['ratio']:.3f} ({min(row['ratios']):.3f} to {max(row['ratios']):.3f})",
        flush=True,
    )


def copied(source: pathlib.Path, target: str) -> pathlib.Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return pathlib.Path(target)


def measure_latency(options, full: pathlib.Path) -> list:
    rows = []
    for cores in [1, 2]:
        for heddle in options.heddle:
            cpus = (str(NODE_CPU), str(CLIENT_CPU)) if cores == 1 else ("0,1", "0,1")
            node = Node(heddle, str(full), cores, cpus[0])
            for pool in pools_for(options, heddle, node):
                samples = []
                for _ in range(options.passes):
                    seconds = ["--seconds", str(options.seconds)]
                    most = bench(options, heddle, node, cpus[1], *seconds, efs=str(pool))[0]
                    rate = 0.7 * most["qps"]
                    more = [*seconds, "--rate", f"{rate:.0f}", "--connections", "32"]
                    steal = steal_seconds()
                    sample = bench(options, heddle, node, cpus[1], *more, efs=str(pool))[0]
                    sample.update(most=most["qps"], rate=rate, steal_s=steal_seconds() - steal)
                    sample["ratio"] = sample["p99_us"] / sample["p50_us"]
                    samples.append(sample)
                keys = ["recall", "most", "rate", "qps", "p50_us", "p90_us", "p99_us", "p999_us"]
                row = {"heddle": heddle, "cores": cores, "ef": pool}
                row.update({key: median(samples, key) for key in [*keys, "max_us", "ratio"]})
                row["steal_s"] = sum(sample["steal_s"] for sample in samples)
                rows.append(row)
                print(
                    f"{heddle}: {cores} data cores, ef {pool}, recall {row['recall']:.4f}, "
                    f"{row['rate']:,.0f} of {row['most']:,.0f} queries/s: p50 "
                    f"{row['p50_us']:,.0f}, p99 {row['p99_us']:,.0f}, p99.9 {row['p999_us']:,.0f}, max "
                    f"{row['max_us']:,.0f} us; p99 / p50 {row['ratio']:.2f}; "
                    f"steal {row['steal_s']:.2f} s",
                    flush=True,
                )
            node.stop()
    return rows


def measure_ingest(options, part: pathlib.Path, scratch: str) -> list:
    folder = pathlib.Path(options.data) / options.set
    first = rows_of(folder / "base.npy") - HELD_BACK
    rows = []
    for heddle in options.heddle:
        node = Node(heddle, str(copied(part, f"{scratch}/part")), 1, str(NODE_CPU))
        pools = options.ingest_ef.split(",")
        idle, busy, writes = {}, {}, []
        begin = first
        for _ in range(options.passes):
            for pool in pools:
                more = ["--seconds", str(options.seconds)]
                found = bench(options, heddle, node, str(CLIENT_CPU), *more, efs=pool)[0]
                idle.setdefault(pool, []).append(found)
                seconds = options.seconds + 1.5
                command = ["taskset", "-c", str(CLIENT_CPU), heddle, "bench", "ingest"]
                command += [options.set, "--address", node.address, "--json", "-", "--keep"]
                command += ["--vectors", str(folder / "base.npy"), "--first", str(begin)]
                command += ["--rate", "1000", "--batch", str(options.batch)]
                command += ["--seconds", str(seconds), "--connections", "8"]
                writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                STARTED.append(writer)
                time.sleep(0.5)
                found = bench(options, heddle, node, str(CLIENT_CPU), *more, efs=pool)[0]
                busy.setdefault(pool, []).append(found)
                written = json.loads(writer.communicate()[0])
                if writer.returncode != 0:
                    raise RuntimeError("the writer failed")
                writes.append(written)
                begin += written["rows"]
                time.sleep(1.0)
        for pool in pools:
            pairs = zip(busy[pool], idle[pool])
            row = {"heddle": heddle, "ef": int(pool), "batch": options.batch}
            row["ratio"] = statistics.median(a["qps"] / b["qps"] for a, b in pairs)
            for name, samples in [("idle", idle[pool]), ("busy", busy[pool])]:
                for key in ["qps", "p50_us", "p99_us", "p999_us"]:
                    row[f"{name}_{key}"] = median(samples, key)
            for key in ["rows_per_second", "p50_us", "p99_us"]:
                row[f"insert_{key}"] = median(writes, key)
            row["tail_rows"] = max(written["unlinked_rows"] for written in writes)
            rows.append(row)
            print(
                f"{heddle}: ef {pool}: {row['idle_qps']:,.0f} queries/s idle, "
                f"{row['busy_qps']:,.0f} during {row['insert_rows_per_second']:,.0f} inserts/s, "
                f"ratio {row['ratio']:.3f}; search p99 {row['idle_p99_us']:,.0f} and "
                f"{row['busy_p99_us']:,.0f} us; insert p50 {row['insert_p50_us']:,.0f}, p99 "
                f"{row['insert_p99_us']:,.0f} us; at most {row['tail_rows']} rows unlinked",
                flush=True,
            )
        node.stop()
    return rows


def tables(report: dict) -> None:
    name = report["set"]
    if "rate" in report:
        print(f"\n{name}: queries per CPU second\n")
        print("| connections | ef | recall@10 | node | in process | ratio | queries/s | p99 us |")
        print("|---|---|---|---|---|---|---|---|")
        for row in report["rate"]:
            print(
                f"| {row['connections']} | {row['ef']} | {row['recall']:.4f} "
                f"| {row['qps_cpu']:,.0f} | {row['qps_cpu_in_process']:,.0f} "
                f"| {row['ratio']:.2f} | {row['qps']:,.0f} | {row['p99_us']:,.0f} |"
            )
    if "latency" in report:
        print(f"\n{name}: open loop at 70 % of the closed-loop rate\n")
        print("| data cores | ef | recall@10 | queries/s | p50 us | p99 us | p99.9 us | p99/p50 |")
        print("|---|---|---|---|---|---|---|---|")
        for row in report["latency"]:
            print(
                f"| {row['cores']} | {row['ef']} | {row['recall']:.4f} | {row['rate']:,.0f} "
                f"| {row['p50_us']:,.0f} | {row['p99_us']:,.0f} | {row['p999_us']:,.0f} "
                f"| {row['ratio']:.1f} |"
            )
    if "ingest" in report:
        print(f"\n{name}: searches during 1,000 inserts a second\n")
        print("| ef | idle queries/s | during | ratio | idle p99 us | during | insert p99 us |")
        print("|---|---|---|---|---|---|---|")
        for row in report["ingest"]:
            print(
                f"| {row['ef']} | {row['idle_qps']:,.0f} | {row['busy_qps']:,.0f} "
                f"| {row['ratio']:.2f} | {row['idle_p99_us']:,.0f} | {row['busy_p99_us']:,.0f} "
                f"| {row['insert_p99_us']:,.0f} |"
            )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--heddle", required=True, action="append", help="a release binary")
    arguments.add_argument("--heddle-bench", required=True, help="the release binary")
    arguments.add_argument("--data", required=True, help="folder that holds the sets")
    arguments.add_argument("--set", choices=sorted(METRIC), required=True)
    arguments.add_argument("--work", required=True, help="folder that keeps what was loaded")
    arguments.add_argument("--stages", default="rate,latency,ingest")
    arguments.add_argument("--recalls", default="0.95,0.99")
    arguments.add_argument("--connections", default="8,32", help="of the stage rate")
    arguments.add_argument("--ingest-ef", default="40,128")
    arguments.add_argument("--batch", type=int, default=10, help="rows of a put of stage ingest")
    arguments.add_argument("--seconds", type=float, default=2.0)
    arguments.add_argument("--passes", type=int, default=3)
    arguments.add_argument("--out", help="where the figures go as JSON")
    options = arguments.parse_args()

    # Ends like Ctrl-C, through the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stages = options.stages.split(",")
    work = pathlib.Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    rows = rows_of(pathlib.Path(options.data) / options.set / "base.npy")
    full, part = work / f"{options.set}-full", work / f"{options.set}-part"
    report: dict = {"set": options.set, "cpus": {"node": NODE_CPU, "client": CLIENT_CPU}}
    scratch = tempfile.mkdtemp(prefix="heddle-load-", dir=work)
    try:
        if "load" in stages or "rate" in stages or "latency" in stages:
            load(options, options.heddle[0], full, rows)
        if "rate" in stages:
            report["rate"] = measure_rate(options, full, scratch)
        if "latency" in stages:
            report["pauses"] = machine_pauses(5.0)
            report["latency"] = measure_latency(options, full)
        if "load" in stages or "ingest" in stages:
            load(options, options.heddle[0], part, rows - HELD_BACK)
        if "ingest" in stages:
            report["ingest"] = measure_ingest(options, part, scratch)
    finally:
        for process in STARTED:
            if process.poll() is None:
                process.terminate()
                process.wait()
        shutil.rmtree(scratch)
    tables(report)
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
