"""A graph's weights in eight bits: a quarter of the size, and a text's vector is the same in any company.

onnxruntime's own dynamic quantisation has one scale for all activations of a batch. It is half as fast again, but one
outlier takes the others' digits: over 200 texts the smallest cosine of MiniLM's dense vectors was .97, of its token
vectors .88. Here each block of a row has a scale of its own, in the weights and, as onnxruntime runs `MatMulNBits`, in
the activations. Needs onnxruntime 1.22, the first with that operator in eight bits.

Shapes: K rows and N columns of a weight matrix, B blocks of a column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_BLOCK = 128
"""Weights that share a scale. 32 gave one more digit than .99 asks for, and was a tenth slower."""
_INT8_ACTIVATIONS = 4
"""MatMulNBits' `accuracy_level`: activations are rounded to eight bits, block by block, where the processor gains."""
_CONTRIB = "com.microsoft"


def quantize(model: ModelProto) -> None:
    """Replace, in place, the matrices that states are multiplied by and the tables that rows are looked up in.

    The matrix of a single column, which is the sparse head's, stays as it is.
    """
    from onnx import helper

    held = {tensor.name: tensor for tensor in model.graph.initializer}
    made: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and _is_matrix(held.get(node.input[1])) and held[node.input[1]].dims[1] > 1:
            nodes.append(_multiply(node, held[node.input[1]], made))
        elif node.op_type == "Gather" and _is_matrix(held.get(node.input[0])):
            nodes += _look_up(node, held[node.input[0]], made)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in held.items() if name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *made.values()])
    model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))


def blocks_of(matrix: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [K, N] to uint8 [N, B, block] around 128 and float32 scales [N, B]; the last block is filled with zeros.

    >>> numbers, scales = blocks_of(np.array([[1.0], [-0.5], [127.0]], dtype=np.float32), 2)
    >>> numbers.tolist(), [[round(127 * float(scale), 4) for scale in row] for row in scales]
    ([[[255, 64], [255, 128]]], [[1.0, 127.0]])
    """
    columns = matrix.T
    columns = np.pad(columns, ((0, 0), (0, -columns.shape[1] % block))).reshape(len(columns), -1, block)
    scales = _scales(columns)
    return (np.rint(columns / scales) + 128).astype(np.uint8), scales[:, :, 0]


def _scales(values: np.ndarray) -> np.ndarray:
    """Of the last axis, which is kept: 1/127 of its largest value; 1 where all are zeros."""
    scales = np.abs(values).max(axis=-1, keepdims=True) / np.float32(127)
    return np.where(scales > 0, scales, np.float32(1))


def _is_matrix(tensor: TensorProto | None) -> bool:
    from onnx import TensorProto

    return tensor is not None and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2


def _multiply(node: NodeProto, weight: TensorProto, made: dict[str, TensorProto]) -> NodeProto:
    from onnx import helper, numpy_helper

    names = [f"{weight.name}_int8", f"{weight.name}_scales"]
    if names[0] not in made:
        numbers, scales = blocks_of(numpy_helper.to_array(weight), _BLOCK)
        made[names[0]] = numpy_helper.from_array(numbers, names[0])
        made[names[1]] = numpy_helper.from_array(scales.ravel(), names[1])
    rows, columns = weight.dims
    told = {"K": rows, "N": columns, "bits": 8, "block_size": _BLOCK, "accuracy_level": _INT8_ACTIVATIONS}
    return helper.make_node(
        "MatMulNBits", [node.input[0], *names], list(node.output), node.name, domain=_CONTRIB, **told
    )


def _look_up(node: NodeProto, table: TensorProto, made: dict[str, TensorProto]) -> list[NodeProto]:
    """Rows of eight bits and their scales, multiplied after the look-up."""
    from onnx import TensorProto, helper, numpy_helper

    names = [f"{table.name}_int8", f"{table.name}_scales"]
    if names[0] not in made:
        rows = numpy_helper.to_array(table)
        scales = _scales(rows)
        made[names[0]] = numpy_helper.from_array(np.rint(rows / scales).astype(np.int8), names[0])
        made[names[1]] = numpy_helper.from_array(scales, names[1])
    out = node.output[0]
    numbers, found, scales_found = f"{out}_int8", f"{out}_unscaled", f"{out}_scales"
    return [
        helper.make_node("Gather", [names[0], node.input[1]], [numbers], f"{node.name}_int8"),
        helper.make_node("Gather", [names[1], node.input[1]], [scales_found], f"{node.name}_scales"),
        helper.make_node("Cast", [numbers], [found], f"{node.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [found, scales_found], [out], f"{node.name}_scaled"),
    ]
