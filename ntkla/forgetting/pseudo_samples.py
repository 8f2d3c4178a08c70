"""A penalty on modes as pseudo-samples of a linear head: the same objective, so the same solvers and certificates.

With `Z = U^T Phi` [k, K] (a bias makes its last column U^T 1), `E = U^T (Phi W_A^T - F_ref)` [k, C] and
`c = 2 weight / (C k)`,

    weight / (C k) ||U^T (Phi W^T - F_ref)||_F^2  =  c/2 ||Z dW^T + E||_F^2,    dW = W - W_A:

k samples of features Z and weight c whose residual at the old head is E.  Z and E are computed beyond float64 and
rounded once; with c, that is all that separates them from the exact ones, and `solve.inexact_rows` says what it does.

An output feels only the penalties that cover it.  The outputs are grouped by those, and each group is a problem of its
own, with the same samples of the new task above its own pseudo-samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.protection import Protected
from ntkla.linalg.arithmetic.accurate import PANEL, Bounded, accurate_adjoint, accurate_outputs
from ntkla.linalg.design import Design, DesignMatrix, widened
from ntkla.linalg.precision import norm_upper, rounded_up
from ntkla.linalg.solve.inexact_rows import Inexactness, InexactRows
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.stacked_design import StackedDesign


class PseudoSamples(NamedTuple):
    """One penalty's.

    Attributes:
        rows: Z, float64 [k, K].
        rows_error: upper bound of ||dZ||.
        residual: E for the trained outputs it covers, float64 [k, c], with bounds of its columns' errors.
        outputs: their numbers, int64 [c].
        seen: how many of the k modes penalise each of them, [c].
        weight: c, rounded to float64.
    """

    rows: torch.Tensor
    rows_error: float
    residual: Bounded
    outputs: list[int]
    seen: list[int]
    weight: float

    @classmethod
    def of(cls, protected: Protected, head: LinearHead | None, bias: bool) -> PseudoSamples:
        """For a head of the trained outputs; None takes its outputs on the probes to be the reference.

        Cost: 6 n K k operations for Z, and 6 n (K + k) c for E.
        """
        penalty = protected.protection.penalty
        design, basis = DesignMatrix(protected.protection.features, bias), widened(penalty.basis)
        panels = [accurate_adjoint(design, part, []) for part in torch.split(basis, PANEL, dim=1)]
        rows = torch.cat([panel.value for panel in panels], 1).T.contiguous()
        rows_error = float(norm_upper(torch.cat([panel.error for panel in panels])))
        places = (protected.columns >= 0).nonzero().flatten()
        outputs, modes = protected.columns[places], basis.shape[1]
        seen = [modes if penalty.last == 0 or place < penalty.last else modes - 1 for place in places.tolist()]
        residual = Bounded(rows.new_zeros((modes, len(seen))), rows.new_zeros(len(seen)))
        if head is not None:
            moved = accurate_outputs(design, head.select(outputs).stacked(), widened(penalty.reference)[:, places])
            found = accurate_adjoint(DesignMatrix(basis), moved.value, [])
            residual = Bounded(found.value, rounded_up(found.error + norm_upper(basis) * moved.error))
        return cls(rows, rows_error, residual, outputs.tolist(), seen, 2.0 * penalty.weight / penalty.count)


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
        inexact = [_rows_of(samples[number], seen, outputs) for number, seen in members]
        design = StackedDesign(new, torch.cat([rows.rows for rows in inexact]))
        ones = residual.new_ones(new.rows) if weights is None else weights.values
        counts = torch.cat([ones, *(ones.new_full(rows.targets.shape[:1], rows.weight) for rows in inexact)])
        stacked = torch.cat([own, *(-rows.targets for rows in inexact)])
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


def _rows_of(one: PseudoSamples, seen: int, outputs: list[int]) -> InexactRows:
    """The first `seen` pseudo-samples of a penalty, as targets of some outputs."""
    columns = [one.outputs.index(output) for output in outputs]
    targets = -one.residual.value[:seen, columns]
    return InexactRows(one.rows[:seen], targets, one.weight, one.rows_error, one.residual.error[columns])
