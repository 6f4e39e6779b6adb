"""How long a cold question takes from the command line, beside what it cannot do without.

    python -m benchmarks.startup --quick

Every run is a new process. The floor is a process that only imports DuckDB and numpy; the question
opens a catalog of toy models, parses, answers and prints. Bytecode is cached as after installation.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import sommelier as sm
from benchmarks.report import arguments, finish, table
from tests.factories import mlp_classifier

HEAVY = ("torch", "onnxruntime", "tensorflow", "onnx", "pandas", "sqlalchemy", "scipy")
QUESTIONS = {
    "resources": "SELECT MODELS ON memory < 1 MB LIMIT 3",
    "corr": "SELECT MODEL CORR m0 >= 20% ON memory < 100% PICK MOST SIMILAR",
}


def main() -> None:
    options = arguments("Cold start of `sommelier DB -c 'SELECT ...'`").parse_args()
    runs = 8 if options.quick else 40
    with tempfile.TemporaryDirectory() as folder:
        database = _catalog(Path(folder), options.seed)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        programs = {
            "python": [sys.executable, "-c", "pass"],
            "floor": [sys.executable, "-c", "import numpy, duckdb"],
            **{
                name: [sys.executable, "-m", "sommelier", str(database), "-c", text]
                for name, text in QUESTIONS.items()
            },
        }
        times = {name: _seconds(command, environment, runs) for name, command in programs.items()}
        loaded = _loaded(database, environment)
    rows = [
        (name, 1e3 * statistics.median(found), 1e3 * min(found)) for name, found in times.items()
    ]
    print(table(f"{runs} new processes each", ("program", "median ms", "best ms"), rows))
    print(f"runtimes loaded by a question: {', '.join(loaded) or 'none'}")
    median = {name: 1e3 * statistics.median(found) for name, found in times.items()}
    figures = {f"cold_{name}_ms": median[name] for name in ("floor", *QUESTIONS)}
    figures["cold_per_floor"] = median["resources"] / median["floor"]
    figures["heavy_modules"] = len(loaded)
    finish(figures, options.json)


def _catalog(folder: Path, seed: int) -> Path:
    """A database of eight analysed toy classifiers."""
    for index in range(8):
        mlp_classifier(folder / f"m{index}.onnx", seed=seed + index, hidden=(4 + 4 * index,))
    points = np.random.default_rng(seed).normal(size=(200, 4)).astype(np.float32)
    np.save(folder / "points.npy", points)
    with sm.connect(folder / "models.sommelier") as db:
        db.import_models("folder", f"{folder}/*.onnx")
        db.register_dataset("points", folder / "points.npy")
        db.analyze(aspects=("equivalence",), dataset="points")
    return folder / "models.sommelier"


def _seconds(command: list[str], environment: dict[str, str], runs: int) -> list[float]:
    """Wall time of each run, after two that fill the caches."""
    found = []
    for _ in range(runs + 2):
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        found.append(time.perf_counter() - started)
    return found[2:]


def _loaded(database: Path, environment: dict[str, str]) -> list[str]:
    """Which of the heavy libraries a question loads."""
    program = (
        "import sys; from sommelier.shell.cli import main; main(sys.argv[1:]);"
        "print(' '.join(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, str(database), "-c", QUESTIONS["corr"]]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return sorted(set(done.stderr.splitlines()[-1].split()) & set(HEAVY))


if __name__ == "__main__":
    main()
