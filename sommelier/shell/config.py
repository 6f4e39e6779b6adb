"""The shell's settings: a flag wins over the environment, which wins over the XDG config file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sommelier.errors import SommelierError

FORMATS = ("auto", "table", "csv", "tsv", "json", "jsonl", "markdown", "line", "ids")
_CHOICES: dict[str, tuple[str, ...]] = {
    "format": FORMATS,
    "color": ("auto", "always", "never"),
    "progress": ("auto", "plain", "none"),
}
_VARIABLES = {"database": "SOMMELIER_DB"}  # the others are SOMMELIER_<NAME>
_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_FALSEHOOD = {"0": False, "false": False, "no": False, "off": False}


class ConfigError(SommelierError):
    """A setting of the shell has an unknown name or a value it cannot have."""

    code = "config"
    title = "Configuration Error"


@dataclass(frozen=True, slots=True)
class ShellConfig:
    """The shell's settings. Each may stand in config.toml and in SOMMELIER_<NAME>.

    database : path or URL opened when none is given (variable SOMMELIER_DB). folder : where a
    server's catalog keeps its files; empty: where it always did.
    maxrows : rows a table shows on a terminal, 0 = all. pager : 'auto', 'off' or a command.
    bail : stop at the first error; None = stop unless a person is typing.
    """

    database: str = "./models.sommelier"
    folder: str = ""
    format: str = "auto"
    color: str = "auto"
    progress: str = "auto"
    readonly: bool = False
    bail: bool | None = None
    maxrows: int = 40
    timer: bool = True
    pager: str = "auto"
    confirm: bool = True
    history: bool = True


def load_config(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str] = os.environ,
    path: Path | None = None,
    use_file: bool = True,
) -> ShellConfig:
    """The settings in force. `flags` holds the ones given on the command line.

    path : the file to read instead of the XDG one; it must exist. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    if use_file:
        values |= _from_file(path or config_path(environ), required=path is not None)
    values |= _from_environment(environ)
    values |= {name: value for name, value in flags.items() if value is not None}
    return ShellConfig(**values)


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration file is looked for: $XDG_CONFIG_HOME/sommelier/config.toml."""
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "config.toml"


def history_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the shell's history is kept: $XDG_STATE_HOME/sommelier/history."""
    return _xdg(environ, "XDG_STATE_HOME", ".local/state") / "history"


def saved_queries_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where `.save` keeps named queries: $XDG_DATA_HOME/sommelier/queries.json."""
    return _xdg(environ, "XDG_DATA_HOME", ".local/share") / "queries.json"


def private_file(path: Path) -> Path:
    """The path, made to exist and be readable by its owner only (0600)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path


def switch(text: str, name: str) -> bool:
    """The truth value of on/off, true/false, yes/no, 1/0. Raises ConfigError otherwise.

    >>> switch("on", "timer"), switch("False", "timer")
    (True, False)
    """
    known = _TRUTH | _FALSEHOOD
    if text.lower() not in known:
        raise ConfigError(f"{name} is on or off, not '{text}'")
    return known[text.lower()]


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    base = environ.get(variable, "")
    # The specification says that a relative path here is to be ignored.
    home = Path(base) if Path(base).is_absolute() else Path(environ.get("HOME", "~")) / default
    return home.expanduser() / "sommelier"


def _from_file(path: Path, *, required: bool) -> dict[str, object]:
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise ConfigError(f"there is no file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return {name: _checked(name, value, str(path)) for name, value in content.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for field in fields(ShellConfig):
        variable = _VARIABLES.get(field.name, f"SOMMELIER_{field.name.upper()}")
        text = environ.get(variable, "")
        if text:
            values[field.name] = _checked(field.name, _read(field.name, text, variable), variable)
    if environ.get("PAGER") and "pager" not in values:
        values["pager"] = environ["PAGER"]
    return values


def _read(name: str, text: str, where: str) -> object:
    default = getattr(ShellConfig(), name)
    if isinstance(default, bool) or name == "bail":
        return switch(text, where)
    if isinstance(default, int):
        if not text.isdigit():
            raise ConfigError(f"{where} is a whole number, not '{text}'")
        return int(text)
    return text


def _checked(name: str, value: object, where: str) -> object:
    """The value if the setting may have it; `where` names the file or variable in the error."""
    names = [field.name for field in fields(ShellConfig)]
    if name not in names:
        raise ConfigError(
            f"{where}: there is no setting '{name}'",
            suggestions=_nearest(name, names),
            hint=f"settings: {', '.join(names)}",
        )
    kind = bool if name == "bail" else type(getattr(ShellConfig(), name))
    if type(value) is not kind or (kind is int and isinstance(value, int) and value < 0):
        called = {bool: "true or false", int: "a whole number", str: "a text"}[kind]
        raise ConfigError(f"{where}: {name} is {called}, not {value!r}")
    choices = _CHOICES.get(name)
    if choices and value not in choices:
        raise ConfigError(
            f"{where}: {name} cannot be '{value}'",
            suggestions=_nearest(str(value), choices),
            hint=f"one of {', '.join(choices)}",
        )
    return value


def _nearest(name: str, names: Sequence[str]) -> tuple[str, ...]:
    import difflib

    return tuple(difflib.get_close_matches(name, names, 1))
