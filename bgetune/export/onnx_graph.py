"""Encoder and heads as one ONNX graph: pooling, normalisation and what counts as a token are inside of it.

Shapes: N texts (`batch`), L tokens with padding (`length`), D width of a dense vector, M width of a token's vector.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bgetune import __version__
from bgetune.config import Head
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.heads import dense
from bgetune.progress import without_logs

if TYPE_CHECKING:
    from onnx import ModelProto

INPUTS = ("input_ids", "attention_mask")
OUTPUTS: dict[Head, str] = {"dense": "dense", "sparse": "sparse_weights", "multi_vector": "multi_vectors"}

OPSET = 18
"""Of ONNX: what torch's exporter writes without a conversion, and every onnxruntime since 1.14 reads."""

_ABOUT = {
    "input_ids": "Token ids [batch, length], special tokens included, as tokenizer.json gives them.",
    "attention_mask": "1 for a token, 0 for padding [batch, length].",
    "sparse_weights": "Lexical weight of each token [batch, length], 0 at special tokens and padding. A token id that "
    "a text has more than once weighs the largest of its weights; the score of two texts is the sum of the products "
    "over the ids that both have.",
}


class EncoderGraph(nn.Module):
    """What is traced: token ids and mask, both int64 [N, L], to an output for each head that has weights."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.backbone = encoder.backbone
        self.layers = encoder.layers
        self.spec = encoder.spec
        self.cls_id = encoder.tokenizer.cls_token_id
        self.special: list[int] = sorted(encoder.tokenizer.all_special_ids)
        self.heads: tuple[Head, ...] = tuple(head for head in OUTPUTS if encoder.layers.has(head))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Dense [N, D], sparse weights [N, L], multi-vectors [N, L, M]: ours, with zeros where we have no entry."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask.bool()
        cls_at = real & (input_ids == self.cls_id) if self.cls_id is not None else torch.zeros_like(real)
        found = [dense(states, attention_mask, self.spec.pooling, self.spec.normalize, cls_at)]
        if self.layers.sparse_linear is not None:
            weights = torch.relu(self.layers.sparse_linear(states)).squeeze(-1)
            found.append(weights.masked_fill(~real | self._is_special(input_ids), 0.0))
        if self.layers.colbert_linear is not None:
            vectors = self.layers.colbert_linear(states)
            if self.spec.normalize:
                vectors = nn.functional.normalize(vectors, dim=-1)
            found.append(vectors.masked_fill((~real | cls_at).unsqueeze(-1), 0.0))
        return tuple(found)

    def _is_special(self, input_ids: Tensor) -> Tensor:
        found = torch.zeros_like(input_ids, dtype=torch.bool)
        for special in self.special:  # a handful; the ids become constants of the graph
            found = found | (input_ids == special)
        return found


def traced(encoder: Encoder) -> ModelProto:
    """The graph of an encoder that is on the CPU and in float32; its bytes depend on nothing else.

    Raises:
        UserError: torch cannot make a graph of this architecture.
    """
    graph = EncoderGraph(encoder).eval()
    with _as_traced(encoder), without_logs(logging.WARNING), warnings.catch_warnings(), torch.no_grad():
        # torch tells of operators of torchvision, names of dimensions, its own deprecations, and each step to a trace
        # log, which takes most of the time wherever a handler listens to all
        warnings.simplefilter("ignore")
        # two texts of unlike length: a dimension of 1 would be taken for a constant, a mask of ones for no mask
        ids = torch.full((2, 8), encoder.tokenizer.unk_token_id or 0)
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        try:
            program = torch.onnx.export(
                graph,
                (ids, mask),
                input_names=list(INPUTS),
                output_names=[OUTPUTS[head] for head in graph.heads],
                dynamic_shapes=tuple({0: "batch", 1: "length"} for _ in INPUTS),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            name = type(encoder.backbone).__name__
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise UserError(f"export.onnx: torch can make no graph of {name}: {reason}; leave the option out") from None
    assert program is not None
    return _described(program.model_proto, graph)


@contextmanager
def _as_traced(encoder: Encoder) -> Iterator[None]:
    """Attention written out: the graph of `sdpa` looks for NaN in each layer, for masks that hide all of a text."""
    before = encoder.attention
    encoder.use_attention("eager")
    try:
        yield
    finally:
        encoder.use_attention(before)


def _described(model: ModelProto, graph: EncoderGraph) -> ModelProto:
    """Say what it is and how it is used, for Netron and for a stranger; remove what torch notes of our source code."""
    spec = graph.spec
    model.producer_name, model.producer_version = "bgetune", __version__
    model.graph.name = type(graph.backbone).__name__
    scaled = ", of length 1" if spec.normalize else ""
    about = _ABOUT | {
        "dense": f"One vector a text [batch, width], pooled by {spec.pooling}{scaled}; compare by {spec.similarity}.",
        "multi_vectors": f"A vector a token [batch, length, width]{scaled}; zeros at CLS and padding, which are left "
        "out. The score is the mean over the query's tokens of the largest dot product with a token of the passage.",
    }
    model.doc_string = (
        f"{type(graph.backbone).__name__} with {len(graph.heads)} outputs: "
        f"{', '.join(OUTPUTS[head] for head in graph.heads)}. Instructions and lengths are in the metadata."
    )
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = about[value.name]
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    del model.graph.value_info[:]  # onnxruntime infers shapes itself, and symbols named by torch say nothing
    told = {**asdict(spec), "special_token_ids": graph.special, "cls_token_id": graph.cls_id}
    for key, value in sorted(told.items()):
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=key, value=text)
    return model
