"""How far a layer may be off before it counts as a divergence, when nobody says.

Single precision: a re-export computes the same sums in another order. Measured with normalisation
folded and not, 3e-7 behind 2 residual blocks and 1e-6 behind 30; 1e-4 leaves a factor of a hundred
for other kernels and machines, and an edit that matters is above it. Half precision: the zoo's
ResNets converted to float16 are off by up to 6e-3, so 1e-2; bfloat16 has 8 times coarser steps, of
which errors of random sign keep less: 5e-2, not measured.

Quantised tensors: the unit is the tensor's own step. Rounding it is off by at most half a step and
by step / sqrt(12) in the root mean square; what comes in from rounded inputs and weights is as
large again in a healthy network. A root mean square error of more than one step is thus more than
this layer's own rounding explains. Where weights are 8-bit and the activation is not, rounding of
a range of +-4 to +-10 root mean squares to 255 steps leaves 1 to 2 %: 2.5e-2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.differences.layers import INTEGERS, Tap
from sommelier.analysis.segments.normal_form import NormalForm

Floats = NDArray[np.float64]

SINGLE, HALF, BFLOAT, EIGHT_BITS = 1e-4, 1e-2, 5e-2, 2.5e-2
STEPS = 1.0
DIVERGED = 0.05
"""Share of samples beyond the tolerance from which a layer counts as diverging."""

_FLOAT16, _BFLOAT16 = 10, 16


def precision_tolerance(forms: tuple[NormalForm, NormalForm]) -> float:
    """The relative tolerance of tensors of real numbers: that of the coarser model."""
    return max(_of(form) for form in forms)


def sample_tolerances(taps: tuple[Tap, Tap], root: Floats, general: float) -> Floats:
    """Relative tolerance of each sample. root : (n,) root mean square of the reference's values.

    The coarser step of the two tensors, as a share of the values; `general` where none is
    quantised, and at least that for zeros.
    """
    steps = [tap.scale.step for tap in taps if tap.scale is not None]
    if not steps:
        return np.full(len(root), general)
    with np.errstate(divide="ignore"):
        return np.asarray(STEPS * max(steps) / root, np.float64)


def _of(form: NormalForm) -> float:
    kinds = {form.kind(name)[0] for operator in form.operators for name in operator.outputs}
    leaves = {
        form.constants.dtype_and_shape(leaf)[0]
        for operator in form.operators for leaf in form.leaves(operator)
    }  # fmt: skip
    if form.quantised or (kinds | leaves) & (INTEGERS - {6, 12, 13}):
        return EIGHT_BITS
    if _BFLOAT16 in kinds | leaves:
        return BFLOAT
    return HALF if _FLOAT16 in kinds | leaves else SINGLE
