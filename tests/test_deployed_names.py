"""DEPLOY tells which names requests have, and which models none of them is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import sommelier as sm
from sommelier.records import Preprocessing
from tests.factories import conv_classifier


def sums(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Each output is the sum of all inputs; all are [n,4]."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names]
        for names in (inputs, outputs)
    ]
    nodes = [helper.make_node("Sum", list(inputs), [output]) for output in outputs]
    graph = helper.make_graph(nodes, "g", *values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)


RENAMED = "inputs and outputs have the names of ab; by position "


@pytest.mark.parametrize(
    ("inputs", "outputs", "wanted"),
    [
        ("ba", "yz", []),
        ("ab", "zy", []),
        ("cd", "yw", [f"{RENAMED}other takes 'a' as 'c', 'b' as 'd' and gives 'z' as 'w'"]),
        ("ab", "yzw", ["answers of other have also w:float32[n,4]"]),
        ("ab", "y", ["answers of other lack z:float32[n,4]"]),
    ],
)
def test_names_that_not_all_models_have_are_told(
    inputs: str, outputs: str, wanted: list[str], tmp_path: Path
) -> None:
    sums(tmp_path / "ab.onnx", "ab", "yz")
    sums(tmp_path / "other.onnx", inputs, outputs)
    with sm.connect(":memory:") as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}'")
        told = db.execute("DEPLOY MODELS ab, other AS v").notes
    assert [note for note in told if "position" in note or "answers of" in note] == wanted


def test_inputs_are_compared_by_name_and_not_in_the_order_they_are_declared(
    tmp_path: Path,
) -> None:
    for name, order in (("one", (0, 1)), ("two", (1, 0))):
        values = [
            helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["n", 8]),
            helper.make_tensor_value_info("narrow", TensorProto.FLOAT, ["n", 4]),
        ]
        given = [values[k] for k in order]
        node = helper.make_node("Concat", ["wide", "narrow"], ["y"], axis=1)
        made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])
        model = helper.make_model(
            helper.make_graph([node], "g", given, [made]),
            opset_imports=[helper.make_opsetid("", 17)],
        )
        model.ir_version = 9
        onnx.save(model, tmp_path / f"{name}.onnx")
    with sm.connect(":memory:") as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}'")
        assert db.execute("DEPLOY MODELS one, two AS v")


def test_models_that_no_request_of_tensors_is_for_are_told(tmp_path: Path) -> None:
    """Both declare how images become their inputs; one takes 8 x 8 pixels, the other 6 x 6."""
    for name, size in (("eight", 8), ("six", 6)):
        conv_classifier(tmp_path / f"{name}.onnx", size=size)
    with sm.connect(":memory:") as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}'")
        for name, size in (("eight", 8), ("six", 6)):
            steps = (
                ("resize", {"size": [size, size]}),
                ("to_float", {"scale": 255.0}),
                ("layout", {"order": "NCHW"}),
            )
            record = db.catalog.resolve(name)
            db.catalog.update_model(replace(record, preprocessing=Preprocessing(steps)))
        notes = db.execute("DEPLOY MODELS eight, six AS v").notes
    (told,) = [note for note in notes if "REST" in note]
    assert told.startswith("requests of tensors, as all over REST and gRPC, are for eight (")
    assert "are also for six (image:float32[N,3,6,6])" in told
