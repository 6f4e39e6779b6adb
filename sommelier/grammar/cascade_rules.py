"""What the grammar's rules of cascades become."""

from __future__ import annotations

from typing import Any

from lark import Token

from sommelier.grammar import nodes
from sommelier.grammar.expression_rules import Children, span_of
from sommelier.grammar.fusion_rules import FusionRules, nothing_to_run
from sommelier.grammar.select_rules import Clause, check_creation, merged_clauses, threshold_of
from sommelier.grammar.spelling import unquoted


class CascadeRules(FusionRules):
    """One method a rule."""

    def select_cascades(self, children: Children) -> nodes.SelectCascades:
        _select, distinct, _cascades, projection, *clauses = children
        return nodes.SelectCascades(
            projection or (),
            distinct is not None,
            **merged_clauses(clauses),
            span=span_of(children),
        )

    def create_cascade(self, children: Children) -> nodes.CreateCascade:
        _create, or_, _replace, _cascade, if_, _not, exists, name, _from, *rest = children
        check_creation(or_, if_, exists)
        models = [child for child in rest if isinstance(child, nodes.ModelRef | nodes.Parameter)]
        return nodes.CreateCascade(
            None if name is None else unquoted(name),
            tuple(models),
            or_ is not None,
            if_ is not None,
            **merged_clauses([child for child in rest if isinstance(child, Clause)]),
            span=span_of(children),
        )

    def explain_cascade(self, children: Children) -> nodes.ExplainCascade:
        _explain, _open, options, _close, _cascade, name = children
        kept = nothing_to_run(
            options, "EXPLAIN CASCADE reads what was kept when the cascade was made", "CASCADE c"
        )
        return nodes.ExplainCascade(unquoted(name), kept, span=span_of(children))

    def teacher_clause(self, children: Children) -> Clause:
        return Clause("CORR", {"teacher": children[1]}, span_of(children))

    def promise_clause(self, children: Children) -> Clause:
        _within, threshold, _of, measure = children
        fields: dict[str, Any] = {"within": threshold_of(threshold)}
        if isinstance(measure, Token):
            fields["measure"] = measure.type.lower()
        return Clause("WITHIN", fields, span_of(children))

    def confidence_clause(self, children: Children) -> Clause:
        confidence = threshold_of(children[1])
        return Clause("CONFIDENCE", {"confidence": confidence}, span_of(children))
