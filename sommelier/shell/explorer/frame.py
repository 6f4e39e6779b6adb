"""What every page has: its head, the way to the others, and what was read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from sommelier.shell.explorer.markup import Content, Markup, joined, tag

if TYPE_CHECKING:
    from sommelier.connection import Connection

_PLACES = (
    ("/", "Ask"),
    ("/?" + urlencode({"q": "SELECT MODELS ORDER BY name"}), "Models"),
    ("/jobs", "Jobs"),
    ("/deployments", "Deployments"),
    ("/docs", "REST"),
)


def page(title: str, *content: Content, db: Connection | None = None, here: str = "") -> bytes:
    """The document. here : the place among the others that it is, as its address."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{title} · Sommelier"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("link", rel="stylesheet", href="/explorer.css"),
        tag("script", src="/explorer.js", defer=True),
    )
    body = tag(
        "body",
        tag("a", "To the content", href="#content", class_="skip"),
        tag("header", tag("a", "Sommelier", href="/", class_="brand"), _ways(here)),
        tag("main", *content, id="content", tabindex="-1"),
        tag("footer", tag("p", _read(db))) if db is not None else None,
    )
    return ("<!doctype html>" + tag("html", head, body, lang="en")).encode(errors="replace")


def question(statement: str, shown: Content = None, **attributes: str) -> Markup:
    """A link that asks a statement."""
    label = tag("code", statement) if shown is None else shown
    return tag("a", label, href=address(statement), **attributes)


def address(statement: str) -> str:
    """Where a statement is asked."""
    return "/?" + urlencode({"q": statement})


def model_address(model_id: str) -> str:
    """Of a model's page."""
    return "/model?" + urlencode({"id": model_id})


def asked(statement: str) -> Markup:
    """The way from what a page shows to the statement that answers it."""
    link = question(statement, "Ask for this", aria_label=f"Ask for this: {statement}")
    return tag("p", link, class_="asked")


def _ways(here: str) -> Markup:
    items = (
        tag("li", tag("a", name, href=href, aria_current="page" if href == here else None))
        for href, name in _PLACES
    )
    return tag("nav", tag("ul", *items), aria_label="Pages")


def _read(db: Connection) -> Markup:
    """Which database was read, and of which moment it is."""
    name = Path(db.path).name
    return joined(tag("span", name, title=db.path), " · read-only · ", db.notice or "as it is now")
