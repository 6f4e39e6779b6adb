"""What is accepted of a converter's work, whatever the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sommelier.analysis.conversion import CONVERTERS, converted
from sommelier.analysis.conversion.comparing import TOLERANCE, Feed, largest_difference
from sommelier.analysis.conversion.converting import files_beside
from sommelier.analysis.conversion.torch_inputs import parse_inputs
from sommelier.errors import RejectedModelError
from sommelier.records import Artifact, Conversion, Rejection
from tests.factories import nan_model, tiny_classifier

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
FEED = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_classifier(tmp_path / "m.onnx", weights=(MATRIX, np.zeros(3)))


def _product(feed: Feed) -> NDArray[np.floating]:
    return np.asarray(feed["x"], np.float64) @ MATRIX.astype(np.float64)


@pytest.mark.parametrize("share", [0.0, 0.5 * TOLERANCE])
def test_the_largest_difference_is_relative_to_the_largest_element(
    model: Path, share: float
) -> None:
    def original(feed: Feed) -> list[NDArray[np.floating]]:
        truth = _product(feed)
        truth[0, 0] += share * np.abs(truth).max()
        return [truth]

    found = largest_difference(model, original, [FEED])
    assert found == pytest.approx(share, abs=2e-7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda truth: [truth * (1 + 3 * TOLERANCE)], r"differs .* by 0\.0003 of its largest"),
        (lambda truth: [truth[:, :2]], r"is \(2, 3\), but the original's is \(2, 2\)"),
        (lambda truth: [truth, truth], "1 outputs instead of 2"),
        (lambda truth: [np.where(truth > 0, np.nan, truth)], "finite elsewhere"),
    ],
)
def test_another_answer_is_refused_with_the_figures(
    model: Path, change: object, words: str
) -> None:
    assert callable(change)
    with pytest.raises(RejectedModelError, match=words):
        largest_difference(model, lambda feed: change(_product(feed)), [FEED])


def test_an_input_that_the_converted_model_fails_on_is_named(model: Path) -> None:
    wide = {"x": np.zeros((2, 5), np.float32)}
    with pytest.raises(RejectedModelError, match=r"fails on x \[2, 5\]"):
        largest_difference(model, lambda feed: [np.zeros((2, 3))], [wide])


def test_not_a_number_in_the_same_places_is_no_difference(tmp_path: Path) -> None:
    model = nan_model(tmp_path / "nan.onnx")
    found = largest_difference(model, lambda feed: [np.full((2, 3), np.nan)], [FEED])
    assert found == 0.0


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
