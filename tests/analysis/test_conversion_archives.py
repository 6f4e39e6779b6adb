"""Archives that anyone may have written are opened within bounds by converters too."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from sommelier.analysis.conversion import ConversionRequest, tensorflow_keras
from sommelier.analysis.conversion.torch_programs import convert_program
from sommelier.errors import RejectedModelError
from sommelier.storage import zips


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zip archive whose list of members is longer than is read."""
    monkeypatch.setattr(zips, "LIST_BYTES", 100)
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as made:
        for name in ("config.json", "a" * 200):
            made.writestr(name, "{}")
    return path


def test_a_keras_file_with_an_endless_list_of_members_is_refused(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorflow_keras, "_check_version", lambda: None)
    with pytest.raises(RejectedModelError, match="the archive lists its members in"):
        tensorflow_keras.check_keras(archive, trusted=False)


def test_a_program_of_torch_with_an_endless_list_of_members_is_refused(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(RejectedModelError, match="the archive lists its members in"):
        convert_program(ConversionRequest(archive, archive.parent, {"trust": True}))
