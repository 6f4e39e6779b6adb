"""What an ANALYZE does at its end: models that answered the same probes are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.records import AnalysisTask, EquivalenceEdge

Progress = Callable[[str, int, int | None, str | None], None]

EDGE_CONFIDENCE = 0.95  # of the intervals in the view `equivalences`; a query computes its own
EDGES_OF_ALL = 256  # up to here every ordered pair becomes an edge, beyond it only the nearest
NEAREST_EDGES = 64


def add_edges(
    session: Session,
    probe_set_ids: Sequence[str],
    tasks: Sequence[AnalysisTask],
    progress: Progress,
    cancelled: Callable[[], bool],
) -> None:
    """Compares what answered a job's probe sets; rows of the view `equivalences`."""
    for probe_set_id, edges in edges_of(session, probe_set_ids, tasks, progress, cancelled):
        session.catalog.replace_edges(probe_set_id, edges)


def edges_of(
    session: Session,
    probe_set_ids: Sequence[str],
    tasks: Sequence[AnalysisTask],
    progress: Progress,
    cancelled: Callable[[], bool],
) -> Iterator[tuple[str, list[EquivalenceEdge]]]:
    """(probe set, its new edges) of the probe sets that models answered.

    Of a large probe set only the models that answered just now are compared with all others.
    """
    for probe_set_id in probe_set_ids:
        members = session.sketches.model_ids(probe_set_id)
        fresh = {t.model_id for t in tasks if _answered(t, probe_set_id)}
        if not fresh and len(members) <= _references_with_edges(session, probe_set_id):
            continue
        many = len(members) > EDGES_OF_ALL
        references = [m for m in members if m in fresh] if many else members
        edges: list[EquivalenceEdge] = []
        for done, reference in enumerate(references):
            if cancelled():
                break  # the next ANALYZE of this probe set compares the rest
            progress("comparing", done, len(references), None)
            found = session.semantics.edges(reference, EDGE_CONFIDENCE, probe_set_id)
            direct = [edge for edge in found if edge.probe_set_id == probe_set_id]
            edges += direct[:NEAREST_EDGES] if many else direct
        yield probe_set_id, edges


def _answered(task: AnalysisTask, probe_set_id: str) -> bool:
    answered = task.aspect == "sketch" and task.parameters.get("probe_set_id") == probe_set_id
    return answered and task.state == "done"


def _references_with_edges(session: Session, probe_set_id: str) -> int:
    counted = session.catalog.sql(
        "SELECT count(DISTINCT reference_id) FROM equivalences WHERE probe_set_id = ?",
        [probe_set_id],
    )
    return int(counted.rows[0][0])
