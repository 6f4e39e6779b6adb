"""Which repositories of a catalog a search need not look into, by the conditions on their names."""

from __future__ import annotations

from sommelier.connectors.search import Term
from sommelier.like import like_pattern


def wanted(name: str, terms: tuple[Term, ...]) -> bool:
    """Whether a model of this name may pass; the case of a pattern is not minded.

    >>> wanted("resnet18", (Term("name", "like", "RES%"),))
    True
    >>> wanted("resnet18", (Term("name", "=", "resnet50"),))
    False
    """
    for term in terms:
        if term.fact != "name" or not isinstance(term.value, str):
            continue
        if term.operator == "=" and term.value != name:
            return False
        if term.operator == "like" and not like_pattern(term.value).fullmatch(name):
            return False
    return True
