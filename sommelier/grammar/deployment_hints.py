"""Hints for mistakes in statements about deployments."""

from __future__ import annotations

from collections.abc import Callable

from sommelier.grammar.expectations import END
from sommelier.grammar.situation import Situation

_MEANT = {
    "WITHIN": "what is promised stands after UNDER: UNDER latency < 50 ms AT p99",
    "WHERE": "what is promised stands after UNDER: UNDER accuracy >= 90%",
    "ON": "limits on models stand inside the question: (SELECT MODELS ... ON latency < 100%)",
    "WITH": "options stand after USING: USING queue = 256, servers = 2",
    "POLICY": "write ROUTE BY balanced",
    "SLA": "write UNDER SLA latency < 50 ms AT p99",
}


def _types(s: Situation) -> list[str]:
    types = [token.type for token in s.tokens]
    return types[1:] if types[:1] == ["EXPLAIN"] else types


def _deploy(s: Situation) -> str | None:
    types = _types(s)
    if types[:1] != ["DEPLOY"]:
        return None
    if s.last_word.upper() == "SELECT" and len(types) == 2:
        return "the question is in parentheses: DEPLOY (SELECT MODELS ...) AS name"
    if s.word in ("->", ",") and "ARROW" not in s.accepts and "CASCADE" not in types:
        return "models that are asked in turn: DEPLOY CASCADE a -> b AS name"
    if s.word == "," and "ARROW" in s.accepts:
        return f"models are asked in turn: {s.last_word} -> {s.next_word or 'b'}"
    if s.upper == "TO" and "ARROW" in s.accepts:
        return f"write {s.last_word} -> {s.next_word or 'b'}"
    if s.accepts <= {"AS", "COMMA", "ARROW", "ESCALATE"} and s.kind == END:
        return "name the deployment: AS name"
    return _clause(s)


def _clause(s: Situation) -> str | None:
    if s.accepts == {"BY"}:
        return f"write ROUTE BY {s.word or 'balanced'}"
    if s.accepts == {"TO"}:
        return f"write FALLBACK TO {s.word or 'model'}"
    if s.accepts == {"AT", "WHEN"}:
        return "write ESCALATE AT MOST 10%, or ESCALATE WHEN softmax < 0.8"
    if s.accepts == {"MOST"}:
        return "write ESCALATE AT MOST 10%"
    if {"UNDER", "ROUTE"} & s.accepts and s.upper in _MEANT:
        return _MEANT[s.upper]
    return None


def _simulate(s: Situation) -> str | None:
    types = _types(s)
    if types[:1] != ["SIMULATE"]:
        return None
    if s.kind in ("MODEL_NAME", "IDENT") and s.last_type == "TRACE":
        return f"a trace is a text: ON TRACE '{s.word}'"
    if s.accepts in ({"ON"}, {"TRACE"}):
        name = s.last_word if s.accepts == {"ON"} else "name"
        return f"write SIMULATE {name} ON TRACE 'burst-v1'"
    return None


def _elsewhere(s: Situation) -> str | None:
    """`DROP DEPLOYMENT v`, `CREATE DEPLOYMENT v`, `SHOW DEPLOYMENT v`."""
    types, name = _types(s), s.next_word or "name"
    if s.upper not in ("DEPLOYMENT", "DEPLOY"):
        return None
    if len(types) != 1:
        return None
    return {
        "DROP": f"write UNDEPLOY {name}",
        "CREATE": f"write DEPLOY MODELS a, b AS {name}",
        "SHOW": f"write DESCRIBE DEPLOYMENT {name}; SHOW DEPLOYMENTS lists them",
    }.get(types[0])


DEPLOYMENT_RULES: tuple[Callable[[Situation], str | None], ...] = (_deploy, _simulate, _elsewhere)
