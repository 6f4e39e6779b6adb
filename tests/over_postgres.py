"""The same tests over PostgreSQL: where a test opens a file, a database of a server is opened.

Nothing is imitated: `Catalog.open` is given a URL where the test gave a path, and each path has a
database of its own. SOMMELIER_TEST_POSTGRES names the server; see postgres_server.py. Tests of what
only files have are marked `duckdb` with the reason and left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sommelier.storage.catalog import Catalog
from sommelier.storage.snapshots import directory_of
from tests.postgres_server import VARIABLE

TEMPLATE = f"sommelier_template_{os.getpid()}"
_PREFIX = f"sommelier_{os.getpid()}_"


class Databases:
    """The databases that tests were given, by the path they named."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened = Catalog.open
        self._made: dict[Path, str] = {}
        self._has_template = False

    def url(self, database: str) -> str:
        """The URL of a database of the server."""
        return f"{self._url.rpartition('/')[0]}/{database}"

    def fresh(self, path: Path) -> str:
        """The URL of the database that stands for a file; made, empty of models, where it is
        new."""
        path = path.absolute()
        if path not in self._made:
            if not self._has_template:
                self._make_template()
            name = _PREFIX + hashlib.sha256(str(path).encode()).hexdigest()[:16]
            self._do(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
            self._made[path] = name
        return self.url(self._made[path])

    def open(self, path: Path | str, **options: Any) -> Catalog:
        """`Catalog.open`, on the server where `path` is a file's."""
        if "://" in str(path) or str(path) == ":memory:":
            return self._opened(path, **options)
        file = Path(path).absolute()
        directory_of(file).mkdir(parents=True, exist_ok=True)
        return self._opened(self.fresh(file), **{"artifacts": directory_of(file), **options})

    def forget(self, folder: Path) -> None:
        """Drop the databases of files in a folder."""
        for path in [path for path in self._made if path.is_relative_to(folder)]:
            with contextlib.suppress(Exception):
                self._do(f"DROP DATABASE {self._made[path]} WITH (FORCE)")
                del self._made[path]

    def close(self) -> None:
        """Drop all of them."""
        for name in [*self._made.values(), TEMPLATE]:
            self._do(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _make_template(self) -> None:
        import tempfile

        self._do(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0 ENCODING 'UTF8'")
        with tempfile.TemporaryDirectory() as folder:
            self._opened(self.url(TEMPLATE), artifacts=folder).close()
        self._has_template = True

    def _do(self, sql: str) -> None:
        import psycopg

        address = self._url.replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(sql.encode())


@contextlib.contextmanager
def redirected() -> Iterator[Databases | None]:
    """`Catalog.open` opens databases of the server that the variable names, if it is set."""
    url = os.environ.get(VARIABLE)
    if not url:
        yield None
        return
    databases = Databases(url)
    own = Catalog.__dict__["open"]
    Catalog.open = databases.open  # type: ignore[method-assign,assignment]
    try:
        yield databases
    finally:
        Catalog.open = own  # type: ignore[method-assign]
        databases.close()
