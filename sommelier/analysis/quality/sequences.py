"""Sequences of tokens, words or characters: edit distance, and the decoding that comes before."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sommelier.analysis.quality.measure import (
    Array,
    Figure,
    Floats,
    Mask,
    dataset_figure,
    mean_figure,
    same_length,
)

EDITS = 0.1  # algorithms.md A.2
Unit = Literal["token", "word", "character"]
Tokens = Sequence[Hashable] | str


@dataclass(frozen=True, slots=True)
class Sequences:
    """Edit distance / length of the longer one. answers, truth : n sequences of tokens, or texts.

    unit : what is edited; 'word' splits texts at white space, 'character' takes them letter by
    letter. The normalised distance breaks the triangle inequality ('ab', 'aba', 'ba'); the plain
    one, `edits`, keeps it. The error rate is a ratio of sums, a figure of the dataset.
    """

    unit: Unit = "token"
    tolerance: float = EDITS

    symmetric: ClassVar[bool] = True
    pseudometric: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"{self.unit} edits / longer length"

    @property
    def predicate(self) -> str:
        return f"edits <= {self.tolerance:g} of the length"

    def losses(self, reference: Sequence[Tokens], candidate: Sequence[Tokens]) -> Floats:
        same_length(reference, candidate)
        return np.array(
            [self._loss(one, other) for one, other in zip(reference, candidate, strict=True)],
            dtype=np.float64,
        )

    def interchangeable(self, reference: Sequence[Tokens], candidate: Sequence[Tokens]) -> Mask:
        return self.losses(reference, candidate) <= self.tolerance

    def quality(self, answers: Sequence[Tokens], truth: Sequence[Tokens]) -> tuple[Figure, ...]:
        n = same_length(answers, truth)
        given, wanted = ([self._units(s) for s in side] for side in (answers, truth))
        wrong = np.array([edits(a, b) for a, b in zip(given, wanted, strict=True)], np.float64)
        length = np.array([len(sequence) for sequence in wanted], np.float64)
        return (
            mean_figure("exact match", wrong == 0),
            dataset_figure(
                f"{self.unit} error rate",
                n,
                lambda i: _ratio(wrong[i].sum(), length[i].sum()),
                higher_is_better=False,
            ),
        )

    def describe(self, answer: Tokens) -> str:
        shown = answer if isinstance(answer, str) else " ".join(str(token) for token in answer)
        return f"'{shown}'" if len(shown) <= 40 else f"'{shown[:37]}...'"

    def _units(self, answer: Tokens) -> Sequence[Hashable]:
        return answer.split() if isinstance(answer, str) and self.unit == "word" else answer

    def _loss(self, one: Tokens, other: Tokens) -> float:
        mine, theirs = self._units(one), self._units(other)
        longer = max(len(mine), len(theirs))
        return edits(mine, theirs) / longer if longer else 0.0


def edits(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions from one to the other (Levenshtein).

    >>> edits("kitten", "sitting"), edits((-1,), (-2,))
    (3, 1)
    """
    from rapidfuzz.distance import Levenshtein

    if isinstance(one, str) and isinstance(other, str):
        return int(Levenshtein.distance(one, other))
    numbers: dict[Hashable, int] = {}  # rapidfuzz compares hashes, and hash(-1) == hash(-2)
    coded = [[numbers.setdefault(item, len(numbers)) for item in side] for side in (one, other)]
    return int(Levenshtein.distance(*coded))


def word_error_rate(answers: Sequence[str], truth: Sequence[str]) -> float:
    """Word edits / words of the truth, over all texts; may exceed 1; NaN without words."""
    return Sequences("word").quality(answers, truth)[1].value


def character_error_rate(answers: Sequence[str], truth: Sequence[str]) -> float:
    """Character edits / characters of the truth, over all texts; NaN without characters."""
    return Sequences("character").quality(answers, truth)[1].value


def decode_scores(
    scores: Array, *, blank: int | None = None, end: int | None = None, skip: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """The best token of every step. scores : (n, steps, vocabulary).

    blank : decode as CTC does: repetitions are one token, then blanks go. See `decode_ids`.
    """
    return decode_ids(np.asarray(scores).argmax(axis=2), blank=blank, end=end, skip=skip)


def decode_ids(
    ids: Array, *, blank: int | None = None, end: int | None = None, skip: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """Token ids per sample. ids : integer (n, steps).

    end : what comes after the first such token is no answer. skip : padding and the like.
    """
    return [_decoded([int(i) for i in row], blank, end, frozenset(skip)) for row in np.asarray(ids)]


def _decoded(
    ids: list[int], blank: int | None, end: int | None, skip: frozenset[int]
) -> tuple[int, ...]:
    if end is not None and end in ids:
        ids = ids[: ids.index(end)]
    if blank is not None:
        changed = [i for i, token in enumerate(ids) if i == 0 or token != ids[i - 1]]
        ids = [ids[i] for i in changed if ids[i] != blank]
    return tuple(token for token in ids if token not in skip)


def _ratio(wrong: float, length: float) -> float:
    return float(wrong / length) if length else float("nan")
