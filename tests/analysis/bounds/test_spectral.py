"""The spectral bound: every ingredient against numpy or torch written out for a small network."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, helper
from torch.nn import functional

from sommelier.analysis.bounds.spectral import SpectralBound, SpectralSettings, spectral_bound
from sommelier.errors import AnalysisError
from tests.onnx_writer import FLOAT, save_model

Array = NDArray[np.float32]

SAMPLES = 40
EXACT = SpectralSettings(exact_outputs=4096)


def _perceptron(
    path: Path, weights: list[Array], *, activation: str | None = "Relu", bias: float = 0.0
) -> Path:
    """x -> logits by MatMul (rows times weights), an activation between; biases if any."""
    nodes: list[NodeProto] = []
    stored: dict[str, ArrayLike] = {}
    value = "x"
    for i, weight in enumerate(weights):
        stored[f"w{i}"] = weight
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"h{i}"]))
        value = f"h{i}"
        if bias:
            stored[f"b{i}"] = np.full(weight.shape[1], bias, np.float32)
            nodes.append(helper.make_node("Add", [value, f"b{i}"], [f"s{i}"]))
            value = f"s{i}"
        if activation and i < len(weights) - 1:
            nodes.append(helper.make_node(activation, [value], [f"a{i}"]))
            value = f"a{i}"
    width, classes = weights[0].shape[0], weights[-1].shape[1]
    return save_model(
        path, nodes, {"x": (FLOAT, ["n", width])}, {value: (FLOAT, ["n", classes])}, stored
    )


def _weights(*widths: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=pair).astype(np.float32) for pair in pairwise(widths)]


def _samples(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(SAMPLES, *shape)).astype(np.float32)


def _labels(logits: Array, wrong: int = 6) -> NDArray[np.int64]:
    """The model's own answers, some of them changed."""
    found = logits.argmax(1)
    found[:wrong] = (found[:wrong] + 1) % logits.shape[1]
    return found


@pytest.fixture
def two_layers(tmp_path: Path) -> tuple[Path, list[Array], Array, NDArray[np.int64]]:
    weights, x = _weights(5, 7, 3), _samples(5)
    logits = np.maximum(x @ weights[0], 0) @ weights[1]
    return _perceptron(tmp_path / "net.onnx", weights), weights, x, _labels(logits)


def test_two_layers_give_what_the_definitions_give(
    two_layers: tuple[Path, list[Array], Array, NDArray[np.int64]],
) -> None:
    path, (first, second), x, labels = two_layers
    found = spectral_bound(path, {"x": x}, labels)
    before = x @ first
    after = np.maximum(before, 0)
    logits = after @ second
    norm = np.linalg.norm
    jacobians = [np.diag((h > 0).astype(float)) @ second for h in before]  # rows times matrix
    cushions = [
        (norm(before, axis=1) / (norm(first) * norm(x, axis=1))).min(),
        (norm(logits, axis=1) / (norm(second) * norm(after, axis=1))).min(),
    ]
    between = min(norm(h @ j) / (norm(j) * norm(h)) for h, j in zip(before, jacobians, strict=True))
    interlayer = [min(1 / math.sqrt(7), between), 1 / math.sqrt(3)]
    contraction = (norm(before, axis=1) / norm(after, axis=1)).max()
    own = logits[np.arange(SAMPLES), labels]
    others = np.where(np.eye(3, dtype=bool)[labels], -np.inf, logits).max(1)
    gamma = np.quantile((own - others)[own > others], 0.1)
    assert [one.cushion for one in found.layers] == pytest.approx(cushions, rel=1e-4)
    assert [one.interlayer for one in found.layers] == pytest.approx(interlayer, rel=1e-4)
    assert found.contraction == pytest.approx(contraction, rel=1e-4)
    assert found.gamma == pytest.approx(gamma, rel=1e-4)
    assert found.margin_loss == np.mean(own - others <= found.gamma)
    total = sum(1 / (a * b) ** 2 for a, b in zip(cushions, interlayer, strict=True))
    largest = norm(logits, axis=1).max()
    term = math.sqrt(contraction**2 * 4 * largest**2 * total / (gamma**2 * SAMPLES))
    printed = math.sqrt(4 * largest * total / (gamma**2 * SAMPLES))
    assert found.term == pytest.approx(term, rel=1e-3)
    assert found.printed_term == pytest.approx(printed, rel=1e-3)
    assert found.value == found.margin_loss + found.term
    assert not found.estimated
    assert not found.uncovered
    assert found.spread == 1.0
    assert [one.windows for one in found.layers] == [1, 1]


def test_scaling_the_logits_changes_only_the_printed_form(tmp_path: Path) -> None:
    weights, x = _weights(5, 7, 3), _samples(5)
    labels = _labels(np.maximum(x @ weights[0], 0) @ weights[1])
    bounds = []
    for factor in (1.0, 100.0):
        scaled = [weights[0], factor * weights[1]]
        path = _perceptron(tmp_path / f"{factor}.onnx", scaled)
        bounds.append(spectral_bound(path, {"x": x}, labels))
    plain, scaled_bound = bounds
    assert scaled_bound.gamma == pytest.approx(100 * plain.gamma, rel=1e-4)
    assert scaled_bound.term == pytest.approx(plain.term, rel=1e-3)
    assert scaled_bound.printed_term == pytest.approx(plain.printed_term / 10, rel=1e-3)


def test_a_linear_network_is_its_own_jacobian(tmp_path: Path) -> None:
    weights, x = _weights(5, 7, 3), _samples(5)
    path = _perceptron(tmp_path / "net.onnx", weights, activation=None)
    found = spectral_bound(path, {"x": x}, _labels(x @ weights[0] @ weights[1]))
    hidden = x @ weights[0]
    ratios = np.linalg.norm(hidden @ weights[1], axis=1) / np.linalg.norm(hidden, axis=1)
    between = ratios.min() / np.linalg.norm(weights[1])
    assert found.contraction == 1.0
    assert found.layers[0].interlayer == pytest.approx(min(between, 1 / math.sqrt(7)), rel=1e-4)
    assert found.hypothesis.smoothness > 1e3  # rounding is all that is left
    assert found.hypothesis.holds
    assert "hypothesis holds" in str(found)


def test_the_identity_has_the_cushion_of_its_width(tmp_path: Path) -> None:
    x = np.abs(_samples(4))
    eye = np.eye(4, dtype=np.float32)
    found = spectral_bound(_perceptron(tmp_path / "n.onnx", [eye, eye]), {"x": x}, x.argmax(1))
    assert [one.cushion for one in found.layers] == pytest.approx([0.5, 0.5])
    assert [one.interlayer for one in found.layers] == pytest.approx([0.5, 0.5])
    assert found.contraction == pytest.approx(1.0)


def test_a_rough_network_fails_the_hypothesis_and_says_so(tmp_path: Path) -> None:
    weights, x = _weights(8, 8, 8, 8, 3), _samples(8)
    logits = x
    for i, weight in enumerate(weights):
        logits = (logits if i == 0 else np.maximum(logits, 0)) @ weight
    found = spectral_bound(_perceptron(tmp_path / "n.onnx", weights), {"x": x}, _labels(logits))
    assert found.hypothesis.needed == 12  # 3d
    assert not found.hypothesis.holds
    assert "hypothesis FAILS" in str(found)
    huge = found.at(10**12)
    assert not huge.vacuous
    assert huge.says.startswith("nothing: the hypothesis")


def test_smoothness_is_the_definition_on_the_noise_of_the_seed(
    two_layers: tuple[Path, list[Array], Array, NDArray[np.int64]],
) -> None:
    path, (first, second), x, labels = two_layers
    settings = SpectralSettings(jacobian_samples=SAMPLES, risk=0.0, noise=1.0)
    one_batch = 8
    found = spectral_bound(path, {"x": x[:one_batch]}, labels[:one_batch], settings)
    hidden = x[:one_batch] @ first
    noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).numpy()
    lengths = np.linalg.norm(hidden, axis=1, keepdims=True)
    noise *= lengths / np.linalg.norm(noise, axis=1, keepdims=True)
    disturbed = np.maximum(hidden + noise, 0) @ second
    linear = ((hidden > 0) * (hidden + noise)) @ second
    gap = np.linalg.norm(disturbed - linear, axis=1)
    host = np.linalg.norm(np.maximum(hidden, 0) @ second, axis=1)
    rough = gap > 1e-6  # no sign changed in the other samples
    assert found.hypothesis.smoothness == pytest.approx((host[rough] / gap[rough]).min(), rel=1e-3)


def test_vacuous_is_printed_as_vacuous(
    two_layers: tuple[Path, list[Array], Array, NDArray[np.int64]],
) -> None:
    path, _, x, labels = two_layers
    found = spectral_bound(path, {"x": x}, labels)
    assert found.vacuous
    assert found.value > 1
    assert "vacuous" in str(found)
    assert "vacuous" not in str(found.at(10**12))
    assert found.at(4 * SAMPLES).term == pytest.approx(found.term / 2)
    assert found.constants == "1 (hidden in O~)"
    assert found.constants in str(found)


def _convolutional(path: Path, kernels: tuple[Array, Array], head: Array) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["c0"], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "k1"], ["c1"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Flatten", ["r1"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["logits"]),
    ]
    return save_model(
        path, nodes, {"x": (FLOAT, ["n", 2, 6, 6])}, {"logits": (FLOAT, ["n", 3])},
        {"k0": kernels[0], "k1": kernels[1], "w": head},
    )  # fmt: skip


@pytest.fixture
def convolutional(tmp_path: Path) -> tuple[Path, tuple[Array, Array], Array, Array]:
    rng = np.random.default_rng(3)
    kernels = tuple(rng.normal(size=s).astype(np.float32) for s in ((4, 2, 3, 3), (5, 4, 3, 3)))
    head = rng.normal(size=(45, 3)).astype(np.float32)
    return (
        _convolutional(tmp_path / "net.onnx", (kernels[0], kernels[1]), head),
        (
            kernels[0],
            kernels[1],
        ),
        head,
        _samples(2, 6, 6),
    )


def _conv_truth(
    kernels: tuple[Array, Array], head: Array, x: Array
) -> tuple[dict[tuple[int, int], float], float]:
    """mu_ij and beta by whole Jacobians."""
    k0, k1, w = (torch.from_numpy(one) for one in (*kernels, head))
    second = lambda h: functional.conv2d(functional.relu(h), k1, padding=1, stride=2)  # noqa: E731
    third = lambda h: functional.relu(h).flatten(1) @ w  # noqa: E731
    maps = {(0, 1): second, (0, 2): lambda h: third(second(h)), (1, 2): third}
    least, spread = dict.fromkeys(maps, math.inf), 1.0
    for sample in torch.from_numpy(x):
        starts = [functional.conv2d(sample[None], k0, padding=1)]
        starts.append(second(starts[0]))
        for (i, j), function in maps.items():
            at = starts[i]
            whole = torch.autograd.functional.jacobian(function, at)
            jacobian = whole.reshape(-1, *at.shape[1:])  # (outputs, channels, height, width)
            positions = at.shape[2] * at.shape[3]
            image = (jacobian.flatten(1) @ at.flatten()).norm()
            ratio = math.sqrt(positions) * image / (jacobian.norm() * at.norm())
            least[i, j] = min(least[i, j], float(ratio))
            column = jacobian.square().sum((0, 1)).max().sqrt()
            spread = max(spread, float(math.sqrt(positions) * column / jacobian.norm()))
    return least, spread


def test_convolutions_have_cushions_per_position_and_a_spread(
    convolutional: tuple[Path, tuple[Array, Array], Array, Array],
) -> None:
    path, kernels, head, x = convolutional
    least, spread = _conv_truth(kernels, head, x)
    found = spectral_bound(path, {"x": x}, np.arange(SAMPLES) % 3, EXACT)
    expected = [min(1 / 2, least[0, 1], least[0, 2]), min(1 / math.sqrt(5), least[1, 2])]
    assert [one.interlayer for one in found.layers[:2]] == pytest.approx(expected, rel=1e-4)
    assert found.spread == pytest.approx(spread, rel=1e-4)
    assert [one.windows for one in found.layers] == [3, 2, 1]  # ceil(3/1), ceil(3/2), dense
    assert [(one.channels, one.positions) for one in found.layers] == [(4, 36), (5, 9), (3, 1)]
    assert found.hypothesis.needed == 18
    assert not found.estimated  # 6d
    image = functional.conv2d(torch.from_numpy(x), torch.from_numpy(kernels[0]), padding=1)
    cushion = image.flatten(1).norm(dim=1).numpy() / np.linalg.norm(x.reshape(SAMPLES, -1), axis=1)
    smallest = cushion.min() / np.linalg.norm(kernels[0])
    assert found.layers[0].cushion == pytest.approx(smallest, rel=1e-4)


def test_estimated_norms_are_called_so_and_lie_within_their_error(tmp_path: Path) -> None:
    x = np.abs(_samples(8)) + 0.1
    x[:, 7] /= 100  # the large row of the second matrix is hardly met: a small cushion
    second = np.random.default_rng(4).normal(size=(8, 128)).astype(np.float32)
    second[7] *= 100
    path = _perceptron(tmp_path / "n.onnx", [np.eye(8, dtype=np.float32), second])
    labels = (x @ second).argmax(1)
    exact = spectral_bound(path, {"x": x}, labels, EXACT)
    estimate = spectral_bound(path, {"x": x}, labels, SpectralSettings(projections=100))
    assert not exact.estimated
    assert estimate.estimated
    assert "norms estimated" in str(estimate)
    one, other = estimate.layers[0], exact.layers[0]
    truth = np.linalg.norm(x @ second, axis=1) / np.linalg.norm(x, axis=1)
    assert other.interlayer == pytest.approx(truth.min() / np.linalg.norm(second), rel=1e-4)
    assert one.towards == other.towards == exact.layers[1].name
    assert 0.03 < one.error < 0.15  # sqrt(2 / 100) / 2 = .07: one row of signs decides
    assert abs(one.interlayer / other.interlayer - 1) < 5 * one.error


def test_a_residual_block_is_one_layer_and_no_theorem_covers_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    a, b, w = (rng.normal(size=s).astype(np.float32) for s in ((6, 6), (6, 6), (6, 3)))
    shift = rng.normal(size=6).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "a", "shift"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["inner"]),
        helper.make_node("Relu", ["inner"], ["branch"]),
        helper.make_node("Add", ["branch", "r"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["out"]),
        helper.make_node("MatMul", ["out", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"]),
    ]
    stored = {"a": a, "b": b, "w": w, "shift": shift}
    path = save_model(
        tmp_path / "n.onnx", nodes, {"x": (FLOAT, ["n", 6])}, {"p": (FLOAT, ["n", 3])}, stored
    )
    x = _samples(6)
    inner = np.maximum(x @ a + shift, 0)
    total = np.maximum(inner @ b, 0) + inner
    logits = np.maximum(total, 0) @ w
    found = spectral_bound(path, {"x": x}, logits.argmax(1))
    assert [one.kind for one in found.layers] == ["Gemm", "block", "MatMul"]
    norm = np.linalg.norm
    cushions = []
    for r in inner:
        jacobian = b * (r @ b > 0) + np.eye(6)
        cushions.append(norm(r @ jacobian) / (norm(jacobian) * norm(r)))
    assert found.layers[1].cushion == pytest.approx(min(cushions), rel=1e-4)
    first = norm(x @ a, axis=1) / (norm(a) * norm(x, axis=1))  # A phi(x), without the bias
    assert found.layers[0].cushion == pytest.approx(first.min(), rel=1e-4)
    assert found.largest_output == pytest.approx(norm(logits, axis=1).max(), rel=1e-4)
    assert {"biases", "blocks taken for layers (residual or branched)"} <= set(found.uncovered)
    assert found.at(10**12).says != found.says
    assert "no theorem covers" in str(found)


def test_a_mean_over_positions_belongs_to_the_layer_it_feeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    kernel, head = (rng.normal(size=s).astype(np.float32) for s in ((4, 2, 3, 3), (4, 3)))
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["logits"]),
    ]
    path = save_model(
        tmp_path / "n.onnx", nodes, {"x": (FLOAT, ["n", 2, 5, 5])},
        {"logits": (FLOAT, ["n", 3])}, {"k": kernel, "w": head},
    )  # fmt: skip
    x = _samples(2, 5, 5)
    made = functional.conv2d(torch.from_numpy(x), torch.from_numpy(kernel), padding=1).numpy()
    active = np.maximum(made, 0)
    logits = active.mean((2, 3)) @ head
    found = spectral_bound(path, {"x": x}, logits.argmax(1))
    lengths = np.linalg.norm(active.reshape(SAMPLES, -1), axis=1)
    matrix_norm = np.linalg.norm(head) / 5  # every row of the head 25 times, over 25
    cushions = np.linalg.norm(logits, axis=1) / (matrix_norm * lengths)
    assert found.layers[1].cushion == pytest.approx(cushions.min(), rel=1e-4)
    relu = np.linalg.norm(made.reshape(SAMPLES, -1), axis=1) / lengths
    assert found.contraction == pytest.approx(relu.max(), rel=1e-4)
    assert "pooling" in found.uncovered


def test_equal_seeds_give_equal_bounds_and_time_and_progress_are_kept(
    convolutional: tuple[Path, tuple[Array, Array], Array, Array],
) -> None:
    path, _, _, x = convolutional
    labels = np.arange(SAMPLES) % 3
    drawn = SpectralSettings(projections=8, exact_outputs=1, jacobian_samples=SAMPLES)

    def run(settings: SpectralSettings, seen: list[tuple[int, int]]) -> SpectralBound:
        return spectral_bound(
            path, {"x": x}, labels, settings, progress=lambda done, all_: seen.append((done, all_))
        )

    seen: list[tuple[int, int]] = []
    first = run(drawn, seen)
    assert first == run(drawn, [])
    assert first != run(replace(drawn, seed=1), [])
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert first.jacobian_samples == SAMPLES
    stopped = run(replace(drawn, time_limit_s=0.0), [])
    assert stopped.jacobian_samples == 8  # the first batch


def test_what_it_is_not_defined_for_is_refused_with_the_reason(tmp_path: Path) -> None:
    x = _samples(5)
    path = _perceptron(tmp_path / "n.onnx", _weights(5, 7, 3))
    with pytest.raises(AnalysisError, match=r"labels are 0\.\.3"):
        spectral_bound(path, {"x": x}, np.arange(SAMPLES) % 4)
    with pytest.raises(AnalysisError, match="as many labels"):
        spectral_bound(path, {"x": x}, np.zeros(3, np.int64))
    with pytest.raises(AnalysisError, match="no margin"):
        spectral_bound(path, {"x": x}, np.arange(SAMPLES) % 3, SpectralSettings(gamma=0.0))
    quantised = save_model(
        tmp_path / "q.onnx",
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("MatMul", ["d", "w"], ["y"]),
        ],
        {"x": (FLOAT, ["n", 5])},
        {"y": (FLOAT, ["n", 3])},
        {
            "s": np.float32(0.1),
            "z": np.uint8(128),
            "w": _weights(5, 3)[0],
        },
    )
    with pytest.raises(AnalysisError, match="QuantizeLinear"):
        spectral_bound(quantised, {"x": x}, np.arange(SAMPLES) % 3)
    plain = save_model(
        tmp_path / "r.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (FLOAT, ["n", 5])},
        {"y": (FLOAT, ["n", 5])},
    )
    with pytest.raises(AnalysisError, match="chain of layers"):
        spectral_bound(plain, {"x": x}, np.arange(SAMPLES) % 3)


@pytest.mark.zoo
@pytest.mark.slow
def test_a_real_network_gets_a_vacuous_bound_that_no_theorem_covers(zoo: Path) -> None:
    stored = np.load(zoo / "data" / "cifar10_test.npz")
    images, labels = stored["x"][:64], stored["y"][:64]
    x = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    feed = {"input": x.transpose(0, 3, 1, 2).astype(np.float32)}
    settings = SpectralSettings(jacobian_samples=4, projections=4)
    found = spectral_bound(zoo / "onnx" / "cifar10_resnet20.onnx", feed, labels, settings)
    assert [one.kind for one in found.layers] == ["Conv", *["block"] * 9, "mean, Gemm"]
    assert found.vacuous
    assert not found.hypothesis.holds
    assert "blocks taken for layers (residual or branched)" in found.uncovered
    assert all(one.cushion > 0 for one in found.layers)
    assert found.spread >= 1
    assert found.contraction >= 1
