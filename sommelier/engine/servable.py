"""Whether the models of a deployment can answer the same requests: inputs, outputs, files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sommelier.engine.deployed_models import Chosen
from sommelier.engine.names import few
from sommelier.errors import BinderError, Span

if TYPE_CHECKING:
    from sommelier.records import ModelRecord


def check_servable(chosen: Chosen, span: Span | None) -> tuple[str, ...]:
    """Notes on what is not known. Raises BinderError for models that cannot answer the same
    requests: without a file, with other inputs or other answers, naming the first that differs."""
    if not chosen.records:
        raise BinderError(
            "no model answers the question, so there is nothing to deploy",
            span=span,
            hint="ask it alone; EXPLAIN ANALYZE shows which condition leaves none",
        )
    names = chosen.names
    _refuse_without_file(chosen, span)
    first = chosen.records[0]
    for record, place in zip(chosen.records[1:], chosen.spans[1:], strict=True):
        fault = _input_fault(first, record, names) or _answer_fault(first, record, names)
        if fault is not None:
            raise BinderError(
                fault,
                span=place or span,
                hint="the models of a deployment answer the same requests with the same kind of "
                "answer; deploy them apart, or narrow the question: WHERE task = ..., CORR m 90%",
            )
    spaces = {record.label_space_id for record in chosen.records}
    if None in spaces and len(chosen.records) > 1 and _classifies(first):
        unknown = [names[r.id] for r in chosen.records if r.label_space_id is None]
        return (f"the labels of {few(unknown)} are unknown; they are taken to be in one order",)
    return ()


def _refuse_without_file(chosen: Chosen, span: Span | None) -> None:
    names = chosen.names
    missing = [
        (record, place)
        for record, place in zip(chosen.records, chosen.spans, strict=True)
        if record.artifact is None
    ]
    if missing:
        told = few([names[record.id] for record, _ in missing])
        raise BinderError(
            f"{told} {'has' if len(missing) == 1 else 'have'} no file to run",
            span=missing[0][1] or span,
            hint="metadata alone answers no request; add WHERE format = 'onnx' to the question",
        )


def _input_fault(first: ModelRecord, other: ModelRecord, names: Mapping[str, str]) -> str | None:
    """Why a request for one model does not fit the other; None if it does. Models that declare how
    they prepare raw items may take tensors of different shapes."""
    told = (
        f"{names[other.id]} takes {_spelled(other)} and {names[first.id]} {_spelled(first)}: "
        "a request cannot be for both"
    )
    if len(first.inputs) != len(other.inputs):
        return told
    prepared = first.preprocessing is not None and other.preprocessing is not None
    for one, two in zip(first.inputs, other.inputs, strict=True):
        if not prepared and (one.dtype != two.dtype or not _shapes_fit(one.shape, two.shape)):
            return told
        if prepared and _rank(one.shape) != _rank(two.shape):
            return told
    return None


def _rank(shape: tuple[object, ...] | None) -> int | None:
    return None if shape is None else len(shape)


def _shapes_fit(one: tuple[object, ...] | None, two: tuple[object, ...] | None) -> bool:
    """Whether fixed lengths agree; the first axis is the batch."""
    if one is None or two is None:
        return True
    if len(one) != len(two):
        return False
    pairs = list(zip(one, two, strict=True))[1:]
    return all(a == b or not isinstance(a, int) or not isinstance(b, int) for a, b in pairs)


def _spelled(record: ModelRecord) -> str:
    return ", ".join(map(str, record.inputs)) or "no input"


def _answer_fault(first: ModelRecord, other: ModelRecord, names: Mapping[str, str]) -> str | None:
    """Why two models' answers do not mean the same; None as far as is known."""
    one, two = names[first.id], names[other.id]
    if first.output_kind != other.output_kind:
        return f"{two} answers {other.output_kind.value} and {one} {first.output_kind.value}"
    spaces = {first.label_space_id, other.label_space_id}
    if None not in spaces and len(spaces) > 1:
        return f"{two} and {one} answer with different labels, or with the same in another order"
    if _classifies(first):
        widths = {_width(first), _width(other)}
        if None not in widths and len(widths) > 1:
            return f"{two} answers {_width(other)} classes and {one} {_width(first)}"
    return None


def _classifies(record: ModelRecord) -> bool:
    return record.output_kind.value in ("classification", "class_ids", "multilabel")


def _width(record: ModelRecord) -> int | None:
    shape = record.outputs[0].shape if record.outputs else None
    last = shape[-1] if shape else None
    return last if isinstance(last, int) and len(shape or ()) > 1 else None
