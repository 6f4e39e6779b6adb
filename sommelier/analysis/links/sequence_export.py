"""Links from or to token sequences as ONNX models that need no torch; see `export`.

Written node by node, because torch's exporter does not get through an LSTM whose batch may have any
size. The decoder is a Loop of as many trips as the longest training sequence has steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from sommelier.analysis.links.export import (
    EXAMPLES,
    TOLERANCE,
    GraphWriter,
    check_alike,
    run_onnx,
    vector_examples,
    vector_value,
    write_features,
    write_readout,
)
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.links.heads import outputs_of
from sommelier.analysis.links.networks import SOURCE, TARGET
from sommelier.analysis.links.sequence_links import PART, SequenceLink
from sommelier.analysis.links.sequences import (
    SLOTS,
    STATE,
    Indices,
    SequenceDecoder,
    SequenceEncoder,
    SequenceReader,
    until_end,
)
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[Any]

SCORES = "scores"
KEYS = "keys"  # what attention compares with, (n, slots, STATE)
BATCHES = (1, 3, EXAMPLES)  # samples at once with which a graph is compared with its link
GATES = [0, 3, 1, 2]  # of an LSTM in ONNX's order: input, output, forget, cell


@dataclass(frozen=True, slots=True)
class _Memory:
    """Names of what an encoder makes, as sequences.Memory. used : None where every slot is."""

    slots: str
    used: str | None
    summary: str


def sequence_onnx(link: SequenceLink) -> bytes:
    """The link as an ONNX model of natural answers, as `export.to_onnx` describes it.

    Raises AnalysisError if ONNX Runtime answers otherwise than the link, for any of BATCHES.
    """
    model = bytes(sequence_model(link).SerializeToString(deterministic=True))
    if link.features is None:
        examples: Array = token_examples(link.source)
    else:
        examples = vector_examples(link.source, link.features)
    most = max(1, PART // outputs_of(link.target))
    for size in BATCHES:
        _check(link, model, examples[-min(size, most) :])
    return model


def sequence_model(link: SequenceLink) -> ModelProto:
    """The graph of a link from or to token sequences."""
    graph = GraphWriter()
    memory = _encoder(graph, link)
    if link.features is None:
        source = _value(SOURCE, TensorProto.INT64, "n", link.source.steps)
    else:
        source = vector_value(SOURCE, link.source)
    if isinstance(link.network, SequenceReader):
        if link.readout is None:
            raise AnalysisError("a link to vectors needs a readout")
        write_readout(graph, link.readout, _perceptron(graph, memory.summary, link.network.mlp))
        return graph.model([source], [vector_value(TARGET, link.target)])
    decoder = link.network.decoder
    classes, probabilities = _decoder(graph, memory, decoder)
    tokens = _write_tokens(graph, decoder, link.target, classes)
    _write_scores(graph, decoder, link.target, (tokens, probabilities))
    steps, width = link.target.steps, link.target.width
    target = _value(TARGET, TensorProto.INT64, "n", steps)
    return graph.model([source], [target, _value(SCORES, TensorProto.FLOAT, "n", steps, width)])


def token_examples(format: AnswerFormat) -> Indices:
    """EXAMPLES token sequences such as the source might give, of all lengths; the last is empty."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, format.width, size=(EXAMPLES, format.steps))
    if format.end is not None:
        lengths = draw.integers(0, format.steps + 1, size=EXAMPLES)
        lengths[-1] = 0
        tokens[np.arange(format.steps) >= lengths[:, None]] = format.end
    return tokens


def _check(link: SequenceLink, model: bytes, examples: Array) -> None:
    """Raises AnalysisError where the model answers otherwise than the link."""
    given, predicted = run_onnx(model, {SOURCE: examples}), link.predict(examples)
    if link.readout is not None:
        check_alike(given[0], predicted, link.readout.scale)
        return
    tokens, scores = given
    # of tokens as likely as each other either may be chosen, and what follows then differs
    alike = until_end((tokens != predicted).astype(np.int64), 1)[..., None]
    check_alike(scores * alike, link.scores(examples) * alike)
    chosen = np.take_along_axis(scores, tokens[..., None], axis=2)[..., 0]
    if not (chosen >= scores.max(axis=2) - TOLERANCE).all():
        raise AnalysisError("the exported link does not choose the likeliest tokens")


def _encoder(graph: GraphWriter, link: SequenceLink) -> _Memory:
    encoder = link.network.encoder
    if isinstance(encoder, SequenceEncoder):
        return _token_encoder(graph, encoder)
    if link.features is None:
        raise AnalysisError("a link from vectors needs features")
    features = write_features(graph, link.features, SOURCE)
    shape = graph.weight([-1, SLOTS, STATE], np.int64)
    made = graph.add("Tanh", _perceptron(graph, features, encoder.mlp))
    slots = graph.add("Reshape", made, shape)
    return _Memory(slots, None, graph.add("ReduceMean", slots, axes=[1], keepdims=0))


def _token_encoder(graph: GraphWriter, encoder: SequenceEncoder) -> _Memory:
    vocabulary = encoder.embedding.vocabulary
    ends = graph.weight(-1, np.int64), graph.weight(vocabulary.size, np.int64)
    places = graph.add("Add", graph.add("Clip", SOURCE, *ends), graph.weight(1, np.int64))
    rows = graph.add("Gather", graph.weight(vocabulary.rows(), np.int64), places)
    read = graph.add("Gather", _weight(graph, encoder.embedding.table.weight), rows)
    steps = graph.add("Transpose", read, perm=[1, 0, 2])  # (steps, n, EMBEDDING)
    used = _until_end(graph, SOURCE, vocabulary.end)
    counted = graph.add("Cast", used, to=TensorProto.INT32)
    lengths = graph.add("ReduceSum", counted, graph.weight([1], np.int64), keepdims=0)
    _lstm(graph, encoder.lstm, [steps, lengths], ["encoded", "encoded_last"])
    slots = graph.add("Squeeze", "encoded", graph.weight([1], np.int64))
    return _Memory(
        graph.add("Transpose", slots, perm=[1, 0, 2]),  # (n, steps, STATE)
        used,
        graph.add("Squeeze", "encoded_last", graph.weight([0], np.int64)),
    )


def _decoder(graph: GraphWriter, memory: _Memory, decoder: SequenceDecoder) -> tuple[str, str]:
    """Names of the classes (n, reach) and probabilities (n, reach, classes) of every step."""
    first = graph.add("Tanh", _linear(graph, memory.summary, decoder.bridge))
    state = graph.add("Unsqueeze", first, graph.weight([0], np.int64))
    cell = graph.add("Sub", state, state)
    samples = graph.add("Shape", memory.summary, start=0, end=1)
    row = graph.add("Expand", graph.weight(decoder.start, np.int64), samples)
    graph.add("MatMul", memory.slots, _weight(graph, decoder.key.weight.T), output=KEYS)
    trips, going = graph.weight(decoder.reach, np.int64), graph.weight(True, np.bool_)
    outputs = ["last_row", "last_state", "last_cell", "classes", "probabilities"]
    inputs = [trips, going, row, state, cell]
    graph.nodes.append(helper.make_node("Loop", inputs, outputs, body=_step(memory, decoder)))
    return (
        graph.add("Transpose", "classes", perm=[1, 0]),
        graph.add("Transpose", "probabilities", perm=[1, 0, 2]),
    )


def _step(memory: _Memory, decoder: SequenceDecoder) -> GraphProto:
    """One trip of the Loop, as of SequenceDecoder.greedy."""
    body = GraphWriter("step_")
    read = body.add("Gather", _weight(body, decoder.embedding.table.weight), "row")
    inputs = [body.add("Unsqueeze", read, body.weight([0], np.int64)), "", "state", "cell"]
    _lstm(body, decoder.lstm, inputs, ["", "next_state", "next_cell"])
    output = body.add("Squeeze", "next_state", body.weight([0], np.int64))  # (n, STATE)
    context = _context(body, memory, decoder, output)
    both = body.add("Concat", output, context, axis=1)
    body.add("Softmax", _linear(body, both, decoder.output), axis=1, output="step_probabilities")
    body.add("ArgMax", "step_probabilities", axis=1, keepdims=0, output="step_classes")
    body.add("Add", "step_classes", body.weight(1, np.int64), output="next_row")
    body.add("Identity", "going", output="still_going")
    carried: list[tuple[str, int, list[int | str]]] = [
        ("row", TensorProto.INT64, ["n"]),
        ("state", TensorProto.FLOAT, [1, "n", STATE]),
        ("cell", TensorProto.FLOAT, [1, "n", STATE]),
    ]
    before = [_value(name, kind, *shape) for name, kind, shape in carried]
    after = [_value(f"next_{name}", kind, *shape) for name, kind, shape in carried]
    size = len(decoder.vocabulary)
    steps = [
        _value("step_classes", TensorProto.INT64, "n"),
        _value("step_probabilities", TensorProto.FLOAT, "n", size),
    ]
    return helper.make_graph(
        body.nodes,
        "step",
        [_value("trip", TensorProto.INT64), _value("going", TensorProto.BOOL), *before],
        [_value("still_going", TensorProto.BOOL), *after, *steps],
        body.weights,
    )


def _context(body: GraphWriter, memory: _Memory, decoder: SequenceDecoder, output: str) -> str:
    """What attention reads of the memory, (n, STATE), for the LSTM's output (n, STATE)."""
    query = _linear(body, output, decoder.query)
    query = body.add("Unsqueeze", query, body.weight([1], np.int64))  # (n, 1, STATE)
    mixed = body.add("Tanh", body.add("Add", query, KEYS))  # (n, slots, STATE)
    energy = body.add("MatMul", mixed, _weight(body, decoder.energy.weight.T))
    energy = body.add("Transpose", energy, perm=[0, 2, 1])  # (n, 1, slots)
    if memory.used is not None:
        used = body.add("Unsqueeze", memory.used, body.weight([1], np.int64))
        energy = body.add("Where", used, energy, body.weight(-np.inf))
    context = body.add("MatMul", body.add("Softmax", energy, axis=2), memory.slots)
    return body.add("Squeeze", context, body.weight([1], np.int64))


def _write_tokens(
    graph: GraphWriter, decoder: SequenceDecoder, format: AnswerFormat, classes: str
) -> str:
    """Adds "target", the tokens (n, steps) with nothing but end tokens from the first one on."""
    end = format.end
    known = graph.weight(decoder.vocabulary.tokens, np.int64)
    if end is None:
        return graph.add("Gather", known, classes, output=TARGET)
    tokens, ending = graph.add("Gather", known, classes), graph.weight(end, np.int64)
    tokens = graph.add("Where", _until_end(graph, tokens, end), tokens, ending)
    missing = graph.weight([0, 0, 0, format.steps - decoder.reach], np.int64)
    return graph.add("Pad", tokens, missing, ending, output=TARGET)


def _write_scores(
    graph: GraphWriter, decoder: SequenceDecoder, format: AnswerFormat, names: tuple[str, str]
) -> None:
    """Adds "scores" (n, steps, vocabulary): 0 of unknown tokens, behind the first end token 1 of
    the end token. names : of the tokens and of the probabilities of known ones."""
    (tokens, probabilities), end, steps = names, format.end, format.steps
    unknown_first = graph.weight([0, 0, 1, 0, steps - decoder.reach, 0], np.int64)
    padded = graph.add("Pad", probabilities, unknown_first)
    rows = graph.weight(decoder.vocabulary.rows()[1:-1], np.int64)
    if end is None:
        graph.add("Gather", padded, rows, axis=2, output=SCORES)
        return
    every = graph.add("Gather", padded, rows, axis=2)
    reached = graph.weight(np.arange(steps) < decoder.reach, np.bool_)
    counted = graph.add("And", _until_end(graph, tokens, end), reached)
    counted = graph.add("Unsqueeze", counted, graph.weight([2], np.int64))
    certain = graph.weight(np.arange(format.width) == end)
    graph.add("Where", counted, every, certain, output=SCORES)


def _until_end(graph: GraphWriter, tokens: str, end: int) -> str:
    """As sequences.until_end: bool (n, steps)."""
    ended = graph.add("Equal", tokens, graph.weight(end, np.int64))
    ended = graph.add("Cast", ended, to=TensorProto.INT64)
    times = graph.add("CumSum", ended, graph.weight(1, np.int64))
    return graph.add("Equal", times, ended)


def _lstm(graph: GraphWriter, lstm: nn.LSTM, inputs: list[str], outputs: list[str]) -> None:
    """Adds an LSTM node. inputs : the steps, and what comes after the weights in ONNX's order."""

    def gates(weight: Any) -> Array:
        return _array(weight).reshape(4, STATE, -1)[GATES].reshape(1, 4 * STATE, -1)

    weights = [graph.weight(gates(part)) for part in (lstm.weight_ih_l0, lstm.weight_hh_l0)]
    biases = [gates(bias)[..., 0] for bias in (lstm.bias_ih_l0, lstm.bias_hh_l0)]
    names = [inputs[0], *weights, graph.weight(np.concatenate(biases, axis=1)), *inputs[1:]]
    graph.nodes.append(helper.make_node("LSTM", names, outputs, hidden_size=STATE))


def _perceptron(graph: GraphWriter, inputs: str, mlp: nn.Sequential) -> str:
    first, _, last = mlp
    return _linear(graph, graph.add("Relu", _linear(graph, inputs, first)), last)


def _linear(graph: GraphWriter, inputs: str, layer: nn.Module) -> str:
    """A torch Linear of (n, inputs)."""
    return graph.add(
        "Gemm", inputs, _weight(graph, layer.weight), _weight(graph, layer.bias), transB=1
    )


def _weight(graph: GraphWriter, weight: Any) -> str:
    return graph.weight(_array(weight))


def _array(weight: Any) -> Array:
    return np.asarray(weight.detach().numpy())


def _value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))
