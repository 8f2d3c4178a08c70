"""What `eigenmodes` returns: certified eigenvalues, eigenvectors with their true residuals, clusters, completeness."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ntkla.linalg import checks
from ntkla.linalg.results import Result
from ntkla.linalg.status import Status

if TYPE_CHECKING:
    from ntkla.linalg.softmax import SoftmaxGram


@dataclass(frozen=True, eq=False)
class Spectrum(Result):
    """All eigenvalues of a positive semidefinite operator, each with its enclosure.

    Attributes:
        values: float64 [m], descending, >= 0.
        value_error: float64 [m], upper bounds of |lambda_i - values_i|, in order; where `ceiling` is given, of
            `values_i - lambda_i` only.
        size: the number of eigenvalues, with multiplicity, of G.
        trace, trace_error: the trace of G and the bound of its error, which is infinite where nothing is known of it.
        multiplicity: how often each eigenvalue, zeros included, occurs in the operator: C for a Kronecker kernel.
        rest: upper bound of each of the remaining `size - m` eigenvalues: 0 when they are exactly zero.
        ceiling: float64 [m], upper bounds of the eigenvalues, in order, where larger ones may have been missed;
            infinite where there is none.  None where none was missed.
        conditional: whether all of that holds for a foreign operator as evaluated only, whose rounding is not known.
        rank: upper bound of how many eigenvalues of G are positive; None where there is none but `size`.
    """

    values: torch.Tensor
    value_error: torch.Tensor
    size: int
    trace: float
    trace_error: float
    multiplicity: int = 1
    rest: float = 0.0
    ceiling: torch.Tensor | None = None
    conditional: bool = False
    rank: int | None = None

    @property
    def lower(self) -> torch.Tensor:
        """Lower bounds of the eigenvalues, [m], >= 0."""
        return beyond(self.values - self.value_error, self.value_error, -torch.inf).clamp_(min=0.0)

    @property
    def upper(self) -> torch.Tensor:
        """Upper bounds of the eigenvalues, [m]."""
        if self.ceiling is not None:
            return self.ceiling
        return beyond(self.values + self.value_error, self.value_error, torch.inf)

    def __str__(self) -> str:
        times = f", each {self.multiplicity} times" if self.multiplicity > 1 else ""
        trace = f"trace {self.trace:.6g}" if math.isfinite(self.trace_error) else "trace not known"
        if self.ceiling is not None:
            most, least = float(self.lower[0]), float(self.lower[-1])
            return (
                f"{self.size} eigenvalues{times}: the {self.values.shape[0]} largest are at least {most:.6g} ... "
                f"{least:.6g}, larger ones may have been missed; {trace}"
            )
        known = "each" if self.rest == 0.0 else f"the first {self.values.shape[0]}"
        rest = "" if self.rest == 0.0 else f", every other one at most {self.rest:.4g}"
        return (
            f"{self.size} eigenvalues{times}: largest {float(self.values[0]):.6g}, {trace}, "
            f"{known} known within {float(self.value_error.max()):.2g}{rest}"
        )


def beyond(rounded: torch.Tensor, error: torch.Tensor, direction: float) -> torch.Tensor:
    """The number after the rounded sum of a value and its error, in a direction; with an error of zero it was exact."""
    return torch.where(error == 0.0, rounded, torch.nextafter(rounded, torch.full_like(rounded, direction)))


@dataclass(frozen=True)
class Cluster(Result):
    """Eigenvalues that cannot be told apart from their neighbours, and the subspace that belongs to them.

    Attributes:
        start, stop: the eigenvalues start, ..., stop - 1 of the operator, counted from 0 in descending order; `stop`
            may lie beyond the k that were asked for: the cut then runs through the cluster.  Where it is not known how
            far, it is the number of all eigenvalues.
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
    """The k largest eigenvalues of a positive semidefinite operator with eigenvectors and what is proved about them.

    Attributes:
        values: float64 [k], descending, with multiplicity.
        value_error: float64 [k], upper bounds of |lambda_i - values_i| for k eigenvalues, every copy counted once; when
            `complete`, these are the k largest, in order: none missed, none counted twice.  In any case the i-th
            largest eigenvalue is at least `values[i] - value_error[i]`.
        residual_norms: float64 [k], upper bounds of ||K u_i - values_i u_i||_2 for the vectors as stored.
        orthogonality: upper bound of ||U^T U - I||_2.
        angle_bound: float64 [k]; entry j bounds the sine of the largest angle between the span of the first j + 1
            vectors and the exact leading eigenspace of that dimension; 1 where the eigenvalue gap is not certified.
        clusters: the clusters that the k eigenvalues fall into, in order.
        cut: whether the last cluster goes on beyond k, so that the last vectors are only some vectors of its subspace.
        next_value_bound: upper bound of the (k+1)-th eigenvalue; 0 when there is none, infinite when nothing is known.
        complete: True when it is proved that none that is larger was missed, to the tolerance:
            `next_value_bound <= values[k-1] + tolerance * l`, l the lower bound of the largest eigenvalue; then also
            `next_value_bound <= values[k-1] + value_error[k-1]`.  None when it is not, and the status says why.
        proof: how it was proved: `"full"`, from the enclosure of the whole spectrum; `"trace"`, from what the k
            eigenvalues leave of the trace; `"inertia"`, from a Cholesky factorisation; None when it was not.
        converged: whether every value error and residual meets the tolerance.
        tolerance: relative to the largest eigenvalue.
        spectrum: all eigenvalues, as far as they are known.
        status: `"certified"` when converged and complete; `"above_tolerance"`, `"incomplete"`, or `"conditional"` for
            a foreign operator whose rounding is not known.
        basis: float64 [n, k]; for a Kronecker kernel [n, ceil(k / C)], the eigenvectors of G.
        passes: how often the operator was multiplied with a block of vectors; 0 for a direct decomposition.
        factor: for a Kronecker kernel the modes of G; None otherwise.
        output_index: for a Kronecker kernel int64 [k], the output that each vector belongs to; None otherwise.
        order: for a kernel over samples and outputs its order of entries, `"class"` or `"sample"`; None otherwise.
        outputs: C for such a kernel when each vector has an entry for every sample and output: the basis is [nC, k];
            None for modes of G, and for a Kronecker kernel, whose basis is that of G.
        softmax: for the kernel of cross-entropy the operator, whose metric `decompose` needs; None otherwise.

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
    complete: bool | None
    proof: str | None
    converged: bool
    tolerance: float
    spectrum: Spectrum
    status: Status
    basis: torch.Tensor = field(repr=False)
    passes: int = 0
    factor: Eigenmodes | None = None
    output_index: torch.Tensor | None = None
    order: str | None = None
    outputs: int | None = None
    softmax: SoftmaxGram | None = None

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

    def flattened(self, x: torch.Tensor) -> torch.Tensor:
        """[n, C] -> [nC], as the entries of a vector are ordered."""
        return (x.T if self.order == "class" else x).reshape(-1)

    def __str__(self) -> str:
        k, size = self.values.shape[0], self.spectrum.size * self.spectrum.multiplicity
        known = self.clusters[-1].stop < size or self.proof == "full"
        whole = f"a cluster of {len(self.clusters[-1])}" if known else "a cluster whose end is not known"
        cut = f"; the cut at {k} runs through {whole}" if self.cut else ""
        proved = f"by {self.proof}" if self.complete else "not proved"
        return "\n".join(
            [
                f"Eigenmodes: {k} of {size}, {self.status}",
                f"  eigenvalues {float(self.values[0]):.6g} ... {float(self.values[-1]):.6g}, "
                f"within {float(self.value_error.max()):.2g}; the next is at most {self.next_value_bound:.6g}",
                f"  residuals at most {float(self.residual_norms.max()):.2g}, "
                f"{len(self.clusters)} clusters{cut}; complete: {self.complete} ({proved})",
            ]
        )
