"""What could stand behind the words of a statement: the shell's completion, as plain values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sommelier.shell.scripts import is_command

if TYPE_CHECKING:
    from sommelier.connection import Connection

_MOST = 12
_LONGEST = 20_000  # characters that are read


def completions(db: Connection, text: str) -> list[dict[str, Any]]:
    """Candidates, best first. text : what stands before the cursor. insert : the text to put in
    place of the last `replace` characters. kind : of a name; '' for a keyword."""
    if is_command(text) or len(text) > _LONGEST:
        return []
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from sommelier.shell.suggestions import StatementCompleter

    session: Any = SimpleNamespace(connection=db)
    completer = StatementCompleter(session)
    found = []
    for one in completer.get_completions(Document(text), CompleteEvent()):
        told = {"insert": one.text, "replace": -one.start_position}
        found.append(told | {"show": one.display_text, "kind": one.display_meta_text})
        if len(found) == _MOST:
            break
    return found
