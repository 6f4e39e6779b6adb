"""DESCRIBE MODEL: how its inputs are prepared, and what went wrong with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sommelier.engine.session import Session
from sommelier.errors import UnknownNameError
from sommelier.origin_records import Original, Repository
from sommelier.records import AnalysisTask, Measurement, Preprocessing, Provenance
from sommelier.storage.tasks import DONE_BEFORE, TaskQueue
from tests.engine.conftest import SPECIMENS, asker

RESNET = SPECIMENS[0].id
STEPS = (
    ("to_float", {"scale": 255.0}),
    ("normalize", {"mean": [0.5, 0.25], "std": [1.0, 2.0]}),
    ("layout", {"order": "NCHW"}),
    ("grayscale", {}),
)


def described(session: Session) -> dict[object, object]:
    return dict(asker(session)("DESCRIBE resnet50").rows)


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        (None, "none declared (assumed from shapes when analysed)"),
        (Preprocessing(STEPS),
         ("to_float(scale=255), normalize(mean=[0.5, 0.25], std=[1, 2]), "
          "layout(order='NCHW'), grayscale")),
        (Preprocessing(STEPS[:1], assumed=True), "to_float(scale=255) (assumed from shapes)"),
    ],
)  # fmt: skip
def test_the_preprocessing_stands_in_one_line(
    own_shelf: Session, preprocessing: Preprocessing | None, words: str
) -> None:
    record = own_shelf.catalog.model(RESNET)
    changed = replace(record, format="onnx", preprocessing=preprocessing)
    own_shelf.catalog.update_model(changed)
    assert described(own_shelf)["preprocessing"] == words


def test_a_model_without_a_file_has_nothing_to_prepare(own_shelf: Session) -> None:
    assert "preprocessing" not in described(own_shelf)


def test_a_model_that_was_converted_says_how(own_shelf: Session) -> None:
    options = {"entry": "small", "weights": {"pretrained": True}, "arguments": None}
    own_shelf.catalog.save_original(RESNET, Original("torchhub", "/toy/hubconf.py", options))
    assert described(own_shelf)["converted from"] == (
        'torchhub /toy/hubconf.py, entry = small, weights = {"pretrained": true}'
    )


def test_an_interval_of_one_number_is_not_told(own_shelf: Session) -> None:
    for metric, most in (("params", 2e6), ("size", 1e6 + 1)):
        measured = Measurement(RESNET, metric, 1e6, Provenance.ESTIMATED, "x", low=1e6, high=most)
        own_shelf.catalog.add_measurements([measured])
    told = asker(own_shelf)("SHOW PROFILES OF resnet50").dicts()
    intervals = {row["metric"]: row["range"] for row in told if row["method"] == "x"}
    assert intervals == {"params": "1M to 2M", "size": None}


def test_a_repository_that_is_unknown_lists_the_others(own_shelf: Session) -> None:
    own_shelf.catalog.save_repository(Repository("ten", "folder", "/ten"))
    with pytest.raises(UnknownNameError) as caught:
        asker(own_shelf)("DESCRIBE REPOSITORY x")
    assert caught.value.hint == "repositories: ten"


def run(session: Session, state: str, reason: str | None, aspect: str = "sketch") -> None:
    """A job with one task of resnet50 that ended like this."""
    queue = TaskQueue(session.catalog)
    number = len(queue.jobs())
    task = AnalysisTask(f"{aspect} {number}", 0, aspect, RESNET, {})
    job = queue.start_job("ANALYZE", [task])
    claimed = queue.claim(job.id)
    assert claimed is not None
    queue.finish(claimed, state, reason)


def test_the_newest_failure_is_told(own_shelf: Session) -> None:
    run(own_shelf, "failed", "no time left", aspect="latency")
    run(own_shelf, "failed", "every output is NaN")
    run(own_shelf, "skipped", DONE_BEFORE, aspect="resources")
    assert described(own_shelf)["last failure"] == "sketch: every output is NaN"


def test_a_skipped_analysis_is_told_with_its_reason(own_shelf: Session) -> None:
    run(own_shelf, "skipped", "it takes text")
    assert described(own_shelf)["last skipped"] == "sketch: it takes text"


def test_a_failure_that_was_mended_is_not_told(own_shelf: Session) -> None:
    run(own_shelf, "failed", "every output is NaN")
    run(own_shelf, "done", None)
    assert not {"last failure", "last skipped"} & described(own_shelf).keys()


def test_what_only_measurements_name_is_described_by_them(own_shelf: Session) -> None:
    ask = asker(own_shelf)
    assert ("known (accuracy)", "1 model") in ask("DESCRIBE DATASET cifar10").rows
    assert ("known (latency)", "2 models") in ask("DESCRIBE DEVICE 'cuda:0'").rows
