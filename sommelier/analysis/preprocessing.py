"""Declarative preprocessing: from one dataset item to one model input, as a list of named steps.

Nothing is executed but the steps below, so a spec may come from an untrusted model card.
Images travel as (height, width, channels) until a `layout` step moves the channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError
from sommelier.records import Dim, Preprocessing, TensorSpec

Array = NDArray[Any]
Item = Array | bytes
Arguments = Mapping[str, Any]

CROP_RATIO = 0.875  # the usual ImageNet evaluation: resize the short side to size / 0.875
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, slots=True)
class Step:
    """One known step: its function, the arguments it needs, and those it may have."""

    run: Callable[[Any, Arguments], Array]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def validated(steps: Sequence[Sequence[Any]], *, assumed: bool = False) -> Preprocessing:
    """The spec of these [name, arguments] pairs; AnalysisError lists the known steps and arguments.

    `fill` steps give constant values for auxiliary inputs (a sampling rate, an initial state).
    """
    checked = []
    for entry in steps:
        name, arguments = _pair(entry)
        step = STEPS.get(name)
        if step is None:
            raise AnalysisError(
                f"unknown preprocessing step '{name}'", hint=f"known steps: {', '.join(STEPS)}"
            )
        known = (*step.required, *step.optional)
        missing = [key for key in step.required if key not in arguments]
        unknown = [key for key in arguments if key not in known]
        if missing or unknown:
            fault = f"misses {', '.join(missing)}" if missing else f"has no {', '.join(unknown)}"
            raise AnalysisError(
                f"preprocessing step '{name}' {fault}",
                hint=f"arguments of {name}: {', '.join(known) or 'none'}",
            )
        checked.append((name, dict(arguments)))
    return Preprocessing(tuple(checked), assumed)


def apply(preprocessing: Preprocessing, item: Item) -> Array:
    """One model input without its batch axis, from one dataset item (array or bytes of a file)."""
    value: Any = item
    for name, arguments in preprocessing.steps:
        if name == "fill":
            continue
        try:
            value = STEPS[name].run(value, arguments)
        except AnalysisError:
            raise
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            shape = getattr(value, "shape", type(value).__name__)
            raise AnalysisError(
                f"preprocessing step '{name}' failed on {shape}: {error}"
            ) from error
    return np.asarray(value)


def fills(preprocessing: Preprocessing | None) -> dict[str, Any]:
    """Constant values declared for auxiliary inputs, by input name."""
    steps = preprocessing.steps if preprocessing else ()
    return {str(a["name"]): a["value"] for name, a in steps if name == "fill"}


def inferred(item: Item, wanted: TensorSpec, *, batched: bool = True) -> Preprocessing:
    """A spec guessed from shapes alone, marked `assumed`; AnalysisError when no guess fits.

    Guesses: identity, NHWC -> NCHW, a missing channel axis, flattening, and for pictures of another
    size the usual resize and centre crop. Bytes 0..255 become 0..1 for channels-first float models
    (the PyTorch convention), x - 128 for int8 models, and stay as they are otherwise.
    """
    if isinstance(item, bytes) or wanted.shape is None or wanted.dtype == "str":
        what = "a file" if isinstance(item, bytes) else f"an item of shape {item.shape}"
        raise AnalysisError(
            f"no preprocessing is declared that turns {what} into {wanted}",
            hint="declare preprocessing for this model",
        )
    shape = wanted.shape[1:] if batched else wanted.shape
    steps = _shape_steps(item, shape)
    if steps is None:
        raise AnalysisError(
            f"items of shape {list(item.shape)} do not fit the input {wanted}",
            hint="declare preprocessing for this model, or choose a dataset that fits",
        )
    return Preprocessing((*steps, *_value_steps(item, wanted.dtype, steps)), assumed=True)


def fits(shape: Sequence[int], wanted: Sequence[Dim]) -> bool:
    """Whether an array of this shape is one of the wanted; open axes take any length."""
    return len(shape) == len(wanted) and all(
        not isinstance(dim, int) or dim == size for size, dim in zip(shape, wanted, strict=True)
    )


def _shape_steps(item: Array, shape: Sequence[Dim]) -> tuple[tuple[str, Arguments], ...] | None:
    if fits(item.shape, shape):
        return ()
    if item.ndim == 3 and len(shape) == 3:
        return _image_steps(item, shape)
    sides = [dim for dim in shape if isinstance(dim, int)]
    if len(sides) == len(shape) and math.prod(sides) == item.size:
        return (("reshape", {"shape": sides}),)
    return None


def _image_steps(item: Array, shape: Sequence[Dim]) -> tuple[tuple[str, Arguments], ...] | None:
    """Steps from an (h, w, c) picture to `shape`, channels first or last."""
    first, last = shape[0], shape[2]
    channels_first = first in (1, 3, item.shape[2]) and last not in (1, 3)
    channels, height, width = (
        (first, shape[1], shape[2]) if channels_first else (last, shape[0], shape[1])
    )
    steps: list[tuple[str, Arguments]] = []
    if isinstance(height, int) and isinstance(width, int) and item.shape[:2] != (height, width):
        steps.extend(_resize_steps(height, width))
    if channels == 1 and item.shape[2] == 3:
        steps.append(("grayscale", {}))
    elif isinstance(channels, int) and channels != item.shape[2]:
        return None
    if channels_first:
        steps.append(("layout", {"order": "NCHW"}))
    return tuple(steps)


def _resize_steps(height: int, width: int) -> list[tuple[str, Arguments]]:
    if height != width:
        return [("resize", {"size": [height, width], "filter": "bicubic"})]
    return [
        ("resize_short", {"size": int(height / CROP_RATIO), "filter": "bicubic"}),
        ("center_crop", {"size": [height, width]}),
    ]


def _value_steps(
    item: Array, dtype: str, steps: Sequence[tuple[str, Arguments]]
) -> tuple[tuple[str, Arguments], ...]:
    if item.dtype == np.uint8 and dtype == "int8":
        return (("affine", {"scale": 1.0, "offset": -128.0}), ("cast", {"dtype": dtype}))
    channels_first = any(name == "layout" for name, _ in steps)
    if item.dtype == np.uint8 and dtype.startswith("float") and channels_first:
        return (("to_float", {"scale": 1 / 255}), ("cast", {"dtype": dtype}))
    return () if item.dtype.name == dtype else (("cast", {"dtype": dtype}),)


def _pair(entry: Sequence[Any]) -> tuple[str, Arguments]:
    if isinstance(entry, str):
        return entry, {}
    if len(entry) == 1:
        return str(entry[0]), {}
    if len(entry) != 2 or not isinstance(entry[1], Mapping):
        raise AnalysisError(f"a preprocessing step is [name, arguments], not {entry!r}")
    return str(entry[0]), entry[1]


def _resize(image: Array, arguments: Arguments) -> Array:
    height, width = (int(side) for side in arguments["size"])
    return _resized(image, height, width, arguments)


def _resize_short(image: Array, arguments: Arguments) -> Array:
    size = int(arguments["size"])
    height, width = image.shape[:2]
    if height <= width:
        return _resized(image, size, int(size * width / height), arguments)
    return _resized(image, int(size * height / width), size, arguments)


def _resized(image: Array, height: int, width: int, arguments: Arguments) -> Array:
    """By Pillow, antialiased; `filter` is bilinear unless declared; floats channel by channel."""
    from PIL import Image

    name = str(arguments.get("filter", "bilinear"))
    if name not in FILTERS:
        raise AnalysisError(f"unknown filter '{name}'", hint=f"filters: {', '.join(FILTERS)}")
    size, method = (width, height), Image.Resampling[name.upper()]
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size, method))
    planes = image[..., None] if image.ndim == 2 else image
    resized = [
        np.asarray(Image.fromarray(planes[..., c].astype(np.float32)).resize(size, method))
        for c in range(planes.shape[2])
    ]
    stacked = np.stack(resized, axis=-1)
    stacked = stacked[..., 0] if image.ndim == 2 else stacked
    return _cast(stacked, {"dtype": image.dtype.name})


def _center_crop(image: Array, arguments: Arguments) -> Array:
    height, width = (int(side) for side in arguments["size"])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise AnalysisError(f"cannot crop {height}x{width} from {image.shape[0]}x{image.shape[1]}")
    return image[top : top + height, left : left + width]


def _to_float(value: Array, arguments: Arguments) -> Array:
    return value.astype(np.float32) * np.float32(arguments.get("scale", 1 / 255))


def _normalize(value: Array, arguments: Arguments) -> Array:
    """(x - mean) / std per channel; channels are the last axis, or the first after `layout`."""
    mean, std = (np.asarray(arguments[key], dtype=np.float32) for key in ("mean", "std"))
    if mean.size > 1 and value.shape[-1] != mean.size and value.shape[0] == mean.size:
        mean, std = (m.reshape(-1, *[1] * (value.ndim - 1)) for m in (mean, std))
    return (value.astype(np.float32) - mean) / std


def _layout(value: Array, arguments: Arguments) -> Array:
    order = str(arguments["order"]).upper()
    if order not in ("NCHW", "NHWC"):
        raise AnalysisError(f"layout '{order}' is not known; write NCHW or NHWC")
    return np.moveaxis(value, -1, 0) if order == "NCHW" else np.moveaxis(value, 0, -1)


def _cast(value: Array, arguments: Arguments) -> Array:
    """To `dtype`; integers are rounded and saturate instead of wrapping around."""
    dtype = np.dtype(str(arguments["dtype"]))
    if dtype.kind in "iu" and value.dtype != dtype:
        limits = np.iinfo(dtype)
        return np.clip(np.rint(value), limits.min, limits.max).astype(dtype)
    return value.astype(dtype)


def _affine(value: Array, arguments: Arguments) -> Array:
    scale, offset = float(arguments.get("scale", 1.0)), float(arguments.get("offset", 0.0))
    return value.astype(np.float32) * np.float32(scale) + np.float32(offset)


def _reshape(value: Array, arguments: Arguments) -> Array:
    return value.reshape([int(dim) for dim in arguments["shape"]])


def _grayscale(image: Array, _: Arguments) -> Array:
    """Luma of ITU-R 601, (h, w, 3) -> (h, w, 1)."""
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return _cast(luma[..., None], {"dtype": image.dtype.name})


def _bgr(image: Array, _: Arguments) -> Array:
    return image[..., ::-1]


def _file_bytes(content: Any, arguments: Arguments) -> Array:
    """Byte values of the beginning, middle and end of a file, int32, short parts padded.

    Follows Magika: with a middle part as in its release 0.5 (a short file is stripped on both ends
    and every part is cut from the rest), without one as in 0.6 and later (each end is stripped on
    its own side). `block_size` bytes of each end are read before white space is stripped.
    """
    if not isinstance(content, bytes):
        raise AnalysisError("file_bytes needs a dataset of files (label_from = 'extension')")
    begin, middle, end = (int(arguments.get(key, 0)) for key in ("begin", "middle", "end"))
    padding, block = int(arguments.get("padding", 256)), int(arguments.get("block_size", 4096))
    strip = bool(arguments.get("strip", True))
    head, body, tail = _file_parts(content, middle, block, strip=strip)
    return np.concatenate(
        [
            _padded(head[:begin], begin, padding, before=0.0),
            _padded(_center(body, middle), middle, padding, before=0.5),
            _padded(tail[len(tail) - min(end, len(tail)) :], end, padding, before=1.0),
        ]
    )


def _file_parts(
    content: bytes, middle: int, block: int, *, strip: bool
) -> tuple[bytes, bytes, bytes]:
    if middle and len(content) < 2 * block + middle:
        whole = content.strip() if strip else content
        return whole, whole, whole
    head, tail = content[:block], content[max(0, len(content) - block) :]
    if strip:
        cut_head, cut_tail = head.lstrip(), tail.rstrip()
    else:
        cut_head, cut_tail = head, tail
    lost_head, lost_tail = len(head) - len(cut_head), len(tail) - len(cut_tail)
    start = lost_head + (len(content) - lost_head - lost_tail - middle) // 2
    return cut_head, content[start : start + middle] if middle else b"", cut_tail


def _center(body: bytes, size: int) -> bytes:
    start = max(0, (len(body) - size) // 2)
    return body[start : start + size]


def _padded(part: bytes, size: int, padding: int, *, before: float) -> NDArray[np.int32]:
    """`part` as int32 (size,); the share `before` of the padding goes in front (rounded down)."""
    missing = size - len(part)
    front = int(missing * before)
    values = np.frombuffer(part, dtype=np.uint8).astype(np.int32)
    return np.pad(values, (front, missing - front), constant_values=padding)


def _identity(value: Array, _: Arguments) -> Array:
    return value


STEPS: dict[str, Step] = {
    "resize_short": Step(_resize_short, ("size",), ("filter",)),
    "resize": Step(_resize, ("size",), ("filter",)),
    "center_crop": Step(_center_crop, ("size",)),
    "to_float": Step(_to_float, (), ("scale",)),
    "normalize": Step(_normalize, ("mean", "std")),
    "layout": Step(_layout, ("order",)),
    "cast": Step(_cast, ("dtype",)),
    "affine": Step(_affine, (), ("scale", "offset")),
    "reshape": Step(_reshape, ("shape",)),
    "grayscale": Step(_grayscale),
    "bgr": Step(_bgr),
    "file_bytes": Step(
        _file_bytes, (), ("begin", "middle", "end", "padding", "strip", "block_size")
    ),
    "fill": Step(_identity, ("name", "value")),
}
"""Every step a spec may name. All work on one item at a time."""
