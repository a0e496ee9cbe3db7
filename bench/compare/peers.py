"""The libraries Heddle is compared with: one class per configuration, all driven the same way.

Graphs have M = 16 (32 links on the lowest layer) and efConstruction = 200. Every library runs on
one thread, through its own batch call where it has one that is not slower than single calls.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sets import Floats, VectorSet

M = 16
EF_CONSTRUCTION = 200
POOLS = (10, 16, 24, 32, 48, 64, 96, 128, 200, 400, 800)
PARTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)


class Peer:
    """A configuration of a library. `build` or `load` comes first, then `search`."""

    name: ClassVar[str]
    package: ClassVar[str]
    parameter: ClassVar[str] = "ef"
    sweep: ClassVar[tuple[int, ...]] = POOLS
    note: ClassVar[str] = ""
    # Another configuration whose index file this one searches.
    shares: ClassVar[str | None] = None
    # Part of a run that names no peers.
    usual: ClassVar[bool] = True

    def __init__(self, data: VectorSet, k: int) -> None:
        self.metric = data.metric
        self.data = data
        self.k = k
        self.rows, self.dims = data.shape()
        self.index: Any = None
        self.evaluations: float | None = None

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    def build(self, base: Floats) -> None:
        raise NotImplementedError

    def save(self, path: Path) -> None:
        raise NotImplementedError

    def load(self, path: Path) -> None:
        raise NotImplementedError

    def prepare(self, queries: Floats) -> Any:
        """Queries in the form the library takes them fastest; not timed."""
        return queries

    def search(self, queries: Any, value: int) -> Any:
        """Ids `[queries, k]`; sets `evaluations` (per query) where the library counts them."""
        raise NotImplementedError

    def extra_bytes_per_vector(self) -> float:
        """What the search holds in memory beside the saved index."""
        return 0.0

    def row_bytes(self) -> float | None:
        """Bytes of a vector that one distance evaluation reads; None where it has no one size."""
        return 4.0 * self.dims

    def power_of_two_parts(self) -> int:
        """About the square root of the number of rows."""
        return 1 << math.ceil(math.log2(math.sqrt(self.rows)))


class Hnswlib(Peer):
    name = "hnswlib"
    package = "hnswlib"

    def make(self) -> Any:
        import hnswlib

        return hnswlib.Index(space="l2" if self.metric == "l2" else "ip", dim=self.dims)

    def build(self, base: Floats) -> None:
        self.index = self.make()
        self.index.init_index(max_elements=len(base), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(base, np.arange(len(base)), num_threads=1)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def load(self, path: Path) -> None:
        self.index = self.make()
        self.index.load_index(str(path))

    def search(self, queries: Any, value: int) -> Any:
        self.index.set_ef(max(value, self.k))
        return self.index.knn_query(queries, k=self.k, num_threads=1)[0]


class Usearch(Peer):
    name = "usearch-f32"
    package = "usearch"
    kind = "f32"
    usual = False

    def make(self) -> Any:
        from usearch.index import Index

        dot = "cos" if self.kind == "i8" and self.metric == "cosine" else "ip"
        return Index(
            ndim=self.dims,
            metric="l2sq" if self.metric == "l2" else dot,
            dtype=self.kind,
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
            expansion_search=64,
        )

    def prepare(self, queries: Floats) -> Any:
        if self.kind == "f16":
            return queries.astype(np.float16)
        if self.kind == "i8" and self.metric == "l2":
            # The library scales each f32 row by itself, which L2 does not survive; bytes it keeps.
            return (queries - 128).astype(np.int8)
        return queries

    def build(self, base: Floats) -> None:
        self.index = self.make()
        self.index.add(np.arange(len(base), dtype=np.uint64), self.prepare(base), threads=1)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path) -> None:
        self.index = self.make()
        self.index.load(str(path))

    def search(self, queries: Any, value: int) -> Any:
        self.index.expansion_search = max(value, self.k)
        found = self.index.search(queries, self.k, threads=1)
        self.evaluations = found.computed_distances / len(queries)
        return found.keys

    def row_bytes(self) -> float | None:
        return {"f32": 4.0, "f16": 2.0, "i8": 1.0}[self.kind] * self.dims


class UsearchHalf(Usearch):
    name = "usearch-f16"
    kind = "f16"
    usual = True


class UsearchByte(Usearch):
    name = "usearch-i8"
    kind = "i8"
    usual = True
    note = "no rescoring"

    def __init__(self, data: VectorSet, k: int) -> None:
        super().__init__(data, k)
        whole = np.load(data.base_path, mmap_mode="r").dtype == np.uint8
        if self.metric != "cosine" and not whole:
            raise SystemExit("its 8-bit form fits only unit vectors and bytes")


class Faiss(Peer):
    package = "faiss-cpu"

    def library(self) -> Any:
        import faiss

        faiss.omp_set_num_threads(1)
        return faiss

    def faiss_metric(self) -> int:
        faiss = self.library()
        return faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT

    def save(self, path: Path) -> None:
        self.library().write_index(self.index, str(path))

    def load(self, path: Path) -> None:
        self.index = self.library().read_index(str(path))


class FaissHnsw(Faiss):
    name = "faiss-hnsw"

    def make(self) -> Any:
        return self.library().IndexHNSWFlat(self.dims, M, self.faiss_metric())

    def build(self, base: Floats) -> None:
        self.index = self.make()
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.train(base)
        self.index.add(base)

    def search(self, queries: Any, value: int) -> Any:
        faiss = self.library()
        self.index.hnsw.efSearch = value
        faiss.cvar.hnsw_stats.reset()
        ids = self.index.search(queries, self.k)[1]
        self.evaluations = faiss.cvar.hnsw_stats.ndis / len(queries)
        return ids


class FaissHnswByte(FaissHnsw):
    name = "faiss-hnsw-sq8"
    usual = False
    note = "no rescoring"

    def make(self) -> Any:
        faiss = self.library()
        kind = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexHNSWSQ(self.dims, kind, M, self.faiss_metric())

    def row_bytes(self) -> float | None:
        return 1.0 * self.dims


class FaissHnswByteRefine(Faiss):
    name = "faiss-hnsw-sq8-refine"
    shares = "faiss-hnsw-sq8"
    note = "8-bit codes, the best 2k rescored on f32"

    def load(self, path: Path) -> None:
        super().load(path)
        faiss = self.library()
        self.codes = self.index
        self.exact = faiss.IndexFlat(self.dims, self.faiss_metric())
        self.exact.add(self.data.base())
        self.index = faiss.IndexRefine(self.codes, self.exact)
        self.index.k_factor = 2

    def search(self, queries: Any, value: int) -> Any:
        faiss = self.library()
        self.codes.hnsw.efSearch = value
        faiss.cvar.hnsw_stats.reset()
        ids = self.index.search(queries, self.k)[1]
        self.evaluations = faiss.cvar.hnsw_stats.ndis / len(queries)
        return ids

    def extra_bytes_per_vector(self) -> float:
        return 4.0 * self.dims

    def row_bytes(self) -> float | None:
        return 1.0 * self.dims


class FaissInvertedFile(Faiss):
    name = "faiss-ivf-pq4-refine"
    parameter = "nprobe"
    sweep = PARTS
    note = "4-bit fast scan, the best 10k rescored on f32, one query a call"

    def build(self, base: Floats) -> None:
        kind = f"IVF{self.power_of_two_parts()},PQ{self.dims // 2}x4fs,RFlat"
        self.index = self.library().index_factory(self.dims, kind, self.faiss_metric())
        self.index.train(base)
        self.index.add(base)

    def search(self, queries: Any, value: int) -> Any:
        self.library().extract_index_ivf(self.index).nprobe = value
        self.index.k_factor = 10
        search = self.index.search
        return np.vstack([search(queries[at : at + 1], self.k)[1] for at in range(len(queries))])

    def row_bytes(self) -> float | None:
        return None


class Voyager(Peer):
    name = "voyager"
    package = "voyager"

    def build(self, base: Floats) -> None:
        import voyager

        space = {
            "l2": voyager.Space.Euclidean,
            "cosine": voyager.Space.Cosine,
            "dot": voyager.Space.InnerProduct,
        }[self.metric]
        self.index = voyager.Index(
            space,
            num_dimensions=self.dims,
            M=M,
            ef_construction=EF_CONSTRUCTION,
            max_elements=len(base),
        )
        self.index.add_items(base, num_threads=1)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path) -> None:
        import voyager

        self.index = voyager.Index.load(str(path))

    def search(self, queries: Any, value: int) -> Any:
        pool = max(value, self.k)
        return self.index.query(queries, self.k, num_threads=1, query_ef=pool)[0]


class Vsag(Peer):
    name = "vsag-hgraph-sq8"
    package = "pyvsag"
    codes = "sq8_uniform"
    note = "8-bit codes, rescored on f32, one query a call"

    def make(self) -> Any:
        import pyvsag

        pyvsag.set_logger_off()
        inner = {
            "base_quantization_type": self.codes,
            "max_degree": 2 * M,
            "ef_construction": EF_CONSTRUCTION,
            "build_thread_count": 1,
            "base_io_type": "memory_io",
            "precise_io_type": "memory_io",
            "use_reorder": True,
            "precise_quantization_type": "fp32",
        }
        outer = {
            "dtype": "float32",
            "metric_type": "l2" if self.metric == "l2" else "ip",
            "dim": self.dims,
            "index_param": inner,
        }
        return pyvsag.Index("hgraph", json.dumps(outer))

    def build(self, base: Floats) -> None:
        self.index = self.make()
        ids = np.arange(len(base), dtype=np.int64)
        self.index.build(base.reshape(-1), ids, len(base), self.dims)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path) -> None:
        self.index = self.make()
        self.index.load(str(path))

    def search(self, queries: Any, value: int) -> Any:
        how = json.dumps({"hgraph": {"ef_search": max(value, self.k)}})
        search = self.index.knn_search
        out = np.full((len(queries), self.k), -1, np.int64)
        for row, query in enumerate(queries):
            first, second = search(query, self.k, how)
            ids = first if first.dtype.kind in "iu" else second
            out[row, : len(ids)] = ids
        return out

    def row_bytes(self) -> float | None:
        return 1.0 * self.dims


class VsagNibble(Vsag):
    name = "vsag-hgraph-sq4"
    codes = "sq4_uniform"
    note = "4-bit codes, rescored on f32, one query a call"
    # On unit vectors under inner product this version finds next to nothing (recall 0.007 at 800).
    usual = False

    def row_bytes(self) -> float | None:
        return 0.5 * self.dims


class Scann(Peer):
    name = "scann"
    package = "scann"
    parameter = "leaves"
    sweep = PARTS
    note = "4-bit asymmetric hashing in a tree, the best 100 rescored on f32"

    def library(self) -> Any:
        from scann.scann_ops.py import scann_ops_pybind

        return scann_ops_pybind

    def build(self, base: Floats) -> None:
        l2 = self.metric == "l2"
        builder = self.library().builder(base, self.k, "squared_l2" if l2 else "dot_product")
        builder = builder.tree(
            num_leaves=self.power_of_two_parts(),
            num_leaves_to_search=10,
            training_sample_size=len(base),
        )
        threshold = float("nan") if l2 else 0.2
        builder = builder.score_ah(2, anisotropic_quantization_threshold=threshold)
        self.index = builder.reorder(100).build()

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.index.serialize(str(path))

    def load(self, path: Path) -> None:
        self.index = self.library().load_searcher(str(path))

    def search(self, queries: Any, value: int) -> Any:
        return self.index.search_batched(queries, leaves_to_search=value)[0].astype(np.int64)

    def row_bytes(self) -> float | None:
        return None


def _registry() -> dict[str, type[Peer]]:
    kinds: list[type[Peer]] = [
        Hnswlib,
        FaissHnsw,
        FaissHnswByte,
        FaissHnswByteRefine,
        FaissInvertedFile,
        Vsag,
        VsagNibble,
        Scann,
        UsearchByte,
        UsearchHalf,
        Usearch,
        Voyager,
    ]
    return {kind.name: kind for kind in kinds}


PEERS = _registry()


def chosen(text: str | None) -> list[str]:
    """Configurations named by `text`: full names, or the first part of several (`faiss`)."""
    if text is None:
        return [name for name, kind in PEERS.items() if kind.usual]
    names: list[str] = []
    for wanted in filter(None, text.split(",")):
        hits = [wanted] if wanted in PEERS else [n for n in PEERS if n.startswith(wanted)]
        if not hits:
            raise SystemExit(f"unknown peer {wanted!r}, expected some of {', '.join(PEERS)}")
        names += [name for name in hits if name not in names]
    return names


def cache_folder(root: Path, data: VectorSet, name: str) -> Path:
    """Where a configuration's built index rests: changes with data, library and parameters."""
    kind = PEERS[PEERS[name].shares or name]
    return root / data.key() / f"{kind.name}-{kind.version()}-m{M}-ef{EF_CONSTRUCTION}"
