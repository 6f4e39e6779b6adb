"""Links of sequences among the links that `fit_links` makes: judged, exported, explained."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.links.fitting import fit_links
from sommelier.analysis.links.judging import LinkOptions
from tests.analysis.links.sentences import digits, sentences

OPTIONS = LinkOptions(epochs=20, screen=False)


@cache
def to_captions():
    classes, captions = digits()
    return fit_links({"classifier": classes, "unrelated": sentences()}, captions, OPTIONS)


def test_a_useful_link_is_linked_and_an_unrelated_one_useless():
    states = {name: link.state for name, link in to_captions().items()}
    assert states == {"classifier": "linked", "unrelated": "useless"}
    architectures = [link.architecture for link in to_captions().values()]
    assert architectures == ["vec-to-seq", "seq-to-seq"]


@pytest.mark.parametrize("name", ["classifier", "unrelated"])
def test_the_exported_model_gives_the_predictions_that_were_judged(name):
    link = to_captions()[name]
    source = {"classifier": digits()[0], "unrelated": sentences()}[name]
    session = onnxruntime.InferenceSession(link.onnx, providers=["CPUExecutionProvider"])
    (tokens,) = session.run(["target"], {"source": source.values})
    assert (tokens == link.predicted).mean() > 0.99  # rounding decides between even ones
    assert link.predicted.dtype == np.int64


def test_a_link_of_tokens_cannot_be_linear():
    classes, captions = digits()
    found = fit_links({"captions": captions}, classes, LinkOptions(method="linear", screen=False))
    assert found["captions"].state == "not linkable"
    assert "vectors at both ends" in found["captions"].reason
