"""Toy ONNX models, made in milliseconds and small enough to reason about by hand.

Every factory writes one file and returns its path. Weights come from a seed, so two calls with
equal arguments write equal bytes. All run in ONNX Runtime unless the docstring says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import NodeProto, TensorProto, helper

from tests.onnx_writer import FLOAT, INT64, Shape, constant_node, loop_node, save_model

__all__ = ["save_model"]  # for graphs that no factory makes


def tiny_classifier(
    path: Path | str,
    *,
    seed: int = 0,
    features: int = 4,
    classes: int = 3,
    weights: tuple[ArrayLike, ArrayLike] | None = None,
    batch: int | str | None = "N",
    softmax: bool = False,
    labels: Sequence[str] | None = None,
) -> Path:
    """x[batch,features] -> scores[batch,classes] by one Gemm (and Softmax).

    weights : (matrix (features, classes), bias (classes,)); otherwise drawn from the seed.
    features * classes + classes parameters; 2 * features * classes FLOPs an input.
    labels : written to the metadata key 'labels' as a JSON list.
    """
    if weights is None:
        rng = np.random.default_rng(seed)
        weights = (rng.normal(size=(features, classes)), rng.normal(size=classes))
    matrix, bias = (np.asarray(w, np.float32) for w in weights)
    features, classes = matrix.shape
    scores = "logits" if softmax else "scores"
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], [scores], name="gemm")]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=-1))
    return save_model(
        path,
        nodes,
        {"x": (FLOAT, [batch, features])},
        {"scores": (FLOAT, [batch, classes])},
        {"w": matrix, "b": bias},
        metadata=None if labels is None else {"labels": json.dumps(list(labels))},
    )


def mlp_classifier(
    path: Path | str,
    *,
    seed: int = 0,
    features: int = 4,
    hidden: Sequence[int] = (16, 16),
    classes: int = 3,
    batch: int | str | None = "N",
) -> Path:
    """x[batch,features] -> logits[batch,classes]; Gemm and Relu per hidden width, then Gemm."""
    rng = np.random.default_rng(seed)
    widths = [features, *hidden, classes]
    nodes: list[NodeProto] = []
    weights: dict[str, ArrayLike] = {}
    value = "x"
    for i, (rows, columns) in enumerate(pairwise(widths)):
        weights[f"w{i}"] = (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights[f"b{i}"] = rng.normal(size=columns).astype(np.float32)
        last = i == len(widths) - 2
        out = "logits" if last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [out]))
        value = out
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
            value = f"r{i}"
    return save_model(
        path,
        nodes,
        {"x": (FLOAT, [batch, features])},
        {"logits": (FLOAT, [batch, classes])},
        weights,
    )


def conv_classifier(
    path: Path | str,
    *,
    seed: int = 0,
    channels: int = 3,
    size: int = 8,
    classes: int = 3,
    width: int = 4,
    batch: int | str | None = "N",
    layout: str = "NCHW",
) -> Path:
    """Images -> logits: Conv 3x3 (padded, `width` channels), Relu, GlobalAveragePool, Gemm.

    layout 'NHWC' transposes first. 2 * size^2 * width * channels * 9 + 2 * width * classes FLOPs.
    """
    rng = np.random.default_rng(seed)
    shape: Shape = [batch, channels, size, size]
    nodes = []
    if layout == "NHWC":
        shape = [batch, size, size, channels]
        nodes.append(helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]))
    source = "nchw" if layout == "NHWC" else "image"
    nodes += [
        helper.make_node("Conv", [source, "k", "kb"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"]),
    ]
    weights: dict[str, ArrayLike] = {
        "k": rng.normal(size=(width, channels, 3, 3)).astype(np.float32) / 3,
        "kb": rng.normal(size=width).astype(np.float32),
        "w": rng.normal(size=(width, classes)).astype(np.float32),
        "b": rng.normal(size=classes).astype(np.float32),
    }
    return save_model(
        path, nodes, {"image": (FLOAT, shape)}, {"logits": (FLOAT, [batch, classes])}, weights
    )


def unbatched_classifier(path: Path | str, *, features: int = 4) -> Path:
    """x[N,features] -> scores[N,features], which are x; runs for one sample only, unlike stated."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["one"]),
        helper.make_node("MatMul", ["one", "w"], ["scores"]),
    ]
    weights = {"shape": np.array([1, features]), "w": np.eye(features, dtype=np.float32)}
    shape = (FLOAT, ["N", features])
    return save_model(path, nodes, {"x": shape}, {"scores": shape}, weights)


def embedding_model(
    path: Path | str, *, seed: int = 0, features: int = 4, width: int = 8, batch: int | str = "N"
) -> Path:
    """x[batch,features] -> embedding[batch,width] of unit length: MatMul, LpNormalization."""
    w = np.random.default_rng(seed).normal(size=(features, width)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=-1, p=2),
    ]
    return save_model(
        path,
        nodes,
        {"x": (FLOAT, [batch, features])},
        {"embedding": (FLOAT, [batch, width])},
        {"w": w},
    )


def regression_model(path: Path | str, *, seed: int = 0, features: int = 4) -> Path:
    """x[N,features] -> y[N,1]."""
    w = np.random.default_rng(seed).normal(size=(features, 1)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return save_model(
        path, nodes, {"x": (FLOAT, ["N", features])}, {"y": (FLOAT, ["N", 1])}, {"w": w}
    )


def class_id_model(path: Path | str, *, seed: int = 0, features: int = 4, classes: int = 3) -> Path:
    """x[N,features] -> label int64[N]: Gemm, ArgMax; it answers class ids and no scores.

    The same seed gives the weights of tiny_classifier(seed), so both choose the same class.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, ArrayLike] = {
        "w": rng.normal(size=(features, classes)).astype(np.float32),
        "b": rng.normal(size=classes).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    return save_model(
        path, nodes, {"x": (FLOAT, ["N", features])}, {"label": (INT64, ["N"])}, weights
    )


def detection_model(path: Path | str, *, anchors: int = 12, size: int = 8) -> Path:
    """image[1,3,size,size] -> scores[1,anchors,2], boxes[1,anchors,4]."""
    pixels = 3 * size * size
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Flatten", ["image"], ["flat"])]
    weights: dict[str, ArrayLike] = {}
    for name, columns in (("scores", 2), ("boxes", 4)):
        weights[f"{name}_w"] = rng.normal(size=(pixels, anchors * columns)).astype(np.float32)
        weights[f"{name}_shape"] = np.array([1, anchors, columns], np.int64)
        nodes.append(helper.make_node("MatMul", ["flat", f"{name}_w"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
    return save_model(
        path,
        nodes,
        {"image": (FLOAT, [1, 3, size, size])},
        {"scores": (FLOAT, [1, anchors, 2]), "boxes": (FLOAT, [1, anchors, 4])},
        weights,
    )


def constant_node_model(
    path: Path | str, *, seed: int = 0, features: int = 4, classes: int = 3
) -> Path:
    """tiny_classifier with its weights in Constant nodes: it has no initializer at all."""
    rng = np.random.default_rng(seed)
    arrays = {
        "w": rng.normal(size=(features, classes)).astype(np.float32),
        "b": rng.normal(size=classes).astype(np.float32),
    }
    nodes = [constant_node(name, array) for name, array in arrays.items()]
    nodes.append(helper.make_node("Gemm", ["x", "w", "b"], ["scores"]))
    return save_model(
        path, nodes, {"x": (FLOAT, ["N", features])}, {"scores": (FLOAT, ["N", classes])}
    )


def if_subgraph_model(
    path: Path | str, *, features: int = 4, narrow: int = 3, wide: int = 5
) -> Path:
    """All weights in the branches of an If: x[1,features], flag -> y[1,1].

    then: MatMul to `narrow` and to 1; else: MatMul to `wide` and to 1. The wide branch costs
    2 * (features * wide + wide) FLOPs; both branches' weights are parameters.
    """
    branches = [
        helper.make_graph(
            [
                constant_node(f"w{width}", np.ones((features, width), np.float32)),
                constant_node(f"v{width}", np.ones((width, 1), np.float32)),
                helper.make_node("MatMul", ["x", f"w{width}"], [f"h{width}"]),
                helper.make_node("MatMul", [f"h{width}", f"v{width}"], [f"y{width}"]),
            ],
            f"branch{width}",
            [],
            [helper.make_tensor_value_info(f"y{width}", FLOAT, [1, 1])],
        )
        for width in (narrow, wide)
    ]
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    return save_model(
        path,
        [node],
        {"x": (FLOAT, [1, features]), "flag": (TensorProto.BOOL, [])},
        {"y": (FLOAT, [1, 1])},
    )


def loop_model(path: Path | str, *, trips: int | None = 5, features: int = 4) -> Path:
    """y = x W^trips: a Loop whose body is one MatMul (features, features).

    trips None makes the count an input ('trips', int64 scalar), unknown before it runs.
    """
    weights: dict[str, ArrayLike] = {"w": np.eye(features, dtype=np.float32)}
    inputs: dict[str, tuple[int, Shape | None]] = {"x": (FLOAT, [1, features])}
    if trips is None:
        inputs["trips"] = (INT64, [])
    else:
        weights["trips"] = np.array(trips, np.int64)
    body = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("MatMul", ["state", "w"], ["next"]),
    ]
    nodes = [loop_node("trips", "x", "y", body, [1, features])]
    return save_model(path, nodes, inputs, {"y": (FLOAT, [1, features])}, weights)


def hanging_model(path: Path | str, *, trips: int = 2**60, features: int = 4) -> Path:
    """tiny_classifier-like signature, but each run loops 2**60 times: it never answers."""
    body = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Sin", ["state"], ["next"]),
    ]
    nodes = [
        loop_node("trips", "x", "looped", body, ["N", features]),
        helper.make_node("Softmax", ["looped"], ["scores"], axis=-1),
    ]
    return save_model(
        path,
        nodes,
        {"x": (FLOAT, ["N", features])},
        {"scores": (FLOAT, ["N", features])},
        {"trips": np.array(trips, np.int64)},
    )


def nan_model(path: Path | str, *, features: int = 4, classes: int = 3) -> Path:
    """tiny_classifier whose answers are NaN: its weights are."""
    matrix = np.full((features, classes), np.nan, np.float32)
    return tiny_classifier(path, weights=(matrix, np.zeros(classes, np.float32)))


def memory_hog_model(path: Path | str, *, elements: int = 2**34) -> Path:
    """x[N,4] -> scores[N,1]: fills a tensor of `elements` floats (64 GiB) when it runs."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["x", "axes"], ["row"], keepdims=1),
        helper.make_node("Add", ["row", "total"], ["partial"]),
        # the shape depends on the input, or the runtime would fold it away when it loads
        helper.make_node("Shape", ["x"], ["x_shape"], start=0, end=1),
        helper.make_node("Min", ["x_shape", "one"], ["unit"]),
        helper.make_node("Mul", ["unit", "elements"], ["shape"]),
        helper.make_node("Identity", ["partial"], ["scores"]),
    ]
    order = [4, 5, 6, 0, 1, 2, 3, 7]
    return save_model(
        path,
        [nodes[i] for i in order],
        {"x": (FLOAT, ["N", 4])},
        {"scores": (FLOAT, ["N", 1])},
        {
            "one": np.array([1], np.int64),
            "elements": np.array([elements], np.int64),
            "axes": np.array([1], np.int64),
        },
    )


def external_data_model(
    path: Path | str, *, seed: int = 0, features: int = 64, classes: int = 32, location: str = ""
) -> Path:
    """tiny_classifier with its matrix in a second file beside it (`<name>.data` by default).

    location : what the file says instead, unchecked; '../outside.bin' makes a hostile file.
    """
    path = tiny_classifier(path, seed=seed, features=features, classes=classes)
    model = onnx.load(str(path))
    data_file = f"{path.name}.data"
    onnx.save(model, str(path), save_as_external_data=True, location=data_file, size_threshold=1024)
    if location:
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(model.SerializeToString())
    return path


def recurrent_state_model(path: Path | str, *, width: int = 6) -> Path:
    """A voice detector's signature: input, state[2,N,width], scalar sr -> output[N,1], stateN."""
    nodes = [
        helper.make_node("ReduceSum", ["state", "axes"], ["past"], keepdims=0),
        helper.make_node("Add", ["input", "past"], ["mixed"]),
        helper.make_node("Cast", ["sr"], ["rate"], to=FLOAT),
        helper.make_node("Div", ["mixed", "rate"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "w"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["output"]),
        helper.make_node("Tanh", ["state"], ["stateN"]),
    ]
    return save_model(
        path,
        nodes,
        {
            "input": (FLOAT, ["N", width]),
            "state": (FLOAT, [2, "N", width]),
            "sr": (INT64, []),
        },
        {"output": (FLOAT, ["N", 1]), "stateN": (FLOAT, [2, "N", width])},
        {"w": np.ones((width, 1), np.float32), "axes": np.array([0], np.int64)},
    )


def sequence_model(
    path: Path | str, *, seed: int = 0, vocabulary: int = 20, classes: int = 5, width: int = 4
) -> Path:
    """Token ids int64[N,T] -> scores[N,T,classes]: Gather, MatMul."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], axis=0),
        helper.make_node("MatMul", ["embedded", "w"], ["scores"]),
    ]
    return save_model(
        path,
        nodes,
        {"ids": (INT64, ["N", "T"])},
        {"scores": (FLOAT, ["N", "T", classes])},
        {
            "table": rng.normal(size=(vocabulary, width)).astype(np.float32),
            "w": rng.normal(size=(width, classes)).astype(np.float32),
        },
    )


def string_model(path: Path | str) -> Path:
    """Strings in, strings out: it runs, but nobody can make synthetic inputs for it."""
    nodes = [helper.make_node("Identity", ["text"], ["same"])]
    kind = TensorProto.STRING
    return save_model(path, nodes, {"text": (kind, ["N"])}, {"same": (kind, ["N"])})
