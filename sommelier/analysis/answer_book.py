"""What models answered while a job runs: read from the catalog, or made once, in a sandbox."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sommelier.analysis.execution import RunRequest
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from sommelier.analysis.links.formats import LinkAnswers
    from sommelier.analysis.probes import Probes
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.analysis.workers import Rooms
    from sommelier.records import ModelRecord


class AnswerBook:
    """The answers of models to probes while a job runs: each is read or made once."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._known: dict[tuple[str, str], LinkAnswers] = {}
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
                    raise AnalysisError(f"{record.name}: {error.message}") from error
        return self._known[key]

    def _find(self, record: ModelRecord, probes: Probes, sandbox: Sandbox) -> LinkAnswers:
        from sommelier.analysis.links.reading import read_answers, stored_answers

        kept = self._rooms.sketches.outputs(record.id, probes.record.id)
        found = None if kept is None else stored_answers(record, kept)
        if found is not None and len(found) == probes.record.samples:
            return found
        assert record.artifact is not None, "plan_links takes models with a file only"
        path = self._rooms.artifacts.path(record.artifact)
        request = RunRequest(
            path, record.output_kind, record.preprocessing, probes, threads=sandbox.threads
        )
        return sandbox.call(read_answers, request, record)
