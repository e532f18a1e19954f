"""The stage `mine`: for every training query, passages that rank high and that nobody called relevant."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_data import MineConfig, Signal
from bgetune.corpus import Corpus
from bgetune.data import Qrels, Texts, read_qrels, read_texts
from bgetune.encode import encode_shards
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.examples import Example, read_examples, write_examples
from bgetune.files import atomic_folder, write_json
from bgetune.processes import rank, together, wait_for_all
from bgetune.run import Run
from bgetune.search import ensemble_weights

from ..audit.page import write_page
from ..audit.terminal import print_summary
from .choose import Chosen, Windows, choose, open_windows, positives_of
from .report import audit_of, write_ranks
from .rounds import is_mined_already, keep_round_before, settle_with_round_before
from .signals import Signals
from .teaching import teacher_of
from .usable import trained_heads, usable

log = logging.getLogger("bgetune")


def mine(config: JobConfig, run: Run) -> None:
    """Write `mined/`: train.jsonl, stats.json, and after a search audit.html and ranks.npz.

    Under a launch with several processes each does its part; the first one writes.

    Raises:
        UserError: the corpus is smaller than the window, the model lacks a head that a source needs, there are no
            given negatives to use, or no query gets a negative.
    """
    if config.mine.method == "search" and is_mined_already(config, run):
        if rank() == 0:
            keep_round_before(run)
    elif config.mine.method == "search":
        with together():
            _search(config, run)
    elif rank() == 0:
        folder = run.data(config.data.name)
        given = config.mine.method == "given"
        examples = _given(folder / "given.jsonl", config.mine) if given else _positives_only(folder)
        with atomic_folder(run.examples.parent) as partial:
            write_examples(partial / run.examples.name, examples)
            write_json(partial / "stats.json", stats_of(examples, {}, config.mine))


def _search(config: JobConfig, run: Run) -> None:
    folder, settings = run.data(config.data.name), config.mine
    if rank() != 0:
        wait_for_all()  # the first one notes where lines begin
    corpus = Corpus.open(folder / "corpus.jsonl", run.vectors)
    if rank() == 0:
        wait_for_all()
    if settings.rank_last > len(corpus):
        raise UserError(
            f"mine.rank_last: {settings.rank_last} is more than the {len(corpus)} passages of {corpus.source}"
        )
    queries, qrels = _train_queries(folder, corpus)
    work = run.round_folder / "mining"
    signals = _signals(corpus, queries, config, run, work)
    settings = signals.settings
    windows = open_windows(signals, queries, qrels, corpus, settings)
    teacher = teacher_of(settings.teacher, signals, queries, corpus, work)
    chosen = choose(windows, queries, corpus, settings, teacher)
    if rank() == 0:
        changed = None
        if run.round_before is not None:
            changed = settle_with_round_before(run.round_before, windows, chosen, queries, corpus)
        examples = _examples(chosen, windows, queries, qrels, corpus, settings)
        index = signals.dense.facts
        facts = audit_of(config, examples, chosen, windows, queries, corpus, index, run.round, changed)
        with atomic_folder(run.examples.parent) as partial:
            write_examples(partial / run.examples.name, examples)
            stats = {**stats_of(examples, chosen.dropped, settings), "queries_changed": changed}
            write_json(partial / "stats.json", stats)
            write_page(partial / "audit.html", facts)
            write_ranks(partial / "ranks.npz", windows, settings.rank_last)
        print_summary(facts)
        log.info("mine: the audit is in %s", run.examples.parent / "audit.html")
    wait_for_all()  # others may still be reading
    if rank() == 0:
        shutil.rmtree(work, ignore_errors=True)


def _train_queries(folder: Path, corpus: Corpus) -> tuple[Texts, Qrels]:
    queries = read_texts(folder / "queries.jsonl", with_titles=False)
    qrels = read_qrels(folder / "qrels" / "train.tsv", set(queries.ids), corpus.ids)
    return queries.take([i for i, query_id in enumerate(queries.ids) if query_id in qrels]), qrels


def _signals(corpus: Corpus, queries: Texts, config: JobConfig, run: Run, work: Path) -> Signals:
    """Corpus and queries encoded by the model of the round before, or by the base model."""
    before = run.round_before
    encoder = Encoder.load(config.model) if before is None else Encoder.load_folder(before.best, config.model)
    cache = run.vectors if before is None else before.best_vectors
    trained = trained_heads(encoder)
    settings = usable(config.mine, trained, run.round < config.adapt.rounds)
    used = {*settings.sources, *settings.agreement, *(["hybrid"] if settings.teacher.kind == "hybrid" else [])}
    reranks = "hybrid" in used or "multi_vector" in used
    heads = tuple(head for head in trained if reranks or head == "dense" or head in used)
    passages = encode_shards(encoder, corpus, "passage", config, "mine: passages", cache, heads, shared=True)
    questions = encode_shards(encoder, queries, "query", config, "mine: queries", cache, heads, shared=True)
    weights = ensemble_weights(config.train)
    return Signals(corpus, passages, queries, questions, encoder.spec.similarity, weights, settings, work)


def _examples(
    chosen: Chosen, windows: Windows, queries: Texts, qrels: Qrels, corpus: Corpus, settings: MineConfig
) -> list[Example]:
    main = main_source(settings)
    examples = []
    for i, query_id in enumerate(queries.ids):
        negatives = chosen.negatives[i]
        positives = positives_of(qrels, query_id)
        rows = [int(row) for row in windows.positives[i] if row >= 0]
        found = [round(candidate.score, 6) for candidate in negatives]
        taught = chosen.teacher[i] if chosen.teacher else None
        under_main = windows.positive_scores[main][i]
        examples.append(
            Example(
                query=queries.texts[i],
                pos=[corpus.text(row) for row in rows],
                neg=[corpus.text(candidate.row) for candidate in negatives],
                query_id=query_id,
                pos_ids=positives,
                neg_ids=[corpus.ids[candidate.row] for candidate in negatives],
                pos_scores=[round(taught[row] if taught else float(under_main[at]), 6) for at, row in enumerate(rows)],
                neg_scores=[round(taught[c.row], 6) for c in negatives] if taught else found,
                neg_ranks=[candidate.rank for candidate in negatives],
                neg_sources=[candidate.source for candidate in negatives],
                neg_found_scores=found if taught else None,
            )
        )
    return examples


def main_source(settings: MineConfig) -> Signal:
    """The source whose scores stand for the positives: dense where it takes part, else the first named."""
    return "dense" if "dense" in settings.sources else next(iter(settings.sources))


def _given(path: Path, settings: MineConfig) -> list[Example]:
    if not path.is_file():
        raise UserError("mine.method: the data holds no negatives to be `given`; use search, or none")
    count = settings.negatives_per_query
    return [
        replace(
            example,
            neg=example.neg[:count],
            neg_ids=example.neg_ids[:count] if example.neg_ids else None,
            neg_scores=example.neg_scores[:count] if example.neg_scores else None,
        )
        for example in read_examples(path)
    ]


def _positives_only(folder: Path) -> list[Example]:
    corpus = read_texts(folder / "corpus.jsonl", with_titles=True)
    text_of = dict(zip(corpus.ids, corpus.full_texts(), strict=True))
    queries = read_texts(folder / "queries.jsonl", with_titles=False)
    qrels = read_qrels(folder / "qrels" / "train.tsv", set(queries.ids), text_of)
    examples = []
    for query_id, query in zip(queries.ids, queries.texts, strict=True):
        if query_id in qrels:
            positives = positives_of(qrels, query_id)
            pos = [text_of[passage_id] for passage_id in positives]
            examples.append(Example(query=query, pos=pos, neg=[], query_id=query_id, pos_ids=positives, neg_ids=[]))
    return examples


def stats_of(
    examples: list[Example], dropped: Mapping[Signal, Counter[str]], settings: MineConfig
) -> dict[str, object]:
    """Counts of a mined file, as stats.json has them."""
    counts = Counter(len(example.neg) for example in examples)
    total = sum(len(example.neg) for example in examples)
    if total == 0 and settings.method != "none":
        raise UserError(
            "mine: no query got a negative; widen mine.rank_last, or loosen max_share_of_positive, margin or max_score"
        )
    sources = Counter(source for example in examples for source in example.neg_sources or ())
    reasons = sum(dropped.values(), Counter())
    return {
        "queries": len(examples),
        "negatives": total,
        "negatives_by_source": dict(sorted(sources.items())),
        "dropped": dict(sorted(reasons.items())),
        "queries_by_number_of_negatives": {str(n): counts[n] for n in sorted(counts)},
        "queries_with_too_few": sum(c for n, c in counts.items() if n < settings.negatives_per_query),
    }
