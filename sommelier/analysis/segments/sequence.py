"""The operators of a host and a donor in order, for a picture of what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sommelier.analysis.segments.forms import forms
from sommelier.analysis.segments.normal_form import NormalForm


@dataclass(frozen=True, slots=True)
class ListedOperator:
    """An operator as its file calls it, and the names by which segments know it."""

    op: str
    titles: tuple[str, ...]


def operator_lists(
    host: Path | str, donor: Path | str
) -> tuple[tuple[ListedOperator, ...], tuple[ListedOperator, ...]]:
    """The operators of both models in topological order, in the form in which segments are found.

    Raises RejectedModelError for a broken graph.
    """
    ours, theirs = forms(host, donor).alike
    return _listed(ours), _listed(theirs)


def _listed(form: NormalForm) -> tuple[ListedOperator, ...]:
    return tuple(ListedOperator(one.op, tuple(form.titles(one))) for one in form.operators)
