"""The parser of query.lark, made from tables that were built before: 15 ms instead of 0.8 s.

The tables are plain JSON (never a pickle), keyed by the grammar and by lark's version. They are
looked for beside this file, where the release ships them, then in the user's own cache folder; if
neither fits they are built and kept in the cache. `python -m sommelier.grammar.tables` writes the
file beside the grammar.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from sommelier.grammar.transformer import NodeBuilder

_log = logging.getLogger(__name__)

GRAMMAR = Path(__file__).with_name("query.lark")
SHIPPED = Path(__file__).with_name("query.tables")
STARTS = (
    "statement",
    "expr",
    "projections",
    "order_items",
    "picker",
    "corr_conditions",
    "source",
)
"""What can be parsed on its own: whole statements, and the parts the Python builder takes."""


@cache
def language() -> Lark:
    """The parser; its result is a node of nodes.py. Safe to share between threads."""
    text = GRAMMAR.read_text(encoding="utf-8")
    return load(text, (SHIPPED, cache_path(tables_key(text))))


def load(grammar: str, places: tuple[Path, ...]) -> Lark:
    """The parser from the first of `places` whose tables fit; else built, and kept in the last."""
    key = tables_key(grammar)
    for path in places:
        tables = _read(path, key)
        if tables is not None:
            try:
                return _from_tables(tables)
            except Exception as error:  # whatever lark's loader meets: building always works
                _log.debug("grammar tables in %s are of no use: %s", path, error)
    built = build(grammar)
    _keep(places[-1], _dump(built, key))
    return built


def build(grammar: str, *, strict: bool = False) -> Lark:
    """The parser made from the grammar text, without any tables.

    strict : refuse shift/reduce conflicts and colliding terminals (needs interegular).
    """
    return Lark(
        grammar, parser="lalr", start=list(STARTS), strict=strict, transformer=NodeBuilder()
    )


def cache_path(key: str) -> Path:
    """Where the tables of this grammar are kept for this user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return folder / "sommelier" / f"grammar-{key[:16]}.tables"


def write_shipped(path: Path = SHIPPED) -> None:
    """Builds the tables of query.lark and writes them beside it."""
    text = GRAMMAR.read_text(encoding="utf-8")
    _replace(path, _dump(build(text), tables_key(text)))
    path.chmod(0o644)


def tables_key(grammar: str) -> str:
    """Changes with the grammar, the start rules and lark: tables with another key do not fit."""
    return hashlib.sha256(f"{lark.__version__}\n{STARTS}\n{grammar}".encode()).hexdigest()


def _dump(parser: Lark, key: str) -> bytes:
    tables, memo = parser.memo_serialize([TerminalDef, Rule])
    tables["options"] = {"parser": "lalr", "lexer": "contextual", "start": list(STARTS)}
    document = {"key": key, "tables": tables, "memo": memo}
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """The document in `path` if it is there, whole, and made for this grammar and this lark."""
    try:
        if path != SHIPPED and path.parent.stat().st_mode & stat.S_IWOTH:
            return None
        document = json.loads(zlib.decompress(path.read_bytes()))
        if document["key"] != key:
            return None
        table = document["tables"]["parser"]["parser"]
        # JSON keys are text; lark numbers its states, tokens and memo.
        table["states"] = {int(k): _numbered(v) for k, v in table["states"].items()}
        table["tokens"] = _numbered(table["tokens"])
        return {"tables": document["tables"], "memo": _numbered(document["memo"])}
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, zlib.error):
        return None


def _numbered(value: dict[str, Any]) -> dict[int, Any]:
    return {int(key): item for key, item in value.items()}


def _from_tables(document: dict[str, Any]) -> Lark:
    # The call that lark's own generated stand-alone parsers make.
    load: Any = Lark._load_from_dict
    parser: Lark = load(document["tables"], document["memo"], transformer=NodeBuilder())
    return parser


def _keep(path: Path, content: bytes) -> None:
    """Writes the cache file if that is possible and private; a read-only home only costs time."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_mode & stat.S_IWOTH:
            raise PermissionError(f"{path.parent} can be written by everybody")
        _replace(path, content)
    except (OSError, RuntimeError) as error:
        _log.debug("grammar tables not kept in %s: %s", path, error)


def _replace(path: Path, content: bytes) -> None:
    """Writes by a temporary file and a rename, so that another process never reads half a file."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    write_shipped()
