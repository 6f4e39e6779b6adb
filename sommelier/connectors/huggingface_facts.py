"""What a repository of the Hugging Face Hub states of its model, as declared facts and numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sommelier.connectors.licenses import spdx
from sommelier.connectors.naming import printable
from sommelier.connectors.safetensors import size_bytes
from sommelier.metrics import METRICS
from sommelier.records import Measurement, Provenance

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_HOUSEKEEPING = re.compile(r"(license|region|doi|arxiv|dataset|deploy):.*|\w+_compatible")
_METRICS = {"top-1 accuracy": "accuracy", "top-5 accuracy": "top5_accuracy", "acc": "accuracy"}
_MAX_TAGS = 60
_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling


def declared_facts(info: ModelInfo, endpoint: str) -> dict[str, object]:
    """Task, family, licence, tags with the model tree, date and address, as the hub has them."""
    declared: dict[str, object] = {"homepage": f"{endpoint}/{info.id}"}
    notes = []
    if info.pipeline_tag:
        declared["task"] = info.pipeline_tag
    config = info.config if isinstance(info.config, dict) else {}
    if isinstance(family := config.get("model_type"), str) and family.strip():
        declared["family"] = printable(family)
    if stated := license_words(info):
        if known := spdx(stated):
            declared["license"] = known
        else:
            notes.append(f"licence as stated: {stated}")
    declared["tags"] = tags_of(info)
    if info.created_at is not None:
        declared["created"] = info.created_at.date().isoformat()
    notes += [
        f"made from {base}" + (f" ({relation})" if relation else "")
        for relation, base in model_tree(info)
    ]
    if notes:
        declared["note"] = "; ".join(notes)
    return declared


def license_words(info: ModelInfo) -> str | None:
    """The licence as the card or the tags name it; None if neither does."""
    card = info.card_data
    stated = getattr(card, "license", None)
    if stated == "other":
        stated = getattr(card, "license_name", None) or stated
    if isinstance(stated, list):
        stated = " OR ".join(str(one) for one in stated)
    tagged = (t.removeprefix("license:") for t in info.tags or () if t.startswith("license:"))
    found = stated if isinstance(stated, str) else next(tagged, None)
    return printable(found)[:80] if found and found != "unknown" else None


def tags_of(info: ModelInfo) -> tuple[str, ...]:
    """The hub's tags of the model itself and of its model tree; not those that repeat a fact."""
    said = [t for t in info.tags or () if not _HOUSEKEEPING.fullmatch(t)]
    library = [info.library_name] if info.library_name else []
    kept = dict.fromkeys(printable(t) for t in ("huggingface", *library, *said))
    kept.pop(info.pipeline_tag or "", None)
    return tuple(kept)[:_MAX_TAGS]


def model_tree(info: ModelInfo) -> list[tuple[str, str]]:
    """(relation, repository) for each model this one was made from: finetune, quantized, merge ...
    or '' where the relation is not said."""
    found: dict[str, str] = {}
    for tag in info.tags or ():
        match = re.fullmatch(r"base_model:(?:([a-z]+):)?([^:]+)", tag)
        if match and (match[1] or match[2] not in found):
            found[match[2]] = match[1] or ""
    base = getattr(info.card_data, "base_model", None)
    for name in base if isinstance(base, list) else [base]:
        if isinstance(name, str):
            found.setdefault(name, "")
    return [(relation, printable(name)) for name, relation in found.items()]


def evaluations(info: ModelInfo, source: str) -> list[Measurement]:
    """Results of the card's model-index that are metrics of ours; nothing else is guessed at.

    A score above 1 is read as percent: a share cannot be more than 1.
    """
    found: dict[tuple[str, str], Measurement] = {}
    for result in getattr(info.card_data, "eval_results", None) or ():
        word = str(result.metric_type).lower().strip()
        metric = METRICS.get(_METRICS.get(word, word.replace("-", "_")))
        value = _number(result.metric_value)
        if metric is None or value is None or "dataset" not in metric.context:
            continue
        value = value / 100 if 1 < value <= 100 else value
        dataset = _dataset(result)
        if metric.allows(value):
            found.setdefault(
                (metric.name, dataset),
                Measurement(
                    "", metric.name, value, Provenance.DECLARED, "model-index", dataset=dataset,
                    source=source,
                ),
            )  # fmt: skip
    return list(found.values())


def weights(counts: Mapping[str, int], source: str) -> list[Measurement]:
    """Parameters and bytes that safetensors headers state, by dtype."""
    numbers = {"params": sum(counts.values()), "size": size_bytes(counts)}
    return [
        Measurement(
            "", metric, float(value), Provenance.DECLARED, "safetensors-header", source=source
        )
        for metric, value in numbers.items()
        if value
    ]


def labels(config: object) -> tuple[str, ...] | None:
    """Class names of a transformers config.json, in output order; None if it names none.

    LABEL_0, LABEL_1 ... are what transformers writes where nobody named the classes.
    """
    named = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(named, dict) or not named:
        return None
    found = [named.get(str(n)) for n in range(len(named))]
    if not all(isinstance(name, str) and name for name in found):
        return None
    texts = tuple(printable(str(name)) for name in found)
    return None if all(t == f"LABEL_{n}" for n, t in enumerate(texts)) else texts


def preprocessing(config: object) -> tuple[tuple[str, Mapping[str, object]], ...] | None:
    """Steps that a preprocessor_config.json for pictures describes; None if it is none we know."""
    if not isinstance(config, dict) or not config.get("do_resize", False):
        return None
    resized = _resized(config)
    if resized is None:
        return None
    steps: list[tuple[str, Mapping[str, object]]] = [resized]
    if config.get("do_center_crop") and (side := _sides(config.get("crop_size"))):
        steps.append(("center_crop", {"size": side}))
    if config.get("do_rescale", True):
        scale = _number(config.get("rescale_factor"))
        steps.append(("to_float", {"scale": 1 / 255 if scale is None else scale}))
    mean, std = config.get("image_mean"), config.get("image_std")
    if config.get("do_normalize"):
        if not (_three(mean) and _three(std)):
            return None
        steps.append(("normalize", {"mean": mean, "std": std}))
    return (*steps, ("layout", {"order": "NCHW"}))


def described(read: Callable[[str], object | None], names: Iterable[str]) -> dict[str, object]:
    """Labels and preprocessing from the configuration files among `names`, as declared facts."""
    present, found = set(names), {}
    readers: dict[str, tuple[str, Callable[[object], object]]] = {
        "config.json": ("labels", labels),
        "preprocessor_config.json": ("preprocessing", preprocessing),
    }
    for file, (key, understood) in readers.items():
        value = understood(read(file)) if file in present else None
        if value is not None:
            found[key] = value
    return found


def _resized(config: Mapping[str, Any]) -> tuple[str, Mapping[str, object]] | None:
    size, resample = config.get("size"), config.get("resample")
    chosen = _RESAMPLING.get(resample) if isinstance(resample, int) else None
    arguments = {} if chosen is None else {"filter": chosen}
    if isinstance(size, dict) and type(short := size.get("shortest_edge")) is int:
        return "resize_short", {"size": short, **arguments}
    sides = _sides(size)
    return None if sides is None else ("resize", {"size": sides, **arguments})


def _sides(size: object) -> list[int] | None:
    """[height, width] of the forms that configurations use."""
    if type(size) is int:
        return [size, size]
    if isinstance(size, dict) and all(type(size.get(k)) is int for k in ("height", "width")):
        return [size["height"], size["width"]]
    return None


def _dataset(result: Any) -> str:
    words = (result.dataset_type, result.dataset_config)
    return printable("/".join(str(w) for w in words if w and w != "default"))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(str(value).strip().removesuffix("%"))
    except ValueError:
        return None


def _three(values: object) -> bool:
    return isinstance(values, list) and len(values) == 3 and None not in map(_number, values)
