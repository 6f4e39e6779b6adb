"""Training of links: options, early stopping, and all vector sources of one target together.

Links that share a target share the rows, the order of the batches and the sizes of the layers, so a
step is one batched matrix product for all of them; nothing else is shared, and a link comes out as
if it were trained alone. Source: paper 000, section "Black-Box Model Linking"; algorithms.md E.1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.computing import Cancelled, check_device, torch_threads
from sommelier.analysis.links.features import Features, Readout
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.networks import Layer, VectorLink, hidden_units
from sommelier.analysis.links.splits import Split, answered
from sommelier.errors import CancelledError

if TYPE_CHECKING:
    from torch import Tensor

    from sommelier.analysis.links.perceptrons import Shape

Array = NDArray[Any]

GROUP_NUMBERS = 2**23  # parameters of a group: 130 MB with all that an optimiser keeps of them
PADDING = 2  # links train together while the widest source is at most this many times the narrowest


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How links are trained; the defaults are the paper's, with early stopping.

    A link keeps its state of least loss on the validation rows; it stops after `patience` epochs
    without a lesser one, or, with None, after all `epochs`. hidden : None for `hidden_units`.
    device : torch's name of it. threads : more than one pay off from some hundreds of outputs on.
    """

    learning_rate: float = 0.01
    epochs: int = 100
    batch: int = 32
    patience: int | None = 10
    hidden: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 1


def train_vectors(
    sources: Sequence[LinkAnswers],
    target: LinkAnswers,
    split: Split,
    options: TrainingOptions,
    cancelled: Cancelled = bool,
) -> list[VectorLink]:
    """A network from each source to the target, in the order of the sources.

    Samples the target has no answer to are left out. A link whose loss stops being a number keeps
    its best state before that. Raises CancelledError between epochs, AnalysisError where the target
    answered too few samples.
    """
    check_device(options.device)
    rows = answered(target, split)
    links: dict[int, VectorLink] = {}
    outputs = target.format.width
    hidden = options.hidden or hidden_units(outputs, len(rows.train))
    for members in _groups([source.format.width for source in sources], outputs, hidden):
        group = _Group.of([sources[member] for member in members], target, rows.train, hidden)
        links.update(zip(members, _train(group, rows, options, cancelled), strict=True))
    return [links[place] for place in range(len(sources))]


class EarlyStopping:
    """Each link's state of least loss, and whether it is worth going on."""

    def __init__(self, links: int, patience: int | None) -> None:
        self.states: list[Tensor | None] = [None] * links
        self.losses = [float("inf")] * links
        self.epochs = [-1] * links  # the first call is the state before training
        self._patience = patience
        self._waited = [0] * links

    def goes_on(self, link: int, loss: float, state: Tensor) -> bool:
        """Takes an epoch's loss on the validation rows; False when the link should stop.

        state : copied where it is the best so far, which the first always is; a loss that is no
        number ends the training.
        """
        self.epochs[link] += 1
        if self.states[link] is None or loss < self.losses[link]:
            self.states[link] = state.detach().clone()
            self.losses[link] = loss if isfinite(loss) else float("inf")
            self._waited[link] = 0
            return True
        self._waited[link] += 1
        return isfinite(loss) and (self._patience is None or self._waited[link] < self._patience)


def batches(samples: int, options: TrainingOptions) -> Iterator[list[Tensor]]:
    """Epoch after epoch, `options.epochs` of them: positions of the samples of every batch.

    Sizes differ by at most one, so that no step follows the noise of a few left-over samples.
    """
    import torch

    draw = torch.Generator().manual_seed(options.seed)
    count = -(-samples // options.batch)
    for _ in range(options.epochs):
        order = torch.randperm(samples, generator=draw).to(options.device)
        yield list(torch.tensor_split(order, count))


def stop_if(cancelled: Cancelled) -> None:
    """Raises CancelledError if the user asked for it."""
    if cancelled():
        raise CancelledError("the training of links was cancelled")


def _groups(widths: Sequence[int], outputs: int, hidden: int) -> list[list[int]]:
    """Positions of sources of similar width, narrow ones first, in groups that fit into memory."""
    groups: list[list[int]] = []
    for place in sorted(range(len(widths)), key=lambda place: widths[place]):
        size = hidden * (widths[place] + outputs)
        near = groups and widths[place] <= PADDING * widths[groups[-1][0]]
        if near and (len(groups[-1]) + 1) * size <= GROUP_NUMBERS:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


@dataclass(frozen=True, slots=True)
class _Group:
    """Links of one target that train together, and both ends of each."""

    sources: Sequence[LinkAnswers]
    target: LinkAnswers
    shape: Shape
    features: Sequence[Features]
    readout: Readout

    @classmethod
    def of(
        cls, sources: Sequence[LinkAnswers], target: LinkAnswers, rows: Array, hidden: int
    ) -> _Group:
        """rows : the training rows. hidden : units."""
        from sommelier.analysis.links.perceptrons import Shape

        widest = max(source.format.width for source in sources)
        shape = Shape(widest, hidden, target.format.width)
        features = [Features.of(source, rows) for source in sources]
        return cls(sources, target, shape, features, Readout.of(target, rows))

    def batch(self, rows: Array, device: str) -> tuple[Tensor, Tensor]:
        """Inputs (links, rows, widest source) and what outputs are compared with (rows, width)."""
        import torch

        inputs = np.zeros((len(self.sources), len(rows), self.shape.inputs), dtype=np.float32)
        for block, source, read in zip(inputs, self.sources, self.features, strict=True):
            block[:, : source.format.width] = read(source.values[rows])
        taught = self.readout.taught(self.target.values[rows])
        return torch.from_numpy(inputs).to(device), torch.from_numpy(taught).to(device)

    def link(self, place: int, state: Tensor, epochs: int, seconds: float) -> VectorLink:
        """The link of one source from its row of parameters, without the padded inputs."""
        source = self.sources[place].format
        first, first_bias, last, last_bias = (
            part[0].cpu().numpy() for part in self.shape.layers(state[None])
        )
        layers = Layer(first[: source.width], first_bias[0]), Layer(last, last_bias[0])
        return VectorLink(
            source, self.target.format, self.features[place], layers, self.readout, epochs, seconds
        )


def _train(
    group: _Group, rows: Split, options: TrainingOptions, cancelled: Cancelled
) -> list[VectorLink]:
    started = time.perf_counter()
    parts = [group.batch(part, options.device) for part in (rows.train, rows.validation)]
    with torch_threads(options.threads):
        best = _descend(group, parts, options, cancelled)
    seconds = (time.perf_counter() - started) / len(group.sources)
    return [
        group.link(place, state, epochs, seconds)
        for place, (state, epochs) in enumerate(zip(best.states, best.epochs, strict=True))
        if state is not None
    ]


def _descend(
    group: _Group,
    parts: Sequence[tuple[Tensor, Tensor]],
    options: TrainingOptions,
    cancelled: Cancelled,
) -> EarlyStopping:
    """Trains all links of a group; one that stops leaves it."""
    import torch

    from sommelier.analysis.links.perceptrons import Perceptrons, initial

    (inputs, targets), (seen, wanted) = parts
    running = list(range(len(group.sources)))
    best = EarlyStopping(len(running), options.patience)
    with torch.inference_mode():
        start = initial(group.shape, [s.format.width for s in group.sources], options.seed)
        nets = Perceptrons(group.shape, start.to(options.device), group.target.format.kind)
        for order in chain([[]], batches(len(targets), options)):  # before training, then epochs
            stop_if(cancelled)
            for batch in order:
                nets.step(inputs[:, batch], targets[batch], options.learning_rate)
            losses = nets.losses(seen, wanted).tolist()
            going = [
                place
                for place, link in enumerate(running)
                if best.goes_on(link, losses[place], nets.parameters[place])
            ]
            if not going:
                break
            if len(going) < len(running):
                nets.keep(going)
                inputs, seen = inputs[going], seen[going]
                running = [running[place] for place in going]
    return best
