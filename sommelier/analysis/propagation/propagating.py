"""Carry a change of weights through a graph: a certified bound on every later tensor.

delta_t(x) >= ||t_twin(x) - t_host(x)||_2 for each tensor t and sample x (algorithms.md B.2). The
statement is about the two networks as functions of real numbers; the rounding of a float32
runtime, some 1e-6 of a tensor's norm, comes on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Graph, Node, without_functions
from sommelier.analysis.propagation import margins
from sommelier.analysis.propagation.composites import composite
from sommelier.analysis.propagation.expansion import expanded
from sommelier.analysis.propagation.extension import Array, Extension
from sommelier.analysis.propagation.norm_requests import NormRequests
from sommelier.analysis.propagation.rules import RULES
from sommelier.analysis.propagation.site import (
    Bound,
    Reading,
    Site,
    Situation,
    UnboundedError,
)
from sommelier.analysis.propagation.weights import RANDOM, Constant, constants
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

Mode = Literal["probe", "static"]


@dataclass(frozen=True, slots=True)
class Propagation:
    """How far each tensor of the twin may be from the host's.

    deltas : tensor -> (n,) float64, an upper bound of the L2 distance on each sample; infinity
    where no bound holds, exactly 0 where the change does not reach. unbounded : operator -> why
    no finite bound holds behind it. host_norms : tensor -> (n,) the host's L2 norm, of the graph's
    outputs. mode 'probe' : for the given samples; 'static' : for all inputs within `radius` of
    them.
    """

    deltas: dict[str, Array]
    unbounded: dict[str, str]
    host_norms: dict[str, Array]
    mode: Mode
    flips: margins.Margins

    def certified_unchanged(self, logits: str) -> NDArray[np.bool_]:
        """(n,) whether the twin's largest element along the last axis is proved to be the host's.

        logits : an output of the graph, or what a last Softmax is made from; of either, what
        proves more counts. A largest element stays when the change is below margin / sqrt 2 in L2;
        where the logits come from a product with a weight, each pair of classes is compared with
        the norm of the difference of their rows instead. Raises AnalysisError for a tensor whose
        margins were not measured.
        """
        return self.flips.unchanged(logits, self.deltas)


def propagate(
    host: ModelProto | Path,
    replaced: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, NDArray[Any]],
    *,
    mode: Mode = "probe",
    radius: float | Mapping[str, float] | None = None,
    device: str = "cpu",
) -> Propagation:
    """Certified bounds on what replacing some of the host's weights changes, tensor by tensor.

    replaced : initializer of the host -> the donor's array of the same shape. inputs : name ->
    (n, ...) samples; each is run alone. mode 'static' : the bounds hold for all inputs whose
    floating operands are within `radius` (L2, of each operand) of a sample's: of zeros for a ball
    around the origin. device : where norms are computed.

    Raises AnalysisError when names or shapes do not fit, or when the host does not run.
    """
    model = prepared(host, inputs)
    if mode == "probe":
        if radius is not None:
            raise AnalysisError("a radius was given", hint="radius goes with mode='static'")
        return _pass(model, replaced, inputs, {}, {}, device)
    entry = _radii(inputs, radius)
    ball = _pass(model, {}, inputs, entry, {}, device)
    return _pass(model, replaced, inputs, {}, ball.deltas, device, ball=True)


def prepared(host: ModelProto | Path, inputs: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The host with functions expanded, and input shapes those of one sample."""
    import onnx

    if isinstance(host, Path):
        model = onnx.load(host)
    else:
        model = onnx.ModelProto()
        model.CopyFrom(host)
    model = without_functions(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    wanted = [value for value in model.graph.input if value.name not in stored]
    names = {value.name for value in wanted}
    if names != set(inputs):
        raise AnalysisError(f"the host's inputs are {sorted(names)}, given were {sorted(inputs)}")
    if len({len(array) for array in inputs.values()}) != 1:
        raise AnalysisError("the inputs differ in their number of samples")
    for value in wanted:
        kind = value.type.tensor_type
        ranked = kind.HasField("shape")
        shape = inputs[value.name].shape
        batched = not ranked or len(kind.shape.dim) == len(shape)
        one = (1, *shape[1:]) if batched else shape[1:]
        if ranked and any(
            d.dim_value not in (0, size) for d, size in zip(kind.shape.dim, one, strict=False)
        ):
            stated = [d.dim_value or d.dim_param for d in kind.shape.dim]
            raise AnalysisError(
                f"input '{value.name}' is {stated}, one sample is {list(one)}",
                hint="a model is run on one sample at a time",
            )
        kind.shape.ClearField("dim")
        for size in one:
            kind.shape.dim.add(dim_value=size)
    return model


def _radii(
    inputs: Mapping[str, NDArray[Any]], radius: float | Mapping[str, float] | None
) -> dict[str, Array]:
    floating = [name for name, array in inputs.items() if array.dtype.kind == "f"]
    if radius is None:
        raise AnalysisError(
            "mode='static' needs a radius", hint="radius=1.0, or one for each input"
        )
    stated = radius if isinstance(radius, Mapping) else dict.fromkeys(floating, radius)
    for name, value in stated.items():
        if name not in floating or not value >= 0:
            raise AnalysisError(f"no ball of radius {value} around input '{name}'")
    count = len(next(iter(inputs.values())))
    return {name: np.full(count, float(value)) for name, value in stated.items()}


def _pass(
    model: ModelProto,
    replaced: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, NDArray[Any]],
    entry: Mapping[str, Array],
    spread: Mapping[str, Array],
    device: str,
    *,
    ball: bool = False,
) -> Propagation:
    """One propagation. entry : how far inputs move; spread : how far from the measured point."""
    flat, sides = expanded(model)
    graph, _ = trace(flat)
    known = constants(flat, graph, replaced)
    samples = len(next(iter(inputs.values())))
    deltas = _starting(known, entry, samples)
    extension = Extension(model, graph)
    extension.add(sides)
    situation = Situation(
        graph, _protos(flat), known, {name for name, d in deltas.items() if np.any(d)},
        extension, NormRequests(), ball,
        {name: node for node in graph.nodes for name in node.outputs if name}, _readers(graph),
        {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name},
    )  # fmt: skip
    plans, unbounded = _plan(situation)
    flips = margins.plan(situation)
    norms = {name: extension.size(name) for name in graph.outputs if _is_numeric(graph, name)}
    situation.norms.solve(device)
    measured = extension.run(feeds(model, inputs))
    for node, bound in plans:
        reading = Reading(node, deltas, measured, spread, samples)
        _evaluate(node, bound, reading, (deltas, unbounded, situation.readers), graph)
    for name in (*_all_tensors(graph), *known):
        deltas.setdefault(name, np.zeros(samples))
    host_norms = {name: measured[asked.output] for name, asked in norms.items()}
    mode: Mode = "static" if ball else "probe"
    return Propagation(deltas, unbounded, host_norms, mode, flips.measured(measured, spread))


def _starting(
    known: Mapping[str, Constant], entry: Mapping[str, Array], samples: int
) -> dict[str, Array]:
    deltas = {name: np.asarray(moved) for name, moved in entry.items()}
    for name, constant in known.items():
        if constant.changed:
            same = constant.before.shape == constant.after.shape
            size = np.linalg.norm(constant.difference) if same else np.inf
            deltas[name] = np.full(samples, float(size))
    return deltas


def _plan(situation: Situation) -> tuple[list[tuple[Node, Bound | None]], dict[str, str]]:
    """The bound of every operator the change reaches, and the operators that have none."""
    plans: list[tuple[Node, Bound | None]] = []
    unbounded: dict[str, str] = {}
    for node in situation.graph.nodes:
        if all(name in situation.constants for name in node.outputs if name):
            continue
        used = (*node.inputs, *node.outer)
        if node.op not in RANDOM and not any(name in situation.reached for name in used):
            continue
        situation.reached.update(name for name in node.outputs if name)
        try:
            plans.append((node, _bound(node, situation)))
        except UnboundedError as error:
            unbounded[title(node)] = str(error)
            plans.append((node, None))
    return plans, unbounded


def _bound(node: Node, situation: Situation) -> Bound:
    """The operator's rule, or that of the pattern it ends, or the smaller of both."""
    site = Site(node, situation)
    pattern = composite(site)
    rule = RULES.get(node.title)
    try:
        if rule is None:
            raise UnboundedError("no rule covers the operator")
        own = rule(site)
    except UnboundedError:
        if pattern is None:
            raise
        return pattern
    if pattern is None:
        return own
    return lambda at: np.minimum(np.asarray(own(at)), np.asarray(pattern(at)))


def _evaluate(
    node: Node,
    bound: Bound | None,
    reading: Reading,
    state: tuple[dict[str, Array], dict[str, str], Mapping[str, int]],
    graph: Graph,
) -> None:
    deltas, unbounded, readers = state
    found: Sequence[Array] = []
    if bound is not None:
        with np.errstate(invalid="ignore", over="ignore"):
            result = bound(reading)
        found = result if isinstance(result, (tuple, list)) else [np.asarray(result)]
    samples = len(reading[0.0])
    for k, name in enumerate(node.outputs):
        if not name:
            continue
        value = found[k] if k < len(found) else np.full(samples, np.inf)
        # what is no number (0 times infinity) is not known to be small
        deltas[name] = np.nan_to_num(value, nan=np.inf, posinf=np.inf)
        lost = np.isinf(deltas[name])
        if bound is None or not lost.any() or title(node) in unbounded:
            continue
        if k >= len(found):
            if readers.get(name) or name in graph.outputs:
                unbounded[title(node)] = f"no rule covers its output {k}"
        elif not _already_lost(node, deltas, lost):
            unbounded[title(node)] = f"no finite bound on {int(lost.sum())} of {samples} samples"


def _already_lost(node: Node, deltas: Mapping[str, Array], lost: NDArray[np.bool_]) -> bool:
    came = [deltas[name] for name in node.inputs if name in deltas]
    return bool(came) and bool(np.all(np.isinf(np.max(came, axis=0))[lost]))


def title(node: Node) -> str:
    """How messages name an operator: "Conv 'layer1.conv'", by its output where it has no name."""
    return f"{node.title} '{node.name or next(name for name in node.outputs if name)}'"


def feeds(
    model: ModelProto, inputs: Mapping[str, NDArray[Any]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """One sample after the other, as a prepared model takes it."""
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in model.graph.input}
    for i in range(len(next(iter(inputs.values())))):
        yield {
            name: array[i : i + 1] if ranks[name] == array.ndim else np.asarray(array[i])
            for name, array in inputs.items()
        }


def _protos(model: ModelProto) -> dict[str, Any]:
    return {next(o for o in node.output if o): node for node in model.graph.node}


def _readers(graph: Graph) -> Counter[str]:
    counts = Counter(name for node in graph.nodes for name in (*node.inputs, *node.outer) if name)
    counts.update(graph.outputs)
    return counts


def _is_numeric(graph: Graph, name: str) -> bool:
    return graph.tensor(name).dtype in (0, 1, 10, 11, 16)


def _all_tensors(graph: Graph) -> Iterator[str]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from (name for name in node.outputs if name)
