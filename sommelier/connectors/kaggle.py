"""Models of Kaggle on this machine, by the user's kagglehub: its credentials, and its cache."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from sommelier.connectors import saved_model
from sommelier.connectors.formats import ONNX, TENSORFLOW
from sommelier.connectors.naming import printable
from sommelier.connectors.web import without_secrets
from sommelier.errors import ConnectorError, MissingDependencyError, RejectedModelError
from sommelier.units import Dimension, format_value

SECONDS = 3600.0  # of one download
MODELS = "SavedModel, Keras, TFLite or ONNX file"
_HINTS = {
    "refused": "KAGGLE_API_TOKEN names you; some models want their terms accepted on their page",
    "busy": "try again later",
}


def is_taken(file: PurePath) -> bool:
    """Whether a file of Kaggle is, or belongs to, one of MODELS."""
    suffix = file.suffix.lower()
    return file.name == saved_model.FILE or suffix == ONNX or suffix in TENSORFLOW


def fetched(handle: str, max_size: int) -> Path:
    """The folder of 'owner/model/framework/variation', with '/version' or the newest.

    One that kagglehub has in its cache needs no network if its version is given. Raises
    RejectedModelError for a dead link and for what is not acceptable, ConnectorError if Kaggle
    does not give it, MissingDependencyError without kagglehub.
    """
    if find_spec("kagglehub") is None:
        raise MissingDependencyError(
            "handles of Kaggle need kagglehub", hint="pip install 'sommelier-db[tf]'"
        )
    with TemporaryDirectory(prefix="sommelier-kaggle-") as folder:
        answer = _answer(handle, max_size, Path(folder, "answer.json"))
    if "path" in answer:
        return Path(answer["path"])
    kind, reason = answer["kind"], printable(answer["reason"])
    if kind == "dead":
        raise RejectedModelError(f"a dead link: Kaggle has no model '{handle}' ({reason})")
    if kind == "unsafe":
        raise RejectedModelError(f"not fetched from Kaggle: {reason}")
    raise ConnectorError(f"Kaggle does not give '{handle}': {reason}", hint=_HINTS.get(kind))


def _answer(handle: str, max_size: int, file: Path) -> dict[str, str]:
    """What kaggle_download wrote. Raises ConnectorError if it wrote nothing."""
    command = [sys.executable, "-P", "-m", "sommelier.connectors.kaggle_download", handle]
    try:  # -P: a kagglehub.py in the folder we are in is not the user's kagglehub
        done = subprocess.run(
            [*command, str(max_size), str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        limit = format_value(SECONDS * 1e3, Dimension.TIME)
        raise ConnectorError(
            f"Kaggle did not give '{handle}' within {limit}", hint="run it again: it goes on"
        ) from error
    if done.returncode or not file.is_file():
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        said = printable(without_secrets(last)[:300])
        raise ConnectorError(f"kagglehub fails on '{handle}': {said}")
    answer: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return answer
