"""An ensemble as one ONNX model: the graphs of its links side by side, and the head over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, compose, helper

from sommelier.analysis.links.export import (
    EXAMPLES,
    IR_VERSION,
    OPSET,
    GraphWriter,
    check_alike,
    run_onnx,
)
from sommelier.analysis.links.formats import LEAST_PROBABILITY
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.networks import SOURCE, TARGET
from sommelier.errors import AnalysisError

Array = NDArray[Any]

NEARLY_EVEN = 0.02  # share of tokens that rounding may decide otherwise


def ensemble_onnx(parts: Mapping[str, bytes], head: Head) -> bytes:
    """Links by source and a head over some of them, or over none, as one ONNX model.

    Inputs "source_0", "source_1" ... are the natural answers of all of `parts` in this order, also
    of those that the head does not use; "target" is the target's natural answer. Tokens that links
    predict count as certain: the head reads their ids, not their scores.
    Raises AnalysisError where the head's links are not all there, and if ONNX Runtime answers
    otherwise than links and head one after the other.
    """
    missing = [name for name in head.sources if name not in parts]
    if missing or not parts:
        raise AnalysisError(
            f"there is no link from {', '.join(missing) or 'any source'}",
            hint="give the links of all sources of the head, one at least",
        )
    graph = GraphWriter()
    links = {name: onnx.load_from_string(part) for name, part in parts.items()}
    inputs = [_input(link, place) for place, link in enumerate(links.values())]
    places = {name: place for place, name in enumerate(links)}
    answers = [_place(graph, links[name], places[name]) for name in head.sources]
    _write_head(graph, head, answers)
    tokens = head.format.kind == "tokens"
    width = head.format.steps if tokens else head.format.width
    element = TensorProto.INT64 if tokens else TensorProto.FLOAT
    target = helper.make_tensor_value_info(TARGET, element, ["n", width])
    model = bytes(graph.model(inputs, [target]).SerializeToString(deterministic=True))
    _check(model, parts, links, head)
    return model


def _input(link: ModelProto, place: int) -> ValueInfoProto:
    """A link's input under the name it has in the ensemble."""
    versions = {one.domain: one.version for one in link.opset_import}
    if versions != {"": OPSET} or link.ir_version != IR_VERSION:
        raise AnalysisError("this is not a link that `to_onnx` wrote", hint="export it again")
    value = ValueInfoProto()
    value.CopyFrom(next(one for one in link.graph.input if one.name == SOURCE))
    value.name = f"{SOURCE}_{place}"
    return value


def _place(graph: GraphWriter, link: ModelProto, place: int) -> str:
    """Adds a link's nodes under names of their own: the name of its answer."""
    prefix = f"link_{place}/"
    named = compose.add_prefix(link, prefix).graph
    graph.add("Identity", f"{SOURCE}_{place}", output=prefix + SOURCE)
    graph.nodes.extend(named.node)
    graph.weights.extend(named.initializer)
    return prefix + TARGET


def _write_head(graph: GraphWriter, head: Head, answers: Sequence[str]) -> None:
    """As calling the head on the links' answers, (n, width) or tokens (n, steps)."""
    if head.kind == "best source":
        graph.add("Identity", answers[0], output=TARGET)
        return
    if head.kind == "constant":
        kind = np.int64 if head.format.kind == "tokens" else np.float32
        rows = graph.add("Shape", f"{SOURCE}_0", start=0, end=1)
        size = graph.add("Concat", rows, graph.weight([head.bias.size], np.int64), axis=0)
        graph.add("Expand", graph.weight(head.bias, kind), size, output=TARGET)
        return
    features = [_write_features(graph, head, answer) for answer in answers]
    if head.kind == "ridge":
        every = graph.add("Concat", *features, axis=1)
        mixed = graph.add("Gemm", every, graph.weight(head.weights), graph.weight(head.bias))
    else:
        logits = head.kind == "paper weights"
        opened = [_write_logits(graph, head, one) for one in features] if logits else features
        shares = [
            graph.add("Mul", one, graph.weight(weight))
            for one, weight in zip(opened, head.weights, strict=True)
        ]
        mixed = graph.add("Sum", *shares)
        mixed = _write_activation(graph, head, mixed) if logits else mixed
    _write_answers(graph, head, mixed)


def _write_features(graph: GraphWriter, head: Head, answer: str) -> str:
    """`heads.features_of` : (n, outputs)."""
    if head.format.kind != "tokens":
        return answer
    ends = graph.weight([0.0, 1.0])
    sure = graph.add("OneHot", answer, graph.weight([head.format.width], np.int64), ends)
    return graph.add("Reshape", sure, graph.weight([0, _outputs(head)], np.int64))


def _write_logits(graph: GraphWriter, head: Head, features: str) -> str:
    """`heads.as_logits` : (n, outputs)."""
    if head.format.kind in ("numbers", "box"):
        return features
    ends = graph.weight(LEAST_PROBABILITY), graph.weight(1 - LEAST_PROBABILITY)
    inner = graph.add("Clip", features, *ends)
    logarithm = graph.add("Log", inner)
    if head.format.kind != "labels":
        return logarithm
    rest = graph.add("Sub", graph.weight(1.0), inner)
    return graph.add("Sub", logarithm, graph.add("Log", rest))


def _write_activation(graph: GraphWriter, head: Head, logits: str) -> str:
    """`heads.activated` : (n, outputs)."""
    if head.format.kind in ("numbers", "box"):
        return logits
    if head.format.kind == "labels":
        return graph.add("Sigmoid", logits)
    cells = graph.add("Reshape", logits, graph.weight([0, -1, head.format.width], np.int64))
    sure = graph.add("Softmax", cells, axis=2)
    return graph.add("Reshape", sure, graph.weight([0, _outputs(head)], np.int64))


def _write_answers(graph: GraphWriter, head: Head, mixed: str) -> None:
    """`heads.answers_of` : natural answers, named "target"."""
    format = head.format
    if format.kind in ("numbers", "box"):
        graph.add("Identity", mixed, output=TARGET)
    elif format.kind == "labels":
        graph.add("Clip", mixed, graph.weight(0.0), graph.weight(1.0), output=TARGET)
    elif format.kind == "classes":
        shares = graph.add("Relu", mixed)
        total = graph.add("ReduceSum", shares, graph.weight([1], np.int64), keepdims=1)
        none = graph.add("Equal", total, graph.weight(0.0))
        even = graph.weight(np.full(format.width, 1.0 / format.width))
        graph.add("Where", none, even, graph.add("Div", shares, total), output=TARGET)
    else:
        shape = graph.weight([0, format.steps, format.width], np.int64)
        cells = graph.add("Reshape", mixed, shape)
        if format.end is None:
            graph.add("ArgMax", cells, axis=2, keepdims=0, output=TARGET)
            return
        ids = graph.add("ArgMax", cells, axis=2, keepdims=0)
        end = graph.weight(format.end, np.int64)
        ended = graph.add("Cast", graph.add("Equal", ids, end), to=TensorProto.INT64)
        times = graph.add("CumSum", ended, graph.weight(1, np.int64))
        over = graph.add("Greater", times, graph.weight(0, np.int64))
        graph.add("Where", over, end, ids, output=TARGET)


def _outputs(head: Head) -> int:
    return head.format.steps * head.format.width


def _check(
    model: bytes, parts: Mapping[str, bytes], links: Mapping[str, ModelProto], head: Head
) -> None:
    """Raises AnalysisError where the model answers otherwise than its links and its head."""
    draw = np.random.default_rng(0)
    given = {name: _examples(link, draw) for name, link in links.items()}
    answers = {name: run_onnx(parts[name], {SOURCE: given[name]})[0] for name in head.sources}
    inputs = {f"{SOURCE}_{place}": values for place, values in enumerate(given.values())}
    (answered,) = run_onnx(model, inputs)
    expected = head(answers, count=EXAMPLES)
    if head.format.kind != "tokens":
        spread = np.abs(expected).max(axis=0) if head.format.kind in ("numbers", "box") else 1.0
        check_alike(answered, expected, spread)
    elif answered.shape != expected.shape or (answered != expected).mean() > NEARLY_EVEN:
        raise AnalysisError("the exported ensemble predicts other tokens than its links and head")


def _examples(link: ModelProto, draw: np.random.Generator) -> Array:
    """Something a link can read, (EXAMPLES, width)."""
    kind = next(one for one in link.graph.input if one.name == SOURCE).type.tensor_type
    width = kind.shape.dim[1].dim_value
    if kind.elem_type == TensorProto.INT64:
        return draw.integers(0, 2, (EXAMPLES, width))
    return draw.dirichlet(np.ones(width), EXAMPLES).astype(np.float32)
