"""ONNX: one graph gives what every head gives, for any batch and length, with nothing of ours at hand."""

from __future__ import annotations

import contextlib
import doctest
import io
import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.config import ModelConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.export import onnx as ours
from bgetune.export import onnx_graph, onnx_int8, onnx_read
from bgetune.export.onnx import usage, write_onnx
from bgetune.export.onnx_graph import OPSET, traced
from bgetune.export.onnx_int8 import blocks_of, quantize
from bgetune.export.onnx_read import ONNX, ONNX_INT8, graph_path
from bgetune.export.reading import cosine_losses, differences, our_read
from bgetune.heads import HeadLayers
from bgetune.layout import EncoderSpec
from bgetune.maxsim import max_sim
from bgetune.representations import Representations
from bgetune.scores import dense_scores, sparse_scores
from tests import tiny

LONGEST = 1200
TEXTS = [
    "heart pain", "", "a", "heart heart 3 heart 4", "the drug cure for lung and liver " * 300, "[MASK] <mask> </s>",
    "東京 🙂", "what does the drug cure for lung and liver and skin", " risk\n\tsign ", "care " * 29,
]  # fmt: skip


def load(folder: Path, **options: Any) -> Encoder:
    return Encoder.load_folder(folder, ModelConfig(name_or_path=str(folder), **options)).to("cpu").eval()


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder]:
    """An export of a model with three heads, with both graphs."""
    encoder = load(tiny.m3(tmp_path_factory.mktemp("m3")), passage_max_length=LONGEST)
    folder = tmp_path_factory.mktemp("export")
    encoder.save(folder)
    write_onnx(folder, encoder, ["fp32", "int8"])
    return folder, load(folder, passage_max_length=LONGEST)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def asked(graph: onnxruntime.InferenceSession, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, np.ndarray]:
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}), strict=True))


def spread(found: Representations, ids: torch.Tensor, mask: torch.Tensor, encoder: Encoder) -> dict[str, np.ndarray]:
    """Our ragged representations of one text [1, L], with the graph's zeros; a repeated id has the largest weight."""
    special = set(encoder.tokenizer.all_special_ids)
    assert found.dense is not None
    assert found.sparse is not None
    assert found.multi_vector is not None
    weights = dict(zip(found.sparse.ids.tolist(), found.sparse.weights.tolist(), strict=True))
    vectors = np.zeros((ids.shape[1], found.multi_vector.vectors.shape[1]), dtype=np.float32)
    vectors[(ids[0] != encoder.tokenizer.cls_token_id).numpy()] = found.multi_vector.vectors.numpy()
    largest = np.array([0.0 if token in special else weights[token] for token in ids[0].tolist()], dtype=np.float32)
    return {"dense": found.dense.numpy()[0], "sparse_weights": largest, "multi_vectors": vectors}


def largest_of_each_id(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.array([weights[ids == token].max() for token in ids])


@pytest.mark.parametrize("module", [ours, onnx_graph, onnx_int8, onnx_read])
def test_doctests(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


# -- one graph, every shape


@pytest.mark.parametrize("lengths", [[1], [2], [3, 1], [7, 8, 9], [1, 40, 5, 2], [LONGEST], [3, LONGEST, 1, 64, 2]])
def test_every_head_is_ours_for_any_batch_and_length(m3: tuple[Path, Encoder], lengths: list[int]) -> None:
    """XLM-R's positions count the tokens that are no padding: a text must not notice how long its company is."""
    folder, encoder = m3
    draw = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(4, 38, (length,), generator=draw).tolist() for length in lengths]
    texts = [[0, *tokens[2:], 2][: len(tokens)] for tokens in texts]
    ids, mask = encoder.pad(texts)
    found = asked(session(graph_path(folder, "fp32")), ids, mask)
    assert found["dense"].shape == (len(texts), 16)
    assert found["sparse_weights"].shape == ids.shape
    assert found["multi_vectors"].shape == (*ids.shape, 16)
    for i, tokens in enumerate(texts):
        alone, whole = encoder.pad([tokens])
        with torch.inference_mode():
            expected = spread(encoder(alone, whole), alone, whole, encoder)
        weights = found["sparse_weights"][i, : len(tokens)]
        np.testing.assert_allclose(found["dense"][i], expected["dense"], atol=1e-5)
        np.testing.assert_allclose(largest_of_each_id(alone[0].numpy(), weights), expected["sparse_weights"], atol=1e-5)
        np.testing.assert_allclose(found["multi_vectors"][i, : len(tokens)], expected["multi_vectors"], atol=1e-5)
        assert not found["sparse_weights"][i, len(tokens) :].any()
        assert not found["multi_vectors"][i, len(tokens) :].any()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_text_gets_the_same_in_any_company(m3: tuple[Path, Encoder], precision: Any) -> None:
    """onnxruntime's own dynamic quantisation has one scale a batch, and fails this."""
    folder, encoder = m3
    graph = session(graph_path(folder, precision))
    texts = [[0, 5, 6, 7, 2], [0, 11, 2], [0, *range(4, 38), 2]]
    together = asked(graph, *encoder.pad(texts))
    for i, tokens in enumerate(texts):
        for name, value in asked(graph, *encoder.pad([tokens])).items():
            whole = together[name][i] if name == "dense" else together[name][i, : len(tokens)]
            np.testing.assert_allclose(whole, value[0], atol=1e-5)


# -- the readers


def test_a_stranger_reads_every_head(m3: tuple[Path, Encoder]) -> None:
    folder, encoder = m3
    expected = our_read(encoder, TEXTS)
    found = differences(ONNX.read(folder, encoder, TEXTS), expected)
    assert list(found) == ["dense", "sparse", "multi_vector"]
    assert max(found.values()) < 1e-5
    losses = cosine_losses(ONNX_INT8.read(folder, encoder, TEXTS), expected)
    assert list(losses) == ["dense", "sparse", "multi_vector"]
    assert 0 < max(losses.values()) < 0.01


def test_a_reader_applies_where_its_graph_is(m3: tuple[Path, Encoder], tmp_path: Path) -> None:
    folder, encoder = m3
    assert ONNX.applies(folder, encoder)
    assert ONNX_INT8.applies(folder, encoder)
    assert not ONNX.applies(tmp_path, encoder)
    assert (ONNX.tolerance, ONNX.by_cosine, ONNX_INT8.by_cosine) == (1e-4, False, True)


# -- the files


def test_the_graph_says_what_it_is(m3: tuple[Path, Encoder]) -> None:
    folder, _ = m3
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == ["embeddings.onnx", "embeddings_int8.onnx"]
    for precision, domains in (("fp32", {""}), ("int8", {"", "com.microsoft"})):
        model = onnx.load(graph_path(folder, precision))  # type: ignore[arg-type]
        assert model.producer_name == "bgetune"
        assert {opset.domain for opset in model.opset_import} == domains
        assert [opset.version for opset in model.opset_import if not opset.domain] == [OPSET]
        shapes = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        }
        assert shapes == {
            "input_ids": ["batch", "length"],
            "attention_mask": ["batch", "length"],
            "dense": ["batch", 16],
            "sparse_weights": ["batch", "length"],
            "multi_vectors": ["batch", "length", 16],
        }
        assert all(value.doc_string for value in (*model.graph.input, *model.graph.output))
        told = {entry.key: entry.value for entry in model.metadata_props}
        assert (told["pooling"], told["normalize"], told["passage_max_length"]) == ("cls", "true", str(LONGEST))
        assert told["special_token_ids"] == "[0, 1, 2, 3, 38]"
        raw = graph_path(folder, precision).read_bytes()  # type: ignore[arg-type]
        assert not re.search(rb"site-packages|/work/|\.py", raw)


def test_eight_bits_are_a_quarter_of_the_matrices(m3: tuple[Path, Encoder]) -> None:
    model = onnx.load(graph_path(m3[0], "int8"))
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert [tensor.name for tensor in floats if np.prod(tensor.dims) >= 16 * 16 and "scales" not in tensor.name] == []
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulNBits") == 2 * 6 + 1  # of each layer, and the multi-vector head's


def test_two_exports_are_the_same_bytes_and_large_ones_have_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "_ONE_FILE_BYTES", 100)
    encoder = load(tiny.model(tmp_path / "model"), pooling="mean", query_max_length=16, passage_max_length=32)
    encoder.save(tmp_path)
    encoder.use_attention("sdpa")
    write_onnx(tmp_path, encoder, ["fp32", "int8"])
    files = {path.name: path.read_bytes() for path in (tmp_path / "onnx").iterdir()}
    graphs = ["embeddings.onnx", "embeddings_int8.onnx"]
    assert sorted(files) == sorted([*graphs, *(f"{name}_data" for name in graphs)])
    assert encoder.attention == "sdpa"
    expected = our_read(encoder, TEXTS)
    found = ONNX.read(tmp_path, encoder, TEXTS)
    assert (found.sparse, found.multi_vector) == (None, None)
    assert differences(found, expected)["dense"] < 1e-5
    assert cosine_losses(ONNX_INT8.read(tmp_path, encoder, TEXTS), expected)["dense"] < 0.01
    write_onnx(tmp_path, encoder, ["fp32", "int8"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "onnx").iterdir()} == files


# -- poolings, and a backbone that is quick to trace


class Table(torch.nn.Module):
    """States that are rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(20, 8)
        self.config = SimpleNamespace(_attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def encoder_of(backbone: torch.nn.Module, spec: EncoderSpec, layers: HeadLayers | None = None) -> Encoder:
    tokenizer = SimpleNamespace(all_special_ids=[0, 1, 2], cls_token_id=0, unk_token_id=3, pad_token_id=1)
    return Encoder(backbone, tokenizer, spec, layers or HeadLayers(), ("dense",)).eval()


@pytest.mark.parametrize(("pooling", "normalize"), [("max", False), ("mcls", True)])
def test_pooling_is_in_the_graph(tmp_path: Path, pooling: Any, normalize: bool) -> None:
    encoder = encoder_of(Table(), EncoderSpec(pooling, normalize, "dot", "", "", 64, 64))
    onnx.save(traced(encoder), tmp_path / "graph.onnx")
    ids, mask = encoder.pad([[0, 5, 6, 0, 7, 2], [0, 9, 2], [0]])
    with torch.inference_mode():
        expected = encoder(ids, mask).dense
    assert expected is not None
    found = asked(session(tmp_path / "graph.onnx"), ids, mask)
    np.testing.assert_allclose(found["dense"], expected.numpy(), atol=1e-6)


def test_what_torch_cannot_trace_is_one_line() -> None:
    class Branching(Table):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            if input_ids.sum() > 7:
                raise ValueError("never")
            return super().forward(input_ids, attention_mask)

    encoder = encoder_of(Branching(), EncoderSpec("cls", True, "dot", "", "", 64, 64))
    with pytest.raises(UserError, match=r"^export\.onnx: torch can make no graph of Branching: .*; leave the"):
        traced(encoder)


def test_an_absent_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"^export\.onnx: needs onnxscript; run pip install 'bgetune\[onnx\]'"):
        write_onnx(tmp_path, SimpleNamespace(), ["fp32"])  # type: ignore[arg-type]
    assert not (tmp_path / "onnx").exists()


# -- eight bits


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 16), st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
def test_blocks_lose_at_most_half_a_step(rows: int, columns: int, block: int, size: float) -> None:
    matrix = (np.random.default_rng(rows * 7 + columns).normal(size=(rows, columns)) * size).astype(np.float32)
    numbers, scales = blocks_of(matrix, block)
    assert numbers.shape == (columns, -(-rows // block), block)
    back = ((numbers.astype(np.float32) - 128) * scales[:, :, None]).reshape(columns, -1)
    assert not back[:, rows:].any()
    steps = np.repeat(scales, block, axis=1)[:, :rows]
    assert (np.abs(back[:, :rows] - matrix.T) <= 0.501 * steps).all()


def test_tables_and_matrices_that_are_used_twice_are_kept_once(tmp_path: Path) -> None:
    table, weight = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((20, 8), (8, 8)))
    make = onnx.helper.make_node
    nodes = [make("Gather", ["table", "ids"], ["a"], "g1"), make("Gather", ["table", "ids"], ["b"], "g2"),
             make("MatMul", ["a", "weight"], ["c"], "m1"), make("MatMul", ["b", "weight"], ["d"], "m2"),
             make("Add", ["c", "d"], ["out"], "add")]  # fmt: skip
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "twice",
        [value("ids", onnx.TensorProto.INT64, ["n"])],
        [value("out", onnx.TensorProto.FLOAT, ["n", 8])],
        [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
    quantize(model)
    onnx.save(model, tmp_path / "graph.onnx")
    assert len(model.graph.initializer) == 4
    (found,) = session(tmp_path / "graph.onnx").run(None, {"ids": np.array([3, 3, 19])})
    np.testing.assert_allclose(found, 2 * table[[3, 3, 19]] @ weight, atol=0.1)


# -- the snippet of the model card


def test_the_snippet_gives_our_scores(m3: tuple[Path, Encoder]) -> None:
    folder, encoder = m3
    encoder = load(folder, passage_max_length=8, query_instruction="what does ")
    code = usage(encoder)
    assert code is not None
    assert "transformers" not in code
    code = code.removeprefix("```python\n").removesuffix("```").replace("PATH", str(folder))
    asked_of = {"a question": "heart pain heart", "a passage": "the heart drug 3 4 5 6 7"}
    for placeholder, text in asked_of.items():
        code = code.replace(placeholder, text)
    room: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, room)
    both = []
    for text, role in zip(asked_of.values(), ("query", "passage"), strict=True):
        with torch.inference_mode():
            both.append(encoder(*encoder.pad(encoder.tokenize([text], role)[0])))
    q, p = both
    assert room["dense"][0, 0] == pytest.approx(float(dense_scores(q.dense, p.dense, "cosine")), abs=1e-5)
    assert room["sparse"] == pytest.approx(float(sparse_scores(q.sparse, p.sparse)), abs=1e-5)
    assert room["multi_vector"] == pytest.approx(float(max_sim(q.multi_vector, p.multi_vector)), abs=1e-5)


@pytest.mark.parametrize(("similarity", "normalize"), itertools.product(["cosine", "dot", "euclidean"], [True, False]))
def test_the_snippet_scores_as_the_model_does(m3: tuple[Path, Encoder], similarity: Any, normalize: bool) -> None:
    encoder = encoder_of(Table(), replace(m3[1].spec, similarity=similarity, normalize=normalize))
    encoder.tokenizer.backend_tokenizer, encoder.tokenizer.pad_token = object(), "[PAD]"
    code = usage(encoder)
    assert code is not None
    assert "lexical" not in code  # it has no such head
    draw = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    if normalize:
        draw /= np.linalg.norm(draw, axis=-1, keepdims=True)
    room: dict[str, Any] = {"np": np, "query": {"dense": draw[0]}, "passage": {"dense": draw[1]}}
    scoring = code.partition("passage = embed")[2].partition("\n")[2].removesuffix("```")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(scoring, room)
    expected = dense_scores(torch.from_numpy(draw[0]), torch.from_numpy(draw[1]), similarity)
    np.testing.assert_allclose(room["dense"], expected.numpy(), atol=1e-5)


def test_a_tokenizer_without_its_file_has_no_snippet() -> None:
    assert usage(encoder_of(Table(), EncoderSpec("cls", True, "dot", "", "", 64, 64))) is None
