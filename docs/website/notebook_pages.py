"""Notebooks as pages: their text, their cells, and the outputs that are stored in them."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MAGIC = re.compile(r"%%?(?:sommelier|sql)\b")
_TICKS = "``````"  # more than any cell contains


def write_page(notebook: Path, folder: Path) -> Path:
    """Writes the page of a notebook, and its pictures beside it, into a folder."""
    cells = json.loads(notebook.read_text())["cells"]
    parts = [f"% made from notebooks/{notebook.name} by docs/website\n"]
    for number, cell in enumerate(cells):
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))
            continue
        if source:
            parts.append(_fenced("sql" if _MAGIC.match(source) else "python", source))
        for place, output in enumerate(cell.get("outputs", ())):
            parts.append(_output(output, folder / f"{notebook.stem}_{number}_{place}.png"))
    page = folder / f"{notebook.stem}.md"
    page.write_text("\n\n".join(part for part in parts if part) + "\n")
    return page


def _fenced(language: str, text: str) -> str:
    return f"{_TICKS}{language}\n{text}\n{_TICKS}"


def _output(output: dict[str, Any], picture: Path) -> str:
    """The richest form of an output that a page can show without running anything."""
    if output["output_type"] == "stream":
        return _fenced("text", _COLOUR.sub("", "".join(output["text"])).rstrip())
    if output["output_type"] == "error":
        return _fenced("text", _COLOUR.sub("", "\n".join(output["traceback"])))
    data = output["data"]
    if "image/png" in data:
        picture.write_bytes(b64decode("".join(data["image/png"])))
        return f"![]({picture.name})"
    if "text/html" in data:
        html = "".join(data["text/html"])
        return _fenced("{raw} html", f'<div class="output">{html}</div>')
    return _fenced("text", "".join(data.get("text/plain", "")))
