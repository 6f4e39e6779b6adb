"""Findings of a long benchmark kept on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import sommelier

T = TypeVar("T")


def kept(folder: Path | None, key: object, make: Callable[[], T]) -> T:
    """What `make` made under this key with the code as it is, or makes now. None: nothing is kept.

    key : its repr tells it from others.
    """
    if folder is None:
        return make()
    digest = sha256(f"{_code()} {key!r}".encode()).hexdigest()
    file = folder / f"{digest[:32]}.pickle"
    if file.is_file():
        found: T = pickle.loads(file.read_bytes())
        return found
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(pickle.dumps(made))
    part.replace(file)
    return made


@cache
def _code() -> str:
    """Of all that a search for a fusion, and what is measured of it, may depend on; how figures are
    made of it is not."""
    package, here = Path(sommelier.__file__).parent, Path(__file__).parent
    searching = [here / f"fusion_{name}.py" for name in ("networks", "runs", "suites")]
    return _digest([*package.rglob("*.py"), *searching])


def _digest(files: Iterable[Path]) -> str:
    digest = sha256()
    for file in sorted(files):
        digest.update(sha256(file.read_bytes()).digest())
    return digest.hexdigest()
