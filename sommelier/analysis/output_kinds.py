"""What kind of answer a model gives, guessed from its graph when nobody declares it.

The guess decides how two answers are compared, so the record says that it is one. Rules: issue
part 3; algorithms.md A.1 step 3.
"""

from __future__ import annotations

import re

from sommelier.analysis.graph import Graph, Node
from sommelier.records import Dim, OutputKind, TensorSpec

_DETECTION_NAMES = re.compile(
    r"(^|[^a-z])(boxes|bbox|box|loc|anchors?|detections?)([^a-z]|$)", re.I
)
_DETECTION_TASKS = ("detect", "yolo", "ssd")
_EMBEDDING_NAMES = re.compile(r"embed|feature|hidden_state|pooler|descriptor|latent", re.I)
_REGRESSION_TASKS = ("regress", "pose", "pitch", "age", "quality", "depth")
_EMBEDDING_TASKS = ("embed", "feature", "retrieval", "similarity", "re-identification")
_SEQUENCE_TASKS = ("token", "translation", "generation", "speech-recognition", "ctc", "ocr")
_SCORES = frozenset({"Softmax", "LogSoftmax", "QLinearSoftmax"})
_TRANSPARENT = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear",
     "DequantizeLinear", "Transpose"}
)  # fmt: skip
COCO_CHANNELS = 85  # four sides, an objectness and 80 classes in one cell


def infer_output_kind(
    graph: Graph, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], *, task: str = ""
) -> OutputKind:
    """The kind of the first output, or of the outputs together (boxes beside scores)."""
    task = task.lower()
    answers = [spec for spec in outputs if not _is_state(spec, inputs)] or list(outputs)
    if _detects(answers, task):
        return OutputKind.DETECTION
    if any(node.domain == "ai.onnx.ml" and "Classifier" in node.op for node in graph.nodes):
        return OutputKind.CLASSIFICATION
    first = answers[0]
    shape, ends = first.shape, _last_operators(graph, first.name)
    if first.dtype == "str" or (_integral(first) and _no_scores(ends, first)):
        return OutputKind.CLASS_IDS
    by_task = _by_task(task, shape)
    if by_task is not None:
        return by_task
    if shape is None:
        return OutputKind.CLASSIFICATION if ends & _SCORES else OutputKind.UNKNOWN
    if _EMBEDDING_NAMES.search(first.name) or "LpNormalization" in ends:
        return OutputKind.EMBEDDING
    if _scaled(graph, ends, first.name) and not ends & _SCORES:
        return OutputKind.REGRESSION
    return _by_shape(shape, ends, inputs)


def class_count(outputs: tuple[TensorSpec, ...], kind: OutputKind) -> int | None:
    """Scores in a classifier's answer (its last axis longer than 1); None when not a classifier."""
    if kind is not OutputKind.CLASSIFICATION:
        return None
    for spec in outputs:
        axes = [d for d in (spec.shape or ())[1:] if d != 1]
        if len(axes) == 1 and isinstance(axes[0], int) and spec.dtype != "str":
            return axes[0]
    return None


def _detects(outputs: list[TensorSpec], task: str) -> bool:
    if any(word in task for word in _DETECTION_TASKS):
        return True
    if len(outputs) > 1:
        return any(
            _DETECTION_NAMES.search(spec.name) is not None
            or (spec.shape is not None and len(spec.shape) == 3 and spec.shape[2] == 4)
            for spec in outputs
        )
    shape = outputs[0].shape
    return bool(shape and len(shape) >= 3 and shape[1] == COCO_CHANNELS)


def _is_state(spec: TensorSpec, inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether an output goes back in at the next step: same type and shape as a later input."""
    return len(inputs) > 1 and any(
        item.shape == spec.shape and item.dtype == spec.dtype and item.shape for item in inputs[1:]
    )


def _integral(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("int", "uint"))


def _no_scores(ends: set[str], spec: TensorSpec) -> bool:
    """Integers that are class ids: an ArgMax at the end, or 64-bit without a class axis."""
    if ends & {"ArgMax", "TopK", "ArgMin"}:
        return True
    if spec.dtype in ("int8", "uint8") or "QuantizeLinear" in ends:
        return False  # quantised scores
    return spec.shape is None or len(spec.shape) <= 2


def _by_task(task: str, shape: tuple[Dim, ...] | None) -> OutputKind | None:
    if "classif" in task and (shape is None or len(shape) <= 2):
        return OutputKind.CLASSIFICATION
    for words, kind in (
        (_EMBEDDING_TASKS, OutputKind.EMBEDDING),
        (_REGRESSION_TASKS, OutputKind.REGRESSION),
        (_SEQUENCE_TASKS, OutputKind.SEQUENCE),
    ):
        if any(word in task for word in words):
            return kind
    return None


def _by_shape(shape: tuple[Dim, ...], ends: set[str], inputs: tuple[TensorSpec, ...]) -> OutputKind:
    wide = [axis for axis in shape[1:] if axis != 1]
    if len(wide) == 0:
        return OutputKind.REGRESSION  # one number an input
    if len(shape) == 3 and len(wide) == 2:
        stepwise = any(len(i.shape or ()) <= 3 for i in inputs)
        return OutputKind.SEQUENCE if stepwise or ends & _SCORES else OutputKind.UNKNOWN
    if len(wide) == 1 and isinstance(wide[0], str) and wide[0].strip("?"):
        return OutputKind.SEQUENCE  # a named open axis counts steps; classes are never open
    if len(wide) == 1 and (len(shape) == 2 or ends & _SCORES or set(shape[2:]) == {1}):
        return OutputKind.CLASSIFICATION
    return OutputKind.UNKNOWN


def _scaled(graph: Graph, ends: set[str], name: str) -> bool:
    """Whether the answer is squeezed or stretched to a range: Tanh, or times a stored number."""
    if "Tanh" in ends:
        return True
    maker = next((node for node in graph.nodes if name in node.outputs), None)
    factors = [] if maker is None or maker.op != "Mul" else maker.inputs
    return any(n in graph.weights and graph.tensor(n).elements == 1 for n in factors)


def _last_operators(graph: Graph, name: str) -> set[str]:
    """What computes an output: the operators met going back over changes of form only."""
    makers: dict[str, Node] = {out: node for node in graph.nodes for out in node.outputs}
    met: set[str] = set()
    while (node := makers.get(name)) is not None:
        met.add(node.op)
        if node.op not in _TRANSPARENT or not node.inputs:
            break
        name = node.inputs[0]
    return met
