"""A penalty on modes as pseudo-samples of a linear head: the same objective, so the same solvers and certificates.

With `Z = U^T Phi` [k, K] (a bias makes its last column U^T 1), `E = U^T (Phi W_A^T - F_ref)` [k, C] and
`c = 2 weight / (C k)`,

    weight / (C k) ||U^T (Phi W^T - F_ref)||_F^2  =  c/2 ||Z dW^T + E||_F^2,    dW = W - W_A:

k samples of features Z and weight c whose residual at the old head is E.  Z, E and c are had as two float64 numbers
each: the solvers see the high ones, and `solve.inexact_rows` says what is done about the others.

An output feels only the penalties that cover it.  The outputs are grouped by those, and each group is a problem of its
own, with the same samples of the new task above its own pseudo-samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.penalties.protection import Protected
from ntkla.forgetting.penalties.weight import row_weight
from ntkla.linalg.arithmetic.accurate import PANEL, BoundedPair, doubled_adjoint, doubled_outputs
from ntkla.linalg.arithmetic.doubled import Doubled, two_sum
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.design import Design, DesignMatrix, widened
from ntkla.linalg.precision import TINY64, U64, norm_upper, rounded_up
from ntkla.linalg.solve.inexact_rows import Inexactness, InexactRows
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.stacked_design import StackedDesign


class PseudoSamples(NamedTuple):
    """One penalty's.

    Attributes:
        rows: Z, float64 [k, K].
        rows_error: upper bound of the norm of what is missing in it.
        residual: E for the trained outputs it covers, float64 [k, c], with such bounds of its columns.
        outputs: their numbers, int64 [c].
        seen: how many of the k modes penalise each of them, [c].
        weight: c.
    """

    rows: Doubled
    rows_error: float
    residual: BoundedPair
    outputs: list[int]
    seen: list[int]
    weight: tuple[float, float]

    @classmethod
    def of(cls, protected: Protected, head: LinearHead | None, bias: bool) -> PseudoSamples:
        """For a head of the trained outputs; None takes its outputs on the probes to be the reference.

        Cost: 6 n K k operations for Z, and 6 n (K + k) c for E.
        """
        penalty = protected.protection.penalty
        design, basis = DesignMatrix(protected.protection.features, bias), widened(penalty.basis)
        panels = [doubled_adjoint(design, part) for part in torch.split(basis, PANEL, dim=1)]
        rows = Doubled(*(torch.cat([panel.value[i] for panel in panels], 1).T.contiguous() for i in (0, 1)))
        rows_error = float(norm_upper(torch.cat([panel.error for panel in panels])))
        places = (protected.columns >= 0).nonzero().flatten()
        outputs, modes = protected.columns[places], basis.shape[1]
        seen = [modes if penalty.last == 0 or place < penalty.last else modes - 1 for place in places.tolist()]
        zeros = basis.new_zeros((modes, len(seen)))
        residual = BoundedPair(Doubled(zeros, zeros), zeros.sum(0))
        if head is not None:
            residual = _residual(basis, design, head.select(outputs), widened(penalty.reference)[:, places])
        weight = row_weight(penalty.weight, penalty.count)
        return cls(rows, rows_error, residual, outputs.tolist(), seen, weight)


def _residual(basis: torch.Tensor, design: DesignMatrix, head: LinearHead, reference: torch.Tensor) -> BoundedPair:
    """`U^T (Phi W_A^T - F_ref)`; of what the head says beyond float64, the product is taken in float64."""
    moved, error = doubled_outputs(design, head.stacked(), reference)
    (high, low), rounding = doubled_adjoint(DesignMatrix(basis), moved.high)
    value = two_sum(high, low + pieced_matmul(basis.T, moved.low))
    size = norm_upper(basis)
    lost = (pieced_gamma(basis.shape[0]) + U64) * size * norm_upper(moved.low, dim=0) + U64 * norm_upper(low, dim=0)
    ends = 4.0 * basis.numel() * TINY64 * (1.0 + norm_upper(moved.low, dim=0))
    return BoundedPair(value, rounded_up(rounding + size * error + 2.0 * lost + ends))


class System(NamedTuple):
    """What some of the trained outputs are trained on.

    Attributes:
        outputs: int64 [c]; None for all.
        design: the new task's features, and pseudo-samples below them.
        residual: of both at the old head, float64 [n, c].
        weights: of both; None for 1 each.
        inexactness: of the pseudo-samples; None without any.
    """

    outputs: torch.Tensor | None
    design: Design
    residual: torch.Tensor
    weights: SampleWeights | None
    inexactness: Inexactness | None

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The columns of x [..., C] that belong to its outputs."""
        return x if self.outputs is None else x[..., self.outputs]


def systems(
    samples: Sequence[PseudoSamples],
    new: DesignMatrix,
    residual: torch.Tensor,
    residual_error: torch.Tensor | None,
    weights: SampleWeights | None,
) -> list[System]:
    """One for each group of outputs.

    Args:
        samples: of all penalties.
        new: the new task's features.
        residual: float64 [n, C].
        residual_error: float64 [C], bounds of the 2-norm of its columns' errors, or None.
        weights: of the new samples, or None.
    """
    found = []
    groups = _groups(samples, residual.shape[1])
    for members, outputs in groups.items():
        places = None if len(groups) == 1 else torch.tensor(outputs, dtype=torch.int64, device=residual.device)
        own = residual if places is None else residual[:, places]
        if not members:
            found.append(System(places, new, own, weights, None))
            continue
        inexact = [rows_of(samples[number], seen, outputs) for number, seen in members]
        design = StackedDesign(new, torch.cat([rows.rows.high for rows in inexact]))
        ones = residual.new_ones(new.rows) if weights is None else weights.values
        counts = torch.cat([ones, *(ones.new_full(rows.targets.high.shape[:1], rows.weight[0]) for rows in inexact)])
        stacked = torch.cat([own, *(-rows.targets.high for rows in inexact)])
        error = residual_error if residual_error is None or places is None else residual_error[places]
        root = 1.0 if weights is None else weights.largest_root
        known = Inexactness(tuple(inexact), error, root)
        found.append(System(places, design, stacked, SampleWeights.of(counts, design, stacked), known))
    return found


def _groups(samples: Sequence[PseudoSamples], outputs: int) -> dict[tuple[tuple[int, int], ...], list[int]]:
    """From (number of a penalty, how many of its modes) for all that an output feels, to the outputs that do."""
    felt: list[list[tuple[int, int]]] = [[] for _ in range(outputs)]
    for number, one in enumerate(samples):
        for output, seen in zip(one.outputs, one.seen, strict=True):
            felt[output] += [(number, seen)] if seen else []
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for output, members in enumerate(felt):
        groups.setdefault(tuple(members), []).append(output)
    return groups


def rows_of(one: PseudoSamples, seen: int, outputs: list[int]) -> InexactRows:
    """The first `seen` pseudo-samples of a penalty, as targets of some outputs."""
    columns = [one.outputs.index(output) for output in outputs]
    rows = Doubled(one.rows.high[:seen], one.rows.low[:seen])
    targets = Doubled(*(-part[:seen, columns] for part in one.residual.value))
    return InexactRows(rows, targets, one.weight, one.rows_error, one.residual.error[columns])
