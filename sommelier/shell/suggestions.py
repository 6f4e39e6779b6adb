"""Completion at the prompt: keywords of the grammar, names of the catalog, units, commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from sommelier.errors import SommelierError
from sommelier.grammar.completion import complete
from sommelier.grammar.scanning import pieces
from sommelier.metrics import ANSWER_COLUMNS, METRICS, TEXT_COLUMNS
from sommelier.shell.commands import COMMANDS
from sommelier.shell.config import FORMATS
from sommelier.shell.scripts import is_command
from sommelier.units import SPELLINGS

if TYPE_CHECKING:
    from sommelier.shell.session import ShellSession

_SHOWN = 60  # more than anyone scrolls through
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.]*(?:-(?!>)[\w.]+|[/:@][\w.]+)*\Z")
_QUOTED_KINDS = ("device", "dataset", "task", "label")  # the language writes these as 'text'
_WORDS = (
    *("unit", "metric", "column", "option"),
    *("link_column", "link_option", "links_option", "plan_option"),
    *("fusion_column", "fusion_option", "fusions_option"),
    *("cascade_column", "cascade_option", "cascades_option"),
    *("deployment", "deploy_option", "simulate_option", "policy", "trace", "promise"),
)
_PATH_COMMANDS = ("read", "output", "once", "log", "open", "i", "o", "c", "L")
_SWITCHES = ("timer", "timing", "bail", "pager")
_SOURCES = (
    *("model", "dataset", "device", "task", "pool"),
    *("connector", "repository", "label", "option"),
)


class NameCache:
    """Names of the open database by kind, asked for once until `forget`."""

    def __init__(self, session: ShellSession) -> None:
        self._session = session
        self._names: dict[str, list[str]] = {}

    def of(self, kind: str) -> list[str]:
        """Sorted names of a kind; none if the database cannot say."""
        if kind == "metric":
            return [*METRICS, *ANSWER_COLUMNS]
        if kind == "column":
            return [*TEXT_COLUMNS, *METRICS, *ANSWER_COLUMNS]
        if kind not in self._names:
            try:
                self._names[kind] = sorted(self._session.connection.names(kind))
            except SommelierError:
                self._names[kind] = []
        return self._names[kind]

    def forget(self) -> None:
        """After a statement names may have changed."""
        self._names.clear()


class StatementCompleter(Completer):
    """Completes statements by what the grammar accepts next, and dot commands."""

    def __init__(self, session: ShellSession) -> None:
        self.names = NameCache(session)
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Candidates, best first."""
        text = document.text_before_cursor
        if is_command(text):
            yield from self._command(document, complete_event)
            return
        expected = complete(text)
        prefix = expected.prefix
        quote = _open_quote(text)
        found: list[tuple[tuple[int, bool], Completion]] = []
        for kind in sorted(expected.wants):
            names = units_for(text) if kind == "unit" else self.names.of(kind)
            for rank, name in matching(names, prefix):
                text_of = spelled(name, kind, quote)
                shown = Completion(text_of, -len(prefix), display=name, display_meta=kind)
                found.append(((rank, prefix.isupper()), shown))
        for rank, keyword in matching(expected.keywords, prefix):
            word = keyword.lower() if prefix.islower() else keyword
            found.append(((rank, not prefix.isupper()), Completion(word, -len(prefix))))
        found.sort(key=lambda pair: pair[0])  # capitals mean a keyword
        unique = {completion.text: completion for _, completion in reversed(found)}
        yield from list(reversed(unique.values()))[:_SHOWN]

    def _command(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor.lstrip()
        mark, line = text[0], text[1:]
        name, space, argument = line.partition(" ")
        if not space:
            for command in COMMANDS:
                spelled = [n for n in command.names if n.startswith(name)]
                if spelled:
                    best = command.names[0] if mark == "." else spelled[0]
                    yield Completion(mark + best, -len(text), display_meta=command.summary)
            return
        if name in _PATH_COMMANDS:
            yield from self._paths.get_completions(Document(argument), event)
            return
        for _, word in matching(self._arguments(name), argument):
            yield Completion(word, -len(argument))

    def _arguments(self, name: str) -> list[str]:
        if name in ("mode", "f"):
            return list(FORMATS)
        if name in _SWITCHES:
            return ["on", "off"]
        if name in ("schema", "d"):
            return self.names.of("model")
        if name in ("help", "h", "?"):
            return ["select", "show", "import", "analyze", "explain", "describe", "compare"]
        if name in ("run", "n"):
            from sommelier.shell import saved

            return list(saved.load(self._session.saved_queries))
        return []


def units_for(text: str) -> list[str]:
    """Units of the metric that was named last; all units if none was.

    >>> units_for("SELECT MODELS ON memory < 3 MB AND latency < 20 ")
    ['us', 'ms', 's', 'min', 'h']
    """
    named = [METRICS[word] for word in re.findall(r"[a-z_]\w*", text.lower()) if word in METRICS]
    if named:
        return list(SPELLINGS[named[-1].dimension])
    return [unit for units in SPELLINGS.values() for unit in units]


def matching(names: Iterable[str], prefix: str) -> list[tuple[int, str]]:
    """(rank, name) of names that match what was typed, best first, `_SHOWN` at most.

    Rank 0 begins with it, 1 contains it, 2 has its letters in order.

    >>> matching(["resnet50", "googlenet", "vgg"], "net")
    [(1, 'resnet50'), (1, 'googlenet')]
    >>> matching(["mobilenet_v2", "mnasnet"], "mv2")
    [(2, 'mobilenet_v2')]
    """
    typed = prefix.casefold()
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in names:
        folded = name.casefold()
        if folded.startswith(typed):
            groups[0].append(name)
            if len(groups[0]) >= _SHOWN:
                break
        elif len(groups[1]) < _SHOWN and typed in folded:
            groups[1].append(name)
        elif len(groups[2]) < _SHOWN and len(typed) > 2 and _in_order(typed, folded):
            groups[2].append(name)
    ranked = [(rank, name) for rank, group in enumerate(groups) for name in group]
    return ranked[:_SHOWN]


def _in_order(letters: str, text: str) -> bool:
    """Whether the letters occur in the text in this order, the first one at its start."""
    if not text.startswith(letters[0]):
        return False
    rest = iter(text)
    return all(letter in rest for letter in letters)


def _open_quote(text: str) -> str:
    """The quote that is open at the end of the text, or nothing."""
    last = pieces(text)[-1:]
    return last[0].value[0] if last and last[0].kind == "open" and last[0].value[0] in "'\"" else ""


def spelled(name: str, kind: str, quote: str = "") -> str:
    """The name as the language writes it; inside an open quote, what closes it."""
    if quote:
        return name.replace(quote, quote * 2) + quote
    if kind in _QUOTED_KINDS:
        return "'" + name.replace("'", "''") + "'"
    if kind in _WORDS or _PLAIN_NAME.match(name):
        return name
    return '"' + name.replace('"', '""') + '"'
