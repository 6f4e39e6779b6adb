"""What a question costs before it is answered: imports, opening, and reading 100 000 models.

Limits are several times what a quiet machine needs, so that they catch a change of kind (an import
of SQLAlchemy on the way to a question, a Python loop over all rows), not a busy machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sommelier.records import Measurement, Provenance, TextPredicate
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import plain_model, run

pytestmark = pytest.mark.duckdb("it says what a DuckDB file takes")

MODELS = 100_000
METRICS = ("params", "flops", "memory", "latency", "size", "layers")


def test_a_question_loads_neither_sqlalchemy_nor_pandas_nor_a_runtime(tmp_path: Path) -> None:
    path = tmp_path / "m.sommelier"
    with Catalog.open(path) as catalog:
        catalog.add_model(plain_model("a", task="t"))
    program = """
import sys
from sommelier.records import TextPredicate
from sommelier.storage.catalog import Catalog
with Catalog.open(sys.argv[1], read_only=sys.argv[2] == "read") as catalog:
    catalog.resolve("a"), catalog.model_ids(), catalog.measurement_columns()
    catalog.text_mask(TextPredicate("task", "=", ("t",))), catalog.settings(), catalog.tasks()
    catalog.sql("SELECT * FROM models")
heavy = {"sqlalchemy", "duckdb_sqlalchemy", "pandas", "pyarrow", "scipy", "onnx", "torch"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run(program, path, "read") == run(program, path, "write") == "[]"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """100 000 models with six numbers each."""
    with Catalog.open(tmp_path_factory.mktemp("large") / "m.sommelier") as catalog:
        records = [
            plain_model(f"m{i}", version="1", task=f"t{i % 50}" if i % 3 else None, tags=("a", "b"))
            for i in range(MODELS)
        ]
        started = time.perf_counter()
        catalog.add_models_bulk(records)
        catalog.add_measurements(
            Measurement(record.id, metric, float(i), Provenance.DECLARED, "test", batch=1)
            for i, record in enumerate(records)
            for metric in METRICS
        )
        assert time.perf_counter() - started < 60
        yield catalog


def best_of_three(question: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        question()
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit_s", "question"),
    [
        (1.0, lambda c: c.numbers_in(list(c.contexts()))),
        (0.05, lambda c: c.text_mask(TextPredicate("task", "=", ("t7",)))),
        (0.1, lambda c: c.text_mask(TextPredicate("name", "ilike", ("%M77%",)))),
        (0.2, lambda c: c.text_mask(TextPredicate("tags", "has_any", ("b",)))),
        (0.001, lambda c: c.resolve("m77777")),
        (0.05, lambda c: c.model(c.resolve("m77777").id)),
        (1.0, lambda c: c.publish()),
    ],
)
def test_a_hundred_thousand_models_are_read_at_once(
    large: Catalog, limit_s: float, question: Callable[[Catalog], object]
) -> None:
    assert best_of_three(lambda: question(large)) < limit_s
