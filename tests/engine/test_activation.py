"""SELECT PLAN against brute force over every set of models, and what it says of the unknown."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain, combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.scoring import performance, skill
from sommelier.analysis.links.splits import split
from sommelier.confidence import clopper_pearson
from sommelier.engine.activation import activation_plan
from sommelier.engine.activation_links import _left_out
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import ModelReference
from sommelier.engine.result import Table
from sommelier.engine.session import Session
from sommelier.errors import BinderError, UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.parser import parse
from sommelier.link_records import ActivationPlan
from sommelier.records import Measurement, OutputKind, Provenance
from tests.engine.link_bench import COUNT, FORMAT, LinkBench

NAMES = ("a", "b", "c", "d")
MEMORY = {"a": 3e6, "b": 2e6, "c": 2.5e6, "d": 1e6}
LATENCY = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0}


def planned(bench: LinkBench, text: str) -> ActivationPlan:
    statement = parse(text)
    assert isinstance(statement, nodes.SelectPlan)
    session = Session.open(bench.catalog, bench.sketches)
    return activation_plan(statement, session, Parameters(None))


def four(bench: LinkBench, rng: np.random.Generator, *, share: float = 0.8) -> None:
    """Four models of NAMES and a random part of the twelve links between them."""
    bench.probes()
    for name in NAMES:
        bench.model(name, memory=MEMORY[name], latency=LATENCY[name])
    for source in NAMES:
        for target in NAMES:
            if source != target and rng.random() < share:
                size, took = float(rng.integers(1, 9)) * 1e5, float(rng.random())
                bench.link(source, target, wrong=float(rng.random()), memory=size, latency_ms=took)


def actions(table: Table) -> dict[object, object]:
    return {row[0]: row[1] for row in table.rows}


# ---- the optimum


def everything(
    bench: LinkBench, budget: dict[str, float], objective: str
) -> list[tuple[float, tuple[str, ...]]]:
    """(objective, models) of every set whose cost with all of its links is within the budget."""
    links = {(k.source_names[0], k.target_name): k for k in bench.catalog.links()}
    fields = {"memory": "memory", "latency": "latency_ms"}
    costs = {"memory": MEMORY, "latency": LATENCY}
    ensembles = {}
    for target in NAMES:
        into = {s: k for (s, t), k in links.items() if t == target}
        kept = {s: bench.sketches.outputs(k.id, str(k.probe_set_id)) for s, k in into.items()}
        predicted = {s: arrays["predicted"] for s, arrays in kept.items() if arrays is not None}
        answers = LinkAnswers(FORMAT, bench.truth[target])
        ensembles[target] = LinkEnsemble(answers, predicted, split(COUNT, 0)) if into else None
    found = []
    for chosen in chain.from_iterable(combinations(NAMES, n) for n in range(5)):
        spent = {m: sum(costs[m][name] for name in chosen) for m in budget}
        worth = float(len(chosen))
        for target in sorted({*NAMES} - {*chosen}):
            ensemble = ensembles[target]
            if ensemble is None:
                continue
            used = ensemble.used([s for s in chosen if (s, target) in links])
            reached = ensemble.performance(used)
            worth += reached if objective == "accuracy" else skill(reached, ensemble.constant)
            for metric in budget:
                spent[metric] += sum(getattr(links[s, target], fields[metric]) for s in used)
        if all(spent[m] <= most for m, most in budget.items()):
            found.append((worth / 4, chosen))
    return found


@pytest.mark.parametrize("objective", ["accuracy", "skill"])
@pytest.mark.parametrize("seed", range(6))
def test_no_set_of_models_within_the_budget_is_better(
    links: LinkBench, seed: int, objective: str
) -> None:
    rng = np.random.default_rng(seed)
    four(links, rng)
    budget = {"memory": float(rng.uniform(2e6, 7e6)), "latency": float(rng.uniform(3, 9))}
    plan = planned(
        links,
        f"SELECT PLAN FOR a, b, c, d ON memory <= {budget['memory']} B"
        f" AND latency <= {budget['latency']} ms USING objective = '{objective}'",
    )
    best = max(everything(links, budget, objective))[0]
    reached = plan.accuracy if objective == "accuracy" else plan.skill
    # a plan may also leave links out to afford a model, which the sets above do not
    assert reached is not None
    assert reached >= best - 1e-9
    assert all(plan.cost[metric] <= most * (1 + 1e-9) for metric, most in budget.items())
    assert plan.gap is not None
    assert plan.gap <= 1e-9
    assert plan.method == "exact"


def test_a_plan_costs_its_models_and_its_links(links: LinkBench) -> None:
    four(links, np.random.default_rng(1))
    found = links.ask("SELECT PLAN FOR a, b, c, d ON memory < 60% AND latency < 80%")
    plan = planned(links, "SELECT PLAN FOR a, b, c, d ON memory < 60% AND latency < 80%")
    rows = found.dicts()
    for metric in ("memory", "latency"):
        assert math.isclose(sum(row[metric] for row in rows), plan.cost[metric])
        assert math.isclose(
            plan.total[metric], sum({"memory": MEMORY, "latency": LATENCY}[metric].values())
        )
    assert math.isclose(plan.accuracy, sum(row["accuracy"] for row in rows) / 4)
    assert plan.low is not None
    assert plan.high is not None
    assert plan.low <= plan.accuracy <= plan.high


def test_a_predicted_model_answers_as_well_on_held_out_samples_as_the_plan_says(
    links: LinkBench,
) -> None:
    four(links, np.random.default_rng(3), share=1.0)
    plan = planned(links, "SELECT PLAN FOR a, b, c, d ON memory < 7 MB")
    known = {link.id: link for link in links.catalog.links()}
    held = split(COUNT, 0).held_out
    assert plan.predicted
    for model in plan.predicted:
        assert model.head is not None
        head = Head.from_json(model.head)
        assert head.sources == model.source_ids
        assert tuple(known[id_].source_ids[0] for id_ in model.link_ids) == head.sources
        assert {known[id_].target_id for id_ in model.link_ids} <= {model.model_id}
        answers = {}
        for source, id_ in zip(head.sources, model.link_ids, strict=True):
            kept = links.sketches.outputs(id_, str(known[id_].probe_set_id))
            assert kept is not None
            answers[source] = kept["predicted"][held]
        reached = performance(FORMAT, head(answers, count=len(held)), links.truth[model.name][held])
        assert model.performance is not None
        assert math.isclose(reached, model.performance, abs_tol=1e-9)
        assert model.low is not None
        assert model.high is not None
        assert model.low <= reached <= model.high


# ---- budgets


@pytest.fixture
def pair(links: LinkBench) -> LinkBench:
    """Two models that predict each other well; a costs 3 MB, b 2 MB, their links 1 kB."""
    links.probes()
    for name in ("a", "b"):
        links.model(name, memory=MEMORY[name], latency=LATENCY[name])
    links.link("a", "b", wrong=0.1)
    links.link("b", "a", wrong=0.05)
    return links


@pytest.mark.parametrize(
    ("budget", "executed"),
    [
        ("memory <= 5 MB", {"a", "b"}),
        ("memory < 5 MB", {"b"}),  # strictly: executing both takes 5 MB
        ("memory < 5001 kB", {"a", "b"}),
        ("5 MB >= memory", {"a", "b"}),
        ("memory <= 100%", {"a", "b"}),
        ("memory < 100%", {"b"}),
        ("memory <= 1x", {"a", "b"}),
        ("memory <= 100% OF a", {"b"}),  # 3 MB: a alone leaves nothing for a link
        ("memory <= 5 MB AND latency < 4 ms", {"a"}),
        ("memory <= 5 MB AND memory < 3 MB", {"b"}),
        ("memory <= $most", {"b"}),
    ],
)
def test_a_budget_is_a_limit_on_the_sum(pair: LinkBench, budget: str, executed: set[str]) -> None:
    given = {"most": "2500 kB"} if "$" in budget else None
    found = pair.ask(f"SELECT PLAN FOR a, b ON {budget}", given)
    assert {name for name, done in actions(found).items() if done == "execute"} == executed


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("memory > 5 MB", "a budget is an upper limit"),
        ("memory = 5 MB", "a budget is an upper limit"),
        ("memory < latency", "a budget is an upper limit"),
        ("memory < 5 MB OR latency < 3 ms", "a budget is an upper limit"),
        ("memory BETWEEN 1 MB AND 5 MB", "a budget is an upper limit"),
        ("memory < 5", "5 what"),
        ("memory < 5 ms", "measures time"),
        ("accuracy < 5%", "limits what executing models costs"),
        ("name < 'b'", "limits what executing models costs"),
        ("memory + size < 5 MB", "limits what executing models costs"),
        ("memory < 50% OF nobody", "nobody"),
        ("latency < 5 ms ON 'moon'", "moon"),
        ("latency < 5 ms AND latency < 5 ms AT p99", "latency"),
    ],
)
def test_what_is_no_budget_is_refused_with_the_reason(
    pair: LinkBench, budget: str, told: str
) -> None:
    with pytest.raises(BinderError, match=told) as caught:
        pair.ask(f"SELECT PLAN FOR a, b ON {budget}")
    assert caught.value.span is not None


def test_latency_is_read_in_the_context_that_the_budget_names(pair: LinkBench) -> None:
    for name, slow in (("a", 9.0), ("b", 5.0)):
        pair.catalog.add_measurements(
            [
                Measurement(
                    f"sha256:{name}", "latency", slow, Provenance.MEASURED, "test",
                    device="cpu", batch=1, percentile=99,
                )
            ]
        )  # fmt: skip
    median = planned(pair, "SELECT PLAN FOR a, b ON latency < 100 ms")
    tail = planned(pair, "SELECT PLAN FOR a, b ON latency < 100 ms AT p99")
    assert (median.total["latency"], tail.total["latency"]) == (5.0, 14.0)
    assert "latency of links is known at p50 only, not at p99" in tail.notes
    with pytest.raises(BinderError, match="two limits on latency"):
        pair.ask("SELECT PLAN FOR a, b ON latency < 9 ms AND latency < 9 ms AT p99")


def test_costs_of_links_that_are_unknown_leave_them_out(pair: LinkBench) -> None:
    pair.link("b", "a", wrong=0.0, memory=None, name="unweighed")
    plan = planned(pair, "SELECT PLAN FOR a, b ON memory < 5 MB")
    # the newest link of the pair counts, blind to how good it is, and its cost is unknown
    assert any("memory is unknown" in note for note in plan.notes)
    assert plan.executed[0].name == "a"


def test_energy_of_links_is_unknown_so_that_they_are_not_used(links: LinkBench) -> None:
    links.probes()
    for name in ("a", "b"):
        links.model(name, energy=2.0)
    links.link("a", "b", wrong=0.0)
    plan = planned(links, "SELECT PLAN FOR a, b ON energy < 3 J")
    assert len(plan.executed) == 1
    assert not any(model.source_ids for model in plan.models)
    assert "the energy of links is unknown, so none is used" in plan.notes


# ---- what is unknown


def test_where_everything_is_unknown_the_error_names_the_models_and_the_analyze(
    links: LinkBench,
) -> None:
    for name in ("a", "b"):
        links.model(name)
    for metric, aspect in (("memory", "RESOURCES"), ("latency", "LATENCY")):
        with pytest.raises(BinderError, match=f"the {metric} of a, b is not known") as caught:
            links.ask(f"SELECT PLAN FOR a, b ON {metric} < 50%")
        assert caught.value.hint == f"ANALYZE a, b FOR {aspect}"
    with pytest.raises(BinderError, match="depends on a budget") as caught:
        links.ask("SELECT PLAN FOR a, b")
    assert "executing all of them takes" not in str(caught.value)


def test_without_links_the_budget_is_spent_on_models_and_the_rest_gets_no_answer(
    links: LinkBench,
) -> None:
    for name in NAMES:
        links.model(name, memory=MEMORY[name])
    found = links.ask("SELECT PLAN FOR a, b, c, d ON memory <= 3.5 MB")
    # of the pairs that fit, the cheaper one
    assert actions(found) == {"a": "no answer", "b": "execute", "c": "no answer", "d": "execute"}
    assert found.dicts()[0]["accuracy"] is None
    plan = planned(links, "SELECT PLAN FOR a, b, c, d ON memory <= 3.5 MB")
    assert plan.accuracy == 0.5
    assert any("ANALYZE a, b, c, d FOR LINKS" in note for note in plan.notes)
    assert (plan.samples, plan.probe_set_id) == (0, None)


def test_links_that_were_found_useless_on_the_same_samples_widen_the_interval(
    links: LinkBench,
) -> None:
    """The usable one is the best of all that were tried."""
    links.probes()
    for name in ("a", "b", "c", "d"):
        links.model(name, memory=MEMORY[name])
    links.link("b", "a", wrong=0.2)
    question = "SELECT PLAN FOR a, b, c, d ON memory <= 8.1 MB"
    lone = next(m for m in planned(links, question).models if m.name == "a")
    for source in ("c", "d"):
        links.link(source, "a", wrong=0.7, state="useless")
    best = next(m for m in planned(links, question).models if m.name == "a")
    n = len(split(COUNT, 0).held_out)
    k = round(n * float(best.performance or 0))
    for found, heads in ((lone, 2), (best, 4)):  # the constant answer, and links to a
        low, high = map(float, clopper_pearson(k, n, 1 - 0.05 / heads))
        assert (found.low, found.high) == pytest.approx((low, high))


def test_a_model_with_useless_links_only_gets_its_best_constant_answer(links: LinkBench) -> None:
    links.probes()
    for name in ("a", "b"):
        links.model(name, memory=MEMORY[name])
    links.link("a", "b", wrong=0.9, state="useless")
    link = links.link("b", "a", wrong=0.9, state="useless")
    found = links.ask("SELECT PLAN FOR a, b ON memory <= 2 MB")
    assert actions(found) == {"a": "constant", "b": "execute"}
    plan = planned(links, "SELECT PLAN FOR a, b ON memory <= 2 MB")
    assert plan.models[0].head is not None
    assert Head.from_json(plan.models[0].head).kind == "constant"
    assert plan.models[0].performance == link.constant
    assert plan.models[0].skill == 0
    assert any("no usable link predicts a" in note for note in plan.notes)


def test_of_links_that_kept_nothing_only_the_constant_is_known(links: LinkBench) -> None:
    links.probes()
    for name in ("a", "b"):
        links.model(name, memory=MEMORY[name])
    link = links.link("b", "a", wrong=0.9, state="not linkable", keep=False)
    plan = planned(links, "SELECT PLAN FOR a, b ON memory <= 2 MB")
    assert (plan.models[0].performance, plan.models[0].head) == (link.constant, None)
    assert plan.low is None  # nothing says how sure that is


# ---- which links count


def test_stale_links_are_not_used(pair: LinkBench) -> None:
    fresh = planned(pair, "SELECT PLAN FOR a, b ON memory < 5 MB")
    assert fresh.predicted[0].source_ids
    record = pair.catalog.model("sha256:b")
    pair.catalog.update_model(replace(record, output_kind=OutputKind.MULTILABEL))
    later = planned(pair, "SELECT PLAN FOR a, b ON memory < 5 MB")
    assert not any(model.source_ids for model in later.models)
    assert any("stale and not used: a_to_b, b_to_a" in note for note in later.notes)


def test_what_is_left_out_of_many_links_is_told_shortly_and_at_once(pair: LinkBench) -> None:
    one = pair.catalog.link("a_to_b")
    every = [replace(one, id=f"link:{i}", name=f"k{i}") for i in range(3000)]
    started = time.perf_counter()
    notes = _left_out(every, every[:0:-1], [ModelReference("sha256:a", "a")])
    assert time.perf_counter() - started < 0.5  # 10 s where each is compared with each
    assert notes == ["fitted to other samples and not used: k0 (USING dataset chooses)"]
    other = _left_out(every, every[7:], [])
    named = "k0, k1, k2, k3, k4 and 2 more"
    assert other == [f"fitted to other samples and not used: {named} (USING dataset chooses)"]
    gone = [replace(link, stale="gone") for link in every[:6]]
    assert any("k4 and 1 more (SHOW LINKS" in note for note in _left_out(gone, [], []))


def test_where_all_links_are_useless_no_analyze_is_asked_for(links: LinkBench) -> None:
    links.probes()
    for name in ("a", "b", "c"):
        links.model(name, memory=1e6)
    links.link("a", "b", wrong=0.9, state="useless")
    links.link("b", "a", wrong=0.9, state="not linkable")
    told = planned(links, "SELECT PLAN FOR a, b ON memory <= 1 MB").notes
    assert "the links between these models are useless or not linkable: SHOW LINKS says why" in told
    assert not any("ANALYZE" in note for note in told)
    partly = planned(links, "SELECT PLAN FOR a, b, c ON memory <= 1 MB").notes
    assert any(
        "were tried are useless or not linkable" in note and "ANALYZE a, b, c FOR LINKS" in note
        for note in partly
    )


def test_links_of_other_samples_are_not_mixed_and_using_dataset_chooses(pair: LinkBench) -> None:
    pair.probes("sketches")
    pair.link("b", "a", wrong=0.6, probes="sketches", name="drawn")
    usual = planned(pair, "SELECT PLAN FOR a, b ON memory < 5 MB")
    assert usual.probe_set_id == "probes-photos"  # of two links, the other of one
    assert any("other samples and not used: drawn" in note for note in usual.notes)
    chosen = planned(pair, "SELECT PLAN FOR a, b ON memory < 5 MB USING dataset = 'sketches'")
    assert chosen.probe_set_id == "probes-sketches"
    pair.probes("songs")
    with pytest.raises(BinderError, match="no link between these models was learned on 'songs'"):
        pair.ask("SELECT PLAN FOR a, b ON memory < 5 MB USING dataset = 'songs'")


def test_links_between_modalities_of_the_same_samples_count_together(links: LinkBench) -> None:
    for name in ("frames", "sounds"):
        links.probes(name)
    for name in ("a", "b", "c"):
        links.model(name, memory=MEMORY[name])
    # a and b see, c hears; each link is kept with the probes of its target
    links.link("a", "b", wrong=0.0, probes="frames")
    links.link("a", "c", wrong=0.0, probes="sounds", source_probe_set_id="probes-frames")
    links.link("c", "b", wrong=0.3, probes="frames", source_probe_set_id="probes-sounds")
    plan = planned(links, "SELECT PLAN FOR a, b, c ON memory <= 3.1 MB")
    assert [model.name for model in plan.executed] == ["a"]
    assert plan.accuracy == 1


def test_links_split_another_way_are_not_judged_by_what_taught_them(pair: LinkBench) -> None:
    pair.link("b", "a", wrong=0.0, seed=7, name="other_split")
    plan = planned(pair, "SELECT PLAN FOR a, b ON memory < 5 MB")
    used = {id_ for model in plan.models for id_ in model.link_ids}
    assert pair.catalog.link("other_split").id not in used


def test_a_link_whose_predictions_are_gone_is_left_out_with_a_note(links: LinkBench) -> None:
    links.probes()
    for name in ("a", "b"):
        links.model(name, memory=MEMORY[name])
    links.link("b", "a", wrong=0.0, keep=False)
    plan = planned(links, "SELECT PLAN FOR a, b ON memory < 5 MB")
    assert not any(model.source_ids for model in plan.models)
    assert any("'b_to_a' is left out" in note for note in plan.notes)


def test_samples_the_target_gave_no_answer_to_neither_count_nor_forbid_its_links(
    links: LinkBench,
) -> None:
    links.probes()
    for name in ("a", "b"):
        links.model(name, memory=MEMORY[name])
    silent = split(COUNT, 0).held_out[:5]
    links.truth["a"][silent] = np.nan
    link = links.link("b", "a", wrong=0.0, held_out=90 - 5)
    plan = planned(links, "SELECT PLAN FOR a, b ON memory <= 2.1 MB")
    assert plan.predicted[0].link_ids == (link.id,)
    assert (plan.samples, plan.predicted[0].performance) == (90 - 5, 1.0)


def test_ensembles_of_several_sources_are_no_sources_of_a_plan(links: LinkBench) -> None:
    links.probes()
    for name in ("a", "b", "c"):
        links.model(name, memory=1e6)
    links.together("both", ("a", "b"), "c", wrong=0.0)
    plan = planned(links, "SELECT PLAN FOR a, b, c ON memory <= 2 MB")
    assert not any(model.source_ids for model in plan.models)


# ---- the statement


@pytest.mark.parametrize("pick", ["FASTEST", "SMALLEST", "RANDOM", "PARETO (memory, latency)"])
def test_a_plan_is_picked_by_its_answers_only(pair: LinkBench, pick: str) -> None:
    with pytest.raises(BinderError, match="a plan has one aim") as caught:
        pair.ask(f"SELECT PLAN FOR a, b ON memory < 5 MB PICK {pick}")
    assert "objective = 'skill'" in str(caught.value)


def test_models_of_one_name_are_told_apart_by_version(links: LinkBench) -> None:
    first = links.catalog.model(links.model("a", memory=1e6))
    links.catalog.add_model(replace(first, id="sha256:a2", version="2"))
    size = Measurement("sha256:a2", "memory", 2e6, Provenance.MEASURED, "test")
    links.catalog.add_measurements([size])
    found = links.ask("SELECT PLAN FOR a@1, a@2 ON memory < 2 MB")
    assert actions(found) == {"a@1": "execute", "a@2": "no answer"}


def test_groups_there_are_not_are_refused(pair: LinkBench) -> None:
    pair.catalog.save_pool("nothing", [], "SELECT MODELS")
    with pytest.raises(UnknownNameError, match="unknown pool"):
        pair.ask("SELECT PLAN FOR POOL no_pool ON memory < 5 MB")
    with pytest.raises(BinderError, match="pool 'nothing' is empty"):
        pair.ask("SELECT PLAN FOR POOL nothing ON memory < 5 MB")
    with pytest.raises(BinderError, match="a is named twice"):
        pair.ask("SELECT PLAN FOR a, b, a ON memory < 5 MB")
    with pytest.raises(UnknownNameError):
        pair.ask("SELECT PLAN FOR a, nobody ON memory < 5 MB")


def test_the_confidence_widens_the_interval(pair: LinkBench) -> None:
    def width(confidence: str) -> float:
        text = f"SELECT PLAN FOR a, b ON memory < 5 MB USING confidence = {confidence}"
        plan = planned(pair, text)
        assert plan.low is not None
        assert plan.high is not None
        return plan.high - plan.low

    assert width("80%") < width("95%") < width("99.9%")


# ---- looking at plans


def test_a_saved_plan_is_listed_described_and_goes_stale(pair: LinkBench) -> None:
    text = "SELECT PLAN FOR a, b ON memory < 5 MB"
    pair.catalog.save_plan("edge", planned(pair, text), text)
    (row,) = pair.ask("SHOW PLANS").dicts()
    assert (row["name"], row["models"], row["executed"], row["state"]) == ("edge", 2, 1, "current")
    told = dict(pair.ask("DESCRIBE PLAN edge").rows)
    assert told["b"] == "execute"
    assert str(told["a"]).startswith("predict from b: ")
    assert told["run"] == "db.plan('edge').run(inputs)"
    pair.catalog.drop_link("b_to_a")
    (row,) = pair.ask("SHOW PLANS LIKE 'e%'").dicts()
    assert (row["state"], row["reason"]) == ("stale", "a link to 'a' is gone")
    told = dict(pair.ask("DESCRIBE edge").rows)
    assert told["make anew"] == f"CREATE OR REPLACE PLAN edge AS {text}"


def test_explain_shows_the_activation_probability_of_the_paper(links: LinkBench) -> None:
    four(links, np.random.default_rng(2))
    report = links.ask("EXPLAIN SELECT PLAN FOR a, b, c, d ON memory < 60%")
    known: dict[tuple[str, str], Any] = {
        (k.source_names[0], k.target_name): k for k in links.catalog.links()
    }
    usual = {k.target_name: k.constant for k in known.values()}

    def reached(source: str, target: str) -> float:
        found = known.get((source, target))
        return usual[target] if found is None else found.performance

    cheapest = min(MEMORY.values())
    for row in report.data["models"]:
        others = [name for name in NAMES if name != row["model"]]
        p1 = sum(reached(row["model"], other) for other in others) / 3
        p2 = sum(reached(other, row["model"]) for other in others) / 3
        w = 2 / cheapest
        assert math.isclose(row["P1"], p1)
        assert math.isclose(row["P2"], p2)
        assert math.isclose(row["P"], (1 + p1 - p2) / (w * MEMORY[row["model"]]), rel_tol=1e-6)
    choices = report.data["choices"]
    assert choices["auto"]["accuracy"] >= choices["greedy"]["accuracy"] - 1e-12
    assert choices["auto"]["feasible"]


def test_explain_of_many_models_lists_the_best_links_and_counts_the_others(
    links: LinkBench,
) -> None:
    links.probes()
    names = [f"m{i}" for i in range(7)]
    for name in names:
        links.model(name, memory=1e6)
    for place, (source, target) in enumerate(permutations(names, 2)):
        links.link(source, target, wrong=0.02 * place)
    report = links.ask(f"EXPLAIN SELECT PLAN FOR {', '.join(names)} ON memory <= 6 MB")
    told = [line.split()[1].rstrip(":") for line in report.lines if line.startswith("link ")]
    known = sorted(report.data["links"], key=lambda link: -link["performance"])
    assert len(known) == 42
    assert told == [link["name"] for link in known[:12]]
    assert "         and 30 more: SELECT LINKS lists them" in report.lines
    head = next(line for line in report.lines if line.startswith("choice"))
    assert head.endswith("executes")
    assert any(line.endswith("and 1 more") for line in report.lines)  # six are executed


def test_explain_analyze_counts_and_times(pair: LinkBench) -> None:
    text = "SELECT LINKS name WHERE source = 'a'"
    report = pair.ask(f"EXPLAIN ANALYZE {text}")
    assert report.data["rows"] == len(pair.ask(text).rows) == 1
    assert report.data["timing_ms"] > 0
    assert pair.ask("EXPLAIN ANALYZE SELECT PLAN FOR a, b ON memory < 5 MB").data["timing_ms"] > 0


def test_asking_about_links_and_plans_loads_no_runtime(tmp_path: Path) -> None:
    program = f"""
import sys
import time
from pathlib import Path
from sommelier.engine.session import Session
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from sommelier.grammar.parser import parse
from tests.engine.link_bench import LinkBench, fill_audio

with Catalog.open(Path({str(tmp_path)!r}) / "models.sommelier") as catalog:
    sketches = SketchStore(Path({str(tmp_path)!r}) / "sketches", catalog)
    session = Session.open(catalog, sketches)
    fill_audio(LinkBench(catalog, sketches, session.answer))
    for text in (
        "SELECT LINKS WHERE skill > 10%", "SHOW PLANS", "DESCRIBE accent_net",
        "SELECT PLAN FOR POOL audio ON memory < 60%",
        "EXPLAIN SELECT PLAN FOR POOL audio ON memory < 60%",
    ):
        session.answer(parse(text))
print({{"torch", "onnxruntime", "onnx", "tensorflow"}} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr


def test_explain_of_links_says_what_is_asked_as_data_too(pair: LinkBench) -> None:
    report = pair.ask("EXPLAIN (format = json) SELECT LINKS name WHERE memory < 2 kB LIMIT 1")
    assert {"stage": "where", "detail": ["memory < 2 kB"]} in report.data["plan"]
