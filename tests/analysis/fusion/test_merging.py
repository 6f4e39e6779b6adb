"""Aligning undoes any order of hidden units exactly; merging keeps what averaging would lose."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import nn

from sommelier.analysis.computing import torch_threads
from sommelier.analysis.fusion.hidden_units import untied
from sommelier.analysis.fusion.merging import align, merge
from sommelier.errors import AnalysisError
from tests.analysis.fusion.permuting import FAMILIES, answers, exported, inputs_of, shuffled
from tests.factories import conv_classifier, mlp_classifier, tiny_classifier
from tests.onnx_writer import with_weights

Array = NDArray[Any]
Method = Literal["weights", "activations"]


def _weights(model: ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _same_numbers(one: ModelProto, other: ModelProto) -> bool:
    """Bit by bit, whatever constants are stored or computed."""
    ours, theirs = (_weights(untied(model)) for model in (one, other))
    common = set(ours) & set(theirs)
    assert len(common) > len(ours) / 2
    return all(np.array_equal(ours[name], theirs[name]) for name in common)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_aligning_a_shuffled_network_recovers_it_exactly(family: str, method: Method) -> None:
    model = exported(family, 0)
    other = shuffled(model, 1)
    assert not _same_numbers(model, other)
    rng = np.random.default_rng(0)
    samples = [
        rng.normal(size=(64, 3, 16, 16)).astype(np.float32) if given.ndim == 4
        else rng.integers(0, 20, (64, 8)) if i == 0 else (rng.random((64, 8)) < 0.8).astype(int)
        for i, given in enumerate(inputs_of(family))
    ]  # fmt: skip
    found = align(other, model, inputs=samples if method == "activations" else None)
    assert _same_numbers(found.model, model)
    assert found.moved > 0.5 * found.units > 0
    same, truth = (answers(m, inputs_of(family))[0] for m in (found.model, model))
    assert np.allclose(same, truth, rtol=0, atol=1e-6 * np.abs(truth).max())


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_units_are_found_again_after_a_little_training(noise: float, tmp_path: Path) -> None:
    model = onnx.load(mlp_classifier(tmp_path / "m", features=8, hidden=(32, 32, 32), classes=4))
    rng = np.random.default_rng(0)
    noisy = {n: w + noise * rng.normal(size=w.shape).astype(w.dtype) * w.std()
             for n, w in _weights(model).items()}  # fmt: skip
    trained = with_weights(model, noisy)
    back = align(shuffled(trained, 1), model).model
    assert _same_numbers(back, trained)


def test_what_is_in_order_already_is_not_moved(tmp_path: Path) -> None:
    model = onnx.load(mlp_classifier(tmp_path / "m"))
    found = align(model, model)
    assert (found.moved, found.units) == (0, 32)
    assert _same_numbers(found.model, model)


# -- networks that learned something ---------------------------------------------------------------


class _Digits:
    """Digits of scikit-learn, 64 pixels each, and MLPs trained on them."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        data = load_digits()
        pixels = (data.data / 8 - 1).astype(np.float32)
        order = np.random.default_rng(0).permutation(len(pixels))
        self.train, self.test = order[:1200], order[1200:]
        self.inputs, self.digit = pixels, data.target

    def trained(self, net: nn.Sequential, labels: Array, seed: int, epochs: int) -> nn.Sequential:
        draw = torch.Generator().manual_seed(seed)
        x, y = torch.from_numpy(self.inputs[self.train]), torch.from_numpy(labels[self.train])
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
        with torch_threads(1):
            for batch in (
                b for _ in range(epochs) for b in torch.randperm(1200, generator=draw).split(64)
            ):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
                optimiser.step()
        return net

    def accuracy(self, output: Array, labels: Array) -> float:
        return float((output.argmax(1) == labels[self.test]).mean())


def _net(seed: int, classes: int = 10, trunk: nn.Sequential | None = None) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(),
                        nn.Linear(48, classes))  # fmt: skip
    if trunk is not None:
        for mine, theirs in zip(net[:4], trunk[:4], strict=True):
            mine.load_state_dict(theirs.state_dict())
    return net


def _onnx(net: nn.Sequential, folder: Path) -> ModelProto:
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    widths = [layer.in_features for layer in layers] + [layers[-1].out_features]
    path = mlp_classifier(folder / "m", features=64, hidden=widths[1:-1], classes=widths[-1])
    arrays = {}
    for i, layer in enumerate(layers):
        arrays[f"w{i}"] = layer.weight.detach().numpy().T.copy()
        arrays[f"b{i}"] = layer.bias.detach().numpy()
    return with_weights(onnx.load(path), arrays)


@pytest.fixture(scope="module")
def digits() -> _Digits:
    return _Digits()


@pytest.fixture(scope="module")
def base(digits: _Digits) -> nn.Sequential:
    return digits.trained(_net(0), digits.digit, 0, 12)


def _averaged(models: list[ModelProto]) -> ModelProto:
    """As if units had an order."""
    sides = [_weights(model) for model in models]
    return with_weights(models[0], {n: sum(s[n] for s in sides) / len(sides) for n in sides[0]})


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_two_fine_tunings_keep_their_accuracy_where_plain_averaging_loses_it(
    method: Method, digits: _Digits, base: nn.Sequential, tmp_path: Path
) -> None:
    models = []
    for seed in (1, 2):
        net = _net(seed)
        net.load_state_dict(base.state_dict())
        models.append(_onnx(digits.trained(net, digits.digit, seed, 4), tmp_path))
    models[1] = shuffled(models[1], 5)
    samples = digits.inputs[digits.train[:500]] if method == "activations" else None
    merged = merge(
        {"a": models[0], "b": models[1]},
        heads="averaged",
        inputs=None if samples is None else [samples],
    )
    test = [digits.inputs[digits.test]]

    def accuracy(model: ModelProto) -> float:
        return digits.accuracy(answers(model, test)[0], digits.digit)

    alone = min(accuracy(model) for model in models)
    assert alone > 0.93
    assert accuracy(merged.model) >= alone - 0.01
    assert accuracy(_averaged(models)) < alone - 0.2
    assert merged.moved > 60


def test_tasks_learned_from_one_net_get_a_merged_trunk_and_keep_their_heads(
    digits: _Digits, base: nn.Sequential, tmp_path: Path
) -> None:
    tasks = {"digit": digits.digit, "parity": digits.digit % 2, "large": digits.digit // 5}
    models = {}
    for seed, (task, labels) in enumerate(tasks.items()):
        net = _net(seed, int(labels.max()) + 1, base)
        model = _onnx(digits.trained(net, labels, seed, 3), tmp_path)
        models[task] = shuffled(model, seed) if seed else model
    merged = merge(models).model
    assert [node.op_type for node in merged.graph.node].count("Gemm") == 2 + 3
    assert [output.name for output in merged.graph.output] == [f"{t}/logits" for t in tasks]
    trunk = _weights(_averaged([_without_head(model) for model in models.values()]))
    plain = [with_weights(model, trunk) for model in models.values()]
    test = [digits.inputs[digits.test]]
    ours, theirs, alone = (
        [digits.accuracy(a, labels) for a, labels in zip(found, tasks.values(), strict=True)]
        for found in (
            answers(merged, test),
            [answers(model, test)[0] for model in plain],
            [answers(model, test)[0] for model in models.values()],
        )
    )
    assert min(alone) > 0.9
    assert np.mean(ours) > np.mean(alone) - 0.15  # three tasks pull one trunk three ways
    assert np.mean(ours) > np.mean(theirs) + 0.15


def _without_head(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    kept = [t for t in model.graph.initializer if not t.name.endswith("2")]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def test_a_trunk_in_common_is_kept_bit_by_bit_whatever_its_order(tmp_path: Path) -> None:
    """Averages of equal numbers are those numbers, so every task answers as before."""
    trunk = _net(0)
    models = {f"t{k}": _onnx(_net(k, 3 + k, trunk), tmp_path) for k in range(3)}
    given = {task: shuffled(model, i) for i, (task, model) in enumerate(models.items())}
    merged = merge({"t0": models["t0"], "t1": given["t1"], "t2": given["t2"]})
    inputs = [np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)]
    for model, made in zip(models.values(), answers(merged.model, inputs), strict=True):
        assert np.allclose(answers(model, inputs)[0], made, rtol=0, atol=1e-6)
    kept = _weights(merged.model)
    assert np.array_equal(kept["t0/w0"], _weights(models["t0"])["w0"])


def test_convolutional_and_attention_trunks_are_merged_too() -> None:
    for family in ("resnet", "vit"):
        model = exported(family, 0)
        merged = merge({"a": model, "b": shuffled(model, 2)})
        truth = answers(model, inputs_of(family))[0]
        for made in answers(merged.model, inputs_of(family)):
            assert np.allclose(made, truth, rtol=0, atol=1e-5 * np.abs(truth).max())
        convs = [node.op_type for node in merged.model.graph.node].count("Conv")
        assert convs == [node.op_type for node in model.graph.node].count("Conv")


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [((16, 8), r"operator 3 is Gemm .*\(16x16\) in one and Gemm .*\(16x8\) in the other"),
     ((16,), "has 2 operators more")],
)  # fmt: skip
def test_other_architectures_are_refused_with_where_they_differ(
    hidden: tuple[int, ...], reason: str, tmp_path: Path
) -> None:
    models = {
        name: onnx.load(mlp_classifier(tmp_path / name, hidden=widths))
        for name, widths in (("first", (16, 16)), ("second", hidden))
    }
    for one, other in pairwise([*models, "first"]):
        assert one != other
    with pytest.raises(AnalysisError, match="'first' and 'second' are not of one architecture"):
        merge(models)
    with pytest.raises(AnalysisError, match=reason):
        merge(models)


def test_other_inputs_and_other_heads_are_refused_where_they_matter(tmp_path: Path) -> None:
    plain, wide, image = (
        onnx.load(mlp_classifier(tmp_path / "a")),
        onnx.load(mlp_classifier(tmp_path / "b", classes=7)),
        onnx.load(conv_classifier(tmp_path / "c")),
    )
    with pytest.raises(AnalysisError, match="operator 1 is Gemm"):
        merge({"a": plain, "c": image})
    with pytest.raises(AnalysisError, match="operator 5"):
        merge({"a": plain, "b": wide}, heads="averaged")
    assert len(merge({"a": plain, "b": wide}).model.graph.output) == 2
    lone = [tiny_classifier(tmp_path / f"lone{i}.onnx", seed=i) for i in (0, 1)]
    with pytest.raises(AnalysisError, match="'a', 'b' have no trunk to average"):
        merge(dict(zip("ab", lone, strict=True)), inputs=[np.eye(4, dtype=np.float32)])
    with pytest.raises(AnalysisError, match="at least two"):
        merge({"a": plain})


def test_models_without_a_trunk_are_refused(tmp_path: Path) -> None:
    model = onnx.load(tiny_classifier(tmp_path / "t"))
    for node in model.graph.node:
        node.op_type, node.input[:] = "Add", [*node.input][:1] * 2
        del node.input[2:]
    with pytest.raises(AnalysisError, match="has no trunk"):
        merge({"a": model, "b": model})


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    model = onnx.load(mlp_classifier(tmp_path / "m"))
    graph = model.graph
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    graph.initializer.extend([scale, zero])
    first = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])
    second = onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"])
    body = list(graph.node)
    body[0].input[0] = "dq"
    del graph.node[:]
    graph.node.extend([first, second, *body])
    with pytest.raises(AnalysisError, match="'a' is quantised"):
        merge({"a": model, "b": model})
