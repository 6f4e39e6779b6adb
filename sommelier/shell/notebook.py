"""Jupyter: `%load_ext sommelier`, then `%sommelier PATH` and `%%sommelier` with statements.

    %sommelier models.sommelier                 opens a database; a variable that holds a connection
                                                is taken as well
    %sommelier SHOW MODELS                      one statement
    %%sommelier --out best --param k=3          a cell of statements, each ended by `;` but the last
    SELECT MODELS CORR $reference >= $threshold LIMIT $k

`$name` is a variable of the notebook, or of --param (-p), and is bound as a value, never pasted
into the text. Mistakes are told without a traceback. `--close` closes what the magic opened.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
from IPython.core.magic import no_var_expand
from IPython.display import display

from sommelier.connection import Connection, connect
from sommelier.engine.result import Report, Result, Table
from sommelier.errors import ParameterError, SommelierError
from sommelier.grammar import nodes
from sommelier.grammar.parser import parameters_of, parse_script
from sommelier.shell.databases import exists, may_create, no_database, similar
from sommelier.shell.notebook_progress import NotebookProgress
from sommelier.shell.progress import ProgressBar
from sommelier.shell.scripts import read_script

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

Outcome = Result | Table | Report
_FORMATS = ("result", "df", "arrow", "pl")
_OPTIONS = ("--db", "--out", "--format", "--param")  # that have a value


class MagicError(Exception):
    """A mistake in a cell: its text is all that IPython shows."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """What `%load_ext sommelier` calls."""
    magic = Magic(ipython)

    def sommelier(line: str, cell: str | None = None) -> object:
        return magic.run(line, cell)

    sommelier.__doc__ = __doc__  # of %sommelier?
    register: Any = ipython.register_magic_function  # its decorator hides its type
    register(no_var_expand(sommelier), "line_cell", "sommelier")


class Magic:
    """The magics of one notebook and the database they ask."""

    def __init__(self, ipython: InteractiveShell) -> None:
        self._ipython = ipython
        self._db: Connection | None = None
        self._owned = False

    def run(self, line: str, cell: str | None = None) -> object:
        """One statement or address in `line`, or options there and statements in `cell`."""
        try:
            asked = _options(line)
            if asked.text and cell is not None:
                raise MagicError(f"statements stand below %%sommelier, not beside it: {asked.text}")
            if asked.close:
                self._leave()
            text = asked.text if cell is None else cell
            if asked.db is not None:
                self._enter(asked.db, creates=not text.strip() or may_create(read_script(text)))
            if cell is None and self._is_address(text):
                return self._enter(text)
            return self._answered(text, asked) if text.strip() else None
        except SommelierError as error:
            raise MagicError(str(error)) from error

    # ---- the database

    def _is_address(self, text: str) -> bool:
        one = len(text.split()) == 1
        known = isinstance(self._ipython.user_ns.get(text), Connection)
        return one and (known or text == ":memory:" or text.endswith(".sommelier"))

    def _enter(self, address: str, *, creates: bool = True) -> Connection:
        """The connection that statements ask from now on; a database that it made is told of, with
        others of nearly that name, as the shell does. creates : False if nothing that is going to
        run has work to do in a new one. Raises StorageError where there then is none."""
        found = self._ipython.user_ns.get(address)
        new = not isinstance(found, Connection) and not exists(address)
        if new and not creates:
            raise no_database(address)
        near = similar(address) if new else ()
        self._leave()
        self._owned = not isinstance(found, Connection)
        self._db = found if isinstance(found, Connection) else connect(address)
        if new:
            print(_new(address, near))
        return self._db

    def _leave(self) -> None:
        db, self._db = self._db, None
        if db is not None and self._owned:
            db.close()

    # ---- statements

    def _answered(self, text: str, asked: _Asked) -> object:
        """What the last statement answers; those before it are shown."""
        if self._db is None:
            raise MagicError("no database is open: %sommelier models.sommelier opens one")
        found: list[object] = []
        for statement in parse_script(text):
            if found:
                display(found.pop())
            values = self._values(statement, text, asked.param)
            with self._progress() as progress:
                outcome = self._db.run(statement, values or None, progress=progress, text=text)
            if isinstance(outcome, Table) and outcome.failure is not None:
                display(outcome)
                raise outcome.failure
            found.append(_formed(outcome, asked.format))
        if asked.out is None:
            return found[0] if found else None
        self._ipython.user_ns[asked.out] = found[0] if found else None
        return None

    def _values(
        self, statement: nodes.Statement, text: str, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the statement's $names stand for. Raises ParameterError."""
        names = {p.name: p.span for p in parameters_of(statement)}
        if isinstance(statement, nodes.CatalogSql):
            names = dict.fromkeys(_names_in_sql(statement.text))
        values = {}
        for name, span in names.items():
            if name not in given and name not in self._ipython.user_ns:
                raise ParameterError(
                    f"${name} is no variable of this notebook", text=text, span=span,
                    hint=f"assign {name} = ... in a cell before, or give --param {name}=...",
                )  # fmt: skip
            values[name] = given[name] if name in given else self._ipython.user_ns[name]
        return values

    def _progress(self) -> AbstractContextManager[Any]:
        """Of a long statement: in the cell's output, or on the terminal of IPython."""
        if hasattr(self._ipython, "kernel"):
            return NotebookProgress()
        return ProgressBar(sys.stderr)


def _new(path: str, near: tuple[str, ...]) -> str:
    beside = f"there is also {', '.join(near)}" if near else "it is empty"
    return f"{path} is a new database; {beside} (IMPORT MODELS FROM folder './models/*.onnx' fills)"


def _names_in_sql(text: str) -> list[str]:
    """The $names of catalog SQL; [] where DuckDB cannot read it, which says so when it is asked."""
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error:
        return []
    return sorted(name for statement in statements for name in statement.named_parameters)


def _formed(outcome: Outcome, form: str) -> object:
    """The answer as a frame where that was asked for."""
    if form == "result" or isinstance(outcome, Report):
        return outcome
    if not hasattr(outcome, form):
        raise MagicError(f"--format {form} is for SELECT MODELS; this answer has df and arrow")
    return getattr(outcome, form)()


# ---- the magic's line


@dataclass(slots=True)
class _Asked:
    """Options of a line, and the text behind them."""

    db: str | None = None
    out: str | None = None
    format: str = "result"
    param: dict[str, Any] = field(default_factory=dict)
    close: bool = False
    text: str = ""


_VALUE = r"""(?:\w+=)?(?:'[^']*'|"[^"]*"|\S+)"""
_OPTION = re.compile(rf"(?:--(?P<name>[\w-]*)|-p(?=[\s=]|$))(?:(?:=|\s+)(?P<value>{_VALUE}))?\s*")


def _options(line: str) -> _Asked:
    """What stands beside the magic. Raises MagicError."""
    asked, rest = _Asked(), line.strip()
    while found := _OPTION.match(rest):
        name, value = found["name"], found["value"]
        name = "param" if name is None else name  # -p, as the shell has it
        if name == "close":
            asked.close, rest = True, rest.removeprefix("--close").lstrip()
            continue
        if f"--{name}" not in _OPTIONS:
            raise MagicError(
                f"there is no --{name}; there are --db, --out, --format, --param, --close"
            )
        if value is None:
            raise MagicError(f"--{name} needs a value")
        rest = rest[found.end() :]
        if name == "param":
            asked.param |= _assigned(_unquoted(value))
        else:
            setattr(asked, name, _unquoted(value))
    if asked.format not in _FORMATS:
        raise MagicError(f"there is no --format {asked.format}; there are {', '.join(_FORMATS)}")
    asked.text = rest
    return asked


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _assigned(told: str) -> dict[str, Any]:
    """{name: value} of name=value: a number, list or truth value of Python, else text."""
    name, equals, value = told.partition("=")
    if not equals or not name.isidentifier():
        raise MagicError(f"--param {told}: write --param name=value")
    try:
        return {name: ast.literal_eval(value)}
    except (ValueError, SyntaxError):
        return {name: value}
