"""The weights of a repository of the Hugging Face Hub: which files they are, what they count.

Only safetensors: pickles are never even fetched.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.connectors import huggingface_facts as stated
from sommelier.connectors.base import Progress
from sommelier.connectors.cards import MAX_CARD_BYTES
from sommelier.connectors.downloads import placed
from sommelier.connectors.huggingface_files import Commit
from sommelier.connectors.naming import printable
from sommelier.connectors.safetensors import parameter_counts
from sommelier.connectors.web import read_range
from sommelier.errors import ConnectorError, RejectedModelError, first_line

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_CONFIGURATION = "config.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_SUFFIX = ".safetensors"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARDS = 200
MAX_INDEX_BYTES = 32 << 20  # of the names of all weights


def configuration_with_weights(commit: Commit, progress: Progress | None) -> Path:
    """config.json, in one folder with all weights of the model: what transformers reads.

    Raises ConnectorError if one cannot be had, or if there are no safetensors files.
    """
    weights = _weight_files(commit)
    if _CONFIGURATION not in commit.files or not weights:
        missing = "safetensors files" if _CONFIGURATION in commit.files else _CONFIGURATION
        raise RejectedModelError(f"it has no ONNX file, and no {missing} to export it from")
    left = commit.max_size
    names = (*weights, *([_INDEX] if _INDEX in commit.files else []))
    folder = commit.weights_folder((*names, _CONFIGURATION))
    for name in names:
        kept = commit.fetched(commit.files[name], left, progress)
        left -= kept.stat().st_size
        placed(kept, folder / name)
    kept = commit.fetched(commit.files[_CONFIGURATION], MAX_CARD_BYTES)
    return placed(kept, folder / _CONFIGURATION)


def parameters(commit: Commit, info: ModelInfo) -> tuple[int | None, Mapping[str, int]]:
    """How many parameters there are, and elements by dtype: as the hub states them, else from the
    headers of the safetensors files. Raises ConnectorError."""
    if (total := stated.params_of(info)) is not None and info.safetensors is not None:
        return total, dict(info.safetensors.parameters)
    counts: Counter[str] = Counter()
    for path in _weight_files(commit):
        url = commit.hub.url(commit.repository, commit.sha, path)
        read = partial(read_range, url, headers=commit.hub.headers())
        counts.update(parameter_counts(read, printable(path)))
    config = info.config if isinstance(info.config, dict) else {}
    if counts and config.get("quantization_config"):
        raise ConnectorError("weights are packed several to an element")
    return sum(counts.values()) or None, counts


def _weight_files(commit: Commit) -> list[str]:
    """The safetensors files that together are the model: those its index names, else the one that
    holds all, else its parts."""
    if _INDEX in commit.files:
        index = read_json(commit, _INDEX, MAX_INDEX_BYTES)
        named = index.get("weight_map") if isinstance(index, dict) else None
        files = sorted({str(file) for file in named.values()}) if isinstance(named, dict) else []
        if not files or not commit.files.keys() >= set(files):
            raise ConnectorError(f"{_INDEX} names files that are not there, or none")
        other = [file for file in files if not file.endswith(_SUFFIX)]
        if other:  # a library would unpickle it
            raise RejectedModelError(
                f"{_INDEX} names '{printable(other[0])}', which is no {_SUFFIX} file"
            )
    elif _SINGLE in commit.files:
        files = [_SINGLE]
    else:
        files = [path for path in commit.files if _SHARD.fullmatch(path)]
    if len(files) > MAX_SHARDS:
        raise ConnectorError(f"more than {MAX_SHARDS} safetensors files")
    return files


def read_json(commit: Commit, file: str, limit: int) -> object:
    """What a file says. Raises ConnectorError if it cannot be had or read."""
    try:
        value: object = json.loads(commit.fetched(commit.files[file], limit).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConnectorError(f"{file} is no JSON: {first_line(error)}") from error
    return value
