"""What is no acceptable model is refused with a reason, and hostile files do no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import sommelier as sm
from sommelier.analysis.inspection import Inspector, inspect
from sommelier.errors import RejectedModelError
from sommelier.records import Artifact
from tests import factories as make
from tests.asking import rows

FLOAT = TensorProto.FLOAT


def edited(path: Path, change: Callable[[ModelProto], object]) -> Path:
    model = onnx.load(str(path), load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


def garbage(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def text(path: Path) -> Path:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def clear_outputs(model: ModelProto) -> None:
    del model.graph.output[:]


def set_opset(version: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def set_domain(domain: str, op: str = "Gemm") -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.node[0].domain = domain
        model.graph.node[0].op_type = op
        model.opset_import.add(domain=domain, version=1)

    return change


FILES = [
    (truncate, "not an ONNX model, or a truncated one"),
    (garbage, "not an ONNX model"),
    (text, "not an ONNX model"),
    (empty, "the file is empty"),
]
EDITS = [
    (clear_outputs, "its graph has no outputs"),
    (set_opset(9999), "it needs opset 9999, but the installed onnx knows opsets up to"),
    (set_opset(-1), "its opset is -1"),
    (set_domain("acme.secret", "Brew"), "operator 'Brew' is of domain 'acme.secret'"),
    (set_domain("", "Brew"), "operator 'Brew' does not exist in ONNX"),
]


@pytest.mark.parametrize(("damage", "reason"), FILES)
def test_files_that_are_no_models_are_rejected(
    tmp_path: Path, damage: Callable[[Path], Path], reason: str
) -> None:
    path = damage(make.tiny_classifier(tmp_path / "m.onnx"))
    with pytest.raises(RejectedModelError, match=reason):
        inspect(path)


@pytest.mark.parametrize(("change", "reason"), EDITS)
def test_models_nobody_can_run_are_rejected(
    tmp_path: Path, change: Callable[[ModelProto], None], reason: str
) -> None:
    path = edited(make.tiny_classifier(tmp_path / "m.onnx"), change)
    with pytest.raises(RejectedModelError, match=reason):
        inspect(path)


def test_operators_of_the_runtime_are_accepted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]
    path = make.save_model(
        tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])},
        opsets={"": 17, "com.microsoft": 1},
    )  # fmt: skip
    assert inspect(path).record.opset == 17


def test_external_data_is_part_of_the_identity(tmp_path: Path) -> None:
    path = make.external_data_model(tmp_path / "m.onnx")
    before = inspect(path).record
    data = tmp_path / "m.onnx.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    after = inspect(path).record
    assert after.id != before.id
    assert after.weight_hash != before.weight_hash
    assert after.graph_hash == before.graph_hash


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/passwd", "a/../../outside.bin", "C:\\x.bin", "..\\x.bin"]
)
def test_external_data_outside_the_folder_is_rejected(tmp_path: Path, location: str) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(10**5))
    path = make.external_data_model(tmp_path / "models" / "m.onnx", location=location)
    with pytest.raises(RejectedModelError, match="outside the model's folder"):
        inspect(path)


def test_a_link_out_of_the_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(10**5))
    path = make.external_data_model(tmp_path / "models" / "m.onnx", location="link.bin")
    (path.parent / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(RejectedModelError, match="is a link out of the model's folder"):
        inspect(path)


def test_missing_and_short_external_data_is_rejected(tmp_path: Path) -> None:
    path = make.external_data_model(tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(RejectedModelError, match="is cut short: the weight 'w' needs"):
        inspect(path)
    data.unlink()
    with pytest.raises(RejectedModelError, match="data' is missing"):
        inspect(path)


def test_a_model_that_never_ends_is_inspected_all_the_same(tmp_path: Path) -> None:
    assert inspect(make.hanging_model(tmp_path / "m.onnx")).record.name == "m"


def test_a_file_that_exhausts_the_reader_is_rejected(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx", features=3000, classes=3000)
    artifact = Artifact("m", None, "folder", str(path), path)
    limited = Inspector(memory_limit_bytes=60 * 10**6)
    with limited, pytest.raises(RejectedModelError, match="cannot be read safely"):
        limited.inspect(artifact)


def test_a_file_the_reader_fails_on_is_rejected_and_the_import_goes_on(tmp_path: Path) -> None:
    """onnx takes no weights from a file of several names, and says so when it reads them."""
    make.external_data_model(tmp_path / "a.onnx")
    (tmp_path / "other name").hardlink_to(tmp_path / "a.onnx.data")
    make.tiny_classifier(tmp_path / "b.onnx")
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}/*.onnx'")
        assert [row["name"] for row in rows(db, "SELECT MODELS name")] == ["b"]
        (refusal,) = rows(db, "SHOW REJECTIONS")
    assert "hard link" in str(refusal["reason"])
