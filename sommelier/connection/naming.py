"""Names in statements that change the database: what they stand for, and where to underline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sommelier.engine.options import bind_value
from sommelier.errors import BinderError, QueryError, Span
from sommelier.grammar import nodes
from sommelier.grammar.builder import model_name

if TYPE_CHECKING:
    from sommelier.records import ModelRecord


def reference_name(
    reference: nodes.ModelRef | nodes.Parameter, parameters: Any
) -> tuple[str, str | None]:
    """The name and version a reference, or the parameter behind it, stands for."""
    if isinstance(reference, nodes.Parameter):
        return model_name(str(bind_value(reference, str, parameters)))
    return reference.name, reference.version


def why_no_file(record: ModelRecord) -> str:
    """Why a model without an artifact has none."""
    return "nobody created it yet" if record.proposal else "it is metadata only"


def name_taken(
    kind: str, name: str, span: Span | None, *, replacing: str = "replaces it"
) -> BinderError:
    """The error for a name that another `kind` ('pool') has. replacing : what OR REPLACE does.

    >>> name_taken("pool", "edge", None).hint
    'CREATE OR REPLACE POOL replaces it'
    """
    hint = f"CREATE OR REPLACE {kind.upper()} {replacing}"
    return BinderError(f"{kind} '{name}' exists", span=span, hint=hint)


@contextmanager
def underlined(span: Span | None) -> Iterator[None]:
    """A QueryError from inside that has no place gets this one."""
    try:
        yield
    except QueryError as error:
        error.span = error.span or span
        raise
