"""Which conditions the Hugging Face Hub filters by itself, and how it is asked to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sommelier.connectors.huggingface_client import Hub, MissingRepositoryError
from sommelier.connectors.huggingface_facts import (
    OWN_TAGS,
    created_of,
    every_tag,
    license_of,
    params_of,
)
from sommelier.connectors.licenses import hub_license
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
_BY_NAME = "model"  # no parameter: /api/models/<name> is asked instead
_SHORTEST = 3  # letters that are worth looking for
_STEPS = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


def pushed(term: Term) -> str | None:
    """The hub's parameters and values for a term; None if the hub has none."""
    return "&".join(f"{name}={value}" for name, value in _parameters(term).items()) or None


def search(hub: Hub, terms: tuple[Term, ...]) -> Iterator[Candidate]:
    """What the hub lists under its filters; of one name, what it has of it. Raises ConnectorError.

    Where two terms want one parameter, the first is asked for: the caller checks the other.
    """
    filters = _filters(terms)
    if (name := filters.get(_BY_NAME)) is not None:
        found = _named(hub, str(name))
    else:
        found = hub.search(filters, _EXPANDED)
    for info in found:
        facts = _facts(info)
        yield Candidate(str(facts["name"]), f"{info.id}@{info.sha}" if info.sha else info.id, facts)


def _named(hub: Hub, name: str) -> Iterator[ModelInfo]:
    try:
        yield hub.info(name, None)
    except MissingRepositoryError:
        return


def _facts(info: ModelInfo) -> dict[str, object]:
    total = params_of(info)
    facts: dict[str, object] = {
        "name": printable(info.id),
        "task": info.pipeline_tag,
        "license": license_of(info),
        "author": info.author or info.id.partition("/")[0],
        "library": info.library_name,
        "tags": every_tag(info),
        "params": None if total is None else float(total),
        "downloads": info.downloads,
        "likes": info.likes,
        "created": created_of(info),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _filters(terms: tuple[Term, ...]) -> dict[str, Any]:
    """The parameters of the hub's API for what all terms say."""
    filters: dict[str, Any] = {}
    tags: list[str] = []
    bounds: dict[str, str] = {}
    for name, value in (pair for term in terms for pair in _parameters(term).items()):
        if name == "filter":
            tags.append(value)
        elif name == "num_parameters":
            side, _, bound = value.partition(":")
            bounds.setdefault(side, bound)
        else:
            filters.setdefault(name, value)
    if tags:
        filters["filter"] = tags
    if bounds:
        filters["num_parameters"] = ",".join(f"{side}:{bounds[side]}" for side in sorted(bounds))
    return filters


def _parameters(term: Term) -> dict[str, str]:
    """Names and values of the hub's own filters; empty where it has none for a term."""
    if term.fact == "params":
        side = "max" if term.operator.startswith("<") else "min"
        return {"num_parameters": f"{side}:{_count(float(term.value), side)}"}
    value = str(term.value)
    if term.operator == "has":
        return {} if value in OWN_TAGS or "," in value else {"filter": value}
    if term.operator == "like" and term.fact == "name":
        return _like(value)
    if term.operator != "=":
        return {}
    word = hub_license(value)
    known = {
        "name": {_BY_NAME: value},
        "task": {"pipeline_tag": value},
        "author": {"author": value},
        "library": {"filter": value.lower()},
        "license": {} if word is None else {"filter": f"license:{word}"},
    }
    return known.get(term.fact, {})


def _like(pattern: str) -> dict[str, str]:
    """What of a pattern on names the hub can look for: an author, and a part of the name.

    >>> _like("owner/bert%small"), _like("%bert_base%")
    ({'author': 'owner', 'search': 'small'}, {'search': 'bert'})
    """
    author, slash, rest = pattern.partition("/")
    literal = bool(slash) and not set(author) & set("%_")
    parts = re.split("[%_]+", rest if literal else pattern)
    longest = max(parts, key=len)
    found = {"author": author} if literal else {}
    return {**found, "search": longest} if len(longest) >= _SHORTEST else found


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
