"""A promise that no model can keep: what the error proposes is accepted, and nothing less is."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sommelier.deployment_records import DeployedModel
from sommelier.engine.deployment_promises import Promise, _at_least, in_turn, keeping
from sommelier.engine.deployment_terms import Terms
from sommelier.errors import BinderError
from sommelier.units import Dimension, parse

MEMORY = {"big": 12_345_678.0, "mid": 4_321_987.5, "small": 1_000_000.0}
MODELS = (
    DeployedModel("big", "id of big", 0.95, 24.0112, 1.3),
    DeployedModel("mid", "id of mid", 0.93, 12.3112, 0.7),
    DeployedModel("small", "id of small", 0.9, 2.0047, 0.17),
)


class Memories:
    """The measurements of a catalog."""

    def measurements(self, model_id: str) -> list[Any]:
        name = model_id.removeprefix("id of ")
        return [SimpleNamespace(metric="memory", value=MEMORY[name])]


SESSION: Any = SimpleNamespace(catalog=Memories())


def promise(**terms: Any) -> Promise:
    return Promise(Terms(**terms), "cpu", terms.get("memory_bytes"), None)


def hint_of(ask: Any, asked: Promise) -> str:
    with pytest.raises(BinderError) as refused:
        ask(asked)
    assert refused.value.hint
    return refused.value.hint


def proposed(hint: str, dimension: Dimension) -> tuple[float, float]:
    """(what a hint proposes, the next value below it of as many digits)."""
    found = re.search(r"[<=] ([\d.]+) (\w+)", hint)
    assert found, hint
    digits = len(found[1].partition(".")[2])
    less = f"{float(found[1]) - 10**-digits:.{digits}f} {found[2]}"
    return parse(f"{found[1]} {found[2]}", dimension), parse(less, dimension)


def keep(asked: Promise) -> list[str]:
    return [model.name for model in keeping(MODELS, asked, SESSION)[0]]


@pytest.mark.parametrize("quantile", [0.5, 0.99, 1.0])
@pytest.mark.parametrize("accuracy", [None, 0.92])
def test_the_latency_that_is_proposed_is_the_least_that_is_accepted(
    quantile: float, accuracy: float | None
) -> None:
    asked = {"quantile": quantile, "min_accuracy": accuracy}
    hint = hint_of(keep, promise(sla_ms=0.1, **asked))
    assert f"AT p{quantile * 100:g} or more" in hint or quantile == 1.0
    least, less = proposed(hint, Dimension.TIME)
    assert keep(promise(sla_ms=least, **asked)) == ["small" if accuracy is None else "mid"]
    with pytest.raises(BinderError):
        keep(promise(sla_ms=less, **asked))


def test_the_memory_that_is_proposed_is_the_least_that_is_accepted() -> None:
    for accuracy, name in ((None, "small"), (0.92, "mid"), (0.94, "big")):
        hint = hint_of(keep, promise(memory_bytes=9, min_accuracy=accuracy))
        assert hint.startswith("promise memory < ")
        least, less = proposed(hint, Dimension.BYTES)
        assert keep(promise(memory_bytes=int(least), min_accuracy=accuracy)) == [name]
        with pytest.raises(BinderError):
            keep(promise(memory_bytes=int(less), min_accuracy=accuracy))


def test_memory_of_using_is_proposed_as_using_writes_it() -> None:
    hint = hint_of(keep, Promise(Terms(), "cpu", 9, None))
    assert hint == "promise USING memory = 1 MB or more, or ask for smaller models"


@pytest.mark.parametrize("cascade", [True, False], ids=["cascade", "plan"])
@pytest.mark.parametrize("quantile", [0.5, 0.99, 1.0])
def test_what_is_proposed_of_models_in_turn_is_the_least_that_is_accepted(
    quantile: float, *, cascade: bool
) -> None:
    def ask(asked: Promise) -> tuple[str, ...]:
        return in_turn(MODELS[::-1], asked, cascade=cascade)

    hint = hint_of(ask, promise(sla_ms=0.1, quantile=quantile))
    least, less = proposed(hint, Dimension.TIME)
    notes = ask(promise(sla_ms=least, quantile=quantile))
    assert (len(notes) > 1) == cascade, "an input that every model sees is late"
    assert ("an input that every model sees takes" in hint) == cascade
    with pytest.raises(BinderError):
        ask(promise(sla_ms=less, quantile=quantile))


@given(st.floats(1e-4, 1e13, allow_nan=False), st.sampled_from([Dimension.TIME, Dimension.BYTES]))
def test_a_limit_is_written_just_above_what_is_needed(value: float, dimension: Dimension) -> None:
    written = parse(_at_least(value, dimension), dimension)
    assert value <= written <= value * 1.0101  # the last of three digits is 1 % at most
