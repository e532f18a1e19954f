"""The stage `prepare`: the domain and each guard into BEIR layout in the job's folder."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_data import Leakage
from bgetune.data import RetrievalSet, Texts, write_retrieval_set
from bgetune.errors import UserError
from bgetune.examples import write_examples
from bgetune.files import atomic_folder
from bgetune.run import Run

from .clean.leakage import Leak, leaks, read_public, settle
from .neardup import near_duplicates
from .sources import Loaded, load
from .synthesis.stage import add_synthetic

log = logging.getLogger("bgetune")

GIVEN = "given.jsonl"
"""In the domain's folder: the train split's examples with the negatives that came in the data, where any did."""


def prepare(config: JobConfig, run: Run) -> None:
    """Read, clean, check and write every set; nothing is written before all are good.

    Raises:
        UserError: see `sources.load`; train queries are known from what is measured on, and `data.leakage` is error.
    """
    start = time.monotonic()
    enrich = None if config.synthesize.url is None else partial(add_synthetic, config=config, run=run)
    domain = load(config.data.domain, "data.domain", guard=False, model=config.model, enrich=enrich)
    guards: dict[str, Loaded] = {}
    for name, source in config.data.guards.items():
        option = f"data.guards.{name}"
        guard = load(source, option, guard=True, model=config.model)
        if source.kind == "harvest":
            guard = replace(guard, data=_apart_from_training(guard.data, domain.data, option))
        guards[name] = guard
    measured = {**{name: guard.data for name, guard in guards.items()}, **read_public(config.data.public)}
    domain = _without_leaks(domain, leaks(domain.data, measured), config.data.leakage)
    for name, loaded in {config.data.name: domain, **guards}.items():
        _write(run.data(name), loaded, name)
    log.info("prepare: done in %.1f s", time.monotonic() - start)


def _without_leaks(domain: Loaded, found: list[Leak], how: Leakage) -> Loaded:
    data = settle(domain.data, found, how)
    given = domain.given
    if given is not None:
        given = [example for example in given if example.query_id in data.qrels["train"]]
    return Loaded(data, given)


def _write(folder: Path, loaded: Loaded, name: str) -> None:
    with atomic_folder(folder) as new:
        write_retrieval_set(new, loaded.data)
        if loaded.given is not None:
            write_examples(new / GIVEN, loaded.given)
    log.info("prepare: %s: %s", name, describe(loaded.data))


def describe(data: RetrievalSet) -> str:
    """Sizes in words: `5 passages, 3 queries train, 1 dev, 1 test`."""
    splits = ", ".join(f"{len(qrels):,} {split}" for split, qrels in data.qrels.items())
    return f"{len(data.corpus):,} passages, queries: {splits}"


def _apart_from_training(guard: RetrievalSet, domain: RetrievalSet, option: str) -> RetrievalSet:
    """Harvested code without what training sees: it holds copies of the standard library, and stock phrases.

    Data of the user's own are not changed behind their back; the leakage check speaks about them.
    """
    tested, trained = guard.queries_of("test"), domain.queries_of("train")
    ids, texts, train_ids, train_texts = tested.ids, tested.texts, trained.ids, trained.texts
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
