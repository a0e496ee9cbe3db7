#!/usr/bin/env python3
"""What do tenants cost on a cluster: to create, to fill, in memory, at a start?

    python3 bench/tenants.py --heddle target/release/heddle --nodes 3 --tenants 10000 --rows 100

Starts a cluster of processes on this machine, each on an address of its own in 127.0.0.0/8, creates
a collection with tenants, and lets `heddle bench tenants` create, fill, search, deactivate, activate
and delete them. After each step the resident memory, the open files and the mappings of every node
are read from /proc, so that the difference over the number of tenants is what one of them costs.
The nodes are then stopped and started with all tenants inactive, and once more with all of them
active. Prints one JSON object. Standard library only.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time


class Node:
    """A `heddle serve` process of the cluster."""

    def __init__(self, options: argparse.Namespace, number: int, hosts: list[str]) -> None:
        self.host = hosts[number]
        self.directory = os.path.join(options.data, f"node-{number + 1}")
        command = [options.heddle, "serve", "--config", "/dev/null", "--data-dir", self.directory]
        command += ["--listen", self.host, "--name", f"node-{number + 1}"]
        command += ["--cores", str(options.cores), "--disk-reserve-bytes", "0"]
        command += ["--ready-line", "always", "--log-level", "warn"]
        if len(hosts) > 1:
            command += ["--cluster-join", ",".join(hosts)]
            command += ["--cluster-bootstrap-expect", str(len(hosts))]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.start_ms = 0

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"node at {self.host} ended with {self.process.wait()}")
        self.start_ms = json.loads(line)["start_ms"]

    def usage(self) -> dict[str, int]:
        """Resident bytes, open files, mappings, folders of shards by kind."""
        proc = pathlib.Path(f"/proc/{self.process.pid}")
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        shards = os.path.join(self.directory, "shards")
        names = os.listdir(shards) if os.path.isdir(shards) else []
        closed = sum(name.endswith(".closed") for name in names)
        return {
            "resident_bytes": int(status["VmRSS"].split()[0]) * 1024,
            "open_files": len(os.listdir(proc / "fd")),
            "mappings": len((proc / "maps").read_text().splitlines()),
            "open_shards": len(names) - closed,
            "closed_shards": closed,
        }

    def stop(self) -> float:
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait()
        if code != 0:
            raise RuntimeError(f"node at {self.host} ended with {code}")
        return time.monotonic() - begun


class Cluster:
    """The nodes, and the command line against the first of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        block = 0x7F400000 + (os.getpid() % (1 << 16)) * 64
        addresses = [block + number + 1 for number in range(options.nodes)]
        self.hosts = [".".join(str(a >> s & 255) for s in (24, 16, 8, 0)) for a in addresses]
        self.nodes: list[Node] = []

    def start(self) -> dict[str, object]:
        begun = time.monotonic()
        self.nodes = [Node(self.options, number, self.hosts) for number in range(len(self.hosts))]
        for node in self.nodes:
            node.wait_ready()
        took = time.monotonic() - begun
        return {"seconds": round(took, 2), "start_ms": [node.start_ms for node in self.nodes]}

    def stop(self) -> float:
        begun = time.monotonic()
        for node in self.nodes:
            node.process.send_signal(signal.SIGTERM)
        for node in self.nodes:
            node.stop()
        return round(time.monotonic() - begun, 2)

    def kill(self) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                node.process.kill()
                node.process.wait()

    def run(self, *arguments: str) -> object:
        address = f"{self.hosts[0]}:7700"
        command = [self.options.heddle, *arguments, "--address", address, "--timeout", "600"]
        output = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE).stdout
        return json.loads(output)

    def measure(self, step: str) -> dict[str, object]:
        options = self.options
        tenants = ["--tenants", str(options.tenants), "--rows", str(options.rows)]
        loop = ["--in-flight", str(options.in_flight), "--steps", step]
        [row] = self.run("bench", "tenants", "Shops", *tenants, *loop)
        time.sleep(options.pause)
        row["nodes"] = [node.usage() for node in self.nodes]
        row["resident_bytes"] = sum(usage["resident_bytes"] for usage in row["nodes"])
        print(f"{step}: {row['rate']:.0f} tenants/s, {row['resident_bytes'] >> 20} MiB", file=sys.stderr)
        return row


def measure(options: argparse.Namespace) -> dict[str, object]:
    cluster = Cluster(options)
    report: dict[str, object] = {"nodes": options.nodes, "cores": options.cores}
    report |= {"tenants": options.tenants, "rows": options.rows, "dims": options.dims}
    try:
        report["start_empty"] = cluster.start()
        create = ["collection", "create", "Shops", "--dims", str(options.dims), "--tenants"]
        cluster.run(*create)
        empty = sum(node.usage()["resident_bytes"] for node in cluster.nodes)
        report["resident_bytes_empty"] = empty
        for step in ["create", "fill", "search", "deactivate"]:
            report[step] = cluster.measure(step)
        report["stop_inactive_seconds"] = cluster.stop()
        report["start_inactive"] = cluster.start()
        resting = [node.usage() for node in cluster.nodes]
        report["resident_bytes_inactive"] = sum(usage["resident_bytes"] for usage in resting)
        for step in ["activate", "search"]:
            report[f"{step}_again"] = cluster.measure(step)
        report["stop_active_seconds"] = cluster.stop()
        report["start_active"] = cluster.start()
        serving = [node.usage() for node in cluster.nodes]
        report["resident_bytes_active"] = sum(usage["resident_bytes"] for usage in serving)
        report["usage_active"] = serving
        report["delete"] = cluster.measure("delete")
        count = options.tenants
        inactive = report["resident_bytes_inactive"] - empty
        active = report["resident_bytes_active"] - empty
        report["bytes_per_inactive_tenant"] = round(inactive / count)
        report["bytes_per_active_tenant"] = round(active / count)
        cluster.stop()
    finally:
        cluster.kill()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heddle", default="target/release/heddle")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds before memory is read")
    parser.add_argument("--data", help="folder for the data [default: a temporary one]")
    options = parser.parse_args()
    own = options.data is None
    if own:
        options.data = tempfile.mkdtemp(prefix="heddle-tenants-")
    try:
        print(json.dumps(measure(options), indent=2))
    finally:
        if own:
            shutil.rmtree(options.data, ignore_errors=True)


if __name__ == "__main__":
    main()
