"""COMPARE reference WITH candidate: how often they agree, who is right more often, at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sommelier.analysis.confidence import clopper_pearson, paired_difference
from sommelier.engine.corr_notes import PROJECTED, probe_caveats
from sommelier.engine.options import Kind, bind_options, check_confidence
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import MetricColumn, ModelReference
from sommelier.engine.predicates import Block, numbers
from sommelier.engine.probe_sets import probe_set_of
from sommelier.engine.result import ColumnInfo, Table
from sommelier.grammar import nodes
from sommelier.metrics import METRICS
from sommelier.notebook_tables import Bar, against
from sommelier.storage.resource_index import ColumnKey
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.storage.candidates import PairAgreement

COMPARE_OPTIONS: dict[str, Kind] = {
    "dataset": str,
    "confidence": Dimension.FRACTION,
    "device": str,
}
_PERCENT = Dimension.FRACTION


def compare(statement: nodes.Compare, session: Session, parameters: Parameters) -> Table:
    """One row a measure: the reference's value, the candidate's, and how they relate.

    Agreement and accuracy difference carry an interval at the asked confidence (95 %), on the best
    probe set that both answered. Without a common one the agreement is bounded by transitivity.
    """
    options = bind_options(statement.options, COMPARE_OPTIONS, parameters)
    confidence = options.get("confidence") or session.settings().get("confidence") or 0.95
    check_confidence(confidence, None)
    reference = session.model(statement.reference, parameters)
    candidate = session.model(statement.candidate, parameters)
    pair = (reference, candidate)
    dataset = options.get("dataset")
    probe_set_id = None if dataset is None else probe_set_of(dataset, session.facts)
    found = session.semantics.agreement(reference.id, candidate.id, probe_set_id)
    rows, notes = _behaviour(session, pair, found, probe_set_id, confidence)
    bars = {}
    if found.samples:
        told = f"{found.agreements} of {found.samples} probes are answered alike"
        bars[0, 2] = Bar(found.agreements / found.samples, told)
    rows += _metadata(session, pair)
    resources, beside = _resources(session, pair, options.get("device"))
    bars |= {(len(rows) + place, 2): bar for place, bar in beside.items()}
    rows += resources
    columns = tuple(
        ColumnInfo(name) for name in ("measure", reference.name, candidate.name, "comparison")
    )
    return Table(f"{reference.name} <- {candidate.name}", columns, rows, tuple(notes), bars=bars)


Pair = tuple[ModelReference, ModelReference]
Rows = list[tuple[object, ...]]


def _behaviour(
    session: Session, pair: Pair, found: PairAgreement, probe_set_id: str | None, confidence: float
) -> tuple[Rows, list[str]]:
    """Agreement and accuracy difference, or the reason why there are none."""
    if not found.samples:
        bounded = _through_others(session, pair, probe_set_id, confidence)
        if bounded is not None:
            return bounded
        note = f"agreement is unknown: {found.reason} (run ANALYZE ALL FOR EQUIVALENCE)"
        return [], [note]
    k, n = found.agreements, found.samples
    low, high = clopper_pearson(k, n, confidence)
    share = format_value(confidence, _PERCENT)
    spread = _interval(float(low), float(high))
    measure = "agreement" if found.exact else "agreement (estimated)"
    rows: Rows = [(measure, "", format_value(k / n, _PERCENT), f"{spread}, {k} of {n} probes")]
    rows += _accuracy(session, pair, found.probe_set_id, confidence)
    names = {p.id: p.name for p in session.facts.probe_sets()}
    notes = [f"intervals at confidence {share}, probes of '{names.get(found.probe_set_id or '')}'"]
    if not found.exact:
        notes.append(f"agreement is estimated {PROJECTED}: its interval counts probes only")
    notes += probe_caveats({found.probe_set_id}, session.facts)
    if found.labels == "positional":
        notes.append("the classes are matched by position: a model does not name them")
    return rows, notes


def _through_others(
    session: Session, pair: Pair, probe_set_id: str | None, confidence: float
) -> tuple[Rows, list[str]] | None:
    """The interval that models in between give a pair without a common probe set, if any do."""
    reference, candidate = pair
    found = session.semantics.candidates(reference.id, probe_set_id=probe_set_id)
    row = session.resources.row(candidate.id)
    for part in found.parts:
        if part.transitive is None or row not in part.transitive.rows:
            continue
        bounds = part.transitive.taken(np.flatnonzero(part.transitive.rows == row))
        low, high = (float(end[0]) for end in bounds.interval(confidence))
        via = dict.fromkeys((int(bounds.low_via[0]), int(bounds.high_via[0])))
        names = [session.catalog.model(str(session.resources.ids[r])).name for r in via]
        share = format_value(confidence, _PERCENT)
        note = (
            f"the models share no probe set: an interval at confidence {share} follows by "
            f"transitivity from those that {' and '.join(names)} "
            f"{'shares' if len(names) == 1 else 'share'} with either"
        )
        notes = [note, *probe_caveats({part.probe_set_id}, session.facts)]
        through = f"through {' and '.join(names)}"
        return [("agreement (transitive)", "", "", f"{_interval(low, high)}, {through}")], notes
    return None


def _accuracy(session: Session, pair: Pair, probe_set_id: str | None, confidence: float) -> Rows:
    """accuracy(reference) - accuracy(candidate) by paired analysis, where labels exist."""
    reference, candidate = pair
    counts = session.semantics.paired(reference.id, probe_set_id)
    if counts is None:
        return []
    row = session.resources.row(candidate.id)
    at = np.flatnonzero(counts.rows == row)
    if not len(at):
        return []
    only_reference = int(counts.reference_only[at[0]])
    only_candidate = int(counts.candidate_only[at[0]])
    difference, low, high = paired_difference(
        only_reference, only_candidate, counts.samples, confidence
    )
    text = f"{_points(difference)} [{_points(low)}, {_points(high)}] for {reference.name}"
    only = [f"only right: {n}" for n in (only_reference, only_candidate)]
    return [("accuracy difference", *only, text)]


def _points(value: float) -> str:
    return f"{value * 100:+.2f} pp"


def _interval(low: float, high: float) -> str:
    return f"[{format_value(low, _PERCENT)}, {format_value(high, _PERCENT)}]"


def _metadata(session: Session, pair: Pair) -> Rows:
    one, other = (session.catalog.model(model.id) for model in pair)
    rows: Rows = []
    for name in ("task", "family", "graph_hash", "weight_hash"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is None and theirs is None:
            continue
        short = [w[:19] if w and name.endswith("hash") else w for w in (mine, theirs)]
        rows.append((name, *short, "same" if mine == theirs else "different"))
    return rows


def _resources(session: Session, pair: Pair, device: str | None) -> tuple[Rows, dict[int, Bar]]:
    """(every metric known of either, as a ratio where it is known of both; the bars of these)."""
    bars: dict[int, Bar] = {}
    block = Block(session.world, session.resources.rows([model.id for model in pair]))
    rows: Rows = []
    for metric in METRICS.values():
        for label, column in _contexts(session, metric.name, device):
            mine, theirs = (float(v) for v in numbers(column, block))
            if mine != mine and theirs != theirs:
                continue
            shown = [format_value(v, metric.dimension) for v in (mine, theirs)]
            known = mine == mine and theirs == theirs and mine != 0
            if known and metric.dimension is _PERCENT and theirs <= 1:
                bars[len(rows)] = Bar(theirs, shown[1])
            elif known:
                bars[len(rows)] = against(theirs, mine, pair[0].name)
            rows.append((label, *shown, f"{theirs / mine:.3g}x" if known else "unknown"))
    return rows, bars


def _contexts(session: Session, name: str, device: str | None) -> list[tuple[str, MetricColumn]]:
    """(label, column) for each device or dataset the metric is known on."""
    metric = METRICS[name]
    kind = metric.context[0] if metric.context else None
    if kind is None:
        return [(name, MetricColumn(ColumnKey(name), metric.dimension))]
    places = session.facts.context_names(name, kind)
    if kind == "device" and device is not None:
        places = [place for place in places if place == device]
    columns = []
    for place in places:
        key = ColumnKey(name, device=place) if kind == "device" else ColumnKey(name, dataset=place)
        columns.append((f"{name} ON '{place}'", MetricColumn(key, metric.dimension)))
    return columns
