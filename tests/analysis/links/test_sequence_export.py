"""The ONNX models of links from and to token sequences answer as the links do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sommelier.analysis.links.ensemble_export import ensemble_onnx
from sommelier.analysis.links.export import to_onnx
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.heads import source_head
from sommelier.analysis.links.training import TrainingOptions
from sommelier.analysis.profiling import profile
from sommelier.errors import AnalysisError
from tests.analysis.links.sentences import (
    ARCHITECTURES,
    CAPTION,
    END,
    SENTENCE,
    STEPS,
    captioning,
    digits,
    fitted,
    reading,
    sentences,
    translation,
)

BRIEF = TrainingOptions(epochs=1)
FLOAT = 1e-4  # probabilities, after some steps of float32 sums in another order


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exported(request):
    case = ARCHITECTURES[request.param]()
    return case, to_onnx(case.link)


def run(model, values):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"source": values}), strict=True))


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_batches_of_any_size_are_answered_as_by_the_link(exported, size):
    case, model = exported
    values = case.source.values[:size]
    found = run(model, values)
    expected = case.link.predict(values)
    if case.link.architecture == "seq-to-vec":
        np.testing.assert_allclose(found["target"], expected, atol=FLOAT)
        return
    scores = case.link.scores(values)
    sure = np.sort(scores, axis=2)[..., -2:]
    clear = (sure[..., 1] - sure[..., 0] > FLOAT).all(axis=1)  # no two tokens equally likely
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found["target"][clear], expected[clear])
    np.testing.assert_allclose(found["scores"][clear], scores[clear], atol=FLOAT)
    assert found["target"].dtype == np.int64
    assert found["scores"].dtype == np.float32


def test_no_sample_of_a_batch_changes_another(exported):
    case, model = exported
    batch = case.source.values[:6].copy()
    changed = batch.copy()
    changed[3] = case.source.values[20]
    one, other = run(model, batch), run(model, changed)
    rows = [0, 1, 2, 4, 5]
    for name, values in one.items():
        np.testing.assert_allclose(values[rows], other[name][rows], atol=1e-6)


def test_ends_have_the_shapes_of_the_formats(exported):
    case, model = exported
    graph = onnx.load_from_string(model).graph
    ends = [*graph.input, *graph.output]
    shapes = {
        end.name: [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim]
        for end in ends
    }
    assert shapes["source"] == ["n", case.source.values.shape[1]]
    assert shapes["target"] == ["n", case.target.values.shape[1]]
    if case.target.format.kind == "tokens":
        format = case.target.format
        assert shapes["scores"] == ["n", format.steps, format.width]


def test_what_an_exported_link_costs_is_known(exported):
    case, model = exported
    found = profile(onnx.load_from_string(model))
    assert found.unknown == ()
    assert found.flops is not None
    assert found.flops > case.link.parameters  # every weight but embeddings counts more than once


def test_unknown_missing_and_empty_sources_are_answered_as_by_the_link():
    link = translation("reverse").link
    values = np.array([[END, END, END], [99, -7, 2], [2, END, 3]])
    np.testing.assert_array_equal(run(to_onnx(link), values)["target"], link.predict(values))
    writer = captioning().link
    missing = np.full((1, 10), np.nan, dtype=np.float32)
    found = run(to_onnx(writer), missing)["target"]
    np.testing.assert_array_equal(found, writer.predict(missing))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (replace(SENTENCE, steps=STEPS + 2), SENTENCE),
        (SENTENCE, replace(SENTENCE, steps=STEPS + 2)),
        (replace(SENTENCE, end=None), replace(SENTENCE, end=None)),
        (replace(SENTENCE, width=3000), replace(SENTENCE, width=3000)),
        (SENTENCE, replace(SENTENCE, width=6, end=5)),
    ],
)
def test_every_kind_of_sequence_is_exported(source, target):
    def answers(format):
        values = sentences(samples=60).values
        if format.end != END:
            values = np.where(values == END, 0 if format.end is None else format.end, values)
        short = format.steps - STEPS
        return LinkAnswers(format, np.pad(values, ((0, 0), (0, short)), constant_values=END))

    case = fitted(answers(source), answers(target), BRIEF)
    model = to_onnx(case.link)
    found = run(model, case.source.values)
    assert found["target"].shape == case.target.values.shape
    np.testing.assert_allclose(found["scores"].sum(axis=2), 1, atol=FLOAT)


def test_a_link_that_does_not_answer_numbers_is_not_exported():
    link = fitted(digits()[1], digits()[0], BRIEF).link
    with torch.no_grad():
        next(link.network.mlp.parameters()).fill_(torch.nan)
    with pytest.raises(AnalysisError, match="otherwise"):
        to_onnx(link)


def test_links_of_sequences_run_side_by_side_in_an_ensemble():
    links = {"classes": captioning(), "captions": fitted(digits()[1], digits()[1], BRIEF)}
    parts = {name: to_onnx(case.link) for name, case in links.items()}
    head = replace(source_head(CAPTION, "classes"), sources=("classes", "captions"))
    model = ensemble_onnx(parts, replace(head, kind="weights", weights=np.array([0.7, 0.3])))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {f"source_{i}": case.source.values[:20] for i, case in enumerate(links.values())}
    (found,) = session.run(None, feeds)
    np.testing.assert_array_equal(found, captioning().predicted[:20])


def test_a_vector_target_needs_no_decoder():
    assert "Loop" not in {node.op_type for node in onnx.load_from_string(
        to_onnx(reading().link)).graph.node}  # fmt: skip
