"""A data set: base vectors, queries and true neighbours, each in a .npy file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

METRICS = ("l2", "cosine", "dot")
Floats = NDArray[np.float32]

# Rows looked at to see whether the vectors have unit length.
SAMPLE_ROWS = 1_000
HASH_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class VectorSet:
    """Files of one set; vectors are read when they are asked for, as f32."""

    name: str
    base_path: Path
    queries_path: Path
    truth_path: Path
    metric: str

    def base(self) -> Floats:
        return self._floats(self.base_path)

    def queries(self) -> Floats:
        return self._floats(self.queries_path)

    def truth(self, k: int) -> NDArray[np.int64]:
        truth = np.load(self.truth_path)
        if truth.ndim != 2 or truth.shape[1] < k:
            raise SystemExit(f"{self.truth_path}: shape {truth.shape}, expected {k} or more columns")
        return truth[:, :k].astype(np.int64)

    def shape(self) -> tuple[int, int]:
        return tuple(np.load(self.base_path, mmap_mode="r").shape)

    def key(self) -> str:
        """Names the cache folder: changes with any byte of the base vectors and with the metric."""
        digest = hashlib.sha256(self.metric.encode())
        with self.base_path.open("rb") as file:
            while piece := file.read(HASH_PIECE_BYTES):
                digest.update(piece)
        return f"{self.name}-{digest.hexdigest()[:12]}"

    def _floats(self, path: Path) -> Floats:
        """Rows as f32; under cosine with unit length, since some libraries know only dot products."""
        rows = np.ascontiguousarray(np.load(path).astype(np.float32))
        if self.metric == "cosine":
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            rows /= np.where(lengths == 0, 1, lengths)
        return rows


def open_set(
    folder: Path,
    base: Path | None,
    queries: Path | None,
    truth: Path | None,
    metric: str | None,
) -> VectorSet:
    """A set from its folder (base.npy, query.npy or queries.npy, gt.npy or truth.npy)."""
    base_path = base or _first(folder, ["base.npy"])
    return VectorSet(
        name=folder.resolve().name,
        base_path=base_path,
        queries_path=queries or _first(folder, ["query.npy", "queries.npy"]),
        truth_path=truth or _first(folder, ["gt.npy", "truth.npy"]),
        metric=metric or _metric_of(folder, base_path),
    )


def _first(folder: Path, names: list[str]) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise SystemExit(f"{folder}: has no {' or '.join(names)}; name the file with an option")


def _metric_of(folder: Path, base: Path) -> str:
    """The metric in set.json; without one, cosine when a sample of the rows has unit length."""
    described = folder / "set.json"
    if described.exists():
        metric = json.loads(described.read_text())["metric"]
        if metric not in METRICS:
            raise SystemExit(f"{described}: metric {metric!r}, expected one of {METRICS}")
        return metric
    sample = np.load(base, mmap_mode="r")[:SAMPLE_ROWS].astype(np.float32)
    unit = np.abs(np.linalg.norm(sample, axis=1) - 1).max() < 0.01
    return "cosine" if unit else "l2"
