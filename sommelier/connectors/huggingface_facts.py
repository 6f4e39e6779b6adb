"""What a repository of the Hugging Face Hub states of its model, as declared facts and numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from sommelier.connectors.huggingface_preprocessing import preprocessing
from sommelier.connectors.licenses import spdx
from sommelier.connectors.naming import printable
from sommelier.notes import joined
from sommelier.records import Measurement, Provenance
from sommelier.storage.safetensors import size_bytes

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

OWN_TAGS = ("huggingface",)
"""What we add to the hub's tags; it knows nothing of them."""
OF_THE_WHOLE = ("task", "labels", "preprocessing")
"""Facts of a repository's model that say nothing of a file which is only a part of it."""
_HOUSEKEEPING = re.compile(r"(license|region|doi|arxiv|dataset|deploy):.*|\w+_compatible")
_MAX_TAGS = 60
_BEFORE_DATES = "2022-03-02T23:29"  # the hub's date, to the minute, of all that is older


def declared_facts(info: ModelInfo, endpoint: str) -> dict[str, object]:
    """Task, family, licence, tags with the model tree, date and address, as the hub has them."""
    declared: dict[str, object] = {"homepage": f"{endpoint}/{info.id}"}
    notes = []
    if info.pipeline_tag:
        declared["task"] = info.pipeline_tag
    config = info.config if isinstance(info.config, dict) else {}
    if isinstance(family := config.get("model_type"), str) and family.strip():
        declared["family"] = printable(family)
    licenses = licenses_of(info)
    if len(licenses) == 1 and (known := spdx(licenses[0])):
        declared["license"] = known
    elif licenses:  # of several, which one applies to what is not said
        notes.append(f"licence as stated: {', '.join(licenses)}")
    declared["tags"] = tags_of(info)
    if (created := created_of(info)) is not None:
        declared["created"] = created
    notes += [
        f"made from {base}" + (f" ({relation})" if relation else "")
        for relation, base in model_tree(info)
    ]
    if notes:
        declared["note"] = joined(notes)
    return declared


def licenses_of(info: ModelInfo) -> tuple[str, ...]:
    """The licences that the card, else the tags, name, in their words; each once."""
    stated = getattr(info.card_data, "license", None)
    if stated == "other":
        stated = getattr(info.card_data, "license_name", None) or stated
    if isinstance(stated, str):
        named = [stated]
    elif isinstance(stated, list) and stated:
        named = [one for one in stated if isinstance(one, str)]
    else:
        tags = info.tags or ()
        named = [t.removeprefix("license:") for t in tags if t.startswith("license:")]
    told = {(spdx(one) or one): printable(one)[:80] for one in named if one not in ("", "unknown")}
    return tuple(told.values())


def license_of(info: ModelInfo) -> str | None:
    """The only licence there is, by its SPDX name or in its words; None for several."""
    found = licenses_of(info)
    return (spdx(found[0]) or found[0]) if len(found) == 1 else None


def created_of(info: ModelInfo) -> str | None:
    """The day a repository was made, ISO; None for those made before the hub kept dates."""
    when = info.created_at
    if when is None or when.isoformat().startswith(_BEFORE_DATES):
        return None
    return when.date().isoformat()


def params_of(info: ModelInfo) -> int | None:
    """The parameters of the safetensors files as the hub counts them, packed ones unpacked."""
    return info.safetensors.total or None if info.safetensors is not None else None


def tags_of(info: ModelInfo) -> tuple[str, ...]:
    """The hub's tags of the model itself and of its model tree; not those that repeat a fact."""
    said = [t for t in info.tags or () if not _HOUSEKEEPING.fullmatch(t)]
    library = [info.library_name] if info.library_name else []
    kept = dict.fromkeys(printable(t) for t in (*OWN_TAGS, *library, *said))
    kept.pop(info.pipeline_tag or "", None)
    return tuple(kept)[:_MAX_TAGS]


def every_tag(info: ModelInfo) -> tuple[str, ...]:
    """All that the hub's filter by tags looks at, and our own."""
    words = (info.library_name, info.pipeline_tag)
    said = (*OWN_TAGS, *(w for w in words if w), *(info.tags or ()))
    return tuple(dict.fromkeys(printable(tag) for tag in said))


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


def weights(params: int | None, counts: Mapping[str, int], source: str) -> list[Measurement]:
    """Parameters, and the bytes of safetensors files from their elements by dtype.

    Where the two disagree, weights are packed several to an element, and bytes are not stated.
    """
    size = size_bytes(counts) if sum(counts.values()) == params else None
    return [
        Measurement(
            "", metric, float(value), Provenance.DECLARED, "safetensors-header", source=source
        )
        for metric, value in (("params", params), ("size", size))
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


def described(read: Callable[[str], object | None], names: Iterable[str]) -> dict[str, object]:
    """Labels and preprocessing from the configuration files among `names`, as declared facts."""
    present = set(names)
    found: dict[str, object] = {}
    config = read("config.json") if "config.json" in present else None
    if (named := labels(config)) is not None:
        found["labels"] = named
    if "preprocessor_config.json" in present:
        model_type = config.get("model_type") if isinstance(config, dict) else None
        steps = preprocessing(read("preprocessor_config.json"), model_type)
        if steps is not None:
            found["preprocessing"] = steps
    return found
