"""vec-to-vec: a link from a vector to a vector, linear or with one layer of hidden ReLU units.

Paper 000, "Model Link Architecture". Fitted by `linear` or `training`, written by `export`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.features import Features, Readout
from sommelier.analysis.links.formats import AnswerFormat

Array = NDArray[Any]
Singles = NDArray[np.float32]
Architecture = Literal["vec-to-vec", "seq-to-vec", "vec-to-seq", "seq-to-seq"]
Method = Literal["linear", "network"]

SOURCE, TARGET = "source", "target"  # the ends of a link's ONNX graph
LEAST_HIDDEN = 32  # algorithms.md E.1: twice a scalar target would be two units
MOST_HIDDEN = 2048  # twice 1 000 classes; twice MAX_WIDTH would be 67 million numbers


class TrainedLink(Protocol):
    """What every fitted link offers, of vectors and of sequences.

    parameters : trained numbers. epochs : trained for (0: closed form). seconds : of fitting.
    """

    @property
    def architecture(self) -> Architecture: ...
    @property
    def method(self) -> Method: ...
    @property
    def source(self) -> AnswerFormat: ...
    @property
    def target(self) -> AnswerFormat: ...
    @property
    def parameters(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    def predict(self, values: Array) -> Array:
        """The target's natural answers (n, width or steps) to the source's natural answers."""


@dataclass(frozen=True, slots=True)
class Layer:
    """x @ weight + bias. weight : float32 (inputs, outputs); bias : float32 (outputs,)."""

    weight: Singles
    bias: Singles


@dataclass(frozen=True, slots=True)
class VectorLink:
    """A fitted vec-to-vec link: features, one layer or two with a ReLU between, readout."""

    source: AnswerFormat
    target: AnswerFormat
    features: Features
    layers: tuple[Layer, ...]
    readout: Readout
    epochs: int = 0
    seconds: float = 0.0

    @property
    def architecture(self) -> Architecture:
        return "vec-to-vec"

    @property
    def method(self) -> Method:
        return "linear" if len(self.layers) == 1 else "network"

    @property
    def parameters(self) -> int:
        """Trained numbers; not those that standardise."""
        return sum(layer.weight.size + layer.bias.size for layer in self.layers)

    def predict(self, values: Array) -> Singles:
        """The target's natural answers (n, width) to natural answers of the source.

        A sample the source has no answer to (NaN) gets the answer to an average source.
        """
        hidden: Singles = self.features(values)
        for layer in self.layers[:-1]:
            hidden = np.maximum(hidden @ layer.weight + layer.bias, 0)
        return self.readout(hidden @ self.layers[-1].weight + self.layers[-1].bias)


def hidden_units(outputs: int, samples: int) -> int:
    """The default: twice the outputs (the paper), but no fewer than LEAST_HIDDEN and no more than
    there are samples to learn from, which so many units can learn by heart."""
    return min(max(LEAST_HIDDEN, 2 * outputs), max(LEAST_HIDDEN, samples), MOST_HIDDEN)
