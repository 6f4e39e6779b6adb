"""Model.original: nothing kept in a catalog gives trust, and files that changed are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sommelier as sm
from sommelier.connection.originals import kept_original
from sommelier.errors import RejectedModelError, SommelierError
from sommelier.origin_records import Original
from sommelier.records import Artifact, Conversion
from tests import torch_models as made
from tests.storage.catalog_factories import plain_model


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    with sm.connect(tmp_path / "m.sommelier") as connection:
        connection.catalog.add_model(plain_model("m"))
        yield connection


def keep(db: sm.Connection, original: Original | None) -> None:
    assert original is not None
    db.catalog.save_original(db.model("m").record.id, original)


def found(path: Path, format: str = "torch_weights", **options: object) -> Original:
    """What an import of this keeps."""
    item = Artifact("m", None, "folder", None, path, {}, conversion=Conversion(format, options))
    kept = kept_original(item)
    assert kept is not None
    return kept


def test_code_that_a_received_catalog_names_is_run_only_with_trust(
    db: sm.Connection, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"{made.NET}\nopen({str(ran)!r}, 'w')\n")
    (tmp_path / "hubconf.py").write_text(f"{made.NET}\nopen({str(ran)!r}, 'w')\nnet = Net\n")
    torch.save(made.net().state_dict(), tmp_path / "w.pt")
    module = {"module": f"{tmp_path}/evil.py:Net", "trust": True}
    for original in (
        Original("torch_weights", str(tmp_path / "w.pt"), module),
        Original("torchhub", str(tmp_path / "hubconf.py"), {"entry": "net", "trust": True}),
    ):
        keep(db, original)
        with pytest.raises(RejectedModelError, match="was not touched"):
            db.model("m").original()
        assert not ran.exists()
        db.model("m").original(trust=True)
        assert ran.exists()
        ran.unlink()


def test_files_that_have_changed_are_not_taken_for_what_the_model_was(
    db: sm.Connection, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(made.NET)
    weights = tmp_path / "w.pt"
    torch.save(made.net(1).state_dict(), weights)
    original = found(weights, module=f"{tmp_path}/nets.py:Net")
    keep(db, original)
    again = db.model("m").original(trust=True)
    torch.testing.assert_close(again.state_dict(), made.net(1).state_dict())
    torch.save(made.net(2).state_dict(), weights)
    with pytest.raises(SommelierError, match="has changed since it was imported") as failure:
        db.model("m").original(trust=True)
    assert "import it again" in str(failure.value.hint)
    (tmp_path / "nets.py").unlink()
    with pytest.raises(SommelierError, match=r"has gone: .*nets\.py"):
        db.model("m").original(trust=True)


def test_a_format_of_a_later_version_is_said(db: sm.Connection, tmp_path: Path) -> None:
    keep(db, Original("hologram", str(tmp_path)))
    with pytest.raises(SommelierError, match="converted from 'hologram'"):
        db.model("m").original()


def test_the_module_is_the_same_one_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    (tmp_path / "nets.py").write_text("")
    monkeypatch.chdir(tmp_path)
    kept = found(Path("w.pt"), module="nets.py:Net", trust=True)
    assert kept.path == str(tmp_path / "w.pt")
    assert kept.options == {"module": f"{tmp_path}/nets.py:Net"}
    assert found(Path("w.pt"), module="package.nets:Net").options["module"] == "package.nets:Net"


@pytest.mark.parametrize(
    ("format", "asked", "other"),
    [
        ("torch_weights", "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"),
        ("torch_weights", "m.safetensors.index.json", "m-00002-of-00002.safetensors"),
        ("torch_weights", "m-00001-of-00002.safetensors", "m.safetensors.index.json"),
        ("transformers", "config.json", "model.safetensors"),
        ("torchhub", "hubconf.py", "models/net.py"),
    ],
)
def test_every_file_of_a_model_counts(tmp_path: Path, format: str, asked: str, other: str) -> None:
    (tmp_path / asked).write_text("asked")
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_text("before")
    before = found(tmp_path / asked, format)
    assert before.fingerprint is not None
    assert found(tmp_path / asked, format) == before
    (tmp_path / "another.txt").write_text("no part of it")
    assert found(tmp_path / asked, format) == before
    (tmp_path / other).write_text("after")
    assert found(tmp_path / asked, format) != before
