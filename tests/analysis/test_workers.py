"""A job finds what running the models by hand finds; a bad model costs nothing but itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from scipy import stats

from sommelier.errors import CancelledError, SommelierError
from sommelier.records import Provenance
from sommelier.storage.resource_index import ResourceIndex
from sommelier.storage.semantic_index import SemanticIndex
from sommelier.storage.versions import version_of
from tests.analysis.rooms import add_dataset, add_model, open_rooms, plan, run
from tests.factories import (
    embedding_model,
    hanging_model,
    memory_hog_model,
    nan_model,
    tiny_classifier,
)

X = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
Y = np.random.default_rng(2).integers(0, 3, 200)


@pytest.fixture
def rooms(tmp_path):
    np.savez(tmp_path / "points.npz", x=X, y=Y)
    with open_rooms(tmp_path) as found:
        add_dataset(found, tmp_path / "points.npz", "points")
        yield found


def direct(path):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": X})[0]


def accuracy(rooms, record):
    return next(m for m in rooms.catalog.measurements(record.id) if m.metric == "accuracy")


def test_stored_answers_and_accuracy_equal_direct_execution(rooms, tmp_path):
    path = tiny_classifier(tmp_path / "m.onnx")
    record = add_model(rooms, path)
    found = plan(rooms, "equivalence")
    job, summary = run(rooms, found)
    assert (job.state, job.done, job.failed, summary.done) == ("done", 1, 0, 1)
    (probe_set_id,) = found.probes
    sketch = rooms.sketches.get(record.id, probe_set_id)
    scores = direct(path)
    assert np.array_equal(np.frombuffer(sketch.answers, np.uint32), scores.argmax(axis=1))
    kept = rooms.sketches.outputs(version_of(record), probe_set_id)
    assert kept["outputs"] == pytest.approx(scores)
    measured = accuracy(rooms, record)
    right = int(np.sum(scores.argmax(axis=1) == Y))
    interval = stats.binomtest(right, 200).proportion_ci(0.95, method="exact")
    assert (measured.value, measured.count, measured.dataset) == (right / 200, 200, "points")
    assert (measured.low, measured.high) == pytest.approx((interval.low, interval.high))
    assert measured.provenance is Provenance.MEASURED


def test_a_repeated_analysis_does_nothing(rooms, tmp_path):
    add_model(rooms, tiny_classifier(tmp_path / "a.onnx"))
    run(rooms, plan(rooms, "equivalence"))
    generation = rooms.catalog.generation
    add_model(rooms, tiny_classifier(tmp_path / "b.onnx", seed=1))
    job, summary = run(rooms, plan(rooms, "equivalence"))
    assert (job.done, job.skipped, summary.done) == (1, 1, 1)
    assert rooms.catalog.generation > generation


def test_bad_models_fail_with_their_reason_and_the_run_goes_on(rooms, tmp_path):
    for factory, name in (
        (nan_model, "nan"),
        (hanging_model, "hanging"),
        (memory_hog_model, "hog"),
        (tiny_classifier, "good"),
    ):
        add_model(rooms, factory(tmp_path / f"{name}.onnx"), output_kind="classification")
    found = plan(rooms, "equivalence", datasets=("points",), time_limit_s=4.0,
                 memory_limit_bytes=2e9, workers=2)  # fmt: skip
    job, summary = run(rooms, found)
    assert (job.done, job.failed) == (1, 3)
    reasons = dict(summary.reasons)
    assert reasons["nan"] == "every output is NaN"
    assert reasons["hanging"] == "no answer within 4 s"
    assert "needs more memory than the limit of 2 GB" in reasons["hog"]
    assert rooms.sketches.model_ids(*found.probes) == [rooms.catalog.resolve("good").id]


def test_a_model_file_that_has_gone_fails_its_own_task_only(rooms, tmp_path):
    gone = add_model(rooms, tiny_classifier(tmp_path / "gone.onnx", seed=1))
    add_model(rooms, tiny_classifier(tmp_path / "here.onnx"))
    found = plan(rooms, "equivalence")
    rooms.artifacts.path(gone.artifact).unlink()
    job, summary = run(rooms, found)
    assert (job.done, job.failed) == (1, 1)
    assert summary.reasons[0][0] == "gone"
    assert "has gone" in summary.reasons[0][1]


def test_classes_that_do_not_match_are_compared_but_not_scored(rooms, tmp_path):
    record = add_model(rooms, tiny_classifier(tmp_path / "m.onnx", classes=4))
    job, summary = run(rooms, plan(rooms, "equivalence", datasets=("points",)))
    assert job.done == 1
    assert "no accuracy: 4 classes cannot be matched with 3" in summary.reasons[0][1]
    assert not [m for m in rooms.catalog.measurements(record.id) if m.metric == "accuracy"]


def test_a_label_map_given_later_adds_the_accuracy(rooms, tmp_path):
    data = add_dataset(rooms, tmp_path / "points.npz", "named", labels=["a", "b", "c"])
    path = tiny_classifier(tmp_path / "m.onnx", labels=["x", "y", "z"])
    record = add_model(rooms, path)
    _, summary = run(rooms, plan(rooms, "equivalence", datasets=("named",)))
    assert "no name in common" in summary.reasons[0][1]
    names = {"x": "b", "y": "a", "z": "c"}
    rooms.catalog.add_label_map(record.label_space_id, data.label_space_id, names)
    job, _ = run(rooms, plan(rooms, "equivalence", datasets=("named",)))
    assert job.done == 1
    mapped = np.array([1, 0, 2])[direct(path).argmax(axis=1)]
    assert accuracy(rooms, record).value == np.mean(mapped == Y)


def test_resources_and_latency_are_measured(rooms, tmp_path):
    record = add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    job, _ = run(rooms, plan(rooms, "latency", "resources", runs=5))
    assert (job.done, job.failed) == (2, 0)
    found = {(m.metric, m.percentile): m for m in rooms.catalog.measurements(record.id)}
    assert found["params", None].value == 4 * 3 + 3
    assert found["flops", None].value == 2 * 4 * 3
    assert 0 < found["latency", 50].value <= found["latency", 99].value


def test_embeddings_on_synthetic_probes_are_kept_as_vectors(rooms, tmp_path):
    record = add_model(rooms, embedding_model(tmp_path / "e.onnx", features=7))
    found = plan(rooms, "equivalence", samples=12)
    run(rooms, found)
    sketch = rooms.sketches.get(record.id, *found.probes)
    assert (sketch.kind, sketch.width, sketch.exact) == ("vectors", 8, True)
    assert rooms.catalog.probe_set(*found.probes).synthetic


def test_projections_of_outputs_of_different_sizes_are_not_comparable(rooms, tmp_path):
    for width in (700, 900):
        add_model(rooms, embedding_model(tmp_path / f"e{width}.onnx", features=7, width=width))
    found = plan(rooms, "equivalence", samples=12)
    run(rooms, found)
    index = SemanticIndex(rooms.catalog, rooms.sketches, ResourceIndex(rooms.catalog))
    one, two = (model.id for model in rooms.catalog.models())
    assert index.agreement(one, two).reason == "different output sizes"


def test_progress_counts_up_and_names_the_model(rooms, tmp_path):
    for seed in range(3):
        add_model(rooms, tiny_classifier(tmp_path / f"m{seed}.onnx", seed=seed))
    told = []
    run(rooms, plan(rooms, "equivalence", workers=1), progress=lambda *now: told.append(now))
    assert [name for _, _, _, name in told] == ["m0", "m1", "m2"]
    assert {(phase, total) for phase, _, total, _ in told} == {("answering", 3)}
    assert [done for _, done, _, _ in told] == sorted(done for _, done, _, _ in told)


def test_cancelling_stops_the_running_model_at_once_and_keeps_what_is_done(rooms, tmp_path):
    add_model(rooms, tiny_classifier(tmp_path / "a.onnx"))
    add_model(rooms, hanging_model(tmp_path / "b.onnx"), output_kind="classification")
    add_model(rooms, tiny_classifier(tmp_path / "c.onnx", seed=1))
    found = plan(rooms, "equivalence", datasets=("points",), workers=1)
    cancel = threading.Event()
    threading.Timer(3.0, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(CancelledError, match="ANALYZE was cancelled"):
        run(rooms, found, cancelled=cancel.is_set)
    assert time.monotonic() - started < 8
    job = rooms.queue.jobs()[-1]
    assert (job.state, job.failed) == ("cancelled", 0)
    states = [task.state for task in rooms.queue.tasks(job.id)]
    assert states == ["done", "pending", "pending"]


PROGRAM = """
import sys
from pathlib import Path
from tests.analysis.rooms import open_rooms, plan, run
with open_rooms(Path(sys.argv[1])) as rooms:
    run(rooms, plan(rooms, "equivalence", datasets=("points",), workers=1),
        progress=lambda *now: print(*now, flush=True))
"""


def test_an_analysis_killed_in_the_middle_resumes_where_it_was(tmp_path):
    np.savez(tmp_path / "points.npz", x=X, y=Y)
    with open_rooms(tmp_path) as rooms:
        add_dataset(rooms, tmp_path / "points.npz", "points")
        add_model(rooms, tiny_classifier(tmp_path / "a.onnx"))
        add_model(rooms, hanging_model(tmp_path / "b.onnx"), output_kind="classification")
        add_model(rooms, tiny_classifier(tmp_path / "c.onnx", seed=1))
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.split()[-1] == "c":  # the first is kept, the second runs
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with open_rooms(tmp_path) as rooms:
        assert rooms.queue.interrupt_stale() == 1
        assert rooms.queue.jobs()[0].state == "interrupted"
        rooms.catalog.drop_model(rooms.catalog.resolve("b").id)
        job, _ = run(rooms, plan(rooms, "equivalence", datasets=("points",)))
        assert (job.state, job.done, job.skipped) == ("done", 1, 1)
        assert len(rooms.sketches.model_ids(*plan(rooms, "equivalence").probes)) == 2


def test_findings_that_cannot_be_kept_end_the_job_and_are_not_half_kept(rooms, tmp_path):
    record = add_model(rooms, tiny_classifier(tmp_path / "m.onnx"))
    found = plan(rooms, "equivalence")
    rooms.sketches._directory.parent.joinpath("sketches").write_text("a file where a folder is due")
    with pytest.raises((SommelierError, OSError)):
        run(rooms, found)
    assert rooms.queue.jobs()[-1].state == "interrupted"
    assert not [m for m in rooms.catalog.measurements(record.id) if m.metric == "accuracy"]
