"""What the catalog keeps of repositories: named places where models come from."""

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
