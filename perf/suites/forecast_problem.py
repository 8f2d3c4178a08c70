"""Inputs of the `forecast` suite: features with a decaying spectrum and a mean, a residual that the features explain.

Independent entries would make the kernel well conditioned and every solver good.  Here the singular values fall like
those of a backbone's features, both tasks share the directions, and each task has its own mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import dct

DECAY = 0.75  # singular value j falls like j^-DECAY
NOISE = 0.1


@dataclass(frozen=True)
class Problem:
    """One forecast to make; arrays are C-contiguous and of one dtype.

    Attributes:
        old: [n_old, F]; new: [n_new, F]; residual: [n_new, C], prediction minus target on the new task.
        ridge: absolute.
    """

    old: np.ndarray
    new: np.ndarray
    residual: np.ndarray
    ridge: float

    @property
    def outputs(self) -> int:
        return self.residual.shape[1]


def make(n_old: int, n_new: int, features: int, outputs: int, dtype: str, relative_ridge: float) -> Problem:
    """The problem of these sizes; `relative_ridge` counts in mean eigenvalues of the normal matrix, trace / F."""
    generator = np.random.default_rng(20260618)
    signs = generator.choice([-1.0, 1.0], size=features)
    old = _features(generator, n_old, signs).astype(dtype)
    new = _features(generator, n_new, signs).astype(dtype)
    gap = generator.standard_normal((features, outputs)) / np.sqrt(features)
    residual = new @ gap + NOISE * generator.standard_normal((n_new, outputs))
    trace = float(np.einsum("ij,ij->", new, new, dtype=np.float64))
    return Problem(old, new, residual.astype(dtype), relative_ridge * trace / features)


def _features(generator: np.random.Generator, n: int, signs: np.ndarray) -> np.ndarray:
    """Normal entries scaled by the decay, shifted by a mean, and mixed by an orthogonal transform."""
    scale = np.arange(1, signs.size + 1) ** -DECAY
    raw = generator.standard_normal((n, signs.size))
    raw += generator.standard_normal(signs.size)
    raw *= scale * signs
    return dct(raw, axis=1, norm="ortho", overwrite_x=True)
