"""A catalog in another database of either kind is the same catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.errors import StorageError
from sommelier.records import Device, LabelSpace
from sommelier.storage.catalog import Catalog
from sommelier.storage.copying_catalogs import copy_catalog
from sommelier.storage.sketches import SketchStore
from tests.over_postgres import Databases
from tests.storage.catalog_factories import number, plain_model, rich_model
from tests.storage.index_factories import probe_set, sketch


def fill(catalog: Catalog) -> None:
    model = catalog.add_model(rich_model(), label_space=LabelSpace("labels:1", "l", ("a", "é")))
    others = [catalog.add_model(plain_model(f"m{i}", tags=("x",))).record for i in range(60)]
    catalog.add_measurements(
        [
            number(model.record.id, "accuracy", 0.5, low=0.1, count=7, source="card"),
            *(number(one.id, "params", float(i)) for i, one in enumerate(others)),
        ]
    )
    catalog.drop_device("a100-40gb")
    catalog.add_device(Device("mine", 1e9, None, None))
    catalog.save_pool("p", [others[3].id, others[1].id], "SELECT MODELS")
    catalog.add_probe_set(probes := probe_set("photos", 4))
    sketches = SketchStore(catalog.directory / "sketches", catalog)
    sketches.add(sketch(others[0].id, probes, [0, 1, -1, 2], classes=3))


def content(catalog: Catalog) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but what belongs to the database itself."""
    from sommelier.storage.schema import METADATA

    found = {}
    for table in METADATA.sorted_tables:
        if table.name != "meta":
            listed = ", ".join(f'"{column.name}"' for column in table.columns)
            rows = catalog.database.rows(f"SELECT {listed} FROM {table.fullname}")
            found[table.name] = sorted(rows, key=repr)
    return found


def test_a_catalog_goes_to_a_server_and_back_and_is_the_same(
    databases: Databases, tmp_path: Path
) -> None:
    url = databases.fresh(tmp_path / "server")
    with (
        Catalog.open(":memory:") as first,
        Catalog.open(url, folder=tmp_path / "files") as server,
        Catalog.open(":memory:") as back,
    ):
        fill(first)
        copied = copy_catalog(first, server)
        assert copy_catalog(server, back) == copied > 120
        assert content(first) == content(server) == content(back)
        (model_id,) = SketchStore(back.directory / "sketches", back).model_ids("probes-photos")
        stores = [SketchStore(one.directory / "sketches", one) for one in (first, back)]
        answers = [store.answers(store.entry(model_id, "probes-photos")) for store in stores]
        assert np.array_equal(*answers)
        assert server.resolve("rn50") == first.resolve("rn50")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    with (
        Catalog.open(tmp_path / "a.sommelier") as first,
        Catalog.open(tmp_path / "b.sommelier") as second,
    ):
        fill(first)
        second.add_model(plain_model("there"))
        with pytest.raises(StorageError, match="not empty"):
            copy_catalog(first, second)
        assert second.model_names() == ["there"]


def test_a_connection_copies_its_database_to_a_file(tmp_path: Path) -> None:
    with sm.connect(tmp_path / "a.sommelier") as db:
        fill(db.catalog)
        assert db.copy_to(tmp_path / "b.sommelier") > 120
        before = db.query("SELECT MODELS name, params").fetchall()
    with sm.connect(tmp_path / "b.sommelier") as db:
        assert db.query("SELECT MODELS name, params").fetchall() == before
