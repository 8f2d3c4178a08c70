"""What `eigenmodes` returns: certified eigenvalues, eigenvectors with their true residuals, clusters, completeness."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ntkla.linalg import checks
from ntkla.linalg.results import Result
from ntkla.linalg.status import Status


@dataclass(frozen=True, eq=False)
class Spectrum(Result):
    """All eigenvalues of a positive semidefinite operator, each with its enclosure.

    Attributes:
        values: float64 [m], descending, >= 0.  The remaining `size - m` eigenvalues are exactly zero.
        value_error: float64 [m], upper bounds of |lambda_i - values_i|.
        size: the number of eigenvalues, with multiplicity, of G.
        trace, trace_error: the trace of G and the bound of its error.
        multiplicity: how often each eigenvalue, zeros included, occurs in the operator: C for a Kronecker kernel.
    """

    values: torch.Tensor
    value_error: torch.Tensor
    size: int
    trace: float
    trace_error: float
    multiplicity: int = 1

    @property
    def lower(self) -> torch.Tensor:
        """Lower bounds of the eigenvalues, [m], >= 0."""
        return beyond(self.values - self.value_error, self.value_error, -torch.inf).clamp_(min=0.0)

    @property
    def upper(self) -> torch.Tensor:
        """Upper bounds of the eigenvalues, [m]."""
        return beyond(self.values + self.value_error, self.value_error, torch.inf)

    def __str__(self) -> str:
        times = f", each {self.multiplicity} times" if self.multiplicity > 1 else ""
        return (
            f"{self.size} eigenvalues{times}: largest {float(self.values[0]):.6g}, "
            f"trace {self.trace:.6g}, each known within {float(self.value_error.max()):.2g}"
        )


def beyond(rounded: torch.Tensor, error: torch.Tensor, direction: float) -> torch.Tensor:
    """The number after the rounded sum of a value and its error, in a direction; with an error of zero it was exact."""
    return torch.where(error == 0.0, rounded, torch.nextafter(rounded, torch.full_like(rounded, direction)))


@dataclass(frozen=True)
class Cluster(Result):
    """Eigenvalues that cannot be told apart from their neighbours, and the subspace that belongs to them.

    Attributes:
        start, stop: the eigenvalues start, ..., stop - 1 of the operator, counted from 0 in descending order; `stop`
            may lie beyond the k that were asked for: the cut then runs through the cluster.
        gap: certified lower bound of the distance from the computed values to every other eigenvalue; infinite when
            there is no other.
        angle_bound: upper bound of the sine of the angle between any vector in the span of the computed vectors of
            the cluster and the exact eigenspace of the cluster; at most 1, which claims nothing.
    """

    start: int
    stop: int
    gap: float
    angle_bound: float

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Eigenmodes(Result):
    """The k largest eigenvalues of a Gram operator with eigenvectors and what is proved about them.

    Attributes:
        values: float64 [k], descending, with multiplicity.
        value_error: float64 [k], upper bounds of |lambda_i - values_i|, in order: none missed, none counted twice.
        residual_norms: float64 [k], upper bounds of ||K u_i - values_i u_i||_2 for the vectors as stored.
        orthogonality: upper bound of ||U^T U - I||_2.
        angle_bound: float64 [k]; entry j bounds the sine of the largest angle between the span of the first j + 1
            vectors and the exact leading eigenspace of that dimension; 1 where the eigenvalue gap is not certified.
        clusters: the clusters that the k eigenvalues fall into, in order.
        cut: whether the last cluster goes on beyond k, so that the last vectors are only some vectors of its subspace.
        next_value_bound: upper bound of the (k+1)-th eigenvalue; 0 when there is none.
        complete: whether it is proved that no larger eigenvalue was missed:
            `next_value_bound <= values[k-1] + value_error[k-1]`.
        proof: how: `"full"`, from the enclosure of the whole spectrum.
        converged: whether every value error and residual meets the tolerance.
        tolerance: relative to the largest eigenvalue.
        spectrum: all eigenvalues, not only the k largest.
        status: `"certified"` when converged and complete, else `"above_tolerance"`.
        basis: float64 [n, k]; for a Kronecker kernel [n, ceil(k / C)], the eigenvectors of G.
        factor: for a Kronecker kernel the modes of G; None otherwise.
        output_index: for a Kronecker kernel int64 [k], the output that each vector belongs to; None otherwise.
        order: for a Kronecker kernel its order of entries, `"class"` or `"sample"`; None otherwise.

    Vectors of one cluster are only defined as a subspace: compare them by principal angles, never one by one.
    """

    values: torch.Tensor
    value_error: torch.Tensor
    residual_norms: torch.Tensor
    orthogonality: float
    angle_bound: torch.Tensor
    clusters: tuple[Cluster, ...]
    cut: bool
    next_value_bound: float
    complete: bool
    proof: str
    converged: bool
    tolerance: float
    spectrum: Spectrum
    status: Status
    basis: torch.Tensor = field(repr=False)
    factor: Eigenmodes | None = None
    output_index: torch.Tensor | None = None
    order: str | None = None

    @property
    def vectors(self) -> torch.Tensor:
        """Eigenvectors, float64 [N, k], one a column.

        For a Kronecker kernel of C outputs they are `e_c (x) u` (`u (x) e_c` in sample order), [nC, k], built anew
        on each access.

        Raises:
            MemoryEstimateError: they will not fit (Kronecker only); use `basis` and `output_index`.
        """
        if self.output_index is None:
            return self.basis
        samples, k, outputs = self.basis.shape[0], self.values.shape[0], self.spectrum.multiplicity
        checks.memory("Eigenmodes.vectors of a Kronecker kernel", 8 * samples * outputs * k, self.basis.device)
        columns = torch.arange(k, dtype=torch.int64, device=self.basis.device)
        dense = torch.zeros((outputs, samples, k), dtype=torch.float64, device=self.basis.device)
        dense[self.output_index, :, columns] = self.basis[:, columns // outputs].T
        if self.order == "sample":
            dense = dense.transpose(0, 1)
        return dense.reshape(samples * outputs, k)

    def __str__(self) -> str:
        k, size = self.values.shape[0], self.spectrum.size * self.spectrum.multiplicity
        cut = f"; the cut at {k} runs through a cluster of {len(self.clusters[-1])}" if self.cut else ""
        return "\n".join(
            [
                f"Eigenmodes: {k} of {size}, {self.status}",
                f"  eigenvalues {float(self.values[0]):.6g} ... {float(self.values[-1]):.6g}, "
                f"within {float(self.value_error.max()):.2g}; the next is at most {self.next_value_bound:.6g}",
                f"  residuals at most {float(self.residual_norms.max()):.2g}, "
                f"{len(self.clusters)} clusters{cut}; complete: {self.complete} (by {self.proof})",
            ]
        )
