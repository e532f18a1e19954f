"""Dense search part by part: an index each, tuned on a held sample of queries, kept until the stage is done."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import cast

import numpy as np

from bgetune.config import Similarity
from bgetune.config_data import MineConfig
from bgetune.encode import EncodedShards
from bgetune.errors import UserError
from bgetune.files import sha256_json, write_json
from bgetune.index.choose import choose
from bgetune.index.dense import DenseIndex, sample_rows
from bgetune.index.exact import exact_search
from bgetune.index.faiss_gpu import require_gpu, to_gpu
from bgetune.index.stored import load_index, save_index
from bgetune.index.tune import Tuned, tune
from bgetune.processes import rank
from bgetune.search import Ranking

from ..audit.facts import IndexFacts
from .parts import Arrays, Part, PartWork, cut_parts, fair_rows, merged

log = logging.getLogger("bgetune")

_HELD = 256
"""Queries that an index is tuned on, and compared with exact search by."""


class DenseParts:
    """The dense signal: which index, over which parts, and what it finds of exact search."""

    def __init__(
        self,
        passages: EncodedShards,
        questions: np.ndarray,
        similarity: Similarity,
        settings: MineConfig,
        folder: Path,
        made_from: list[str],
    ) -> None:
        self._passages, self._questions = passages, questions
        self._similarity, self._settings, self._folder = similarity, settings, folder
        if settings.index_device == "gpu":
            require_gpu()
        memory = int(settings.memory_gb * 2**30 / 2)  # the other half is for vectors, queries and results
        size = len(passages), questions.shape[1], len(questions), memory
        chosen = choose(*size, settings.index, settings.index_device)
        self._factory = chosen.factory
        most, shard = chosen.rows_per_part, passages.starts[1]
        if most < shard:
            raise UserError(
                f"mine.memory_gb: {settings.memory_gb:g} holds {most:,} vectors of an index and a shard has {shard:,}; "
                "raise it, or lower encode_shard_texts"
            )
        if self._factory == "Flat":
            most = min(most, fair_rows(passages.starts))
        self._made_from = [*made_from, self._factory, settings.index_recall, settings.index_device, settings.seed]
        self._work = PartWork(folder, cut_parts(passages.starts, most), "mine")
        self.facts: IndexFacts | None = None

    def ranking(self, depth: int) -> Ranking:
        """The `depth` nearest passages of each query."""
        parts: list[Arrays] = []

        def search(part: Part) -> Arrays:
            index, tuned = self._index(part, depth)
            began = time.perf_counter()
            scores, rows = index.search(self._questions, depth)
            milliseconds = 1000 * (time.perf_counter() - began) / len(self._questions)
            return {
                "scores": scores,
                "rows": np.where(rows < 0, -1, rows + part.first),
                "parameter": np.array(tuned.parameter if tuned else ""),
                "told": np.array([tuned.value if tuned else 0, tuned.recall if tuned else 1.0, milliseconds]),
            }

        found = merged(self._work, "dense", [*self._made_from, depth], search, depth, parts.append)
        self._tell(parts)
        return found

    def _index(self, part: Part, depth: int) -> tuple[DenseIndex, Tuned | None]:
        """The index of one part; one that took time to build is kept on disk until the stage is done."""
        vectors = cast(np.ndarray, self._passages.dense(part.first_shard, part.last_shard))
        option, settings = "mine.index", self._settings
        exact = self._factory == "Flat"
        if exact and settings.index_device == "cpu":
            return DenseIndex.build(vectors, self._similarity, option=option), None
        held = self._questions[sample_rows(len(self._questions), _HELD, settings.seed)]
        wanted = exact_search(held, vectors, self._similarity, depth)[1]
        path = self._folder / f"index-{part.number:05d}.faiss"
        key = sha256_json([*self._made_from, part.first, part.last])
        index = load_index(path, vectors, self._similarity, key, option)
        if index is None:
            label = f"mine: {self._factory}"
            index = DenseIndex.build(vectors, self._similarity, self._factory, settings.seed, option, label)
            self._folder.mkdir(parents=True, exist_ok=True)
            save_index(path, index, key)
        if settings.index_device == "gpu":
            index = to_gpu(index, held, wanted)
        return index, tune(index, held, wanted, depth, settings.index_recall)

    def _tell(self, parts: list[Arrays]) -> None:
        """What was built; the time a query took goes into a log, for it differs from run to run."""
        values, recalls, times = zip(*(part["told"].tolist() for part in parts), strict=True)
        low, high = int(min(values)), int(max(values))
        name = str(parts[0]["parameter"])
        parameter = f"{name} {low}" if low == high else f"{name} {low} to {high}"
        recall = sum(recalls) / len(recalls)
        if self._factory != "Flat":
            self.facts = IndexFacts(self._factory, parameter if name else "nothing to tune", recall)
        log.info("mine: index %s finds %.3f of exact search, %.2f ms a query", self._factory, recall, sum(times))
        if rank() == 0:
            note = {"factory": self._factory, "parts": len(parts), "parameter": parameter if name else None}
            note |= {"recall": round(recall, 4), "milliseconds_a_query": round(sum(times), 3)}
            write_json(self._folder.parent / "logs" / "index.json", note)
