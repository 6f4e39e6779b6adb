"""Statements kept by name across sessions, in one small JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from sommelier.shell.config import ConfigError, private_file


def load(path: Path) -> dict[str, str]:
    """The kept statements by name; none if the file does not exist. Raises ConfigError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise ConfigError(f"{path} does not hold statements by name")
    return content


def save(path: Path, name: str, statement: str) -> None:
    """Keeps a statement; one of the same name is replaced."""
    content = load(path) | {name: statement}
    temporary = private_file(path.with_suffix(".new"))
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)
