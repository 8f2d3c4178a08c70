"""Sample weights: the loss `1/2 sum_i w_i ||phi_i X - y_i||^2`, with D = diag(w).

With `Psi = D^1/2 Phi` it is the loss without weights of the features Psi and the targets `D^1/2 Y`.  Every bound holds
in those terms: where it names the norm of a row of the features, of the outputs or of the targets, that norm is taken
times `sqrt(w_i)`.  Psi itself holds roots, which round, so no certified residual is formed with it:

- outputs are multiplied by w beyond float64 (`times`), on their way from one product with the features to the other;
- where rows have to be scaled, `w = scale^2 rest` is split exactly, scale a power of two (`split`);
- factors, which nobody trusts, take rows scaled by rounded roots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.doubled import Doubled, column_sum, two_product, two_sum
from ntkla.linalg.arithmetic.slicing import power_of_two
from ntkla.linalg.checks import LARGEST_ENTRY
from ntkla.linalg.design import Design, widened
from ntkla.linalg.errors import ArgumentError, ScaleError, ShapeError
from ntkla.linalg.precision import NEGLIGIBLE, SHORT_CHAIN, U64, norm_upper


def sample_weights(name: str, x: object, samples: int) -> torch.Tensor:
    """`x` as float64 weights [samples], not negative and not all zero, detached.

    Raises:
        ShapeError, DtypeError, NonFiniteError, ScaleError, DeviceError
        ArgumentError: a negative weight, one that cannot be told from 0 safely, or none above 0: nothing is trained on
            then, and what is left of the problem needs no samples.
    """
    if isinstance(x, torch.Tensor):
        checks.dense(name, x)
    if not isinstance(x, torch.Tensor) or x.shape != (samples,):
        came = f"shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ShapeError(f"{name}: expected a tensor of shape ({samples},), one weight a sample, got {came}.")
    values = widened(checks.matrix(name, x[:, None])[:, 0])
    if bool((values < 0).any()):
        raise ArgumentError(f"{name}: expected weights >= 0, got a negative one. Drop those samples.")
    # Zeros are told by their bits: flushed arithmetic takes subnormal numbers for zeros.
    positive = values.contiguous().view(torch.int64) << 1 != 0
    if bool((positive & (values < NEGLIGIBLE)).any()):
        raise ArgumentError(
            f"{name}: expected each weight to be 0 or at least {NEGLIGIBLE:.3g}. Scale all weights and the ridge up."
        )
    if not bool(positive.any()):
        raise ArgumentError(f"{name}: expected a weight above 0, got zeros only. Give weight to a sample.")
    return values


@dataclass(frozen=True, eq=False)
class SampleWeights:
    """Weights of the rows of a design matrix Phi, and what bounds need of them.

    Attributes:
        values: w, float64 [n], each 0 or at least 2^-900.
        roots: sqrt(w) rounded, [n].
        upper_roots: upper bounds of sqrt(w), [n], with a rounding to spare for the product with something.
        largest_root: upper bound of the largest root.
        total: sum of w, off by at most 2 u of itself.
        frobenius: upper bound of ||D^1/2 Phi||_F.
        plain_frobenius: upper bound of ||Phi||_F.
    """

    values: torch.Tensor
    roots: torch.Tensor
    upper_roots: torch.Tensor
    largest_root: float
    total: float
    frobenius: float
    plain_frobenius: float

    @classmethod
    def checked(cls, name: str, x: object, design: Design, targets: torch.Tensor) -> SampleWeights:
        """For weights as a caller gives them: `sample_weights` and `of` say what is refused."""
        values = sample_weights(name, x, design.rows)
        checks.one_device(**{name: values, "features": design.parts[0].design.features})
        return cls.of(values, design, targets)

    @classmethod
    def of(cls, values: torch.Tensor, design: Design, targets: torch.Tensor) -> SampleWeights:
        """For checked weights [n], the features, and targets [n, C] that are in range without them.

        Raises:
            ScaleError: weighted rows whose products overflow.
        """
        roots = values.sqrt()
        upper = roots * (1.0 + 6 * U64)
        sizes = design.row_norms()
        largest = torch.maximum(targets.amax(1), -targets.amin(1)).to(torch.float64)
        reach = float((torch.maximum(sizes / math.sqrt(design.columns), largest) * upper).max())
        if reach > LARGEST_ENTRY:
            raise ScaleError(
                f"weights: features or targets times the root of their weight reach {reach:.3g}, and products of such "
                "entries overflow. Divide all weights and the ridge by a power of two."
            )
        none = torch.zeros_like(values[:, None])
        high, low = column_sum(Doubled(values[:, None], none))
        total = float(high + low)
        norms = float(norm_upper(sizes * upper)), float(norm_upper(sizes))
        return cls(values, roots, upper, float(upper.max()), total, *norms)

    @cached_property
    def least_total(self) -> float:
        """Lower bound of the sum of w."""
        return self.total / SHORT_CHAIN

    @cached_property
    def root_total(self) -> float:
        """Upper bound of the root of the sum of w."""
        return math.sqrt(self.total) * SHORT_CHAIN

    def bounded(self, rows: slice, outputs: torch.Tensor) -> torch.Tensor:
        """`D^1/2 outputs` for these rows, [m, C], no entry of it too small (but for underflow)."""
        return outputs * self.upper_roots[rows, None]

    def times(self, rows: slice, outputs: Doubled) -> Doubled:
        """D outputs for these rows, off by at most `5 u^2 D |outputs|` and `16 tiny (1 + w)` an entry.

        `w high` is found exactly, `w low` is off by `u^2 w |high|`, and adding it to the rest by `3 u^2 w |high|`; what
        underflows are the partial products, and halves of `outputs` times w.
        """
        weights = self.values[rows, None]
        product = two_product(weights, outputs.high)
        return two_sum(product.high, product.low + weights * outputs.low)

    def split(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, rest), [m, 1] each: `w = scale^2 rest` exactly, scale a power of two, and rest 0 or in [1/2, 2)."""
        half = torch.div(torch.frexp(self.values[rows, None]).exponent, 2, rounding_mode="floor")
        return power_of_two(half), self.values[rows, None] * power_of_two(-2 * half)

    def counted(self, design: Design, targets: torch.Tensor) -> tuple[Design, torch.Tensor, SampleWeights]:
        """Features, targets and weights of the samples whose weight is above 0; a copy where some are left out."""
        positive = self.values > 0
        if bool(positive.all()):
            return design, targets, self
        kept, left = design.selected(positive), targets[positive]
        return kept, left, SampleWeights.of(self.values[positive], kept, left)

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """About the weighted mean over the samples, of outputs [n, C] or of one output [n]."""
        return (self.values @ outputs) / self.total
