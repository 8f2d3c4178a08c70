"""What a spectral penalty adds to the normal matrix of the new task, from the leading modes of each old task's probes.

With `G = Phi Phi^T = U diag(s) U^T` on the probes, k modes and C outputs, the penalty
`weight / (C k) ||U^T (f - f_ref)||_F^2` is that of k more samples with features `Z = U^T Phi = diag(sqrt s) V^T`, no
error at the start and the weight `2 weight / (C k)`.  Z is found on the smaller side of Phi, for the largest k that is
asked for; its first rows serve every smaller k.  The rows of Z as stored *are* the penalty: what is proved of a plan is
proved for them.  By Davis and Kahan they are close to the exact leading modes where the spectrum has a gap behind the
k-th; a cut inside a cluster protects some directions of it and not others, here as in a `SpectralPenalty`.

Certified rank.  For k computed vectors V of M = G or Phi^T Phi, values l and `R = M V - V diag(l)`, every unit y has
`y^T V^T M V y >= l_k - omega l_1 - sqrt(1 + omega) ||R||`, so by the Courant-Fischer theorem that, over 1 + omega and
less the error of M, is a lower bound of the k-th eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ntkla.forgetting.planning.grid import Setting
from ntkla.linalg.arithmetic.accurate import accurate_normal_matrix
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.certificates import absolute_norm_upper, orthogonality_defect
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.small_side import small_matrix
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_upper
from ntkla.linalg.solve.normal import BoundedMatrix, normal_matrix


@dataclass(frozen=True, eq=False)
class LeadingModes:
    """What can be protected of one old task.

    Attributes:
        rows: Z, float64 [k, K], the leading mode first; k is at most the certified rank of the probes.
        outputs: C, how many outputs the old task has.
    """

    rows: torch.Tensor
    outputs: int

    def kept(self, modes: int) -> int:
        """How many modes are protected when so many are asked for."""
        return min(modes, self.rows.shape[0])

    def scaled(self, setting: Setting) -> torch.Tensor:
        """The rows of Z that are kept, times the root of what they count at a weight, or a strength, of 1."""
        kept = self.kept(setting.modes)
        rows = self.rows[:kept]
        return rows if setting.strength > 0 else rows * math.sqrt(2.0 / (self.outputs * kept))


def leading_modes(probes: DesignMatrix, outputs: int, modes: int, normal: BoundedMatrix | None = None) -> LeadingModes:
    """The leading modes of one task's probes, at most so many.

    Args:
        probes: their features.
        outputs: of the task.
        modes: the most that are wanted.
        normal: Phi^T Phi where it is known already; used when the probes are more than the columns.

    Cost: with m the smaller of probes and columns: `n m columns` operations for the small side, about 9 m^3 for its
    decomposition, 4 m^2 k for what is certified.
    """
    samples = probes.rows <= probes.columns
    bounded = normal if normal is not None and not samples else small_matrix(probes)
    values, vectors = torch.linalg.eigh(bounded.matrix)
    modes = min(modes, values.shape[0])
    values, vectors = values.flip(0)[:modes].clamp(min=0.0), vectors.flip(1)[:, :modes].contiguous()
    rank = _certified_rank(bounded, values, vectors)
    values, vectors = values[:rank], vectors[:, :rank]
    rows = probes.rmatmul(vectors).T if samples else vectors.T * values.sqrt()[:, None]
    return LeadingModes(rows.contiguous(), outputs)


def _certified_rank(bounded: BoundedMatrix, values: torch.Tensor, vectors: torch.Tensor) -> int:
    """How many of the leading eigenvalues are certainly positive."""
    if values.shape[0] == 0:
        return 0
    matrix, error = bounded
    defect = orthogonality_defect(vectors)
    residual = pieced_matmul(matrix, vectors) - vectors * values
    magnitude = float(norm_upper(vectors)) * (absolute_norm_upper(matrix) + float(values[0]))
    rounding = pieced_gamma(matrix.shape[0]) * magnitude + 4.0 * matrix.numel() * TINY64
    stretch = math.sqrt(1.0 + defect)
    off = stretch * (float(norm_upper(residual)) + rounding) + defect * float(values[0]) + (1.0 + defect) * error
    return int((values > off * SHORT_CHAIN).sum())


def penalty_matrix(tasks: Sequence[LeadingModes], setting: Setting, accurate: bool) -> BoundedMatrix:
    """`sum_P 2 / (C_P k_P) Z_P^T Z_P`, or for a strength `sum_P Z_P^T Z_P`, and the 2-norm bound of its error.

    Args:
        tasks: whose penalties are added, one at least.
        setting: with k >= 1, clamped to what each task has.
        accurate: forms the sum beyond float64.
    """
    stacked = DesignMatrix(torch.cat([task.scaled(setting) for task in tasks]))
    matrix, error = accurate_normal_matrix(stacked) if accurate else normal_matrix(stacked)
    # The root, its argument and the scaled row round once or twice each, on either side of a product.
    scaling = 10 * U64 * float(matrix.diagonal().sum()) + stacked.columns**2 * TINY64
    return BoundedMatrix(matrix, (error + scaling) * SHORT_CHAIN)


def weighted_sum(base: BoundedMatrix, weight: float, added: BoundedMatrix) -> BoundedMatrix:
    """`base + weight added`, with the two roundings of every entry in the bound."""
    scaled = weight * added.matrix
    matrix = base.matrix + scaled
    rounding = 2 * U64 * (float(norm_upper(scaled)) + float(norm_upper(matrix))) + matrix.numel() * TINY64
    return BoundedMatrix(matrix, (base.error + weight * added.error + rounding) * SHORT_CHAIN)
