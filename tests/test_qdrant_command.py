"""`bgetune index` from the shell: a job, any model, killed, a mistake; and the Python it prints ranks as ours does."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from qdrant_client import QdrantClient
from safetensors.torch import save_file

from bgetune.cli import main
from bgetune.config import JobConfig
from bgetune.data import Texts, read_texts
from bgetune.encode import encode
from bgetune.encoder import Encoder
from bgetune.index import command, qdrant
from bgetune.index.qdrant_check import difference
from bgetune.index.qdrant_snippet import snippet
from bgetune.locks import held
from bgetune.named_models import named_model
from bgetune.search import EncodedSet, as_results, ensemble_weights, rankings
from tests import jobs, tiny
from tests.qdrant_server import Fault, QdrantServer, busy

QUESTIONS = ["heart pain 3", "what helps the liver", "7 nerve sign"]


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as started:
        yield started


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a three-headed model and a domain; where `bgetune` is started."""
    tiny.m3(tmp_path / "model")
    tiny.domain(tmp_path / "clinic")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_head(folder: Path) -> Path:
    """The model without its other two."""
    tiny.m3(folder)
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (folder / name).unlink()
    return folder


def indexed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What it prints, ended well."""
    assert main(["index", *words]) == 0
    return capsys.readouterr().out


def our_ranking(word: str, corpus: Path, depth: int = 10) -> list[dict[str, float]]:
    """What bgetune's own search finds for QUESTIONS."""
    model = named_model(word, JobConfig(), "--model")
    encoder, passages = model.load(), read_texts(corpus / "corpus.jsonl", with_titles=True)
    asked = Texts([str(i) for i in range(len(QUESTIONS))], QUESTIONS)
    both = {"passage": passages, "query": asked}
    sides = [encode(encoder, texts, role, model.config, role, encoder.heads) for role, texts in both.items()]
    name = "hybrid" if len(encoder.heads) > 1 else "dense"
    found = rankings(EncodedSet(*sides, encoder.spec.similarity), model.config, [name], "test", depth=depth)[name]
    return list(as_results(asked.ids, passages.ids, *found).values())


def run_snippet(text: str) -> dict[str, Any]:
    """Run it as a program; it prints ten lines of an id and a score."""
    scope: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, "snippet", "exec"), scope)
    lines = printed.getvalue().splitlines()
    assert len(lines) == 10
    assert all(re.fullmatch(r"d\d+ -?[\d.]+", line) for line in lines)
    return scope


def asked_of(text: str) -> str:
    return text.partition("ask it:\n\n")[2]


def ranks_as_ours(text: str, word: str, corpus: Path) -> None:
    scope = run_snippet(text)
    for question, ours in zip(QUESTIONS, our_ranking(word, corpus), strict=True):
        found = scope["search"](question)
        theirs = found if isinstance(found, dict) else {point.payload["id"]: point.score for point in found}
        assert difference(theirs, ours) is None
        if not isinstance(found, dict):
            assert {"id", "title", "text", "set"} == set(found[0].payload)
    scope["client"].close()


def test_three_heads_on_a_server_asked_through_flag_embedding(
    server: QdrantServer, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", "model", "--corpus", "clinic", "--qdrant", server.url, "--collection", "docs"]
    told = indexed(capsys, *words)
    assert re.search(r"^checked: 60 points, every id there; 60 read again, .*; 10 questions by hybrid, the first 10 as "
                     r"bgetune ranks them \(100\.0 % of them by the server's graph\)$", told, re.M)  # fmt: skip
    assert re.search(r"^docs: stands for docs-[0-9a-f]{12} with 60 passages now$", told, re.M)
    ranks_as_ours(asked_of(told), "model", place / "clinic")
    monkeypatch.setattr(command, "encode_once", None)  # the second time nothing is encoded
    again = indexed(capsys, *words)
    assert re.match(r"docs: holds 60 points of this model and corpus \(docs-[0-9a-f]{12}\) already\n", again)
    assert asked_of(again) == asked_of(told)
    assert server.written == 60


def test_one_head_in_a_folder_asked_through_sentence_transformers(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_head(place / "small")
    told = indexed(capsys, "--model", "small", "--corpus", "clinic/corpus.jsonl", "--qdrant", "db")
    assert re.search(r"^small: stands for small-[0-9a-f]{12} with 60 passages now$", told, re.M)
    assert "SentenceTransformer" in told
    assert "import os" not in told
    assert "graph" not in told
    ranks_as_ours(asked_of(told), "small", place / "clinic")


def test_two_heads_asked_through_bgetune(server: QdrantServer, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear = torch.load(place / "model" / "sparse_linear.pt")
    save_file({f"sparse_linear.{name}": each for name, each in linear.items()}, place / "heads.safetensors")
    shutil.move(place / "heads.safetensors", one_head(place / "two"))
    told = indexed(capsys, "--model", "two", "--corpus", "clinic", "--qdrant", server.url)
    assert 'weights = {"dense": 1.0, "sparse": 0.3}' in told
    ranks_as_ours(asked_of(told), "two", place / "clinic")


def test_a_snippet_for_codes_scores_with_the_whole_vectors(server: QdrantServer, place: Path) -> None:
    weights = ensemble_weights(JobConfig().train)
    for name in ("model", "small"):
        one_head(place / "small")
        encoder = Encoder.load_folder(place / name, JobConfig().model)
        text = snippet(server.url, "docs", encoder, weights, 200, name, name, "a question", quantized=True)
        compile(text, "snippet", "exec")
        assert "rescore=True, oversampling=3.0" in text
        assert ("limit=200, params=rescored" in text) == (name == "model")
        assert ("limit=400, params=exact" in text) == (name == "model")
        assert ("with_payload=True, search_params=rescored" in text) == (name == "small")


def test_a_job_its_corpus_its_questions_and_a_changed_model(
    server: QdrantServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs.prepared(tmp_path)
    root = str(job.run.root)
    assert main(["index", root, "--qdrant", server.url]) == 2
    assert "error: RUN: the job in" in jobs.only_error(capsys)
    tiny.model(job.run.best)
    told = indexed(capsys, root, "--qdrant", server.url)
    first = re.search(r"^run: stands for (run-[0-9a-f]{12}) with 60 passages now$", told, re.M)
    assert first
    assert "10 questions by dense" in told
    assert f"# first: bgetune export --config {root}/config.yaml" in told
    assert f'SentenceTransformer("{root}/export")' in told
    assert list((job.run.vectors / "best").glob("*/heads.json")), "what the evaluation encodes, and reads again"
    points, _ = server.local.scroll("run", limit=1)
    assert points[0].payload is not None
    assert points[0].payload["set"] == "clinic"
    with held(job.run.root / ".lock"):
        assert main(["index", root, "--qdrant", server.url]) == 2
    assert "error: RUN: a job is running in" in jobs.only_error(capsys)
    tiny.model(job.run.best, seed=1)
    again = indexed(capsys, root, "--qdrant", server.url)
    assert re.search(rf"^run: stands for run-[0-9a-f]{{12}} with 60 passages now, instead of {first[1]}$", again, re.M)
    assert len(server.local.get_collections().collections) == 2
    third = indexed(capsys, root, "--qdrant", server.url, "--keep", "0", "--batch", "7", "--quantization", "scalar")
    assert len(re.findall(r"run-[0-9a-f]{12}", third.partition("removed: ")[2].splitlines()[0])) == 2


def test_going_back_as_the_guide_has_it(
    server: QdrantServer, place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    guide = (Path(command.__file__).parents[2] / "docs" / "guides" / "qdrant.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", guide, re.S | re.M)
    words = ["--model", "model", "--corpus", "clinic", "--qdrant", server.url, "--collection", "docs"]
    indexed(capsys, *words)
    indexed(capsys, *words, "--quantization", "binary")
    first, second = (server.local.get_aliases().aliases[0].collection_name, None)
    exec(compile(code.replace("http://localhost:6333", server.url), "guide", "exec"), {})
    second = server.local.get_aliases().aliases[0].collection_name
    assert second != first
    tiny.m3(place / "model", seed=2)
    caplog.set_level("INFO", "bgetune")
    indexed(capsys, *words)
    assert f"left as they are, being written or given up: {first} (--drop_others" in caplog.text
    assert f"removed: {first}" in indexed(capsys, *words, "--drop_others")


def test_killed_amid_writing_and_run_again(
    place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    child = 0

    def refuse(number: int, method: str, path: str) -> Fault | None:
        if method == "PUT" and path.endswith("/points") and server.written == 20 and child:
            os.kill(child, signal.SIGKILL)
            return busy(503)
        return None

    server = QdrantServer(refuse=refuse)
    words = ["--model", "model", "--corpus", "clinic", "--qdrant", server.url, "--batch", "10"]
    child = os.fork()  # before the server's thread begins
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(main(["index", *words]))
    with server:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        child = 0
        assert server.written == 20
        assert server.local.get_aliases().aliases == []
        caplog.set_level("INFO", "bgetune")
        told = indexed(capsys, *words)
        assert "20 of 60 points are there already" in caplog.text
        assert "model: stands for model-" in told
        assert server.written == 60


def test_a_server_that_stays_away_is_exit_code_1(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "WAITS", (0.0,))
    monkeypatch.setenv(qdrant.KEY, "")  # as good as none
    with QdrantServer(refuse=lambda number, method, path: busy(503) if method == "PUT" else None) as server:
        assert main(["index", "--model", "model", "--corpus", "clinic", "--qdrant", server.url]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.rstrip().splitlines()[-1] == (
        f"failed: --qdrant: the Qdrant server at {server.url} went on failing (no), asked 2 times; see to it and run "
        "the same command again, it goes on from here"
    )


ANY = ["--model", "model", "--corpus", "clinic"]
MISTAKES: dict[str, tuple[list[str], str]] = {
    "no place": ([*ANY], r"bgetune index: .*required: --qdrant; --help"),
    "nothing to index": (["--qdrant", "db"], "--model: name a job's folder, or a model with --model; one of the two"),
    "two models": (["model", *ANY, "--qdrant", "db"], "--model: RUN has a model of its own; one of the two"),
    "no corpus": (["--model", "model", "--qdrant", "db"], r"--corpus: name a corpus\.jsonl .*model is no job"),
    "a host": ([*ANY, "--qdrant", "localhost:6333"], "--qdrant: 'localhost:6333' will not do; write http://localhost"),
    "memory": ([*ANY, "--qdrant", ":memory:"], "--qdrant: ':memory:' will not do; what is in memory ends"),
    "grpc": ([*ANY, "--qdrant", "grpc://db:6334"], r"--qdrant: .*a server's address begins with http:// or https://"),
    "a negative number": ([*ANY, "--qdrant", "db", "--keep", "-1"], "--keep: -1 will not do; 0 or more"),
    "no points": ([*ANY, "--qdrant", "db", "--batch", "0"], "--batch: 0 will not do; 1 or more"),
    "a slash": ([*ANY, "--qdrant", "db", "--collection", "a/b"], "--collection: 'a/b' cannot be a collection's name"),
    "no model": (["--model", "absent/at/all", "--corpus", "clinic", "--qdrant", "db"], "--model: 'absent/at/all' is"),
    "nobody there": (
        [*ANY, "--qdrant", "http://me:secret@127.0.0.1:9"],
        r"--qdrant: no Qdrant server answers at http://127\.0\.0\.1:9 \(",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, told = MISTAKES[name]
    assert main(["index", *words]) == 2
    error = jobs.only_error(capsys)
    assert re.match(f"error: {told}", error), error
    assert "secret" not in error


def test_a_folder_of_something_else_and_a_misspelt_option(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["index", "--model", "model", "--corpus", "clinic", "--qdrant"]
    assert main([*words, "clinic"]) == 2
    assert "clinic holds something else than a Qdrant of local mode" in jobs.only_error(capsys)
    assert main([*words, "db", "--collecton", "x"]) == 2
    assert 'did you mean "--collection"?' in jobs.only_error(capsys)
    assert not Path("db").exists()


def test_a_folder_that_another_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = QdrantClient(path="db")
    assert main(["index", *ANY, "--qdrant", "db"]) == 2
    assert re.match(r"error: --qdrant: db: Storage folder db is already accessed by another", jobs.only_error(capsys))
    holder.close()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["index", "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    for word in ("--qdrant URL|PATH", "QDRANT_API_KEY", "docs/guides/qdrant.md", "--drop_others", "alias"):
        assert word in told
