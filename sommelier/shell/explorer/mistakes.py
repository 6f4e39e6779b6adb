"""A mistake in place: the statement with the words at fault underlined, and what would work."""

from __future__ import annotations

from sommelier.errors import QueryError, SommelierError, Span
from sommelier.shell.explorer.frame import question
from sommelier.shell.explorer.markup import Markup, joined, tag

_ELLIPSIS = 12  # expected words that are shown


def mistake(error: BaseException, statement: str = "") -> Markup:
    """What is wrong, where, and what to do."""
    title = error.title if isinstance(error, SommelierError) else "System Error"
    message = error.message if isinstance(error, SommelierError) else str(error)
    parts = [tag("p", tag("strong", f"{title}: "), message)]
    if isinstance(error, QueryError) and error.span is not None and statement:
        parts.append(_in_place(statement, error.span))
    if isinstance(error, SommelierError) and error.suggestions:
        parts.append(tag("p", "Did you mean ", *_suggested(error, statement), "?"))
    if isinstance(error, QueryError) and error.expected:
        more = " …" if len(error.expected) > _ELLIPSIS else ""
        parts.append(tag("p", "Expected: ", ", ".join(error.expected[:_ELLIPSIS]), more))
    if isinstance(error, SommelierError) and error.hint:
        parts.append(tag("p", tag("strong", "Hint: "), error.hint))
    return tag("div", *parts, class_="error", role="alert", id="mistake", **_place(error))


def _place(error: BaseException) -> dict[str, int]:
    """For the script, which underlines the words in the box itself."""
    if not isinstance(error, QueryError) or error.span is None:
        return {}
    return {"data_start": error.span.start, "data_end": error.span.end}


def _in_place(statement: str, span: Span) -> Markup:
    start, end = min(span.start, len(statement)), max(span.end, span.start + 1)
    words = statement[start:end] or " "  # at the end of the statement something is missing
    return tag(
        "pre",
        tag("code", statement[:start], tag("mark", words), statement[end:]),
        class_="place",
        tabindex="0",
        aria_label=f"line {span.line}, column {span.column}",
    )


def _suggested(error: SommelierError, statement: str) -> list[Markup]:
    """Names that there are, as links to the statement with each in place of the words at fault."""
    found: list[Markup] = []
    for name in error.suggestions:
        if found:
            found.append(joined(" or " if name == error.suggestions[-1] else ", "))
        found.append(_with(name, error, statement))
    return found


def _with(name: str, error: SommelierError, statement: str) -> Markup:
    span = error.span if isinstance(error, QueryError) else None
    if span is None or not statement or span.end > len(statement):
        return tag("code", name)
    at_fault = statement[span.start : span.end]
    quote = at_fault[:1] if at_fault[:1] in ("'", '"') else ""
    spelled = f"{quote}{name.replace(quote, quote * 2)}{quote}" if quote else name
    return question(statement[: span.start] + spelled + statement[span.end :], tag("code", name))
