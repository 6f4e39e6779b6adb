"""The query as frozen values: what the parser and the Python builder make and the planner reads.

Percent, quantities and names are kept as written; the planner gives them meaning. `span` never
takes part in comparison, so parse(format(query)) == query holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sommelier.errors import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Base of every node."""

    span: Span | None = field(default=None, compare=False, repr=False)


# ---- expressions


class Expression(Node):
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Number(Expression):
    value: float


@dataclass(frozen=True, slots=True)
class Text(Expression):
    value: str


@dataclass(frozen=True, slots=True)
class Boolean(Expression):
    value: bool


@dataclass(frozen=True, slots=True)
class Null(Expression):
    pass


@dataclass(frozen=True, slots=True)
class Percent(Expression):
    """`80%` (fraction 0.8), `80% OF model`. relative_to is None when OF is absent."""

    fraction: float
    relative_to: ModelRef | Parameter | None = None


@dataclass(frozen=True, slots=True)
class Times(Expression):
    """`0.5x`, `0.5x OF model`."""

    factor: float
    relative_to: ModelRef | Parameter | None = None


@dataclass(frozen=True, slots=True)
class Quantity(Expression):
    """`200 MB`: value and unit as written."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Parameter(Expression):
    """`$name`, `$1`, or `?` (name is then '?1', '?2' ... by position)."""

    name: str


@dataclass(frozen=True, slots=True)
class Column(Expression):
    """A metric, an answer column, a metadata column or a projection alias."""

    name: str


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """`function(arguments)`; a model name as argument is a ModelRef or a Text."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Negative(Expression):
    operand: Expression


@dataclass(frozen=True, slots=True)
class Arithmetic(Expression):
    operator: str  # + - * /
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Context(Node):
    """`ON 'cpu'`, `AT p99`, `PER sample` after a comparison. `on` names a device or a dataset."""

    on: str | None = None
    percentile: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison(Expression):
    operator: str  # = != < <= > >=
    left: Expression
    right: Expression
    context: Context | None = None


@dataclass(frozen=True, slots=True)
class Between(Expression):
    operand: Expression
    low: Expression
    high: Expression
    negated: bool = False
    context: Context | None = None


@dataclass(frozen=True, slots=True)
class InList(Expression):
    operand: Expression
    options: tuple[Expression, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Like(Expression):
    kind: str  # like, ilike, regexp
    operand: Expression
    pattern: Expression
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IsNull(Expression):
    operand: Expression
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Has(Expression):
    """`tags HAS 'mobile'`, `tags HAS ANY ('a', 'b')`."""

    operand: Expression
    values: tuple[str, ...]
    every: bool = False


@dataclass(frozen=True, slots=True)
class FitsOn(Expression):
    """`FITS ON 'device'`: memory is below the device's memory."""

    device: str


@dataclass(frozen=True, slots=True)
class Not(Expression):
    operand: Expression


@dataclass(frozen=True, slots=True)
class And(Expression):
    operands: tuple[Expression, ...]  # two or more, never nested And


@dataclass(frozen=True, slots=True)
class Or(Expression):
    operands: tuple[Expression, ...]  # two or more, never nested Or


# ---- references to models


class Reference(Node):
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ModelRef(Reference, Expression):
    """`resnet50`, `resnet50@2`, `"odd name"`, `'odd name'`: name and version apart."""

    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRef(Reference):
    """`TASK 'image-classification'`: the task's default reference."""

    task: str | Parameter


@dataclass(frozen=True, slots=True)
class SubqueryRef(Reference):
    select: Select


@dataclass(frozen=True, slots=True)
class ReferenceSet(Reference):
    """`ANY (a, b)` or `ALL (a, b)`."""

    quantifier: str  # any, all
    references: tuple[ModelRef | Parameter, ...]


# ---- SELECT


@dataclass(frozen=True, slots=True)
class CorrCondition(Node):
    """`95%`, `>= 95%`, `WITHIN 5% [OF measure]`, `AGREEMENT >= 95% CONFIDENCE 99%`.

    measure : equivalence, agreement, bound, accuracy. operator : one of < <= > >=, or 'within'.
    The plain `95%` is (equivalence, '>=', 0.95).
    """

    measure: str
    operator: str
    threshold: Percent | Number | Parameter
    confidence: Percent | Number | Parameter | None = None


@dataclass(frozen=True, slots=True)
class Corr(Node):
    reference: Reference | Parameter
    conditions: tuple[CorrCondition, ...] = ()


@dataclass(frozen=True, slots=True)
class Source(Node):
    """`FROM wheel`, `FROM POOL edge`, `FROM VIEW small`, `FROM (SELECT ...)`."""

    kind: str  # source, pool, view, query
    name: str | None = None
    select: Select | None = None


@dataclass(frozen=True, slots=True)
class Projection(Node):
    expression: Expression
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class OrderItem(Node):
    """descending None: not written (the default of the place applies)."""

    expression: Expression
    descending: bool | None = None
    nulls_first: bool | None = None


@dataclass(frozen=True, slots=True)
class Pick(Node):
    """kind : similar, accurate, smallest, lightest, fastest, cheapest, random, min, max, pareto.

    expression for min/max, axes for pareto, top from TOP n.
    """

    kind: str
    expression: Expression | None = None
    axes: tuple[OrderItem, ...] = ()
    top: int | Parameter | None = None


OptionValue = Expression | tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Option(Node):
    """`name = value`; a list value is a tuple; a bare word is a Text."""

    name: str
    value: OptionValue


class Statement(Node):
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Select(Statement):
    """SELECT MODEL(S). An empty projection means the default columns."""

    projection: tuple[Projection, ...] = ()
    distinct: bool = False
    sources: tuple[Source, ...] = ()
    corr: Corr | None = None
    where: Expression | None = None
    on: Expression | None = None
    order_by: tuple[OrderItem, ...] = ()
    pick: Pick | None = None
    limit: int | Parameter | None = None
    offset: int | Parameter | None = None
    options: tuple[Option, ...] = ()


# ---- other statements


@dataclass(frozen=True, slots=True)
class CatalogSql(Statement):
    """A SELECT/WITH that is not SELECT MODEL(S): read-only SQL over the catalog's views."""

    text: str


@dataclass(frozen=True, slots=True)
class Explain(Statement):
    select: Select
    analyze: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainWhy(Statement):
    model: ModelRef | Parameter
    select: Select
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Show(Statement):
    """what : models, tasks, sources, pools, views, datasets, devices, metrics, settings, functions,
    units, jobs, rejections, labels, indexes; versions/profiles with `of`."""

    what: str
    of: ModelRef | Parameter | None = None
    like: str | None = None
    where: Expression | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Describe(Statement):
    """kind : model, pool, view, metric, task, dataset, device; None = a model if there is one."""

    name: ModelRef
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Compare(Statement):
    """COMPARE reference WITH candidate [USING dataset = ...]."""

    reference: ModelRef | Parameter
    candidate: ModelRef | Parameter
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Import(Statement):
    """IMPORT MODELS FROM connector 'what', ... [LIKE 'pattern'] [LIMIT n] [USING ...]."""

    connector: str
    locations: tuple[str, ...]
    like: str | None = None
    limit: int | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisterModel(Statement):
    name: ModelRef
    path: str
    task: str | None = None
    if_not_exists: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisterDataset(Statement):
    name: str
    path: str
    if_not_exists: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisterDevice(Statement):
    """REGISTER DEVICE jetson USING memory = 8 GB, peak = 472 GFLOPs, bandwidth = 25 GB."""

    name: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Analyze(Statement):
    """scope : all, pool, models. aspects : resources, latency, equivalence, accuracy; () = all."""

    scope: str
    pool: str | None = None
    models: tuple[ModelRef | Parameter, ...] = ()
    aspects: tuple[str, ...] = ()
    against: tuple[ModelRef | Parameter, ...] = ()
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class AlterModel(Statement):
    """action : set (options, ON 'context'), rename (value), add_tag (value), drop_tag (value)."""

    model: ModelRef | Parameter
    action: str
    value: str | None = None
    options: tuple[Option, ...] = ()
    context: str | None = None


@dataclass(frozen=True, slots=True)
class AlterTask(Statement):
    """ALTER TASK 'image-classification' SET reference = resnet50."""

    task: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop(Statement):
    """kind : model, pool, view, dataset, device."""

    kind: str
    name: ModelRef
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class CreatePool(Statement):
    """CREATE [OR REPLACE] POOL|VIEW [IF NOT EXISTS] name AS SELECT ...; a pool is a snapshot."""

    kind: str  # pool, view
    name: str
    select: Select
    or_replace: bool = False
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class RefreshPool(Statement):
    name: str


@dataclass(frozen=True, slots=True)
class SetOption(Statement):
    name: str
    value: OptionValue


@dataclass(frozen=True, slots=True)
class ResetOption(Statement):
    """name None: RESET ALL."""

    name: str | None = None
