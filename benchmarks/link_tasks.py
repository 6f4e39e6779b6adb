"""Spoken digits: small networks that hear the same recordings and are asked different things.

Who speaks, which digit, with which accent (which follows from who speaks), whether the digit is
even, how long it sounds. The networks are trained on the spot, exported to ONNX, and answer the
recordings they were not trained on; links are learned and judged on those. With SOMMELIER_ZOO the
recordings are those of Free Spoken Digits (CC BY-SA 4.0), without it they are synthetic pictures
with the same dependences.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.tuned_networks import export
from sommelier.analysis.execution import open_session
from sommelier.analysis.links import LinkAnswers, format_of, natural
from sommelier.records import OutputKind

Floats = NDArray[np.float32]
Labels = NDArray[Any]

SIZE = 32  # bands and moments of a spectrogram
HOP, WINDOW, RATE = 187, 256, 8_000
TRIALS = 50  # recordings of each speaker saying each digit
TRAINS_FROM = 30  # trials from here on train the networks; the others are for links
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
ACCENTS = {"jackson": 0, "theo": 0, "nicolas": 1, "yweweler": 2, "lucas": 2, "george": 3}
DIGITS = 10
WIDTH = 8  # channels of the first layer
STEPS, QUICK_STEPS = 600, 300
QUICK_TASKS = ("digit", "speaker", "accent", "length")
BATCH = 64


@dataclass(frozen=True, slots=True)
class Group:
    """Models that have answered the same samples.

    answers : of every model. inputs : the samples themselves, float32 (n, channels, size, size), as
    a student sees them; None where there is no student. models : in ONNX, of those made here.
    """

    name: str
    answers: Mapping[str, LinkAnswers]
    inputs: Floats | None = None
    models: Mapping[str, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.answers.values())))


@dataclass(frozen=True, slots=True)
class Recordings:
    """x : float32 (n, 1, SIZE, SIZE), standardised. trial : (n,) 0..49. labels : by task, (n,):
    classes int64, or float32 numbers."""

    name: str
    x: Floats
    trial: NDArray[np.int64]
    labels: Mapping[str, Labels]


def spoken_digits(*, quick: bool, seed: int) -> Group:
    """The networks' answers to the recordings that none was trained on."""
    heard = recordings(seed)
    taught, rest = heard.trial >= TRAINS_FROM, heard.trial < TRAINS_FROM
    models, answers = {}, {}
    steps = QUICK_STEPS if quick else STEPS
    for place, (task, labels) in enumerate(heard.labels.items()):
        if quick and task not in QUICK_TASKS:
            continue
        network = trained(heard.x[taught], labels[taught], steps=steps, seed=seed + place)
        models[task] = export(network, (2, 1, SIZE, SIZE)).SerializeToString()
        kind = OutputKind.CLASSIFICATION if _classes(labels) else OutputKind.REGRESSION
        raw = open_session(models[task], 2).run(None, {"image": heard.x[rest]})[0]
        answers[task] = natural(raw, format_of(kind, raw))
        right = _accuracy(answers[task].values, labels[rest])
        print(f"  {task:8} {right}")
    return Group(heard.name, answers, heard.x[rest], models)


def recordings(seed: int) -> Recordings:
    """Free Spoken Digits where SOMMELIER_ZOO is set, else synthetic ones."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if not folder:
        return synthetic(np.random.default_rng(seed))
    stored = np.load(Path(folder) / "data" / "fsdd_8khz_6000.npz")
    waves = stored["x"].astype(np.float32)
    speaker = np.searchsorted(SPEAKERS, stored["speaker"]).astype(np.int64)
    seconds = (waves.shape[1] - (waves[:, ::-1] != 0).argmax(axis=1)) / RATE
    labels = _labels(speaker, stored["digit"].astype(np.int64), seconds)
    pictures = np.concatenate([spectrograms(part) for part in np.array_split(waves, 10)])
    return Recordings(
        "Free Spoken Digits", _standardised(pictures), stored["idx"].astype(np.int64), labels
    )


def trained(
    x: Floats, labels: Labels, *, steps: int, seed: int, width: int = WIDTH
) -> nn.Sequential:
    """A network of three convolutions: Adam, `steps` batches of 64, the rate falls to 0."""
    classes = _classes(labels)
    with alone(seed) as shuffle:
        network = nn.Sequential(
            *_convolution(x.shape[1], width), *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width), nn.Flatten(),
            nn.Linear(2 * width * (SIZE // 8) ** 2, classes or 1),
        )  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        inputs, wanted = torch.from_numpy(x), torch.from_numpy(labels)
        for _ in range(steps):
            batch = torch.randint(len(x), (BATCH,), generator=shuffle)
            optimiser.zero_grad()
            outputs = network(inputs[batch])
            if classes:
                loss = functional.cross_entropy(outputs, wanted[batch])
            else:
                loss = functional.mse_loss(outputs[:, 0], wanted[batch])
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


@contextmanager
def alone(seed: int) -> Iterator[torch.Generator]:
    """One thread, which for layers this small is fastest, and initial weights by a seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
    torch.set_num_threads(threads)


def _convolution(entries: int, exits: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(entries, exits, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)


def _classes(labels: Labels) -> int | None:
    """How many classes; None of numbers."""
    return int(labels.max()) + 1 if labels.dtype.kind == "i" else None


def _accuracy(answers: Floats, labels: Labels) -> str:
    if not _classes(labels):
        return f"{np.abs(answers[:, 0] - labels).mean():.3f} s of error"
    return f"{100 * (answers.argmax(axis=1) == labels).mean():.1f} % right"


def _labels(speaker: Labels, digit: Labels, seconds: Labels) -> dict[str, Labels]:
    accents = np.array([ACCENTS[name] for name in SPEAKERS])
    return {
        "digit": digit,
        "speaker": speaker,
        "accent": accents[speaker],
        "even": (digit % 2 == 0).astype(np.int64),
        "length": seconds.astype(np.float32),
    }


def spectrograms(waves: Floats) -> Floats:
    """Logarithms of the mean magnitude in SIZE bands at SIZE moments, (n, 1, bands, moments)."""
    padded = np.pad(waves, ((0, 0), (0, WINDOW)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP][:, :SIZE]
    lines = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=2))[:, :, 1:]
    bands = lines.reshape(len(waves), SIZE, SIZE, -1).mean(axis=3)
    return np.log1p(bands).transpose(0, 2, 1)[:, None].astype(np.float32)


def synthetic(rng: np.random.Generator) -> Recordings:
    """A pattern of the speaker, one of the digit, and noise, cut off where the sound ends."""
    cells = np.indices((len(SPEAKERS), DIGITS, TRIALS)).reshape(3, -1)
    speaker, digit, trial = (part.astype(np.int64) for part in cells)
    seconds = 0.3 + 0.02 * digit + 0.03 * speaker + rng.normal(scale=0.03, size=len(trial))
    patterns = [
        np.kron(rng.normal(size=(count, SIZE // 4, SIZE // 4)), np.ones((4, 4)))
        for count in (len(SPEAKERS), DIGITS)
    ]
    pictures = patterns[0][speaker] + patterns[1][digit]
    pictures += rng.normal(scale=3.0, size=pictures.shape)
    silent = np.arange(SIZE) * HOP / RATE > seconds[:, None]
    pictures = np.where(silent[:, None, :], -3.0, pictures)[:, None].astype(np.float32)
    return Recordings(
        "synthetic recordings", _standardised(pictures), trial, _labels(speaker, digit, seconds)
    )


def _standardised(pictures: Floats) -> Floats:
    return (pictures - pictures.mean()) / pictures.std()
