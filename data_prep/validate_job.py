"""What is wrong with a job's YAML: its values, and the paths that it names and that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bgetune.config import JobConfig, ModelConfig
from bgetune.config_check_data import check_data, sources_of
from bgetune.config_data import SourceConfig
from bgetune.data import source_path
from bgetune.errors import UserError
from bgetune.models import model_folder

_NEEDED = {
    "beir": "a folder in BEIR layout",
    "flagembedding": "a JSONL file or a folder of them",
    "dataset": "a file, a folder of files or a Hub id (ORG/NAME)",
    "documents": "a file or a folder of documents",
}
"""By kind of a source."""


def job_problems(path: Path) -> Iterator[str]:
    """What is wrong with a job, a line each; of its values the first one that will not do."""
    from bgetune.config_io import parse_job  # jsonargparse takes half a second

    try:
        config, _ = parse_job(["--config", str(path)], prog="bgetune", description="", is_job=False)
    except UserError as error:
        line = str(error)
        yield line if line.startswith(str(path)) else f"{path}: {line}"
        return
    yield from (f"{path}: {line}" for line in missing_paths(config))
    there = {name: folder for name, folder in config.data.public.items() if Path(folder).expanduser().is_dir()}
    try:
        check_data(replace(config.data, public=there))  # those that are missing are named already
    except UserError as error:
        yield f"{path}: {error}"


def missing_paths(config: JobConfig) -> Iterator[str]:
    """Each path that the job reads and that is not there, as a line with its option. Hub ids are not looked up."""
    for option, source in sources_of(config.data).items():
        if _is_missing(source):
            yield f"{option}.path: {_said(source.path)}; name {_NEEDED[source.kind]}"
    for name, folder in config.data.public.items():
        if not Path(folder).expanduser().is_dir():
            yield f"data.public.{name}: {_said(folder)}; name {_NEEDED['beir']}"
    models = {"model.name_or_path": config.model.name_or_path}
    if config.mine.teacher.kind == "cross_encoder":
        models["mine.teacher.name_or_path"] = config.mine.teacher.name_or_path
    for option, name in models.items():
        if name.startswith((".", "/", "~")):
            try:
                model_folder(ModelConfig(name_or_path=name), option)
            except UserError as error:
                yield str(error)
    for name in config.merge.models:
        if not Path(name).expanduser().is_dir():
            yield f"merge.models: {_said(name)}; name a job's folder or a model's"
    for name, file in config.eval.probes.items():
        if not Path(file).expanduser().is_file():
            yield f"eval.probes.{name}: {_said(file)}; name a file of sentence pairs, or of texts with a label"


def _is_missing(source: SourceConfig) -> bool:
    path = source_path(source)
    if source.kind == "harvest" or not source.path:  # an option without a value is told of with the other values
        return False
    if source.kind == "beir":
        return not path.is_dir()
    if source.kind == "dataset" and not _is_local(source.path):
        return False
    return not path.exists()


def _is_local(name: str) -> bool:
    """Whether a dataset's name can be nothing but a path.

    >>> _is_local("data/faq.csv"), _is_local("./faq"), _is_local("org/faq"), _is_local("/sets/my/faq")
    (True, True, False, True)
    """
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix != ""


def _said(path: str) -> str:
    """A path that is not there or of the wrong kind; where from, if that decides."""
    whole = Path(path).expanduser()
    if whole.exists():
        return f"{path} is a {'folder' if whole.is_dir() else 'file'}"
    return f"{path} does not exist" + ("" if whole.is_absolute() else f" in {Path.cwd()}")
