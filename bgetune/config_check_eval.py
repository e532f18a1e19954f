"""Which values of `merge` and `eval` have the right type and no sense."""

from __future__ import annotations

import importlib.util
import math
import re
from urllib.parse import urlsplit

from bgetune.config_check_data import at_least, require
from bgetune.config_eval import EvalConfig, MergeConfig
from bgetune.errors import UserError

_QDRANT = "qdrant"
# A factory string is tried at the least multiple of this that its PQ divides: no model, so no width, is known yet.
_WIDTH, _WIDEST = 64, 1 << 16


def check_merge(merge: MergeConfig) -> None:
    for share in merge.shares:
        require(0 < share <= 1, "merge.shares", share, "use shares above 0, at most 1; the base itself is always there")
    require(bool(merge.shares) or not merge.models, "merge.models", list(merge.models), "give merge.shares as well")
    at_least(0, "merge.max_guard_loss", merge.max_guard_loss)


def check_eval(evaluation: EvalConfig) -> None:
    at_least(0, "eval.seed", evaluation.seed)
    at_least(0, "eval.examples", evaluation.examples)
    require(evaluation.depth >= 100, "eval.depth", evaluation.depth, "Recall@100 needs at least 100")
    at_least(100, "eval.candidates", evaluation.candidates)
    _check_metrics(evaluation)
    from bgetune.fusion_library import check_fusions

    check_fusions(evaluation.fusions)
    _check_indexes(evaluation)
    if evaluation.max_guard_loss is not None:
        at_least(0, "eval.max_guard_loss", evaluation.max_guard_loss)
    for option in ("bootstrap_samples", "permutations"):
        at_least(100, f"eval.{option}", getattr(evaluation, option))


def _check_metrics(evaluation: EvalConfig) -> None:
    from bgetune.metrics import measure_of  # imports trec_eval's code

    for metric in evaluation.metrics:
        cutoff = measure_of(metric).cutoff
        enough = f"no more than eval.depth ({evaluation.depth}) passages are retrieved"
        require(cutoff <= evaluation.depth, "eval.metrics", metric, enough)
        enough = f"re-ranking and hybrid see no other passages, and {metric} looks at {cutoff}; use at least {cutoff}"
        require(cutoff <= evaluation.candidates, "eval.candidates", evaluation.candidates, enough)


def _check_indexes(evaluation: EvalConfig) -> None:
    at_most_once = len(set(evaluation.indexes)) == len(evaluation.indexes)
    require(at_most_once, "eval.indexes", list(evaluation.indexes), "name each once")
    exact = evaluation.index == "Flat" or not evaluation.indexes
    require(exact, "eval.index", evaluation.index, "the loss of eval.indexes is against exact search; leave it at Flat")
    _check_factory("eval.index", evaluation.index, "name one such as Flat or HNSW32")
    for index in evaluation.indexes:
        cut = re.fullmatch(r"IVF\d+", index) is None
        require(cut, "eval.indexes", index, f'YAML parts a list at commas; quote it: ["{index},Flat"]')
        name, colon, location = index.partition(":")
        if name == _QDRANT:
            _check_qdrant(index, location if colon else ":memory:")
        else:
            _check_factory("eval.indexes", index, 'name one such as HNSW32 or "IVF1024,PQ64x4fs", or write qdrant')


def _check_factory(option: str, factory: str, rule: str) -> None:
    """Refuse what no model's vectors could be put into; FAISS is loaded only for what is not Flat."""
    if factory == "Flat":
        return
    import faiss

    from bgetune.index.dense import faiss_reason

    try:
        faiss.index_factory(_width_for(factory), factory)
    except RuntimeError as error:
        raise UserError(f"{option}: {factory!r} is no index of FAISS: {faiss_reason(error)}; {rule}") from None


def _width_for(factory: str) -> int:
    """A width that each product quantizer's number of parts divides, and not too large to try.

    >>> _width_for("IVF1024,PQ64x4fs"), _width_for("PQ20"), _width_for("OPQ48_192,PQ48"), _width_for("PQ999983")
    (64, 320, 192, 64)
    """
    parts = [int(number) for number in re.findall(r"P(?:R|LS)?Q(\d{1,6})", factory)]
    width = math.lcm(_WIDTH, *filter(None, parts))
    return width if width <= _WIDEST else _WIDTH


def _check_qdrant(index: str, location: str) -> None:
    if importlib.util.find_spec("qdrant_client") is None:
        what = "needs the package qdrant-client; run pip install 'bgetune[qdrant]', or leave it out"
        raise UserError(f"eval.indexes: {index!r} {what}")
    if location == ":memory:" or location.startswith((".", "/", "~")):
        return
    rule = "write qdrant:http://HOST:6333 for a server, qdrant:./FOLDER for a folder, or qdrant alone"
    if re.fullmatch(r"[\w.-]+(:\d+)?", location):
        rule = f"write qdrant:http://{location} for a server, qdrant:./{location} for a folder"
    require(_is_url(location), "eval.indexes", index, rule)


def _is_url(location: str) -> bool:
    """
    >>> _is_url("https://db:6333"), _is_url("http://"), _is_url("ftp://db"), _is_url("http://db:port")
    (True, False, False, False)
    """
    try:
        parts = urlsplit(location)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
