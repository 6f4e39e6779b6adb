"""That two models are one architecture, operator by operator, and where their head begins.

Models are paired in the order of their files, as one exporter writes one architecture; what differs
first is the reason for a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.analysis.segments.canonical import canonical
from sommelier.analysis.segments.normal_form import NormalForm, Operator
from sommelier.errors import AnalysisError

FLOATING = (1, 10, 11)  # ONNX element types: float, float16, double


@dataclass(frozen=True, slots=True)
class Counterparts:
    """What of one model stands for what of another. operators : how many are paired, the first.

    weights : constant -> constant, all that are learned. tensors : of activations.
    """

    operators: int
    weights: dict[str, str]
    tensors: dict[str, str]


def head_start(form: NormalForm) -> int:
    """The position of the last operator that learned something: the head, with all behind it.

    Raises AnalysisError for several answers, nothing learned, and a head that reads more than one
    tensor.
    """
    learned = [i for i, operator in enumerate(form.operators) if operator.slots]
    if len(form.outputs) != 1 or not learned:
        raise AnalysisError(
            f"a model with {len(form.outputs)} answers and {len(learned)} learned operators has no "
            "trunk that could be merged"
        )
    start = learned[-1]
    made = {name for operator in form.operators[:start] for name in operator.outputs}
    read = {n for operator in form.operators[start:] for n in operator.inputs}
    outside = read & (made | set(form.inputs))
    if len(outside) != 1:
        raise AnalysisError(
            f"its head reads {len(outside)} tensors ({', '.join(sorted(outside))}), where one is "
            "the trunk's"
        )
    return start


def counterparts(
    ours: NormalForm, theirs: NormalForm, names: tuple[str, str], *, heads: bool
) -> Counterparts:
    """The pairing of two models of one architecture. heads : also of what begins at `head_start`.

    names : of the models, for the message of the AnalysisError that says where they differ.
    """
    for form, name in zip((ours, theirs), names, strict=True):
        if form.quantised:
            raise AnalysisError(
                f"'{name}' is quantised: its numbers cannot be averaged", hint="merge float models"
            )
    if len(ours.inputs) != len(theirs.inputs):
        raise _different(names, f"{len(ours.inputs)} inputs in one, {len(theirs.inputs)} in other")
    ends = [len(f.operators) if heads else head_start(f) for f in (ours, theirs)]
    found = Counterparts(ends[0], {}, dict(zip(ours.inputs, theirs.inputs, strict=True)))
    for place in range(max(ends)):
        if place >= min(ends):
            longer = names[0] if ends[0] > ends[1] else names[1]
            raise _different(names, f"'{longer}' has {abs(ends[0] - ends[1])} operators more")
        a, b = ours.operators[place], theirs.operators[place]
        if not _alike(ours, a, theirs, b) or not _fits(a, b, found.tensors):
            text = f"operator {place + 1} is {_titled(ours, a)} in one and {_titled(theirs, b)} in"
            raise _different(names, f"{text} the other")
        _pair(ours, a, theirs, b, found)
    return found


def _alike(ours: NormalForm, a: Operator, theirs: NormalForm, b: Operator) -> bool:
    if a.symbol == b.symbol:
        return True
    skeleton = _skeleton(ours, a)
    return skeleton is not None and skeleton == _skeleton(theirs, b)


def _fits(ours: Operator, theirs: Operator, tensors: dict[str, str]) -> bool:
    """Whether they read the same tensors and store the same weights."""
    read, wanted = [tensors.get(name, "") for name in ours.inputs], list(theirs.inputs)
    if ours.commutative:
        read, wanted = sorted(read), sorted(wanted)
    forms = [o.affine.form if o.affine else None for o in (ours, theirs)]
    return read == wanted and forms[0] == forms[1] and len(ours.slots) == len(theirs.slots)


def _pair(
    ours: NormalForm, a: Operator, theirs: NormalForm, b: Operator, found: Counterparts
) -> None:
    for slot, other in zip(a.slots, b.slots, strict=True):
        if found.weights.setdefault(slot.tensor, other.tensor) != other.tensor:
            raise AnalysisError(
                f"'{slot.tensor}' is one weight for several operators, and the other model has "
                "several"
            )
    for mine, others in zip(_stretched(ours, a), _stretched(theirs, b), strict=True):
        leaves = ours.constants.leaves(mine), theirs.constants.leaves(others)
        found.weights.update(
            (leaf, twin)
            for leaf, twin in zip(*leaves, strict=True)
            if ours.constants.dtype_and_shape(leaf)[0] in FLOATING
        )
    found.tensors.update(zip(a.outputs, b.outputs, strict=True))
    if len(a.nodes) == len(b.nodes):
        for i, j in zip(a.nodes, b.nodes, strict=True):
            outputs = ours.graph.nodes[i].outputs, theirs.graph.nodes[j].outputs
            found.tensors.update(zip(*outputs, strict=False))


def _stretched(form: NormalForm, operator: Operator) -> list[str]:
    """Operands made of weights and of the inputs' shapes: a class token repeated for every sample.

    The normal form takes them for numbers of a formula.
    """
    node = form.graph.nodes[operator.nodes[-1]]
    names = [name for name in node.inputs if name in form.constants]
    return [
        name
        for name in names
        if not form.constants.learned(name)
        and any(
            form.constants.dtype_and_shape(n)[0] in FLOATING for n in form.constants.leaves(name)
        )
    ]


def _skeleton(form: NormalForm, operator: Operator) -> object:
    """The operator without the numbers of such operands; None where it has none."""
    node, constants = form.graph.nodes[operator.nodes[-1]], form.constants
    stretched = _stretched(form, operator)
    if not stretched:
        return None
    operands: list[object] = []
    for name in node.inputs:
        if name in stretched:
            leaves = constants.leaves(name)
            kinds = [constants.dtype_and_shape(leaf) for leaf in leaves]
            whole = [constants.digest(n) for n, k in zip(leaves, kinds, strict=True)
                     if k[0] not in FLOATING]  # fmt: skip
            operands.append((constants.structure(name), kinds, whole))
        elif name in constants and not constants.learned(name):
            operands.append(constants.digest(name))
        else:
            operands.append(
                form.kind(name) if name not in constants else constants.dtype_and_shape(name)
            )
    return canonical(node, form.graph), operands, [form.kind(name) for name in operator.outputs]


def _titled(form: NormalForm, operator: Operator) -> str:
    """'Conv 'stem' (16x3x3x3)'."""
    sizes = ""
    if operator.slots:
        _, shape = form.constants.dtype_and_shape(operator.slots[0].tensor)
        sizes = f" ({'x'.join(str(side) for side in shape or ())})"
    return f"{operator.op} '{form.title(operator)}'{sizes}"


def _different(names: tuple[str, str], reason: str) -> AnalysisError:
    return AnalysisError(
        f"'{names[0]}' and '{names[1]}' are not of one architecture: {reason}",
        hint="models that differ are fused by a search, which shares features and not weights",
    )
