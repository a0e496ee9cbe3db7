"""Processes: one builds an index, one serves passes. Each is pinned before it runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
from sets import VectorSet

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class HeddleFlags:
    """One configuration of Heddle: a name for the tables and flags of `heddle-bench index`."""

    name: str
    flags: tuple[str, ...]


class Failed(Exception):
    """A child ended early; the text names its log."""


def run_pinned(command: Sequence[str], cpus: set[int], log: Path) -> None:
    with log.open("w") as file:
        child = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        if child.wait() != 0:
            raise Failed(f"ended with {child.returncode}, see {log}: {last_line(log)}")


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


class Server:
    """A process that holds an index and answers one pass for each line it is sent."""

    def __init__(self, command: Sequence[str], cpus: set[int], log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            bufsize=1,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        self.ready = self._reply()
        self.ready.setdefault("resident_bytes", self.resident_bytes())

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError:
            raise Failed(f"is gone, see {self.log}: {last_line(self.log)}") from None
        return self._reply()

    def pin(self, cpus: set[int]) -> None:
        """Threads it starts from now on may run there too."""
        os.sched_setaffinity(self.process.pid, cpus)

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise Failed(f"is gone, see {self.log}: {last_line(self.log)}")
        return json.loads(line)


class PeerChild:
    """Builds and serves one configuration of a library."""

    def __init__(self, data: VectorSet, name: str, k: int, cache: Path) -> None:
        self.name = name
        kind = peers.PEERS[name]
        self.builds = kind.shares or name
        self.note, self.parameter, self.sweep = kind.note, kind.parameter, kind.sweep
        self.version = kind.version()
        self.folder = peers.cache_folder(cache, data, name)
        self.command = [sys.executable, str(HERE), "--set", str(data.base_path.parent)]
        self.command += ["--base", str(data.base_path), "--queries", str(data.queries_path)]
        self.command += ["--truth", str(data.truth_path), "--metric", data.metric, "--k", str(k)]

    def build(self, cpus: set[int], again: bool) -> dict[str, Any]:
        figures = self.folder / "build.json"
        if again or not figures.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            worker = ["--worker", "build", self.builds, str(self.folder)]
            run_pinned(self.command + worker, cpus, self.folder / "build.log")
        built = json.loads(figures.read_text())
        built["bytes_per_vector"] = built["index_bytes"] / built["rows"]
        return built

    def serve(self, cpus: set[int]) -> Server:
        worker = ["--worker", "serve", self.name, str(self.folder)]
        return Server(self.command + worker, cpus, self.folder / f"{self.name}.log")


class HeddleChild:
    """Builds and serves Heddle with some flags; built anew whenever the program changes."""

    parameter = "ef"
    sweep = peers.POOLS
    note = ""

    def __init__(
        self, data: VectorSet, flags: HeddleFlags, program: Path, k: int, cache: Path
    ) -> None:
        self.name = flags.name
        self.note = " ".join(flags.flags)
        digest = hashlib.sha256(program.read_bytes())
        digest.update(" ".join(flags.flags).encode())
        self.version = digest.hexdigest()[:12]
        self.parent = cache / data.key()
        self.folder = self.parent / f"{flags.name}-{self.version}"
        self.command = [str(program), "index", "--base", str(data.base_path)]
        self.command += ["--queries", str(data.queries_path), "--truth", str(data.truth_path)]
        self.command += ["--metric", data.metric, "--k", str(k), *flags.flags]

    def build(self, cpus: set[int], again: bool) -> dict[str, Any]:
        figures = self.folder / "build.json"
        if again or not figures.exists():
            for old in self.parent.glob(f"{self.name}-{'?' * 12}"):
                shutil.rmtree(old)
            self.folder.mkdir(parents=True)
            run_pinned(
                [*self.command, "--cache", str(self.folder / "index"), "--json", str(figures)]
                + ["--ef", "10", "--passes", "1"],
                cpus,
                self.folder / "build.log",
            )
        return json.loads(figures.read_text())

    def timed_build(self, cpus: set[int], threads: int) -> dict[str, Any]:
        """Builds without keeping anything."""
        figures = self.folder / f"build-{threads}.json"
        run_pinned(
            [*self.command, "--json", str(figures), "--ef", "10", "--passes", "1"]
            + ["--threads", str(threads)],
            cpus,
            self.folder / f"build-{threads}.log",
        )
        return json.loads(figures.read_text())

    def serve(self, cpus: set[int]) -> Server:
        command = [*self.command, "--cache", str(self.folder / "index"), "--serve"]
        return Server(command, cpus, self.folder / "serve.log")


def measured_memory(program: Path, cpu: int, out: Path) -> dict[str, Any] | None:
    """The machine's memory, measured once a day: it does not change with the program."""
    day = 86_400
    if not out.exists() or time.time() - out.stat().st_mtime > day:
        try:
            command = [str(program), "memory", "--json", str(out)]
            run_pinned(command, {cpu}, out.with_suffix(".log"))
        except Failed as failed:
            print(f"memory {failed}")
            return None
    return json.loads(out.read_text())


def kernel_nanoseconds(program: Path, dims: int, cpu: int, out: Path) -> dict[str, float]:
    """What one distance costs when its row is at hand, by kind of codes."""
    try:
        command = [str(program), "kernels", "--best", "--dims", str(dims)]
        run_pinned([*command, "--far-mib", "64", "--json", str(out)], {cpu}, out.with_suffix(".log"))
    except Failed as failed:
        print(f"kernels {failed}")
        return {}
    return {row["codes"]: row["near"] for row in json.loads(out.read_text())}
