"""Candidates without training: costs are those of the written model, risks those of real maps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from sommelier.analysis.fusion import AbsGraph, FusedModule, NodeId, Pair
from sommelier.analysis.fusion.generator import written
from sommelier.analysis.fusion.search import CostModel, Limits, candidates, paired_latency
from sommelier.analysis.fusion.search.ranking import all_shared, beam, least, promise
from sommelier.analysis.fusion.search.residuals import Residuals
from sommelier.analysis.fusion_outcomes import out_of_reach
from sommelier.analysis.operator_timing import ModelTimes, OperatorTime
from sommelier.analysis.operators import OperatorTable, estimate
from sommelier.analysis.profiling import profile
from sommelier.errors import AnalysisError
from tests.analysis.fusion.models import in_blocks, protos, samples

FAMILIES = ["vgg", "cnn", "vit", "bert"]


@pytest.fixture(scope="module")
def table() -> OperatorTable:
    """A device on which time is proportional to FLOPs and bytes."""
    rng = np.random.default_rng(0)
    times = []
    for op in ("Conv", "Gemm", "MatMul", "Relu", "MaxPool", "ReduceMean", "AveragePool"):
        for _ in range(30):
            flops, nbytes = 2 ** rng.uniform(8, 22, 2)
            times.append(OperatorTime(op, flops, nbytes, (flops + nbytes) * 1e-6))
    whole = sum(time.milliseconds for time in times)
    return OperatorTable.fit([ModelTimes("a", whole, tuple(times), (1,) * len(times))])


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_are_those_of_the_written_model(family: str) -> None:
    models = in_blocks(family)
    costs = CostModel.of(models)
    module = FusedModule.original(models)
    for found in candidates(models, most=3):
        model = written(module.mutated(found.graph, None))
        truth = profile(onnx.shape_inference.infer_shapes(model))
        # operators of masks and lengths belong to no block
        assert found.cost.flops == pytest.approx(truth.flops, rel=0.02)
        assert truth.peak_activation_bytes is not None
        memory = truth.weight_bytes + truth.peak_activation_bytes
        assert found.cost.memory_bytes == pytest.approx(memory, rel=0.35)  # an estimate
        assert found.flops_share == pytest.approx(costs.share(found.graph))
        assert found.latency_share is None


def test_models_one_after_the_other_need_all_weights_and_the_highest_peak_of_one() -> None:
    costs = CostModel.of(in_blocks("digits"))
    truths = [profile(model) for model in protos("digits").values()]
    peaks = [truth.peak_activation_bytes or 0 for truth in truths]
    memory = sum(truth.weight_bytes for truth in truths) + max(peaks)
    assert costs.cost(costs.original).memory_bytes == pytest.approx(memory, rel=0.02)


def test_a_table_predicts_what_it_predicts_for_the_written_model(table: OperatorTable) -> None:
    models = in_blocks("digits")
    module = FusedModule.original(models)
    costs = CostModel.of(models, table=table)
    original = estimate(written(module), table).sum_ms
    assert costs.cost(costs.original).latency_ms == pytest.approx(original, rel=1e-6)
    for graph in all_shared(costs.original):
        truth = estimate(written(module.mutated(graph, None)), table).sum_ms
        assert costs.cost(graph).latency_ms == pytest.approx(truth, rel=0.15)  # an estimate
        assert costs.share(graph) == pytest.approx(truth / original, rel=0.15)


def test_without_a_table_blocks_need_time_as_they_need_flops() -> None:
    models = in_blocks("digits")
    latencies = {"digit0": 3.0, "digit1": 2.0, "digit2": 1.0}
    costs = CostModel.of(models, latencies_ms=latencies)
    assert costs.cost(costs.original).latency_ms == pytest.approx(6.0)
    only = costs.original.mutate(Pair(NodeId(1, 5), NodeId(0, 5)))
    assert {n.task_id for n in only.parents if only.users[n] == {0}} == {0}
    assert 3.0 <= costs.cost(only).latency_ms <= 3.2  # the first model's blocks are gone but one
    with pytest.raises(AnalysisError, match="latency of digit1, digit2 is unknown"):
        CostModel.of(models, latencies_ms={"digit0": 1.0})


def test_residuals_are_those_of_the_maps_a_mutation_fits() -> None:
    module = FusedModule.original(in_blocks("vgg"))
    given = samples("vgg", 128)
    residuals = Residuals(module, given)
    for pair in module.graph.input_shareable_pairs()[::4]:
        graph = module.graph.mutate(pair)
        made = module.mutated(graph, torch.from_numpy(given[0]))
        if pair.guest in graph.adapters:
            (truth,) = made.residuals.values()
            host = graph.parents[pair.guest]
            assert residuals.of(host, pair.guest) == pytest.approx(truth, abs=0.12)
            assert residuals.risk(graph) == residuals.of(host, pair.guest)
    assert residuals.risk(module.graph) == 0


def test_a_risk_that_too_few_samples_leave_open_is_unknown_and_not_nan() -> None:
    models = in_blocks("vgg")
    module = FusedModule.original(models)
    residuals = Residuals(module, samples("vgg", 3))
    graphs = [module.graph.mutate(pair) for pair in module.graph.input_shareable_pairs()]
    assert {residuals.risk(graph) for graph in graphs if graph.adapters} == {float("inf")}
    few, none = candidates(models, samples=samples("vgg", 3)), candidates(models)
    assert [c.risk for c in few if c.graph.adapters] == [None] * sum(
        bool(c.graph.adapters) for c in few
    )
    assert [c.graph for c in few] == [c.graph for c in none]  # ranked by cost alone


def test_what_is_equal_has_no_risk_and_comes_first() -> None:
    blocks = in_blocks("digits")["digit1"]
    found = candidates({"a": blocks, "b": blocks}, samples=samples("digits"))
    best = found[0]
    # b's head on a's trunk: half of everything, nothing lost
    assert best.risk == pytest.approx(0.0, abs=1e-3)
    assert best.flops_share == pytest.approx(0.5, abs=0.01)
    assert best.promise == max(c.promise for c in found)
    assert best.drop == pytest.approx(0.0, abs=1e-4)
    for one in found:
        assert one.drop is not None
        assert 0 <= one.drop <= 0.07
        assert one.lost <= 1
    riskier = [(a, b) for a in found for b in found if a.lost == b.lost and a.risk < b.risk]
    assert all(a.drop <= b.drop for a, b in riskier)


def test_feasible_candidates_come_first_and_unknown_ones_before_the_others() -> None:
    models = in_blocks("digits")
    found = candidates(models, limits=Limits(flops=0.5), most=500)
    feasible = [c.feasible for c in found]
    assert feasible == sorted(feasible, reverse=True)
    assert all(c.feasible is (c.flops_share <= 0.5) for c in found)
    assert {c.feasible for c in candidates(models, limits=Limits(latency=0.5))} == {None}
    assert len({c.graph.signature for c in found}) == len(found)
    assert all(c.risk is None and c.drop is None for c in found)


def test_the_beam_meets_every_cheaper_graph_one_mutation_away() -> None:
    costs = CostModel.of(in_blocks("vgg"))
    met = set(beam(costs, lambda graph: promise(costs.share(graph), 0.0)))
    near = (costs.original.mutate(p) for p in costs.original.input_shareable_pairs())
    assert {graph for graph in near if costs.share(graph) < 1} <= met
    assert costs.original not in met


@pytest.mark.parametrize("family", ["digits", "vit"])
def test_all_shared_has_one_trunk(family: str) -> None:
    original = AbsGraph.original(in_blocks(family))
    found = all_shared(original)
    assert len(found) == len(original.tasks)
    for task, graph in enumerate(found):
        trunk = {n for n in graph.parents if n not in graph.heads}
        assert {n.task_id for n in trunk} == {task}
        assert len({graph.parents[head] for head in graph.heads}) == 1


def test_a_model_is_as_fast_as_itself() -> None:
    blocks = in_blocks("digits")["digit0"]
    side = (blocks.model, {name: samples("digits", 1)[0] for name in blocks.inputs})
    found = paired_latency([side], side, runs=60)
    assert found.low is not None
    assert found.high is not None
    assert 0.7 < found.share < 1.4
    twice = paired_latency([side, side], side, runs=60)
    assert 0.3 < twice.share < 0.75
    assert twice.speedup == pytest.approx(1 / twice.share)


def test_the_names_of_a_search_load_no_torch() -> None:
    code = (
        "import sys; import sommelier.analysis.fusion.search as s;"
        "from sommelier.analysis.fusion.search import Limits, candidates, CostModel;"
        "print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_no_fusion_comes_near_is_refused_with_what_one_may_reach(table: OperatorTable) -> None:
    models = in_blocks("digits")
    reached = least(CostModel.of(models, table=table))
    found = candidates(models, table=table)
    assert reached.latency is not None
    assert reached.latency <= min(c.latency_share or 1.0 for c in found)
    told = out_of_reach(reached, Limits(latency=0.01 * reached.latency), len(models))
    assert told is not None
    assert f"predicted to have {reached.latency:.0%} of the latency" in told[0]
    for near in (Limits(), Limits(latency=0.9 * reached.latency), Limits(flops=1.0)):
        assert out_of_reach(reached, near, len(models)) is None
    many = Limits(latency=0.6)  # what every run costs anew is had once, and not ten times
    assert out_of_reach(many, Limits(latency=0.06), 10) is None
