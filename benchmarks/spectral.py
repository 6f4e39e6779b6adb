"""The spectral column of Table 1: what the paper's own bound says about each fact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.populations import Population
from sommelier.analysis.bounds.spectral import SpectralSettings, spectral_bounds
from sommelier.errors import AnalysisError

SETTINGS = SpectralSettings(jacobian_samples=4, projections=4, time_limit_s=60)


def spectral_column(people: Population) -> dict[str, str]:
    """Fact -> the lower bound in percent, or "vacuous" with the error rate it would allow.

    Most in favour of the paper: m is the whole population, but the extremes are over a few inputs,
    and hidden constants are 1. Of "a ~ b" it is that of b, with a's answers for labels.
    """
    column: dict[str, str] = {}
    names = list(people.answers)
    for name, network in people.networks.items():
        first = len(next(iter(network.inputs.values())))
        labels: dict[str, NDArray[np.int64]] = {f"{name} right": people.labels[:first]}
        for other in names:
            if other != name:
                labels[f"{other} ~ {name}"] = people.answers[other][:first]
        try:
            found = spectral_bounds(network.model, network.inputs, labels, SETTINGS)
        except AnalysisError as error:
            column.update(dict.fromkeys(labels, f"undefined: {error.message.split(': ')[-1]}"))
            continue
        for fact, bound in found.items():
            whole = bound.at(len(people))
            value = f"vacuous ({whole.value:.3g})" if whole.vacuous else f"{1 - whole.value:.1%}"
            column[fact] = value
    return column
