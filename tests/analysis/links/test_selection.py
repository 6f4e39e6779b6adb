"""Plans under budgets: exact is exact, bounds are bounds, unknown costs are never free."""

from __future__ import annotations

from functools import cache
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import pytest

from sommelier.analysis.links.allocation import MAX_LABELS, allocate
from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.exact import exact
from sommelier.analysis.links.greedy import knapsack_bound
from sommelier.analysis.links.milp import milp
from sommelier.analysis.links.problem import OBJECTIVES, ActivationProblem, BestLink, Objective
from sommelier.analysis.links.scoring import performance
from sommelier.analysis.links.selection import METHODS, Method, activation_probability, select
from sommelier.analysis.links.splits import split
from sommelier.errors import AnalysisError
from tests.analysis.links.seven_boxes import COSTS, NAMES, classes, seven_boxes, softmax

NEAR = 1e-9


def _subsets(items: Any) -> Any:
    items = tuple(items)
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


def _random(seed: int, most: int = 6, metrics: int | None = None) -> ActivationProblem:
    """Single links only; dear ones now and then, so that they compete for the budget."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, most + 1))
    m = int(rng.integers(1, 3)) if metrics is None else metrics
    names = [f"m{i}" for i in range(k)]
    p, p0 = rng.beta(2, 2, (k, k)), rng.uniform(0, 0.5, k)
    predictors: dict[str, Any] = {
        names[j]: BestLink(
            {names[i]: p[i, j] for i in range(k) if i != j and rng.random() < 0.8}, p0[j]
        )
        for j in range(k)
    }
    if k > 1 and rng.random() < 0.3:
        predictors[names[-1]] = None
    costs = rng.uniform(0.5, 5, (k, m))
    dear = rng.choice([0.0, 0.05, 1.0])
    kinds = [f"cost{c}" for c in range(m)]
    return ActivationProblem.of(
        predictors,
        {name: dict(zip(kinds, row, strict=True)) for name, row in zip(names, costs, strict=True)},
        {pair: {kind: dear * rng.random() for kind in kinds} for pair in product(names, names)},
        {kind: rng.uniform(0, 1) * costs[:, c].sum() for c, kind in enumerate(kinds)},
    )


@cache
def _boxes() -> dict[str, LinkEnsemble]:
    return {name: seven_boxes().ensemble(name) for name in NAMES}


def _seven(budget: float, link: float = 0.05, **more: float) -> ActivationProblem:
    """The problem of algorithms.md E.3 in kind; more : a second budget, at 1 a model."""
    costs = {n: {"cost": c, **dict.fromkeys(more, 1.0)} for n, c in zip(NAMES, COSTS, strict=True)}
    links = {pair: {"cost": link, **dict.fromkeys(more, 0.0)} for pair in product(NAMES, NAMES)}
    return ActivationProblem.of(_boxes(), costs, links, {"cost": budget, **more})


def _brute_force(problem: ActivationProblem, objective: Objective) -> float:
    """The best value over all sets and all ways to predict, from the definition."""
    k, best = len(problem), 0.0
    for chosen in _subsets(range(k)):
        base = problem.costs[list(chosen)].sum(axis=0)
        if not (base <= problem.limits).all():
            continue
        ways = []
        for j in set(range(k)) - set(chosen):
            predictor = problem.predictors[j]
            sources = () if predictor is None else predictor.sources
            names = [problem.names[i] for i in chosen if problem.names[i] in sources]
            stacked = [n for n in names if predictor and n in predictor.stackable]
            ways.append([
                _way(problem, j, subset, objective)
                for subset in {(), *((n,) for n in names), tuple(stacked), tuple(names)}
            ])  # fmt: skip
        for combination in product(*ways):
            cost = base + sum((cost for _, cost in combination), np.zeros_like(base))
            if (cost <= problem.limits * (1 + 1e-12)).all():
                best = max(best, (len(chosen) + sum(worth for worth, _ in combination)) / k)
    return best


def _way(problem: ActivationProblem, j: int, subset: tuple[str, ...], objective: Objective) -> Any:
    predictor = problem.predictors[j]
    if predictor is None:
        return 0.0, np.zeros(len(problem.limits))
    used = [problem.names.index(name) for name in predictor.used(subset)]
    p, p0 = predictor.performance(subset), predictor.constant
    worth = p if objective == "accuracy" else (p - p0) / (1 - p0)
    return worth, problem.link_costs[used, j].sum(axis=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(40))
def test_exact_and_milp_of_single_links_equal_brute_force(seed: int, objective: Objective) -> None:
    problem = _random(seed)
    wanted = _brute_force(problem, objective)
    assert exact(problem, objective).best.value == pytest.approx(wanted, abs=NEAR)
    assert exact(problem, objective).upper == pytest.approx(wanted, abs=NEAR)
    found = milp(problem, objective)
    assert found.best.value == pytest.approx(wanted, abs=2e-6)
    assert wanted - NEAR <= found.upper <= wanted + 2e-6


@pytest.mark.parametrize("seed", range(100, 106))
def test_milp_equals_exact_search_with_ten_models(seed: int) -> None:
    problem = _random(seed, most=10)
    assert milp(problem, "accuracy").best.value == pytest.approx(
        exact(problem, "accuracy").best.value, abs=2e-6
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("budget", [2, 4, 6, 8, 10, 12])
def test_exact_and_milp_of_real_ensembles_equal_brute_force(
    budget: float, objective: Objective
) -> None:
    problem = _seven(budget)
    wanted = max(
        found.value
        for chosen in _subsets(range(7))
        if (found := allocate(problem, chosen, objective)) is not None
    )
    assert exact(problem, objective).best.value == pytest.approx(wanted, abs=NEAR)
    found = milp(problem, objective)
    assert found.best.value == pytest.approx(wanted, abs=2e-6)
    assert found.upper >= wanted - NEAR


@pytest.mark.parametrize("link", [0.3, 1.0])
def test_dear_links_of_real_ensembles_are_chosen_as_brute_force_does(link: float) -> None:
    few = ("class", "parity", "ink", "caption")
    whole = _seven(5, link)
    problem = ActivationProblem.of(
        {name: _boxes()[name] for name in few},
        {n: {"cost": c} for n, c in zip(NAMES, COSTS, strict=True)},
        {pair: {"cost": link} for pair in product(few, few)},
        whole.budgets,
    )
    wanted = _brute_force(problem, "accuracy")
    assert exact(problem, "accuracy").best.value == pytest.approx(wanted, abs=NEAR)
    assert milp(problem, "accuracy").best.value == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_plan_exceeds_its_upper_bound(method: Method, objective: Objective) -> None:
    for seed in range(30):
        problem = _random(seed)
        plan = select(problem, objective, method=method)
        optimum = _brute_force(problem, objective)
        if not plan.feasible:
            assert np.isnan([plan.upper, plan.gap]).all()
            assert method == "paper greedy"
            continue
        assert plan.value <= plan.upper
        assert plan.gap == plan.upper - plan.value
        assert plan.value <= optimum + NEAR <= plan.upper + 2 * NEAR
        assert knapsack_bound(problem, objective) >= optimum - NEAR
        costs = np.array([*plan.cost.values()])
        assert (costs <= problem.limits * (1 + 1e-9)).all()


@pytest.mark.parametrize("method", ["greedy", "paper greedy"])
def test_a_bound_that_is_known_already_says_what_solving_for_it_would(method: Method) -> None:
    problem = _random(5)
    best = select(problem)
    found = select(problem, method=method, upper=best.upper)
    again = select(problem, method=method)
    assert (found.value, found.activated) == (again.value, again.activated)
    np.testing.assert_equal((found.upper, found.gap), (again.upper, again.gap))


def test_the_table_of_seven_boxes_comes_out_in_kind() -> None:
    """algorithms.md E.3: paper greedy <= repaired greedy <= exact, and it exceeds a budget of 2."""
    values = []
    for budget in (2, 4, 6, 8, 10, 12):
        problem = _seven(budget)
        plans = {m: select(problem, method=m) for m in ("paper greedy", "greedy", "exact")}
        if plans["paper greedy"].feasible:
            assert plans["paper greedy"].value <= plans["greedy"].value + NEAR
        assert plans["greedy"].value <= plans["exact"].value + NEAR
        values.append(plans["exact"].value)
    assert values == sorted(values)
    assert values[2] > 0.75  # without links three or four of seven boxes answer
    over = select(_seven(2), method="paper greedy")
    assert not over.feasible
    assert over.cost["cost"] > 2
    assert "over the budget" in " ".join(over.notes)


def test_skill_prefers_models_whose_constant_answer_is_poor() -> None:
    problem = _seven(4)
    by_skill, by_accuracy = (select(problem, objective) for objective in ("skill", "accuracy"))
    assert by_skill.skill >= by_accuracy.skill
    assert by_accuracy.accuracy >= by_skill.accuracy
    assert by_skill.value == pytest.approx(by_skill.skill)


def test_several_budgets_hold_at_once() -> None:
    free = select(_seven(12))
    both = select(_seven(12, models=3.0))
    assert len(free.activated) > 3
    assert len(both.activated) == 3
    assert both.cost["models"] == 3
    assert both.total == pytest.approx({"cost": sum(COSTS), "models": 7})
    threes = (allocate(_seven(12), three, "accuracy") for three in combinations(range(7), 3))
    assert both.value == max(found.value for found in threes if found is not None)


def test_activation_probability_is_the_papers_formula() -> None:
    p = np.array([[9, 0.8, 0.6], [0.4, 9, 0.2], [0.5, 0.9, 9]])  # source, target
    found = activation_probability(p, [1.0, 2.0, 4.0])
    wanted = [(1 + 0.7 - 0.45) / 2, (1 + 0.3 - 0.85) / 4, (1 + 0.7 - 0.4) / 8]
    np.testing.assert_allclose(found, wanted)
    best = activation_probability([[0, 1], [0, 0]], [1.0, 1.0])
    np.testing.assert_allclose(best, [1, 0])  # the ends of its range
    with pytest.raises(AnalysisError, match="must be > 0"):
        activation_probability(p, [0.0, 1.0, 1.0])


def _given(
    costs: dict[str, Any], budget: float, links: dict[Any, Any] | None = None, **p: float
) -> ActivationProblem:
    """Models whose links, named source_target, perform as given; constants .1."""
    predictors = {
        j: BestLink({n.split("_")[0]: v for n, v in p.items() if n.endswith(f"_{j}")}, 0.1)
        for j in costs
    }
    free = {pair: {"memory": 0.0} for pair in product(costs, costs)}
    sizes = {n: {} if c is None else {"memory": c} for n, c in costs.items()}
    return ActivationProblem.of(predictors, sizes, free | (links or {}), {"memory": budget})


def test_the_papers_greedy_stops_at_the_first_that_does_not_fit() -> None:
    problem = _given({"a": 2e6, "b": 3e6, "c": 2e6}, 4e6, a_b=0.9, b_a=0.5, b_c=0.99, a_c=0.5)
    # P: a (1 + .7 - .3) / 2, b (1 + .745 - .5) / 3, c (1 + .1 - .745) / 2 in MB
    assert select(problem, method="paper greedy").activated == ("a",)  # b is next, does not fit
    assert select(problem, method="greedy").activated == ("a", "c")


def test_unknown_costs_are_never_free() -> None:
    unknown: dict[Any, Any] = {("a", "b"): {}}
    plan = select(_given({"a": 1.0, "b": 5.0}, 2.0, unknown, a_b=0.9))
    assert plan.activated == ("a",)
    assert plan.sources == {"b": ()}
    assert plan.accuracy == pytest.approx((1 + 0.1) / 2)
    assert plan.notes == ("the link from a to b is left out: its memory is unknown",)
    plan = select(_given({"a": None, "b": 1.0}, 2.0, a_b=0.9, b_a=0.3))
    assert plan.activated == ("b",)
    assert plan.notes == ("a is not executed: its memory is unknown",)
    assert np.isnan(plan.total["memory"])


def test_a_model_without_links_gives_no_answer_unless_it_is_executed() -> None:
    predictors = {"a": None, "b": BestLink({"a": 0.8}, 0.1)}
    costs = {"a": {"memory": 1e6}, "b": {"memory": 1e6}}
    links = {("a", "b"): {"memory": 1e3}}
    plan = select(ActivationProblem.of(predictors, costs, links, {"memory": 1.5e6}))
    assert plan.activated == ("a",)
    costs["a"]["memory"] = 2e6
    plan = select(ActivationProblem.of(predictors, costs, links, {"memory": 1.5e6}))
    assert plan.activated == ("b",)
    assert not plan.predicted[0].answered
    assert plan.accuracy == 0.5
    assert "no answer from a: not executed, and there is no link to it" in plan.notes


def test_a_budget_no_model_fits_gives_a_useless_plan_that_says_so() -> None:
    plan = select(_given({"a": 3e6, "b": 2e6}, 1e6, a_b=0.9, b_a=0.9))
    assert plan.activated == ()
    assert plan.accuracy == pytest.approx(0.1)
    assert plan.skill == 0
    (note,) = plan.notes
    assert note.startswith("useless: no model fits memory 1 MB, every answer is a constant; ")
    assert note.endswith("the cheapest, b, needs memory 2 MB")


def test_a_budget_that_nothing_fits_is_an_error_that_names_the_cheapest_model() -> None:
    with pytest.raises(AnalysisError, match="no plan fits memory -1 B: the cheapest, b, needs mem"):
        _given({"a": 3e6, "b": 2e6}, -1.0)
    with pytest.raises(AnalysisError, match="no link exists: the cheapest, a, needs memory 3 MB"):
        ActivationProblem.of({"a": None}, {"a": {"memory": 3e6}}, {}, {"memory": 1e6})


def test_what_does_not_fit_together_is_refused() -> None:
    problem = _seven(4)
    with pytest.raises(AnalysisError, match="no objective 'speed'"):
        select(problem, "speed")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="no method 'luck'"):
        select(problem, method="luck")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="1 models and 0 budgets"):
        ActivationProblem.of({"a": None}, {}, {}, {})
    with pytest.raises(AnalysisError, match="below 0"):
        _given({"a": -1.0}, 2.0)
    with pytest.raises(AnalysisError, match="two models of one name"):
        ActivationProblem(("a", "a"), (None, None), np.ones((2, 1)), np.ones((2, 2, 1)), {"c": 1.0})


def test_a_target_that_always_answers_the_same_has_no_skill_to_gain() -> None:
    predictors = {"a": BestLink({}, 0.2), "b": BestLink({"a": 1.0}, 1.0)}
    costs = {"a": {"c": 1.0}, "b": {"c": 1.0}}
    plan = select(ActivationProblem.of(predictors, costs, {}, {"c": 1.0}), "skill")
    assert plan.activated == ("a",)
    assert plan.skill == 1.0
    assert plan.value == 1.0


@pytest.mark.parametrize("k", [40, 80])
def test_milp_is_usable_with_many_models(k: int) -> None:
    rng = np.random.default_rng(k)
    names = [f"m{i}" for i in range(k)]
    p = rng.beta(2, 2, (k, k))
    predictors = {
        names[j]: BestLink({names[i]: p[i, j] for i in range(k) if i != j}, 0.1) for j in range(k)
    }
    sizes = rng.uniform(0.5, 5, k)
    problem = ActivationProblem.of(
        predictors,
        {name: {"c": size} for name, size in zip(names, sizes, strict=True)},
        {pair: {"c": 0.01} for pair in product(names, names)},
        {"c": 0.3 * sizes.sum()},
    )
    plan = select(problem)
    assert plan.method == "milp"
    assert 0 <= plan.gap < 1e-4
    compared = METHODS["greedy"](problem, "accuracy").best.value
    assert METHODS["paper greedy"](problem, "accuracy").best.value < compared <= plan.value + 1e-6
    assert knapsack_bound(problem, "accuracy") >= plan.value


def test_a_solver_without_time_leaves_a_greedy_plan_and_a_true_bound() -> None:
    problem = _random(5, most=12)
    found = milp(problem, "accuracy", seconds=0.0)
    assert (
        found.best.value <= exact(problem, "accuracy").best.value + NEAR <= found.upper + 2 * NEAR
    )


def test_too_many_ways_to_share_a_budget_leave_a_bound_that_is_true() -> None:
    rng = np.random.default_rng(0)
    k = 40
    names = ["source", *(f"m{i}" for i in range(k))]
    predictors: dict[str, Any] = {n: BestLink({"source": rng.uniform(0.2, 1)}, 0.1) for n in names}
    predictors["source"] = BestLink({}, 0.1)
    costs = {n: {"a": 1.0 if n == "source" else 9.0, "b": 1.0} for n in names}
    links = {("source", n): {"a": rng.random(), "b": rng.random()} for n in names}
    problem = ActivationProblem.of(predictors, costs, links, {"a": 6.0, "b": 6.0})
    found = exact(problem, "accuracy")
    assert found.best.activated == (0,)
    optimum = milp(problem, "accuracy")
    assert found.best.value <= optimum.upper + NEAR
    assert found.upper >= optimum.best.value
    assert found.best.value > 0.98 * optimum.best.value
    assert 3**k > MAX_LABELS


def _world(seed: int, n: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Five classifiers of one thing with errors of their own; each is a link to every other."""
    rng = np.random.default_rng(seed)
    thing = rng.integers(0, 3, n)
    names = [f"m{i}" for i in range(5)]
    answers = {
        name: softmax(2 * np.eye(3)[thing] + rng.normal(size=(n, 3)) * 1.2) for name in names
    }
    links = {j: {i: answers[i] for i in names if i != j} for j in names}
    return answers, links


def test_the_interval_of_a_chosen_plan_covers_how_it_does_on_new_samples() -> None:
    fresh, fresh_links = _world(10_000, 20_000)
    covered, flattered, runs = 0, 0.0, 40
    for seed in range(runs):
        answers, links = _world(seed, 200)
        parts = split(200, seed)
        ensembles = {j: LinkEnsemble(classes(answers[j]), links[j], parts) for j in answers}
        costs = {j: {"c": 1.0} for j in answers}
        free = {pair: {"c": 0.0} for pair in product(answers, answers)}
        plan = select(ActivationProblem.of(ensembles, costs, free, {"c": 2.0}))
        truth = [
            performance(
                ensembles[model.name].format,
                ensembles[model.name].head(model.sources)(fresh_links[model.name]),
                fresh[model.name],
            )
            for model in plan.predicted
        ]
        real = (2 + sum(truth)) / 5
        covered += plan.low <= real <= plan.high
        flattered += (plan.accuracy - real) / runs
        assert plan.proved
    assert flattered > 0.005  # the best of many looks better than it is
    assert covered >= 0.95 * runs


def test_a_plan_of_labels_or_errors_has_an_estimated_interval() -> None:
    plan = select(_seven(2))
    assert not plan.proved  # mAP, MAE and WER are no means over samples
    assert plan.low < plan.accuracy < plan.high
    whole = select(_seven(20))
    assert (whole.low, whole.accuracy, whole.high, whole.proved) == (1, 1, 1, True)
    assert whole.predicted == ()
    blind = select(_random(3, metrics=1), "accuracy")
    assert np.isnan(blind.low) == bool([m for m in blind.predicted if m.answered])
