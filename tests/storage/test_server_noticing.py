"""What tells `sommelier serve` that a server's catalog may say something new."""

from __future__ import annotations

from pathlib import Path

from sommelier.storage.catalog import Catalog
from sommelier.storage.noticing import watch_of
from sommelier.storage.server_noticing import ServerWatch
from tests.over_postgres import Databases
from tests.storage.catalog_factories import plain_model


def test_what_others_commit_is_noticed_once(url: str, both: tuple[Catalog, Catalog]) -> None:
    catalog, _ = both
    watch = watch_of(url)
    assert isinstance(watch, ServerWatch)
    version = catalog.version
    assert not watch.changed(version), "it is what the caller has"
    catalog.add_model(plain_model("new"))
    assert watch.changed(version)
    assert not watch.changed(version), "it was told"
    watch.forget()
    assert watch.changed(version)
    assert not watch.changed(catalog.version)
    assert not watch.is_being_written()
    watch.close()
    assert not watch.changed(catalog.version), "it connects anew"
    watch.close()


def test_who_does_not_answer_may_say_anything(databases: Databases, tmp_path: Path) -> None:
    watch = watch_of(databases.url("absent"))
    assert watch.changed("1-a")
    assert watch.changed("1-a"), "until somebody says why"
    watch.close()
