"""The stage `prepare`: the domain and each guard into BEIR layout in the job's folder."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_data import SourceConfig
from bgetune.data import RetrievalSet, Texts, write_retrieval_set
from bgetune.errors import UserError
from bgetune.examples import write_examples
from bgetune.files import atomic_folder
from bgetune.run import Run

from .neardup import near_duplicates
from .sources import Loaded, load

log = logging.getLogger("bgetune")

GIVEN = "given.jsonl"
"""In the domain's folder: the train split's examples with the negatives that came in the data, where any did."""


def prepare(config: JobConfig, run: Run) -> None:
    """Read, check and write every set; a guard that shares queries with training is refused.

    Raises:
        UserError: see `sources.load`; a guard's test queries are among the domain's train queries.
    """
    start = time.monotonic()
    domain = load(config.data.domain, "data.domain", guard=False)
    _warn_of_overlap(config.data.name, domain.data)
    _write(run.data(config.data.name), domain, config.data.name, start)
    for name, source in config.data.guards.items():
        start = time.monotonic()
        option = f"data.guards.{name}"
        guard = load(source, option, guard=True)
        guard = replace(guard, data=_apart_from_training(guard.data, domain.data, source, option))
        _write(run.data(name), guard, name, start)


def _write(folder: Path, loaded: Loaded, name: str, start: float) -> None:
    with atomic_folder(folder) as partial:
        write_retrieval_set(partial, loaded.data)
        if loaded.given is not None:
            write_examples(partial / GIVEN, loaded.given)
    log.info("prepare: %s: %s, %.1f s", name, describe(loaded.data), time.monotonic() - start)


def describe(data: RetrievalSet) -> str:
    """Sizes in words: `5 passages, 3 queries train, 1 dev, 1 test`."""
    splits = ", ".join(f"{len(qrels):,} {split}" for split, qrels in data.qrels.items())
    return f"{len(data.corpus):,} passages, queries: {splits}"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _warn_of_overlap(name: str, data: RetrievalSet) -> None:
    train = {_folded(text) for text in data.queries_of("train").texts}
    for split in ("dev", "test"):
        count = sum(_folded(text) in train for text in data.queries_of(split).texts)
        if count:
            log.warning(
                "prepare: %s: %d of its %s queries are train queries too; its gain there is too good",
                name,
                count,
                split,
            )


def _apart_from_training(guard: RetrievalSet, domain: RetrievalSet, source: SourceConfig, option: str) -> RetrievalSet:
    """The guard without what training sees.

    Harvested code holds copies of the standard library and stock phrases: such queries are left out. Data of the
    user's own are not changed behind their back: an equal query is refused.
    """
    tested, trained = guard.queries_of("test"), domain.queries_of("train")
    ids, texts, train_ids, train_texts = tested.ids, tested.texts, trained.ids, trained.texts
    if source.kind != "harvest":
        train = {_folded(text) for text in train_texts}
        count = sum(_folded(text) in train for text in texts)
        if count:
            raise UserError(
                f"{option}: {count} of its {len(texts)} test queries are train queries of the domain, "
                "so it guards nothing; remove them from one of the two"
            )
        return guard
    seen_queries = {i for i, _ in near_duplicates(texts, train_texts)}
    seen_passages = _near_train_positives(guard, domain, train_ids)
    qrels = guard.qrels["test"]
    kept = [i for i in range(len(ids)) if i not in seen_queries and not seen_passages.intersection(qrels[ids[i]])]
    if not kept:
        raise UserError(f"{option}.packages: all its functions are in the domain too; name other packages")
    if len(kept) < len(ids):
        log.info("prepare: %s: %d queries left out, training sees them or their answer", option, len(ids) - len(kept))
    queries = Texts([ids[i] for i in kept], [texts[i] for i in kept])
    return RetrievalSet(guard.corpus, queries, {"test": {query_id: qrels[query_id] for query_id in queries.ids}})


def _near_train_positives(guard: RetrievalSet, domain: RetrievalSet, train_ids: list[str]) -> set[str]:
    """Ids of the guard's passages that are near-duplicates of a positive the domain trains on."""
    trained = {passage_id for query_id in train_ids for passage_id in domain.qrels["train"][query_id]}
    texts = [text for i, text in zip(domain.corpus.ids, domain.corpus.full_texts(), strict=True) if i in trained]
    return {guard.corpus.ids[i] for i, _ in near_duplicates(guard.corpus.full_texts(), texts)}
