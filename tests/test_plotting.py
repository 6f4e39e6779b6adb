"""db.plot and result.plot on databases with real answers: what is drawn is what statements say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.errors import BinderError, UnknownNameError
from tests.asking import rows
from tests.cascade_models import draw, write_models
from tests.engine.test_plots import PNG, points, texts
from tests.factories import conv_classifier

SAMPLES = 1000
IMAGES = 60


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    """tiny, small and big with a cascade `quick`; red and blue, which answer images."""
    folder = tmp_path_factory.mktemp("plots")
    paths = write_models(folder)
    for seed, name in enumerate(("red", "blue")):
        paths[name] = conv_classifier(folder / f"{name}.onnx", seed=seed)
    items, labels = draw(SAMPLES, seed=11)
    np.savez(folder / "toys.npz", x=items, y=labels)
    images = np.random.default_rng(3).normal(size=(IMAGES, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "images.npz", x=images)
    with sm.connect(folder / "models.sommelier") as db:
        for name, path in paths.items():
            task = "pictures" if name in ("red", "blue") else "toys"
            db.execute(f"REGISTER MODEL {name} FROM '{path}' TASK '{task}'")
        db.register_dataset("toys", folder / "toys.npz", x="x", y="y", held_out=True)
        db.register_dataset("images", folder / "images.npz", x="x", held_out=True)
        db.execute("ANALYZE red, blue FOR RESOURCES, EQUIVALENCE USING dataset = 'images'")
        db.execute(
            "ANALYZE tiny, small, big FOR RESOURCES, EQUIVALENCE, ACCURACY USING dataset = 'toys'"
        )
        db.execute("ANALYZE tiny, big FOR LATENCY")
        db.execute(
            "CREATE CASCADE quick FROM tiny TO big WITHIN 3% OF ACCURACY USING dataset = 'toys'"
        )
        yield db


def numbers(db: sm.Connection, where: str = "") -> dict[str, tuple[float, float]]:
    found = db.query(f"SELECT MODELS name, flops, accuracy {where}").dicts()
    return {row["name"]: (row["flops"], row["accuracy"]) for row in found}


def test_all_models_are_drawn_and_the_answer_is_marked(db: sm.Connection) -> None:
    plot = db.plot.pareto("SELECT MODELS CORR big AGREEMENT >= 10% WHERE name <> 'tiny'")
    known = numbers(db, "WHERE accuracy IS NOT NULL")
    assert set(known) == {"tiny", "small", "big"}
    assert points(plot, "answer") == {known["small"]}
    assert points(plot, "others") == {known["tiny"], known["big"]}
    said = texts(plot)
    assert "not drawn: 2 models; unknown is the accuracy of 2" in said
    assert "CORR big AGREEMENT >= 10%" in said
    assert plot.png().startswith(PNG)


def test_a_question_may_be_text_a_relation_or_a_result(db: sm.Connection) -> None:
    text = "SELECT MODELS WHERE name = 'big'"
    marks = [
        points(db.plot.pareto(question), "answer")
        for question in (text, db.query(text), db.query(text).result)
    ]
    assert marks[0] == marks[1] == marks[2] == {numbers(db)["big"]}


def test_an_answer_is_drawn_with_numbers_that_it_has_or_the_catalog_has(db: sm.Connection) -> None:
    answer = db.query("SELECT MODELS name, accuracy WHERE accuracy IS NOT NULL")
    plot = answer.plot.pareto(x="params", size="memory")  # it has neither of both
    found = db.query("SELECT MODELS params, accuracy WHERE accuracy IS NOT NULL").fetchall()
    marked = points(plot, "answer")
    assert points(plot, "others") | marked == {tuple(map(float, row)) for row in found}
    assert len(marked) == 1  # what one() gives


def test_what_was_picked_is_marked_among_what_it_was_picked_from(db: sm.Connection) -> None:
    question = "SELECT MODELS name, flops, equivalence CORR big AGREEMENT >= 10%"
    plot = db.query(f"{question} PICK smallest").plot.pareto(y="equivalence")
    every = {row["name"]: (row["flops"], row["equivalence"]) for row in db.query(question).dicts()}
    assert set(every) == {"tiny", "small"}
    assert points(plot, "answer") == {every["tiny"]}
    assert points(plot, "others") == {every["small"]}
    assert points(plot, "reference") == {
        (db.query("SELECT MODELS flops WHERE name = 'big'").one().flops, 1.0)
    }
    kept = db.query(f"{question} USING include_reference = true").plot.pareto()
    assert points(kept, "reference") == {numbers(db)["big"]}, "once, where it is a row"


def test_equivalence_of_an_answer_is_better_the_more_of_it(db: sm.Connection) -> None:
    answer = db.query("SELECT MODELS name, equivalence, flops CORR big AGREEMENT >= 10%")
    plot = answer.plot.pareto(y="equivalence")
    assert plot.axes[0].get_ylabel() == "equivalence (more is better)"


@pytest.mark.parametrize(("axis", "told"), [("task", "is text"), ("flop", "unknown")])
def test_an_axis_that_is_no_number_is_refused(db: sm.Connection, axis: str, told: str) -> None:
    with pytest.raises(BinderError, match=told):
        db.plot.pareto(x=axis)


def test_agreement_is_that_of_the_stored_answers(db: sm.Connection) -> None:
    plot = db.plot.agreement("tiny", "big")
    wanted = db.session.semantics.agreement(db.model("tiny").record.id, db.model("big").record.id)
    shares = plot.axes[0].images[0].get_array()
    assert float(shares[0, 1]) == pytest.approx(wanted.agreements / wanted.samples)
    assert f"to {wanted.samples} probes of 'toys'" in texts(plot)


def test_without_names_those_that_most_answered_alike_are_compared(db: sm.Connection) -> None:
    ticks = {tick.get_text() for tick in db.plot.agreement().axes[0].get_yticklabels()}
    assert ticks == {"tiny", "small", "big"}


def test_models_that_share_no_probes_are_crossed(db: sm.Connection) -> None:
    assert "crossed: 2 pairs" in texts(db.plot.agreement("tiny", "big", "red"))
    with pytest.raises(BinderError, match="2 to 80 models, these are 1"):
        db.plot.agreement("tiny")


def test_the_kept_thresholds_of_a_cascade_are_where_the_catalog_says(db: sm.Connection) -> None:
    plot, kept = db.plot.cascade("quick"), db.catalog.cascade("quick")
    last = kept.members[-1].accuracy
    assert last is not None
    assert kept.loss is not None
    ((flops, accuracy),) = [
        tuple(map(float, (line.get_xdata()[0], line.get_ydata()[0])))
        for line in plot.axes[0].lines
        if line.get_marker() == "D"
    ]
    assert (flops, accuracy) == pytest.approx((kept.flops, last - kept.loss))
    alone = {(s.flops, m.accuracy) for s, m in zip(kept.plan.stages, kept.members, strict=True)}
    drawn = sorted(points(plot, "models"))
    assert np.allclose(drawn, sorted(alone))
    (curve,) = [line for line in plot.axes[0].lines if line.get_gid() == "curve"]
    total = kept.plan.stages[0].flops + kept.plan.stages[1].flops  # type: ignore[operator]
    assert max(curve.get_xdata()) == pytest.approx(total)  # where all inputs go on
    (promise,) = [line for line in plot.axes[0].lines if line.get_gid() == "promise"]
    assert promise.get_ydata()[0] == pytest.approx(last - 0.03)
    assert "accuracy drop of at most 3% at 95% confidence" in texts(plot)
    with db.cascade("quick") as running:
        html = running._repr_html_()
    assert "always: it answers what is left" in html
    assert "accuracy drop of at most 3%" in html
    assert "title=" in html, "bars of the FLOPs"


def test_images_are_shown_that_two_models_answer_differently(db: sm.Connection) -> None:
    plot = db.plot.disagreements("red", "blue", limit=4)
    table = rows(db, "SHOW DISAGREEMENTS OF red, blue LIMIT 4")
    shown = [axes for axes in plot.axes if axes.images]
    assert len(shown) == len(table) > 0
    said = texts(plot)
    for row in table:
        assert f"item {row['item']}" in said
    assert f"1: {table[0]['red']}" in said


def test_items_that_are_no_images_are_refused_with_the_statement_for_rows(
    db: sm.Connection,
) -> None:
    with pytest.raises(BinderError, match="no images") as raised:
        db.plot.disagreements("tiny", "small")
    assert "SHOW DISAGREEMENTS" in str(raised.value.hint)


def test_unknown_names_and_pairs_that_were_not_analysed_say_what_to_do(db: sm.Connection) -> None:
    for ask in (db.plot.cascade, db.plot.fusion, db.plot.deployment, db.plot.lineage):
        with pytest.raises(UnknownNameError):
            ask("nothing")
    with pytest.raises(BinderError) as raised:
        db.plot.segments("tiny", "big")
    assert raised.value.hint == "ANALYZE tiny, big FOR SEGMENTS"


def test_a_deployment_is_drawn_while_it_runs_and_after(db: sm.Connection, tmp_path: Path) -> None:
    items, _ = draw(4, seed=1)
    running = db.deploy("DEPLOY MODELS tiny, big AS v UNDER latency < 500 ms AT p99")
    for item in items:
        running.infer({"x": item[None]})
    html = running._repr_html_()
    for told in (
        "Deployment v",
        "latency &lt; 500 ms at p99",
        "4 of 4 answers",
        "accuracy on &#x27;",
    ):
        assert told in html
    assert repr(running).endswith("models of big, tiny; promises latency < 500 ms at p99>")
    plot = db.plot.deployment("v")
    assert "Deployment v: 4 answers" in texts(plot)
    assert "100% of 4" in texts(plot)
    db.serving.stop("v")
    kept = db.plot.deployment("v")
    assert "4 answers" in texts(kept)
    assert "it does not run here" in texts(kept)
    kept.savefig(tmp_path / "kept.png")
    db.execute("UNDEPLOY v")
