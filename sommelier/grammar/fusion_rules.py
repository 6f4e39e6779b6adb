"""What the grammar's rules of fusions, and of models made of others, become."""

from __future__ import annotations

from sommelier.errors import ParserError
from sommelier.grammar import nodes
from sommelier.grammar.expression_rules import Children, span_of
from sommelier.grammar.link_rules import LinkRules
from sommelier.grammar.select_rules import (
    Clause,
    check_creation,
    merged_clauses,
    options_of,
    scope_fields,
    threshold_of,
)
from sommelier.grammar.spelling import unquoted


class FusionRules(LinkRules):
    """One method a rule."""

    def select_fusions(self, children: Children) -> nodes.SelectFusions:
        _select, distinct, _fusions, projection, _of, scope, *clauses = children
        return nodes.SelectFusions(
            projection or (),
            distinct is not None,
            **scope_fields(scope),
            **merged_clauses(clauses),
            span=span_of(children),
        )

    def explain_fusion(self, children: Children) -> nodes.ExplainFusion:
        _explain, _open, options, _close, _fusion, model = children
        kept = nothing_to_run(options, "EXPLAIN FUSION reads what the search has kept", "FUSION m")
        return nodes.ExplainFusion(model, kept, span=span_of(children))

    def create_model(self, children: Children) -> nodes.CreateModel:
        _create, or_, _replace, _model, if_, _not, exists, name, _as, made = children
        recipe, using, *background = made
        check_creation(or_, if_, exists)
        return nodes.CreateModel(
            name,
            recipe,
            or_ is not None,
            if_ is not None,
            options_of(using),
            any(background),
            span=span_of(children),
        )

    def recipe(self, children: Children) -> Children:
        return children

    def graft(self, children: Children) -> nodes.Graft:
        _graft, donor, _into, host, _at, _segment, *segments = children
        names = tuple(unquoted(segment) for segment in segments)
        return nodes.Graft(donor, host, names, span=span_of(children))

    def fusion(self, children: Children) -> nodes.FusionRecipe:
        _fusion, _of, scope, *clauses = children
        return nodes.FusionRecipe(
            **scope_fields(scope), **merged_clauses(clauses), span=span_of(children)
        )

    def within_clause(self, children: Children) -> Clause:
        within = threshold_of(children[1])
        return Clause("WITHIN", {"within": within}, span_of(children))

    def memory_clause(self, children: Children) -> Clause:
        return Clause("FOR MEMORY", {"memory_only": True}, span_of(children))


def nothing_to_run(
    options: Children | tuple[nodes.Option, ...] | None, reads: str, what: str
) -> tuple[nodes.Option, ...]:
    """The options of an EXPLAIN that only reads. Raises ParserError for the word ANALYZE."""
    for option in options or ():
        if not isinstance(option, nodes.Option):
            raise ParserError(
                f"{reads}: there is nothing to run",
                span=span_of([option]),
                hint=f"write EXPLAIN {what}, or EXPLAIN (FORMAT json) {what}",
            )
    return tuple(options or ())
