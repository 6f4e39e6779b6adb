"""Natural answers of vector models, made from scores in one line."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.splits import split


def classes(scores, form="logits"):
    return _answers("classes", softmax(scores, axis=1), form)


def labels(scores):
    return _answers("labels", expit(scores), "logits")


def numbers(values, kind="numbers"):
    return _answers(kind, values, "values")


def certain(ids, width):
    """A model that gives nothing but the class."""
    return _answers("classes", np.eye(width)[ids], "ids")


def answers_of(kind, scores):
    """Answers of any kind from scores (n, width); boxes take the first four."""
    if kind == "classes":
        return classes(scores)
    return labels(scores) if kind == "labels" else numbers(scores[:, : len(BOX)], kind)


def pair(kind_from, kind_to, *, samples=400, seed=0):
    """Answers of a source and of a target that depends on it, of 4 to 6 outputs."""
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=(samples, 6))
    mixed = np.tanh(scores @ rng.normal(size=(6, 5)) / 2) + 0.1 * rng.normal(size=(samples, 5))
    return answers_of(kind_from, scores), answers_of(kind_to, 2 * mixed)


def xor(samples=1200, seed=0):
    """A target that is sure of class 0 where two independent labels of the source differ."""
    rng = np.random.default_rng(seed)
    odds = 3 * rng.normal(size=(samples, 2))
    differ = (odds > 0).sum(axis=1) == 1
    return labels(odds), classes(np.stack([6.0 * differ, 6.0 * ~differ], axis=1))


def rows_of(answers, seed=0):
    return split(len(answers), seed)


def with_values(answers, values):
    return LinkAnswers(answers.format, np.asarray(values, dtype=answers.values.dtype))


BOX = range(4)
PAIRS = [("classes", "classes"), ("classes", "labels"), ("labels", "numbers"),
         ("numbers", "box"), ("box", "classes"), ("numbers", "numbers")]  # fmt: skip


def _answers(kind, values, form):
    format = AnswerFormat(kind, values.shape[1], form)
    return LinkAnswers(format, values.astype(np.float32))
