"""Fusions through statements: searched, certified, kept as models, cancelled and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from numpy.typing import NDArray

import sommelier as sm
from sommelier.analysis.fusion.lessons import divide
from sommelier.analysis.fusion_jobs import step_of
from sommelier.errors import (
    AnalysisError,
    BinderError,
    CancelledError,
    SommelierError,
    StorageError,
    UnknownNameError,
)
from sommelier.fusion_records import FusionStep
from tests.asking import rows
from tests.fusion_models import (
    CLASSES,
    write_net,
    write_nets,
    write_random_net,
    write_samples,
)
from tests.link_models import FEATURES

SAMPLES = 1000
MANY = 3000  # so that a search lasts
OF = "FUSION OF digit_net, speaker_net, accent_net"
DATA = "dataset = 'digits', labels = 'digits, speakers, accents'"
HARD = "FUSION OF hard_1, hard_2"
LONG = "USING dataset = 'many', method = random, epochs = 100000"  # more than a test waits for
TASKS = ("digit", "speaker", "accent")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of three models, their data, and the model 'multi' made of them;
    copied where it is used."""
    folder = tmp_path_factory.mktemp("fusion")
    (folder / "nets").mkdir()
    write_nets(folder / "nets")
    write_net(folder / "nets" / "short_net.onnx", "accent", seed=9, inputs=FEATURES - 1)
    for seed in (1, 2):
        write_random_net(folder / "nets" / f"hard_{seed}.onnx", seed=seed)
    write_samples(folder / "samples.npz", samples=SAMPLES)
    write_samples(folder / "many.npz", samples=MANY, seed=1)
    with sm.connect(folder / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder / 'nets'}'")
        for task in CLASSES:
            db.register_dataset(f"{task}s", folder / "samples.npz", x="x", y=task)
        db.register_dataset("many", folder / "many.npz", x="x", y="none")
        # measured once, so that every search below predicts the same
        db.execute("ANALYZE hard_1, hard_2 FOR LATENCY USING runs = 10")
        db.execute(f"CREATE MODEL multi AS {OF} WITHIN 2% USING {DATA}, epochs = 8, seed = 3")
    return folder


def copied(source: Path, folder: Path) -> Path:
    """The database in another folder."""
    shutil.copy(source / "models.sommelier", folder)
    shutil.copytree(source / "models.sommelier.d", folder / "models.sommelier.d")
    return folder / "models.sommelier"


@pytest.fixture
def path(source: Path, tmp_path: Path) -> Path:
    return copied(source, tmp_path)


@pytest.fixture
def db(path: Path) -> Iterator[sm.Connection]:
    with sm.connect(path) as db:
        yield db


@pytest.fixture(scope="module")
def fused(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    """No test changes it."""
    with sm.connect(copied(source, tmp_path_factory.mktemp("fused"))) as db:
        yield db


def fusion(db: sm.Connection, name: str) -> dict[str, object]:
    (row,) = rows(db, f"SELECT * FROM fusions WHERE name = '{name}'")
    return row


def file_of(db: sm.Connection, name: str) -> Path:
    return db.artifacts.path(str(db.catalog.resolve(name).artifact))


def answers(path: Path, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": inputs}), strict=True))


def folders(db: sm.Connection) -> list[Path]:
    return list((db.catalog.directory / "fusions").glob("*"))


def stopped_when(db: sm.Connection, accepted: bool) -> Callable[..., None]:
    """A progress that cancels once there is a best so far, or at the first step of the search."""

    def progress(phase: str, _done: int, _total: int | None, current: str | None) -> None:
        if phase == "searching" and (not accepted or (current or "").startswith("best")):
            db.cancel()

    return progress


# ---- the model that comes of it


def test_a_fused_model_is_found_by_questions_and_smaller_than_its_parts(
    fused: sm.Connection,
) -> None:
    found = {row["name"]: row for row in rows(fused, "SELECT MODELS name, params, flops, latency")}
    parts = [found[f"{task}_net"] for task in TASKS]
    for metric in ("params", "flops"):
        assert 0 < found["multi"][metric] < sum(part[metric] for part in parts)
    assert found["multi"]["latency"] > 0


def test_the_drops_are_those_of_the_held_out_samples(fused: sm.Connection, source: Path) -> None:
    with np.load(source / "samples.npz") as stored:
        data = dict(stored)
    held_out = divide(SAMPLES, 3).certify
    both = answers(file_of(fused, "multi"), data["x"][held_out])
    lost = {row["model"]: row for row in rows(fused, "SELECT * FROM fusion_tasks")}
    for task in TASKS:
        own = answers(file_of(fused, f"{task}_net"), data["x"][held_out])["scores"]
        truth = data[task][held_out]
        right = [(given.argmax(1) == truth).mean() for given in (own, both[f"{task}_net/scores"])]
        row = lost[f"{task}_net"]
        assert row["baseline"] == pytest.approx(right[0])
        assert row["drop"] == pytest.approx(right[0] - right[1])
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
        assert row["samples"] == len(held_out)
        assert row["drop"] <= 0.02


def test_the_model_says_which_output_is_which_task(fused: sm.Connection) -> None:
    record = fused.catalog.resolve("multi")
    names = [f"{task}_net/scores" for task in TASKS]
    assert [spec.name for spec in record.outputs] == names
    model = onnx.load(file_of(fused, "multi"))
    (said,) = [entry.value for entry in model.metadata_props if entry.key == "sommelier.fusion"]
    assert json.loads(said) == {f"{task}_net": [f"{task}_net/scores"] for task in TASKS}
    assert "speaker_net/scores answers as speaker_net" in str(record.note)


def test_lineage_names_every_part(fused: sm.Connection) -> None:
    found = rows(fused, "SHOW LINEAGE OF multi")
    assert {row["parent"] for row in found} == {f"{task}_net" for task in TASKS}
    assert {row["relation"] for row in found} == {"fused from"}


def test_the_fusion_and_its_trace_are_kept_and_the_folder_is_gone(fused: sm.Connection) -> None:
    row = fusion(fused, "multi")
    assert (row["state"], row["method"], row["seed"]) == ("fused", "search", 3)
    assert (row["training"], row["selection"], row["held_out"]) == (400, 200, 400)
    assert row["latency_ms"] > 0
    for metric in ("flops", "memory", "params"):
        assert row[metric] < row[f"base_{metric}"]
    steps = rows(fused, "SELECT * FROM fusion_trace ORDER BY step")
    assert [step["step"] for step in steps] == list(range(len(steps)))
    assert row["evaluations"] == sum(step["drop_measured"] is not None for step in steps) > 0
    assert folders(fused) == []
    (job,) = [job for job in rows(fused, "SHOW JOBS") if "AS FUSION" in str(job["statement"])]
    assert job["state"] == "done"


@pytest.mark.slow
def test_several_workers_train_side_by_side_and_make_the_same_model_again(
    db: sm.Connection,
) -> None:
    asked = f"{OF} WITHIN 20% USING {DATA}, method = all_shared, steps = 3, seed = 3, workers = 2"
    before = psutil.Process().children(recursive=True)  # of other tests
    for name in ("first", "second"):
        db.execute(f"CREATE MODEL {name} AS {asked}")
    inputs = np.random.default_rng(0).normal(size=(9, FEATURES)).astype(np.float32)
    first, second = (answers(file_of(db, name), inputs) for name in ("first", "second"))
    for name, answer in first.items():
        np.testing.assert_array_equal(answer, second[name])
    trace = db.catalog.fusion_steps(str(fusion(db, "first")["id"]))
    ends = [step.elapsed_ms for step in trace]
    assert ends[0] == ends[1] < ends[2]  # a round of two, and one of what is left
    assert json.loads(str(fusion(db, "first")["options"]))["workers"] == 2
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_it_is_compared_on_the_probes_of_other_models(fused: sm.Connection) -> None:
    fused.execute("ANALYZE digit_net FOR EQUIVALENCE USING dataset = 'digits'")
    found = rows(fused, "SELECT MODELS name CORR digit_net WITHIN 90%")
    assert "multi" in {row["name"] for row in found}


def test_its_accuracy_is_of_samples_it_did_not_learn_from(fused: sm.Connection) -> None:
    found = [m for m in fused.catalog.measurements(fused.catalog.resolve("multi").id)
             if m.metric == "accuracy"]  # fmt: skip
    assert [(m.dataset, m.count) for m in found] == [("digits", 400)]


# ---- what is refused


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        ("FUSION OF digit_net, digit_net", BinderError, "digit_net is named twice"),
        ("FUSION OF digit_net, short_net", AnalysisError, r"short_net takes x:float32\[n,15\]"),
        ("FUSION OF digit_net, nobody", UnknownNameError, "nobody"),
        ("FUSION OF POOL nothing", UnknownNameError, "nothing"),
        (f"{OF} ON accuracy < 3%", BinderError, "cannot be limited by 'accuracy'"),
        (f"{OF} ON latency > 3 ms", BinderError, "limited from above"),
        (f"{OF} ON latency < 60% OR flops < 60%", BinderError, "limited from above"),
        (f"{OF} ON latency < 60% OF short_net", BinderError, "none of the models"),
        (f"{OF} ON latency < 3 MB", BinderError, "latency|time"),
        (f"{OF} ON memory < 60", BinderError, "what"),
        (f"{OF} WITHIN 100%", BinderError, "less than 100%"),
        (f"{OF} USING epochs = 0", BinderError, "at least 1"),
        (f"{OF} USING workers = 0", BinderError, "workers must be at least 1"),
        (f"{OF} USING seed = -1", BinderError, "at least 0"),
        (f"{OF} USING epochs = NULL, seed = -1", BinderError, "at least 0"),
        (f"{OF} USING budget = 5 MB", BinderError, "budget"),
        (f"{OF} USING method = magic", BinderError, "gain_first"),
        (f"{OF} USING labels = 'digits'", AnalysisError, "1 datasets for 3 models"),
        (
            f"{OF} USING labels = 'speakers, digits, -'",
            AnalysisError,
            "'speakers' has no .* of digit_net",
        ),
        (f"{OF} FOR MEMORY USING method = random", BinderError, "FOR MEMORY"),
        (f"{OF} FOR MEMORY", AnalysisError, "no layers with equal weights"),
        (f"{OF} USING method = merged_weights, dataset = 'digits'", AnalysisError, "architecture"),
    ],
)
def test_what_cannot_be_fused_is_refused_and_leaves_no_model(
    fused: sm.Connection, statement: str, error: type[SommelierError], message: str
) -> None:
    before = fused.catalog.model_names()
    with pytest.raises(error, match=message):
        fused.execute(f"CREATE MODEL bad AS {statement}")
    assert fused.catalog.model_names() == before
    assert folders(fused) == []


def test_the_place_of_a_mistake_is_underlined(fused: sm.Connection) -> None:
    text = "CREATE MODEL bad AS FUSION OF digit_net, speaker_net, digit_net"
    with pytest.raises(BinderError) as caught:
        fused.execute(text)
    span = caught.value.span
    assert span is not None
    assert text[span.start : span.end] == "digit_net"
    assert span.start == text.rindex("digit_net")


def test_a_fused_model_does_not_take_the_place_of_one_it_is_made_of(fused: sm.Connection) -> None:
    with pytest.raises(BinderError, match="digit_net is one of the models that are fused"):
        fused.execute(f"CREATE OR REPLACE MODEL digit_net AS {OF}")
    assert fused.catalog.resolve("digit_net").source != "fusion"


def test_models_that_see_their_input_differently_are_not_fused(
    db: sm.Connection, tmp_path: Path
) -> None:
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps([["affine", {"scale": 2.0, "offset": 0.0}]]))
    db.execute(f"ALTER MODEL speaker_net SET preprocessing = '{steps}'")
    with pytest.raises(AnalysisError, match="speaker_net prepares its input by affine"):
        db.execute(f"CREATE MODEL bad AS {OF}")


def test_without_data_only_equal_layers_can_be_fused(db: sm.Connection) -> None:
    for name in ("digits", "speakers", "accents", "many"):
        db.execute(f"DROP DATASET {name}")
    with pytest.raises(AnalysisError, match="no dataset is registered") as caught:
        db.execute(f"CREATE MODEL bad AS {OF}")
    assert "REGISTER DATASET" in str(caught.value.hint)


def test_nothing_within_the_limits_says_what_came_closest(db: sm.Connection) -> None:
    first = db.catalog.resolve("multi").id
    text = f"CREATE OR REPLACE MODEL multi AS {OF} ON memory < 1% USING {DATA}, epochs = 4"
    with pytest.raises(AnalysisError, match=r"no fusion of .* was found") as caught:
        db.execute(text)
    assert caught.value.hint
    (lost,) = [f for f in db.catalog.fusions(name="multi") if f.model_id is None]
    assert lost.state == "none found"
    assert lost.reason
    assert folders(db) == []  # nothing was trained that a larger budget could go on with
    assert db.catalog.resolve("multi").id == first  # the old one stays until there is a new one
    assert db.catalog.fusions(model_id=first)[0].state == "fused"


@pytest.mark.slow
def test_a_larger_budget_goes_on_where_nothing_was_found(db: sm.Connection) -> None:
    text = f"CREATE MODEL other AS {HARD} WITHIN 40% USING dataset = 'many', method = gain_first"
    limits = "confidence = 0.9999999999, upper_end = true, samples = 60"
    with pytest.raises(AnalysisError, match=r"no fusion of .* was found"):
        db.execute(f"{text}, {limits}, steps = 1")
    first = rows(db, "SELECT * FROM fusion_trace WHERE fusion = 'other'")
    with pytest.raises(AnalysisError, match=r"no fusion of .* was found"):
        db.execute(f"{text}, {limits}, steps = 3")
    both = rows(db, "SELECT * FROM fusion_trace WHERE fusion = 'other'")
    assert both[: len(first)] == first  # to the time: they were not done again
    assert len(both) > len(first)


def test_too_few_samples_for_upper_end_are_told_before_the_search(db: sm.Connection) -> None:
    asked = f"USING {DATA}, upper_end = true, steps = 1, samples = 400 ASYNC"
    notes = db.execute(f"CREATE MODEL strict AS {OF} WITHIN 1% {asked}").notes
    (told,) = [note for note in notes if note.startswith("upper_end")]
    assert "160 of 400 samples are measured on" in told
    assert "it takes 437, and 574" in told
    assert "samples = 1435" in told
    notes = db.execute(f"CREATE MODEL loose AS {OF} WITHIN 9% {asked}").notes
    assert not any("upper_end" in note for note in notes)


# ---- without training


def test_equal_layers_are_kept_once_and_the_answers_stay(db: sm.Connection, tmp_path: Path) -> None:
    nets = tmp_path / "twins"
    nets.mkdir()
    for task in ("digit", "speaker"):
        write_net(nets / f"{task}_twin.onnx", task, seed=5)
    db.execute(f"IMPORT MODELS FROM folder '{nets}'")
    done = db.execute("CREATE MODEL both AS FUSION OF digit_twin, speaker_twin FOR MEMORY")
    assert any("nothing was trained" in note for note in done.notes)
    x = np.random.default_rng(0).normal(size=(32, FEATURES)).astype(np.float32)
    both = answers(file_of(db, "both"), x)
    for task in ("digit", "speaker"):
        own = answers(nets / f"{task}_twin.onnx", x)["scores"]
        np.testing.assert_allclose(both[f"{task}_twin/scores"], own, rtol=1e-5, atol=1e-5)
    row = fusion(db, "both")
    assert row["method"] == "equal layers"
    assert row["memory"] < row["base_memory"]
    again = "CREATE OR REPLACE MODEL both AS FUSION OF digit_twin, speaker_twin FOR MEMORY ON"
    with pytest.raises(AnalysisError, match="of the originals' memory, and"):
        db.execute(f"{again} memory < 1% OF digit_twin")
    db.execute(f"{again} memory < 200% OF digit_twin")


@pytest.mark.slow
def test_averaged_weights_of_one_architecture_are_tried_before_a_search(
    db: sm.Connection, tmp_path: Path
) -> None:
    nets = tmp_path / "tuned"
    nets.mkdir()
    for task in ("digit", "speaker"):  # as if fine-tuned from one network
        write_net(nets / f"{task}_tuned.onnx", task, seed=5, noise=0.01)
    db.execute(f"IMPORT MODELS FROM folder '{nets}'")
    db.execute(
        "CREATE MODEL both AS FUSION OF digit_tuned, speaker_tuned WITHIN 3%"
        " USING dataset = 'digits', labels = 'digits, speakers', epochs = 4"
    )
    assert fusion(db, "both")["method"] == "merged weights"
    (step,) = rows(db, "SELECT action, epochs FROM fusion_trace WHERE fusion = 'both'")
    assert (step["action"], step["epochs"]) == ("merged", 0)


# ---- names


@pytest.mark.slow
def test_an_existing_name_is_kept_replaced_or_refused_as_asked(db: sm.Connection) -> None:
    short = f"{OF} WITHIN 2% USING {DATA}, epochs = 8, seed = 3"
    first = db.catalog.resolve("multi").id
    assert rows(db, f"CREATE MODEL IF NOT EXISTS multi AS {short}")[0]["status"] == "exists"
    with pytest.raises(BinderError, match="exists"):
        db.execute(f"CREATE MODEL multi AS {short}")
    db.execute(f"CREATE OR REPLACE MODEL multi AS {short}")  # the same search: the same model
    assert db.catalog.resolve("multi").id == first
    db.execute(f"CREATE OR REPLACE MODEL multi AS {short}0")
    second = db.catalog.resolve("multi").id
    assert second != first
    assert db.catalog.model_names().count("multi") == 1
    assert [f.model_id for f in db.catalog.fusions(name="multi") if f.model_id] == [second]


def test_a_model_that_is_not_replaced_after_all_keeps_what_is_known_of_it(
    db: sm.Connection,
) -> None:
    before = db.catalog.fusion("multi")
    text = f"CREATE OR REPLACE MODEL multi AS {OF} WITHIN 2% USING {DATA}, epochs = 9, seed = 3"
    with pytest.raises(AnalysisError, match="memory"):
        db.execute(f"{text}, memory_limit = 1 MB")
    assert db.catalog.fusions(model_id=before.model_id) == [before]


# ---- stopping, and going on


def test_cancelled_with_a_best_so_far_that_becomes_the_model(db: sm.Connection) -> None:
    done = db.execute(
        f"CREATE MODEL other AS {HARD} WITHIN 20% {LONG}", progress=stopped_when(db, accepted=True)
    )
    assert any("cancelled: the best so far" in note for note in done.notes)
    row = fusion(db, "other")
    assert row["state"] == "fused"
    assert "cancelled" in str(row["reason"])
    assert row["accuracy_drop"] <= row["drop_threshold"] == 0.2
    assert folders(db) == []


@pytest.mark.slow
def test_cancelled_before_anything_was_found_makes_no_model_and_can_go_on(
    db: sm.Connection,
) -> None:
    text = f"CREATE MODEL other AS {HARD} WITHIN 0% ON memory < 16% {LONG}"
    with pytest.raises(CancelledError, match="cancelled"):
        db.execute(text, progress=stopped_when(db, accepted=False))
    assert "other" not in db.catalog.model_names()
    assert fusion(db, "other")["state"] == "cancelled"
    (folder,) = folders(db)
    # what it goes on from can be damaged: that is told once, and then it begins anew
    (folder / "search").mkdir(exist_ok=True)
    (folder / "search" / "search.json").write_text("{")
    with pytest.raises(AnalysisError, match="cannot be read"):
        db.execute(text)
    with pytest.raises(CancelledError):
        db.execute(text, progress=stopped_when(db, accepted=False))


def test_in_the_background_statements_go_on_and_the_model_comes(db: sm.Connection) -> None:
    (row,) = rows(db, f"CREATE MODEL other AS {OF} WITHIN 2% USING {DATA}, epochs = 4 ASYNC")
    assert row["status"] == "started"
    assert rows(db, "SELECT MODELS name WHERE name = 'digit_net'")
    assert db.background.wait(int(str(row["job"])), 120).state == "done"
    assert "other" in db.catalog.model_names()
    kept = fusion(db, "other")
    assert (kept["state"], kept["job_id"]) == ("fused", row["job"])


SEARCH = (
    f"CREATE MODEL other AS {HARD} WITHIN 40%"
    " USING dataset = 'many', method = gain_first, epochs = 16, seed = 4"
)


def killed(path: Path) -> None:
    """The search in a process of its own, killed once a step was written."""
    script = f"import sommelier, sys; sommelier.connect(sys.argv[1]).execute({SEARCH!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(sm.__file__).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], env=environment)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            written = [f.read_text() for f in path.parent.glob("*.d/fusions/*/steps.jsonl")]
            if any("\n" in text for text in written):
                break
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_a_killed_search_goes_on_and_ends_with_the_same_model(
    source: Path, path: Path, tmp_path: Path
) -> None:
    trace = "SELECT action, pair, drop_measured FROM fusion_trace WHERE fusion = 'other'"
    killed(path)
    with sm.connect(path) as db:
        job = rows(db, "SHOW JOBS")[0]
        assert job["state"] == "interrupted"
        assert fusion(db, "other")["state"] == "interrupted"
        done = db.execute(SEARCH)
        assert any("went on" in note for note in done.notes)
        resumed, steps = db.catalog.resolve("other").id, rows(db, trace)
        assert folders(db) == []
    (tmp_path / "whole").mkdir()
    with sm.connect(copied(source, tmp_path / "whole")) as db:
        db.execute(SEARCH)
        assert db.catalog.resolve("other").id == resumed
        assert rows(db, trace) == steps


def test_a_folder_that_cannot_be_made_is_told_before_anything_begins(db: sm.Connection) -> None:
    (db.catalog.directory / "fusions").rmdir()
    (db.catalog.directory / "fusions").write_text("in the way")
    with pytest.raises(StorageError, match="a search needs the folder"):
        db.execute(f"CREATE MODEL other AS {OF} USING {DATA}, epochs = 1")
    assert "other" not in db.catalog.fusion_names()


# ---- what the child wrote


STEP = {"step": 3, "action": "trained", "drop_measured": 0.5, "epochs": 2, "accepted": True}


def test_a_step_is_read_as_it_was_written() -> None:
    assert step_of(json.dumps(STEP).encode()) == FusionStep(**STEP)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"step": 1}',
        json.dumps(STEP | {"unheard": 1}).encode(),
        json.dumps(STEP | {"step": "3"}).encode(),
        json.dumps(STEP | {"step": 2**40}).encode(),
        json.dumps(STEP | {"epochs": -1}).encode(),
        json.dumps(STEP | {"pair": ["a"]}).encode(),
        json.dumps(STEP | {"flops": "many"}).encode(),
        json.dumps(STEP | {"flops": 10**400}).encode(),
    ],
)
def test_a_damaged_line_is_no_step(line: bytes) -> None:
    assert step_of(line) is None
