"""FAISS by size: what each kind of index costs to build and to search, all queries known at once.

    python scripts/bench_index.py                                        10k, 100k, 1M made vectors; hours with HNSW
    python scripts/bench_index.py --sizes 100000 --types Flat IVF PQ     some of it
    python scripts/bench_index.py --vectors v.npy --queries 10000        vectors of your own (the first rows ask)

Prints a Markdown table. Each row is a process of its own; its memory is the largest anonymous memory beyond what it
had before the index (the vectors are mapped from disk and not counted). nprobe and efSearch are tuned on 200 queries,
recall is measured on 200 others. Linux only. `xN`: N times as many are taken of
codes, to be re-scored. Made vectors: clusters with the recall by lists read that all-MiniLM-L6-v2 has over MedQuAD's
passages; for codes they are harder than any real ones met.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bgetune  # noqa: I001, F401 - sets what libgomp reads when it is loaded
import faiss
import numpy as np

from bgetune.index.choose import choose
from bgetune.index.dense import DenseIndex
from bgetune.index.exact import exact_search
from bgetune.index.tune import recall, tune

HELD = 200
HEAD = """| vectors | index | build s | peak MiB | ms a query | recall@{depth} | set | whole job s |
|---:|---|---:|---:|---:|---:|---|---:|"""


def made_vectors(path: Path, rows: int, width: int, seed: int = 0) -> None:
    """float32 [rows, width] of length 1: a cluster for every 30 rows, both levels with a falling spectrum."""
    draw = np.random.default_rng(seed)
    spectrum = ((1 + np.arange(width)) ** -0.5).astype(np.float32)
    centres = draw.standard_normal((max(16, rows // 30), width), dtype=np.float32) * spectrum
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    for start in range(0, rows, 1 << 14):
        count = min(1 << 14, rows - start)
        block = 1.25 * draw.standard_normal((count, width), dtype=np.float32) * spectrum
        block += centres[draw.integers(0, len(centres), count)]
        out[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()


def factory_of(kind: str, rows: int, width: int, queries: int) -> str:
    """Lists: a power of two near twice the root of the corpus."""
    lists = 1 << max(4, round(np.log2(2 * np.sqrt(rows))))
    known = {
        "auto": choose(rows, width, queries, 4 << 30).factory,
        "IVF": f"IVF{lists},Flat",
        "SQ": f"IVF{lists},SQ8",
        "HNSW": "HNSW32",
        "PQ": f"IVF{lists},PQ{width // 2}x4fs",
        "PQ8": f"IVF{lists},PQ{width // 8}x8",
    }
    return known.get(kind, kind)


class Peak(threading.Thread):
    """Watches this process's anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first = self.most = _anonymous()

    def run(self) -> None:
        while True:
            self.most = max(self.most, _anonymous())
            time.sleep(0.02)


def _anonymous() -> int:
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def measure(vectors_path: str, rows: int, factory: str, queries: int, depth: int, wanted: float) -> dict[str, object]:
    """One row of the table; queries are the file's first rows, the corpus those behind them."""
    vectors = np.load(vectors_path, mmap_mode="r")
    asking = np.array(vectors[: queries + 2 * HELD], dtype=np.float32)
    corpus = vectors[len(asking) : len(asking) + rows]
    held, fresh, asked = asking[:HELD], asking[HELD : 2 * HELD], asking[2 * HELD :]
    exact = [exact_search(some, corpus, "cosine", depth)[1] for some in (held, fresh)]
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    index = DenseIndex.build(corpus, "cosine", factory)
    build = time.perf_counter() - start
    tuned = tune(index, held, exact[0], depth, wanted)
    start = time.perf_counter()
    index.search(asked, depth)
    search = time.perf_counter() - start
    return {
        "factory": factory, "build": build, "peak": (peak.most - peak.first) / 2**20, "ms": 1000 * search / len(asked),
        "recall": recall(index.search(fresh, depth)[1], exact[1]),
        "set": f"{tuned.parameter} {tuned.value or ''} {f'x{tuned.wider}' if tuned.wider > 1 else ''}".strip(),
        "total": build + search,
    }  # fmt: skip


def _row(path: Path, rows: int, kind: str, args: argparse.Namespace) -> str:
    width = np.load(path, mmap_mode="r").shape[1]
    factory = factory_of(kind, rows, width, args.queries)
    job = [str(path), rows, factory, args.queries, args.depth, args.recall]
    done = subprocess.run([sys.executable, __file__, "--one", json.dumps(job)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return f"| {rows:,} | {factory} | failed | | | | | |"
    got = json.loads(done.stdout.splitlines()[-1])
    return (
        f"| {rows:,} | {got['factory']} | {got['build']:.1f} | {got['peak']:.0f} | {got['ms']:.2f} | "
        f"{got['recall']:.3f} | {got['set']} | {got['total']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--types", nargs="+", default=["Flat", "IVF", "PQ", "HNSW"],
                        help="Flat, IVF, SQ, PQ, PQ8, HNSW, auto, or a factory string")  # fmt: skip
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--vectors", type=Path, help=".npy, float16 or float32 [N, D]; none: made ones")
    parser.add_argument("--width", type=int, default=384, help="of made vectors")
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*json.loads(args.one))))
        return
    print(f"{args.queries:,} queries, {faiss.omp_get_max_threads()} threads, FAISS {faiss.__version__}\n")
    print(HEAD.format(depth=args.depth), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.sizes:
            needed = rows + args.queries + 2 * HELD
            path = args.vectors or Path(folder) / "made.npy"
            if args.vectors is None:
                made_vectors(path, needed, args.width)
            elif len(np.load(path, mmap_mode="r")) < needed:
                parser.error(f"--vectors: {needed} rows are needed for {rows} vectors and {args.queries} queries")
            for kind in args.types:
                print(_row(path, rows, kind, args), flush=True)


if __name__ == "__main__":
    main()
