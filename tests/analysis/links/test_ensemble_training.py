"""The paper's ensembles: what they learn, and what is wrong with using them for a subset."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from sommelier.analysis.links.ensemble_training import dropout_weights, paper_weights
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.scoring import answer_range, performance
from sommelier.analysis.links.splits import split
from sommelier.analysis.links.training import TrainingOptions
from sommelier.errors import AnalysisError
from tests.analysis.links.seven_boxes import NAMES, numbers, seven_boxes

QUICK = TrainingOptions(epochs=30)


def _means() -> tuple[dict[str, float], int]:
    """Mean held-out performance over all subsets of two sources or more, by kind of ensemble."""
    boxes = seven_boxes()
    held = boxes.split.held_out
    found: dict[str, list[float]] = {"paper": [], "dropout": [], "ridge": []}
    for target in ("class", "attributes", "box", "ink"):
        truth, given = boxes.answers[target], boxes.predicted[target]
        kept = {name: values[held] for name, values in given.items()}
        scale = answer_range(truth.values[boxes.split.train]) if target == "ink" else None
        paper = paper_weights(truth, given, boxes.split, QUICK)
        dropout = dropout_weights(truth, given, boxes.split, QUICK)
        ensemble = boxes.ensemble(target)
        subsets = chain.from_iterable(combinations(ensemble.sources, size) for size in range(2, 7))
        for subset in subsets:
            heads: dict[str, Head] = {
                "paper": paper.head(subset),
                "dropout": dropout.head(subset),
                "ridge": ensemble.stack(subset),
            }
            for kind, head in heads.items():
                answers = head(kept)
                found[kind].append(
                    performance(truth.format, answers, truth.values[held], scale=scale)
                )
    return {kind: float(np.mean(values)) for kind, values in found.items()}, len(found["ridge"])


def test_over_all_subsets_ridge_beats_source_dropout_and_that_the_papers_weights() -> None:
    means, count = _means()
    assert count == 4 * 57
    assert means["ridge"] > means["dropout"] > means["paper"]  # algorithms.md E.2: .616 .594 .489


def test_the_papers_weights_find_the_source_that_is_right() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 2))
    given = {"right": truth, "wrong": rng.normal(size=(300, 2))}
    found = paper_weights(numbers(truth), given, split(300, 0))
    assert found.weights["right"] == pytest.approx(1, abs=0.05)
    assert found.weights["wrong"] == pytest.approx(0, abs=0.05)


def test_the_papers_weights_for_a_subset_sum_to_too_little() -> None:
    truth = np.random.default_rng(0).normal(10, 1, size=(300, 1))
    given = dict.fromkeys(("a", "b"), truth)
    found = paper_weights(numbers(truth), given, split(300, 0))
    half = found.head(("a",))({"a": truth})
    np.testing.assert_allclose(half / truth, 0.5, atol=0.05)


@pytest.mark.parametrize("target", NAMES)
def test_shares_learned_with_dropout_sum_to_one_over_any_subset(target: str) -> None:
    boxes = seven_boxes()
    given = boxes.predicted[target]
    found = dropout_weights(boxes.answers[target], given, boxes.split, TrainingOptions(epochs=1))
    several = found.head(list(given)[:3])
    assert several.weights.sum() == pytest.approx(1)
    assert (several.weights > 0).all()
    name = next(iter(given))
    alone = found.head((name,))({name: given[name]})
    itself = boxes.ensemble(target)
    held = boxes.split.held_out
    scale = answer_range(boxes.answers[target].values[boxes.split.train])
    reached = performance(
        boxes.answers[target].format, alone[held], boxes.answers[target].values[held], scale=scale
    )
    assert reached == pytest.approx(itself.single(name), abs=1e-6)


def test_the_same_seed_gives_the_same_weights() -> None:
    boxes = seven_boxes()
    args = boxes.answers["class"], boxes.predicted["class"], boxes.split, TrainingOptions(epochs=2)
    assert paper_weights(*args) == paper_weights(*args)
    assert dropout_weights(*args) == dropout_weights(*args)


def test_weights_for_no_or_unknown_sources_are_refused() -> None:
    boxes = seven_boxes()
    found = paper_weights(
        boxes.answers["ink"], boxes.predicted["ink"], boxes.split, TrainingOptions(epochs=1)
    )
    with pytest.raises(AnalysisError, match="no weights for no sources"):
        found.head(())
    with pytest.raises(AnalysisError, match="no weights for speaker"):
        found.head(("speaker",))
    with pytest.raises(AnalysisError, match="at least one link"):
        paper_weights(boxes.answers["ink"], {}, boxes.split)
