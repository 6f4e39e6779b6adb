"""Models of PyTorch Hub imported by statements, from a server on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import sommelier as sm
from sommelier.connection.nothing_came import UntrustedError
from sommelier.errors import ConnectorError, RejectedModelError
from tests import torch_models as made
from tests.asking import rows
from tests.connectors.hub import write_repository, zipball
from tests.connectors.loopback import Page, serving


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sm.Connection]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    with sm.connect(tmp_path / "m.sommelier") as connection:
        yield connection


def test_a_model_of_the_hub_is_made_only_once_its_repository_is_trusted(
    db: sm.Connection, tmp_path: Path
) -> None:
    toy = write_repository(tmp_path / "toy", tmp_path / "executed", made.NET)
    options = "weights = 'DEFAULT', inputs = 'float32[n,3,8,8]'"
    with serving({"/owner/toy/zipball/refs/tags/v1": Page(zipball(toy))}) as server:
        text = f"IMPORT MODELS FROM torchhub 'owner/toy:v1#small' USING {options}, "
        text += f"endpoint = '{server.url}'"
        shown = (
            f"SHOW MODELS FROM torchhub 'owner/toy:v1' LIKE 's%' USING endpoint = '{server.url}'"
        )
        assert [row["name"] for row in rows(db, shown)] == ["small", "starred"]
        with pytest.raises(UntrustedError, match="USING trust = yes") as refused:
            db.execute(text)
        assert refused.value.place == "'owner/toy:v1#small'"
        assert not (tmp_path / "executed").exists()
        table = db.execute(f"{text}, trust = yes")
        assert (tmp_path / "executed").exists()
    assert "1 new" in table.notes
    record = db.model("small").record
    assert record.source == "torchhub"
    assert record.revision == "owner/toy:v1#small"
    assert "A small classifier of 3x8x8 images; made by small(" in str(record.note)
    assert "commit 0123abc" in str(record.note)  # as the folder in the archive is named
    _answers_as(db, "small", made.net(3))
    with pytest.raises(RejectedModelError, match="runs the code of its repository"):
        db.model("small").original()
    environment = dict(os.environ)
    module = db.model("small").original(trust=True)
    assert dict(os.environ) == environment
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module.eval()(x), made.net(3).eval()(x))
    assert db.catalog.original(record.id).format == "torchhub"


def test_a_mistyped_entry_is_told_its_nearest_name_also_where_code_may_run(
    db: sm.Connection, tmp_path: Path
) -> None:
    toy = write_repository(tmp_path / "toy", tmp_path / "executed", made.NET)
    with pytest.raises(ConnectorError, match=r"smal.*\(did you mean small\?\)"):
        db.execute(f"IMPORT MODELS FROM torchhub '{toy}#smal' USING trust = yes")


BOMBED = """
import torch


def bombed():
    return torch.load({path!r}, weights_only=False)
"""


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


def test_weights_are_never_unpickled_in_full_even_if_a_trusted_repository_asks_for_it(
    db: sm.Connection, tmp_path: Path
) -> None:
    torch.save(_Bomb(tmp_path / "harm"), tmp_path / "bomb.pt")
    (tmp_path / "toy").mkdir()
    source = BOMBED.format(path=str(tmp_path / "bomb.pt"))
    (tmp_path / "toy" / "hubconf.py").write_text(source)
    with pytest.raises(ConnectorError, match=r"(?i)weights.only"):
        db.execute(f"IMPORT MODELS FROM torchhub '{tmp_path}/toy' USING trust = yes")
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / "bomb.pt", weights_only=False).close()
    assert (tmp_path / "harm").exists()


def _answers_as(db: sm.Connection, name: str, module: torch.nn.Module) -> None:
    key = db.model(name).record.artifact
    assert key is not None
    session = onnxruntime.InferenceSession(str(db.artifacts.path(key)))
    for count in (1, 6):
        given = made.images(count)
        (found,) = session.run(None, {"image": given.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, module(given).numpy(), atol=1e-5)
