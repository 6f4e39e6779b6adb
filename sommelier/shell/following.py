"""Keeps what is served as the database says, and the database informed of what was measured.

files of the database changed ──another process──▶ plan ──▶ ServedDatabase.follow
ServedLedger, every 30 s and at the end ──another process──▶ served_latency, ...
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sommelier.deployment_records import ServedFigures
from sommelier.errors import DatabaseLockedError, SommelierError
from sommelier.shell.served import ServedDatabase
from sommelier.shell.serving_plan import PATIENCE_S, Kept, ServingPlan, Wanted, keep, serving_plan
from sommelier.storage.noticing import watch_of

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0  # how soon a change of the database is noticed
WRITE_EVERY_S = 30.0  # a crash loses at most what was measured since
SHARE = 0.2  # of the time at most is spent on asking, however often the database changes
AGAIN_S = 10.0  # a database that could not be read is asked again
LAST_S = 10.0  # how long the end waits at most, for another writer say
LEAST_S = 2.0  # and how long it does in any case
_LAST_EVERY_S = 0.5
_LATER = "what was measured is kept later"
_STAYS = "what is served stays as it was"


class Follower:
    """Two threads beside a server: one looks after changes, one writes what was measured."""

    def __init__(
        self,
        wanted: Wanted,
        served: ServedDatabase,
        plan: ServingPlan,
        *,
        write: bool = True,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """plan : by which it was started. draining : whether nothing is to be switched any more."""
        self._wanted = wanted
        self._served = served
        self._version = plan.version
        self._draining = draining
        self._watch = watch_of(wanted.database)
        self._asking = threading.Lock()  # one process at a time has the database
        self._following = threading.Lock()
        self._writes = write and self._watch.writable()
        self._told: dict[str, str] = {}  # why it could not be read, or written
        self._otherwise = False  # models take other times than planned
        self._again = False  # it is to be planned again, whatever the files say
        self._ask_from_s = self._write_from_s = 0.0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._look_often, name="follower", daemon=True),
            threading.Thread(target=self._write_often, name="figures", daemon=True),
        ]

    def start(self) -> None:
        """From now on, until `close`."""
        for thread in self._threads:
            thread.start()

    def look(self) -> bool:
        """Go on as the database says, if that may be something else than before; whether it was
        asked. Raises nothing: what fails is logged once and tried again."""
        with self._following:
            self._otherwise = self._served.look() or self._otherwise
            now_s = time.monotonic()
            if now_s < self._ask_from_s or self._draining():
                return False
            if self._otherwise and now_s >= self._write_from_s and self.write():
                self._otherwise, self._again = False, True  # a statement may ask for the figures
            with self._asking:
                plan = self._ask()
            if plan is not None:
                self._served.follow(plan)
            return plan is not None

    def write(self, within_s: float = PATIENCE_S) -> bool:
        """Let what was measured be kept; whether it is. What could not be kept is kept later.

        within_s : for that, and for who asks the database at this moment."""
        if not self._writes:
            return False
        until = time.monotonic() + within_s
        if not self._asking.acquire(timeout=within_s):
            return False
        try:
            return self._write(until)
        finally:
            self._asking.release()

    def close(self, within_s: float = LAST_S) -> None:
        """End the threads; what was measured is written, if nobody else writes for so long."""
        until = time.monotonic() + min(within_s, LAST_S)
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
        try:
            self._write_last(until)
        finally:
            self._watch.close()

    # ---- inside

    def _write_last(self, until: float) -> None:
        while self._writes and not self.write(max(0.0, until - time.monotonic())):
            if time.monotonic() + _LAST_EVERY_S > until:
                left = sum(figure.requests for figure in self._served.ledger.figures())
                logger.warning("what %d requests took could not be kept", left)
                return
            time.sleep(_LAST_EVERY_S)

    def _write(self, until: float) -> bool:
        self._served.collect()
        figures = self._served.ledger.figures()
        if not figures:
            return True
        try:
            kept = self._keep(figures, until - time.monotonic())
        except SommelierError as error:
            self._tell(_LATER, error)
            self._write_from_s = time.monotonic() + AGAIN_S
            return False
        self._told.pop(_LATER, None)
        self._served.ledger.kept(figures)
        if kept.before == self._version:  # nobody else changed anything: nothing is new
            self._version = kept.after
        return True

    def _keep(self, figures: list[ServedFigures], within_s: float) -> Kept:
        """Raises SommelierError; where it is known that somebody writes, no process is begun."""
        if self._watch.is_being_written():
            raise DatabaseLockedError("another process writes")
        return keep(self._wanted, figures, within_s)

    def _ask(self) -> ServingPlan | None:
        """The plan, if it may be another one."""
        if not (self._watch.changed(self._version) or self._again):
            return None
        started = time.monotonic()
        try:
            plan = serving_plan(self._wanted, self._stop.is_set)
        except SommelierError as error:
            self._tell(_STAYS, error)
            self._watch.forget()
            self._ask_from_s = time.monotonic() + AGAIN_S
            return None
        ended = time.monotonic()
        self._ask_from_s = ended + (ended - started) * (1 - SHARE) / SHARE
        self._told.pop(_STAYS, None)
        self._again, self._version = False, plan.version
        return plan

    def _look_often(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception:  # the next change may fare better
                logger.exception(_STAYS)

    def _write_often(self) -> None:
        while not self._stop.wait(WRITE_EVERY_S):
            self.write()

    def _tell(self, then: str, error: SommelierError) -> None:
        """One line as long as it is the same."""
        locked = isinstance(error, DatabaseLockedError)
        why = "another process writes the database" if locked else error.message
        if self._told.get(then) != why:
            self._told[then] = why
            logger.log(logging.INFO if locked else logging.WARNING, "%s: %s", then, why)
