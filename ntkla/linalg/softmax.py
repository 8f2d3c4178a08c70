"""The kernel of a linear head under cross-entropy: `B^T (I_C (x) G) B`, G a Gram matrix and B a root of the Hessian.

For outputs f and the softmax p of them, the loss of sample i has the Hessian `S_i = diag(p_i) - p_i p_i^T` in its
outputs.  With `S_i = B_i B_i^T` the operator has the spectrum of the symmetric form `S^(1/2) (I (x) G) S^(1/2)`, and
its non-zero eigenvalues are those of the Gauss-Newton matrix (here the Hessian) of the summed loss in the head's
weights.  The root and its rounding: `softmax_root.py`.

Rounding of `B^T G B v`, with x_i the part of v that belongs to sample i, `beta_i >= ||B_i||`, `g_i = ||phi_i||`, and
`|G_ij| <= g_i g_j` as in every positive semidefinite matrix.  B x is off by `e_i = local(||x_i||)`, so

    y = B x,        E = sum_j g_j e_j,        s = sum_j g_j beta_j ||x_j|| + E   (||z_i|| <= g_i s + d for z = G y)
    d: the error bound of G's own product, of norm D over all outputs,

and the three errors reach the result as `||beta g|| E`, `max(beta) D` and local(z), at most
`3 gamma (||beta g|| s + max(beta) D)` and what underflows.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError
from ntkla.linalg.linear_operator import LinearOperator, summed_bounds
from ntkla.linalg.operators import GramOperator
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper, rounded_up
from ntkla.linalg.softmax_product import kernel_takes, product
from ntkla.linalg.softmax_root import SoftmaxRoot


class SoftmaxGram(LinearOperator):
    """The kernel of a linear head with C outputs in the metric of cross-entropy, `B^T (I_C (x) G) B`, [nC, nC].

    The product alone, for features and probabilities as they are and differentiable, is `softmax_gram`.

    Args:
        gram: G [n, n], a `GramOperator` or another positive semidefinite operator in float64.
        probabilities: p [n, C], float64, float32, bfloat16 or float16, the softmax of the outputs.  Rows need not sum
            to 1: the exact operator is that of each stored row over its exact sum.
        order: `"class"`: position `c n + i` of a vector belongs to sample i and output c; `"sample"`: `i C + c`.

    `B_i = diag(sqrt p_i) - p_i sqrt(p_i)^T`.  Products are float64; one with [nC, m] is a product of G with [n, C m]
    and about 12 n C m operations, and needs four arrays of nC m numbers beside it.  Confident rows lose nothing to
    cancellation.  Bounds are infinite where G's diagonal or rounding is not known.  Deterministic for fixed inputs
    (strides included), versions and thread count.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError
        ArgumentError: a negative probability, a row of zeros, or a G that is not positive semidefinite.
    """

    def __init__(self, gram: LinearOperator, probabilities: torch.Tensor, order: str = "class") -> None:
        if not isinstance(gram, LinearOperator):
            raise DtypeError(f"gram: expected an operator, got {type(gram).__name__}. Wrap it: GramOperator(features).")
        if gram.dtype != torch.float64:
            raise DtypeError(f"gram: expected an operator in float64, got {gram.dtype}. Widen what it is made of.")
        if not gram.psd:
            raise ArgumentError(
                f"gram: expected a positive semidefinite operator, got {gram}, which does not say so. "
                "Make it with psd=True if it is one."
            )
        weights = checks.matrix("probabilities", probabilities, rows=gram.shape[0])
        if weights.device != gram.device:
            raise DeviceError(
                f"probabilities: expected them on {gram.device}, as the operator, got {weights.device}. "
                "Move them with .to(device)."
            )
        self.gram = gram
        self.order = checks.choice("order", order, ("class", "sample"))
        self.root = SoftmaxRoot(weights)
        self.samples, self.outputs = self.root.samples, self.root.outputs
        size = self.samples * self.outputs
        super().__init__((size, size), torch.float64, gram.device, psd=True)

    @property
    def T(self) -> LinearOperator:
        """Itself: the matrix is symmetric."""
        return self

    def output_layout(self) -> tuple[int, str]:
        """C and the order of entries."""
        return self.outputs, self.order

    def trace(self) -> float | None:
        """`sum_i G_ii (1 - ||p_i||^2)`, the middle of `trace_bounds()`; None where G's diagonal is not known."""
        bounds = self.trace_bounds()
        return None if bounds is None else (bounds[0] + bounds[1]) / 2.0

    def trace_bounds(self) -> tuple[float, float] | None:
        """A lower and an upper bound of the trace, rounding included; None where G's diagonal is not known."""
        diagonal = self.gram.diagonal_bounds()
        if diagonal is None:
            return None
        (low, high), (least, most) = diagonal, self.root.trace_bounds()
        upper = torch.where((high == 0.0) | (most == 0.0), 0.0, rounded_up(high * most))
        return summed_bounds((low * least / SHORT_CHAIN - TINY64).clamp(min=0.0), upper)

    def half(self, drift: torch.Tensor, error_bound: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`B^T` applied to a change of the outputs: rows `sqrt(p) (f - <p, f>)`, whose squared norm is `f^T S f`.

        The energies of a drift in this operator's modes are those of what comes out, because the operator is
        `H H^T` for `H = B^T (I (x) Phi)` and a change of the head moves the outputs by `(I (x) Phi) dw`.

        Args:
            drift: [n, C], one row a sample.
            error_bound: [n, C], bounds of the drift's error, infinite entries allowed; None takes it as exact.

        Returns:
            (value, error): float64 [n, C] each, error an entrywise bound.

        Raises:
            DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError
        """
        given = checks.matrix("drift", drift, rows=self.samples, columns=self.outputs)
        checks.one_device(drift=given, probabilities=self.root.roots)
        error = None if error_bound is None else widened(checks.bounds("error_bound", error_bound, drift=given))
        wide = widened(given)
        return self.root.transposed_times(wide[:, :, None])[:, :, 0], self.root.entrywise_error(wide, error)

    def flattened(self, x: torch.Tensor) -> torch.Tensor:
        """[n, C] as the vector [nC] in the operator's order."""
        return (x.T if self.order == "class" else x).reshape(-1)

    def to_dense(self) -> torch.Tensor:
        """The matrix itself, float64 [nC, nC]; exactly symmetric when G's dense form is.

        Raises:
            MemoryEstimateError: before anything is allocated, when it will not fit.

        Cost: 2 n^2 C^3 operations beside those of G's dense form.
        """
        checks.memory(f"{self}.to_dense()", self._dense_bytes(), self.device)
        n, outputs = self.samples, self.outputs
        unit = torch.eye(outputs, dtype=torch.float64, device=self.device)
        columns = self.root.times(unit.expand(n, outputs, outputs)).mT.reshape(n * outputs, outputs)
        products = (columns @ columns.T).tril_()
        products += products.tril(-1).T
        dense = products.view(n, outputs, n, outputs).mul_(self.gram.to_dense()[:, None, :, None])
        return (dense.permute(1, 0, 3, 2) if self.order == "class" else dense).reshape(self.shape)

    def _dense_bytes(self) -> int:
        return 8 * (3 * self.shape[0] ** 2 + 2 * self.samples**2 + 3 * self.shape[0] * self.outputs)

    def _by_sample(self, v: torch.Tensor) -> torch.Tensor:
        """[nC, m] in the operator's order -> [n, C, m]."""
        if self.order == "sample":
            return v.reshape(self.samples, self.outputs, -1)
        return v.reshape(self.outputs, self.samples, -1).transpose(0, 1)

    @property
    def _design(self) -> DesignMatrix | None:
        """The features of G, where it is nothing but their Gram matrix: what a kernel takes."""
        return self.gram.design if type(self.gram) is GramOperator else None

    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        if self._design is not None and kernel_takes(self._design, self.root, v.shape[1]):
            result = product(self._design, self.root, self._by_sample(v), torch.float64)
            return (result if self.order == "sample" else result.transpose(0, 1)).reshape(v.shape)
        inner = self.root.times(self._by_sample(v))
        middle = self.gram._matmat(inner.view(self.samples, -1)).view(inner.shape)
        result = self.root.transposed_times(middle)
        return (result if self.order == "sample" else result.transpose(0, 1)).reshape(v.shape)

    @cached_property
    def _feature_norms(self) -> torch.Tensor | None:
        """Upper bounds of the roots of G's diagonal, float64 [n]; None where it is not known."""
        bounds = self.gram.diagonal_bounds()
        return None if bounds is None else rounded_up(bounds[1].sqrt())

    def _error_bound(self, v: torch.Tensor) -> torch.Tensor:
        if self._feature_norms is None:
            return torch.full((v.shape[1],), math.inf, dtype=torch.float64, device=self.device)
        x, g = self._by_sample(v), self._feature_norms
        norms = norm_upper(x, dim=1)
        inner = self.root.times(x).view(self.samples, -1)
        of_gram = norm_upper(self.gram._error_bound(inner).view(self.outputs, -1), dim=0)
        # A sum of n non-negative products is at most 1 / (1 - gamma_n) <= 1 + gamma_2n times what was computed.
        slack, underflow = 1.0 + gamma(2 * self.samples + 8), 2 * self.samples * TINY64
        first = g @ self.root.rounding(self.root.norms[:, None] * norms, norms) * slack + underflow
        reached = (g * self.root.norms) @ norms * slack + underflow + first
        weight, largest = norm_upper(g * self.root.norms), self.root.norms.max()
        if self._design is not None:
            of_gram = of_gram + _of_other_roots(self._design, first)
        before = weight * first + largest * of_gram
        norms_after = math.sqrt(self.samples) + norm_upper(g) * reached + of_gram
        last = self.root.rounding(weight * reached + largest * of_gram, norms_after)
        return rounded_up(before + last)


def _of_other_roots(design: DesignMatrix, first: torch.Tensor) -> torch.Tensor:
    """What G's rounding can differ by, for G a Gram matrix, when another implementation forms B v.

    Both are within E of the exact B v, `first` = E, so within 2 E of each other; the bound is linear in B v.
    """
    inner, outer = gamma(design.summands), pieced_gamma(design.columns)
    return rounded_up((inner + outer + inner * outer) * design.frobenius() * 2.0 * first)
