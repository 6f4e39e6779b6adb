"""Parts of attention operators: products, a Softmax, a product (algorithms.md B.4 row 51)."""

from __future__ import annotations

import numpy as np

from sommelier.analysis.propagation.parts import NotCoveredError, Parts, Shapes


def _scaled_dot_product(
    parts: Parts, operands: tuple[str, str, str], scale: float, mask: str = ""
) -> str:
    """softmax(Q K^T scale + mask) V for (batch, heads, steps, size) each (algorithms.md row 51)."""
    query, key, value = operands
    turned = parts.add("Transpose", [key], perm=[0, 1, 3, 2])
    scores = parts.add("MatMul", [query, turned])
    scores = parts.add("Mul", [scores, parts.constant(scale)])
    if mask:
        scores = parts.add("Add", [scores, mask])
    return parts.add("MatMul", [parts.add("Softmax", [scores], axis=-1), value])


def _causal(parts: Parts, steps: int, keys: int) -> str:
    """A mask that hides the keys behind each step."""
    return parts.constant(np.where(np.tri(steps, keys, dtype=bool), 0.0, -1e30))


def _by_heads(parts: Parts, tensor: str, batch: int, heads: int, size: int) -> str:
    """(batch, steps, heads * size) -> (batch, heads, steps, size)."""
    target = parts.constant([batch, -1, heads, size], np.int64)
    return parts.add("Transpose", [parts.add("Reshape", [tensor, target])], perm=[0, 2, 1, 3])


def _joined(parts: Parts, tensor: str, batch: int, steps: int) -> str:
    """(batch, heads, steps, size) -> (batch, steps, heads * size)."""
    turned = parts.add("Transpose", [tensor], perm=[0, 2, 1, 3])
    return parts.add("Reshape", [turned, parts.constant([batch, steps, -1], np.int64)])


def _only(parts: Parts, operands: int) -> None:
    """Refuse an operator with further operands (masks, past states) or further outputs."""
    if any(parts.node.input[operands:]) or any(parts.node.output[1:]):
        raise NotCoveredError


def attention(parts: Parts, shape: Shapes) -> None:
    """ONNX's operator, with as many heads of keys as of queries."""
    _only(parts, 4)
    if parts.attributes.get("softcap") or parts.attributes.get("qk_matmul_output_mode"):
        raise NotCoveredError
    shapes = [shape(parts.input(i)) for i in range(3)]
    packed = len(shapes[0]) == 3
    heads = int(parts.attributes["q_num_heads"]) if packed else shapes[0][1]
    others = int(parts.attributes["kv_num_heads"]) if packed else shapes[1][1]
    if heads != others:
        raise NotCoveredError
    sizes = [shape[-1] // (heads if packed else 1) for shape in shapes]
    query, key, value = (
        _by_heads(parts, parts.input(i), shapes[i][0], heads, sizes[i])
        if packed
        else parts.input(i)
        for i in range(3)
    )
    mask = parts.input(3)
    if parts.attributes.get("is_causal"):
        if mask:
            raise NotCoveredError
        mask = _causal(parts, shapes[0][-2], shapes[1][-2])
    scale = float(parts.attributes.get("scale") or sizes[0] ** -0.5)
    mixed = _scaled_dot_product(parts, (query, key, value), scale, mask)
    parts.finish(_joined(parts, mixed, *shapes[0][:2]) if packed else mixed)


def multi_head(parts: Parts, shape: Shapes) -> None:
    """ONNX Runtime's operator on three projections."""
    _only(parts, 3)
    _packed_heads(parts, [parts.input(i) for i in range(3)], shape(parts.input(0)))


def self_attention(parts: Parts, shape: Shapes) -> None:
    """ONNX Runtime's operator that projects its input itself."""
    _only(parts, 3)
    if parts.attributes.get("qkv_hidden_sizes") or parts.attributes.get("do_rotary"):
        raise NotCoveredError
    whole = parts.add("MatMul", [parts.input(0), parts.input(1)])
    if parts.input(2):
        whole = parts.add("Add", [whole, parts.input(2)])
    width = shape(parts.input(1))[-1] // 3
    axis = parts.constant([2], np.int64)
    operands = [
        parts.add(
            "Slice",
            [whole, parts.constant([k * width], np.int64),
             parts.constant([(k + 1) * width], np.int64), axis],
        )
        for k in range(3)
    ]  # fmt: skip
    _packed_heads(parts, operands, (*shape(parts.input(0))[:2], width))


def _packed_heads(parts: Parts, operands: list[str], shape: tuple[int, ...]) -> None:
    heads = int(parts.attributes["num_heads"])
    batch, steps, width = shape
    query, key, value = (_by_heads(parts, name, batch, heads, width // heads) for name in operands)
    mask = _causal(parts, steps, steps) if parts.attributes.get("unidirectional") else ""
    scale = float(parts.attributes.get("scale") or (width // heads) ** -0.5)
    mixed = _scaled_dot_product(parts, (query, key, value), scale, mask)
    parts.finish(_joined(parts, mixed, batch, steps))
