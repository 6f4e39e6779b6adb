"""What a manifest of an OCI registry says: of which kind an artifact is, and which files it has.

ModelPack (github.com/modelpack/model-spec) says by a layer's media type what it is, and by an
annotation what its file is called; plain artifacts of oras have a title alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from sommelier.connectors.archives import check_member
from sommelier.connectors.formats import COMPLETE, ONNX
from sommelier.connectors.naming import printable
from sommelier.errors import RejectedModelError, first_line

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
IMAGES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
CONFIGS = frozenset(f"application/vnd.{who}.model.config.v1+json" for who in ("cncf", "cnai"))
"""Of ModelPack, which was cnai's before it was the CNCF's."""

FILEPATH, TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_LAYER = "application/vnd.oci.image.layer.v1."  # what oras calls whatever nobody named
_PACK = re.compile(r"application/vnd\.(?:cncf|cnai)\.model\.(?P<role>[a-z.]+)\.v1(?P<form>\..*)?")
_PACKED = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
_ZSTD = (".tar.zst", ".tar.zstd", ".tzst")
_OTHERS = re.compile(r"[./](?:config|docs?|code|datasets?|license|readme|params|template)\b")
_SIZE = 1 << 62

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".mar")
REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "GGUF": (
        (".gguf", ".ggml"),
        "weights for llama.cpp, without a graph to compare: push an ONNX export of the model",
    ),
    "safetensors": (
        (".safetensors",),
        "weights without a graph: push an ONNX export (FROM huggingface ... USING export = yes)",
    ),
    "pickle": (
        _PICKLES,
        "opening one would run whatever code is in it: push an ONNX export of the model",
    ),
}
"""What is refused unfetched: {kind: (how its files end, why and what to do)}."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A descriptor: something the registry keeps under its SHA-256. path : what its file is called,
    None where nobody says."""

    media_type: str
    digest: str
    size: int
    path: str | None = None
    unpack: bool = False

    @property
    def hexadecimal(self) -> str:
        """The digest as downloads want it."""
        return self.digest.removeprefix("sha256:")

    @property
    def called(self) -> str:
        """What it is, for a message."""
        return f"layer '{printable(self.path or self.digest)[:100]}'"

    @property
    def form(self) -> str:
        """'file', 'archive', 'zstd', or 'other' for what holds no weights."""
        name, media = (self.path or "").lower(), self.media_type
        pack = _PACK.fullmatch(media)
        if pack is not None and pack["role"] != "weight":
            return "other"
        if pack is None and name.endswith(ONNX):
            return "file"  # oras-py calls every file a tar
        if media.endswith(("+zstd", ".zstd")) or (pack is None and name.endswith(_ZSTD)):
            return "zstd"
        if pack is None and not media.startswith(_LAYER) and _OTHERS.search(media):
            return "other"
        if media.endswith(("+gzip", "+gz")) or self.unpack or name.endswith(_PACKED):
            return "archive"
        tar = media.endswith(".tar") and (not media.startswith(_LAYER) or not name)
        return "archive" if tar else "file"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest by the digest of its bytes. manifests : digests, of an index."""

    digest: str
    media_type: str
    artifact_type: str
    config: Blob | None
    layers: tuple[Blob, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    manifests: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether it is to be run as a container."""
        return self.config is not None and self.config.media_type in IMAGES

    @property
    def size(self) -> int:
        """Bytes of all layers together."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Weights:
    """The layers that may hold a model: files by their paths, and archives to be unpacked."""

    files: Mapping[str, Blob]
    archives: tuple[Blob, ...]

    @property
    def models(self) -> list[PurePosixPath]:
        """The ONNX files among them, as the manifest has them."""
        return [PurePosixPath(path) for path in self.files if path.lower().endswith(ONNX)]


def parsed(body: bytes, content_type: str) -> Manifest:
    """The manifest in these bytes. Raises RejectedModelError if it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RejectedModelError(f"its manifest is no JSON: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise RejectedModelError("its manifest is no JSON object")
    digest = f"sha256:{sha256(body).hexdigest()}"
    media = _text(found.get("mediaType")) or content_type.partition(";")[0].strip()
    annotations = texts(found.get("annotations"))
    artifact = _text(found.get("artifactType"))
    if media in INDEXES or "manifests" in found:
        entries = found.get("manifests")
        if not isinstance(entries, list):
            raise RejectedModelError("its index names no manifests")
        inner = tuple(_blob(entry, "a manifest of its index").digest for entry in entries)
        return Manifest(digest, INDEXES[0], artifact, None, (), annotations, inner)
    layers, config = found.get("layers"), found.get("config")
    if not isinstance(layers, list):
        raise RejectedModelError("its manifest names no layers; is it of the first schema?")
    return Manifest(
        digest,
        MANIFESTS[0],
        artifact,
        None if config is None else _blob(config, "the config"),
        tuple(_blob(layer, f"layer {n}") for n, layer in enumerate(layers, 1)),
        annotations,
    )


def weights_of(manifest: Manifest, format: str | None) -> Weights:
    """The layers of weights. format : what the config says of them.

    Raises RejectedModelError for what is no model, or none that is taken.
    """
    if manifest.is_image:
        assert manifest.config is not None, "an image is one by its config"
        raise RejectedModelError(
            f"it is a container image ({manifest.config.media_type}), not a model artifact",
            hint="push the model's .onnx file itself: oras push HOST/PATH:TAG model.onnx",
        )
    named = _named(manifest.layers, format)
    files: dict[str, Blob] = {}
    for layer in named:
        if layer.form != "file" or layer.path is None:
            continue
        path = _inside(layer.path)
        if files.setdefault(path, layer).digest != layer.digest:
            raise RejectedModelError(
                f"two of its layers are called '{printable(path)[:100]}'",
                hint="push it with a path of its own for each file",
            )
    found = Weights(files, tuple(layer for layer in named if layer.form == "archive"))
    if not found.models and not found.archives:
        raise refusal(named)
    return found


def refusal(layers: Sequence[Blob], paths: Sequence[str] = ()) -> RejectedModelError:
    """Why there is no model in an artifact. paths : of files in its archives."""
    said = [layer.path or "" for layer in layers] + list(paths)
    zstd = [layer for layer in layers if layer.form == "zstd"]
    if zstd:
        return RejectedModelError(
            f"{zstd[0].called} is packed with zstd, which is not read",
            hint="push it as tar+gzip, as tar, or as it is",
        )
    for kind in REFUSED:
        ends = REFUSED[kind][0]
        files = [path for path in said if path.lower().endswith(ends)]
        if files or any(kind.lower() in layer.media_type.lower() for layer in layers):
            named = f" ('{printable(files[0])[:100]}')" if files else ""
            return RejectedModelError(f"its weights are {kind}{named}", hint=REFUSED[kind][1])
    for path in said:
        if path.lower().endswith(tuple(COMPLETE)):
            return RejectedModelError(
                f"it holds '{printable(path)[:100]}', and only {ONNX} files are taken from a "
                "registry",
                hint="oras pull it, then IMPORT MODELS FROM folder '...', which converts it",
            )
    kinds = Counter(PurePosixPath(p).suffix or p for p in said if p)
    kinds.update(layer.media_type for layer in layers if not layer.path)
    held = printable(", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)))[:300]
    return RejectedModelError(
        f"it holds no {ONNX} file; it holds {held or 'no layer at all'}",
        hint="a plain artifact names its files: oras push HOST/PATH:TAG model.onnx",
    )


def stated_format(manifest: Manifest) -> str | None:
    """The format that the names and types of the layers tell, where no config says it."""
    layers = [layer for layer in manifest.layers if layer.form == "file"]
    if any((layer.path or "").lower().endswith(ONNX) for layer in layers):
        return "onnx"
    for kind, (ends, _) in REFUSED.items():
        for layer in layers:
            if (layer.path or "").lower().endswith(ends) or kind.lower() in layer.media_type:
                return kind.lower()
    return None


def texts(value: object) -> dict[str, str]:
    """The texts of a JSON object; {} if it is none."""
    items = value.items() if isinstance(value, dict) else ()
    return {key: text for key, text in items if isinstance(text, str)}


def _named(layers: Sequence[Blob], format: str | None) -> tuple[Blob, ...]:
    """The layers; a file of ONNX weights that is the only one needs no name."""
    alone = [layer for layer in layers if layer.form == "file" and _PACK.match(layer.media_type)]
    if format != "onnx" or len(alone) != 1 or alone[0].path is not None:
        return tuple(layers)
    one = alone[0]
    unnamed = Blob(one.media_type, one.digest, one.size, "model.onnx")
    return tuple(unnamed if layer is one else layer for layer in layers)


def _inside(path: str) -> str:
    """A layer's path below the folder of its artifact. RejectedModelError if it leads out."""
    try:
        found = str(check_member(path))
    except RejectedModelError as error:
        raise RejectedModelError(
            f"a layer is called {path[:100]!r}, which leads out of the model's folder",
            hint="push it under a relative path",
        ) from error
    if found in (".", "") or not found.isprintable():
        raise RejectedModelError(f"a layer is called {path[:100]!r}, which no file can be")
    return found


def _blob(value: Any, what: str) -> Blob:
    """A descriptor. Raises RejectedModelError if it names nothing that could be fetched."""
    item = value if isinstance(value, dict) else {}
    digest, size = _text(item.get("digest")), item.get("size")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise RejectedModelError(
            f"{what} has the digest {printable(digest)[:80]!r}; read are those of sha256"
        )
    if type(size) is not int or not 0 <= size < _SIZE:
        raise RejectedModelError(f"{what} has the size {str(size)[:40]!r}, which no file has")
    said = texts(item.get("annotations"))
    path = said.get(FILEPATH) or said.get(TITLE)
    return Blob(_text(item.get("mediaType")), digest, size, path, said.get(_UNPACK) == "true")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
