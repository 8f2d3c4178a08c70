"""A layer's tangent kernel as an operator: products by associativity, K v = J (J^T v), and no entry of K is formed.

`J^T v` is one matrix of each parameter's own shape, `W = sum_it a_it (sum_c v_ic d_ict)^T`, and
`(J W)_ic = sum_t <d_ict, a_it W>`.

Rounding in float64.  A term of `J^T v` goes through C roundings in the sum over outputs and those of a sum over n T
rows made in pieces of 128, block by block; a term of `J W` through a sum over F_in in such pieces, one over F_out and a
run of positions, and one addition for each run and each parameter.  All roundings counted together, the error is at
most `gamma_k |J| |J|^T |v|`, and by Cauchy-Schwarz its 2-norm at most `gamma_k ||m|| sum_ic m_ic |v_ic|` with m the
norms of the rows of |J|.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.probe import require_conventional_products
from ntkla.linalg.arithmetic.products import PIECE, add_matmul, pieced_matmul
from ntkla.linalg.errors import DtypeError, ScaleError, ShapeError
from ntkla.linalg.layers.layer_cost import SLICE_ENTRIES
from ntkla.linalg.layers.layer_diagonal import diagonal_terms, layer_ntk_diagonal
from ntkla.linalg.layers.layer_error import magnitudes
from ntkla.linalg.layers.layer_factors import Factors, GivenMask, one_side
from ntkla.linalg.layers.layer_ops import layer_ntk
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper, rounded_up

# Entries of one block of deltas (32 MiB).
_BLOCK_ENTRIES = 2**22
# Numbers that a sum over deltas and positions runs over before it is added, so that its rounding stays small.
_SUMMED = 2**10


class LayerNTK(LinearOperator):
    """The empirical tangent kernel of n samples and C outputs, [nC, nC], through the factors of the gradients.

    Args:
        factors: a pair (a, d) for each parameter, as in `layer_ntk`: a [n, T, F_in] and d [n, C, T, F_out], or
            [n, F_in] and [n, C, F_out].
        mask: as in `layer_ntk`.
        order: `"class"`: position `c n + i` of a vector belongs to sample i and output c; `"sample"`: `i C + c`.

    Products are float64 and taken with the stored factors exactly.  A product with [nC, m] costs
    `4 n m T F_out (F_in + C)` operations for each parameter and two reads of its factors; beside the result it needs
    about 300 MiB, and more only where a sample's factors or a parameter are larger than that.  Deterministic for fixed
    inputs (strides included), versions and thread count.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError, NonFiniteError
        ScaleError: factors whose products overflow.
    """

    def __init__(
        self,
        factors: Sequence[tuple[torch.Tensor, torch.Tensor]],
        *,
        mask: GivenMask = None,
        order: str = "class",
    ) -> None:
        self.order = checks.choice("order", order, ("class", "sample"))
        if isinstance(factors, torch.Tensor) or not isinstance(factors, Sequence):
            raise DtypeError(f"factors: expected a sequence of pairs (a, d), got {type(factors).__name__}.")
        pairs = [_pair(pair) for pair in factors]
        side = one_side([a for a, _ in pairs], [d for _, d in pairs], mask)
        require_conventional_products(side.a[0].device)
        self.side = side
        self._factors = side.factors(torch.float64)
        self._magnitudes = magnitudes(self._factors)
        largest = float(self._magnitudes.norms.max())
        if largest > checks.LARGEST_ENTRY:
            raise ScaleError(
                f"factors: a gradient's norm reaches {largest:.3g}, and products of such numbers overflow. "
                f"Divide a or d by a power of two to bring it below {checks.LARGEST_ENTRY:.3g}."
            )
        self.samples, self.outputs = (int(length) for length in side.d[0].shape[:2])
        size = self.samples * self.outputs
        super().__init__((size, size), torch.float64, side.a[0].device, psd=True)

    @property
    def T(self) -> LinearOperator:
        """Itself: the matrix is symmetric."""
        return self

    def diagonal(self) -> torch.Tensor:
        """The diagonal, float64 [nC] in the operator's order."""
        diagonal = layer_ntk_diagonal(self.side.a, self.side.d, mask=self.side.masks or None, precision="float64")
        return self._ordered(diagonal[..., None])[:, 0]

    def output_layout(self) -> tuple[int, str]:
        """C and the order of entries."""
        return self.outputs, self.order

    def trace(self) -> float:
        """The sum of the diagonal: the squared Frobenius norm of the Jacobian."""
        return math.fsum(self.diagonal().tolist())

    def diagonal_bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper bounds of the diagonal, float64 [nC] each in the operator's order."""
        terms = [diagonal_terms(f.d.shape[2], f.a.shape[2], f.d.shape[3]) for f in self._factors]
        rounding = gamma(2 * (max(terms) + len(terms)))
        lost = 8.0 * TINY64 * sum(terms) * self._magnitudes.sums.square()
        error = self._ordered((rounding * self._magnitudes.norms.square() + lost)[..., None])[:, 0]
        diagonal = self.diagonal()
        return ((diagonal - error) / SHORT_CHAIN).clamp(min=0.0), rounded_up(diagonal + error)

    def to_dense(self) -> torch.Tensor:
        """The matrix itself, float64 [nC, nC], exactly symmetric: `layer_ntk` in the operator's order.

        Raises:
            MemoryEstimateError: before anything is allocated, when it will not fit.
        """
        rows = self.shape[0]
        checks.memory(f"{self}.to_dense()", 2 * rows * rows * self.dtype.itemsize, self.device)
        dense = layer_ntk(self.side.a, self.side.d, mask=self.side.masks or None, precision="float64")
        if self.order == "class":
            dense = dense.permute(1, 0, 3, 2)
        return dense.reshape(rows, rows)

    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        blocks = torch.chunk(v, -(-v.shape[1] // self._columns_at_once()), dim=1)
        return torch.cat([self._ordered(self._product(self._by_sample(block))) for block in blocks], dim=1)

    def _columns_at_once(self) -> int:
        """Columns of v whose weights, and whose products with one block of samples, fit into `SLICE_ENTRIES`."""
        rows = [max(f.a.shape[2], _samples_at_once(f) * f.a.shape[1]) for f in self._factors]
        largest = max(row * f.d.shape[3] for row, f in zip(rows, self._factors, strict=True))
        return max(1, SLICE_ENTRIES // largest)

    def _by_sample(self, v: torch.Tensor) -> torch.Tensor:
        """[nC, m] in the operator's order -> [n, C, m]."""
        if self.order == "sample":
            return v.reshape(self.samples, self.outputs, -1)
        return v.reshape(self.outputs, self.samples, -1).transpose(0, 1)

    def _ordered(self, v: torch.Tensor) -> torch.Tensor:
        """[n, C, m] -> [nC, m] in the operator's order."""
        return (v if self.order == "sample" else v.transpose(0, 1)).reshape(self.shape[0], -1)

    def _product(self, v: torch.Tensor) -> torch.Tensor:
        """K v for v [n, C, m]."""
        result = torch.zeros_like(v)
        for factors in self._factors:
            width = factors.d.shape[3] * v.shape[2]
            weights = torch.zeros((factors.a.shape[2], width), dtype=torch.float64, device=self.device)
            for samples, a, d in _blocks(factors):
                weighted = d.flatten(2, 3).mT @ v[samples]
                add_matmul(weights, a.flatten(0, 1).T, weighted.reshape(-1, width))
            for samples, a, d in _blocks(factors):
                outputs = pieced_matmul(a.flatten(0, 1), weights).view(*a.shape[:2], d.shape[3], v.shape[2])
                for positions in _positions(d):
                    result[samples] += d[:, :, positions].flatten(2, 3) @ outputs[:, positions].flatten(1, 2)
        return result

    @cached_property
    def _rounding(self) -> float:
        """The gamma_k of the module's docstring."""
        most = 0
        for factors in self._factors:
            n, outputs, positions, _ = factors.d.shape
            step = _samples_at_once(factors)
            rows = [step * positions] * (n // step) + [n % step * positions]
            inward = outputs + min(PIECE, n * positions) + sum(-(-length // PIECE) for length in rows)
            inputs = factors.a.shape[2]
            groups = list(_positions(factors.d))
            longest = (groups[0].stop - groups[0].start) * factors.d.shape[3]
            most = max(most, inward + min(PIECE, inputs) + -(-inputs // PIECE) + longest + len(groups))
        return gamma(most + len(self._factors) + 2)

    def _error_bound(self, v: torch.Tensor) -> torch.Tensor:
        norms = self._ordered(self._magnitudes.norms[..., None])[:, 0]
        size = self.shape[0]
        # A sum of n non-negative products is at most 1 / (1 - gamma_n) <= 1 + gamma_2n times what was computed.
        weighted = norms @ (v.abs() + TINY64) * (1.0 + gamma(2 * size + 2)) + 2 * size * TINY64
        bound = self._rounding * norm_upper(norms) * weighted
        total = self._magnitudes.sums.sum() * (1.0 + gamma(2 * size))
        lost = 8.0 * TINY64 * self._underflowing * total.square() * (1.0 + norm_upper(v, dim=0))
        return rounded_up(bound + lost)

    @cached_property
    def _underflowing(self) -> float:
        """How many numbers of an answer can lose `tiny`, each times at most the squared sum of all magnitudes."""
        lengths = [f.a.shape[2] * f.d.shape[3] * (f.a.shape[0] * f.a.shape[1] + 4) for f in self._factors]
        return float(sum(lengths) + max(lengths) * (self.outputs + self.shape[0]))


def _pair(pair: object) -> tuple[torch.Tensor, torch.Tensor]:
    """One parameter's (a, d), detached; a pending sign is applied, because bits do not know of it."""
    if isinstance(pair, torch.Tensor) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise DtypeError(f"factors: expected a sequence of pairs (a, d), got {type(pair).__name__} in it.")
    a, d = pair
    for name, x in (("a", a), ("d", d)):
        if not isinstance(x, torch.Tensor):
            raise DtypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}.")
        checks.certifiable(name, x)
        if 0 in x.shape:
            raise ShapeError(f"{name}: expected at least one of everything, got shape {tuple(x.shape)}.")
    return a.detach().resolve_neg(), d.detach().resolve_neg()


def _samples_at_once(factors: Factors) -> int:
    return max(1, _BLOCK_ENTRIES // math.prod(factors.d.shape[1:]))


def _blocks(factors: Factors) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """(samples, a [m, T, F_in], d [m, C, T, F_out]) in float64."""
    step, n = _samples_at_once(factors), factors.a.shape[0]
    for start in range(0, n, step):
        samples = slice(start, min(start + step, n))
        yield samples, factors.activations(samples), factors.deltas(samples)


def _positions(d: torch.Tensor) -> Iterator[slice]:
    """Runs of positions whose deltas are summed in one product: about `_SUMMED` numbers."""
    step, positions = max(1, _SUMMED // d.shape[3]), d.shape[2]
    for start in range(0, positions, step):
        yield slice(start, min(start + step, positions))
