from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from sommelier.analysis.segments import assess, build_twin, common_segments
from sommelier.errors import AnalysisError
from tests.analysis.segments.nets import Builder, images, residual_net, run


def _noisy(model: ModelProto, sizes: dict[int, float]) -> ModelProto:
    """The model with noise on its weights: position in the file -> relative size."""
    copy = ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(5)
    for place, size in sizes.items():
        tensor = copy.graph.initializer[place]
        array = numpy_helper.to_array(tensor)
        noise = rng.standard_normal(array.shape) * np.abs(array).mean() * size
        tensor.CopyFrom(numpy_helper.from_array((array + noise).astype(np.float32), tensor.name))
    return copy


def _balanced(seed: int) -> ModelProto:
    """A residual net that uses all its classes: its last bias takes away the mean output."""
    model = residual_net([2, 2], seed)
    bias = model.graph.initializer[-1]
    mean = run(model, images(300, seed=8))[0].mean(axis=0)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - mean, bias.name))
    return model


@pytest.fixture(scope="module")
def host() -> ModelProto:
    return _balanced(0)


@pytest.fixture(scope="module")
def donor(host: ModelProto) -> ModelProto:
    """Close to the host in the stem and the first stage, far from it in the first block after."""
    count = len(host.graph.initializer)
    return _noisy(host, {i: 2.0 if i in (10, 12) else 0.01 for i in range(count)})


def test_changed_answers_are_those_of_the_twins_built_and_run(
    host: ModelProto, donor: ModelProto
) -> None:
    segments, x = common_segments(host, donor, split="block"), images(150)
    found = assess(host, donor, segments, {"x": x}, threshold=0.1, batch=64)
    own = run(host, x)[0].argmax(axis=1)
    for item in found.segments:
        twin = build_twin(host, donor, [item.segment])
        assert item.changed == int((run(twin, x)[0].argmax(axis=1) != own).sum())
        assert item.samples == 150
    chosen = [s for s in segments if s.name in found.chosen]
    twin = build_twin(host, donor, chosen)
    assert found.changed == int((run(twin, x)[0].argmax(axis=1) != own).sum())
    assert found.measured <= 0.1


def test_the_segment_that_is_to_blame_is_taken_away(host: ModelProto, donor: ModelProto) -> None:
    segments = common_segments(host, donor, split="block")
    found = assess(host, donor, segments, {"x": images(150)}, threshold=0.1)
    guilty = next(s for s in segments if host.graph.initializer[10].name in s.weights)
    assert set(found.chosen) == {s.name for s in segments} - {guilty.name}
    assert [names for names, _ in found.steps] == [found.chosen]
    worst = max(found.segments, key=lambda item: item.changed)
    assert worst.segment == guilty
    assert worst.estimated > 0.1


def test_the_first_order_estimate_is_exact_where_the_rest_is_linear(host: ModelProto) -> None:
    """After the last segment there is nothing; the shift it gives is the change itself."""
    donor = _balanced(3)
    head = common_segments(host, donor, split="block")[-1]
    found = assess(host, donor, [head], {"x": images(100)}, threshold=1.0).segments[0]
    assert found.first_order == pytest.approx(found.measured)
    assert found.changed > 10


def test_many_segments_are_taken_away_one_by_one(
    host: ModelProto, donor: ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sommelier.analysis.segments.assessment.MANY", 0)
    segments = common_segments(host, donor, split="block")
    found = assess(host, donor, segments, {"x": images(150)}, threshold=0.1)
    sizes = [len(names) for names, _ in found.steps]
    assert sizes == list(range(len(segments), len(found.chosen) - 1, -1))
    assert [changed > 15 for _, changed in found.steps] == [True] * (len(sizes) - 1) + [False]
    price = {i.segment.name: i.measured / i.saved for i in found.segments}
    dropped = set(found.steps[0][0]) - set(found.chosen)
    assert min(price[name] for name in dropped) >= max(price[name] for name in found.chosen)


def test_identical_weights_change_nothing_and_are_all_kept(host: ModelProto) -> None:
    segments = common_segments(host, host, split="block")
    found = assess(host, host, segments, {"x": images(40)}, threshold=0.0)
    assert found.chosen == tuple(s.name for s in segments)
    assert (found.changed, found.estimated) == (0, 0.0)
    assert all(item.difference < 1e-6 and item.estimated == 0 for item in found.segments)


def test_overlapping_candidates_are_tried_and_one_of_them_is_chosen() -> None:
    host, donor = residual_net([3, 2], 0), residual_net([2, 2], 1)
    segments = common_segments(host, donor)
    found = assess(host, donor, segments, {"x": images(30)}, threshold=1.0)
    assert len(found.segments) == len(segments)
    at_start = {s.name for s in segments if s.host_entry == "x"}
    assert len(at_start) == 2
    assert len(at_start & set(found.chosen)) == 1
    graft = next(item for item in found.segments if item.segment.kind == "interface")
    assert 0 < graft.saved < 1


def test_nothing_is_chosen_where_every_exchange_changes_too_much(host: ModelProto) -> None:
    donor = _balanced(9)
    segments = common_segments(host, donor)
    found = assess(host, donor, segments, {"x": images(60)}, threshold=0.0)
    assert (found.chosen, found.changed) == ((), 0)


def test_a_fixed_batch_is_run_in_batches_of_that_size() -> None:
    models = []
    for seed in (0, 1):
        model = residual_net([1, 1], seed)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        models.append(model)
    segments = common_segments(*models)
    found = assess(*models, segments, {"x": images(7)}, threshold=1.0)
    assert found.samples == 7


def test_shapes_that_follow_the_batch_are_taken_from_the_batch_that_runs() -> None:
    def model(seed: int) -> ModelProto:
        net = Builder(seed)
        net.weights["one"] = np.array([0], np.int64)
        net.weights["rest"] = np.array([-1], np.int64)
        batch = net.add("Gather", [net.add("Shape", ["x"]), "one"], axis=0)
        shape = net.add("Concat", [batch, "rest"], axis=0)
        x = net.add("Relu", [net.conv("x", 3, 4)])
        x = net.add("Relu", [net.conv(x, 4, 4)])
        flat = net.add("Reshape", [net.add("GlobalAveragePool", [x]), shape])
        return net.model([net.gemm(flat, 4, 5)], ("N", 3, 8, 8), made=("N", 5))

    host, donor = model(0), model(1)
    segments, x = common_segments(host, donor, split="block"), images(40)
    found = assess(host, donor, segments, {"x": x}, threshold=0.0, batch=16)
    own = run(host, x)[0].argmax(axis=1)
    for item in found.segments:
        twin = build_twin(host, donor, [item.segment])
        assert item.changed == int((run(twin, x)[0].argmax(axis=1) != own).sum())


@pytest.mark.parametrize(
    ("inputs", "threshold", "sentence"),
    [
        ({"y": images(2)}, 0.1, "inputs are given for y, the host takes x"),
        ({"x": images(0)}, 0.1, "equal numbers of samples"),
        ({"x": images(2)}, 95, "a share of answers between 0 and 1, not 95"),
        ({"x": np.zeros((2, 3, 8, 9), np.float32)}, 0.1, "failed on its input"),
    ],
)
def test_what_does_not_fit_is_said(
    host: ModelProto, inputs: dict[str, np.ndarray], threshold: float, sentence: str
) -> None:  # type: ignore[type-arg]  # float32
    segments = common_segments(host, host)
    model = ModelProto()
    model.CopyFrom(host)
    with pytest.raises(AnalysisError, match=sentence):
        assess(model, host, segments, inputs, threshold=threshold)
