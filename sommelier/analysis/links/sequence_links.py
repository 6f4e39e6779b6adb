"""A fitted link from or to token sequences: what it answers. See `sequence_training`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sommelier.analysis.computing import torch_threads
from sommelier.analysis.links.features import Features, Readout
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.links.networks import Architecture, Method
from sommelier.analysis.links.sequences import (
    SLOTS,
    STATE,
    Indices,
    SequenceReader,
    SequenceWriter,
    until_end,
)
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Singles = NDArray[np.float32]

PART = 2**24  # numbers that one part of many samples may take on its way: 64 MB


@dataclass(frozen=True, slots=True)
class SequenceLink:
    """A fitted link whose source, target or both are token sequences.

    network : on the CPU. features : how a vector source is read; readout : how outputs become a
    vector target; None where there are tokens.
    """

    source: AnswerFormat
    target: AnswerFormat
    network: SequenceReader | SequenceWriter
    features: Features | None
    readout: Readout | None
    epochs: int = 0
    seconds: float = 0.0

    @property
    def architecture(self) -> Architecture:
        if self.readout is not None:
            return "seq-to-vec"
        return "seq-to-seq" if self.features is None else "vec-to-seq"

    @property
    def method(self) -> Method:
        return "network"

    @property
    def parameters(self) -> int:
        """Trained numbers; not those that standardise."""
        return sum(part.numel() for part in self.network.parameters())

    def predict(self, values: Array) -> Array:
        """The target's natural answers, (n, width) or tokens (n, steps), to those of the source.

        A sample the source has no answer to (NaN) gets the answer to an average source.
        """
        with torch_threads(1):
            return np.concatenate([self._answers(part) for part in self._parts(values)])

    def scores(self, values: Array) -> Singles:
        """Probabilities (n, steps, vocabulary) of every step's token, after those predicted.

        Behind the end token the end token is certain; a token that no training sample has is
        impossible. Raises AnalysisError where the target is a vector.
        """
        with torch_threads(1):
            return np.concatenate([self._scores(part) for part in self._parts(values)])

    def inputs(self, values: Array) -> Tensor:
        """What the network reads of natural answers of the source: features (n, width), tokens."""
        return torch.from_numpy(values if self.features is None else self.features(values))

    def _parts(self, values: Array) -> list[Array]:
        rows = max(1, PART // numbers_of(self.network, self.source))
        return np.split(values, range(rows, len(values), rows))

    def _answers(self, values: Array) -> Array:
        if isinstance(self.network, SequenceWriter):
            return self._decoded(self.network, values)[0]
        if self.readout is None:
            raise AnalysisError("a link to vectors needs a readout")
        with torch.no_grad():
            return self.readout(self.network(self.inputs(values)).numpy())

    def _scores(self, values: Array) -> Singles:
        if not isinstance(self.network, SequenceWriter):
            raise AnalysisError("a link to vectors has no scores of steps")
        tokens, known = self._decoded(self.network, values)
        found = np.zeros((*tokens.shape, self.target.width), dtype=np.float32)
        found[:, : known.shape[1], self.network.decoder.vocabulary.tokens] = known
        if self.target.end is not None:
            over = ~until_end(tokens, self.target.end)
            over[:, known.shape[1] :] = True
            found[over] = 0.0
            found[over, self.target.end] = 1.0
        return found

    def _decoded(self, network: SequenceWriter, values: Array) -> tuple[Indices, Singles]:
        """Tokens (n, steps) and probabilities (n, reach, known tokens)."""
        classes, probabilities = network.greedy(self.inputs(values))
        tokens = network.decoder.vocabulary.tokens[classes.numpy()]
        end = self.target.end
        if end is not None:
            short = self.target.steps - tokens.shape[1]
            tokens = np.where(until_end(tokens, end), tokens, end)
            tokens = np.pad(tokens, ((0, 0), (0, short)), constant_values=end)
        return tokens, probabilities.numpy()


def numbers_of(network: SequenceReader | SequenceWriter, source: AnswerFormat) -> int:
    """The numbers that one sample's passage through a network takes, in forward direction."""
    slots = source.steps if source.kind == "tokens" else SLOTS
    encoded = 4 * STATE * slots  # gates of the LSTM
    if isinstance(network, SequenceReader):
        return encoded + network.hidden + network.width
    decoder = network.decoder
    return encoded + decoder.reach * (len(decoder.vocabulary) + STATE * (slots + 4))
