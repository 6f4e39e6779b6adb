"""Dot and backslash commands: what the shell can do besides running statements."""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sommelier.errors import CancelledError, SommelierError
from sommelier.shell import jobs, saved
from sommelier.shell.config import FORMATS, switch
from sommelier.shell.exits import ExitCode
from sommelier.shell.scripts import read_script
from sommelier.shell.session import LeaveShell, ShellSession
from sommelier.shell.terminal import terminal_width, visible

_WATCH_EVERY_S = 2.0


class CommandError(SommelierError):
    """A dot command does not exist or was used wrongly."""

    code = "command"
    title = "Command Error"


@dataclass(frozen=True, slots=True)
class MetaCommand:
    """One command. names : the dot name first, then the other spellings, without . or \\."""

    names: tuple[str, ...]
    usage: str
    summary: str
    run: Callable[[ShellSession, str], None]


def run_command(session: ShellSession, line: str) -> None:
    """Runs `.name arguments` or `\\name arguments`. Raises CommandError if there is none."""
    name, _, argument = line.strip()[1:].partition(" ")
    find_command(name).run(session, argument.strip().rstrip(";").strip())


def find_command(name: str) -> MetaCommand:
    """The command of that name, with or without its dot, or of an unambiguous prefix of it."""
    name = name.strip().lstrip(".\\").rstrip(";")
    by_name = {alias: command for command in COMMANDS for alias in command.names}
    command = by_name.get(name) or by_name.get(name.lower())
    started = {c.names[0]: c for a, c in by_name.items() if len(name) > 1 and a.startswith(name)}
    if command is None and len(started) == 1:
        command = next(iter(started.values()))
    if command is None:
        near = difflib.get_close_matches(name, by_name, 3)
        raise CommandError(
            f"there is no command .{visible(name)}",
            suggestions=tuple(dict.fromkeys(f".{by_name[n].names[0]}" for n in near)),
            hint=".help lists the commands",
        )
    return command


# ---- help


def _help(session: ShellSession, topic: str) -> None:
    if not topic:
        session.console.answer([_overview()])
        return
    if topic.startswith((".", "\\")):
        session.console.answer([_describe(find_command(topic))])
        return
    from sommelier.grammar.completion import help_text

    try:
        text = help_text(topic.rstrip(";"))
    except (SommelierError, KeyError) as error:
        try:
            text = _describe(find_command(topic))
        except CommandError:
            raise CommandError(
                f"there is no help on '{visible(topic)}'",
                suggestions=getattr(error, "suggestions", ()),
                hint=".help lists the commands, .help select explains a statement",
            ) from None
    session.console.answer([text.rstrip("\n") + "\n"])


def _overview() -> str:
    width = max(len(command.usage) for command in COMMANDS) + 2
    rows = [f"  .{command.usage:<{width}}{command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            "Statements end with `;` and may run over several lines. For example:",
            "  SELECT MODEL CORR resnet50 95% ON memory < 80% PICK MOST SIMILAR;",
            "  SHOW MODELS;   DESCRIBE resnet50;   EXPLAIN ANALYZE SELECT MODELS ...;",
            "Statements explained: .help select, .help import, .help analyze, .help show, ...",
            "",
            "Commands, with a dot or a backslash, end with their line:",
            *rows,
            "",
            "Keys: Tab completes, Ctrl-R searches the history, Alt-Enter starts a new line,",
            "      Ctrl-C clears the line or cancels what runs, Ctrl-D leaves.",
            "",
        ]
    )


def _describe(command: MetaCommand) -> str:
    others = ", ".join(f"\\{name}" for name in command.names)
    return f".{command.usage}\n  {command.summary}\n  also written {others}\n"


# ---- settings


def _mode(session: ShellSession, form: str) -> None:
    if not form:
        session.console.talk(
            f"format is {session.config.format} ({session.format} here); "
            f"formats: {', '.join(FORMATS)}"
        )
        return
    if form not in FORMATS:
        near = tuple(difflib.get_close_matches(form, FORMATS, 1))
        raise CommandError(
            f"there is no format '{visible(form)}'",
            suggestions=near,
            hint=f"formats: {', '.join(FORMATS)}",
        )
    session.set(format=form)


def _expanded(session: ShellSession, _: str) -> None:
    session.set(format="auto" if session.config.format == "line" else "line")
    session.console.talk(f"format is {session.config.format}")


def _timer(session: ShellSession, text: str) -> None:
    session.set(timer=switch(text, ".timer") if text else not session.config.timer)
    session.console.talk(f"timer is {'on' if session.config.timer else 'off'}")


def _maxrows(session: ShellSession, text: str) -> None:
    if text and not text.isdigit():
        raise CommandError(".maxrows takes a whole number; 0 shows every row")
    if text:
        session.set(maxrows=int(text))
    else:
        session.console.talk(f"maxrows is {session.config.maxrows}")


def _pager(session: ShellSession, text: str) -> None:
    if text:
        session.set(pager={"on": "auto"}.get(text, text))
    session.console.talk(f"pager is {session.config.pager}")


def _bail(session: ShellSession, text: str) -> None:
    if text:
        session.set(bail=switch(text, ".bail"))
    session.console.talk(f"bail is {'on' if session.bails else 'off'}")


# ---- files


def _read(session: ShellSession, path: str) -> None:
    path = _one_path(path, ".read FILE")
    text = Path(path).expanduser().read_text(encoding="utf-8")
    if not session.run(read_script(text), source=path) and session.bails:
        raise CommandError(f"stopped reading {path} at its first error")


def _output(session: ShellSession, path: str) -> None:
    session.console.output(_one_path(path, ".output FILE") if path else None)


def _once(session: ShellSession, path: str) -> None:
    session.console.output(_one_path(path, ".once FILE"), once=True)


def _log(session: ShellSession, path: str) -> None:
    session.console.log(None if path in ("", "off") else _one_path(path, ".log FILE"))


def _one_path(text: str, usage: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"{error}", hint=f"write {usage}") from error
    if len(words) != 1:
        raise CommandError("one file name is needed", hint=f"write {usage}")
    return words[0]


# ---- looking around


def _history(session: ShellSession, count: str) -> None:
    lines = session.history()
    shown = lines[-int(count) :] if count.isdigit() and int(count) else lines
    session.console.answer(f"{line}\n" for line in shown)


def _schema(session: ShellSession, name: str) -> None:
    if name:
        session.statement(f"DESCRIBE {name}")
        return
    session.statement(
        "SELECT table_name AS view, string_agg(column_name, ', ' ORDER BY ordinal_position)"
        " AS columns FROM information_schema.columns WHERE table_schema = 'main'"
        " GROUP BY table_name ORDER BY table_name"
    )


def _open(session: ShellSession, path: str) -> None:
    file = _one_path(path, ".open PATH")
    if not jobs.may_leave(session):
        return
    session.open(file)
    mode = " (read-only)" if session.connection.read_only else ""
    session.console.talk(f"{session.connection.path}{mode}")


def _echo(session: ShellSession, text: str) -> None:
    session.console.answer([text + "\n"])


def _watch(session: ShellSession, text: str) -> None:
    """Repeats a statement until Ctrl-C, its first error, or `count` times."""
    seconds, count, statement = _watch_arguments(text)
    if not statement:
        raise CommandError("watch what?", hint="write .watch [SECONDS [COUNT]] STATEMENT")
    clear = session.console.answers_to_terminal
    done = 0
    while True:
        if clear:
            head = f"Every {seconds:g} s: {visible(statement)}"
            clock = f"{datetime.now():%H:%M:%S}"
            room = max(0, terminal_width() - len(clock) - 2)
            session.console.answer([f"\x1b[H\x1b[2J{head[:room]:<{room}}  {clock}\n"])
        try:
            session.statement(statement)
            done += 1
            if count is not None and done >= count:
                return
            time.sleep(seconds)
        except (KeyboardInterrupt, CancelledError):
            if not session.interactive:
                raise
            return
        session.reopen()


def _watch_arguments(text: str) -> tuple[float, int | None, str]:
    """
    >>> _watch_arguments("0.5 3 SHOW JOBS"), _watch_arguments("SHOW JOBS")
    ((0.5, 3, 'SHOW JOBS'), (2.0, None, 'SHOW JOBS'))
    """
    seconds, count = _WATCH_EVERY_S, None
    first, _, rest = text.partition(" ")
    if first.replace(".", "", 1).isdigit():
        seconds, text = float(first), rest.strip()
        second, _, rest = text.partition(" ")
        if second.isdigit():
            count, text = int(second), rest.strip()
    return seconds, count, text


# ---- statements kept


def _edit(session: ShellSession, text: str) -> None:
    if not session.interactive:
        raise CommandError(".edit needs a person at the terminal")
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or shutil.which("vi")
    if not editor:
        raise CommandError("no editor", hint="set EDITOR, for example EDITOR=nano")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "statement.sql"
        file.write_text(text or session.last_statement or "", encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
        except OSError as error:
            raise CommandError(f"cannot start {editor}: {error.strerror}") from error
        if code:
            raise CommandError(f"{editor} ended with {code}; the statement is unchanged")
        edited = file.read_text(encoding="utf-8").rstrip()
        session.next_input = edited if not edited or edited.endswith(";") else f"{edited};"


def _save(session: ShellSession, text: str) -> None:
    name, _, statement = text.partition(" ")
    statement = statement.strip() or session.last_statement or ""
    if not name or not statement:
        raise CommandError(
            "a name and a statement are needed",
            hint="write .save NAME after a statement, or .save NAME STATEMENT",
        )
    saved.save(session.saved_queries, name, statement)
    session.console.talk(f"saved; .run {name} asks it again")


def _run(session: ShellSession, name: str) -> None:
    queries = saved.load(session.saved_queries)
    if not name:
        session.console.answer(f"{key}\t{visible(text)}\n" for key, text in queries.items())
        return
    if name not in queries:
        raise CommandError(
            f"there is no saved statement '{visible(name)}'",
            suggestions=tuple(difflib.get_close_matches(name, queries, 3)),
            hint=".run lists them",
        )
    session.console.talk(queries[name], "note")
    session.statement(queries[name])


def _quit(_: ShellSession, code: str) -> None:
    raise LeaveShell(int(code) if code.isdigit() else ExitCode.OK)


COMMANDS: tuple[MetaCommand, ...] = (
    MetaCommand(("help", "h", "?"), "help [TOPIC]", "this list, or a statement explained", _help),
    MetaCommand(
        ("mode", "f"), "mode [FORMAT]", "how answers look; alone, lists the formats", _mode
    ),
    MetaCommand(("expanded", "x"), "expanded", "one value a line, or back", _expanded),
    MetaCommand(("timer", "timing"), "timer [on|off]", "the time below each answer", _timer),
    MetaCommand(("maxrows",), "maxrows [N]", "rows of a table on the terminal, 0 = all", _maxrows),
    MetaCommand(("pager", "P"), "pager [on|off|COMMAND]", "long answers through a pager", _pager),
    MetaCommand(("bail",), "bail [on|off]", "stop a script at its first error", _bail),
    MetaCommand(("read", "i"), "read FILE", "runs the statements of a file", _read),
    MetaCommand(("output", "o"), "output [FILE]", "answers go to a file, or back here", _output),
    MetaCommand(("once",), "once FILE", "the next answer goes to a file", _once),
    MetaCommand(("log", "L"), "log FILE|off", "keeps a copy of everything said", _log),
    MetaCommand(("schema", "d"), "schema [NAME]", "views for SQL, or one thing described", _schema),
    MetaCommand(("open", "c"), "open PATH", "another database", _open),
    MetaCommand(("edit", "e"), "edit [STATEMENT]", "the last statement in your editor", _edit),
    MetaCommand(("history", "s"), "history [N]", "what was typed before", _history),
    MetaCommand(("save", "ns"), "save NAME [STATEMENT]", "keeps a statement by name", _save),
    MetaCommand(("run", "n"), "run [NAME]", "asks a kept statement again; lists them", _run),
    MetaCommand(("watch",), "watch [SECONDS [COUNT]] STATEMENT", "repeats it until Ctrl-C", _watch),
    MetaCommand(("echo", "qecho"), "echo TEXT", "writes the text", _echo),
    MetaCommand(("quit", "q", "exit"), "quit [CODE]", "leaves the shell (Ctrl-D)", _quit),
)
