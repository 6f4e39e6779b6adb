"""COMPARE, DIFF and SHOW DISAGREEMENTS: what the catalog knows of two models, and what running them
side by side shows.

They only read the database; models are run in the sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.options import Kind, bind_options
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import ModelReference
from sommelier.engine.result import ColumnInfo, Report, Table
from sommelier.errors import AnalysisError, BinderError
from sommelier.grammar import nodes
from sommelier.records import Dataset, LabelSpace, ModelRecord, ProbeSet
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.differences import Disagreement, LayerReport
    from sommelier.analysis.layer_study import LayerStudy
    from sommelier.analysis.probes import Probes
    from sommelier.connection.connection import Connection

LAYER_OPTIONS: dict[str, Kind] = {
    "layers": bool,
    "tolerance": Dimension.FRACTION,
    "samples": int,
}
SAMPLES = 64
LIMIT = 20
CLASSES = 2  # of those whose answers change most
_SHARE = Dimension.FRACTION


def runs_models(statement: nodes.Statement) -> bool:
    """Whether a statement that only reads is answered here."""
    if isinstance(statement, nodes.Show):
        return statement.what == "disagreements"
    return isinstance(statement, nodes.Compare)


def answer(statement: nodes.Statement, db: Connection, parameters: Parameters) -> Table | Report:
    """The answer to COMPARE, DIFF or SHOW DISAGREEMENTS."""
    if isinstance(statement, nodes.Show):
        return disagreements(statement, db, parameters)
    assert isinstance(statement, nodes.Compare)
    return compare(statement, db, parameters)


# ---- COMPARE and DIFF


def compare(statement: nodes.Compare, db: Connection, parameters: Parameters) -> Table | Report:
    """The catalog's comparison with what running both models shows; DIFF is the layers alone.

    Raises UnknownNameError, BinderError, and for DIFF AnalysisError where there are no layers to
    compare.
    """
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
    dataset = bind_options(rest, _REST, parameters).get("dataset")
    rows, notes = _studied(pair, db, own, dataset)
    return replace(found, rows=[*found.rows, *rows], notes=(*found.notes, *notes))


_REST: dict[str, Kind] = {"dataset": str, "confidence": Dimension.FRACTION, "device": str}


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
    pair: tuple[ModelRecord, ModelRecord],
    db: Connection,
    own: dict[str, Any],
    rest: tuple[nodes.Option, ...],
    parameters: Parameters,
) -> Report:
    dataset = bind_options(rest, {"dataset": str}, parameters).get("dataset")
    study = _study(pair, db, own, dataset)
    if isinstance(study, str):
        raise AnalysisError(study)
    if study.layers is None:
        raise AnalysisError(study.notes[0] if study.notes else "the layers cannot be compared")
    named = replace(study.layers, names=(pair[0].name, pair[1].name))
    return Report((*str(named).splitlines(), *study.notes), named.as_dict())


def _studied(
    pair: tuple[ModelRecord, ModelRecord], db: Connection, own: dict[str, Any], dataset: str | None
) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """Rows and notes of what running the models shows; a note alone where that cannot be."""
    study = _study(pair, db, own, dataset)
    if isinstance(study, str):
        return [], (f"layers are not compared: {study}",)
    rows = _changing_classes(pair, db, dataset)
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


def _changing_classes(
    pair: tuple[ModelRecord, ModelRecord], db: Connection, dataset: str | None
) -> list[tuple[object, ...]]:
    """The true classes whose answers change most, where the probes have labels."""
    import numpy as np

    from sommelier.analysis.differences import stored_disagreements
    from sommelier.analysis.quality import breakdown

    found = db.session.semantics.agreement(pair[0].id, pair[1].id, _probe_set_id(db, dataset))
    if not found.samples or found.probe_set_id is None:
        return []
    probe_set = db.catalog.probe_set(found.probe_set_id)
    truth = _labels(probe_set)
    sketches = [db.sketches.get(record.id, probe_set.id) for record in pair]
    if truth is None or any(sketch.kind != "labels" for sketch in sketches):
        return []
    spaces = [_space(sketch.label_space_id, db) for sketch in sketches]
    parted = stored_disagreements(*sketches, label_spaces=(spaces[0], spaces[1]), limit=None)
    changed = np.zeros(probe_set.samples, dtype=bool)
    changed[[row.index for row in parted.rows]] = True
    space = _space(probe_set.label_space_id, db) or spaces[0]  # as SHOW DISAGREEMENTS reads them
    groups = breakdown(changed, by=truth, names=None if space is None else space.labels)
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


def _study(
    pair: tuple[ModelRecord, ModelRecord], db: Connection, own: dict[str, Any], dataset: str | None
) -> LayerStudy | str:
    """What running both shows, or why that cannot be."""
    from sommelier.analysis.execution import RunRequest
    from sommelier.analysis.layer_study import study_layers
    from sommelier.analysis.sandbox import Sandbox

    for record in pair:
        if record.artifact is None:
            return (
                f"{record.name} is metadata only"
                if not record.proposal
                else (f"{record.name} is a proposal: CREATE MODEL builds it")
            )
    probes = _probes(pair, db, dataset)
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
    with Sandbox(time_limit_s=600.0, memory_limit_bytes=8 * 10**9) as sandbox:
        return sandbox.call(study_layers, one, other, samples, own.get("tolerance"))


def _probes(
    pair: tuple[ModelRecord, ModelRecord], db: Connection, dataset: str | None
) -> Probes | str:
    """The probes both answered, else synthetic ones of the reference's inputs."""
    from sommelier.analysis.probes import same_probes, signature, synthetic_probes

    found = db.session.semantics.agreement(pair[0].id, pair[1].id, _probe_set_id(db, dataset))
    if found.probe_set_id is not None:
        record = db.catalog.probe_set(found.probe_set_id)
        return same_probes(record, _dataset_of(record, db))
    if signature(pair[0].inputs) != signature(pair[1].inputs):
        names = f"{pair[0].name} and {pair[1].name}"
        return f"{names} take different inputs, and have no common probes (ANALYZE FOR EQUIVALENCE)"
    try:
        return synthetic_probes(pair[0].inputs, samples=SAMPLES)
    except AnalysisError as error:
        return error.message


def _probe_set_id(db: Connection, dataset: str | None) -> str | None:
    if dataset is None:
        return None
    found = [p for p in db.catalog.probe_sets() if p.name == dataset]
    if not found:
        raise BinderError(
            f"no model has answered probes of '{dataset}' yet",
            hint=f"ANALYZE ALL FOR EQUIVALENCE USING dataset = '{dataset}'",
        )
    return max(found, key=lambda p: (p.samples, p.id)).id


def _dataset_of(record: ProbeSet, db: Connection) -> Dataset | None:
    return next((d for d in db.catalog.datasets() if d.id == record.dataset_id), None)


def _percent(value: float) -> str:
    return format_value(value, _SHARE)


# ---- SHOW DISAGREEMENTS


def disagreements(statement: nodes.Show, db: Connection, parameters: Parameters) -> Table:
    """The samples that two models answer differently, those first on which both are sure.

    Raises BinderError when they answered no common probes.
    """
    from sommelier.analysis.differences import stored_disagreements

    if len(statement.of) != 2:
        raise BinderError(
            "disagreements are those of two models", span=statement.span,
            hint="SHOW DISAGREEMENTS OF a, b",
        )  # fmt: skip
    dataset = bind_options(statement.options, {"dataset": str}, parameters).get("dataset")
    one, other = (db.session.model(of, parameters) for of in statement.of)
    probe_set = _common_probes(one, other, dataset, db)
    ours, theirs = (db.sketches.get(model.id, probe_set.id) for model in (one, other))
    found = stored_disagreements(
        ours,
        theirs,
        label_spaces=(_space(ours.label_space_id, db), _space(theirs.label_space_id, db)),
        truth=_labels(probe_set),
        truth_space=_space(probe_set.label_space_id, db),
        indices=_indices(probe_set, db),
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


def _common_probes(
    one: ModelReference, other: ModelReference, dataset: str | None, db: Connection
) -> ProbeSet:
    found = db.session.semantics.agreement(one.id, other.id, _probe_set_id(db, dataset))
    if found.probe_set_id is None or not found.samples:
        raise BinderError(
            f"{one.name} and {other.name} cannot be compared: {found.reason}",
            hint=f"ANALYZE {one.name}, {other.name} FOR EQUIVALENCE",
        )
    return db.catalog.probe_set(found.probe_set_id)


def _labels(probe_set: ProbeSet) -> Any:
    """True label ids, int32 (samples,); None where the probes have none."""
    import numpy as np

    return None if probe_set.labels is None else np.frombuffer(probe_set.labels, dtype=np.int32)


def _indices(probe_set: ProbeSet, db: Connection) -> Any:
    """Where the probes stand in their dataset; None for made-up ones."""
    from sommelier.analysis.probes import same_probes

    return same_probes(probe_set, _dataset_of(probe_set, db)).indices


def _space(space_id: str | None, db: Connection) -> LabelSpace | None:
    return None if space_id is None else db.catalog.label_space(space_id)


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
