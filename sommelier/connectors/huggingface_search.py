"""Which conditions the Hugging Face Hub filters by itself, and how it is asked to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sommelier.connectors.huggingface_client import Hub
from sommelier.connectors.huggingface_facts import license_words, tags_of
from sommelier.connectors.licenses import spdx
from sommelier.connectors.naming import printable
from sommelier.connectors.search import Candidate, Term

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

FACTS: Mapping[str, type] = {
    "name": str,
    "task": str,
    "license": str,
    "author": str,
    "library": str,
    "tags": tuple,
    "params": float,
    "downloads": float,
    "likes": float,
    "created": str,
}
ORDER = "most downloaded first"
_EXPANDED = [
    "author", "createdAt", "downloads", "library_name", "likes", "pipeline_tag", "safetensors",
    "sha", "tags",
]  # fmt: skip
_STEPS = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


def pushed(term: Term) -> str | None:
    """The hub's parameter and value for a term; None if the hub has none."""
    found = _parameter(term)
    return None if found is None else "=".join(found)


def search(hub: Hub, terms: tuple[Term, ...]) -> Iterator[Candidate]:
    """What the hub lists under its filters. Raises ConnectorError."""
    for info in hub.search(_filters(terms), _EXPANDED):
        facts = _facts(info)
        yield Candidate(str(facts["name"]), f"{info.id}@{info.sha}", facts)


def _facts(info: ModelInfo) -> dict[str, object]:
    stated = license_words(info)
    total = None if info.safetensors is None else info.safetensors.total
    facts: dict[str, object] = {
        "name": printable(info.id),
        "task": info.pipeline_tag,
        "license": stated and (spdx(stated) or stated),
        "author": info.author or info.id.partition("/")[0],
        "library": info.library_name,
        "tags": tags_of(info),
        "params": None if total is None else float(total),
        "downloads": info.downloads,
        "likes": info.likes,
        "created": None if info.created_at is None else info.created_at.date().isoformat(),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _filters(terms: tuple[Term, ...]) -> dict[str, Any]:
    """Arguments of the client's list_models. Of two values for one of them, the first is asked
    for: the other is checked by the caller."""
    filters: dict[str, Any] = {}
    tags: list[str] = []
    bounds: dict[str, str] = {}
    for term in terms:
        found = _parameter(term)
        if found is None:
            continue
        name, value = found
        if name == "filter":
            tags.append(value)
        elif name == "num_parameters":
            side, _, bound = value.partition(":")
            bounds[side] = bound
        else:
            filters.setdefault(name, value)
    if tags:
        filters["filter"] = tags
    if bounds:
        filters["num_parameters"] = ",".join(f"{side}:{bounds[side]}" for side in sorted(bounds))
    return filters


def _parameter(term: Term) -> tuple[str, str] | None:
    """Name and value of the hub's own filter."""
    if term.fact == "params":
        side = "max" if term.operator.startswith("<") else "min"
        return ("num_parameters", f"{side}:{_count(float(term.value), side)}")
    if term.operator == "has":
        return "filter", str(term.value)
    if term.operator != "=":
        return None
    value = str(term.value)
    known: dict[str, tuple[str, str]] = {
        "task": ("pipeline_tag", value),
        "author": ("author", value),
        "library": ("filter", value.lower()),
        "license": ("filter", f"license:{(spdx(value) or value).lower()}"),
    }
    return known.get(term.fact)


def _count(value: float, side: str) -> str:
    """A number as the hub writes it, rounded so that nothing is lost: 30M, 1500K.

    >>> _count(30e6, "max"), _count(1_234_567, "max"), _count(1_234_567, "min")
    ('30M', '1235K', '1234K')
    """
    for scale, letter in _STEPS:
        if value >= scale and value % scale == 0:
            return f"{value / scale:.0f}{letter}"
    rounded = math.ceil(value / 1e3) if side == "max" else math.floor(value / 1e3)
    return f"{rounded}K"
