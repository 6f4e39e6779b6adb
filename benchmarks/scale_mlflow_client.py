"""Run by scale_mlflow.py in an environment with mlflow: fills a registry and asks it.

Arguments: the SQLite file, the number of models, a seed. Prints JSON: question -> (sorted
milliseconds, answers).
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

PAGE = 1_000  # the largest that MLflow gives
MEMORY, FLOPS = 1e8, 1e10
NUMBERS = ("memory", "flops")
TASKS, LICENSES = ("vision", "text", "audio"), ("mit", "apache-2.0")


def tags() -> dict[str, str]:
    """What is known of a model, as MLflow keeps it: text."""
    return {
        "task": random.choice(TASKS),
        "license": random.choice(LICENSES),
        "memory": f"{random.lognormvariate(18, 1.2):.0f}",
        "flops": f"{random.lognormvariate(23, 1.6):.0f}",
    }


def fill(client: Any, path: str, count: int) -> None:
    """One model through the client, and copies of its rows under other names and tags."""
    client.create_registered_model("m0", tags=tags())
    run = client.create_run("0").info.run_id
    for key in NUMBERS:
        client.log_metric(run, key, 1.0)
    with sqlite3.connect(path) as base:
        _copy(base, "registered_models", [{"name": f"m{i}"} for i in range(1, count)])
        more = [
            {"name": f"m{i}", "key": key, "value": value}
            for i in range(1, count)
            for key, value in tags().items()
        ]
        _copy(base, "registered_model_tags", more)
        numbers = [tags() for _ in range(count - 1)]
        names = [uuid.UUID(int=random.getrandbits(128)).hex for _ in numbers]
        _copy(base, "runs", [{"run_uuid": name, "name": name} for name in names])
        known = [
            {"run_uuid": name, "key": key, "value": number[key]}
            for name, number in zip(names, numbers, strict=True)
            for key in NUMBERS
        ]
        _copy(base, "latest_metrics", known)


def _copy(base: sqlite3.Connection, table: str, changes: list[dict[str, str]]) -> None:
    names = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
    first = base.execute(f"SELECT {', '.join(names)} FROM {table} LIMIT 1").fetchone()
    known = dict(zip(names, first, strict=True))
    rows = ([{**known, **change}[name] for name in names] for change in changes)
    marks = ", ".join("?" * len(names))
    base.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)


def tagged(client: Any) -> int:
    """Two tags, one page of 100."""
    asked = "tags.task = 'vision' AND tags.license = 'mit'"
    return len(client.search_registered_models(asked, max_results=100))


def runs(client: Any) -> int:
    """The same question in MLflow's language, about numbers kept as metrics of a run a model."""
    asked = f"metrics.memory < {MEMORY:.0f} AND metrics.flops <= {FLOPS:.0f}"
    return len(client.search_runs(["0"], asked, max_results=10, order_by=["metrics.memory ASC"]))


def bounded(client: Any) -> int:
    """Bounds on two numbers and the ten smallest: all pages, compared here."""
    found, token = [], None
    while True:
        page = client.search_registered_models(max_results=PAGE, page_token=token)
        found += [
            (float(model.tags["memory"]), model.name)
            for model in page
            if float(model.tags["memory"]) < MEMORY and float(model.tags["flops"]) <= FLOPS
        ]
        token = page.token
        if not token:
            return len(sorted(found)[:10])


def timed(ask: Callable[[], int], times: int) -> tuple[list[float], int]:
    """Sorted milliseconds, and the number of answers."""
    taken, given = [], 0
    for _ in range(times):
        begun = time.perf_counter()
        given = ask()
        taken.append((time.perf_counter() - begun) * 1e3)
    return sorted(taken), given


def main() -> None:
    from mlflow.tracking import MlflowClient

    path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    random.seed(seed)
    uri = f"sqlite:///{path}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    fill(client, path, count)
    asked = {
        "tagged": timed(lambda: tagged(client), 9),
        "runs": timed(lambda: runs(client), 9),
        "bounded": timed(lambda: bounded(client), 1 if count > 20_000 else 5),
    }
    print(json.dumps(asked))


if __name__ == "__main__":
    main()
