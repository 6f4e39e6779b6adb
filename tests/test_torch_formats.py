"""What torch writes, imported by statements: accepted if it answers alike, never run unasked."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import sommelier as sm
from sommelier.errors import ConnectorError, RejectedModelError
from tests import torch_models as made

INPUTS = "inputs = 'float32[n,3,8,8]'"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    with sm.connect(tmp_path / "m.sommelier") as connection:
        yield connection


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


def answers_as(db: sm.Connection, name: str, module: torch.nn.Module) -> None:
    """Asserts that the stored file answers as the module, for batches of one and of several."""
    key = db.model(name).record.artifact
    assert key is not None
    session = onnxruntime.InferenceSession(str(db.artifacts.path(key)))
    for count in (1, 7):
        given = made.images(count)
        (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, module(given).numpy(), atol=1e-5)


def test_a_program_of_torch_export_becomes_a_model_that_answers_alike(
    db: sm.Connection, tmp_path: Path
) -> None:
    path = made.save_program(tmp_path / "toy.pt2", made.net())
    table = db.execute(f"IMPORT MODELS FROM folder '{path}' USING trust = yes")
    assert "1 new" in table.notes
    answers_as(db, "toy", made.net())
    record = db.model("toy").record
    assert "converted from a program of torch.export" in str(record.note)
    assert record.producer == f"torch {torch.__version__}"
    again = db.execute(f"IMPORT MODELS FROM folder '{path}' USING trust = yes")
    assert again.notes == ("1 already there",)


def test_a_file_is_registered_under_a_chosen_name_as_it_is_imported(
    db: sm.Connection, tmp_path: Path
) -> None:
    path = made.save_script(tmp_path / "toy.pt", made.net())
    with pytest.raises(RejectedModelError, match="trust = yes"):
        db.execute(f"REGISTER MODEL mine@7 FROM '{path}' USING {INPUTS}")
    db.execute(f"REGISTER MODEL mine@7 FROM '{path}' TASK 'toys' USING trust = yes, {INPUTS}")
    assert db.model("mine@7").record.task == "toys"
    answers_as(db, "mine", made.net())


def test_torchscript_becomes_a_model_that_answers_alike(db: sm.Connection, tmp_path: Path) -> None:
    path = made.save_script(tmp_path / "toy.pt", made.net())
    db.execute(f"IMPORT MODELS FROM folder '{path}' USING trust = yes, {INPUTS}")
    answers_as(db, "toy", made.net())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_become_a_model_with_the_module_that_is_named(
    db: sm.Connection, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "nets.py").write_text(made.NET)
    path = tmp_path / f"toy{suffix}"
    if suffix == ".pt":
        kept = {f"module.{name}": value for name, value in made.net().state_dict().items()}
        torch.save({"state_dict": kept, "epoch": 3}, path)
    else:
        made.save_safetensors(path, made.net())
    module = f"module = '{tmp_path}/nets.py:Net', arguments = '{{\"width\": 5}}'"
    db.execute(f"IMPORT MODELS FROM folder '{path}' USING {module}, {INPUTS}")
    answers_as(db, "toy", made.net())
    note = str(db.model("toy").record.note)
    assert "its module is made by nets.py:Net(width=5)" in note
    assert str(tmp_path) not in note


def test_the_input_that_was_taken_for_granted_is_in_the_note(
    db: sm.Connection, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(made.NET)
    torch.save(made.net().state_dict(), tmp_path / "toy.pt")
    module = f"module = '{tmp_path}/nets.py:Net'"
    db.execute(f"IMPORT MODELS FROM folder '{tmp_path}/toy.pt' USING {module}")
    record = db.model("toy").record
    assert "its input was taken to be float32[n,3,224,224]" in str(record.note)
    assert record.inputs[0].name == "image"


def test_a_program_or_script_is_not_loaded_unless_the_user_trusts_it(
    db: sm.Connection, tmp_path: Path
) -> None:
    made.save_program(tmp_path / "toy.pt2", made.net())
    made.save_script(tmp_path / "toy.pt", made.net())
    for name in ("toy.pt2", "toy.pt"):
        with pytest.raises(ConnectorError, match="trust = yes"):
            db.execute(f"IMPORT MODELS FROM folder '{tmp_path / name}' USING {INPUTS}")


def test_one_that_is_refused_does_not_stop_the_others(db: sm.Connection, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    made.save_program(zoo / "a.pt2", made.net())
    (zoo / "b.pt2").write_bytes((zoo / "a.pt2").read_bytes()[:5000])
    (zoo / "c.ort").write_bytes(b"\x18\0\0\0ORTM")
    table = db.execute(f"IMPORT MODELS FROM folder '{zoo}' USING trust = yes")
    reasons = {Path(r.revision).name: r.reason for r in db.catalog.rejections()}
    assert "1 new" in table.notes
    assert set(reasons) == {"b.pt2", "c.ort"}
    assert "import the .onnx file it was made from" in reasons["c.ort"]
    assert "not a file of torch.export.save" in reasons["b.pt2"]


def test_a_pickle_bomb_in_weights_is_named_and_not_run(db: sm.Connection, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(made.NET)
    torch.save({"w": Bomb(tmp_path / "harm")}, tmp_path / "new.pt")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    for name, words in (("new.pt", "io.open"), ("old.pth", "only tensors|cannot read")):
        with pytest.raises(ConnectorError, match=words):
            db.execute(
                f"IMPORT MODELS FROM folder '{tmp_path / name}' "
                f"USING module = '{tmp_path}/nets.py:Net', trust = yes, {INPUTS}"
            )
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "data/constants/opaque_obj_0"])
def test_a_pickle_bomb_in_a_program_is_not_run_even_if_it_is_trusted(
    db: sm.Connection, tmp_path: Path, member: str
) -> None:
    good = made.save_program(tmp_path / "good.pt2", made.net())
    bomb = io.BytesIO()
    torch.save((Bomb(tmp_path / "harm"),), bomb)
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        root = source.namelist()[0].split("/")[0]
        for name in source.namelist():
            content = bomb.getvalue() if name.endswith(member) else source.read(name)
            target.writestr(name, content)
        if f"{root}/{member}" not in source.namelist():
            target.writestr(f"{root}/{member}", bomb.getvalue())
    with pytest.raises(ConnectorError, match="accepted"):
        db.execute(f"IMPORT MODELS FROM folder '{path}' USING trust = yes")
    assert not (tmp_path / "harm").exists()


def _safetensors(header: object, body: bytes = b"\0" * 16) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 1 << 60) + b"{}",
        _safetensors({"w": ENTRY | {"shape": [1 << 40]}}),
        _safetensors({"w": ENTRY | {"data_offsets": [8, 24]}}),
        _safetensors({"w": ENTRY | {"data_offsets": [-16, 0]}}),
        _safetensors({"w": ENTRY | {"dtype": "F1"}}),
        _safetensors({"w": ENTRY | {"shape": [-1, -4]}}),
        _safetensors(["w"]),
        _safetensors({"other": ENTRY}),
    ],
)
def test_broken_safetensors_are_refused(db: sm.Connection, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "nets.py").write_text(made.NET)
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(ConnectorError, match=r"empty|header|not a safetensors|do not fit"):
        db.execute(
            f"IMPORT MODELS FROM folder '{tmp_path}/net.safetensors' "
            f"USING module = '{tmp_path}/nets.py:Net', {INPUTS}"
        )


@pytest.mark.parametrize(
    ("using", "words"),
    [
        (INPUTS, "USING module"),
        (f"module = 'nowhere.py:Net', {INPUTS}", "cannot be imported"),
        (f"module = '{{folder}}/nets.py:Nett', {INPUTS}", "it has Net"),
        (f"module = '{{folder}}/nets.py:Net', arguments = '[1', {INPUTS}", "not JSON"),
        (f"module = '{{folder}}/nets.py:Net', arguments = '{{{{\"width\": 6}}}}', {INPUTS}", "fit"),
        ("module = '{folder}/nets.py:Net', inputs = 'picture'", "write type and shape"),
        ("module = '{folder}/nets.py:Net', inputs = 'float32[n,9]'", "fails on its inputs"),
    ],
)
def test_a_mistake_about_weights_is_explained(
    db: sm.Connection, tmp_path: Path, using: str, words: str
) -> None:
    (tmp_path / "nets.py").write_text(made.NET)
    torch.save(made.net().state_dict(), tmp_path / "toy.pt")
    with pytest.raises(ConnectorError, match=words):
        db.execute(
            f"IMPORT MODELS FROM folder '{tmp_path}/toy.pt' USING " + using.format(folder=tmp_path)
        )
