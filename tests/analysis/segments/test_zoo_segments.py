"""Segments of real models: what a person who knows them would say they have in common."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest

from sommelier.analysis.segments import (
    NormalForm,
    assess,
    build_twin,
    candidate_pairs,
    common_segments,
    describe,
    linearise,
    normal_form,
    segment_sketch,
)
from sommelier.analysis.segments.matching import match
from tests.analysis.segments.nets import run

pytestmark = pytest.mark.zoo


def _images(zoo: Path, count: int) -> np.ndarray:  # type: ignore[type-arg]  # uint8
    with np.load(zoo / "data" / "cifar10_test.npz") as data:
        return np.asarray(data["x"][:count])


def _cifar(zoo: Path, count: int) -> np.ndarray:  # type: ignore[type-arg]  # float32
    x = _images(zoo, count) / 255.0
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.asarray(x.transpose(0, 3, 1, 2), np.float32)


@pytest.mark.parametrize(("depth", "blocks"), [(20, 3), (32, 5), (44, 7), (56, 9)])
def test_every_residual_block_of_the_ladder_is_found(zoo: Path, depth: int, blocks: int) -> None:
    form = normal_form(zoo / "onnx" / f"cifar10_resnet{depth}.onnx")
    text = describe(linearise(form), form)
    assert text.count("{Conv.Relu.Conv|skip} Add Relu") == 3 * blocks - 2
    assert text.count("Slice.Slice.Pad") == 2
    assert text.endswith("ReduceMean Gemm")


@pytest.mark.parametrize(("host", "donor"), [(56, 44), (56, 20), (44, 32), (20, 56)])
def test_the_ladder_shares_its_first_blocks_and_its_stages_fit(
    zoo: Path, host: int, donor: int
) -> None:
    names = [zoo / "onnx" / f"cifar10_resnet{depth}.onnx" for depth in (host, donor)]
    segments = common_segments(*names)
    stages = [s for s in segments if s.kind == "interface"]
    common = [s for s in segments if s.kind == "common"]
    assert len(stages) == 3
    assert len(common) == 4
    fewer = (min(host, donor) - 2) // 6
    assert common[0].host_exit == f"/layer1/layer1.{fewer - 1}/Relu_1_output_0"
    assert all(s.host_entry == t.host_exit for s, t in zip(stages[1:], stages, strict=False))
    assert not any(s.identical for s in segments)


def test_all_stages_of_the_donor_make_the_donor(zoo: Path) -> None:
    host, donor = (onnx.load(zoo / "onnx" / f"cifar10_resnet{d}.onnx") for d in (56, 44))
    segments = common_segments(host, donor)
    chosen = [s for s in segments if s.kind == "interface"] + [segments[-1]]
    twin = build_twin(host, donor, chosen)
    assert sum(n.op_type == "Conv" for n in twin.graph.node) == 43
    x = _cifar(zoo, 8)
    np.testing.assert_allclose(run(twin, x)[0], run(donor, x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("host", "donor"),
    [("ic_resnet8", "ic_resnet8_int8"), ("resnet_large_f", "ic_resnet_large_int8")],
)
def test_a_float_model_and_its_int8_version_are_the_same_operators(
    zoo: Path, host: str, donor: str
) -> None:
    files = [zoo / "onnx" / f"{name}.onnx" for name in (host, donor)]
    common = common_segments(*files, kinds=["common"])
    convolutions = [n for s in common for n in s.host_nodes if "Conv2D" in n or "conv2d" in n]
    assert len(convolutions) >= 9
    assert sum(s.flops or 0 for s in common) == pytest.approx(
        sum(s.donor_flops or 0 for s in common)
    )
    name = onnx.load(files[0]).graph.input[0].name
    inputs = {name: _images(zoo, 128).astype(np.float32)}
    found = assess(*files, common, inputs, threshold=0.05)
    assert found.chosen == tuple(s.name for s in common)
    assert found.measured < 0.05


def test_versions_with_other_labels_share_all_but_the_head(zoo: Path) -> None:
    files = [zoo / "onnx" / f"magika_standard_v2_{n}.onnx" for n in (0, 1)]
    common = common_segments(*files, kinds=["common"])
    head = 0.141  # share of the parameters in the last layer, which has another number of labels
    total = sum(normal_form(files[0]).params)
    assert sum(s.params or 0 for s in common) / total == pytest.approx(1 - head, abs=0.01)


def test_face_detectors_differ_in_one_module_which_can_be_exchanged(zoo: Path) -> None:
    files = [zoo / "onnx" / f"version-{name}-320.onnx" for name in ("RFB", "slim")]
    segments = common_segments(*files)
    priors = segments[-1]
    assert (priors.host_exit, priors.identical) == ("boxes", True)
    module = min((s for s in segments if s.kind == "interface"), key=lambda s: s.operators)
    assert len(module.host_nodes) > len(module.donor_nodes)
    twin = build_twin(*files, [module])
    x = np.random.default_rng(0).standard_normal((1, 3, 240, 320)).astype(np.float32)
    shapes = [value.shape for value in run(twin, x)]
    assert shapes == [value.shape for value in run(onnx.load(files[0]), x)]


@pytest.mark.parametrize(
    "name",
    ["FastestDet", "fsanet-var-iter-688590", "yunet_n_320_320", "magika_standard_v3_3",
     "ic_resnet8", "version-slim-320", "ic_resnet8_int8", "mnv2_10_224q"],
)  # fmt: skip
def test_the_twin_of_a_real_model_with_itself_answers_bit_by_bit_the_same(
    zoo: Path, name: str
) -> None:
    model = onnx.load(zoo / "onnx" / f"{name}.onnx")
    segments = common_segments(model, model)
    assert all(segment.identical for segment in segments)
    twin = build_twin(model, model, segments)
    value = model.graph.input[0].type.tensor_type
    shape = [d.dim_value or 1 for d in value.shape.dim]
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.elem_type)
    x = (np.random.default_rng(0).random(shape) * 100).astype(kind)
    for ours, theirs in zip(run(twin, x), run(model, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sketches_find_the_pairs_that_comparing_all_of_them_finds(zoo: Path) -> None:
    files = {path.stem: path for path in sorted((zoo / "onnx").glob("*.onnx"))}
    forms = {
        name: normal_form(path, drop_quantisation=True, any_size=True)
        for name, path in files.items()
    }
    candidates = set(candidate_pairs({n: segment_sketch(path) for n, path in files.items()}))
    shares = {(a, b): _shared(forms[a], forms[b]) for a, b in combinations(sorted(forms), 2)}
    much = {pair for pair, share in shares.items() if share >= 0.3}
    some = {pair for pair, share in shares.items() if share >= 0.1}
    assert len(much) >= 25
    assert much <= candidates
    assert len(some & candidates) >= 0.95 * len(some)
    assert len(candidates) < 0.5 * len(shares)


def _shared(host: NormalForm, donor: NormalForm) -> float:
    """Share of the host's FLOPs or parameters, whichever is more, in common operators."""
    blocks = [block for run_ in match(host, donor).runs for block in run_]
    operators = [i for block in blocks for i, _ in block.pairs if host.operators[i].slots]
    flops = sum(f or 0.0 for f in host.flops) or 1.0
    return max(
        sum(host.flops[i] or 0.0 for i in operators) / flops,
        sum(host.params[i] for i in operators) / sum(host.params),
    )
