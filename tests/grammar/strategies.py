"""Hypothesis strategies that make nodes, not text: everything the parser can produce."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import strategies as st

from sommelier.grammar import nodes
from sommelier.grammar.spelling import UNIT_NAMES
from sommelier.units import SPELLINGS

EXAMPLES = int(os.environ.get("SOMMELIER_EXAMPLES", "20"))
"""Drawn by each property of the language; `make nightly` draws more."""

TRICKY_NAMES = (
    *(
        "task",
        "accuracy",
        "from",
        "to",
        "link",
        "links",
        "plan",
        "for",
        "of",
        "fusion",
        "fusions",
        "memory",
        "async",
        "job",
        "on",
        "limit",
        "any",
        "pool",
        "if",
        "null",
        "true",
        "not",
        "fits",
    ),
    *("resnet50", "google/efficientnet-b7", "tf_efficientnet_b0.ns_jft_in1k", "a:b", "3d", "it's"),
    *('say "hi"', "semi;colon", "-- no comment", "/* nor this */", "p99", "x", "größe", "a@b"),
)
NUMBERS = st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**6).map(
    float
)
FRACTIONS = st.integers(0, 1000).map(lambda n: n / 1000) | st.floats(0, 10, allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    TRICKY_NAMES
)
NAMES = TEXTS.filter(bool)
UNITS = st.sampled_from([u for units in SPELLINGS.values() for u in units if u != "%"] + ["foo"])
VERSIONS = st.none() | st.sampled_from(["1", "2", "v0.15", "1.0-rc1"])


def parameters() -> st.SearchStrategy[nodes.Parameter]:
    return st.builds(nodes.Parameter, st.sampled_from(["a", "tol", "1", "name_2"]))


def model_refs() -> st.SearchStrategy[nodes.ModelRef]:
    return st.builds(nodes.ModelRef, NAMES, VERSIONS)


def any_models() -> st.SearchStrategy[Any]:
    return model_refs() | parameters()


def literals() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(nodes.Number, NUMBERS),
        st.builds(nodes.Text, TEXTS),
        st.builds(nodes.Boolean, st.booleans()),
        st.just(nodes.Null()),
        st.builds(nodes.Percent, FRACTIONS),
        st.builds(nodes.Times, NUMBERS),
        st.builds(nodes.Quantity, NUMBERS, UNITS),
    )


def columns() -> st.SearchStrategy[nodes.Column]:
    return st.builds(nodes.Column, NAMES.filter(lambda name: name not in UNIT_NAMES))


def atoms() -> st.SearchStrategy[Any]:
    return st.one_of(
        literals(),
        columns(),
        parameters(),
        st.builds(nodes.Percent, FRACTIONS, any_models()),
        st.builds(nodes.Times, NUMBERS, any_models()),
        st.builds(
            nodes.Call,
            st.just("profile_similarity"),
            st.tuples(st.builds(nodes.ModelRef, NAMES) | st.builds(nodes.Text, TEXTS)),
        ),
        st.builds(nodes.Call, NAMES.filter(lambda n: "profile" not in n), st.just(())),
    )


def maybe_contexts() -> st.SearchStrategy[nodes.Context | None]:
    ranks = st.sampled_from([50.0, 99.0, 99.9])
    return st.one_of(
        st.none(),
        st.builds(nodes.Context, TEXTS, st.none() | ranks),
        st.builds(nodes.Context, st.none(), ranks),
    )


def _grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    contexts = maybe_contexts()
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    patterns = st.builds(nodes.Text, TEXTS) | parameters()
    return st.one_of(
        st.builds(nodes.Negative, inner),
        st.builds(nodes.Arithmetic, st.sampled_from("+-*/"), inner, inner),
        st.builds(
            nodes.Comparison,
            st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
            inner,
            inner,
            contexts,
        ),
        st.builds(nodes.Between, inner, inner, inner, st.booleans(), contexts),
        st.builds(nodes.InList, inner, several, st.booleans()),
        st.builds(
            nodes.Like, st.sampled_from(["like", "ilike", "regexp"]), inner, patterns, st.booleans()
        ),
        st.builds(nodes.IsNull, inner, st.booleans()),
        st.builds(
            nodes.Has, inner, st.lists(TEXTS, min_size=1, max_size=3).map(tuple), st.booleans()
        ),
        st.builds(nodes.FitsOn, TEXTS),
        st.builds(nodes.Not, inner),
        _joined(nodes.And, inner),
        _joined(nodes.Or, inner),
    )


def _joined(kind: Any, inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    operand = inner.filter(lambda node: not isinstance(node, kind))
    return st.builds(kind, st.lists(operand, min_size=2, max_size=3).map(tuple))


def expressions() -> st.SearchStrategy[Any]:
    return st.recursive(atoms(), _grown, max_leaves=6)


def options() -> st.SearchStrategy[tuple[nodes.Option, ...]]:
    scalars = literals() | parameters() | literals().map(nodes.Negative)
    values = scalars | st.lists(scalars, max_size=3).map(tuple)
    return st.lists(st.builds(nodes.Option, NAMES, values), min_size=1, max_size=3).map(tuple)


def corr() -> st.SearchStrategy[nodes.Corr]:
    thresholds = st.one_of(
        st.builds(nodes.Percent, FRACTIONS), st.builds(nodes.Number, NUMBERS), parameters()
    )
    conditions = st.builds(
        nodes.CorrCondition,
        st.sampled_from(["equivalence", "agreement", "bound", "accuracy"]),
        st.sampled_from(["<", "<=", ">", ">=", "within"]),
        thresholds,
        st.none() | thresholds,
    )
    references = st.one_of(
        any_models(),
        st.builds(nodes.TaskRef, TEXTS | parameters()),
        st.just(nodes.SubqueryRef(nodes.Select(limit=1))),
        st.builds(
            nodes.ReferenceSet,
            st.sampled_from(["any", "all"]),
            st.lists(any_models(), min_size=1, max_size=3).map(tuple),
        ),
    )
    bounds = st.none() | st.sampled_from(["spectral", "cp", "betting"])
    return st.builds(nodes.Corr, references, st.lists(conditions, max_size=3).map(tuple), bounds)


def order_items() -> st.SearchStrategy[tuple[nodes.OrderItem, ...]]:
    maybe = st.none() | st.booleans()
    return st.lists(
        st.builds(nodes.OrderItem, expressions(), maybe, maybe, maybe_contexts()),
        min_size=1,
        max_size=2,
    ).map(tuple)


def picks() -> st.SearchStrategy[nodes.Pick]:
    tops = st.none() | st.integers(0, 10**9) | parameters()
    named = ["similar", "accurate", "smallest", "lightest", "fastest", "cheapest", "random"]
    return st.one_of(
        st.builds(nodes.Pick, st.sampled_from(named), top=tops),
        st.builds(nodes.Pick, st.sampled_from(["min", "max"]), expressions(), top=tops),
        st.builds(nodes.Pick, st.just("pareto"), axes=order_items(), top=tops),
    )


def sources() -> st.SearchStrategy[tuple[nodes.Source, ...]]:
    named = st.builds(nodes.Source, st.sampled_from(["source", "pool", "view"]), NAMES)
    query = st.just(nodes.Source("query", None, nodes.Select(limit=3)))
    return st.lists(named | query, max_size=2).map(tuple)


def projections() -> st.SearchStrategy[tuple[nodes.Projection, ...]]:
    return st.lists(
        st.builds(nodes.Projection, expressions(), st.none() | NAMES, maybe_contexts())
        | st.just(nodes.Projection(nodes.Column("*"))),
        max_size=2,
    ).map(tuple)


@st.composite
def selects(draw: st.DrawFn) -> nodes.Select:
    """Any SELECT MODELS; OFFSET only beside LIMIT."""
    counts = st.integers(0, 10**9) | parameters()
    limit = draw(st.none() | counts)
    return nodes.Select(
        draw(projections()),
        draw(st.booleans()),
        sources=draw(sources()),
        corr=draw(st.none() | corr()),
        where=draw(st.none() | expressions()),
        on=draw(st.none() | expressions()),
        order_by=draw(st.just(()) | order_items()),
        pick=draw(st.none() | picks()),
        limit=limit,
        offset=None if limit is None else draw(st.none() | counts),
        including=draw(st.sampled_from([(), ("segments",)])),
        options=draw(st.just(()) | options()),
    )


@st.composite
def links_selects(draw: st.DrawFn) -> nodes.SelectLinks:
    """Any SELECT LINKS; OFFSET only beside LIMIT."""
    counts = st.integers(0, 10**9) | parameters()
    limit = draw(st.none() | counts)
    return nodes.SelectLinks(
        draw(projections()),
        draw(st.booleans()),
        draw(st.none() | expressions()),
        draw(st.just(()) | order_items()),
        limit,
        None if limit is None else draw(st.none() | counts),
        draw(st.just(()) | options()),
    )


def plan_selects() -> st.SearchStrategy[nodes.SelectPlan]:
    """Any SELECT PLAN."""
    clauses = (
        st.none() | expressions(),
        st.none() | picks(),
        st.just(()) | options(),
    )
    models = st.lists(any_models(), min_size=1, max_size=3).map(tuple)
    return st.builds(nodes.SelectPlan, models, st.none(), *clauses) | st.builds(
        nodes.SelectPlan, st.just(()), NAMES, *clauses
    )


def link_statements() -> st.SearchStrategy[nodes.Statement]:
    """Any statement that makes a link or a plan."""
    models = st.lists(any_models(), min_size=1, max_size=3).map(tuple)
    made = st.sampled_from([(False, False), (True, False), (False, True)])
    links = st.builds(
        lambda name, sources, target, made, options: nodes.CreateLink(
            name, sources, target, *made, options
        ),
        *(st.none() | NAMES, models, any_models(), made, st.just(()) | options()),
    )
    plans = st.builds(
        lambda name, select, made: nodes.CreatePlan(name, select, *made),
        *(NAMES, plan_selects(), made),
    )
    return links | plans


@st.composite
def fusions_selects(draw: st.DrawFn) -> nodes.SelectFusions:
    """Any SELECT FUSIONS; OFFSET only beside LIMIT."""
    counts = st.integers(0, 10**9) | parameters()
    limit = draw(st.none() | counts)
    return nodes.SelectFusions(
        draw(projections()),
        draw(st.booleans()),
        **draw(fused()),
        where=draw(st.none() | expressions()),
        on=draw(st.none() | expressions()),
        order_by=draw(st.just(()) | order_items()),
        limit=limit,
        offset=None if limit is None else draw(st.none() | counts),
        options=draw(st.just(()) | options()),
    )


def fused() -> st.SearchStrategy[dict[str, Any]]:
    """The models, or the pool, that a fusion is of."""
    models = st.lists(any_models(), min_size=1, max_size=3).map(tuple)
    return models.map(lambda found: {"models": found}) | NAMES.map(lambda name: {"pool": name})


def recipes() -> st.SearchStrategy[nodes.Graft | nodes.FusionRecipe]:
    """What CREATE MODEL makes a model from."""
    grafts = st.builds(
        nodes.Graft,
        any_models(),
        any_models(),
        st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
    )
    thresholds = st.one_of(
        st.builds(nodes.Percent, FRACTIONS), st.builds(nodes.Number, NUMBERS), parameters()
    )
    fusions = st.builds(
        lambda of, within, on, memory: nodes.FusionRecipe(
            **of, within=within, on=on, memory_only=memory
        ),
        *(fused(), st.none() | thresholds, st.none() | expressions(), st.booleans()),
    )
    return grafts | fusions


@st.composite
def made_models(draw: st.DrawFn) -> nodes.CreateModel:
    """Any CREATE MODEL; ASYNC only of a fusion."""
    recipe = draw(recipes())
    or_replace, if_not_exists = draw(
        st.sampled_from([(False, False), (True, False), (False, True)])
    )
    return nodes.CreateModel(
        draw(model_refs()),
        recipe,
        or_replace,
        if_not_exists,
        draw(st.just(()) | options()),
        isinstance(recipe, nodes.FusionRecipe) and draw(st.booleans()),
    )


@st.composite
def repositories(draw: st.DrawFn) -> nodes.CreateRepository:
    """CREATE REPOSITORY in every form; OR REPLACE and IF NOT EXISTS exclude each other."""
    or_replace, if_not_exists = draw(st.sampled_from([(0, 0), (1, 0), (0, 1)]))
    return nodes.CreateRepository(
        draw(NAMES),
        draw(NAMES.map(nodes.Text)),
        draw(st.none() | TEXTS),
        bool(or_replace),
        bool(if_not_exists),
        draw(st.just(()) | options()),
    )


def statements() -> st.SearchStrategy[nodes.Statement]:
    """Any statement, with small SELECTs inside."""
    select = st.sampled_from(
        [nodes.Select(), nodes.Select(where=nodes.Column("a")), nodes.Select(limit=1)]
    )
    maybe_options = st.just(()) | options()
    models = st.lists(any_models(), min_size=1, max_size=3).map(tuple)
    listed = (
        "models tasks sources pools views datasets devices metrics settings functions units jobs "
        "rejections labels indexes links plans repositories"
    )
    described = "model pool view metric task dataset device link plan repository"
    whole = st.none() | st.integers(0, 10**6)
    names = st.none() | TEXTS
    likes = names | parameters()
    aspects = st.lists(
        st.sampled_from(
            ["resources", "latency", "equivalence", "accuracy", "segments", "bounds", "links"]
        ),
        max_size=3,
    ).map(tuple)
    against = st.just(()) | models
    locations = st.lists(TEXTS, max_size=3).map(tuple)
    imports = st.builds(
        nodes.Import,
        NAMES,
        locations,
        like=likes,
        where=st.none() | expressions(),
        limit=whole,
        options=maybe_options,
    )
    return st.one_of(
        selects(),
        links_selects(),
        plan_selects(),
        link_statements(),
        fusions_selects(),
        st.builds(nodes.ExplainFusion, any_models()),
        st.builds(nodes.CancelJob, st.integers(0, 10**9) | parameters()),
        st.builds(
            nodes.Explain,
            links_selects() | plan_selects() | fusions_selects(),
            st.booleans(),
            maybe_options,
        ),
        st.builds(nodes.Explain, select, st.booleans(), maybe_options),
        st.builds(nodes.ExplainWhy, any_models(), select, st.booleans()),
        st.builds(
            nodes.Show,
            st.sampled_from(listed.split()),
            like=likes,
            where=st.none() | expressions(),
            limit=whole,
            options=maybe_options,
        ),
        st.builds(
            nodes.Show,
            st.just("models"),
            source=NAMES,
            locations=locations,
            like=likes,
            where=st.none() | expressions(),
            limit=whole,
            options=maybe_options,
        ),
        st.builds(
            nodes.Show,
            st.sampled_from(["versions", "profiles", "lineage"]),
            st.tuples(any_models()),
        ),
        st.builds(
            nodes.Show,
            st.sampled_from(["segments", "disagreements", "bounds"]),
            st.tuples(any_models()) | st.tuples(any_models(), any_models()),
            limit=whole,
        ),
        st.builds(
            nodes.Describe,
            model_refs(),
            st.none() | st.sampled_from(described.split()),
        ),
        st.builds(nodes.Compare, any_models(), any_models(), maybe_options, st.booleans()),
        imports,
        st.builds(nodes.ExplainImport, imports, maybe_options),
        repositories(),
        st.builds(nodes.ExportModel, any_models(), TEXTS, maybe_options),
        st.builds(nodes.RegisterModel, model_refs(), TEXTS, names, st.booleans(), maybe_options),
        st.builds(nodes.RegisterDataset, NAMES, TEXTS, st.booleans(), maybe_options),
        st.builds(nodes.RegisterDevice, NAMES, options()),
        st.builds(
            nodes.Analyze,
            st.just("all"),
            aspects=aspects,
            against=against,
            options=maybe_options,
            background=st.booleans(),
        ),
        st.builds(nodes.Analyze, st.just("pool"), NAMES, aspects=aspects),
        st.builds(nodes.Analyze, st.just("models"), models=models, aspects=aspects),
        st.builds(nodes.AlterModel, any_models(), st.just("set"), options=options(), context=names),
        st.builds(
            nodes.AlterModel,
            any_models(),
            st.sampled_from(["rename", "add_tag", "drop_tag"]),
            NAMES,
        ),
        st.builds(nodes.AlterTask, TEXTS, options()),
        st.builds(
            nodes.Drop,
            st.sampled_from(
                ["model", "pool", "view", "dataset", "device", "link", "plan", "repository"]
            ),
            model_refs(),
            st.booleans(),
        ),
        st.builds(
            nodes.CreatePool, st.sampled_from(["pool", "view"]), NAMES, select, st.booleans()
        ),
        made_models(),
        st.builds(nodes.RefreshPool, NAMES),
        st.builds(nodes.SetOption, NAMES, options().map(lambda found: found[0].value)),
        st.builds(nodes.ResetOption, st.none() | NAMES),
    )
