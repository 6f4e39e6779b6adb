"""Parts of models exchanged through statements: found, judged, proposed, created and dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import sommelier as sm
from sommelier.errors import BinderError
from tests.asking import rows
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES = 6, 4, 300
LAYERS = (16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `tuned` (its middle layer a little changed), `other` (trained apart), and data."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "other")):
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=FEATURES, hidden=LAYERS, classes=CLASSES
        )
    model = onnx.load(folder / "base.onnx")
    rng = np.random.default_rng(7)
    changed = next(w for w in model.graph.initializer if tuple(w.dims) == LAYERS)
    weights = numpy_helper.to_array(changed)
    noise = rng.normal(scale=0.02, size=weights.shape).astype(np.float32)
    changed.CopyFrom(numpy_helper.from_array(weights + noise, changed.name))
    onnx.save(model, folder / "tuned.onnx")
    inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    answers = answers_of(folder / "base.onnx", inputs)
    labels = np.where(rng.random(SAMPLES) < 0.8, answers, rng.integers(0, CLASSES, SAMPLES))
    np.savez(folder / "points.npz", x=inputs, y=labels)
    return folder


@pytest.fixture(scope="module")
def db(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz", held_out=True)
        db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE USING dataset = 'points'")
        db.execute("ANALYZE base, tuned FOR SEGMENTS USING dataset = 'points'")
        yield db


def answers_of(path: Path | str, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)


def test_the_changed_part_is_told_from_the_equal_ones(db: sm.Connection) -> None:
    found = rows(db, "SELECT * FROM segments WHERE host = 'base' AND kind = 'common'")
    changed = [row for row in found if not row["identical"]]
    assert len(changed) == 1
    assert changed[0]["donor"] == "tuned"


def test_what_is_certified_bounds_what_was_measured(db: sm.Connection) -> None:
    (row,) = rows(db, "SELECT * FROM segments WHERE host = 'base' AND NOT identical")
    assert row["samples"] == SAMPLES
    assert 0 < row["certified"] < 1  # it proves something, and not everything
    assert row["certified"] >= row["measured"]


def test_the_measured_change_is_that_of_the_models_run_by_hand(
    db: sm.Connection, folder: Path
) -> None:
    """The only difference between base and tuned is that part, so the hybrid is `tuned`."""
    inputs = np.load(folder / "points.npz")
    one, other = (answers_of(folder / f"{n}.onnx", inputs["x"]) for n in ("base", "tuned"))
    (row,) = rows(db, "SELECT * FROM segments WHERE host = 'base' AND NOT identical")
    assert row["measured"] == np.mean(one != other)
    drop = np.mean(one == inputs["y"]) - np.mean(other == inputs["y"])
    assert row["accuracy_drop"] == pytest.approx(drop, abs=1e-12)


def test_hybrids_are_candidates_only_where_they_are_included(db: sm.Connection) -> None:
    plain = db.query("SELECT MODELS name CORR base").fetchall()
    assert sorted(plain) == [("other",), ("tuned",)]
    included = db.query("SELECT MODELS name, agreement, flops CORR base INCLUDING SEGMENTS")
    names = [name for name, *_ in included.fetchall()]
    hybrid = next(name for name in names if name.startswith("hybrid/base/tuned"))
    assert set(names) - {"other", "tuned"} == {n for n in names if n.startswith("hybrid/")}
    why = db.execute(f'EXPLAIN WHY "{hybrid}" IN (SELECT MODELS CORR base 10%)')
    assert "INCLUDING SEGMENTS" in why.data["conditions"][0]["relaxation"]
    assert not db.query("SELECT MODELS WHERE name LIKE 'hybrid/%'").fetchall()


def test_a_plan_says_that_proposals_are_included(db: sm.Connection) -> None:
    plan = str(db.execute("EXPLAIN SELECT MODELS CORR base INCLUDING SEGMENTS"))
    assert "all models, and what segments propose" in plan
    assert "propose" not in str(db.execute("EXPLAIN SELECT MODELS CORR base"))


def test_a_question_pays_for_the_hybrids_it_includes(db: sm.Connection) -> None:
    """Each candidate that is compared takes its part of the risk."""
    plain = db.query("SELECT MODELS name, equivalence CORR base WHERE name = 'tuned'").fetchall()
    text = "SELECT MODELS name, equivalence CORR base INCLUDING SEGMENTS"
    included = dict(db.query(text).fetchall())
    assert included["tuned"] < dict(plain)["tuned"]


def test_a_hybrid_that_is_created_is_a_model_with_a_file_and_a_lineage(
    db: sm.Connection, folder: Path
) -> None:
    (row,) = rows(db, "SELECT name FROM segments WHERE host = 'base' AND NOT identical")
    graft = f"GRAFT tuned INTO base AT SEGMENT '{row['name']}'"
    created = db.execute(f"CREATE MODEL mine AS {graft}")
    assert created.rows[0][0] == "created"
    inputs = np.load(folder / "points.npz")["x"]
    path = db.model("mine").onnx_path
    assert np.array_equal(answers_of(path, inputs), answers_of(folder / "tuned.onnx", inputs))
    lineage = {(r["parent"], r["relation"]) for r in rows(db, "SHOW LINEAGE OF mine")}
    assert {("base", "host"), ("tuned", "donor")} <= lineage
    plain = dict(db.query("SELECT MODELS name, agreement CORR base").fetchall())
    assert plain["mine"] == plain["tuned"]
    assert db.execute(f"CREATE MODEL IF NOT EXISTS mine AS {graft}").rows[0][0] == "exists"
    with pytest.raises(BinderError, match="exists"):
        db.execute(f"CREATE MODEL mine AS {graft}")


def test_what_the_weights_show_of_their_origin_is_verified_lineage(db: sm.Connection) -> None:
    (row,) = [r for r in rows(db, "SHOW LINEAGE OF tuned") if r["known"] == "evidence"]
    assert {row["model"], row["parent"]} == {"base", "tuned"}
    assert row["relation"] == "fine-tuned"
    assert "direction: not known" in row["detail"]


def test_proposals_are_counted_and_not_listed_in_the_lineage(db: sm.Connection) -> None:
    table = db.execute("SHOW LINEAGE OF base")
    assert not [row for row in table.rows if str(row[0]).startswith("hybrid/")]
    (made,) = rows(
        db, "SELECT count(*) AS n FROM lineage WHERE parent = 'base' AND model LIKE 'hybrid/%'"
    )
    assert f"proposals made of it, not listed: {made['n']} (SELECT * FROM lineage)" in table.notes


def test_a_second_analysis_does_nothing_again(db: sm.Connection) -> None:
    again = db.execute("ANALYZE base, tuned FOR SEGMENTS USING dataset = 'points'")
    assert any("done before" in note for note in again.notes)


def test_segments_that_are_not_known_are_refused_with_what_would_help(db: sm.Connection) -> None:
    with pytest.raises(BinderError) as caught:
        db.execute("SHOW SEGMENTS OF other")
    assert "ANALYZE other" in str(caught.value.hint)
    with pytest.raises(BinderError) as caught:
        db.execute("CREATE MODEL x AS GRAFT tuned INTO base AT SEGMENT 's99'")
    assert "SHOW SEGMENTS" in str(caught.value.hint)
    with pytest.raises(BinderError) as caught:
        db.execute("CREATE MODEL x AS GRAFT other INTO base AT SEGMENT 's1'")
    assert caught.value.hint == "ANALYZE base, other FOR SEGMENTS"


def test_segments_of_one_model_are_refused(db: sm.Connection) -> None:
    with pytest.raises(BinderError, match="two models") as caught:
        db.execute("ANALYZE base FOR SEGMENTS")
    assert "ANALYZE base, another_model" in str(caught.value.hint)


def test_a_proposal_cannot_be_analysed_before_it_is_created(db: sm.Connection) -> None:
    found = rows(db, "SELECT hybrid FROM segments WHERE host = 'tuned' AND NOT identical")
    name = str(found[0]["hybrid"])
    notes = db.execute(f'ANALYZE "{name}", other FOR SEGMENTS').notes
    assert [note for note in notes if note.startswith(f"{name} is a proposal")]
    assert not [note for note in notes if "metadata only" in note]


def test_an_analysis_of_segments_alone_makes_its_hybrids_comparable_with_the_host(
    folder: Path, tmp_path: Path
) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz", held_out=True)
        db.execute("ANALYZE base, tuned FOR SEGMENTS USING dataset = 'points', samples = 100")
        asked = "SELECT MODELS name, agreement CORR base 10% INCLUDING SEGMENTS"
        found = dict(db.query(asked).fetchall())
        assert any(name.startswith("hybrid/base/tuned") for name in found)
        assert "tuned" in found
        (known,) = db.query("SELECT MODELS accuracy WHERE name = 'base'").fetchall()
        assert known[0] is not None


@pytest.mark.slow
def test_a_donor_that_comes_back_is_analysed_again(folder: Path, tmp_path: Path) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz")
        analysis = "ANALYZE base, tuned FOR SEGMENTS USING dataset = 'points', samples = 50"
        db.execute(analysis)
        db.execute("DROP MODEL tuned")
        asked = "SELECT MODELS name CORR base 0% INCLUDING SEGMENTS"
        assert not [n for (n,) in db.query(asked).fetchall() if n.startswith("hybrid/")]
        db.execute(f"IMPORT MODELS FROM folder '{folder}/tuned.onnx'")
        db.execute(analysis)
        for host in ("base", "tuned"):
            assert rows(db, f"SHOW SEGMENTS OF {host}")


def test_a_device_that_is_not_there_is_named_in_the_reason(folder: Path, tmp_path: Path) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        notes = db.execute("ANALYZE base, tuned FOR SEGMENTS USING device = 'cuda:99'").notes
        assert [note for note in notes if "no device 'cuda:99'" in note]


def test_a_narrow_terminal_shows_what_an_exchange_changes(db: sm.Connection) -> None:
    """The shell leaves out columns from the middle."""
    table = db.execute("SHOW SEGMENTS OF base")
    names = [column.name for column in table.columns]
    assert names[:4] == ["segment", "estimated", "certified", "measured"]


def test_the_legend_says_for_how_many_probes_the_proof_is(db: sm.Connection) -> None:
    """Fewer are certified than measured, so that the two columns need not agree."""
    notes = "\n".join(db.execute("SHOW SEGMENTS OF base").notes)
    assert f"certified is proved for 256 of the {SAMPLES} probes; measured ran" in notes
