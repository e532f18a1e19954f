"""Ask for every passage's queries: many at once, again where it failed, and never twice for what is in the cache."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from bgetune.config_data import SynthesizeConfig
from bgetune.data import Texts
from bgetune.errors import UserError
from bgetune.progress import progress

from .answers import queries_in
from .cache import AnswerCache, answer_key
from .client import Endpoint, Failed, wait_before
from .prompt import check_prompt, prompt_for

log = logging.getLogger("bgetune")


@dataclass
class _Work:
    """What one call of `synthesize` is about. Rows with the same prompt are asked about once."""

    passages: Texts
    settings: SynthesizeConfig
    cache: AnswerCache
    full_texts: list[str] = field(init=False)
    rows_of: dict[str, list[int]] = field(default_factory=dict)
    """Key of an answer -> rows of the passages that it is for, in the passages' order."""
    failed: int = 0
    first_reason: str = ""

    def __post_init__(self) -> None:
        self.full_texts = self.passages.full_texts()
        s = self.settings
        for row, text in enumerate(self.full_texts):
            key = answer_key(s.model, prompt_for(text, s), s.temperature, s.max_tokens, s.seed)
            self.rows_of.setdefault(key, []).append(row)

    def fail(self, rows: int, reason: str) -> None:
        self.first_reason = self.first_reason or reason
        self.failed += rows

    @property
    def over(self) -> bool:
        """Whether too many passages failed, so that nothing more is asked."""
        return self.failed / len(self.passages) > self.settings.max_failures


def synthesize(passages: Texts, settings: SynthesizeConfig, cache: Path) -> list[list[str]]:
    """Each passage's queries, at most `queries_per_passage`, in the passages' order; none where its answer failed.

    Every good answer is in the cache before the next one is asked for, and the result is read from there: it does not
    depend on the order in which answers came, nor on how often the program was killed and started again.

    Args:
        passages: what is asked about.
        settings: the options; `url` is needed.
        cache: a folder, made where it is missing.

    Raises:
        UserError: the prompt, the URL, the key or the model will not do; nobody answers at the URL; more passages
            failed than `max_failures` allows.
    """
    check_prompt(settings)
    endpoint, answers = Endpoint(settings), AnswerCache(cache)
    work = _Work(passages, settings, answers)
    known = answers.read()
    missing = [key for key in work.rows_of if key not in known]
    if missing:
        done = len(passages) - sum(len(work.rows_of[key]) for key in missing)
        with progress(len(passages), "synthesize", "passage", initial=done) as bar:
            asyncio.run(_ask_all(work, endpoint, missing, bar))
        _judge_failures(work)
        known = answers.read()
    result: list[list[str]] = [[] for _ in range(len(passages))]
    for key, rows in work.rows_of.items():
        for row in rows:
            result[row] = known.get(key, [])[: settings.queries_per_passage]
    return result


def _judge_failures(work: _Work) -> None:
    if not work.failed:
        return
    total, most = len(work.passages), work.settings.max_failures
    if work.over:
        raise UserError(
            f"synthesize.max_failures: {work.failed:,} of {total:,} passages have no answer, above the allowed share "
            f"of {most:g}; the first: {work.first_reason}; running again continues, no answer is paid for twice"
        )
    log.warning(
        "synthesize: %d of %d passages stay without queries; the first: %s", work.failed, total, work.first_reason
    )


async def _ask_all(work: _Work, endpoint: Endpoint, keys: list[str], bar: tqdm) -> None:
    """`concurrency` workers take keys from one list; the first user's mistake ends them all."""
    todo = iter(keys)
    async with endpoint:
        count = min(work.settings.concurrency, len(keys))
        workers = [asyncio.create_task(_worker(work, endpoint, todo, bar)) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _worker(work: _Work, endpoint: Endpoint, todo: Iterator[str], bar: tqdm) -> None:
    for key in todo:
        rows = work.rows_of[key]
        try:
            work.cache.add(key, await _queries_for(rows[0], work, endpoint))
        except Failed as failure:
            work.fail(len(rows), failure.reason)
            bar.set_postfix(failed=work.failed, refresh=False)
        bar.update(len(rows))
        if work.over:
            return


async def _queries_for(row: int, work: _Work, endpoint: Endpoint) -> list[str]:
    """All usable queries of one passage, at least one.

    A broken answer is asked for with the next seed, for the same one would bring it again. A failure on the way there
    keeps the seed, so that the network's moods decide nothing.

    Raises:
        Failed: no usable answer after all tries.
        UserError: a mistake of the user's, or nobody answers at the URL.
    """
    full, text = work.full_texts[row], work.passages.texts[row]
    prompt, settings = prompt_for(full, work.settings), work.settings
    attempt = broken = 0
    while True:
        try:
            queries = queries_in(await endpoint.ask(prompt, settings.seed + broken), (full, text))
            if queries:
                return queries
            raise Failed("the answer holds no usable query", broken=True)
        except Failed as failure:
            attempt, broken = attempt + 1, broken + failure.broken
            if failure.again and attempt <= settings.retries and not work.over:
                await asyncio.sleep(wait_before(attempt, failure.wait, random.random()))
                continue
            if failure.unreachable:
                raise UserError(
                    f"synthesize.url: nobody answers at {endpoint.shown} ({failure.reason}); start the server or "
                    "correct the address; running again continues, no answer is paid for twice"
                ) from None
            raise
