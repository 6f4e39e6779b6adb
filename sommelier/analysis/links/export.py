"""Links and their ensembles as ONNX models: what runs in place of a target, without torch.

Every graph reads natural answers, "source", and gives natural answers, "target"; it has been run in
ONNX Runtime and compared with the link's own prediction before anyone gets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from sommelier.analysis.execution import open_session
from sommelier.analysis.links.features import FARTHEST, Features, Readout
from sommelier.analysis.links.formats import LEAST_PROBABILITY, AnswerFormat
from sommelier.analysis.links.networks import SOURCE, TARGET, Layer, TrainedLink, VectorLink
from sommelier.errors import AnalysisError, first_line

Array = NDArray[Any]
Singles = NDArray[np.float32]

OPSET = 17
IR_VERSION = 8  # of opset 17; both are read by every ONNX Runtime since 1.12
EXAMPLES = 64  # samples on which a graph is compared with its link
RELATIVE = 1e-5  # a rounding of float32 after a few sums
TOLERANCE = 1e-3  # of a probability, or of a number's standard deviation: sums in another order


class GraphWriter:
    """Nodes and weights of a graph in the making; `add` names every result.

    prefix : of all names, for the body of a Loop, which sees those of the graph around it.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **settings: Any) -> str:
        """Adds a node with one output and answers the output's name."""
        name = output or f"{self._prefix}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **settings))
        return name

    def weight(self, values: Any, dtype: Any = np.float32) -> str:
        """Adds a constant tensor and answers its name."""
        name = f"{self._prefix}weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
        """The model with these ends. Raises onnx's error if it is not valid."""
        graph = helper.make_graph(self.nodes, "link", inputs, outputs, self.weights)
        imports = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="sommelier"
        )
        onnx.checker.check_model(model)
        return model


def to_onnx(link: TrainedLink) -> bytes:
    """The link as an ONNX model: natural answers "source" (n, ...) to natural answers "target".

    Of a token target, "target" is int64 (n, steps) and "scores" are the probabilities of every
    step, float32 (n, steps, vocabulary). Raises AnalysisError if ONNX Runtime answers otherwise
    than `link.predict`.
    """
    if not isinstance(link, VectorLink):
        from sommelier.analysis.links.sequence_export import sequence_onnx
        from sommelier.analysis.links.sequence_links import SequenceLink

        if not isinstance(link, SequenceLink):
            raise TypeError(f"no ONNX model is known for a {type(link).__name__}")
        return sequence_onnx(link)
    model = vector_model(link).SerializeToString(deterministic=True)
    examples = vector_examples(link.source, link.features)
    (answered,) = run_onnx(model, {SOURCE: examples})
    check_alike(answered, link.predict(examples), link.readout.scale)
    return bytes(model)


def vector_model(link: VectorLink) -> ModelProto:
    """The graph of a vec-to-vec link: features, layers, readout."""
    graph = GraphWriter()
    hidden = write_features(graph, link.features, SOURCE)
    for layer in link.layers[:-1]:
        hidden = graph.add("Relu", _linear(graph, hidden, layer))
    write_readout(graph, link.readout, _linear(graph, hidden, link.layers[-1]))
    return graph.model([vector_value(SOURCE, link.source)], [vector_value(TARGET, link.target)])


def vector_value(name: str, format: AnswerFormat) -> ValueInfoProto:
    """Natural vectors of any number of samples."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", format.width])


def write_features(graph: GraphWriter, features: Features, values: str) -> str:
    """As calling the Features: the name of what a link reads of these natural vectors."""
    if features.kind == "classes":
        values = graph.add("Log", graph.add("Max", values, graph.weight(features.floor)))
    elif features.kind == "labels":
        ends = graph.weight(features.floor), graph.weight(1.0 - features.floor)
        inner = graph.add("Clip", values, *ends)
        rest = graph.add("Sub", graph.weight(1.0), inner)
        values = graph.add("Sub", graph.add("Log", inner), graph.add("Log", rest))
    centred = graph.add("Sub", values, graph.weight(features.mean))
    scaled = graph.add("Mul", centred, graph.weight(features.weight))
    near = graph.add("Clip", scaled, graph.weight(-FARTHEST), graph.weight(FARTHEST))
    return graph.add("Where", graph.add("IsNaN", scaled), graph.weight(0.0), near)


def write_readout(graph: GraphWriter, readout: Readout, outputs: str) -> None:
    """As calling the Readout: natural answers, named "target"."""
    if readout.activation == "softmax":
        graph.add("Softmax", outputs, output=TARGET, axis=1)
    elif readout.activation == "sigmoid":
        graph.add("Sigmoid", outputs, output=TARGET)
    elif readout.activation == "unit":
        graph.add("Clip", outputs, graph.weight(0.0), graph.weight(1.0), output=TARGET)
    elif readout.activation == "shares":
        shares = graph.add("Max", outputs, graph.weight(LEAST_PROBABILITY))
        total = graph.add("ReduceSum", shares, graph.weight([1], np.int64), keepdims=1)
        graph.add("Div", shares, total, output=TARGET)
    else:
        scaled = graph.add("Mul", outputs, graph.weight(readout.scale))
        graph.add("Add", scaled, graph.weight(readout.offset), output=TARGET)


def run_onnx(model: bytes, inputs: Mapping[str, Array]) -> list[Array]:
    """All outputs of a model in ONNX Runtime. Raises AnalysisError where it cannot be run."""
    session = open_session(model, 1)
    try:
        return [np.asarray(output) for output in session.run(None, dict(inputs))]
    except Exception as error:  # its own tree of errors is not public
        raise AnalysisError(
            f"ONNX Runtime does not run the exported link: {first_line(error)}"
        ) from error


def check_alike(answered: Array, predicted: Array, scale: Array | float = 1.0) -> None:
    """Raises AnalysisError where a model's answers and a link's prediction are not the same.

    scale : of the answers, a number or one for each output.
    """
    if answered.shape != predicted.shape:
        raise AnalysisError(
            f"the exported link answers {list(answered.shape)}, not {list(predicted.shape)}"
        )
    apart = np.abs(answered - predicted) - TOLERANCE * scale - RELATIVE * np.abs(predicted)
    if not (apart <= 0).all():
        worst = float(np.abs(answered - predicted).max())
        raise AnalysisError(f"the exported link answers otherwise than the link, by {worst:.2g}")


def _linear(graph: GraphWriter, inputs: str, layer: Layer) -> str:
    return graph.add("Gemm", inputs, graph.weight(layer.weight), graph.weight(layer.bias))


def vector_examples(source: AnswerFormat, features: Features) -> Singles:
    """Natural answers such as the source might give, among them certain ones and a missing one."""
    draw = np.random.default_rng(0)
    spread = draw.normal(size=(EXAMPLES, source.width)).astype(np.float32)
    if source.kind in ("classes", "labels"):
        odds = np.exp(4 * spread)
        classes = source.kind == "classes"
        found = odds / (odds.sum(axis=1, keepdims=True) if classes else 1 + odds)
        found[0] = 0.0
        found[0, 0] = 1.0
    else:
        deviation = np.divide(
            1.0, features.weight, out=np.zeros_like(spread[0]), where=features.weight > 0
        )
        found = features.mean + spread * deviation
    found[-1] = np.nan
    return np.asarray(found, dtype=np.float32)
