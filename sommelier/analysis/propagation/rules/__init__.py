"""The table of rules: ONNX operator -> function that bounds the change of its output."""

from __future__ import annotations

from sommelier.analysis.propagation.rules.activation import ACTIVATION
from sommelier.analysis.propagation.rules.attention import ATTENTION
from sommelier.analysis.propagation.rules.elementwise import ELEMENTWISE
from sommelier.analysis.propagation.rules.linear import LINEAR
from sommelier.analysis.propagation.rules.normalisation import NORMALISATION
from sommelier.analysis.propagation.rules.pooling import POOLING
from sommelier.analysis.propagation.rules.quantised import QUANTISED
from sommelier.analysis.propagation.rules.recurrent import RECURRENT
from sommelier.analysis.propagation.rules.resampling import RESAMPLING
from sommelier.analysis.propagation.rules.shape import SHAPE
from sommelier.analysis.propagation.site import Rule

RULES: dict[str, Rule] = {
    **LINEAR,
    **NORMALISATION,
    **ACTIVATION,
    **ELEMENTWISE,
    **POOLING,
    **RESAMPLING,
    **SHAPE,
    **ATTENTION,
    **RECURRENT,
    **QUANTISED,
}
"""By the operator's title: 'Conv', 'com.microsoft:QuickGelu'."""
