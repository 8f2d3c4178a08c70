"""A solved update applied to any number of samples, of which norms and decisions remain and no array [n, C] is made.

The drift of each sample, its bound and what is decided are those of a forecast (`drift_bound.py`, `predictions.py`).
Norms: a sum of N squares is known to `gamma_{2N+8}` of itself and `2 N tiny` from the sum of those that were computed,
so with S the sum over the computed drifts and E the one over their bounds

    | ||exact|| - sqrt(S) |  <=  sqrt(E (1 + gamma) + 2 N tiny)  +  gamma sqrt(S)  +  sqrt(2 N tiny),

the triangle inequality and the rounding of S.  Nothing smaller than 1e-153 is told from zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ntkla.forgetting.drift_bound import RowSizes, Size, drift_of, product_rounding
from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.reports.predictions import Flips, Judged, Predictions
from ntkla.forgetting.tasks import checked_labels
from ntkla.linalg import checks
from ntkla.linalg.backends.checked import vectors_wanted
from ntkla.linalg.decisions import Decision
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.drift_product import Errors, one_pass_wanted, summed
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import TINY64, gamma, rounded_up
from ntkla.linalg.results import Result
from ntkla.linalg.solve.stability import SolutionError

# Numbers of a block of samples by outputs in torch: 32 MiB.
_BLOCK_ENTRIES = 2**22


@dataclass(frozen=True, eq=False)
class DriftSummary(Result):
    """What an update of the head does to n samples; float64, each within its error.

    Attributes:
        norms, norm_errors: [n], the 2-norm of each sample's drift over the outputs.
        output_norms, output_errors: [C], the 2-norm of each output's drift over the samples.
        flips: which samples change their predicted class, or None without the outputs before.
        accuracy_before, accuracy_after: of the labels, or None without labels.
    """

    norms: torch.Tensor
    norm_errors: torch.Tensor
    output_norms: torch.Tensor
    output_errors: torch.Tensor
    flips: Flips | None
    accuracy_before: Decision | None
    accuracy_after: Decision | None

    def __str__(self) -> str:
        told = f"DriftSummary: {self.norms.shape[0]} samples, {self.output_norms.shape[0]} outputs"
        told += f", largest drift {float(self.norms.max()):.4g}"
        if self.flips is not None:
            told += f"\n  {self.flips.count} samples change their predicted class"
        if self.accuracy_before is not None:
            told += f"\n  accuracy {self.accuracy_before} -> {self.accuracy_after}"
        return told


def drift_summary(
    features: torch.Tensor,
    forgetting: Forgetting,
    *,
    before: LinearHead | Predictions | None = None,
    labels: torch.Tensor | None = None,
) -> DriftSummary:
    """What a solved update does to other samples, more of them than an array [n, C] of drifts could be made for.

    Args:
        features: [n, F], float64, float32, bfloat16 or float16, of the samples, as the update's head reads them.
        forgetting: what `predict_forgetting` found for any old samples: its update of the head is what counts here.
        before: the head before the training, whose outputs are then formed block by block; or those outputs with their
            bounds, [n, C]: `Predictions(*head.predict(features))`.  None for norms alone.
        labels: int [n], the column of each sample's class; needs `before`.

    Returns:
        DriftSummary.  Inputs are detached.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError, LabelError, BackendError

    Cost: 2 n F C operations; by the Triton kernel, where it is forced or the table prefers it, one read of the features
    for each 32 outputs and twice that with `before`, else blocks of 32 MiB.  Deterministic.
    """
    instance = checks.instance("forgetting", forgetting, Forgetting)
    weights = instance.update(torch.arange(instance.head_update.shape[0], device=instance.head_update.device))
    x = checks.matrix("features", features, columns=instance.head_update.shape[1])
    checks.one_device(features=x, forgetting=weights)
    if labels is not None and before is None:
        raise ArgumentError("labels: expected the outputs before as well, got none. Pass before=head.")
    known = None if before is None else _known(before, x, weights.shape[1])
    places = None if labels is None else checked_labels(labels, x.shape[0], weights.shape[1])
    design = DesignMatrix(x, instance.bias_update is not None)
    bound = instance.update_error_bound
    error = SolutionError(bound, torch.zeros_like(bound))
    if weights.shape[1] and one_pass_wanted(design, weights.shape[1]) and not vectors_wanted():
        found = None if isinstance(known, LinearHead) else _by_kernel(design, weights, error, known, places)
        if found is not None:
            return found
    return _by_blocks(design, weights, error, known, places)


def _known(before: object, x: torch.Tensor, outputs: int) -> LinearHead | Predictions:
    """The head, or its outputs in float64, checked against features and outputs."""
    if isinstance(before, LinearHead):
        if before.weight.shape != (outputs, x.shape[1]):
            raise ShapeError(f"before: expected weight {[outputs, x.shape[1]]}, got {list(before.weight.shape)}.")
        checks.one_device(before=before.weight, features=x)
        return before
    if not isinstance(before, Predictions):
        raise ArgumentError(
            f"before: expected an ntkla.LinearHead or ntkla.Predictions, got {type(before).__name__}. Pass the head "
            "or Predictions(*head.predict(features))."
        )
    value = checks.matrix("before", before.value, rows=x.shape[0], columns=outputs)
    return Predictions(widened(value), widened(checks.bounds("before", before.error_bound, before=value)))


def _by_kernel(
    design: DesignMatrix,
    x: torch.Tensor,
    error: SolutionError,
    before: Predictions | None,
    labels: torch.Tensor | None,
) -> DriftSummary | None:
    rounding, constant = product_rounding(design, x)
    known = None if before is None else (before.value, before.error_bound)
    sums = summed(design, x, Errors(error.weights, rounding, error.offset + constant), known, labels)
    if sums is None:
        return None
    rows = _size(sums.row_squares, sums.row_errors, x.shape[1])
    columns = _size(sums.column_squares, sums.column_errors, design.rows)
    if sums.flags is None:
        return DriftSummary(*rows, *columns, None, None, None)
    both, differ, hit, hit_after = (sums.flags & bit != 0 for bit in (1, 2, 64, 128))
    single, single_after = ((sums.flags >> place) & 3 == 1 for place in (2, 4))
    impossible = ~differ & single
    hits = (Judged(hit & single, hit), Judged(hit_after & single_after, hit_after)) if labels is not None else None
    return _summary(rows, columns, Judged(~both, ~impossible), hits)


def _by_blocks(
    design: DesignMatrix,
    x: torch.Tensor,
    error: SolutionError,
    before: LinearHead | Predictions | None,
    labels: torch.Tensor | None,
) -> DriftSummary:
    n, outputs = design.rows, x.shape[1]
    sums = [torch.zeros(n if part < 2 else outputs, dtype=torch.float64, device=design.device) for part in range(4)]
    judged: list[Judged] = []
    hits: list[tuple[Judged, Judged]] = []
    for rows in _blocks(n, outputs):
        part = DesignMatrix(design.features[rows], design.bias)
        drift = drift_of(part, x, error, RowSizes(part))
        squares = drift.value.square(), drift.bound.square()
        for place, square in enumerate(squares):
            sums[place][rows] = square.sum(1)
            sums[2 + place] += square.sum(0)
        if before is None:
            continue
        if isinstance(before, LinearHead):
            first = Predictions(*before.predict(design.features[rows]))
        else:
            first = Predictions(before.value[rows], before.error_bound[rows])
        after = first.moved(drift.value, drift.bound)
        judged.append(Flips.between(first, after).judged)
        if labels is not None:
            hits.append((first.hits(labels[rows]), after.hits(labels[rows])))
    row, column = _size(sums[0], sums[1], outputs), _size(sums[2], sums[3], n)
    if not judged:
        return DriftSummary(*row, *column, None, None, None)
    both = (_joined([pair[0] for pair in hits]), _joined([pair[1] for pair in hits])) if hits else None
    return _summary(row, column, _joined(judged), both)


def _summary(rows: Size, columns: Size, judged: Judged, hits: tuple[Judged, Judged] | None) -> DriftSummary:
    certain, impossible = judged.certain, ~judged.possible
    flips = Flips(certain, impossible, ~(certain | impossible), judged.count())
    shares = (None, None) if hits is None else (hits[0].share(), hits[1].share())
    return DriftSummary(*rows, *columns, flips, *shares)


def _joined(parts: list[Judged]) -> Judged:
    return Judged(torch.cat([part.certain for part in parts]), torch.cat([part.possible for part in parts]))


def _size(squares: torch.Tensor, errors: torch.Tensor, count: int) -> Size:
    """The norms from sums of `count` squares: see the head of this file."""
    rounding, lost = gamma(2 * count + 8), 2.0 * count * TINY64
    value = squares.sqrt()
    off = (errors * (1.0 + rounding) + lost).sqrt() + 2.0 * rounding * value + math.sqrt(lost)
    return Size(value, rounded_up(off))


def _blocks(n: int, outputs: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ENTRIES // max(1, outputs))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
