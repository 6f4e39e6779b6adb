"""COMPARE, DIFF and SHOW DISAGREEMENTS: what the catalog knows of two models, and what running them
side by side shows. SELECT FUSIONS, which runs several at once, is answered by ranking_fusions.

They only read the database; models are run in the sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.options import Kind, bind_options
from sommelier.engine.parameters import Parameters
from sommelier.engine.probe_sets import probe_set_of
from sommelier.engine.result import ColumnInfo, Report, Table
from sommelier.errors import AnalysisError, BinderError
from sommelier.grammar import nodes
from sommelier.records import LabelSpace, ModelRecord, OutputSketch
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.differences import Disagreement, Disagreements, LayerReport
    from sommelier.analysis.layer_study import LayerStudy
    from sommelier.analysis.probes import Probes
    from sommelier.connection.connection import Connection, Progress
    from sommelier.storage.candidates import PairAgreement

LAYER_OPTIONS: dict[str, Kind] = {
    "layers": bool,
    "tolerance": Dimension.FRACTION,
    "samples": int,
}
SAMPLES = 64
LIMIT = 20
CLASSES = 2  # of those whose answers change most
_SHARE = Dimension.FRACTION

Pair = tuple[ModelRecord, ModelRecord]  # (reference, candidate)


def runs_models(statement: nodes.Statement) -> bool:
    """Whether a statement that only reads is answered here."""
    if isinstance(statement, nodes.Show):
        return statement.what == "disagreements"
    asked = statement.select if isinstance(statement, nodes.Explain) else statement
    return isinstance(asked, nodes.Compare | nodes.SelectFusions)


def answer(
    statement: nodes.Statement,
    db: Connection,
    parameters: Parameters,
    progress: Progress | None = None,
) -> Table | Report:
    """The answer to a statement of `runs_models`."""
    if isinstance(statement, nodes.Show):
        return disagreements(statement, db, parameters)
    if isinstance(statement, nodes.Compare):
        return compare(statement, db, parameters)
    from sommelier.connection.ranking_fusions import rank

    return rank(statement, db, parameters, progress)


# ---- COMPARE and DIFF


def compare(statement: nodes.Compare, db: Connection, parameters: Parameters) -> Table | Report:
    """The catalog's comparison with what running both models shows; DIFF is the layers alone.

    Raises UnknownNameError, BinderError, and for DIFF AnalysisError where there are no layers to
    compare.
    """
    from sommelier.engine.compare import COMPARE_OPTIONS

    own, rest = _split(statement.options, parameters)
    pair = (
        _record(statement.reference, db, parameters),
        _record(statement.candidate, db, parameters),
    )
    if statement.layers:
        return _layers_alone(pair, db, own, rest, parameters)
    found = db.session.read(replace(statement, options=rest), parameters)
    if own.get("layers") is False:
        return found
    dataset = bind_options(rest, COMPARE_OPTIONS, parameters).get("dataset")
    rows, notes = _studied(pair, db, own, dataset)
    return replace(found, rows=[*found.rows, *rows], notes=(*found.notes, *notes))


def _split(
    options: tuple[nodes.Option, ...], parameters: Parameters
) -> tuple[dict[str, Any], tuple[nodes.Option, ...]]:
    """(options about layers as values, the others as they were written)."""
    ours = tuple(option for option in options if option.name.lower() in LAYER_OPTIONS)
    return bind_options(ours, LAYER_OPTIONS, parameters), tuple(o for o in options if o not in ours)


def _record(
    reference: nodes.ModelRef | nodes.Parameter, db: Connection, parameters: Parameters
) -> ModelRecord:
    return db.catalog.model(db.session.model(reference, parameters).id)


def _layers_alone(
    pair: Pair,
    db: Connection,
    own: dict[str, Any],
    rest: tuple[nodes.Option, ...],
    parameters: Parameters,
) -> Report:
    dataset = bind_options(rest, {"dataset": str}, parameters).get("dataset")
    study = _study(pair, db, own, _shared(pair, db, dataset))
    if isinstance(study, str):
        raise AnalysisError(study)
    if study.layers is None:
        raise AnalysisError(study.notes[0])
    named = replace(study.layers, names=(pair[0].name, pair[1].name))
    return Report((*str(named).splitlines(), *study.notes), named.as_dict())


def _studied(
    pair: Pair, db: Connection, own: dict[str, Any], dataset: str | None
) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """Rows and notes of what running the models shows; a note alone where that cannot be."""
    shared = _shared(pair, db, dataset)
    study = _study(pair, db, own, shared)
    if isinstance(study, str):
        return [], (f"layers are not compared: {study}",)
    rows = _changing_classes(pair, db, shared)
    notes = list(study.notes)
    if study.weights is not None:
        rows.append(("weights", "", "", study.weights.relation))
        notes += [f"weights {study.weights.relation}: {r}" for r in study.weights.reasons[:1]]
    if study.layers is not None:
        rows += _layer_rows(study.layers)
        notes.append(
            f"layers on {study.layers.samples} samples; all of them:"
            f" DIFF {pair[0].name} WITH {pair[1].name}"
        )
    return rows, tuple(notes)


def _layer_rows(found: LayerReport) -> list[tuple[object, ...]]:
    from sommelier.analysis.differences.layers import short_name

    alone = (len(found.only_reference), len(found.only_candidate))
    told = f"; {alone[0]} and {alone[1]} have no partner" if any(alone) else ""
    rows: list[tuple[object, ...]] = [("layers aligned", "", "", f"{len(found.layers)}{told}")]
    first = found.first_divergence
    if not found.related:
        return [*rows, ("first divergence", "", "", "unrelated from the first layer on")]
    if first is None:
        rows.append(("first divergence", "", "", "none: every layer is within its tolerance"))
    else:
        names = short_name(first.reference), short_name(first.candidate)
        said = f"{_percent(first.error)} > {_percent(first.tolerance)}"
        if first.error <= first.tolerance:  # the median is within; more than 5 % of samples are not
            said = f"{_percent(first.beyond)} beyond"
        rows.append(("first divergence", *names, said))
    for layer in found.growth(2):
        names = short_name(layer.reference), short_name(layer.candidate)
        rows.append(("error grows in", *names, f"+{_percent(layer.added)}"))
    return rows


def _changing_classes(pair: Pair, db: Connection, shared: Shared) -> list[tuple[object, ...]]:
    """The true classes whose answers change most, where the probes have labels."""
    import numpy as np

    from sommelier.analysis.quality import breakdown

    probes = shared.probes
    if probes is None or probes.labels is None or not shared.agreement.samples:
        return []
    sketches = _sketches(pair, probes, db)
    if any(sketch.kind != "labels" for sketch in sketches):
        return []
    parted = _differences(sketches, db, limit=None)
    changed = np.zeros(probes.record.samples, dtype=bool)
    changed[[row.index for row in parted.rows]] = True
    space_id = probes.record.label_space_id or sketches[0].label_space_id
    space = _space(space_id, db)  # as SHOW DISAGREEMENTS reads them
    groups = breakdown(changed, by=probes.labels, names=None if space is None else space.labels)
    return [
        (
            f"changes in class {group.group}",
            "",
            _percent(group.mean),
            f"[{_percent(group.low)}, {_percent(group.high)}], {group.samples} probes",
        )
        for group in groups[:CLASSES]
        if group.mean > 0
    ]


def _study(pair: Pair, db: Connection, own: dict[str, Any], shared: Shared) -> LayerStudy | str:
    """What running both shows, or why that cannot be."""
    from sommelier.analysis.execution import RunRequest
    from sommelier.analysis.layer_study import study_layers
    from sommelier.analysis.sandbox import MODEL_BYTES, MODEL_SECONDS, Sandbox

    for record in pair:
        if record.artifact is None:
            return (
                f"{record.name} is metadata only"
                if not record.proposal
                else (f"{record.name} is a proposal: CREATE MODEL builds it")
            )
    probes = shared.probes or _made_up(pair)
    if isinstance(probes, str):
        return probes
    one, other = (
        RunRequest(
            db.artifacts.path(str(model.artifact)), model.output_kind, model.preprocessing, probes
        )
        for model in pair
    )
    samples = min(own.get("samples") or SAMPLES, probes.record.samples)
    if samples < 1:
        raise BinderError("option samples must be at least 1")
    with Sandbox(time_limit_s=MODEL_SECONDS, memory_limit_bytes=MODEL_BYTES) as sandbox:
        return sandbox.call(study_layers, one, other, samples, own.get("tolerance"))


def _made_up(pair: Pair) -> Probes | str:
    """Synthetic probes of the reference's inputs, or why there can be none."""
    from sommelier.analysis.probes import signature, synthetic_probes

    if signature(pair[0].inputs) != signature(pair[1].inputs):
        names = f"{pair[0].name} and {pair[1].name}"
        return f"{names} take different inputs, and have no common probes (ANALYZE FOR EQUIVALENCE)"
    try:
        return synthetic_probes(pair[0].inputs, samples=SAMPLES)
    except AnalysisError as error:
        return error.message


def _percent(value: float) -> str:
    return format_value(value, _SHARE)


# ---- SHOW DISAGREEMENTS


def disagreements(statement: nodes.Show, db: Connection, parameters: Parameters) -> Table:
    """The samples that two models answer differently, those first on which both are sure.

    Raises BinderError when they answered no common probes.
    """
    if len(statement.of) != 2:
        raise BinderError(
            "disagreements are those of two models", span=statement.span,
            hint="SHOW DISAGREEMENTS OF a, b",
        )  # fmt: skip
    dataset = bind_options(statement.options, {"dataset": str}, parameters).get("dataset")
    pair = _record(statement.of[0], db, parameters), _record(statement.of[1], db, parameters)
    one, other = pair
    probes = probes_of_both(pair, db, dataset)
    probe_set = probes.record
    found = _differences(
        _sketches(pair, probes, db),
        db,
        truth=probes.labels,
        truth_space=_space(probe_set.label_space_id, db),
        indices=probes.indices,
        limit=LIMIT if statement.limit is None else statement.limit,
    )
    columns = _disagreement_columns(one.name, other.name)
    note = f"{found.total} of {found.samples} probes of '{probe_set.name}' are answered differently"
    named = {"reference": one.name, "candidate": other.name}
    rows = [_disagreement_row(row, named) for row in found.rows]
    surest = (
        f"the surest first: certainty 1 ranks a margin among all margins of {one.name},"
        f" certainty 2 among those of {other.name}"
    )
    return Table("disagreements", columns, rows, (note, surest))


def probes_of_both(pair: Pair, db: Connection, dataset: str | None) -> Probes:
    """The probes that both models answered. Raises BinderError where there are none."""
    shared = _shared(pair, db, dataset)
    if shared.probes is None or not shared.agreement.samples:
        names = [record.name for record in pair]
        raise BinderError(
            f"{' and '.join(names)} cannot be compared: {shared.agreement.reason}",
            hint=f"ANALYZE {', '.join(names)} FOR EQUIVALENCE",
        )
    return shared.probes


def _disagreement_columns(one: str, other: str) -> tuple[ColumnInfo, ...]:
    return (
        ColumnInfo("item"),
        ColumnInfo(one),
        ColumnInfo(other),
        ColumnInfo("truth"),
        ColumnInfo("right"),
        ColumnInfo("certainty 1", _SHARE),
        ColumnInfo("certainty 2", _SHARE),
    )


def _disagreement_row(row: Disagreement, named: Mapping[str, str]) -> tuple[object, ...]:
    right = None if row.right is None else named.get(row.right, row.right)
    return (
        row.index, row.reference, row.candidate, row.truth, right,
        row.reference_certainty, row.candidate_certainty,
    )  # fmt: skip


# ---- what both answered


@dataclass(frozen=True, slots=True)
class Shared:
    """What two models have in common. probes : those of `agreement`, or of the dataset asked for;
    None where they share none."""

    agreement: PairAgreement
    probes: Probes | None


def _shared(pair: Pair, db: Connection, dataset: str | None) -> Shared:
    """Raises BinderError if nobody answered probes of `dataset`."""
    from sommelier.analysis.probes import same_probes

    probe_set_id = None if dataset is None else probe_set_of(dataset, db.session.facts)
    found = db.session.semantics.agreement(pair[0].id, pair[1].id, probe_set_id)
    if found.probe_set_id is None:
        return Shared(found, None)
    record = db.catalog.probe_set(found.probe_set_id)
    drawn_from = next((d for d in db.catalog.datasets() if d.id == record.dataset_id), None)
    return Shared(found, same_probes(record, drawn_from))


def _sketches(pair: Pair, probes: Probes, db: Connection) -> tuple[OutputSketch, OutputSketch]:
    one, other = (db.sketches.get(model.id, probes.record.id) for model in pair)
    return one, other


def _differences(
    sketches: tuple[OutputSketch, OutputSketch], db: Connection, **options: Any
) -> Disagreements:
    """The stored answers that differ; options as `stored_disagreements`."""
    from sommelier.analysis.differences import stored_disagreements

    one, other = (_space(sketch.label_space_id, db) for sketch in sketches)
    return stored_disagreements(*sketches, label_spaces=(one, other), **options)


def _space(space_id: str | None, db: Connection) -> LabelSpace | None:
    return None if space_id is None else db.catalog.label_space(space_id)
