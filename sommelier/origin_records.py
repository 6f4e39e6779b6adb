"""What the catalog keeps of where models come from: named places, and what a model was before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Repository:
    """A place of a source under a name of its own, which FROM takes.

    connector : the kind of source. place : where it is, as that connector understands it; None
    where its options say all. options : what USING said, for every import from it.
    """

    name: str
    connector: str
    place: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Original:
    """What a model was before it was converted to ONNX.

    format, options : as records.Conversion, without trust, which is said each time. path : its
    file, or that of the repository that makes it, where the import found it. fingerprint : of the
    files it was made of then (storage.artifacts.fingerprint); None where nothing is known of them.
    """

    format: str
    path: str | None
    options: Mapping[str, object] = field(default_factory=dict)
    fingerprint: str | None = None
