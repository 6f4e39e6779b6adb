"""Takes questions in the serving process, and lets another process answer them, one at a time.

That process begins with the first question and ends when nobody asks any more. A question that
takes longer than its limit ends with its process; the next one begins another. It has a lower
priority than inference (`nice`), and the serving process loads neither DuckDB nor the parser.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import IO, Any

from sommelier.runtime.server.pages import Asked, Said

logger = logging.getLogger(__name__)

LIMIT_S = 10.0
START_S = 60.0  # to begin and to open the database, on a busy machine
IDLE_S = 120.0
WAITING = 16  # questions that wait
_STATIC = {"explorer.css": "text/css; charset=utf-8", "explorer.js": "text/javascript"}
_HEAD = 1 << 16
Live = Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class DeskRules:
    """Seconds, and how many questions may wait."""

    limit_s: float = LIMIT_S
    start_s: float = START_S
    idle_s: float = IDLE_S
    waiting: int = WAITING


class QuestionDesk:
    """`ask` from any thread; `close` at the end."""

    def __init__(
        self,
        database: str,
        live: Live = list,
        rules: DeskRules | None = None,
        *,
        folder: str | None = None,
    ) -> None:
        """live : how deployments do here, for their page. folder : of a server's catalog."""
        self._database = [database] if folder is None else [database, folder]
        self._live = live
        self._rules = rules or DeskRules()
        self._waiting: queue.Queue[tuple[Asked, Future[Said]] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._answerer: _Answerer | None = None
        self._closed = False

    def ask(self, asked: Asked) -> Future[Said]:
        """The answer to come. Cancelling it gives up a question that still waits."""
        future: Future[Said] = Future()
        if asked.path in _STATIC:
            future.set_result(Said(200, _static(asked.path), _STATIC[asked.path]))
            return future
        with self._lock:
            if self._closed or self._waiting.qsize() >= self._rules.waiting:
                why = "the server ends" if self._closed else "too many questions wait"
                future.set_result(_failure(asked, 503, why, retry_after_s=5))
                return future
            self._waiting.put((asked, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="questions", daemon=True)
                self._thread.start()
        return future

    @property
    def process_id(self) -> int | None:
        """Of the process that answers, as long as there is one."""
        answerer = self._answerer
        return None if answerer is None or answerer.ended else answerer.process.pid

    def close(self) -> None:
        """Ends the process; who waits is told so."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._waiting.put(None)
        if self._answerer is not None:
            self._answerer.kill()
        if thread is not None:
            thread.join(5)

    # ---- inside, in the thread of questions

    def _work(self) -> None:
        while True:
            try:
                one = self._waiting.get(timeout=self._rules.idle_s)
            except queue.Empty:
                self._end()
                continue
            if one is None:
                break
            asked, future = one
            if future.set_running_or_notify_cancel():
                future.set_result(self._answer(asked))
        self._end()
        with contextlib.suppress(queue.Empty):
            while (one := self._waiting.get_nowait()) is not None:
                one[1].set_result(_failure(one[0], 503, "the server ends"))

    def _answer(self, asked: Asked) -> Said:
        try:
            if self._closed:
                return _failure(asked, 503, "the server ends")
            if self._answerer is None or self._answerer.ended:
                self._answerer = _Answerer(self._rules, *self._database)
            live = self._live() if asked.path == "deployments" else []
            return self._answerer.answer(asked, live)
        except TimeoutError as error:
            self._end()
            return _failure(asked, 504, str(error))
        except (OSError, ValueError) as error:  # it has ended, as it does without memory
            self._end()
            logger.warning("a question could not be answered: %s", error)
            why = f"the question was given up: {error}"
            return _failure(asked, 500, why)

    def _end(self) -> None:
        answerer, self._answerer = self._answerer, None
        if answerer is not None:
            answerer.kill()


class _Answerer:
    """The other process. Raises TimeoutError, and OSError where it has ended."""

    def __init__(self, rules: DeskRules, *database: str) -> None:
        """database : and its folder, where one was named."""
        self._rules = rules
        command = [sys.executable, "-P", "-m", "sommelier.shell.explorer.answering"]
        self.process = subprocess.Popen(
            [*command, str(rules.limit_s), *database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server, which ends in its own way
        )
        assert self.process.stdin is not None, "asked for"
        assert self.process.stdout is not None, "asked for"
        self._in: IO[bytes] = self.process.stdin
        self._out: IO[bytes] = self.process.stdout
        try:
            with self._within(rules.start_s, "the database did not open within"):
                self._line()
        except BaseException:
            self.kill()
            raise

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def answer(self, asked: Asked, live: list[dict[str, Any]]) -> Said:
        """What it says within the limit."""
        head = {"path": asked.path, "query": asked.query, "size": len(asked.body), "live": live}
        with self._within(self._rules.limit_s, "the question took longer than"):
            self._in.write(json.dumps(head).encode() + b"\n" + asked.body)
            self._in.flush()
            told = self._line()
            body = self._out.read(told["size"])
        if len(body) < told["size"]:
            raise OSError("its process ended")
        if told["last"]:
            self.kill()
        return Said(told["status"], body, told["type"])

    def kill(self) -> None:
        """End it: it writes nothing, and begins no others."""
        self.process.kill()
        self.process.wait()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()

    def _line(self) -> Mapping[str, Any]:
        line = self._out.readline(_HEAD)
        if not line:
            raise OSError("its process ended")
        found: Mapping[str, Any] = json.loads(line)
        return found

    @contextlib.contextmanager
    def _within(self, limit_s: float, what: str) -> Any:
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        began = time.monotonic()
        timer.start()
        try:
            yield
        except (OSError, ValueError) as error:  # nothing came, or half a line
            if late.is_set():
                raise TimeoutError(f"{what} {limit_s:g} s, and was ended") from error
            raise
        finally:
            timer.cancel()
            logger.debug("a question took %.3f s", time.monotonic() - began)


@cache
def _static(name: str) -> bytes:
    return (files("sommelier.shell.explorer") / name).read_bytes()


def _failure(asked: Asked, status: int, why: str, *, retry_after_s: int | None = None) -> Said:
    """Said by the serving process itself, in the form that was asked for."""
    if asked.path in ("query", "complete"):
        told = {"error": {"code": "refused", "title": "Not Answered", "message": why}}
        return Said(status, json.dumps(told).encode(), "application/json", retry_after_s)
    from html import escape

    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Not answered</title>'
        '<meta name="viewport" content="width=device-width">'
        '<link rel="stylesheet" href="/explorer.css"><main><h1>Not answered</h1>'
        f'<p class="error" role="alert">{escape(why)}</p><p><a href="/">Ask something else</a></p>'
        "</main></html>"
    )
    return Said(status, page.encode(), retry_after_s=retry_after_s)
