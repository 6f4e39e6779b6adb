"""A small model made a specialised student: its layers, trainable, with a head of a few classes and
'other' on top, and the ONNX file of it, which answers in the teacher's classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sommelier.analysis.cascades.specialised import Spread
from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.preparing import BATCH, prepared
from sommelier.analysis.graph import opset_imports, read_named
from sommelier.analysis.segments.editing import renamed, tensor
from sommelier.analysis.torch_graph import TOLERANCE
from sommelier.analysis.torch_graph.checking import check
from sommelier.analysis.torch_graph.module import TorchGraph
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = NDArray[Any]

OPSET = 13  # from which on all operators of the head are there; older files are converted
LEAST_PROBABILITY = 1e-7  # of which a logarithm is taken
WRITTEN = 1e-3  # of the largest logit: ONNX Runtime adds up in another order than torch
_PREFIX = "specialised/"


class StudentNetwork(nn.Module):
    """A model (n, ...) -> (n, outputs) whose weights, and those of the head, can be trained.

    file : the model with an open batch axis, which `written` goes back to.
    """

    def __init__(
        self, file: ModelProto, width: int, outputs: int, *, of_probabilities: bool, seed: int
    ) -> None:
        """width : of what the model answers. of_probabilities : these are no logits."""
        super().__init__()
        self.file = file
        self.graph = TorchGraph(file, trainable=True)
        self.of_probabilities = of_probabilities
        drawn = torch.Generator().manual_seed(seed)
        self.head = nn.Linear(width, outputs)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(outputs, width, generator=drawn) / width**0.5)
            self.head.bias.zero_()

    def begin_with(self, classes: Sequence[int]) -> None:
        """Answer as the model does, whose classes are the teacher's: its logits of these classes,
        and of 'other' the mean of the rest, as if all of them were equal."""
        width = self.head.in_features
        rest = np.setdiff1d(np.arange(width), classes)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[np.arange(len(classes)), list(classes)] = 1.0
            self.head.weight[-1, rest] = 1 / len(rest)
            self.head.bias[-1] = float(np.log(len(rest)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, outputs)."""
        found = self.graph(inputs)
        answers: Tensor = (found if isinstance(found, Tensor) else found[0]).flatten(1)
        if self.of_probabilities:
            answers = answers.clamp(min=LEAST_PROBABILITY).log()
        logits: Tensor = self.head(answers)
        return logits


def student_network(
    path: Path,
    some: Array,
    outputs: int,
    *,
    dims: Mapping[str, int],
    of_probabilities: bool = False,
    seed: int = 0,
) -> StudentNetwork:
    """The network of a model file with one input and one output.

    some : a few of its inputs (n, ...), on which it is compared with ONNX Runtime. dims : lengths
    of its open axes but the batch. Raises AnalysisError for a model that cannot be trained.
    """
    try:
        opset = opset_imports(read_named(path))[""]
        file = prepared(path, dims=dims, opset=OPSET if opset < OPSET else None)
        graph = TorchGraph(file)
        check(graph, file, {graph.inputs[0]: some}, TOLERANCE)
        with torch.no_grad():
            width = graph.tensors({graph.inputs[0]: torch.from_numpy(some)}, graph.outputs)[
                graph.outputs[0]
            ][0].numel()
    except AnalysisError as error:
        raise AnalysisError(
            error.message.removeprefix("cannot be fused: "), hint=error.hint
        ) from error
    return StudentNetwork(file, width, outputs, of_probabilities=of_probabilities, seed=seed)


def written(network: StudentNetwork, spread: Spread, some: Array, name: str) -> ModelProto:
    """The network as an ONNX model whose output, called `name`, is logits of the teacher's classes.

    some : inputs on which ONNX Runtime answers it as torch does, else AnalysisError is raised.
    """
    from onnx import ModelProto, TensorProto, checker, helper

    model = ModelProto()
    model.CopyFrom(network.file)
    graph = model.graph
    _put_weights(graph, network)
    if name in {value.name for value in graph.input}:
        name = f"{name}_answered"
    _rename(graph, name, f"{_PREFIX}{name}")
    for key, array in _stored(network, spread).items():
        graph.initializer.append(tensor(_PREFIX + key, array))
    graph.node.extend(_nodes(network, graph.output[0], spread, name))
    del graph.output[:]
    shape: list[str | int | None] = [BATCH, len(spread.places)]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    checker.check_model(model)
    _compare(network, model, spread, some)
    return model


def _stored(network: StudentNetwork, spread: Spread) -> dict[str, Array]:
    """The head's numbers by name."""
    found: dict[str, Array] = {
        "weight": network.head.weight.detach().cpu().numpy(),
        "bias": network.head.bias.detach().cpu().numpy(),
        "places": spread.places,
        "offsets": spread.offsets,
    }
    if network.of_probabilities:
        found["least"] = np.array(LEAST_PROBABILITY, np.float32)
    if spread.quiet is not None:
        found["quiet"] = spread.quiet
        found["other"] = np.array(network.head.out_features - 1, np.int64)
    return found


def _nodes(network: StudentNetwork, answered: Any, spread: Spread, name: str) -> list[NodeProto]:
    """From the model's answers to logits of the teacher's classes, called `name`."""
    from onnx import TensorProto, helper

    nodes: list[NodeProto] = []

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        given = [one if one == answered.name else _PREFIX + one for one in inputs]
        made = output if output == name else _PREFIX + output
        nodes.append(helper.make_node(op, given, [made], **attributes))
        return output

    last = answered.name
    if answered.type.tensor_type.elem_type != TensorProto.FLOAT:
        last = add("Cast", [last], "single", to=TensorProto.FLOAT)
    last = add("Flatten", [last], "flat", axis=1)
    if network.of_probabilities:
        last = add("Log", [add("Max", [last, "least"], "clipped")], "logarithms")
    own = add("Gemm", [last, "weight", "bias"], "own", transB=1)
    wide = add("Gather", [own, "places"], "gathered", axis=1)
    if spread.quiet is None:
        add("Add", [wide, "offsets"], name)
        return nodes
    wide = add("Add", [wide, "offsets"], "wide")
    likeliest = add("ArgMax", [own], "likeliest", axis=1, keepdims=1)
    unsure = add("Equal", [likeliest, "other"], "unsure")
    add("Where", [unsure, "quiet", wide], name)
    return nodes


def _put_weights(graph: GraphProto, network: StudentNetwork) -> None:
    """What was learned, in the types that it is stored in."""
    from onnx import numpy_helper

    learned = network.graph.weights
    for stored in graph.initializer:
        if stored.name in learned:
            kept = numpy_helper.to_array(stored).dtype
            value = learned[stored.name].detach().cpu().numpy().astype(kept)
            stored.CopyFrom(tensor(stored.name, value))


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """Another name for a tensor that is no input, wherever it occurs; none does nothing."""
    nodes = [renamed(node, lambda name: new if name == old else name) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.initializer, *graph.value_info, *graph.output):
        value.name = new if value.name == old else value.name


def _compare(network: StudentNetwork, model: ModelProto, spread: Spread, some: Array) -> None:
    """Raises AnalysisError where ONNX Runtime answers otherwise than torch."""
    with torch.no_grad():
        own = network(torch.from_numpy(some)).numpy().astype(np.float64)
    wanted = spread(own)
    session = open_session(model.SerializeToString(), 1)
    found = np.asarray(session.run(None, {network.graph.inputs[0]: some})[0], np.float64)
    top = np.sort(own, axis=1)
    near = top[:, -1] - top[:, -2] < WRITTEN * np.abs(own).max()  # 'other' by rounding, or not
    if not np.allclose(found[~near], wanted[~near], atol=WRITTEN * np.abs(own).max(), rtol=0):
        raise AnalysisError(
            "the trained student answers otherwise in ONNX Runtime than where it was trained",
            hint="an operator of the small model is converted wrongly; take another one",
        )
