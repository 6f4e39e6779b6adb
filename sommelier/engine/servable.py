"""Whether the models of a deployment can answer the same requests: inputs, outputs, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sommelier.deployment_records import counterparts, shapes_fit
from sommelier.engine.deployed_models import Chosen
from sommelier.engine.names import few
from sommelier.errors import BinderError, Span

if TYPE_CHECKING:
    from sommelier.records import ModelRecord, TensorSpec


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


def naming_notes(records: Sequence[ModelRecord], names: Mapping[str, str]) -> tuple[str, ...]:
    """Where requests and answers have names that not all models have, and which models no request
    of tensors is for. records : the one whose names count first. names : by id."""
    first = records[0]
    renamed, owning, apart = [], [], []
    for record in records[1:]:
        name = names[record.id]
        if not all(_takes(*pair) for pair in _pairs(first, record)):
            apart.append(f"{name} ({_spelled(record)})")
            continue
        told = _called("takes", first.inputs, record.inputs)
        told += _called("gives", first.outputs, record.outputs)
        renamed += [f"{name} {' and '.join(told)}"] if told else []
        owning += _owning(first, record, name)
    notes = [f"answers of {few(owning)}"] if owning else []
    if renamed:
        notes.append(
            f"inputs and outputs have the names of {names[first.id]}; by position {few(renamed)}"
        )
    if apart:
        notes.append(
            f"requests of tensors, as all over REST and gRPC, are for {names[first.id]}"
            f" ({_spelled(first)}) and what takes the same; raw items, in process by"
            f" db.deploy(...).infer(items), are also for {few(apart)}"
        )
    return tuple(notes)


def _called(verb: str, first: Sequence[TensorSpec], other: Sequence[TensorSpec]) -> list[str]:
    """Which tensors of another model have other names; [] for none."""
    named = counterparts(first, other).items()
    told = [f"'{name}' as '{own}'" for name, own in named if name != own]
    return [f"{verb} {', '.join(told)}"] if told else []


def _owning(first: ModelRecord, other: ModelRecord, name: str) -> list[str]:
    """That answers of a model have outputs that are none of the first one's; [] if not."""
    known = counterparts(first.outputs, other.outputs)
    own = [str(spec) for spec in other.outputs if spec.name not in known.values()]
    lacks = [str(spec) for spec in first.outputs if spec.name not in known]
    if not own and not lacks:
        return []
    told = [f"have also {', '.join(own)}" if own else "", f"lack {', '.join(lacks)}" * bool(lacks)]
    return [f"{name} {' and '.join(part for part in told if part)}"]


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
    for one, two in _pairs(first, other):
        if not prepared and not _takes(one, two):
            return told
        if prepared and _rank(one.shape) != _rank(two.shape):
            return told
    return None


def _pairs(first: ModelRecord, other: ModelRecord) -> list[tuple[TensorSpec, TensorSpec]]:
    """Inputs that are the same, as serving pairs them; by position what it does not pair."""
    names = counterparts(first.inputs, other.inputs)
    if len(names) < len(first.inputs):
        return list(zip(first.inputs, other.inputs, strict=False))
    own = {spec.name: spec for spec in other.inputs}
    return [(spec, own[names[spec.name]]) for spec in first.inputs]


def _takes(one: TensorSpec, two: TensorSpec) -> bool:
    """Whether a tensor for one is for the other."""
    return one.dtype == two.dtype and shapes_fit(one, two)


def _rank(shape: tuple[object, ...] | None) -> int | None:
    return None if shape is None else len(shape)


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
