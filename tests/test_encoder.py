"""Text to vectors: pooling, padding, instructions, scores, and what is never served stale."""

from __future__ import annotations

import dataclasses
import doctest
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bgetune import heads, scores
from bgetune.config import JobConfig, ModelConfig
from bgetune.data import Texts
from bgetune.encode import encode, encode_once
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.files import read_json
from bgetune.heads import HeadLayers
from bgetune.index.dense import DenseIndex
from bgetune.layout import EncoderSpec
from bgetune.scores import dense_scores
from tests import tiny
from tests.tiny import shards_in

TEXTS = ["heart pain", "what does the drug cure for lung and liver and skin", "bone", "risk sign " * 8, "0 1 2 3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("model"))


def settings(folder: Path, **options: object) -> ModelConfig:
    lengths = {"query_max_length": 16, "passage_max_length": 32}
    return ModelConfig(name_or_path=str(folder), **{**lengths, **options})  # type: ignore[arg-type]


def job(folder: Path, **options: object) -> JobConfig:
    return JobConfig(encode_precision="fp32", model=settings(folder, **options))


def texts_of(texts: list[str]) -> Texts:
    return Texts([f"t{i}" for i in range(len(texts))], texts, [], Path("texts.jsonl"), list(range(1, len(texts) + 1)))


def run(encoder: Encoder, texts: list[str], config: JobConfig, role: str = "passage") -> np.ndarray:
    return encode(encoder, texts_of(texts), role, config, "test").vectors


@pytest.mark.parametrize("module", [heads, scores])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def plain(encoder: Encoder, text: str, pooling: str, normalize: bool, limit: int = 32) -> np.ndarray:
    """One text by itself, straight from the backbone, in numpy."""
    ids = encoder.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = encoder.backbone(input_ids=ids).last_hidden_state[0].numpy().astype(np.float64)
    vector = {"cls": states[0], "mean": states.mean(axis=0), "max": states.max(axis=0)}[pooling]
    return vector / np.linalg.norm(vector) if normalize else vector


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling_equals_the_plain_way_for_each_text_alone(folder, pooling, normalize):
    config = job(folder, pooling=pooling, normalize=normalize)
    encoder = Encoder.load(config.model)
    found = run(encoder, TEXTS, config)
    expected = np.stack([plain(encoder.eval(), text, pooling, normalize) for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_a_text_gets_the_same_vector_in_any_company(folder, pooling, budget):
    config = dataclasses.replace(job(folder, pooling=pooling), encode_batch_tokens=budget)
    encoder = Encoder.load(config.model)
    together = run(encoder, TEXTS, config)
    alone = np.concatenate([run(encoder, [text], config) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_encoding_is_without_dropout_and_leaves_the_mode_as_it_was(folder):
    config = job(folder)
    encoder = Encoder.load(config.model)
    encoder.train()
    assert np.array_equal(run(encoder, TEXTS, config), run(encoder, TEXTS, config))
    assert encoder.training


def test_instructions_are_put_before_their_role_only(folder):
    config = job(folder, query_instruction="what does ", passage_instruction="the ")
    plain_config = job(folder)
    with_them, without = Encoder.load(config.model), Encoder.load(plain_config.model)
    for role, instruction in (("query", "what does "), ("passage", "the ")):
        expected = run(without, [instruction + text for text in TEXTS], plain_config, role)
        np.testing.assert_array_equal(run(with_them, TEXTS, config, role), expected)
        assert not np.allclose(expected, run(without, TEXTS, plain_config, role))


def test_titles_come_before_texts(folder):
    config = job(folder)
    encoder = Encoder.load(config.model)
    titled = Texts(["a", "b"], ["pain", "cure"], ["heart", ""])
    np.testing.assert_array_equal(
        encode(encoder, titled, "passage", config, "test").vectors, run(encoder, ["heart pain", "cure"], config)
    )


# -- scores


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_training_scores_are_the_scores_of_search(similarity):
    """What the loss sees must be what retrieval ranks by."""
    draw = np.random.default_rng(0)
    queries, passages = (draw.normal(size=(n, 8)).astype(np.float32) for n in (6, 40))
    found, rows = DenseIndex.build(passages, similarity).search(queries, 40)
    ours = dense_scores(torch.from_numpy(queries), torch.from_numpy(passages), similarity).numpy()
    np.testing.assert_allclose(np.take_along_axis(ours, rows, axis=1), found, atol=2e-5)
    np.testing.assert_array_equal(np.argsort(-ours, axis=1, kind="stable")[:, :5], rows[:, :5])
    assert (np.diff(found, axis=1) <= 0).all()  # higher is nearer, for each similarity


def test_euclidean_gradient_is_finite_at_distance_zero_and_right_elsewhere():
    same = torch.tensor([[1.0, 2.0]], requires_grad=True)
    dense_scores(same, torch.tensor([[1.0, 2.0], [4.0, 6.0]]), "euclidean").sum().backward()
    torch.testing.assert_close(same.grad, torch.tensor([[0.6, 0.8]]))  # the other passage's alone
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.randn((n, 3), generator=generator, dtype=torch.float64, requires_grad=True) for n in (2, 4))
    for similarity in ("cosine", "dot", "euclidean"):
        assert torch.autograd.gradcheck(lambda a, b, s=similarity: dense_scores(a, b, s), (q, p))


# -- hashes and the store of vectors


def test_the_hash_of_the_weights_sees_one_weight_and_the_spec(folder):
    encoder = Encoder.load(settings(folder))
    before = encoder.weights_hash()
    assert Encoder.load(settings(folder)).weights_hash() == before
    assert Encoder.load(settings(folder, pooling="mean")).weights_hash() != before
    assert Encoder.load(settings(folder, query_instruction="x")).weights_hash() != before
    with torch.no_grad():
        weight = next(encoder.backbone.parameters())
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert encoder.weights_hash() != before


def test_vectors_are_never_stale(folder, tmp_path):
    """FlagEmbedding and sentence-transformers name their caches after the model's folder (peers, rows 16 and 17)."""
    config = job(folder)
    encoder = Encoder.load(config.model)

    def once(texts: list[str], role: str = "passage") -> np.ndarray:
        return encode_once(encoder, texts_of(texts), role, config, "test", tmp_path).vectors

    first = once(TEXTS)
    assert len(shards_in(tmp_path)) == 1
    np.testing.assert_array_equal(once(TEXTS), first)
    assert len(shards_in(tmp_path)) == 1
    swapped = once(TEXTS[::-1])
    np.testing.assert_allclose(swapped, first[::-1], atol=1e-6)
    changed = once([*TEXTS[:-1], "heart"])
    assert not np.allclose(changed[-1], first[-1])
    assert len(shards_in(tmp_path)) == 3
    with torch.no_grad():
        for parameter in encoder.backbone.parameters():
            parameter.mul_(1.5)
    moved = once(TEXTS)  # same texts, same folder, same names: other weights
    np.testing.assert_array_equal(moved, run(encoder, TEXTS, config))
    assert not np.allclose(moved, first)


def test_the_store_is_used(folder, tmp_path, monkeypatch):
    config = job(folder)
    encoder = Encoder.load(config.model)
    kept = encode_once(encoder, texts_of(TEXTS), "passage", config, "test", tmp_path)
    monkeypatch.setattr("bgetune.encode._encode", None)  # cannot be called
    again = encode_once(encoder, texts_of(TEXTS), "passage", config, "test", tmp_path)
    np.testing.assert_array_equal(again.vectors, kept.vectors)


# -- overlong texts


def test_what_is_cut_is_said(folder, caplog):
    config = job(folder)
    with caplog.at_level(logging.INFO, logger="bgetune"):
        run(Encoder.load(config.model), [*TEXTS, "pain " * 40], config)
    assert "1 of 6 texts (16.7 %) are longer than model.passage_max_length (32 tokens) and are cut" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="bgetune"):
        run(Encoder.load(config.model), TEXTS, config)
    assert caplog.text == ""


def test_overlong_error_names_file_and_line(folder):
    config = job(folder, overlong="error")
    long = ["pain", "pain " * 30, "pain " * 31]  # with [CLS] and [SEP]: 3, 32 and 33 tokens
    with pytest.raises(UserError, match=r"^texts\.jsonl:3: the text is longer than model\.passage_max_length \(32"):
        run(Encoder.load(config.model), long, config)


def test_an_index_that_cannot_be_built_is_one_line():
    with pytest.raises(UserError, match="index: FAISS cannot build 'Nonsense' over 4 vectors"):
        DenseIndex.build(np.eye(4, dtype=np.float32), "dot", "Nonsense")


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "mpnet", "distilbert", "electra", "modernbert", "deberta-v2"])
def test_embeddings_looked_up_before_give_the_same_states(kind):
    """The training step looks them up once; RoBERTa's kin take positions from the ids, which they then do not see."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    backbone = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=60, **sizes, **special)).eval()
    ids = torch.randint(5, 60, (3, 9))
    mask = torch.tensor([[1] * 5 + [0] * 4, [1] * 9, [1] * 2 + [0] * 7])
    ids[mask == 0] = 1
    tokenizer = SimpleNamespace(all_special_ids=[0, 1, 2], cls_token_id=0)
    spec = EncoderSpec("mean", True, "cosine", "", "", 64, 64)
    encoder = Encoder(backbone, tokenizer, spec, HeadLayers(), ("dense",))
    with torch.no_grad():
        assert torch.equal(
            encoder(ids, mask).dense, encoder(ids, mask, embedded=backbone.get_input_embeddings()(ids)).dense
        )


def test_a_saved_tokenizer_has_a_class_that_every_transformers_knows(tmp_path):
    encoder = Encoder.load_folder(tiny.m3(tmp_path / "m3"), ModelConfig())
    encoder.save(tmp_path / "saved")
    assert read_json(tmp_path / "saved" / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
