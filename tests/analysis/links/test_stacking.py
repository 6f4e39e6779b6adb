"""Closed-form combinations of links equal what direct fits of the same columns give."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.links.stacking import PENALTIES, Stacking, stacking, weighing
from sommelier.errors import AnalysisError

Array = NDArray[Any]

SOURCES = ("a", "b", "c", "d")
SUBSETS = [*chain.from_iterable(combinations(SOURCES, size) for size in (1, 2, 3, 4))]
NUMBERS = AnswerFormat("numbers", 3, "values")
CLASSES = AnswerFormat("classes", 3, "probabilities")
TRAIN, CHECK = np.arange(0, 60), np.arange(60, 90)


def _data(seed: int = 0) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(100, 3)) * [1.0, 50.0, 0.01] + [0, 300, 0]  # other units each
    near = {
        name: target + scale * target.std(axis=0) * rng.normal(size=target.shape)
        for name, scale in zip(SOURCES, (0.3, 0.6, 1.0, 3.0), strict=True)
    }
    return near, target


def _direct(
    features: dict[str, Array], target: Array, names: tuple[str, ...], penalty: float
) -> Array:
    """Predictions of a ridge fit by least squares on rows for samples and rows for the penalty."""
    z = np.concatenate([features[name] / target[TRAIN].std(axis=0) for name in names], axis=1)
    mean, centre = z[TRAIN].mean(axis=0), target[TRAIN].mean(axis=0)
    lifted = np.vstack([z[TRAIN] - mean, np.sqrt(penalty * len(TRAIN)) * np.eye(z.shape[1])])
    wanted = np.vstack([target[TRAIN] - centre, np.zeros((z.shape[1], target.shape[1]))])
    weights = np.linalg.lstsq(lifted, wanted, rcond=None)[0]
    return np.asarray((z - mean) @ weights + centre)


def _predicted(fitted: Stacking, features: dict[str, Array], names: tuple[str, ...], p: Any) -> Any:
    weights, bias = fitted.fit(names, penalty=p)
    return np.concatenate([features[name] for name in names], axis=1) @ weights + bias


@pytest.mark.parametrize("names", SUBSETS, ids="".join)
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_ridge_of_a_subset_equals_a_direct_fit(names: tuple[str, ...], penalty: float) -> None:
    features, target = _data()
    fitted = stacking(features, target, NUMBERS, (TRAIN, CHECK))
    found = _predicted(fitted, features, names, penalty) / target.std(axis=0)
    wanted = _direct(features, target, names, penalty) / target.std(axis=0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("names", SUBSETS, ids="".join)
def test_the_penalty_is_the_one_of_the_least_validation_error(names: tuple[str, ...]) -> None:
    features, target = _data(1)
    fitted = stacking(features, target, CLASSES, (TRAIN, CHECK))
    found = _predicted(fitted, features, names, None)
    tried = [_predicted(fitted, features, names, penalty) for penalty in PENALTIES]
    errors = [((one - target)[CHECK] ** 2).sum() for one in tried]
    np.testing.assert_allclose(found, tried[int(np.argmin(errors))])


def test_samples_without_an_answer_are_left_out() -> None:
    features, target = _data()
    whole = stacking(features, target, NUMBERS, (TRAIN[10:], CHECK))
    features["b"] = features["b"].copy()
    features["b"][:10] = np.nan
    fitted = stacking(features, target, NUMBERS, (TRAIN, CHECK))
    np.testing.assert_allclose(fitted.gram, whole.gram)
    assert fitted.samples == 50


def test_links_that_never_answer_together_are_refused() -> None:
    features, target = _data()
    with pytest.raises(AnalysisError, match="no training sample"):
        stacking({**features, "e": np.full((100, 3), np.nan)}, target, NUMBERS, (TRAIN, CHECK))


@pytest.mark.parametrize("names", SUBSETS, ids="".join)
def test_one_weight_a_source_equals_a_direct_fit(names: tuple[str, ...]) -> None:
    features, target = _data(2)
    found = weighing(features, target, (TRAIN, CHECK)).fit(names)
    columns = np.column_stack([features[name][TRAIN].ravel() for name in names])
    even = np.full(len(names), 1 / len(names))
    tried = []
    for penalty in PENALTIES:
        pull = np.sqrt(penalty * (columns**2).sum() / len(names))
        lifted = np.vstack([columns, pull * np.eye(len(names))])
        wanted = np.concatenate([target[TRAIN].ravel(), pull * even])
        tried.append(np.linalg.lstsq(lifted, wanted, rcond=None)[0])
    checked = np.column_stack([features[name][CHECK].ravel() for name in names])
    errors = [((checked @ one - target[CHECK].ravel()) ** 2).sum() for one in tried]
    np.testing.assert_allclose(found, tried[int(np.argmin(errors))], atol=1e-8)
