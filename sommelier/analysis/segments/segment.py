"""The value that crosses from finding segments to exchanging them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["common", "interface"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a host model that a part of a donor model can take the place of.

    Both parts have one entry and one exit tensor. kind 'common': the same operators with other
    weights; 'interface': other operators between tensors of equal type and shape. host_nodes,
    donor_nodes : the names of the operators, or of what they make where the file names none.
    weights : host initializer -> donor initializer ('a+b' where numbers of several are combined);
    empty for 'interface'. identical : the weights are equal bit by bit (kind 'common'), so the
    exchange changes nothing. flops (2 x MACs at batch 1) and params (stored learned elements) are
    None where unknown. digest, donor_digest : content hashes of structure and weights together.
    """

    name: str
    kind: Kind
    host_entry: str
    host_exit: str
    donor_entry: str
    donor_exit: str
    host_nodes: tuple[str, ...]
    donor_nodes: tuple[str, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    identical: bool = False
    operators: int = 0
    flops: float | None = None
    donor_flops: float | None = None
    params: float | None = None
    donor_params: float | None = None
    digest: str = ""
    donor_digest: str = ""

    def __str__(self) -> str:
        """One line for people."""
        same = ", identical weights" if self.identical else ""
        return (
            f"{self.name} {self.kind}: {self.host_entry} -> {self.host_exit} "
            f"({self.operators} operators{same})"
        )
