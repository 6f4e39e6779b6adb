"""How a pool chose its models, read from its query: by answers to probes, or blind to them.

A pool keeps the models it had when it was made, so its query is read and not bound: the datasets
and models that it named may be gone. What cannot be told counts as chosen by answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sommelier.engine.contexts import names_in
from sommelier.errors import ParserError
from sommelier.grammar import nodes
from sommelier.grammar.parser import parse
from sommelier.metrics import ANSWER_METRICS

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

Named = tuple[str, str]  # (pool | view, name)


def pool_reads_answers(name: str, catalog: Catalog) -> bool:
    """Whether CORR or accuracy, on whatever data, decided which models a pool has.

    So do those of the views, pools and queries that it drew from.
    """
    saved: dict[Named, str] = {("pool", pool.name): pool.query for pool in catalog.pools()}
    saved |= {("view", view.name): view.query for view in catalog.views()}
    chain = _chain(("pool", name), saved, ())
    return any(select is None or _reads_answers(select) for select in chain)


def _chain(
    named: Named, saved: dict[Named, str], above: tuple[Named, ...]
) -> Iterator[nodes.Select | None]:
    """The queries behind a pool or view; None for what is gone, and for what a pool was before it
    was replaced by a query over itself."""
    if named not in saved or named in above:
        yield None
        return
    try:
        select = parse(saved[named])
    except ParserError:
        yield None
        return
    assert isinstance(select, nodes.Select), "only SELECT MODELS can be saved"
    yield from _inside(select, saved, (*above, named))


def _inside(
    select: nodes.Select, saved: dict[Named, str], above: tuple[Named, ...]
) -> Iterator[nodes.Select | None]:
    yield select
    for source in select.sources:
        if source.select is not None:
            yield from _inside(source.select, saved, above)
        elif source.kind in ("pool", "view"):
            yield from _chain((source.kind, source.name or ""), saved, above)


def _reads_answers(select: nodes.Select) -> bool:
    if select.corr is not None or (select.pick is not None and select.pick.kind == "accurate"):
        return True
    known = set(ANSWER_METRICS)
    known |= {p.alias.lower() for p in select.projection if p.alias and _names(p.expression, known)}
    return any(_names(expression, known) for expression in _deciding(select))


def _deciding(select: nodes.Select) -> Iterator[nodes.Expression | None]:
    """The expressions that decide which models are in the answer, and not only how it looks."""
    yield from (select.where, select.on)
    if select.pick is not None:
        yield select.pick.expression
        yield from (axis.expression for axis in select.pick.axes)
    if select.limit is not None or select.offset is not None or select.distinct:
        yield from (item.expression for item in select.order_by)
    if select.distinct:
        yield from (shown.expression for shown in select.projection)


def _names(expression: nodes.Expression | None, known: set[str]) -> bool:
    return any(name in known for name in names_in(expression))
