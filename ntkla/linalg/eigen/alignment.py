"""How far two data sets use the same feature directions, as one number that weighs each by the spectra.

    alignment = tr(S_a S_b) / (||S_a||_F ||S_b||_F) = ||G_ab||_F^2 / (||G_aa||_F ||G_bb||_F),    S = Phi^T Phi

is the cosine of the angle between the second moments of the features, in [0, 1] (linear CKA without centring:
Kornblith et al., "Similarity of neural network representations revisited", ICML 2019).  In singular vectors it is
`sum_ij l_i l_j O_ij^2` over the norms of the eigenvalues, `O = V_a^T V_b`: the squared entries of the overlap matrix,
weighted by both spectra.  Unlike the cosines of the principal angles it is not 1 whenever n >= columns.

Computed as `||H_a H_b^T||_F^2` with H = Phi for n <= columns, and `H = diag(l)^1/2 V^T` from the modes otherwise.  Then
`S V V^T = V L V^T + R V^T`, so `||S - H^T H||_2 <= delta = ||R||_F ||V||_2 + ||S||_2 omega` + rounding, and because
`|tr(A B)| <= ||A||_2 tr(B)` for a positive semidefinite B, `tr(S_a S_b)` is off by at most
`delta_a tr(S_b) + delta_b ||H_a||_F^2`, beside the rounding of the product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_lower, norm_upper


class Alignment(NamedTuple):
    """The alignment in [0, 1] and the bound of its error."""

    value: float
    error: float


# Where features vanish within the rounding, nothing is known of the angle.
_UNKNOWN = Alignment(0.0, 1.0)


class _Half(NamedTuple):
    """H with `H^T H` about `S / 4^e`, and S's own numbers, divided by 4^e.

    Attributes:
        matrix: H times 2^e, rows to be multiplied by `scale`.
        scale: 2^-e.
        delta: upper bound of ||S - H^T H||_2.
        trace: upper bound of tr(S) and of ||H||_F^2.
        moment: lower and upper bound of ||S||_F.
    """

    matrix: DesignMatrix
    scale: float
    delta: float
    trace: float
    moment: tuple[float, float]

    @classmethod
    def of(cls, design: DesignMatrix, modes: FeatureModes) -> _Half:
        spectrum = modes.spectrum
        trace = (spectrum.trace + spectrum.trace_error) * SHORT_CHAIN
        exponent = (math.frexp(trace)[1] + 1) // 2
        scale, square = 2.0**-exponent, 2.0 ** (-2 * exponent)
        moment = norm_lower(spectrum.lower * square), float(norm_upper(spectrum.upper * square))
        trace *= square
        if modes.side == "samples":
            return cls(design, scale, 0.0, trace, moment)
        half = DesignMatrix((modes.vectors * modes.values.sqrt()).T)
        whole = float(norm_upper(half.features)) * scale
        size = whole * whole * SHORT_CHAIN
        norm = math.sqrt(1.0 + modes.orthogonality)
        turned = float(norm_upper(modes.residual_norms * square)) * norm
        turned += float(spectrum.upper[0]) * square * modes.orthogonality
        # Roots and products of H round by u each; squares that underflow are far below the rest.
        delta = (turned + 8 * U64 * size + TINY64 * design.columns) * SHORT_CHAIN
        return cls(half, scale, delta, max(trace, size), moment)


def alignment(a: DesignMatrix, modes_a: FeatureModes, b: DesignMatrix, modes_b: FeatureModes) -> Alignment:
    """The alignment of two data sets from their features and all their modes.

    Cost: `2 m_a m_b columns` operations, m the smaller of samples and columns; memory for two blocks.
    """
    if not min(float(modes.spectrum.lower[0]) for modes in (modes_a, modes_b)) > 0.0:
        return _UNKNOWN
    left, right = _Half.of(a, modes_a), _Half.of(b, modes_b)
    low, high = _product(left, right)
    apart = (left.delta * right.trace + right.delta * left.trace) * SHORT_CHAIN
    most, least = left.moment[1] * right.moment[1], left.moment[0] * right.moment[0]
    if not least > 0.0:
        return _UNKNOWN
    lower = max(0.0, (low * low / SHORT_CHAIN - apart) / most / SHORT_CHAIN)
    upper = min(1.0, (high * high * SHORT_CHAIN + apart) / least * SHORT_CHAIN)
    value = (lower + upper) / 2
    return Alignment(value, max(upper - value, value - lower) * SHORT_CHAIN + U64)


def _product(left: _Half, right: _Half) -> tuple[float, float]:
    """Lower and upper bound of `||H_a H_b^T||_F`."""
    upper, lower = [], []
    for _, block in left.matrix.blocks():
        scaled = block * left.scale
        for _, other in right.matrix.blocks():
            part = pieced_matmul(scaled, (other * right.scale).T)
            upper.append(float(norm_upper(part)))
            lower.append(norm_lower(part))
    sizes = [math.sqrt(half.trace) * SHORT_CHAIN for half in (left, right)]
    columns, rows = left.matrix.columns, left.matrix.rows + right.matrix.rows
    # Underflow of scaled entries and of products, and stored subnormal numbers where arithmetic flushes them.
    lost = sum(half.matrix.flushed_mass() * half.scale for half in (left, right)) + 8 * TINY64 * rows * columns
    rounding = (pieced_gamma(columns) * sizes[0] * sizes[1] + lost * (sum(sizes) + 1.0)) * SHORT_CHAIN
    summation = SHORT_CHAIN + len(upper) * 4 * U64
    least, most = math.hypot(*lower) / summation, math.hypot(*upper) * summation
    return max(0.0, (least - rounding) / SHORT_CHAIN), (most + rounding) * SHORT_CHAIN
