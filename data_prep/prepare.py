"""The stage `prepare`: the domain and each guard into BEIR layout in the job's folder."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_data import Leakage
from bgetune.data import RetrievalSet, write_retrieval_set
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
    public = read_public(config.data.public)
    guards = {
        name: load(source, f"data.guards.{name}", guard=True, model=config.model)
        for name, source in config.data.guards.items()
    }
    # last, for a language model may be paid for it
    enrich = None if config.synthesize.url is None else partial(add_synthetic, config=config, run=run)
    domain = load(config.data.domain, "data.domain", guard=False, model=config.model, enrich=enrich)
    for name, guard in guards.items():
        if config.data.guards[name].kind == "harvest":
            apart = _apart_from_training(guard.data, domain.data, f"data.guards.{name}")
            guards[name] = replace(guard, data=apart)
    measured = {**{name: guard.data for name, guard in guards.items()}, **public}
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
    """Harvested code without what train and dev see: it holds copies of the standard library, and stock phrases.

    Data of the user's own are not changed behind their back; the leakage check speaks about them.
    """
    tested, seen = guard.queries_of("test"), [domain.queries_of(split) for split in ("train", "dev")]
    seen_queries = {i for i, _ in near_duplicates(tested.texts, [text for texts in seen for text in texts.texts])}
    seen_passages = _near_positives(guard, domain)
    qrels = guard.qrels["test"]
    kept = [
        i
        for i, query_id in enumerate(tested.ids)
        if i not in seen_queries and not seen_passages.intersection(qrels[query_id])
    ]
    if not kept:
        raise UserError(f"{option}.packages: all its functions are in the domain too; name other packages")
    if len(kept) < len(tested):
        left = len(tested) - len(kept)
        log.info("prepare: %s: %d queries left out, training sees them or their answer", option, left)
    queries = tested.take(kept)
    return RetrievalSet(guard.corpus, queries, {"test": {query_id: qrels[query_id] for query_id in queries.ids}})


def _near_positives(guard: RetrievalSet, domain: RetrievalSet) -> set[str]:
    """Ids of the guard's passages that are near-duplicates of a positive of the domain's train or dev."""
    judged = [passages for split in ("train", "dev") for passages in domain.qrels[split].values()]
    trained = {passage_id for passages in judged for passage_id in passages}
    texts = [text for i, text in zip(domain.corpus.ids, domain.corpus.full_texts(), strict=True) if i in trained]
    return {guard.corpus.ids[i] for i, _ in near_duplicates(guard.corpus.full_texts(), texts)}
