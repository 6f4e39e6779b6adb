"""What is drawn is what was given: points, fronts, names, how many are unknown. No pixels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sommelier.analysis.fusion.drawing import branches
from sommelier.engine.plots.agreement import Agreements, agreement, ordered
from sommelier.engine.plots.deployment import ModelServed, Served, attained, deployment
from sommelier.engine.plots.disagreements import Differences, Differing, disagreements
from sommelier.engine.plots.fusion import FusionStory, fusion
from sommelier.engine.plots.layers import places
from sommelier.engine.plots.lineage import Family, lineage
from sommelier.engine.plots.links import Link, Links, links, width_of
from sommelier.engine.plots.pareto import Axis, Models, pareto
from sommelier.engine.plots.picture import Plot
from sommelier.errors import MissingDependencyError
from sommelier.fusion_records import FusionStep
from sommelier.units import Dimension
from tests.engine.test_explain_fusion import found_fusion

NAN = float("nan")
PNG = b"\x89PNG\r\n\x1a\n"


def points(plot: Plot, gid: str) -> set[tuple[float, float]]:
    """Of the marks of one kind, over all panels."""
    found = [c for axes in plot.axes for c in axes.collections if c.get_gid() == gid]
    return {(float(x), float(y)) for c in found for x, y in np.asarray(c.get_offsets())}


def texts(plot: Plot) -> str:
    """All that is written."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in plot.figure.findobj(Text))


def of(x: list[float], y: list[float], **given: Any) -> Models:
    names = [f"m{i}" for i in range(len(x))]
    return Models(
        names,
        Axis("flops", Dimension.FLOPS, np.array(x)),
        Axis("accuracy", Dimension.FRACTION, np.array(y), more_is_better=True),
        **given,
    )


# ---- Pareto


def test_the_front_is_what_no_other_model_beats() -> None:
    models = of([1e6, 2e6, 3e6, 4e6], [0.5, 0.8, 0.7, 0.9])
    plot = pareto(models)
    assert models.front == [0, 1, 3]
    assert points(plot, "front models") == {(1e6, 0.5), (2e6, 0.8), (4e6, 0.9)}
    (line,) = [line for line in plot.axes[0].lines if line.get_gid() == "front"]
    steps = list(zip(*map(list, line.get_data()), strict=True))
    assert steps == [(1e6, 0.5), (2e6, 0.5), (2e6, 0.8), (4e6, 0.8), (4e6, 0.9)]


def test_the_answer_is_marked_and_named_and_the_others_are_behind() -> None:
    plot = pareto(of([1e6, 2e6, 3e6], [0.5, 0.8, 0.7], answer=[2]))
    assert points(plot, "answer") == {(3e6, 0.7)}
    assert points(plot, "others") == {(1e6, 0.5), (2e6, 0.8)}
    assert "m2" in texts(plot)


def test_models_without_a_value_are_counted_and_never_drawn_as_zero() -> None:
    plot = pareto(of([1e6, NAN, 3e6], [0.5, 0.9, NAN], answer=[0, 1]))
    drawn = points(plot, "others") | points(plot, "answer")
    assert drawn == {(1e6, 0.5)}
    said = texts(plot)
    assert "of 1 model" in said
    assert "not drawn: 2 models; unknown is the flops of 1 and the accuracy of 1" in said
    assert "of the answer, not drawn for the same reason: m1" in said


def test_axes_are_in_units_as_people_read_them() -> None:
    axes = pareto(of([1e6, 5e7, 2e9], [0.5, 0.7, 0.9])).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_major_formatter()(2e9, 0) == "2 GFLOPs"
    assert axes.yaxis.get_major_formatter()(0.5, 0) == "50%"


def test_sizes_are_told_of_the_models_that_are_drawn() -> None:
    size = Axis("latency", Dimension.TIME, np.array([10.0, 40.0, 9e6]))
    plot = pareto(replace(of([1e6, 2e6, 3e6], [0.5, 0.8, NAN]), size=size))
    assert "latency 40 ms" in texts(plot)
    assert "latency 10 ms" in texts(plot)


def test_crowded_names_stand_in_the_legend_by_number() -> None:
    count = 16
    x, y = [1e6 + i for i in range(count)], [0.5 + 1e-6 * i for i in range(count)]
    models = replace(of([*x, 9e8], [*y, 0.9]), answer=list(range(count)))
    plot = pareto(models)
    (legend,) = plot.figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert [name for name in told if name.startswith("m")] == [f"m{i}" for i in range(count + 1)]


def test_few_models_are_all_named() -> None:
    x, y = [1e6, 2e6, 3e6, 4e6], [0.5, 0.8, 0.7, 0.6]
    assert {"m0", "m1", "m2", "m3"} <= set(texts(pareto(of(x, y))).split("\n"))
    many = of([*x, *(5e6 + 1e5 * i for i in range(9))], [*y, *[0.4] * 9])
    named = set(texts(pareto(many)).split("\n"))
    assert {"m0", "m1"} <= named, "the front"
    assert not {"m2", "m3"} & named


def test_a_catalog_without_a_known_value_is_an_empty_picture_that_says_so() -> None:
    plot = pareto(of([NAN, NAN], [NAN, NAN]))
    assert "not drawn: 2 models" in texts(plot)
    assert "Nothing to draw: of 2 models none has a known flops and accuracy" in texts(plot)
    assert not any(axes.axison for axes in plot.axes), "no axes are invented"
    assert plot.png().startswith(PNG)


def test_what_is_aside_is_marked_and_is_not_of_the_front_nor_counted() -> None:
    plot = pareto(of([2e6, 3e6, 1e6], [0.7, 0.8, 0.9], answer=[0], references=[2], aside=[2]))
    assert points(plot, "reference") == {(1e6, 0.9)}
    assert points(plot, "front models") == {(2e6, 0.7), (3e6, 0.8)}
    assert "of 2 models" in texts(plot)
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "1 other model", "Pareto front, 2", "1 answer", "reference",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "plot", [links(Links([], ("1 stale",))), lineage(Family([], "base")), lineage(Family([]))]
)
def test_an_empty_graph_says_so_and_what_to_do(plot: Plot) -> None:
    assert "Nothing to draw" in texts(plot)
    assert "ANALYZE" in texts(plot)
    assert not any(axes.axison for axes in plot.axes)


# ---- agreement


def matrix(shares: list[list[float]], **given: Any) -> Agreements:
    values = np.array(shares)
    samples = np.where(np.isfinite(values), 100, 0)
    families = given.pop("families", [None] * len(values))
    return Agreements([f"m{i}" for i in range(len(values))], values, samples, families, ["p"])


def test_models_that_answer_alike_are_neighbours() -> None:
    found = matrix([[1, 0.2, 0.9, 0.1], [0.2, 1, 0.3, 0.8], [0.9, 0.3, 1, 0.2], [0.1, 0.8, 0.2, 1]])
    order = ordered(found, "likeness")
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1


def test_by_family_no_family_is_torn_apart() -> None:
    found = matrix([[1, 0.1, 0.9], [0.1, 1, 0.1], [0.9, 0.1, 1]], families=["b", "a", "b"])
    assert ordered(found, "family")[0] == 1
    assert "b" in texts(agreement(found, cluster="family")).split("\n")


def test_cells_hold_the_shares_and_unknown_ones_are_crossed_and_counted() -> None:
    found = matrix([[1, 0.25, NAN], [0.75, 1, 0.5], [NAN, 0.5, 1]])
    plot = agreement(found)
    order = ordered(found, "likeness")
    drawn = plot.axes[0].images[0].get_array()
    assert np.allclose(drawn.filled(-1), np.nan_to_num(found.shares[np.ix_(order, order)], nan=-1))
    said = texts(plot)
    assert {"25.0", "75.0", "50.0"} <= set(said.split("\n"))
    assert "crossed: 1 pair without a value" in said
    assert "within 10.2 points" in said  # Clopper-Pearson of 50 in 100 at 95 %: .398 to .602


# ---- fusion


def a_story(**given: Any) -> FusionStory:
    found = found_fusion(**given)
    steps = [
        FusionStep(0, "trained", flops=6e6, latency_ms=2.0, drop_measured=0.02, accepted=True),
        FusionStep(1, "trained", flops=4e6, latency_ms=1.3, drop_predicted=0.03,
                   drop_measured=0.005, accepted=True),
        FusionStep(2, "filtered", flops=3e6, drop_predicted=0.2, accepted=False),
    ]  # fmt: skip
    assert found.graph is not None
    return FusionStory(found, branches(found.graph), steps)


def test_the_step_that_became_the_model_is_marked_by_its_flops() -> None:
    plot = fusion(a_story())
    assert points(plot, "chosen") == {(1, 0.005), (1, 1.3)}
    assert points(plot, "predicted") == {(1, 0.03), (2, 0.2)}
    assert points(plot, "measured, accepted") >= {(0, 0.02), (1, 0.005)}
    assert "no drop was measured in 1 step of 3" in texts(plot)


def test_no_step_is_marked_where_none_costs_what_the_model_costs() -> None:
    plot = fusion(a_story(flops=1e5))
    assert points(plot, "chosen") == set()
    assert "which step became the model is not known" in texts(plot)


def test_verdicts_that_a_picture_of_drops_would_not_explain_are_explained() -> None:
    story = a_story(drop_threshold=0.03)
    said = texts(fusion(story))
    assert "not accepted: it costs no less" not in said
    assert "trained on" not in said
    first, second, third = story.steps
    refused = replace(story, steps=[first, replace(second, accepted=False), third])
    said = " ".join(texts(fusion(refused)).split())
    assert "not accepted: it costs no less" in said  # 0.5 % are below the line
    assert "what became the model came nearest" in said


def test_a_search_of_one_step_has_a_whole_axis() -> None:
    story = a_story()
    plot = fusion(replace(story, steps=story.steps[:1]))
    for axes in plot.axes[1:]:
        ticks = [tick for tick in axes.get_xticks() if -0.5 <= tick <= 0.5]
        assert ticks == [0]


def test_every_run_of_blocks_has_a_box() -> None:
    story = a_story()
    said = texts(fusion(story))
    assert len(story.branches) >= 2
    for branch in story.branches:
        assert f"{branch.owner} {branch.blocks}: {', '.join(branch.kinds)}" in said
    assert any(branch.shared for branch in story.branches)


# ---- graphs


def test_children_stand_right_of_all_their_parents_and_circles_end() -> None:
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "a"), ("d", "d")]
    found = places(["a", "b", "c", "d"], edges)
    assert [found[name][0] for name in "abcd"] == [0, 1, 2, 0]
    assert len(set(found.values())) == 4


def test_a_better_link_is_wider_and_an_unknown_one_is_counted() -> None:
    plot = links(Links([
        Link("x", ("a",), "b", 0.7), Link("y", ("b",), "a", 0.9), Link("z", ("a",), "c", None),
    ], ("not drawn, not in use: 1 stale",)))  # fmt: skip
    widths = [t.arrow_patch.get_linewidth() for t in plot.axes[0].texts if _arrow(t)]
    assert widths == [width_of(0.7, 0.7), width_of(0.9, 0.7), width_of(None, 0.7)]
    assert widths[1] > widths[0] >= widths[2]
    said = texts(plot)
    assert "quality unknown: 1 link" in said
    assert "1 stale" in said


def test_the_picture_of_few_links_is_no_taller_than_they_are() -> None:
    two, three, four = (
        links(Links([Link(f"{i}", (f"m{i}",), f"m{(i + 1) % n}", 0.9) for i in range(n)]))
        for n in (2, 3, 4)
    )
    heights = [plot.figure.get_figheight() for plot in (two, three, four)]
    assert heights[1] < heights[0] == heights[2]
    assert three.axes[0].get_ylim()[0] < -0.5  # the names at its foot are on it


def _arrow(text: Any) -> bool:
    return getattr(text, "arrow_patch", None) is not None


# ---- deployment


def a_deployment(**given: Any) -> Served:
    models = [ModelServed("a", 30, 2.0, 3.0, 5.0), ModelServed("b", 10)]
    return Served("v", "latency < 10 ms at p99", "ready", models, 10.0, 0.99, **given)


def test_quantiles_shares_and_what_was_late_are_drawn() -> None:
    served = a_deployment(promised=40, late=4, unanswered={"refused, 429": 7})
    plot = deployment(served)
    assert points(plot, "p99") == {(5.0, 0)}
    assert points(plot, "p50") == {(2.0, 0)}
    (bar,) = [p for axes in plot.axes for p in axes.patches if p.get_gid() == "attained"]
    assert bar.get_width() == pytest.approx(0.9)
    share, low, high = attained(served) or (0, 0, 0)
    assert low < share < high
    said = texts(plot)
    assert "90% of 40" in said
    assert " 7" in said
    assert "no time is known: b; requests that it answers are timed" in " ".join(said.split())


def test_before_its_first_answer_a_model_stands_where_it_is_planned() -> None:
    models = [ModelServed("a", 30, 2.0, 3.0, 5.0, 2.5), ModelServed("b", 0, planned_ms=7.0)]
    plot = deployment(Served("v", "latency < 10 ms at p99", "ready", models, 10.0, 0.99))
    assert points(plot, "planned") == {(7.0, 1)}
    assert "no execution of one sample was timed here yet: b" in " ".join(texts(plot).split())


@pytest.mark.filterwarnings("error")
def test_bars_of_what_was_refused_begin_at_zero_however_much_they_differ() -> None:
    served = a_deployment(promised=40, late=4, unanswered={"refused, 429": 1, "refused, 504": 590})
    axes = deployment(served).axes[-1]
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] == 0
    few = deployment(a_deployment(promised=40, late=4, unanswered={"refused, 429": 4})).axes[-1]
    assert all(float(tick).is_integer() for tick in few.get_xticks())


@pytest.mark.parametrize("ratio", [1.5, 21, 49, 60, 700, 2e3, 1e6])
def test_numbers_on_an_axis_do_not_run_together(ratio: float) -> None:
    quick = ModelServed("quick", 30, 0.03, 0.03, 0.03 * ratio)
    plot = deployment(Served("v", "", "ready", [quick], 0.01 * ratio))
    plot.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in plot.axes[0].get_xticklabels()]
    low, high = plot.axes[0].bbox.x0, plot.axes[0].bbox.x1
    shown = sorted((box.x0, box.x1) for box in boxes if low <= (box.x0 + box.x1) / 2 <= high)
    assert len(shown) >= 2
    assert all(right < left for (_, right), (left, _) in pairwise(shown))


def test_what_is_not_known_of_a_deployment_is_said() -> None:
    plot = deployment(a_deployment())
    assert "what was late or refused is known where it runs" in texts(plot)
    assert len(plot.axes) == 2, "no panels without numbers"


# ---- disagreements


def test_what_stands_under_images_is_whole_and_covers_nothing() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    rows = [Differing(i, image, ("ape", "bee"), "ape", "one") for i in range(12)]
    plot = disagreements(Differences(("one", "two"), rows, ("12 of 90 are answered differently",)))
    plot.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for axes in plot.axes for text in _texts_of(axes)]
    page = plot.figure.bbox
    assert len(boxes) == 4 * len(rows)
    assert all(box.y0 >= page.y0 and box.x1 <= page.x1 for box in boxes)
    images = [axes.get_window_extent() for axes in plot.axes if axes.images]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*boxes[:place], *images])


def _texts_of(axes: Any) -> list[Any]:
    return [text for text in (axes.title, axes._left_title, *axes.texts) if text.get_text()]


# ---- all


def test_a_plot_shows_itself_in_a_notebook_and_is_written_to_files(tmp_path: Any) -> None:
    plot = pareto(of([1e6, 2e6], [0.5, 0.8]))
    assert plot._repr_png_().startswith(PNG)
    plot.savefig(tmp_path / "p.svg")
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert repr(plot).startswith("<Plot Accuracy against flops of 2 models; front: m0 (1 MFLOPs")


def test_without_matplotlib_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib") as raised:
        pareto(of([1e6], [0.5]))
    assert raised.value.hint == "pip install 'sommelier-db[plots]'"


def test_pyplot_is_never_loaded_and_nothing_before_something_is_drawn() -> None:
    code = (
        "import sys, numpy as np, sommelier as sm\n"
        "db = sm.connect(':memory:')\n"
        "db.plot, db.models().result.plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "db.plot.pareto().png()\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
