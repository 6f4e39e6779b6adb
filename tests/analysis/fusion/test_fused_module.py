"""Fused modules: as good as the originals before, and what every mutation makes of them."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from sommelier.analysis.fusion import AbsGraph, FusedModule, NodeId, Pair, linearised, to_onnx
from sommelier.analysis.fusion.generator import compared, written
from sommelier.analysis.fusion.rescale import ChannelMap, adapter_model
from sommelier.analysis.profiling import profile
from sommelier.errors import AnalysisError
from tests.analysis.fusion.models import PICTURE, in_blocks, protos, samples
from tests.analysis.fusion.nets import Array, Vgg, export, images, run

FAMILIES = ["digits", "vgg", "cnn", "vit", "bert"]


def _tensors(arrays: list[Array]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def _answers(module: FusedModule, arrays: list[Array]) -> list[Array]:
    with torch.no_grad():
        return [out.numpy() for out in module(*_tensors(arrays))]


def _mutated(family: str, seed: int, steps: int) -> FusedModule:
    """After random mutations, each with its maps fitted."""
    rng, module = random.Random(seed), FusedModule.original(in_blocks(family))
    for _ in range(steps):
        pairs = module.graph.input_shareable_pairs(similar=False)
        if pairs:
            graph = module.graph.mutate(rng.choice(pairs))
            module = module.mutated(graph, _tensors(samples(family)))
    return module


def _pair(host: tuple[int, int], guest: tuple[int, int]) -> Pair:
    return Pair(NodeId(*host), NodeId(*guest))


@pytest.mark.parametrize("family", FAMILIES)
def test_unmutated_it_answers_as_the_original_models(family: str) -> None:
    module = FusedModule.original(in_blocks(family))
    feed = samples(family, 4)
    found = _answers(module, feed)
    assert [task for task, _ in module.outputs] == list(protos(family))
    for answer, model in zip(found, protos(family).values(), strict=True):
        names = [value.name for value in model.graph.input]
        alone = [
            run(model, {n: x[i : i + 1] for n, x in zip(names, feed, strict=True)})[0]
            for i in range(4)
        ]
        truth = np.concatenate(alone)
        assert np.abs(answer - truth).max() <= 1e-5 * max(1.0, float(np.abs(truth).max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_written_model_answers_as_the_module_after_any_mutations(family: str) -> None:
    for seed in range(6):
        module = _mutated(family, seed, seed % 3 + 1)
        model = to_onnx(module, samples(family, 5))
        differences = compared(module, model, samples(family, 3))
        assert list(differences) == [f"{task}/{name}" for task, name in module.outputs]
        assert max(differences.values()) < 1e-4
        costs = profile(model)
        assert costs.flops == pytest.approx(module.graph.flops, rel=1e-12)
        scalars = sum(
            int(np.prod(t.dims))
            for t in model.graph.initializer
            if np.prod(t.dims) <= 1 or t.data_type != 1
        )
        assert 0 <= costs.params - module.graph.params <= scalars


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_that_read_what_they_read_before_keep_their_weights(family: str) -> None:
    base = FusedModule.original(in_blocks(family))
    rng = random.Random(3)
    graph = base.graph.mutate(rng.choice(base.graph.input_shareable_pairs()))
    made = base.mutated(graph, _tensors(samples(family)))
    for node in graph.nodes:
        if graph.parents[node] == base.graph.parents[node]:
            ours, theirs = made.step(node).state_dict(), base.step(node).state_dict()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1.0)
    before = FusedModule.original(in_blocks(family))
    kept = zip(base.parameters(), before.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in kept)  # copies: the base is not trained with it


@pytest.mark.parametrize("family", FAMILIES)
def test_a_module_is_restored_from_its_edges_and_weights(family: str) -> None:
    module = _mutated(family, 5, 3)
    original = AbsGraph.original(in_blocks(family))
    graph = original.with_edges(module.graph.edges())
    found = FusedModule.restored(graph, in_blocks(family), copy.deepcopy(module.state_dict()))
    for a, b in zip(
        _answers(found, samples(family)), _answers(module, samples(family)), strict=True
    ):
        assert np.array_equal(a, b)


def _permuted(model: ModelProto, order: list[int], scale: Array) -> ModelProto:
    """The same function with the channels of its second convolution in another order and scale:
    its features are a linear map of the original's, since scales are positive."""
    found = copy.deepcopy(model)
    stored = {t.name: t for t in found.graph.initializer}
    convs = [node for node in found.graph.node if node.op_type == "Conv"]

    def replace(name: str, array: Array) -> None:
        stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    weight, bias = (numpy_helper.to_array(stored[name]) for name in convs[1].input[1:3])
    replace(convs[1].input[1], weight[order] * scale[:, None, None, None])
    replace(convs[1].input[2], bias[order] * scale)
    following = numpy_helper.to_array(stored[convs[2].input[1]])
    replace(convs[2].input[1], following[:, order] / scale[None, :, None, None])
    return found


def _twins() -> dict[str, ModelProto]:
    torch.manual_seed(1)
    model = export(Vgg([8, 8, 12], [0], 5), (PICTURE,), exporter="torchscript")
    scale = np.linspace(0.5, 2.0, 8).astype(np.float32)
    return {"a": model, "b": _permuted(model, [3, 1, 0, 2, 7, 6, 5, 4], scale)}


def test_features_that_are_linearly_related_are_fused_without_loss() -> None:
    module = FusedModule.original({task: linearised(m) for task, m in _twins().items()})
    graph = module.graph.mutate(_pair((0, 2), (1, 2)))
    made = module.mutated(graph, _tensors([images(128)]))
    fresh = [images(32, seed=9)]
    truth, found = _answers(module, fresh), _answers(made, fresh)
    assert made.residuals[NodeId(1, 2)] < 1e-6
    assert np.array_equal(found[0], truth[0])
    assert np.abs(found[1] - truth[1]).max() < 1e-4 * np.abs(truth[1]).max()
    assert graph.flops < module.graph.flops
    shapes = module.step(NodeId(1, 2)).state_dict().items()
    assert all(made.step(NodeId(1, 2)).state_dict()[key].shape == v.shape for key, v in shapes)


def test_reading_ones_own_features_again_changes_nothing() -> None:
    same = _twins()["a"]
    module = FusedModule.original({"a": linearised(same), "b": linearised(same)})
    made = module.mutated(module.graph.mutate(_pair((0, 2), (1, 2))), _tensors([images(128)]))
    fresh = [images(16, seed=9)]
    a, b = _answers(made, fresh)
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_least_squares_lose_less_than_random_maps(family: str) -> None:
    module = FusedModule.original(in_blocks(family))
    pairs = module.graph.input_shareable_pairs()
    given, fresh = _tensors(samples(family)), samples(family, 32)
    exits, truth = module.exits(given), _answers(module, fresh)
    errors: dict[str, list[float]] = {"least_squares": [], "random": []}
    for pair in random.Random(0).sample(pairs, 12):
        graph = module.graph.mutate(pair)
        for how in ("least_squares", "random"):
            made = module.mutated(graph, given, initialise=how, exits=exits)
            answers = _answers(made, fresh)
            task = pair.guest.task_id
            errors[how].append(float(((answers[task] - truth[task]) ** 2).mean()))
    better = [a < b for a, b in zip(errors["least_squares"], errors["random"], strict=True)]
    assert np.mean(better) >= 0.75
    assert np.median(errors["least_squares"]) < 0.5 * np.median(errors["random"])


@pytest.mark.parametrize(
    ("family", "host", "guest"),
    [
        ("digits", (0, 2), (1, 3)),  # a padded convolution
        ("digits", (0, 4), (2, 3)),  # a head behind a mean
        ("vgg", (0, 2), (1, 2)),  # a head behind flattening
        ("cnn", (2, 2), (0, 3)),  # two convolutions, one in the skip
        ("vit", (0, 3), (1, 5)),  # a head behind the choice of the class token
        ("bert", (0, 3), (1, 5)),
    ],
)
def test_folded_and_unfolded_maps_are_the_same_function(
    family: str, host: tuple[int, int], guest: tuple[int, int]
) -> None:
    module = FusedModule.original(in_blocks(family))
    graph = module.graph.mutate(_pair(host, guest))
    node = NodeId(*guest)
    block, reads = graph.blocks[node], graph.reads(node)
    assert block.absorbers
    shifted = all(a.bias is not None for a in block.absorbers)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((reads.channels, block.takes.channels)).astype(np.float32)
    shift = rng.standard_normal(block.takes.channels).astype(np.float32) * shifted
    channels = ChannelMap(matrix, shift, 0.0)
    apart, folded = (module.mutated(graph, None) for _ in range(2))
    apart.steps[f"{node.task_id}_{node.op_id}"] = module.step(node).clone()
    apart.step(node).adapt(
        adapter_model(reads, block.takes, channels, opset=module.opset, image=module.image)
    )
    folded.steps[f"{node.task_id}_{node.op_id}"] = module.step(node).clone()
    folded.step(node).fold(channels)
    if reads.sides != block.takes.sides:
        folded.step(node).adapt(
            adapter_model(reads, block.takes, None, opset=module.opset, image=module.image)
        )
    a, b = (_answers(m, samples(family, 16))[node.task_id] for m in (apart, folded))
    assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_a_block_may_change_its_host_again_and_again() -> None:
    module = FusedModule.original(in_blocks("digits"))
    given = _tensors(samples("digits"))
    for host in ((0, 2), (2, 1), (0, 3)):
        module = module.mutated(module.graph.mutate(_pair(host, (1, 3))), given)
        assert list(module.residuals) == [NodeId(1, 3)]
        assert max(compared(module, written(module), samples("digits", 3)).values()) < 1e-4
    weights = {k: v.shape for k, v in module.step(NodeId(1, 3)).program.weights.items()}
    assert (32, 48, 3, 3) in weights.values()  # it reads 48 channels where it had 32


def test_known_exits_give_the_same_module() -> None:
    module = FusedModule.original(in_blocks("cnn"))
    given = _tensors(samples("cnn"))
    exits = module.exits(given)
    for pair in random.Random(1).sample(module.graph.input_shareable_pairs(), 5):
        graph = module.graph.mutate(pair)
        one, two = module.mutated(graph, given), module.mutated(graph, given, exits=exits)
        found = zip(one.parameters(), two.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in found)


def test_training_moves_weights_and_leaves_statistics_and_matrices() -> None:
    module = FusedModule.original(in_blocks("vgg"))
    graph = module.graph.mutate(_pair((0, 2), (2, 2)))  # 16 to 8 pixels
    made = module.mutated(graph, _tensors(samples("vgg")))
    state = copy.deepcopy(made.state_dict())
    constants = {
        name: value.clone()
        for step in made.steps.values()
        for name, value in step.program._constants.items()  # type: ignore[union-attr,operator]  # ModuleDict forgets types
    }
    made.train()
    optimiser = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], 1e-2)
    loss = sum((out.square().mean() for out in made(*_tensors(samples("vgg")))), torch.zeros(()))
    loss.backward()
    optimiser.step()
    after = dict(made.named_parameters())
    learned = [k for k, p in after.items() if p.requires_grad]
    assert learned
    assert all(not torch.equal(state[key], after[key]) for key in learned)
    for step in made.steps.values():
        for name, value in step.program._constants.items():  # type: ignore[union-attr,operator]  # as above
            assert torch.equal(value, constants[name])
    assert max(compared(made, written(made), samples("vgg", 3)).values()) < 1e-4


def test_dead_blocks_are_not_written() -> None:
    module = FusedModule.original(in_blocks("digits"))
    made = module.mutated(module.graph.mutate(_pair((0, 4), (1, 4))), _tensors(samples("digits")))
    model = written(made)
    owners = [node.name.split("/")[0] for node in model.graph.node if node.op_type == "Conv"]
    assert owners.count("digit1") == 1
    assert owners.count("digit0") == 5
    read = {name for node in model.graph.node for name in node.input}
    assert {t.name for t in model.graph.initializer} <= read


def test_the_batch_of_the_written_model_is_open() -> None:
    model = to_onnx(_mutated("cnn", 2, 2), samples("cnn", 2))
    for count in (1, 3, 7):
        outputs = run(model, {model.graph.input[0].name: samples("cnn", count)[0]})
        assert all(len(out) == count for out in outputs)


def test_a_graph_that_was_left_behind_is_refused() -> None:
    module = FusedModule.original(in_blocks("digits"))
    made = module.mutated(module.graph.mutate(_pair((0, 2), (1, 2))), None)
    with pytest.raises(AnalysisError, match=r"has lost: 1\.0, 1\.1"):
        made.mutated(module.graph, None)


def test_models_of_different_opsets_are_refused() -> None:
    models = {
        str(opset): linearised(export(Vgg([8], [0], 3), (PICTURE,), opset=opset))
        for opset in (18, 20)
    }
    with pytest.raises(AnalysisError, match="different opsets: 18 18, 20 20"):
        FusedModule.original(models)


def test_a_written_model_that_answers_otherwise_is_refused() -> None:
    class Wrong(FusedModule):
        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(out * 1.001 for out in super().forward(*inputs))

    with pytest.raises(AnalysisError, match=r"differs from ONNX Runtime by 0\.001"):
        to_onnx(Wrong.original(in_blocks("digits")), samples("digits", 2))


def test_inputs_of_other_names_belong_together_by_their_order() -> None:
    module = FusedModule.original(in_blocks("bert"))
    assert module.inputs == ("ids", "mask")
    assert module.renamed[1] == {"ids": "i", "mask": "m"}


def test_importing_fusion_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, sommelier.analysis.fusion as f; f.AbsGraph, f.linearised, f.drawn;"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_modules_of_torch_are_what_they_say() -> None:
    module = FusedModule.original(in_blocks("digits"))
    assert isinstance(module, nn.Module)
    assert not module.training
    assert sum(p.numel() for p in module.parameters()) == module.graph.params


@pytest.mark.parametrize("family", FAMILIES)
def test_several_pairs_of_one_pass_are_fitted_together(family: str) -> None:
    module = FusedModule.original(in_blocks(family))
    for seed in range(3):
        pairs = random.Random(seed).sample(module.graph.input_shareable_pairs(), 4)
        graph, applied = module.graph.mutation_pass(pairs)
        made = module.mutated(graph, _tensors(samples(family)))
        assert 1 <= len(applied) <= 4
        assert set(made.residuals) <= {pair.guest for pair in applied}
        assert all(0 <= r < 1.5 for r in made.residuals.values())
        assert max(compared(made, written(made), samples(family, 3)).values()) < 1e-4


class _TwoOutputs(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.classes, self.box = nn.Linear(8, classes), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.trunk(x).relu().mean((2, 3))
        return self.classes(pooled), self.box(pooled)


def test_all_outputs_of_a_task_are_kept() -> None:
    torch.manual_seed(0)
    nets = {"two": _TwoOutputs(5), "one": Vgg([8, 8], [0], 3)}
    protos = {
        "two": export(nets["two"], (PICTURE,), exporter="torchscript", outputs=("score", "box")),
        "one": export(nets["one"], (PICTURE,), exporter="torchscript"),
    }
    module = FusedModule.original({task: linearised(model) for task, model in protos.items()})
    assert module.outputs == (("two", "score"), ("two", "box"), ("one", "y"))
    pair = _pair((1, 1), (0, 1))
    made = module.mutated(module.graph.mutate(pair), _tensors([images(64)]))
    model = to_onnx(made, [images(3)])
    assert [value.name for value in model.graph.output] == ["two/score", "two/box", "one/y"]
    x = images(4, seed=5)
    with torch.no_grad():
        truth = [*nets["two"](torch.from_numpy(x)), nets["one"](torch.from_numpy(x))]
    for found, expected in zip(_answers(module, [x]), truth, strict=True):
        assert np.allclose(found, expected.numpy(), atol=1e-5)
