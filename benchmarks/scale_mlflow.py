"""MLflow's search over registries of the same sizes, in an environment of its own.

SOMMELIER_MLFLOW may name a Python with mlflow; else one is installed. A registry on SQLite gets
one model through MLflow's own client, and copies of its rows for the others, for its client takes
some ms a model. Asked, warm, as far as its language goes: two tags of models, a page of 100
(`tagged`); bounds on two numbers and the ten smallest, where they are metrics of a run for each
model (`runs`: its models have none); and of the models themselves, which it cannot ask that, by
fetching every one and looking at its tags here (`bounded`).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environments import environment
from benchmarks.query_latency import Figures
from benchmarks.report import Cell

MLFLOW = "mlflow==3.17.2"
CLIENT = Path(__file__).with_name("scale_mlflow_client.py")


def beside(sizes: Sequence[int], seed: int) -> tuple[list[list[Cell]], Figures]:
    """Rows of the table of questions, and figures, for registries of these sizes."""
    python = os.environ.get("SOMMELIER_MLFLOW") or environment((MLFLOW,))
    if not Path(python).is_file():
        raise SystemExit(f"--peers: no Python with mlflow ({python}); set SOMMELIER_MLFLOW to one")
    rows: list[list[Cell]] = []
    figures: Figures = {}
    for size in sizes:
        found = _asked(python, size, seed)
        for kind, (taken, given) in found.items():
            p50, worst = taken[len(taken) // 2], taken[-1]
            rows.append([f"{size // 1000}k {kind}", "mlflow", p50, worst, "-", given, "-"])
            figures[f"mlflow_{kind}_p50_ms_{size // 1000}k"] = p50
    return rows, figures


def _asked(python: str | Path, size: int, seed: int) -> dict[str, tuple[list[float], int]]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(python), str(CLIENT), str(Path(folder) / "mlflow.db"), str(size), str(seed)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": ""},
        )
    if done.returncode:
        raise SystemExit(f"mlflow failed:\n{done.stderr[-2000:]}")
    found: dict[str, tuple[list[float], int]] = json.loads(done.stdout.splitlines()[-1])
    return found
