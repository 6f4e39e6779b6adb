"""Resize and Upsample (algorithms.md B.4 rows 46-47): one interpolation matrix an axis.

The matrix is what ONNX Runtime makes of the unit vectors with the node's own attributes, so every
coordinate convention is the one that runs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.propagation.extension import FLOAT
from sommelier.analysis.propagation.rules.windows import matrix_norm
from sommelier.analysis.propagation.site import Bound, Rule, Site, UnboundedError

COLUMNS = 2048  # of unit vectors at a time


def resize(site: Site) -> Bound:
    """Rows 46 and 47: the product of the axes' norms (all modes are separable)."""
    if str(site.attribute("coordinate_transformation_mode", "")) == "tf_crop_and_resize":
        raise UnboundedError("it crops to a region")
    if str(site.attribute("keep_aspect_ratio_policy", "stretch")) != "stretch":
        raise UnboundedError("its scales keep the aspect ratio, and are not those of the sizes")
    for operand in range(1, len(site.node.inputs)):
        site.refuse_reached(operand, f"operand {operand}")
    before, after = site.shape(), site.output_shape()
    factor = math.prod(
        matrix_norm(_axis_matrix(site, size, target, scale))
        for size, target, scale in zip(before, after, _scales(site, before), strict=True)
        if size != target or scale not in (None, 1.0)  # a scale of 1.1 resamples 3 to 3
    )
    return lambda at: factor * at.delta()


def _scales(site: Site, before: tuple[int, ...]) -> list[float | None]:
    """The stated scale of every axis; None where the target size is stated instead."""
    legacy = site.node.op == "Upsample" or site.situation.graph.opsets[""] < 11
    place = 1 if legacy else 2
    stated = site.constant(place)
    if stated is not None and stated.before.size:
        scales = [float(s) for s in stated.before.ravel()]
    elif site.attribute("scales") is not None:
        scales = [float(s) for s in site.attribute("scales")]
    else:
        return [None] * len(before)
    if site.attribute("axes") is None:
        return list(scales)
    every: list[float | None] = [None] * len(before)
    for axis, scale in zip(site.attribute("axes"), scales, strict=True):
        every[axis % len(before)] = scale
    return every


def _axis_matrix(site: Site, size: int, target: int, scale: float | None) -> NDArray[np.float64]:
    """(target, size): what the operator makes of each unit vector along a last axis of its own.

    An axis that keeps its size is resampled all the same where another changes: one before it does.
    """
    import onnxruntime
    from onnx import helper

    dropped = ("axes", "keep_aspect_ratio_policy", "scales")
    stated = {k: v for k, v in site.node.attributes.items() if v is not None and k not in dropped}
    other = 2.0 if size == target else 1.0  # of an axis of length 1: copies
    nodes, opset = _single_axis(site, stated, target, (other, scale))
    graph = helper.make_graph(
        nodes, "axis",
        [helper.make_tensor_value_info("x", FLOAT, [None, 1, 1, size])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rows = [
        session.run(None, {"x": part[:, None, None, :]})[0][:, 0, 0, :]
        for part in np.array_split(np.eye(size, dtype=np.float32), -(-size // COLUMNS))
    ]
    return np.concatenate(rows).astype(np.float64).T


def _single_axis(
    site: Site, stated: dict[str, Any], target: int, both: tuple[float, float | None]
) -> tuple[list[Any], int]:
    from onnx import helper, numpy_helper

    other, scale = both
    opset = site.situation.graph.opsets[""]

    def known(name: str, values: list[Any], kind: type) -> Any:
        value = numpy_helper.from_array(np.asarray(values, kind), name)
        return helper.make_node("Constant", [], [name], value=value)

    scales = known("scales", [1, 1, other, scale if scale is not None else 1], np.float32)
    if opset < 11 or site.node.op == "Upsample":
        if opset < 9:
            legacy = [1.0, 1.0, other, scale or 1.0]
            return [helper.make_node("Upsample", ["x"], ["y"], scales=legacy, **stated)], opset
        return [scales, helper.make_node(site.node.op, ["x", "scales"], ["y"], **stated)], opset
    roi = known("roi", [0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    if scale is not None:
        inputs = ["x", "roi", "scales"]
        return [roi, scales, helper.make_node("Resize", inputs, ["y"], **stated)], opset
    nothing = known("scales", [], np.float32)
    # the batch is not an axis that is resized, but a size must be stated for it
    shape = helper.make_node("Shape", ["x"], ["whole"])
    first = known("first", [0], np.int64)
    count = helper.make_node("Gather", ["whole", "first"], ["count"])
    tail = known("tail", [1, 1, target], np.int64)
    sizes = helper.make_node("Concat", ["count", "tail"], ["sizes"], axis=0)
    made = helper.make_node("Resize", ["x", "roi", "scales", "sizes"], ["y"], **stated)
    return [roi, nothing, shape, first, count, tail, sizes, made], opset


RESAMPLING: dict[str, Rule] = {"Resize": resize, "Upsample": resize}
