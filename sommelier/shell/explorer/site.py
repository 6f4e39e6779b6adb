"""The pages: which address answers what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from sommelier.errors import NoModelFoundError, SommelierError, UnknownNameError
from sommelier.shell.explorer.frame import page
from sommelier.shell.explorer.markup import tag
from sommelier.shell.explorer.mistakes import mistake

if TYPE_CHECKING:
    from sommelier.connection import Connection

Said = tuple[int, str, bytes]
_HTML = "text/html; charset=utf-8"


def answer(db: Connection, head: dict[str, Any]) -> Said:
    """(status, content type, body) of a page. Raises SommelierError."""
    given = {key: values[0] for key, values in parse_qs(head["query"]).items()}
    path = head["path"]
    if path == "model":
        from sommelier.shell.explorer.model_page import model_page

        return 200, _HTML, model_page(db, given)
    if path == "jobs":
        from sommelier.shell.explorer.lists import jobs_page

        return 200, _HTML, jobs_page(db)
    if path == "deployments":
        from sommelier.shell.explorer.lists import deployments_page

        return 200, _HTML, deployments_page(db, head["live"])
    from sommelier.shell.explorer.asking import asking_page

    status, body = asking_page(db, given)
    return status, _HTML, body


def failure(error: BaseException, status: int) -> Said:
    """A page that could not be made."""
    if isinstance(error, UnknownNameError | NoModelFoundError):
        status = 404
    title = error.title if isinstance(error, SommelierError) else "System Error"
    return status, _HTML, page(title, tag("h1", title), mistake(error))
