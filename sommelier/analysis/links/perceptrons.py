"""Several two-layer networks of one shape that train side by side, as one matrix of numbers.

A step of a network this small costs less arithmetic than bookkeeping, so all parameters of a link
are one row, the gradient is written out, and the optimiser is four operations for all links.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sommelier.analysis.links.formats import Kind

SMOOTHING = 0.9  # of squared gradients; the default of TensorFlow, which the paper's authors use
EPSILON = 1e-7  # likewise


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the layers; `inputs` of the widest of several links."""

    inputs: int
    hidden: int
    outputs: int

    @property
    def size(self) -> int:
        """Numbers of one network."""
        return (self.inputs + 1) * self.hidden + (self.hidden + 1) * self.outputs

    def layers(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views of rows (links, size): weight (links, inputs, hidden), bias (links, 1, hidden),
        weight (links, hidden, outputs), bias (links, 1, outputs)."""
        first, last = self.inputs * self.hidden, self.hidden * self.outputs
        parts = torch.split(rows, [first, self.hidden, last, self.outputs], dim=1)
        first_weight, first_bias, last_weight, last_bias = parts
        return (
            first_weight.view(-1, self.inputs, self.hidden),
            first_bias.view(-1, 1, self.hidden),
            last_weight.view(-1, self.hidden, self.outputs),
            last_bias.view(-1, 1, self.outputs),
        )


class Perceptrons:
    """ReLU networks with parameters (links, shape.size), all trained on the same targets."""

    def __init__(self, shape: Shape, parameters: Tensor, kind: Kind) -> None:
        self.shape = shape
        self.parameters = parameters
        self._kind = kind
        self._gradients = torch.zeros_like(parameters)
        self._squares = torch.zeros_like(parameters)
        self._scratch = torch.zeros_like(parameters)

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden units (links, n, hidden) and linear outputs (links, n, outputs)."""
        first, first_bias, last, last_bias = self.shape.layers(self.parameters)
        hidden = torch.baddbmm(first_bias, inputs, first).relu_()
        return hidden, torch.baddbmm(last_bias, hidden, last)

    def step(self, inputs: Tensor, targets: Tensor, learning_rate: float) -> None:
        """One step of RMSprop. inputs : (links, n, inputs); targets : (n, outputs), for all."""
        self.differentiate(inputs, targets)
        self._squares.mul_(SMOOTHING).addcmul_(
            self._gradients, self._gradients, value=1 - SMOOTHING
        )
        scale = torch.sqrt(self._squares, out=self._scratch).add_(EPSILON)
        self.parameters.addcdiv_(self._gradients, scale, value=-learning_rate)

    def differentiate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The gradient of every link's mean `loss`, (links, size); overwritten by the next call."""
        hidden, outputs = self.outputs(inputs)
        last = self.shape.layers(self.parameters)[2]
        first_slope, first_bias_slope, last_slope, last_bias_slope = self.shape.layers(
            self._gradients
        )
        slope = residual(self._kind, outputs, targets).div_(len(targets))
        torch.bmm(hidden.transpose(1, 2), slope, out=last_slope)
        torch.sum(slope, 1, keepdim=True, out=last_bias_slope)
        back = torch.bmm(slope, last.transpose(1, 2)).mul_(hidden > 0)
        torch.bmm(inputs.transpose(1, 2), back, out=first_slope)
        torch.sum(back, 1, keepdim=True, out=first_bias_slope)
        return self._gradients

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean `loss` of every link, (links,)."""
        outputs = self.outputs(inputs)[1]
        return loss(self._kind, outputs, targets.expand_as(outputs)).mean(1)

    def keep(self, places: Sequence[int]) -> None:
        """Drops all links but those at these places."""
        chosen = torch.tensor(places, device=self.parameters.device)
        self.parameters = self.parameters[chosen]
        self._squares = self._squares[chosen]
        self._gradients = torch.zeros_like(self.parameters)
        self._scratch = torch.zeros_like(self.parameters)


def initial(shape: Shape, widths: Sequence[int], seed: int) -> Tensor:
    """Parameters (links, size): uniform within 1 / sqrt(inputs), as torch's Linear.

    Each link is drawn for its own width; the rest of its inputs are padding and weigh nothing.
    """
    rows = torch.zeros(len(widths), shape.size)
    for row, width in zip(rows, widths, strict=True):
        draw = torch.Generator().manual_seed(seed)
        first, first_bias, last, last_bias = shape.layers(row[None])
        for part, inputs in (
            (first[:, :width], width),
            (first_bias, width),
            (last, shape.hidden),
            (last_bias, shape.hidden),
        ):
            part.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=draw)
    return rows


def loss(kind: Kind, outputs: Tensor, targets: Tensor) -> Tensor:
    """Of linear outputs (..., width) against what `Readout.taught` gives: (...).

    Classes: cross-entropy of soft labels after softmax; labels: of each on its own after sigmoid,
    their mean; numbers and boxes: Huber, their mean.
    """
    if kind == "classes":
        return -(targets * outputs.log_softmax(-1)).sum(-1)
    if kind == "labels":
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(
            -1
        )
    return functional.huber_loss(outputs, targets, reduction="none").mean(-1)


def residual(kind: Kind, outputs: Tensor, targets: Tensor) -> Tensor:
    """The derivative of `loss` by the outputs: activation minus target, whatever the kind."""
    if kind == "classes":
        return outputs.softmax(-1).sub_(targets)
    width = outputs.shape[-1]
    if kind == "labels":
        return outputs.sigmoid().sub_(targets).div_(width)
    return outputs.sub(targets).clamp_(-1, 1).div_(width)
