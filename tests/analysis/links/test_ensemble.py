"""Ensembles of any subset of links: never worse than one of them, honest about having looked."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.heads import Head, features_of
from sommelier.analysis.links.scoring import answer_range, constant_answer, performance
from sommelier.analysis.links.splits import split
from sommelier.errors import AnalysisError
from tests.analysis.links.seven_boxes import (
    CAPTION,
    END,
    NAMES,
    classes,
    labels,
    seven_boxes,
    softmax,
)


def _subsets(sources: tuple[str, ...]) -> list[tuple[str, ...]]:
    sizes = range(len(sources) + 1)
    return [*chain.from_iterable(combinations(sources, size) for size in sizes)]


def _measured(target: str, answers: Any) -> float:
    """Performance of answers to the held-out samples, without the ensemble."""
    boxes = seven_boxes()
    truth = boxes.answers[target]
    scale = answer_range(truth.values[boxes.split.train]) if target == "ink" else None
    return performance(truth.format, answers, truth.values[boxes.split.held_out], scale=scale)


@pytest.mark.parametrize("target", NAMES)
def test_no_subset_is_worse_than_one_of_its_links_or_the_constant(target: str) -> None:
    boxes = seven_boxes()
    ensemble = boxes.ensemble(target)
    held = boxes.split.held_out
    for subset in _subsets(ensemble.sources):
        head = ensemble.head(subset)
        found = _measured(
            target, head({n: boxes.predicted[target][n][held] for n in subset}, count=len(held))
        )
        assert found == pytest.approx(ensemble.performance(subset), abs=1e-12)
        assert found >= ensemble.constant
        assert all(found >= ensemble.single(name) for name in subset)
        assert set(head.sources) <= set(subset)
        assert ensemble.used(subset) == head.sources


@pytest.mark.parametrize("target", NAMES)
def test_no_link_at_all_gives_the_constant_answer(target: str) -> None:
    boxes = seven_boxes()
    truth = boxes.answers[target]
    answer = constant_answer(truth.format, truth.values[boxes.split.train])
    found = boxes.ensemble(target).head(())({}, count=3)
    np.testing.assert_array_equal(found, [answer] * 3)
    assert found.dtype == truth.values.dtype


def test_several_links_together_do_better_than_the_best_one() -> None:
    ensemble = seven_boxes(1500).ensemble("caption")  # digit from one model, place from another
    best = max(ensemble.single(name) for name in ensemble.sources)
    assert ensemble.performance(("box", "class")) > best + 0.1
    assert ensemble.head(("box", "class")).kind == "ridge"


@pytest.mark.parametrize("target", NAMES)
def test_a_head_read_from_json_answers_the_same(target: str) -> None:
    boxes = seven_boxes()
    ensemble = boxes.ensemble(target)
    one, other = ensemble.sources[:2]
    for head in (ensemble.head(()), ensemble.head((one,)), ensemble.stack((one, other))):
        again = Head.from_json(head.to_json())
        given = boxes.predicted[target]
        np.testing.assert_allclose(again(given, count=5), head(given, count=5), atol=1e-5)
        assert (again.kind, again.sources, again.format) == (head.kind, head.sources, head.format)


def test_stacked_answers_are_natural_ones() -> None:
    boxes = seven_boxes()
    shares = boxes.ensemble("class").stack(NAMES[1:])(boxes.predicted["class"])
    assert shares.min() >= 0
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    given = boxes.ensemble("attributes").stack(("class", "parity"))(boxes.predicted["attributes"])
    assert 0 <= given.min() <= given.max() <= 1
    tokens = boxes.ensemble("caption").stack(("class", "box"))(boxes.predicted["caption"])
    assert tokens.dtype == np.int64
    ended = np.maximum.accumulate(tokens == END, axis=1)
    assert (tokens[ended] == END).all()


def test_an_answer_does_not_depend_on_the_others_of_its_batch() -> None:
    boxes = seven_boxes()
    for target in NAMES:
        ensemble = boxes.ensemble(target)
        head, given = ensemble.head(ensemble.sources), boxes.predicted[target]
        alone = head({name: values[:1] for name, values in given.items()})
        np.testing.assert_allclose(alone, head(given)[:1], atol=1e-6)


def test_steps_behind_the_end_of_a_sequence_do_not_count() -> None:
    scores = np.random.default_rng(0).random((1, 4, CAPTION.width)).astype(np.float32)
    scores[0, 1, END] = 9.0
    other = scores.copy()
    other[0, 2:] = 0.5
    np.testing.assert_array_equal(features_of(scores, CAPTION), features_of(other, CAPTION))


def test_predicted_token_ids_are_combined_like_certain_scores() -> None:
    boxes = seven_boxes()
    ids = {
        name: boxes.ensemble("caption").head((name,))(boxes.predicted["caption"])
        for name in ("class", "box")
    }
    certain = {name: np.eye(CAPTION.width)[value] for name, value in ids.items()}
    one, other = (
        LinkEnsemble(boxes.answers["caption"], given, boxes.split) for given in (ids, certain)
    )
    assert one.performance(("box", "class")) == other.performance(("box", "class"))
    np.testing.assert_array_equal(
        one.stack(("box", "class"))(ids), other.stack(("box", "class"))(certain)
    )


def test_ceiling_is_the_best_of_all_subsets_and_heads_counts_them() -> None:
    ensemble = seven_boxes().ensemble("class")
    found = [ensemble.performance(subset) for subset in _subsets(ensemble.sources)]
    assert ensemble.ceiling() == max(found)
    stacks = [s for s in _subsets(ensemble.stackable) if len(s) > 1]
    assert ensemble.heads == 1 + len(ensemble.sources) + len(stacks)


def test_intervals_widen_with_the_heads_a_subset_was_chosen_among() -> None:
    ensemble = seven_boxes().ensemble("class")
    subset = ("attributes", "caption", "ink")
    alone, few, many = (
        ensemble.score(subset, candidates=count) for count in (1, None, ensemble.heads)
    )
    assert alone.low > few.low > many.low
    assert alone.high < few.high < many.high
    assert alone.performance == ensemble.performance(subset)
    same = ensemble.score(subset, candidates=len(subset) + 2)
    assert (same.low, same.high, same.proved) == (few.low, few.high, True)


def _classifiers(count: int, width: int = 5, n: int = 400) -> tuple[Any, dict[str, Any], Any]:
    """One target and links that are worse the later they come."""
    rng = np.random.default_rng(3)
    logits = 3 * rng.normal(size=(n, width))
    links = {
        f"s{i:02}": softmax(logits + (1.0 + 0.2 * i) * rng.normal(size=(n, width)) * 2)
        for i in range(count)
    }
    return classes(softmax(logits)), links, split(n, 0)


def test_of_many_sources_the_best_are_combined_and_every_one_may_stand_alone() -> None:
    target, links, parts = _classifiers(20)
    ensemble = LinkEnsemble(target, links, parts)
    assert len(ensemble.stackable) == 6
    assert len(set(ensemble.stackable) & {f"s{i:02}" for i in range(8)}) >= 5
    assert ensemble.used(("s18", "s19"))  # better than the constant although never combined
    assert ensemble.performance(ensemble.sources) >= max(ensemble.single(n) for n in links)
    assert len(LinkEnsemble(target, dict([*links.items()][:11]), parts).stackable) == 8


def test_wide_answers_get_one_weight_a_source() -> None:
    target, links, parts = _classifiers(3, width=150)
    ensemble = LinkEnsemble(target, links, parts)
    head = ensemble.stack(("s00", "s01", "s02"))
    assert head.kind == "weights"
    assert head.weights.shape == (3,)
    assert head.weights[0] > head.weights[2] > 0
    assert ensemble.performance(links) >= max(ensemble.single(name) for name in links)


def test_what_cannot_be_combined_is_said() -> None:
    boxes = seven_boxes()
    ensemble = boxes.ensemble("class")
    with pytest.raises(AnalysisError, match="no link from speaker"):
        ensemble.performance(("ink", "speaker"))
    with pytest.raises(AnalysisError, match="no combination of ink"):
        ensemble.stack(("ink",))
    with pytest.raises(AnalysisError, match="predicted from ink"):
        ensemble.stack(("ink", "box"))({"box": boxes.predicted["class"]["box"]})
    with pytest.raises(AnalysisError, match="10 answers predicted from ink for 700"):
        LinkEnsemble(boxes.answers["class"], {"ink": np.ones((10, 10))}, boxes.split)
    with pytest.raises(AnalysisError, match=r"from ink have shape \(4,\), the target's \(10,\)"):
        LinkEnsemble(boxes.answers["class"], {"ink": np.ones((700, 4))}, boxes.split)
    with pytest.raises(AnalysisError, match="no label occurs in the 30 held-out"):
        LinkEnsemble(labels(np.zeros((100, 4))), {}, split(100, 0))


def test_samples_the_target_or_a_link_has_no_answer_to_are_survived() -> None:
    target, links, parts = _classifiers(3)
    missing = target.values.copy()
    missing[::7] = np.nan
    links["s01"][::5] = np.nan
    ensemble = LinkEnsemble(type(target)(target.format, missing), links, parts)
    for subset in _subsets(ensemble.sources):
        assert np.isfinite(ensemble.performance(subset))
        assert np.isfinite(ensemble.head(subset).weights).all()


def test_a_sample_no_link_answers_stays_without_an_answer() -> None:
    boxes = seven_boxes()
    head = boxes.ensemble("class").stack(("ink", "box"))
    given = {name: np.full((1, 10), np.nan, dtype=np.float32) for name in ("ink", "box")}
    assert np.isnan(head(given)).all()
    nothing = {name: values[:0] for name, values in boxes.predicted["caption"].items()}
    assert boxes.ensemble("caption").stack(("class", "box"))(nothing).shape == (0, 4)


def test_ensembles_and_selection_load_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; import sommelier.analysis.links.ensemble, sommelier.analysis.links.selection, "
        "sommelier.analysis.links.drift; "
        "print([m for m in ('torch', 'scipy', 'onnxruntime', 'onnx') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
