"""Which kinds of names fit in statements about deployments; completion.py asks for the others."""

from __future__ import annotations

from collections.abc import Sequence

from lark import Token

_STATEMENTS = frozenset(("DEPLOY", "UNDEPLOY", "SIMULATE"))
_NAMED_AFTER = {
    "POOL": {"pool"},
    "PLAN": {"plan"},
    "CASCADE": {"cascade", "model"},
    "BY": {"policy"},
    "AS": set[str](),
}
_CLAUSES = ("UNDER", "ROUTE", "FALLBACK", "USING", "WHEN")


def about_deployments(tokens: Sequence[Token]) -> bool:
    """Whether a name here is one of DEPLOY, UNDEPLOY or SIMULATE, not of a question inside it."""
    types = [token.type for token in tokens]
    first = types[1:2] if types[:1] == ["EXPLAIN"] else types[:1]
    inside = types.count("LPAR") > types.count("RPAR")
    return bool(first) and first[0] in _STATEMENTS and not inside


def name_kinds(tokens: Sequence[Token]) -> set[str]:
    """What a name stands for."""
    types = [token.type for token in tokens]
    if types[-1] == "EQ":
        return {"policy"} if str(tokens[-2]).lower() == "policy" else set()
    if "DEPLOY" not in types:
        return {"deployment"}
    return set(_NAMED_AFTER.get(types[-1], {"model"}))


def column_kinds(tokens: Sequence[Token]) -> set[str]:
    """What a word stands for that is no name of a thing: an option, what UNDER promises."""
    clause = next((token.type for token in reversed(tokens) if token.type in _CLAUSES), "")
    if clause == "USING":
        return {"simulate_option" if "SIMULATE" in [t.type for t in tokens] else "deploy_option"}
    return {"promise"} if clause == "UNDER" else set()


def text_kinds(tokens: Sequence[Token]) -> frozenset[str]:
    """What a text in single quotes names."""
    if tokens[-1].type == "TRACE":
        return frozenset(("trace",))
    policy = tokens[-1].type == "EQ" and str(tokens[-2]).lower() == "policy"
    return frozenset(("policy",) if policy else ())
