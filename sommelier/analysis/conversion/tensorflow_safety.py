"""What a graph would do beyond computing, read before anything of it runs.

Runs in TensorFlow's environment. Graphs may read and write files: one with operators that are not
known to only compute is refused unless the user trusts where the model comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sommelier.analysis.conversion.tensorflow_operators import beyond_computing
from sommelier.analysis.conversion.values import TRUST
from sommelier.errors import RejectedModelError

_RUN_AT_LOADING = ("saved_model_main_op", "legacy_init_op", "table_initializer")
FLEX = "Flex"  # how TensorFlow's operators begin in a TensorFlow Lite model
_INIT_SIGNATURE = "__saved_model_init_op"


def served_tags(folder: Path, *, trusted: bool) -> list[str]:
    """The tags of a SavedModel's graph that serves.

    Raises RejectedModelError, unless trusted, if loading any of its graphs would run more than
    computations. What a signature runs is `check_signature`'s to judge.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    if not content.meta_graphs:
        raise RejectedModelError("saved_model.pb holds no graph")
    if not trusted:
        for graph in content.meta_graphs:
            _check_loading(graph)
    choices = [list(graph.meta_info_def.tags) for graph in content.meta_graphs]
    return min(choices, key=lambda tags: ("serve" not in tags, len(tags)))


def check_signature(function: Any, *, trusted: bool) -> None:
    """Raises RejectedModelError, unless trusted, if the function would run more than computations.

    function : a concrete one, as it was loaded.
    """
    if not trusted:
        graph = function.graph.as_graph_def()
        _refuse(beyond_computing(graph.node, _by_name(graph.library.function)))


def check_tflite(source: Path, *, trusted: bool) -> None:
    """Raises RejectedModelError, unless trusted, for operators of TensorFlow, which a TensorFlow
    Lite model may have beside its own: what they are called says nothing, for what runs is what
    their options name, in a format that readers may understand differently."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(source.read_bytes())
    codes = [model.OperatorCodes(i).CustomCode() for i in range(model.OperatorCodesLength())]
    names = [code.decode("utf-8", "replace") for code in codes if code]
    if not trusted:
        _refuse({name for name in names if name.startswith(FLEX)})


def _check_loading(graph: Any) -> None:
    """Raises RejectedModelError if TensorFlow would run more than computations to load the graph,
    and to restore its variables, which it does by itself in TensorFlow 2."""
    functions = _by_name(graph.graph_def.library.function)
    called = set(_called_by_the_loader(graph.object_graph_def.nodes))
    # when a function runs, TensorFlow may put another one of the same interface in its place
    called |= {name for name, function in functions.items() if "api_implements" in function.attr}
    found = {name for name in called if name not in functions}
    for name in called & functions.keys():
        found |= beyond_computing(functions[name].node_def, functions)
    if not graph.HasField("object_graph_def"):
        nodes = _needed(graph.graph_def.node, _run_by_the_loader(graph))
        found |= beyond_computing(nodes, functions) - {"RestoreV2", "Restore", "RestoreSlice"}
    _refuse(found)


def _called_by_the_loader(nodes: Any) -> Iterator[str]:
    """Functions of TensorFlow 2's object graph that run when it is loaded.

    Objects get their functions as attributes. The loader calls those of variables and resources,
    and of others the ones that start with '_', whatever a hostile graph made of them.
    """
    for node in nodes:
        for edge in node.children:
            if not _left_alone(node, edge.local_name):
                yield from _functions_of(nodes[edge.node_id])
        for saver in node.saveable_objects.values():
            yield from _functions_of(nodes[saver.save_function])
            yield from _functions_of(nodes[saver.restore_function])


def _left_alone(node: Any, attribute: str) -> bool:
    """Whether the loader does not call what such an object has under that name."""
    kind = node.WhichOneof("kind")
    if kind == "function":
        return attribute.startswith("trace_")  # its own forms, one for each kind of argument
    private = attribute.startswith("_") and attribute != "__call__"
    return kind == "user_object" and not node.registered_name and not private


def _functions_of(node: Any) -> Iterator[str]:
    yield from node.function.concrete_functions
    if node.HasField("bare_concrete_function"):
        yield node.bare_concrete_function.concrete_function_name


def _run_by_the_loader(graph: Any) -> Iterator[str]:
    """Names of the nodes of TensorFlow 1's graph that run when it is loaded."""
    from tensorflow.core.framework import variable_pb2

    yield graph.saver_def.restore_op_name
    yield from (tensor.name for tensor in graph.signature_def[_INIT_SIGNATURE].outputs.values())
    for key in _RUN_AT_LOADING:
        yield from graph.collection_def[key].node_list.value
    for value in graph.collection_def["local_variables"].bytes_list.value:
        yield variable_pb2.VariableDef.FromString(value).initializer_name


def _needed(nodes: Iterable[Any], names: Iterable[str]) -> list[Any]:
    """The nodes of these names and all whose results they use or wait for."""
    known = {node.name: node for node in nodes}
    needed: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().removeprefix("^").partition(":")[0]
        if name in known and name not in needed:
            needed[name] = known[name]
            waiting += known[name].input
    return list(needed.values())


def _by_name(functions: Iterable[Any]) -> Mapping[str, Any]:
    return {function.signature.name: function for function in functions}


def _refuse(found: set[str]) -> None:
    if found:
        raise RejectedModelError(
            f"its graph has what may reach beyond the model: {', '.join(sorted(found))}", hint=TRUST
        )
