"""MLflow's search over registries of the same sizes, in the environment that the tests use.

SOMMELIER_MLFLOW names a Python with mlflow (else /tmp/mlvenv has one). A registry on SQLite gets
one model through MLflow's own client, and copies of its rows for the others, for its client takes
some ms a model. Asked, warm, as far as its language goes: two tags, a page of 100; and what it
cannot say, bounds on two numbers and the ten smallest, by fetching every model and looking at its
tags here.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.query_latency import Figures
from benchmarks.report import Cell

SCRIPT = """
import json, random, sqlite3, sys, time
path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
from mlflow.tracking import MlflowClient
uri = f"sqlite:///{path}"
client = MlflowClient(tracking_uri=uri, registry_uri=uri)
random.seed(seed)
def tags():
    return {"task": random.choice(["vision", "text", "audio"]), "license": random.choice(["mit", "apache-2.0"]),
            "memory": f"{random.lognormvariate(18, 1.2):.0f}", "flops": f"{random.lognormvariate(23, 1.6):.0f}"}
client.create_registered_model("m0", tags=tags())
base = sqlite3.connect(path)
def columns(table):
    return [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
names = columns("registered_models")
row = base.execute(f"SELECT {','.join(names)} FROM registered_models").fetchone()
at = names.index("name")
base.executemany(f"INSERT INTO registered_models VALUES ({','.join('?' * len(row))})",
    ([*row[:at], f"m{i}", *row[at + 1:]] for i in range(1, count)))
fields = columns("registered_model_tags")
one = dict(zip(fields, base.execute("SELECT * FROM registered_model_tags").fetchone()))
base.executemany(f"INSERT INTO registered_model_tags ({','.join(fields)}) VALUES ({','.join('?' * len(fields))})",
    ([{**one, "name": f"m{i}", "key": k, "value": v}[f] for f in fields]
     for i in range(1, count) for k, v in tags().items()))
base.commit(); base.close()
def timed(ask, times):
    taken = []
    for _ in range(times):
        begun = time.perf_counter(); found = ask(); taken.append((time.perf_counter() - begun) * 1e3)
    return sorted(taken), found
def tagged():
    return len(client.search_registered_models("tags.task = 'vision' AND tags.license = 'mit'", max_results=100))
def bounded():
    found, token = [], None
    while True:
        page = client.search_registered_models(max_results=1000, page_token=token)
        found += [(float(m.tags["memory"]), m.name) for m in page
                  if float(m.tags["memory"]) < 1e8 and float(m.tags["flops"]) <= 1e10]
        token = page.token
        if not token:
            return len(sorted(found)[:10])
print(json.dumps({"tagged": timed(tagged, 9), "bounded": timed(bounded, 3 if count > 20000 else 5)}))
"""  # noqa: E501: a program of its own


def beside(sizes: Sequence[int], seed: int) -> tuple[list[list[Cell]], Figures]:
    """Rows of the table of questions, and figures, for registries of these sizes."""
    python = Path(os.environ.get("SOMMELIER_MLFLOW", "/tmp/mlvenv/bin/python"))
    if not python.is_file():
        raise SystemExit("--peers: no Python with mlflow; set SOMMELIER_MLFLOW to one")
    rows: list[list[Cell]] = []
    figures: Figures = {}
    for size in sizes:
        found = _asked(python, size, seed)
        for kind, (taken, given) in found.items():
            p50, worst = taken[len(taken) // 2], taken[-1]
            rows.append([f"{size // 1000}k {kind}", "mlflow", p50, worst, given, "-"])
            figures[f"mlflow_{kind}_p50_ms_{size // 1000}k"] = p50
    return rows, figures


def _asked(python: Path, size: int, seed: int) -> dict[str, tuple[list[float], int]]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(python), "-c", SCRIPT, str(Path(folder) / "mlflow.db"), str(size), str(seed)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": ""},
        )
    if done.returncode:
        raise SystemExit(f"mlflow failed:\n{done.stderr[-2000:]}")
    found: dict[str, tuple[list[float], int]] = json.loads(done.stdout.splitlines()[-1])
    return found
