"""A query that has not run yet: refine it, then read its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sommelier.engine.result import Match, Report, Result
from sommelier.grammar import nodes
from sommelier.grammar.builder import QueryBuilder
from sommelier.grammar.formatter import format as format_query

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.engine.plots.of_result import ResultPlots


class Relation:
    """A lazy, immutable SELECT MODELS; it runs once, when its rows are first asked for."""

    def __init__(
        self,
        connection: Connection,
        builder: QueryBuilder,
        parameters: Any = None,
        *,
        text: str | None = None,
    ) -> None:
        self._connection = connection
        self._builder = builder
        self._parameters = parameters
        self._text = text  # as written, so that an error can underline it
        self._result: Result | None = None

    # ---- refinement: each returns a new relation

    def corr(self, reference: str, **conditions: Any) -> Relation:
        """Compared with a reference: the name of a model.

        conditions : at_least, within, agreement, accuracy, bound, confidence; a fraction (0.95), a
        text ('95%') or a parameter ('$tolerance').
        """
        return self._refined(self._builder.corr(reference, **conditions))

    def where(self, *conditions: str, **columns: Any) -> Relation:
        """Only rows for which all of this is true; repeated calls are joined with AND.

        conditions : as WHERE takes them. columns : a value to equal, a list to be in, None for
        unknown, or a text that begins with a comparison: where(task='ner', params='< 5M').
        """
        return self._refined(self._builder.where(*conditions, **columns))

    def on(self, *conditions: str, **metrics: Any) -> Relation:
        """Limits on resources; repeated calls are joined with AND.

        conditions : as ON takes them. metrics : a bound, as on(memory='< 80%'); memory='80%' means
        at most, and at least where more is better.
        """
        return self._refined(self._builder.on(*conditions, **metrics))

    def order_by(self, *items: str) -> Relation:
        """Sorted by 'memory', 'equivalence DESC', ...; repeated calls add keys."""
        return self._refined(self._builder.order_by(*items))

    def pick(self, picker: str, *, top: int | None = None) -> Relation:
        """A choice: 'most similar', 'smallest', 'PARETO (memory, latency)', 'MAX(...)'.

        top : how many are kept; unless said one, of a Pareto front all.
        """
        return self._refined(self._builder.pick(picker, top=top))

    def limit(self, count: int, *, offset: int | None = None) -> Relation:
        """At most `count` rows, after the first `offset`."""
        return self._refined(self._builder.limit(count, offset=offset))

    def using(self, **options: Any) -> Relation:
        """Options such as device='cpu', batch=8; the last value of an option counts."""
        return self._refined(self._builder.using(**options))

    def source(self, *names: str) -> Relation:
        """Only models from there: 'wheel', 'POOL edge', 'VIEW small'; several are united."""
        return self._refined(self._builder.source(*names))

    def _refined(self, builder: QueryBuilder) -> Relation:
        return Relation(self._connection, builder, self._parameters)

    # ---- reading

    @property
    def query(self) -> nodes.Select:
        """The parsed question; str() of the relation writes it as text."""
        return self._builder.query

    @property
    def result(self) -> Result:
        """The rows; runs the query on first use."""
        if self._result is None:
            self._result = self._connection.run_select(
                self.query, self._parameters, text=self._text
            )
        return self._result

    def explain(self, *, analyze: bool = False) -> Report:
        """The plan, stage by stage; with analyze the query runs and counts and times are shown."""
        return self._connection.explain(self.query, self._parameters, analyze=analyze)

    def models(self) -> list[Any]:
        """The answers as Model objects, best first."""
        return [self._connection.model(id_) for id_ in self.result.ids]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that were not fetched yet."""
        return self.result.fetchall()

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, None after the last."""
        return self.result.fetchone()

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by column; values in base units, None where unknown."""
        return self.result.dicts()

    def one(self) -> Match:
        """The first row. Raises NoModelFoundError, with the nearest misses, if there is none."""
        return self.result.one()

    def df(self) -> Any:
        """A pandas DataFrame; unknown numbers are NaN, unknown text None."""
        return self.result.df()

    def arrow(self) -> Any:
        """A pyarrow Table; unknown values are null."""
        return self.result.arrow()

    def pl(self) -> Any:
        """A polars DataFrame; unknown values are null."""
        return self.result.pl()

    @property
    def plot(self) -> ResultPlots:
        """Pictures of the answer: `db.query(...).plot.pareto()`."""
        return self.result.plot

    @property
    def columns(self) -> tuple[Any, ...]:
        """The columns of the answer: name, unit, what they measure."""
        return tuple(self.result.columns)

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands below the answer: what it promises, what was left out."""
        return tuple(self.result.notes)

    def __len__(self) -> int:
        return len(self.result)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.result)

    def __getitem__(self, index: int) -> Match:
        return self.result[index]

    def __str__(self) -> str:
        return format_query(self.query)

    def __repr__(self) -> str:
        return repr(self.result)

    def _repr_html_(self) -> str:
        return self.result._repr_html_()


def keyword_query(keywords: Mapping[str, Any]) -> QueryBuilder:
    """The paper's keyword form: query(ref='resnet50', at_least=0.95, memory='< 80%').

    ref, at_least, within, agreement, confidence shape CORR; pick and limit their clauses; every
    other keyword is a resource bound in ON, where a bare number is a share of the reference's:
    mem=0.8 is memory <= 0.8x. Source: Sommelier, section 4.1.
    """
    rest = dict(keywords)
    builder = QueryBuilder()
    reference = rest.pop("ref", None)
    conditions = {
        name: rest.pop(name)
        for name in ("at_least", "within", "agreement", "confidence")
        if name in rest
    }
    if reference is not None:
        builder = builder.corr(reference, **conditions)
    picker, top, limit = rest.pop("pick", None), rest.pop("top", None), rest.pop("limit", None)
    if rest:
        builder = builder.on(**{_METRICS.get(k, k): _bound(v) for k, v in rest.items()})
    if picker is not None:
        builder = builder.pick(picker, top=top)
    return builder if limit is None else builder.limit(limit)


_METRICS = {"mem": "memory"}  # the paper's spelling


def _bound(value: Any) -> Any:
    return f"<= {value:.12g}x" if isinstance(value, int | float) else value
