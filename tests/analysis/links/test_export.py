"""Exported links and ensembles answer in ONNX Runtime as they do here."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.ensemble_export import ensemble_onnx
from sommelier.analysis.links.export import check_alike, run_onnx, to_onnx
from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers, as_given, natural
from sommelier.analysis.links.heads import Head, constant_head, source_head
from sommelier.analysis.links.linear import fit_linear
from sommelier.analysis.links.training import TrainingOptions, train_vectors
from sommelier.errors import AnalysisError, MissingDependencyError

from .vector_answers import PAIRS, classes, labels, numbers, pair, rows_of

BRIEF = TrainingOptions(epochs=2)


def fitted(source, target, method):
    if method == "linear":
        return fit_linear(source, target, rows_of(target))
    return train_vectors([source], target, rows_of(target), BRIEF)[0]


def answered(model, **inputs):
    session = onnxruntime.InferenceSession(model)
    assert {value.name for value in session.get_inputs()} == set(inputs)
    (target,) = session.run(["target"], inputs)
    return target


@pytest.mark.parametrize("method", ["linear", "network"])
@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_a_link_answers_alike_in_batches_of_any_size(given, wanted, method):
    source, target = pair(given, wanted)
    link = fitted(source, target, method)
    model = to_onnx(link)
    values = source.values.copy()
    values[5] = np.nan  # no answer
    scale = np.maximum(1.0, np.abs(target.values).max())
    for rows in (slice(0, 1), slice(3, 10), slice(None)):
        np.testing.assert_allclose(
            answered(model, source=values[rows]), link.predict(values[rows]), atol=1e-4 * scale
        )


@pytest.mark.parametrize("activation", ["softmax", "shares", "sigmoid", "unit", "values"])
def test_every_readout_is_exported(activation):
    source, target = pair("numbers", "classes")
    link = fitted(source, target, "linear")
    other = replace(link, readout=replace(link.readout, activation=activation))
    np.testing.assert_allclose(
        answered(to_onnx(other), source=source.values), other.predict(source.values), atol=1e-4
    )


def test_a_model_that_answers_otherwise_is_refused():
    source, target = pair("numbers", "numbers")
    link = fitted(source, target, "linear")
    right = link.predict(source.values)
    (found,) = run_onnx(to_onnx(link), {"source": source.values})
    check_alike(found, right, link.readout.scale)
    for wrong, message in ((right + 0.1, "otherwise"), (right[:, :1], "answers"),
                           (np.where(right > 0, right, np.nan), "otherwise")):  # fmt: skip
        with pytest.raises(AnalysisError, match=message):
            check_alike(wrong, right, link.readout.scale)
    with pytest.raises(AnalysisError, match="ONNX Runtime does not run"):
        run_onnx(to_onnx(link), {"source": source.values[:, :1]})


def test_without_onnx_runtime_the_command_that_installs_it_is_named(monkeypatch):
    source, target = pair("numbers", "numbers")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        to_onnx(fitted(source, target, "linear"))
    assert caught.value.hint == "pip install 'sommelier-db[cpu]'"


def test_a_link_to_logits_can_stand_for_the_model_that_gives_logits():
    source, target = pair("classes", "classes")
    link = fitted(source, target, "linear")
    predicted = answered(to_onnx(link), source=source.values)
    given = as_given(predicted, target.format)
    assert target.format.form == "logits"
    assert (given < 0).any()  # no probabilities
    np.testing.assert_array_equal(given.argmax(axis=1), predicted.argmax(axis=1))
    np.testing.assert_allclose(natural(given, target.format).values, predicted, atol=1e-5)


def test_a_link_to_8_bit_scores_answers_in_8_bit():
    source, target = pair("classes", "classes")
    scaled = AnswerFormat("classes", target.format.width, "scaled", scale=256.0, dtype="uint8")
    link = fitted(source, LinkAnswers(scaled, target.values), "network")
    given = as_given(link.predict(source.values), link.target)
    assert given.dtype == np.uint8
    np.testing.assert_allclose(given.sum(axis=1, dtype=int), 256, atol=4)


def test_the_same_link_is_the_same_file():
    source, target = pair("labels", "classes")
    assert to_onnx(fitted(source, target, "network")) == to_onnx(fitted(source, target, "network"))


# ---- ensembles


def three_links(wanted):
    """Links from three sources that each know a part of the target, and their predictions."""
    rng = np.random.default_rng(0)
    scores = 2 * rng.normal(size=(400, 6))
    make = {"classes": classes, "labels": labels, "numbers": numbers, "box": None}[wanted]
    target = make(np.tanh(scores @ rng.normal(size=(6, 4))) * 3)
    sources = {
        "a": classes(scores[:, :3]),
        "b": labels(scores[:, 2:4]),
        "c": numbers(scores[:, 3:]),
    }
    links = {name: fitted(source, target, "linear") for name, source in sources.items()}
    parts = {name: to_onnx(link) for name, link in links.items()}
    predicted = {name: links[name].predict(sources[name].values) for name in links}
    return target, sources, parts, predicted


def heads(target, predicted):
    """A head of each kind."""
    stacked = LinkEnsemble(target, predicted, rows_of(target)).stack(["a", "c"])
    yield stacked
    yield source_head(target.format, "b")
    yield constant_head(target.format, target.values[0])
    weights = np.array([0.5, 0.3, 0.2])
    for kind in ("weights", "paper weights"):
        yield Head(target.format, kind, ("c", "a", "b"), weights, np.empty(0))


@pytest.mark.parametrize("wanted", ["classes", "labels", "numbers"])
def test_an_ensemble_answers_as_its_links_and_head_do_one_after_the_other(wanted):
    target, sources, parts, predicted = three_links(wanted)
    inputs = {f"source_{i}": source.values for i, source in enumerate(sources.values())}
    kinds = set()
    for head in heads(target, predicted):
        kinds.add(head.kind)
        found = answered(ensemble_onnx(parts, head), **inputs)
        np.testing.assert_allclose(found, head(predicted), atol=1e-3)
    assert kinds == {"ridge", "best source", "constant", "weights", "paper weights"}


def test_an_ensemble_runs_only_the_links_its_head_uses():
    target, _, parts, _ = three_links("classes")
    model = onnx.load_from_string(ensemble_onnx(parts, source_head(target.format, "b")))
    assert [value.name for value in model.graph.input] == ["source_0", "source_1", "source_2"]
    assert {name.split("/")[0] for node in model.graph.node for name in node.output} == {
        "link_1", "target"
    }  # fmt: skip


def test_an_ensemble_says_which_links_it_lacks():
    target, _, parts, predicted = three_links("classes")
    head = next(heads(target, predicted))
    with pytest.raises(AnalysisError, match="no link from c"):
        ensemble_onnx({"a": parts["a"]}, head)
    with pytest.raises(AnalysisError, match="no link from any source"):
        ensemble_onnx({}, constant_head(target.format, target.values[0]))


def test_a_model_that_is_no_link_is_refused():
    target, _, parts, _ = three_links("classes")
    other = onnx.load_from_string(parts["a"])
    other.opset_import[0].version = 12
    with pytest.raises(AnalysisError, match="not a link"):
        ensemble_onnx({"a": other.SerializeToString()}, source_head(target.format, "a"))
