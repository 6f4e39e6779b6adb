"""Fine-tuning of a fused model until it answers as the models it was made of.

Any torch module whose forward gives one tensor per task can be trained; nothing here knows how it
was fused. Normalisation statistics and dropout are frozen: the module stays in evaluation mode.
What is measured and kept are running means of the weights, at a constant rate of learning: as good
as a rate that falls, and training can end or go on at any epoch (two small ResNets of spoken digits
on one trunk lose 1.3 pp after 16 epochs, 3.2 pp with a cosine, 1.8 pp with neither; one seed, on
the samples that choose).
Source: paper 001, section 5.2; algorithms.md F.4; Izmailov et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.computing import Cancelled, check_device, torch_threads
from sommelier.analysis.fusion.extrapolation import Predictor, predict
from sommelier.analysis.fusion.lessons import Lessons
from sommelier.analysis.links.training import (
    TrainingOptions,
    batches,
)
from sommelier.errors import AnalysisError, CancelledError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sommelier.analysis.fusion.losses import Loss, LossName

Array = NDArray[Any]
Stop = Literal["epochs", "reached", "out of reach", "diverged"]

RUN_BATCH = 256  # samples answered at once
MEMORY = 0.98  # of the mean of weights: it reaches back some fifty steps
BATCHES = 64  # of an epoch, at least: with fewer steps an epoch teaches little
SMALLEST, LARGEST = 16, 64  # batch
RATE, HIGHEST_RATE = 0.2, 5e-3  # a rate falls with the width (Yang et al. 2022: Adam's as 1/width)
WARMUP = 20  # steps in which the rate rises to what it stays


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How a fused model is fine-tuned. epochs : the most.

    batch : None for 16 to 64, so that an epoch has 64 steps if it can. learning_rate : None for
    0.2 over the median width of the layers, at most 0.005. loss, weights : of every task ('auto':
    by its kind of answer; None: equal weights). tolerance : the drop on the `select` samples at
    which training ends, for the worst task, a fraction; None trains all `epochs`. predictor : gives
    up where it says that the tolerance is out of reach; None never does. every : epochs between two
    measurements; the paper measures every 5 or 2.
    """

    epochs: int = 16
    batch: int | None = None
    learning_rate: float | None = None
    loss: LossName = "auto"
    weights: tuple[float, ...] | None = None
    tolerance: float | None = None
    predictor: Predictor | None = "power law"
    every: int = 1
    seed: int = 0
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """One measurement. epoch : 0 before training. loss : mean over the epoch's batches, NaN before.

    scores : per task on the `select` samples, in [0, 1]; drops : what the teachers have more.
    """

    epoch: int
    loss: float
    scores: tuple[float, ...]
    drops: tuple[float, ...]

    @property
    def drop(self) -> float:
        """The worst task's; NaN where one is no number, which no other then hides."""
        return float(np.max(self.drops))

    @property
    def rank(self) -> tuple[float, float]:
        """Less is better: the worst task's drop, of equal ones the sum of all; NaN comes last."""
        drop = self.drop
        return (math.inf, math.inf) if math.isnan(drop) else (drop, sum(self.drops))


@dataclass(frozen=True, slots=True)
class Curve:
    """What fine-tuning did. epochs : its measurements. kept : position in it of the state that the
    module has now, the one of least drop. samples : fewest that a task's score is a mean over.

    stopped : 'epochs' when all were trained, 'reached' the tolerance, 'out of reach' as predicted,
    'diverged' when the loss was no number. A drop here flatters the model: the epoch was chosen by
    it (certifying.py tells what is true of other samples).
    """

    epochs: tuple[Epoch, ...]
    kept: int
    stopped: Stop
    samples: int

    @property
    def best(self) -> Epoch:
        return self.epochs[self.kept]

    @property
    def trained(self) -> int:
        """Epochs trained."""
        return self.epochs[-1].epoch


def teach(
    teachers: Sequence[nn.Module], inputs: Sequence[Array], *, device: str = "cpu"
) -> tuple[Array, ...]:
    """Every teacher's answers (n, ...) to the inputs, each (n, ...), to be computed once.

    Raises AnalysisError for a teacher that gives several tensors.
    """
    answers = []
    for teacher in teachers:
        given = answer(teacher, inputs, device=device)
        if len(given) != 1:
            raise AnalysisError(f"a teacher gives {len(given)} tensors, where one is a task's")
        answers.append(given[0])
    return tuple(answers)


def answer(module: nn.Module, inputs: Sequence[Array], *, device: str = "cpu") -> tuple[Array, ...]:
    """The module's outputs, each (n, ...), for its inputs, each (n, ...); kept on the CPU."""
    import torch

    parts = []
    with _on(module, device), torch.inference_mode():
        for start in range(0, len(inputs[0]), RUN_BATCH):
            batch = [np.array(given[start : start + RUN_BATCH]) for given in inputs]
            parts.append([one.cpu().numpy() for one in _outputs(module, batch, device)])
    return tuple(np.concatenate(task) for task in zip(*parts, strict=True))


def fine_tune(
    module: nn.Module,
    lessons: Lessons,
    options: FineTuning = FineTuning(),
    *,
    cancelled: Cancelled = bool,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Curve:
    """Trains the module in place, and leaves it in the state of least drop that was measured.

    on_epoch : called with every measurement, also where cancelling loses the curve.
    On the CPU the same arguments and threads give the same weights, bit by bit. Raises
    CancelledError between batches, AnalysisError for answers that cannot be learned; then too the
    module has its best state so far.
    """
    check_device(options.device)
    with torch_threads(options.threads), _on(module, options.device):
        training = _Training(module, lessons, options, on_epoch)
        try:
            stopped = training.run(cancelled)
        finally:
            training.restore()
    return Curve(tuple(training.epochs), training.kept, stopped, training.samples)


class _Training:
    """A fine-tuning under way."""

    def __init__(
        self, module: nn.Module, lessons: Lessons, options: FineTuning,
        on_epoch: Callable[[Epoch], None] = lambda _: None,
    ) -> None:  # fmt: skip
        import torch

        self.module, self.lessons, self.options = module, lessons, options
        self.on_epoch = on_epoch
        self.rows = lessons.splits.fine_tune
        self.weights = options.weights or (1.0,) * lessons.tasks
        if len(self.weights) != lessons.tasks:
            raise AnalysisError(f"{len(self.weights)} weights for {lessons.tasks} tasks")
        self.taught = [torch.from_numpy(given[self.rows]) for given in lessons.answers]
        self.losses = self._losses()
        self.epochs: list[Epoch] = []
        self.kept = 0
        self.samples = 0
        self.best: dict[str, Tensor] = {}

    def run(self, cancelled: Cancelled) -> Stop:
        import torch

        options, rows = self.options, len(self.rows)
        learned = [p for p in self.module.parameters() if p.requires_grad]
        self._measure(0, float("nan"))
        if self._reached():
            return "reached"
        if not learned:
            raise AnalysisError("the module has no parameters that ask for gradients")
        self.mean = _Mean(learned)
        optimiser = torch.optim.Adam(learned, lr=options.learning_rate or suitable_rate(learned))
        warming = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, (step + 1) / WARMUP)
        )
        batch = options.batch or suitable_batch(rows)
        plan = TrainingOptions(seed=options.seed, batch=batch, epochs=options.epochs)
        for epoch, order in enumerate(batches(rows, plan), start=1):
            loss = self._epoch(optimiser, warming, order, cancelled)
            if not math.isfinite(loss):
                return "diverged"
            if epoch % options.every and epoch < options.epochs:
                continue
            with self.mean.applied():
                self._measure(epoch, loss)
            if self._reached():
                return "reached"
            if self._hopeless():
                return "out of reach"
        return "epochs"

    def restore(self) -> None:
        """Gives the module the best state measured."""
        if self.best:
            self.module.load_state_dict(self.best)

    def _losses(self) -> list[Loss]:
        from sommelier.analysis.fusion.losses import loss_of

        formats = self.lessons.formats
        return [
            loss_of(format, taught, self.options.loss)
            for format, taught in zip(formats, self.taught, strict=True)
        ]

    def _epoch(
        self, optimiser: Any, warming: Any, order: Sequence[Tensor], cancelled: Cancelled
    ) -> float:
        """Trains on every batch once; their mean loss."""
        import torch

        total = torch.zeros((), device=self.options.device)
        for batch in order:
            if cancelled():
                raise CancelledError("the fine-tuning was cancelled")
            total += self._step(optimiser, batch) * len(batch)
            warming.step()
            self.mean.update()
        return float(total) / len(self.rows)

    def _step(self, optimiser: Any, batch: Tensor) -> Tensor:
        import torch

        device = self.options.device
        rows = self.rows[batch.numpy()]
        outputs = _outputs(self.module, self.lessons.inputs_of(rows), device)
        if len(outputs) != self.lessons.tasks:
            raise AnalysisError(
                f"the module gives {len(outputs)} tensors for {self.lessons.tasks} tasks"
            )
        loss = torch.zeros((), device=device)
        tasks = zip(self.weights, self.losses, outputs, self.taught, strict=True)
        for weight, formula, output, taught in tasks:
            loss = loss + weight * formula(output, taught[batch].to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch states no types here
        optimiser.step()
        return loss.detach()

    def _measure(self, epoch: int, loss: float) -> None:
        """Adds the scores on the `select` samples, and keeps the state if it is the best."""
        rows = self.lessons.splits.select
        outputs = answer(self.module, self.lessons.inputs_of(rows), device=self.options.device)
        judged = self.lessons.judge(outputs, rows)
        self.samples = min(len(j.fused) for j in judged)
        scores, drops = ([getattr(j, what) for j in judged] for what in ("score", "drop"))
        self.epochs.append(Epoch(epoch, loss, tuple(scores), tuple(drops)))
        if not self.best or self.epochs[-1].rank < self.epochs[self.kept].rank:
            self.kept = len(self.epochs) - 1
            state = self.module.state_dict()
            self.best = {name: value.detach().clone() for name, value in state.items()}
        self.on_epoch(self.epochs[-1])

    def _reached(self) -> bool:
        tolerance = self.options.tolerance
        return tolerance is not None and self.epochs[-1].drop <= tolerance

    def _hopeless(self) -> bool:
        """Whether some task is predicted not to come within the tolerance."""
        options = self.options
        if options.tolerance is None or options.predictor is None:
            return False
        last = self.epochs[-1]
        for task in range(self.lessons.tasks):
            points = [(e.epoch, e.scores[task]) for e in self.epochs[1:]]
            needed = last.scores[task] + last.drops[task] - options.tolerance
            found = predict(
                points,
                options.epochs,
                samples=self.samples,
                method=options.predictor,
            )
            if found is not None and found.highest < needed:
                return True
        return False


def suitable_batch(rows: int) -> int:
    """For so many samples."""
    return min(LARGEST, max(SMALLEST, rows // BATCHES))


def suitable_rate(parameters: Sequence[Tensor]) -> float:
    """For weights of layers of this width; the narrower side counts, as a layer widens before it
    narrows again."""
    widths = [min(p.shape[:2]) for p in parameters if p.ndim > 1]
    return min(HIGHEST_RATE, RATE / max(1.0, float(np.median(widths or [1]))))


class _Mean:
    """The running mean of parameters; young, it forgets faster."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters, self.steps = list(parameters), 0
        self.values = [p.detach().clone() for p in self.parameters]

    def update(self) -> None:
        """Takes in the parameters as they are now."""
        import torch

        self.steps += 1
        memory = min(MEMORY, self.steps / (self.steps + 9))
        with torch.no_grad():
            torch._foreach_lerp_(self.values, self.parameters, 1 - memory)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters are the mean, and as they were afterwards."""
        import torch

        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.values, strict=True):
                parameter.copy_(value)
            yield
            for parameter, value in zip(self.parameters, kept, strict=True):
                parameter.copy_(value)


def _outputs(module: nn.Module, inputs: Sequence[Array], device: str) -> tuple[Tensor, ...]:
    import torch

    made = module(*(torch.from_numpy(given).to(device) for given in inputs))
    return (made,) if isinstance(made, torch.Tensor) else tuple(made)


@contextmanager
def _on(module: nn.Module, device: str) -> Iterator[None]:
    """The module on a device in evaluation mode, and as and where it was afterwards."""
    home = next((p.device for p in module.parameters()), None)
    trains = module.training
    module.to(device).eval()
    try:
        yield
    finally:
        module.train(trains)
        if home is not None:
            module.to(home)
