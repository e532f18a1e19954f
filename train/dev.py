"""Retrieval on the dev split while training, over indexes built from the weights as they are."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence

from bgetune.config import Head, JobConfig
from bgetune.data import RetrievalSet
from bgetune.encoder import Encoder
from bgetune.metrics import means, per_query
from bgetune.run import Run
from bgetune.search import HYBRID, search


class DevSet:
    """The dev queries over the whole corpus."""

    def __init__(self, config: JobConfig, run: Run, data: RetrievalSet, trained: Sequence[Head]) -> None:
        queries = data.queries_of("dev")
        kept = _first_by_hash(queries.ids, config.train.eval_max_queries)
        self._queries = queries.take([i for i, query_id in enumerate(queries.ids) if query_id in kept])
        self._qrels = {query_id: data.qrels["dev"][query_id] for query_id in self._queries.ids}
        self._corpus = data.corpus
        self._config, self._run = config, run
        self._scratch = run.vectors / "dev"
        wanted = config.train.dev_retriever
        # a model whose dense head alone trains keeps its others as they were: they have nothing to tell
        self.retriever = (HYBRID if len(trained) > 1 else trained[0]) if wanted == "auto" else wanted

    def evaluate(self, encoder: Encoder, step: int) -> dict[str, float]:
        """Mean metrics of the encoder as it is now."""
        # the base model's vectors serve the evaluation too; those of other steps are gone with the next
        cache = self._scratch if step or encoder.has_adapters else self._run.vectors
        shutil.rmtree(self._scratch, ignore_errors=True)
        label = f"dev, step {step}:"
        results = search(encoder, self._queries, self._corpus, self._config, [self.retriever], cache, label)
        return means(per_query(self._qrels, results[self.retriever]))

    def settle(self, best: bool) -> None:
        """After an evaluation: keep its vectors for the final one if the model is the best so far."""
        if best:
            shutil.rmtree(self._run.best_vectors, ignore_errors=True)
            if self._scratch.is_dir():
                self._scratch.replace(self._run.best_vectors)
        shutil.rmtree(self._scratch, ignore_errors=True)


def _first_by_hash(ids: list[str], most: int | None) -> set[str]:
    by_hash = sorted(ids, key=lambda query_id: hashlib.sha256(query_id.encode()).hexdigest())
    return set(by_hash if most is None else by_hash[:most])
