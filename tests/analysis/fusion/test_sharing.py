"""Identical layers kept once: as many bytes less as were kept twice, and the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.sharing import share_identical
from sommelier.errors import AnalysisError
from tests.analysis.fusion.nets import Vgg, export
from tests.factories import conv_classifier, mlp_classifier
from tests.onnx_writer import FLOAT, save_model, with_weights

Array = NDArray[Any]


def _answers(model: ModelProto, inputs: Array) -> dict[str, Array]:
    session = open_session(model.SerializeToString(), 1)
    given = {session.get_inputs()[0].name: inputs}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def _mlp(
    folder: Path, name: str, seeds: tuple[int, ...], *, widths: tuple[int, ...] = (4, 16, 8, 3)
) -> ModelProto:
    """An MLP whose i-th layer is drawn from the i-th seed: equal seeds, identical layers."""
    path = mlp_classifier(
        folder / name, features=widths[0], hidden=widths[1:-1], classes=widths[-1]
    )
    weights: dict[str, Array] = {}
    for i, (seed, (rows, columns)) in enumerate(zip(seeds, pairwise(widths), strict=True)):
        rng = np.random.default_rng(seed)
        weights[f"w{i}"] = rng.normal(size=(rows, columns)).astype(np.float32)
        weights[f"b{i}"] = rng.normal(size=columns).astype(np.float32)
    return with_weights(onnx.load(path), weights)


def _weight_bytes(model: ModelProto) -> int:
    return sum(numpy_helper.to_array(t).nbytes for t in model.graph.initializer)


def _check(models: Mapping[str, ModelProto], inputs: Array) -> Any:
    """Shared models, whose answers are those of the models bit by bit."""
    found = share_identical(models)
    onnx.checker.check_model(found.model, full_check=True)
    made = _answers(found.model, inputs)
    for task, model in models.items():
        for name, truth in _answers(model, inputs).items():
            assert np.array_equal(made.pop(f"{task}/{name}"), truth)
    assert not made
    assert found.saved_bytes == (
        sum(_weight_bytes(model) for model in models.values()) - _weight_bytes(found.model)
    )
    return found


INPUTS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def test_the_bytes_saved_are_those_of_the_layers_in_common(tmp_path: Path) -> None:
    models = {"a": _mlp(tmp_path, "a", (1, 2, 3)), "b": _mlp(tmp_path, "b", (1, 2, 4))}
    found = _check(models, INPUTS)
    assert found.saved_bytes == 4 * (4 * 16 + 16 + 16 * 8 + 8)
    assert found.shared_weights == 4


def test_a_common_trunk_is_run_once(tmp_path: Path) -> None:
    models = {"a": _mlp(tmp_path, "a", (1, 2, 3)), "b": _mlp(tmp_path, "b", (1, 2, 4))}
    found = _check(models, INPUTS)
    kinds = [node.op_type for node in found.model.graph.node]
    assert kinds == ["Gemm", "Relu", "Gemm", "Relu", "Gemm", "Gemm"]
    assert found.shared_operators == 4


def test_a_layer_in_common_behind_different_ones_is_stored_once_and_run_twice(
    tmp_path: Path,
) -> None:
    models = {"a": _mlp(tmp_path, "a", (1, 2, 3)), "b": _mlp(tmp_path, "b", (4, 2, 5))}
    found = _check(models, INPUTS)
    assert found.saved_bytes == 4 * (16 * 8 + 8)
    assert found.shared_operators == 0
    readers = [node for node in found.model.graph.node if "a/w1" in node.input]
    assert len(readers) == 2


def test_models_with_nothing_in_common_save_nothing(tmp_path: Path) -> None:
    models = {"a": _mlp(tmp_path, "a", (1, 2, 3)), "b": _mlp(tmp_path, "b", (4, 5, 6))}
    found = _check(models, INPUTS)
    assert (found.saved_bytes, found.shared_weights, found.shared_operators) == (0, 0, 0)


def test_the_same_model_three_times_answers_three_times(tmp_path: Path) -> None:
    model = _mlp(tmp_path, "a", (1, 2, 3))
    found = _check({"a": model, "b": model, "c": model}, INPUTS)
    assert found.saved_bytes == 2 * _weight_bytes(model)
    assert [o.name for o in found.model.graph.output] == ["a/logits", "b/logits", "c/logits"]


def test_a_layer_that_a_model_has_twice_itself_is_stored_once(tmp_path: Path) -> None:
    twice = _mlp(tmp_path, "a", (1, 2, 2), widths=(4, 4, 4, 4))
    found = _check({"a": twice, "b": _mlp(tmp_path, "b", (3, 4, 5))}, INPUTS)
    assert found.saved_bytes == 4 * (4 * 4 + 4)


def test_weights_in_constant_nodes_are_shared_with_initializers(tmp_path: Path) -> None:
    plain = _mlp(tmp_path, "a", (1, 2, 3))
    moved = ModelProto()
    moved.CopyFrom(plain)
    stored = list(moved.graph.initializer)
    del moved.graph.initializer[:]
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in stored]
    body = list(moved.graph.node)
    del moved.graph.node[:]
    moved.graph.node.extend([*nodes, *body])
    found = share_identical({"a": plain, "b": moved})
    assert found.saved_bytes == _weight_bytes(plain)
    assert found.shared_operators == 5
    made = _answers(found.model, INPUTS)
    assert np.array_equal(made["a/logits"], made["b/logits"])


def test_equal_bytes_of_another_type_or_shape_are_other_weights(tmp_path: Path) -> None:
    def model(name: str, weight: Array) -> ModelProto:
        nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
        shape = (FLOAT, ["N", 4])
        return onnx.load(
            save_model(tmp_path / name, nodes, {"x": shape}, {"y": shape}, {"w": weight})
        )

    row, one = np.zeros((1, 4), np.float32), np.zeros(4, np.float32)
    assert share_identical({"a": model("a", row), "b": model("b", one)}).saved_bytes == 0
    assert share_identical({"a": model("a", row), "b": model("b", row)}).saved_bytes == 16


def test_exported_networks_that_share_a_frozen_trunk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 16, 16)
    nets = [Vgg((8, 12), (0, 1), classes, norm=True).eval() for classes in (3, 5)]
    nets[1].convs.load_state_dict(nets[0].convs.state_dict())
    models = {f"t{i}": export(net, (image,)) for i, net in enumerate(nets)}
    found = _check(models, image.numpy())
    assert found.saved_bytes >= sum(p.numel() * 4 for p in nets[0].convs.parameters())
    assert sum(node.op_type == "Conv" for node in found.model.graph.node) == 2


def test_opsets_are_brought_together(tmp_path: Path) -> None:
    new = _mlp(tmp_path, "a", (1, 2, 3))
    old = ModelProto()
    old.CopyFrom(new)
    old.opset_import[0].version = 13
    found = _check({"a": old, "b": new}, INPUTS)
    assert found.model.opset_import[0].version == new.opset_import[0].version
    assert found.shared_operators == 5


def test_models_for_other_inputs_are_refused(tmp_path: Path) -> None:
    narrow = onnx.load(mlp_classifier(tmp_path / "n", features=4))
    wide = onnx.load(mlp_classifier(tmp_path / "w", features=5))
    image = onnx.load(conv_classifier(tmp_path / "i"))
    for other in (wide, image):
        with pytest.raises(AnalysisError, match=r"'a' takes x:float32.* and 'b' takes"):
            share_identical({"a": narrow, "b": other})
    with pytest.raises(AnalysisError, match="no models"):
        share_identical({})


def test_random_operators_are_never_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"], seed=1.0),
        helper.make_node("Mul", ["r", "zero"], ["none"]),
        helper.make_node("Add", ["x", "none"], ["y"]),
    ]
    shape = (TensorProto.FLOAT, ["N", 4])
    path = save_model(tmp_path / "m", nodes, {"x": shape}, {"y": shape},
                      {"zero": np.zeros(1, np.float32)})  # fmt: skip
    found = share_identical({"a": path, "b": path})
    kinds = [node.op_type for node in found.model.graph.node]
    assert kinds.count("RandomNormalLike") == 2
