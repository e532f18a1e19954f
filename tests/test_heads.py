"""The three heads: which tokens count, what becomes of them, MCLS, and files that FlagEmbedding reads as we do."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from bgetune.config import ModelConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.head_files import HEADS_FILE, read_heads, write_heads
from bgetune.heads import MCLS_EVERY, HeadLayers, plan_tokens
from bgetune.representations import Representations
from tests import tiny

WIDTH = 16
TEXTS = [
    "heart",
    "heart pain and heart cure heart",
    "what does the drug cure for lung and liver and skin",
    "unheard words unheard of",
    "0 1 2 3 2 1 0",
]


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT to which heads were added: random weights, and a bias, so that nothing is right by chance."""
    folder = tiny.model(tmp_path_factory.mktemp("bert"))
    write_heads(folder, some_heads())
    return folder


def some_heads(names: tuple[str, ...] = ("sparse_linear", "colbert_linear"), seed: int = 3) -> HeadLayers:
    torch.manual_seed(seed)
    layers = {"sparse_linear": nn.Linear(WIDTH, 1), "colbert_linear": nn.Linear(WIDTH, WIDTH)}
    nn.init.constant_(layers["sparse_linear"].bias, 0.2)
    return HeadLayers(**{name: layers[name] for name in names})


def load(folder: Path, query: int = 32, passage: int = 64, **options: Any) -> Encoder:
    config = ModelConfig(name_or_path=str(folder), query_max_length=query, passage_max_length=passage, **options)
    return Encoder.load(config).eval()


def represent(encoder: Encoder, texts: list[str], role: str = "passage") -> Representations:
    ids, mask = encoder.pad(encoder.tokenize(texts, role)[0])
    with torch.no_grad():
        return encoder(ids, mask)


def by_text(found: Representations) -> tuple[list[dict[int, float]], list[np.ndarray]]:
    """Lexical weights as a dict a text, zeros left out, and token vectors as a matrix a text."""
    assert found.sparse is not None
    assert found.multi_vector is not None
    lexical, vectors = [], []
    for i in range(len(found.sparse)):
        at = slice(*found.sparse.offsets[i : i + 2].tolist())
        pairs = zip(found.sparse.ids[at].tolist(), found.sparse.weights[at].tolist(), strict=True)
        lexical.append({token: weight for token, weight in pairs if weight > 0})
        vectors.append(found.multi_vector.vectors[slice(*found.multi_vector.offsets[i : i + 2].tolist())].numpy())
    return lexical, vectors


# -- which tokens count


def test_a_plan_by_hand() -> None:
    cls, sep, pad, unk = 0, 2, 1, 3
    ids = torch.tensor([[cls, 7, 5, 7, sep, pad], [cls, sep, pad, pad, pad, pad], [cls, unk, 9, 9, 5, sep]])
    mask = torch.tensor([[1] * 5 + [0], [1] * 2 + [0] * 4, [1] * 6])
    plan = plan_tokens(ids, mask, special=torch.tensor([cls, pad, sep, unk]), cls_id=cls)
    assert plan.cls_at.tolist() == [[i == 0 for i in range(6)]] * 3
    assert plan.multi_at.tolist() == [1, 2, 3, 4, 7, 13, 14, 15, 16, 17]  # UNK and SEP have a vector
    assert plan.multi_offsets.tolist() == [0, 4, 5, 10]
    assert plan.sparse_at.tolist() == [1, 2, 3, 14, 15, 16]
    assert plan.sparse_ids.tolist() == [5, 7, 5, 9]
    assert plan.sparse_offsets.tolist() == [0, 2, 2, 4]
    assert plan.sparse_ids[plan.sparse_entry].tolist() == ids.flatten()[plan.sparse_at].tolist()


def test_a_plan_without_words_or_without_a_cls_token() -> None:
    ids, mask = torch.tensor([[4, 5], [4, 4]]), torch.tensor([[1, 1], [1, 0]])
    plan = plan_tokens(ids, mask, special=torch.tensor([], dtype=torch.int64), cls_id=None)
    assert (plan.multi_at.tolist(), plan.sparse_ids.tolist()) == ([0, 1, 2], [4, 5, 4])
    assert not plan.cls_at.any()
    empty = plan_tokens(ids, mask, special=torch.tensor([4, 5]), cls_id=4)
    assert (empty.sparse_ids.tolist(), empty.sparse_offsets.tolist()) == ([], [0, 0, 0])
    assert (empty.multi_at.tolist(), empty.multi_offsets.tolist()) == ([1], [0, 1, 1])


def test_special_tokens_are_those_of_the_tokenizers_own_list(m3: Path, bert: Path) -> None:
    for folder in (m3, bert):
        encoder = load(folder)
        special = set(encoder.tokenizer.all_special_ids)
        assert special >= {encoder.tokenizer.unk_token_id, encoder.tokenizer.sep_token_id}
        found = represent(encoder, TEXTS)
        assert found.sparse is not None
        assert not special & set(found.sparse.ids.tolist())
        # "unheard" is no word of the tiny vocabulary
        assert len(by_text(found)[0][3]) == 0


def naive(encoder: Encoder, text: str) -> tuple[np.ndarray, dict[int, float], np.ndarray]:
    """One text by itself, token after token, in float64."""
    ids = encoder.tokenizer(text)["input_ids"]
    with torch.no_grad():
        states = encoder.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()

    def apply(linear: nn.Linear | None, state: np.ndarray) -> np.ndarray:
        assert linear is not None
        return linear.weight.detach().double().numpy() @ state + linear.bias.detach().double().numpy()

    lexical: dict[int, float] = {}
    vectors = []
    for token, state in zip(ids, states, strict=True):
        weight = max(0.0, apply(encoder.layers.sparse_linear, state).item())
        if token not in encoder.tokenizer.all_special_ids and weight > lexical.get(token, 0.0):
            lexical[token] = weight
        if token != encoder.tokenizer.cls_token_id:
            vector = apply(encoder.layers.colbert_linear, state)
            vectors.append(vector / np.linalg.norm(vector))
    return states[0] / np.linalg.norm(states[0]), lexical, np.stack(vectors)


@pytest.mark.parametrize("name", ["m3", "bert"])
def test_representations_equal_a_loop_over_the_tokens_of_each_text_alone(name: str, request: Any) -> None:
    encoder = load(request.getfixturevalue(name))
    found = represent(encoder, TEXTS)
    lexical, vectors = by_text(found)
    assert found.dense is not None
    assert any(lexical)
    for i, text in enumerate(TEXTS):
        dense, expected, expected_vectors = naive(encoder, text)
        np.testing.assert_allclose(found.dense[i], dense, atol=1e-6)
        assert lexical[i] == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(vectors[i], expected_vectors, atol=1e-5)


def test_a_repeated_token_passes_its_gradient_to_the_largest_alone() -> None:
    layers = some_heads()
    assert layers.sparse_linear is not None
    with torch.no_grad():
        layers.sparse_linear.weight.fill_(1.0)
    ids = torch.tensor([[5, 5, 6]])
    plan = plan_tokens(ids, torch.ones_like(ids), torch.tensor([0]), cls_id=0)
    hidden = torch.zeros(1, 3, WIDTH)
    hidden[0, :, 0] = torch.tensor([1.0, 3.0, -9.0])
    hidden.requires_grad_()
    found = layers.represent(hidden, torch.ones_like(ids), plan, ["sparse"], "cls", True).sparse
    assert found is not None
    assert found.weights.tolist() == pytest.approx([3.2, 0.0])
    found.weights.sum().backward()
    assert hidden.grad[0, :, 0].tolist() == [0.0, 1.0, 0.0]


def test_token_vectors_keep_their_length_where_normalize_is_off(m3: Path) -> None:
    found = represent(load(m3, normalize=False), TEXTS)
    assert found.multi_vector is not None
    lengths = found.multi_vector.vectors.norm(dim=1)
    assert (lengths - 1).abs().max() > 0.1
    unit = represent(load(m3), TEXTS).multi_vector
    assert unit is not None
    torch.testing.assert_close(found.multi_vector.vectors / lengths[:, None], unit.vectors)


# -- MCLS: a CLS token before every 256 tokens


@pytest.fixture(scope="module")
def long(m3: Path) -> Encoder:
    return load(m3, 8192, 8192, pooling="mcls")


def limited(encoder: Encoder, limit: int, pooling: str = "mcls") -> Encoder:
    """The same encoder, told another maximum."""
    told = copy.copy(encoder)
    told.spec = dataclasses.replace(encoder.spec, pooling=pooling, passage_max_length=limit)
    return told


def check_mcls(encoder: Encoder, limit: int, words: int) -> None:
    vocabulary = [*tiny.TOPICS, *tiny.WORDS]
    text = " ".join(vocabulary[i * i % len(vocabulary)] for i in range(words))
    (ids,), cut = limited(encoder, limit).tokenize([text], "passage")
    cls, sep = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
    assert len(ids) <= limit
    at = [i for i, token in enumerate(ids) if token == cls]
    assert at == list(range(0, len(ids), MCLS_EVERY + 1))
    assert len(ids) - 1 not in at[1:]  # each opens a block that is not empty
    body = [token for token in ids if token != cls]
    assert body[-1] == sep
    whole = encoder.tokenizer(text)["input_ids"][1:-1]
    assert body[:-1] == whole[: len(body) - 1]
    # cut only where one token more, and the CLS it may bring, would not fit
    more = len(body) + 1
    fits = more + -(-more // MCLS_EVERY) <= limit
    assert (len(body) - 1 == len(whole)) or not fits
    assert bool(cut) == (len(body) - 1 < len(whole))


@pytest.mark.parametrize("limit", [3, 4, 256, 257, 258, 259, 260, 513, 514, 515, 516, 517, 771, 772, 773])
def test_mcls_inserts_within_the_limit(long: Encoder, limit: int) -> None:
    for words in (1, 254, 255, 256, 257, 258, 511, 512, 513, 800):
        check_mcls(long, limit, words)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(limit=st.integers(3, 1600), words=st.integers(1, 1600))
def test_mcls_for_any_limit_and_length(long: Encoder, limit: int, words: int) -> None:
    check_mcls(long, limit, words)


def test_mcls_pools_by_the_mean_over_its_cls_states(long: Encoder) -> None:
    texts = ["heart pain " * 300, "lung", "drug cure " * 128]
    token_ids = long.tokenize(texts, "passage")[0]
    found = represent(long, texts).dense
    assert found is not None
    for i, ids in enumerate(token_ids):
        with torch.no_grad():
            states = long.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        mean = states[:: MCLS_EVERY + 1].mean(axis=0)
        np.testing.assert_allclose(found[i], mean / np.linalg.norm(mean), atol=1e-6)
    assert [len(ids) for ids in token_ids] == [1 + 600 + 1 + 2, 3, 1 + 256 + 1 + 1]


def test_mcls_drops_every_cls_from_the_other_heads(long: Encoder) -> None:
    (ids,), _ = long.tokenize(["heart pain " * 300], "passage")
    found = represent(long, ["heart pain " * 300])
    assert found.multi_vector is not None
    assert found.sparse is not None
    assert len(found.multi_vector.vectors) == len(ids) - ids.count(long.tokenizer.cls_token_id)
    assert len(found.sparse.ids) == 2


def test_short_texts_are_the_same_with_mcls_as_with_cls(long: Encoder) -> None:
    texts = [*TEXTS, "heart pain cure risk sign " * 51]  # 255 words and SEP
    plain = limited(long, 8192, "cls")
    assert long.tokenize(texts, "passage") == plain.tokenize(texts, "passage")
    torch.testing.assert_close(represent(long, texts).dense, represent(plain, texts).dense, rtol=0, atol=1e-6)


# -- files


def test_heads_are_read_from_either_kind_of_file(tmp_path: Path) -> None:
    layers = some_heads()
    write_heads(tmp_path, layers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colbert_linear.pt", HEADS_FILE, "sparse_linear.pt"]
    expected = layers.state_dict()
    for gone in ([], [HEADS_FILE], ["sparse_linear.pt"], ["colbert_linear.pt", "sparse_linear.pt"]):
        folder = tmp_path / "-".join(["without", *gone])
        folder.mkdir()
        for path in tmp_path.glob("*.*"):
            if path.is_file() and path.name not in gone:
                (folder / path.name).write_bytes(path.read_bytes())
        found = read_heads(folder, WIDTH).state_dict()
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["sparse_linear", "colbert_linear"])
def test_one_head_alone_is_no_pt_file(tmp_path: Path, name: str) -> None:
    """FlagEmbedding, given one, would take random weights for both."""
    write_heads(tmp_path, some_heads((name,)))
    assert [path.name for path in tmp_path.iterdir()] == [HEADS_FILE]
    found = read_heads(tmp_path, WIDTH)
    assert {key.partition(".")[0] for key in found.state_dict()} == {name}
    write_heads(tmp_path / "none", HeadLayers())
    assert not (tmp_path / "none").exists()


def test_a_head_without_a_bias_has_one_of_zero(tmp_path: Path) -> None:
    save_file({"sparse_linear.weight": torch.ones(1, WIDTH)}, tmp_path / HEADS_FILE)
    found = read_heads(tmp_path, WIDTH)
    assert found.sparse_linear is not None
    assert found.sparse_linear.bias.tolist() == [0.0]
    assert found.colbert_linear is None


def test_half_precision_files_are_read_in_float32(tmp_path: Path) -> None:
    layers = some_heads()
    write_heads(tmp_path, layers, torch.bfloat16)
    assert load_file(tmp_path / HEADS_FILE)["sparse_linear.bias"].dtype == torch.bfloat16
    for name, tensor in read_heads(tmp_path, WIDTH).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, layers.state_dict()[name].bfloat16().float())


class Runs:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


GOOD = {"weight": torch.ones(1, WIDTH), "bias": torch.ones(1)}
BROKEN: dict[str, tuple[Any, str]] = {
    "another model's": ({"weight": torch.ones(1, 32)}, r"sparse_linear in .* has the shape \[1, 32\], not \[width, 16"),
    "two weights a token": ({"weight": torch.ones(2, WIDTH)}, r"gives 2 weights a token, not one"),
    "no matrix": ({"weight": torch.ones(WIDTH)}, r"has the shape \[16\]"),
    "no weight": ({"bias": torch.ones(1)}, r"has no matrix"),
    "something else too": ({**GOOD, "scale": torch.ones(1)}, r"sparse_linear"),
    "a long bias": ({**GOOD, "bias": torch.ones(3)}, r"sparse_linear"),
    "a bias that is none": ({**GOOD, "bias": 1.0}, r"sparse_linear"),
    "nothing": (None, r"sparse_linear"),
    "a number": (3, r"sparse_linear"),
    "a tensor alone": (torch.ones(1, WIDTH), r"sparse_linear"),
    "a list": ([torch.ones(1, WIDTH)], r"sparse_linear"),
    "numbers for a matrix": ({"weight": [1.0] * WIDTH}, r"sparse_linear"),
    "code": (Runs(), r"sparse_linear\.pt cannot be read: "),
    "code beside the weights": ({**GOOD, "more": Runs()}, r"sparse_linear\.pt cannot be read: "),
}


def refused(folder: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        read_heads(folder, WIDTH)
    assert str(caught.value).startswith("model.name_or_path: ")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_head_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, pattern = BROKEN[what]
    torch.save(content, tmp_path / "sparse_linear.pt")
    refused(tmp_path, pattern)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("name", ["sparse_linear.pt", HEADS_FILE])
@pytest.mark.parametrize("how", ["empty", "text", "half", "zeros", "a bit flipped", "a page of the Hub"])
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, how: str) -> None:
    write_heads(tmp_path, some_heads())
    path = tmp_path / name
    whole = path.read_bytes()
    if name == HEADS_FILE:
        for other in tmp_path.glob("*.pt"):
            other.unlink()
    broken = {
        "empty": b"",
        "text": b"hello",
        "half": whole[: len(whole) // 2],
        "zeros": bytes(len(whole)),
        "a bit flipped": bytes([whole[0] ^ 1]) + whole[1:],
        "a page of the Hub": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    }
    path.write_bytes(broken[how])
    refused(tmp_path, rf"{name} cannot be read")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=24))
def test_any_bytes_are_one_line_and_not_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-bytes"
    folder.mkdir(exist_ok=True)
    (folder / "sparse_linear.pt").write_bytes(content)
    refused(folder, r"sparse_linear")


# -- heads asked for, absent, carried


def test_a_head_that_is_asked_for_and_absent_is_named(m3: Path, tmp_path: Path) -> None:
    plain = tiny.model(tmp_path)
    assert load(plain).heads == ("dense",)
    asked = load(plain, heads=("multi_vector", "dense", "sparse"))
    assert asked.heads == ("dense", "sparse", "multi_vector")
    assert asked.absent_heads == ("sparse", "multi_vector")
    assert load(m3).absent_heads == ()
    filled = Encoder.load(
        ModelConfig(name_or_path=str(plain), passage_max_length=64, heads=("dense", "sparse")), heads_from=m3
    )
    assert (filled.heads, filled.absent_heads) == (("dense", "sparse"), ())
    assert filled.layers.sparse_linear is not None
    assert torch.equal(filled.layers.sparse_linear.weight, torch.load(m3 / "sparse_linear.pt")["weight"])


def test_a_models_own_heads_are_not_replaced(m3: Path, tmp_path: Path) -> None:
    write_heads(tmp_path, some_heads())
    told = ModelConfig(name_or_path=str(m3))
    assert Encoder.load(told, heads_from=tmp_path).weights_hash() == Encoder.load(told).weights_hash()


def test_another_width_of_token_vectors_is_one_line(m3: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^model\.multi_vector_dim: 8, but the checkpoint's .* gives 16 numbers a token"
    ):
        load(m3, multi_vector_dim=8)
    assert load(tiny.model(tmp_path), multi_vector_dim=8).heads == ("dense",)


def test_heads_that_are_not_asked_for_are_carried_through(m3: Path, tmp_path: Path) -> None:
    dense = load(m3, heads=("dense",))
    assert dense.heads == ("dense",)
    found = represent(dense, TEXTS)
    assert (found.sparse, found.multi_vector) == (None, None)
    dense.save(tmp_path)
    again = load(tmp_path)
    assert again.heads == ("dense", "sparse", "multi_vector")
    for name in ("sparse_linear", "colbert_linear"):
        ours, theirs = torch.load(tmp_path / f"{name}.pt"), torch.load(m3 / f"{name}.pt")
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert set(ours) == set(theirs)


def test_saving_twice_gives_the_same_bytes(bert: Path, tmp_path: Path) -> None:
    encoder = load(bert)
    before = encoder.weights_hash()
    folders = [tmp_path / name for name in ("one", "another-name")]
    for folder in folders:
        encoder.save(folder)
    load(folders[0]).save(tmp_path / "third")
    one, two, three = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (*folders, tmp_path / "third")
    )
    assert one == two
    assert one == three
    assert encoder.weights_hash() == before
    assert load(folders[0]).weights_hash() == load(tmp_path / "third").weights_hash()


@pytest.mark.parametrize("name", ["sparse_linear", "colbert_linear"])
def test_the_hash_sees_a_heads_weights(m3: Path, name: str) -> None:
    encoder = load(m3)
    before = encoder.weights_hash()
    weight = getattr(encoder.layers, name).weight
    with torch.no_grad():
        weight[0, 3] = torch.nextafter(weight[0, 3], torch.tensor(9.0))
    assert encoder.weights_hash() != before
    without = load(m3)
    setattr(without.layers, name, None)
    assert without.weights_hash() not in (before, encoder.weights_hash())


# -- FlagEmbedding reads what we write


def test_a_bert_with_a_sparse_head_has_an_eos_token(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    load(bert).save(tmp_path / "heads")
    saved = AutoTokenizer.from_pretrained(tmp_path / "heads")
    assert (saved.eos_token, saved.eos_token_id) == ("[SEP]", saved.sep_token_id)
    load(tiny.model(tmp_path / "plain")).save(tmp_path / "plain-saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "plain-saved").eos_token is None


@pytest.mark.parametrize("name", ["m3", "bert"])
def test_flagembedding_gives_our_representations(name: str, request: Any, tmp_path: Path) -> None:
    from FlagEmbedding import BGEM3FlagModel

    trained = load(request.getfixturevalue(name))
    with torch.no_grad():  # other weights than those that were loaded
        for parameter in trained.parameters():
            parameter.mul_(1.1)
    trained.save(tmp_path)
    expected = represent(trained, TEXTS)
    lexical, vectors = by_text(expected)
    theirs = BGEM3FlagModel(str(tmp_path), use_fp16=False, devices="cpu").encode_corpus(
        TEXTS, batch_size=8, max_length=64, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    np.testing.assert_allclose(theirs["dense_vecs"], expected.dense, atol=1e-5)
    found = [{int(token): float(weight) for token, weight in row.items()} for row in theirs["lexical_weights"]]
    for ours, row, matrix, their_matrix in zip(lexical, found, vectors, theirs["colbert_vecs"], strict=True):
        assert row == pytest.approx(ours, abs=1e-5)
        assert their_matrix.shape == matrix.shape
        np.testing.assert_allclose(their_matrix, matrix, atol=1e-5)
    assert any(lexical)
    again = represent(load(tmp_path), TEXTS)
    assert again.dense is not None
    torch.testing.assert_close(again.dense, expected.dense)
