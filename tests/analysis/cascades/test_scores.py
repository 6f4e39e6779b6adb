from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp
from scipy.stats import entropy

from sommelier.analysis.cascades.graded_scores import (
    detection_free_energy,
    detection_score,
    energy_by_quadrature,
    energy_by_sampling,
    negative_sigma,
)
from sommelier.analysis.cascades.members import member, top_margin
from sommelier.analysis.cascades.scores import (
    SCORES,
    agreement,
    as_logits,
    available,
    class_score,
    free_energy,
)
from sommelier.analysis.links.formats import format_of
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind

logits = arrays(np.float64, (4, 5), elements=st.floats(-700, 700))


@given(logits, st.sampled_from([0.3, 1.0, 5.0]))
@settings(deadline=None)
def test_free_energy_is_the_negative_logarithm_of_the_sum(
    z: np.ndarray, temperature: float
) -> None:
    expected = -temperature * logsumexp(z / temperature, axis=1)
    assert np.allclose(free_energy(z, temperature=temperature), expected)
    assert np.allclose(class_score("free_energy", z, temperature=temperature), -expected)


@given(logits)
@settings(deadline=None)
def test_scores_of_probabilities_are_their_definitions(z: np.ndarray) -> None:
    p = np.exp(z - logsumexp(z, axis=1, keepdims=True))
    ordered = np.sort(p, axis=1)
    assert np.allclose(class_score("softmax", z), p.max(axis=1))
    assert np.allclose(class_score("margin", z), ordered[:, -1] - ordered[:, -2])
    assert np.allclose(class_score("entropy", z), -entropy(p, axis=1))
    assert np.allclose(class_score("doctor", z), (p**2).sum(axis=1))
    assert np.allclose(class_score("popular", z), p[:, :-1].max(axis=1))


def test_doctor_orders_as_d_alpha_does() -> None:
    z = np.random.default_rng(0).normal(size=(200, 6)) * 3
    sums = class_score("doctor", z)
    alpha = (1 - sums) / sums  # Granese et al.: 1 - g over g, large means reject
    assert (np.argsort(-sums) == np.argsort(alpha)).all()


@pytest.mark.parametrize("name", SCORES)
def test_an_answer_with_nan_has_no_score_and_others_have_theirs(name: str) -> None:
    z = np.array([[1.0, 2.0, 0.5], [1.0, np.nan, 0.5]])
    found = class_score(name, z)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_an_unknown_score_is_answered_with_the_known_ones() -> None:
    with pytest.raises(AnalysisError, match="no score 'sharpness'") as error:
        class_score("sharpness", np.zeros((1, 3)))
    assert "margin" in str(error.value.hint)


def test_probabilities_have_the_scores_of_their_logits_but_no_free_energy() -> None:
    z = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    of_logits, of_shares = (format_of(OutputKind.CLASSIFICATION, block) for block in (z, p))
    assert available(of_logits) == SCORES
    assert available(of_shares) == SCORES[:-1]
    for name in SCORES[:-1]:
        one, other = class_score(name, z), class_score(name, as_logits(p, of_shares))
        assert np.allclose(one, other, atol=1e-6)


def test_quantised_probabilities_are_shares_of_their_scale() -> None:
    raw = np.array([[128, 64, 64, 0], [256 - 1, 1, 0, 0]], dtype=np.uint8)
    found = member("m", raw, format_of(OutputKind.CLASSIFICATION, raw))
    assert found.ids.tolist() == [0, 0]
    assert np.allclose(found.scores["margin"], [0.25, 254 / 256])
    assert "free_energy" not in found.scores


def test_class_ids_alone_have_no_score() -> None:
    raw = np.array([[3], [1]], dtype=np.int64)
    found = member("m", raw, format_of(OutputKind.CLASS_IDS, raw))
    assert (found.ids.tolist(), dict(found.scores)) == ([3, 1], {})


def test_a_model_that_fails_on_an_input_answers_no_class_there() -> None:
    raw = np.array([[0.1, 4.0], [np.nan, np.nan]])
    found = member("m", raw, format_of(OutputKind.CLASSIFICATION, raw[:1]))
    assert found.ids.tolist() == [1, -1]
    assert np.isnan(found.scores["margin"][1])


def test_the_margin_of_kept_top_scores_is_their_difference() -> None:
    kept = np.array([[9.0, 7.5, 1.0], [3.0, -np.inf, -np.inf]], dtype=np.float16)
    assert top_margin(kept)[0] == 1.5
    assert np.isnan(top_margin(kept)[1])


def test_agreement_is_the_share_of_earlier_answers_equal_to_the_last() -> None:
    found = agreement([[1, 2, 3], [1, 0, 3], [1, 2, -1]])
    assert found[:2].tolist() == [1.0, 0.5]
    assert np.isnan(found[2])


def test_quadrature_finds_the_energy_of_a_gaussian() -> None:
    nodes = np.linspace(-12, 12, 65)
    sigma = np.array([1.0, 1.5, 2.0])
    scores = -(nodes[None, :] ** 2) / (2 * sigma[:, None] ** 2)
    exact = -np.log(sigma * np.sqrt(2 * np.pi))
    assert np.abs(energy_by_quadrature(scores, nodes) - exact).max() < 1e-6


def test_uneven_nodes_are_weighed_by_the_trapezoid() -> None:
    nodes = np.array([0.0, 1.0, 3.0])
    values = np.array([[0.0, 0.5, -1.0]])
    expected = -np.log(np.trapezoid(np.exp(values), nodes, axis=1))
    assert np.allclose(energy_by_quadrature(values, nodes), expected)


def test_sampling_comes_near_quadrature_with_more_samples() -> None:
    rng = np.random.default_rng(0)
    nodes = np.linspace(-10, 10, 513)
    exact = energy_by_quadrature(-(np.abs(nodes) ** 1.5)[None], nodes)[0]
    errors = []
    for count in (100, 10_000):
        y = rng.normal(scale=1.5, size=(50, count))
        log_density = -(y**2) / (2 * 1.5**2) - np.log(1.5 * np.sqrt(2 * np.pi))
        errors.append(float((energy_by_sampling(-(np.abs(y) ** 1.5), log_density) - exact).std()))
    assert errors[1] < errors[0] / 5  # 1 / sqrt(100) = 1/10, with room for chance


def test_the_regression_energy_of_a_gaussian_is_highest_where_it_is_least_sure() -> None:
    """algorithms.md G.3: EBJR's rule keeps the worst inputs; -sigma keeps the best."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.1, 1.1, 4_000)
    error = np.abs(sigma * rng.normal(size=4_000))
    bad = error > np.quantile(error, 0.8)
    nodes = np.linspace(-8, 8, 257)
    energy = -energy_by_quadrature(-(nodes[None] ** 2) / (2 * sigma[:, None] ** 2), nodes)

    def auroc(score: np.ndarray) -> float:  # P(score of a good one > score of a bad one)
        return float((score[~bad][:, None] > score[bad][None, :]).mean())

    assert auroc(energy) < 0.3
    assert auroc(negative_sigma(sigma)) > 0.7


def test_a_picture_without_boxes_has_no_score_and_is_sent_on() -> None:
    assert np.isnan(detection_score([]))
    assert np.isnan(detection_free_energy(np.empty((0, 4))))


def test_the_score_of_a_picture_is_its_unsure_boxes_or_its_nearly_seen_object() -> None:
    margins = [0.9, 0.8, 0.7, 0.6, 0.1]
    assert detection_score(margins) == pytest.approx(np.quantile(margins, 0.2))
    assert detection_score([0.9], hidden=0.45, cut=0.5) == pytest.approx(0.1)
    assert detection_score([0.9] * 2) == detection_score([0.9] * 20)
    with pytest.raises(AnalysisError, match="not below the threshold"):
        detection_score([0.9], hidden=0.6, cut=0.5)


def test_the_free_energy_of_a_picture_is_the_mean_over_boxes_and_corners() -> None:
    z, corners = np.array([[1.0, 2.0], [0.0, 3.0]]), np.arange(8.0).reshape(2, 4)
    expected = (-logsumexp(z, axis=1)).mean() + corners.mean()
    assert detection_free_energy(z, corners) == pytest.approx(expected)


def test_the_request_path_loads_no_runtime_no_scipy_and_no_database() -> None:
    program = "import sys, sommelier.runtime.cascade; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.decode().split()}
    assert not loaded & {"torch", "onnxruntime", "onnx", "scipy", "duckdb", "lark", "pandas"}
