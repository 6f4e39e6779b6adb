"""Leases: which worker has which task of a server's catalog, and until when.

Each change here is one statement of its own, on a connection of its own, by the server's clock.
None waits for the turn of who writes the catalog, and none counts as a change of it. What a worker
found is kept elsewhere, in one transaction that fails unless the task is still its own
(tasks.HeldTasks).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from typing import TYPE_CHECKING, Any

import psycopg

from sommelier.errors import StorageError
from sommelier.records import AnalysisTask
from sommelier.storage.postgres_faults import lost, translated_here
from sommelier.storage.rows import mapping_from_json
from sommelier.storage.tasks import COMPARISON

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.postgres_server import Server

LEASE_S = 30.0  # how long a worker that says nothing has its task
TRIES = 3  # then a task is set aside
_GONE_DAYS = 7  # how long workers that have gone are remembered

_SHARED = "j.state = 'running' AND j.plan IS NOT NULL"
_LATE = "t.state = 'running' AND coalesce(t.lease_until, '-infinity') < localtimestamp"
_LINE = "concat_ws(chr(10), t.log, to_char(localtimestamp, 'YYYY-MM-DD HH24:MI:SS ') || {})"
_TRY = _LINE.format(
    "CASE WHEN next.state = 'running' THEN 'its lease ran out; ' ELSE '' END"
    " || 'try ' || t.attempts + 1 || ': ' || %(shown)s"
)
_CLAIM = f"""
    WITH next AS (
        SELECT t.job_id, t.key, t.state FROM store.tasks t JOIN store.jobs j ON j.id = t.job_id
        WHERE {_SHARED} AND t.attempts < %(tries)s AND (t.state = 'pending' OR {_LATE})
            AND (t.device IS NULL OR t.device = %(device)s)
            AND (%(job)s::int IS NULL OR t.job_id = %(job)s::int)
            AND (%(key)s::text IS NULL OR t.key = %(key)s::text)
            AND (t.aspect <> '{COMPARISON}' OR NOT EXISTS (
                SELECT 1 FROM store.tasks o WHERE o.job_id = t.job_id AND o.key <> t.key
                    AND o.state IN ('pending', 'running')))
            AND NOT EXISTS (
                SELECT 1 FROM store.tasks o JOIN store.jobs k ON k.id = o.job_id
                WHERE o.key = t.key AND o.job_id <> t.job_id AND o.state = 'running'
                    AND o.lease_until > localtimestamp AND k.state = 'running')
        ORDER BY t.job_id, t.position LIMIT 1 FOR UPDATE OF t SKIP LOCKED)
    UPDATE store.tasks t
    SET state = 'running', attempts = t.attempts + 1, holder = %(me)s, reason = NULL,
        lease_until = localtimestamp + make_interval(secs => %(lease)s),
        log = {_TRY}
    FROM next WHERE t.job_id = next.job_id AND t.key = next.key
    RETURNING t.key, t.job_id, t.aspect, t.model_id, t.parameters, t.state, t.reason, t.attempts"""
_RENEW = """
    UPDATE store.tasks t SET lease_until = localtimestamp + make_interval(secs => %(lease)s)
    FROM store.jobs j
    WHERE j.id = t.job_id AND j.state = 'running' AND t.job_id = %(job)s AND t.key = %(key)s
        AND t.holder = %(me)s AND t.state = 'running' RETURNING 1"""
_GIVE_BACK = f"""
    UPDATE store.tasks t
    SET state = CASE WHEN %(counts)s AND t.attempts >= %(tries)s THEN 'failed' ELSE 'pending' END,
        attempts = t.attempts - CASE WHEN %(counts)s THEN 0 ELSE 1 END, lease_until = NULL,
        reason = CASE WHEN %(counts)s AND t.attempts >= %(tries)s
            THEN 'given up after ' || t.attempts || ' tries: ' || %(said)s END,
        log = {_LINE.format("%(said)s")}
    WHERE t.job_id = %(job)s AND t.key = %(key)s AND t.holder = %(me)s AND t.state = 'running'
    RETURNING t.state"""
_SET_ASIDE = f"""
    UPDATE store.tasks t SET state = 'failed', lease_until = NULL,
        reason = 'given up after ' || t.attempts || ' tries: each worker that had it was killed, or'
            || ' gave no sign of life, before it had ended; the last was '
            || coalesce((SELECT w.name || ' on ' || w.host || ', process ' || w.process
                         FROM store.workers w WHERE w.id = t.holder), t.holder, 'unknown'),
        log = {_LINE.format("'its lease ran out; given up'")}
    FROM store.jobs j WHERE j.id = t.job_id AND {_SHARED} AND {_LATE} AND t.attempts >= %(tries)s"""
_END_JOBS = f"""
    UPDATE store.jobs j SET finished_at = localtimestamp, doing = NULL, progress = 1.0,
        state = CASE WHEN found.done = 0 AND found.failed > 0 AND found.before = 0
            THEN 'failed' ELSE 'done' END,
        reason = concat_ws(', ', found.done || ' tasks done',
            nullif(found.failed, 0) || ' failed', nullif(found.skipped, 0) || ' skipped')
    FROM (SELECT t.job_id, count(*) FILTER (WHERE t.state = 'done' AND t.aspect <> '{COMPARISON}')
              AS done,
              count(*) FILTER (WHERE t.state = 'failed') AS failed,
              count(*) FILTER (WHERE t.state = 'skipped') AS skipped,
              count(*) FILTER (WHERE t.reason = 'done before') AS before
          FROM store.tasks t JOIN store.jobs j ON j.id = t.job_id
          WHERE {_SHARED} AND NOT EXISTS (
              SELECT 1 FROM store.tasks o
              WHERE o.job_id = j.id AND o.state IN ('pending', 'running'))
          GROUP BY t.job_id) found
    WHERE found.job_id = j.id AND j.state = 'running' RETURNING j.id"""
_ENTER = """
    INSERT INTO store.workers (id, name, host, process, device, started_at, seen_until)
    VALUES (%(me)s, %(name)s, %(host)s, %(process)s, %(device)s, localtimestamp,
        localtimestamp + make_interval(secs => %(lease)s))
    ON CONFLICT (id) DO UPDATE SET seen_until = excluded.seen_until"""
_FORGET = f"""
    DELETE FROM store.workers w WHERE w.seen_until < localtimestamp - interval '{_GONE_DAYS} days'
        AND NOT EXISTS (SELECT 1 FROM store.tasks t WHERE t.holder = w.id)"""


class Leases:
    """What one worker says to the server. Safe to use from two threads."""

    def __init__(
        self, server: Server, *, name: str | None, device: str, lease_s: float = LEASE_S
    ) -> None:
        """name : None: host and process. Shows nobody yet; `enter` does."""
        self._server = server
        self._raw = server.connect(read_only=False)
        host, process = socket.gethostname(), os.getpid()
        self.name = name or f"{host}-{process}"
        self.holder = f"{self.name}#{secrets.token_hex(6)}"
        self._values: dict[str, Any] = {
            "me": self.holder, "name": self.name, "host": host, "process": process,
            "device": device, "lease": lease_s, "tries": TRIES,
            "shown": f"{self.name} on {host}, process {process}",
        }  # fmt: skip

    def enter(self) -> None:
        """Be seen as alive from now on, for as long as a lease lasts; to be repeated."""
        self._execute(_ENTER)

    def forget_the_gone(self) -> None:
        """Remove workers that have gone long ago and did nothing."""
        self._execute(_FORGET)

    def claim(self, *, job_id: int | None = None, key: str | None = None) -> AnalysisTask | None:
        """The next task that this worker can do, which it has from now on; None if there is none.

        job_id, key : only of this job, only this task.
        """
        self._execute(_SET_ASIDE)
        found = self._execute(_CLAIM, job=job_id, key=key)
        if not found:
            return None
        key, number, aspect, model_id, parameters, state, reason, attempts = found[0]
        return AnalysisTask(
            key, number, aspect, model_id, mapping_from_json(parameters), state, reason, attempts
        )

    def renew(self, task: AnalysisTask) -> bool:
        """Have a task for longer; False if it is not this worker's any more."""
        return bool(self._execute(_RENEW, job=task.job_id, key=task.key))

    def give_back(self, task: AnalysisTask, said: str, *, counts: bool) -> None:
        """Let others have a task. said : why, for its log. counts : it was a try, and the last one
        sets the task aside. Nothing happens if the task is another's."""
        self._execute(_GIVE_BACK, job=task.job_id, key=task.key, said=said, counts=counts)

    def end_jobs(self) -> list[int]:
        """End the jobs whose tasks have all ended; their numbers."""
        return [number for (number,) in self._execute(_END_JOBS)]

    def leave(self) -> None:
        """Be seen as gone, and close the connection. A second call does nothing."""
        if not self._raw.closed:
            with contextlib.suppress(StorageError):
                self._execute(
                    "UPDATE store.workers SET seen_until = localtimestamp WHERE id = %(me)s"
                )
        self._raw.close()

    def _execute(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        with translated_here("share work", self._server, lambda: self._raw.closed):
            given = {**self._values, **values}
            if not self._raw.closed:
                try:
                    return self._answer(sql, given)
                except psycopg.OperationalError as error:
                    if not lost(error, self._raw):
                        raise
            self._raw.close()
            self._raw = self._server.connect(read_only=False)
            return self._answer(sql, given)

    def _answer(self, sql: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        cursor = self._raw.execute(sql.encode(), values)
        return cursor.fetchall() if cursor.description else []


def leases_of(
    catalog: Catalog, *, name: str | None = None, device: str = "cpu", lease_s: float = LEASE_S
) -> Leases:
    """The leases of a new worker of a server's catalog. Raises StorageError for a file."""
    from sommelier.storage.postgres_database import PostgresDatabase

    database = catalog.database
    assert isinstance(database, PostgresDatabase), "no file has workers"
    return Leases(database.server, name=name, device=device, lease_s=lease_s)
