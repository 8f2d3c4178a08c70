"""Whether probes are still those that a penalty was made of, in their order.

Modes know their probes: with features Phi of other probes, or of the same in another order, `K U = U diag(s)` fails for
`K = Phi Phi^T` (plus 1 for a bias).  An order that passes leaves the protected directions, and so the penalty, as they
are.  What passes may differ in rounding, because a network gives other last digits in other batches: half of the digits
that the type holds must agree, `sqrt(u)` with its unit roundoff u.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.errors import ArgumentError, NonFiniteError
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.models.undisturbed import generators_kept


def probes_and_outputs(modes: Eigenmodes) -> tuple[int, int | None]:
    """How many probes the modes are of, and for how many outputs; None for modes of G, which serve any number."""
    samples = modes.basis.shape[0] // (modes.outputs or 1)
    return samples, modes.outputs if modes.output_index is None else modes.spectrum.multiplicity


def require_same_probes(features: object, basis: torch.Tensor, values: torch.Tensor) -> None:
    """Raises ArgumentError unless the basis holds modes of the features' Gram matrix, with a bias or without.

    Args:
        features: [n, F].
        basis: [n, k], the eigenvectors.
        values: [k], the eigenvalues.
    """
    given = checks.matrix("features", features, rows=basis.shape[0])
    checks.one_device(features=given, penalty=basis)
    wide, vectors, scale = widened(given), widened(basis), widened(values)
    if not (bool(torch.isfinite(vectors).all()) and bool(torch.isfinite(scale).all()) and float(scale[0]) > 0.0):
        raise NonFiniteError(
            f"penalty: its modes or their eigenvalues have left the range of {values.dtype}. Make it anew, and "
            "leave it in float32 or float64."
        )
    moved = wide @ (wide.T @ vectors) - vectors * scale
    ones = torch.ones_like(vectors[:, :1])
    off = min(float(torch.linalg.vector_norm(m, dim=0).max()) for m in (moved, moved + ones @ (ones.T @ vectors)))
    allowed = _half_of_the_digits(given, basis) * float(scale[0])
    if not off <= allowed:
        raise ArgumentError(
            f"features: expected those that the modes were made of, got others, or the same in another order: they are "
            f"off by {off / float(scale[0]):.1e} of the largest eigenvalue, and rounding may do "
            f"{allowed / float(scale[0]):.1e}. Pass the features of the same probes, in the same order."
        )


def require_reference(outputs: torch.Tensor, reference: torch.Tensor, tol: float | None) -> None:
    """Raises ArgumentError unless every row of the outputs is that of the reference, to `tol` of a row's size.

    Args:
        outputs, reference: [n, C], finite.
        tol: relative to the larger of the row's norm and the root mean square of all rows' norms; None: half of the
            digits of the narrower type.
    """
    share = _half_of_the_digits(outputs, reference) if tol is None else checks.positive("tol", tol)
    now, then = widened(outputs.detach()), widened(reference)
    if not bool(torch.isfinite(then).all()):
        raise NonFiniteError(
            f"penalty: its reference has left the range of {reference.dtype}. Make it anew, and leave it in float32 or "
            "float64."
        )
    sizes = torch.linalg.vector_norm(then, dim=1)
    allowed = share * torch.maximum(sizes, sizes.square().mean().sqrt())
    off = torch.linalg.vector_norm(now - then, dim=1)
    beyond = ~(off <= allowed)
    if not bool(beyond.any()):
        return
    # Another order leaves the sizes of the rows, as a set; a training does not.
    found, known = (x.sort().values for x in (torch.linalg.vector_norm(now, dim=1), sizes))
    reordered = float((found - known).abs().max()) <= share * float(off.max())
    guess = (
        "The rows' sizes are those of the reference in another order: take the probes in the order in which the "
        "penalty was made (shuffle=False, no random augmentation)."
        if reordered
        else "Call this before the training, with the model in evaluation mode and the probes of the reference, in its "
        "order; where the arithmetic is coarser than the type (autocast), say so with tol."
    )
    row = int((off / allowed.clamp(min=torch.finfo(torch.float64).tiny)).argmax())
    raise ArgumentError(
        f"outputs: expected those of the reference, got {int(beyond.sum())} of {len(off)} rows that differ by more "
        f"than rounding; the worst is row {row}, off by {float(off[row]):.3g} where {float(allowed[row]):.3g} is "
        f"allowed. {guess}"
    )


@contextmanager
def later(device: torch.device | None) -> Iterator[None]:
    """Inside, the global random generators stand elsewhere, as they would later in a training; then as before."""
    with generators_kept(device):
        torch.rand((), device="cpu", dtype=torch.float64)
        random.random()
        np.random.random()  # noqa: NPY002 (the global one is meant)
        yield


def _half_of_the_digits(*arrays: torch.Tensor) -> float:
    return math.sqrt(max(UNIT_ROUNDOFF[x.dtype] for x in arrays))
