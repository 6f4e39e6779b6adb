"""The type check says yes, says what to adapt, or says why not; nothing is run."""

from __future__ import annotations

import pytest

from sommelier.analysis.labels import label_space
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.quality import Fit, Interface, check_interface
from sommelier.analysis.quality.input_types import raw_shape
from sommelier.records import ModelRecord, OutputKind, TensorSpec

CLASSES = OutputKind.CLASSIFICATION
FIRST = ("n", 3, 32, 32)
LAST = ("n", 32, 32, 3)
TORCH = validated([("to_float", {}), ("layout", {"order": "NCHW"}), ("cast", {"dtype": "float32"})])
RAW = validated([("cast", {"dtype": "float32"})])
RESIZED = validated(
    [("resize_short", {"size": 256}), ("center_crop", {"size": [224, 224]}), *TORCH.steps]
)
MAGIKA = validated([("file_bytes", {"begin": 1024, "end": 1024})])


def model(shape=FIRST, *, dtype="float32", kind=CLASSES, outputs=(("n", 10),), **more):
    specs = tuple(TensorSpec(f"y{i}", "float32", s) for i, s in enumerate(outputs))
    return Interface((TensorSpec("x", dtype, shape),), specs, kind, kind_inferred=False, **more)


def steps(found):
    return [adapter.step for adapter in found.adapters]


def test_equal_interfaces_are_compatible_and_unnamed_labels_are_flagged():
    found = check_interface(model(), model())
    assert (found.fit, found.adapters) == (Fit.COMPATIBLE, ())
    assert found.notes == ("labels are unverified: classes are matched by their numbers",)


def test_a_record_says_all_the_check_needs():
    names = label_space("l", ["a", "b"])
    record = ModelRecord(
        "id", "m", "1", "folder", inputs=model().inputs, outputs=model().outputs,
        output_kind=CLASSES, preprocessing=TORCH,
    )  # fmt: skip
    found = Interface.of_record(record, names)
    assert (found.label_space, found.preprocessing, found.output_kind) == (names, TORCH, CLASSES)
    assert found.kind_inferred


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (model(), model(LAST), ["transpose"]),
        (model(LAST), model(FIRST), ["transpose"]),
        (model(), model(dtype="float16"), ["cast"]),
        (model(("n", 128), dtype="int32"), model(("n", 128), dtype="int64"), ["cast"]),
        (model(("n", "t", 8)), model(("n", 20, 8)), []),
        (model((1, 3, 32, 32)), model(("n", 3, 32, 32)), []),
        (model((None, 3, "h", "w")), model(("n", 3, 32, 32)), []),
        (model(preprocessing=TORCH), model(LAST, preprocessing=RAW), ["preprocessing"]),
        (
            model(preprocessing=RESIZED, shape=("n", 3, 224, 224)),
            model(LAST, preprocessing=RAW),
            ["preprocessing"],
        ),
        (model(preprocessing=TORCH), model(preprocessing=TORCH), []),
        (model(kind=OutputKind.CLASS_IDS, outputs=(("n",),)), model(), ["classes"]),
    ],
)
def test_what_can_be_adapted_is(one, other, expected):
    found = check_interface(one, other)
    assert steps(found) == expected
    assert found.fit is (Fit.ADAPTABLE if expected else Fit.COMPATIBLE)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (model(), model(("n", 3, 64, 64)), "differ in an axis"),
        (model(), model(("n", 3, 32)), "axes beside the batch"),
        (model(("n", "t", "t")), model(("n", 4, 5)), "two lengths"),
        (model(), model(dtype="int8"), "different types"),
        (model(preprocessing=TORCH), model(("n", 64, 64, 3), preprocessing=RAW), "differ in an"),
        (
            model(("n", 2048), dtype="int32", preprocessing=MAGIKA),
            model(("n", 2048), dtype="int32", preprocessing=RAW),
            "files",
        ),
        (model(), model(kind=OutputKind.EMBEDDING), "cannot be compared with embedding"),
        (model(), model(outputs=(("n", 11),)), "10 classes cannot be matched with 11"),
        (
            model(kind=OutputKind.EMBEDDING, outputs=(("n", 8),)),
            model(kind=OutputKind.REGRESSION, outputs=(("n", 9),)),
            "cannot be compared",
        ),
        (
            model(kind=OutputKind.UNKNOWN, outputs=(("n", 8), ("n", 2))),
            model(kind=OutputKind.UNKNOWN, outputs=(("n", 8),)),
            "2 outputs",
        ),
        (
            model(("n", 9), dtype="int64", tokenizer="a"),
            model(("n", 9), dtype="int64", tokenizer="b"),
            "different tokenizers",
        ),
        (
            model(kind=OutputKind.DETECTION, outputs=(("n", 50, 6),)),
            model(kind=OutputKind.DETECTION, outputs=(("n", 60, 6),)),
            "no decoder is known",
        ),
    ],
)
def test_what_cannot_be_compared_says_why(one, other, reason):
    found = check_interface(one, other)
    assert found.fit is Fit.INCOMPATIBLE
    assert reason in found.reason
    assert reason in str(found)


def test_labels_are_matched_by_name_and_their_coverage_is_stated():
    ours, theirs = label_space("o", ["cat", "dog"]), label_space("t", ["dog", "cat"])
    wider = label_space("w", ["background", "cat", "dog", "bird"])
    two = (("n", 2),)
    one = model(outputs=two, label_space=ours)
    assert check_interface(one, one).fit is Fit.COMPATIBLE
    swapped = check_interface(one, model(outputs=two, label_space=theirs))
    assert [str(a) for a in swapped.adapters] == ["labels output: the same names in another order"]
    more = model(outputs=(("n", 4),), label_space=wider)
    assert "2 of 4 names" in str(check_interface(one, more))
    strict = check_interface(one, more, least_coverage=1.0)
    assert (strict.fit, strict.reason) == (
        Fit.INCOMPATIBLE, "only 2 of 4 label names have a partner"
    )  # fmt: skip
    other = model(outputs=two, label_space=label_space("x", ["py", "js"]))
    assert "no name in common" in check_interface(one, other).reason
    mapped = check_interface(one, other, label_map={"cat": "py", "dog": "js"})
    assert mapped.fit is Fit.COMPATIBLE


def test_inputs_are_matched_by_name_and_states_are_no_inputs():
    state = TensorSpec("state", "float32", (2, "n", 64))
    a, b = (TensorSpec(name, "float32", ("n", size)) for name, size in (("a", 3), ("b", 5)))
    out = (TensorSpec("y", "float32", ("n", 10)),)
    one, other = (Interface(specs, out, CLASSES) for specs in ((a, b), (b, a, state)))
    found = check_interface(one, other)
    assert found.fit is Fit.COMPATIBLE
    assert "the output kind was inferred from the graph" in found.notes
    missing = check_interface(one, Interface((a,), out, CLASSES))
    assert "2 inputs (a, b) cannot be matched with 1" in missing.reason
    assert check_interface(one, Interface((a,), out, CLASSES), inputs_given=True).reason is None


def test_the_raw_item_is_told_from_the_steps():
    spec = TensorSpec("x", "float32", (1, 1, 28, 28))
    gray = validated([("grayscale", {}), ("layout", {"order": "NCHW"})])
    assert raw_shape(spec, gray) == (28, 28, 3)
    assert raw_shape(TensorSpec("x", "float32", (1, 3, 224, 224)), RESIZED) == (None, None, 3)
    assert raw_shape(spec, MAGIKA) is None
