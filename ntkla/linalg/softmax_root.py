"""The root B of the softmax's Hessian: `B_i B_i^T = S_i = diag(p_i) - p_i p_i^T`, C operations a sample, never formed.

With q the roots of one row of probabilities, `||q|| = 1` exactly for the exact row `p = P / sum P` of the stored P,

    B = diag(q) - p q^T = D (I - q q^T),   B^T = (I - q q^T) D,   D = diag(q).

The roots are computed as `sqrt(P_j) / sqrt(sum P)`, P scaled by 2^600 first: nothing underflows, and every root is off
by at most k roundings of itself, `k = ceil(depth / 2) + 3`, depth that of the pairwise sum.

**Confident rows.**  Let m be the largest entry and `r = sum_{j != m} p_j`.  `||S|| <= 2 p_m r =: beta^2` (Gershgorin;
`||S|| >= p_m r`, the largest entry of the diagonal), which is tiny where p is nearly one-hot, and there products as
written would lose it to cancellation.  B takes q to zero and B^T the vector of ones, so where `p_m > 1/2` the input is
shifted first: x by `q x_m / q_m`, z by z_m, which leaves an exact zero at m and nothing that cancels against 1.

**Rounding.**  Let depth be that of the sum over outputs and `kappa = 5 k + 8 + depth`; no term goes through more.
- `B x = q (s - q (q . s))`, s the shifted x.  For `p_m > 1/2`: r < 1/2 and `sqrt(r) <= beta`.  With
  `|s_c| <= |x_c| + (q_c / q_m) |x_m|`, `||s|| <= sqrt(2) ||x||`, the terms' absolute values sum to at most
  `q_c (|s_c| + q_c q . |s|)` in entry c, whose norm over c is at most
  `sqrt(2 r) ((1 + r)^2 + p_m^2)^(1/2) ||x|| <= 2.3 beta ||x||`.  Otherwise `q_m <= beta`, and they are at most
  `q_c (|x_c| + q_c ||x||)`, of norm at most `2 q_m ||x||`.
- `B^T z = w - q (q . w)`, `w = q s`: for `p_m > 1/2` the norm of `q_c (|s_c| + p . |s|)` is at most
  `sqrt(2 r) (1 + sqrt r) ||z|| <= 2.5 beta ||z||`, otherwise at most `2 q_m ||z||`.
What is left up to 3 covers that `p_m > 1/2` is decided on rounded numbers.  So either product is off by at most
`3 gamma_kappa beta ||input||` in 2-norm: relative to the norm of B_i, however confident the row.  At most 16 C
operations that underflow count in an entry, each `tiny (1 + ||input||)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch

from ntkla.linalg.arithmetic.products import pairwise_depth, pairwise_sums
from ntkla.linalg.design import widened
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper, rounded_up

_LIFT = 600
# Entries of one block of samples (8 MiB): what lies between the steps of a product stays small.
_BLOCK_ENTRIES = 2**20


class SoftmaxRoot:
    """The matrices B_i of n rows of probabilities.

    Args:
        probabilities: [n, C], checked floats; rows are divided by their sums.

    Attributes:
        roots: float64 [n, C], the roots of the normalised probabilities.

    Raises:
        ArgumentError: a negative entry, or a row of zeros.
    """

    def __init__(self, probabilities: torch.Tensor) -> None:
        lifted = _lifted(widened(probabilities))
        _require_weights(lifted)
        self.samples, self.outputs = lifted.shape
        self.roots = lifted.sqrt() / pairwise_sums(lifted).sqrt()[:, None]
        self._top = self.roots.argmax(1, keepdim=True)
        self._largest = self.roots.gather(1, self._top)
        self._confident = self._largest.square() > 0.5
        depth = pairwise_depth(self.outputs)
        self._own = -(-depth // 2) + 3
        self._rounding = gamma(5 * self._own + 8 + depth)

    @property
    def relative_rounding(self) -> float:
        """The gamma_kappa of the head of this file."""
        return self._rounding

    def confident_place(self) -> torch.Tensor:
        """int64 [n]: where the row has an entry above 1/2, from which it is shifted; -1 where it has none."""
        return torch.where(self._confident, self._top, -1)[:, 0]

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """B_i x_i for float64 x [n, C, m], contiguous."""
        out = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        for rows in self._blocks(x):
            q, top = self.roots[rows, :, None], self._entry_at_top(x[rows], rows)
            # One over itself is exactly one, and over infinity exactly zero.
            shares = q / torch.where(self._confident, self._largest, math.inf)[rows, :, None]
            shifted = x[rows] - shares * top
            out[rows] = q * (shifted - q * pairwise_sums(q * shifted)[:, None])
        return out

    def transposed_times(self, z: torch.Tensor) -> torch.Tensor:
        """B_i^T z_i for float64 z [n, C, m], contiguous."""
        out = torch.empty(z.shape, dtype=torch.float64, device=z.device)
        for rows in self._blocks(z):
            q, top = self.roots[rows, :, None], self._entry_at_top(z[rows], rows)
            weighted = q * (z[rows] - torch.where(self._confident[rows, :, None], top, 0.0))
            out[rows] = weighted - q * pairwise_sums(q * weighted)[:, None]
        return out

    def rounding(self, weighted: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Bounds of the 2-norm of the error of either product, for the norms of its input, plain and times beta."""
        return rounded_up(3.0 * self._rounding * weighted + 16 * self.outputs**2 * TINY64 * (1.0 + norms))

    def entrywise_error(self, z: torch.Tensor, error: torch.Tensor | None) -> torch.Tensor:
        """Bounds of the error of each entry of B^T z, float64 z [n, C], when z is off by `error` [n, C] itself.

        B^T in absolute values, with the same shift, takes the terms of z to those that were rounded, and the error of
        z to a bound of what it becomes.  Entries of probability zero are exactly zero.
        """
        terms = self._rounding * z.abs() + (0.0 if error is None else error)
        top = terms.gather(1, self._top)
        shifted = torch.where(self._confident, terms + top, terms)
        shifted = shifted.scatter(1, self._top, torch.where(self._confident, 0.0, top))
        impossible = self.roots == 0.0
        weighted = torch.where(impossible, 0.0, self.roots * shifted)
        total = weighted + self.roots * pairwise_sums(self.roots * weighted)[:, None]
        bound = rounded_up(total * (1.0 + 2.0 * self._rounding) + 16 * self.outputs * TINY64)
        return torch.where(impossible | self._decided, 0.0, bound)

    @cached_property
    def _decided(self) -> torch.Tensor:
        """[n, 1], the rows that are exactly one-hot: B_i is zero there, and so is what is computed."""
        return (self.roots != 0.0).sum(1, keepdim=True) == 1

    @cached_property
    def norms(self) -> torch.Tensor:
        """Upper bounds of `beta`, and so of ||B_i||_2, float64 [n]; at most sqrt(2) ||B_i||_2 but for roundings."""
        others = norm_upper(self.roots.scatter(1, self._top, 0.0), dim=1)
        return rounded_up(math.sqrt(2.0) * self._largest[:, 0] * others * (1.0 + gamma(4 * self._own)))

    def trace_bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Bounds of `tr(B_i^T B_i) = 1 - ||p_i||^2 = sum_c p_c (1 - p_c)`, float64 [n] each.

        Nothing cancels: `1 - p_m` is summed from the others, and they are at most 1/2.
        """
        p = self.roots.square()
        others = pairwise_sums(p.scatter(1, self._top, 0.0))[:, None]
        traces = pairwise_sums(p * (1.0 - p).scatter(1, self._top, others))
        rounding = gamma(4 * self._own + 6 + 2 * pairwise_depth(self.outputs))
        underflow = 8.0 * self.outputs * TINY64
        low = (traces * (1.0 - rounding) / SHORT_CHAIN - underflow).clamp(min=0.0)
        return low, torch.where(self._decided[:, 0], 0.0, rounded_up(traces * (1.0 + 2.0 * rounding) + underflow))

    def _blocks(self, x: torch.Tensor) -> Iterator[slice]:
        step = max(1, _BLOCK_ENTRIES // (x.shape[1] * x.shape[2]))
        for start in range(0, self.samples, step):
            yield slice(start, start + step)

    def _entry_at_top(self, x: torch.Tensor, rows: slice) -> torch.Tensor:
        """x [m, C, k] at each row's largest probability, [m, 1, k]."""
        return x.gather(1, self._top[rows, :, None].expand(-1, 1, x.shape[2]))


def _lifted(x: torch.Tensor) -> torch.Tensor:
    """2^600 x exactly: a subnormal number is read from its bits, because flushed arithmetic takes it for zero."""
    bits = x.contiguous().view(torch.int64)
    magnitude = (bits & 0x000FFFFFFFFFFFFF).to(torch.float64) * 2.0 ** (_LIFT - 1074)
    subnormal = torch.where(bits < 0, -magnitude, magnitude)
    return torch.where((bits & 0x7FF0000000000000) == 0, subnormal, x * 2.0**_LIFT)


def _require_weights(lifted: torch.Tensor) -> None:
    negative = (lifted < 0).any(1)
    if bool(negative.any()):
        row = int(negative.nonzero()[0])
        raise ArgumentError(
            f"probabilities: expected entries >= 0, got a negative one in row {row}. Logits? Apply torch.softmax first."
        )
    empty = (lifted == 0).all(1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        raise ArgumentError(f"probabilities: expected a positive sum in every row, got zeros in row {row}. Drop it.")
