"""What is accepted of a converter's work, whatever the format."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sommelier.analysis.conversion import CONVERTERS, comparing, converted
from sommelier.analysis.conversion.comparing import TOLERANCE, Feed, largest_difference
from sommelier.analysis.conversion.converting import files_beside
from sommelier.analysis.conversion.tolerance import scales
from sommelier.analysis.conversion.torch_inputs import parse_inputs
from sommelier.analysis.sandbox import FILE_BYTES
from sommelier.errors import RejectedModelError
from sommelier.records import Artifact, Conversion, Rejection
from tests.factories import nan_model, tiny_classifier

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
FEED = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_classifier(tmp_path / "m.onnx", weights=(MATRIX, np.zeros(3)))


def _product(feed: Feed) -> NDArray[np.floating]:
    return np.asarray(feed["x"] @ MATRIX, np.float32)


@pytest.mark.parametrize("share", [0.0, 0.5 * TOLERANCE])
def test_the_largest_difference_is_relative_to_an_element_and_its_channels_scale(
    model: Path, share: float
) -> None:
    def original(feed: Feed) -> list[NDArray[np.floating]]:
        truth = _product(feed)
        truth[0, 0] += share * (abs(truth[0, 0]) + np.abs(truth[:, 0]).max() / 10)
        return [truth]

    found = largest_difference(model, original, [FEED])
    assert found == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda truth: [truth * np.float32(1 + 3 * TOLERANCE)], r"differs .* by 0\.0002\d: it has"),
        (lambda truth: [truth[:, :2]], r"is \(2, 3\), but the original's is \(2, 2\)"),
        (lambda truth: [truth, truth], "1 outputs instead of 2"),
        (lambda truth: [np.where(truth > 0, np.float32(np.nan), truth)], "finite elsewhere"),
        (lambda truth: [truth.astype(np.float64)], "is float32, but the original's is float64"),
        (lambda truth: [truth.astype(np.int32)], "is float32, but the original's is int32"),
    ],
)
def test_another_answer_is_refused_with_the_figures(
    model: Path, change: object, words: str
) -> None:
    assert callable(change)
    with pytest.raises(RejectedModelError, match=words):
        largest_difference(model, lambda feed: change(_product(feed)), [FEED])


F32, MOST = np.float32, np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.array([-MOST, 9, 9], F32), np.array([-MOST, 1, -1], F32)),
        (np.array([-MOST, -MOST, 9], F32), np.array([-MOST, -MOST, 1], F32)),
        (np.array([-1e4, 9.01, 9, 8], F32), np.array([-1e4, 9, 9, 8], F32)),
        (np.array([640, 0.55], F32), np.array([640, 0.50], F32)),
        (np.array([[640, 320, 0.056]], F32), np.array([[640, 320, 0.05]], F32)),
        (np.array([[9000, 10, 0.095]], F32), np.array([[9000, 10, 0.01]], F32)),
        (np.array([[[[640.0]], [[0.056]]]], F32), np.array([[[[640.0]], [[0.05]]]], F32)),
        (np.zeros((0, 3), F32), np.zeros((0, 3), F32)),
        (np.array([40000, 3, 7]), np.array([40000, 6, 4])),
        (np.array([True, False]), np.array([True, True])),
        (np.array(["cat", "dog"], object), np.array(["cat", "cow"], object)),
        (np.array([np.inf, 1], F32), np.array([-np.inf, 1], F32)),
        (np.array([np.inf, 1], F32), np.array([np.nan, 1], F32)),
        (np.array([np.nan, np.nan], F32), np.array([np.nan, np.nan], F32)),
        (np.array([1.0, 3.0], np.float16), np.array([1.0, 3.1], np.float16)),
    ],
)
def test_numbers_that_differ_are_told_apart_whatever_lies_beside_them(
    tmp_path: Path, ours: NDArray[np.generic], theirs: NDArray[np.generic]
) -> None:
    model, feed = _identity(tmp_path, ours), {"x": ours}
    with pytest.raises(RejectedModelError):
        largest_difference(model, lambda _: [theirs], [feed])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.array([-MOST, 9, 1e-6], F32), np.array([-MOST, 9.00001, 2e-6], F32)),
        (np.array([np.inf, -np.inf, np.nan, 1], F32), np.array([np.inf, -np.inf, np.nan, 1], F32)),
        (np.array([3e5, -2e5, 10.0], F32), np.array([3e5, -2e5, 9.5], F32)),
        (np.array([2e9, 3e9], F32), np.array([2.00001e9, 3e9], F32)),
        (np.array(["cat", "dog"], object), np.array([b"cat", b"dog"], object)),
        (np.array([1.0, 3.0], np.float16), np.array([1.0, 3.01], np.float16)),
        (np.array([[0.0, -20.0]], F32), np.array([[-2e-6, -20.0]], F32)),  # logarithms
    ],
)
def test_what_floats_lose_in_another_order_is_no_difference(
    tmp_path: Path, ours: NDArray[np.generic], theirs: NDArray[np.generic]
) -> None:
    model, feed = _identity(tmp_path, ours), {"x": ours}
    assert largest_difference(model, lambda _: [theirs], [feed]) < 0.01


def _identity(folder: Path, array: NDArray[np.generic]) -> Path:
    """A model that answers what it is given, of the array's type and shape."""
    text = array.dtype == object
    kind = TensorProto.STRING if text else helper.np_dtype_to_tensor_dtype(array.dtype)
    x, y = (helper.make_tensor_value_info(name, kind, array.shape) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    path = folder / "identity.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path
    )
    return path


class Echo:
    """A session that answers what it is given: also what ONNX Runtime cannot."""

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="y")]

    def run(self, _: None, feed: Feed) -> list[NDArray[np.generic]]:
        return [feed["x"]]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(comparing, "open_session", lambda *_: Echo())
    return Path("echo.onnx")


def test_an_output_has_to_say_something_for_one_input_and_not_for_each(echo: Path) -> None:
    some, none, nan = (np.array(x, np.float32) for x in ([1.0, 2.0], [], [np.nan]))

    def differ(*feeds: NDArray[np.generic]) -> float:
        return largest_difference(echo, lambda feed: [feed["x"]], [{"x": x} for x in feeds])

    assert differ(none, some, nan) == 0
    for feeds in ((none, none), (nan,), (none, nan), ()):
        with pytest.raises(RejectedModelError, match=r"'y' has no finite element .* to compare"):
            differ(*feeds)


@pytest.mark.parametrize("truth", [1 + 9j, 9 + 1j])
def test_complex_numbers_are_compared_in_both_parts(echo: Path, truth: complex) -> None:
    feed = {"x": np.array([[1 + 1j, 3]], np.complex64)}
    assert largest_difference(echo, lambda feed: [feed["x"]], [feed]) == 0
    with pytest.raises(RejectedModelError, match=r"it has 1 for 9"):
        largest_difference(echo, lambda _: [np.array([[truth, 3]], np.complex64)], [feed])


def test_a_channel_of_small_numbers_has_a_scale_of_its_own() -> None:
    boxes = np.array([[640.0, 0.5], [320.0, 0.01], [np.inf, -1e38]])
    np.testing.assert_allclose(scales(boxes, floor=0.0), [[640, 0.5]] * 3)
    np.testing.assert_allclose(scales(boxes, floor=0.1), [[640, 64]] * 3)
    pictures = np.array([[[[640.0, 2.0]], [[0.5, 0.25]]]])  # (1, 2 channels, 1, 2 columns)
    np.testing.assert_allclose(scales(pictures, floor=0.0), [[[[640, 2]], [[0.5, 0.5]]]])
    np.testing.assert_array_equal(scales(np.array([3.0, 0.1])), [3, 3])  # samples, no channels
    assert scales(np.array(-3.0)) == 3
    np.testing.assert_array_equal(scales(np.zeros((2, 0))), np.zeros((2, 0)))


def test_an_input_that_the_converted_model_fails_on_is_named(model: Path) -> None:
    wide = {"x": np.zeros((2, 5), np.float32)}
    with pytest.raises(RejectedModelError, match=r"fails on x \[2, 5\]"):
        largest_difference(model, lambda feed: [np.zeros((2, 3))], [wide])


def test_an_output_that_is_not_a_number_anywhere_shows_nothing(tmp_path: Path) -> None:
    model = nan_model(tmp_path / "nan.onnx")
    with pytest.raises(RejectedModelError, match="nothing to compare"):
        largest_difference(model, lambda feed: [np.full((2, 3), np.nan, np.float32)], [FEED])


def test_what_a_converter_leaves_outside_its_folder_is_not_taken(tmp_path: Path) -> None:
    folder, outside = tmp_path / "own", tmp_path / "secret"
    folder.mkdir()
    outside.write_text("secret")
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "weights").write_bytes(b"weights")
    assert files_beside(folder / "model.onnx", folder) == [folder / "weights"]
    with pytest.raises(RejectedModelError, match="no file in the folder"):
        files_beside(outside, folder)
    (folder / "link").symlink_to(outside)
    with pytest.raises(RejectedModelError, match="no file in the folder"):
        files_beside(folder / "model.onnx", folder)


def test_more_than_may_be_on_the_disk_is_refused_however_many_files_it_is_in(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    for name in "ab":
        with (tmp_path / name).open("wb") as file:
            file.truncate(FILE_BYTES // 2)  # holes: nothing is written
    with pytest.raises(RejectedModelError, match="more than 8 GB"):
        files_beside(tmp_path / "model.onnx", tmp_path)


def test_a_format_without_a_converter_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    item = Artifact("a", None, "folder", "a.x", tmp_path / "a.x", conversion=Conversion("x"))
    found = converted(item, tmp_path)
    assert isinstance(found, Rejection)
    assert all(name in found.reason for name in CONVERTERS)


@pytest.mark.parametrize(
    "text", ["", "float32", "complex64[n]", "x:float32[n", "a;b", "1x:bool[n]"]
)
def test_a_signature_that_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RejectedModelError) as caught:
        parse_inputs(text)
    assert "float32[n,3,224,224]" in str(caught.value.hint)


def test_a_length_is_a_number_in_plain_digits() -> None:
    assert parse_inputs("float32[n,12]")[0].shape == ("n", 12)
    assert parse_inputs("float32[n,\u00b2]")[0].shape == ("n", "\u00b2")
