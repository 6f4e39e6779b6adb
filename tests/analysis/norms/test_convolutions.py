"""Norms of convolutions are never below the exact ones, and close to them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from sommelier.analysis.norms import (
    Window,
    convolution_norm,
    convolution_transpose_norm,
    lower_estimate,
    window_norm,
)
from sommelier.analysis.norms.convolutions import (
    polyphase,
    reduced_axes,
    reduced_norm,
    symbol_bound,
)
from sommelier.analysis.norms.unfoldings import schur_bound, unfolding_bound
from sommelier.analysis.norms.values import reduced
from sommelier.errors import AnalysisError
from tests.analysis.norms.exact import Case, adjoint_case, exact_norm, operator_matrix, random_case

ROUNDING = 1 - 1e-9  # of LAPACK's singular values, against which ours may be equal
TRIALS = 100


def kernels_of(case: Case) -> tuple[torch.Tensor, tuple]:
    window = case.window.resolved(case.weight.shape)
    axes = reduced_axes(case.weight.shape, window)
    grouped = torch.from_numpy(case.weight).double().unflatten(0, (window.groups, -1))
    return polyphase(grouped, axes), axes


def kernel_matrix_norm(case: Case) -> float:
    """||R||: the weight as one matrix, which the paper takes for the norm."""
    per_group = case.weight.astype(np.float64).reshape(
        case.window.groups, -1, np.prod(case.weight.shape[1:])
    )
    return float(np.linalg.norm(per_group, 2, axis=(1, 2)).max())


def a_whole_patch_fits(case: Case) -> bool:
    """Whether some output reads no padding, so that the kernel matrix is part of the operator."""
    window = case.window
    assert window.spatial is not None
    return all(
        -(-window.pads[i] // stride) * stride - window.pads[i] + dilation * (kernel - 1) < size
        for i, (stride, dilation, kernel, size) in enumerate(
            zip(
                window.strides, window.dilations, case.weight.shape[2:], window.spatial,
                strict=True,
            )
        )
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(TRIALS))
def test_every_bound_of_a_random_convolution_is_above_its_exact_norm(seed: int) -> None:
    case = random_case(np.random.default_rng(seed))
    exact = exact_norm(case)
    power = lower_estimate(case.weight, case.window, steps=100)
    ours = window_norm(case.weight, case.window)
    kernels, axes = kernels_of(case)
    torus, method = reduced_norm(kernels, axes, effort=math.inf)
    assert method in ("torus", "grid", "dense")
    if a_whole_patch_fits(case):
        assert kernel_matrix_norm(case) <= exact / ROUNDING
    assert power.value <= exact / ROUNDING
    assert exact * ROUNDING <= ours.value
    assert ours.certified
    assert exact * ROUNDING <= torus
    assert exact * ROUNDING <= unfolding_bound(kernels)
    assert exact * ROUNDING <= schur_bound(kernels)
    assert exact * ROUNDING <= window_norm(case.weight, Window.of(
        None, case.window.strides, case.window.pads, case.window.dilations,
        groups=case.window.groups)).value  # fmt: skip
    assert ours.value <= (1.01 if ours.method == "explicit" else 1.2) * exact


@pytest.mark.parametrize("seed", range(40))
def test_a_transposed_convolution_is_bounded_too(seed: int) -> None:
    case = random_case(np.random.default_rng(1000 + seed))
    there = adjoint_case(case)
    if any(
        extra >= max(stride, dilation)
        for extra, stride, dilation in zip(
            there.window.output_padding, there.window.strides, there.window.dilations, strict=True
        )
    ):
        pytest.skip("ONNX Runtime refuses this output_padding")
    exact = exact_norm(there)
    assert exact == pytest.approx(exact_norm(case), rel=1e-9)
    window = there.window
    found = convolution_transpose_norm(
        there.weight, spatial=window.spatial, strides=window.strides, pads=window.pads,
        dilations=window.dilations, groups=window.groups, output_padding=window.output_padding,
    )  # fmt: skip
    assert exact * ROUNDING <= found.value <= 1.2 * exact
    assert lower_estimate(there.weight, window).value <= exact / ROUNDING


def random_kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# algorithms.md B.3: name -> weight, size, attributes.
NAMED = {
    "3x3": (random_kernel(16, 8, 3, 3), (8, 8), {"pads": (1,) * 4}),
    "3x3, stride 2": (random_kernel(16, 8, 3, 3), (8, 8), {"strides": (2, 2), "pads": (1,) * 4}),
    "positive 5x5": (np.abs(random_kernel(8, 4, 5, 5)), (12, 12), {"pads": (2,) * 4}),
    "dilated": (random_kernel(8, 4, 3, 3), (10, 10), {"dilations": (2, 2), "pads": (1,) * 4}),
    "depthwise": (random_kernel(12, 1, 3, 3), (8, 8), {"pads": (1,) * 4, "groups": 12}),
    "4 groups": (random_kernel(16, 4, 3, 3), (8, 8), {"pads": (1,) * 4, "groups": 4}),
    "patches": (random_kernel(32, 3, 4, 4), (16, 16), {"strides": (4, 4)}),
    "7x7, stride 2": (random_kernel(16, 3, 7, 7), (24, 24), {"strides": (2, 2), "pads": (3,) * 4}),
    "1-D": (random_kernel(6, 5, 9), (40,), {"strides": (2,), "pads": (4, 4)}),
    "3-D": (random_kernel(4, 3, 3, 3, 3), (6, 6, 6), {"pads": (1,) * 6}),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_torus_is_within_a_fifth_of_the_exact_norm(name: str) -> None:
    weight, spatial, how = NAMED[name]
    case = Case(weight, Window.of(spatial, **how).resolved(weight.shape))
    exact = exact_norm(case)
    kernels, axes = kernels_of(case)
    torus, _ = reduced_norm(kernels, axes, effort=math.inf)
    assert exact * ROUNDING <= torus <= 1.2 * exact
    # ||R|| <= exact <= sqrt(N_ov) ||R||, the left of which makes the paper's norm no bound
    assert kernel_matrix_norm(case) <= exact / ROUNDING
    assert (
        unfolding_bound(kernels)
        <= math.sqrt(math.prod(axis.taps for axis in axes)) * kernel_matrix_norm(case) * 1.01
    )


def test_the_kernel_as_a_matrix_misses_two_thirds_of_the_norm_of_ones() -> None:
    ones = Case(np.ones((1, 1, 3, 3), np.float32), Window((16, 16), (1, 1), (1,) * 4, (1, 1)))
    assert kernel_matrix_norm(ones) == pytest.approx(3)
    assert exact_norm(ones) == pytest.approx(8.80, abs=0.01)
    assert 8.79 < convolution_norm(ones.weight, spatial=(16, 16), pads=(1,) * 4).value < 8.9
    assert 9 <= convolution_norm(ones.weight, spatial=None, pads=(1,) * 4).value < 9.2


def test_a_bound_for_every_size_is_approached_by_large_maps() -> None:
    weight = random_kernel(4, 3, 3, 3)
    everywhere = convolution_norm(weight, spatial=None).value
    sizes = [
        lower_estimate(weight, Window((n, n), pads=(1,) * 4), steps=150).value for n in (4, 12, 36)
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= everywhere <= 1.08 * sizes[-1]


def test_strides_and_dilations_with_a_common_factor_leave_a_smaller_convolution() -> None:
    # stride 2 of dilation 2 reads every second sample: a plain convolution of half the map
    weight = random_kernel(5, 4, 3, 3)
    thinned = convolution_norm(
        weight, spatial=(17, 17), strides=(2, 2), dilations=(2, 2), pads=(2,) * 4
    )
    plain = convolution_norm(weight, spatial=(9, 9), pads=(1,) * 4)
    assert thinned.value == pytest.approx(plain.value, rel=0.01)


def test_less_effort_gives_a_looser_bound_and_names_it() -> None:
    weight = random_kernel(32, 32, 3, 3)
    found = [
        convolution_norm(weight, spatial=(40, 40), pads=(1,) * 4, effort=effort)
        for effort in (100.0, 0.003, 0.0)
    ]
    assert [norm.method for norm in found] == ["grid", "grid", "unfolding"]
    values = [norm.value for norm in found]
    assert values == sorted(values)
    assert lower_estimate(weight, Window((40, 40), pads=(1,) * 4)).value < values[0]
    assert values[-1] < 2 * values[0]


def test_a_pointwise_convolution_is_a_matrix() -> None:
    weight = random_kernel(24, 16, 1, 1)
    found = convolution_norm(weight, spatial=(20, 20))
    assert found.method == "dense"
    exact = np.linalg.norm(weight[:, :, 0, 0].astype(np.float64), 2)
    assert exact * ROUNDING <= found.value <= 1.01 * exact


def test_huge_and_tiny_weights_keep_their_ratio() -> None:
    weight = random_kernel(4, 3, 3, 3).astype(np.float64)
    usual = convolution_norm(weight, spatial=None).value
    for scale in (1e-300, 1e-30, 1e30, 1e290):
        assert convolution_norm(weight * scale, spatial=None).value == pytest.approx(usual * scale)


def test_zero_weights_have_norm_zero() -> None:
    found = convolution_norm(np.zeros((4, 3, 3, 3), np.float32), spatial=(8, 8))
    assert (found.value, found.certified, found.method) == (0.0, True, "zero")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weight = random_kernel(4, 3, 3, 3)
    weight[1, 2, 0, 0] = bad
    with pytest.raises(AnalysisError, match="NaN or infinity"):
        convolution_norm(weight, spatial=(8, 8))
    with pytest.raises(AnalysisError, match="NaN or infinity"):
        lower_estimate(weight, Window((8, 8)))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"spatial": (2, 2)}, "does not fit an input of 2"),
        ({"spatial": (8, 8), "strides": (1,)}, "do not all fit"),
        ({"spatial": (8, 8, 8)}, "do not all fit"),
        ({"spatial": (8, 8), "groups": 3}, "3 groups"),
        ({"spatial": (8, 8), "strides": (0, 1)}, "no convolution"),
    ],
)
def test_windows_that_do_not_fit_say_why(how: dict, said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        convolution_norm(random_kernel(4, 3, 3, 3), **how)


def test_the_reference_applies_the_operator_to_unit_vectors() -> None:
    case = Case(np.array([[[1.0, 2.0]]], np.float32), Window((3,), (1,), (0, 0), (1,)))
    assert operator_matrix(case).tolist() == [[1, 0], [2, 1], [0, 2]]


def test_a_map_smaller_than_its_kernel_is_written_out() -> None:
    weight = random_kernel(384, 384, 3, 3)  # more elements than SMALL, and a torus of 3 by 3
    found = convolution_norm(weight, spatial=(2, 2), pads=(1,) * 4)
    below = lower_estimate(weight, Window((2, 2), pads=(1,) * 4), steps=100)
    assert found.method == "explicit"
    assert below.value <= found.value <= 1.02 * below.value


def test_no_torus_is_too_short_for_its_padding() -> None:
    # Differences are the kernels that a wrong wrap weakens: exhaust sizes, pads, strides, dilations
    kernels = [[1, -1], [1, 0, -1], [1, 1, -1], [1, -1, 1], [1, -2, 1], [-1, 1, 1, 1]]
    places = itertools.product(kernels, range(1, 7), range(4), range(4), (1, 2, 3), (1, 2))
    checked = 0
    for kernel, size, begin, end, stride, dilation in places:
        reach = dilation * (len(kernel) - 1)
        if size + begin + end <= reach:
            continue
        outputs = (size + begin + end - reach - 1) // stride + 1
        matrix = np.zeros((outputs, size + begin + end))
        for j, (k, tap) in itertools.product(range(outputs), enumerate(kernel)):
            matrix[j, stride * j + dilation * k] = tap
        exact = np.linalg.norm(matrix[:, begin : begin + size], 2)
        axis = reduced(len(kernel), stride, dilation, (begin, end), size)
        weight = torch.tensor(kernel, dtype=torch.float64).reshape(1, 1, 1, -1)
        parts = polyphase(weight, [axis])
        assert axis.torus is not None
        torus = symbol_bound(parts, (1 if axis.taps == 1 else axis.torus,))
        assert exact * ROUNDING <= torus, (kernel, size, begin, end, stride, dilation)
        checked += 1
    assert checked > 2900
