"""Cascades: a cheap model answers what it is sure of, a better one the rest (EBJR).

Usable as a library, without a database: `member` reads the raw answers of a model, `calibrate`
finds thresholds with a proved promise, `crossing` those of the paper, `search_pairs` every student
and teacher of a zoo, `specialise` trains a student for the classes that come most. torch is loaded
by what trains only. What routes requests is sommelier.runtime.cascade. Source: algorithms.md G.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.analysis.lazy import attach

if TYPE_CHECKING:
    from sommelier.analysis.cascades.calibration import (
        Calibration,
        Options,
        Target,
        accuracy_drop,
        calibrate,
        crossing,
        disagreement,
        ranking,
    )
    from sommelier.analysis.cascades.members import Member, member, top_margin
    from sommelier.analysis.cascades.pairs import CascadePair, pareto, search_pairs
    from sommelier.analysis.cascades.scores import class_score, free_energy
    from sommelier.analysis.cascades.selection import aurc, crossing_threshold, fit_temperature
    from sommelier.analysis.cascades.specialised import SpecialisedStudent, specialise
    from sommelier.analysis.cascades.thresholds import (
        Threshold,
        gained_within,
        graded_within,
        kept_within,
        needed,
    )
    from sommelier.analysis.cascades.unproved import by_hand, escalating

_HOMES = {
    "Calibration": "calibration",
    "Options": "calibration",
    "Target": "calibration",
    "accuracy_drop": "calibration",
    "by_hand": "unproved",
    "calibrate": "calibration",
    "crossing": "calibration",
    "disagreement": "calibration",
    "escalating": "unproved",
    "ranking": "calibration",
    "Member": "members",
    "member": "members",
    "top_margin": "members",
    "CascadePair": "pairs",
    "pareto": "pairs",
    "search_pairs": "pairs",
    "class_score": "scores",
    "free_energy": "scores",
    "aurc": "selection",
    "crossing_threshold": "selection",
    "fit_temperature": "selection",
    "SpecialisedStudent": "specialised",
    "specialise": "specialised",
    "Threshold": "thresholds",
    "gained_within": "thresholds",
    "graded_within": "thresholds",
    "kept_within": "thresholds",
    "needed": "thresholds",
}
__all__ = [
    "Calibration",
    "CascadePair",
    "Member",
    "Options",
    "SpecialisedStudent",
    "Target",
    "Threshold",
    "accuracy_drop",
    "aurc",
    "by_hand",
    "calibrate",
    "class_score",
    "crossing",
    "crossing_threshold",
    "disagreement",
    "escalating",
    "fit_temperature",
    "free_energy",
    "gained_within",
    "graded_within",
    "kept_within",
    "member",
    "needed",
    "pareto",
    "ranking",
    "search_pairs",
    "specialise",
    "top_margin",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
