"""The exact norm of a convolution, found without the code under test.

ONNX Runtime applies the operator to every unit vector (each entry of the matrix is then one weight,
with nothing to round), and LAPACK takes its largest singular value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sommelier.analysis.norms import Window
from tests.onnx_writer import IR_VERSION, OPSET


@dataclass(frozen=True, slots=True)
class Case:
    """A convolution with its weight."""

    weight: NDArray[np.float32]
    window: Window

    @property
    def dims(self) -> int:
        return self.weight.ndim - 2

    @property
    def channels(self) -> int:
        """Of its input."""
        return self.weight.shape[0] if self.window.transposed else (
            self.weight.shape[1] * self.window.groups
        )  # fmt: skip


def operator_matrix(case: Case) -> NDArray[np.float64]:
    """(inputs, outputs): row i is the operator's answer to the i-th unit vector."""
    window = case.window
    assert window.spatial is not None
    attributes: dict[str, int | Sequence[int]] = {
        "strides": window.strides,
        "pads": window.pads,
        "dilations": window.dilations,
        "group": window.groups,
    }
    if window.output_padding:
        attributes["output_padding"] = window.output_padding
    kind = "ConvTranspose" if window.transposed else "Conv"
    shape = (case.channels, *window.spatial)
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    given = {"x": ["N", *shape], "w": case.weight.shape}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in given.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    size = math.prod(shape)
    units = np.eye(size, dtype=np.float32).reshape(size, *shape)
    answers = session.run(None, {"x": units, "w": case.weight})[0]
    return answers.reshape(size, -1).astype(np.float64)


def exact_norm(case: Case) -> float:
    return float(np.linalg.norm(operator_matrix(case), 2))


def random_case(rng: np.random.Generator) -> Case:
    """Any small convolution: 1-D to 3-D, strides, dilations, groups, asymmetric pads."""
    dims = int(rng.integers(1, 4))
    largest = (24, 9, 5)[dims - 1]
    while True:
        kernel = rng.integers(1, (8, 5, 4)[dims - 1], dims)
        dilations = rng.integers(1, 4, dims)
        reach = dilations * (kernel - 1) + 1
        pads = rng.integers(0, np.tile(np.minimum(reach, 4), 2) + 1)
        spatial = rng.integers(1, largest + 1, dims)
        if (spatial + pads[:dims] + pads[dims:] >= reach).all():
            break
    strides = rng.integers(1, 4, dims)
    groups = int(rng.integers(1, 4))
    shape = (groups * int(rng.integers(1, 5)), int(rng.integers(1, 5)), *kernel)
    # Means other than 0 make smooth kernels, whose norm is far from the random ones'.
    weight = rng.normal(rng.choice([0.0, 0.7]), 1.0, shape).astype(np.float32)
    window = Window.of(spatial, strides, pads, dilations, groups=groups)
    return Case(weight, window)


def adjoint_case(case: Case) -> Case:
    """The ConvTranspose that goes back from the convolution's output to its input."""
    window = case.window.resolved(case.weight.shape)
    outputs = window.outputs(case.weight.shape[2:])
    assert outputs is not None
    assert window.spatial is not None
    there = Window(
        outputs, window.strides, window.pads, window.dilations, window.groups, transposed=True
    )
    back = there.resolved(case.weight.shape).spatial
    assert back is not None
    extra = tuple(n - m for n, m in zip(window.spatial, back, strict=True))
    return Case(
        case.weight,
        Window.of(
            outputs, window.strides, window.pads, window.dilations, groups=window.groups,
            transposed=True, output_padding=extra,
        ),
    )  # fmt: skip
