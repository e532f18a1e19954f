"""Retrieval on the dev split while training, over indexes built from the weights as they are."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from bgetune.config import Head, JobConfig
from bgetune.data import RetrievalSet
from bgetune.encoder import Encoder
from bgetune.metrics import means, per_query
from bgetune.run import Run
from bgetune.search import search


class DevSet:
    """The dev queries over the whole corpus."""

    def __init__(self, config: JobConfig, run: Run, data: RetrievalSet, trained: Sequence[Head]) -> None:
        queries = data.queries_of("dev")
        kept = _first_by_hash(queries.ids, config.train.eval_max_queries)
        self._queries = queries.take([i for i, query_id in enumerate(queries.ids) if query_id in kept])
        self._qrels = {query_id: data.qrels["dev"][query_id] for query_id in self._queries.ids}
        self._corpus = data.corpus
        self._config, self._run = config, run
        self._new: set[Path] = set()
        self._of_best: set[Path] = set()
        wanted = config.train.dev_retriever
        # a model whose dense head alone trains keeps its others as they were: they have nothing to tell
        self.retriever = ("hybrid" if len(trained) > 1 else trained[0]) if wanted == "auto" else wanted

    def evaluate(self, encoder: Encoder, step: int) -> dict[str, float]:
        """Mean metrics of the encoder as it is now."""
        cache, label = self._run.vectors, f"dev, step {step}:"
        before = _folders(cache)
        results = search(encoder, self._queries, self._corpus, self._config, [self.retriever], cache, label)
        self._new = _folders(cache) - before
        return means(per_query(self._qrels, results[self.retriever]))

    def settle(self, best: bool, step: int) -> None:
        """Keep the vectors of the last evaluation if the final evaluation will want them: those of base and of best."""
        gone = self._of_best if best else self._new
        if best:
            # step 0 is the base model, which stays of use when it is not the best any more
            self._of_best = self._new if step else set()
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(cache: Path) -> set[Path]:
    return {path for path in cache.iterdir() if path.is_dir()} if cache.is_dir() else set()


def _first_by_hash(ids: list[str], most: int | None) -> set[str]:
    by_hash = sorted(ids, key=lambda query_id: hashlib.sha256(query_id.encode()).hexdigest())
    return set(by_hash if most is None else by_hash[:most])
