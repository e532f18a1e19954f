"""What of `eval` is refused before anything is done: one line that names the option, the value, and what to do."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

from bgetune import config_check_eval
from bgetune.config_check_eval import check_eval
from bgetune.config_eval import EvalConfig
from bgetune.errors import UserError

FACTORIES = [
    "Flat", "HNSW32", "HNSW", "HNSW32_SQ8", "HNSW32,PQ48", "IVF1024,Flat", "IVF2048,PQ512x4fs", "IVF64,PQ48x4fsr,RFlat",
    "IVF65536_HNSW32,PQ192x4fs", "OPQ48_192,IVF1024,PQ48x4fs", "PCA64,IVF8,SQ8", "IMI2x8,PQ8", "PQ20", "PQ97", "SQfp16",
    "SQ8", "LSHr", "NSG32", "RQ8x8", "PRQ12x2x8", "PCA80,PQ20", "IVF8,RaBitQ",
]  # fmt: skip


def test_doctests():
    result = doctest.testmod(config_check_eval)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("factory", FACTORIES)
def test_what_faiss_knows_passes(factory: str):
    check_eval(EvalConfig(index=factory))
    check_eval(EvalConfig(indexes=(factory,)))


@pytest.mark.parametrize(
    "location", ["", ":", ":http://localhost:6333", ":https://db.example.org", "::memory:", ":./db", ":/db", ":~/db"]
)
def test_where_qdrant_may_be(location: str):
    index = f"qdrant{location}"
    if location == ":":
        with pytest.raises(UserError, match=r"^eval\.indexes: 'qdrant:' will not do; write qdrant:http"):
            check_eval(EvalConfig(indexes=(index,)))
    else:
        check_eval(EvalConfig(indexes=(index, "HNSW32")))


def test_as_many_candidates_as_the_metrics_look_at():
    check_eval(EvalConfig(metrics=("ndcg@10", "recall@500"), depth=500, candidates=500))


# name -> (settings, what the line must say)
MISTAKES: dict[str, tuple[EvalConfig, str]] = {
    "a slip in an index": (
        EvalConfig(index="HNWS32"),
        r"eval\.index: 'HNWS32' is no index of FAISS: could not parse .*; name one such as Flat",
    ),
    "codes that FAISS does not know": (
        EvalConfig(indexes=("Flat", "IVF10,Foo")),
        r"eval\.indexes: 'IVF10,Foo' is no index of FAISS: .*Foo.*; name one such as HNSW32",
    ),
    "codes too large": (EvalConfig(indexes=("PQ48x40",)), r"eval\.indexes: 'PQ48x40' is no index of FAISS: nbits"),
    "a number too large": (EvalConfig(indexes=("IVF99999999999,Flat",)), r"eval\.indexes: 'IVF99999999999,Flat' is no"),
    "codes without a number": (EvalConfig(index="PQ0"), r"eval\.index: 'PQ0' is no index of FAISS"),
    "no index": (EvalConfig(index=""), r"eval\.index: '' is no index of FAISS"),
    "Qdrant in the place of FAISS": (EvalConfig(index="qdrant"), r"eval\.index: 'qdrant' is no index of FAISS"),
    "a capital": (EvalConfig(indexes=("Qdrant",)), r"eval\.indexes: 'Qdrant' is no .*, or write qdrant$"),
    "cut at the comma": (EvalConfig(indexes=("IVF1024", "Flat")), r"eval\.indexes: 'IVF1024' will not do; YAML parts"),
    "a server without http": (
        EvalConfig(indexes=("qdrant:localhost:6333",)),
        r"eval\.indexes: 'qdrant:localhost:6333' will not do; write qdrant:http://localhost:6333 for a server, "
        r"qdrant:\./localhost:6333 for a folder",
    ),
    "no exact search": (EvalConfig(index="HNSW8", indexes=("PQ8",)), r"eval\.index: .HNSW8. will not do; the loss"),
    "a folder like a server": (EvalConfig(indexes=("qdrant:a/b",)), r".*'qdrant:a/b' will not do; write .*\./FOLDER"),
    "another protocol": (EvalConfig(indexes=("qdrant:ftp://db",)), r".*'qdrant:ftp://db' will not do; write"),
    "a port in words": (EvalConfig(indexes=("qdrant:http://db:rest",)), r".*'qdrant:http://db:rest' will not do"),
    "an open bracket": (EvalConfig(indexes=("qdrant:http://[db",)), r".*'qdrant:http://\[db' will not do"),
    "few candidates": (
        EvalConfig(metrics=("ndcg@10", "recall@500"), depth=500),
        r"eval\.candidates: 200 will not do; .* recall@500 looks at 500; use at least 500",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    settings, told = MISTAKES[mistake]
    with pytest.raises(UserError, match=f"^{told}") as error:
        check_eval(settings)
    assert "\n" not in str(error.value)


def test_qdrant_without_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(UserError, match=r"^eval\.indexes: 'qdrant' needs .*; run pip install 'bgetune\[qdrant\]', or"):
        check_eval(EvalConfig(indexes=("qdrant",)))


def test_neither_faiss_nor_qdrant_is_loaded_for_nothing():
    program = (
        "import sys; from bgetune.config_check_eval import check_eval; from bgetune.config_eval import EvalConfig; "
        "check_eval(EvalConfig(indexes=('Flat', 'qdrant'))); print({'faiss', 'qdrant_client'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
