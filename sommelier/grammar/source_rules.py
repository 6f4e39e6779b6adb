"""What the grammar's rules of sources of models, and of EXPORT, become."""

from __future__ import annotations

from lark import Token

from sommelier.grammar import nodes
from sommelier.grammar.deployment_rules import DeploymentRules
from sommelier.grammar.expression_rules import Children, span_of
from sommelier.grammar.fusion_rules import nothing_to_run
from sommelier.grammar.select_rules import check_creation, options_of, text_of
from sommelier.grammar.spelling import unquoted


class SourceRules(DeploymentRules):
    """One method a rule."""

    def import_models(self, children: Children) -> nodes.Import:
        _import, _models, origin, _like, like, _where, where, _limit, limit, using = children
        return nodes.Import(
            *origin_of(origin),
            like=text_of(like),
            where=where,
            limit=None if limit is None else int(limit),
            options=options_of(using),
            span=span_of(children),
        )

    def origin(self, children: Children) -> tuple[Token, ...]:
        return tuple(child for child in children if child is not None)

    def explain_import(self, children: Children) -> nodes.ExplainImport:
        _explain, _open, options, _close, statement = children
        kept = nothing_to_run(options, "EXPLAIN IMPORT says what would be asked", "IMPORT ...")
        return nodes.ExplainImport(statement, kept, span=span_of(children))

    def create_repository(self, children: Children) -> nodes.CreateRepository:
        _create, or_, _replace, _word, if_, _not, exists, name, *rest = children
        _type, connector, _at, place, using = rest
        check_creation(or_, if_, exists)
        return nodes.CreateRepository(
            unquoted(name),
            nodes.Text(unquoted(connector), span=span_of([connector])),
            None if place is None else unquoted(place),
            or_ is not None,
            if_ is not None,
            options_of(using),
            span=span_of(children),
        )

    def export_model(self, children: Children) -> nodes.ExportModel:
        _export, _model, model, _to, path, using = children
        return nodes.ExportModel(model, unquoted(path), options_of(using), span=span_of(children))


def origin_of(tokens: tuple[Token, ...]) -> tuple[str, tuple[str, ...]]:
    """The source's name and the locations of a FROM."""
    _from, source, *locations = tokens
    return unquoted(source), tuple(map(unquoted, locations))
