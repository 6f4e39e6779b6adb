"""What `db.plot.segments` draws: known segments of two models at their places in both files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sommelier.engine.plots.segments import Aligned, Exchange, Span
from sommelier.engine.show_segments import none_known

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sommelier.analysis.segments.sequence import ListedOperator
    from sommelier.connection.connection import Connection
    from sommelier.records import SegmentMatch


def aligned(db: Connection, reference: str, candidate: str) -> Aligned:
    """Raises UnknownNameError, BinderError as `none_known` says."""
    host, donor = db.model(reference), db.model(candidate)
    known = db.catalog.segments(host.record.id, donor.record.id)
    if not known:
        raise none_known(db.catalog, host.record, donor.record)
    ours, theirs = _operators(host.onnx_path, donor.onnx_path)
    places = _places(ours), _places(theirs)
    common = [one for one in known if one.kind == "common"]
    exchanges = [_exchange(one, *places) for one in common]
    return Aligned(
        names=(host.name, donor.name),
        operators=([one.op for one in ours], [one.op for one in theirs]),
        exchanges=[one for one in exchanges if one is not None],
        samples=max(one.samples for one in known),
        interfaces=len(known) - len(common),
        lost=exchanges.count(None),
    )


def _operators(
    host: Path, donor: Path
) -> tuple[tuple[ListedOperator, ...], tuple[ListedOperator, ...]]:
    """Read in the sandbox, as every file of a model is."""
    from sommelier.analysis.sandbox import MODEL_BYTES, MODEL_SECONDS, Sandbox
    from sommelier.analysis.segments.sequence import operator_lists

    with Sandbox(time_limit_s=MODEL_SECONDS, memory_limit_bytes=MODEL_BYTES) as sandbox:
        return sandbox.call(operator_lists, host, donor)


def _places(operators: Sequence[ListedOperator]) -> dict[str, int]:
    return {title: place for place, one in enumerate(operators) for title in one.titles}


def _exchange(found: SegmentMatch, ours: dict[str, int], theirs: dict[str, int]) -> Exchange | None:
    """None where its operators are not in the files any more."""
    told = json.loads(found.definition)
    host, donor = _span(told["host_nodes"], ours), _span(told["donor_nodes"], theirs)
    if host is None or donor is None:
        return None
    changed, basis = _change(found)
    return Exchange(found.name, host, donor, found.identical, changed, basis)


def _span(titles: Sequence[str], places: dict[str, int]) -> Span | None:
    at = [places[title] for title in titles if title in places]
    return (min(at), max(at)) if at else None


def _change(found: SegmentMatch) -> tuple[float | None, str]:
    """What was measured before what was only estimated, which promises nothing."""
    if found.measured is not None and found.samples:
        return found.measured / found.samples, "measured"
    if found.certified is not None and found.certified_samples:
        return found.certified / found.certified_samples, "at most, certified"
    return found.estimated, "estimated"
