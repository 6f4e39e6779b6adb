"""What could be typed next: keywords from the grammar, and which kinds of names would fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lark import Token

from sommelier.grammar import deployment_completion
from sommelier.grammar.deployment_completion import about_deployments
from sommelier.grammar.expectations import (
    CLAUSES,
    Place,
    asked_for,
    keywords_in,
    names_option,
    read,
)
from sommelier.grammar.reference import help_text, topics
from sommelier.grammar.scanning import Piece, pieces
from sommelier.grammar.tables import language

__all__ = ["Completion", "complete", "help_text", "keywords", "topics"]

_WORD = re.compile(r"[^\W\d][\w.]*(?:[-/:@][\w.]+)*[-/:@]?\Z")
_NUMBER_AND_UNIT = re.compile(r"(?<![\w.'\"$])(?:\d+(?:\.\d+)?)(\s*)([^\W\d]*)\Z")
_MODEL_AFTER = frozenset(
    ("CORR", "OF", "AGAINST", "COMPARE", "DIFF", "WITH", "WHY", "WHY_NOT", "ANALYZE", "FOR")
) | {"GRAFT", "INTO", "OF_MODEL"}
_KIND_WORDS = {
    "POOL": "pool",
    "DATASET": "dataset",
    "DEVICE": "device",
    "TASK": "task",
    "METRIC": "metric",
    "MODEL": "model",
    "MODELS": "model",
    "LINK": "link",
    "PLAN": "plan",
    "DEPLOYMENT": "deployment",
    "CASCADE": "cascade",
    "REPOSITORY": "repository",
}
_NEW_NAME_AFTER = frozenset(("REGISTER", "CREATE", "RENAME", "TAG", "AS"))
_TEXT_COLUMNS = {
    **{"task": "task", "device": "device", "label": "label"},
    **{"dataset": "dataset", "target_dataset": "dataset"},
}
_OPTION_VALUES = {
    **{"device": "device", "dataset": "dataset", "target_dataset": "dataset"},
    **{"reference": "model", "task": "task"},
}
_ENDS = {
    "LINKS": {"source": "model", "target": "model"},
    "CASCADES": {"student": "model", "teacher": "model"},
}
_OPTIONS_OF = {
    **{"LINKS": "links_option", "PLAN": "plan_option", "FUSIONS": "fusions_option"},
    "CASCADES": "cascades_option",
}


@dataclass(frozen=True, slots=True)
class Completion:
    """What fits at the cursor.

    keywords : sorted. wants : kinds of names that fit, of model, metric, column, unit, device,
    dataset, task, pool, connector, option, label, link, plan, link_column, and of options
    links_option (SELECT LINKS), plan_option (SELECT PLAN), link_option (of links that are made);
    fusion (a fused model), fusion_column, fusions_option (SELECT FUSIONS), fusion_option (of one
    that is made); cascade, cascade_column, cascades_option (SELECT CASCADES), cascade_option (of
    one that is made).
    prefix : what is typed of it already.
    """

    keywords: tuple[str, ...] = ()
    wants: frozenset[str] = frozenset()
    prefix: str = ""


def complete(text: str) -> Completion:
    """What could stand at the end of `text`, the text before the cursor. Well below 1 ms.

    >>> complete("SELECT MODELS CORR resnet50 PICK MOST ").keywords
    ('ACCURATE', 'SIMILAR')
    """
    begin, last = _last_statement(text)
    if last is not None and last.kind == "open":
        return _inside_quotes(text, begin, last)
    if last is not None and last.kind == "comment" and last.value.startswith("--"):
        return Completion()
    unit = _NUMBER_AND_UNIT.search(text, begin)
    if unit is not None:
        return _after_number(text, begin, unit)
    match = _WORD.search(text, begin)
    prefix = match.group() if match else ""
    place = read(text, "statement", begin=begin, end=len(text) - len(prefix))
    if place.stopped is not None:
        return Completion((), _behind_on(text[: len(text) - len(prefix)], begin), prefix)
    return Completion(tuple(keywords_in(place.accepts)), _wants(place), prefix)


def keywords() -> tuple[str, ...]:
    """All keywords of the language, sorted."""
    names = [terminal.name for terminal in language().terminals]
    return tuple(keywords_in(name for name in names if _worded(name)))


def _worded(name: str) -> bool:
    return name.isalpha() and name != "COMMENT"


def _last_statement(text: str) -> tuple[int, Piece | None]:
    """Where the statement at the cursor begins, and the piece that ends at the cursor."""
    begin, last = 0, None
    for piece in pieces(text):
        last = piece
        if piece.kind == "end":
            begin, last = piece.start + 1, None
    return begin, last


def _inside_quotes(text: str, begin: int, opened: Piece) -> Completion:
    if opened.value[0] not in "'\"":
        return Completion()
    # One letter more: the quote tells the ON of a context from the clause.
    place = read(text, "statement", begin=begin, end=opened.start + 1)
    prefix = opened.value[1:]
    if place.stopped != opened.start:
        return Completion(prefix=prefix)
    wants = _text_kinds(place.tokens) if opened.value[0] == "'" else frozenset()
    return Completion((), wants | (_wants(place) & {"model", "pool"}), prefix)


def _behind_on(text: str, begin: int) -> frozenset[str]:
    """What `FITS ON |` names: an ON that only a quoted name can follow."""
    place = read(f"{text}'", "statement", begin=begin)
    named = bool(place.tokens) and place.tokens[-1].type == "ON_CONTEXT"
    return _text_kinds(place.tokens) if named and place.stopped == len(text) else frozenset()


def _after_number(text: str, begin: int, match: re.Match[str]) -> Completion:
    """`200 M|`: a unit where a quantity could stand, and what follows the number."""
    space, letters = match.groups()
    before = read(text, "statement", begin=begin, end=match.start())
    wants = frozenset(("unit",)) if "QUANTITY" in before.accepts else frozenset()
    if not space:
        return Completion((), wants, letters)
    after = read(text, "statement", begin=begin, end=match.start(2))
    if after.stopped is not None:
        return Completion((), wants, letters)
    return Completion(tuple(keywords_in(after.accepts)), wants, letters)


# ---- kinds of names


def _wants(place: Place) -> frozenset[str]:
    found: set[str] = set()
    if "IDENT" in place.accepts:
        found |= _column_kinds(place.tokens)
    if "MODEL_NAME" in place.accepts:
        found |= _name_kinds(place.tokens)
    if "STRING" in place.accepts:
        found |= _text_kinds(place.tokens) - {"model"}  # a model's name alone would be a column
    return frozenset(found)


def _column_kinds(tokens: Sequence[Token]) -> set[str]:
    if about_deployments(tokens):
        return deployment_completion.column_kinds(tokens)
    if names_option(tokens):
        return {_options_of(tokens)}
    last = tokens[-1].type if tokens else ""
    if last == "AS" or (last == "LPAR" and tokens[0].type == "EXPLAIN" and len(tokens) < 4):
        return set()
    clause = next((t.type for t in reversed(tokens) if t.type in CLAUSES), "")
    kinds = _columns_of(tokens, clause)
    before = next((t.type for t in reversed(tokens[:-1]) if t.type in CLAUSES), "")
    ends = _ENDS_COMPARISON if before in ("WHERE", "ON") else _ENDS_VALUE
    if last == "ON" and before in ("WHERE", "ON", "ORDER", "") and tokens[-2].type in ends:
        kinds |= {"device", "dataset"}  # `latency < 30 ms ON |` may go on with 'cpu'
    return kinds


def _columns_of(tokens: Sequence[Token], clause: str) -> set[str]:
    shown = tokens[1].type if len(tokens) > 1 and tokens[0].type == "SHOW" else ""
    if shown == "PLANS":
        return set()
    if "LINKS" in (shown, asked_for(tokens)):
        return {"link_column"}
    if asked_for(tokens) == "CASCADES" and clause != "ON":
        return {"cascade_column"}
    if asked_for(tokens) == "FUSIONS" and clause != "ON":
        return {"fusion_column"}
    return {"metric"} if clause == "ON" else {"column"}


def _options_of(tokens: Sequence[Token]) -> str:
    """The kind of the options that USING or SET takes here."""
    types = [token.type for token in tokens]
    if types[0] in ("CREATE", "ANALYZE") and {"LINK", "LINKS"} & set(types):
        return "link_option"
    if types[0] == "CREATE" and "CASCADE" in types:
        return "cascade_option"
    if types[0] == "CREATE" and "FUSION" in types:
        return "fusion_option"
    return _OPTIONS_OF.get(asked_for(tokens), "option")


_ENDS_COMPARISON = frozenset(
    ("NUMBER", "INT", "PERCENT", "QUANTITY", "TIMES", "PARAM", "STRING", "MODEL_NAME")
)
_ENDS_VALUE = frozenset(("IDENT", "RPAR"))


def _name_kinds(tokens: Sequence[Token]) -> set[str]:
    types = [token.type for token in tokens]
    last = types[-1] if types else ""
    if about_deployments(tokens):
        return deployment_completion.name_kinds(tokens)
    if last == "EQ":
        return _option_kinds(tokens)
    if last == "FUSION":
        return {"fusion"}
    if last == "TYPE":
        return {"connector"}
    if last in _MODEL_AFTER:
        return {"model"}
    if last in ("DESCRIBE", "DESC"):
        return {"model", "pool", "dataset", "device"}
    if types[:1] == ["CREATE"] and {"LINK", "CASCADE"} & set(types):
        return {"model"} if "FROM" in types and "USING" not in types else set()
    if _NEW_NAME_AFTER & set(types[-5:]) and not {"CORR", "FROM", "FOR", "FUSION"} & set(types):
        return set()
    for kind in reversed(types):  # the word that says what a list or IF EXISTS is about
        if kind in _MODEL_AFTER or kind in ("ANY", "ALL"):
            return {"model"}
        if kind == "VIEW":
            return set()
        if kind == "FROM":
            return {"connector", "repository"}
        if kind in _KIND_WORDS:
            return {_KIND_WORDS[kind]}
    return set()


def _option_kinds(tokens: Sequence[Token]) -> set[str]:
    name = str(tokens[-2]).lower() if len(tokens) > 1 else ""
    return {_OPTION_VALUES[name]} if name in _OPTION_VALUES else set()


def _text_kinds(tokens: Sequence[Token]) -> frozenset[str]:
    """What a text in single quotes would name here."""
    if not tokens:
        return frozenset()
    if about_deployments(tokens):
        return deployment_completion.text_kinds(tokens)
    last = tokens[-1]
    if last.type == "ON_CONTEXT":
        fits = len(tokens) > 1 and tokens[-2].type == "FITS"
        return frozenset(("device",) if fits else ("device", "dataset"))
    if last.type == "TASK":
        return frozenset(("task",))
    named = [t for t in tokens if t.type == "IDENT"][-1:]
    if last.type in ("EQ", "NE", "LPAR", "COMMA", "LSQB") and named:
        ends = _ENDS.get(asked_for(tokens), {})
        kind = (_TEXT_COLUMNS | ends).get(named[0].lower())
        return frozenset((kind,) if kind else ())
    return frozenset()
