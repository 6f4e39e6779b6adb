"""SHOW SEGMENTS and SHOW LINEAGE: parts that models can exchange, and which come from which."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sommelier.confidence import clopper_pearson
from sommelier.engine.parameters import Parameters
from sommelier.engine.result import ColumnInfo
from sommelier.errors import BinderError
from sommelier.storage.tasks import TaskQueue
from sommelier.units import Dimension

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sommelier.engine.plan import ModelReference
    from sommelier.engine.session import Session
    from sommelier.errors import Span
    from sommelier.grammar import nodes
    from sommelier.records import ModelRecord, SegmentMatch
    from sommelier.storage.catalog import Catalog

Listed = tuple[tuple[ColumnInfo, ...], list[tuple[object, ...]], tuple[str, ...]]
Models = tuple["nodes.ModelRef | nodes.Parameter", ...]

CONFIDENCE = 0.95  # of the column `at_most`
_SHARE = Dimension.FRACTION
_LEGEND = (
    "answers that change: estimated has no guarantee; certified is proved for {proved}; "
    f"measured ran the hybrid, and at_most is its upper bound at {CONFIDENCE:.0%} confidence,"
    " each row by itself"
)

# a narrow terminal leaves out the middle: what an exchange changes comes first, the parts last
_SEGMENT_COLUMNS = (
    ColumnInfo("segment"),
    ColumnInfo("estimated", _SHARE),
    ColumnInfo("certified", _SHARE),
    ColumnInfo("measured", _SHARE),
    ColumnInfo("at_most", _SHARE),
    ColumnInfo("accuracy_drop", _SHARE),
    ColumnInfo("flops", Dimension.FLOPS),
    ColumnInfo("donor_flops", Dimension.FLOPS),
    ColumnInfo("operators", Dimension.COUNT),
    ColumnInfo("hybrid"),
    ColumnInfo("note"),
    ColumnInfo("part"),
    ColumnInfo("kind"),
    ColumnInfo("donor"),
)


def segments(of: Models, session: Session, parameters: Parameters) -> Listed:
    """What can be exchanged in a host, with one donor or all; changes are shares of its answers.

    Raises BinderError as `none_known` says.
    """
    host = session.model(of[0], parameters)
    donor = session.model(of[1], parameters) if len(of) > 1 else None
    found = session.catalog.segments(host.id, None if donor is None else donor.id)
    if not found:
        raise none_known(session.catalog, host, donor, span=of[0].span)
    ids = {s.donor_id for s in found} | {s.hybrid_id for s in found if s.hybrid_id is not None}
    names = {record.id: record.name for record in session.catalog.models(sorted(ids))}
    rows = [_segment_row(segment, names) for segment in found]
    notes = [_LEGEND.format(proved=_proved(found))]
    if any(segment.hybrid_id for segment in found):
        example = next(s for s in found if s.hybrid_id)
        notes.append(
            f"keep one: CREATE MODEL h AS GRAFT {names[example.donor_id]} INTO {host.name}"
            f" AT SEGMENT '{example.name}'"
        )
    return _SEGMENT_COLUMNS, rows, tuple(notes)


def none_known(
    catalog: Catalog,
    host: ModelRecord | ModelReference,
    donor: ModelRecord | ModelReference | None,
    *,
    span: Span | None = None,
) -> BinderError:
    """The error where no segments are known: not analysed yet, analysed in vain, or none found."""
    within = "" if donor is None else f" in {donor.name}"
    other = "another_model" if donor is None else donor.name
    again = f"ANALYZE {host.name}, {other} FOR SEGMENTS"
    ended = [
        task
        for task in TaskQueue(catalog).ended(host.id, "segments")
        if donor is None or task.parameters.get("donor_id") in (donor.id, None)
    ]
    compared = {task.parameters.get("donor_id") for task in ended if task.state == "done"}
    if compared:
        models = "one other model" if len(compared) == 1 else f"{len(compared)} other models"
        whom = models if donor is None else donor.name
        return BinderError(
            f"{host.name} was compared with {whom}: no segment in common was found",
            span=span,
            hint=f"ANALYZE {host.name}, another_model FOR SEGMENTS compares it with another",
        )
    if ended:
        return BinderError(
            f"no segments of {host.name} are known{within}: ANALYZE could not look for them:"
            f" {ended[0].reason}",
            span=span,
            hint=f"once that is mended, {again}",
        )
    return BinderError(f"no segments of {host.name} are known{within}", span=span, hint=again)


def _proved(found: Sequence[SegmentMatch]) -> str:
    """Which probes the column `certified` is about: mostly fewer than were measured."""
    counts = {(s.certified_samples, s.samples) for s in found if s.certified_samples}
    if len(counts) != 1:
        return "its probes"
    ((some, all_),) = counts
    return f"{some} of the {all_} probes" if some < all_ else f"the {some} probes"


def _segment_row(segment: SegmentMatch, names: dict[str, str]) -> tuple[object, ...]:
    at_most = measured = certified = drop = None
    if segment.measured is not None and segment.samples:
        measured = segment.measured / segment.samples
        _, high = clopper_pearson(segment.measured, segment.samples, CONFIDENCE, side="upper")
        at_most = float(high)
    if segment.certified is not None and segment.certified_samples:
        certified = segment.certified / segment.certified_samples
    if segment.host_right is not None and segment.hybrid_right is not None and segment.labelled:
        drop = (segment.host_right - segment.hybrid_right) / segment.labelled
    if segment.identical:
        measured = certified = at_most = 0.0
    return (
        segment.name,
        segment.estimated,
        certified,
        measured,
        at_most,
        drop,
        segment.flops,
        segment.donor_flops,
        segment.operators,
        names.get(segment.hybrid_id or ""),
        segment.note,
        f"{_short(segment.host_entry)} -> {_short(segment.host_exit)}",
        segment.kind,
        names.get(segment.donor_id),
    )


def _short(tensor: str) -> str:
    """The end of a tensor's name; files repeat the path of the module in front of it.

    >>> _short("/layer1/layer1.6/Relu_1_output_0"), _short("input")
    ('layer1.6/Relu_1', 'input')
    """
    parts = [part for part in tensor.split("/") if part]
    return "/".join(parts[-2:]).removesuffix("_output_0")


_LINEAGE_COLUMNS = tuple(ColumnInfo(n) for n in ("model", "parent", "relation", "known", "detail"))


def lineage(of: Models, session: Session, parameters: Parameters) -> Listed:
    """Where a model comes from and what comes from it. known : built, verified or declared.

    Proposals made of the model, which can be many, are counted in a note.
    """
    model = session.model(of[0], parameters)
    proposals = session.catalog.proposals().keys() - {model.id}
    found = session.catalog.lineage(model.id)
    links = [link for link in found if link.model_id not in proposals]
    names = {record.id: record.name for record in session.catalog.models()}
    rows: list[tuple[object, ...]] = [
        (
            names.get(link.model_id),
            names.get(link.parent_id, "dropped"),
            link.relation,
            link.provenance,
            _told(link.detail),
        )
        for link in links
    ]
    rows.sort(key=lambda row: (row[0] != model.name, str(row[0]), row[2]))
    notes = [] if rows else [f"nothing is known of where {model.name} comes from"]
    if proposed := len({link.model_id for link in found} & proposals):
        notes.append(f"proposals made of it, not listed: {proposed} (SELECT * FROM lineage)")
    return _LINEAGE_COLUMNS, rows, tuple(notes)


def _told(detail: str | None) -> str | None:
    """The detail of a link as people read it."""
    if detail is None:
        return None
    facts = json.loads(detail)
    return ", ".join(
        f"{key}: {', '.join(value) if isinstance(value, list) else value}"
        for key, value in facts.items()
    )
