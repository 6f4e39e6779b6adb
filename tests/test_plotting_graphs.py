"""db.plot of graphs: segments of two models, lineage, links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sommelier as sm
from tests.asking import rows
from tests.engine.test_plots import texts
from tests.factories import mlp_classifier
from tests.link_models import write_models, write_samples

FEATURES, CLASSES, SAMPLES = 6, 4, 200
LAYERS = (16, 16)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    """base, and tuned: its middle layer a little changed; and `hybrid`, a graft of both."""
    folder = tmp_path_factory.mktemp("parts")
    mlp_classifier(folder / "base.onnx", features=FEATURES, hidden=LAYERS, classes=CLASSES)
    model = onnx.load(folder / "base.onnx")
    rng = np.random.default_rng(7)
    changed = next(w for w in model.graph.initializer if tuple(w.dims) == LAYERS)
    noise = rng.normal(scale=0.02, size=LAYERS).astype(np.float32)
    weights = numpy_helper.to_array(changed) + noise
    changed.CopyFrom(numpy_helper.from_array(weights, changed.name))
    onnx.save(model, folder / "tuned.onnx")
    np.savez(folder / "points.npz", x=rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32))
    with sm.connect(folder / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz", x="x", held_out=True)
        db.execute("ANALYZE base, tuned FOR SEGMENTS USING dataset = 'points'")
        (row,) = rows(db, "SELECT * FROM segments WHERE host = 'base' AND NOT identical")
        db.execute(f"CREATE MODEL hybrid AS GRAFT tuned INTO base AT SEGMENT '{row['name']}'")
        yield db


def bands(plot: object) -> set[str]:
    patches = plot.axes[0].patches  # type: ignore[attr-defined]
    return {p.get_gid() for p in patches if str(p.get_gid()).startswith("band")}


def test_every_common_segment_is_a_band_with_what_was_measured(parts: sm.Connection) -> None:
    plot = parts.plot.segments("base", "tuned")
    common = rows(parts, "SELECT * FROM segments WHERE host = 'base' AND kind = 'common'")
    assert bands(plot) == {f"band {row['name']}" for row in common}
    said = texts(plot)
    for row in common:
        if row["identical"]:
            assert f"{row['name']}: identical weights" in said
        else:
            assert f"{row['name']}: {100 * float(str(row['measured'])):g}% measured" in said
    assert "Gemm" in said or "MatMul" in said


def test_lineage_has_an_arrow_for_each_relation_and_marks_the_model(parts: sm.Connection) -> None:
    known = rows(parts, "SELECT model, parent, relation FROM lineage WHERE model = 'hybrid'")
    plot = parts.plot.lineage("hybrid")
    arrows = [t for t in plot.axes[0].texts if getattr(t, "arrow_patch", None) is not None]
    assert {row["relation"] for row in known} >= {"host", "donor"}
    assert len(arrows) >= len(known)
    said = texts(plot)
    assert {"hybrid", "base", "tuned"} <= set(said.split("\n"))
    assert "Lineage of hybrid" in said


def test_proposals_are_counted_and_not_drawn(parts: sm.Connection) -> None:
    proposals = parts.catalog.proposals()
    said = texts(parts.plot.lineage())
    for name in proposals:
        assert name not in said
    assert ("that nobody created" in said) is bool(proposals)


def test_a_database_without_lineage_says_so(tmp_path: Path) -> None:
    with sm.connect(tmp_path / "empty.sommelier") as db:
        assert "not known that any model comes from another" in texts(db.plot.lineage())
        assert "no link is in use" in texts(db.plot.links())


def test_usable_links_are_drawn_and_the_others_counted(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_models(tmp_path / "m")
    write_samples(tmp_path / "fsdd.npz")
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path / 'm'}'")
        db.register_dataset("fsdd", tmp_path / "fsdd.npz", held_out=True)
        db.execute(
            "ANALYZE digit_net, speaker_net, accent_net FOR LINKS USING dataset = 'fsdd',"
            " samples = 500"
        )
        plot = db.plot.links()
        usable = [link for link in db.catalog.links() if link.usable]
        others = len(db.catalog.links()) - len(usable)
    arrows = [t for t in plot.axes[0].texts if getattr(t, "arrow_patch", None) is not None]
    assert len(arrows) == sum(len(link.source_names) for link in usable) > 0
    assert ("not in use" in texts(plot)) is bool(others)
