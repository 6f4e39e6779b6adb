"""A student and a teacher whose answers to every input are known, drawn without end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.cascades.members import Member

Floats = NDArray[np.float64]

CLASSES = 10


def drawn(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """(score, 1 where the student differs from the teacher, 1 / -1 where only the teacher is right
    or wrong); a score s in (0, 1) is uniform and P(differs | s) = .4 (1 - s) ** 2."""
    score = rng.uniform(size=n)
    differs = rng.uniform(size=n) < 0.4 * (1 - score) ** 2
    teacher_wins = rng.uniform(size=n) < 0.7
    change = np.where(differs, np.where(teacher_wins, 1.0, -1.0), 0.0)
    return score, differs.astype(np.float64), change


def risk(threshold: float) -> float:
    """The true P(score >= threshold and differs): .4 (1 - t) ** 3 / 3."""
    return 0.4 * (1 - np.clip(threshold, 0.0, 1.0)) ** 3 / 3


def drop(threshold: float) -> float:
    """The true accuracy drop: .4 of the disagreements are lost in the end (.7 - .3)."""
    return 0.4 * risk(threshold)


def ladder(
    rng: np.random.Generator, n: int, *, stages: int = 2, flops: float = 10.0
) -> tuple[list[Member], NDArray[np.int64]]:
    """Members that know more and more of the truth, and the truth (n,).

    Each sees the same hidden evidence through less and less noise; the last costs `flops` times
    the one before it.
    """
    truth = rng.integers(0, CLASSES, n)
    clean = 3.0 * np.eye(CLASSES)[truth] + rng.normal(size=(n, CLASSES))
    members = []
    for stage in range(stages):
        noise = 1.5 * (stages - 1 - stage) / max(stages - 1, 1)
        logits = clean + noise * rng.normal(size=clean.shape)
        ids = logits.argmax(axis=1)
        two = np.sort(logits, axis=1)[:, -2:]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        scores = {"margin": two[:, 1] - two[:, 0], "softmax": shares.max(axis=1)}
        members.append(Member(f"m{stage}", ids, scores, flops**stage, logits))
    return members, truth
