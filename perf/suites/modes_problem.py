"""Features whose Gram matrix has eigenvalues that are known beforehand.

`X = L diag(sqrt(s)) R` with L [n, F], some columns of a cosine transform in a random order of rows, and R [F, F] a
whole one: both orthonormal to rounding, so that `X X^T` has the eigenvalues s and n - F zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dct

from perf.precisions import ROUNDOFF
from perf.suites.primitives import DTYPES

DECAYING, STEEP, GEOMETRIC, CLUSTERED = "1/j", "1/j^2", "0.9^j", "clusters of 10"
_ROWS = 2048


@dataclass(frozen=True)
class Setting:
    """One case: the k leading modes of `I_outputs (x) X X^T`."""

    rows: int
    features: int
    dtype: str
    spectrum: str
    k: int
    outputs: int = 1

    @property
    def name(self) -> str:
        kernel = f"{self.rows} x {self.features}" + (f", {self.outputs} outputs" if self.outputs > 1 else "")
        return f"{kernel}, {self.dtype}, {self.spectrum}, k = {self.k}"


@dataclass(frozen=True, eq=False)
class Problem:
    """X [n, F] on its device and the eigenvalues s of X X^T, float64 [F], descending, the first one 1."""

    x: torch.Tensor
    spectrum: np.ndarray
    k: int
    outputs: int
    dtype: str

    @property
    def leading(self) -> np.ndarray:
        """The k largest eigenvalues of the kernel, each copy counted."""
        copies: np.ndarray = np.repeat(self.spectrum, self.outputs)[: self.k]
        return copies

    @property
    def slack(self) -> float:
        """What making X, and storing it in its type, may do to an eigenvalue: `2 ||E||_2` of random roundings."""
        return 64.0 * ROUNDOFF[self.dtype]


def eigenvalues(name: str, count: int) -> np.ndarray:
    """A spectrum by its name."""
    j = np.arange(count, dtype=np.float64)
    found: np.ndarray = {
        DECAYING: 1.0 / (1.0 + j), STEEP: 1.0 / (1.0 + j) ** 2, GEOMETRIC: 0.9**j, CLUSTERED: 0.5 ** (j // 10)
    }[name]  # fmt: skip
    return found


def make(setting: Setting, device: torch.device) -> Problem:
    """Formed in float64 in blocks of rows, then rounded once."""
    n, features = setting.rows, setting.features
    spectrum = eigenvalues(setting.spectrum, features)
    random = np.random.default_rng(n + features)
    rows, columns = random.permutation(n), 1 + random.permutation(n - 1)[:features]
    weights = np.sqrt(spectrum) * random.choice([-1.0, 1.0], features)
    # cos(pi (i + 1/2) j / n) repeats after 4 n values of (2 i + 1) j: one table holds them all, to rounding.
    table = np.cos(np.arange(4 * n) * (math.pi / (2 * n))) * math.sqrt(2.0 / n)
    x = torch.empty((n, features), dtype=DTYPES[setting.dtype])
    for start in range(0, n, _ROWS):
        part = slice(start, start + _ROWS)
        left = table[((2 * rows[part, None] + 1) * columns) % (4 * n)] * weights
        x[part] = torch.from_numpy(dct(left, axis=1, norm="ortho"))
    return Problem(x.to(device), spectrum, setting.k, setting.outputs, setting.dtype)
