"""What is asked of TensorFlow Lite files, held against stand-ins for its interpreter and schema."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sommelier.analysis.conversion import tensorflow_models
from sommelier.analysis.conversion.tensorflow_feeds import answers
from sommelier.analysis.conversion.tensorflow_safety import check_tflite
from sommelier.errors import RejectedModelError


class Interpreter:
    """Doubles what it is given; as the real one, it takes arrays of the shape it was resized to,
    and tells that shape when it is asked."""

    def __init__(self, _: str) -> None:
        self.shape = [1, 3]

    def get_input_details(self) -> list[dict[str, Any]]:
        shape, signature = np.array(self.shape), np.array([-1, 3])
        return [
            {"index": 0, "name": "x", "shape": shape, "shape_signature": signature, "dtype": "f4"}
        ]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"index": 1, "name": "y"}]

    def get_signature_list(self) -> dict[str, Any]:
        return {}

    def resize_tensor_input(self, _: int, shape: tuple[int, ...]) -> None:
        self.shape = list(shape)

    def allocate_tensors(self) -> None:
        pass

    def set_tensor(self, _: int, value: np.ndarray) -> None:
        if list(value.shape) != self.shape:
            raise ValueError(f"Dimension mismatch: {value.shape} instead of {self.shape}")
        self.value = value

    def invoke(self) -> None:
        pass

    def get_tensor(self, _: int) -> np.ndarray:
        return 2 * self.value


def test_every_batch_is_asked_also_one_that_is_as_the_file_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = ModuleType("tensorflow")
    library.lite = SimpleNamespace(Interpreter=Interpreter)  # type: ignore[attr-defined]  # a stub
    monkeypatch.setitem(sys.modules, "tensorflow", library)
    monkeypatch.setattr(tensorflow_models, "check_tflite", lambda *_, **__: None)
    feeds, _ = answers(tensorflow_models.LOADERS["tflite"](Path("x.tflite"), None, False))
    assert sorted(len(feed["x"]) for feed in feeds) == [1, 3, 4]


def test_an_operator_of_tensorflow_needs_trust_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [None, b"TFLite_Detection_PostProcess", b"FlexAddV2"]
    model = SimpleNamespace(
        OperatorCodesLength=lambda: len(codes),
        OperatorCodes=lambda i: SimpleNamespace(CustomCode=lambda: codes[i]),
    )
    package = ModuleType("tensorflow.lite.python")
    schema = SimpleNamespace(Model=SimpleNamespace(GetRootAs=lambda _: model))
    package.schema_py_generated = schema  # type: ignore[attr-defined]  # a stub
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    monkeypatch.setitem(sys.modules, "tensorflow.lite", ModuleType("tensorflow.lite"))
    monkeypatch.setitem(sys.modules, "tensorflow.lite.python", package)
    path = tmp_path / "x.tflite"
    path.write_bytes(b"TFL3")
    with pytest.raises(RejectedModelError, match=r"beyond the model: FlexAddV2$") as told:
        check_tflite(path, trusted=False)
    assert "trust = yes" in str(told.value.hint)
    check_tflite(path, trusted=True)
    codes.pop()
    check_tflite(path, trusted=False)
