"""Exports with sparse and multi-vector heads: FlagEmbedding's M3 reader gives what ours does; cards say what holds."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bgetune.export import readers as verify
from bgetune.export.card import Measured, model_card
from bgetune.cli import main
from bgetune.config import Head, JobConfig, TrainConfig
from bgetune.data import read_retrieval_set
from bgetune.encoder import Encoder
from bgetune.files import read_json, write_json, write_text
from bgetune.head_start import start_heads
from bgetune.representations import Representations
from tests import jobs, tiny
from tests.jobs import Job, only_error
from train.__main__ import main as train

PLAIN = {"sentence-transformers", "transformers", "FlagEmbedding"}
M3 = {"FlagEmbedding M3 dense", "FlagEmbedding M3 sparse", "FlagEmbedding M3 multi-vector"}
ALL = ["dense", "sparse", "multi_vector"]
RETRIEVERS = ["bm25", *ALL, "hybrid", "hybrid_rrf"]
GAIN = {"abs": 0.0512, "rel": 0.1, "ci95": [0.0104, 0.0921], "p": 0.0011, "p_holm": 0.0021}
QUESTION, PASSAGE = "what does heart pain", "the heart drug and the lung cure pain 1"
LORA: dict[str, Any] = {
    "model": {"heads": ALL, "multi_vector_dim": 8, "query_instruction": "for the "},
    "train": {"lora": {"rank": 4}, "learning_rate": 0.05, "sparse": {"ensemble_weight": 0.5}},
}


def measured(job: Job) -> Job:
    """The job with a report and the miner's figures: its next stage is `export`."""
    compared = {"base": {"ndcg@10": 0.5}, "tuned": {"ndcg@10": 0.5512}}
    found = {name: {"any": {"ndcg@10": 0.4321}} if name == "bm25" else compared for name in RETRIEVERS}
    gains = {name: {"tuned": {"ndcg@10": GAIN}} for name in RETRIEVERS if name != "bm25"}
    told = {"role": "domain", "n_queries": 1234, "decided_by": "hybrid", "retrievers": found, "gains": gains}
    systems = {"base": {"weights": "a"}, "tuned": {"weights": "b"}}
    weights = {"tuned": {"dense": 1.0, "sparse": 0.25, "multi_vector": 0.5}}
    report = {"sets": {"clinic": told}, "headline": ["Better."], "systems": systems, "hybrid_weights": weights}
    write_text(job.run.report / "report.json", json.dumps(report))  # in its own order, as eval writes it
    write_json(job.run.examples.parent / "stats.json", {"queries": 40, "negatives": 160})
    return job


def m3_job(folder: Path, model: dict[str, Any] | None = None, **sections: Any) -> Job:
    """Tuned from a model with the files of BGE-M3, with other weights than its base."""
    own = {"name_or_path": str(tiny.m3(folder / "base")), **(model or {})}
    job = jobs.prepared(folder, model=own, encode_precision="fp32", export={"license": "mit"}, **sections)
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
    job = jobs.trainable(tmp_path_factory.mktemp("lora"), encode_precision="fp32", **LORA)
    jobs.fresh_accelerator()
    assert train(job.words) == 0
    return export(measured(job))


def by(name: str, request: pytest.FixtureRequest) -> Job:
    return request.getfixturevalue(name)


def differences(job: Job) -> dict[str, float]:
    return read_json(job.run.export / "bgetune.json")["largest_difference"]


def card(job: Job) -> str:
    return (job.run.export / "README.md").read_text()


def words(job: Job) -> str:
    """The card without the configuration at its end."""
    return re.sub(r"(?s)```yaml.*?```", "", card(job))


# -- readers


@pytest.mark.parametrize("name", ["m3", "lora"])
def test_every_reader_and_head_is_compared(name: str, request: pytest.FixtureRequest) -> None:
    job = by(name, request)
    found = differences(job)
    assert set(found) == PLAIN | M3
    assert max(found.values()) <= 1e-5
    # it is what was trained, and not the base
    encoders = [Encoder.load_folder(folder, job.config.model) for folder in (job.run.export, job.run.best)]
    assert encoders[0].weights_hash() == encoders[1].weights_hash()
    base = Encoder.load(job.config.model, heads_from=job.run.base_heads)
    assert encoders[0].weights_hash() != base.weights_hash()
    assert np.abs(verify.our_vectors(base, verify.SAMPLE) - verify.our_vectors(encoders[0], verify.SAMPLE)).max() > 1e-3


def test_an_export_has_nothing_of_the_training(lora: Job) -> None:
    assert {"started_heads", "adapter", "best.json"} <= {path.name for path in lora.run.best.iterdir()}
    assert sorted(path.name for path in lora.run.export.iterdir()) == [
        "1_Pooling", "2_Normalize", "README.md", "bgetune.json", "colbert_linear.pt", "config.json",
        "config_sentence_transformers.json", "heads.safetensors", "model.safetensors", "modules.json",
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
    assert set(differences(job)) == PLAIN | M3
    # FlagEmbedding computes in float32, as we do, whatever the weights are
    assert max(value for name, value in differences(job).items() if name in M3) <= 1e-5


def test_mcls_is_compared_on_texts_short_enough_for_one_cls(tmp_path: Path) -> None:
    job = export(m3_job(tmp_path, {"pooling": "mcls", "passage_max_length": 600}))
    assert set(differences(job)) == PLAIN | M3
    assert max(differences(job).values()) <= 1e-5
    encoder = Encoder.load_folder(job.run.export, job.config.model)
    assert verify.read_alike(encoder, verify.SAMPLE) == verify.SAMPLE[:-1]
    edge = ["heart " * 255, "heart " * 256]  # with <s> and </s>: 257 and 258
    assert verify.read_alike(encoder, edge) == (edge[0],)
    assert encoder.tokenize(edge[:1], "passage")[0] == encoder.tokenizer(edge[:1])["input_ids"]
    assert encoder.tokenize(edge[1:], "passage")[0] != encoder.tokenizer(edge[1:])["input_ids"]
    assert "Other readers do not insert CLS tokens" in words(job)
    assert "pooling_method='cls'" in words(job)


@pytest.mark.parametrize("head", ["sparse", "multi_vector"])
def test_one_head_alone_is_not_for_flagembedding(tmp_path: Path, head: str) -> None:
    job = jobs.prepared(tmp_path, model={"heads": ["dense", head]}, encode_precision="fp32")
    encoder = Encoder.load(job.config.model)
    start_heads(encoder, read_retrieval_set(job.run.data("clinic")).corpus, job.config)
    encoder.save(job.run.best)
    export(measured(job))
    assert set(differences(job)) == PLAIN
    assert not list(job.run.export.glob("*.pt"))
    name = {"sparse": "sparse_linear", "multi_vector": "colbert_linear"}[head]
    spoken = head.replace("_", "-")
    assert f"The {spoken} head is in `heads.safetensors`, as weight and bias of `{name}`: " in words(job)
    assert "BGEM3FlagModel(" not in words(job)
    assert f"- {spoken}\n" in card(job)
    assert {key.partition(".")[0] for key in load_file(job.run.export / "heads.safetensors")} == {name}


def test_pooling_by_max_leaves_flagembedding_the_other_heads(tmp_path: Path, capsys: Any) -> None:
    job = export(m3_job(tmp_path, {"pooling": "max"}))
    assert set(differences(job)) == {"sentence-transformers", "transformers", *M3} - {"FlagEmbedding M3 dense"}
    assert max(differences(job).values()) <= 1e-5
    assert "so not this model's dense vectors" in words(job)
    _, m3 = snippets(job)
    assert run(m3, job, capsys) == pytest.approx(expected_scores(job)[1:3], abs=1e-5)


def test_heads_that_were_not_asked_for_come_along(tmp_path: Path) -> None:
    job = export(m3_job(tmp_path, {"heads": ["dense"]}))
    assert set(differences(job)) == PLAIN | M3
    assert "sparse and multi-vector heads came along, neither trained nor measured" in words(job)
    assert "BGEM3FlagModel(" not in words(job)
    assert yaml.safe_load(card(job).split("---")[1])["tags"][-2:] == ["retrieval", "bgetune"]


# -- a reader that gives something else


def altered(field: str, wrong: float) -> Any:
    """FlagEmbedding's answer, made of ours, with one number changed in one head."""

    def read(_folder: Path, encoder: Encoder, texts: Any, _heads: Any) -> dict[str, Any]:
        found: list[Representations] = verify.our_representations(encoder, texts)
        answer: dict[str, Any] = {
            "dense_vecs": verify.our_vectors(encoder, texts),
            "lexical_weights": [
                {str(t): w for t, w in zip(one.sparse.ids.tolist(), one.sparse.weights.tolist(), strict=True)}
                for one in found
                if one.sparse is not None
            ],
            "colbert_vecs": [one.multi_vector.vectors.numpy().copy() for one in found if one.multi_vector is not None],
        }
        if field == "a token that we have not":
            answer["lexical_weights"][2]["99"] = wrong
        elif field == "a vector too few":
            answer["colbert_vecs"][0] = answer["colbert_vecs"][0][1:]
        elif field == "lexical_weights":
            row = next(row for row in answer[field] if row)
            row[next(iter(row))] += wrong
        else:
            answer[field][0][0] += wrong
        return answer

    return read


@pytest.mark.parametrize(
    ("field", "wrong", "head"),
    [
        ("dense_vecs", 1e-3, "dense"),
        ("lexical_weights", 1e-3, "sparse"),
        ("lexical_weights", float("nan"), "sparse"),
        ("a token that we have not", 1e-3, "sparse"),
        ("colbert_vecs", 1e-3, "multi-vector"),
        ("colbert_vecs", float("nan"), "multi-vector"),
        ("a vector too few", 0, "multi-vector"),
    ],
)
def test_a_head_that_is_read_otherwise_stops_the_export(
    m3: Job, monkeypatch: Any, capsys: Any, field: str, wrong: float, head: str
) -> None:
    for name in ("_sentence_transformers", "_transformers", "_flag_embedding"):
        monkeypatch.setattr(verify, name, lambda _folder, encoder, texts: verify.our_vectors(encoder, texts))
    monkeypatch.setattr(verify, "_flag_embedding_m3", altered(field, wrong))
    before = jobs.hashes(m3.run.export)
    assert main(["export", *m3.words, "--force"]) == 2
    shown = {0: "inf"}.get(wrong, "nan" if np.isnan(wrong) else r"[19]\.\d\de-0[34]")
    pattern = rf"error: export: what FlagEmbedding M3 {head} gives differs from ours by {shown}, over 1e-05; "
    assert re.match(pattern, only_error(capsys))
    assert jobs.hashes(m3.run.export) == before


# -- the card


def expected_scores(job: Job) -> list[float]:
    """Dense, sparse, multi-vector and hybrid score of one query and passage, in plain numpy."""
    encoder = Encoder.load_folder(job.run.best, job.config.model)
    encoder.eval()
    found = []
    for text, role in ((QUESTION, "query"), (PASSAGE, "passage")):
        with torch.no_grad():
            found.append(encoder(*encoder.pad(encoder.tokenize([text], role)[0])))
    query, passage = found
    weights = [dict(zip(one.sparse.ids.tolist(), one.sparse.weights.tolist(), strict=True)) for one in found]
    scores = [
        float(query.dense[0] @ passage.dense[0]),
        sum(weight * weights[1].get(token, 0.0) for token, weight in weights[0].items()),
        float((query.multi_vector.vectors @ passage.multi_vector.vectors.T).amax(1).mean()),
    ]
    train = job.config.train
    parts = (train.dense, train.sparse, train.multi_vector)
    return [*scores, sum(part.ensemble_weight * score for part, score in zip(parts, scores, strict=True))]


def snippets(job: Job) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card(job), re.DOTALL)


def run(snippet: str, job: Job, capsys: Any) -> list[float]:
    """The numbers it prints."""
    for old, new in {"PATH_OR_ID": str(job.run.export), "a question": QUESTION, "a passage": PASSAGE}.items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    capsys.readouterr()
    exec(compile(snippet, "card", "exec"), {})
    return [float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)]


@pytest.mark.parametrize("name", ["m3", "lora"])
def test_the_cards_code_runs_and_gives_our_scores(name: str, request: Any, capsys: Any) -> None:
    job = by(name, request)
    sentence_transformers, flag_model, m3_model = snippets(job)
    expected = expected_scores(job)
    assert expected[1] > 0.01
    assert run(sentence_transformers, job, capsys) == pytest.approx(expected[:1], abs=1e-4)
    assert run(flag_model, job, capsys) == pytest.approx(expected[:1], abs=1e-5)
    assert run(m3_model, job, capsys) == pytest.approx(expected, abs=1e-5)
    assert ("colbert_dim=8" in m3_model) == (name == "lora")


def test_the_card_of_three_heads(m3: Job) -> None:
    text = words(m3)
    assert yaml.safe_load(card(m3).split("---")[1])["tags"][-3:] == ["sparse", "multi-vector", "bgetune"]
    assert "| **hybrid** | 0.5000 | 0.5512 | +0.0512 |" in text
    assert [line.split(" | ")[0].strip("|* ") for line in text.splitlines() if "0.5000" in line] == RETRIEVERS[1:]
    assert "| bm25 | 0.4321 |" in text
    assert "`multi_vector`, `hybrid` and `hybrid_rrf` rank the 200 best passages of `dense` and `sparse`: " in text
    assert "`hybrid` by 1 * dense + 0.3 * sparse + 1 * multi_vector, `hybrid_rrf`" in text
    assert "weights of their losses: dense 1, sparse 0.1, multi-vector 1; ensemble 1." in text
    assert "Self-distillation: the ensemble, 1 * dense + 0.3 * sparse + 1 * multi_vector, teaches each head." in text
    assert not re.search("LoRA|started|Not trained|insert CLS", text)


def test_the_card_of_a_lora_on_started_heads(lora: Job) -> None:
    text = words(lora)
    assert "LoRA of rank 4 and alpha 32 on all-linear, which is merged into these weights" in text
    assert "The sparse and multi-vector heads started in closed form from the corpus" in text
    assert "The base model lacks the sparse and multi-vector heads; base is measured with what training" in text
    assert "0.5 * sparse" in text


def remade(job: Job, config: JobConfig, started: Sequence[Head] = (), tuned: str = "b") -> str:
    """The card of the same export under another configuration."""
    report = read_json(job.run.report / "report.json")
    report["systems"]["tuned"]["weights"] = tuned
    stats = read_json(job.run.examples.parent / "stats.json")
    return model_card(config, Encoder.load_folder(job.run.export, config.model), Measured(report, stats, "", started))


def test_the_card_says_which_heads_were_not_trained(m3: Job) -> None:
    def text(**options: Any) -> str:
        return remade(m3, replace(m3.config, train=TrainConfig(**options)))

    dense = text(heads=("dense",))
    assert "The dense head was trained. Not trained: the sparse and multi-vector heads; the encoder below was." in dense
    assert "self-distillation" not in dense.lower().split("<details>")[0]
    two = text(heads=("sparse", "multi_vector"), freeze="encoder", self_distillation_start=30)
    assert "losses: sparse 0.1, multi-vector 1; ensemble 1." in two
    assert "0.3 * sparse + 1 * multi_vector, teaches each head from step 30 on." in two
    assert "Not trained: the dense head. Frozen: the encoder." in two
    assert "Self-distillation" not in text(self_distillation=False).split("<details>")[0]


def test_the_card_of_a_base_that_won(m3: Job) -> None:
    text = remade(m3, m3.config, started=("sparse",), tuned="a")
    assert "**, with the sparse head that training started from: no checkpoint was better on dev." in text
    full = replace(m3.config, eval=replace(m3.config.eval, multi_vector="full"))
    assert " guard. `hybrid` and `hybrid_rrf` rank the 200 best" in remade(m3, full)
