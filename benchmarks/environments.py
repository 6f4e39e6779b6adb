"""Environments of their own for programs that a benchmark compares us with.

They lie in a cache folder ($XDG_CACHE_HOME/sommelier/peers) and are made once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INSTALL_S = 900


def environment(packages: Sequence[str]) -> Path | str:
    """The interpreter of an environment with `packages`, or why there is none.

    packages : as pip takes them; the first names the environment.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "sommelier" / "peers" / f"{packages[0]}-{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", *packages],
    )
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    (folder / "ready").touch()
    return python
