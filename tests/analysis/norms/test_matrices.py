"""Norms of dense weights: certified, within 1 %, of any storage type, batched or alone."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

from sommelier.analysis.norms import (
    Request,
    Window,
    chain_norm,
    lower_estimate,
    many,
    matrix_norm,
    matrix_norms,
    residual_norm,
)
from sommelier.analysis.norms import matrices as matrices_module
from sommelier.analysis.norms.certificate import eigenvalue_bounds, gram
from sommelier.errors import AnalysisError
from tests.analysis.norms.exact import Case, operator_matrix

ROUNDING = 1 - 1e-9  # of LAPACK's singular values
SHAPES = ((1, 1), (1, 7), (40, 1), (30, 30), (20, 300), (300, 20), (520, 640))


def svd(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(matrix, np.float64), 2))


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_norm_is_above_its_largest_singular_value_by_at_most_one_percent(
    shape: tuple[int, int],
) -> None:
    for seed in range(5):
        weight = drawn(*shape, seed=seed) + np.float32(seed % 2)
        found = matrix_norm(weight)
        assert found.certified
        assert svd(weight) * ROUNDING <= found.value <= 1.01 * svd(weight)
        assert lower_estimate(weight).value <= svd(weight) / ROUNDING


@pytest.mark.parametrize("spectrum", ["flat", "one", "two alike", "decaying", "low rank"])
def test_spectra_that_mislead_power_iteration_are_bounded_all_the_same(spectrum: str) -> None:
    n = 120
    values = {
        "flat": np.ones(n),
        "one": np.eye(n)[0],
        "two alike": np.r_[1.0, 1.0 - 1e-9, np.full(n - 2, 0.5)],
        "decaying": 10.0 ** -np.linspace(0, 15, n),
        "low rank": np.r_[np.linspace(1, 0.9, 5), np.zeros(n - 5)],
    }[spectrum]
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    assert ROUNDING <= matrix_norm(left * values @ right).value <= 1.01


def test_a_start_orthogonal_to_the_top_vector_makes_a_bad_guess_and_a_valid_bound() -> None:
    # The guess starts from a known vector: hide the largest eigenvalue from it.
    n = 60
    start = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    hidden = torch.zeros(n, dtype=torch.float64)
    hidden[0], hidden[1] = start[1], -start[0]
    hidden /= hidden.norm()
    matrix = torch.eye(n, dtype=torch.float64) + 49 * torch.outer(hidden, hidden)
    bound = float(eigenvalue_bounds(matrix[None])[0])
    assert 50 <= bound <= 50 * 3


def test_a_gram_matrix_by_halves_is_the_product() -> None:
    rows = torch.complex(torch.randn(3, 40, 700), torch.randn(3, 40, 700)).to(torch.complex128)
    assert torch.allclose(gram(rows), rows.mH @ rows, atol=1e-10)


def test_storage_types_are_read_as_the_numbers_they_hold() -> None:
    weight = drawn(24, 40)
    for kind in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float64):
        stored = weight.astype(kind)
        exact = svd(stored.astype(np.float64))
        assert exact * ROUNDING <= matrix_norm(stored).value <= 1.01 * exact
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e5m2):
        held = torch.from_numpy(weight).to(dtype)
        exact = svd(held.double().numpy())
        assert exact * ROUNDING <= matrix_norm(held).value <= 1.01 * exact
    levels = (weight * 40).astype(np.int8)
    assert svd(levels) * ROUNDING <= matrix_norm(levels).value <= 1.01 * svd(levels)
    dequantised = levels.astype(np.float32) * np.float32(0.025)
    assert matrix_norm(dequantised).value == pytest.approx(0.025 * matrix_norm(levels).value)


def test_views_and_read_only_arrays_need_no_copy_of_the_callers() -> None:
    weight = drawn(30, 20)
    weight.setflags(write=False)
    expected = matrix_norm(weight).value
    assert matrix_norm(weight.T).value == pytest.approx(expected, rel=5e-3)
    assert matrix_norm(weight[::-1, ::-1]).value == pytest.approx(expected, rel=5e-3)


def test_a_long_table_is_read_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn(3000, 16)
    monkeypatch.setattr(matrices_module, "CHUNK_BYTES", 8 * 16 * 100)
    assert svd(weight) * ROUNDING <= matrix_norm(weight).value <= 1.01 * svd(weight)


def test_a_matrix_too_large_both_ways_is_cut_and_still_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = drawn(90, 100)
    monkeypatch.setattr(matrices_module, "LONGEST_SIDE", 40)
    found = matrix_norm(weight)
    assert found.method == "parts"
    assert svd(weight) * ROUNDING <= found.value <= 3**0.5 * svd(weight)


def test_a_batch_gives_each_matrix_its_norm_and_together_the_largest() -> None:
    stack = drawn(5, 12, 30) * np.arange(5, dtype=np.float32)[:, None, None]
    norms = matrix_norms(stack)
    assert norms[0].method == "zero"
    for norm, matrix in zip(norms[1:], stack[1:], strict=True):
        assert svd(matrix) * ROUNDING <= norm.value <= 1.01 * svd(matrix)
    assert matrix_norm(stack).value == pytest.approx(norms[4].value, rel=5e-3)


def test_vectors_scalars_and_empty_weights_have_norms_too() -> None:
    assert matrix_norm(np.array([3.0, 4.0])).value == pytest.approx(5)
    assert matrix_norm(np.array(-2.0)).value == pytest.approx(2)
    assert matrix_norm(np.zeros((0, 4), np.float32)).value == 0


def test_weights_without_a_norm_say_why() -> None:
    bad = drawn(4, 4)
    bad[0, 0] = np.nan
    for ask in (matrix_norm, lower_estimate, lambda w: many([Request(w)])):
        with pytest.raises(AnalysisError, match=r"shape \(4, 4\) holds NaN or infinity"):
            ask(bad)
    with pytest.raises(AnalysisError, match="complex"):
        matrix_norm(np.ones((2, 2), np.complex64))
    with pytest.raises(AnalysisError, match="one shape"):
        matrix_norms([drawn(2, 3), drawn(3, 2)])


def test_many_answers_in_order_and_computes_equal_weights_once() -> None:
    first, second, kernel = drawn(30, 50), drawn(50, 30, seed=1), drawn(6, 4, 3, 3)
    window = Window((9, 9), pads=(1,) * 4)
    requests = [
        Request(first), Request(kernel, window), Request(second), Request(first.copy()),
        Request(drawn(2, 8, 6)), Request(kernel.copy(), window), Request(first + 1),
    ]  # fmt: skip
    norms = many(requests)
    assert norms[3] is norms[0]
    assert norms[5] is norms[1]
    for request, norm in zip(requests, norms, strict=True):
        if request.window is None and request.weight.ndim == 2:
            exact = svd(request.weight)
            assert exact * ROUNDING <= norm.value <= 1.01 * exact
    assert norms[4].value == pytest.approx(matrix_norm(requests[4].weight).value)


def test_a_chain_of_matrices_is_their_product() -> None:
    first, second, third = drawn(20, 30), drawn(30, 15, seed=1), drawn(15, 25, seed=2)
    found = chain_norm([Request(first), Request(second), Request(third)])
    exact = svd(first.astype(np.float64) @ second @ third)
    assert exact * ROUNDING <= found.value <= 1.01 * exact
    assert found.method == "composite"
    assert found.value < 0.8 * svd(first) * svd(second) * svd(third)


# Both convolutions, and whether one kernel does the work of both.
CHAINS = [
    ((4, 3, 3, 3), {"pads": (1,) * 4}, (5, 4, 1, 1), {}, True),
    ((4, 3, 1, 1), {}, (5, 4, 3, 3), {"pads": (1,) * 4, "strides": (2, 2)}, True),
    ((4, 3, 1, 1), {"strides": (2, 2)}, (5, 4, 2, 2), {"pads": (1,) * 4}, True),
    ((4, 3, 3, 2), {"pads": (1, 0, 2, 1), "strides": (2, 1)}, (2, 4, 2, 3),
     {"dilations": (2, 1), "strides": (1, 2)}, True),
    ((4, 3, 2, 2), {"dilations": (2, 3)}, (2, 4, 2, 2), {}, True),
    ((4, 3, 3, 3), {"pads": (1,) * 4}, (5, 4, 3, 3), {"pads": (1,) * 4}, False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "how", "two", "then", "single"), CHAINS)
def test_a_chain_of_convolutions_is_bounded_and_one_kernel_where_padding_allows(
    one: tuple, how: dict, two: tuple, then: dict, single: bool
) -> None:
    first = Case(drawn(*one), Window.of((9, 10), **how).resolved(one))
    between = first.window.outputs(one[2:])
    second = Case(drawn(*two, seed=1), Window.of(between, **then).resolved(two))
    exact = svd(operator_matrix(first) @ operator_matrix(second))
    requests = [Request(case.weight, case.window) for case in (first, second)]
    found = chain_norm(requests)
    assert exact * ROUNDING <= found.value
    assert (found.method == "composite") is single
    if single:
        assert found.value <= 1.01 * exact
    unsized = [
        Request(case.weight, Window.of(None, c.strides, c.pads, c.dilations))
        for case in (first, second)
        for c in (case.window,)
    ]
    assert exact * ROUNDING <= chain_norm(unsized).value


def test_x_plus_w_x_is_one_operator() -> None:
    weight = drawn(20, 20) / np.float32(6) - np.eye(20, dtype=np.float32)
    found = residual_norm(Request(weight))
    exact = svd(weight + np.eye(20))
    assert exact * ROUNDING <= found.value <= 1.01 * exact
    assert found.value < 0.7 * (1 + svd(weight))
    assert residual_norm(Request(drawn(4, 5))).method == "sum"


@pytest.mark.parametrize("dilation", [1, 2])
def test_x_plus_a_convolution_is_one_convolution_where_it_keeps_the_map(dilation: int) -> None:
    weight = drawn(6, 2, 3, 5)
    window = Window.of(
        (7, 8), pads=[dilation, 2 * dilation] * 2, dilations=[dilation] * 2, groups=3
    ).resolved(weight.shape)
    matrix = operator_matrix(Case(weight, window))
    exact = svd(matrix + np.eye(len(matrix)))
    found = residual_norm(Request(weight, window))
    assert found.method == "composite"
    assert exact * ROUNDING <= found.value <= 1.01 * exact
    moved = Window.of((7, 8), pads=[1, 2, 1, 2], dilations=[2, 2], groups=3)
    assert residual_norm(Request(weight, moved)).method == "sum"


WITHOUT_TORCH = """
import sys; sys.modules["torch"] = None
from sommelier.analysis.norms import matrix_norm
try: matrix_norm([[1.0]])
except Exception as error: print(type(error).__name__, error.hint)
"""
IMPORTED = "import sommelier.analysis.norms, sys; print('torch' in sys.modules)"


@pytest.mark.parametrize(
    ("program", "printed"),
    [(IMPORTED, "False"), (WITHOUT_TORCH, "AnalysisError pip install 'sommelier-db[torch]'")],
)
def test_torch_is_loaded_late_and_its_absence_says_what_to_install(
    program: str, printed: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == printed
