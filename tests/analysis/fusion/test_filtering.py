"""The rule on capacities is an order, monotone in each of its four conditions."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sommelier.analysis.fusion.abs_graph import Capacity
from sommelier.analysis.fusion.filtering import RuleFilter

SIZES = st.integers(0, 6)
CAPACITIES = st.builds(Capacity, SIZES, st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES), SIZES)
STEPS = st.integers(0, 3)
MORE = st.tuples(STEPS, st.tuples(STEPS, STEPS), st.tuples(STEPS, STEPS), STEPS)


def _sharing_more(capacity: Capacity, steps: tuple) -> Capacity:
    """Each of the four conditions moved, or left, in the direction of more sharing."""
    total, tasks, specific, shared = steps
    return Capacity(
        capacity.total - total,
        tuple(a - b for a, b in zip(capacity.per_task, tasks, strict=True)),
        tuple(a - b for a, b in zip(capacity.specific, specific, strict=True)),
        capacity.shared + shared,
    )


def _refused(candidate: Capacity, *failed: Capacity) -> bool:
    rules = RuleFilter()
    for i, one in enumerate(failed):
        rules = rules.with_failed(str(i), one)
    return rules.refusal(candidate) is not None


@given(CAPACITIES, CAPACITIES)
def test_the_rule_is_the_papers_four_conditions(a: Capacity, b: Capacity) -> None:
    conditions = (
        a.total < b.total,
        all(x <= y for x, y in zip(a.per_task, b.per_task, strict=True)),
        all(x <= y for x, y in zip(a.specific, b.specific, strict=True)),
        a.shared >= b.shared,
    )
    assert _refused(a, b) == all(conditions)


@given(CAPACITIES, MORE, MORE)
def test_what_shares_even_more_is_refused_too(
    failed: Capacity, first: tuple, second: tuple
) -> None:
    refused = _sharing_more(failed, (first[0] + 1, *first[1:]))
    assert _refused(refused, failed)
    assert _refused(_sharing_more(refused, second), failed)


@given(CAPACITIES, CAPACITIES, MORE)
def test_what_passes_passes_a_failure_of_even_more_sharing(
    a: Capacity, b: Capacity, steps: tuple
) -> None:
    assert _refused(a, b) or not _refused(a, _sharing_more(b, steps))


@given(CAPACITIES, MORE)
def test_each_condition_alone_saves_a_candidate(failed: Capacity, steps: tuple) -> None:
    candidate = _sharing_more(failed, (steps[0] + 1, *steps[1:]))
    assert _refused(candidate, failed)
    first, second = failed.per_task
    one, two = failed.specific
    for saved in (
        replace(candidate, total=failed.total),
        replace(candidate, per_task=(first, second + 1)),
        replace(candidate, specific=(one + 1, two)),
        replace(candidate, shared=failed.shared - 1),
    ):
        assert not _refused(saved, failed)


@given(CAPACITIES, CAPACITIES, CAPACITIES)
def test_the_rule_is_a_strict_order(a: Capacity, b: Capacity, c: Capacity) -> None:
    assert not _refused(a, a)
    assert not (_refused(a, b) and _refused(b, a))
    assert not (_refused(a, b) and _refused(b, c)) or _refused(a, c)


@given(CAPACITIES, st.lists(CAPACITIES, max_size=6))
def test_dropping_failures_that_follow_from_others_changes_no_answer(
    candidate: Capacity, failed: list[Capacity]
) -> None:
    assert _refused(candidate, *failed) == any(candidate.more_aggressive(one) for one in failed)
    rules = RuleFilter()
    for i, one in enumerate(failed):
        rules = rules.with_failed(str(i), one)
    kept = list(rules.failed.values())
    assert not any(a.more_aggressive(b) for a in kept for b in kept)


def test_the_reason_names_the_failure() -> None:
    failed = Capacity(10, (5, 6), (4, 5), 1)
    rules = RuleFilter().with_failed("candidate 7", failed)
    assert "candidate 7" in str(rules.refusal(replace(failed, total=9)))


def test_what_is_predicted_slower_than_the_best_is_refused() -> None:
    capacity = Capacity(10, (5, 6), (4, 5), 1)
    rules = RuleFilter().faster_than(8.0).faster_than(9.0)
    assert rules.fastest_ms == 8.0
    assert "8 ms" in str(rules.refusal(capacity, 8.0))
    assert rules.refusal(capacity, 7.9) is None
    assert rules.refusal(capacity, None) is None
