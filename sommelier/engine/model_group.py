"""The models a statement names one by one or by a pool: SELECT PLAN FOR, SELECT FUSIONS OF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.engine.names import unknown
from sommelier.engine.plan import ModelReference
from sommelier.engine.scope import Scope
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.records import ModelRecord


def group_of(
    statement: nodes.SelectPlan | nodes.SelectFusions, session: Session, scope: Scope
) -> tuple[ModelReference, ...]:
    """The models of the group; of two of one name with their versions.

    Raises UnknownNameError for names there are not, BinderError for none, or one named twice.
    """
    if statement.pool is not None:
        pools = {pool.name: pool for pool in session.catalog.pools()}
        if statement.pool not in pools:
            raise unknown("pool", statement.pool, pools, statement.span)
        ids = list(pools[statement.pool].ids)
    else:
        ids = [scope.model(reference).id for reference in statement.models]
    twice = [id_ for id_, count in Counter(ids).items() if count > 1]
    records = session.catalog.models(ids)
    if twice or not ids:
        named = next((record.name for record in records if record.id in twice), None)
        raise BinderError(
            f"pool '{statement.pool}' is empty" if named is None else f"{named} is named twice",
            span=_second(statement, ids),
        )
    return tuple(ModelReference(r.id, _name(r, records)) for r in records)


def _second(statement: nodes.SelectPlan | nodes.SelectFusions, ids: Sequence[str]) -> Span | None:
    """Where a model is named again; of a pool the statement."""
    named = zip(statement.models, ids, strict=False)
    again = (node.span for place, (node, id_) in enumerate(named) if id_ in ids[:place])
    return next(again, statement.span)


def _name(record: ModelRecord, records: Sequence[ModelRecord]) -> str:
    alike = [other for other in records if other.name == record.name]
    return record.name if len(alike) == 1 else f"{record.name}@{record.version}"
