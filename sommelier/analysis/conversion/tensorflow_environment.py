"""Where TensorFlow is: an environment of its own, so that 1.7 GB of it never enter ours.

The first of: $SOMMELIER_TF_PYTHON, a Python or the folder of a virtual environment; the one that
`make_environment` made below the cache folder; our own, where somebody put TensorFlow into it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from sommelier.errors import MissingDependencyError
from sommelier.storage.cache import cache_folder

VARIABLE = "SOMMELIER_TF_PYTHON"
_NAME = "tensorflow-cpu" if sys.platform == "linux" else "tensorflow"  # others have no CUDA in it
PACKAGES = (f"{_NAME}==2.21.0", "tf2onnx==1.17.0", "keras==3.15.1")  # proved together
PIP_SECONDS = 1800


def tensorflow_python() -> Path:
    """The Python to run TensorFlow in.

    Raises MissingDependencyError if there is none, with what makes one.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _named(Path(named).expanduser())
    made = _python_of(_folder())
    if made is not None:
        return made
    if find_spec("tensorflow") and find_spec("tf2onnx"):
        return Path(sys.executable)
    raise MissingDependencyError(
        "TensorFlow has no environment yet to convert models in",
        hint=f"`sommelier environment tensorflow` makes one in {_folder()}; or let "
        f"{VARIABLE} name a Python that has {' and '.join(PACKAGES)}",
    )


def make_environment() -> Path:
    """The Python of a new environment with TensorFlow below the cache folder, fetched by pip.

    It takes minutes and 1.7 GB; one that is there already is completed. Raises
    MissingDependencyError with pip's last words if that fails.
    """
    folder = _folder()
    try:
        _run([sys.executable, "-P", "-m", "venv", str(folder)])  # -P: no module of where we are
        python = _python_of(folder)
        if python is None:
            raise MissingDependencyError(f"{sys.executable} -m venv made no Python in {folder}")
        _run([str(python), "-P", "-m", "pip", "install", "--disable-pip-version-check", *PACKAGES])
    except BaseException:  # Ctrl-C too
        half = _python_of(folder)
        if half is not None:
            half.unlink()  # half an environment must not be found by the next import
        raise
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MissingDependencyError(f"pip did not finish within {PIP_SECONDS} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise MissingDependencyError(f"TensorFlow cannot be installed: {said[:300]}")


def _folder() -> Path:
    return cache_folder() / "environments" / "tensorflow"


def _named(path: Path) -> Path:
    python = _python_of(path) if path.is_dir() else path
    if python is None or not os.access(python, os.X_OK):
        raise MissingDependencyError(
            f"{VARIABLE} names '{path}', which is neither a Python nor a virtual environment",
            hint=f"python -m venv DIR; DIR/bin/pip install {' '.join(PACKAGES)}",
        )
    return python


def _python_of(folder: Path) -> Path | None:
    """The Python of a virtual environment; None if there is none."""
    found = (folder / "bin" / "python", folder / "Scripts" / "python.exe")
    return next((python for python in found if python.exists()), None)
