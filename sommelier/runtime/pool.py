"""Models in memory under a budget: loaded off the request path, unloaded when others need the room.

A model that is not loaded never holds up the caller: `acquire` says None, `request` starts loading,
`stand_in` names who may answer meanwhile. What a model takes was measured when it was prepared.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from math import inf

from sommelier.analysis.latency import give_back_memory, trim_memory
from sommelier.errors import SommelierError, UnknownNameError
from sommelier.runtime import memory
from sommelier.runtime.pool_entries import (
    ABSENT,
    LOADING,
    READY,
    UNLOADING,
    Budget,
    Claim,
    Entry,
    ModelState,
    PoolRules,
    beyond,
    claim_of,
    done_with,
    idle,
    keep_alive_s,
    leased,
    name_for,
    state_of,
    used,
    victim,
)  # fmt: skip
from sommelier.runtime.predictor import Predictor, open_predictor
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from sommelier.storage.naming import unknown_name

logger = logging.getLogger(__name__)

CLOSE_S = 10.0  # how long closing waits for each model that is in use
LOOK_S = 0.25  # how often it is looked for idle models, where any goes when it is idle


class ModelPool:
    """The models of a serving process. Safe for threads; close it, or use it as a context manager.

    A lease (`acquire`, `lease`) keeps a model: it is not evicted while it runs.
    """

    def __init__(
        self,
        cache: SessionCache,
        settings: SessionSettings | None = None,
        rules: PoolRules | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock : seconds."""
        self.settings = settings or SessionSettings()
        self.rules = rules or PoolRules()
        self._cache = cache
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._turn = threading.Lock()  # who makes room; taken before _changed
        self._loaders = ThreadPoolExecutor(self.rules.loaders, thread_name_prefix="model-loader")
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        self.evictions = 0  # since it was made
        self._told: tuple[Callable[[str], None], ...] = ()
        memory.keep_no_large_buffers()

    def add(self, model: ServedModel) -> None:
        """Make a model known; nothing is loaded. Raises SommelierError if its name is taken."""
        self._know(model, self.settings)

    def remove(self, name: str) -> None:
        """Unload a model once it is not in use, and forget it."""
        self.unload(name, reason="it was removed")
        with self._changed:
            self._entries.pop(name, None)

    def retain(
        self, model: ServedModel, *, device: str | None = None, budget: Budget | None = None
    ) -> str:
        """The name by which the pool knows a model, which it keeps until as many `forget` it.

        It is the model's own, unless that is another content's, as that of an older version, or the
        same on another device. device : None for the pool's. budget : for which it counts.
        """
        settings = self.settings if device is None else replace(self.settings, device=device)
        with self._changed:
            name = name_for(model, settings, self._entries)
            entry = self._know(replace(model, name=name), settings)
            entry.retained += 1
            entry.budgets += [] if budget is None else [budget]
            return name

    def forget(self, name: str, budget: Budget | None = None) -> None:
        """The opposite of `retain`: after the last one the model is unloaded, once no run uses it,
        and removed, in a thread of its own."""
        with self._changed:
            entry = self._entry(name)
            entry.retained -= 1
            if budget is not None:
                entry.budgets.remove(budget)
            if entry.retained > 0 or self._closed.is_set():
                return
        threading.Thread(target=self._remove_unretained, args=(entry,), daemon=True).start()

    def keep_within(self, budget: Budget) -> None:
        """Unload as few of a budget's models as it takes, each once no run uses it: for one that is
        new, or smaller than before. Those that are loaded later keep it anyway."""
        with self._changed:
            self._start_watch()
            names = beyond(budget, tuple(self._entries.values()), self._clock())
        for name in names:
            with contextlib.suppress(SommelierError, TimeoutError):  # gone, or in use for long
                reason = f"deployment {budget.owner} may not take so much memory"
                self.evictions += self.unload(name, timeout_s=CLOSE_S, reason=reason)

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """`changed(name)` is called after a model was loaded, unloaded or failed to load, in the
        thread that did it and without a lock. Returns what ends that."""
        with self._changed:
            self._told = (*self._told, changed)

        def end() -> None:
            with self._changed:
                self._told = tuple(other for other in self._told if other is not changed)

        return end

    def request(self, name: str) -> Future[None]:
        """Start loading unless it is loaded or being loaded; done when it is.

        The future raises MemoryBudgetError when there is no room, AnalysisError when it cannot be
        loaded. Raises UnknownNameError at once.
        """
        with self._changed:
            entry = self._entry(name)
            if entry.future is not None:
                return entry.future
            if entry.state == READY:
                return done_with(None)
            if entry.error and self._clock() < entry.failed_s + self.rules.retry_s:
                return done_with(entry.error)
            if self._closed.is_set():
                return done_with(SommelierError("the pool is closed"))
            entry.future = self._loaders.submit(self._load, entry)
            self._start_watch()
            return entry.future

    def load(self, name: str, *, timeout_s: float | None = None) -> None:
        """Load a model and wait for it. Raises as `request` does, TimeoutError."""
        self.request(name).result(timeout_s)

    def unload(
        self, name: str, *, timeout_s: float | None = None, reason: str = "it was unloaded"
    ) -> bool:
        """Give a model's memory back once no run uses it; False if it was not loaded.

        A pinned one as well. Raises TimeoutError when it is still in use; then it stays.
        """
        with self._changed:
            entry = self._entry(name)
            self._changed.wait_for(lambda: not entry.moving, timeout_s)
            if entry.state != READY:
                return False
            entry.state = UNLOADING  # nobody gets it any more
            if not self._changed.wait_for(lambda: entry.leases == 0, timeout_s):
                entry.state = READY
                self._changed.notify_all()
                raise TimeoutError(f"'{name}' is still in use")
        self._let_go(entry, reason)
        return True

    def pin(self, name: str, *, pinned: bool = True) -> None:
        """Keep a model, once it is loaded: it is neither evicted nor unloaded when idle."""
        with self._changed:
            self._entry(name).pinned = pinned

    def acquire(self, name: str) -> Predictor | None:
        """The model for one run, to be followed by `release`; None if it is not loaded."""
        with self._lock:
            entry, now_s = self._entry(name), self._clock()
            entry.rate.used(now_s)  # who asks in vain counts too
            return leased(entry, now_s)

    def release(self, name: str, uses: int = 1) -> None:
        """The end of a run that `acquire` began, or of several. uses : requests it was for."""
        with self._lock:
            entry = self._entry(name)
            assert entry.leases > 0, "acquire comes first"
            entry.leases, entry.used_s = entry.leases - 1, self._clock()
            entry.rate.used(entry.used_s, uses - 1)
            if entry.state == UNLOADING:
                self._changed.notify_all()

    @contextmanager
    def lease(self, name: str, *, timeout_s: float | None = None) -> Iterator[Predictor]:
        """The model for a `with` block; loads it, and waits, where it is not loaded."""
        predictor = self.acquire(name)
        while predictor is None:
            self.load(name, timeout_s=timeout_s)  # again, if it was evicted in between
            predictor = self._acquired(name)
        try:
            yield predictor
        finally:
            self.release(name)

    def stand_in(self, name: str) -> str | None:
        """The best model that is loaded and may answer for this one; None if there is none."""
        with self._changed:
            for other in self._entry(name).model.stand_ins:
                entry = self._entries.get(other)
                if entry is not None and entry.state == READY:
                    return other
            return None

    def ready(self) -> tuple[str, ...]:
        """Names of the models that are loaded, in the order they were added."""
        with self._changed:
            return tuple(name for name, e in self._entries.items() if e.state == READY)

    def expire(self) -> tuple[str, ...]:
        """Unload what was idle for as long as it is kept; a thread of the pool calls it from time
        to time. The names of what was unloaded."""
        with self._changed:
            kept_s = idle(self._entries.values(), self.rules, self._clock())
            going = [self._entries[name] for name in kept_s]
            for entry in going:
                entry.state = UNLOADING
        for entry, s in zip(going, kept_s.values(), strict=True):
            self._let_go(entry, f"nobody used it for {s:.4g} s (keep_alive)")
        return tuple(kept_s)

    def host_bytes(self) -> int:
        """Memory of all models that are loaded or being loaded; shared pages count once."""
        with self._changed:
            return used(self._entries.values())[0]

    def device_bytes(self) -> int:
        """The same on the accelerator."""
        with self._changed:
            return used(self._entries.values())[1]

    def process_bytes(self) -> int:
        """What the whole process takes at this moment, by the same method; it is more than the
        models: the interpreter, requests, answers."""
        with self._changed:
            loaded = [e.predictor for e in self._entries.values() if e.predictor is not None]
        files = {p.prepared.weights for p in loaded if p.prepared.weights is not None}
        return memory.private_bytes() + sum(memory.mapped_bytes(file) for file in files)

    def states(self) -> tuple[ModelState, ...]:
        """All models of the pool."""
        with self._changed:
            return tuple(state_of(entry, self._clock()) for entry in self._entries.values())

    def close(self) -> None:
        """Unload everything, once it is not in use; what is being prepared is given up."""
        self._closed.set()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            entries = list(self._entries.items())
            for _, entry in entries:
                entry.future = None  # one that was cancelled never ends
        for name, _ in entries:
            with contextlib.suppress(UnknownNameError):  # a deployment that ends may forget it
                try:
                    self.unload(name, timeout_s=CLOSE_S, reason="the pool was closed")
                except TimeoutError:
                    logger.warning("%s is still in use: its memory goes with the process", name)

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- loading, in a thread of the pool

    def _load(self, entry: Entry) -> None:
        """Load a model; whatever happens, its entry says so before the future is done."""
        with self._changed:
            self._changed.wait_for(lambda: entry.state != UNLOADING)
            if entry.state == READY:  # an unload gave up, because it was in use
                entry.future = None
                return
            entry.state, entry.reason = LOADING, "it is being prepared"
        predictor: Predictor | None = None
        try:
            prepared = self._cache.prepare(entry.model, entry.settings, self._closed.is_set)
            with self._turn:
                self._make_room(entry, claim_of(prepared, self.rules.servers))
            predictor = open_predictor(self._cache, entry.model, entry.settings, prepared)
        except Exception as error:
            self._failed(entry, error)
            raise
        with self._changed:
            entry.loaded(predictor, self._clock())
            self._changed.notify_all()
        self._tell(entry)

    def _failed(self, entry: Entry, error: Exception) -> None:
        give_back_memory()
        with self._changed:
            entry.failed(error, self._clock())
            self._changed.notify_all()
        self._tell(entry)
        level = logging.INFO if self._closed.is_set() else logging.WARNING  # who closes knows
        logger.log(level, "%s is not loaded: %s", entry.model.name, error)

    def _make_room(self, entry: Entry, claim: Claim) -> None:
        """Reserve a model's memory, having evicted as few others as it takes, one at a time.

        Raises MemoryBudgetError, with nothing evicted, when those that may go are not enough.
        """
        while True:
            with self._changed:
                entries = tuple(self._entries.values())
                chosen = victim(entry, claim, entries, self.rules, self._clock())
                if chosen is None:
                    entry.claim = claim
                    return
                going = self._entries[chosen.name]
                going.state = UNLOADING
                self.evictions += 1
            told = f"evicted for {entry.model.name}: {chosen.reason}, the least of what may go"
            logger.info("%s %s", going.model.name, told)
            self._let_go(going, told)

    def _let_go(self, entry: Entry, reason: str) -> None:
        """Close a model in state 'unloading', which nobody uses; its memory is the system's."""
        predictor, entry.predictor = entry.predictor, None
        if predictor is not None:
            predictor.close()
        trim_memory()  # sessions are in no cycle; gc.collect stops all requests for some 20 ms
        with self._changed:
            entry.claim = None
            entry.state, entry.reason = ABSENT, reason
            self._changed.notify_all()
        self._tell(entry)

    # ---- inside

    def _tell(self, entry: Entry) -> None:
        for changed in self._told:
            changed(entry.model.name)

    def _remove_unretained(self, entry: Entry) -> None:
        """Unless somebody wants it again meanwhile."""
        name = entry.model.name
        with contextlib.suppress(SommelierError):
            self.unload(name, reason="no deployment uses it any more")
            with self._changed:
                if entry.retained == 0 and not entry.moving and self._entries.get(name) is entry:
                    del self._entries[name]

    def _know(self, model: ServedModel, settings: SessionSettings) -> Entry:
        with self._changed:
            known = self._entries.get(model.name)
            if known is None:
                known = self._entries[model.name] = Entry(model, settings)
            if known.model.id != model.id or known.settings != settings:
                raise SommelierError(f"the pool has another model named '{model.name}'")
            return known

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise unknown_name("model of the pool", name, list(self._entries))
        return entry

    def _acquired(self, name: str) -> Predictor | None:
        with self._changed:
            return leased(self._entry(name), self._clock())

    def _start_watch(self) -> None:
        kept_s = (keep_alive_s(entry, self.rules) for entry in self._entries.values())
        if self._watch is None and min(kept_s, default=inf) < inf:
            self._watch = threading.Thread(target=self._expire_often, daemon=True)
            self._watch.start()

    def _expire_often(self) -> None:
        while not self._closed.wait(LOOK_S):
            with contextlib.suppress(SommelierError):
                self.expire()
