"""The smaller of `G = Phi Phi^T` and `S = Phi^T Phi`, decomposed, and what its residuals say about eigenspaces.

Both matrices have the same non-zero eigenvalues, so the smaller one knows the whole spectrum.  Everything that is
proved about subspaces comes from the residuals of the computed vectors and the enclosures of all eigenvalues:
`certificates.py` derives it.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg.certificates import divided_by_cosine, full_enclosure
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.modes import Cluster, Spectrum
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper, ratio, rounded_up
from ntkla.linalg.solve.normal import BoundedMatrix, gram_matrix, normal_matrix
from ntkla.linalg.status import Status


def small_matrix(design: DesignMatrix) -> BoundedMatrix:
    """G for at most as many rows as columns, else S, and the 2-norm bound of its error."""
    return gram_matrix(design) if design.rows <= design.columns else normal_matrix(design)


def small_side(design: DesignMatrix) -> tuple[Spectrum, torch.Tensor]:
    """The spectrum of G and the eigenvectors, descending, of the smaller of G and S."""
    bounded = small_matrix(design)
    ascending, vectors = torch.linalg.eigh(bounded.matrix)
    values, vectors = ascending.flip(0), vectors.flip(1)
    return spectrum_from(bounded, values, full_enclosure(bounded, vectors, values).value_error, design.rows), vectors


def spectrum_from(bounded: BoundedMatrix, values: torch.Tensor, value_error: float, size: int) -> Spectrum:
    """The spectrum of G, `size` eigenvalues, from all computed ones of its smaller side and the bound of their error.

    The exact eigenvalues are >= 0, so moving a computed one there brings it closer.
    """
    matrix, error = bounded
    trace = float(matrix.diagonal().sum())
    return Spectrum(
        values=values.clamp(min=0.0),
        value_error=torch.full_like(values, value_error),
        size=size,
        trace=trace,
        trace_error=(error + gamma(matrix.shape[0]) * trace) * SHORT_CHAIN,
    )


def lifted(design: DesignMatrix, vectors: torch.Tensor, k: int) -> torch.Tensor:
    """k orthonormal vectors [n, k] of G from at most k eigenvectors of S, [columns, m], in descending order.

    They are u = Phi v / sigma.  For a tiny sigma that quotient is rounding noise, so the columns Phi v go through one
    Householder QR instead: it leaves the directions of the well-defined ones as they are, makes every column orthogonal
    to those before it, and completes the basis where Phi v vanishes, or where there are more rows than columns.
    """
    products = design.matmul(vectors)
    basis: torch.Tensor = torch.linalg.qr(torch.nn.functional.pad(products, (0, k - products.shape[1])))[0]
    return basis


def padded(x: torch.Tensor, length: int) -> torch.Tensor:
    """`x` with the eigenvalues that are exactly zero, and have no error, appended."""
    return torch.nn.functional.pad(x, (0, max(0, length - x.shape[0])))


def clusters_of(
    values: torch.Tensor,
    residuals: torch.Tensor,
    defect: float,
    lower: torch.Tensor,
    upper: torch.Tensor,
    common: float = 0.0,
) -> tuple[Cluster, ...]:
    """Cuts the spectrum where neighbouring enclosures are disjoint; those parts that the first k values reach.

    Args:
        values: the first k computed eigenvalues, descending.
        residuals: bounds of the norms of their vectors' residuals, [k].
        defect: the vectors' orthogonality defect.
        lower, upper: enclosures of all eigenvalues, descending.
        common: 2-norm bound of what the residuals of any set of vectors, as one matrix, may have beside that.
    """
    k, size = values.shape[0], lower.shape[0]
    cuts = (torch.nonzero(lower[:-1] > upper[1:]).flatten() + 1).tolist()
    clusters = []
    for start, stop in zip([0, *cuts], [*cuts, size], strict=True):
        if start >= k:
            break
        last = min(stop, k) - 1
        above = float(lower[start - 1]) - float(values[start]) if start > 0 else math.inf
        below = float(values[last]) - float(upper[stop]) if stop < size else math.inf
        gap = min(above, below) * (1.0 - 4 * gamma(1))
        residual = float(norm_upper(residuals[start : last + 1])) + common
        angle = min(1.0, divided_by_cosine(residual / gap, defect)) if gap < math.inf else 0.0
        clusters.append(Cluster(start, stop, gap, angle))
    return tuple(clusters)


def leading_angles(
    values: torch.Tensor, residuals: torch.Tensor, defect: float, upper: torch.Tensor, common: float = 0.0
) -> torch.Tensor:
    """Davis-Kahan for the first j + 1 vectors, each j: the norm of their residuals over the gap below them.

    Arguments as for `clusters_of`.
    """
    k, size = values.shape[0], upper.shape[0]
    largest = residuals.max().clamp(min=TINY64)
    squares = (residuals / largest).square_()
    # Squares that underflow are covered by the last term.
    blocks = largest * (squares.cumsum(0) * (1.0 + gamma(k)) + k * TINY64).sqrt() + common
    gaps = values[: size - 1] - upper[1 : k + 1]
    bounds = rounded_up(blocks[: gaps.shape[0]] * divided_by_cosine(1.0, defect)) / gaps * SHORT_CHAIN
    bounds = torch.where(gaps > 0, bounds, 1.0).clamp_(max=1.0)
    return padded(bounds, k)


def status_of(worst: float, largest: float, tolerance: float) -> Status:
    """Of the largest error of values and residuals, beside the largest eigenvalue."""
    return Status.of_bound(
        ratio(worst, largest),
        tolerance,
        "the bounds hold: use them, or pass a larger tol.",
        what="the error of values and residuals, relative to the largest eigenvalue,",
    )
