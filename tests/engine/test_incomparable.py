"""EXPLAIN WHY of a model that could not be compared: its own reason, and what would help it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sommelier.records import (
    AnalysisTask,
    Dataset,
    LabelSpace,
    ModelRecord,
    OutputSketch,
    ProbeSet,
)
from sommelier.storage.tasks import TaskQueue
from tests.engine.conftest import SAMPLES, TRUTH, Bench

CATS = LabelSpace("labels-cats", "cats", ("tabby", "siamese", "lynx"))
CARS = LabelSpace("labels-cars", "cars", ("sedan", "coupe"))


@pytest.fixture
def photos(bench: Bench) -> ProbeSet:
    """The probes that the reference `home` answered."""
    probes = bench.probes("photos")
    bench.model("home", 0, probes)
    return probes


def file_of(bench: Bench, name: str) -> str:
    """The id of the model, which from now on has a file to run."""
    record = bench.catalog.resolve(name)
    bench.catalog.update_model(replace(record, artifact="somewhere"))
    return record.id


def ran(bench: Bench, name: str, state: str, reason: str | None, *, finish: str = "done") -> None:
    """A job whose only task, of this model, ended like this."""
    queue = TaskQueue(bench.catalog)
    key = f"sketch {len(queue.jobs())}"
    task = AnalysisTask(
        key, 0, "sketch", file_of(bench, name), {"probe_set_id": "p"}, state, reason
    )
    queue.finish_job(queue.start_job("ANALYZE", [task]).id, finish)


def why(bench: Bench, name: str, reference: str = "home", options: str = "") -> tuple[str, str]:
    """(reason, remedy) of the verdict on CORR."""
    query = f"SELECT MODELS CORR {reference} 90%{options}"
    report = bench.ask(f"EXPLAIN WHY {name} NOT IN ({query})")
    (condition,) = report.data["conditions"]
    assert condition["verdict"] == "unknown"
    assert condition["value"].startswith("not compared: ")
    return condition["value"].removeprefix("not compared: "), condition["relaxation"]


def answers(
    bench: Bench, name: str, probes: ProbeSet, *, kind: str = "labels", numbers: int = 3,
    space: LabelSpace | None = None,
) -> None:  # fmt: skip
    """A model that answered with classes of a label space, or with vectors."""
    record = ModelRecord(f"sha256:{name}", name, "1", "test", artifact="file",
                         label_space_id=space and space.id)  # fmt: skip
    bench.catalog.add_model(record, label_space=space)
    labels = kind == "labels"
    data = (TRUTH % 2).astype(np.uint32) if labels else np.ones((SAMPLES, numbers), np.float32)
    bench.sketches.add(
        OutputSketch(
            record.id, probes.id, kind, data.tobytes(), 1 if labels else numbers, True,
            space and space.id, None if space else numbers,
        )
    )  # fmt: skip


# ---- it never answered


def test_a_model_that_was_never_analysed(bench: Bench, photos: ProbeSet) -> None:
    bench.model("new", 0)
    file_of(bench, "new")
    assert why(bench, "new") == (
        "it was never analysed for equivalence",
        "ANALYZE new FOR EQUIVALENCE USING dataset = 'photos'",
    )


def test_a_model_without_a_file_cannot_be_analysed(bench: Bench, photos: ProbeSet) -> None:
    bench.model("row", 0)
    reason, remedy = why(bench, "row")
    assert reason == "it is metadata only: there is no file that could answer"
    assert remedy == "IMPORT or REGISTER the file of row"


@pytest.mark.parametrize(("state", "words"), [("failed", "failed"), ("skipped", "was skipped")])
def test_a_task_that_did_not_end_well_is_told_with_job_time_and_reason(
    bench: Bench, photos: ProbeSet, state: str, words: str
) -> None:
    bench.model("bad", 0)
    ran(bench, "bad", "failed", "an older reason")
    ran(bench, "bad", state, "every output is NaN")
    (_, job) = TaskQueue(bench.catalog).jobs()
    reason, remedy = why(bench, "bad")
    assert reason == (
        f"it has no answers: its equivalence task {words} (job 2, {job.started_at:%Y-%m-%d %H:%M} "
        "UTC): every output is NaN"
    )
    assert remedy == "ANALYZE bad FOR EQUIVALENCE USING dataset = 'photos'"


def test_a_job_that_did_not_come_to_the_model(bench: Bench, photos: ProbeSet) -> None:
    bench.model("late", 0)
    ran(bench, "late", "pending", None, finish="interrupted")
    reason, _ = why(bench, "late")
    assert reason == "it has no answers yet: job 1 is interrupted and has not come to it"


def test_two_models_with_different_reasons_get_their_own(bench: Bench, photos: ProbeSet) -> None:
    for name in ("bad", "new"):
        bench.model(name, 0)
        file_of(bench, name)
    ran(bench, "bad", "failed", "every output is NaN")
    assert "every output is NaN" in why(bench, "bad")[0]
    assert "NaN" not in why(bench, "new")[0]


# ---- the reference never answered


def test_a_reference_that_was_never_analysed(bench: Bench, photos: ProbeSet) -> None:
    bench.model("new", 0)
    file_of(bench, "new")
    assert why(bench, "home", "new") == (
        "the reference new was never analysed for equivalence",
        "ANALYZE new FOR EQUIVALENCE",
    )
    bench.model("newer", 0)
    ran(bench, "newer", "failed", "it takes text")
    reason, remedy = why(bench, "newer", "new")
    assert reason.startswith("the reference new was never analysed for equivalence; it has no ")
    assert reason.endswith("it takes text")
    assert remedy == "ANALYZE new, newer FOR EQUIVALENCE"


# ---- both answered, but not what can be compared


def test_no_common_probe_set_names_the_sets_of_each(bench: Bench, photos: ProbeSet) -> None:
    bench.model("abroad", 0, bench.probes("sounds", dataset_id="other"))
    reason, remedy = why(bench, "abroad")
    assert reason == (
        "no common probe set: it answered 'sounds' (400), home answered 'photos' (400)"
    )
    assert remedy == "ANALYZE home, abroad FOR EQUIVALENCE USING dataset = 'photos'"


def test_no_answers_on_the_dataset_that_was_asked_for(bench: Bench, photos: ProbeSet) -> None:
    sounds = bench.probes("sounds", dataset_id="other")
    bench.model("both", 0, photos, sounds)
    bench.model("only", 0, photos)
    reason, remedy = why(bench, "only", "both", " USING dataset='sounds'")
    assert reason == "it has no answers on 'sounds', only on 'photos'"
    assert remedy == "IMPORT or REGISTER the file of only"
    file_of(bench, "only")
    _, remedy = why(bench, "only", "both", " USING dataset='sounds'")
    assert remedy == "ANALYZE only FOR EQUIVALENCE USING dataset = 'sounds'"


def test_different_kinds_and_sizes_of_output(bench: Bench, photos: ProbeSet) -> None:
    answers(bench, "three", photos, kind="vectors", numbers=3)
    answers(bench, "four", photos, kind="vectors", numbers=4)
    assert why(bench, "three")[0] == "it answers with vectors, home with labels"
    reason, _ = why(bench, "four", "three")
    assert reason == "different output sizes: its answers have 4 numbers, those of three 3"


def test_different_numbers_of_nameless_classes(bench: Bench, photos: ProbeSet) -> None:
    answers(bench, "three", photos, numbers=3)
    reason, remedy = why(bench, "three")
    assert reason.endswith("it answers with 3 classes, home with 5 classes")
    assert "ALTER MODEL three SET labels = 'names.txt'" in remedy


def test_classes_of_other_names_are_counted_and_the_map_is_named(
    bench: Bench, photos: ProbeSet
) -> None:
    answers(bench, "cats", photos, space=CATS)
    answers(bench, "cars", photos, space=CARS)
    reason, remedy = why(bench, "cars", "cats")
    assert reason == "different classes: none of its 2 class names is among the 3 of cats"
    assert "ALTER MODEL cars SET labels = 'names.txt'" in remedy
    bench.catalog.add_dataset(
        Dataset("data", "pets", "image", "/tmp", 9, None, None, True, CATS.id)  # type: ignore[arg-type]
    )
    _, remedy = why(bench, "cars", "cats")
    assert remedy == "relate the names: ALTER MODEL cars SET label_map = 'map.json' ON 'pets'"
    _, remedy = why(bench, "cats", "cars")
    assert remedy == "relate the names: ALTER MODEL cars SET label_map = 'map.json' ON 'pets'"


def test_every_reference_of_several_has_its_own_reason(bench: Bench, photos: ProbeSet) -> None:
    bench.model("abroad", 0, bench.probes("sounds", dataset_id="other"))
    bench.model("new", 0)
    file_of(bench, "new")
    report = bench.ask("EXPLAIN WHY home NOT IN (SELECT MODELS CORR ALL (abroad, new) 90%)")
    (condition,) = report.data["conditions"]
    reasons = [part["value"] for part in condition["parts"]]
    assert "no common probe set" in reasons[0]
    assert reasons[1] == "not compared: the reference new was never analysed for equivalence"
    assert condition["relaxation"].startswith("ANALYZE ")
