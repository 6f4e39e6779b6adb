"""Models of TensorFlow become ONNX in its own environment, or are refused with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest

from sommelier.analysis.conversion import CONVERTERS, ConversionRequest, converted, tensorflow
from sommelier.analysis.conversion import tensorflow_environment as environment
from sommelier.analysis.conversion import tensorflow_worker as worker
from sommelier.analysis.sandbox import Sandbox
from sommelier.errors import (
    AnalysisError,
    CancelledError,
    MissingDependencyError,
    RejectedModelError,
)
from sommelier.records import Artifact, Conversion, Rejection
from tests import tensorflow_models as toys
from tests.onnx_writer import FLOAT, save_model

PYTHON = toys.tensorflow_python()


def needs_tensorflow(test: Callable[..., None]) -> Callable[..., None]:
    """Each starts TensorFlow, which takes seconds."""
    skip = pytest.mark.skipif(PYTHON is None, reason="no TensorFlow environment here")
    return pytest.mark.slow(skip(test))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    assert PYTHON is not None
    folder = toys.build(PYTHON, tmp_path_factory.mktemp("tensorflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(environment.VARIABLE, str(PYTHON))
        yield folder


def convert(path: Path, format: str, folder: Path, **options: object) -> Artifact | Rejection:
    found = Artifact(path.name, None, "test", str(path), path, {}, (), Conversion(format, options))
    return converted(found, folder)


def accepted(item: Artifact | Rejection) -> Path:
    assert isinstance(item, Artifact), item
    assert item.path is not None
    return item.path


def refused(item: Artifact | Rejection) -> str:
    assert isinstance(item, Rejection), item
    return item.reason


def by_hand(weights: Path, x: np.ndarray) -> np.ndarray:
    """The classifier in numpy, in double precision."""
    w = {name: value.astype(np.float64) for name, value in np.load(weights).items()}
    hidden = np.maximum(x @ w["w0"] + w["b0"], 0)
    scores = np.exp(hidden @ w["w1"] + w["b1"])
    return scores / scores.sum(axis=1, keepdims=True)


@needs_tensorflow
@pytest.mark.parametrize(
    ("file", "format"),
    [
        ("classifier", "savedmodel"),
        ("classifier.keras", "keras"),
        ("classifier.h5", "keras"),
        ("classifier.tflite", "tflite"),
    ],
)
def test_a_converted_classifier_answers_as_its_weights_do_by_hand(
    models: Path, tmp_path: Path, file: str, format: str
) -> None:
    made = convert(models / file, format, tmp_path)
    path = accepted(made)
    session = onnxruntime.InferenceSession(str(path))
    (port,) = session.get_inputs()
    assert port.name == "x"
    assert port.shape == ["N", toys.FEATURES]
    x = np.random.default_rng(1).normal(size=(33, toys.FEATURES)).astype(np.float32)
    (answers,) = session.run(None, {"x": x})
    expected = by_hand(models / "weights.npz", x)
    # float32 with sums of 16 terms below 10: a few ulp
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert isinstance(made, Artifact)
    assert str(made.declared["producer"]).startswith("tensorflow 2.")
    assert "its answers differ from the original's by at most" in str(made.declared["note"])


@needs_tensorflow
def test_the_same_model_is_converted_to_the_same_bytes_and_nothing_is_written_elsewhere(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    contents = []
    for name in "ab":
        (tmp_path / name).mkdir()
        made = convert(models / "classifier", "savedmodel", tmp_path / name)
        contents.append(accepted(made).read_bytes())
    assert contents[0] == contents[1]
    assert not list(elsewhere.iterdir())


@needs_tensorflow
def test_a_signature_is_chosen_by_name_and_outputs_keep_theirs(
    models: Path, tmp_path: Path
) -> None:
    path = accepted(convert(models / "several", "savedmodel", tmp_path, signature="doubled"))
    session = onnxruntime.InferenceSession(str(path))
    assert [node.name for node in session.get_outputs()] == ["double", "root"]
    x = np.array([[1.0, 4.0, 9.0, 16.0]], np.float32)
    double, root = session.run(None, {"x": x})
    np.testing.assert_array_equal(double, 2 * x)
    np.testing.assert_allclose(root, np.sqrt(x), rtol=1e-6)


@needs_tensorflow
def test_open_axes_stay_open_and_keep_apart(models: Path, tmp_path: Path) -> None:
    path = accepted(convert(models / "several", "savedmodel", tmp_path, signature="sizes"))
    (port,) = onnxruntime.InferenceSession(str(path)).get_inputs()
    assert port.shape == ["N", "N1", 3] or port.shape == ["N", None, 3]


@needs_tensorflow
def test_several_signatures_without_a_choice_are_named(models: Path, tmp_path: Path) -> None:
    reason = refused(convert(models / "several", "savedmodel", tmp_path))
    assert "doubled, sizes" in reason
    assert "USING signature" in reason


@needs_tensorflow
def test_an_unknown_signature_is_refused_with_those_that_exist(
    models: Path, tmp_path: Path
) -> None:
    reason = refused(convert(models / "classifier", "savedmodel", tmp_path, signature="serve_me"))
    assert "serving_default" in reason
    assert "'serve_me'" in reason


@needs_tensorflow
@pytest.mark.parametrize(
    ("file", "format", "said"),
    [
        ("writer", "savedmodel", "WriteFile"),
        ("silent", "savedmodel", "(none)"),
        ("text", "savedmodel", ""),
        ("lambda.keras", "keras", "Lambda"),
        ("lambda.h5", "keras", "Lambda"),
        ("flex.tflite", "tflite", "beyond the model: FlexAddV2, FlexIdentity, FlexWriteFile"),
        ("hidden.tflite", "tflite", "beyond the model: FlexAddV2, FlexIdentity, FlexZerosLike"),
        ("bare.weights.h5", "keras", "no architecture"),
        ("both.h5", "keras", "and a zip archive in one"),
        ("outside.h5", "keras", "'more' is kept in another file"),
        ("outside.keras", "keras", "'more' is kept in another file"),
        ("linked.h5", "keras", "'more' is a link"),
    ],
)
def test_what_cannot_be_accepted_is_refused_with_the_reason(
    models: Path, tmp_path: Path, file: str, format: str, said: str
) -> None:
    reason = refused(convert(models / file, format, tmp_path))
    assert said in reason
    assert not (models / toys.MARK).exists()


HOSTILE = {
    "saver": "SaveV2",
    "inner": "SaveV2",
    "loader": "WriteFile",
    "private": "SaveV2",
    "v1/init": "WriteFile",
    "v1/table": "WriteFile",
    "v1/called": "WriteFile",
}
"""Models that write a file when they are loaded or called, by the operator they do it with."""


def written(models: Path) -> set[Path]:
    return set(models.rglob(f"{toys.MARK}*"))


@needs_tensorflow
def test_a_graph_that_writes_files_wherever_it_does_runs_only_once_it_is_trusted(
    models: Path, tmp_path: Path
) -> None:
    (models / "made").mkdir()
    target = tmp_path / "model.onnx"
    for name, operator in HOSTILE.items():
        with Sandbox(python=PYTHON, time_limit_s=120) as sandbox:
            ask = partial(sandbox.call, worker.convert, "savedmodel", models / name, target)
            with pytest.raises(RejectedModelError, match=f"beyond the model: {operator}$") as told:
                ask(signature=None, trusted=False)
            assert "trust = yes" in str(told.value.hint)
            assert not written(models)
            with suppress(RejectedModelError):
                ask(signature=None, trusted=True)
        assert written(models)  # or the test says nothing
        for file in written(models):
            file.unlink()


@needs_tensorflow
@pytest.mark.parametrize("name", ["table", "v1/fine"])
def test_tables_and_variables_are_no_reason_to_refuse_a_graph(
    models: Path, tmp_path: Path, name: str
) -> None:
    made = convert(models / name, "savedmodel", tmp_path)
    if isinstance(made, Rejection):
        assert "beyond the model" not in made.reason


@needs_tensorflow
def test_code_in_a_layer_runs_once_it_is_trusted(models: Path, tmp_path: Path) -> None:
    path = accepted(convert(models / "lambda.keras", "keras", tmp_path, trust=True))
    x = np.ones((2, toys.FEATURES), np.float32)
    (answers,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    np.testing.assert_array_equal(answers, -x)


@needs_tensorflow
@pytest.mark.parametrize(
    ("file", "format"),
    [
        ("classifier/saved_model.pb", "savedmodel"),
        ("classifier/variables/variables.data-00000-of-00001", "savedmodel"),
        ("classifier.keras", "keras"),
        ("classifier.h5", "keras"),
        ("classifier.tflite", "tflite"),
    ],
)
def test_a_file_cut_in_half_is_refused(
    models: Path, tmp_path: Path, file: str, format: str
) -> None:
    shutil.copytree(models / "classifier", tmp_path / "classifier")
    damaged = tmp_path / file
    content = (models / file).read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    (tmp_path / "out").mkdir()
    source = tmp_path / "classifier" if format == "savedmodel" else damaged
    assert refused(convert(source, format, tmp_path / "out"))


@needs_tensorflow
def test_a_conversion_that_is_cancelled_leaves_no_process(models: Path, tmp_path: Path) -> None:
    def running() -> set[int]:
        return {
            p.pid
            for p in psutil.process_iter(["exe", "cmdline"])
            if str(PYTHON) in (p.info["cmdline"] or [])
        }

    before, started = running(), time.monotonic()
    found = Artifact(
        "x", None, "test", "x", models / "classifier", {}, (), Conversion("savedmodel")
    )
    with pytest.raises(CancelledError):
        converted(found, tmp_path, cancelled=lambda: bool(running() - before))
    deadline = started + 60
    while running() - before and time.monotonic() < deadline:
        time.sleep(0.1)  # the child looks for its parent once a second
    assert not running() - before


def test_without_an_environment_the_reason_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path))
    model = tmp_path / "x.tflite"
    model.write_bytes(b"TFL3")
    (tmp_path / "out").mkdir()
    reason = refused(convert(model, "tflite", tmp_path / "out"))
    assert "sommelier environment tensorflow" in reason
    assert environment.VARIABLE in reason


def test_a_variable_that_names_no_python_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path))
    with pytest.raises(MissingDependencyError, match="neither a Python nor"):
        environment.tensorflow_python()


@pytest.mark.parametrize("step", ["venv", "pip"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MissingDependencyError])
def test_an_environment_that_was_interrupted_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
) -> None:
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path))

    def run(command: list[str]) -> None:
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        if step in command:
            raise error("stopped")

    monkeypatch.setattr(environment, "_run", run)
    with pytest.raises(error):
        environment.make_environment()
    with pytest.raises(MissingDependencyError, match="no environment yet"):
        environment.tensorflow_python()


def test_a_scalar_is_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale, x = np.array(2, np.float32), np.ones((2, 3), np.float32)

    def in_tensorflow(_: str, source: Path, target: Path, *__: object) -> worker.OriginalAnswers:
        shutil.copy(source, target)
        feeds = ({"scale": scale, "x": x},)
        return worker.OriginalAnswers(feeds, ((2 * x,),), "tensorflow")

    monkeypatch.setattr(tensorflow, "_in_tensorflow", in_tensorflow)
    node = onnx.helper.make_node("Mul", ["scale", "x"], ["y"])
    inputs = {"scale": (FLOAT, []), "x": (FLOAT, ["N", 3])}
    save_model(tmp_path / "given.onnx", [node], inputs, {"y": (FLOAT, ["N", 3])}, {})
    request = ConversionRequest(tmp_path / "given.onnx", tmp_path, {})
    assert tensorflow.convert_saved_model(request).samples == 2


def test_a_python_without_tensorflow_is_said_to_be_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.VARIABLE, sys.executable)
    model = tmp_path / "x.tflite"
    model.write_bytes(b"TFL3")
    (tmp_path / "out").mkdir()
    assert "is not complete" in refused(convert(model, "tflite", tmp_path / "out"))


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "x.tflite"
    model.write_bytes(b"TFL3")
    (tmp_path / "out").mkdir()
    assert "no option 'opset'" in refused(convert(model, "tflite", tmp_path / "out", opset=11))


@needs_tensorflow
def test_the_other_environment_sees_our_package_and_none_of_our_libraries() -> None:
    assert PYTHON is not None
    with Sandbox(python=PYTHON, time_limit_s=30) as sandbox:
        assert sandbox.call(version, "tf2onnx")
        with pytest.raises(AnalysisError, match="PackageNotFoundError"):
            sandbox.call(version, "duckdb")


def test_no_main_process_imports_tensorflow_to_convert() -> None:
    program = (
        "import sys, sommelier.analysis.conversion.tensorflow\n"
        "sys.exit('tensorflow' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, env=dict(os.environ))
    assert done.returncode == 0


def test_the_formats_of_tensorflow_are_in_the_table() -> None:
    assert {"savedmodel", "keras", "tflite"} <= set(CONVERTERS)
    assert onnx.defs.onnx_opset_version() >= 18
