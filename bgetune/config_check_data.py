"""Which values of data preparation have the right type and no sense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bgetune.config_data import SIGNALS, DataConfig, MineConfig, SourceConfig, SynthesizeConfig, TeacherConfig
from bgetune.errors import UserError, did_you_mean


def require(holds: bool, option: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{option}: {value!r} will not do; {rule}")


def at_least(least: float, option: str, value: float | None) -> None:
    """None is allowed: it means off, or a default."""
    require(value is None or value >= least, option, value, f"use at least {least}" if least else "use 0 or more")


def sources_of(data: DataConfig) -> dict[str, SourceConfig]:
    """Option -> source, the domain's first."""
    return {"data.domain": data.domain, **{f"data.guards.{name}": source for name, source in data.guards.items()}}


def check_data(data: DataConfig) -> None:
    """The domain, the guards, the public sets."""
    for option, source in sources_of(data).items():
        _check_source(option, source)
    for name in (data.name, *data.guards, *data.public):
        plain = bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*", name))
        option = "data.name" if name == data.name else "data.guards" if name in data.guards else "data.public"
        require(plain, option, name, "use letters, digits, - and _")
    require(data.name not in data.guards, "data.guards", data.name, "the domain has that name")
    for name, folder in data.public.items():
        free = name not in (data.name, *data.guards, "dev", "test")
        require(free, "data.public", name, "the domain, a guard or a split has that name; choose another")
        require(Path(folder).expanduser().is_dir(), f"data.public.{name}", folder, "name a folder in BEIR layout")


def _check_source(option: str, source: SourceConfig) -> None:
    require(
        source.kind == "harvest" or bool(source.path),
        f"{option}.path",
        source.path,
        "name the file or folder; a job is named with --config",
    )
    for share in ("dev_share", "test_share"):
        value = getattr(source, share)
        require(0 < value < 0.5, f"{option}.{share}", value, "use a share between 0 and 0.5")
    if source.kind == "dataset":
        missing = {"query", "positive"} - set(source.columns)
        require(not missing, f"{option}.columns", dict(source.columns), f"map {', '.join(sorted(missing))} as well")
    at_least(10, f"{option}.max_pairs", source.max_pairs)
    documents, clean = source.documents, source.clean
    at_least(8, f"{option}.documents.chunk_tokens", documents.chunk_tokens)
    at_least(1, f"{option}.documents.min_tokens", documents.min_tokens)
    overlap = documents.chunk_overlap_tokens
    fits = 0 <= overlap < documents.chunk_tokens
    require(fits, f"{option}.documents.chunk_overlap_tokens", overlap, "use 0 or more, and less than chunk_tokens")
    require(0 < clean.near_threshold <= 1, f"{option}.clean.near_threshold", clean.near_threshold, "above 0, at most 1")
    at_least(0, f"{option}.clean.min_words", clean.min_words)
    at_least(max(1, clean.min_words), f"{option}.clean.max_words", clean.max_words)


def check_synthesize(settings: SynthesizeConfig) -> None:
    """The endpoint for synthetic queries."""
    if settings.url is not None:
        _check_url(settings.url)
        require(bool(settings.model), "synthesize.model", settings.model, "name the model that the endpoint serves")
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,60}", settings.api_key_env):
        raise UserError(
            "synthesize.api_key_env: it is no name of an environment variable (capital letters, digits, _); put the "
            "key into a variable such as OPENAI_API_KEY and name that here"
        )
    require("{passage}" in settings.prompt, "synthesize.prompt", settings.prompt[:40], "it must hold {passage}")
    for option in ("queries_per_passage", "max_passages", "max_tokens", "concurrency", "round_trip_rank"):
        at_least(1, f"synthesize.{option}", getattr(settings, option))
    for option in ("retries", "temperature", "seed"):
        at_least(0, f"synthesize.{option}", getattr(settings, option))
    require(settings.timeout > 0, "synthesize.timeout", settings.timeout, "use more than 0 seconds")
    require(
        0 <= settings.max_failures <= 1, "synthesize.max_failures", settings.max_failures, "use a share from 0 to 1"
    )


def _check_url(url: str) -> None:
    """What may hold a secret is refused before it is written anywhere, and is not repeated."""
    try:
        parts = urlsplit(url)
        secret = bool(parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        raise UserError("synthesize.url: it is no URL; use one such as http://localhost:8000/v1") from None
    if secret:
        raise UserError(
            "synthesize.url: it holds a user, a password, a query or a fragment, which would be written into the job's "
            "folder; give the base URL alone, and the key in the environment variable that api_key_env names"
        )
    good = parts.scheme in ("http", "https") and bool(parts.netloc)
    require(good, "synthesize.url", url, "use a base URL such as http://localhost:8000/v1")


def check_mine(mine: MineConfig) -> None:
    """Mining: sources, window, filters, index, teacher."""
    at_least(0, "mine.seed", mine.seed)
    at_least(1, "mine.negatives_per_query", mine.negatives_per_query)
    window = f"1 <= rank_first <= rank_last, which is {mine.rank_last}"
    require(1 <= mine.rank_first <= mine.rank_last, "mine.rank_first", mine.rank_first, window)
    for option, value in _limits(mine):
        require(value is None or value > 0, option, value, "use more than 0, or null")
    at_least(0, "mine.margin", mine.margin)
    near = mine.near_duplicate
    require(near is None or 0 < near <= 1, "mine.near_duplicate", near, "use a share above 0, at most 1, or null")
    require(bool(mine.sources), "mine.sources", mine.sources, "name a signal, such as dense: 1")
    for name in (*mine.sources, *mine.agreement):
        if name not in SIGNALS:
            hint = did_you_mean(name, SIGNALS) or f"; known: {', '.join(SIGNALS)}"
            raise UserError(f"mine.sources: unknown signal {name!r}{hint}")
    for source, share in mine.sources.items():
        require(share > 0, f"mine.sources.{source}", share, "use a share above 0, or leave the source out")
    pair = mine.agreement
    good = len(pair) in (0, 2) and len(set(pair)) == len(pair) and "random" not in pair
    require(good, "mine.agreement", list(pair), "name two different signals, or none")
    require(0 < mine.index_recall <= 1, "mine.index_recall", mine.index_recall, "use a share above 0, at most 1")
    require(mine.memory_gb > 0, "mine.memory_gb", mine.memory_gb, "use more than 0")
    _check_teacher(mine.teacher)


def _limits(mine: MineConfig) -> Iterator[tuple[str, float | None]]:
    yield "mine.max_share_of_positive", mine.max_share_of_positive
    yield "mine.teacher.max_share_of_positive", mine.teacher.max_share_of_positive


def _check_teacher(teacher: TeacherConfig) -> None:
    at_least(1, "mine.teacher.batch_size", teacher.batch_size)
    at_least(1, "mine.teacher.candidates", teacher.candidates)
    at_least(0, "mine.teacher.margin", teacher.margin)
