"""What a model of TensorFlow would do beyond computing, read before it is loaded.

Runs in TensorFlow's environment. A graph may read and write files, a Keras model may carry Python
code; both are refused unless the user trusts where the model comes from.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sommelier.errors import RejectedModelError

KERAS = (3, 11, 3)  # older ones execute Lambda layers of .h5 files in spite of safe_mode
CONFIG_BYTES = 64 * 10**6
CODE = frozenset({"Lambda", "__lambda__"})  # of Keras: layers and functions kept as bytecode
_TRUST = "if you trust where it is from: USING trust = yes"
UNSAFE = frozenset(
    {
        "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc",
        "PrintV2", "FixedLengthRecordReaderV2", "TextLineReaderV2", "TFRecordReaderV2",
        "WholeFileReaderV2", "DebugIdentityV2", "DebugIdentityV3", "WriteGraphSummary",
        "CreateSummaryFileWriter",
    }
)  # fmt: skip
"""Operators with which a graph reads, writes or runs what lies outside of it."""


def served_tags(folder: Path, *, trusted: bool) -> list[str]:
    """The tags of a SavedModel's graph that serves. Raises RejectedModelError for unsafe operators,
    in whichever of its graphs, unless trusted."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    if not content.meta_graphs:
        raise RejectedModelError("saved_model.pb holds no graph")
    found = set()
    for graph in content.meta_graphs:
        functions = graph.graph_def.library.function
        nodes = [*graph.graph_def.node, *(n for f in functions for n in f.node_def)]
        found |= {node.op for node in nodes} & UNSAFE
    if found and not trusted:
        raise RejectedModelError(
            f"its graph would reach beyond the model: {', '.join(sorted(found))}", hint=_TRUST
        )
    choices = [list(graph.meta_info_def.tags) for graph in content.meta_graphs]
    return min(choices, key=lambda tags: ("serve" not in tags, len(tags)))


def check_keras(source: Path, *, trusted: bool) -> None:
    """Raises RejectedModelError for a Keras file with code in it, unless trusted; for one without
    an architecture; and for a Keras that would run such code unasked."""
    import keras

    if tuple(int(part) for part in keras.__version__.split(".")[:3]) < KERAS:
        raise RejectedModelError(
            f"Keras {keras.__version__} runs code of .h5 files unasked",
            hint=f"keras>={'.'.join(map(str, KERAS))} in TensorFlow's environment",
        )
    code = sorted(CODE & set(_class_names(_config(source))))
    if code and not trusted:
        raise RejectedModelError(f"it carries Python code ({', '.join(code)})", hint=_TRUST)


def _config(source: Path) -> Any:
    """The architecture in a .keras or .h5 file, as JSON."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive, archive.open("config.json") as file:
            text = file.read(CONFIG_BYTES + 1)
    else:
        import h5py

        with h5py.File(source, "r") as weights:
            text = weights.attrs.get("model_config", "")
    if len(text) > CONFIG_BYTES:
        raise RejectedModelError("its architecture is described by more than 64 MB")
    if not text:
        raise RejectedModelError(
            "it holds weights and no architecture", hint="save the model, not its weights"
        )
    return json.loads(text)


def _class_names(value: Any) -> Iterator[str]:
    """Every class the configuration names; without recursion, for it may be as deep as it likes."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield str(item.get("class_name"))
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
