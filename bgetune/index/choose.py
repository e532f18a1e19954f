"""Which index, and over how many vectors at once: arithmetic on measured costs.

The web's table (Flat to 10k vectors, IVF to 100k, HNSW above) is for a server that is asked one query at a time. Mining
knows all queries at once, and comparing a batch with everything is a matrix product: 9 ns a query and vector of width
384 on one core, where an inverted list, read from memory for one query, takes 175 ns. What follows:

- Training and adding count: an index answers one job. HNSW takes 0.3 ms a vector, as long as 30,000 comparisons.
- Flat, part by part, is exact within any memory, and is kept as long as it is a matter of minutes.
- Beyond that lists of 4-bit codes (IVF with PQ, fast scan) with exact re-scoring are what pays, from some ten thousand
  queries on. They also take a tenth of the memory, so that fewer parts serve.
- IVF with whole vectors and HNSW never come out first here; they may be asked for by their factory string.

The measurements: scripts/bench_index.py, docs/benchmarks.md.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

# Seconds of one multiplication in a batched product (one core, AVX-512: 2.4e-11 to 3.6e-11), and what the rest costs in
# such multiplications, for each number of a vector.
_SECOND = 3e-11
_SCAN_FLOATS = 15.0  # a vector in an inverted list
_SCAN_CODES = 1.0  # its 4-bit codes, one for two numbers
_ENCODE, _CODEBOOKS = 800.0, 2.6e8  # codes of a vector; training them once
_RESCORE = 48_000.0  # the 400 candidates of a query
_LINK, _WALK = 1_900.0, 4_400.0  # a vector put into, a query led through HNSW32, times log2 of the vectors
_TRAIN = 64 * 10  # sampled vectors a list, rounds of k-means
_PROBED = 2.6  # times the root of the number of lists: lists to read for recall@100 of 0.95 (64 to 1,024 lists)

_EXACT_SECONDS = 600.0  # up to here nothing is gained that would be worth a lost neighbour
_WORTH = 2.0  # and beyond, an approximate index has to be this much faster


@dataclass(frozen=True)
class Choice:
    """What to build."""

    factory: str
    """FAISS factory string."""
    rows_per_part: int
    """Vectors that one index holds; a larger corpus is searched part by part, all parts of nearly one size."""


def choose(
    rows: int,
    width: int,
    queries: int,
    memory_bytes: int,
    factory: str = "auto",
    device: Literal["cpu", "gpu"] = "cpu",
) -> Choice:
    """The index for one job: `queries` known at once, searched in `rows` vectors once.

    Args:
        memory_bytes: what the index of one part may take.
        factory: any other than auto is kept, and only the parts are chosen.
        device: on a GPU auto is always Flat: products are what it is best at.

    >>> choose(100_000, 384, 10_000, 4 << 30)
    Choice(factory='Flat', rows_per_part=100000)
    >>> choose(1_000_000, 384, 10_000, 1 << 30)  # 115 s on one core, in two parts
    Choice(factory='Flat', rows_per_part=500000)
    >>> choose(100_000_000, 1024, 1_000, 4 << 30).factory  # 51 min; the best lists would take 63
    'Flat'
    >>> choose(10_000_000, 1024, 100_000, 4 << 30)  # 48 min on one core instead of 8 h 32 min
    Choice(factory='IVF2048,PQ512x4fs', rows_per_part=10000000)
    >>> choose(1_000_000, 384, 10_000, 1 << 30, factory="IVF1024,PQ48x8")
    Choice(factory='IVF1024,PQ48x8', rows_per_part=1000000)
    """
    if factory == "auto":
        factory = "Flat" if device == "gpu" else _cheapest(rows, width, queries, memory_bytes)
    return Choice(factory, _part(rows, width, memory_bytes, factory))


def bytes_per_vector(factory: str, width: int) -> float:
    """Memory of one vector while the index is built.

    Inverted lists grow by doubling and take half as much again as they hold. Centroids come on top, 4·D each: at most a
    64th of the vectors.

    >>> bytes_per_vector("Flat", 384), bytes_per_vector("HNSW32", 384)  # 4·D; 4·D + 4·2·32 links + 20 for upper levels
    (1536.0, 1812.0)
    >>> bytes_per_vector("IVF1024,Flat", 384), bytes_per_vector("IVF1024,PQ48x8", 384)  # 1.5 (4·D + 8); 1.5 (48 + 8)
    (2316.0, 84.0)
    >>> bytes_per_vector("OPQ48_192,IVF1024,PQ48x4fs,RFlat", 384), bytes_per_vector("SQ8", 384)
    (1584.0, 384.0)
    """
    base, comma, _ = factory.partition(",RFlat")
    reduced = re.search(r"(?:PCA[WR]*|OPQ\d+_|RR)(\d+)", base)
    kept = int(reduced[1]) if reduced else width
    size = 4.0 * kept
    if pq := re.search(r"(?<!O)PQ(\d+)(?:x(\d+))?", base):
        size = int(pq[1]) * int(pq[2] or 8) / 8
    elif sq := re.search(r"SQ(?:fp|bf)?(\d+)", base):
        size = kept * int(sq[1]) / 8
    if graph := re.match(r"(?:.*,)?(?:HNSW|NSG)(\d+)", base):
        size += 8 * int(graph[1]) + 20
    if "IVF" in base:
        size = 1.5 * (size + 8)
    return size + (4 * width if comma else 0)


def estimated_seconds(factory: str, rows: int, width: int, queries: int) -> float:
    """Time of one core to build and search, at recall@100 of 0.95 where it is approximate.

    For the four kinds that `choose` weighs: Flat, HNSW32, IVFn,Flat and IVFn,PQmx4fs.

    >>> kinds = ("Flat", "IVF1024,Flat", "HNSW32", "IVF1024,PQ192x4fs")
    >>> [round(estimated_seconds(kind, 1_000_000, 384, 10_000)) for kind in kinds]
    [115, 160, 446, 47]
    """
    lists = _lists(factory)
    read = rows * min(1.0, _PROBED / math.sqrt(lists)) if lists else 0.0
    clustering = _TRAIN * lists * lists + rows * lists
    if factory == "Flat":
        work = float(rows) * queries
    elif factory.startswith("HNSW"):
        work = (_LINK * rows + _WALK * queries) * math.log2(max(rows, 2))
    elif factory.endswith(",Flat"):
        work = clustering + _SCAN_FLOATS * read * queries
    else:
        work = clustering + _CODEBOOKS + _ENCODE * rows + (_SCAN_CODES * read + _RESCORE) * queries
    return work * width * _SECOND


def _cheapest(rows: int, width: int, queries: int, memory_bytes: int) -> str:
    def seconds(factory: str) -> float:
        part = _part(rows, width, memory_bytes, factory)
        return estimated_seconds(factory, part, width, queries) * rows / part

    flat = seconds("Flat")
    if flat <= _EXACT_SECONDS:
        return "Flat"
    kinds = ["HNSW32"]
    for lists in (1 << power for power in range(6, 17)):
        if lists * 64 * 4 * width > memory_bytes / 2:  # the training sample stands beside nothing else, but it stands
            break
        kinds += [f"IVF{lists},{codes}" for codes in ("Flat", *([f"PQ{width // 2}x4fs"] if width % 2 == 0 else []))]
    kinds = [kind for kind in kinds if _part(rows, width, memory_bytes, kind) >= 64 * _lists(kind)]
    best = min(kinds, key=seconds)
    return best if seconds(best) * _WORTH <= flat else "Flat"


def _lists(factory: str) -> int:
    found = re.match(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


def _part(rows: int, width: int, memory_bytes: int, factory: str) -> int:
    """Vectors of a part: as few parts as fit the memory, all of nearly one size; at least 1.

    >>> _part(1000, 256, 400 * 1024, "Flat")  # 1 KiB a vector: three parts
    334
    """
    fit = max(int(memory_bytes / bytes_per_vector(factory, width)), 1)
    parts = max(math.ceil(rows / fit), 1)
    return max(math.ceil(rows / parts), 1)
