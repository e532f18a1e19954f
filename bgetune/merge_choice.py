"""Which merge of base and tuned weights is kept, and which queries decide it. No weights are touched here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgetune.config import JobConfig
from bgetune.config_io import load_job
from bgetune.data import Qrels, Texts, read_retrieval_set
from bgetune.errors import UserError
from bgetune.files import sha256_tree
from bgetune.metrics import DECIDING
from bgetune.run import Run

DEV, HALF_OF_TEST = "dev", "half of test"
_ENOUGH = 10
"""Queries that a half of a test split needs."""
_ROUNDING = 1e-9
"""0.5 - 0.49 is a little more than 0.01."""


@dataclass(frozen=True)
class Point:
    """One merge, measured: the tuned weights' share, nDCG@10 on the domain's dev split and on each guard."""

    share: float
    dev: float
    guards: dict[str, float]


def shares_to_try(shares: Iterable[float]) -> list[float]:
    """From the base, 0, to the tuned weights themselves, 1; each once.

    >>> shares_to_try([0.5, 0.25, 0.5])
    [0.0, 0.25, 0.5, 1.0]
    """
    return sorted({0.0, 1.0, *map(float, shares)})


def keeps_within(point: Point, base: Point, allowed: float) -> bool:
    """Whether no guard loses more than `allowed` against the base.

    >>> base = Point(0.0, 0.6, {"guard": 0.5})
    >>> [keeps_within(Point(1.0, 0.7, {"guard": found}), base, 0.01) for found in (0.6, 0.49, 0.48)]
    [True, True, False]
    """
    return all(base.guards[name] - value <= allowed + _ROUNDING for name, value in point.guards.items())


def choose(points: Sequence[Point], allowed: float) -> Point:
    """Of the points that keep within the allowed loss, the best on dev; of equal ones, that of the smaller share.

    Args:
        points: with the base itself, share 0, among them. It loses nothing, so there is always one to choose.

    >>> base, half, all_of_it = Point(0, 0.6, {"g": 0.5}), Point(0.5, 0.7, {"g": 0.5}), Point(1, 0.8, {"g": 0.3})
    >>> [choose([base, half, all_of_it], allowed).share for allowed in (0.01, 0.2)]
    [0.5, 1]
    """
    base = next(point for point in points if point.share == 0)
    kept = [point for point in points if keeps_within(point, base, allowed)]
    return min(kept, key=lambda point: (-point.dev, point.share))


def as_merging(points: Sequence[Point], allowed: float) -> dict[str, Any]:
    """The curve as the report has it."""
    base, chosen = next(point for point in points if point.share == 0), choose(points, allowed)
    return {
        "allowed_loss": allowed,
        "dev_metric": DECIDING,
        "points": [
            {
                "share": point.share,
                "dev": point.dev,
                "guards": {
                    name: {"value": value, "gain": value - base.guards[name]} for name, value in point.guards.items()
                },
                "within": keeps_within(point, base, allowed),
                "chosen": point is chosen,
            }
            for point in points
        ],
    }


def print_merging(merging: Mapping[str, Any], console: Console | None = None) -> None:
    """A line for each point, to stdout; a guard's gain stands behind its value."""
    points = merging["points"]
    guards = list(points[0]["guards"])
    # in a pipe rich would cut the table to 80 columns
    width = 60 + sum(max(len(name), 16) + 2 for name in guards)
    out = console or Console(highlight=False)
    if console is None and out.width < width:
        out = Console(highlight=False, width=width)
    title = f"merge: nDCG@10, a guard may lose {merging['allowed_loss']:g}"
    grid = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("tuned share", "dev", *guards):
        grid.add_column(Text(column), justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    for point in points:
        values = [f"{found['value']:.4f} ({found['gain']:+.4f})" for found in point["guards"].values()]
        note = "chosen" if point["chosen"] else "" if point["within"] else "loses too much"
        grid.add_row(*(Text(cell) for cell in (f"{point['share']:g}", f"{point['dev']:.4f}", *values, note)))
    out.print(grid)


# -- what decides


@dataclass(frozen=True)
class ChoosingSet:
    """A corpus with the queries that the choice may look at."""

    name: str
    split: str
    """`dev` or `half of test`."""
    queries: Texts
    corpus: Texts
    qrels: Qrels
    """In the order of `queries`."""
    data_hash: str
    """SHA-256 of the set's folder."""


def choosing_half(query_ids: Iterable[str]) -> list[str]:
    """Those of a test split that choose, where a guard has no dev split; the evaluation takes the others.

    An id's SHA-256 decides, and is even: the half does not depend on the other queries.

    >>> choosing_half(["a", "b", "c", "d", "e"])
    ['c', 'd', 'e']
    """
    return [query_id for query_id in query_ids if hashlib.sha256(query_id.encode()).digest()[-1] % 2 == 0]


def choosing_sets(config: JobConfig, run: Run) -> list[ChoosingSet]:
    """The domain's dev split, then each guard's, or half of its test split.

    Raises:
        UserError: a set is broken, the domain has no dev split, or half of a guard's test split is too little.
    """
    return [_read(config.data.name, run, False), *(_read(name, run, True) for name in config.data.guards)]


def _read(name: str, run: Run, guard: bool) -> ChoosingSet:
    folder = run.data(name)
    data = read_retrieval_set(folder)
    split = "dev" if "dev" in data.qrels or not guard else "test"
    if split not in data.qrels:
        raise UserError(
            f"{folder / 'qrels' / f'{split}.tsv'}: missing; run the stage `prepare` again, it cuts the split"
        )
    queries = data.queries_of(split)
    if split == "test":
        chosen = set(choosing_half(queries.ids))
        _refuse_few(name, len(chosen), len(queries))
        queries = queries.take([row for row, query_id in enumerate(queries.ids) if query_id in chosen])
    qrels = {query_id: data.qrels[split][query_id] for query_id in queries.ids}
    spent = DEV if split == "dev" else HALF_OF_TEST
    return ChoosingSet(name, spent, queries, data.corpus, qrels, sha256_tree(folder))


def _refuse_few(name: str, choosing: int, queries: int) -> None:
    if min(choosing, queries - choosing) < _ENOUGH:
        raise UserError(
            f"data.guards.{name}: it has no dev split, and its {queries} test queries give {choosing} to choose the "
            f"merge by and {queries - choosing} to measure it; each needs {_ENOUGH}. Add test queries or a dev split, "
            "or leave merge.shares empty"
        )


# -- whose weights


def more_tuned_folders(config: JobConfig, run: Run) -> list[Path]:
    """The model folder of each of `merge.models`; of a job it is the best checkpoint of its last round.

    Raises:
        UserError: it is neither a job's folder nor a model's, has not been trained, or is named twice.
    """
    folders: list[Path] = []
    for name in config.merge.models:
        folder = _model_in(Path(name).expanduser(), name)
        if folder.resolve() in {other.resolve() for other in (*folders, run.best)}:
            own = " (this job's own model is always one of them)" if folder.resolve() == run.best.resolve() else ""
            raise UserError(f"merge.models: {name}: its weights would count twice{own}; name each model once")
        folders.append(folder)
    return folders


def _model_in(folder: Path, name: str) -> Path:
    if (folder / "config.json").is_file():
        return folder
    job = Run(folder)
    if not job.config_file.is_file():
        raise UserError(f"merge.models: {name} is no job's folder (config.yaml) and no model's (config.json)")
    best = Run(folder, load_job(job.config_file).adapt.rounds).best
    if not (best / "config.json").is_file():
        raise UserError(f"merge.models: {best}: missing; train that job first, or leave it out")
    return best
