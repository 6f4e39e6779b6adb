"""Whether a model's graph keeps samples apart: a proof, from what each operator does to its axes.

Answers to a few inputs cannot tell: a model that scales by the largest number it sees, or that
quantises by the range of all samples, answers a sample differently only beside certain others. So
a value of the graph is either *of samples*, along its first axis and there only, or fixed (weights
and what is computed of them alone), or *counted*: a shape, or what is computed of one, which may
tell how many samples there are. An operator that is not known to keep that ends the proof; a model
that it refuses may still be independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.tracing import trace

if TYPE_CHECKING:
    from onnx import ModelProto

BATCHES = (7, 11)  # lengths of the first axis that a graph is looked at with
_MICROSOFT = "com.microsoft"


def why_samples_meet(model: ModelProto) -> str | None:
    """What in a model may let a sample's answer depend on others of its batch, in words; None if
    it is proved that nothing does."""
    graphs = [trace(model, batch=batch)[0] for batch in BATCHES]
    for batch, graph, other in zip(BATCHES, graphs, reversed(graphs), strict=True):
        if reason := _Proof(graph, batch, other).fault():
            return reason
    return None


@dataclass(frozen=True, slots=True)
class _Proof:
    """other : the graph with another number of samples."""

    graph: Graph
    batch: int
    other: Graph

    def fault(self) -> str | None:
        apart, counted = set(self.graph.inputs), set[str]()
        for node in self.graph.nodes:
            read = {*node.inputs, *node.outer}
            if not self.passes(node, read, apart, counted):
                return f"{node.title} '{node.name}' is not known to keep samples apart"
            if read & apart and not _is_shape(node):
                apart.update(name for name in node.outputs if name)
            elif read & apart or read & counted:
                counted.update(node.outputs)
        mixed = [n for n in (*self.graph.inputs, *self.graph.outputs) if not self.has(n, apart)]
        return f"'{mixed[0]}' has no axis of samples" if mixed else None

    def passes(self, node: Node, read: set[str], apart: set[str], counted: set[str]) -> bool:
        if _draws(node):
            return False
        if not read & apart or _is_shape(node):
            return True  # its outputs are not of samples
        rule = _RULES.get((node.domain, node.op))
        along = [name for name in (*node.outputs, *read & apart) if name]
        return (
            rule is not None
            and not node.subgraphs
            and all(self.length(name) == self.batch for name in along)
            and (node.op in _SHAPED or all(self.is_settled(name) for name in read & counted))
            and rule(self, node, apart)
        )

    def has(self, name: str, apart: set[str]) -> bool:
        return name in apart and self.length(name) == self.batch

    def is_settled(self, name: str) -> bool:
        """Whether a value is the same however many samples there are."""
        here, there = self.graph.values.get(name), self.other.values.get(name)
        return here is not None and there is not None and np.array_equal(here, there)

    # ---- what rules ask

    def shape(self, name: str) -> tuple[int | None, ...]:
        """() also where the rank is unknown, which no value of samples has."""
        return self.graph.tensor(name).shape or ()

    def rank(self, name: str) -> int:
        return len(self.shape(name))

    def length(self, name: str) -> int | None:
        """Of the first axis."""
        shape = self.shape(name)
        return shape[0] if shape else None

    def numbers(self, node: Node, attribute: str, place: int) -> list[int] | None:
        """Whole numbers that an attribute or, in later opsets, an input holds; None: not known."""
        found = node.attributes.get(attribute)
        if found is None and place < len(node.inputs) and node.inputs[place]:
            found = self.graph.values.get(node.inputs[place])
        return None if found is None else [int(n) for n in np.asarray(found).ravel()]

    def beside(self, name: str, node: Node) -> bool:
        """Whether a fixed operand is the same for each sample of the output."""
        shape, rank = self.graph.tensor(name).shape, self.rank(node.outputs[0])
        return shape is not None and (len(shape) < rank or shape[0] == 1)


_Rule = Callable[[_Proof, Node, set[str]], bool]


def _is_shape(node: Node) -> bool:
    return node.op in ("Shape", "Size") and not node.domain


def _draws(node: Node) -> bool:
    """Whether it draws random numbers: a sample's would be others beside others."""
    inner = (n for graph in node.subgraphs.values() for _, n in graph.walk())
    return node.op in _RANDOM or any(n.op in _RANDOM for n in inner)


def _elementwise(proof: _Proof, node: Node, apart: set[str]) -> bool:
    """Samples against samples, or against what is the same for all of them."""
    rank = proof.rank(node.outputs[0])
    return all(
        proof.rank(name) == rank if name in apart else proof.beside(name, node)
        for name in node.inputs
        if name
    )


def _first_only(proof: _Proof, node: Node, apart: set[str]) -> bool:
    """The first operand has the samples, the others (weights, scales) are fixed."""
    del proof
    return node.inputs[0] in apart and not apart.intersection(node.inputs[1:])


def _one_output(proof: _Proof, node: Node, apart: set[str]) -> bool:
    """Where a second output would count places in all samples, or says that it is trained."""
    trained = node.attributes.get("training_mode")
    return _first_only(proof, node, apart) and not trained and not any(node.outputs[1:])


def _dropout(proof: _Proof, node: Node, apart: set[str]) -> bool:
    """Does nothing, but when it is trained."""
    training = proof.numbers(node, "", 2) if len(node.inputs) > 2 and node.inputs[2] else [0]
    return _first_only(proof, node, apart) and training == [0]


def _matmul(proof: _Proof, node: Node, apart: set[str]) -> bool:
    """Rows or matrices of samples times something fixed, or a matrix of each with another."""
    left, right = (node.inputs[i] for i in _FACTORS.get(node.op, (0, 1)))
    if set(node.inputs) & apart - {left, right}:
        return False
    if left in apart and right in apart:
        return proof.rank(left) == proof.rank(right) >= 3
    if left in apart:
        fixed = proof.graph.tensor(right).shape
        few = fixed is not None and (len(fixed) <= 2 or fixed[0] == 1)
        return few and proof.rank(left) >= max(2, len(fixed or ()))
    fixed = proof.graph.tensor(left).shape
    return fixed is not None and len(fixed) == 2 and proof.rank(right) >= 3


def _gemm(proof: _Proof, node: Node, apart: set[str]) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    return (
        _first_only(proof, node, apart)
        and not node.attributes.get("transA")
        and (not bias or proof.beside(bias, node))
    )


def _axis(name: str, default: int, place: int = 99) -> _Rule:
    """Operators that work along one axis, which is not that of samples."""

    def rule(proof: _Proof, node: Node, apart: set[str]) -> bool:
        given = proof.numbers(node, name, place)
        if given is None and place < len(node.inputs):
            return False
        axis = given[0] if given else default
        rank = proof.rank(node.inputs[0])
        return _first_only(proof, node, apart) and axis % max(rank, 1) != 0

    return rule


def _axes(proof: _Proof, node: Node, apart: set[str]) -> bool:
    """Reductions: over named axes, not over that of samples. Without names it is all of them."""
    axes, rank = proof.numbers(node, "axes", 1), proof.rank(node.inputs[0])
    return _first_only(proof, node, apart) and bool(axes) and all(a % rank for a in axes or ())


def _squeeze(proof: _Proof, node: Node, apart: set[str]) -> bool:
    axes = proof.numbers(node, "axes", 1)
    rank = max(proof.rank(node.inputs[0]), proof.rank(node.outputs[0]))
    return _first_only(proof, node, apart) and axes is not None and all(a % rank for a in axes)


def _concat(proof: _Proof, node: Node, apart: set[str]) -> bool:
    rank = proof.rank(node.outputs[0])
    return apart.issuperset(node.inputs) and int(node.attributes.get("axis", 1)) % rank != 0


def _transpose(proof: _Proof, node: Node, apart: set[str]) -> bool:
    del proof, apart
    order = node.attributes.get("perm")
    return order is not None and int(order[0]) == 0


def _slice(proof: _Proof, node: Node, apart: set[str]) -> bool:
    axes, rank = proof.numbers(node, "axes", 3), proof.rank(node.inputs[0])
    return _first_only(proof, node, apart) and bool(axes) and all(a % rank for a in axes or ())


def _one_hot(proof: _Proof, node: Node, apart: set[str]) -> bool:
    axis = int(node.attributes.get("axis", -1))
    return _first_only(proof, node, apart) and axis % proof.rank(node.outputs[0]) != 0


def _expand(proof: _Proof, node: Node, apart: set[str]) -> bool:
    same = proof.rank(node.inputs[0]) == proof.rank(node.outputs[0])
    return _first_only(proof, node, apart) and same


def _gather(proof: _Proof, node: Node, apart: set[str]) -> bool:
    """Rows of a fixed table for each sample, or fixed places of each sample."""
    data, places = node.inputs[:2]
    axis = int(node.attributes.get("axis", 0))
    if data not in apart:
        return axis % max(proof.rank(data), 1) == 0
    return places not in apart and axis % proof.rank(data) != 0


def _pad(proof: _Proof, node: Node, apart: set[str]) -> bool:
    pads, rank = proof.numbers(node, "pads", 1), proof.rank(node.inputs[0])
    if pads is None or len(pads) != 2 * rank or len(node.inputs) > 3:
        return False
    return _first_only(proof, node, apart) and pads[0] == pads[rank] == 0


def _ruled(domain: str, rules: Mapping[_Rule, str]) -> dict[tuple[str, str], _Rule]:
    return {(domain, op): rule for rule, ops in rules.items() for op in ops.split()}


def _softmax(proof: _Proof, node: Node, apart: set[str]) -> bool:
    default = -1 if proof.graph.opsets.get("", 1) >= 13 else 1
    return _axis("axis", default)(proof, node, apart)


_RANDOM = frozenset(
    {
        "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike",
    }
)  # fmt: skip
_SHAPED = frozenset({"Expand", "Reshape"})  # a shape that they are given may name the samples
_FACTORS: Mapping[str, Sequence[int]] = {"QLinearMatMul": (0, 3)}
_RULES: dict[tuple[str, str], _Rule] = {
    **_ruled(
        "",
        {
            _elementwise: "Abs Acos Add And Asin Atan BitShift Cast CastLike Ceil Celu Clip Cos"
            " Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid"
            " HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Min Mish Mod Mul"
            " Neg Not Or Pow PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh"
            " Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor",
            _first_only: "AveragePool Conv ConvInteger ConvTranspose DepthToSpace"
            " DequantizeLinear GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization"
            " InstanceNormalization LpPool LRN QLinearConv QuantizeLinear Reshape SpaceToDepth",
            _one_output: "BatchNormalization MaxPool",
            _dropout: "Dropout",
            _matmul: "MatMul MatMulInteger QLinearMatMul",
            _gemm: "Gemm",
            _softmax: "Softmax LogSoftmax Hardmax",
            _axis("axis", -1): "LayerNormalization RMSNormalization LpNormalization TopK",
            _axis("axis", 1): "Flatten",
            _axis("axis", 0): "ArgMax ArgMin Split",
            _axis("axis", 0, 1): "CumSum",
            _axes: "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin"
            " ReduceProd ReduceSum ReduceSumSquare",
            _squeeze: "Squeeze Unsqueeze",
            _concat: "Concat",
            _transpose: "Transpose",
            _slice: "Slice",
            _gather: "Gather",
            _pad: "Pad",
            _one_hot: "OneHot",
            _expand: "Expand",
        },
    ),
    **_ruled(
        _MICROSOFT,
        {
            _elementwise: "BiasGelu FastGelu Gelu QuickGelu QLinearAdd QLinearLeakyRelu QLinearMul"
            " QLinearSigmoid",
            _first_only: "QLinearAveragePool QLinearGlobalAveragePool",
        },
    ),
    **_ruled(
        "ai.onnx.ml",
        {
            _first_only: "Binarizer Imputer LinearClassifier LinearRegressor Normalizer Scaler"
            " SVMClassifier SVMRegressor TreeEnsembleClassifier TreeEnsembleRegressor",
        },
    ),
}
