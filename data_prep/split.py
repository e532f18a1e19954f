"""Cutting a set into train, dev and test so that nothing of one side can be known from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from bgetune.data import Qrels, RetrievalSet, Texts
from bgetune.errors import UserError

from .clean.clusters import Clusters
from .clean.near import connected

_NEAR = 0.8


def stable_hash(seed: int, key: str) -> str:
    """A hash that is the same on every machine: decides orders and choices by seed."""
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def fill(sizes: Sequence[int], shares: Sequence[tuple[str, float]]) -> list[str]:
    """A split for each group of queries, in the given order: the first that fit into each share; the rest is train.

    A share that no group fits into gets the smallest one left; a group is left for every later split, and for train.

    >>> fill([1, 6, 1, 2], [("test", 0.2), ("dev", 0.1)])
    ['test', 'train', 'test', 'dev']
    """
    splits = ["train"] * len(sizes)
    for later, (name, share) in zip(range(len(shares), 0, -1), shares, strict=True):
        room = share * sum(sizes)
        free = [i for i, split in enumerate(splits) if split == "train"]
        spare = len(free) - later
        for i in free:
            if sizes[i] <= room and spare > 0:
                splits[i] = name
                room -= sizes[i]
                spare -= 1
        if spare > 0 and name not in splits:
            splits[min(free, key=lambda i: (sizes[i], i))] = name
    return splits


def cut(
    data: RetrievalSet,
    shares: Sequence[tuple[str, float]],
    seed: int,
    split_by: Literal["query", "document", "group"] = "query",
    option: str = "split_by",
) -> dict[str, Qrels]:
    """Cut new splits from the train queries.

    Queries that are near-duplicates (token Jaccard >= 0.8, and the same numbers) or share a positive stay together; by
    document also those that have a `document` in common, in their own metadata or in a positive's; by group those with
    the same `group`. Of merged passages every document and group counts (`documents`, `groups`). Such groups are
    ordered by the hash of (seed, their smallest query id).

    Args:
        data: a set with a train split.
        shares: (split, share of the train queries) for each split to cut, e.g. [("test", 0.2), ("dev", 0.1)].
        option: the name of `split_by` in messages, e.g. `data.domain.split_by`.

    Returns:
        Split -> qrels, `train` and the new ones; a split without a query is absent.

    Raises:
        UserError: by group, and neither a train query nor a positive has one.
    """
    train = data.qrels["train"]
    queries = data.queries_of("train")
    by_metadata: dict[str, list[str]] = {}
    if split_by != "query":
        for query_id, key in _metadata_keys(data, queries, split_by):
            by_metadata.setdefault(key, []).append(query_id)
    if split_by == "group" and not by_metadata:
        raise UserError(
            f'{option}: group, but no train query or passage of one has "group" in its metadata; '
            "give them one or split by query or document"
        )
    links = [*_links(queries.ids, queries.texts, train), *by_metadata.values()]
    groups = sorted(_connected(queries.ids, links), key=lambda group: stable_hash(seed, group[0]))
    splits = fill([len(group) for group in groups], shares)
    home = {query_id: split for group, split in zip(groups, splits, strict=True) for query_id in group}
    qrels: dict[str, Qrels] = {}
    for query_id in queries.ids:
        qrels.setdefault(home[query_id], {})[query_id] = train[query_id]
    return qrels


ORIGINS = {"document": "documents", "group": "groups"}
"""What a passage's metadata say of where it came from; the second holds all of them where passages were merged."""


def origins(metadata: Mapping[str, Any], key: str) -> list[str]:
    """Every document or group that a text came from.

    >>> origins({"group": 7, "document": "a", "documents": ["a", "b"]}, "document")
    ['a', 'b']
    """
    many = metadata.get(ORIGINS[key])
    values = [metadata.get(key), *(many if isinstance(many, list) else [])]
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _metadata_keys(data: RetrievalSet, queries: Texts, key: str) -> Iterator[tuple[str, str]]:
    """(query id, document or group) for each that a train query or one of its positives came from."""
    known_of = dict(zip(data.corpus.ids, data.corpus.metadata, strict=False))
    for i, query_id in enumerate(queries.ids):
        positives = [passage_id for passage_id, score in data.qrels["train"][query_id].items() if score > 0]
        metadata: list[dict[str, Any]] = [known_of.get(passage_id, {}) for passage_id in positives]
        if queries.metadata:
            metadata.append(queries.metadata[i])
        yield from ((query_id, value) for known in metadata for value in origins(known, key))


def _links(ids: Sequence[str], texts: Sequence[str], qrels: Qrels) -> list[list[str]]:
    """Lists of query ids that must stay together: near-equal ones, and those that share a positive."""
    by_passage: dict[str, list[str]] = {}
    for query_id in ids:
        for passage_id, relevance in qrels[query_id].items():
            if relevance > 0:
                by_passage.setdefault(passage_id, []).append(query_id)
    alike = [[ids[first], ids[i]] for i, first in enumerate(connected(texts, _NEAR).tolist())]
    return [*by_passage.values(), *alike]


def _connected(ids: Iterable[str], links: Iterable[Sequence[str]]) -> list[list[str]]:
    """The groups that the links make of the ids, each sorted.

    >>> _connected(["a", "b", "c", "d"], [["a", "c"], ["c", "d"]])
    [['a', 'c', 'd'], ['b']]
    """
    items = sorted(set(ids))
    number = {item: i for i, item in enumerate(items)}
    clusters = Clusters(len(items))
    for link in links:
        for other in link[1:]:
            clusters.join(number[link[0]], number[other])
    groups: dict[int, list[str]] = {}
    for item, first in zip(items, clusters.firsts().tolist(), strict=True):
        groups.setdefault(first, []).append(item)
    return list(groups.values())
