"""The models of a deployment may call the same tensors by other names, or in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sommelier.deployment_records import DeploymentOptions, counterparts
from sommelier.errors import InputError
from sommelier.records import TensorSpec
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.runtime.deploying import deployed, deployment, pool_of

ONE = np.ones((1, 4), np.float32)
FIXED = "fixed"
COLD = DeploymentOptions(warm=0)  # nothing is loaded before it is asked for


def written(
    path: Path, inputs: list[str], outputs: list[str], nodes: list[tuple[str, ...]]
) -> Path:
    """All tensors are float32 [n,4]; `ten` is a constant. nodes : operator, output, inputs."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names]
        for names in (inputs, outputs)
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, list(given), [made]) for kind, made, *given in nodes],
        "g",
        *values,
        [numpy_helper.from_array(np.array([10.0], np.float32), "ten")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def of_two(path: Path, a: str, b: str, *, order: tuple[str, str]) -> ServedModel:
    """y = 10 a + b, with its inputs declared in this order."""
    return ServedModel.of_file(
        written(path, list(order), ["y"], [("Mul", "t", a, "ten"), ("Add", "y", "t", b)])
    )


def into_two(path: Path, x: str, outputs: list[str], *, tenfold: str) -> ServedModel:
    """Of its two outputs `tenfold` is 10 x and the other one x."""
    (same,) = set(outputs) - {tenfold}
    return ServedModel.of_file(
        written(path, [x], outputs, [("Mul", tenfold, x, "ten"), ("Identity", same, x)])
    )


def answers(
    cache: SessionCache,
    models: dict[str, ServedModel],
    inputs: dict[str, np.ndarray],
    *,
    asked: str,
    loaded: tuple[str, ...],
) -> dict[str, float]:
    """The first number of each output of `asked`, once these were loaded, in this order."""
    record = deployment(deployed(*models), policy=FIXED, knobs={"model": asked}, options=COLD)
    with pool_of(cache) as pool, RunningDeployment(record, models, pool) as running:
        for name in loaded:
            pool.load(name)
        found = running.infer(inputs)
        assert found.model == asked
        return {name: float(value.flat[0]) for name, value in found.outputs.items()}


@pytest.mark.parametrize("loaded", [("ab", "ba"), ("ba", "ab"), ("ba",)])
def test_inputs_of_the_same_names_are_mapped_by_name_in_whatever_order(
    loaded: tuple[str, ...], tmp_path: Path, cache: SessionCache
) -> None:
    models = {
        "ab": of_two(tmp_path / "ab.onnx", "a", "b", order=("a", "b")),
        "ba": of_two(tmp_path / "ba.onnx", "a", "b", order=("b", "a")),
    }
    found = answers(cache, models, {"a": ONE, "b": 2 * ONE}, asked="ba", loaded=loaded)
    assert found == {"y": 12.0}


@pytest.mark.parametrize("loaded", [("first", "second"), ("second",)])
def test_outputs_of_the_same_names_are_mapped_by_name_in_whatever_order(
    loaded: tuple[str, ...], tmp_path: Path, cache: SessionCache
) -> None:
    models = {
        "first": into_two(tmp_path / "first.onnx", "x", ["loc", "obj"], tenfold="loc"),
        "second": into_two(tmp_path / "second.onnx", "x", ["obj", "loc"], tenfold="loc"),
    }
    found = answers(cache, models, {"x": ONE}, asked="second", loaded=loaded)
    assert found == {"loc": 10.0, "obj": 1.0}


def test_tensors_of_other_names_are_mapped_by_position(tmp_path: Path, cache: SessionCache) -> None:
    models = {
        "ab": of_two(tmp_path / "ab.onnx", "a", "b", order=("a", "b")),
        "cd": of_two(tmp_path / "cd.onnx", "c", "d", order=("c", "d")),
    }
    found = answers(cache, models, {"a": ONE, "b": 2 * ONE}, asked="cd", loaded=("ab", "cd"))
    assert found == {"y": 12.0}


def test_a_name_that_both_have_is_never_given_to_another_tensor(
    tmp_path: Path, cache: SessionCache
) -> None:
    models = {
        "ab": of_two(tmp_path / "ab.onnx", "a", "b", order=("a", "b")),
        "ca": of_two(tmp_path / "ca.onnx", "a", "c", order=("c", "a")),
    }
    found = answers(cache, models, {"a": ONE, "b": 2 * ONE}, asked="ca", loaded=("ab", "ca"))
    assert found == {"y": 12.0}


def spec(name: str, dtype: str = "float32", *shape: int | str) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


BOXES, SCORES = spec("boxes", "float32", "n", 100, 4), spec("scores", "float32", "n", 100)


@pytest.mark.parametrize(
    ("first", "other", "wanted"),
    [
        ((BOXES, SCORES), (SCORES, BOXES), {"boxes": "boxes", "scores": "scores"}),
        ((BOXES, SCORES), (spec("b", "float32", 1, 100, 4), spec("s", "float32", 1, 100)),
         {"boxes": "b", "scores": "s"}),
        ((BOXES, SCORES), (spec("s", "float32", 1, 100), spec("b", "float32", 1, 100, 4)), {}),
        ((BOXES, SCORES), (BOXES, spec("labels", "int64", "n", 100)), {"boxes": "boxes"}),
        ((BOXES, SCORES), (BOXES,), {"boxes": "boxes"}),
        ((spec("x", "float32", 1, 3, 8, 8),), (spec("y", "uint8", 1, 9, 9, 3),), {"x": "y"}),
    ],
)  # fmt: skip
def test_only_what_fits_is_mapped_by_position(
    first: tuple[TensorSpec, ...], other: tuple[TensorSpec, ...], wanted: dict[str, str]
) -> None:
    assert counterparts(first, other) == wanted


def test_what_a_deployment_takes_does_not_change_while_it_serves(
    tmp_path: Path, cache: SessionCache
) -> None:
    """Of files no catalog describes the first that was loaded; else the first of the statement."""
    models = {
        "one": into_two(tmp_path / "one.onnx", "x", ["loc", "obj"], tenfold="loc"),
        "two": into_two(tmp_path / "two.onnx", "y", ["c", "d"], tenfold="c"),
    }
    record = deployment(deployed(*models), policy=FIXED, knobs={"model": "two"}, options=COLD)
    with pool_of(cache) as pool, RunningDeployment(record, models, pool) as running:
        for name in ("two", "one"):
            pool.load(name)
            told = [spec.name for spec in (*running.inputs, *running.outputs)]
            assert told == ["y", "c", "d"]
            assert float(running.infer({"y": ONE}).outputs["c"].flat[0]) == 10.0


def test_what_a_deployment_takes_is_what_its_first_model_declares_whichever_is_loaded(
    tmp_path: Path, cache: SessionCache
) -> None:
    known = {
        "one": into_two(tmp_path / "one.onnx", "x", ["loc", "obj"], tenfold="loc"),
        "two": into_two(tmp_path / "two.onnx", "y", ["c", "d"], tenfold="c"),
    }
    declared = {"one": ("x", "loc", "obj"), "two": ("y", "c", "d")}
    models = {
        name: ServedModel(
            name,
            model.path,
            model.id,
            inputs=(spec(declared[name][0], "float32", "n", 4),),
            outputs=tuple(spec(output, "float32", "n", 4) for output in declared[name][1:]),
        )
        for name, model in known.items()
    }
    record = deployment(deployed(*models), policy=FIXED, knobs={"model": "two"}, options=COLD)
    with pool_of(cache) as pool, RunningDeployment(record, models, pool) as running:
        for name in ("two", "one"):
            pool.load(name)
            told = [spec.name for spec in (*running.inputs, *running.outputs)]
            assert told == ["x", "loc", "obj"]
            found = running.infer({"x": ONE})
            assert float(found.outputs["loc"].flat[0]) == 10.0
            with pytest.raises(InputError, match="one has no input 'y'"):
                running.infer({"y": ONE})
