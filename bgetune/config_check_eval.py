"""Which values of `merge` and `eval` have the right type and no sense."""

from __future__ import annotations

import re

from bgetune.config_check_data import at_least, require
from bgetune.config_eval import EvalConfig, MergeConfig


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
    from bgetune.fusion_library import check_fusions
    from bgetune.metrics import measure_of  # imports trec_eval's code

    for metric in evaluation.metrics:
        deep = measure_of(metric).cutoff <= evaluation.depth
        require(deep, "eval.metrics", metric, f"no more than eval.depth ({evaluation.depth}) passages are retrieved")
    check_fusions(evaluation.fusions)
    at_most_once = len(set(evaluation.indexes)) == len(evaluation.indexes)
    require(at_most_once, "eval.indexes", list(evaluation.indexes), "name each once")
    for index in evaluation.indexes:
        cut = re.fullmatch(r"IVF\d+", index) is None
        require(cut, "eval.indexes", index, f'YAML parts a list at commas; quote it: ["{index},Flat"]')
    if evaluation.max_guard_loss is not None:
        at_least(0, "eval.max_guard_loss", evaluation.max_guard_loss)
    for option in ("bootstrap_samples", "permutations"):
        at_least(100, f"eval.{option}", getattr(evaluation, option))
