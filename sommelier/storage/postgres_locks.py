"""Advisory locks: who writes, who is there, and whose jobs live.

They are PostgreSQL's locks on two numbers, of nothing that is stored. One that is held for a
connection ends with it, however its process ends: that tells a job of a living client, on whatever
machine, from one that a killed process left.
"""

from __future__ import annotations

from typing import Any

import psycopg

_WRITE = (1_936_682_341, 1)  # 'some' in ASCII: the first number of all locks that are not jobs
_PRESENCE = (1_936_682_341, 2)
_JOBS = 1_936_682_342
_LIVING = """
    SELECT objid::bigint FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid::bigint = %s
        AND database = (SELECT oid FROM pg_catalog.pg_database
            WHERE datname = current_database())"""


class AdvisoryLocks:
    """The locks of one client. Its connection must be used by one thread at a time."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw = raw
        self._jobs: set[int] = set()
        self._new_jobs: set[int] = set()
        self._alone = False
        self._present = False

    def wait_to_write(self) -> None:
        """Be the only one that writes until the transaction ends."""
        self._raw.execute("SELECT pg_advisory_xact_lock(%s, %s)", _WRITE)

    def try_alone(self) -> bool:
        """Whether no other client is there; none can come until `be_one_of_many`."""
        if self._present:
            return False
        self._alone = self._true("SELECT pg_try_advisory_lock(%s, %s)", _PRESENCE)
        return self._alone

    def be_one_of_many(self) -> None:
        """Be there, and let others come."""
        if not self._present:
            self._raw.execute("SELECT pg_advisory_lock_shared(%s, %s)", _PRESENCE)
            self._present = True
        if self._alone:
            self._raw.execute("SELECT pg_advisory_unlock(%s, %s)", _PRESENCE)
            self._alone = False

    def hold_job(self, job_id: int) -> None:
        """Show that the process of this job lives. Undone with the transaction."""
        if self._true("SELECT pg_try_advisory_lock(%s, %s)", (_JOBS, job_id)):
            self._new_jobs.add(job_id)

    def release_job(self, job_id: int) -> None:
        """The job has ended."""
        for jobs in (self._jobs, self._new_jobs):
            if job_id in jobs:
                jobs.discard(job_id)
                self._raw.execute("SELECT pg_advisory_unlock(%s, %s)", (_JOBS, job_id))

    def jobs(self) -> frozenset[int]:
        """The jobs of all clients that live."""
        return frozenset(job for (job,) in self._raw.execute(_LIVING, (_JOBS,)))

    def kept(self) -> None:
        """The transaction was committed."""
        self._jobs |= self._new_jobs
        self._new_jobs = set()

    def undone(self) -> None:
        """The transaction was rolled back."""
        for job_id in tuple(self._new_jobs):
            self.release_job(job_id)

    def move_to(self, raw: psycopg.Connection[Any]) -> None:
        """Take the locks again on a new connection, as far as nobody else has them now."""
        self._raw = raw
        jobs, self._jobs, self._new_jobs = self._jobs, set(), set()
        for job_id in jobs:
            self.hold_job(job_id)
        self.kept()
        if self._present:
            self._present, self._alone = False, False
            self.be_one_of_many()

    def _true(self, sql: str, numbers: tuple[int, int]) -> bool:
        found = self._raw.execute(sql, numbers).fetchone()
        return bool(found and found[0])
