"""A predictor answers what the model's own file does, and says what is wrong with a request."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from sommelier.errors import AnalysisError, CancelledError, InputError, WorkerTimeoutError
from sommelier.records import Preprocessing
from sommelier.runtime.predictor import Cancellation, Predictor, open_predictor, run_bound
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests import factories
from tests.onnx_writer import FLOAT, save_model

Array = NDArray[Any]


@pytest.fixture(scope="module")
def mlp(cache: SessionCache, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = factories.mlp_classifier(tmp_path_factory.mktemp("m") / "mlp.onnx", hidden=(64, 64))
    return open_predictor(cache, ServedModel.of_file(path), SessionSettings(batch=8))


def plain_answers(path: Path, feed: dict[str, Array]) -> list[Array]:
    """What ONNX Runtime answers with the model's own file and default settings but one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.array(answer) for answer in session.run(None, feed)]


class _Counting:
    """A session that takes down how many samples each run has."""

    def __init__(self, session: onnxruntime.InferenceSession, runs: list[int]) -> None:
        self._session, self._runs = session, runs

    def run(self, names: Any, feed: dict[str, Array], options: Any = None) -> Any:
        self._runs.append(len(next(iter(feed.values()))))
        return self._session.run(names, feed, options)


@pytest.mark.parametrize(
    "make",
    [
        factories.tiny_classifier,
        factories.mlp_classifier,
        factories.conv_classifier,
        factories.embedding_model,
        factories.detection_model,
        factories.constant_node_model,
        factories.external_data_model,
        factories.recurrent_state_model,
        factories.sequence_model,
        factories.class_id_model,
    ],
)
def test_a_cached_session_answers_bit_for_bit_what_the_file_does(
    make: Any, cache: SessionCache, tmp_path: Path
) -> None:
    path = make(tmp_path / "m.onnx")
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings())
    assert predictor.prepared.preparation.recipe == "prepacked"
    rng = np.random.default_rng(1)
    shapes = {"state": (2, 1, 6), "sr": (), "ids": (1, 7), "image": None, "x": None, "input": None}
    feed = {}
    for spec in predictor.inputs:
        shape = shapes[spec.name] or [d if isinstance(d, int) else 1 for d in spec.shape or ()]
        values = rng.normal(size=shape if spec.name != "sr" else ()) * 3
        feed[spec.name] = np.asarray(np.abs(values) + 1 if spec.dtype == "int64" else values)
        feed[spec.name] = feed[spec.name].astype(spec.dtype)
    found = predictor.run(predictor.check(feed))
    for answer, wanted in zip(found.values(), plain_answers(path, feed), strict=True):
        assert answer.tobytes() == wanted.tobytes()
        assert answer.flags.owndata  # else it would keep the session's memory


def test_a_model_whose_random_answers_cannot_be_compared_is_loaded_plainly(
    cache: SessionCache, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    shape: tuple[int, list[int | str | None]] = (FLOAT, ["N", 4])
    path = save_model(tmp_path / "m.onnx", nodes, {"x": shape}, {"y": shape})
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings())
    preparation = predictor.prepared.preparation
    assert preparation.recipe == "plain"
    assert "does not answer what the model's own file does" in str(preparation.reason)
    assert predictor.prepared.path == path


def test_a_model_too_quick_for_threads_gets_one(cache: SessionCache, tmp_path: Path) -> None:
    path = factories.tiny_classifier(tmp_path / "m.onnx")
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings(threads=2))
    assert predictor.settings.threads == 1


def test_a_model_that_fails_on_a_batch_takes_single_samples(
    cache: SessionCache, tmp_path: Path
) -> None:
    path = factories.unbatched_classifier(tmp_path / "m.onnx")
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings(batch=8))
    with pytest.raises(InputError, match="at most 1 samples"):
        predictor.check({"x": np.zeros((2, 4), np.float32)})
    x = np.ones((1, 4), np.float32)
    assert predictor.run(predictor.check({"x": x}))["scores"].tolist() == x.tolist()


@pytest.mark.parametrize("mixes", [False, True])
def test_samples_share_a_run_only_where_the_graph_keeps_them_apart(
    mixes: bool, cache: SessionCache, tmp_path: Path
) -> None:
    """It divides by 255 what is larger than 1.5: no made-up inputs of one kind tell that."""
    nodes = [
        helper.make_node("ReduceMax", ["x"] if mixes else ["x", "axes"], ["most"]),
        helper.make_node("Greater", ["most", "limit"], ["bytes"]),
        helper.make_node("Where", ["bytes", "range", "one"], ["divisor"]),
        helper.make_node("Div", ["x", "divisor"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "w"], ["y"]),
    ]
    numbers = {"limit": 1.5, "range": 255.0, "one": 1.0}
    weights = {name: np.array([value], np.float32) for name, value in numbers.items()}
    axes = {} if mixes else {"axes": np.array([1])}
    w = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    path = save_model(
        tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["N", 64])}, {"y": (FLOAT, ["N", 10])},
        {**weights, **axes, "w": w}, opsets={"": 18},
    )  # fmt: skip
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings())
    assert (predictor.prepared.preparation.together is None) == mixes


def test_threads_share_a_predictor(mlp: Predictor) -> None:
    inputs = [np.full((1, 4), value, np.float32) for value in range(16)]
    feeds = [mlp.check({"x": x}) for x in inputs]
    alone = [mlp.run(feed)["logits"] for feed in feeds]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda i: mlp.run(feeds[i % 16])["logits"], range(800)))
    assert all(np.array_equal(answer, alone[i % 16]) for i, answer in enumerate(together))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "needs x"),
        ({"X1": 1, "x": 2}, "no input 'X1'"),
        ({"x": np.zeros((1, 4))}, r"'x' is float64, but x:float32\[N,4\] is wanted"),
        ({"x": np.zeros((1, 4), ">f4")}, "is >f4"),
        ({"x": np.zeros((1, 5), np.float32)}, r"shape \[1, 5\], but"),
        ({"x": np.zeros(4, np.float32)}, r"shape \[4\], but"),
        ({"x": np.zeros((0, 4), np.float32)}, "is empty"),
        ({"x": np.zeros((9, 4), np.float32)}, "at most 8 samples a request, not 9"),
        ({"x": [[1, 2, 3, "four"]]}, "no array of float32"),
        ({"x": [[1, 2], [3]]}, "no array of float32"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_before_it_runs(
    mlp: Predictor, inputs: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        mlp.check(inputs)


def test_lists_take_the_models_type_but_lose_nothing(cache: SessionCache, tmp_path: Path) -> None:
    path = factories.sequence_model(tmp_path / "m.onnx")
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings())
    assert predictor.check({"ids": [[1, 2]]}).tensors["ids"].dtype == np.int64
    with pytest.raises(InputError, match="given are float64"):
        predictor.check({"ids": [[1.5, 2]]})


def test_inputs_of_different_numbers_of_samples_are_refused(
    cache: SessionCache, tmp_path: Path
) -> None:
    from onnx import helper

    shape: tuple[int, list[int | str | None]] = (FLOAT, ["N", 4])
    nodes = [helper.make_node("Concat", ["a", "b"], ["y"], axis=0)]
    path = save_model(
        tmp_path / "m.onnx", nodes, {"a": shape, "b": shape}, {"y": (FLOAT, [None, 4])}
    )
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings())
    one, two = np.zeros((1, 4), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(InputError, match="'a' has 1 samples, but 'b' has 2"):
        predictor.check({"a": one, "b": two})


def test_an_input_on_which_the_model_fails_is_the_requests_fault(
    cache: SessionCache, tmp_path: Path
) -> None:
    path = factories.sequence_model(tmp_path / "m.onnx", vocabulary=20)
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings())
    with pytest.raises(InputError, match="failed on its input"):
        predictor.run(predictor.check({"ids": np.array([[99]])}))
    answer = predictor.run(predictor.check({"ids": np.array([[9]])}))  # and it goes on serving
    assert answer["scores"].shape == (1, 1, 5)


def slow_model(path: Path) -> Path:
    """y = x W^trips for as many trips as it is asked for; each run's time follows."""
    return factories.loop_model(path, trips=None, features=64)


def test_a_running_inference_is_cancelled_and_the_model_goes_on(
    cache: SessionCache, tmp_path: Path
) -> None:
    predictor = open_predictor(
        cache, ServedModel.of_file(slow_model(tmp_path / "m.onnx")), SessionSettings()
    )
    x = np.ones((1, 64), np.float32)
    endless = predictor.check({"x": x, "trips": np.array(2**60)})
    cancellation = Cancellation()
    timer = threading.Timer(0.2, cancellation.cancel)
    timer.start()
    with pytest.raises(CancelledError):  # without it this test would not end
        predictor.run(endless, cancellation)
    early = Cancellation()
    early.cancel()
    with pytest.raises(CancelledError):
        predictor.run(endless, early)
    short = predictor.check({"x": x, "trips": np.array(3)})
    assert np.array_equal(predictor.run(short)["y"], x)


def test_items_are_prepared_as_the_model_declares(cache: SessionCache, tmp_path: Path) -> None:
    path = factories.conv_classifier(tmp_path / "m.onnx")
    steps = (
        ("to_float", {"scale": 1 / 255}),
        ("normalize", {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}),
        ("layout", {"order": "NCHW"}),
    )
    known = ServedModel.of_file(path)
    model = ServedModel(known.name, path, known.id, Preprocessing(steps))
    predictor = open_predictor(cache, model, SessionSettings())
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    feed = predictor.feed_items(images)
    by_hand = ((images.astype(np.float32) / 255 - 0.5) / 0.2).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(feed.tensors["image"], by_hand, atol=1e-6)  # float32 rounding
    assert predictor.run(feed)["logits"].shape == (3, 3)
    with pytest.raises(InputError, match="at most 8 items"):
        predictor.feed_items(np.zeros((9, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="is wanted"):
        predictor.feed_items(np.zeros((1, 5, 5, 3), np.uint8))


def test_a_fixed_batch_is_filled_up_and_cut_again(cache: SessionCache, tmp_path: Path) -> None:
    path = factories.tiny_classifier(tmp_path / "m.onnx", batch=4)
    predictor = open_predictor(cache, ServedModel.of_file(path), SessionSettings())
    items = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = predictor.run(predictor.feed_items(items))["scores"]
    full = np.concatenate([items, items[-1:]])
    assert np.array_equal(found, plain_answers(path, {"x": full})[0][:3])


def test_bound_tensors_give_the_same_answers(mlp: Predictor, tmp_path: Path) -> None:
    """The way a GPU is used, on the CPU."""
    feed = mlp.check({"x": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)})
    session = mlp._session
    assert session is not None
    found = run_bound(session, feed.tensors, ["logits"], mlp.settings)
    assert np.array_equal(found[0], mlp.run(feed)["logits"])


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="there is a GPU"
)
def test_a_gpu_that_is_not_there_is_refused_with_what_is(
    cache: SessionCache, tmp_path: Path
) -> None:
    model = ServedModel.of_file(factories.tiny_classifier(tmp_path / "m.onnx"))
    with pytest.raises(AnalysisError, match="cannot use 'cuda:1'") as refused:
        open_predictor(cache, model, SessionSettings(device="cuda:1"))
    assert "CPUExecutionProvider" in str(refused.value.hint)


def test_a_model_that_hangs_is_refused_by_the_sandbox(tmp_path: Path) -> None:
    model = ServedModel.of_file(factories.hanging_model(tmp_path / "m.onnx"))
    with pytest.raises(WorkerTimeoutError, match="m: no answer within"):
        open_predictor(SessionCache(tmp_path / "c", time_limit_s=5), model, SessionSettings())
    assert list((tmp_path / "c").iterdir()) == []


def test_a_file_that_changed_since_its_import_is_refused(tmp_path: Path) -> None:
    path = factories.tiny_classifier(tmp_path / "m.onnx", seed=0)
    model = ServedModel.of_file(path)
    factories.tiny_classifier(path, seed=1)
    with pytest.raises(AnalysisError, match="has changed since it was imported"):
        open_predictor(SessionCache(tmp_path / "c"), model, SessionSettings())


def test_a_closed_predictor_says_so(cache: SessionCache, tmp_path: Path) -> None:
    model = ServedModel.of_file(factories.tiny_classifier(tmp_path / "m.onnx"))
    predictor = open_predictor(cache, model, SessionSettings())
    feed = predictor.check({"x": np.zeros((1, 4), np.float32)})
    predictor.close()
    with pytest.raises(AnalysisError, match="not loaded any more"):
        predictor.run(feed)


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name",
    [
        "mnv2_10_224q",  # depthwise quantised: empty blobs
        "cifar10_resnet20",
        "magika_standard_v3_0",
        "yunet_n_320_320",
        "coral_tf2_mobilenet_v2_1.0_224_ptq",
    ],
)
def test_real_models_are_prepacked_and_answer_bit_for_bit(
    name: str, zoo: Path, tmp_path: Path
) -> None:
    path = zoo / "onnx" / f"{name}.onnx"
    predictor = open_predictor(
        SessionCache(tmp_path), ServedModel.of_file(path), SessionSettings(batch=2)
    )
    assert predictor.prepared.how == "prepacked"
    rng = np.random.default_rng(5)
    feed = {}
    for spec in predictor.inputs:
        shape = [d if isinstance(d, int) else 2 for d in spec.shape or ()]
        values = rng.uniform(0, 100, shape)
        feed[spec.name] = values.astype(spec.dtype)
    found = predictor.run(predictor.check(feed))
    for answer, wanted in zip(found.values(), plain_answers(path, feed), strict=True):
        assert answer.tobytes() == wanted.tobytes()
