"""Callers who dial: a stream of spoken digits, and the networks that listen.

A line of a telephone menu asks one sound several things: who speaks, whether the number is known,
which digit, whether it is valid here. The networks are trained on the spot, on other recordings
than those of the stream; each is a black box that hears the sound itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.link_tasks import ACCENTS, SPEAKERS, trained
from benchmarks.streams import FRAMES, Array, Floats, Order, Rows, Stream, Watcher, drawn
from benchmarks.tuned_networks import INPUT, export

RATE, LENGTH = 8_000, 6_000  # of a frame: .75 s
HOP = RATE // 10  # from one frame to the next: the line is looked at ten times a second
CALL = (4, 9)  # digits a caller dials
FIRST, QUIET, LOUD = 25.0, 30.0, 10.0  # dB of speech over noise: first period; others, between
WITHIN = 3.0  # dB, standard deviation of the calls of one period
TRAINS_FROM = 30  # trials from here on train the networks; the others come in the stream
QUICK_TRIALS = 10
AGAIN = 4  # times a recording comes after the first period, in other noise
VARIANTS, QUICK_VARIANTS = 6, 2  # frames of each recording in training, of any noise and place
STEPS, QUICK_STEPS = 500, 70
BATCH = 256
BANDS, MOMENTS = 32, 32  # of a spectrogram
WINDOW, STRIDE = 256, 185  # samples


@dataclass(frozen=True, slots=True)
class Recordings:
    """waves : float32 (n, LENGTH), 0 behind the end. speaker, digit, trial : int64 (n,)."""

    name: str
    waves: Floats
    speaker: Rows
    digit: Rows
    trial: Rows

    def __getitem__(self, rows: Array) -> Recordings:
        speaker, digit, trial = self.speaker[rows], self.digit[rows], self.trial[rows]
        return Recordings(self.name, self.waves[rows], speaker, digit, trial)

    def __len__(self) -> int:
        return len(self.waves)


def calls(*, quick: bool, seed: int) -> Stream:
    """Free Spoken Digits where SOMMELIER_ZOO is set, else tones, and seven networks."""
    rng = np.random.default_rng(seed)
    folder = os.environ.get("SOMMELIER_ZOO")
    every = _spoken(Path(folder)) if folder else _tones(rng)
    watchers = tuple(_listeners(every[every.trial >= TRAINS_FROM], quick, seed, rng))
    heard = every[every.trial < (QUICK_TRIALS if quick else TRAINS_FROM)]
    order = drawn(heard.speaker, heard.digit, CALL, rng, again=AGAIN)
    waves, loudness = heard.waves[order.row], _loudness(order, rng)
    places = ((FRAMES - 1 - place) * HOP for place in range(FRAMES))
    frames = [in_noise(waves, np.full(len(waves), place), loudness, rng) for place in places]
    return Stream(
        f"calls ({heard.name})", np.stack(frames, axis=1).reshape(-1, 1, LENGTH),
        np.repeat(order.period, FRAMES), watchers, spectra,
    )  # fmt: skip


def questions(heard: Recordings) -> dict[str, tuple[Rows, int]]:
    """What the networks are asked, and the channels of their first layer."""
    accent = np.array([ACCENTS[name] for name in SPEAKERS])[heard.speaker]
    return {
        "speaker": (heard.speaker, 16),
        "accent": (accent, 12),
        "known": ((heard.speaker < 2).astype(np.int64), 12),
        "digit": (heard.digit, 16),
        "digit_large": (heard.digit, 32),
        "odd": (heard.digit % 2, 12),
        "valid": ((heard.digit < 5).astype(np.int64), 12),
    }


def _listeners(
    taught: Recordings, quick: bool, seed: int, rng: np.random.Generator
) -> Iterator[Watcher]:
    many = np.tile(np.arange(len(taught)), QUICK_VARIANTS if quick else VARIANTS)
    starts = rng.integers(0, (FRAMES - 1) * HOP + 1, len(many))
    loudness = rng.uniform(LOUD - WITHIN, QUIET + WITHIN, len(many))
    pictures = spectra(in_noise(taught.waves[many], starts, loudness, rng)[:, None])[:, None]
    steps = QUICK_STEPS if quick else STEPS
    for place, (name, (labels, width)) in enumerate(questions(taught).items()):
        network = trained(pictures, labels[many], steps=steps, seed=seed + place, width=width)
        whole = nn.Sequential(Ear(), network, nn.Softmax(dim=1))
        model = export(whole, (2, 1, LENGTH))
        yield Watcher(name, model.SerializeToString(), INPUT, _as_it_is)


class Ear(nn.Module):
    """Waves (n, 1, LENGTH) to spectrograms (n, 1, BANDS, MOMENTS) of mean 0 and variance 1."""

    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        turns = torch.arange(1, WINDOW // 2 + 1)[:, None] * torch.arange(WINDOW)
        angles, fade = turns * (2 * torch.pi / WINDOW), torch.hann_window(WINDOW)
        self.register_buffer("cosines", (angles.cos() * fade)[:, None])  # (lines, 1, WINDOW)
        self.register_buffer("sines", (angles.sin() * fade)[:, None])

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        real = nn.functional.conv1d(sound, self.cosines, stride=STRIDE)  # (n, lines, MOMENTS)
        imaginary = nn.functional.conv1d(sound, self.sines, stride=STRIDE)
        lines = (real * real + imaginary * imaginary + 1e-6).sqrt()[:, None]
        bands = nn.functional.avg_pool2d(lines, (WINDOW // 2 // BANDS, 1)).log1p()
        centred = bands - bands.mean((2, 3), keepdim=True)
        return centred / (centred * centred).mean((2, 3), keepdim=True).sqrt().clamp(min=1e-3)


def spectra(frames: Array) -> Floats:
    """Spectrograms float32 (n, BANDS, MOMENTS) of waves (n, 1, LENGTH)."""
    ear = Ear()
    with torch.no_grad():
        parts = [
            ear(torch.from_numpy(frames[start : start + BATCH]))[:, 0]
            for start in range(0, len(frames), BATCH)
        ]
        return np.asarray(torch.cat(parts).numpy())


def in_noise(waves: Floats, starts: Array, loudness: Array, rng: np.random.Generator) -> Floats:
    """The waves beginning at `starts`, cut off at LENGTH, in noise that is `loudness` dB lower."""
    found = np.zeros_like(waves)
    for row, (wave, start) in enumerate(zip(waves, starts, strict=True)):
        found[row, start:] = wave[: LENGTH - start]
    spoken = np.maximum((waves != 0).sum(axis=1), 1)
    power = np.sqrt(np.square(waves).sum(axis=1) / spoken)
    noise = rng.standard_normal(found.shape, dtype=np.float32)
    return np.asarray(found + noise * (power * 10 ** (-loudness / 20)).astype(np.float32)[:, None])


def _loudness(order: Order, rng: np.random.Generator) -> Array:
    """dB of speech over noise: each call has its own, about that of its period."""
    levels = np.r_[FIRST, rng.uniform(LOUD, QUIET, order.period.max())]
    calls = WITHIN * rng.standard_normal(order.visit.max() + 1)
    return np.asarray(levels[order.period] + calls[order.visit])


def _spoken(folder: Path) -> Recordings:
    stored = np.load(folder / "data" / "fsdd_8khz_6000.npz")
    speaker = np.searchsorted(SPEAKERS, stored["speaker"])
    labels = (np.asarray(part, np.int64) for part in (speaker, stored["digit"], stored["idx"]))
    return Recordings("Free Spoken Digits", stored["x"].astype(np.float32), *labels)


def _tones(rng: np.random.Generator) -> Recordings:
    """A voice's pitch with the harmonics that a digit lets pass, which change as it is spoken."""
    cells = np.indices((len(SPEAKERS), 10, 50)).reshape(3, -1)
    speaker, digit, trial = (part.astype(np.int64) for part in cells)
    time = (np.arange(LENGTH) / RATE).astype(np.float32)
    seconds = rng.uniform(0.3, 0.5, len(trial)).astype(np.float32)[:, None]
    ends = rng.uniform(400, 3_000, (2, 10, 1)).astype(np.float32)  # resonances of each digit
    middle = ends[0][digit] + (ends[1] - ends[0])[digit] * np.minimum(time / seconds, 1)
    pitch = (100 + 60 * speaker + rng.normal(0, 5, len(trial))).astype(np.float32)[:, None]
    waves = np.zeros((len(trial), LENGTH), dtype=np.float32)
    for harmonic in range(1, 20):
        passed = np.exp(-np.square((harmonic * pitch - middle) / 250))
        waves += passed * np.sin(2 * np.pi * harmonic * pitch * time)
    waves[time > seconds] = 0.0
    return Recordings("tones", 3_000 * waves, speaker, digit, trial)


def _as_it_is(frames: Array) -> Array:
    return frames
