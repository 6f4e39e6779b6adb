"""Several remarks on a model as one note."""

from __future__ import annotations

from collections.abc import Iterable


def joined(remarks: Iterable[str]) -> str:
    """The remarks that say something, with a semicolon between them and no full stop before it.

    >>> joined(["A small classifier of images.", "", "made by small()", "e.g. of zeros..."])
    'A small classifier of images; made by small(); e.g. of zeros...'
    >>> joined(["By hand."])
    'By hand.'
    """
    said = [remark.strip() for remark in remarks if remark.strip()]
    return "; ".join([*map(_open, said[:-1]), *said[-1:]])


def _open(remark: str) -> str:
    return remark if remark.endswith("...") else remark.removesuffix(".")
