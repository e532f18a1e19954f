"""`onnx/` of an export: one graph for all heads, in float32 and in eight bits, for onnxruntime and Netron."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bgetune.config import Head
from bgetune.config_check_export import refuse_without_onnx
from bgetune.config_export import OnnxPrecision
from bgetune.encoder import Encoder
from bgetune.export.onnx_read import ONNX_FILES
from bgetune.files import atomic_folder

if TYPE_CHECKING:
    from onnx import ModelProto

_ONE_FILE_BYTES = 1_900_000_000
"""Weights of more than this go into a file beside the graph: a protobuf message ends at 2 GiB."""

_DENSE_SCORES = {
    "product": """
dense = query["dense"] @ passage["dense"].T
print(dense)
""",
    "cosine": """
lengths = [np.linalg.norm(each["dense"], axis=1) for each in (query, passage)]
dense = query["dense"] @ passage["dense"].T / np.outer(*lengths)
print(dense)
""",
    "euclidean": """
dense = -np.linalg.norm(query["dense"][:, None] - passage["dense"], axis=2)
print(dense)
""",
}
_HEAD_SCORES: dict[Head, str] = {
    "sparse": """

def lexical(found, i):  # token id -> weight; of a token that is there twice the larger one stays
    pairs = sorted(zip(found["sparse_weights"][i], found["ids"][i]))
    return {int(token): float(weight) for weight, token in pairs if weight > 0}


weights = lexical(passage, 0)
sparse = sum(weight * weights.get(token, 0.0) for token, weight in lexical(query, 0).items())
print(sparse)
""",
    "multi_vector": """

def tokens(found, i):  # CLS and padding have zeros
    vectors = found["multi_vectors"][i]
    return vectors[vectors.any(axis=1)]


multi_vector = (tokens(query, 0) @ tokens(passage, 0).T).max(axis=1).mean()
print(multi_vector)
""",
}


def write_onnx(folder: Path, encoder: Encoder, precisions: Sequence[OnnxPrecision]) -> None:
    """Write `folder/onnx/embeddings.onnx` and, for int8, `embeddings_int8.onnx`; the same weights give the same bytes.

    Inputs `input_ids` and `attention_mask`, int64 [batch, length], both of any size. Outputs, float32, of each head
    that has weights: `dense` [batch, D]; `sparse_weights` [batch, length], 0 at special tokens and padding;
    `multi_vectors` [batch, length, M], zeros at CLS and padding. With mcls, dense is the mean over the CLS tokens that
    the ids hold.
    The weights of a large model are in a second file, `embeddings.onnx_data`, named as others on the Hub.

    Args:
        encoder: moved to the CPU; its weights go into the graph in float32, whatever export.dtype. Load it from
            `folder`, so that the graph has the weights as they were rounded there.

    Raises:
        UserError: a package is absent, or torch cannot make a graph of this architecture.
    """
    refuse_without_onnx()
    from onnx.external_data_helper import load_external_data_for_model

    from bgetune.export.onnx_graph import traced
    from bgetune.export.onnx_int8 import quantize

    with atomic_folder(folder / "onnx") as place:
        model = traced(encoder.to("cpu"))
        if "fp32" in precisions:
            _write(model, place / ONNX_FILES["fp32"])
            load_external_data_for_model(model, str(place))  # what was written beside it is no longer in memory
        if "int8" in precisions:
            quantize(model)
            _write(model, place / ONNX_FILES["int8"])


def _write(model: ModelProto, path: Path) -> None:
    """One file, or a graph and its weights beside it; checked by ONNX itself."""
    import onnx

    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=size > _ONE_FILE_BYTES,
        all_tensors_to_one_file=True,
        location=f"{path.name}_data",
    )
    onnx.checker.check_model(str(path))


def usage(encoder: Encoder) -> str | None:
    """A fenced snippet that asks the float32 graph for every head, with onnxruntime and tokenizers alone.

    `PATH` in it stands for the export's folder. None where the tokenizer has no tokenizer.json.
    """
    tokenizer, spec = encoder.tokenizer, encoder.spec
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return None
    padding = f"pad_id={tokenizer.pad_token_id or 0}, pad_token={tokenizer.pad_token or '[PAD]'!r}"
    query, passage = (
        ", ".join([str(spec.max_length(role)), *([repr(spec.instruction(role))] if spec.instruction(role) else [])])
        for role in ("query", "passage")
    )
    scores = [_DENSE_SCORES[spec.compared_by]]
    scores += [code for head, code in _HEAD_SCORES.items() if encoder.layers.has(head)]
    return f"""```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("PATH/tokenizer.json")
tokenizer.enable_padding({padding})
session = onnxruntime.InferenceSession("PATH/onnx/{ONNX_FILES["fp32"]}")


def embed(texts, max_length, instruction=""):
    tokenizer.enable_truncation(max_length)
    encoded = tokenizer.encode_batch([instruction + text for text in texts])
    ids = np.array([each.ids for each in encoded], dtype=np.int64)
    mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
    outputs = session.run(None, {{"input_ids": ids, "attention_mask": mask}})
    return {{"ids": ids, **dict(zip([output.name for output in session.get_outputs()], outputs))}}


query = embed(["a question"], {query})
passage = embed(["a passage"], {passage})
{"".join(scores)}```"""
