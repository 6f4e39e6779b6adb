"""Random questions over a real catalog, against a row-by-row answer from the specimens."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from tests.engine.conftest import PROBES, SPECIMENS, Ask, Specimen

REFERENCE = SPECIMENS[0]
NUMBERS: dict[str, Any] = {
    "memory": (lambda s: None if s.memory_mb is None else s.memory_mb * 1e6, ("50 MB", 50e6)),
    "flops": (lambda s: None if s.gflops is None else s.gflops * 1e9, ("3.6 GFLOPs", 3.6e9)),
    "params": (lambda s: None if s.mparams is None else s.mparams * 1e6, ("11M", 11e6)),
}
COMPARE = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class Atom:
    """A condition as text, and as a function answering True, False or None."""

    def __init__(self, text: str, truth: Any) -> None:
        self.text, self.truth = text, truth

    def __repr__(self) -> str:
        return self.text


def bound(metric: str, operator: str, percent: int | None) -> Atom:
    read, (written, value) = NUMBERS[metric]
    if percent is not None:
        written, value = f"{percent}%", read(REFERENCE) * (percent / 100)

    def truth(specimen: Specimen) -> bool | None:
        number = read(specimen)
        return None if number is None else COMPARE[operator](number, value)

    return Atom(f"{metric} {operator} {written}", truth)


def text(column: str, value: str) -> Atom:
    def truth(specimen: Specimen) -> bool | None:
        word = getattr(specimen, column)
        return None if word is None else word == value

    return Atom(f"{column} = '{value}'", truth)


def tag(value: str) -> Atom:
    return Atom(f"tags HAS '{value}'", lambda specimen: value in specimen.tags)


def null(column: str) -> Atom:
    return Atom(f"{column} IS NULL", lambda specimen: getattr(specimen, column) is None)


def negated(inner: Atom) -> Atom:
    def truth(specimen: Specimen) -> bool | None:
        value = inner.truth(specimen)
        return None if value is None else not value

    return Atom(f"NOT ({inner.text})", truth)


def joined(word: str, parts: list[Atom]) -> Atom:
    decisive = word == "OR"

    def truth(specimen: Specimen) -> bool | None:
        values = [part.truth(specimen) for part in parts]
        if decisive in values:
            return decisive
        return None if None in values else not decisive

    return Atom(f" {word} ".join(f"({part.text})" for part in parts), truth)


def nested(atoms: st.SearchStrategy[Atom]) -> st.SearchStrategy[Atom]:
    def connected(inner: st.SearchStrategy[Atom]) -> st.SearchStrategy[Atom]:
        several = st.lists(inner, min_size=2, max_size=3)
        return inner.map(negated) | st.builds(joined, st.sampled_from(["AND", "OR"]), several)

    return st.recursive(atoms, connected, max_leaves=5)


resource_bounds = st.builds(
    bound, st.sampled_from(list(NUMBERS)), st.sampled_from(list(COMPARE)),
    st.sampled_from([None, 44, 80, 100, 200]),
)  # fmt: skip
metadata = (
    st.sampled_from([("task", "ner"), ("family", "resnet"), ("license", "MIT")]).map(
        lambda pair: text(*pair)
    )
    | st.sampled_from(["mobile", "edge", "none"]).map(tag)
    | st.sampled_from(["task", "family", "license"]).map(null)
)


def lower(agreements: int, tests: int) -> float:
    if agreements == 0:
        return 0.0
    return float(beta.ppf(0.05 / tests, agreements, PROBES - agreements + 1))


def expected_order(found: list[Specimen], *, corr: bool) -> list[str]:
    def key(specimen: Specimen) -> tuple[Any, ...]:
        memory = math.inf if specimen.memory_mb is None else specimen.memory_mb
        return (specimen.wrong if corr else 0, memory, specimen.name, specimen.version)

    return [specimen.id for specimen in sorted(found, key=key)]


quick = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(nested(metadata), nested(resource_bounds))
def test_filters_keep_exactly_the_rows_that_are_true(ask: Ask, where: Atom, on: Atom) -> None:
    result = ask(f"SELECT MODELS CORR resnet50 AGREEMENT >= 0% WHERE {where} ON {on}")
    compared = [s for s in SPECIMENS[1:] if s.wrong is not None]
    found = [s for s in compared if where.truth(s) is True and on.truth(s) is True]
    assert list(result.ids) == expected_order(found, corr=True)


@quick
@given(nested(metadata))
def test_filters_without_a_reference(ask: Ask, where: Atom) -> None:
    result = ask(f"SELECT MODELS WHERE {where}")
    found = [s for s in SPECIMENS if where.truth(s) is True]
    assert list(result.ids) == expected_order(found, corr=False)
    unknown = sum(1 for s in SPECIMENS if where.truth(s) is None)
    assert sum(stage.unknown for stage in result.stages) == unknown


@quick
@given(resource_bounds, st.integers(50, 99), st.integers(0, 5), st.integers(0, 3))
def test_corr_keeps_rows_whose_corrected_bound_passes(
    ask: Ask, on: Atom, percent: int, limit: int, offset: int
) -> None:
    result = ask(f"SELECT MODELS CORR resnet50 {percent}% ON {on} LIMIT {limit} OFFSET {offset}")
    reached = [s for s in SPECIMENS[1:] if on.truth(s) is True and s.wrong is not None]
    passed = [s for s in reached if lower(PROBES - (s.wrong or 0), len(reached)) >= percent / 100]
    assert result.matched == len(passed)
    assert list(result.ids) == expected_order(passed, corr=True)[offset : offset + limit]


@pytest.mark.parametrize("percent", [60, 80, 90, 95, 99])
def test_bounds_shown_are_those_of_scipy(ask: Ask, percent: int) -> None:
    result = ask(
        f"SELECT MODELS name, equivalence, bound, agreement CORR resnet50 AGREEMENT >= {percent}%"
    )
    by_id = {s.id: s for s in SPECIMENS}
    for match in result:
        agreements = PROBES - (by_id[match.id].wrong or 0)
        assert match.equivalence == pytest.approx(lower(agreements, 7), abs=1e-9)
        assert match.bound == pytest.approx(1 - match.equivalence)
        assert match.agreement == agreements / PROBES
