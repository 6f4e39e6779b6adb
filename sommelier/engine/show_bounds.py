"""SHOW BOUNDS OF a, b: everything that can be said of a pair, a row a statement; or of one model.

A lower bound of the agreement by every method and on every dataset that both answered, what these
say of a new dataset, the accuracy difference where labels exist, and the generalization bound of
either model where it was analysed. Each row says about what it is and whether it is proved.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.engine.bound_methods import CP, METHODS
from sommelier.engine.corr_notes import PROJECTED, UNPROVED, probe_caveats
from sommelier.engine.options import Kind, bind_options, check_confidence
from sommelier.engine.result import ColumnInfo, Table
from sommelier.errors import BinderError
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.analysis.bounds.dispatch import MethodName
    from sommelier.engine.parameters import Parameters
    from sommelier.engine.plan import ModelReference
    from sommelier.engine.session import Session
    from sommelier.grammar import nodes
    from sommelier.records import Measurement
    from sommelier.storage.candidates import PairAgreement

OPTIONS: dict[str, Kind] = {"dataset": str, "confidence": Dimension.FRACTION}
DIFFERENCES: tuple[MethodName, ...] = ("betting", "cp", "tango")  # of paired accuracies
SPECTRAL = "spectral_bound"
ALONE = "each row holds on its own: SELECT MODELS CORR corrects for choosing the best of several"
PROVED, ESTIMATE, VACUOUS = "proved", "estimate", "vacuous"

_SHARE = Dimension.FRACTION
_COLUMNS = (
    ColumnInfo("about"),
    ColumnInfo("method"),
    ColumnInfo("observed", _SHARE),
    ColumnInfo("lower", _SHARE),
    ColumnInfo("upper", _SHARE),
    ColumnInfo("samples", Dimension.COUNT),
    ColumnInfo("confidence", _SHARE),
    ColumnInfo("status"),
)
_ONE_COLUMNS = (
    ColumnInfo("quantity"), ColumnInfo("value", _SHARE), ColumnInfo("status"),
    ColumnInfo("dataset"), ColumnInfo("ingredients"),
)  # fmt: skip

Rows = list[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two models and what they answered alike, by the name of the probes, the best set first."""

    reference: ModelReference
    candidate: ModelReference
    shared: tuple[tuple[str, PairAgreement], ...]
    confidence: float


def bounds(statement: nodes.Show, session: Session, parameters: Parameters) -> Table:
    """The table. Raises BinderError where nothing is known, with the statement that changes it."""
    options = bind_options(statement.options, OPTIONS, parameters)
    models = [session.model(reference, parameters) for reference in statement.of]
    if len(models) == 1:
        return _of_one(statement, models[0], session)
    pair = _pair(statement, (models[0], models[1]), options, session)
    rows = _agreement(pair)
    rows += _new_dataset(pair, {p.name for p in session.facts.probe_sets() if p.synthetic})
    rows += _accuracy(pair, session)
    for model in dict.fromkeys((pair.reference, pair.candidate)):
        rows += [_spectral_row(found, model) for found in _spectral(model, session)]
    title = f"bounds: {pair.reference.name} <- {pair.candidate.name}"
    return Table(title, _COLUMNS, rows[: statement.limit], tuple(_notes(pair, rows, session)))


# ---- a pair


def _pair(
    statement: nodes.Show,
    models: tuple[ModelReference, ModelReference],
    options: dict[str, Any],
    session: Session,
) -> _Pair:
    confidence = options.get("confidence") or session.settings().get("confidence") or 0.95
    check_confidence(confidence, statement.span)
    wanted = options.get("dataset")
    shared = _shared(models, wanted, session)
    if not shared:
        reference, candidate = (model.name for model in models)
        on = f" of '{wanted}'" if wanted else ""
        using = f" USING dataset = '{wanted}'" if wanted else ""
        raise BinderError(
            f"{reference} and {candidate} have no comparable answers to common probes{on}",
            span=statement.span,
            hint=f"ANALYZE {reference}, {candidate} FOR EQUIVALENCE{using}",
        )
    return _Pair(*models, shared, confidence)


def _shared(
    models: tuple[ModelReference, ModelReference], dataset: str | None, session: Session
) -> tuple[tuple[str, PairAgreement], ...]:
    """What they agree on, one probe set a name: the one that questions take, then the largest."""
    one, other = (model.id for model in models)
    best = session.semantics.agreement(one, other)
    probe_sets = sorted(
        session.facts.probe_sets(),
        key=lambda p: (p.id != best.probe_set_id, p.synthetic, -p.samples, p.id),
    )
    found: dict[str, PairAgreement] = {}
    for probe_set in probe_sets:
        if probe_set.name in found or dataset not in (None, probe_set.name):
            continue
        counted = session.semantics.agreement(one, other, probe_set.id)
        if counted.samples:
            found[probe_set.name] = counted
    return tuple(found.items())


def _agreement(pair: _Pair) -> Rows:
    """Every method on the best probe set, the default one on the others."""
    rows: Rows = []
    for number, (name, found) in enumerate(pair.shared):
        chosen = [m for m in METHODS.values() if m.counts] if number == 0 else [CP]
        counts = np.array([found.agreements])
        for method in sorted(chosen, key=lambda m: not m.proved):
            low, _ = method.limits(counts, found.samples, 1 - pair.confidence)
            status = PROVED if method.proved and found.exact else ESTIMATE
            rows.append(
                (
                    f"agreement on inputs like '{name}'",
                    method.name,
                    found.agreements / found.samples,
                    float(low[0]),
                    None,
                    found.samples,
                    pair.confidence,
                    status,
                )
            )
    return rows


def _new_dataset(pair: _Pair, synthetic: Collection[str]) -> Rows:
    """What several datasets say of another one; nothing for a single one, or made-up inputs."""
    from sommelier.analysis.bounds.across_datasets import across_datasets

    found = [counted for name, counted in pair.shared if name not in synthetic]
    if len(found) < 2:
        return []
    told = across_datasets(
        [f.agreements for f in found], [f.samples for f in found], confidence=pair.confidence
    )
    about = f"agreement on a new dataset, drawn like these {len(found)}"
    observed = float(np.mean([f.agreements / f.samples for f in found]))
    return [
        (about, bound.method.removeprefix("t-"), observed, bound.low, None, bound.samples,
         bound.confidence, PROVED if bound.proved and all(f.exact for f in found) else ESTIMATE)
        for bound in (told.minimum, told.prediction)
        if bound is not None
    ]  # fmt: skip


def _accuracy(pair: _Pair, session: Session) -> Rows:
    """accuracy(reference) - accuracy(candidate), two-sided, on the best labelled probe set."""
    from sommelier.analysis.bounds.dispatch import bound

    row = session.resources.row(pair.candidate.id)
    for name, found in pair.shared:
        counts = session.semantics.paired(pair.reference.id, found.probe_set_id)
        if counts is None or row not in counts.rows:
            continue
        at = np.flatnonzero(counts.rows == row)
        b, c = int(counts.reference_only[at[0]]), int(counts.candidate_only[at[0]])
        about = (
            f"accuracy({pair.reference.name}) - accuracy({pair.candidate.name}) on inputs like "
            f"'{name}'"
        )
        rows: Rows = []
        for method in DIFFERENCES:
            one = bound(
                "difference", b, c, counts.samples, confidence=pair.confidence, method=method
            )
            rows.append(
                (about, method, (b - c) / counts.samples, one.low, one.high, counts.samples,
                 pair.confidence, PROVED if one.proved else ESTIMATE)
            )  # fmt: skip
        return rows
    return []


def _notes(pair: _Pair, rows: Rows, session: Session) -> list[str]:
    notes = [ALONE]
    if any(not found.exact for _, found in pair.shared):
        notes.append(f"agreement is estimated {PROJECTED}: its bounds count probes only")
    notes += probe_caveats({found.probe_set_id for _, found in pair.shared}, session.facts)
    if any(found.labels == "positional" for _, found in pair.shared):
        notes.append("the classes are matched by position: a model does not name them")
    if any(row[1] == "minimum" for row in rows):
        notes.append(
            "the minimum of K datasets has confidence K / (K + 1), whatever is "
            "asked for; both speak of the agreement observed on a set of like size"
        )
    if any(row[1] == "spectral" for row in rows):
        notes.append(UNPROVED)
    return notes


# ---- one model


def _of_one(statement: nodes.Show, model: ModelReference, session: Session) -> Table:
    """The generalization bound of a model with what it is made of."""
    found = [m for m in session.catalog.measurements(model.id) if m.metric in _QUANTITIES]
    if not found:
        raise BinderError(
            f"no generalization bound of {model.name} is known",
            span=statement.span,
            hint=f"ANALYZE {model.name} FOR BOUNDS, or name two models: "
            f"SHOW BOUNDS OF {model.name}, another",
        )
    found.sort(key=lambda m: (m.dataset or "", _QUANTITIES.index(m.metric)))
    rows: Rows = [
        (m.metric, m.value, _status(m), m.dataset, m.method if m.metric == SPECTRAL else None)
        for m in found
    ]
    return Table(f"bounds: {model.name}", _ONE_COLUMNS, rows[: statement.limit], (UNPROVED,))


_QUANTITIES = (SPECTRAL, "spectral_printed", "margin_loss")


def _status(found: Measurement) -> str:
    """What the number is worth; without its constants a bound proves nothing."""
    if found.metric == "margin_loss":
        return "observed"
    return VACUOUS if found.value > 1 else ESTIMATE


def _spectral(model: ModelReference, session: Session) -> list[Measurement]:
    return [m for m in session.catalog.measurements(model.id) if m.metric == SPECTRAL]


def _spectral_row(found: Measurement, model: ModelReference) -> tuple[object, ...]:
    about = f"error of {model.name} on inputs like '{found.dataset}'"
    return about, "spectral", None, None, found.value, None, None, _status(found)
