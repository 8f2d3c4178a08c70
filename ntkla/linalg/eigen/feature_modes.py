"""All modes of a Gram matrix, held through its smaller side: memory for a square of that side, never for n x k vectors.

`G = Phi Phi^T = U L U^T` (n x n) and `S = Phi^T Phi = V L V^T` (columns x columns) have the same non-zero eigenvalues
L, and `U_j U_j^T Phi = Phi V_j V_j^T` for the eigenspaces of a set j of them: whatever is a product with Phi, such as
a drift, is known in the modes of G from the vectors V alone, and no vector is divided by a singular value.

The smaller side is decomposed completely.  Residual and orthogonality are then found beyond float64, because they
multiply the norm of a head's update, which can be far larger than what the update does to the outputs; what the
rounding of the small matrix itself adds is in `normal.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.accurate import PANEL
from ntkla.linalg.certificates import sharp_orthogonality_defect
from ntkla.linalg.design import MOST_BLOCK_ROWS, DesignMatrix
from ntkla.linalg.eigen.diagonalization import Diagonalization, certified
from ntkla.linalg.eigen.modes import Cluster, Eigenmodes, Spectrum
from ntkla.linalg.eigen.small_side import clusters_of, leading_angles, small_matrix, spectrum_from, status_of
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, norm_upper, rounded_up
from ntkla.linalg.results import Result
from ntkla.linalg.solve.normal import BoundedMatrix, exactly_zero
from ntkla.linalg.status import Status


@dataclass(frozen=True, eq=False)
class FeatureModes(Result):
    """All m = min(n, columns) modes of G = Phi Phi^T that can be other than zero; tensors float64 on its device.

    Attributes:
        values: [m], descending, with multiplicity, >= 0; every other eigenvalue of G is exactly 0.
        value_error: [m], upper bounds of |lambda_i - values_i|, in order: none missed, none counted twice.
        residual_norms: [m], upper bounds of ||M v_i - values_i v_i||_2 for the smaller side M and the stored vectors.
        orthogonality: upper bound of ||V^T V - I||_2.
        angle_bound: [m]; entry j bounds the sine of the largest angle between the span of the first j + 1 vectors and
            the exact leading eigenspace of M of that dimension; 1 where the eigenvalue gap is not certified.
        clusters: all m eigenvalues, cut where their enclosures are disjoint; angles are those of the vectors of M.
        side: `"features"`: M = S and the vectors live in feature space, for n > columns; `"samples"`: M = G.
        bias: whether a column of ones is among the columns.
        columns: the number of features, the bias counted.
        spectrum: all eigenvalues of G, the zeros counted.
        tolerance: relative to the largest eigenvalue.
        status: `"certified"` when every value error and residual meets the tolerance, else `"above_tolerance"`.
        vectors: [m, m], eigenvectors of M, one a column.

    Vectors of one cluster are only defined as a subspace: compare them by principal angles, never one by one.
    """

    values: torch.Tensor
    value_error: torch.Tensor
    residual_norms: torch.Tensor
    orthogonality: float
    angle_bound: torch.Tensor
    clusters: tuple[Cluster, ...]
    side: str
    bias: bool
    columns: int
    spectrum: Spectrum
    tolerance: float
    status: Status
    vectors: torch.Tensor = field(repr=False)

    @property
    def cut(self) -> bool:
        """Whether the modes end inside a cluster: never, all are there."""
        return False

    def eigenmodes(self) -> Eigenmodes:
        """The same modes and bounds as an `Eigenmodes`, where the vectors are those of G: for n <= columns.

        Raises:
            ArgumentError: there are more samples, so the vectors of G are not at hand.
        """
        if self.side != "samples":
            raise ArgumentError("eigenmodes: the vectors live in feature space, not with the samples. Call eigenmodes.")
        return Eigenmodes(
            values=self.values,
            value_error=self.value_error,
            residual_norms=self.residual_norms,
            orthogonality=self.orthogonality,
            angle_bound=self.angle_bound,
            clusters=self.clusters,
            cut=False,
            next_value_bound=0.0,
            complete=True,
            proof="full",
            converged=self.status.certified,
            tolerance=self.tolerance,
            spectrum=self.spectrum,
            status=self.status,
            basis=self.vectors,
        )

    def __str__(self) -> str:
        m, sizes = self.values.shape[0], [len(c) for c in self.clusters]
        return "\n".join(
            [
                f"FeatureModes: all {m} modes of {self.spectrum.size} samples in {self.columns} columns, {self.status}",
                f"  eigenvalues {float(self.values[0]):.6g} ... {float(self.values[-1]):.6g}, "
                f"within {float(self.value_error.max()):.2g}; residuals at most {float(self.residual_norms.max()):.2g}",
                f"  {len(sizes)} clusters, the largest of {max(sizes)}; vectors held on the side of the {self.side}",
            ]
        )


def feature_modes(features: torch.Tensor, *, bias: bool = False, tol: float | None = None) -> FeatureModes:
    """All modes of G = Phi Phi^T, with certified enclosures, held through the smaller of samples and columns.

    Args:
        features: [n, F], float64, float32, bfloat16 or float16, any strides; taken as exact numbers.
        bias: whether a constant feature 1 is appended.
        tol: the value errors and residuals wanted, relative to the largest eigenvalue; 1e-10 when None.  It decides
            the status, not the work.

    Returns:
        FeatureModes.  Inputs are detached.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError, MemoryEstimateError

    Cost: with m = min(n, columns): n m columns operations for the small side and about 25 m^3 to decompose and certify
    it.  Memory: `memory_estimate`.  Deterministic for fixed inputs, versions and thread count.
    """
    design = DesignMatrix(checks.matrix("features", features), checks.flag("bias", bias))
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    checks.memory("feature_modes", memory_estimate(design), design.device)
    bounded = small_matrix(design)
    found = _descending(bounded)
    common, error = found.residual_error, found.value_error
    own = norm_upper(found.residual, dim=0)
    if exactly_zero(bounded.matrix):
        # A matrix that is known to be zero has no residuals; the certificate of others allows for underflow.
        common, error = bounded.error * (1.0 + found.defect), bounded.error
    spectrum = spectrum_from(bounded, found.values, error, design.rows)
    lower, upper = spectrum.lower, spectrum.upper
    residuals = torch.zeros_like(own) if common == 0.0 else rounded_up(own + common)
    angles = (found.values, own, found.defect)
    worst = max(error, float(residuals.max()))
    return FeatureModes(
        values=found.values,
        value_error=spectrum.value_error,
        residual_norms=residuals,
        orthogonality=found.defect,
        angle_bound=leading_angles(*angles, upper, common),
        clusters=clusters_of(*angles, lower, upper, common),
        side="samples" if design.rows <= design.columns else "features",
        bias=bias,
        columns=design.columns,
        spectrum=spectrum,
        tolerance=tolerance,
        status=status_of(worst, float(lower[0]), tolerance),
        vectors=found.vectors,
    )


def memory_estimate(design: DesignMatrix) -> int:
    """Bytes at the peak, beside the features.

    Ten squares (the matrix, its vectors, their residual, the slices of one of them, what `eigh` works in), a panel of
    columns with its slices and products, and a block of what the small matrix is summed over.
    """
    m, longest = min(design.rows, design.columns), max(design.rows, design.columns)
    return 8 * (10 * m * m + 14 * m * min(m, PANEL) + m * min(longest, MOST_BLOCK_ROWS))


def _descending(bounded: BoundedMatrix) -> Diagonalization:
    """The eigendecomposition, descending, with residual and orthogonality beyond float64."""
    ascending, vectors = torch.linalg.eigh(bounded.matrix)
    vectors = vectors.flip(1).contiguous()
    # The exact eigenvalues are >= 0; the residual is that of the values as they stand here.
    values = ascending.flip(0).clamp_(min=0.0)
    return certified(bounded, values, vectors, sharp_orthogonality_defect(vectors), 0.0)
