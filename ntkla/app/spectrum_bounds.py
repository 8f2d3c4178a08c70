"""What is proved of a spectrum, for a picture: the ends of every eigenvalue, computed or not, and of their shares.

Rounded as any sum: a picture shows three digits.  Decisions are made in `forgetting.spectrum.ranks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ntkla.app.pictures.axes import Floats, array
from ntkla.linalg.eigen.modes import Spectrum


@dataclass(frozen=True, eq=False)
class Ends:
    """Lower and upper ends of eigenvalues in order.

    Attributes:
        low, high: [m] where the spectrum is known whole; else [size], of which only the first were computed.
        computed: how many.
    """

    low: Floats
    high: Floats
    computed: int

    @classmethod
    def of(cls, spectrum: Spectrum) -> Ends:
        """Of a spectrum: none is above the trace, and those that were not computed are not above its `rest`."""
        computed = spectrum.values.shape[0]
        missing = spectrum.size - computed if spectrum.rest > 0.0 else 0
        low = np.pad(array(spectrum.lower), (0, missing))
        high = np.pad(array(spectrum.upper), (0, missing), constant_values=spectrum.rest)
        largest = spectrum.trace + spectrum.trace_error
        return cls(low, np.minimum(high, largest) if math.isfinite(largest) else high, computed)

    def shares(self, trace: float) -> tuple[Floats, Floats]:
        """Ends of the share of the trace that the first 1, 2, ... eigenvalues hold; 0 for a trace of 0."""
        if trace <= 0.0:
            return np.zeros_like(self.low), np.zeros_like(self.high)
        low = np.cumsum(self.low) / trace
        missing = len(low) - self.computed
        if missing:
            # They are in descending order, so the first of them hold at least as much as their number's part.
            left = 1.0 - low[self.computed - 1]
            low[self.computed :] += left * np.arange(1, missing + 1, dtype=np.float64) / missing
        return np.minimum(low, 1.0), np.minimum(np.cumsum(self.high) / trace, 1.0)
