"""Patterns of paths with `**`, as glob has them, except that no linked folder is entered by it."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path


def matches(pattern: str) -> Iterator[str]:
    """The paths that a pattern means, some perhaps twice, as glob.iglob(recursive=True) finds them.

    glob follows links below `**`: two links to the folder they lie in make it go on for ever.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.iglob(pattern)  # noqa: PTH207  (patterns may be absolute)
        return
    first = parts.index("**")
    rest = list(itertools.dropwhile(lambda part: part == "**", parts[first:]))
    for start in glob.iglob(str(Path(*parts[:first]))):  # noqa: PTH207
        for folder, folders, _ in os.walk(start):
            folders[:] = [name for name in folders if name[0] != "."]
            yield from matches(str(Path(glob.escape(folder), *(rest or ("*",)))))
