"""A model in memory that answers requests, from any number of threads at the same time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.model_inputs import FeedPlan, item_feed, plan_feeds, tensor_spec
from sommelier.errors import AnalysisError, CancelledError, InputError, first_line
from sommelier.runtime.batching import joined
from sommelier.runtime.feeds import Feed, InputCheck
from sommelier.runtime.preparation import warm_up_inputs
from sommelier.runtime.session_cache import PreparedModel, ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

logger = logging.getLogger(__name__)

Array = NDArray[Any]
WARM_UP_S = 60.0  # a first run that takes longer is cut off
IN_TURN = 8  # requests that are decided about together, and run in turn


class Cancellation:
    """Ends a run from another thread: `predictor.run(feed, cancellation)`, then `cancel()`.

    Works between two operators (13 to 32 ms for a run of 600 ms, runtime.md 3), before the run as
    well as during it. For one run, or for several that end together.
    """

    def __init__(self) -> None:
        import onnxruntime

        self.options = onnxruntime.RunOptions()

    def cancel(self) -> None:
        """The run raises CancelledError; nothing happens if it is over."""
        self.options.terminate = True

    @property
    def cancelled(self) -> bool:
        return bool(self.options.terminate)


class Predictor:
    """One loaded model. Threads may share it; `close` when none uses it any more.

    joins : requests that meet are better answered in one run than in turn.
    """

    def __init__(
        self, model: ServedModel, prepared: PreparedModel, settings: SessionSettings
    ) -> None:
        """Loads what was prepared. Raises AnalysisError if that fails; see `open_predictor`."""
        found = prepared.preparation
        started = time.perf_counter()
        self.model = model
        self.prepared = prepared
        self.settings = replace(settings, threads=found.threads, batch=found.batch)
        self._session: InferenceSession | None = open_session(
            prepared.path, self.settings, optimised=found.recipe != "plain"
        )
        # its wrapper in Python looks once more whether all inputs are there: 3 us a run
        self._run = getattr(self._session, "_sess", self._session).run
        self.inputs = tuple(tensor_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(tensor_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._check = InputCheck(model.name, self.inputs, self.settings.batch)
        cost, run_ms = found.together, found.run_ms
        self.joins = cost is not None and run_ms is not None and joined(cost, run_ms)
        strings = any(spec.dtype == "str" for spec in (*self.inputs, *self.outputs))
        self._bound = not self.settings.on_cpu and not strings  # strings cannot be bound
        self._plans: dict[object, FeedPlan] = {}
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.first_run_ms: float | None = None

    @property
    def most_together(self) -> int:
        """Samples of several requests that are better decided about together."""
        return self.settings.batch if self.joins else max(self.settings.batch, IN_TURN)

    def check(self, inputs: Mapping[str, Any]) -> Feed:
        """The inputs of a request, by name, ready for `run`: to be called once a request.

        Arrays must have the model's types; lists and numbers take them. Raises InputError naming
        the input at fault, what was given and what is wanted.
        """
        return self._check(inputs)

    def feed_items(self, items: Array | Sequence[bytes]) -> Feed:
        """Raw items, (n, height, width, channels) of images say, prepared as the model declares.

        Where nothing is declared, what fits their shape is assumed (analysis.preprocessing).
        Raises InputError for items that do not fit or are too many.
        """
        if len(items) == 0:
            raise InputError(f"{self.model.name}: no items are given")
        first = items[0]
        form = (getattr(first, "shape", None), getattr(first, "dtype", bytes))
        try:
            if form not in self._plans:
                declared = self.model.preprocessing
                self._plans[form] = plan_feeds(self.inputs, declared, first, self.settings.batch)
            plan = self._plans[form]
            most = max(1, plan.batch)
            if len(items) > most:
                raise InputError(
                    f"{self.model.name} takes at most {most} items a request, not {len(items)}"
                )
            tensors = item_feed(self.inputs, plan, list(items))
        except AnalysisError as error:
            raise InputError(f"{self.model.name}: {error.message}", hint=error.hint) from error
        padded = plan.batch if plan.fixed and plan.batch > len(items) else None
        return Feed(tensors, len(items), padded)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, Array]:
        """The outputs by name. feed : of this predictor's `check` or `feed_items`.

        The arrays own their memory: those ONNX Runtime returns keep the whole session's alive.
        Raises CancelledError once it is cancelled, InputError when the model fails on this input.
        """
        session = self._session
        if session is None:
            raise AnalysisError(f"{self.model.name} is not loaded any more")
        options = None if cancellation is None else cancellation.options
        try:
            if self._bound:
                found = run_bound(session, feed.tensors, self._names, self.settings, options)
            else:
                found = self._run(self._names, feed.tensors, options)
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            if cancellation is not None and cancellation.cancelled:
                raise CancelledError(f"{self.model.name}: the request was cancelled") from None
            raise InputError(
                f"{self.model.name} failed on its input: {first_line(error)}"
            ) from error
        outputs: dict[str, Array] = {}
        for name, value in zip(self._names, found, strict=True):  # a comprehension is a call more
            plain = feed.padded is None and type(value) is np.ndarray
            outputs[name] = value.copy() if plain else _owned(value, feed)
        return outputs

    def warm_up(self) -> None:
        """Run made-up inputs once: the first run maps pages and takes twice as long (runtime.md 4).

        Nothing happens where no input can be made up. Raises AnalysisError if the model fails.
        """
        assert self._session is not None, "it is loaded"
        if self.prepared.preparation.run_ms is None:
            return
        inputs = warm_up_inputs(self._session, 1)
        cancellation = Cancellation()
        timer = threading.Timer(WARM_UP_S, cancellation.cancel)
        timer.daemon = True
        timer.start()
        started = time.perf_counter()
        try:
            self.run(Feed(inputs, 1), cancellation)
        except (CancelledError, InputError) as error:
            raise AnalysisError(f"the first run failed: {error.message}") from error
        finally:
            timer.cancel()
        self.first_run_ms = (time.perf_counter() - started) * 1e3

    def close(self) -> None:
        """Let the session go. The memory is the system's again after `give_back_memory`."""
        self._session = self._run = None


def open_predictor(
    cache: SessionCache,
    model: ServedModel,
    settings: SessionSettings,
    prepared: PreparedModel | None = None,
) -> Predictor:
    """A model that was prepared, loaded and run once: ready for requests.

    prepared : what the cache said just now. A saved session that does not load is made again.
    Raises AnalysisError, RejectedModelError.
    """
    prepared = prepared or cache.prepare(model, settings)
    try:
        predictor = Predictor(model, prepared, settings)
    except AnalysisError as error:
        if prepared.weights is None:
            raise
        logger.warning("the saved session of %s does not load: %s", model.name, error.message)
        cache.discard(prepared.key)
        predictor = Predictor(model, cache.prepare(model, settings), settings)
    try:
        predictor.warm_up()
    except AnalysisError:
        predictor.close()  # the error's traceback would keep it
        raise
    return predictor


def run_bound(
    session: InferenceSession,
    tensors: Mapping[str, Array],
    outputs: Sequence[str],
    settings: SessionSettings,
    options: Any = None,
) -> list[Array]:
    """Outputs of a run whose tensors are bound to a device, so that each is copied once."""
    number = settings.device.partition(":")[2]
    kind = "cpu" if settings.on_cpu else "cuda"
    binding = session.io_binding()
    for name, value in tensors.items():
        binding.bind_cpu_input(name, value)
    for name in outputs:
        binding.bind_output(name, kind, int(number or 0))
    session.run_with_iobinding(binding, options)
    found: list[Array] = binding.copy_outputs_to_cpu()
    return found


def _owned(value: Any, feed: Feed) -> Array:
    """A copy, without the samples that only fill up a fixed batch."""
    array = np.asarray(value)
    if feed.padded is not None and array.ndim and array.shape[0] == feed.padded:
        array = array[: feed.samples]
    return array if array.flags.owndata else array.copy()
