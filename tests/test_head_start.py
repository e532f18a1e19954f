"""Heads that a checkpoint lacks start in closed form: the right numbers, the same ones each time, never random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bgetune.config import HEADS, JobConfig, ModelConfig
from bgetune.data import Texts, read_texts
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.head_files import heads_state
from bgetune.head_start import Moments, inverse_frequency, principal, ridge, start_heads, typical_size
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return read_texts(tiny.domain(tmp_path_factory.mktemp("domain")) / "corpus.jsonl", with_titles=True)


def _config(folder: Path, **model: object) -> JobConfig:
    settings = {"query_max_length": 16, "passage_max_length": 32, "heads": HEADS, **model}
    return JobConfig(encode_precision="fp32", model=ModelConfig(name_or_path=str(folder), **settings))  # type: ignore[arg-type]


def _started(config: JobConfig, corpus: Texts) -> tuple[Encoder, list[str]]:
    encoder = Encoder.load(config.model)
    return encoder, start_heads(encoder, corpus, config)


def _states(encoder: Encoder, corpus: Texts) -> tuple[torch.Tensor, torch.Tensor]:
    """States [T, H] and ids [T] of the words of all passages."""
    ids, mask = encoder.pad(encoder.tokenize(corpus.full_texts(), "passage")[0])
    with torch.no_grad():
        states = encoder.eval().backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    at = encoder.plan(ids, mask).sparse_at
    return states.flatten(0, 1)[at], ids.flatten()[at]


def test_both_heads_are_there_and_each_has_its_line(folder: Path, corpus: Texts) -> None:
    encoder, lines = _started(_config(folder), corpus)
    assert encoder.absent_heads == ()
    assert all(tensor.dtype == torch.float32 and tensor.requires_grad for tensor in encoder.layers.parameters())
    assert lines[0].startswith("sparse head: ridge regression to the IDF of 60 passages (R^2 0.")
    assert lines[1:] == ["multi-vector head: the identity (16)"]


def test_the_identity_leaves_token_states_as_they_are(folder: Path, corpus: Texts) -> None:
    encoder, _ = _started(_config(folder, normalize=False), corpus)
    ids, mask = encoder.pad(encoder.tokenize(corpus.full_texts()[:5], "passage")[0])
    with torch.no_grad():
        states = encoder.eval().backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        found = encoder(ids, mask).multi_vector
    assert torch.equal(found.vectors, states.flatten(0, 1)[encoder.plan(ids, mask).multi_at])


@pytest.mark.parametrize("strength", [0.0, 0.01, 2.0])
def test_ridge_is_the_closed_form_with_a_free_intercept(strength: float) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(3.0, 2.0, (50, 4)), draw.normal(5.0, 1.0, 50)
    moments = Moments(4)
    for rows in (slice(0, 20), slice(20, 50)):  # as batches come
        moments.add(torch.tensor(x[rows]), torch.tensor(y[rows]))
    weight, bias, explained = ridge(moments, strength)
    # the same by least squares: a row for each weight asks it to be 0; the intercept's column has none
    root = np.sqrt(50 * strength * x.var(axis=0).mean())
    augmented = np.block([[x, np.ones((50, 1))], [root * np.eye(4), np.zeros((4, 1))]])
    expected = np.linalg.lstsq(augmented, np.r_[y, np.zeros(4)], rcond=None)[0]
    np.testing.assert_allclose(np.r_[weight, bias], expected, rtol=1e-9)
    residual = x @ weight.numpy() + float(bias) - y
    assert explained == pytest.approx(1 - residual.var() / y.var(), abs=1e-9)
    assert typical_size(moments, weight, bias) == pytest.approx(np.sqrt(((residual + y) ** 2).mean()))


def test_lexical_weights_follow_the_idf_and_have_the_typical_size(folder: Path, corpus: Texts) -> None:
    encoder, lines = _started(_config(folder), corpus)
    states, ids = _states(encoder, corpus)
    frequency = torch.zeros(len(encoder.tokenizer))
    for row in encoder.tokenize(corpus.full_texts(), "passage")[0]:
        frequency[list(set(row))] += 1
    idf = inverse_frequency(frequency, len(corpus))[ids]
    with torch.no_grad():
        weights = encoder.layers.sparse_linear(states).squeeze(1)
    correlation = float(torch.corrcoef(torch.stack([weights.double(), idf]))[0, 1])
    # 0.55: random states of 16 numbers tell no more of the tokens' frequency
    assert correlation > 0.5
    # with an intercept and next to no penalty, R^2 is the square of the correlation
    explained = float(lines[0].rpartition("R^2 ")[2].rstrip(")"))
    assert explained == pytest.approx(correlation**2, abs=0.02)
    assert float(weights.square().mean().sqrt()) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("width", [None, 6])
def test_two_runs_give_the_same_bytes_and_draw_no_random_number(folder: Path, corpus: Texts, width: int | None) -> None:
    found = []
    for seed in (0, 1):
        encoder = Encoder.load(_config(folder).model)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        encoder.train()
        start_heads(encoder, corpus, _config(folder, multi_vector_dim=width))
        assert torch.equal(before, torch.get_rng_state())
        assert encoder.training
        found.append({name: tensor.numpy().tobytes() for name, tensor in heads_state(encoder.layers).items()})
    assert found[0] == found[1]


def test_the_order_of_the_corpus_does_not_matter(folder: Path, corpus: Texts) -> None:
    turned = corpus.take(range(len(corpus))[::-1])
    states = [heads_state(_started(_config(folder), texts)[0].layers) for texts in (corpus, turned)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_narrow_head_keeps_inner_products_better_than_a_random_projection(folder: Path, corpus: Texts) -> None:
    encoder, lines = _started(_config(folder, multi_vector_dim=6), corpus)
    assert lines[1].startswith("multi-vector head: PCA of the passages' mean states, 16 -> 6, keeps ")
    linear = encoder.layers.colbert_linear
    assert linear.weight.shape == (6, 16)
    assert not linear.bias.any()
    torch.testing.assert_close(linear.weight @ linear.weight.T, torch.eye(6), atol=1e-5, rtol=0)
    ids, mask = encoder.pad(encoder.tokenize(corpus.full_texts(), "passage")[0])
    with torch.no_grad():
        states = encoder.eval().backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    means = (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    means -= means.mean(dim=0)

    def lost(projection: torch.Tensor) -> float:
        projected = means @ projection.T
        return float((projected @ projected.T - means @ means.T).square().mean())

    generator = torch.Generator().manual_seed(0)
    random = [torch.linalg.qr(torch.randn(16, 6, generator=generator))[0].T for _ in range(20)]
    with torch.no_grad():
        assert lost(linear.weight) < 0.5 * min(map(lost, random))


def test_principal_directions_are_complete_where_there_is_no_variance() -> None:
    directions, kept = principal(torch.diag(torch.tensor([0.0, 2.0, 0.0, 0.0], dtype=torch.float64)), 3)
    torch.testing.assert_close(directions @ directions.T, torch.eye(3, dtype=torch.float64))
    assert kept == pytest.approx(1.0)


def test_one_passage_is_enough(folder: Path) -> None:
    # all IDF are equal and there are fewer tokens than hidden numbers: every word weighs the same
    encoder, lines = _started(_config(folder, multi_vector_dim=6), Texts(["a"], ["heart pain cure"]))
    assert lines[0] == "sparse head: ridge regression to the IDF of 1 passages (R^2 1.00)"
    states, _ = _states(encoder, Texts(["a"], ["heart pain cure"]))
    with torch.no_grad():
        weights = encoder.layers.sparse_linear(states).flatten()
    torch.testing.assert_close(weights, torch.full((3,), 0.2))
    assert encoder.layers.colbert_linear.weight.isfinite().all()


@pytest.mark.parametrize("texts", [Texts([], []), Texts(["a"], ["unheard words only"])])
def test_a_corpus_without_words_is_refused(folder: Path, texts: Texts) -> None:
    with pytest.raises(UserError, match=r"no passage has a word .* set model.heads: \[dense\]"):
        _started(_config(folder), texts)


def test_a_wider_head_than_the_model_is_refused(folder: Path, corpus: Texts) -> None:
    with pytest.raises(UserError, match=r"model\.multi_vector_dim: 32 is more than the model's hidden size, 16"):
        _started(_config(folder, multi_vector_dim=32), corpus)


def test_heads_that_are_there_stay_untouched(folder: Path, corpus: Texts, tmp_path: Path) -> None:
    config = _config(folder)
    encoder, _ = _started(config, corpus)
    with torch.no_grad():
        encoder.layers.sparse_linear.weight.fill_(0.5)
    before = heads_state(encoder.layers)
    assert start_heads(encoder, corpus, config) == []
    # one head there, the other not: only the other is started, and the corpus is not read for the identity
    encoder.layers.colbert_linear = None
    assert start_heads(encoder, Texts([], []), config) == ["multi-vector head: the identity (16)"]
    after = heads_state(encoder.layers)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_dense_model_gets_no_heads(folder: Path, corpus: Texts) -> None:
    config = replace(_config(folder), model=replace(_config(folder).model, heads="auto"))
    encoder, lines = _started(config, corpus)
    assert lines == []
    assert encoder.heads == ("dense",)
    assert encoder.layers.sparse_linear is None
    assert encoder.layers.colbert_linear is None
