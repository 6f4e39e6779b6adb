"""docs/shell.md names every command and setting there is."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from sommelier.shell.commands import COMMANDS
from sommelier.shell.config import FORMATS, ShellConfig

TEXT = (Path(__file__).parents[2] / "docs" / "shell.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [command.names[0] for command in COMMANDS])
def test_every_command_is_documented(name: str) -> None:
    assert f"`.{name}" in TEXT


@pytest.mark.parametrize("field", fields(ShellConfig), ids=lambda field: field.name)
def test_every_setting_is_documented_with_its_default(field) -> None:
    default = {None: "unset", True: "true", False: "false"}.get(field.default, field.default)
    shown = "unset" if default == "unset" else f"`{default}`"
    assert f"| `{field.name}` | {shown} |" in TEXT


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_documented(form: str) -> None:
    assert f"`{form}`" in TEXT
