"""A model as layers that people would count: Conv with bias, normalisation and activation is one.

Built on the normal form of `analysis.segments`, so shape arithmetic, dequantised weights and no-ops
are gone. Changes of layout, form and precision carry a layer's values on and are no layers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sommelier.analysis.differences.families import (
    ACTIVATIONS,
    CARRIERS,
    FOLLOWING,
    family,
    word,
)
from sommelier.analysis.differences.quantised_tensors import Scale, Scales
from sommelier.analysis.segments.normal_form import NormalForm, Operator, digest

INTEGERS = frozenset({2, 3, 4, 5, 6, 12, 13})  # onnx element types that can hold quantised values
REALS = frozenset({1, 10, 11, 16})
NAME_LENGTH = 28
UNKNOWN_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor that can be looked at. scale : what its integers stand for. after : the words of
    the operators up to there. nbytes : of one sample as float64, a guess where unknown.
    batched : its first axis is the samples'."""

    tensor: str
    scale: Scale | None
    after: tuple[str, ...]
    nbytes: int
    batched: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. taps : its values after the operator, after its activation, ...; the last one is
    what later layers read. weight : shape of its matrix as it acts, None without one. before,
    after : positions of the layers it reads and that read it. operators : of the normal form."""

    name: str
    kind: str
    family: str
    taps: tuple[Tap, ...]
    weight: tuple[int | None, ...] | None
    before: tuple[int, ...]
    after: tuple[int, ...]
    operators: tuple[int, ...]


@dataclass(slots=True)
class _Draft:
    operators: list[int]
    words: list[str]
    taps: list[Tap] = field(default_factory=list)
    before: tuple[int, ...] = ()


def layers_of(form: NormalForm) -> tuple[Layer, ...]:
    """The model's layers, each after those it reads, in an order that does not depend on the
    order in which the file states parallel branches."""
    return _Builder(form).build()


def layer_name(form: NormalForm, operator: Operator) -> str:
    """What the file calls the first node of an operator; what it makes where nodes have no names.

    The last node of a matrix product with bias is an addition, which nobody looks for.
    """
    node = form.graph.nodes[operator.nodes[0]]
    return node.name or next((name for name in node.outputs if name), node.op)


def short_name(name: str) -> str:
    """The part of an operator's name that tells it from others, at most 28 characters."""
    last = name.split(";")[-1]
    return last if len(last) <= NAME_LENGTH else f"..{last[-NAME_LENGTH + 2 :]}"


class _Builder:
    def __init__(self, form: NormalForm) -> None:
        self.form = form
        self.scales = Scales(form.graph, form.constants)
        self.source: dict[str, int] = {}  # tensor -> draft whose values it holds
        self.current: dict[int, str] = {}  # draft -> tensor that later operators read
        self.settings: set[str] = set()  # scales that are computed while the model runs
        self.drafts: list[_Draft] = []

    def build(self) -> tuple[Layer, ...]:
        reads = self._reading_counts()
        for i, operator in enumerate(self.form.operators):
            node = self.form.graph.nodes[operator.nodes[-1]]
            data = [name for name in operator.inputs if name not in self.settings]
            if operator.inputs and not data:
                self.settings.update(operator.outputs)
            elif node.op in CARRIERS and data:
                self._carry(operator, data[0])
            else:
                self._take(i, operator, data, reads)
        return self._ordered()

    def _reading_counts(self) -> dict[str, int]:
        """How many operators that are no carriers read the values of each tensor."""
        form = self.form
        through: dict[str, str] = {}
        settings: set[str] = set()
        counts: defaultdict[str, int] = defaultdict(int)
        for operator in form.operators:
            node = form.graph.nodes[operator.nodes[-1]]
            if node.op == "DynamicQuantizeLinear":
                settings.update(operator.outputs[1:])
            carries = node.op in CARRIERS and bool(operator.inputs)
            if carries and operator.outputs:
                first = operator.inputs[0]
                through[operator.outputs[0]] = through.get(first, first)
                continue
            for name in dict.fromkeys(operator.inputs):
                counts[through.get(name, name)] += name not in settings
        for name in form.outputs:
            counts[through.get(name, name)] += 1
        return counts

    def _carry(self, operator: Operator, source: str) -> None:
        made = operator.outputs[0] if operator.outputs else ""
        node = self.form.graph.nodes[operator.nodes[-1]]
        if node.op == "DynamicQuantizeLinear":
            self.settings.update(name for name in node.outputs[1:] if name)
        draft = self.source.get(source)
        if draft is None or not made:
            return  # carries an input of the model
        self.source[made] = draft
        if node.op == "QuantizeLinear":
            self._tap(draft, made, replace=True)

    def _take(self, i: int, operator: Operator, data: list[str], reads: dict[str, int]) -> None:
        node = self.form.graph.nodes[operator.nodes[0]]
        before = dict.fromkeys(self.source[name] for name in data if name in self.source)
        what = word(node, self.form.graph)
        own = family(node, self.form.graph)
        follows = len(set(data)) == 1 and data[0] in self.source and own in FOLLOWING
        if follows and (own in ACTIVATIONS or operator.slots or self._matrix(data[0])):
            draft = self.source[data[0]]
            if reads[self.current[draft]] <= 1:
                self.drafts[draft].operators.append(i)
                self.drafts[draft].words.append(what)
                self._made(draft, operator)
                return
        self.drafts.append(_Draft([i], self._words(operator, what), before=tuple(before)))
        self._made(len(self.drafts) - 1, operator)

    def _matrix(self, name: str) -> bool:
        """Whether the layer's integer sums still wait for their scale."""
        draft = self.drafts[self.source[name]]
        first = self.form.operators[draft.operators[0]]
        return self.form.graph.nodes[first.nodes[0]].op in ("MatMulInteger", "ConvInteger")

    def _words(self, operator: Operator, what: str) -> list[str]:
        if operator.affine is None:
            return [what]
        words = [operator.op]
        if operator.affine.norm is not None:
            words.append("BatchNorm")
        return words

    def _made(self, draft: int, operator: Operator) -> None:
        for name in operator.outputs:
            self.source[name] = draft
        if operator.outputs:
            self.current[draft] = operator.outputs[0]
            self._tap(draft, operator.outputs[0], replace=False)

    def _tap(self, draft: int, tensor: str, *, replace: bool) -> None:
        dtype, shape = self.form.kind(tensor)
        scale = self.scales.of(tensor) if dtype in INTEGERS else None
        if dtype not in REALS and scale is None:
            return
        drafted = self.drafts[draft]
        if replace and drafted.taps:
            drafted.taps.pop()
        batched = shape is not None and len(shape) > 0 and shape[0] == 1
        drafted.taps.append(Tap(tensor, scale, tuple(drafted.words), _nbytes(shape), batched))

    def _ordered(self) -> tuple[Layer, ...]:
        """Depth first from the outputs; of operands that may change places the deepest first."""
        families = [self._family(d) for d in self.drafts]
        labels, depth = self._labels(families)
        order: list[int] = []
        seen: set[int] = set()
        ends = [self.source[name] for name in self.form.outputs if name in self.source]
        stack = [(d, False) for d in reversed(list(dict.fromkeys(ends)))]
        while stack:
            draft, done = stack.pop()
            if done:
                order.append(draft)
                continue
            if draft in seen:
                continue
            seen.add(draft)
            stack.append((draft, True))
            before = list(self.drafts[draft].before)
            if self.form.operators[self.drafts[draft].operators[0]].commutative:
                before.sort(key=lambda d: (-depth[d], labels[d]))
            stack.extend((d, False) for d in reversed(before) if d not in seen)
        return self._finished([d for d in order if self.drafts[d].taps], families)

    def _family(self, draft: _Draft) -> str:
        operator = self.form.operators[draft.operators[0]]
        return family(self.form.graph.nodes[operator.nodes[0]], self.form.graph)

    def _labels(self, families: Sequence[str]) -> tuple[list[str], list[int]]:
        labels: list[str] = []
        depth: list[int] = []
        for i, draft in enumerate(self.drafts):
            known = sorted(labels[d] for d in draft.before)
            labels.append(digest(families[i], self._weight(draft), known))
            depth.append(1 + max((depth[d] for d in draft.before), default=0))
        return labels, depth

    def _weight(self, draft: _Draft) -> tuple[int | None, ...] | None:
        """The matrix's shape, outputs first and axes of length 1 left out."""
        form = self.form
        operator = form.operators[draft.operators[0]]
        if operator.affine is not None:
            shape = operator.affine.weight_kind(form.constants)[1]
            turned = operator.affine.kind == "Linear"
        else:
            shapes = [form.constants.dtype_and_shape(s.tensor)[1] or () for s in operator.slots]
            if not shapes:
                return None
            shape = max(shapes, key=len)
            turned = "MatMul" in form.graph.nodes[operator.nodes[0]].op
        shape = tuple(reversed(shape)) if turned else shape
        return tuple(d for d in shape if d != 1)

    def _finished(self, order: list[int], families: Sequence[str]) -> tuple[Layer, ...]:
        place = {draft: k for k, draft in enumerate(order)}
        after: defaultdict[int, list[int]] = defaultdict(list)
        before: dict[int, tuple[int, ...]] = {}
        for draft in order:
            found = dict.fromkeys(place[d] for d in self._reached(draft) if d in place)
            before[draft] = tuple(found)
            for k in found:
                after[k].append(place[draft])
        return tuple(
            Layer(
                layer_name(self.form, self.form.operators[self.drafts[d].operators[0]]),
                "+".join(self.drafts[d].words), families[d], tuple(self.drafts[d].taps),
                self._weight(self.drafts[d]), before[d], tuple(after[place[d]]),
                tuple(self.drafts[d].operators),
            )
            for d in order
        )  # fmt: skip

    def _reached(self, draft: int) -> list[int]:
        """The layers it reads; through those that have nothing to look at to the ones before."""
        found: list[int] = []
        stack = list(reversed(self.drafts[draft].before))
        seen: set[int] = set()
        while stack:
            d = stack.pop()
            if d in seen:
                continue
            seen.add(d)
            if self.drafts[d].taps:
                found.append(d)
            else:
                stack.extend(reversed(self.drafts[d].before))
        return found


def _nbytes(shape: tuple[int | None, ...] | None) -> int:
    if shape is None or None in shape:
        return UNKNOWN_BYTES
    return 8 * math.prod(d for d in shape if d is not None)
