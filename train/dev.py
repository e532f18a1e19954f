"""Retrieval on the dev split while training, over an index built from the weights as they are."""

from __future__ import annotations

import hashlib

from bgetune.config import JobConfig
from bgetune.data import read_retrieval_set
from bgetune.encoder import Encoder
from bgetune.metrics import means, per_query
from bgetune.run import Run
from bgetune.search import search_dense


class DevSet:
    """The dev queries over the whole corpus."""

    def __init__(self, config: JobConfig, run: Run) -> None:
        data = read_retrieval_set(run.data(config.data.name))
        queries = data.queries_of("dev")
        kept = _first_by_hash(queries.ids, config.train.eval_max_queries)
        self._queries = queries.take([i for i, query_id in enumerate(queries.ids) if query_id in kept])
        self._qrels = {query_id: data.qrels["dev"][query_id] for query_id in self._queries.ids}
        self._corpus = data.corpus
        self._config, self._run = config, run

    def evaluate(self, encoder: Encoder, step: int) -> dict[str, float]:
        """Mean metrics of the encoder as it is now."""
        results = search_dense(
            encoder,
            self._queries,
            self._corpus,
            self._config,
            index="Flat",
            depth=100,
            cache=self._run.vectors,
            label=f"dev, step {step}:",
            keep=False,
        )
        return means(per_query(self._qrels, results))


def _first_by_hash(ids: list[str], most: int | None) -> set[str]:
    by_hash = sorted(ids, key=lambda query_id: hashlib.sha256(query_id.encode()).hexdigest())
    return set(by_hash if most is None else by_hash[:most])
