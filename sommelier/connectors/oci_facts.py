"""What the config of a ModelPack artifact says of a model, in our words and units.

A plain artifact has annotations at most, of which those of the OCI image specification count.
What cannot be is left out and noted; nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sommelier.connectors.licenses import spdx
from sommelier.connectors.naming import printable
from sommelier.connectors.oci_manifests import CONFIGS, Blob, Manifest, stated_format
from sommelier.connectors.web import parts_of, without_secrets
from sommelier.errors import RejectedModelError, first_line
from sommelier.metrics import METRICS
from sommelier.notes import joined
from sommelier.records import Measurement, Provenance

FACTS: Mapping[str, type] = {
    **dict.fromkeys(("name", "version", "format", "family", "license", "architecture"), str),
    "params": float,
    **dict.fromkeys(("precision", "quantization", "created"), str),
    **dict.fromkeys(("authors", "tags"), tuple),
}
_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12, "q": 10**15}
_WORD, _LINE, _TEXT, _MANY = 100, 300, 2000, 20  # letters of a fact; how many of a list
_IMAGE = "org.opencontainers.image."


@dataclass(frozen=True, slots=True)
class Stated:
    """What is said of an artifact. params : value and the interval its digits stand for."""

    format: str | None = None
    family: str | None = None
    licenses: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    architecture: str | None = None
    precision: str | None = None
    quantization: str | None = None
    params: tuple[float, float, float] | None = None
    created: str | None = None
    homepage: str | None = None
    title: str | None = None
    description: str | None = None
    left: tuple[str, ...] = ()

    @property
    def license(self) -> str | None:
        """The only licence there is, by its SPDX name or in its words; None for several."""
        if len(self.licenses) != 1:
            return None
        return spdx(self.licenses[0]) or self.licenses[0]


def configured(manifest: Manifest) -> Blob | None:
    """The config, where it is one that says something of a model."""
    config = manifest.config
    return config if config is not None and config.media_type in CONFIGS else None


def stated(manifest: Manifest, config: bytes | None) -> Stated:
    """What a config says, or the annotations where there is none. Raises RejectedModelError for a
    config that is no JSON object."""
    if config is None:
        said = manifest.annotations
        fields: dict[str, Any] = {
            "licenses": [said[_IMAGE + "licenses"]] if _IMAGE + "licenses" in said else [],
            "authors": [said[_IMAGE + "authors"]] if _IMAGE + "authors" in said else [],
            "title": said.get(_IMAGE + "title"),
            "description": said.get(_IMAGE + "description"),
            "sourceURL": said.get(_IMAGE + "source") or said.get(_IMAGE + "url"),
            "createdAt": said.get(_IMAGE + "created"),
        }
        return replace(_understood(fields, {}), format=stated_format(manifest))
    try:
        found = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise RejectedModelError(f"it is no JSON: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise RejectedModelError("it is no JSON object")
    known = _understood(_object(found, "descriptor"), _object(found, "config"))
    return known if known.format else replace(known, format=stated_format(manifest))


def unknown(manifest: Manifest, why: str) -> Stated:
    """What is left of a model's facts where its config cannot be read."""
    return Stated(format=stated_format(manifest), left=(why,))


def declared(said: Stated, registry_tags: Sequence[str], *, whole: bool) -> dict[str, object]:
    """Facts of a model. whole : whether it is all that the artifact holds."""
    notes = [text for text in (said.title, said.description) if text]
    tags = ["oci", *(f"tag:{tag}" for tag in registry_tags)]
    for name in ("architecture", "precision", "quantization"):
        value = getattr(said, name)
        tags += [f"{name}:{value}"] if value else []
    facts: dict[str, object] = {"tags": tuple(dict.fromkeys(tags))}
    for name in ("family", "created", "homepage"):
        if value := getattr(said, name):
            facts[name] = value
    known = spdx(said.licenses[0]) if len(said.licenses) == 1 else None
    if known is not None:
        facts["license"] = known
    elif said.licenses:
        notes.append(f"licensed as {', '.join(said.licenses)}")
    if said.authors:
        notes.append(f"by {', '.join(said.authors)}")
    if not whole and said.params is not None:
        notes.append("one of several models: its parameters are not said")
    notes += said.left
    if notes:
        facts["note"] = joined(notes)
    return facts


def measurements(said: Stated, source: str, *, whole: bool) -> tuple[Measurement, ...]:
    """The parameters, where they are said of this model."""
    if said.params is None or not whole:
        return ()
    value, low, high = said.params
    return (
        Measurement(
            "", "params", value, Provenance.DECLARED, "modelpack", low=low, high=high, source=source
        ),
    )


def facts(name: str, version: str, tags: Sequence[str], said: Stated) -> dict[str, object]:
    """What WHERE may ask, by FACTS; what nobody says is left out."""
    found: dict[str, object] = {
        "name": name,
        "version": version,
        "license": said.license,
        "params": None if said.params is None else said.params[0],
        "authors": said.authors or None,
        "tags": tuple(tags),
    }
    words = ("format", "family", "architecture", "precision", "quantization", "created")
    found |= {word: getattr(said, word) for word in words}
    return {fact: value for fact, value in found.items() if value is not None}


def param_size(text: str) -> tuple[float, float, float] | None:
    """A count such as '6.7b', and the interval that its digits stand for; None if it is none.

    >>> param_size("1.5K"), param_size("0b"), param_size("many"), param_size("8")
    ((1500.0, 1450.0, 1550.0), None, None, None)
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.(\d{1,6}))?)\s*([kmbtq])", text.strip().lower())
    if match is None:
        return None
    scale = _SCALES[match[3]]
    value = Decimal(match[1]) * scale
    half = Decimal(scale) / (2 * 10 ** len(match[2] or ""))
    if (
        value != value.to_integral_value()
        or not METRICS["params"].allows(float(value))
        or not value
    ):
        return None
    return float(value), float(max(Decimal(1), value - half)), float(value + half)


def _understood(descriptor: Mapping[str, Any], config: Mapping[str, Any]) -> Stated:
    left: list[str] = []
    size = _text(config, "paramSize", _WORD)
    params = None if size is None else param_size(size)
    if size is not None and params is None:
        left.append(f"paramSize '{size}' is left out, it is no count such as '8b'")
    created = _text(descriptor, "createdAt", _WORD)
    day = None if created is None else _day(created)
    if created is not None and day is None:
        left.append(f"createdAt '{created}' is left out, it is no date")
    source = _text(descriptor, "sourceURL", _LINE)
    homepage = source if source and _is_page(source) else None
    if source and homepage is None:
        left.append(f"sourceURL '{without_secrets(source)}' is left out, it is no page")
    format = _text(config, "format", _WORD)
    return Stated(
        None if format is None else format.lower(),
        _text(descriptor, "family", _WORD),
        _texts(descriptor, "licenses"),
        _texts(descriptor, "authors"),
        _text(config, "architecture", _WORD),
        _text(config, "precision", _WORD),
        _text(config, "quantization", _WORD),
        params,
        day,
        homepage,
        _text(descriptor, "title", _LINE),
        _text(descriptor, "description", _TEXT),
        tuple(left),
    )


def _is_page(text: str) -> bool:
    parts = parts_of(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def _day(text: str) -> str | None:
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        return None


def _object(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = item.get(key)
    return value if isinstance(value, dict) else {}


def _text(item: Mapping[str, Any], key: str, most: int) -> str | None:
    """A text, of one line and not too long; None if there is none."""
    value = item.get(key)
    plain = " ".join(value.split()) if isinstance(value, str) else ""
    return printable(plain[:most]) or None


def _texts(item: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = item.get(key)
    found = value[:_MANY] if isinstance(value, list) else ()
    return tuple(text for n in range(len(found)) if (text := _text({key: found[n]}, key, _LINE)))
