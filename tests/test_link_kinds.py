"""Links between models of different inputs and of different kinds of answers, by statements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

import sommelier as sm
from sommelier.analysis.datasets import in_memory
from sommelier.analysis.execution import RunRequest, open_model
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.links.reading import run_answers
from sommelier.analysis.probes import dataset_probes
from sommelier.errors import AnalysisError, DatasetError, SommelierError
from tests.onnx_writer import FLOAT, INT64, save_model

SPEAKERS, PIXELS, TONES = 4, 20, 30
TOKENS, STEPS, TAGS = 12, 5, 3


def _linear(path: Path, weights: np.ndarray) -> Path:
    features, classes = weights.shape
    return save_model(
        path,
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        {"x": (FLOAT, ["n", features])},
        {"scores": (FLOAT, ["n", classes])},
        {"w": weights.astype(np.float32)},
    )


@pytest.fixture(scope="module")
def two_senses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sm.Connection, Path]]:
    """Faces and voices of the same 400 moments, in different order, each with its model."""
    folder = tmp_path_factory.mktemp("senses")
    rng = np.random.default_rng(0)
    speaker = rng.integers(0, SPEAKERS, 400)
    to_face, to_voice = rng.normal(size=(SPEAKERS, PIXELS)), rng.normal(size=(SPEAKERS, TONES))
    faces = to_face[speaker] + rng.normal(scale=0.05, size=(400, PIXELS))
    voices = to_voice[speaker] + rng.normal(scale=0.05, size=(400, TONES))
    _linear(folder / "models/face_net.onnx", 5 * np.linalg.pinv(to_face))
    _linear(folder / "models/voice_net.onnx", 5 * np.linalg.pinv(to_voice))
    moments = np.arange(400)
    order = rng.permutation(400)
    np.savez(folder / "faces.npz", x=faces.astype(np.float32), moment=moments)
    np.savez(folder / "voices.npz", x=voices[order].astype(np.float32), moment=moments[order])
    np.savez(folder / "unnamed.npz", x=voices[order][:300].astype(np.float32))
    with sm.connect(folder / "db.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/models'")
        db.register_dataset("faces", folder / "faces.npz", id="moment")
        db.register_dataset("voices", folder / "voices.npz", id="moment")
        db.register_dataset("unnamed", folder / "unnamed.npz")
        db.execute("ANALYZE ALL FOR RESOURCES")
        yield db, folder


def test_two_senses_are_aligned_by_the_ids_of_their_samples(
    two_senses: tuple[sm.Connection, Path],
) -> None:
    """By position the pairing would be random, and the link worth a guess."""
    db, folder = two_senses
    db.execute(
        "CREATE LINK hear FROM face_net TO voice_net"
        " USING dataset = 'faces', target_dataset = 'voices'"
    )
    link = db.catalog.link("hear")
    assert (link.dataset, link.target_dataset) == ("faces", "voices")
    assert link.performance is not None
    assert link.performance > 0.95
    db.execute(
        "CREATE LINK see FROM voice_net TO face_net"
        " USING dataset = 'voices', target_dataset = 'faces'"
    )
    plan = db.plan(["face_net", "voice_net"], budget={"params": "70%"})
    assert len(plan.executed) == 1
    faces, voices = (np.load(folder / f"{name}.npz") for name in ("faces", "voices"))
    by_moment = voices["x"][np.argsort(voices["moment"])]
    found = plan.run({"face_net": faces["x"], "voice_net": by_moment})
    own = onnxruntime.InferenceSession(str(folder / "models/voice_net.onnx"))
    wanted = own.run(None, {"x": by_moment})[0].argmax(1)
    (face, voice) = (found[name].values for name in ("face_net", "voice_net"))
    assert face is not None
    assert voice is not None
    assert (voice.argmax(1) == wanted).mean() > 0.95
    assert (face.argmax(1) == wanted).mean() > 0.95  # the speakers are numbered alike


def test_samples_that_cannot_be_paired_are_refused(
    two_senses: tuple[sm.Connection, Path],
) -> None:
    db, _ = two_senses
    with pytest.raises(DatasetError, match="unnamed"):
        db.execute(
            "CREATE LINK lost FROM face_net TO voice_net"
            " USING dataset = 'faces', target_dataset = 'unnamed'"
        )


def _tagger(path: Path) -> Path:
    """Token ids -> scores of a tag for every token: the tag is the token's remainder."""
    table = 8 * np.eye(TAGS)[np.arange(TOKENS) % TAGS]
    return save_model(
        path,
        [helper.make_node("Gather", ["table", "ids"], ["scores"], axis=0)],
        {"ids": (INT64, ["n", STEPS])},
        {"scores": (FLOAT, ["n", STEPS, TAGS])},
        {"table": table.astype(np.float32)},
    )


def _topic(path: Path) -> Path:
    """Token ids -> 3 classes: which tag the tokens have most often."""
    table = np.eye(TAGS)[np.arange(TOKENS) % TAGS] + 0.01 * np.arange(TAGS)
    return save_model(
        path,
        [
            helper.make_node("Gather", ["table", "ids"], ["each"], axis=0),
            helper.make_node("ReduceMean", ["each"], ["scores"], axes=[1], keepdims=0),
        ],
        {"ids": (INT64, ["n", STEPS])},
        {"scores": (FLOAT, ["n", TAGS])},
        {"table": (3 * table).astype(np.float32)},
        opsets={"": 17},
    )


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sm.Connection, Path]]:
    """Sentences of one kind of token each, more or less: topic and tags tell of each other."""
    folder = tmp_path_factory.mktemp("sentences")
    rng = np.random.default_rng(1)
    kind = rng.integers(0, TAGS, 400)
    off = rng.random((400, STEPS)) < 0.1
    tags = np.where(off, rng.integers(0, TAGS, (400, STEPS)), kind[:, None])
    ids = tags + TAGS * rng.integers(0, TOKENS // TAGS, (400, STEPS))
    np.savez(folder / "text.npz", x=ids.astype(np.int64))
    _tagger(folder / "models/tagger.onnx")
    _topic(folder / "models/topic.onnx")
    with sm.connect(folder / "db.sommelier") as db:
        for name, task in (("tagger", "token-classification"), ("topic", "text-classification")):
            db.execute(f"REGISTER MODEL {name} FROM '{folder}/models/{name}.onnx' TASK '{task}'")
        db.register_dataset("text", folder / "text.npz")
        db.execute("ANALYZE ALL FOR RESOURCES")
        db.execute("ANALYZE tagger, topic FOR LINKS USING dataset = 'text', epochs = 40")
        yield db, folder


def test_sequences_are_read_and_written_by_links(
    sentences: tuple[sm.Connection, Path],
) -> None:
    db, _ = sentences
    reading, writing = (
        db.catalog.link(f"{a}_to_{b}") for a, b in (("tagger", "topic"), ("topic", "tagger"))
    )
    assert reading.architecture == "seq-to-vec"
    assert reading.metric == "accuracy"
    assert (reading.performance or 0) > 0.9
    assert writing.architecture == "vec-to-seq"
    assert writing.metric == "WER"
    assert (writing.performance or 0) > 0.8  # a tenth of the tags is chance
    assert writing.value == pytest.approx(1 - (writing.performance or 0))


def test_a_predicted_sequence_has_the_shape_of_the_model_s_own(
    sentences: tuple[sm.Connection, Path],
) -> None:
    db, folder = sentences
    plan = db.plan(["tagger", "topic"], budget={"flops": "60%"})
    ids = np.load(folder / "text.npz")["x"][:20]
    found = plan.run(ids)
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / f"models/{name}.onnx"))
        for name in ("tagger", "topic")
    }
    for name, session in sessions.items():
        own = session.run(None, {"ids": ids})[0]
        values = found[name].values
        assert values is not None
        assert values.reshape(own.shape).argmax(-1).shape == own.argmax(-1).shape
        agreement = (values.reshape(own.shape).argmax(-1) == own.argmax(-1)).mean()
        assert agreement > 0.75


def test_tokens_are_not_made_up_where_a_sequence_is_shorter_than_any_before(
    sentences: tuple[sm.Connection, Path],
) -> None:
    """Tags of sequences of one length have no token that means "over"."""
    db, folder = sentences
    link = db.catalog.link("tagger_to_topic")
    format = AnswerFormat.from_json(str(link.source_format))
    assert (format.steps, format.end) == (STEPS, None)
    record = db.catalog.resolve("tagger")
    ids = np.load(folder / "text.npz")["x"][:8]
    loaded = in_memory(ids)
    probes = dataset_probes(loaded, samples=8, sampling="first")
    path = db.artifacts.path(record.artifact)
    opened = open_model(RunRequest(path, record.output_kind, None, probes), loaded)
    assert run_answers(opened, probes, record, format).values.shape == (8, STEPS)
    with pytest.raises(AnalysisError, match="shorter sequences"):
        run_answers(opened, probes, record, replace(format, steps=STEPS + 1))


def test_a_source_that_fails_leaves_the_other_links_standing(
    two_senses: tuple[sm.Connection, Path], tmp_path: Path
) -> None:
    """A model whose answers are all NaN: no link from it, and the reason on its own rows."""
    db, _ = two_senses
    nothing = np.full((PIXELS, SPEAKERS), np.nan)
    _linear(tmp_path / "blind_net.onnx", nothing)
    db.execute(f"IMPORT MODELS FROM folder '{tmp_path}'")
    outcome = db.execute("ANALYZE face_net, blind_net FOR LINKS USING dataset = 'faces'")
    assert any("blind_net" in note and "NaN" in note for note in outcome.notes)
    with pytest.raises(SommelierError, match="NaN"):
        db.execute("CREATE LINK FROM blind_net TO face_net USING dataset = 'faces'")


def test_two_versions_of_a_model_have_links_of_their_own(tmp_path: Path) -> None:
    """Both are called face_net, and so would be the links from them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, PIXELS)).astype(np.float32)
    np.savez(tmp_path / "faces.npz", x=x)
    weights = rng.normal(size=(PIXELS, SPEAKERS))
    _linear(tmp_path / "one/face_net.onnx", weights)
    _linear(tmp_path / "two/face_net.onnx", 2 * weights)
    _linear(tmp_path / "one/voice_net.onnx", weights + rng.normal(size=weights.shape))
    with sm.connect(tmp_path / "db.sommelier") as db:
        for folder in ("one", "two"):
            db.execute(f"IMPORT MODELS FROM folder '{tmp_path / folder}'")
        db.register_dataset("faces", tmp_path / "faces.npz")
        for _ in range(2):  # of what is there nothing is lost or made anew
            db.execute("ANALYZE ALL FOR LINKS USING dataset = 'faces', method = 'linear'")
            links = db.catalog.links()
            assert len({(*link.source_ids, link.target_id) for link in links}) == 6
            assert {link.name for link in links} == {
                "face_net_to_face_net", "face_net_to_face_net_2", "face_net_to_voice_net",
                "face_net_to_voice_net_2", "voice_net_to_face_net", "voice_net_to_face_net_2",
            }  # fmt: skip


def test_numbers_looked_at_one_by_one_raise_no_alarm_while_nothing_changes(tmp_path: Path) -> None:
    """Errors are measured against the range of the samples the plan was made of, not of one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, PIXELS)).astype(np.float32)
    np.savez(tmp_path / "faces.npz", x=x[:600])
    weights = rng.normal(size=(PIXELS, 1))
    _linear(tmp_path / "age_net.onnx", weights)
    _linear(tmp_path / "height_net.onnx", weights + 0.3 * rng.normal(size=weights.shape))
    with sm.connect(tmp_path / "db.sommelier") as db:
        for name in ("age_net", "height_net"):
            db.execute(f"REGISTER MODEL {name} FROM '{tmp_path / name}.onnx' TASK 'age-regression'")
        db.register_dataset("faces", tmp_path / "faces.npz")
        db.execute("ANALYZE ALL FOR RESOURCES")
        db.execute("ANALYZE ALL FOR LINKS USING dataset = 'faces', method = 'linear'")
        with db.plan(["age_net", "height_net"], budget={"flops": "80%"}) as plan:
            (predicted,) = plan.plan.predicted
            assert predicted.source_ids
            seen = [plan.profile(x[place : place + 1]) for place in range(600, 900)]
            whole = plan.profile(x[600:])
        assert not seen[-1].reselect
        assert np.mean([one.accuracy for one in seen]) == pytest.approx(whole.accuracy)
        assert whole.accuracy >= plan.plan.low
