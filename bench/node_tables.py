#!/usr/bin/env python3
"""A whole node on real vectors: import, memory, and search tables over the native protocol.

    python3 bench/node_tables.py --heddle target/release/heddle --data DIR --set sift --out OUT.json

DIR/SET holds base.npy, query.npy and gt.npy (and base.jsonl.gz with properties, when there is one).
The node runs with default durability on a temporary directory, first with one data core, then with
two, on the same data; client and node share the machine. Each row is the median of --passes passes,
taken in turns over the connection counts. Beside the rate it gives the node's CPU seconds, so that
a client on the same machine does not blur the comparison. Standard library only.
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
import tempfile

CONNECTIONS = [1, 2, 8, 32]
METRIC = {"sift": "l2-squared", "minilm": "cosine"}
TICKS = os.sysconf("SC_CLK_TCK")


class Node:
    """A `heddle serve` process."""

    def __init__(self, heddle: str, directory: str, cores: int) -> None:
        command = [heddle, "serve", "--data-dir", directory, "--cores", str(cores)]
        command += ["--native-port", "0", "--core-port-base", "0", "--http-port", "0"]
        command += ["--ready-line", "always", "--log-level", "warn"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.address = f"127.0.0.1:{ready['native_port']}"

    def cpu_seconds(self) -> float:
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_bytes(self) -> int:
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=120)
        if code != 0:
            raise RuntimeError(f"the node ended with {code}")


def row_count(path: pathlib.Path) -> int:
    """Rows of a .npy file, from its header."""
    header = path.read_bytes()[:256].decode("latin-1")
    return int(re.search(r"'shape': \((\d+),", header).group(1))


def run(heddle: str, *arguments: str) -> dict:
    done = subprocess.run([heddle, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout.strip() else {}


def table(options: argparse.Namespace, node: Node, scratch: str) -> list:
    folder = pathlib.Path(options.data) / options.set
    samples: dict = {}
    for turn in range(options.passes):
        for connections in CONNECTIONS:
            out = f"{scratch}/bench.json"
            before = node.cpu_seconds()
            subprocess.run(
                [options.heddle, "bench", "search", options.set, "--address", node.address]
                + ["--queries", str(folder / "query.npy"), "--truth", str(folder / "gt.npy")]
                + ["--k", "10", "--ef", options.ef, "--connections", str(connections)]
                + ["--seconds", str(options.seconds), "--json", out],
                check=True,
                capture_output=True,
            )
            spent = node.cpu_seconds() - before
            for row in json.loads(pathlib.Path(out).read_text()):
                samples.setdefault((connections, row["ef"]), []).append(row)
            print(f"pass {turn + 1}, {connections} connections: {spent:.1f} CPU s", flush=True)
    rows = []
    for (connections, ef), taken in sorted(samples.items()):
        row = {"connections": connections, "ef": ef, "recall": taken[0]["recall"]}
        for key in ["qps", "p50_us", "p99_us", "p999_us"]:
            row[key] = statistics.median(sample[key] for sample in taken)
        row["errors"] = sum(sample["errors"] for sample in taken)
        rows.append(row)
    return rows


def per_cpu_second(options: argparse.Namespace, node: Node, scratch: str) -> float:
    """Queries per CPU second of the node at the first ef, eight connections."""
    folder = pathlib.Path(options.data) / options.set
    rates = []
    for _ in range(options.passes):
        out = f"{scratch}/bench.json"
        before = node.cpu_seconds()
        subprocess.run(
            [options.heddle, "bench", "search", options.set, "--address", node.address]
            + ["--queries", str(folder / "query.npy"), "--truth", str(folder / "gt.npy")]
            + ["--k", "10", "--ef", options.ef.split(",")[0], "--connections", "8"]
            + ["--seconds", str(options.seconds), "--json", out],
            check=True,
            capture_output=True,
        )
        row = json.loads(pathlib.Path(out).read_text())[0]
        # The node also answers each query once, untimed, for the recall.
        answered = row["qps"] * options.seconds + row_count(folder / "query.npy")
        rates.append(answered / (node.cpu_seconds() - before))
    return statistics.median(rates)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--heddle", required=True, help="the release binary")
    arguments.add_argument("--data", required=True, help="folder that holds the sets")
    arguments.add_argument("--set", choices=sorted(METRIC), required=True)
    arguments.add_argument("--ef", default="40,64,128,200")
    arguments.add_argument("--seconds", type=float, default=2.0)
    arguments.add_argument("--passes", type=int, default=3)
    arguments.add_argument("--out", required=True)
    options = arguments.parse_args()

    folder = pathlib.Path(options.data) / options.set
    scratch = tempfile.mkdtemp(prefix="heddle-tables-")
    report: dict = {"set": options.set}
    try:
        directory = f"{scratch}/data"
        node = Node(options.heddle, directory, 2)
        command = ["import", options.set, "--address", node.address, "--json"]
        command += ["--vectors", str(folder / "base.npy"), "--distance", METRIC[options.set]]
        command += ["--state", f"{scratch}/import.state"]
        if (folder / "base.jsonl.gz").exists():
            command += ["--properties", str(folder / "base.jsonl.gz")]
        report["import"] = run(options.heddle, *command)
        report["rss_bytes_after_import"] = node.rss_bytes()
        report["status"] = run(options.heddle, "status", "--address", node.address, "--json")
        node.stop()
        for cores in [1, 2]:
            node = Node(options.heddle, directory, cores)
            report[f"rss_bytes_{cores}_cores"] = node.rss_bytes()
            report[f"rows_{cores}_cores"] = table(options, node, scratch)
            report[f"queries_per_cpu_second_{cores}_cores"] = per_cpu_second(options, node, scratch)
            node.stop()
    finally:
        shutil.rmtree(scratch)
    pathlib.Path(options.out).write_text(json.dumps(report, indent=1))
    for cores in [1, 2]:
        print(f"\n{options.set}, {cores} data core(s)\n")
        print("| connections | ef | recall@10 | queries/s | p50 us | p99 us | p99.9 us | errors |")
        print("|---|---|---|---|---|---|---|---|")
        for row in report[f"rows_{cores}_cores"]:
            print(
                f"| {row['connections']} | {row['ef']} | {row['recall']:.4f} | {row['qps']:,.0f} "
                f"| {row['p50_us']:,.0f} | {row['p99_us']:,.0f} | {row['p999_us']:,.0f} "
                f"| {row['errors']} |"
            )
        print(f"\nqueries per CPU second of the node: {report[f'queries_per_cpu_second_{cores}_cores']:,.0f}")


if __name__ == "__main__":
    main()
