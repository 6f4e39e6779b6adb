"""What is told of a fused model: the drop of a task that has several outputs."""

from __future__ import annotations

import numpy as np

from sommelier.analysis.bounds import bound
from sommelier.analysis.fusion.certifying import Drop
from sommelier.analysis.fusion_outcomes import with_drops
from sommelier.fusion_records import FusionTask

SAMPLES, OUTPUTS, TRUE, RUNS = 200, 5, 0.1, 400


def drop(differing: int, *, proved: bool = True) -> Drop:
    agreeing = SAMPLES - differing
    found = bound(
        "proportion", agreeing, SAMPLES, confidence=0.9, method="cp" if proved else "wilson"
    )
    score = agreeing / SAMPLES
    interval = type(found)(
        1 - found.high, 1 - found.low, found.confidence, found.method, found.proved, SAMPLES
    )
    return Drop("agreement", 1.0, score, 1 - score, interval, None, differing, 0, 0.0)


def test_the_interval_of_a_task_holds_for_the_largest_drop_of_its_outputs() -> None:
    """All outputs lose alike, so the one that seems to lose most says too much of itself."""
    rng = np.random.default_rng(0)
    missed = own = 0
    for _ in range(RUNS):
        drops = [drop(int(lost)) for lost in rng.binomial(SAMPLES, TRUE, OUTPUTS)]
        task = with_drops(FusionTask("a"), drops)
        worst = max(drops, key=lambda one: one.drop)
        assert task.drop == worst.drop
        missed += not task.drop_low <= TRUE <= task.drop_high
        own += not worst.interval.contains(TRUE)
    assert missed <= 0.1 * RUNS  # the risk that was asked for
    assert own > 0.15 * RUNS  # what the worst output's own interval would have missed


def test_an_interval_that_one_output_only_estimates_is_an_estimate() -> None:
    exact, rough = drop(10), drop(5, proved=False)
    assert with_drops(FusionTask("a"), [exact]).proved
    assert not with_drops(FusionTask("a"), [exact, rough]).proved
