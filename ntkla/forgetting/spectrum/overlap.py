"""The scalars of earlier theory beside the drift: how far an old and a new task overlap, and what that bounds.

The overlap matrix `O = V_A^T V_B` of the right singular vectors of the two tasks' features is that of Doan et al.,
"A Theoretical Analysis of Catastrophic Forgetting through the NTK Overlap Matrix" (AISTATS 2021, arXiv 2010.04003); its
singular values are the cosines of the principal angles between the two row spaces.  `overlap_bound.py` derives the
bounds of the total forgetting in our notation, `linalg/eigen/row_space.py` the errors of the cosines,
`linalg/eigen/alignment.py` the one number that weighs the overlap by the spectra.

Where the samples outnumber the features, both row spaces are the whole space and every cosine is 1: compare the leading
modes instead (`k_old`, `k_new`), or the alignment.  None of these numbers knows which sample, which output, or
which sign: two problems may share them all, and one old sample drift in the first and another one in the second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.spectrum.overlap_bound import Update, overlap_bounds
from ntkla.linalg import checks
from ntkla.linalg.decisions import Decision
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.alignment import alignment
from ntkla.linalg.eigen.feature_modes import FeatureModes, feature_modes
from ntkla.linalg.eigen.row_space import RowSpace, certified_rank, leading_sines, principal_angles
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, SHORT_CHAIN, norm_upper
from ntkla.linalg.results import Result
from ntkla.linalg.status import Status


@dataclass(frozen=True, eq=False)
class TaskOverlap(Result):
    """How far the features of two tasks overlap; tensors float64 on their device.

    Attributes:
        cosines: [r], r = min(k_old, k_new): of the principal angles between the leading row spaces, descending.
        cosine_error: [r], `|exact - cosines| <= cosine_error`; as large as can be where a space is not certified.
        k_old, k_new: the dimensions of the two row spaces.
        rank_old, rank_new: the ranks of the two feature matrices, as far as the bounds decide them.
        alignment, alignment_error: `||G_AB||_F^2 / (||G_AA||_F ||G_BB||_F)`, in [0, 1], and the bound of its error.
        drift_bound: upper bound of the total forgetting ||dF_A||_F^2 (Corollary 1 of Doan et al. for
            `k_old` = rank, sharper for fewer), or None when no forecast was given; infinite when the forecast's update
            has no bound.
        cosine_bound: the same from the largest cosine alone, hence looser; or None.
        tolerance: of the cosines.
        status: `"certified"` when every cosine's error meets the tolerance.
        overlap: [k_old, k_new], `Q_old^T Q_new` for the computed bases: vectors of one cluster are only defined
            as a subspace, so read its singular values, not its entries.
    """

    cosines: torch.Tensor
    cosine_error: torch.Tensor
    k_old: int
    k_new: int
    rank_old: Decision
    rank_new: Decision
    alignment: float
    alignment_error: float
    drift_bound: float | None
    cosine_bound: float | None
    tolerance: float
    status: Status
    overlap: torch.Tensor = field(repr=False)

    def __str__(self) -> str:
        lines = [
            f"TaskOverlap: the leading {self.k_old} of rank {self.rank_old} (old) and {self.k_new} of rank "
            f"{self.rank_new} (new) modes",
            f"  alignment {self.alignment:.6g}, within {self.alignment_error:.2g}",
        ]
        if self.cosines.numel():
            ends = f"{float(self.cosines[0]):.6g} ... {float(self.cosines[-1]):.6g}"
            lines.append(f"  cosines {ends}, within {float(self.cosine_error.max()):.2g}")
        if self.drift_bound is not None:
            lines.append(
                f"  total forgetting ||dF||^2 at most {self.drift_bound:.6g}; by the largest cosine alone "
                f"{self.cosine_bound:.6g}"
            )
        return "\n".join([*lines, f"  {self.status}"])


def task_overlap(
    features_old: torch.Tensor,
    features_new: torch.Tensor,
    forgetting: Forgetting | None = None,
    *,
    bias: bool = False,
    k_old: int | None = None,
    k_new: int | None = None,
    tol: float | None = None,
) -> TaskOverlap:
    """The NTK overlap of two tasks, and the bound that it puts on a forecast's total forgetting.

    Args:
        features_old: [n_A, F], float64, float32, bfloat16 or float16, any strides; taken as exact numbers.
        features_new: [n_B, F], same dtype and device.
        forgetting: `predict_forgetting(features_old, features_new, ...)`, for the bounds; of the optimum or of training
            that stops early.
        bias: whether the head has a bias, one more feature that is 1 for every sample.
        k_old, k_new: how many leading modes span each row space, >= 1; no more than are proved to be there are
            taken.  None takes as many as are certified to `tol`, or the best one where none is.  Fewer old modes than
            the rank sharpen `drift_bound`: weak directions are weighed with the largest eigenvalue among themselves.
        tol: the error of a cosine up to which the status is certified; 1e-10 when None.

    Returns:
        TaskOverlap.  Inputs are detached.  `drift_bound` and `cosine_bound` hold whatever the status.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError, MemoryEstimateError

    Cost: `feature_modes` of both tasks, then at most `6 columns (k_old k_new + n_A k_old + n_B k_new)`
    operations for the angles and `2 columns min(n_A, columns) min(n_B, columns)` for the alignment.  Deterministic for
    fixed inputs, versions and thread count.
    """
    features_old = checks.matrix("features_old", features_old)
    features_new = checks.matrix("features_new", features_new, columns=features_old.shape[1])
    checks.one_dtype(features_old=features_old, features_new=features_new)
    checks.one_device(features_old=features_old, features_new=features_new)
    bias = checks.flag("bias", bias)
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    wanted = [_wanted("k_old", k_old), _wanted("k_new", k_new)]
    update = None if forgetting is None else _update(forgetting, features_old, bias)
    designs = [DesignMatrix(features, bias) for features in (features_old, features_new)]
    modes = [feature_modes(features, bias=bias) for features in (features_old, features_new)]
    counts = [_count(one, most, tolerance) for one, most in zip(modes, wanted, strict=True)]
    checks.memory("task_overlap", memory_estimate(designs[0].columns, *counts), features_old.device)
    old, new = (RowSpace.of(*each) for each in zip(designs, modes, counts, strict=True))
    angles = principal_angles(old, new)
    weighed = alignment(designs[0], modes[0], designs[1], modes[1])
    largest = float((angles.cosines + angles.error)[:1].sum()) * SHORT_CHAIN
    bounds = None if update is None else overlap_bounds(old, new, min(1.0, largest), update)
    return TaskOverlap(
        cosines=angles.cosines,
        cosine_error=angles.error,
        k_old=counts[0],
        k_new=counts[1],
        rank_old=_rank(modes[0]),
        rank_new=_rank(modes[1]),
        alignment=weighed.value,
        alignment_error=weighed.error,
        drift_bound=None if bounds is None else bounds.from_overlap,
        cosine_bound=None if bounds is None else bounds.from_cosine,
        tolerance=tolerance,
        status=_status(angles.error, tolerance),
        overlap=angles.overlap,
    )


def memory_estimate(columns: int, k_old: int, k_new: int) -> int:
    """Bytes at the peak, beside the features and their modes: two bases with slices and products, and the overlap."""
    return 8 * (14 * columns * max(k_old, k_new) + 10 * k_old * k_new)


def update_of(forgetting: Forgetting) -> Update:
    """The update of the whole head as one matrix, the bias last, and the Frobenius norm bound of its error."""
    outputs = torch.arange(forgetting.head_update.shape[0], dtype=torch.int64, device=forgetting.head_update.device)
    bound = forgetting.update_error_bound
    return Update(forgetting.update(outputs), float(norm_upper(bound)) if bool((bound > 0.0).any()) else 0.0)


def _update(forgetting: object, features: torch.Tensor, bias: bool) -> Update:
    """The update of a forecast that fits these features; ArgumentError otherwise."""
    found = checks.instance("forgetting", forgetting, Forgetting)
    came = found.drift.shape[0], found.head_update.shape[1], found.bias_update is not None
    if came != (*features.shape, bias):
        raise ArgumentError(
            f"forgetting: expected the forecast of {features.shape[0]} old samples of {features.shape[1]} features and "
            f"bias={bias}, got one of {came[0]} samples of {came[1]} features and bias={came[2]}. Pass what "
            "predict_forgetting returned for these features."
        )
    checks.one_device(features_old=features, forgetting=found.drift)
    return update_of(found)


def _wanted(name: str, modes: int | None) -> int | None:
    return None if modes is None else checks.integer(name, modes, least=1)


def _count(modes: FeatureModes, most: int | None, tolerance: float) -> int:
    """The dimension of a row space: what was asked for, as far as it is there, or what is certified."""
    rank = certified_rank(modes)
    if most is not None or rank == 0:
        return rank if most is None else min(most, rank)
    sines = leading_sines(modes)[:rank]
    good = torch.nonzero(sines <= tolerance / 4.0).flatten()
    return 1 + int(good[-1] if good.numel() else sines.argmin())


def _rank(modes: FeatureModes) -> Decision:
    return Decision(certified_rank(modes), int((modes.spectrum.upper > 0).sum()))


def _status(error: torch.Tensor, tolerance: float) -> Status:
    worst = float(error.max()) if error.numel() else 0.0
    remedy = (
        "a row space ends where the eigenvalues are too close, or vanish. The bounds of the drift hold; for closer "
        "cosines pass another number of k_old or k_new, or a larger tol if these errors suffice."
    )
    return Status.of_bound(worst, tolerance, remedy, what="the error of the cosines")
