"""Steps that a preprocessor_config.json describes, for image processors whose meaning is known.

The same words mean different things to different processors: `size: 224` is both sides for one and
the short side for another. So the class decides, as in transformers 4.57, and where the class or
one of the words is not known, nothing is stated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Steps = tuple[tuple[str, Mapping[str, object]], ...]
_Step = tuple[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class _Processor:
    """What a class of image processors does where its configuration is silent.

    square : a bare number for `size` is both sides, else the short one. resample : PIL's number.
    """

    square: bool
    resample: int
    crops: bool = False
    normalizes: bool = True
    flips: bool = False  # red and blue change places


_PROCESSORS: Mapping[str, _Processor] = {
    "ViT": _Processor(square=True, resample=2),
    "Pvt": _Processor(square=True, resample=2),
    "Segformer": _Processor(square=True, resample=2),
    "Siglip": _Processor(square=True, resample=3),
    "DeiT": _Processor(square=True, resample=3, crops=True),
    "Beit": _Processor(square=True, resample=3, crops=True),
    "CLIP": _Processor(square=False, resample=3, crops=True),
    "Bit": _Processor(square=False, resample=3, crops=True),
    "Levit": _Processor(square=False, resample=3, crops=True),
    "MobileNetV1": _Processor(square=False, resample=2, crops=True),
    "MobileNetV2": _Processor(square=False, resample=2, crops=True),
    "MobileViT": _Processor(square=False, resample=2, crops=True, normalizes=False, flips=True),
    "ConvNext": _Processor(square=False, resample=2),
}
_OF_MODELS: Mapping[str, str] = {
    "vit": "ViT", "vit_mae": "ViT", "vit_msn": "ViT", "swin": "ViT", "swinv2": "ViT",
    "swiftformer": "ViT", "pvt": "Pvt", "pvt_v2": "Pvt", "segformer": "Segformer",
    "siglip": "Siglip", "deit": "DeiT", "beit": "Beit", "data2vec-vision": "Beit", "clip": "CLIP",
    "bit": "Bit", "dinov2": "Bit", "focalnet": "Bit", "hiera": "Bit", "levit": "Levit",
    "mobilenet_v1": "MobileNetV1", "mobilenet_v2": "MobileNetV2", "mobilevit": "MobileViT",
    "mobilevitv2": "MobileViT", "convnext": "ConvNext", "convnextv2": "ConvNext",
    "resnet": "ConvNext", "regnet": "ConvNext", "van": "ConvNext", "cvt": "ConvNext",
}  # fmt: skip
"""The processor that transformers takes for a model type whose configuration names none."""

_CLASS = re.compile(r"(\w+?)(?:ImageProcessor(?:Fast)?|FeatureExtractor)")
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
_READ = {
    "do_resize", "size", "resample", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std",
}  # fmt: skip
_INERT = {
    "image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys",
    "do_convert_rgb", "do_reduce_labels", "reduce_labels",
}  # fmt: skip
_USUAL_CROP = 224 / 256  # crop_pct of ConvNextImageProcessor
_WHOLE = 384  # pixels from which on ConvNextImageProcessor does not crop
_LARGEST = 8192  # pixels of a side; no model takes more


def preprocessing(config: object, model_type: object = None) -> Steps | None:
    """The steps of a picture's way into the model; None where they are not known for certain.

    model_type : of config.json, which decides where the configuration names no processor.
    """
    if not isinstance(config, dict):
        return None
    name = _named(config, model_type)
    if name is None:
        return None
    try:
        return tuple(_steps(name, _PROCESSORS[name], config))
    except ValueError:
        return None


def _named(config: Mapping[str, Any], model_type: object) -> str | None:
    """The processor's name without the suffix of its class; None if it is none of ours."""
    stated = config.get("image_processor_type") or config.get("feature_extractor_type")
    if stated is None:
        return _OF_MODELS.get(model_type) if isinstance(model_type, str) else None
    match = _CLASS.fullmatch(stated) if isinstance(stated, str) else None
    return match[1] if match and match[1] in _PROCESSORS else None


def _steps(name: str, processor: _Processor, config: Mapping[str, Any]) -> list[_Step]:
    """Raises ValueError for whatever is not understood."""
    own = {"ConvNext": {"crop_pct"}, "MobileViT": {"do_flip_channel_order"}}.get(name, set())
    own |= {"do_center_crop"} if processor.crops else set()
    for key, value in config.items():
        off = value is None or (value is False and key.startswith("do_"))
        if key not in _READ | _INERT | own and not off:
            raise ValueError(f"{key} is not understood")
    if not _switch(config, "do_resize", default=True):
        raise ValueError("which size a picture has is not said")
    steps = _resized(name, processor, config)
    if processor.crops and _switch(config, "do_center_crop", default=True):
        steps.append(_cropped(steps[0], config.get("crop_size")))
    if _switch(config, "do_rescale", default=True):
        factor = config.get("rescale_factor")
        steps.append(("to_float", {"scale": 1 / 255 if factor is None else _positive(factor)}))
    if _switch(config, "do_normalize", default=processor.normalizes):
        mean, std = (_three(config.get(key)) for key in ("image_mean", "image_std"))
        if 0 in std:
            raise ValueError("a standard deviation of 0")
        steps.append(("normalize", {"mean": mean, "std": std}))
    if processor.flips and _switch(config, "do_flip_channel_order", default=True):
        steps.append(("bgr", {}))
    return [*steps, ("layout", {"order": "NCHW"})]


def _resized(name: str, processor: _Processor, config: Mapping[str, Any]) -> list[_Step]:
    """How the picture gets its size; for ConvNext with the crop that belongs to it."""
    resample = config.get("resample")
    resample = processor.resample if resample is None else resample
    if type(resample) is not int or resample not in _FILTERS:
        raise ValueError("a filter we do not have")
    chosen = {"filter": _FILTERS[resample]}
    short, sides = _size(config.get("size"), square=processor.square)
    if sides is not None:
        if name == "ConvNext":
            raise ValueError("ConvNextImageProcessor takes the short side only")
        return [("resize", {"size": sides, **chosen})]
    if name == "ConvNext":
        square = [short, short]
        if short >= _WHOLE:
            return [("resize", {"size": square, **chosen})]
        share = config.get("crop_pct")
        share = _USUAL_CROP if share is None else _positive(share)
        if not 0.1 <= share <= 1:
            raise ValueError("a crop larger than the picture")
        wider = int(short / share)
        return [("resize_short", {"size": wider, **chosen}), ("center_crop", {"size": square})]
    if name == "Levit":
        short = int(256 / 224 * short)
    return [("resize_short", {"size": short, **chosen})]


def _size(size: object, *, square: bool) -> tuple[int, list[int] | None]:
    """(short side, None) or (0, [height, width])."""
    if type(size) is int:
        return (0, [_side(size)] * 2) if square else (_side(size), None)
    if not isinstance(size, dict):
        raise ValueError("no size")
    stated = {key: value for key, value in size.items() if value is not None}
    if set(stated) == {"height", "width"}:
        return 0, [_side(stated["height"]), _side(stated["width"])]
    if set(stated) == {"shortest_edge"} and not square:
        return _side(stated["shortest_edge"]), None
    raise ValueError("a size of another form")


def _cropped(resized: _Step, size: object) -> _Step:
    """The crop, which must fit: transformers would pad a smaller picture with black."""
    _, sides = _size(size, square=True)
    there = resized[1]["size"]
    around = there if isinstance(there, list) else [there, there]
    if sides is None or any(a < b for a, b in zip(around, sides, strict=True)):
        raise ValueError("a crop larger than the picture")
    return "center_crop", {"size": sides}


def _switch(config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f"{key} is neither true nor false")
    return value


def _side(value: object) -> int:
    if type(value) is int and 1 <= value <= _LARGEST:
        return value
    raise ValueError("a side of that many pixels")


def _positive(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError("a number that is not positive")
    return number


def _three(values: object) -> list[float]:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError("three channels have three numbers")
    return [_number(value) for value in values]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e6:
        raise ValueError("no number")
    if not math.isfinite(value):
        raise ValueError("no number")
    return float(value)
