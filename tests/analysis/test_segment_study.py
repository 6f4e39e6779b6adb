"""Which probes a segment is judged on, and which output its proof is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sommelier.analysis.probes import synthetic_probes
from sommelier.analysis.segment_study import scores_output, some_probes
from sommelier.errors import AnalysisError
from sommelier.records import TensorSpec


def _probes(samples: int):
    made = synthetic_probes((TensorSpec("x", "float32", (None, 4)),), samples=samples)
    return replace(made, indices=np.arange(samples, dtype=np.int64))


def test_the_probes_of_a_proof_are_no_prefix_of_a_dataset_sorted_by_class():
    probes = _probes(2000)
    chosen = some_probes(probes, 256).indices
    assert len(chosen) == len(set(chosen.tolist())) == 256
    classes = chosen // 200  # ten classes, one after the other
    counts = np.bincount(classes, minlength=10)
    # hypergeometric, mean 25.6 and standard deviation 4.5; a prefix holds classes 0 and 1 only
    assert counts.min() > 25.6 - 4 * 4.5
    np.testing.assert_array_equal(chosen, some_probes(probes, 256).indices)
    assert some_probes(probes, 2000) is probes


def _model(path: Path, **shapes: list[int | str]) -> Path:
    """An output of each of these shapes (without batch), a random projection of the input."""
    nodes, stored, outputs = [], [], []
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        known = [size if isinstance(size, int) else 3 for size in shape]
        weight = rng.normal(size=(4, int(np.prod(known)))).astype(np.float32)
        target = np.array([-1, *known], np.int64)
        stored += [
            onnx.numpy_helper.from_array(weight, f"{name}_w"),
            onnx.numpy_helper.from_array(target, f"{name}_t"),
        ]
        nodes += [
            helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_m"]),
            helper.make_node("Reshape", [f"{name}_m", f"{name}_t"], [name]),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "outputs", [x], outputs, stored)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def test_a_proof_is_about_the_output_that_classes_are_read_from(tmp_path):
    mapped = _model(tmp_path / "map.onnx", features=[2, 3, 3], size=[1], logits=[5], more=[7])
    assert scores_output(mapped) == "logits"
    squeezed = _model(tmp_path / "squeezed.onnx", logits=[5, 1, 1], other=[5])
    assert scores_output(squeezed) == "logits"
    assert scores_output(_model(tmp_path / "one.onnx", y=["c"])) == "y"


def test_shapes_that_only_a_run_shows_prove_nothing(tmp_path):
    model = onnx.load(_model(tmp_path / "known.onnx", y=[5]))
    model.graph.node.append(helper.make_node("NonZero", ["x"], ["places"]))
    places = helper.make_tensor_value_info("places", TensorProto.INT64, None)
    model.graph.output.insert(0, places)
    onnx.save(model, tmp_path / "unknown.onnx")
    with pytest.raises(AnalysisError, match="which of its outputs"):
        scores_output(tmp_path / "unknown.onnx")
