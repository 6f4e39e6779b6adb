"""How a search ends: finalists one after the other, their certificates counted, none lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.fusion import samples_needed
from sommelier.analysis.fusion.certifying import Certificate
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search import SearchOptions, search
from sommelier.analysis.fusion.search.costs import CostModel
from sommelier.analysis.fusion.search.finishing import certificate, finalists
from sommelier.analysis.fusion.search.ranking import candidates
from sommelier.analysis.fusion.search.state import SLOWER, Elite, State, StateFolder
from sommelier.analysis.fusion.search.study import Study, arrays
from tests.analysis.fusion.digit_tasks import Digits, digits
from tests.analysis.fusion.test_search import SHORT


@pytest.fixture(scope="module")
def study() -> Digits:
    return digits()


def _study(models: Digits, options: SearchOptions) -> Study:
    module = FusedModule.original(models.models)
    return Study(models.models, models.few, options, CostModel.of(models.models), module)


def some_state(study: Study, count: int = 2) -> State:
    """A search that has found so many fusions, each SLOWER than the one before, untrained."""
    graphs = sorted((c.graph for c in candidates(study.models, most=200)), key=study.costs.share)
    state = State()
    for graph in graphs:
        share = study.costs.share(graph)
        if state.elites and share < SLOWER * state.elites[-1].share:
            continue
        weights = arrays(study.mutated(None, graph, 0))
        state = replace(state.with_elite(Elite(state.step, graph, weights, share, 0.1)),
                        step=state.step + 1)  # fmt: skip
        if len(state.elites) == count:
            break
    assert len(state.elites) == count
    return state


def _spoilt(elite: Elite) -> Elite:
    """It answers no numbers, so its file cannot be shown to answer the same."""
    nothing = {
        name: np.full_like(value, np.nan) if value.dtype.kind == "f" else value
        for name, value in elite.weights.items()
    }
    return replace(elite, weights=nothing)


def _ends(found: Certificate) -> list[float]:
    return [drop.interval.high for drop in found.drops]


def _always() -> bool:
    return True


LOOSE = replace(SHORT, tolerance=0.95, epochs=None, steps=4)
STRICT = replace(LOOSE, tolerance=0.0)


def test_a_finalist_that_cannot_be_written_is_refused_and_the_next_one_tried(
    study: Digits,
) -> None:
    asked = _study(study, replace(LOOSE, training=replace(LOOSE.training, epochs=0)))
    state = some_state(asked)
    broken = _spoilt(state.elites[0])
    state = replace(state, elites=(broken, state.elites[1]), best=broken)
    counts: list[int] = []
    first, second = finalists(asked, state, counted=counts.append)
    assert first.refusal is not None
    assert "cannot be written" in first.refusal
    assert first.certificate is first.model is first.latency is None
    assert second.refusal is None
    assert counts == [1]  # only the second was held against the threshold


def test_of_what_came_near_the_least_losses_are_remembered(study: Digits, tmp_path: Path) -> None:
    asked = _study(study, STRICT)
    state = some_state(asked, 4)
    near = State()
    for elite, drop in zip(state.elites, (0.03, 0.01, 0.04, 0.02), strict=True):
        near = near.with_near(replace(elite, drop=drop))
    folder = StateFolder(tmp_path, "key")
    folder.save(near)
    again = folder.load(asked.module.graph)
    assert again is not None
    assert [(e.step, e.drop) for e in again.near] == [(1, 0.01), (3, 0.02)]
    assert again.kept == ()
    weights = again.near[0].weights
    assert all(np.array_equal(weights[n], v) for n, v in state.elites[1].weights.items())
    assert {p.name for p in tmp_path.glob("*.npz")} == {"step1.npz", "step3.npz"}


def test_finalists_of_earlier_runs_are_counted_in_the_intervals(study: Digits) -> None:
    asked = _study(study, STRICT)
    state, counts = some_state(asked), list[int]()
    fresh = finalists(asked, state, cancelled=_always, counted=counts.append)
    assert counts == [1, 2]
    again = finalists(asked, replace(state, certified=3), cancelled=_always, counted=counts.append)
    assert counts == [1, 2, 4, 5]
    for finalist, together in ((fresh[0], 2), (again[0], 5)):
        assert finalist.model is not None
        assert finalist.certificate == certificate(
            study.few, finalist.model, STRICT.confidence, together
        )
    assert all(a < b for a, b in zip(_ends(fresh[0].certificate), _ends(again[0].certificate),
                                     strict=True))  # fmt: skip


def test_a_search_that_goes_on_counts_what_it_certified_before(
    study: Digits, tmp_path: Path
) -> None:
    once = replace(SHORT, steps=1)  # of one step comes one finalist
    for run in (1, 2, 3):
        (finalist,) = search(study.models, study.few, once, folder=tmp_path).finalists
        assert finalist.model is not None
        assert finalist.certificate == certificate(
            study.few, finalist.model, once.confidence, candidates=run
        )


def test_too_few_samples_to_show_the_threshold_is_told_with_how_many_it_takes(
    study: Digits,
) -> None:
    """The graphs are the originals' own, so that not one answer differs."""
    asked = _study(study, replace(LOOSE, tolerance=0.01, upper_end=True))
    original = asked.module.graph
    elite = Elite(0, original, arrays(asked.module), 1.0, 0.0)
    (finalist,) = finalists(
        asked, replace(State().with_elite(elite), best=elite), cancelled=_always
    )
    assert finalist.verdict is Verdict.UNDECIDABLE
    assert finalist.needed == samples_needed(0.01, labelled=False) == 368
    held = len(study.few.splits.certify)
    assert finalist.refusal == (
        f"{held} samples measured on cannot show that a task loses at most 1.00%, whatever is"
        " answered: it takes 368"
    )


def _stopping(after: int) -> Callable[[], bool]:
    """It is cancelled once that was asked so often, which is done at every batch."""
    calls: list[int] = []

    def asked() -> bool:
        calls.append(1)
        return len(calls) > after

    return asked


def test_a_finalist_that_is_cut_short_tells_the_epochs_it_was_trained(study: Digits) -> None:
    asked = _study(study, replace(STRICT, training=replace(STRICT.training, epochs=50)))
    batches = -(-len(study.few.splits.fine_tune) // 16)  # fewer samples than 64 batches of 16
    first, second = finalists(asked, some_state(asked), cancelled=_stopping(3 * batches + 2))
    assert (first.epochs, second.epochs) == (3, 0)
    assert first.drop == pytest.approx(asked.drop(first.module))


def test_after_an_interrupt_no_other_finalist_is_trained(study: Digits) -> None:
    calls: list[int] = []

    def interrupt() -> bool:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return False

    first, second = finalists(_study(study, STRICT), some_state(_study(study, STRICT)),
                              cancelled=interrupt)  # fmt: skip
    assert (first.epochs, second.epochs) == (0, 0)
    assert len(calls) == 5
    assert second.certificate is not None  # what there is is still measured
