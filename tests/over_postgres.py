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

FAMILY = "SOMMELIER_TEST_FAMILY"
"""The variable by which the processes of one test session know their databases."""


class Databases:
    """The databases that tests were given, by the path they named."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = f"sommelier_{os.environ.setdefault(FAMILY, str(os.getpid()))}_"
        self._template = f"{self._prefix}template"
        self._open = Catalog.__dict__["open"].__func__
        self._made: dict[Path, str] = {}

    def url(self, database: str) -> str:
        """The URL of a database of the server."""
        return f"{self._url.rpartition('/')[0]}/{database}"

    def fresh(self, path: Path) -> str:
        """The URL of the database that stands for a file; made, empty of models, where it is
        new."""
        path = path.absolute()
        if path not in self._made:
            name = self._prefix + hashlib.sha256(str(path).encode()).hexdigest()[:16]
            if not self._is_there(name):
                if not self._is_there(self._template):
                    self._make_template()
                self._do(f"CREATE DATABASE {name} TEMPLATE {self._template}")
            self._made[path] = name
        return self.url(self._made[path])

    def redirect(self) -> None:
        """Have `Catalog.open` open the server's databases where a path is a file's."""

        def open_(kind: type[Catalog], path: Path | str, **options: Any) -> Catalog:
            if "://" in str(path) or str(path) == ":memory:":
                return self._catalog(kind, path, **options)
            file = Path(path).absolute()
            directory_of(file).mkdir(parents=True, exist_ok=True)
            if options.get("folder") is None:
                options["folder"] = directory_of(file)
            return self._catalog(kind, self.fresh(file), **options)

        Catalog.open = classmethod(open_)  # type: ignore[method-assign,assignment]

    def _catalog(self, kind: type[Catalog], path: Path | str, **options: Any) -> Catalog:
        found: Catalog = self._open(kind, path, **options)
        return found

    def forget(self, folder: Path) -> None:
        """Drop the databases of files in a folder."""
        for path in [path for path in self._made if path.is_relative_to(folder)]:
            with contextlib.suppress(Exception):
                self._do(f"DROP DATABASE {self._made[path]} WITH (FORCE)")
                del self._made[path]

    def close(self) -> None:
        """Drop all of them."""
        for name in [*self._made.values(), self._template]:
            self._do(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _make_template(self) -> None:
        import tempfile

        self._do(f"CREATE DATABASE {self._template} TEMPLATE template0 ENCODING 'UTF8'")
        with tempfile.TemporaryDirectory() as folder:
            self._catalog(Catalog, self.url(self._template), folder=folder).close()

    def _is_there(self, database: str) -> bool:
        return bool(self._do(f"SELECT 1 FROM pg_database WHERE datname = '{database}'"))

    def _do(self, sql: str) -> list[Any]:
        import psycopg

        address = self._url.replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def redirected() -> Iterator[Databases | None]:
    """`Catalog.open` opens databases of the server that the variable names, if it is set."""
    url = os.environ.get(VARIABLE)
    if not url:
        yield None
        return
    os.environ.pop(FAMILY, None)
    databases = Databases(url)
    own = Catalog.__dict__["open"]
    databases.redirect()
    try:
        yield databases
    finally:
        Catalog.open = own  # type: ignore[method-assign]
        databases.close()


def program(text: str) -> str:
    """A program for a process of its own, that opens databases as the test does which starts it."""
    if VARIABLE not in os.environ:
        return text
    return f"from tests.over_postgres import follow; follow()\n{text}"


def follow() -> None:
    """Open databases as the test does that started this process."""
    Databases(os.environ[VARIABLE]).redirect()
