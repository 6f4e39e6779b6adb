"""Samples are divided by a seed into disjoint parts that are large enough."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.links.splits import LEAST, least_samples, split
from sommelier.errors import AnalysisError


def parts(found):
    return (found.train, found.validation, found.held_out)


@pytest.mark.parametrize("n", [60, 101, 1000])
def test_every_sample_is_in_exactly_one_sorted_part(n):
    found = split(n, 3, held_out=0.25, validation=0.1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts(found))), np.arange(n))
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts(found))
    assert abs(len(found.held_out) - 0.25 * n) <= 0.5
    assert abs(len(found.validation) - 0.1 * n) <= 0.5


def test_a_seed_gives_the_same_split_and_another_seed_another():
    one, same, other = split(200, 1), split(200, 1), split(200, 2)
    for a, b in zip(parts(one), parts(same), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.held_out, other.held_out)


def test_each_sample_is_held_out_as_often_as_its_share_says():
    times = np.zeros(60)
    for seed in range(400):
        times[split(60, seed).held_out] += 1
    deviation = np.sqrt(400 * 0.3 * 0.7)
    assert np.abs(times - 120).max() < 4 * deviation  # 60 binomials: 4 deviations are p < .01


@pytest.mark.parametrize(("held_out", "validation"), [(0.3, 0.15), (0.1, 0.1), (0.6, 0.2)])
def test_the_number_said_to_be_needed_suffices_and_too_few_are_refused(held_out, validation):
    needed = least_samples(held_out, validation)
    for n in range(needed, needed + 40):
        sizes = [len(p) for p in parts(split(n, 0, held_out=held_out, validation=validation))]
        assert all(size >= least for size, least in zip(sizes, LEAST, strict=True))
    with pytest.raises(AnalysisError, match=f"at least {needed} are needed"):
        split(needed // 2, 0, held_out=held_out, validation=validation)


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.5, 0.5), (1.2, 0.1), (0.3, 0.0)])
def test_shares_that_leave_nothing_are_refused(shares):
    with pytest.raises(AnalysisError, match="held out"):
        split(100, 0, held_out=shares[0], validation=shares[1])
