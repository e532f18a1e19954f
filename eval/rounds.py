"""What each round of mining and training gave."""

from __future__ import annotations

from typing import Any

from bgetune.config import JobConfig
from bgetune.encoder import Encoder
from bgetune.files import read_json
from bgetune.metrics import DECIDING, means, per_query
from bgetune.run import Run
from bgetune.search import search

from .sets import EvalSet
from .systems import TUNED

ROUND_COLUMNS = ("round", "negatives", "queries with other negatives", "dev nDCG@10", "test nDCG@10")


def rounds_of(config: JobConfig, run: Run, domain: EvalSet, deciding: str) -> list[dict[str, Any]]:
    """Each round's mining, and its best checkpoint on dev and test; empty where there is one round.

    The last round's test figure is that of the report; the models of the rounds before are searched with here.
    """
    if config.adapt.rounds == 1:
        return []
    found = []
    for number in range(1, config.adapt.rounds + 1):
        at = Run(run.root, number)
        stats, best = read_json(at.examples.parent / "stats.json"), read_json(at.best / "best.json")
        found.append(
            {
                "round": number,
                "negatives": stats["negatives"],
                "queries_changed": stats.get("queries_changed"),
                "dev_ndcg@10": best["dev_ndcg@10"],
                "test_ndcg@10": _on_test(config, at, domain, deciding),
            }
        )
    return found


def _on_test(config: JobConfig, run: Run, domain: EvalSet, deciding: str) -> float:
    if run.round == config.adapt.rounds:
        results = domain.found[deciding][TUNED]
    else:
        encoder = Encoder.load_folder(run.best, config.model)
        results = search(
            encoder, domain.queries, domain.corpus, config, [deciding], run.best_vectors,
            f"round {run.round} {domain.name}", config.eval.index, config.eval.depth,
        )[deciding]  # fmt: skip
    return means(per_query(domain.qrels, results))[DECIDING]


def round_rows(rounds: list[dict[str, Any]]) -> list[list[str]]:
    """One row a round, cells in the order of ROUND_COLUMNS.

    >>> one = {"round": 2, "negatives": 1200, "queries_changed": 90, "dev_ndcg@10": 0.5, "test_ndcg@10": 0.61}
    >>> round_rows([one])
    [['2', '1,200', '90', '0.500', '0.610']]
    """
    return [
        [
            str(row["round"]),
            f"{row['negatives']:,}",
            "" if row["queries_changed"] is None else f"{row['queries_changed']:,}",
            f"{row['dev_ndcg@10']:.3f}",
            f"{row['test_ndcg@10']:.3f}",
        ]
        for row in rounds
    ]
