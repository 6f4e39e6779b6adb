"""Which models the numbers of a table have changed for, so that an index reads those only."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sommelier.storage.database import Database

REMEMBERED = 50_000  # models named; whoever looks less often reads everything


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment: statements on the table, the generation, and how many commits were our own."""

    statements: int
    generation: int
    commits: int


class ChangeLog:
    """Statements on one table that named the models they changed.

    A statement that nobody described, or a commit of another process, makes the changes since then
    unknown. Changes that were undone are named too: to read a model again does no harm.
    """

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        self._table = table
        self._entries: deque[tuple[int, int, frozenset[int]]] = deque()
        self._named = 0

    def mark(self) -> Mark:
        """This moment."""
        database = self._database
        return Mark(database.statements[self._table], database.generation, database.commits)

    @contextlib.contextmanager
    def about(self, models: Iterable[int]) -> Iterator[None]:
        """The statements inside the block change these models only, by models.number."""
        before = self._database.statements[self._table]
        named = frozenset(models)
        try:
            yield
        finally:
            self._entries.append((before, self._database.statements[self._table], named))
            self._named += len(named)
            while self._named > REMEMBERED:
                self._named -= len(self._entries.popleft()[2])

    def since(self, mark: Mark) -> set[int] | None:
        """The models changed after `mark`, by models.number; None if that is not known."""
        now = self.mark()
        if now.generation - mark.generation != now.commits - mark.commits:
            return None
        reached, models = mark.statements, set[int]()
        for before, after, named in self._entries:
            if after <= reached:
                continue
            if before > reached:
                return None
            reached = after
            models |= named
        return models if reached == now.statements else None
