"""A graph as the layers that Arora et al. 2018 speak of: x^i = A^i phi(x^{i-1}).

The spine of the graph (algorithms.md B.1) is cut at its linear operators. What lies between two of
them is the activation phi, pooling by maxima included; means of windows are linear and belong to
the layer they feed. A residual block is taken for one layer, its matrix being its Jacobian: the
quantities are defined then, and no theorem covers them, which is noted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sommelier.analysis.graph import Node
from sommelier.analysis.segments.linear import Region, linearise
from sommelier.analysis.segments.normal_form import NormalForm, Operator
from sommelier.errors import AnalysisError

ISOMETRIC = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "Pad", "Slice"})
POOLS = frozenset({"AveragePool", "MaxPool"})
SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
ELEMENTWISE = frozenset({"BatchNormalization", "PRelu", "Add", "Sub", "Mul", "Div", "Clip",
                         "LayerNormalization", "InstanceNormalization"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. entry, exit : the tensors phi(x^{i-1}) and x^i.

    weight_norm : Frobenius norm of the stored weights as they act; None where it is that of a
    Jacobian. windows : ceil(filter width / stride), 1 for vectors. channel_axis : of the exit.
    """

    name: str
    kind: str
    entry: str
    exit: str
    weight_norm: float | None
    windows: int
    channel_axis: int


@dataclass(frozen=True, slots=True)
class Chain:
    """The layers in order. logits : f(x). uncovered : why no theorem is about this network."""

    layers: tuple[Layer, ...]
    logits: str
    convolutional: bool
    uncovered: tuple[str, ...]


def chain(form: NormalForm) -> Chain:
    """The layers of a classifier.

    Raises AnalysisError for several outputs, and where no operator of the spine has weights.
    """
    if len(form.outputs) != 1 or len(form.inputs) != 1:
        raise AnalysisError(
            f"the spectral bound is about one input and one output of logits; this model has "
            f"{len(form.inputs)} and {len(form.outputs)}"
        )
    return _Walk(form).chain()


@dataclass(slots=True)
class _Walk:
    """Goes along the spine. entry : last tensor that an activation made; since : operators after
    it; behind : operators after the last layer."""

    form: NormalForm
    layers: list[Layer] = field(default_factory=list)
    uncovered: dict[str, None] = field(default_factory=dict)
    entry: str = ""
    since: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)

    def chain(self) -> Chain:
        self.entry = self.form.inputs[0]
        region: tuple[int, ...] = ()
        for item in linearise(self.form).items:
            if isinstance(item, Region):
                region = item.operators
                continue
            self._step(item.operator, region)
            region = ()
        if region or not self.layers:
            raise AnalysisError(
                "the spectral bound needs a chain of layers; this graph has none",
                hint="every path through the graph must pass a Conv, Gemm or MatMul with weights",
            )
        names = [self.form.operators[i].op for i in self.behind]
        while names and names[-1] in SOFTMAX:
            names.pop()
        if any(name not in ISOMETRIC for name in names):
            self.uncovered[f"operators after the last layer ({', '.join(names)})"] = None
        last = self.behind[len(names) - 1] if names else None
        logits = self.layers[-1].exit if last is None else self.form.operators[last].outputs[0]
        operators = self.form.operators
        convolutional = any(o.affine is not None and o.affine.kind == "Conv" for o in operators)
        return Chain(tuple(self.layers), logits, convolutional, tuple(self.uncovered))

    def _step(self, position: int, region: tuple[int, ...]) -> None:
        operator = self.form.operators[position]
        inside = (*region, position)
        learned = any(self._heavy(self.form.operators[i]) for i in inside)
        self.since.extend(inside)
        if learned:
            self._add(operator, block=bool(region) or operator.affine is None)
            return
        self.behind.append(position)
        if region or operator.op not in ISOMETRIC | MEANS:
            self._note_activation(operator)
            self.entry, self.since = operator.outputs[0], []

    def _heavy(self, operator: Operator) -> bool:
        """Whether it is a layer or part of one, and not a scale and shift of an activation."""
        return operator.affine is not None or (
            bool(operator.slots) and operator.op not in ELEMENTWISE
        )

    def _note_activation(self, operator: Operator) -> None:
        if operator.slots:
            self.uncovered[f"{operator.op} that is not part of a layer"] = None
        elif operator.op not in {"Relu", "MaxPool", *SOFTMAX}:
            self.uncovered[f"activation other than ReLU ({operator.op})"] = None
        elif operator.op == "MaxPool":
            self.uncovered["pooling"] = None

    def _add(self, operator: Operator, *, block: bool) -> None:
        operators = [self.form.operators[i] for i in self.since]
        affine = [o.affine for o in operators if o.affine is not None]
        pooled = any(o.op in MEANS for o in operators)
        if block:
            self.uncovered["blocks taken for layers (residual or branched)"] = None
        elif pooled:
            self.uncovered["pooling"] = None
        if any(one.has_bias for one in affine):
            self.uncovered["biases"] = None
        norm = None
        if not block and not pooled and operator.affine is not None:
            weight, _ = operator.affine.acting(self.form.constants)
            norm = float(np.linalg.norm(weight.astype(np.float64)))
        axis = 1 if affine and affine[-1].kind == "Conv" else -1
        kind = "block" if block else f"mean, {operator.op}" if pooled else operator.op
        self.layers.append(
            Layer(
                self.form.title(operator), kind, self.entry, operator.outputs[0], norm,
                _windows(self.form, self.entry, operators) if axis == 1 else 1, axis,
            )
        )  # fmt: skip
        self.entry, self.since, self.behind = operator.outputs[0], [], []


def _windows(form: NormalForm, entry: str, operators: Sequence[Operator]) -> int:
    """ceil(width / stride) of the whole layer: width that one output sees, steps between them."""
    seen = {entry: (1, 1)}
    width, stride = 1, 1
    for operator in operators:
        known = [seen[name] for name in operator.inputs if name in seen]
        width = max((w for w, _ in known), default=1)
        stride = max((s for _, s in known), default=1)
        for node in (form.graph.nodes[i] for i in operator.nodes):
            sides = _sides(form, node)
            if sides is not None:
                width += (sides[0] - 1) * stride
                stride *= sides[1]
        seen.update((name, (width, stride)) for name in operator.outputs)
    return math.ceil(width / stride)


def _sides(form: NormalForm, node: Node) -> tuple[int, int] | None:
    """(width, stride) of a window, dilation included; the larger one where sides differ."""
    if node.op == "Conv":
        _, shape = form.constants.dtype_and_shape(node.inputs[1])
        kernel = [int(d or 1) for d in (shape or ())[2:]]
    elif node.op in POOLS:
        kernel = list(node.attributes.get("kernel_shape") or [1])
    else:
        return None
    dilations = node.attributes.get("dilations") or [1] * len(kernel)
    wide = max((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    return wide, max(node.attributes.get("strides") or [1])
