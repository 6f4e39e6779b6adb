"""What models answered while a job runs: read from the catalog, or made once, in a sandbox."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sommelier.analysis.execution import RunRequest
from sommelier.errors import AnalysisError
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from sommelier.analysis.links.formats import LinkAnswers
    from sommelier.analysis.probes import Probes
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.analysis.workers import Rooms
    from sommelier.records import ModelRecord


class AnswerBook:
    """The answers of models to probes while a job runs: each is read or made once.

    A model that fails is not run again either: every task that asks for it gets the same reason.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._known: dict[tuple[str, str], LinkAnswers | str] = {}  # or why there are none
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self._turn = threading.Lock()

    def of(self, record: ModelRecord, probes: Probes, sandbox: Sandbox) -> LinkAnswers:
        """One model's natural answers. Raises AnalysisError with the model's name and reason."""
        key = (record.id, probes.record.id)
        with self._turn:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            if key not in self._known:
                try:
                    self._known[key] = self._find(record, probes, sandbox)
                except AnalysisError as error:
                    self._known[key] = f"{record.name}: {error.message}"
        found = self._known[key]
        if isinstance(found, str):
            raise AnalysisError(found)
        return found

    def _find(self, record: ModelRecord, probes: Probes, sandbox: Sandbox) -> LinkAnswers:
        from sommelier.analysis.links.reading import read_answers, stored_answers

        kept = self._rooms.sketches.outputs(version_of(record), probes.record.id)
        found = None if kept is None else stored_answers(record, kept)
        if found is not None and len(found) == probes.record.samples:
            return found
        assert record.artifact is not None, "plan_links takes models with a file only"
        path = self._rooms.artifacts.path(record.artifact)
        request = RunRequest(
            path, record.output_kind, record.preprocessing, probes, threads=sandbox.threads
        )
        return sandbox.call(read_answers, request, record)
