"""One test split in memory, and what each retriever found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bgetune.config import JobConfig
from bgetune.data import Qrels, Texts, read_retrieval_set
from bgetune.errors import UserError
from bgetune.files import sha256_tree
from bgetune.merge_choice import HALF_OF_TEST, choosing_half
from bgetune.metrics import Results
from bgetune.run import Run


@dataclass(frozen=True)
class EvalSet:
    """The test split of one retrieval set; `role` is "domain" or "guard"."""

    name: str
    role: str
    queries: Texts
    corpus: Texts
    qrels: Qrels
    """In the order of `queries`."""
    data_hash: str
    """SHA-256 of the set's folder."""
    found: dict[str, dict[str, Results]] = field(default_factory=dict)
    """Retriever -> system -> results; one that needs no model has "any"."""
    left_out: int = 0
    """Test queries that chose a merge, and are measured with no system."""


def read_eval_sets(
    config: JobConfig, run: Run, merging: Mapping[str, Any] | None = None
) -> tuple[list[EvalSet], EvalSet | None]:
    """The test splits of the domain and of every guard, and the domain's dev split where it has one.

    Args:
        merging: merge.json, whose `spent` names the guards that were looked at while choosing; the queries that
            decided there are left out here.

    Raises:
        UserError: a set is broken or has no test split.
    """
    roles = {config.data.name: "domain", **dict.fromkeys(config.data.guards, "guard")}
    found, dev = [], None
    for name, role in roles.items():
        splits = read_splits(name, role, run.data(name))
        test = splits.get("test")
        if test is None:
            path = run.data(name) / "qrels" / "test.tsv"
            raise UserError(f"{path}: missing; run the stage `prepare` again, it cuts the split")
        if merging is not None and merging["spent"].get(name) == HALF_OF_TEST:
            test = without_spent(test)
        found.append(test)
        dev = splits.get("dev") if role == "domain" else dev
    return found, dev


def read_splits(name: str, role: str, folder: Path) -> dict[str, EvalSet]:
    """Every split of a set in BEIR layout, over the one corpus."""
    data, digest = read_retrieval_set(folder), sha256_tree(folder)
    found = {}
    for split in data.qrels:
        queries = data.queries_of(split)
        qrels = {query_id: data.qrels[split][query_id] for query_id in queries.ids}
        found[split] = EvalSet(name, role, queries, data.corpus, qrels, digest)
    return found


def without_spent(test: EvalSet) -> EvalSet:
    """The test queries that did not choose a merge: those would flatter what they chose."""
    spent = set(choosing_half(test.queries.ids))
    queries = test.queries.take([i for i, query_id in enumerate(test.queries.ids) if query_id not in spent])
    qrels = {query_id: test.qrels[query_id] for query_id in queries.ids}
    return replace(test, queries=queries, qrels=qrels, left_out=len(spent))
