"""From a SourceConfig to a retrieval set: BEIR, FlagEmbedding's JSONL, `datasets`, documents, installed code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bgetune.config import ModelConfig
from bgetune.config_data import SourceConfig
from bgetune.data import SPLITS, Qrels, RetrievalSet, json_lines, read_retrieval_set, source_path
from bgetune.errors import UserError
from bgetune.examples import Example, parse_example
from bgetune.models import model_folder

from .clean.filters import Cleaned, clean
from .documents.build import documents_set
from .harvest import harvest
from .rows import Row, assemble
from .split import cut, stable_hash

log = logging.getLogger("bgetune")

# Queries of its own from which a set is measured with them alone, and synthetic ones only train.
_ENOUGH = 50


@dataclass(frozen=True)
class Loaded:
    """A retrieval set; `given`: the examples of its train split with the negatives that came in the data."""

    data: RetrievalSet
    given: list[Example] | None = None


def load(
    source: SourceConfig,
    option: str,
    guard: bool,
    model: ModelConfig | None = None,
    enrich: Callable[[RetrievalSet], RetrievalSet] | None = None,
) -> Loaded:
    """Read one source, clean it, and cut the splits it lacks.

    Args:
        source: what to read; `max_pairs` keeps the first queries by hash of (seed, query id), the corpus stays whole.
        option: the source's option, e.g. `data.domain`, for messages.
        guard: only a test split is needed, and only it is kept.
        model: kind documents: its tokenizer counts the tokens of a passage.
        enrich: gives train queries to passages that have none. Where the set has too few queries of its own to cut dev
            and test from, they are cut from those as well, and the log says so.

    Returns:
        A domain's set has the splits train, dev and test, a guard's has test.

    Raises:
        UserError: the data are missing or broken, with file:line or the option; a split is empty and cannot be cut.
    """
    if source.kind == "harvest":
        cleaned, given = _clean(harvest(source, guard, f"{option}.packages"), source, option), None
        data = cleaned.data
    else:
        data, given = _read(source, option, model)
        cleaned = _clean(data, source, option)
        data = cleaned.data
        own = sum(len(qrels) for qrels in data.qrels.values())
        if enrich is not None and own < _ENOUGH:
            log.warning("prepare: %s has %d queries of its own: dev and test are synthetic too", option, own)
            data, enrich = enrich(data), None
        if not any(data.qrels.values()):
            raise UserError(
                f"{option}: {_named(source)} has no query; name other documents.builders, or set synthesize.url"
            )
        if source.max_pairs is not None:
            data = _limited(data, source.max_pairs, source.seed, f"{option}.max_pairs")
        data = _with_all_splits(data, source, option, guard)
        if enrich is not None:
            data = enrich(data)
    for split in ("test",) if guard else SPLITS:
        if not data.qrels.get(split):
            raise UserError(
                f"{option}: no query is left for the {split} split of {_named(source)}; give it more queries"
                + ("" if source.split_by == "query" else f", or set {option}.split_by: query")
            )
    if guard:
        return Loaded(_only_test(data))
    return Loaded(data, _given_after(given, data, cleaned.home))


def _named(source: SourceConfig) -> str:
    return source.path or " ".join(source.packages)


def _clean(data: RetrievalSet, source: SourceConfig, option: str) -> Cleaned:
    cleaned = clean(data, source.clean, source.kind, f"{option}.clean")
    for reason, count in cleaned.counts.items():
        log.info("prepare: %s: %s: %d", option, reason, count)
    return cleaned


def _given_after(given: list[Example] | None, data: RetrievalSet, home: Mapping[str, str]) -> list[Example] | None:
    """The examples as the cleaned and cut set has them: its train queries, their positives, negatives that are left.

    Args:
        home: id of a passage that was merged -> id of the one that stands for it.
    """
    if given is None:
        return None
    train, text_of = data.qrels["train"], dict(zip(data.corpus.ids, data.corpus.full_texts(), strict=True))
    found = []
    for example in given:
        if example.query_id not in train:
            continue
        positives = [passage_id for passage_id, grade in train[example.query_id].items() if grade > 0]
        names = [home.get(name, name) for name in example.neg_ids or ()]
        firsts = {name: i for i, name in reversed(list(enumerate(names)))}
        stay = sorted(i for name, i in firsts.items() if name in text_of and name not in positives)
        same = positives == example.pos_ids
        found.append(
            replace(
                example,
                pos=[text_of[passage_id] for passage_id in positives],
                pos_ids=positives,
                pos_scores=example.pos_scores if same else None,
                neg=[text_of[names[i]] for i in stay],
                neg_ids=[names[i] for i in stay],
                neg_scores=[example.neg_scores[i] for i in stay] if example.neg_scores else None,
            )
        )
    return found


def _read(source: SourceConfig, option: str, model: ModelConfig | None) -> tuple[RetrievalSet, list[Example] | None]:
    path = source_path(source)
    if source.kind == "beir":
        if not path.is_dir():
            found = "is a file" if path.exists() else "does not exist"
            raise UserError(
                f"{option}.path: {path} {found}; kind beir needs a folder with corpus.jsonl, queries.jsonl, qrels/"
            )
        return read_retrieval_set(path), None
    if source.kind == "flagembedding":
        return assemble(_flagembedding_rows(path, f"{option}.path"), path)
    if source.kind == "documents":
        assert model is not None, "documents are cut by a model's tokens"
        return documents_set(source, token_counter(model), option), None
    from .hf import dataset_rows  # `datasets` takes seconds to import

    return assemble(dataset_rows(source, option), path)


def token_counter(model: ModelConfig) -> Callable[[Sequence[str]], list[int]]:
    """How many tokens each text has for a model, special tokens left out."""
    from transformers import AutoTokenizer  # takes seconds

    tokenizer = AutoTokenizer.from_pretrained(model_folder(model), trust_remote_code=model.trust_remote_code)

    def count(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        found = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [len(ids) for ids in found["input_ids"]]

    return count


def _flagembedding_rows(path: Path, option: str) -> Iterator[Row]:
    if not path.exists():
        raise UserError(f"{option}: {path} does not exist; kind flagembedding needs a JSONL file or a folder of them")
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{option}: the folder {path} holds no *.jsonl file")
    for file in files:
        for where, row in json_lines(file):
            yield Row(where, parse_example(row, where))


def _limited(data: RetrievalSet, max_pairs: int, seed: int, option: str) -> RetrievalSet:
    """The first queries by hash whose judgements are at most `max_pairs` together, without those that do not fit."""
    judged = [(query_id, split) for split in data.qrels for query_id in data.qrels[split]]
    kept: dict[str, Qrels] = {split: {} for split in data.qrels}
    room = max_pairs
    for query_id, split in sorted(judged, key=lambda pair: (stable_hash(seed, pair[0]), pair[1])):
        judgements = data.qrels[split][query_id]
        if len(judgements) > room:
            continue
        room -= len(judgements)
        kept[split][query_id] = judgements
    if not any(kept.values()):
        fewest = min(len(data.qrels[split][query_id]) for query_id, split in judged)
        raise UserError(f"{option}: {max_pairs} leaves no query; the one with the fewest judgements has {fewest}")
    return replace(data, qrels={split: qrels for split, qrels in kept.items() if qrels})


def _with_all_splits(data: RetrievalSet, source: SourceConfig, option: str, guard: bool) -> RetrievalSet:
    """Cut the splits that are needed and missing from train; those that are there stay as they are."""
    shares = {"test": source.test_share, "dev": source.dev_share}
    needed = ("test",) if guard else ("test", "dev")
    missing = [(split, shares[split]) for split in needed if split not in data.qrels]
    if "train" in data.qrels:
        given = {split: qrels for split, qrels in data.qrels.items() if split != "train"}
        return (
            replace(data, qrels={**given, **cut(data, missing, source.seed, source.split_by, f"{option}.split_by")})
            if missing
            else data
        )
    if missing or not guard:
        lacking = ", ".join(["train", *(split for split, _ in missing)] if not guard else ["test"])
        raise UserError(
            f"{option}: {_named(source)} has no {lacking} split, and there is no train split to cut it from"
        )
    return data


def _only_test(data: RetrievalSet) -> RetrievalSet:
    """The set without the queries that are not test's."""
    return RetrievalSet(data.corpus, data.queries_of("test"), {"test": data.qrels["test"]})
