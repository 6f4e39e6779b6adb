"""One model, run once over a probe set: the only pass that comparing it with all others costs.

`answer_probes` is what a worker process runs (sandbox.py); everything that goes wrong there is an
AnalysisError whose message is recorded on the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.answers import AnswerCollector, Collector, ModelAnswers, OutputCollector
from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.model_inputs import FeedPlan, feeds, plan_feeds, tensor_spec
from sommelier.analysis.probes import Probes
from sommelier.errors import AnalysisError, MissingDependencyError
from sommelier.records import OutputKind, OutputSketch, Preprocessing, TensorSpec

BATCH = 64
T = TypeVar("T")
OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a worker process needs to know to run one model; plain values that can be sent."""

    model_path: Path
    output_kind: OutputKind
    preprocessing: Preprocessing | None
    probes: Probes
    batch: int = BATCH
    threads: int = 1


def answer_probes(request: RunRequest) -> ModelAnswers:
    """The model's answers to every probe. Raises AnalysisError with the reason if it has none."""
    if request.probes.dataset is None:
        return answer_items(request, None)
    # the content was verified when the statement was planned
    with datasets.reopen(request.probes.dataset, verify=False) as items:
        return answer_items(request, items)


def answer_items(request: RunRequest, items: LoadedDataset | None) -> ModelAnswers:
    """The same for an open dataset (None for synthetic probes).

    Runs in batches where the model's first axis is dynamic, and one by one where it is fixed at 1
    or where a larger batch fails.
    """
    started = time.perf_counter()
    answers, assumed = _collect(
        request, items, lambda names: AnswerCollector(request.output_kind, names)
    )
    seconds = time.perf_counter() - started
    return replace(answers, assumed_preprocessing=assumed, seconds=seconds)


def output_items(request: RunRequest, items: LoadedDataset | None) -> dict[str, NDArray[Any]]:
    """Every output of every probe as the model gives it, (n, ...) by name; recurrent states left
    out. All of them are kept in memory."""
    return _collect(request, items, OutputCollector)[0]


def _collect(
    request: RunRequest, items: LoadedDataset | None, collector: Callable[[list[str]], Collector[T]]
) -> tuple[T, bool]:
    """What the collector made of all runs, and whether the preprocessing was assumed."""
    session = open_session(request.model_path, request.threads)
    inputs = tuple(tensor_spec(node) for node in session.get_inputs())
    names = [node.name for node in session.get_outputs()]
    first = None if items is None else items.item(_first_index(request.probes))
    plan = plan_feeds(inputs, request.preprocessing, first, request.batch)
    try:
        found = _run(session, inputs, plan, request, items, collector(names))
    except _BatchRefusedError:
        single = replace(plan, batch=1)
        found = _run(session, inputs, single, request, items, collector(names))
    return found, plan.preprocessing is not None and plan.preprocessing.assumed


def sketch_of(
    answers: ModelAnswers, *, model_id: str, probes: Probes, label_space_id: str | None
) -> OutputSketch:
    """The answers as the record the catalog stores."""
    ids, scores = answers.topk_ids, answers.topk_scores
    return OutputSketch(
        model_id=model_id,
        probe_set_id=probes.record.id,
        kind=answers.kind,
        answers=answers.answers.tobytes(),
        width=answers.width,
        exact=answers.exact,
        label_space_id=label_space_id if answers.kind == "labels" else None,
        classes=answers.classes,
        topk_ids=None if ids is None else ids.astype(np.uint32).tobytes(),
        topk_scores=None if scores is None else scores.astype(np.float16).tobytes(),
        failures=answers.failures,
    )


def open_session(model: Path | bytes, threads: int) -> Any:
    """An ONNX Runtime session on the CPU, of a file or of a serialised model.

    Raises AnalysisError when it does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "running models needs ONNX Runtime", hint="pip install 'sommelier-db[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come back as exceptions
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise AnalysisError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error


class _BatchRefusedError(AnalysisError):
    """A run of several samples failed; one sample may still work."""


def _run(
    session: Any,
    inputs: tuple[TensorSpec, ...],
    plan: FeedPlan,
    request: RunRequest,
    items: LoadedDataset | None,
    collector: Collector[T],
) -> T:
    for feed, count in feeds(inputs, plan, request.probes, items):
        try:
            outputs = session.run(None, feed)
        except Exception as error:  # as above
            if any(sign in str(error) for sign in OUT_OF_MEMORY) and plan.batch <= 1:
                raise MemoryError from error
            retry = plan.batch > 1 and not plan.fixed
            kind = _BatchRefusedError if retry else AnalysisError
            raise kind(f"the model failed on its input: {_first_line(error)}") from error
        collector.add(outputs, count, single=plan.batch <= 1)
    return collector.result()


def _first_index(probes: Probes) -> int:
    return int(probes.indices[0]) if probes.indices is not None else 0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
