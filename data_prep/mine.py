"""Mining: for every training query the passages the base model ranks high and nobody called relevant."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from bgetune.config import JobConfig
from bgetune.config_data import MineConfig
from bgetune.data import Qrels, RetrievalSet, Texts, normalised, read_retrieval_set
from bgetune.encode import encode_once
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.examples import Example, read_examples, write_examples
from bgetune.files import write_json
from bgetune.index.dense import DenseIndex
from bgetune.run import Run

from .select import Candidate, filter_candidates, sample, score_limit

log = logging.getLogger("bgetune")


def mine(config: JobConfig, run: Run) -> None:
    """Write `mined/train.jsonl` and `mined/stats.json`.

    Raises:
        UserError: the corpus is smaller than the window, there are no given negatives to use, or no query
            gets a negative.
    """
    folder = run.data(config.data.name)
    data = read_retrieval_set(folder)
    if config.mine.method == "search":
        examples, dropped = _mine_dense(data, config, run)
    elif config.mine.method == "given":
        examples, dropped = _given(folder / "given.jsonl", config.mine), Counter[str]()
    else:
        examples, dropped = _positives_only(data), Counter[str]()
    stats = _stats(examples, dropped, config.mine)
    write_json(run.examples.parent / "stats.json", stats)
    write_examples(run.examples, examples)
    _say(stats, config.mine)


def _mine_dense(data: RetrievalSet, config: JobConfig, run: Run) -> tuple[list[Example], Counter[str]]:
    corpus, settings = data.corpus, config.mine
    if settings.rank_last > len(corpus):
        raise UserError(
            f"mine.rank_last: {settings.rank_last} is more than the {len(corpus)} passages of {corpus.source}"
        )
    encoder = Encoder.load(config.model)
    queries = data.queries_of("train")
    passages = encode_once(encoder, corpus, "passage", config, "mine: passages", run.vectors).vectors
    questions = encode_once(encoder, queries, "query", config, "mine: queries", run.vectors).vectors
    index = DenseIndex.build(passages, encoder.spec.similarity, settings.index)
    scores, rows = index.search(questions, settings.rank_last)
    log.info("mine: searched %d passages for %d queries", len(corpus), len(queries))
    return _choose(data, queries, scores, rows, _pair_scores(questions, passages, queries, data, encoder), settings)


def _pair_scores(
    questions: np.ndarray, passages: np.ndarray, queries: Texts, data: RetrievalSet, encoder: Encoder
) -> list[dict[str, float]]:
    """Score of every query with each of its positives, whether the search found it or not."""
    row_of = {passage_id: row for row, passage_id in enumerate(data.corpus.ids)}
    found = []
    for i, query_id in enumerate(queries.ids):
        positives = _positives(data.qrels["train"], query_id)
        vectors = passages[[row_of[passage_id] for passage_id in positives]]
        scores, order = DenseIndex.build(vectors, encoder.spec.similarity).search(questions[i : i + 1], len(positives))
        found.append({positives[row]: float(score) for row, score in zip(order[0], scores[0], strict=True)})
    return found


def _positives(qrels: Qrels, query_id: str) -> list[str]:
    return [passage_id for passage_id, relevance in qrels[query_id].items() if relevance > 0]


def _choose(
    data: RetrievalSet,
    queries: Texts,
    scores: np.ndarray,
    rows: np.ndarray,
    positive_scores: list[dict[str, float]],
    settings: MineConfig,
) -> tuple[list[Example], Counter[str]]:
    corpus, dropped = data.corpus, Counter[str]()
    texts = corpus.full_texts()
    folded = [normalised(text) for text in texts]
    row_of = {passage_id: row for row, passage_id in enumerate(corpus.ids)}
    examples = []
    for i, query_id in enumerate(queries.ids):
        by_score = positive_scores[i]
        positives = _positives(data.qrels["train"], query_id)
        known = {row_of[passage_id] for passage_id in positives}
        window = [
            Candidate(int(row), rank, float(score))
            for rank, (row, score) in enumerate(zip(rows[i], scores[i], strict=True), start=1)
            if row >= 0 and rank >= settings.rank_first
        ]
        refused = {folded[row] for row in known} | {normalised(queries.texts[i])}
        # the best-scoring positive sets the limit: one the model misses must not empty the window
        limit = score_limit(max(by_score.values()), settings)
        chosen = sample(filter_candidates(window, known, refused, folded, limit, dropped), query_id, settings)
        examples.append(
            Example(
                query=queries.texts[i],
                pos=[texts[row_of[p]] for p in positives],
                neg=[texts[c.row] for c in chosen],
                query_id=query_id,
                pos_ids=positives,
                neg_ids=[corpus.ids[c.row] for c in chosen],
                pos_scores=[round(by_score[p], 6) for p in positives],
                neg_scores=[round(c.score, 6) for c in chosen],
                neg_ranks=[c.rank for c in chosen],
                source="dense",
            )
        )
    return examples, dropped


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


def _positives_only(data: RetrievalSet) -> list[Example]:
    text_of = dict(zip(data.corpus.ids, data.corpus.full_texts(), strict=True))
    queries = data.queries_of("train")
    examples = []
    for query_id, query in zip(queries.ids, queries.texts, strict=True):
        positives = _positives(data.qrels["train"], query_id)
        pos = [text_of[passage_id] for passage_id in positives]
        examples.append(Example(query=query, pos=pos, neg=[], query_id=query_id, pos_ids=positives, neg_ids=[]))
    return examples


def _stats(examples: list[Example], dropped: Counter[str], settings: MineConfig) -> dict[str, object]:
    counts = Counter(len(example.neg) for example in examples)
    total = sum(len(example.neg) for example in examples)
    if total == 0 and settings.method != "none":
        raise UserError(
            "mine: no query got a negative; widen mine.rank_last, or loosen max_share_of_positive, margin or max_score"
        )
    return {
        "queries": len(examples),
        "negatives": total,
        "dropped": dict(sorted(dropped.items())),
        "queries_by_number_of_negatives": {str(n): counts[n] for n in sorted(counts)},
        "queries_with_too_few": sum(c for n, c in counts.items() if n < settings.negatives_per_query),
    }


def _say(stats: dict[str, object], settings: MineConfig) -> None:
    log.info("mine: %s negatives for %s queries; dropped: %s", stats["negatives"], stats["queries"], stats["dropped"])
    if stats["queries_with_too_few"] and settings.method != "none":
        few, wanted = stats["queries_with_too_few"], settings.negatives_per_query
        log.info("mine: %s queries have fewer than %d negatives; they train with what they have", few, wanted)
