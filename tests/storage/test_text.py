"""Conditions on metadata columns agree with the same conditions in Python, NULLs apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from sommelier.errors import BinderError
from sommelier.metrics import TEXT_COLUMNS
from sommelier.records import LabelSpace, ModelRecord, TensorSpec, TextPredicate
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import plain_model

TASKS = ("image-classification", "Image-Segmentation", "it's", "100%_sure", None, "")
MODELS = tuple(
    plain_model(
        f"m{i}", version="1", task=task, tags=tags, label_space_id="l1" if i == 0 else None,
        created=datetime(2024, 4 + i, 17, 12) if i < 3 else None,
        inputs=(TensorSpec("x", "float32", (None, 3)), TensorSpec("y", "int64", ("n",))),
    )
    for i, (task, tags) in enumerate(
        zip(TASKS, [("a",), ("a", "b"), ('"b"', "c, a"), (), ("b",), ("A",)], strict=True)
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def catalog() -> Iterator[Catalog]:
    with Catalog.open(":memory:") as opened:
        opened.add_label_space(LabelSpace("l1", "pets", ("cat", "dog")))
        opened.add_models_bulk(MODELS)
        yield opened


def ids(models: list[ModelRecord]) -> list[str]:
    return [model.id for model in models]


@pytest.mark.parametrize(
    ("operator", "values", "holds"),
    [
        ("=", ("it's",), lambda t: t == "it's"),
        ("=", ("",), lambda t: t == ""),
        ("!=", ("it's",), lambda t: t != "it's"),
        ("<", ("it",), lambda t: t < "it"),
        ("<=", ("it's",), lambda t: t <= "it's"),
        (">", ("I",), lambda t: t > "I"),
        (">=", ("it's",), lambda t: t >= "it's"),
        ("like", ("%e-%",), lambda t: "e-" in t),
        ("like", ("Image%",), lambda t: t.startswith("Image")),
        ("ilike", ("image%",), lambda t: t.lower().startswith("image")),
        ("regexp", ("^[Ii]mage-(c|S)",), lambda t: re.search("^[Ii]mage-(c|S)", t)),
        ("in", ("it's", "nothing", ""), lambda t: t in ("it's", "nothing", "")),
        ("=", ("'; DROP TABLE store.models; --",), lambda t: False),
    ],
)
def test_operators_mean_what_they_mean_in_python(
    catalog: Catalog, operator: str, values: tuple[str, ...], holds: Callable[[str], object]
) -> None:
    mask = catalog.text_mask(TextPredicate("task", operator, values))
    assert mask.true_ids.tolist() == ids(
        [m for m in MODELS if m.task is not None and holds(m.task)]
    )
    assert mask.null_ids.tolist() == ids([m for m in MODELS if m.task is None])


def test_rows_of_a_mask_count_in_the_order_of_the_models(catalog: Catalog) -> None:
    mask = catalog.text_mask(TextPredicate("task", "!=", ("it's",)))
    assert catalog.model_ids()[mask.true_rows].tolist() == mask.true_ids.tolist()
    assert mask.null_rows.tolist() == [4]


def test_is_null_is_never_unknown(catalog: Catalog) -> None:
    mask = catalog.text_mask(TextPredicate("task", "is_null"))
    assert mask.true_ids.tolist() == ids([m for m in MODELS if m.task is None])
    assert mask.null_ids.tolist() == []
    assert catalog.text_mask(TextPredicate("tags", "is_null")).true_rows.tolist() == [3]


@pytest.mark.parametrize(
    ("operator", "values", "rows"),
    [
        ("has_any", ("a",), [0, 1]),
        ("has_any", ("b", "c, a"), [1, 2, 4]),
        ("has_all", ("a", "b"), [1]),
        ("has_all", ('"b"',), [2]),
        ("has_any", ("none",), []),
    ],
)
def test_tags_are_had_whole_and_never_unknown(
    catalog: Catalog, operator: str, values: tuple[str, ...], rows: list[int]
) -> None:
    mask = catalog.text_mask(TextPredicate("tags", operator, values))
    assert mask.true_rows.tolist() == rows
    assert mask.null_rows.tolist() == []


@pytest.mark.parametrize(
    ("operator", "value", "rows"),
    [("=", "2024-05", [1]), (">=", "2024-05", [1, 2]), ("<", "2024-05-17", [0]),
     ("=", "2024", [0, 1, 2]), (">", "2024-05-17 11:00", [1, 2])],
)  # fmt: skip
def test_times_are_compared_to_the_precision_they_are_written_with(
    catalog: Catalog, operator: str, value: str, rows: list[int]
) -> None:
    mask = catalog.text_mask(TextPredicate("created", operator, (value,)))
    assert mask.true_rows.tolist() == rows
    assert mask.null_rows.tolist() == [3, 4, 5]


@pytest.mark.parametrize("column", [name for name in TEXT_COLUMNS if name != "tags"])
def test_every_metadata_column_equals_what_text_columns_gives(
    catalog: Catalog, column: str
) -> None:
    shown = catalog.text_columns([column])[column]
    for value in {value for value in shown if value is not None}:
        mask = catalog.text_mask(TextPredicate(column, "=", (value,)))
        assert mask.true_rows.tolist() == [row for row, v in enumerate(shown) if v == value]
        assert mask.null_rows.tolist() == [row for row, v in enumerate(shown) if v is None]


def test_text_columns_follow_the_order_of_the_ids(catalog: Catalog) -> None:
    wanted = [MODELS[2].id, MODELS[0].id, "sha256:none", MODELS[0].id]
    columns = catalog.text_columns(["name", "tags", "label_space", "input"], wanted)
    assert columns["name"] == ["m2", "m0", None, "m0"]
    assert columns["tags"] == [['"b"', "c, a"], ["a"], None, ["a"]]
    assert columns["label_space"] == [None, "pets", None, "pets"]
    assert columns["input"][0] == "x:float32[?,3]; y:int64[n]"


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (TextPredicate("taks", "=", ("x",)), "no metadata column 'taks'"),
        (TextPredicate("task", "~", ("x",)), "does not compare text"),
        (TextPredicate("task", "has_any", ("x",)), "HAS asks about tags"),
        (TextPredicate("task", "regexp", ("[",)), r"'\[' is not a regular expression"),
    ],
)
def test_what_cannot_be_asked_is_said(
    catalog: Catalog, predicate: TextPredicate, message: str
) -> None:
    with pytest.raises(BinderError, match=message):
        catalog.text_mask(predicate)


@pytest.mark.parametrize(
    ("operator", "values"),
    [
        ("=", ("it's",)), ("!=", ("it's",)), (">", ("I",)), ("like", ("%a%",)),
        ("ilike", ("%IMAGE%",)), ("regexp", ("[0-9]",)), ("in", ("it's", "")), ("is_null", ()),
    ],
)  # fmt: skip
def test_values_outside_the_database_are_judged_as_those_inside(
    catalog: Catalog, operator: str, values: tuple[str, ...]
) -> None:
    inside = catalog.text_mask(TextPredicate("task", operator, values))
    outside = catalog.value_masks(TextPredicate("shares", operator, values), TASKS)
    assert outside == (inside.true_rows.tolist(), inside.null_rows.tolist())


def test_has_looks_into_values_joined_by_commas(catalog: Catalog) -> None:
    found = catalog.value_masks(TextPredicate("shares", "has_any", ("b",)), ("a, b", "ab", None))
    assert found == ([0], [])
    assert catalog.value_masks(TextPredicate("shares", "=", ("a",)), ()) == ([], [])
