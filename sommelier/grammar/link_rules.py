"""What the grammar's rules of links and plans become."""

from __future__ import annotations

from sommelier.grammar import nodes
from sommelier.grammar.expression_rules import Children, span_of
from sommelier.grammar.select_rules import (
    SelectRules,
    check_creation,
    merged_clauses,
    options_of,
    scope_fields,
)
from sommelier.grammar.spelling import unquoted


class LinkRules(SelectRules):
    """One method a rule."""

    def select_links(self, children: Children) -> nodes.SelectLinks:
        _select, distinct, _links, projection, *clauses = children
        return nodes.SelectLinks(
            projection or (),
            distinct is not None,
            **merged_clauses(clauses),
            span=span_of(children),
        )

    def select_plan(self, children: Children) -> nodes.SelectPlan:
        _select, _plan, _for, scope, *clauses = children
        return nodes.SelectPlan(
            **scope_fields(scope), **merged_clauses(clauses), span=span_of(children)
        )

    def create_link(self, children: Children) -> nodes.CreateLink:
        _create, or_, _replace, _link, if_, _not, exists, name, *rest = children
        _from, sources, _to, target, using = rest
        check_creation(or_, if_, exists)
        return nodes.CreateLink(
            None if name is None else unquoted(name),
            sources,
            target,
            or_ is not None,
            if_ is not None,
            options_of(using),
            span=span_of(children),
        )

    def create_plan(self, children: Children) -> nodes.CreatePlan:
        _create, or_, _replace, _plan, if_, _not, exists, name, _as, select = children
        check_creation(or_, if_, exists)
        return nodes.CreatePlan(
            unquoted(name), select, or_ is not None, if_ is not None, span=span_of(children)
        )
