"""CREATE MODEL h AS GRAFT donor INTO host AT SEGMENT 's3': the hybrid is built, kept and listed.

A hybrid that ANALYZE ... FOR SEGMENTS has measured is built again from its recipe; equal bytes mean
that everything known of the proposal holds for the model.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.connection.naming import why_no_file
from sommelier.engine.show_segments import none_known
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.records import FIRST, ModelRecord, SegmentMatch
from sommelier.storage.naming import nearest

if TYPE_CHECKING:
    from sommelier.analysis.inspection import Inspection
    from sommelier.connection.statements import Call


def create_hybrid(
    statement: nodes.CreateModel, call: Call, replaced: ModelRecord | None = None
) -> tuple[str, tuple[str, ...]]:
    """(the model's name, notes). The file is in the artifact store and the model in the catalog,
    or neither is. replaced : the model of that name, which is dropped once the new one is built.

    Raises BinderError for segments that are not known, AnalysisError when the hybrid cannot be
    built.
    """
    call.options(statement.options, {})
    recipe = statement.recipe
    if not isinstance(recipe, nodes.Graft):
        raise TypeError(f"{type(recipe).__name__} is no graft")
    host, donor = _with_file(recipe.host, call), _with_file(recipe.donor, call)
    chosen = _segments(recipe, host, donor, call)
    name = statement.name.name
    with tempfile.TemporaryDirectory(prefix="sommelier-hybrid-") as folder:
        path, inspection = _build(host, donor, chosen, Path(folder), call)
        key = call.db.artifacts.put(path)
    record = _record(inspection, host, donor, [segment.name for segment in chosen])
    record = replace(record, name=name, version=statement.name.version or "1", artifact=key)
    return name, _keep(record, inspection, (host, donor), chosen, replaced, call)


def _with_file(reference: nodes.ModelRef | nodes.Parameter, call: Call) -> ModelRecord:
    record = call.resolve(reference)
    if record.artifact is None:
        raise BinderError(
            f"{record.name} has no file to build from: {why_no_file(record)}", span=reference.span
        )
    return record


def _segments(
    recipe: nodes.Graft, host: ModelRecord, donor: ModelRecord, call: Call
) -> list[SegmentMatch]:
    """The segments that are named, in the order of the host."""
    known = {s.name: s for s in call.db.catalog.segments(host.id, donor.id)}
    if not known:
        raise none_known(call.db.catalog, host, donor, span=recipe.span)
    for name in recipe.segments:
        if name not in known:
            raise BinderError(
                f"{host.name} and {donor.name} have no segment '{name}'",
                span=recipe.span,
                suggestions=nearest(name, known),
                hint=f"SHOW SEGMENTS OF {host.name}, {donor.name} lists them",
            )
    return [segment for name, segment in known.items() if name in recipe.segments]


def _build(
    host: ModelRecord, donor: ModelRecord, chosen: list[SegmentMatch], folder: Path, call: Call
) -> tuple[Path, Inspection]:
    """The hybrid's file and what it holds; made in the sandbox, because it reads model files."""
    from sommelier.analysis.sandbox import MODEL_BYTES, MODEL_SECONDS, Sandbox
    from sommelier.analysis.segment_study import build_hybrid

    assert host.artifact is not None
    assert donor.artifact is not None
    artifacts = call.db.artifacts
    definitions = tuple(segment.definition for segment in chosen)
    call.progress("building", 0, 1, host.name)
    with Sandbox(time_limit_s=MODEL_SECONDS, memory_limit_bytes=MODEL_BYTES) as sandbox:
        return sandbox.call(
            build_hybrid, host, artifacts.path(host.artifact), donor,
            artifacts.path(donor.artifact), definitions, folder,
        )  # fmt: skip


def _record(
    inspection: Inspection, host: ModelRecord, donor: ModelRecord, segments: list[str]
) -> ModelRecord:
    from sommelier.analysis.segment_jobs import hybrid_record

    return hybrid_record(inspection.record, host, donor, segments)


def _keep(
    record: ModelRecord, inspection: Inspection, parents: tuple[ModelRecord, ModelRecord],
    chosen: list[SegmentMatch], replaced: ModelRecord | None, call: Call,
) -> tuple[str, ...]:  # fmt: skip
    """Makes the proposal a model, or adds a new one; says what is known of it."""
    from sommelier.analysis.segment_jobs import graft_lineage

    catalog = call.db.catalog
    with catalog.transaction():
        if replaced is not None and replaced.id != record.id:
            catalog.drop_model(replaced.id)
        if record.id in catalog.proposals():
            catalog.update_model(record)
            notes: tuple[str, ...] = (_measured(chosen),)
        else:
            added = catalog.add_model(record)
            if added.status in ("alias", "unchanged"):
                return (f"another name of the same model: {added.record.name}",)
            catalog.add_measurements(inspection.measurements)
            if inspection.profile is not None:
                catalog.add_profile(inspection.profile)
            notes = (f"not measured yet: ANALYZE {record.name} FOR {_same_probes(chosen, call)}",)
        names = [segment.name for segment in chosen]
        catalog.add_lineage(graft_lineage(record.id, *parents, names))
    return notes


def _same_probes(chosen: list[SegmentMatch], call: Call) -> str:
    """The aspect, with the probes on which the segments were measured."""
    probe_set_id = chosen[0].probe_set_id
    found = [p for p in call.db.catalog.probe_sets() if p.id == probe_set_id]
    if not found or found[0].synthetic:
        return "EQUIVALENCE"
    probes = found[0]
    using = f"dataset = '{probes.name}', samples = {probes.samples}"
    if probes.seed == FIRST:
        return f"EQUIVALENCE USING {using}, sampling = 'first'"
    return f"EQUIVALENCE USING {using}" + (f", seed = {probes.seed}" if probes.seed else "")


def _measured(chosen: list[SegmentMatch]) -> str:
    segment = chosen[0]
    if len(chosen) > 1 or segment.measured is None or not segment.samples:
        return "its answers were measured when the segments were analysed"
    return (
        f"{segment.measured} of {segment.samples} answers differ from the host's"
        f" ({segment.measured / segment.samples:.1%})"
    )
