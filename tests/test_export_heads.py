"""Exports with sparse and multi-vector heads: FlagEmbedding's M3 reader gives what ours does."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bgetune.cli import main
from bgetune.data import read_retrieval_set
from bgetune.encoder import Encoder
from bgetune.export import stage
from bgetune.export.readers import TRANSFORMERS as TRANSFORMERS_READER
from bgetune.export.reading import Read, Reader, our_read
from bgetune.export.reading import differences as compare
from bgetune.export.texts import SAMPLE
from bgetune.export.verified import verify
from bgetune.files import read_json, write_json, write_text
from bgetune.head_start import start_heads
from tests import jobs, tiny
from tests.jobs import Job, only_error
from train.__main__ import main as train

ALL = ["dense", "sparse", "multi_vector"]
OURS, ST, TRANSFORMERS = "bgetune, before it was written", "sentence-transformers", "transformers"
FLAG, M3, AUTO = "FlagEmbedding FlagModel", "FlagEmbedding BGEM3FlagModel", "FlagEmbedding FlagAutoModel"
TOKENS, WEIGHTS = "sentence-transformers MultiVectorEncoder", "sentence-transformers SparseEncoder"
READ = {OURS: ALL, ST: ["dense"], TRANSFORMERS: ALL, FLAG: ["dense"], M3: ALL, AUTO: ALL,
        TOKENS: ["multi_vector"], WEIGHTS: ["sparse"]}  # fmt: skip
"""What each reader reads of a model with three heads."""
EXPORT = {"license": "mit", "verify_texts": 30}
RETRIEVERS = ["bm25", *ALL, "hybrid", "hybrid_rrf"]
GAIN = {"abs": 0.0512, "rel": 0.1, "ci95": [0.0104, 0.0921], "p": 0.0011, "p_holm": 0.0021}
LORA: dict[str, Any] = {
    "model": {"heads": ALL, "multi_vector_dim": 8, "query_instruction": "for the "},
    "train": {"lora": {"rank": 4}, "learning_rate": 0.05, "sparse": {"ensemble_weight": 0.5}},
}


def measured(job: Job) -> Job:
    """The job with a report and the miner's figures: its next stage is `export`."""
    compared = {"base": {"ndcg@10": 0.5}, "tuned": {"ndcg@10": 0.5512}}
    found = {name: {"any": {"ndcg@10": 0.4321}} if name == "bm25" else compared for name in RETRIEVERS}
    gains = {name: {"tuned": {"ndcg@10": GAIN}} for name in RETRIEVERS if name != "bm25"}
    told = {"role": "domain", "n_queries": 1234, "n_docs": 60, "data_hash": "ab", "decided_by": "hybrid"}
    told |= {"retrievers": found, "gains": gains}
    systems = {"base": {"weights": "a"}, "tuned": {"weights": "b"}}
    weights = {"tuned": {"dense": 1.0, "sparse": 0.25, "multi_vector": 0.5}}
    report = {"sets": {"clinic": told}, "headline": ["Better."], "systems": systems, "hybrid_weights": weights}
    write_text(job.run.report / "report.json", json.dumps(report))  # in its own order, as eval writes it
    write_json(job.run.examples.parent / "stats.json", {"queries": 40, "negatives": 160})
    return job


def m3_job(folder: Path, model: dict[str, Any] | None = None, **sections: Any) -> Job:
    """Tuned from a model with the files of BGE-M3, with other weights than its base."""
    own = {"name_or_path": str(tiny.m3(folder / "base")), **(model or {})}
    job = jobs.prepared(folder, model=own, encode_precision="fp32", export=EXPORT, **sections)
    Encoder.load_folder(tiny.m3(folder / "tuned", seed=1), job.config.model).save(job.run.best)
    return measured(job)


def export(job: Job, *words: str) -> Job:
    assert main(["export", *job.words, *words]) == 0
    return job


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return export(m3_job(tmp_path_factory.mktemp("m3")))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A BERT whose heads were started and that was trained through adapters."""
    job = jobs.trainable(tmp_path_factory.mktemp("lora"), encode_precision="fp32", export=EXPORT, **LORA)
    jobs.fresh_accelerator()
    assert train(job.words) == 0
    return export(measured(job))


def by(name: str, request: pytest.FixtureRequest) -> Job:
    return request.getfixturevalue(name)


def differences(job: Job) -> dict[str, dict[str, float]]:
    """Reader -> head -> largest difference."""
    readers = read_json(job.run.export / "bgetune.json")["readers"]
    return {name: found["heads"] for name, found in readers.items()}


def read(job: Job) -> dict[str, list[str]]:
    """Reader -> the heads it was compared on, in our order."""
    return {name: [head for head in ALL if head in found] for name, found in differences(job).items()}


def largest(job: Job) -> float:
    return max(value for found in differences(job).values() for value in found.values())


def card(job: Job) -> str:
    return (job.run.export / "README.md").read_text()


# -- readers


@pytest.mark.parametrize("name", ["m3", "lora"])
def test_every_reader_and_head_is_compared(name: str, request: pytest.FixtureRequest) -> None:
    job = by(name, request)
    assert read(job) == {**READ, **({"peft adapter": ALL} if name == "lora" else {})}
    assert largest(job) <= 1e-5
    # it is what was trained, and not the base
    encoders = [Encoder.load_folder(folder, job.config.model) for folder in (job.run.export, job.run.best)]
    assert encoders[0].weights_hash() == encoders[1].weights_hash()
    base = Encoder.load(job.config.model, heads_from=job.run.base_heads)
    assert encoders[0].weights_hash() != base.weights_hash()
    assert min(compare(our_read(base, SAMPLE[:9]), our_read(encoders[0], SAMPLE[:9])).values()) > 1e-3


def test_an_export_has_nothing_of_the_training(lora: Job) -> None:
    assert {"started_heads", "adapter", "best.json"} <= {path.name for path in lora.run.best.iterdir()}
    assert sorted(path.name for path in lora.run.export.iterdir()) == [
        "1_Pooling", "2_Normalize", "README.md", "bgetune.json", "colbert_linear.pt", "config.json",
        "config_sentence_transformers.json", "gains.svg", "heads.safetensors", "model.safetensors", "modules.json",
        "sentence_bert_config.json", "sparse_linear.pt", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    names = {*load_file(lora.run.export / "model.safetensors"), *load_file(lora.run.export / "heads.safetensors")}
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    assert load_file(lora.run.export / "heads.safetensors")["colbert_linear.weight"].shape == (8, 16)
    started = load_file(lora.run.best / "started_heads" / "heads.safetensors")
    now = load_file(lora.run.export / "heads.safetensors")
    assert all(not torch.equal(now[name], started[name]) for name in started)


@pytest.mark.parametrize("name", ["m3", "lora"])
def test_no_reader_says_that_something_is_random(name: str, request: Any, caplog: Any, monkeypatch: Any) -> None:
    """Only the pooler, which no reader uses and the card mentions."""
    from FlagEmbedding import BGEM3FlagModel, FlagModel
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    job = by(name, request)
    folder = str(job.run.export)
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_propagation()
    monkeypatch.setattr(logging.getLogger("FlagEmbedding"), "level", logging.INFO)
    logging.getLogger("FlagEmbedding")._cache.clear()  # type: ignore[attr-defined]
    try:
        with caplog.at_level(logging.INFO):
            AutoModel.from_pretrained(folder)
            SentenceTransformer(folder, device="cpu", local_files_only=True)
            FlagModel(folder, devices="cpu", use_fp16=False)
            BGEM3FlagModel(folder, devices="cpu", use_fp16=False, colbert_dim=8 if name == "lora" else -1)
    finally:
        transformers_logging.set_verbosity(before)
        transformers_logging.disable_propagation()
    assert "loading existing colbert_linear and sparse_linear" in caplog.text
    assert "new initialize" not in caplog.text
    missing = re.findall(r"(\S+) +\| (?:MISSING|UNEXPECTED|MISMATCH)", re.sub(r"\x1b\[\d*m", "", caplog.text))
    assert set(missing) <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert not re.search("mean pooling|No sentence-transformers model", caplog.text)
    assert "transformers may report `pooler.dense`" in card(job)


def test_half_precision(tmp_path: Path) -> None:
    job = export(m3_job(tmp_path), "--export.dtype", "bf16", "--update")
    for name in ("model.safetensors", "heads.safetensors"):
        tensors = load_file(job.run.export / name)
        assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.bfloat16}
    assert torch.load(job.run.export / "colbert_linear.pt")["weight"].dtype == torch.bfloat16
    assert read(job) == READ
    # FlagEmbedding computes in float32, as we do, whatever the weights are
    assert max(differences(job)[M3].values()) <= 1e-5
    assert 1e-5 < largest(job) <= 5e-2


def test_mcls_is_compared_on_texts_short_enough_for_one_cls(tmp_path: Path) -> None:
    job = export(m3_job(tmp_path, {"pooling": "mcls", "passage_max_length": 600}))
    assert read(job) == READ
    assert largest(job) <= 1e-5
    encoder = Encoder.load_folder(job.run.export, job.config.model)
    edge = ["heart " * 255, "heart " * 256]  # with <s> and </s>: 257 and 258
    found = verify(job.run.export, encoder, [*SAMPLE[:5], *edge], 1e-5, (TRANSFORMERS_READER,))
    assert found.texts == 6
    assert found.left_out == ("1 of 7 texts left out: mcls puts CLS tokens into those over 257 tokens",)
    assert not found.failed
    assert encoder.tokenize(edge[:1], "passage")[0] == encoder.tokenizer(edge[:1])["input_ids"]
    assert encoder.tokenize(edge[1:], "passage")[0] != encoder.tokenizer(edge[1:])["input_ids"]


@pytest.mark.parametrize("head", ["sparse", "multi_vector"])
def test_one_head_alone_is_not_for_flagembedding(tmp_path: Path, head: str) -> None:
    job = jobs.prepared(tmp_path, model={"heads": ["dense", head]}, encode_precision="fp32", export=EXPORT)
    encoder = Encoder.load(job.config.model)
    start_heads(encoder, read_retrieval_set(job.run.data("clinic")).corpus, job.config)
    encoder.save(job.run.best)
    export(measured(job))
    beside = TOKENS if head == "multi_vector" else WEIGHTS
    both = ["dense", head]
    assert read(job) == {
        OURS: both,
        ST: ["dense"],
        TRANSFORMERS: both,
        FLAG: ["dense"],
        AUTO: ["dense"],
        beside: [head],
    }
    assert not list(job.run.export.glob("*.pt"))
    name = {"sparse": "sparse_linear", "multi_vector": "colbert_linear"}[head]
    assert {key.partition(".")[0] for key in load_file(job.run.export / "heads.safetensors")} == {name}


def test_pooling_by_max_leaves_flagembedding_the_other_heads(tmp_path: Path) -> None:
    job = export(m3_job(tmp_path, {"pooling": "max"}))
    two = ["sparse", "multi_vector"]
    assert read(job) == {name: two if name in (M3, AUTO) else heads for name, heads in READ.items() if name != FLAG}
    assert largest(job) <= 1e-5


def test_heads_that_were_not_asked_for_come_along(tmp_path: Path) -> None:
    job = export(m3_job(tmp_path, {"heads": ["dense"]}))
    assert read(job) == {name: heads for name, heads in READ.items() if name not in (TOKENS, WEIGHTS)}


# -- a reader that gives something else


def altered(head: str, wrong: float) -> Reader:
    """A reader that gives what we do, with one number changed in one head; 0: with a vector, or a token, more."""

    def read(_folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
        found = our_read(encoder, texts)
        assert found.dense is not None
        assert found.sparse is not None
        assert found.multi_vector is not None
        dense, sparse, vectors = found.dense, [dict(row) for row in found.sparse], [*found.multi_vector]
        if head == "dense":
            dense[2, 0] += wrong
        elif head == "sparse":
            row = next(row for row in sparse if row)
            token = next(iter(row)) if wrong else 99
            row[token] = row.get(token, 1e-3) + wrong
        else:
            vectors[0] = vectors[0] + wrong if wrong else vectors[0][1:]
        return Read(dense, sparse, vectors)

    return Reader("stranger", "numpy", lambda folder, encoder: True, read)


@pytest.mark.parametrize(
    ("head", "wrong", "shown"),
    [
        ("dense", 1e-3, r"[19]\.\d\de-0[34]"),
        ("sparse", 1e-3, r"[19]\.\d\de-0[34]"),
        ("sparse", float("nan"), "nan"),
        ("sparse", 0, r"[19]\.\d\de-0[34]"),
        ("multi-vector", 1e-3, r"[19]\.\d\de-0[34]"),
        ("multi-vector", float("nan"), "nan"),
        ("multi-vector", 0, "inf"),
    ],
)
def test_a_head_that_is_read_otherwise_stops_the_export(
    m3: Job, monkeypatch: Any, capsys: Any, head: str, wrong: float, shown: str
) -> None:
    monkeypatch.setattr(stage, "READERS", (altered(head, wrong),))
    before = jobs.hashes(m3.run.root)
    assert main(["export", *m3.words, "--force"]) == 2
    pattern = rf"error: export: what stranger \({head}\) gives differs from ours by {shown}, over 1e-05; "
    assert re.match(pattern, only_error(capsys))
    after = jobs.hashes(m3.run.root)
    assert {name: after[name] for name in before} == before
    assert {*after} - {*before} <= {"manifests/export.started.json"}
