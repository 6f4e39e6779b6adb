"""Signatures are read out of saved_model.pb, and damage is told, without TensorFlow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from sommelier.connectors.saved_model import MAX_FIELDS, read_facts
from sommelier.errors import RejectedModelError
from sommelier.records import TensorSpec
from tests.connectors.saved_models import FLOAT, classifier, field, saved_model, varint


def written(folder: Path, content: bytes) -> Path:
    (folder / "saved_model.pb").write_bytes(content)
    return folder


def test_signatures_are_read_with_types_and_open_axes(tmp_path: Path) -> None:
    inputs = {"text": (7, [-1]), "image": (4, [1, -1, -1, 3])}
    outputs = {"any": (FLOAT, None), "one": (9, [])}
    facts = read_facts(written(tmp_path, saved_model({"f": (inputs, outputs)}, "2.4.1")))
    assert facts.version == "2.4.1"
    (signature,) = facts.signatures
    assert signature.inputs == (
        TensorSpec("image", "uint8", (1, None, None, 3)),
        TensorSpec("text", "str", (None,)),
    )
    assert signature.outputs == (TensorSpec("any", "float32", None), TensorSpec("one", "int64", ()))
    assert str(signature).startswith("f(image:uint8[1,?,?,3], text:str[?]) -> ")


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["serving_default", "other"], None, "serving_default"),
        (["default", "other"], None, "default"),
        (["only"], None, "only"),
        (["serving_default", "other"], "other", "other"),
    ],
)
def test_the_usual_signature_is_taken_unless_another_is_named(
    tmp_path: Path, names: list[str], wanted: str | None, chosen: str
) -> None:
    both = ({"x": (FLOAT, [-1])}, {"y": (FLOAT, [-1])})
    facts = read_facts(written(tmp_path, saved_model(dict.fromkeys(names, both))))
    assert facts.chosen(wanted).name == chosen


def test_what_tensorflow_keeps_for_itself_is_no_signature(tmp_path: Path) -> None:
    content = saved_model({"__saved_model_init_op": ({}, {"op": (0, None)})})
    facts = read_facts(written(tmp_path, content))
    assert facts.signatures == ()
    with pytest.raises(RejectedModelError, match="no signature that could be called"):
        facts.chosen(None)


@pytest.mark.parametrize("wanted", [None, "third"])
def test_signatures_that_exist_are_named_where_none_can_be_chosen(
    tmp_path: Path, wanted: str | None
) -> None:
    both = ({"x": (FLOAT, [-1])}, {"y": (FLOAT, [-1])})
    facts = read_facts(written(tmp_path, saved_model({"first": both, "second": both})))
    with pytest.raises(RejectedModelError, match="first, second"):
        facts.chosen(wanted)


def test_every_cut_of_a_file_is_read_or_refused_but_never_fails(tmp_path: Path) -> None:
    whole = classifier()
    refused = 0
    for size in range(len(whole)):
        try:
            read_facts(written(tmp_path, whole[:size]))
        except RejectedModelError:
            refused += 1
    assert refused > len(whole) / 2


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 40,  # a number that never ends
        varint(2 << 3 | 3),  # groups were given up long ago
        varint(2 << 3 | 2) + varint(1 << 60),  # longer than the file
        field(2, field(5, field(1, "f") + field(2, b"") + field(2, b""))),  # a value twice
    ],
)
def test_bytes_that_are_no_message_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RejectedModelError, match="damaged"):
        read_facts(written(tmp_path, content))


def test_a_graph_of_any_size_is_skipped_but_never_read(tmp_path: Path) -> None:
    """1 GB of weights within the graph: a file with a hole, which reading would fill."""
    graph, rest = 10**9, field(5, field(1, "f") + field(2, field(1, field(1, "x"))))
    before = varint(2 << 3 | 2) + varint(graph + len(rest) + 6) + varint(2 << 3 | 2) + varint(graph)
    with (tmp_path / "saved_model.pb").open("wb") as file:
        file.write(before)
        file.seek(len(before) + graph)
        file.write(rest)
    tracemalloc.start()
    try:
        facts = read_facts(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [str(signature) for signature in facts.signatures] == ["f(x:unknown[?]) -> "]
    assert peak < 10**6


def test_more_fields_than_a_model_can_have_are_refused(tmp_path: Path) -> None:
    written(tmp_path, varint(1 << 3) + varint(1) + (varint(3 << 3) + varint(1)) * MAX_FIELDS)
    with pytest.raises(RejectedModelError, match="more than 200000 fields"):
        read_facts(tmp_path)


def test_names_are_shown_in_printable_characters(tmp_path: Path) -> None:
    both = ({"x\x1b[2J": (FLOAT, [-1])}, {})
    facts = read_facts(written(tmp_path, saved_model({"f" * 500: both})))
    assert len(facts.signatures[0].name) == 100
    assert "\x1b" not in str(facts.signatures[0])
