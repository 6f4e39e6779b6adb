"""The query as frozen values: what the parser and the Python builder make and the planner reads.

Percent, quantities and names are kept as written; the planner gives them meaning. `span` never
takes part in comparison, so parse(format(query)) == query holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.expression_nodes import (
    And,
    Arithmetic,
    Between,
    Boolean,
    Call,
    Column,
    Comparison,
    Context,
    Expression,
    FitsOn,
    Has,
    InList,
    IsNull,
    Like,
    ModelRef,
    Negative,
    Node,
    Not,
    Null,
    Number,
    Or,
    Parameter,
    Percent,
    Quantity,
    Reference,
    Text,
    Times,
)

__all__ = [
    "AlterModel",
    "AlterTask",
    "Analyze",
    "And",
    "Arithmetic",
    "Between",
    "Boolean",
    "Call",
    "CatalogSql",
    "Column",
    "Compare",
    "Comparison",
    "Context",
    "Corr",
    "CorrCondition",
    "CreatePool",
    "Describe",
    "Drop",
    "Explain",
    "ExplainWhy",
    "Expression",
    "FitsOn",
    "Has",
    "Import",
    "InList",
    "IsNull",
    "Like",
    "ModelRef",
    "Negative",
    "Node",
    "Not",
    "Null",
    "Number",
    "Option",
    "OptionValue",
    "Or",
    "OrderItem",
    "Parameter",
    "Percent",
    "Pick",
    "Projection",
    "Quantity",
    "Reference",
    "ReferenceSet",
    "RefreshPool",
    "RegisterDataset",
    "RegisterDevice",
    "RegisterModel",
    "ResetOption",
    "Select",
    "SetOption",
    "Show",
    "Source",
    "Statement",
    "SubqueryRef",
    "TaskRef",
    "Text",
    "Times",
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TaskRef(Reference):
    """`TASK 'image-classification'`: the task's default reference."""

    task: str | Parameter


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SubqueryRef(Reference):
    """The first model of `(SELECT ...)`."""

    select: Select


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReferenceSet(Reference):
    """`ANY (a, b)` or `ALL (a, b)`."""

    quantifier: str  # any, all
    references: tuple[ModelRef | Parameter, ...]


# ---- SELECT


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CorrCondition(Node):
    """`95%`, `>= 95%`, `WITHIN 5% [OF measure]`, `AGREEMENT >= 95% CONFIDENCE 99%`.

    measure : equivalence, agreement, bound, accuracy. operator : one of < <= > >=, or 'within'.
    The plain `95%` is (equivalence, '>=', 0.95).
    """

    measure: str
    operator: str
    threshold: Percent | Number | Parameter
    confidence: Percent | Number | Parameter | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Corr(Node):
    """`CORR reference conditions`."""

    reference: Reference | Parameter
    conditions: tuple[CorrCondition, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Source(Node):
    """`FROM wheel`, `FROM POOL edge`, `FROM VIEW small`, `FROM (SELECT ...)`."""

    kind: str  # source, pool, view, query
    name: str | None = None
    select: Select | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Projection(Node):
    """`expression [ON 'imagenet' | AT p99 ...] [AS alias]`."""

    expression: Expression
    alias: str | None = None
    context: Context | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OrderItem(Node):
    """descending None: not written (the default of the place applies)."""

    expression: Expression
    descending: bool | None = None
    nulls_first: bool | None = None
    context: Context | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Pick(Node):
    """kind : similar, accurate, smallest, lightest, fastest, cheapest, random, min, max, pareto.

    expression for min/max, axes for pareto, top from TOP n.
    """

    kind: str
    expression: Expression | None = None
    axes: tuple[OrderItem, ...] = ()
    top: int | Parameter | None = None


OptionValue = Expression | tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Option(Node):
    """`name = value`; a list value is a tuple; a bare word is a Text."""

    name: str
    value: OptionValue


class Statement(Node):
    """What can be run."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CatalogSql(Statement):
    """A SELECT/WITH that is not SELECT MODEL(S): read-only SQL over the catalog's views."""

    text: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explain(Statement):
    """`EXPLAIN [ANALYZE] [(options)] SELECT ...`."""

    select: Select
    analyze: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExplainWhy(Statement):
    """`EXPLAIN WHY model [NOT] IN (SELECT ...)`."""

    model: ModelRef | Parameter
    select: Select
    negated: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Show(Statement):
    """what : models, tasks, sources, pools, views, datasets, devices, metrics, settings, functions,
    units, jobs, rejections, labels, indexes; versions/profiles with `of`."""

    what: str
    of: ModelRef | Parameter | None = None
    like: str | None = None
    where: Expression | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Describe(Statement):
    """kind : model, pool, view, metric, task, dataset, device; None = a model if there is one."""

    name: ModelRef
    kind: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Compare(Statement):
    """COMPARE reference WITH candidate [USING dataset = ...]."""

    reference: ModelRef | Parameter
    candidate: ModelRef | Parameter
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Import(Statement):
    """IMPORT MODELS FROM connector 'what', ... [LIKE 'pattern'] [LIMIT n] [USING ...]."""

    connector: str
    locations: tuple[str, ...]
    like: str | None = None
    limit: int | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RegisterModel(Statement):
    """`REGISTER MODEL name FROM 'path' [TASK 't'] [IF NOT EXISTS] [USING ...]`."""

    name: ModelRef
    path: str
    task: str | None = None
    if_not_exists: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RegisterDataset(Statement):
    """`REGISTER DATASET name FROM 'path' [IF NOT EXISTS] [USING ...]`."""

    name: str
    path: str
    if_not_exists: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RegisterDevice(Statement):
    """REGISTER DEVICE jetson USING memory = 8 GB, peak = 472 GFLOPs, bandwidth = 25 GB."""

    name: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Analyze(Statement):
    """scope : all, pool, models. aspects : resources, latency, equivalence, accuracy; () = all."""

    scope: str
    pool: str | None = None
    models: tuple[ModelRef | Parameter, ...] = ()
    aspects: tuple[str, ...] = ()
    against: tuple[ModelRef | Parameter, ...] = ()
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AlterModel(Statement):
    """action : set (options, ON 'context'), rename (value), add_tag (value), drop_tag (value)."""

    model: ModelRef | Parameter
    action: str
    value: str | None = None
    options: tuple[Option, ...] = ()
    context: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AlterTask(Statement):
    """ALTER TASK 'image-classification' SET reference = resnet50."""

    task: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Drop(Statement):
    """kind : model, pool, view, dataset, device."""

    kind: str
    name: ModelRef
    if_exists: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CreatePool(Statement):
    """CREATE [OR REPLACE] POOL|VIEW [IF NOT EXISTS] name AS SELECT ...; a pool is a snapshot."""

    kind: str  # pool, view
    name: str
    select: Select
    or_replace: bool = False
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RefreshPool(Statement):
    """`REFRESH POOL name`."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SetOption(Statement):
    """`SET name = value`."""

    name: str
    value: OptionValue


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResetOption(Statement):
    """name None: RESET ALL."""

    name: str | None = None
