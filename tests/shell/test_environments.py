"""`sommelier environment`: what it makes is found, and what goes wrong is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sommelier.shell.cli import main
from sommelier.shell.exits import ExitCode


def test_a_framework_that_has_no_environment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["environment", "caffe"])
    assert ended.value.code == ExitCode.USAGE
    assert "tensorflow" in capsys.readouterr().err


def test_what_cannot_be_installed_is_told_and_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sommelier.analysis.conversion import tensorflow_environment
    from sommelier.errors import MissingDependencyError

    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path))
    monkeypatch.delenv(tensorflow_environment.VARIABLE, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # a registry with nothing in it
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert main(["environment", "tensorflow"]) == ExitCode.QUERY_ERROR
    said = capsys.readouterr()
    assert said.out == ""
    assert "TensorFlow cannot be installed" in said.err
    with pytest.raises(MissingDependencyError):
        tensorflow_environment.tensorflow_python()
