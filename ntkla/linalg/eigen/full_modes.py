"""The leading eigenpairs of a Gram matrix by one dense decomposition of its smaller side, with certified enclosures.

`G = Phi Phi^T` (n x n) and `S = Phi^T Phi` (columns x columns) share their non-zero eigenvalues.  The smaller of the
two is formed in float64 and decomposed completely, so the enclosure covers the whole spectrum: no eigenvalue can be
missed and no copy of a multiple one can be lost or invented.

The eigenvectors of S are lifted to those of G (`small_side.lifted`), and what came out is judged through the features,
whatever way it was made.

Derivations of the bounds: `certificates.py`, `normal.py`; the small side: `small_side.py`.
"""

from __future__ import annotations

import torch

from ntkla.linalg.certificates import gram_residual_norms, orthogonality_defect
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigen.small_side import clusters_of, leading_angles, lifted, padded, small_side, status_of
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma


def full_modes(design: DesignMatrix, k: int, tolerance: float) -> Eigenmodes:
    """The k largest eigenvalues of Phi Phi^T and their vectors from all of them."""
    spectrum, small = small_side(design)
    basis = small[:, :k].contiguous() if design.rows <= design.columns else lifted(design, small[:, :k], k)
    lower, upper = padded(spectrum.lower, design.rows), padded(spectrum.upper, design.rows)
    values = padded(spectrum.values, k)[:k]
    # Room for one rounding: what a caller computes as `values + value_error` is still an upper bound.
    errors = padded(spectrum.value_error * SHORT_CHAIN + 4 * U64 * spectrum.values, k)[:k]
    trace = (spectrum.trace + spectrum.trace_error) * SHORT_CHAIN
    residuals = gram_residual_norms(design, basis, values, trace=trace, largest=float(upper[0]))
    defect = orthogonality_defect(basis)
    next_bound = float(upper[k]) if k < design.rows else 0.0
    following = min(next_bound, _trace_bound(trace, lower[:k]))
    clusters = clusters_of(values, residuals, defect, lower, upper)
    worst = max(float(errors.max()), float(residuals.max()))
    status = status_of(worst, float(lower[0]), tolerance)
    return Eigenmodes(
        values=values,
        value_error=errors,
        residual_norms=residuals,
        orthogonality=defect,
        angle_bound=leading_angles(values, residuals, defect, upper),
        clusters=clusters,
        cut=clusters[-1].stop > k,
        next_value_bound=following,
        complete=True if following <= float(values[-1] + errors[-1]) else None,
        proof="full",
        converged=status.certified,
        tolerance=tolerance,
        spectrum=spectrum,
        status=status,
        basis=basis,
    )


def _trace_bound(trace: float, lower: torch.Tensor) -> float:
    """Eigenvalues are >= 0, so the next one is at most the trace minus lower bounds of those before it."""
    certified = float(lower.sum()) * (1.0 - gamma(lower.shape[0]))
    return max(0.0, (trace - certified) * SHORT_CHAIN + TINY64)
