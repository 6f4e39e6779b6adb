"""A threshold that follows what is asked, so that no more than a share of it is sent on."""

from __future__ import annotations

from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from sommelier.cascade_records import CascadeStage, threshold_for_share

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

STEP = 0.01  # of the spread of the scores, by which one input that is sent on lowers a threshold


class ShareLimit:
    """The threshold of one stage under ESCALATE AT MOST: lower after each input that is sent on,
    higher after each that is not, so that `share` of them are where it stands still.

    One input a request: of the first n inputs, whatever they are and in whatever order, at most
    share n + (start - least score) / step + 1 are sent on. So the share is kept in the long run
    though inputs drift; nothing is said of accuracy. Inputs without a score are always sent on,
    and not counted. Not thread safe.
    Source: Gibbs and Candes 2021, "Adaptive conformal inference"; quantile tracking.
    """

    def __init__(self, share: float, start: float, *, most: float = inf, spread: float = 1.0):
        """share : in [0, 1]; 0 sends nothing on. most : the threshold never rises above it, as
        above one that was proved. spread : of the scores."""
        self.share = share
        self.most = most
        self.threshold = -inf if share == 0 else min(start, most)
        self._step = STEP * spread

    @classmethod
    def of(cls, stage: CascadeStage, share: float, *, proved: bool) -> ShareLimit:
        """Of a stage: from where its calibration samples keep the share. proved : its threshold
        was, and is not exceeded."""
        start, scores = stage.threshold, stage.quantiles
        if proved and scores:
            start = min(start, threshold_for_share(stage, share))
        spread = scores[-1] - scores[0] if scores else 1.0
        most = stage.threshold if proved else inf
        return cls(share, start, most=most, spread=spread if 0 < spread < inf else 1.0)

    def begin(self, threshold: float) -> None:
        """Go on from a threshold that was set by hand, though it is above one that was proved."""
        self.threshold, self.most = threshold, max(self.most, threshold)

    def follow(self, scores: Floats, kept: Mask) -> None:
        """Look at the inputs of one request: their scores (n,) and which of them were kept."""
        if not isfinite(self.threshold):
            return
        known = ~np.isnan(scores)
        inputs = int(np.count_nonzero(known))
        sent = int(np.count_nonzero(known & ~kept))
        self.threshold = min(self.threshold + self._step * (self.share * inputs - sent), self.most)
