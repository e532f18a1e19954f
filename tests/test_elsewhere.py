"""The code of docs/elsewhere.md: LangChain and LlamaIndex give our dense vectors, with the instruction and length 1."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bgetune.config import ModelConfig
from bgetune.encoder import Encoder
from tests import tiny

PAGE = Path(__file__).resolve().parent.parent / "docs" / "elsewhere.md"
QUESTIONS = ["what does heart help", "lung\n3"]
PASSAGES = ["the cause of heart pain", "care for skin 4 and bone", "a\nb"]
# sentence-transformers pads a batch, which our one text at a time does not
TOLERANCE = 1e-6


def snippet(word: str) -> str:
    """The one marked block of the page that has `word` in it."""
    marked = re.findall(r"<!-- run by tests/test_elsewhere.py -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    (found,) = [block for block in marked if word in block]
    return found


def run_snippet(word: str, export: Path) -> dict[str, Any]:
    """Execute it over `export`; its names and values."""
    names: dict[str, Any] = {}
    exec(compile(snippet(word).replace("runs/job/export", str(export)), str(PAGE), "exec"), names)
    return names


def ours(encoder: Encoder, texts: list[str], role: str) -> np.ndarray:
    """float32 [N, D], one text at a time."""
    encoder.eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            ids, mask = encoder.pad(encoder.tokenize([text], role)[0])
            dense = encoder(ids, mask, ["dense"]).dense
            assert dense is not None
            rows.append(dense[0].numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Path, Encoder]]:
    """By whether vectors have length 1: an export with an instruction for queries and one for passages."""
    folder = tmp_path_factory.mktemp("elsewhere")
    base = tiny.model(folder / "base")
    found = {}
    for unit in (True, False):
        config = ModelConfig(
            name_or_path=str(base),
            query_instruction="what does ",
            passage_instruction="for ",
            passage_max_length=64,
            normalize=unit,
        )
        encoder = Encoder.load(config)
        export = folder / f"export-{unit}"
        encoder.save(export)
        found[unit] = export, encoder
    return found


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


@pytest.mark.parametrize("unit", [True, False], ids=["length 1", "any length"])
def test_langchain_gives_our_vectors(made: dict[bool, tuple[Path, Encoder]], unit: bool) -> None:
    export, encoder = made[unit]
    names = run_snippet("langchain", export)
    embeddings = names["embeddings"]
    queries = np.array([embeddings.embed_query(text) for text in QUESTIONS])
    passages = np.array(embeddings.embed_documents(PASSAGES))
    np.testing.assert_allclose(queries, ours(encoder, QUESTIONS, "query"), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(passages, ours(encoder, PASSAGES, "passage"), atol=TOLERANCE, rtol=0)
    assert [document.page_content in ("a passage", "another passage") for document in names["found"]] == [True]


@pytest.mark.parametrize("unit", [True, False], ids=["length 1", "any length"])
def test_llama_index_gives_our_vectors(made: dict[bool, tuple[Path, Encoder]], unit: bool) -> None:
    export, encoder = made[unit]
    embedding = run_snippet("llama_index", export)["embedding"]
    queries = np.array([embedding.get_query_embedding(text) for text in QUESTIONS])
    passages = np.array(embedding.get_text_embedding_batch(PASSAGES))
    np.testing.assert_allclose(queries, ours(encoder, QUESTIONS, "query"), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(passages, ours(encoder, PASSAGES, "passage"), atol=TOLERANCE, rtol=0)


def test_llama_index_drops_the_folders_instruction_unless_it_is_told(made: dict[bool, tuple[Path, Encoder]]) -> None:
    """The warning on the page; when LlamaIndex reads the folder one day, this fails and the page can be shorter."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    export, encoder = made[True]
    untold = HuggingFaceEmbedding(model_name=str(export), device="cpu")
    difference = np.abs(np.array(untold.get_query_embedding(QUESTIONS[0])) - ours(encoder, QUESTIONS[:1], "query")[0])
    assert difference.max() > 0.01


def test_the_page_names_the_versions_that_this_ran_with() -> None:
    from importlib.metadata import version

    text = PAGE.read_text("utf-8")
    for package in (
        "langchain-core",
        "langchain-huggingface",
        "llama-index-core",
    ):
        assert f"{package} {version(package)}" in text
    assert version("llama-index-embeddings-huggingface") in text
