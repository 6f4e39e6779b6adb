"""Pairs decided side by side: which answers count as equal, and models that take no batch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.datasets import load
from sommelier.analysis.early_stopping import StreamRequest, decide_pair
from sommelier.analysis.execution import RunRequest
from sommelier.analysis.probes import dataset_probes
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind
from sommelier.storage.label_translation import POSITIONAL, Translation
from tests.factories import embedding_model, tiny_classifier, unbatched_classifier

X = np.random.default_rng(2).normal(size=(300, 4)).astype(np.float32)


@pytest.fixture
def probes(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    with load(tmp_path / "d.npz") as data:
        return dataset_probes(data)


def decided(reference, candidate, kind, probes, how=None, threshold=0.5):
    runs = (RunRequest(path, kind, None, probes) for path in (reference, candidate))
    return decide_pair(StreamRequest(*runs, how, threshold, seed=0))


def direct(path):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": X})[0]


def test_a_model_that_fails_in_batches_is_compared_sample_by_sample(tmp_path, probes):
    alone = unbatched_classifier(tmp_path / "alone.onnx")
    weights = np.eye(4), np.zeros(4)
    twin = tiny_classifier(tmp_path / "twin.onnx", weights=weights)
    found = decided(alone, twin, OutputKind.CLASSIFICATION, probes, Translation(POSITIONAL))
    assert (found.verdict, found.successes) == ("above", found.samples)


def test_vectors_agree_within_a_twentieth_of_the_references_length(tmp_path, probes):
    weights = np.eye(4), np.zeros(4)
    ours = tiny_classifier(tmp_path / "ours.onnx", weights=weights)
    shift = np.full(4, 0.04)  # within 5 % for inputs longer than 1.6
    theirs = tiny_classifier(tmp_path / "theirs.onnx", weights=(np.eye(4), shift))
    one, other = direct(ours).astype(float), direct(theirs)
    expected = np.linalg.norm(other - one, axis=1) <= 0.05 * np.linalg.norm(one, axis=1)
    share = float(expected.mean())
    found = decided(ours, theirs, OutputKind.EMBEDDING, probes, threshold=share)
    assert 0.2 < share < 0.9
    assert (found.verdict, found.samples) == ("undecided", len(X))  # the truth is the threshold
    assert found.successes == expected.sum()


def test_vectors_of_other_sizes_are_not_compared(tmp_path, probes):
    paths = [embedding_model(tmp_path / f"{n}.onnx", width=n) for n in (8, 9)]
    with pytest.raises(AnalysisError, match="outputs of 8 and of 9 numbers cannot be compared"):
        decided(*paths, OutputKind.EMBEDDING, probes)
