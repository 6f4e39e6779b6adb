"""correction = split: winners chosen on half of the probes and certified on the other."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.confidence import lower_bound
from sommelier.errors import BinderError
from sommelier.records import ModelRecord, OutputSketch
from tests.engine.conftest import SAMPLES, TRUTH, Bench

RATES = np.linspace(0.98, 0.7, 12)


@pytest.fixture
def crowd(bench: Bench) -> tuple[Bench, np.ndarray]:
    """A reference and twelve models that disagree at random; (models, samples) who agrees."""
    probes = bench.probes("photos")
    bench.model("reference", 0, probes)
    rng = np.random.default_rng(5)
    agrees = rng.random((len(RATES), SAMPLES)) < RATES[:, None]
    for number, mine in enumerate(agrees):
        record = ModelRecord(id=f"sha256:m{number:02}", name=f"m{number}", version="1", source="t")
        bench.catalog.add_model(record)
        answers = np.where(mine, TRUTH, (TRUTH + 1) % 5).astype(np.uint32).tobytes()
        bench.sketches.add(OutputSketch(record.id, probes.id, "labels", answers, 1, True, None, 5))
    return bench, agrees


def halves(seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(SAMPLES)
    return order[: SAMPLES // 2], order[SAMPLES // 2 :]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("top", [1, 3, 5])
@pytest.mark.parametrize("how", ["LIMIT {}", "PICK MOST SIMILAR TOP {}"])
def test_the_best_of_one_half_are_bounded_by_the_other(
    crowd: tuple[Bench, np.ndarray], seed: int, top: int, how: str
) -> None:
    bench, agrees = crowd
    first, second = halves(seed)
    best = np.argsort(-agrees[:, first].sum(axis=1), kind="stable")[:top]
    counts = agrees[best][:, second].sum(axis=1)
    lower = lower_bound(counts, len(second), 0.05 / top)
    expected = {f"m{i}": value for i, value in zip(best, lower, strict=True)}
    result = bench.ask(
        f"SELECT MODELS name, equivalence, probes CORR reference {how.format(top)} "
        f"USING correction = split, seed = {seed}"
    )
    rows = result.fetchall()
    assert {name: value for name, value, _ in rows} == pytest.approx(expected)
    assert {probes for *_, probes in rows} == {SAMPLES // 2}
    assert any(f"the other half of the probes (seed {seed})" in note for note in result.notes)
    assert not any("skipped" in note for note in result.notes)


def test_winners_below_the_threshold_are_left_out(crowd: tuple[Bench, np.ndarray]) -> None:
    bench, _ = crowd
    text = "SELECT MODELS name, equivalence CORR reference {} LIMIT 6 USING correction = split"
    shown = bench.ask(text.format("")).fetchall()
    passed = bench.ask(text.format("88%")).fetchall()
    assert 0 < len(passed) < len(shown)
    assert passed == [row for row in shown if row[1] >= 0.88]


def test_why_not_tells_of_a_model_that_did_not_win(crowd: tuple[Bench, np.ndarray]) -> None:
    bench, _ = crowd
    why = bench.ask(
        "EXPLAIN WHY m11 NOT IN (SELECT MODELS CORR reference 80% LIMIT 2 USING correction = split)"
    )
    assert "not among the 2 most similar on half of the probes" in repr(why)


@pytest.mark.parametrize(
    "clauses",
    ["80% {}", "80% PICK SMALLEST {}", "80% ORDER BY memory LIMIT 2 {}", "80% PICK RANDOM {}"],
)
def test_only_the_most_similar_can_be_chosen_by_half(
    crowd: tuple[Bench, np.ndarray], clauses: str
) -> None:
    with pytest.raises(BinderError, match="certifies the models most similar"):
        crowd[0].ask(f"SELECT MODELS CORR reference {clauses.format('USING correction = split')}")
