"""Toy answers for links from and to token sequences: what must be learned, and what cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.sequence_links import SequenceLink
from sommelier.analysis.links.sequence_training import train_sequence
from sommelier.analysis.links.splits import Split, split
from sommelier.analysis.links.training import TrainingOptions

Array = NDArray[Any]

SAMPLES = 400
END = 0  # token that ends a sequence
WORDS = 5  # tokens 1 .. WORDS - 1
STEPS = 3
SENTENCE = AnswerFormat("tokens", WORDS, "ids", steps=STEPS, end=END)
# two words a digit: 'even' (1) or 'odd' (2), then its name, 3 .. 12
CAPTION = AnswerFormat("tokens", 13, "ids", steps=3, end=END)
CLASSES = AnswerFormat("classes", 10, "probabilities")
QUICK = TrainingOptions(epochs=30)
TARGETS = ("copy", "reverse", "map")


@dataclass(frozen=True)
class Fitted:
    """A link, what it was made of, and its answers to all samples."""

    source: LinkAnswers
    target: LinkAnswers
    split: Split
    link: SequenceLink
    predicted: Array


def sentences(seed: int = 0, samples: int = SAMPLES) -> LinkAnswers:
    """Sequences of 0 to STEPS random words."""
    draw = np.random.default_rng(seed)
    words = draw.integers(1, WORDS, (samples, STEPS))
    lengths = draw.integers(0, STEPS + 1, (samples, 1))
    return LinkAnswers(SENTENCE, np.where(np.arange(STEPS) < lengths, words, END))


def rewritten(source: LinkAnswers, how: str) -> LinkAnswers:
    """Every sentence as it is, in reverse, or word by word in another language."""
    rows = [[int(word) for word in row if word != END] for row in source.values]
    if how == "reverse":
        rows = [row[::-1] for row in rows]
    elif how == "map":
        rows = [[WORDS - word for word in row] for row in rows]
    padded = [row + [END] * (STEPS - len(row)) for row in rows]
    return LinkAnswers(SENTENCE, np.array(padded, dtype=np.int64))


@cache
def digits() -> tuple[LinkAnswers, LinkAnswers]:
    """What a nearest-mean classifier of handwritten digits says, and the same in words."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    means = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    distances = np.square(images[:SAMPLES, None] - means).sum(axis=2)
    odds = np.exp((distances.min(axis=1, keepdims=True) - distances) / 100)
    shares = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    digit = shares.argmax(axis=1)
    words = np.stack([1 + digit % 2, 3 + digit, np.full_like(digit, END)], axis=1)
    return LinkAnswers(CLASSES, shares), LinkAnswers(CAPTION, words.astype(np.int64))


def fitted(source: LinkAnswers, target: LinkAnswers, options: TrainingOptions = QUICK) -> Fitted:
    """The link between two models' answers, and its predictions."""
    rows = split(len(source), 0)
    link = train_sequence(source, target, rows, options)
    return Fitted(source, target, rows, link, link.predict(source.values))


@cache
def translation(how: str) -> Fitted:
    """seq-to-seq: sentences to the same ones rewritten."""
    return fitted(sentences(), rewritten(sentences(), how))


@cache
def captioning() -> Fitted:
    """vec-to-seq: class probabilities to captions."""
    return fitted(*digits())


@cache
def reading() -> Fitted:
    """seq-to-vec: captions to class probabilities."""
    return fitted(*digits()[::-1])


ARCHITECTURES = {
    "seq-to-seq": lambda: translation("reverse"),
    "vec-to-seq": captioning,
    "seq-to-vec": reading,
}
