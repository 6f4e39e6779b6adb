"""What the grammar's rules of deployments become."""

from __future__ import annotations

from sommelier.grammar import nodes
from sommelier.grammar.cascade_rules import CascadeRules
from sommelier.grammar.expression_rules import Children, span_of
from sommelier.grammar.fusion_rules import nothing_to_run
from sommelier.grammar.select_rules import (
    Clause,
    Subquery,
    merged_clauses,
    options_of,
    scope_fields,
    threshold_of,
)
from sommelier.grammar.spelling import unquoted


class DeploymentRules(CascadeRules):
    """One method a rule."""

    def deploy(self, children: Children) -> nodes.Deploy:
        _deploy, or_, _replace, what, _as, name, *clauses = children
        return nodes.Deploy(
            what.select if isinstance(what, Subquery) else what,
            unquoted(name),
            or_ is not None,
            **merged_clauses(clauses),
            span=span_of(children),
        )

    def deployed_group(self, children: Children) -> nodes.DeployedGroup:
        return nodes.DeployedGroup(**scope_fields(children[0]), span=span_of(children))

    def deployed_cascade(self, children: Children) -> nodes.DeployedCascade:
        members = [
            child for child in children if isinstance(child, nodes.ModelRef | nodes.Parameter)
        ]
        clauses = [child for child in children if isinstance(child, Clause)]
        return nodes.DeployedCascade(
            tuple(members), **merged_clauses(clauses), span=span_of(children)
        )

    def deployed_plan(self, children: Children) -> nodes.DeployedPlan:
        return nodes.DeployedPlan(unquoted(children[1]), span=span_of(children))

    def escalate_at_most(self, children: Children) -> Clause:
        share = threshold_of(children[3])
        return Clause("ESCALATE", {"at_most": share}, span_of(children))

    def escalate_when(self, children: Children) -> Clause:
        return Clause("ESCALATE", {"when": children[2]}, span_of(children))

    def under_clause(self, children: Children) -> Clause:
        return Clause("UNDER", {"under": children[-1]}, span_of(children))

    def route_clause(self, children: Children) -> Clause:
        policy = nodes.Text(unquoted(children[2]), span=span_of(children[2:]))
        return Clause("ROUTE BY", {"policy": policy}, span_of(children))

    def fallback_clause(self, children: Children) -> Clause:
        return Clause("FALLBACK TO", {"fallback": children[2]}, span_of(children))

    def undeploy(self, children: Children) -> nodes.Undeploy:
        _undeploy, if_, _exists, name = children
        return nodes.Undeploy(unquoted(name), if_ is not None, span=span_of(children))

    def simulate(self, children: Children) -> nodes.Simulate:
        _simulate, name, _on, _trace, trace, using = children
        read = trace if isinstance(trace, nodes.Parameter) else unquoted(trace)
        return nodes.Simulate(unquoted(name), read, options_of(using), span=span_of(children))

    def explain_deploy(self, children: Children) -> nodes.ExplainDeploy:
        _explain, _open, options, _close, deploy = children
        kept = nothing_to_run(options, "EXPLAIN DEPLOY says what would be deployed", "DEPLOY ...")
        return nodes.ExplainDeploy(deploy, kept, span=span_of(children))
