"""Writes nodes as canonical text: one line, clauses in one order, parse(format(query)) == query."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sommelier.grammar import deployment_formatter as deployment_formatter  # registers its nodes
from sommelier.grammar import nodes
from sommelier.grammar.expression_formatter import (
    SUM,
    after,
    format,
    list_text,
    operand_text,
    option_text,
    unless,
    using_text,
    value_text,
)
from sommelier.grammar.source_formatter import origin_text, text_of  # and registers its nodes
from sommelier.grammar.spelling import write_column, write_name, write_text

__all__ = ["format", "format_expression"]

_ENDS_RELATIVE = re.compile(r"(?<![\w.])[\d.]+(e[+-]?\d+)?[%x]$")


def format_expression(expression: nodes.Expression) -> str:
    """The text of an expression, as a column heading or a plan shows it."""
    return format(expression)


# ---- SELECT


@format.register
def _(node: nodes.TaskRef) -> str:
    return f"TASK {value_text(node.task)}"


@format.register
def _(node: nodes.SubqueryRef) -> str:
    return f"({format(node.select)})"


@format.register
def _(node: nodes.ReferenceSet) -> str:
    return f"{node.quantifier.upper()} ({list_text(node.references)})"


@format.register
def _(node: nodes.CorrCondition) -> str:
    plain = node.measure == "equivalence"
    threshold = format(node.threshold)
    if node.operator == "within":
        text = f"WITHIN {threshold}" + ("" if plain else f" OF {node.measure.upper()}")
    elif plain:
        text = threshold if node.operator == ">=" else f"{node.operator} {threshold}"
    else:
        text = f"{node.measure.upper()} {node.operator} {threshold}"
    return text + after("CONFIDENCE", node.confidence)


@format.register
def _(node: nodes.Corr) -> str:
    conditions = " AND ".join(format(condition) for condition in node.conditions)
    bound = None if node.bound is None else write_column(node.bound)
    return f"CORR {format(node.reference)} {conditions}".rstrip() + after("BOUND", bound)


@format.register
def _(node: nodes.Source) -> str:
    if node.select is not None:
        return f"({format(node.select)})"
    kind = "" if node.kind == "source" else f"{node.kind.upper()} "
    return kind + write_name(node.name or "")


@format.register
def _(node: nodes.Projection) -> str:
    every = isinstance(node.expression, nodes.Column) and node.expression.name == "*"
    if every and node.alias is None and node.context is None:
        return "*"
    alias = "" if node.alias is None else f" AS {write_column(node.alias)}"
    if node.context is None:
        return format(node.expression) + alias
    return operand_text(node.expression, SUM) + after("", node.context) + alias


@format.register
def _(node: nodes.OrderItem) -> str:
    direction = {None: "", True: " DESC", False: " ASC"}[node.descending]
    nulls = {None: "", True: " NULLS FIRST", False: " NULLS LAST"}[node.nulls_first]
    context = after("", node.context)
    return operand_text(node.expression, SUM) + context + direction + nulls


@format.register
def _(node: nodes.Pick) -> str:
    text = node.kind.upper()
    if node.kind in ("similar", "accurate"):
        text = f"MOST {text}"
    if node.expression is not None:
        text += f"({operand_text(node.expression, SUM)})"
    if node.axes:
        text += f" ({list_text(node.axes)})"
    return f"PICK {text}" + after("TOP", node.top)


@format.register
def _(node: nodes.Option) -> str:
    return f"{write_column(node.name)} = {option_text(node.value)}"


@format.register
def _(node: nodes.Select) -> str:
    parts = [
        "SELECT",
        "DISTINCT" if node.distinct else "",
        "MODELS",
        list_text(node.projection),
        after("FROM", list_text(node.sources)),
        "" if node.corr is None else format(node.corr),
        after("WHERE", node.where),
        after("ON", _condition_after_on(node.on)),
        after("ORDER BY", list_text(node.order_by)),
        "" if node.pick is None else format(node.pick),
        after("LIMIT", node.limit) + after("OFFSET", node.offset),
        after("INCLUDING", ", ".join(kind.upper() for kind in node.including)),
        using_text(node.options),
    ]
    return " ".join(part.strip() for part in parts if part)


@format.register
def _(node: nodes.SelectLinks) -> str:
    distinct = " DISTINCT" if node.distinct else ""
    projection = after("", list_text(node.projection)) + after("WHERE", node.where)
    order = after("ORDER BY", list_text(node.order_by))
    tail = after("LIMIT", node.limit) + after("OFFSET", node.offset) + using_text(node.options)
    return f"SELECT{distinct} LINKS{projection}{order}{tail}"


@format.register
def _(node: nodes.SelectFusions) -> str:
    distinct = " DISTINCT" if node.distinct else ""
    columns = after("", _columns_before_of(node.projection))
    of = f" OF {_models_or_pool(node.models, node.pool)}"
    limits = after("WHERE", node.where) + after("ON", _condition_after_on(node.on))
    order = after("ORDER BY", list_text(node.order_by))
    tail = after("LIMIT", node.limit) + after("OFFSET", node.offset) + using_text(node.options)
    return f"SELECT{distinct} FUSIONS{columns}{of}{limits}{order}{tail}"


def _columns_before_of(columns: tuple[nodes.Projection, ...]) -> str:
    """As text. A relative number at the end is put in parentheses: 80% OF a is one of a model."""
    text = list_text(columns)
    if not _ENDS_RELATIVE.search(text):
        return text
    *others, last = columns
    return ", ".join((*map(format, others), f"({format(last)})"))


@format.register
def _(node: nodes.SelectPlan) -> str:
    models = _models_or_pool(node.models, node.pool)
    pick = after("", None if node.pick is None else format(node.pick))
    budget = after("ON", _condition_after_on(node.on))
    return f"SELECT PLAN FOR {models}{budget}{pick}{using_text(node.options)}"


@format.register
def _(node: nodes.SelectCascades) -> str:
    distinct = " DISTINCT" if node.distinct else ""
    columns = after("", list_text(node.projection)) + after("CORR", node.teacher) + _promise(node)
    limits = after("WHERE", node.where) + after("ON", _condition_after_on(node.on))
    order = after("ORDER BY", list_text(node.order_by))
    tail = after("LIMIT", node.limit) + after("OFFSET", node.offset) + using_text(node.options)
    return f"SELECT{distinct} CASCADES{columns}{limits}{order}{tail}"


# ---- other statements


@format.register
def _(node: nodes.CatalogSql) -> str:
    return node.text


@format.register
def _(node: nodes.Explain) -> str:
    analyze = " ANALYZE" if node.analyze else ""
    options = f" ({list_text(node.options)})" if node.options else ""
    return f"EXPLAIN{analyze}{options} {format(node.select)}"


@format.register
def _(node: nodes.ExplainWhy) -> str:
    negated = " NOT" if node.negated else ""
    return f"EXPLAIN WHY {format(node.model)}{negated} IN ({format(node.select)})"


@format.register
def _(node: nodes.ExplainFusion) -> str:
    options = f" ({list_text(node.options)})" if node.options else ""
    return f"EXPLAIN{options} FUSION {format(node.model)}"


@format.register
def _(node: nodes.ExplainCascade) -> str:
    options = f" ({list_text(node.options)})" if node.options else ""
    return f"EXPLAIN{options} CASCADE {write_name(node.name)}"


@format.register
def _(node: nodes.Show) -> str:
    source = "" if node.source is None else f" FROM {origin_text(node.source, node.locations)}"
    parts = (
        after("OF", list_text(node.of)),
        after("LIKE", text_of(node.like)),
        after("WHERE", node.where),
    )
    tail = after("LIMIT", node.limit) + using_text(node.options)
    return f"SHOW {node.what.upper()}{source}{''.join(parts)}{tail}"


@format.register
def _(node: nodes.Describe) -> str:
    return "DESCRIBE" + after("", node.kind and node.kind.upper()) + f" {format(node.name)}"


@format.register
def _(node: nodes.Compare) -> str:
    pair = f"{format(node.reference)} WITH {format(node.candidate)}"
    return f"{'DIFF' if node.layers else 'COMPARE'} {pair}" + using_text(node.options)


@format.register
def _(node: nodes.RegisterModel) -> str:
    task = None if node.task is None else write_text(node.task)
    head = f"REGISTER MODEL {format(node.name)} FROM {write_text(node.path)}" + after("TASK", task)
    return head + unless(node.if_not_exists) + using_text(node.options)


@format.register
def _(node: nodes.RegisterDataset) -> str:
    head = f"REGISTER DATASET {write_name(node.name)} FROM {write_text(node.path)}"
    return head + unless(node.if_not_exists) + using_text(node.options)


@format.register
def _(node: nodes.RegisterDevice) -> str:
    return f"REGISTER DEVICE {write_name(node.name)}" + using_text(node.options)


@format.register
def _(node: nodes.Analyze) -> str:
    scope = {"all": "ALL", "pool": f"POOL {write_name(node.pool or '-')}"}.get(node.scope)
    aspects = ", ".join(aspect.upper() for aspect in node.aspects)
    rest = (
        after("FOR", aspects) + after("AGAINST", list_text(node.against)) + using_text(node.options)
    )
    background = " ASYNC" if node.background else ""
    return f"ANALYZE {scope or list_text(node.models)}{rest}{background}"


@format.register
def _(node: nodes.AlterModel) -> str:
    head = f"ALTER MODEL {format(node.model)}"
    if node.action == "set":
        context = None if node.context is None else write_text(node.context)
        return f"{head} SET {list_text(node.options)}" + after("ON", context)
    if node.action == "rename":
        return f"{head} RENAME TO {write_name(node.value or '')}"
    return f"{head} {node.action.replace('_', ' ').upper()} {write_text(node.value or '')}"


@format.register
def _(node: nodes.AlterTask) -> str:
    return f"ALTER TASK {write_text(node.task)} SET {list_text(node.options)}"


@format.register
def _(node: nodes.Drop) -> str:
    exists = " IF EXISTS" if node.if_exists else ""
    return f"DROP {node.kind.upper()}{exists} {format(node.name)}"


@format.register
def _(node: nodes.CreatePool) -> str:
    head = "CREATE OR REPLACE" if node.or_replace else "CREATE"
    kind = node.kind.upper() + unless(node.if_not_exists)
    return f"{head} {kind} {write_name(node.name)} AS {format(node.select)}"


@format.register
def _(node: nodes.Graft) -> str:
    segments = ", ".join(write_text(segment) for segment in node.segments)
    return f"GRAFT {format(node.donor)} INTO {format(node.host)} AT SEGMENT {segments}"


@format.register
def _(node: nodes.FusionRecipe) -> str:
    within = "" if node.within is None else f" WITHIN {format(node.within)} OF ACCURACY"
    limits = after("ON", _condition_after_on(node.on)) + (" FOR MEMORY" if node.memory_only else "")
    return f"FUSION OF {_models_or_pool(node.models, node.pool)}{within}{limits}"


@format.register
def _(node: nodes.CreateModel) -> str:
    head = "CREATE OR REPLACE" if node.or_replace else "CREATE"
    name = f"MODEL{unless(node.if_not_exists)} {format(node.name)}"
    background = " ASYNC" if node.background else ""
    return f"{head} {name} AS {format(node.recipe)}{using_text(node.options)}{background}"


@format.register
def _(node: nodes.CreateLink) -> str:
    head = "CREATE OR REPLACE" if node.or_replace else "CREATE"
    name = None if node.name is None else write_name(node.name)
    kind = "LINK" + unless(node.if_not_exists) + after("", name)
    ends = f" FROM {list_text(node.sources)} TO {format(node.target)}"
    return f"{head} {kind}{ends}{using_text(node.options)}"


@format.register
def _(node: nodes.CreatePlan) -> str:
    head = "CREATE OR REPLACE" if node.or_replace else "CREATE"
    kind = "PLAN" + unless(node.if_not_exists)
    return f"{head} {kind} {write_name(node.name)} AS {format(node.select)}"


@format.register
def _(node: nodes.CreateCascade) -> str:
    head = "CREATE OR REPLACE" if node.or_replace else "CREATE"
    name = None if node.name is None else write_name(node.name)
    kind = "CASCADE" + unless(node.if_not_exists) + after("", name)
    members = " TO ".join(format(member) for member in node.members)
    return f"{head} {kind} FROM {members}{_promise(node)}{using_text(node.options)}"


@format.register
def _(node: nodes.RefreshPool) -> str:
    return f"REFRESH POOL {write_name(node.name)}"


@format.register
def _(node: nodes.CancelJob) -> str:
    return "CANCEL JOB" + after("", node.job)


@format.register
def _(node: nodes.SetOption) -> str:
    return f"SET {write_column(node.name)} = {option_text(node.value)}"


@format.register
def _(node: nodes.ResetOption) -> str:
    return f"RESET {'ALL' if node.name is None else write_column(node.name)}"


# ---- parts


def _promise(node: nodes.SelectCascades | nodes.CreateCascade) -> str:
    """What a cascade may lose, and how sure that is; OF ACCURACY is written also as the default."""
    within = after("WITHIN", node.within)
    return f"{within} OF {node.measure.upper()}" * bool(within) + after(
        "CONFIDENCE", node.confidence
    )


def _condition_after_on(condition: nodes.Expression | None) -> str | None:
    """In parentheses if it begins with a quote, which would make ON the context of a comparison."""
    if condition is None:
        return None
    text = format(condition)
    return f"({text})" if text.startswith("'") else text


def _models_or_pool(models: Iterable[nodes.Node], pool: str | None) -> str:
    return list_text(models) if pool is None else f"POOL {write_name(pool)}"
