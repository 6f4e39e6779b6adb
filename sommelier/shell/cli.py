"""The `sommelier` command: questions from the command line, a script or stdin, or the shell."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sommelier.errors import SommelierError
from sommelier.shell.config import FORMATS, ConfigError, ShellConfig, load_config
from sommelier.shell.exits import ExitCode

if TYPE_CHECKING:
    from sommelier.shell.scripts import Item
    from sommelier.shell.session import ShellSession

_SUBCOMMANDS = ("shell", "query", "demo", "help")
_COMMANDS = {  # with options of their own; the module of sommelier.shell whose `main` takes them
    "artifacts": "artifacts",
    "copy": "copying",
    "demo": "demo",
    "environment": "environments",
    "merge": "merging",
    "serve": "serving",
    "worker": "working",
}
_DESCRIPTION = """\
A database of neural-network models that you can question.

  sommelier [DB]                      the interactive shell (stdin, when it is piped)
  sommelier shell [DB]                the same
  sommelier [DB] -c "SELECT ..."      answers a statement; -c may be repeated
  sommelier query [DB] "SELECT ..."   the same for one text
  sommelier [DB] -f script.sql        runs a script; - is stdin
  sommelier serve [DB]                deployments and models behind REST and gRPC
  sommelier artifacts [DB]            where its model files lie; --to s3://... moves them
  sommelier copy A B                  a whole database in a new one, a file or postgresql://...
  sommelier merge A B                 everything in A into B
  sommelier worker --db postgresql:// does what ANALYZE ... ASYNC asks for, beside others
  sommelier demo                      real models from pip's registry, five questions answered
  sommelier environment tensorflow    what converts models of TensorFlow, an environment of its own
"""
_EPILOG = """\
examples:
  sommelier -c "SHOW MODELS"
  sommelier zoo.sommelier -c "SELECT MODELS CORR resnet50 95% ON memory < 80%" --format json
  sommelier -c 'SELECT MODELS ON memory < $limit' -p limit='200 MB' --format ids
  sommelier zoo.sommelier -c "IMPORT MODELS FROM folder './zoo/*.onnx'"

DB is $SOMMELIER_DB or ./models.sommelier when it is not given. Settings come from flags, then
SOMMELIER_<NAME> variables, then ~/.config/sommelier/config.toml. NO_COLOR is respected.
Answers go to stdout, everything else to stderr. Exit codes: 0 all answered, 1 a statement failed,
2 wrong usage or configuration, 130 Ctrl-C, 141 the reader of our output went away.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_missing_streams()
    try:
        return _dispatch(arguments)
    except BrokenPipeError:
        return _quietly_broken_pipe()
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    finally:
        gc.enable()


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in _COMMANDS:
        module = importlib.import_module(f"sommelier.shell.{_COMMANDS[arguments[0]]}")
        return int(module.main(arguments[1:]))
    options = _parse(arguments)
    try:
        config = _config(options)
        return _run(options, config)
    except BrokenPipeError:
        raise
    except (SommelierError, OSError) as error:
        from sommelier.shell.diagnostics import render_error
        from sommelier.shell.terminal import wants_colour

        colour = wants_colour(options.color or "auto", sys.stderr)
        print(render_error(error, colour=colour), file=sys.stderr)
        return ExitCode.USAGE


# ---- arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sommelier",
        usage="sommelier [shell | query | serve | worker | artifacts | copy | merge | demo"
        " | environment] [DB] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="DB", help="the database: a file, or postgresql://...")
    add("-c", "--command", action="append", metavar="TEXT", help="statements to answer")
    add("-f", "--file", action="append", metavar="FILE", help="a script to run; - is stdin")
    add("-p", "--param", action="append", metavar="NAME=VALUE", help="a value for $NAME")
    add("-F", "--format", choices=FORMATS, help="how answers are written (auto: table or tsv)")
    add("-o", "--output", metavar="FILE", help="write answers to a file")
    add("-q", "--quiet", action="store_true", help="no footers, no progress")
    add("--readonly", action="store_true", default=None, help="refuse statements that change it")
    add("--bail", action=argparse.BooleanOptionalAction, help="stop at the first error (default)")
    add("--artifacts", metavar="STORE", help="keeps the model files of a new database, as s3://...")
    add("--folder", metavar="FOLDER", help="where a server's catalog keeps its files")
    add("--color", choices=("auto", "always", "never"), help="colours (auto: on a terminal)")
    add("--progress", choices=("auto", "plain", "none"), help="progress of long statements")
    add("--maxrows", type=int, metavar="N", help="rows of a table on a terminal, 0 = all")
    add("--config", metavar="FILE", help="read this configuration file instead")
    add("--no-config", action="store_true", help="read no configuration file")
    add("--version", action="store_true", help="print the version")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"Usage Error: {message}\nHint: sommelier --help\n")
        raise SystemExit(ExitCode.USAGE)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    subcommand = arguments[0] if arguments and arguments[0] in _SUBCOMMANDS else None
    rest = ["--help"] if subcommand == "help" else arguments[1:] if subcommand else arguments
    options = parser.parse_intermixed_args(rest)
    options.shell = subcommand == "shell"
    words: list[str] = options.words
    if subcommand == "query":
        if not words:
            parser.error('query what? write sommelier query [DB] "SELECT ..."')
        options.command = [*(options.command or []), words.pop()]
    if len(words) > 1:
        from sommelier.storage.servers import shown

        parser.error(f"one database at a time: {' '.join(map(shown, words))}")
    if words and " " in words[0].strip() and not Path(words[0]).exists():
        parser.error(f"'{words[0]}' is not a file; write -c to answer a statement")
    if options.shell and (options.command or options.file):
        parser.error("shell takes no -c or -f")
    options.database = words[0] if words else None
    return options


def _config(options: argparse.Namespace) -> ShellConfig:
    names = ("database", "folder", "format", "color", "progress", "readonly", "bail", "maxrows")
    flags = {name: getattr(options, name) for name in names}
    if options.quiet and options.progress is None:
        flags["progress"] = "none"
    return load_config(
        flags,
        path=Path(options.config) if options.config else None,
        use_file=not options.no_config,
    )


def _parameters(texts: list[str]) -> dict[str, object]:
    """Parameters of -p NAME=VALUE; numbers and truth values are recognised."""
    values: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"-p takes NAME=VALUE, not '{text}'",
                hint=f"values have names here: write $name in place of ? and -p name='{text}'",
            )
        values[name.removeprefix("$")] = _literal(value)
    return values


def _literal(text: str) -> object:
    """
    >>> _literal("5"), _literal("0.5"), _literal("true"), _literal("200 MB")
    (5, 0.5, True, '200 MB')
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


# ---- running


def _run(options: argparse.Namespace, config: ShellConfig) -> int:
    if options.version:
        from sommelier import __version__

        print(f"sommelier {__version__}")
        return ExitCode.OK
    gc.disable()  # while modules load there is nothing to collect: 10 ms
    scripted = bool(options.command or options.file)
    if (options.shell or not scripted) and sys.stdin.isatty():
        from sommelier.shell.repl import run_shell

        return run_shell(
            config,
            _parameters(options.param or []),
            quiet=options.quiet,
            artifacts=options.artifacts,
        )
    from sommelier.shell.console import Console
    from sommelier.shell.jobs import finish
    from sommelier.shell.session import LeaveShell, ShellSession

    console = Console(color=config.color)
    session = ShellSession(config, console, parameters=_parameters(options.param or []))
    session.quiet, session.artifacts = options.quiet, options.artifacts
    if options.output:
        console.output(options.output)
    left: int | None = None
    try:
        try:
            _run_scripts(session, options)
        except LeaveShell as leave:
            left = leave.code
        finish(session)
    finally:
        session.close()
    sys.stdout.flush()
    return session.exit_code if left is None else left


def _run_scripts(session: ShellSession, options: argparse.Namespace) -> None:
    """Runs -c texts, then -f files; without either, stdin."""
    from sommelier.shell.scripts import check_parameters, read_script

    scripts: list[tuple[str | None, list[Item]]] = [
        (None, read_script(text)) for text in options.command or []
    ]
    for path in options.file or []:
        if path == "-":
            scripts.append(("<stdin>", read_script(sys.stdin.read())))
        else:
            scripts.append((path, read_script(_script(path))))
    if not scripts:
        _run_stdin(session)
        return
    everything = [item for _, items in scripts for item in items]
    check_parameters(session.parameters, everything)
    _open(session, everything)
    for source, items in scripts:
        if not session.run(items, source=source) and _stops(session):
            return


def _run_stdin(session: ShellSession) -> None:
    """Answers statements as they arrive, so that a program can hold a conversation."""
    from sommelier.shell.scripts import ScriptReader, check_parameters

    reader, seen, stands_in = ScriptReader(), [], False
    for line in itertools.chain(sys.stdin, [None]):
        items = reader.finish() if line is None else reader.feed(line)
        seen += items
        if items and (stands_in or not session.is_open):
            stands_in = _open(session, items)
        if not session.run(items, source="<stdin>") and _stops(session):
            return
    check_parameters(session.parameters, seen)  # they came one by one: not sooner


def _open(session: ShellSession, items: Sequence[Item]) -> bool:
    """Opens the database for what is going to run; whether one in memory stands in for it, because
    it is not there and none is asked."""
    from sommelier.shell.databases import asks_none, exists, may_create
    from sommelier.shell.session import reads_only

    path = session.config.database
    stands_in = not exists(path) and asks_none(items)
    session.open(
        ":memory:" if stands_in else path,
        writes=not reads_only(items),
        creates=may_create(items),
    )
    return stands_in


def _stops(session: ShellSession) -> bool:
    return session.bails or session.exit_code == ExitCode.INTERRUPTED


def _script(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from error


# ---- ends


def _open_missing_streams() -> None:
    """A stream its parent closed is None in Python; it is read as empty and written to nowhere."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115 - for the life of the process
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def _quietly_broken_pipe() -> int:
    """What `| head` leaves us with: nothing more can be written, and nothing should be said."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.BROKEN_PIPE


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    """Leaves after Ctrl-C; at once if a statement could not be stopped."""
    from sommelier.shell.interrupt import AbandonedError

    if isinstance(interrupt, AbandonedError):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(ExitCode.INTERRUPTED)  # a normal exit would wait for the thread that still runs
    return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
