"""The query as frozen values: what the parser and the Python builder make and the planner reads.

Percent, quantities and names are kept as written; the planner gives them meaning. `span` never
takes part in comparison, so parse(format(query)) == query holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.cascade_nodes import (
    CreateCascade,
    ExplainCascade,
    SelectCascades,
)
from sommelier.grammar.deployment_nodes import (
    Deploy,
    DeployedCascade,
    DeployedGroup,
    DeployedPlan,
    ExplainDeploy,
    Simulate,
    Undeploy,
)
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
from sommelier.grammar.fusion_nodes import (
    CreateModel,
    ExplainFusion,
    FusionRecipe,
    Graft,
    SelectFusions,
)
from sommelier.grammar.link_nodes import (
    CreateLink,
    CreatePlan,
    SelectLinks,
    SelectPlan,
)
from sommelier.grammar.select_nodes import (
    Corr,
    CorrCondition,
    Option,
    OptionValue,
    OrderItem,
    Pick,
    Projection,
    ReferenceSet,
    Select,
    Source,
    Statement,
    SubqueryRef,
    TaskRef,
)
from sommelier.grammar.source_nodes import (
    CreateRepository,
    ExplainImport,
    ExportModel,
    Import,
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
    "CancelJob",
    "CatalogSql",
    "Column",
    "Compare",
    "Comparison",
    "Context",
    "Corr",
    "CorrCondition",
    "CreateCascade",
    "CreateLink",
    "CreateModel",
    "CreatePlan",
    "CreatePool",
    "CreateRepository",
    "Deploy",
    "DeployedCascade",
    "DeployedGroup",
    "DeployedPlan",
    "Describe",
    "Drop",
    "Explain",
    "ExplainCascade",
    "ExplainDeploy",
    "ExplainFusion",
    "ExplainImport",
    "ExplainWhy",
    "ExportModel",
    "Expression",
    "FitsOn",
    "FusionRecipe",
    "Graft",
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
    "Question",
    "Reference",
    "ReferenceSet",
    "RefreshPool",
    "RegisterDataset",
    "RegisterDevice",
    "RegisterModel",
    "ResetOption",
    "Select",
    "SelectCascades",
    "SelectFusions",
    "SelectLinks",
    "SelectPlan",
    "SetOption",
    "Show",
    "Simulate",
    "Source",
    "Statement",
    "SubqueryRef",
    "TaskRef",
    "Text",
    "Times",
    "Undeploy",
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CatalogSql(Statement):
    """A SELECT/WITH that asks for no MODELS, LINKS, PLAN, FUSIONS, CASCADES: SQL over the
    catalog's views."""

    text: str


Question = Select | SelectLinks | SelectPlan | SelectFusions | SelectCascades
"""What EXPLAIN explains."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explain(Statement):
    """`EXPLAIN [ANALYZE] [(options)] SELECT MODELS | LINKS | PLAN | FUSIONS | CASCADES ...`."""

    select: Question
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
    units, jobs, rejections, labels, indexes, links, plans, cascades, deployments, repositories;
    versions, profiles, lineage OF a model; segments, disagreements, bounds OF one or two models.
    source, locations : of MODELS FROM a source, which are not in the database."""

    what: str
    of: tuple[ModelRef | Parameter, ...] = ()
    source: str | None = None
    locations: tuple[str, ...] = ()
    like: str | Parameter | None = None
    where: Expression | None = None
    limit: int | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Describe(Statement):
    """kind : model, pool, view, metric, task, dataset, device, link, plan, cascade, deployment,
    repository; None = a model if there is one."""

    name: ModelRef
    kind: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Compare(Statement):
    """COMPARE reference WITH candidate [USING dataset = ...]. layers : DIFF, the layers alone."""

    reference: ModelRef | Parameter
    candidate: ModelRef | Parameter
    options: tuple[Option, ...] = ()
    layers: bool = False


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
    """scope : all, pool, models. aspects : resources, latency, equivalence, accuracy, segments,
    bounds, links; () = those that every model has, without segments, bounds and links.
    background : ASYNC was written."""

    scope: str
    pool: str | None = None
    models: tuple[ModelRef | Parameter, ...] = ()
    aspects: tuple[str, ...] = ()
    against: tuple[ModelRef | Parameter, ...] = ()
    options: tuple[Option, ...] = ()
    background: bool = False


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
    """kind : model, pool, view, dataset, device, link, plan, cascade, repository."""

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
class CancelJob(Statement):
    """`CANCEL JOB 7`."""

    job: int | Parameter


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SetOption(Statement):
    """`SET name = value`."""

    name: str
    value: OptionValue


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResetOption(Statement):
    """name None: RESET ALL."""

    name: str | None = None
