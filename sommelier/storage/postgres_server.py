"""Reaching a PostgreSQL server: what its URL says, and why it could not be reached, in a sentence.

    postgresql+psycopg://user:password@host:5432/database?sslmode=require

It is libpq's URL, with SQLAlchemy's name of the driver allowed in it, so what libpq knows may stand
in it or come from elsewhere: PGPASSWORD, ~/.pgpass, a service file, a socket's folder as ?host=.
No password is ever shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sommelier.errors import StorageError

_REMARKS = ("Multiple connection", "Is the server", "This probably", "before or while")  # libpq's
OLDEST = 14  # of PostgreSQL; functions with a body in SQL
SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_SETTINGS = "; ".join(
    (
        "SET search_path = main",
        "SET TimeZone = 'UTC'",
        "SET DateStyle = 'ISO'",
        "SET client_min_messages = warning",
        "SET jit = off",  # it compiles for 0.1 s what is answered in 1 ms
    )
)
# a dead network is noticed within a minute, not after two hours
_DEFAULTS: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "sommelier",
}
_HINTS = (
    (r"password authentication failed|no password supplied|PAM authentication failed",
     "check the user and the password in the URL; PGPASSWORD and ~/.pgpass work too"),
    (r'role ".*" does not exist', "name a user of the server in the URL"),
    (r'database ".*" does not exist',
     "create it: createdb, or CREATE DATABASE ... ENCODING 'UTF8' on the server"),
    (r"could not translate host name|Name or service not known|nodename nor servname",
     "check the host in the URL"),
    (r"Connection refused|No such file or directory|timeout|timed out|not respond",
     "is the server running, and does it listen at that host and port?"),
    (r"no pg_hba\.conf entry|SSL",
     "the server does not let this user in from here; see pg_hba.conf"),
    (r"too many clients|remaining connection slots|too many connections",
     "wait until others have left, or raise max_connections on the server"),
    (r"permission denied", "let the server's administrator GRANT what is missing"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """Where a catalog lies on a server. name : for people, without the password."""

    name: str
    conninfo: str = field(repr=False)
    password: str | None = field(repr=False)

    def connect(self, *, read_only: bool) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection in autocommit, its transactions READ ONLY where that is asked.

        Raises StorageError with what to do.
        """
        try:
            raw = psycopg.connect(self.conninfo, autocommit=True)
            raw.execute(_SETTINGS)
            if read_only:
                raw.execute("SET default_transaction_read_only = on")
        except psycopg.Error as error:
            raise self.unreachable(error) from None  # the cause may quote the password
        try:
            _must_do(raw, self.name)
        except BaseException:
            raw.close()
            raise
        return raw

    def unreachable(self, error: psycopg.Error) -> StorageError:
        """The error for a server that could not be reached, and why."""
        said = self.without_password(_last_line(str(error)))
        hint = next((hint for words, hint in _HINTS if re.search(words, said)), None)
        return StorageError(
            f"cannot open the catalog at {self.name}: {said}",
            hint=hint or "check the URL, and whether the server is up",
        )

    def without_password(self, text: str) -> str:
        """`text` with the password, should it be in there, struck out."""
        return text.replace(self.password, "***") if self.password else text


def server_at(url: str) -> Server:
    """The server a URL names. Raises StorageError for a URL that is none of PostgreSQL's."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise StorageError(
            f"a catalog cannot be opened at '{scheme}://...'",
            hint="a file's path, or postgresql+psycopg://user:password@host/database",
        )
    before, _, path = rest.partition("?")[0].partition("/")
    if before.count("@") > 1 or "@" in path:
        raise _unreadable()  # of a password with such a character libpq takes a part for the host
    try:
        given = conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.Error:
        raise _unreadable() from None
    password = given.get("password")
    filled = {key: value for key, value in _DEFAULTS.items() if key not in given}
    return Server(
        name=_shown(given),
        conninfo=make_conninfo("", **{**filled, **given, "client_encoding": "utf8"}),
        password=str(password) if password else None,
    )


def _unreadable() -> StorageError:
    return StorageError(
        "the URL of the catalog cannot be read",
        hint="postgresql+psycopg://user:password@host:5432/database?option=value, the options being"
        " libpq's; of the password @ as %40, / as %2F, % as %25",
    )


def _shown(given: Mapping[str, Any]) -> str:
    user = f"{given['user']}@" if given.get("user") else ""
    host = str(given.get("host") or given.get("hostaddr") or "")
    port = f":{given['port']}" if given.get("port") else ""
    database = str(given.get("dbname") or given.get("user") or "")
    if host.startswith("/"):
        return f"postgresql://{user}/{database}?host={host}" + port.replace(":", "&port=")
    return f"postgresql://{user}{host}{port}/{database}"


def _must_do(raw: psycopg.Connection[Any], name: str) -> None:
    """Raise StorageError for a server that is too old, or a database that cannot hold any text."""
    version = raw.info.server_version // 10_000
    if version < OLDEST:
        raise StorageError(
            f"{name} is PostgreSQL {version}; a catalog needs {OLDEST} or newer",
            hint="upgrade the server",
        )
    encoding = raw.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StorageError(
            f"the database at {name} keeps text as {encoding}; a catalog needs UTF8",
            hint="CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )


def _last_line(message: str) -> str:
    """libpq tells every address it tried; the last one says most."""
    lines = [line.strip(" \t-") for line in message.strip().splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_REMARKS)]
    last = (told or lines or [message])[-1]
    return re.sub(r"^(connection failed: |connection is bad: )+", "", last)
