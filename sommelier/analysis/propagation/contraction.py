"""Einsum on two operands as one matrix product (algorithms.md B.4 row 55)."""

from __future__ import annotations

import math

import numpy as np

from sommelier.analysis.propagation.parts import NotCoveredError, Parts, Shapes


def einsum(parts: Parts, shape: Shapes) -> None:
    """Letters of both operands are batch (kept) or summed; those of one are its rows or columns."""
    left, right, out = _terms(str(parts.attributes["equation"]))
    if len(parts.node.input) != 2:
        raise NotCoveredError
    sizes = dict(zip(left, shape(parts.input(0)), strict=True))
    sizes |= dict(zip(right, shape(parts.input(1)), strict=True))
    batch = [c for c in left if c in right and c in out]
    summed = [c for c in left if c in right and c not in out]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    if any(c not in out for c in rows + columns):
        raise NotCoveredError  # summed within one operand

    def matrix(operand: int, letters: str, groups: tuple[list[str], ...]) -> str:
        order = [letters.index(c) for group in groups for c in group]
        turned = parts.add("Transpose", [parts.input(operand)], perm=order)
        target = [math.prod(sizes[c] for c in group) for group in groups]
        return parts.add("Reshape", [turned, parts.constant(target, np.int64)])

    factors = [matrix(0, left, (batch, rows, summed)), matrix(1, right, (batch, summed, columns))]
    product = parts.add("MatMul", factors)
    made = [*batch, *rows, *columns]
    whole = parts.add("Reshape", [product, parts.constant([sizes[c] for c in made], np.int64)])
    parts.finish(parts.add("Transpose", [whole], perm=[made.index(c) for c in out]))


def _terms(equation: str) -> tuple[str, str, str]:
    operands, arrow, out = equation.replace(" ", "").partition("->")
    terms = operands.split(",")
    plain = all(len(set(t)) == len(t) and t.isalpha() for t in terms) and not set(".") & set(out)
    if len(terms) != 2 or not plain:
        raise NotCoveredError
    if not arrow:  # implicit: letters that occur once, in alphabetical order
        out = "".join(sorted(c for c in set("".join(terms)) if "".join(terms).count(c) == 1))
    return terms[0], terms[1], out
