"""The one door: sides, candidates, what is proved, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sommelier.analysis.bounds import Interval, bound, methods
from sommelier.confidence import clopper_pearson
from sommelier.errors import AnalysisError

OBSERVED = {
    "proportion": (70, 100),
    "mean": (np.linspace(0, 1, 101) ** 2,),
    "difference": (9, 4, 100),
}
CASES = [(kind, method) for kind in OBSERVED for method in methods(kind)]


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_every_method_answers_around_what_was_observed(kind, method):
    observed = OBSERVED[kind]
    found = bound(kind, *observed, method=method)
    centre = {"proportion": 0.7, "mean": np.mean(OBSERVED["mean"][0]), "difference": 0.05}[kind]
    assert found.low < centre < found.high
    assert found.contains(centre)
    assert found.method == method
    assert found.samples == (101 if kind == "mean" else 100)
    ordered = kind != "mean" and method == "betting"  # of counts, in an order made up for them
    assert found.proved == (method not in ("wilson", "tango") and not ordered)
    assert found.status == ("certified" if found.proved else "estimated")


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_one_side_is_at_least_as_tight_as_two_and_the_other_end_is_the_edge(kind, method):
    observed = OBSERVED[kind]
    two = bound(kind, *observed, method=method)
    lower = bound(kind, *observed, method=method, side="lower")
    upper = bound(kind, *observed, method=method, side="upper")
    assert lower.low >= two.low
    assert upper.high <= two.high
    assert lower.high == 1
    assert upper.low == (-1 if kind == "difference" else 0)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_more_candidates_and_more_confidence_widen(kind, method):
    observed = OBSERVED[kind]
    plain = bound(kind, *observed, method=method, side="lower")
    of_many = bound(kind, *observed, method=method, side="lower", candidates=200)
    sure = bound(kind, *observed, method=method, side="lower", confidence=1 - 0.05 / 200)
    assert of_many.low < plain.low
    assert of_many.low == pytest.approx(sure.low, abs=1e-9)
    assert of_many.confidence == 0.95


def test_auto_is_a_fixed_method_per_kind():
    for kind, method in (("proportion", "cp"), ("mean", "betting"), ("difference", "cp")):
        assert bound(kind, *OBSERVED[kind]) == bound(kind, *OBSERVED[kind], method=method)
        assert bound(kind, *OBSERVED[kind]).method == method


def test_the_default_for_counts_is_clopper_pearson():
    low, high = clopper_pearson(70, 100, 0.9)
    assert bound("proportion", 70, 100, confidence=0.9) == Interval(
        float(low), float(high), 0.9, "cp", True, 100
    )


@pytest.mark.parametrize("method", methods("proportion"))
def test_no_samples_say_nothing_about_a_proportion(method):
    found = bound("proportion", 0, 0, method=method)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize("method", methods("mean"))
def test_no_samples_say_nothing_about_a_mean(method):
    found = bound("mean", np.array([]), method=method)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(
    ("kind", "observed", "options", "message"),
    [
        ("ratio", (1, 2), {}, "no bound for a 'ratio'"),
        ("mean", ([0.5],), {"method": "cp"}, "'cp' does not bound a mean"),
        ("proportion", (5, 4), {}, "between 0 and"),
        ("proportion", (5, 4), {"method": "betting"}, "between 0 and"),
        ("proportion", (1, 4), {"confidence": 1.0}, "confidence 1"),
        ("proportion", (1, 4), {"candidates": 0}, "0 candidates"),
        ("proportion", (1, 4), {"side": "left"}, "no side 'left'"),
        ("proportion", (1, 4), {"population": 3}, "cannot be drawn"),
        ("proportion", (1, 4), {"population": 9, "method": "betting"}, "finite population"),
        ("mean", ([0.5, np.nan, 2.0],), {}, "2 of 3 values are NaN or outside"),
        ("mean", ([[0.5, 0.2]],), {}, "several samples"),
        ("difference", (3, 3, 5), {}, "not counts of 5 samples"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(kind, observed, options, message):
    with pytest.raises(AnalysisError, match=message):
        bound(kind, *observed, **options)


def test_importing_the_package_loads_neither_scipy_nor_a_runtime():
    code = (
        "import sys, sommelier.analysis.bounds;"
        "sys.exit(any(m in sys.modules for m in ('scipy', 'torch', 'onnx', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
