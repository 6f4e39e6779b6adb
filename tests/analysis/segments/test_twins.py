from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from sommelier.analysis.segments import (
    Segment,
    build_twin,
    common_segments,
    replaced_weights,
    separate,
)
from sommelier.errors import AnalysisError
from tests.analysis.segments.nets import (
    WIDTH,
    Builder,
    images,
    random_dag,
    residual_net,
    run,
    vectors,
    weights_of,
)
from tests.onnx_writer import with_weights


def _interface(host: ModelProto, donor: ModelProto) -> list[Segment]:
    return list(common_segments(host, donor, kinds=["interface"]))


def _common(host: ModelProto, donor: ModelProto, split: str = "stage") -> list[Segment]:
    return list(common_segments(host, donor, kinds=["common"], split=split))  # type: ignore[arg-type]  # one of the literals


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["run", "stage", "block"]))
def test_in_random_graphs_segments_are_closed_and_all_of_them_make_the_donor(
    seed: int, split: str
) -> None:
    host, donor = random_dag(seed, 1), random_dag(seed, 2)
    segments = _common(host, donor, split)
    for segment in segments:
        _assert_single_entry_single_exit(host, segment)
        arrays = replaced_weights(host, donor, [segment])
        ours = weights_of(host)
        assert {name: a.shape for name, a in arrays.items()} == {n: ours[n].shape for n in arrays}
    x = vectors(3)
    if not segments:
        assert not weights_of(host)
        return
    twin = build_twin(host, donor, segments)
    np.testing.assert_array_equal(run(twin, x)[0], run(donor, x)[0])


def _assert_single_entry_single_exit(model: ModelProto, segment: Segment) -> None:
    """Independently of the library: by the names of nodes and who reads what."""
    inside = [n for n in model.graph.node if n.name in set(segment.host_nodes)]
    weights = {t.name for t in model.graph.initializer}
    made = {name for node in inside for name in node.output}
    read = {name for node in inside for name in node.input} - weights
    assert read - made == {segment.host_entry}
    outside = [n for n in model.graph.node if n.name not in set(segment.host_nodes)]
    escaping = made & ({n for node in outside for n in node.input} | {model.graph.output[0].name})
    assert escaping == {segment.host_exit}


@pytest.mark.parametrize("split", ["run", "stage", "block"])
def test_the_twin_of_a_model_with_itself_answers_bit_by_bit_the_same(split: str) -> None:
    model = residual_net([2, 2], 0)
    segments = _common(model, model, split)
    assert all(segment.identical for segment in segments)
    twin = build_twin(model, model, segments)
    np.testing.assert_array_equal(run(twin, images(4))[0], run(model, images(4))[0])


def test_swapping_one_block_is_swapping_its_weights_by_hand() -> None:
    host, donor = residual_net([2, 2], 0), residual_net([2, 2], 1)
    for segment in _common(host, donor, "block"):
        theirs = {n: array for n, array in weights_of(donor).items() if n in segment.weights}
        assert segment.weights == {name: name for name in theirs}
        by_hand = with_weights(host, theirs)
        twin = build_twin(host, donor, [segment])
        np.testing.assert_array_equal(run(twin, images(3))[0], run(by_hand, images(3))[0])


def test_a_frozen_prefix_is_a_segment_of_its_own() -> None:
    host, donor = residual_net([2, 2], 0), residual_net([2, 2], 0)
    for tensor in donor.graph.initializer[6:]:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    segments = _common(host, donor, "stage")
    assert [s.identical for s in segments] == [True, False, False, False]
    assert set(segments[0].weights) == {t.name for t in host.graph.initializer[:6]}
    assert segments[0].digest == segments[0].donor_digest
    assert segments[1].digest != segments[1].donor_digest


def test_stages_of_nets_of_different_depth_fit_each_other() -> None:
    host, donor = residual_net([3, 3], 0), residual_net([1, 2], 1)
    segments = _interface(host, donor)
    assert [(s.host_nodes[0], len(s.host_nodes), len(s.donor_nodes)) for s in segments] == [
        ("n_t0", 17, 7),
        ("n_t17", 16, 11),
    ]
    assert segments[0].donor_flops < segments[0].flops  # type: ignore[operator]  # both are known
    twin = build_twin(host, donor, segments)
    x = images(4)
    host_exit, donor_exit = segments[-1].host_exit, segments[-1].donor_exit
    expected = run(_with_output(donor, donor_exit), x, [donor_exit])[0]
    np.testing.assert_array_equal(run(_with_output(twin, host_exit), x, [host_exit])[0], expected)


def test_both_kinds_go_into_one_twin() -> None:
    host, donor = residual_net([3, 2], 0), residual_net([2, 2], 1)
    segments = common_segments(host, donor)
    stage = next(s for s in segments if s.kind == "interface")
    rest = [s for s in segments if s.kind == "common" and s.host_entry == stage.host_exit]
    head = [s for s in segments if s.kind == "common" and s.host_exit == host.graph.output[0].name]
    twin = build_twin(host, donor, list({s.name: s for s in [stage, *rest, *head]}.values()))
    np.testing.assert_allclose(run(twin, images(4))[0], run(donor, images(4))[0], atol=1e-6)


def _with_output(model: ModelProto, name: str) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.add(name=name)
    return copy


def test_equal_requests_give_equal_bytes_that_carry_the_recipe_and_the_hosts_metadata() -> None:
    host, donor = residual_net([3, 2], 0), residual_net([2, 2], 1)
    helper.set_model_props(host, {"labels": '["a"]'})
    for kinds in (["common"], ["interface"]):
        segments = common_segments(host, donor, kinds=kinds)  # type: ignore[arg-type]  # literals
        first, second = (
            build_twin(host, donor, segments).SerializeToString(deterministic=True)
            for _ in range(2)
        )
        assert first == second
        props = {p.key: p.value for p in onnx.load_from_string(first).metadata_props}
        assert props["labels"] == '["a"]'
        recipe = json.loads(props["sommelier.graft"])
        assert [s["name"] for s in recipe["segments"]] == [s.name for s in segments]
        assert recipe["host"]["weights"] != recipe["donor"]["weights"]


def _norm_net(seed: int, *, folded: bool) -> ModelProto:
    """Conv, BatchNormalization, Relu, Conv, mean, MatMul + Add or Gemm: the same function."""
    net = Builder(seed)
    weight, gamma, beta, mean = (
        net.rng.standard_normal(shape).astype(np.float32)
        for shape in ((4, 3, 3, 3), (4,), (4,), (4,))
    )
    variance = (0.5 + net.rng.random(4)).astype(np.float32)
    matrix, bias = (net.rng.standard_normal(s).astype(np.float32) for s in ((4, 5), (5,)))
    if folded:
        factor = gamma / np.sqrt(variance + 1e-5)
        net.weights |= {"w": weight * factor[:, None, None, None], "b": beta - mean * factor}
        x = net.add("Conv", ["x", "w", "b"], pads=[1] * 4)
    else:
        net.weights |= {"w": weight, "g": gamma, "b": beta, "m": mean, "v": variance}
        x = net.add("Conv", ["x", "w"], pads=[1] * 4)
        x = net.add("BatchNormalization", [x, "g", "b", "m", "v"])
    x = net.add("Relu", [x])
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    if folded:
        net.weights |= {"fc": matrix.T.copy(), "fb": bias[None]}
        out = net.add("Gemm", [x, "fc", "fb"], transB=1)
    else:
        net.weights |= {"fc": matrix, "fb": bias}
        out = net.add("Add", ["fb", net.add("MatMul", [x, "fc"])])
    return net.model([out], ("N", 3, 8, 8))


@pytest.mark.parametrize("host_folded", [True, False])
@pytest.mark.parametrize("donor_folded", [True, False])
def test_weights_cross_between_folded_and_unfolded_files(
    host_folded: bool, donor_folded: bool
) -> None:
    host, donor = _norm_net(0, folded=host_folded), _norm_net(1, folded=donor_folded)
    segments = _common(host, donor, "run")
    assert [s.host_nodes for s in segments] == [tuple(n.name for n in host.graph.node)]
    twin = build_twin(host, donor, segments)
    assert [n.op_type for n in twin.graph.node] == [n.op_type for n in host.graph.node]
    np.testing.assert_allclose(run(twin, images(4))[0], run(donor, images(4))[0], atol=1e-5)


def test_a_weight_shared_with_the_rest_of_the_host_is_replaced_in_the_segment_only() -> None:
    def model(seed: int, *, tied: bool) -> ModelProto:
        net = Builder(seed)
        weight, bias = net.weight(WIDTH, WIDTH), net.weight(WIDTH)
        x = net.add("Tanh", [net.add("Gemm", ["x", weight, bias])])
        x = net.add("Relu", [net.gemm(x)])
        last = weight if tied else net.weight(WIDTH, WIDTH)
        return net.model([net.add("Gemm", [x, last, bias if tied else net.weight(WIDTH)])])

    host, donor = model(0, tied=True), model(1, tied=False)
    first = _common(host, donor, "block")[0]
    assert all(name.endswith(f"@{first.name}") for name in first.weights)
    apart = separate(host, donor, [first])
    np.testing.assert_array_equal(run(apart, vectors(4))[0], run(host, vectors(4))[0])
    twin = build_twin(host, donor, [first])
    ours, theirs = weights_of(host), weights_of(donor)
    hidden = np.tanh(vectors(4) @ theirs["t_w0"] + theirs["t_w1"])
    hidden = np.maximum(hidden @ ours["t_w2"] + ours["t_w3"], 0)
    np.testing.assert_allclose(
        run(twin, vectors(4))[0], hidden @ ours["t_w0"] + ours["t_w1"], atol=1e-5
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_separated_host_with_the_replaced_weights_is_the_twin(seed: int) -> None:
    host, donor = random_dag(seed, 1), random_dag(seed, 2)
    segments = _common(host, donor, "block")[::2]
    if not segments:
        return
    model, arrays = separate(host, donor, segments), replaced_weights(host, donor, segments)
    by_hand, twin = with_weights(model, arrays), build_twin(host, donor, segments)
    np.testing.assert_array_equal(run(by_hand, vectors(2))[0], run(twin, vectors(2))[0])


@pytest.mark.parametrize(("host_opset", "donor_opset"), [(17, 11), (13, 18), (11, 17), (9, 21)])
def test_operators_of_another_opset_are_converted(host_opset: int, donor_opset: int) -> None:
    host = residual_net([3, 2], 0, opset=host_opset)
    donor = residual_net([2, 2], 1, opset=donor_opset)
    segment = _interface(host, donor)[0]
    twin = build_twin(host, donor, [segment])
    assert {o.domain: o.version for o in twin.opset_import}[""] == host_opset
    name, x = segment.host_exit, images(3)
    expected = run(_with_output(donor, segment.donor_exit), x, [segment.donor_exit])[0]
    np.testing.assert_allclose(run(_with_output(twin, name), x, [name])[0], expected, atol=1e-5)


def test_operators_that_cannot_be_converted_are_named_with_the_way_out() -> None:
    def model(opset: int, extra: str) -> ModelProto:
        net = Builder(0)
        x = net.add("Relu", [net.conv("x", 3, 4)])
        x = net.add(extra, [net.conv(x, 4, 4)])
        x = net.add("Relu", [net.conv(x, 4, 4, stride=2)])
        return net.model([x], ("N", 3, 8, 8), opset=opset)

    host, donor = model(9, "Relu"), model(18, "Mish")
    segment = _interface(host, donor)[0]
    with pytest.raises(AnalysisError, match="opset 18 in the host's opset 9") as caught:
        build_twin(host, donor, [segment])
    assert caught.value.hint == "export both models with the same opset"


def test_shapes_that_a_region_takes_from_elsewhere_become_constants() -> None:
    """The donor reshapes inside the stage by the size of its own image."""

    def donor_net(*, by_batch: bool) -> ModelProto:
        net = Builder(1)
        whole = net.add("Shape", ["x"], start=0 if by_batch else 2)
        if not by_batch:
            net.weights["lead"] = np.array([-1, 4], np.int64)
            whole = net.add("Concat", ["lead", whole], axis=0)
        else:
            net.weights["channels"] = np.array([4, 8, 8], np.int64)
            net.weights["zero"] = np.array([0], np.int64)
            first = net.add("Gather", [whole, "zero"], axis=0)
            whole = net.add("Concat", [first, "channels"], axis=0)
        x = net.add("Relu", [net.conv("x", 3, 4)])
        x = net.add("Relu", [net.conv(x, 4, 4)])
        net.weights["flat"] = np.array([0, -1], np.int64)
        x = net.add("Reshape", [net.add("Reshape", [net.conv(x, 4, 4), "flat"]), whole])
        x = net.add("Relu", [net.conv(net.add("Relu", [x]), 4, 4, stride=2)])
        return net.model([x], ("N", 3, 8, 8))

    net = Builder(0)
    x = net.add("Relu", [net.conv("x", 3, 4)])
    x = net.add("Relu", [net.conv(x, 4, 4)])
    x = net.add("Relu", [net.conv(x, 4, 4, kernel=1)])
    x = net.add("Relu", [net.conv(x, 4, 4, stride=2)])
    host = net.model([x], ("N", 3, 8, 8))
    fixed = donor_net(by_batch=False)
    gap = next(s for s in _interface(host, fixed) if s.host_entry != "x")
    twin = build_twin(host, fixed, [gap])
    assert run(twin, images(5))[0].shape == (5, 4, 4, 4)
    following = donor_net(by_batch=True)
    gap = next(s for s in _interface(host, following) if s.host_entry != "x")
    with pytest.raises(AnalysisError, match="shapes in it follow the batch"):
        build_twin(host, following, [gap])


def test_loops_move_with_their_bodies() -> None:
    def model(seed: int, *, loop: bool) -> ModelProto:
        net = Builder(seed)
        x = net.add("Relu", [net.conv("x", 3, 4)])
        x = net.conv(x, 4, 4)
        if loop:
            kinds = helper.make_tensor_value_info
            body = helper.make_graph(
                [
                    helper.make_node("Identity", ["go"], ["go_on"]),
                    helper.make_node("Mul", ["s", "factor"], ["next"]),
                ],
                "body",
                [kinds("i", 7, []), kinds("go", 9, []), kinds("s", 1, [None, 4, 8, 8])],
                [kinds("go_on", 9, []), kinds("next", 1, [None, 4, 8, 8])],
            )
            net.weights |= {"trips": np.int64(3), "factor": np.float32(0.5)}  # type: ignore[dict-item]  # scalars are arrays too
            x = net.add("Loop", ["trips", "", x], body=body)
        x = net.add("Relu", [net.conv(net.add("Relu", [x]), 4, 4, stride=2)])
        return net.model([x], ("N", 3, 8, 8), made=("N", 4, 4, 4))

    host, donor = model(0, loop=False), model(1, loop=True)
    segment = _interface(host, donor)[0]
    twin = build_twin(host, donor, [segment])
    name, x = segment.host_exit, images(2)
    expected = run(_with_output(donor, segment.donor_exit), x, [segment.donor_exit])[0]
    np.testing.assert_array_equal(run(_with_output(twin, name), x, [name])[0], expected)


def test_weights_in_constant_nodes_and_sparse_initializers_are_weights() -> None:
    host, donor = residual_net([1, 1], 0), residual_net([1, 1], 1)
    expected = run(donor, images(2))[0]
    for tensor in list(host.graph.initializer)[:2]:
        host.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        host.graph.initializer.remove(tensor)
    dense = donor.graph.initializer[0]
    array = numpy_helper.to_array(dense).ravel()
    places = np.flatnonzero(array)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(array[places], dense.name),
        numpy_helper.from_array(places.astype(np.int64), "places"),
        list(dense.dims),
    )
    donor.graph.initializer.remove(dense)
    donor.graph.sparse_initializer.append(sparse)
    twin = build_twin(host, donor, _common(host, donor))
    np.testing.assert_array_equal(run(twin, images(2))[0], expected)


def test_initializers_that_are_inputs_too_stay_so() -> None:
    host, donor = residual_net([1, 1], 0), residual_net([1, 1], 1)
    for tensor in host.graph.initializer:
        host.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    host.ir_version = 3
    twin = build_twin(host, donor, _common(host, donor))
    x = images(2)
    session = onnxruntime.InferenceSession(twin.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": x})[0], run(donor, x)[0], rtol=1e-5)


def _other_pair(host: ModelProto, donor: ModelProto) -> list[Segment]:
    other = residual_net([1, 1], 2, names="other")
    return _common(other, other)


def _other_donor(host: ModelProto, _: ModelProto) -> list[Segment]:
    return _common(host, residual_net([2, 2], 7))


def _twice(host: ModelProto, donor: ModelProto) -> list[Segment]:
    return [*_common(host, donor, "run"), _common(host, donor, "block")[0]]


def _overlapping_kinds(host: ModelProto, donor: ModelProto) -> list[Segment]:
    return [s for s in common_segments(host, donor) if s.host_entry == "x"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (_other_pair, "segment 's1' is not of this pair: the host has no part like it from 'x'"),
        (_other_donor, "segment 's1' is not of this pair: the donor has no part like it"),
        (_twice, "both take operator"),
        (_overlapping_kinds, "segments 's1' and 's2' both take operator 'n_t0'"),
        (lambda _, __: [], "a twin needs at least one segment"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(
    request_: Callable[[ModelProto, ModelProto], list[Segment]], sentence: str
) -> None:
    host, donor = residual_net([3, 2], 0), residual_net([2, 2], 1)
    with pytest.raises(AnalysisError, match=sentence):
        build_twin(host, donor, request_(host, donor))


def test_weights_of_an_interface_segment_are_refused() -> None:
    host, donor = residual_net([3, 2], 0), residual_net([2, 2], 1)
    with pytest.raises(AnalysisError, match="segment 's1' exchanges operators"):
        replaced_weights(host, donor, _interface(host, donor))
