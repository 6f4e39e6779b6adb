"""Which file a database name means: files of nearly that name, and who may make a new one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sommelier.errors import DatabaseLockedError, ParserError, StorageError
from sommelier.grammar import nodes
from sommelier.grammar.parser import parse
from sommelier.shell.scripts import Item, brings_more
from sommelier.storage.servers import is_url

_FILLS = (
    nodes.Import,
    nodes.RegisterModel,
    nodes.RegisterDataset,
    nodes.RegisterDevice,
    nodes.CreatePool,
    nodes.CreateRepository,
    nodes.SetOption,
)
_ALIKE = 0.75  # difflib's ratio of two stems: one letter more, less, or swapped
_SHOWN = 3


def exists(path: str) -> bool:
    """Whether there is something to open; a database in memory always is, and whether one on a
    server is nobody knows before."""
    return path == ":memory:" or is_url(path) or Path(path).expanduser().exists()


def may_create(items: Iterable[Item]) -> bool:
    """Whether anything here has work to do in an empty database.

    A command that reads further statements may bring some.
    """
    for item in items:
        if item.is_command:
            if brings_more(item):
                return True
            continue
        try:
            if isinstance(parse(item.text), _FILLS):
                return True
        except ParserError:
            continue
    return False


def asks_none(items: Iterable[Item]) -> bool:
    """Whether all of this asks sources, by the names of their connectors, and no database."""
    from sommelier.connectors.registry import connector_names

    asked = [None if item.is_command else _source(item.text) for item in items]
    return bool(asked) and set(asked) <= set(connector_names())


def _source(text: str) -> str | None:
    """What a statement lists, or explains an import from; None for any other statement."""
    try:
        statement = parse(text)
    except ParserError:
        return None
    if isinstance(statement, nodes.ExplainImport):
        return statement.statement.connector
    return statement.source if isinstance(statement, nodes.Show) else None


def similar(path: str) -> tuple[str, ...]:
    """Database files beside `path` whose names resemble its own, the nearest first."""
    import difflib

    wanted = Path(path).expanduser()
    if not wanted.parent.is_dir():
        return ()
    beside = {
        file.name: file.stem.lower()
        for file in wanted.parent.iterdir()
        if file.is_file() and file != wanted and file.with_name(f"{file.name}.d").is_dir()
    }
    near = difflib.get_close_matches(wanted.stem.lower(), beside.values(), _SHOWN, _ALIKE)
    names = [name for stem in dict.fromkeys(near) for name, own in beside.items() if own == stem]
    return tuple(str(Path(path).with_name(name)) for name in names[:_SHOWN])


def no_database(path: str) -> StorageError:
    """The error for a file that is not there, where nothing may make it."""
    return StorageError(
        f"there is no database {path}",
        suggestions=similar(path),
        hint="`sommelier demo` makes one with real models; so does IMPORT MODELS FROM ...",
    )


def in_flags(error: DatabaseLockedError) -> DatabaseLockedError:
    """The error with a hint that names the flag of the command line."""
    if error.readable is not None:
        error.hint = f"--readonly reads its snapshot of {error.readable:%H:%M:%S}; or wait"
    return error
