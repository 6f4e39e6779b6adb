"""Turns what the grammar's rules matched into nodes, while the text is being parsed.

The rules of expressions, of SELECT, of links, fusions, cascades, deployments and sources are in
their own files; here are the other statements.
Optional parts that were not written are None (lark's maybe_placeholders).
"""

from __future__ import annotations

from typing import Any

from lark import Token

from sommelier.errors import ParserError
from sommelier.grammar import nodes
from sommelier.grammar.expression_rules import Children, span_of
from sommelier.grammar.select_rules import (
    Clause,
    check_creation,
    option_value,
    options_of,
    text_of,
    whole,
)
from sommelier.grammar.source_rules import SourceRules, origin_of
from sommelier.grammar.spelling import unquoted


class NodeBuilder(SourceRules):
    """Every rule of query.lark by its name."""

    def explain(self, children: Children) -> nodes.Explain:
        _explain, analyze, _open, options, _close, select = children
        words = [isinstance(option, Token) for option in options or ()]
        kept = tuple(option for option in options or () if not isinstance(option, Token))
        return nodes.Explain(
            select, analyze is not None or any(words), kept, span=span_of(children)
        )

    def explain_options(self, children: Children) -> tuple[Any, ...]:
        return tuple(children)

    def explain_word(self, children: Children) -> nodes.Option | Token:
        """`FORMAT json` is an option as with an equals sign; of `ANALYZE` the token is left."""
        name, value = children
        if value is not None:
            return nodes.Option(unquoted(name).lower(), value, span=span_of(children))
        if name.upper() == "ANALYZE":
            token: Token = name
            return token
        raise ParserError(
            f"the option {name} of EXPLAIN needs a value",
            span=span_of(children),
            hint="write EXPLAIN (ANALYZE, FORMAT json) SELECT MODELS ...",
        )

    def explain_why(self, children: Children) -> nodes.ExplainWhy:
        _explain, why, model, negated, _in, subquery = children
        if why.type == "WHY_NOT" and negated is not None:
            raise ParserError(
                "NOT is written twice",
                span=span_of([negated]),
                hint="write EXPLAIN WHY model NOT IN (SELECT MODELS ...)",
            )
        negative = why.type == "WHY_NOT" or negated is not None
        return nodes.ExplainWhy(model, subquery.select, negative, span=span_of(children))

    def show(self, children: Children) -> nodes.Show:
        _show, (what, *rest), _like, like, _where, where, _limit, limit, using = children
        elsewhere = what.type == "MODELS" and bool(rest)
        source, locations = origin_of(rest[0]) if elsewhere else (None, ())
        return nodes.Show(
            what.type.lower(),
            () if elsewhere else tuple(rest[1:]),
            source=source,
            locations=locations,
            like=text_of(like),
            where=where,
            limit=None if limit is None else int(limit),
            options=options_of(using),
            span=span_of(children),
        )

    def show_what(self, children: Children) -> tuple[Any, ...]:
        return tuple(child for child in children if child is not None)

    def describe(self, children: Children) -> nodes.Describe:
        _describe, kind, name = children
        return nodes.Describe(
            name, None if kind is None else kind.type.lower(), span=span_of(children)
        )

    def described(self, children: Children) -> Token:
        token: Token = children[0]
        return token

    def compare(self, children: Children) -> nodes.Compare:
        word, reference, _with, candidate, using = children
        layers = word.type == "DIFF"
        return nodes.Compare(
            reference, candidate, options_of(using), layers, span=span_of(children)
        )

    def register_model(self, children: Children) -> nodes.RegisterModel:
        _register, _model, name, _from, path, _task, task, *if_not_exists, using = children
        return nodes.RegisterModel(
            name,
            unquoted(path),
            None if task is None else unquoted(task),
            any(if_not_exists),
            options_of(using),
            span=span_of(children),
        )

    def register_dataset(self, children: Children) -> nodes.RegisterDataset:
        _register, _dataset, name, _from, path, *if_not_exists, using = children
        return nodes.RegisterDataset(
            unquoted(name),
            unquoted(path),
            any(if_not_exists),
            options_of(using),
            span=span_of(children),
        )

    def register_device(self, children: Children) -> nodes.RegisterDevice:
        _register, _device, name, using = children
        return nodes.RegisterDevice(unquoted(name), options_of(using), span=span_of(children))

    def analyze(self, children: Children) -> nodes.Analyze:
        _analyze, scope, *aspects, _against, against, using, background = children
        names = tuple(aspect.lower() for aspect in aspects if aspect and aspect.type != "FOR")
        return nodes.Analyze(
            **scope.fields,
            aspects=names,
            against=against or (),
            options=options_of(using),
            background=background is not None,
            span=span_of(children),
        )

    def every_model(self, children: Children) -> Clause:
        return Clause("ALL", {"scope": "all"}, span_of(children))

    def pool_scope(self, children: Children) -> Clause:
        fields = {"scope": "pool", "pool": unquoted(children[1])}
        return Clause("POOL", fields, span_of(children))

    def model_scope(self, children: Children) -> Clause:
        fields = {"scope": "models", "models": children[1]}
        return Clause("MODELS", fields, span_of(children))

    def models(self, children: Children) -> tuple[Any, ...]:
        return tuple(children)

    def aspect(self, children: Children) -> Token:
        token: Token = children[0]
        return token

    def alter_model(self, children: Children) -> nodes.AlterModel:
        _alter, _model, model, change = children
        return nodes.AlterModel(model, **change.fields, span=span_of(children))

    def alter_set(self, children: Children) -> Clause:
        _set, options, _on, context = children
        name = None if context is None else unquoted(context)
        fields = {"action": "set", "options": options, "context": name}
        return Clause("SET", fields, span_of(children))

    def alter_rename(self, children: Children) -> Clause:
        fields = {"action": "rename", "value": unquoted(children[2])}
        return Clause("RENAME", fields, span_of(children))

    def alter_tag(self, children: Children) -> Clause:
        action, _tag, tag = children
        fields = {"action": f"{action.type.lower()}_tag", "value": unquoted(tag)}
        return Clause(action.type, fields, span_of(children))

    def alter_task(self, children: Children) -> nodes.AlterTask:
        _alter, _task, task, _set, options = children
        return nodes.AlterTask(unquoted(task), options, span=span_of(children))

    def drop(self, children: Children) -> nodes.Drop:
        _drop, kind, if_exists, _exists, name = children
        return nodes.Drop(kind.type.lower(), name, if_exists is not None, span=span_of(children))

    def create_pool(self, children: Children) -> nodes.CreatePool:
        _create, or_, _replace, kind, if_, _not, _exists, name, _as, select = children
        check_creation(or_, if_, _exists)
        return nodes.CreatePool(
            kind.type.lower(),
            unquoted(name),
            select,
            or_ is not None,
            if_ is not None,
            span=span_of(children),
        )

    def refresh_pool(self, children: Children) -> nodes.RefreshPool:
        return nodes.RefreshPool(unquoted(children[2]), span=span_of(children))

    def cancel_job(self, children: Children) -> nodes.CancelJob:
        job = whole(children[2])
        assert job is not None, "the grammar asks for one"
        return nodes.CancelJob(job, span=span_of(children))

    def set_option(self, children: Children) -> nodes.SetOption:
        _set, name, _equals, value = children
        return nodes.SetOption(unquoted(name), option_value(value), span=span_of(children))

    def reset_option(self, children: Children) -> nodes.ResetOption:
        name = None if children[1].type == "ALL" else unquoted(children[1])
        return nodes.ResetOption(name, span=span_of(children))
