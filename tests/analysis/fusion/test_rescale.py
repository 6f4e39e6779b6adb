"""Adapters: resizing against torch, least squares against what is known, costs against counts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from sommelier.analysis.fusion.blocks import Features
from sommelier.analysis.fusion.rescale import (
    ChannelMap,
    adapter_model,
    cost_of,
    least_squares,
    random_map,
    resampling,
    token_resampling,
)
from sommelier.analysis.profiling import profile
from sommelier.errors import AnalysisError
from tests.analysis.fusion.nets import run

SIZES = list(product([1, 2, 3, 5, 8, 12], repeat=2))
SHAPES = [((8, 12, 12), (6, 4, 4), 0), ((8, 6, 6), (6, 9, 9), 0), ((4, 8, 6), (6, 5, 12), 0),
          ((16, 8), (9, 12), 1), ((9, 8), (16, 12), 1), ((17, 8), (10, 8), 1), ((6,), (9,), 0),
          ((6, 10), (4, 5), 0)]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_resampling_is_what_torch_does(before: int, after: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, before)))
    if after <= before:
        truth = functional.adaptive_avg_pool1d(x, after)
    else:
        truth = functional.interpolate(x, size=after, mode="linear", align_corners=False)
    matrix = resampling(before, after)
    assert np.allclose(x.numpy() @ matrix.T, truth.numpy())
    assert np.allclose(matrix.sum(1), 1.0)


def test_tokens_of_images_are_resized_in_two_dimensions() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 4, 4)))
    tokens = x.flatten(2)[0].T.numpy()  # (16, 3)
    small = functional.adaptive_avg_pool2d(x, 2).flatten(2)[0].T.numpy()
    large = functional.interpolate(x, size=(6, 6), mode="bilinear").flatten(2)[0].T.numpy()
    assert np.allclose(token_resampling(16, 4) @ tokens, small)
    assert np.allclose(token_resampling(16, 36) @ tokens, large)
    with_token = np.vstack([np.full((1, 3), 7.0), tokens])
    kept = token_resampling(17, 5) @ with_token
    assert np.allclose(kept, np.vstack([np.full((1, 3), 7.0), small]))
    assert np.allclose(token_resampling(17, 4) @ with_token, small)
    assert np.allclose((token_resampling(16, 17) @ tokens)[0], tokens.mean(0))
    assert np.array_equal(token_resampling(6, 11), resampling(6, 11))  # no square: a sequence


CASES = [
    (*shapes, kept) for shapes in SHAPES for kept in (True, False) if kept or len(shapes[0]) > 1
]


@pytest.mark.parametrize(("source", "target", "axis", "kept"), CASES)
def test_an_adapter_resizes_and_maps_and_costs_what_it_says(
    source: tuple[int, ...], target: tuple[int, ...], axis: int, kept: bool
) -> None:
    a, b = Features(source, axis), Features(target, axis)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((a.channels, b.channels)).astype(np.float32)
    channels = ChannelMap(matrix, rng.standard_normal(b.channels).astype(np.float32), 0.0)
    model = adapter_model(a, b, channels if kept else None, opset=18, image=False)
    x = rng.standard_normal((3, *source)).astype(np.float32)
    last = np.moveaxis(x, axis + 1, -1)
    for i, (old, new) in enumerate(zip(a.sides, b.sides, strict=True)):
        last = np.moveaxis(np.moveaxis(last, i + 1, -1) @ resampling(old, new).T, -1, i + 1)
    if kept:
        last = last @ channels.matrix + channels.shift
    truth = np.moveaxis(last, -1, axis + 1)
    found = run(model, {"entry": x})[0]
    assert found.shape == truth.shape
    assert np.allclose(found, truth, atol=1e-5)
    costs = profile(model)
    assert (costs.params, costs.flops) == cost_of(a, b, folded=not kept)


def test_a_linear_relation_is_found_exactly() -> None:
    rng = np.random.default_rng(0)
    source = rng.standard_normal((40, 9, 6))
    matrix, shift = rng.standard_normal((6, 4)), rng.standard_normal(4)
    found = least_squares(source, source @ matrix + shift, shifted=True)
    assert np.allclose(found.matrix, matrix, atol=1e-4)
    assert np.allclose(found.shift, shift, atol=1e-4)
    assert found.residual < 1e-8


def test_without_a_shift_the_map_goes_through_zero() -> None:
    rng = np.random.default_rng(0)
    source = rng.standard_normal((40, 9, 6)) + 1.0
    matrix = rng.standard_normal((6, 4))
    found = least_squares(source, source @ matrix, shifted=False)
    assert np.allclose(found.matrix, matrix, atol=1e-4)
    assert not found.shift.any()


def test_the_map_minimises_the_squared_error() -> None:
    rng = np.random.default_rng(1)
    source = rng.standard_normal((64, 4, 5))
    target = np.tanh(source @ rng.standard_normal((5, 3))) + 0.1
    found = least_squares(source, target, shifted=True)
    rows = np.hstack([source.reshape(-1, 5), np.ones((256, 1))])
    truth = np.linalg.lstsq(rows, target.reshape(-1, 3), rcond=None)[0]
    made = np.vstack([found.matrix, found.shift])
    errors = [((rows @ m - target.reshape(-1, 3)) ** 2).sum() for m in (made, truth)]
    assert errors[0] <= errors[1] * 1.001


def test_the_residual_is_that_of_samples_not_fitted() -> None:
    rng = np.random.default_rng(0)
    source, noise = rng.standard_normal((24, 1, 16)), rng.standard_normal((24, 1, 4))
    found = least_squares(source, noise, shifted=True)
    fitted = ((source @ found.matrix + found.shift - noise) ** 2).sum()
    spread = ((noise - noise.mean((0, 1))) ** 2).sum()
    assert fitted / spread < 0.7  # as many numbers as samples fit anything
    assert found.residual > 0.7  # and tell nothing about others


def test_many_features_and_few_samples_get_a_ridge() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((64, 2)) / 8
    source = rng.standard_normal((48, 1, 64))
    target = source @ matrix + rng.standard_normal((48, 1, 2))
    found = least_squares(source, target, shifted=False)
    exact = np.linalg.pinv(source[:, 0]) @ target[:, 0]
    fresh = rng.standard_normal((500, 64))
    errors = [float(((fresh @ (m - matrix)) ** 2).mean()) for m in (found.matrix, exact)]
    assert errors[0] < errors[1]


def test_features_that_are_not_finite_are_refused() -> None:
    source = np.ones((4, 1, 2))
    source[0, 0, 0] = np.nan
    with pytest.raises(AnalysisError, match="not finite"):
        least_squares(source, source, shifted=True)


def test_a_random_map_depends_on_its_seed_only() -> None:
    assert np.array_equal(random_map(6, 4, 1).matrix, random_map(6, 4, 1).matrix)
    assert not np.array_equal(random_map(6, 4, 1).matrix, random_map(6, 4, 2).matrix)
    assert np.abs(random_map(6, 4, 1).matrix).max() <= 1 / np.sqrt(6)
