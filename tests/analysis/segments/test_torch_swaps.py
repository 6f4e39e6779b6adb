"""Twins against the same swap done in torch, on files that torch's own exporter wrote."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from sommelier.analysis.segments import Segment, build_twin, common_segments
from tests.analysis.segments.nets import images, run

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):  # type: ignore[name-defined,misc]  # torch is found at run time
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.down = nn.Conv2d(inside, out, 1, stride) if stride > 1 or inside != out else None

    def forward(self, x):  # type: ignore[no-untyped-def]
        inner = self.second_norm(self.second(torch.relu(self.first_norm(self.first(x)))))
        return torch.relu(inner + (x if self.down is None else self.down(x)))


class Net(nn.Module):  # type: ignore[name-defined,misc]  # as above
    """stem, stages of blocks as one list of modules, and a head."""

    def __init__(self, blocks: tuple[int, int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU()]
        layers += [Block(4, 4, 1) for _ in range(blocks[0])]
        layers += [Block(4 if not i else 8, 8, 1 if i else 2) for i in range(blocks[1])]
        self.body = nn.ModuleList(layers)
        self.head = nn.Linear(8, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, x):  # type: ignore[no-untyped-def]
        for layer in self.body:
            x = layer(x)
        return self.head(x.mean((2, 3)))


def _export(net: Net, *, fold: bool = True) -> ModelProto:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(2, 3, 8, 8),), stream, dynamo=False, opset_version=17,
            do_constant_folding=fold, input_names=["x"], output_names=["y"],
            training=torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE,
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )  # fmt: skip
    return onnx.load_from_string(stream.getvalue())


def _answers(net: Net, x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]  # float32
    with torch.no_grad():
        return np.asarray(net(torch.tensor(x)))


@pytest.fixture(scope="module")
def pair() -> tuple[Net, Net, ModelProto, ModelProto, tuple[Segment, ...]]:
    host, donor = Net((2, 2), 0), Net((2, 2), 1)
    files = _export(host), _export(donor)
    return host, donor, *files, common_segments(*files, kinds=["common"], split="block")


@pytest.mark.parametrize(
    "layers",
    [range(2), range(4), range(2, 4), range(2, 5), range(4, 5), range(4, 6), range(5, 6)],
    ids=lambda r: f"{r.start}-{r.stop}",
)
@pytest.mark.parametrize("head", [False, True])
def test_a_twin_equals_the_same_swap_in_torch(
    pair: tuple[Net, Net, ModelProto, ModelProto, tuple[Segment, ...]], layers: range, head: bool
) -> None:
    """Prefixes, middles and suffixes; segments by block: stem, four residual blocks, head."""
    host, donor, host_file, donor_file, segments = pair
    places = [range(2), *(range(i, i + 1) for i in range(2, 6))]
    chosen = [s for s, place in zip(segments, places, strict=False) if set(place) <= set(layers)]
    swapped = copy.deepcopy(host)
    for i in layers:
        swapped.body[i] = donor.body[i]
    if head:
        swapped.head = donor.head
        chosen.append(segments[5])
    x = images(6, seed=3)
    twin = build_twin(host_file, donor_file, chosen)
    np.testing.assert_allclose(run(twin, x)[0], _answers(swapped, x), atol=1e-5)


def test_exports_with_and_without_folding_have_every_block_in_common(
    pair: tuple[Net, Net, ModelProto, ModelProto, tuple[Segment, ...]],
) -> None:
    host, donor, host_file, *_ = pair
    donor_file = _export(donor, fold=False)
    assert any(node.op_type == "BatchNormalization" for node in donor_file.graph.node)
    segments = common_segments(host_file, donor_file, kinds=["common"], split="block")
    assert len(segments) == 6
    x = images(4)
    swapped = copy.deepcopy(host)
    swapped.body[3] = donor.body[3]
    twin = build_twin(host_file, donor_file, [segments[2]])
    np.testing.assert_allclose(run(twin, x)[0], _answers(swapped, x), atol=1e-5)
    back = build_twin(donor_file, host_file, common_segments(donor_file, host_file))
    np.testing.assert_allclose(run(back, x)[0], _answers(host, x), atol=1e-5)


def test_a_graft_of_a_shorter_stage_equals_the_same_graft_in_torch(
    pair: tuple[Net, Net, ModelProto, ModelProto, tuple[Segment, ...]],
) -> None:
    host, _, host_file, *_ = pair
    donor = Net((1, 3), 2)
    donor_file = _export(donor, fold=False)
    first, second = common_segments(host_file, donor_file, kinds=["interface"])
    x = images(4)
    for chosen, layers in (
        ([first], [*donor.body[:3], *host.body[4:]]),
        ([second], [*host.body[:4], *donor.body[3:]]),
        ([first, second], [*donor.body]),
    ):
        grafted = copy.deepcopy(host)
        grafted.body = nn.ModuleList(layers)
        twin = build_twin(host_file, donor_file, chosen)
        np.testing.assert_allclose(run(twin, x)[0], _answers(grafted, x), atol=1e-5)
