#!/usr/bin/env python3
"""hnswlib on the same vectors, as the reference for recall at equal graph parameters.

Prints the JSON that `heddle-bench index` prints, so the two can be laid side by side:

    python3 bench/hnswlib_reference.py --base B.npy --queries Q.npy --truth GT.npy \
        --metric l2 --ef 10,20,40,80 --threads 1 --json OUT

Needs `pip install numpy hnswlib`. An index is built once and kept beside --cache when given.
"""

import argparse
import json
import os
import time

import hnswlib
import numpy


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--base", required=True)
    arguments.add_argument("--queries", required=True)
    arguments.add_argument("--truth", required=True)
    arguments.add_argument("--metric", choices=["l2", "cosine", "dot"], required=True)
    arguments.add_argument("--ef", required=True, help="comma-separated list")
    arguments.add_argument("--m", type=int, default=16)
    arguments.add_argument("--ef-construction", type=int, default=200)
    arguments.add_argument("--k", type=int, default=10)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--passes", type=int, default=3)
    arguments.add_argument("--cache", help="file to keep the built index in")
    arguments.add_argument("--json", required=True)
    options = arguments.parse_args()

    base = numpy.load(options.base).astype(numpy.float32)
    queries = numpy.load(options.queries).astype(numpy.float32)
    truth = numpy.load(options.truth)[:, : options.k]
    space = {"l2": "l2", "cosine": "cosine", "dot": "ip"}[options.metric]
    index = hnswlib.Index(space=space, dim=base.shape[1])
    build_seconds = None
    if options.cache and os.path.exists(options.cache):
        index.load_index(options.cache)
    else:
        index.init_index(
            max_elements=len(base), ef_construction=options.ef_construction, M=options.m
        )
        start = time.perf_counter()
        index.add_items(base, numpy.arange(len(base)), num_threads=options.threads)
        build_seconds = time.perf_counter() - start
        if options.cache:
            index.save_index(options.cache)
    rows = []
    for ef in [int(text) for text in options.ef.split(",")]:
        index.set_ef(ef)
        seconds = []
        for _ in range(options.passes):
            start = time.perf_counter()
            labels, _ = index.knn_query(queries, k=options.k, num_threads=options.threads)
            seconds.append(time.perf_counter() - start)
        found = sum(len(set(row) & set(true)) for row, true in zip(labels.tolist(), truth.tolist()))
        rows.append(
            {
                "ef": ef,
                "recall": found / truth.size,
                "qps": len(queries) / sorted(seconds)[len(seconds) // 2],
            }
        )
    report = {
        "vectors": len(base),
        "dims": base.shape[1],
        "build_seconds": build_seconds,
        "rows": rows,
    }
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
