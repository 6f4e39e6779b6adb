"""A database with toy models, and the command run as people run it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sommelier.shell.config import load_config
from sommelier.shell.console import Console
from sommelier.shell.session import ShellSession
from tests.factories import tiny_classifier

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "sommelier.shell.cli")
Run = Callable[..., "subprocess.CompletedProcess[str]"]
MODELS = ("alpha", "beta", "gamma")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three toy classifiers, imported."""
    from sommelier.connection import connect

    folder = tmp_path_factory.mktemp("shell")
    for seed, name in enumerate(MODELS):
        tiny_classifier(folder / f"{name}.onnx", seed=seed)
    path = folder / "models.sommelier"
    with connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that no test reads or writes the developer's history or settings."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("SOMMELIER_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name in ("NO_COLOR", "FORCE_COLOR", "PAGER", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """Runs `sommelier` with arguments in an empty folder; stdout and stderr are pipes."""

    def call(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    return call


@pytest.fixture
def session(home: Path, database: Path, tmp_path: Path) -> ShellSession:
    """A session that answers into the files out.txt and err.txt of tmp_path."""
    out = (tmp_path / "out.txt").open("w+", encoding="utf-8")
    err = (tmp_path / "err.txt").open("w+", encoding="utf-8")
    session = ShellSession(load_config({}, use_file=False), Console(out, err))
    session.open(str(database), writes=False)
    yield session
    session.close()
    out.close()
    err.close()
