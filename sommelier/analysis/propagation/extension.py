"""The host's graph with reductions added: one run measures everything the rules ask for.

Only reductions are outputs, so memory stays that of a plain run. A sample is run alone: no
operator can mix samples, and a norm over a whole tensor is the norm of that sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError, MissingDependencyError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

    from sommelier.analysis.graph import Graph

Array = NDArray[np.float64]

REDUCTIONS_TAKE_AXES = 18  # opset from which ReduceL2, ReduceMax, ... read axes from an input
SHARED_BYTES = 1 << 16  # larger arrays are handed to the runtime, not copied into the model
SQUARINGS = 2  # of the Gram matrix: the bound of a matrix of rank r is within r^(1/16)
GRAM_SAFETY = 1 + 1e-4  # k u sqrt(r) for sums of k = 128 products of rank r = 128, float32
GRAM_SIDE = 128  # larger matrices: Schur's bound, which needs no product
FLOAT, DOUBLE = 1, 11  # onnx.TensorProto's element types
FLOATING = frozenset({FLOAT, 10, DOUBLE, 16})  # and float16, bfloat16


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number measured on every sample: an output of the extended graph.

    tensor : what it is measured on; gain : by how much at most it changes (in the direction of
    safety: negative for a lower end) when that tensor moves by 1 in L2.
    """

    output: str
    tensor: str
    gain: float


class Extension:
    """Collects reductions on the host's tensors, then runs them."""

    def __init__(self, model: ModelProto, graph: Graph) -> None:
        self._model = model
        self._graph = graph
        self._opset = graph.opsets[""]
        self._nodes: list[Any] = []
        self._arrays: dict[str, NDArray[Any]] = {}
        self._known: dict[tuple[Any, ...], Any] = {}
        self._outputs: list[str] = []

    def size(self, tensor: str) -> Quantity:
        """The L2 norm of the whole tensor."""
        return self._quantity(("size", tensor), tensor, 1.0, lambda: self._norm(tensor))

    def largest(self, tensor: str) -> Quantity:
        """The largest absolute value."""
        return self._quantity(
            ("largest", tensor), tensor, 1.0,
            lambda: self.reduce("ReduceMax", self.node("Abs", [self.real(tensor)])),
        )  # fmt: skip

    def smallest(self, tensor: str) -> Quantity:
        """The smallest absolute value."""
        return self._quantity(
            ("smallest", tensor), tensor, -1.0,
            lambda: self.reduce("ReduceMin", self.node("Abs", [self.real(tensor)])),
        )  # fmt: skip

    def lowest(self, tensor: str) -> Quantity:
        """The smallest value."""
        return self._quantity(
            ("lowest", tensor), tensor, -1.0, lambda: self.reduce("ReduceMin", self.real(tensor))
        )

    def highest(self, tensor: str) -> Quantity:
        """The largest value."""
        return self._quantity(
            ("highest", tensor), tensor, 1.0, lambda: self.reduce("ReduceMax", self.real(tensor))
        )

    def slab(self, tensor: str, axes: tuple[int, ...]) -> Quantity:
        """The largest L2 norm over `axes`, among the positions of the other axes."""
        if not axes:
            return self.largest(tensor)
        return self._quantity(
            ("slab", tensor, axes), tensor, 1.0,
            lambda: self.reduce("ReduceMax", self.reduce("ReduceL2", self.real(tensor), axes)),
        )  # fmt: skip

    def thinnest(self, tensor: str, axes: tuple[int, ...]) -> Quantity:
        """The smallest L2 norm over `axes`, among the positions of the other axes."""
        return self._quantity(
            ("thinnest", tensor, axes), tensor, -1.0,
            lambda: self.reduce("ReduceMin", self.reduce("ReduceL2", self.real(tensor), axes)),
        )  # fmt: skip

    def spectral(self, tensor: str) -> Quantity:
        """Upper bound of the largest operator norm among the matrices in the last two axes."""
        return self._quantity(
            ("spectral", tensor), tensor, 1.0, lambda: self._spectral(self.real(tensor), tensor)
        )

    def root_mean_square(self, tensor: str, row: int, *, centred: bool) -> Quantity:
        """The smallest root mean square of a row of `row` consecutive elements.

        centred : the standard deviation instead.
        """
        return self._quantity(
            ("rms", tensor, row, centred), tensor, -1.0 / math.sqrt(row),
            lambda: self._rms(tensor, row, centred),
        )  # fmt: skip

    def vector(self, tensor: str, key: str) -> Quantity:
        """The tensor itself, for what is small: the gates of one step, the logits."""
        return self._quantity((key, tensor), tensor, 1.0, lambda: tensor)

    def real(self, tensor: str) -> str:
        """The tensor as float32, which every reduction and product exists for."""
        if self._graph.tensor(tensor).dtype in (FLOAT, 0):
            return tensor
        key = ("real", tensor)
        if key not in self._known:
            self._known[key] = self.node("Cast", [tensor], to=FLOAT)
        return str(self._known[key])

    def single(self, tensor: str) -> str:
        """A floating tensor as float32; integers, which are indices here, as they are."""
        return self.real(tensor) if self._graph.tensor(tensor).dtype in FLOATING else tensor

    def constant(self, array: NDArray[Any]) -> str:
        """The name of a new constant."""
        name = f"measure/c{len(self._arrays)}"
        self._arrays[name] = np.array(array, order="C")  # ascontiguousarray would add an axis
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        domain: str = "",
        outputs: int = 1,
        **attributes: Any,
    ) -> str:
        """The name of the first output of a new operator."""
        from onnx import helper

        names = [f"measure/{len(self._nodes)}/{k}" for k in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0]

    def copy(self, original: Any, inputs: Sequence[str]) -> str:
        """The first output of a copy of a NodeProto that reads other inputs."""
        from onnx import NodeProto

        made = NodeProto()
        made.CopyFrom(original)
        names = [f"measure/{len(self._nodes)}/{k}" for k in range(max(1, len(made.output)))]
        for field, values in ((made.input, inputs), (made.output, names)):
            del field[:]
            field.extend(values)
        made.name = ""
        self._nodes.append(made)
        return names[0]

    def add(self, nodes: Iterable[Any]) -> None:
        """Operators beside the host's that make tensors the rules want to know."""
        self._nodes.extend(nodes)

    def reduce(
        self, op: str, tensor: str, axes: Sequence[int] | None = None, *, keep: bool = False
    ) -> str:
        """A reduction over some axes (None: all), written as the model's opset wants it."""
        if axes is None:
            return self.node(op, [tensor], keepdims=int(keep))
        if self._opset >= REDUCTIONS_TAKE_AXES:
            stated = self.constant(np.asarray(axes, np.int64))
            return self.node(op, [tensor, stated], keepdims=int(keep))
        return self.node(op, [tensor], axes=list(axes), keepdims=int(keep))

    def reshape(self, tensor: str, shape: Sequence[int]) -> str:
        """The tensor in another shape."""
        return self.node("Reshape", [tensor, self.constant(np.asarray(shape, np.int64))])

    def _quantity(self, key: tuple[Any, ...], tensor: str, gain: float, make: Any) -> Quantity:
        if key not in self._known:
            output = self.node("Cast", [make()], to=DOUBLE)
            self._outputs.append(output)
            self._known[key] = Quantity(output, tensor, gain)
        found: Quantity = self._known[key]
        return found

    def _norm(self, tensor: str) -> str:
        """Rows in float32, then over the rows in float64: a long float32 sum loses digits."""
        shape = self._graph.tensor(tensor).shape or ()
        known = [1 if d is None else d for d in shape]
        total = math.prod(known)
        if None in shape or total <= GRAM_SIDE * GRAM_SIDE // 4:
            return self.reduce("ReduceL2", self.real(tensor))
        rows = min(
            (math.prod(known[: i + 1]) for i in range(len(known))),
            key=lambda count: abs(math.log(count * count / total)),
        )
        parts = self.reduce("ReduceL2", self.reshape(self.real(tensor), [rows, -1]), (1,))
        return self.reduce("ReduceL2", self.node("Cast", [parts], to=DOUBLE))

    def _spectral(self, matrix: str, tensor: str) -> str:
        shape = self._graph.tensor(tensor).shape or ()
        rank, rows, columns = len(shape), shape[-2] or 0, shape[-1] or 0
        if min(rows, columns) > GRAM_SIDE:
            magnitude = self.node("Abs", [matrix])
            sums = [
                self.reduce("ReduceMax", self.reduce("ReduceL1", magnitude, (axis,)), (-1,))
                for axis in (rank - 2, rank - 1)
            ]
            return self.reduce("ReduceMax", self.node("Sqrt", [self.node("Mul", sums)]))
        size = self.reduce("ReduceL2", matrix, (rank - 2, rank - 1), keep=True)
        size = self.node("Add", [size, self.constant(np.array(1e-30, np.float32))])
        unit = self.node("Div", [matrix, size])
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        other = self.node("Transpose", [unit], perm=swapped)
        power = self.node("MatMul", [other, unit] if columns <= rows else [unit, other])
        for _ in range(SQUARINGS):
            power = self.node("MatMul", [power, power])
        bound = self.reduce("ReduceL2", power, (rank - 2, rank - 1), keep=True)
        for _ in range(SQUARINGS + 1):
            bound = self.node("Sqrt", [bound])
        largest = self.reduce("ReduceMax", self.node("Mul", [bound, size]))
        return self.node("Mul", [largest, self.constant(np.array(GRAM_SAFETY, np.float32))])

    def _rms(self, tensor: str, row: int, centred: bool) -> str:
        rows = self.reshape(self.node("Cast", [self.real(tensor)], to=DOUBLE), [-1, row])
        if centred:
            rows = self.node("Sub", [rows, self.reduce("ReduceMean", rows, (1,), keep=True)])
        smallest = self.reduce("ReduceMin", self.reduce("ReduceL2", rows, (1,)))
        return self.node("Mul", [smallest, self.constant(np.array(1 / math.sqrt(row)))])

    def run(self, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, Array]:
        """Every quantity over the samples, float64 (n, ...), by output name."""
        if not self._outputs:
            return {}
        session = open_extended(self._model, self._nodes, self._arrays, self._outputs)
        rows = []
        for feed in feeds:
            try:
                rows.append(session.run(self._outputs, dict(feed)))
            except Exception as error:  # ONNX Runtime has no common base class for its errors
                raise AnalysisError(f"the host failed on its input: {error}") from error
        return {
            name: np.stack([np.asarray(row[k], np.float64) for row in rows])
            for k, name in enumerate(self._outputs)
        }


def open_extended(
    model: ModelProto, nodes: Sequence[Any], arrays: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
) -> Any:  # fmt: skip
    """A session of the model with more nodes and constants, and other outputs.

    Large arrays are shared with the runtime: a file of 2 GB or more could not be serialised.
    Raises AnalysisError with the runtime's reason when it does not load.
    """
    from onnx import ModelProto, helper

    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "measuring activations needs ONNX Runtime", hint="pip install 'sommelier-db[cpu]'"
        ) from error
    shared: dict[str, NDArray[Any]] = {}
    extended = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    graph = extended.graph
    graph.name = model.graph.name or "host"
    graph.input.extend(model.graph.input)
    graph.node.extend(model.graph.node)
    graph.node.extend(nodes)
    graph.initializer.extend(_light(tensor, shared) for tensor in model.graph.initializer)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    graph.initializer.extend(_proto(name, array, shared) for name, array in arrays.items())
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in shared.values()]
    options.add_external_initializers(list(shared), values)
    try:
        return onnxruntime.InferenceSession(
            extended.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # as above
        raise AnalysisError(f"ONNX Runtime cannot load the extended host: {error}") from error


def _light(tensor: TensorProto, shared: dict[str, NDArray[Any]]) -> TensorProto:
    from onnx import numpy_helper

    if tensor.data_type != FLOAT or 4 * math.prod(tensor.dims) <= SHARED_BYTES:
        return tensor
    return _proto(tensor.name, numpy_helper.to_array(tensor), shared)


def _proto(name: str, array: NDArray[Any], shared: dict[str, NDArray[Any]]) -> TensorProto:
    from onnx import TensorProto, numpy_helper

    if array.dtype != np.float32 or array.nbytes <= SHARED_BYTES:
        return numpy_helper.from_array(array, name)
    shared[name] = np.ascontiguousarray(array)
    tensor = TensorProto(name=name, data_type=FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="memory")  # a name is asked for, none is read
    return tensor
