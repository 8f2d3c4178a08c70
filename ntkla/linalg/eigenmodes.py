"""The leading eigenpairs of a Gram matrix by one dense decomposition of its smaller side, with certified enclosures.

`G = Phi Phi^T` (n x n) and `S = Phi^T Phi` (columns x columns) share their non-zero eigenvalues.  The smaller of the
two is formed in float64 and decomposed completely, so the enclosure covers the whole spectrum: no eigenvalue can be
missed and no copy of a multiple one can be lost or invented.

From S the eigenvectors of G are u = Phi v / sigma.  For a tiny sigma that quotient is rounding noise, so the columns
Phi v, in descending order of sigma, go through one Householder QR instead: it leaves the directions of the well-defined
ones as they are, makes every column orthogonal to those before it, and completes the basis where Phi v vanishes.
What came out is then judged through the features, whatever way it was made.

Derivations of the bounds: `certificates.py`, `normal.py`; the small side: `small_side.py`.
"""

from __future__ import annotations

import dataclasses

import torch

from ntkla.linalg import checks
from ntkla.linalg.certificates import gram_residual_norms, orthogonality_defect
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, DtypeError
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.modes import Eigenmodes, Spectrum
from ntkla.linalg.operators import GramOperator
from ntkla.linalg.precision import DEFAULT_TOLERANCE, SHORT_CHAIN, TINY64, U64, gamma
from ntkla.linalg.small_side import clusters_of, leading_angles, padded, small_side, status_of


def eigenmodes(
    operator_or_features: torch.Tensor | LinearOperator,
    k: int,
    *,
    bias: bool = False,
    tol: float | None = None,
    strict: bool = False,
) -> Eigenmodes:
    """The k largest eigenvalues of a Gram operator, counted with multiplicity, and their eigenvectors.

    Args:
        operator_or_features: features [n, F] (float64, float32, bfloat16 or float16, any strides) of
            G = Phi Phi^T; or a `GramOperator`; or a `KroneckerGram` of one, which is decomposed through its factor:
            an eigenvalue of G counts once for each output.
        k: how many, 1 <= k <= N.
        bias: with features: whether to append a constant feature 1.  An operator has its own.
        tol: the value errors and residuals wanted, relative to the largest eigenvalue; 1e-10 when None.  It decides
            the status, not the work.
        strict: whether a status that is not certified raises `NotCertifiedError` instead of being returned.

    Returns:
        float64 on the features' device; every bound is an actual upper bound for the features as stored.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError, MemoryEstimateError,
        NotCertifiedError

    Cost: with m = min(n, columns): n m columns to form the small side, about 15 m^3 to decompose and certify it, and
    4 n k (columns + k) for the vectors.  Deterministic for fixed inputs, versions and thread count.
    """
    design, outputs, order = design_of(operator_or_features, bias)
    k = checks.integer("k", k, least=1, most=design.rows * outputs)
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    strict = checks.flag("strict", strict)
    checks.memory("eigenmodes", memory_estimate(design, -(-k // outputs)), design.device)
    modes = _gram_modes(design, -(-k // outputs), tolerance)
    modes.status.require(strict)
    return modes if order is None else _repeated(modes, k, outputs, order)


def spectrum_of(operator_or_features: torch.Tensor | LinearOperator, *, bias: bool = False) -> Spectrum:
    """All eigenvalues of a Gram operator with their enclosures; arguments and errors as for `eigenmodes`."""
    design, outputs, _ = design_of(operator_or_features, bias)
    checks.memory("eigenmodes", memory_estimate(design, 0), design.device)
    return dataclasses.replace(small_side(design)[0], multiplicity=outputs)


def design_of(operator_or_features: object, bias: bool) -> tuple[DesignMatrix, int, str | None]:
    """The features behind the argument of `eigenmodes`, the number of outputs, and a Kronecker kernel's order."""
    if not isinstance(operator_or_features, LinearOperator):
        return DesignMatrix(checks.matrix("features", operator_or_features), checks.flag("bias", bias)), 1, None
    if bias:
        raise ArgumentError("bias: expected False beside an operator. Build it in: GramOperator(features, bias=True).")
    outputs, order, gram = 1, None, operator_or_features
    if isinstance(gram, KroneckerGram):
        outputs, order, gram = gram.outputs, gram.order, gram.gram
    if not isinstance(gram, GramOperator):
        raise DtypeError(
            f"eigenmodes: expected features, a GramOperator or a KroneckerGram of one, got {operator_or_features}."
        )
    return gram.design, outputs, order


def memory_estimate(design: DesignMatrix, k: int) -> int:
    """Bytes at the peak, beside the features, for k modes; 0 for the eigenvalues alone.

    The small side, its vectors, their Gram matrix, the residual, LAPACK's two work arrays and copy; then the vectors of
    G with their residuals and the copies of a QR, and their Gram matrix.
    """
    small = min(design.rows, design.columns)
    return 8 * (7 * small**2 + 4 * design.rows * k + 3 * k**2)


def _gram_modes(design: DesignMatrix, k: int, tolerance: float) -> Eigenmodes:
    spectrum, small = small_side(design)
    basis = small[:, :k].contiguous() if design.rows <= design.columns else _lifted(design, small, k)
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
        complete=following <= float(values[-1] + errors[-1]),
        proof="full",
        converged=status.certified,
        tolerance=tolerance,
        spectrum=spectrum,
        status=status,
        basis=basis,
    )


def _lifted(design: DesignMatrix, small: torch.Tensor, k: int) -> torch.Tensor:
    """Orthonormal [n, k] from the eigenvectors of S: see the module's docstring."""
    products = design.matmul(small[:, :k])
    missing = k - products.shape[1]
    if missing > 0:
        products = torch.nn.functional.pad(products, (0, missing))
    basis: torch.Tensor = torch.linalg.qr(products)[0]
    return basis


def _trace_bound(trace: float, lower: torch.Tensor) -> float:
    """Eigenvalues are >= 0, so the next one is at most the trace minus lower bounds of those before it."""
    certified = float(lower.sum()) * (1.0 - gamma(lower.shape[0]))
    return max(0.0, (trace - certified) * SHORT_CHAIN + TINY64)


def _repeated(factor: Eigenmodes, k: int, outputs: int, order: str) -> Eigenmodes:
    """The modes of I_C (x) G from those of G: every eigenvalue counts once for each output."""
    index = torch.arange(k, dtype=torch.int64, device=factor.values.device)
    mode, output = index // outputs, index % outputs
    whole = output == outputs - 1
    inside = float(factor.spectrum.upper[mode[-1]]) if mode[-1] < factor.spectrum.values.shape[0] else 0.0
    clusters = tuple(dataclasses.replace(c, start=c.start * outputs, stop=c.stop * outputs) for c in factor.clusters)
    return dataclasses.replace(
        factor,
        values=factor.values[mode],
        value_error=factor.value_error[mode],
        residual_norms=factor.residual_norms[mode],
        angle_bound=torch.where(whole, factor.angle_bound[mode], 1.0),
        clusters=clusters,
        cut=clusters[-1].stop > k,
        next_value_bound=factor.next_value_bound if bool(whole[-1]) else inside,
        spectrum=dataclasses.replace(factor.spectrum, multiplicity=outputs),
        factor=factor,
        output_index=output,
        order=order,
    )
