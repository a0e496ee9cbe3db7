"""Tests of the comparison itself: `python -m unittest discover -s bench/compare`, with numpy.

The smoke test compares hnswlib alone on a small set, and is passed over where it is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

import analysis
import numpy as np
import peers
import plot
import report
import sets
import synthetic
from analysis import Memory, Point

HERE = Path(__file__).resolve().parent


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(at, recall, [rate]) for at, (recall, rate) in enumerate(pairs)]


class Analysis(unittest.TestCase):
    def test_the_front_has_no_point_that_another_one_beats(self) -> None:
        kept = analysis.front(points((0.9, 100), (0.95, 80), (0.94, 70), (0.99, 85), (0.99, 20)))
        self.assertEqual([(p.recall, p.qps[0]) for p in kept], [(0.9, 100), (0.99, 85)])

    def test_speed_is_interpolated_by_the_logarithm_of_what_is_missed(self) -> None:
        # Half way between 0.1 and 0.001 on a logarithmic scale lies 0.01.
        curve = points((0.9, 1_000), (0.999, 10))
        self.assertAlmostEqual(analysis.at_recall(curve, 0.99), 100)
        self.assertAlmostEqual(analysis.at_recall(curve, 0.999), 10)
        self.assertEqual(analysis.at_recall(curve, 0.5), 1_000)
        self.assertIsNone(analysis.at_recall(curve, 0.9999))
        self.assertIsNone(analysis.at_recall([], 0.9))

    def test_a_perfect_recall_is_no_infinity(self) -> None:
        value = analysis.at_recall(points((0.9, 100), (1.0, 50)), 0.999)
        self.assertTrue(50 < value < 100)

    def test_a_count_that_is_not_given_is_not_interpolated(self) -> None:
        self.assertIsNone(analysis.at_recall(points((0.9, 100), (0.99, 50)), 0.95, "evaluations"))

    def test_lines_cost_between_the_working_sets_measured_around_them(self) -> None:
        memory = Memory(((1e6, 4.0), (1e8, 8.0)), 16)
        self.assertEqual(memory.line_ns(10), 4.0)
        self.assertAlmostEqual(memory.line_ns(1e7), 6.0)
        self.assertEqual(memory.line_ns(1e12), 8.0)
        counts = {"bytes_touched": 64_000, "evaluations": 100, "kernel_ns": 10}
        self.assertAlmostEqual(analysis.bound_seconds(counts, memory, 1e6), 5e-6)

    def test_huge_pages_and_the_best_number_in_flight_are_taken(self) -> None:
        def pages(size: int, ns: float) -> dict:
            rows = [
                {"in_flight": 1, "ns_per_line": 9 * ns},
                {"in_flight": 16, "ns_per_line": ns},
                {"in_flight": 24, "ns_per_line": 2 * ns},
            ]
            return {"page_bytes": size, "working_sets": [{"bytes": 1_000, "random": rows}]}

        memory = analysis.memory_of({"pages": [pages(4_096, 9.0), pages(2_097_152, 5.0)]})
        self.assertEqual((memory.line_ns(1), memory.in_flight), (5.0, 16))


class Plot(unittest.TestCase):
    def test_the_plot_is_well_formed_and_names_every_curve(self) -> None:
        curves = {
            "ours & more": points((0.8, 9e4), (0.99, 2e4), (1.0, 900)),
            "theirs": points((0.5, 1e4), (0.9, 5e3)),
        }
        text = plot.svg("a < b", curves, {"ours & more"})
        words = [node.text for node in xml.fromstring(text).iter() if node.tag.endswith("text")]
        self.assertTrue({"a < b", "ours & more", "theirs", "0.99"} <= set(words))


class Documents(unittest.TestCase):
    def test_a_section_replaces_the_one_of_its_name_and_no_other(self) -> None:
        text = report.with_section(report.with_section("# page\n", "a", "one"), "b", "two")
        again = report.with_section(text, "a", "three")
        self.assertEqual(again, text.replace("one", "three"))
        self.assertEqual(report.with_section(again, "a", "three"), again)


class Peers(unittest.TestCase):
    def test_names_and_first_parts_of_names_choose(self) -> None:
        self.assertEqual(peers.chosen("hnswlib,vsag"), ["hnswlib", "vsag-hgraph-sq8", "vsag-hgraph-sq4"])
        self.assertEqual(peers.chosen("faiss-hnsw"), ["faiss-hnsw"])
        with self.assertRaises(SystemExit):
            peers.chosen("annoy")

    def test_a_shared_index_is_one_that_exists(self) -> None:
        for kind in peers.PEERS.values():
            self.assertTrue(kind.shares is None or kind.shares in peers.PEERS)


class Sets(unittest.TestCase):
    def test_generated_truth_is_the_exact_order(self) -> None:
        for kind, metric in [("clusters", "l2"), ("skewed", "cosine")]:
            with tempfile.TemporaryDirectory() as folder:
                synthetic.generate(kind, Path(folder), 400, 20, 3)
                data = sets.open_set(Path(folder), None, None, None, None)
                self.assertEqual(data.metric, metric)
                base, queries = data.base(), data.queries()
                far = ((queries[:, None].astype(np.float64) - base[None]) ** 2).sum(axis=2)
                wanted = np.argsort(far, axis=1, kind="stable")[:, :10]
                self.assertEqual(data.truth(10).tolist(), wanted.tolist())

    def test_another_metric_or_byte_changes_the_key(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            synthetic.generate("clusters", folder, 200, 5, 3)
            key = sets.open_set(folder, None, None, None, None).key()
            self.assertNotEqual(key, sets.open_set(folder, None, None, None, "dot").key())
            base = np.load(folder / "base.npy")
            base[0, 0] += 1
            np.save(folder / "base.npy", base)
            self.assertNotEqual(key, sets.open_set(folder, None, None, None, None).key())


@unittest.skipUnless(importlib.util.find_spec("hnswlib"), "hnswlib is not installed")
class Smoke(unittest.TestCase):
    def test_a_quick_comparison_writes_tables_plot_and_figures(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            synthetic.generate("clusters", folder / "set", 1_000, 50, 3)
            command = [sys.executable, str(HERE), "--set", str(folder / "set"), "--quick"]
            command += ["--peers", "hnswlib", "--cache", str(folder / "cache")]
            command += ["--out", str(folder / "out")]
            subprocess.run(command, check=True, capture_output=True)
            whole = json.loads((folder / "out/results.json").read_text())
            found = whole["results"]["hnswlib"]["points"]
            self.assertGreater(found[-1]["recall"], 0.9)
            self.assertTrue(all(point["passes"] == 2 for point in found))
            self.assertIn("hnswlib", (folder / "out/tables.md").read_text())
            xml.parse(folder / "out/set.svg")


if __name__ == "__main__":
    unittest.main()
