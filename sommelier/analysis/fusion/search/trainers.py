"""Candidates trained side by side, each in a process of its own that ends with the search's.

Models and lessons are written to a file once, which every trainer reads; then a call takes a
proposal in and brings weights out. torch has one thread in each. Of several GPUs, trainers take one
after the other in turn (written without a machine of several to try it on).

A round lasts as long as its slowest candidate: two small networks on two cores that others used too
took 1.6 times as long one after the other (median of 7, and of the least times). Processes take
seconds to start: a search of 20 s gained nothing.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sommelier.analysis.computing import Cancelled, torch_threads
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.attempts import Attempt, Proposal, attempt
from sommelier.analysis.fusion.search.study import Allowance, Study
from sommelier.analysis.sandbox import Sandbox
from sommelier.errors import CancelledError, WorkerCrashedError

FILE = "trainers.pickle"
LONGEST_S = 7 * 86_400.0  # of one call; the budget of the search ends it before
POLL_S = 0.05


class Trainers:
    """Processes that train one candidate each at a time; they start with the first round."""

    def __init__(self, study: Study, path: Path, pool: ThreadPoolExecutor) -> None:
        """path : of the file with models and lessons."""
        self._path, self._pool = path, pool
        self._stopped = threading.Event()
        limit = memory_limit()
        self._sandboxes = [
            Sandbox(
                time_limit_s=LONGEST_S, memory_limit_bytes=limit, cancelled=self._stopped.is_set
            )
            for _ in range(study.options.workers)
        ]
        self._devices = dealt(study.options.training.device, len(self._sandboxes))

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [sandbox.pid for sandbox in self._sandboxes if sandbox.pid is not None]

    def attempts(
        self, proposals: Sequence[Proposal], allowance: Allowance, cancelled: Cancelled,
        over: Cancelled,
    ) -> list[Attempt | None]:  # fmt: skip
        """In the order of the proposals. None for what was not done when the time was `over`.

        Raises CancelledError once `cancelled`, WorkerCrashedError when a trainer dies; then and
        when interrupted nothing runs any more.
        """
        self._stopped.clear()
        places = zip(self._sandboxes, self._devices, proposals, strict=False)
        futures = [
            self._pool.submit(sandbox.call, attempt_in, self._path, device, proposal, allowance)
            for sandbox, device, proposal in places
        ]
        try:
            while wait(futures, timeout=POLL_S).not_done:
                if cancelled():
                    raise CancelledError("cancelled while candidates were trained")
                if over() or any(map(_failure, futures)):
                    break
        finally:
            self._stopped.set()
            wait(futures)
        return [_done(future) for future in futures]

    def close(self) -> None:
        """Ends all processes."""
        self._stopped.set()
        for sandbox in self._sandboxes:
            sandbox.close()


@contextmanager
def trainers_of(study: Study, folder: Path | None) -> Iterator[Trainers | None]:
    """As many as the options say; None for one worker, as the search itself then trains.

    folder : for the file with models and lessons; a temporary one without.
    """
    if study.options.workers == 1:
        yield None
        return
    with TemporaryDirectory() as temporary, ThreadPoolExecutor(study.options.workers) as pool:
        path = (Path(temporary) if folder is None else folder) / FILE
        trainers = Trainers(study, path, pool)
        try:
            with path.open("wb") as stream:
                content = (study.models, study.lessons, study.options, study.costs)
                pickle.dump(content, stream, protocol=5)
            yield trainers
        finally:
            trainers.close()
            path.unlink(missing_ok=True)


def dealt(device: str, trainers: int) -> list[str]:
    """The device of each trainer: 'cuda' is all that there are, in turn."""
    if device != "cuda":
        return [device] * trainers
    import torch

    cards = max(1, torch.cuda.device_count())
    return [f"cuda:{place % cards}" for place in range(trainers)]


def memory_limit() -> int | None:
    """Bytes that this process may have, and that each of its trainers gets too; None for any."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if limit == resource.RLIM_INFINITY else limit


def _failure(future: Future[Attempt]) -> BaseException | None:
    return future.exception() if future.done() else None


def _done(future: Future[Attempt]) -> Attempt | None:
    """None for one that was told to stop."""
    try:
        return future.result()
    except CancelledError:
        return None
    except WorkerCrashedError as error:
        raise WorkerCrashedError(
            f"a trainer of the search died: {error.message}",
            hint="the search goes on where it was; with fewer workers there is more memory for"
            " each",
        ) from error


# ---- in a trainer's process


def attempt_in(path: Path, device: str, proposal: Proposal, allowance: Allowance) -> Attempt:
    """What the attempt comes to, with the models and lessons of the file."""
    study = _study(path, device)
    with torch_threads(study.options.training.threads):
        return attempt(study, proposal, allowance)


@lru_cache(maxsize=1)
def _study(path: Path, device: str) -> Study:
    with path.open("rb") as stream:
        models, lessons, options, costs = pickle.load(stream)
    training = replace(options.training, device=device, threads=1)
    options = replace(options, training=training)
    return Study(models, lessons, options, costs, FusedModule.original(models))
