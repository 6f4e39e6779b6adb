"""Models in blocks: where they are cut, that nothing is lost, and batches that are opened."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

from sommelier.analysis.fusion import Blocks, linearised, linearised_together
from sommelier.analysis.profiling import profile
from sommelier.errors import AnalysisError
from tests.analysis.fusion.models import PICTURE, WORDS
from tests.analysis.fusion.nets import (
    Bert,
    Vgg,
    Vit,
    export,
    images,
    mobilenet,
    resnet,
    run,
)
from tests.factories import conv_classifier, if_subgraph_model, unbatched_classifier

WAYS = [("dynamo", False, 18), ("torchscript", False, 16), ("dynamo", True, 20),
        ("torchscript", True, 17)]  # fmt: skip
EXPECTED = {
    "vgg": ["Conv", "Conv", "Linear", "Head"],
    "resnet": ["Conv", "Residual", "Residual", "Residual", "Residual", "Head"],
    "mobilenet": ["Conv", "Residual", "Residual", "Conv", "Conv", "Region", "Conv", "Residual",
                  "Head"],
    "vit": ["Conv", "Attention", "Residual", "Attention", "Residual", "Head"],
    "bert": ["Embedding", "Attention", "Residual", "Attention", "Residual", "Linear", "Head"],
}  # fmt: skip


def _net(family: str) -> nn.Module:
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "vgg": lambda: Vgg([8, 12], [0, 1], 5, norm=True, flat=True),
        "resnet": lambda: resnet([8, 12], 4),
        "mobilenet": lambda: mobilenet([8, 12], 4),
        "vit": lambda: Vit(16, 2, 4),
        "bert": lambda: Bert(16, 2, 3),
    }
    net: nn.Module = made[family]()
    return net.eval()


@cache
def _case(family: str, way: tuple[Any, bool, int]) -> tuple[nn.Module, Blocks]:
    """A net, and its export in blocks."""
    net = _net(family)
    return net, linearised(_export(family, net, way))


def _export(family: str, net: nn.Module, way: tuple[Any, bool, int]) -> ModelProto:
    exporter, fixed, opset = way
    names = ("ids", "mask") if family == "bert" else ("x",)
    inputs = WORDS if family == "bert" else (PICTURE,)
    given = tuple(x[:1] for x in inputs) if fixed else inputs
    return export(net, given, exporter=exporter, fixed=fixed, opset=opset, names=names)


def _feed(blocks: Blocks, count: int) -> list[np.ndarray[Any, Any]]:
    if len(blocks.inputs) == 1:
        return [images(count)]
    rng = np.random.default_rng(1)
    mask = np.ones((count, 8), np.int64)
    mask[::2, 6:] = 0
    return [rng.integers(0, 20, (count, 8)), mask]


@pytest.mark.parametrize(("family", "way"), list(product(EXPECTED, WAYS)), ids=str)
def test_every_exporter_gives_the_same_blocks_and_an_open_batch(
    family: str, way: tuple[Any, bool, int]
) -> None:
    net, blocks = _case(family, way)
    assert [block.op_type for block in blocks.blocks] == EXPECTED[family]
    feed = _feed(blocks, 5)
    with torch.no_grad():
        truth: Tensor = net(*(torch.from_numpy(x) for x in feed))
    found = run(blocks.model, dict(zip(blocks.inputs, feed, strict=True)))[0]
    assert np.allclose(found, truth.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", list(EXPECTED))
def test_capacity_and_flops_of_blocks_add_up_to_the_model(family: str) -> None:
    blocks = _case(family, WAYS[0])[1]
    whole = profile(blocks.model)
    assert sum(block.flops for block in blocks.blocks) == whole.flops
    scalars = [t for t in blocks.model.graph.initializer if np.prod(t.dims) <= 1]
    shapes = [t for t in blocks.model.graph.initializer if t.data_type == 7]
    others = sum(int(np.prod(t.dims)) for t in [*scalars, *(s for s in shapes if s not in scalars)])
    capacity = sum(block.capacity for block in blocks.blocks)
    assert whole.params - others <= capacity <= whole.params


@pytest.mark.parametrize("family", list(EXPECTED))
def test_nothing_after_a_cut_reads_what_is_before_it_but_by_one_tensor(family: str) -> None:
    blocks = _case(family, WAYS[1])[1]
    nodes = blocks.graph.nodes
    side = {name for i in blocks.side for name in nodes[i].outputs}
    before: set[str] = set()
    for block, following in zip(blocks.blocks, blocks.blocks[1:], strict=False):
        before |= {name for i in block.nodes for name in nodes[i].outputs}
        after = {i for b in blocks.blocks if b.op_id > block.op_id for i in b.nodes}
        crossing = {name for i in after for name in nodes[i].inputs if name in before}
        assert crossing == {block.exit} == {following.entry}
    assert not side & before
    every = [*blocks.side, *(i for block in blocks.blocks for i in block.nodes)]
    assert sorted(every) == list(range(len(nodes)))


def test_every_weight_belongs_to_one_block() -> None:
    tied = Bert(16, 1, 20)
    tied.head.weight = tied.words.weight  # the head's matrix is the table of words
    blocks = linearised(_export("bert", tied, WAYS[0]))
    readers: dict[str, set[int]] = {}
    for block in blocks.blocks:
        for i in block.nodes:
            for name in blocks.graph.nodes[i].inputs:
                if name in blocks.graph.weights and blocks.graph.weights[name].stored > 1:
                    readers.setdefault(name, set()).add(block.op_id)
    assert all(len(found) == 1 for found in readers.values())
    head, words = blocks.blocks[-1], blocks.blocks[0]
    assert head.capacity == 20 * 16 + 20
    assert words.capacity >= 20 * 16


def test_a_head_reads_maps_and_a_stem_gives_tokens() -> None:
    cnn = _case("resnet", WAYS[0])[1].blocks
    assert cnn[-1].input_shape == (12, 8, 8)
    vit = _case("vit", WAYS[0])[1].blocks
    assert vit[0].output_shape == (17, 16)
    assert vit[-1].takes.channels == 16
    assert vit[-1].takes.sides == (17,)


def test_only_blocks_whose_entry_meets_linear_operators_absorb_maps() -> None:
    blocks = _case("resnet", WAYS[0])[1].blocks
    plain, strided, head = blocks[1], blocks[3], blocks[-1]
    assert plain.absorbers == ()  # its skip reads the entry as it is
    assert len(strided.absorbers) == 2  # a convolution in the branch and one in the skip
    assert len(head.absorbers) == 1
    assert strided.entry_capacity == 8 * 12 * 9 + 8 * 12


def test_channels_last_at_the_input_are_no_features(tmp_path: Path) -> None:
    blocks = linearised(conv_classifier(tmp_path / "m.onnx", layout="NHWC"))
    assert blocks.blocks[0].takes.channel_axis is None
    assert blocks.blocks[-1].takes.channel_axis == 0


def test_a_batch_fixed_at_several_samples_is_refused() -> None:
    model = export(Vgg([8], [0], 3), (PICTURE,), fixed=True)
    with pytest.raises(AnalysisError, match=r"first axis of input 'x' \[2, 3, 16, 16\]"):
        linearised(model)


def test_a_model_whose_samples_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="cannot be told apart") as caught:
        linearised(unbatched_classifier(tmp_path / "one.onnx"))
    assert "open batch axis" in str(caught.value.hint)


class _AcrossSamples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x - x.mean(0, keepdim=True))
        return found


def test_a_model_that_mixes_samples_is_refused() -> None:
    model = export(_AcrossSamples(), (torch.zeros(2, 4),))
    with pytest.raises(AnalysisError, match="cannot be told apart"):
        linearised(model)


def test_control_flow_and_models_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError):
        linearised(if_subgraph_model(tmp_path / "if.onnx"))
    with pytest.raises(AnalysisError, match="none of its operators has weights"):
        linearised(export(nn.ReLU(), (torch.zeros(2, 4),)))


def test_open_lengths_have_to_be_said() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.linear(x).mean(1)
            return found

    model = export(Mean(), (torch.zeros(2, 6, 4),), exporter="torchscript")
    value = model.graph.input[0].type.tensor_type.shape.dim[1]
    value.dim_param = "length"
    with pytest.raises(AnalysisError, match="lengths of length are open"):
        linearised(model)
    blocks = linearised(model, dims={"length": 5})
    assert blocks.inputs["x"][1] == (5, 4)


def test_models_of_several_opsets_are_written_in_the_newest() -> None:
    old = export(Vgg([8], [0], 3), (PICTURE,), exporter="torchscript", opset=14)
    new = export(Vgg([8], [0], 3), (PICTURE,), opset=20)
    found = linearised_together({"old": old, "new": new})
    assert {blocks.graph.opsets[""] for blocks in found.values()} == {20}
