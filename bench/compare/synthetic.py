"""Sets that no index was tuned to, with exact neighbours, for `cargo xtask compare --set`.

    python bench/compare/synthetic.py clusters --out DIR    200,000 x 96, L2: a mixture of Gaussians
    python bench/compare/synthetic.py skewed --out DIR      100,000 x 768, cosine: few strong axes

`clusters`: 2,000 centres of very different weight and spread, each stretched along a few directions
of its own, plus a tenth of background noise. `skewed`: a spectrum that falls like a power of the
axis, heavy tails, a common offset and some axes of constant sign, as embeddings of text have them.
Queries are drawn like the rows and are not among them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
NEIGHBOURS = 100
QUERY_PIECE = 200
BASE_PIECE = 20_000


def clusters(rows: int, dims: int, dice: np.random.Generator) -> Floats:
    count = max(2, rows // 100)
    weights = dice.pareto(1.2, count) + 0.05
    centres = dice.standard_normal((count, dims))
    spreads = dice.lognormal(-0.7, 0.5, count)
    directions = dice.standard_normal((count, 4, dims)) / np.sqrt(dims)
    chosen = dice.choice(count, rows, p=weights / weights.sum())
    out = np.empty((rows, dims), np.float32)
    for first in range(0, rows, BASE_PIECE):
        own = chosen[first : first + BASE_PIECE]
        noise = 0.5 * dice.standard_normal((len(own), dims))
        along = dice.standard_normal((len(own), 4))
        stretched = np.einsum("nd,ndk->nk", 3 * along, directions[own])
        out[first : first + len(own)] = centres[own] + spreads[own, None] * (noise + stretched)
    background = dice.random(rows) < 0.1
    out[background] = 1.2 * dice.standard_normal((int(background.sum()), dims))
    return out


def skewed(rows: int, dims: int, dice: np.random.Generator) -> Floats:
    spectrum = (1 + np.arange(dims)) ** -0.6
    offset = 0.4 * dice.standard_normal(dims) * spectrum
    turn, _ = np.linalg.qr(dice.standard_normal((dims, dims)))
    topics = dice.standard_normal((max(2, rows // 250), dims)) * spectrum
    chosen = dice.integers(0, len(topics), rows)
    signed = dice.choice(dims, dims // 32, replace=False)
    out = np.empty((rows, dims), np.float32)
    for first in range(0, rows, BASE_PIECE):
        own = chosen[first : first + BASE_PIECE]
        noise = dice.standard_t(4, (len(own), dims)) * spectrum
        piece = (topics[own] + 0.8 * noise + offset) @ turn
        piece[:, signed] = np.abs(piece[:, signed])
        # Two outlier axes, as embeddings of language models have them.
        piece[:, signed[:2]] += 1.5
        out[first : first + len(own)] = piece
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def truth(base: Floats, queries: Floats, metric: str) -> NDArray[np.int32]:
    """Exact neighbours: candidates in f32, then ordered in f64."""
    wanted = min(NEIGHBOURS, len(base))
    spare = min(2 * wanted, len(base))
    squares = (base**2).sum(axis=1, dtype=np.float32) if metric == "l2" else None
    out = np.empty((len(queries), wanted), np.int32)
    for first in range(0, len(queries), QUERY_PIECE):
        piece = queries[first : first + QUERY_PIECE]
        scores = piece @ base.T
        far = squares - 2 * scores if squares is not None else -scores
        near = np.argpartition(far, spare - 1, axis=1)[:, :spare]
        for row, candidates in enumerate(near):
            vectors, query = base[candidates].astype(np.float64), piece[row].astype(np.float64)
            exact = ((vectors - query) ** 2).sum(axis=1) if metric == "l2" else -(vectors @ query)
            # Equal distances by row number, so that the truth is one.
            order = np.lexsort((candidates, exact))[:wanted]
            out[first + row] = candidates[order]
    return out


KINDS = {"clusters": (clusters, 200_000, 96, "l2"), "skewed": (skewed, 100_000, 768, "cosine")}


def generate(kind: str, out: Path, rows: int | None, queries: int, seed: int) -> None:
    """Writes base.npy, query.npy, gt.npy and set.json into `out`."""
    make, usual_rows, dims, metric = KINDS[kind]
    rows = rows or usual_rows
    both = make(rows + queries, dims, np.random.default_rng(seed))
    base, asked = both[:rows], both[rows:]
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "base.npy", base)
    np.save(out / "query.npy", asked)
    np.save(out / "gt.npy", truth(base, asked, metric))
    described = {"metric": metric, "kind": kind, "seed": seed}
    (out / "set.json").write_text(json.dumps(described) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generate(options.kind, options.out, options.rows, options.queries, options.seed)


if __name__ == "__main__":
    main()
