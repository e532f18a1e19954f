"""The stages of a job: what each is made from and what it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from bgetune.config import HEADS, EvalConfig, JobConfig
from bgetune.config_export import FORM_FOLDERS
from bgetune.data import source_path
from bgetune.files import read_json
from bgetune.limits import broken_limits
from bgetune.merge_choice import more_tuned_folders
from bgetune.run import NOTHING_MADE, Run, final_system


@dataclass(frozen=True)
class Stage:
    """One stage of a job: how to start it, which keys and files it depends on, what it leaves."""

    name: str
    command: tuple[str, ...]
    what: str
    keys: tuple[str, ...]
    inputs: Callable[[JobConfig, Run], list[Path]]
    outputs: Callable[[JobConfig, Run], list[Path]]
    uses_model: Callable[[JobConfig], bool] = lambda config: True
    in_rounds: bool = False
    """Done in every round of `adapt.rounds`."""
    wanted: Callable[[JobConfig], bool] = lambda config: True
    """Whether a job with this configuration has the stage at all."""
    broken: Callable[[JobConfig, Run], list[str]] = lambda config, run: []
    """Limits of the job's own that its work does not keep, a sentence each; it ends with exit code 1 then."""
    on_every_rank: bool = False
    """Of a launch with several processes, all do the work; else rank 0 alone, and the others end at once."""
    looks_again: Callable[[JobConfig], bool] = lambda config: False
    """Whether its command is started though what it left holds, and looks itself at what is still to do."""


ENCODING = ("model", "encode_precision", "encode_batch_tokens", "encode_shard_texts", "encode_dtype")
_WEIGHTS = tuple(f"train.{head}.ensemble_weight" for head in HEADS)
# what decides a ranking besides the encoder: dev and the evaluation search alike
SEARCH = ("eval.candidates", "eval.multi_vector", *_WEIGHTS)


# what decides synthetic queries; where and how fast they are asked for does not
_ANSWERS = ("model", "prompt", "examples", "queries_per_passage", "max_passages", "temperature", "max_tokens",
            "round_trip_rank", "seed")  # fmt: skip


_MEASURED = tuple(f"eval.{field.name}" for field in fields(EvalConfig) if f"eval.{field.name}" not in NOTHING_MADE)


def _sets(config: JobConfig) -> list[str]:
    return [config.data.name, *config.data.guards]


def _of_round_before(run: Run) -> list[Path]:
    """The model that mines, and the ranks that decide whose negatives stay."""
    before = run.round_before
    return [] if before is None else [before.examples.parent, before.best]


def _prepares_with_model(config: JobConfig) -> bool:
    """Documents are cut by the model's tokens, synthetic queries kept by its search."""
    sources = (config.data.domain, *config.data.guards.values())
    return config.synthesize.url is not None or any(source.kind == "documents" for source in sources)


STAGES: tuple[Stage, ...] = (
    Stage(
        name="prepare",
        command=("bgetune.data_prep", "prepare"),
        what="read the domain and the guards into BEIR layout",
        keys=("data", *(f"synthesize.{name}" for name in _ANSWERS)),
        inputs=lambda config, run: (
            [
                source_path(source)
                for source in (config.data.domain, *config.data.guards.values())
                if source.path and source_path(source).exists()
            ]
            + [Path(folder).expanduser() for folder in config.data.public.values()]
        ),
        outputs=lambda config, run: [run.data(name) for name in _sets(config)],
        uses_model=_prepares_with_model,
    ),
    Stage(
        name="mine",
        command=("bgetune.data_prep", "mine"),
        what="find hard negatives",
        keys=(*ENCODING, *_WEIGHTS, "data.name", "mine"),
        inputs=lambda config, run: [
            run.data(config.data.name),
            *_of_round_before(run),
        ],
        outputs=lambda config, run: [run.examples.parent],
        in_rounds=True,
        on_every_rank=True,
    ),
    Stage(
        name="train",
        command=("bgetune.train",),
        what="fine-tune, keep the checkpoint that is best on dev",
        keys=(*ENCODING, *SEARCH, "data.name", "train"),
        inputs=lambda config, run: [run.examples, run.data(config.data.name)],
        outputs=lambda config, run: [run.best],
        in_rounds=True,
        on_every_rank=True,
    ),
    Stage(
        name="merge",
        command=("bgetune.cli", "merge"),
        what="choose between base and tuned weights by dev and guards",
        keys=(*ENCODING, *SEARCH, "data.name", "data.guards", "merge"),
        inputs=lambda config, run: [
            run.best,
            *(run.data(name) for name in _sets(config)),
            *more_tuned_folders(config, run),
        ],
        outputs=lambda config, run: [run.merged],
        wanted=lambda config: bool(config.merge.shares),
    ),
    Stage(
        name="eval",
        command=("bgetune.eval",),
        what="measure base and tuned on every test split",
        keys=(*ENCODING, *SEARCH, "data.name", "data.guards", "merge", *_MEASURED),
        inputs=lambda config, run: [
            *dict.fromkeys((run.best, run.final(config))),
            *(run.data(name) for name in _sets(config)),
            *(Path(path).expanduser() for path in config.eval.probes.values()),
        ],
        outputs=lambda config, run: [run.report],
        broken=lambda config, run: broken_limits(
            read_json(run.report / "report.json"), config.eval.max_guard_loss, [final_system(config)]
        ),
    ),
    Stage(
        name="export",
        command=("bgetune.cli", "export"),
        what="write the folder other tools read, with its model card",
        keys=("model", "merge", "export"),
        inputs=lambda config, run: [run.final(config), run.report / "report.json", run.data(config.data.name)],
        outputs=lambda config, run: [
            run.export,
            *(run.root / name for name in FORM_FOLDERS.values() if (run.root / name).exists()),
        ],
        looks_again=lambda config: config.hub.repo is not None,  # it may have been pushed only in part
    ),
)


def plan(config: JobConfig) -> list[tuple[Stage, int]]:
    """Every stage of a job with its round, in order; stages outside of rounds stand in the last one."""
    rounds = [stage for stage in STAGES if stage.in_rounds]
    before = [(STAGES[0], config.adapt.rounds)]
    after = [(stage, config.adapt.rounds) for stage in STAGES[1:] if not stage.in_rounds and stage.wanted(config)]
    return [*before, *((stage, number) for number in range(1, config.adapt.rounds + 1) for stage in rounds), *after]


def stage_named(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)
