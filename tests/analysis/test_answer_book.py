"""The answers links are learned from are those of the model as it is, and are made once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.answer_book import AnswerBook
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.sandbox import Sandbox
from sommelier.analysis.workers import Rooms
from sommelier.errors import AnalysisError
from tests.analysis.rooms import add_dataset, add_model, open_rooms, plan, run
from tests.factories import nan_model, tiny_classifier

X = np.random.default_rng(1).normal(size=(120, 4)).astype(np.float32)


class CountingSandbox(Sandbox):
    """Counts its calls."""

    calls = 0

    def call(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().call(*args, **kwargs)


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    np.savez(tmp_path / "points.npz", x=X, y=np.arange(120) % 3)
    with open_rooms(tmp_path) as found:
        add_dataset(found, tmp_path / "points.npz", "points")
        yield found


def test_a_model_that_fails_runs_once_and_tells_every_task_why(
    rooms: Rooms, tmp_path: Path
) -> None:
    record = add_model(rooms, nan_model(tmp_path / "nan.onnx"), output_kind="classification")
    (probes,) = plan(rooms, "equivalence", datasets=("points",)).probes.values()
    book = AnswerBook(rooms)
    with CountingSandbox() as sandbox:
        for _ in range(3):
            with pytest.raises(AnalysisError, match="nan: every output is NaN"):
                book.of(record, probes, sandbox)
        assert sandbox.calls == 1


def test_answers_kept_before_the_preprocessing_changed_are_not_taken(
    rooms: Rooms, tmp_path: Path
) -> None:
    path = tiny_classifier(tmp_path / "m.onnx")
    record = add_model(rooms, path)
    found = plan(rooms, "equivalence")
    run(rooms, found)
    (probes,) = found.probes.values()
    changed = replace(record, preprocessing=validated([["affine", {"scale": -1.0}]]))
    rooms.catalog.update_model(changed)
    session = onnxruntime.InferenceSession(str(path))
    with CountingSandbox() as sandbox:
        book = AnswerBook(rooms)
        kept = book.of(record, probes, sandbox)
        assert sandbox.calls == 0  # read from what the catalog keeps
        now = AnswerBook(rooms).of(rooms.catalog.model(record.id), probes, sandbox)
        assert sandbox.calls == 1
    for answers, items in ((kept, X), (now, -X)):
        given = session.run(None, {"x": items[probes.indices]})[0]
        assert np.array_equal(answers.values.argmax(axis=1), given.argmax(axis=1))
