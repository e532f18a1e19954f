"""The exported folder in every reader: the vectors are ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bgetune.cli import main
from bgetune.config_io import load_job
from bgetune.data import Texts, read_retrieval_set
from bgetune.encode import encode
from bgetune.encoder import Encoder
from bgetune.export import stage
from bgetune.export.reading import Read, Reader, our_read
from bgetune.export.texts import SAMPLE
from bgetune.files import read_json, write_json
from bgetune.manifest import weights_files_hash
from tests import jobs, tiny
from tests.jobs import Job, only_error

QUERIES = ["heart pain", "what does the lung cure", "bone"]
PASSAGES = ["liver 1 drug", "heart " * 50, "0", "risk sign care skin brain", "unknown wörds 東京 🙂"]
GAIN = {"abs": 0.0512, "rel": 0.1, "ci95": [0.0104, 0.0921], "p": 0.0011, "p_holm": 0.0021}


def measured(tmp_path: Path, model: dict[str, Any] | None = None, **export: Any) -> Job:
    """A job whose next stage is `export`: tuned weights, a report and the miner's figures are there."""
    job = jobs.prepared(
        tmp_path, model=model or {}, encode_precision="fp32", export={"license": "mit", "verify_texts": 24, **export}
    )
    tuned = tiny.model(tmp_path / "tuned", seed=5)
    Encoder.load_folder(tuned, job.config.model).save(job.run.best)
    scores = {"dense": {"base": {"ndcg@10": 0.5}, "tuned": {"ndcg@10": 0.5512}}, "bm25": {"any": {"ndcg@10": 0.4321}}}
    gains = {"dense": {"tuned": {"ndcg@10": GAIN}}}
    found = {"role": "domain", "n_queries": 1234, "n_docs": 60, "data_hash": "ab", "decided_by": "dense"}
    found |= {"retrievers": scores, "gains": gains}
    systems = {"base": {"weights": "a"}, "tuned": {"weights": "b"}}
    report = {"sets": {"clinic": found}, "headline": ["Better."], "systems": systems, "hybrid_weights": {}}
    write_json(job.run.report / "report.json", report)
    write_json(job.run.examples.parent / "stats.json", {"queries": 40, "negatives": 160})
    return job


def exported(tmp_path: Path, model: dict[str, Any] | None = None, **export: Any) -> Job:
    job = measured(tmp_path, model, **export)
    assert main(["export", *job.words]) == 0
    return job


def ours(job: Job, texts: list[str], role: str) -> np.ndarray:
    encoder = Encoder.load_folder(job.run.best, job.config.model)
    return encode(encoder, Texts([str(i) for i in range(len(texts))], texts), role, job.config, "ours").vectors


def flag_model(job: Job) -> Any:
    from FlagEmbedding import FlagModel

    spec = Encoder.load_folder(job.run.export, job.config.model).spec
    return FlagModel(
        str(job.run.export), pooling_method=spec.pooling, normalize_embeddings=spec.normalize, use_fp16=False,
        query_instruction_for_retrieval=spec.query_instruction or None, devices="cpu",
        query_max_length=spec.query_max_length, passage_max_length=spec.passage_max_length,
    )  # fmt: skip


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_reader_gives_our_vectors(tmp_path, pooling, normalize):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    job = exported(tmp_path, {"pooling": pooling, "normalize": normalize, "query_instruction": "what does the "})
    queries, passages = ours(job, QUERIES, "query"), ours(job, PASSAGES, "passage")
    st = SentenceTransformer(str(job.run.export), device="cpu", local_files_only=True)
    np.testing.assert_allclose(st.encode(QUERIES, prompt_name="query"), queries, atol=1e-5)
    np.testing.assert_allclose(st.encode(PASSAGES, prompt_name="document"), passages, atol=1e-5)
    np.testing.assert_allclose(st.encode(PASSAGES), passages, atol=1e-5)  # no prompt is put before by default
    flag = flag_model(job)
    np.testing.assert_allclose(flag.encode_queries(QUERIES), queries, atol=1e-5)
    np.testing.assert_allclose(flag.encode_corpus(PASSAGES), passages, atol=1e-5)
    tokenizer, model = AutoTokenizer.from_pretrained(job.run.export), AutoModel.from_pretrained(job.run.export).eval()
    with torch.no_grad():
        batch = tokenizer(PASSAGES, padding=True, truncation=True, max_length=32, return_tensors="pt")
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
        vectors = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        vectors = torch.nn.functional.normalize(vectors, dim=1) if normalize else vectors
    np.testing.assert_allclose(vectors.numpy(), passages, atol=1e-5)
    recorded = read_json(job.run.export / "bgetune.json")
    assert set(recorded["readers"]) == {
        "bgetune, before it was written", "sentence-transformers", "transformers", "FlagEmbedding FlagModel",
        "FlagEmbedding FlagAutoModel",
    }  # fmt: skip
    assert all(0 <= reader["heads"]["dense"] <= 1e-5 == reader["limit"] for reader in recorded["readers"].values())
    assert recorded["readers"]["sentence-transformers"]["version"] == version("sentence-transformers")


@pytest.mark.parametrize(
    ("model", "modules", "similarity"),
    [
        ({}, ["Transformer", "Pooling", "Normalize"], "cosine"),
        ({"pooling": "max", "normalize": False, "similarity": "euclidean"}, ["Transformer", "Pooling"], "euclidean"),
    ],
    ids=["bge", "max-euclidean"],
)
def test_the_files_of_sentence_transformers(tmp_path, model, modules, similarity):
    from sentence_transformers import SentenceTransformer

    job = exported(tmp_path, {**model, "query_instruction": "q: "})
    folder = job.run.export
    found = [module["type"] for module in read_json(folder / "modules.json")]
    assert found == [f"sentence_transformers.models.{kind}" for kind in modules]
    pooling = read_json(folder / "1_Pooling" / "config.json")
    mode = "max_tokens" if model else "cls_token"
    assert [key for key, value in pooling.items() if value is True] == [f"pooling_mode_{mode}"]
    assert pooling["word_embedding_dimension"] == 16
    reader = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert reader.similarity_fn_name == similarity
    assert reader.max_seq_length == 32
    assert reader.prompts["query"] == "q: "
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_the_card_says_what_was_measured_and_how(tmp_path):
    job = exported(tmp_path, {"query_instruction": "what does the "})
    card = (job.run.export / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("mit", "sentence-transformers")
    assert "base_model" not in front  # a folder's name is no Hub id
    assert "**clinic** (domain): 1,234 queries" in card
    assert "| dense | 0.5000 | 0.5512 | +0.0512 | +0.0104 to +0.0921 | 0.0021 |" in card
    assert "| bm25 | 0.4321 |" in card
    assert not re.search("hybrid|sparse", re.sub(r"(?s)```yaml.*```", "", card))
    assert "40 queries with 160 mined hard negatives" in card
    assert weights_files_hash(job.run.best) in card
    # the configuration in it is the very job
    text = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert text is not None
    (tmp_path / "from_card.yaml").write_text(text[1])
    assert load_job(tmp_path / "from_card.yaml") == job.config


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision(tmp_path, dtype, torch_dtype):
    from sentence_transformers import SentenceTransformer

    job = exported(tmp_path, dtype=dtype)
    weights = load_file(job.run.export / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch_dtype}
    found = SentenceTransformer(str(job.run.export), device="cpu", local_files_only=True).encode(PASSAGES)
    np.testing.assert_allclose(found.astype(np.float32), ours(job, PASSAGES, "passage"), atol=5e-2)


ANOTHER = "another version of it may read the folder right"


def off_by(wrong: float) -> Reader:
    """A reader that gives our vectors, with one number changed."""

    def read(_folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
        dense = our_read(encoder, texts).dense
        assert dense is not None
        dense[3, 0] += wrong
        return Read(dense)

    return Reader("stranger", "numpy", lambda folder, encoder: True, read)


def crash(_folder: Path, _encoder: Encoder, _texts: Sequence[str]) -> Read:
    raise ValueError("no such\nlayer")


@pytest.mark.parametrize(
    ("reader", "line"),
    [
        (
            off_by(1e-3),
            rf"what stranger \(dense\) gives differs from ours by (1.00|9.99)e-0[34], over 1e-05; {ANOTHER}",
        ),
        (off_by(float("nan")), rf"what stranger \(dense\) gives differs from ours by nan, over 1e-05; {ANOTHER}"),
        (replace(off_by(0), read=crash), f"stranger cannot read the folder: ValueError: no such layer; {ANOTHER}"),
        (
            replace(off_by(0.9), by_cosine=True),
            r"what stranger \(dense\) gives has a cosine of 0.\d+ to ours, under .99; leave int8 out of export.onnx",
        ),
    ],
    ids=["off", "nan", "crash", "cosine"],
)
def test_a_reader_with_other_vectors_stops_the_export(tmp_path, monkeypatch, capsys, reader, line):
    monkeypatch.setattr(stage, "READERS", (off_by(0), reader))
    job = measured(tmp_path)
    assert main(["export", *job.words]) == 2
    assert re.fullmatch(rf"error: export: {line}", only_error(capsys))
    assert not job.run.export.exists()
    assert not list(job.run.root.glob(".export*"))
    assert not job.run.manifest("export").exists()


def test_graphs_are_written_checked_and_recorded(tmp_path):
    job = exported(tmp_path, onnx=["fp32", "int8"])
    graphs = job.run.export / "onnx"
    assert sorted(path.name for path in graphs.iterdir()) == ["embeddings.onnx", "embeddings_int8.onnx"]
    recorded = read_json(job.run.export / "bgetune.json")["readers"]
    whole, eight = recorded["onnxruntime"], recorded["onnxruntime int8"]
    assert 0 < whole["heads"]["dense"] <= 1e-5 < whole["limit"] == 1e-4
    assert 0 < eight["heads"]["dense"] <= eight["limit"] == 0.01
    assert (whole["measure"], eight["measure"]) == ("largest difference", "1 - cosine")


def test_a_model_that_is_not_written_as_it_was_stops_the_export(tmp_path, monkeypatch, capsys):
    def load(folder: Path, config: Any) -> Encoder:
        encoder = read(folder, config)
        if folder.parent.name == ".export.partial":
            next(encoder.backbone.parameters()).data.mul_(1.01)
        return encoder

    read = Encoder.load_folder
    monkeypatch.setattr(Encoder, "load_folder", load)
    monkeypatch.setattr(stage, "READERS", ())
    assert main(["export", *measured(tmp_path).words]) == 2
    assert "what bgetune, before it was written (dense) gives differs" in only_error(capsys)


def test_the_texts_are_half_the_jobs_own(tmp_path, monkeypatch):
    job, asked = measured(tmp_path), []

    def note(_folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
        asked.extend(texts)
        return our_read(encoder, texts)

    monkeypatch.setattr(stage, "READERS", (replace(off_by(0), read=note),))
    assert main(["export", *job.words, "--export.verify_texts", "20", "--update"]) == 0
    data = read_retrieval_set(job.run.data("clinic"))
    own = {*data.corpus.full_texts(), *data.queries_of("test").texts}
    assert asked[:10] == list(SAMPLE[:10])
    assert len(asked) == 20
    assert set(asked[10:]) <= own
    assert set(asked[10:]) & set(data.queries_of("test").texts)
    assert read_json(job.run.export / "bgetune.json")["texts"] == 20


def test_two_exports_are_the_same_bytes(tmp_path):
    job = exported(tmp_path)
    stray = job.run.root / "export-sparse"
    stray.mkdir()  # of an earlier configuration
    before = jobs.hashes(job.run.export)
    assert main(["export", *job.words, "--force"]) == 0
    assert jobs.hashes(job.run.export) == before
    assert not stray.exists()


def test_exporting_before_eval_says_what_to_run(tmp_path, capsys):
    job = measured(tmp_path)
    (job.run.report / "report.json").unlink()
    assert main(["export", *job.words]) == 2
    assert "report.json: missing; run the stage `eval` first" in only_error(capsys)
