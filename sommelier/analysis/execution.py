"""One model, run once over a probe set: the only pass that comparing it with all others costs.

`answer_probes` is what a worker process runs (sandbox.py); everything that goes wrong there is an
AnalysisError whose message is recorded on the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.answers import AnswerCollector, Collector, ModelAnswers, OutputCollector
from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.model_inputs import Feed, FeedPlan, feeds, plan_feeds, tensor_spec
from sommelier.analysis.probes import Probes
from sommelier.errors import AnalysisError, MissingDependencyError, first_line
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


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model in memory that takes the items of one dataset; see `open_model`.

    outputs : their names. items : the open dataset, None for synthetic probes.
    """

    session: Any
    inputs: tuple[TensorSpec, ...]
    outputs: list[str]
    plan: FeedPlan
    items: LoadedDataset | None

    def feeds(self, probes: Probes) -> Iterator[tuple[Feed, int]]:
        """(feed, samples in it) as the model takes the probes."""
        return feeds(self.inputs, self.plan, probes, self.items)

    def run(self, probes: Probes, collector: Callable[[list[str]], Collector[T]]) -> T:
        """What a collector makes of the outputs for these probes. collector : makes a new one.

        The samples are run one by one where a batch of them fails. Raises AnalysisError when the
        model fails on an input, MemoryError when one sample is too much.
        """
        try:
            return self._collected(probes, collector(self.outputs))
        except _BatchRefusedError:
            single = replace(self, plan=replace(self.plan, batch=1))
            return single._collected(probes, collector(self.outputs))

    def _collected(self, probes: Probes, collector: Collector[T]) -> T:
        single = self.plan.batch <= 1
        for feed, count in self.feeds(probes):
            try:
                outputs = self.session.run(None, feed)
            except Exception as error:  # ONNX Runtime has no common base class for its errors
                if any(sign in str(error) for sign in OUT_OF_MEMORY) and single:
                    raise MemoryError from error
                kind = AnalysisError if single or self.plan.fixed else _BatchRefusedError
                raise kind(f"the model failed on its input: {first_line(error)}") from error
            collector.add(outputs, count, single=single)
        return collector.result()


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
    model = open_model(request, items)
    answers = model.run(request.probes, partial(AnswerCollector, request.output_kind))
    seconds = time.perf_counter() - started
    preprocessing = model.plan.preprocessing
    assumed = preprocessing is not None and preprocessing.assumed
    return replace(answers, assumed_preprocessing=assumed, seconds=seconds)


def output_items(request: RunRequest, items: LoadedDataset | None) -> dict[str, NDArray[Any]]:
    """Every output of every probe as the model gives it, (n, ...) by name; recurrent states left
    out. All of them are kept in memory."""
    return open_model(request, items).run(request.probes, OutputCollector)


def open_model(request: RunRequest, items: LoadedDataset | None) -> OpenModel:
    """The request's model, ready for the items its probes are of (None for synthetic probes).

    The first probe decides which input the items go to. Raises AnalysisError when the file does
    not load or no input takes such an item.
    """
    session = open_session(request.model_path, request.threads)
    inputs = tuple(tensor_spec(node) for node in session.get_inputs())
    outputs = [node.name for node in session.get_outputs()]
    indices = request.probes.indices
    first = None if items is None else items.item(0 if indices is None else int(indices[0]))
    plan = plan_feeds(inputs, request.preprocessing, first, request.batch)
    return OpenModel(session, inputs, outputs, plan, items)


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
        raise AnalysisError(f"ONNX Runtime cannot load the model: {first_line(error)}") from error


class _BatchRefusedError(AnalysisError):
    """A run of several samples failed; one sample may still work."""
