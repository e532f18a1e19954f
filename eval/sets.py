"""One test split in memory, and what each retriever found in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bgetune.data import Qrels, Texts, read_retrieval_set
from bgetune.errors import UserError
from bgetune.files import sha256_tree
from bgetune.metrics import Results
from bgetune.run import Run

VERSIONS = ("base", "tuned")


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
    """Retriever -> "base" and "tuned" -> results; one that needs no encoder has "base" only."""


def read_eval_set(name: str, role: str, run: Run) -> EvalSet:
    """Read the test split of a set in the job's folder.

    Raises:
        UserError: the set is broken or has no test split.
    """
    folder = run.data(name)
    data = read_retrieval_set(folder)
    if "test" not in data.qrels:
        raise UserError(f"{folder / 'qrels' / 'test.tsv'}: missing; run the stage `prepare` again, it cuts the split")
    queries = data.queries_of("test")
    qrels = {query_id: data.qrels["test"][query_id] for query_id in queries.ids}
    return EvalSet(name, role, queries, data.corpus, qrels, sha256_tree(folder))
