"""Results that a model card of the Hugging Face Hub states, where it is clear what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.connectors.dataset_names import dataset_name
from sommelier.connectors.naming import printable
from sommelier.records import Measurement, Provenance

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_METRICS = {
    "accuracy": "accuracy", "acc": "accuracy", "top-1 accuracy": "accuracy",
    "top_1_accuracy": "accuracy", "top-5 accuracy": "top5_accuracy",
    "top5-accuracy": "top5_accuracy", "top5_accuracy": "top5_accuracy",
    "top_5_accuracy": "top5_accuracy",
}  # fmt: skip
_LOADERS = {"imagefolder", "audiofolder", "csv", "json", "parquet", "text", "generator", "custom"}
"""What reads a dataset from files; cards made by machines name it in place of the dataset."""
_NAMED = 3  # results left out that a note names
_TESTED, _VALIDATED, _UNSAID = 0, 1, 2  # which split is preferred


@dataclass(frozen=True, slots=True)
class _Result:
    """One accuracy of a card. value : as written; percent : whether a sign says so."""

    metric: str
    dataset: str | None
    preference: int
    value: float
    percent: bool


def evaluations(info: ModelInfo, source: str) -> tuple[list[Measurement], list[str]]:
    """Accuracies of the card's model-index, and what of them is left out, as notes.

    Of several splits the test's counts, else the validation's; none on data it was trained on. A
    card with a value above 1 is written in percent, so that in it a value up to 1 may mean either.
    """
    results = list(_results(info))
    percent = any(result.value > 1 for result in results)
    groups: dict[tuple[str, str], list[_Result]] = {}
    left = [f"{r.metric} of a dataset without a name" for r in results if r.dataset is None]
    for result in results:
        if result.dataset is not None:
            groups.setdefault((result.metric, result.dataset), []).append(result)
    found = []
    for (metric, dataset), group in groups.items():
        value = _one(group, percent=percent)
        if value is None:
            left.append(f"{metric} on {dataset}")
            continue
        found.append(
            Measurement(
                "", metric, value, Provenance.DECLARED, "model-index", dataset=dataset,
                source=source,
            )
        )  # fmt: skip
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    note = f"results that may mean several things are left out: {', '.join(left[:_NAMED])}{more}"
    return found, [note] if left else []


def _one(group: list[_Result], *, percent: bool) -> float | None:
    """The share that results of one metric and dataset agree on; None if it is not clear."""
    best = min(result.preference for result in group)
    chosen = [result for result in group if result.preference == best]
    if any(percent and r.value <= 1 and not r.percent for r in chosen):
        return None
    shares = {r.value / 100 if r.percent or r.value > 1 else r.value for r in chosen}
    return shares.pop() if len(shares) == 1 else None


def _results(info: ModelInfo) -> Iterator[_Result]:
    for result in getattr(info.card_data, "eval_results", None) or ():
        word = str(result.metric_type).lower().strip()
        metric, written = _METRICS.get(word), result.metric_value
        preference = _preference(result.dataset_split)
        value = _number(written)
        if metric is None or preference is None or value is None or not 0 <= value <= 100:
            continue
        percent = isinstance(written, str) and written.strip().endswith("%")
        yield _Result(metric, _dataset(result), preference, value, percent)


def _preference(split: object) -> int | None:
    """How good a split is for comparing models; None if it was trained on."""
    words = str(split or "").lower()
    if "train" in words:
        return None
    if "test" in words:
        return _TESTED
    return _VALIDATED if any(w in words for w in ("val", "dev", "eval")) else _UNSAID


def _dataset(result: Any) -> str | None:
    """The dataset with its configuration; None where only its loader is named."""
    names = [str(word) for word in (result.dataset_type, result.dataset_name) if word]
    real = [name for name in names if name.lower() not in _LOADERS]
    if not real:
        return None
    config = result.dataset_config
    told = [dataset_name(real[0]), *([str(config)] if config and config != "default" else [])]
    return printable("/".join(told))[:200]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(str(value).strip().removesuffix("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
