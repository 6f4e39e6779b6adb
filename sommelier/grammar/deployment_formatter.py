"""Writes the nodes of deployments as canonical text; formatter.py writes the others."""

from __future__ import annotations

from sommelier.grammar import nodes
from sommelier.grammar.expression_formatter import after, format, list_text, using_text
from sommelier.grammar.source_formatter import text_of
from sommelier.grammar.spelling import write_name


@format.register
def _(node: nodes.DeployedGroup) -> str:
    if node.pool is not None:
        return f"POOL {write_name(node.pool)}"
    return f"MODEL{'S' * (len(node.models) > 1)} {list_text(node.models)}"


@format.register
def _(node: nodes.DeployedCascade) -> str:
    members = " -> ".join(format(member) for member in node.members)
    escalated = after("ESCALATE AT MOST", node.at_most) + after("ESCALATE WHEN", node.when)
    return f"CASCADE {members}{escalated}"


@format.register
def _(node: nodes.DeployedPlan) -> str:
    return f"PLAN {write_name(node.name)}"


@format.register
def _(node: nodes.Deploy) -> str:
    head = "DEPLOY OR REPLACE" if node.or_replace else "DEPLOY"
    what = format(node.what)
    what = f"({what})" if isinstance(node.what, nodes.Select) else what
    policy = None if node.policy is None else write_name(node.policy.value)
    under = after("UNDER SLA", node.under) + after("ROUTE BY", policy)
    rest = after("FALLBACK TO", node.fallback) + using_text(node.options)
    return f"{head} {what} AS {write_name(node.name)}{under}{rest}"


@format.register
def _(node: nodes.Undeploy) -> str:
    return f"UNDEPLOY{' IF EXISTS' * node.if_exists} {write_name(node.name)}"


@format.register
def _(node: nodes.Simulate) -> str:
    trace = text_of(node.trace)
    return f"SIMULATE {write_name(node.name)} ON TRACE {trace}{using_text(node.options)}"


@format.register
def _(node: nodes.ExplainDeploy) -> str:
    options = f" ({list_text(node.options)})" if node.options else ""
    return f"EXPLAIN{options} {format(node.deploy)}"
