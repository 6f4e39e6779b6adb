"""What a connector adds whose locations are looked up at a place: a server, a repository."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Placed(Protocol):
    """A connector with an option that says where locations are looked up."""

    @property
    def place(self) -> str:
        """The name of that option; AT of CREATE REPOSITORY sets it."""
