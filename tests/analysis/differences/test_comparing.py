"""Two files of one network are aligned layer by layer, and their errors are what a run shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from torch import nn

from sommelier.analysis.differences import compare_layers
from sommelier.analysis.differences.tolerances import EIGHT_BITS, SINGLE
from sommelier.errors import AnalysisError
from tests.onnx_writer import with_weights

from .networks import (
    Net,
    arrays,
    channels_last,
    export,
    pictures,
    quantise,
    renamed,
    saved,
)

X = pictures(48)


@pytest.fixture(scope="module")
def net() -> Net:
    return Net(0)


@pytest.fixture(scope="module")
def model(net):
    return export(net)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return saved(model, tmp_path_factory.mktemp("net") / "net.onnx")


def ran(model, outputs, x=X):
    """These tensors as ONNX Runtime computes them, with no code of ours between."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    session = onnxruntime.InferenceSession(copy.SerializeToString())
    return session.run(list(outputs), {session.get_inputs()[0].name: x})


def kinds(report):
    return [layer.kind for layer in report.layers]


WHOLE = ["Conv+Relu", "Conv+Relu", "Conv", "Add+Relu", "Conv+Relu", "Conv", "Add+Relu", "MaxPool",
         "Gemm+Relu", "Gemm"]  # fmt: skip


def same_network(report):
    assert report.first_divergence is None
    assert report.related
    assert not report.only_reference
    assert not report.only_candidate
    assert report.changed == 0.0
    assert report.lineage.relation in ("identical", "identical weights")
    assert all(layer.error_max <= SINGLE for layer in report.layers)
    return True


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_an_export_at_another_opset_is_the_same_network(model, net, opset):
    report = compare_layers(model, export(net, opset=opset), X)
    assert same_network(report)
    assert kinds(report) == WHOLE


def test_names_do_not_matter(model):
    report = compare_layers(model, renamed(model), X)
    assert same_network(report)
    assert report.layers[0].reference != report.layers[0].candidate


def test_a_normalisation_that_is_not_folded_belongs_to_its_convolution(model, net):
    report = compare_layers(model, export(net, fold=False), X)
    assert same_network(report)
    assert [x.candidate_kind for x in report.layers][1] == "Conv+BatchNorm+Relu"


def test_the_order_of_parallel_branches_in_the_file_does_not_matter(net, tmp_path):
    def branch(order):
        nodes = [
            helper.make_node("Conv", ["x", "w0"], ["a"], kernel_shape=[1, 1]),
            helper.make_node("Conv", ["x", "w1"], ["b"], kernel_shape=[1, 1]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("Add", ["a", "c"] if order == [0, 1, 2] else ["c", "a"], ["y"]),
        ]
        rng = np.random.default_rng(0)
        weights = [
            onnx.numpy_helper.from_array(rng.normal(size=(4, 3, 1, 1)).astype("f4"), name)
            for name in ("w0", "w1")
        ]
        graph = helper.make_graph(
            [nodes[k] for k in order] + [nodes[3]], "g",
            [helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("y", 1, ["N", 4, 8, 8])], weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    report = compare_layers(branch([0, 1, 2]), branch([1, 2, 0]), X)
    assert len(report.layers) == 3
    assert not report.only_candidate
    assert all(layer.error == 0.0 for layer in report.layers)


def test_channels_last_is_found_and_turned(model):
    report = compare_layers(model, channels_last(model), (X, X.transpose(0, 2, 3, 1).copy()))
    assert same_network(report)
    assert kinds(report) == WHOLE
    turned = [layer.layout for layer in report.layers[:8]]
    assert "channels first" in turned
    assert set(turned) <= {"", "channels first"}


def test_convolutions_fused_with_their_activation_are_aligned(path, tmp_path, model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options)
    fused = onnx.load(tmp_path / "fused.onnx")
    assert any(node.op_type == "FusedConv" for node in fused.graph.node)
    report = compare_layers(path, tmp_path / "fused.onnx", X)
    assert report.first_divergence is None
    assert report.changed == 0.0
    assert report.lineage.relation == "identical weights", str(report.lineage)
    convolutions = [layer for layer in report.layers if "Conv" in layer.kind]
    assert len(convolutions) >= 4
    assert any("FusedConv" in x.candidate_kind for x in convolutions)


@pytest.mark.parametrize("place", range(7))
def test_the_first_divergence_is_the_layer_that_was_edited(model, place):
    """Every matrix in turn: the layer named first is that one, and those before it are equal."""
    matrices = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    if place >= len(matrices):
        pytest.skip("the network has fewer matrices")
    node = matrices[place]
    weight = arrays(model)[node.input[1]]
    edited = weight + 0.05 * np.random.default_rng(1).normal(size=weight.shape).astype("f4")
    report = compare_layers(model, with_weights(model, {node.input[1]: edited}), X)
    assert report.first_divergence is not None
    assert report.related
    assert report.first_divergence.reference == node.name
    before = report.layers[: report.layers.index(report.first_divergence)]
    assert all(layer.error_max == 0.0 for layer in before)
    assert report.growth(1)[0].added > 0
    assert report.first_divergence.growth is None  # what it reads is equal


def test_errors_are_those_of_an_independent_run(model):
    node = next(n for n in model.graph.node if n.op_type == "Gemm")
    weight = arrays(model)[node.input[1]]
    edited = with_weights(model, {node.input[1]: weight * np.float32(1.1)})
    report = compare_layers(model, edited, X)
    ours, theirs = (ran(m, [model.graph.output[0].name])[0] for m in (model, edited))
    gap = np.linalg.norm(theirs - ours, axis=1) / np.linalg.norm(ours, axis=1)
    last = report.layers[-1]
    np.testing.assert_allclose([last.error, last.error_max], [np.median(gap), gap.max()], rtol=1e-5)
    assert last.largest == pytest.approx(np.abs(theirs - ours).max(), rel=1e-5)
    assert report.changed == pytest.approx(np.mean(ours.argmax(1) != theirs.argmax(1)))
    assert report.answers is not None
    assert report.answers.samples == len(X)


@pytest.fixture(scope="module")
def quantised(path, tmp_path_factory):
    from onnxruntime.quantization import QuantFormat, QuantType

    folder = tmp_path_factory.mktemp("quantised")
    calibration = pictures(64, seed=5)
    signed = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    return {
        "QDQ": quantise(
            path, folder / "qdq.onnx", calibration, quant_format=QuantFormat.QDQ,
            per_channel=True, **signed,
        ),
        "QOperator": quantise(
            path, folder / "qoperator.onnx", calibration, quant_format=QuantFormat.QOperator,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_quantised_network_is_aligned_whole(path, quantised, form):
    report = compare_layers(path, quantised[form], X)
    assert report.related
    assert kinds(report) == WHOLE, str(report)
    assert not report.only_reference
    assert not report.only_candidate
    assert all(0 < layer.error < 0.15 and layer.cosine > 0.98 for layer in report.layers)
    stem = report.layers[0]
    assert stem.beyond == 0.0
    assert stem.error < stem.tolerance
    if form == "QOperator":
        assert stem.candidate_kind == "QLinearConv"


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_quantised_values_are_compared_as_the_real_numbers_they_stand_for(path, quantised, form):
    """The stem's error, computed from the raw integers with the file's scale and zero point."""
    report = compare_layers(path, quantised[form], X)
    model = onnx.load(quantised[form])
    stem = next(n for n in model.graph.node if n.op_type in ("Conv", "QLinearConv"))
    known = arrays(model)
    if form == "QOperator":
        name, scale, zero = stem.output[0], known[stem.input[6]], known[stem.input[7]]
    else:
        node = next(n for n in model.graph.node if n.input[0] == stem.output[0])
        if node.op_type == "Relu":
            node = next(n for n in model.graph.node if n.input[0] == node.output[0])
        name, scale, zero = node.output[0], known[node.input[1]], known[node.input[2]]
    integers = ran(model, [name])[0]
    real = (integers.astype("f8") - float(zero)) * float(scale)
    reference = onnx.load(path)
    relu = next(n for n in reference.graph.node if n.op_type == "Relu")
    wanted = ran(reference, [relu.output[0]])[0]
    axes = (1, 2, 3)
    gap = np.sqrt(((real - wanted) ** 2).sum(axes) / (wanted.astype("f8") ** 2).sum(axes))
    assert report.layers[0].error == pytest.approx(np.median(gap), rel=1e-6)
    step = float(scale) / np.sqrt((wanted.astype("f8") ** 2).mean(axes))
    assert report.layers[0].tolerance == pytest.approx(np.median(step), rel=1e-6)


def test_weights_quantised_at_run_time_are_aligned(path, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(path), str(tmp_path / "dynamic.onnx"))
    ops = {n.op_type for n in onnx.load(tmp_path / "dynamic.onnx").graph.node}
    assert "MatMulInteger" in ops
    report = compare_layers(path, tmp_path / "dynamic.onnx", X)
    matrices = [x for x in report.layers if "Gemm" in x.kind or "Conv" in x.kind]
    assert len(matrices) == 7, str(report)
    assert all(layer.error < 4 * EIGHT_BITS for layer in matrices)


def test_equal_blocks_of_another_depth_are_not_guessed():
    """Two blocks against three, trained apart: which block is which nobody can say."""
    report = compare_layers(export(Net(0, blocks=3)), export(Net(1, blocks=4)), X)
    assert not report.related
    assert report.first_divergence is None
    assert report.only_reference
    assert report.only_candidate
    assert len(report.layers) < 13
    assert "trained separately" in str(report)


def test_a_network_that_continues_another_is_aligned_by_values():
    """Equal blocks with one more behind them: activations say which blocks are the common ones."""
    long = Net(0, blocks=3)
    short = Net(0, blocks=2)
    short.load_state_dict(long.state_dict(), strict=False)
    report = compare_layers(export(short), export(long), X)
    assert report.related
    assert all(layer.error_max < SINGLE for layer in report.layers[:7])
    assert len(report.only_candidate) == 3
    assert not report.only_reference


def test_activations_that_do_not_fit_are_read_in_groups(model):
    changed = with_weights(model, {n: a * np.float32(1.01) for n, a in arrays(model).items()})
    calls: list[tuple[int, int]] = []
    at_once = compare_layers(model, changed, X)
    grouped = compare_layers(
        model, changed, X, memory=1, progress=lambda done, total: calls.append((done, total))
    )
    for one, other in zip(at_once.layers, grouped.layers, strict=True):
        # another batch is another order of summation
        assert one.error == pytest.approx(other.error, rel=1e-4)
    assert calls[-1] == (48 * len(at_once.layers), 48 * len(at_once.layers))


def test_a_tolerance_of_ones_own_counts(model):
    weight = next(n for n in model.graph.node if n.op_type == "Conv").input[1]
    edited = with_weights(model, {weight: arrays(model)[weight] * np.float32(1.001)})
    assert compare_layers(model, edited, X).first_divergence is not None
    assert compare_layers(model, edited, X, tolerance=0.01).first_divergence is None


def test_samples_limit_the_layers_and_not_the_answers(model):
    report = compare_layers(model, renamed(model), X, samples=5)
    assert report.samples == 5
    assert report.answers is not None
    assert report.answers.samples == len(X)


def test_a_report_is_short_as_text_and_plain_as_data(model, quantised, path):
    report = compare_layers(path, quantised["QDQ"], X, labels=np.arange(len(X)) % 5)
    text = str(report)
    assert len(text.splitlines()) <= 40
    assert "first divergence" in text or "no layer" in text
    assert json.loads(json.dumps(report.as_dict()))["samples"] == len(X)
    assert report.answers is not None
    assert report.answers.reference_accuracy is not None


def test_long_models_keep_the_layers_that_matter_in_a_short_table():
    layers = [m for _ in range(40) for m in (nn.Linear(8, 8), nn.ReLU())]
    model = export(nn.Sequential(*layers).eval(), size=(8,))
    weight = [n for n in model.graph.node if n.op_type == "Gemm"][23]
    edited = with_weights(model, {weight.input[1]: arrays(model)[weight.input[1]] * 2})
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("f4")
    report = compare_layers(model, edited, x)
    assert len(report.layers) == 40
    text = str(report)
    assert len(text.splitlines()) <= 40
    assert f">24  {weight.name}" in text


def test_inputs_may_be_given_by_name(model):
    report = compare_layers(model, renamed(model), {"x": X})
    assert same_network(report)
    with pytest.raises(AnalysisError, match="the inputs of 'reference' are x; given were other"):
        compare_layers(model, model, {"other": X})


def test_inputs_of_another_shape_are_refused(model):
    with pytest.raises(AnalysisError, match="'reference' does not take these inputs"):
        compare_layers(model, model, pictures(4)[:, :, :5])


def test_models_of_different_inputs_are_refused_with_the_one_that_does_not_fit(model):
    other = export(nn.Sequential(nn.Linear(7, 5)).eval(), size=(7,))
    with pytest.raises(AnalysisError, match="'candidate' does not take these inputs"):
        compare_layers(model, other, X)


def test_different_numbers_of_inputs_are_refused(model):
    with pytest.raises(AnalysisError, match="48 inputs for the reference and 4"):
        compare_layers(model, model, (X, X[:4]))


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_broken_file_is_refused(path, tmp_path, content):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(AnalysisError, match="'broken' cannot be compared"):
        compare_layers(path, broken, X)


def test_a_missing_file_is_refused(path):
    with pytest.raises(AnalysisError, match="cannot be read"):
        compare_layers(path, Path("nowhere.onnx"), X)


def test_a_network_edited_at_its_first_layer_is_still_the_same_network(model):
    """All activations differ, and the weights say that it is an edit and no other training."""
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    weight = arrays(model)[first.input[1]]
    rng = np.random.default_rng(3)
    edited = with_weights(model, {first.input[1]: rng.normal(size=weight.shape).astype("f4")})
    report = compare_layers(model, edited, X)
    assert report.layers[0].error > 0.5
    assert report.related
    assert report.first_divergence is not None
    assert report.first_divergence.reference == first.name


def test_layer_normalisation_written_out_or_in_one_operator_is_aligned_around():
    """Opset 14 spells it in nine operators, opset 17 in one: what follows is the same."""
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU(),
                        nn.Linear(16, 5)).eval()  # fmt: skip
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("f4")
    report = compare_layers(export(net, opset=14, size=(8,)), export(net, opset=20, size=(8,)), x)
    assert report.first_divergence is None
    matrices = [layer for layer in report.layers if layer.kind.startswith("Gemm")]
    assert len(matrices) == 3
    assert any(layer.candidate_kind == "LayerNormalization" for layer in report.layers)
    assert all(layer.error_max < SINGLE for layer in report.layers)
