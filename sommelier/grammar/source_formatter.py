"""Writes the nodes of sources, and of EXPORT, as canonical text; formatter.py writes the others."""

from __future__ import annotations

from sommelier.grammar import nodes
from sommelier.grammar.expression_formatter import after, format, list_text, unless, using_text
from sommelier.grammar.spelling import write_name, write_text


@format.register
def _(node: nodes.Import) -> str:
    parts = (
        after("LIKE", text_of(node.like)),
        after("WHERE", node.where),
        after("LIMIT", node.limit),
    )
    tail = "".join(parts) + using_text(node.options)
    return f"IMPORT MODELS FROM {origin_text(node.connector, node.locations)}{tail}"


def text_of(text: str | nodes.Parameter | None) -> str | None:
    """A text in quotes, or a parameter."""
    if text is None:
        return None
    return format(text) if isinstance(text, nodes.Parameter) else write_text(text)


def origin_text(connector: str, locations: tuple[str, ...]) -> str:
    """A source and where it is to look."""
    return write_name(connector) + after("", ", ".join(map(write_text, locations)) or None)


@format.register
def _(node: nodes.ExplainImport) -> str:
    options = f" ({list_text(node.options)})" if node.options else ""
    return f"EXPLAIN{options} {format(node.statement)}"


@format.register
def _(node: nodes.CreateRepository) -> str:
    head = "CREATE OR REPLACE" if node.or_replace else "CREATE"
    name = f"REPOSITORY{unless(node.if_not_exists)} {write_name(node.name)}"
    place = None if node.place is None else write_text(node.place)
    rest = after("AT", place) + using_text(node.options)
    return f"{head} {name} TYPE {write_name(node.connector.value)}{rest}"


@format.register
def _(node: nodes.ExportModel) -> str:
    return f"EXPORT MODEL {format(node.model)} TO {write_text(node.path)}{using_text(node.options)}"
