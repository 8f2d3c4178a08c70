"""What a training did inside and outside of the vulnerable subspace, for any model: outputs before and after suffice.

The first k modes of the old probes' kernel span the vulnerable subspace, P is the projector on its exact eigenspace and
D = after - before.  `||P D||_F` is what the penalty of those modes holds still; `||D - P D||_F` it leaves free.  A
method that protects parameters sees no difference between the two.

D is formed without an error, as an unevaluated sum of two float64 numbers whose small part counts as an error of the
large one.  The enclosures are those of `energies.py`, so a cut through eigenvalues that are too close to be told apart
has a wide one: the subspace itself is not known there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ntkla.forgetting.penalties.probes import probes_and_outputs
from ntkla.forgetting.spectrum.decompose import scaled_energies
from ntkla.forgetting.spectrum.drift_split_result import DriftSplit, DriftSplits, Enclosure
from ntkla.forgetting.spectrum.energies import Energies, shares
from ntkla.linalg import checks
from ntkla.linalg.arithmetic.doubled import two_sum
from ntkla.linalg.design import widened
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.errors import ArgumentError, DtypeError, ShapeError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, SHORT_CHAIN, TINY64, flushes_subnormals, rounded_up
from ntkla.linalg.status import CONDITIONAL, Status


def drift_split(
    before: torch.Tensor,
    after: torch.Tensor | Mapping[str, torch.Tensor],
    modes: Eigenmodes,
    *,
    k: int | None = None,
    error_bound: torch.Tensor | None = None,
    tol: float | None = None,
) -> DriftSplit | DriftSplits:
    """Splits what a training did to the old outputs into the part inside of the vulnerable subspace and the rest.

    Args:
        before: [n, C], outputs on the probes before the training, one row a probe in the order of the modes.
        after: [n, C], after it; or a mapping of names, such as those of methods, to such outputs.
        modes: `eigenmodes` of the probes' features, or of any kernel over n samples and C outputs, as for `decompose`.
        k: how many of the modes span the subspace: modes of G stand for all outputs, those of a kernel over samples and
            outputs for one vector each; None for all of them.
        error_bound: [n, C], entrywise bounds of the error of `after - before`, infinite entries allowed; None takes the
            outputs as exact.
        tol: error of inside and outside, relative to the total, up to which the status is certified; 1e-10 when None.

    Returns:
        DriftSplit; DriftSplits for a mapping, the least drift inside first.  Inputs are detached.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError
        ArgumentError: k, tol, an empty mapping, or a bound that is negative.

    Cost: 4 n m C operations for each `after`, m the modes given.  Deterministic for fixed inputs, versions and thread
    count.

    Example:
        >>> import torch, ntkla
        >>> draw = torch.Generator().manual_seed(0)
        >>> features, weight = (torch.randn(n, 9, generator=draw, dtype=torch.float64) for n in (50, 3))
        >>> modes, before = ntkla.eigenmodes(features, 4), features @ weight.T
        >>> print(ntkla.drift_split(before, {"b": 2.0 * before, "a": before + 0.1}, modes))
        DriftSplits: inside and outside of the first 4 modes
             inside  outside   ratio    share
          a  0.3103    1.185  0.2619  0.06418
          b   40.58    18.26   2.222   0.8316
    """
    if not isinstance(modes, Eigenmodes):
        raise DtypeError(f"modes: expected the result of eigenmodes(...), got {type(modes).__name__}.")
    inside = len(modes.values)
    inside = inside if k is None else checks.integer("k", k, least=1, most=inside)
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    rows, columns = probes_and_outputs(modes)
    old = checks.matrix("before", before, rows=rows, columns=columns)

    def one(name: str, new: object) -> DriftSplit:
        drift, error = _difference(old, checks.matrix(name, new), name, error_bound)
        return _split(*scaled_energies(drift, error, modes), inside, tolerance, modes.spectrum.conditional)

    if not isinstance(after, Mapping):
        return one("after", after)
    if not after:
        raise ArgumentError("after: expected outputs, or a mapping of names to outputs, got an empty mapping.")
    found = {str(name): one(f"after[{name!r}]", new) for name, new in after.items()}
    return DriftSplits(dict(sorted(found.items(), key=lambda item: item[1].inside.value)))


def _difference(
    old: torch.Tensor, new: torch.Tensor, name: str, error_bound: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`new - old`, float64, and the entrywise bound of its error."""
    if new.shape != old.shape:
        raise ShapeError(f"{name}: expected {tuple(old.shape)}, as before, got {tuple(new.shape)}.")
    checks.one_device(**{"before": old, name: new})
    change = two_sum(widened(new), -widened(old))
    error = change.low.abs()
    if flushes_subnormals():  # a subnormal number may be dropped in each operation of the sum
        error = error + 8 * TINY64
    if error_bound is not None:
        error = rounded_up(error + widened(checks.bounds("error_bound", error_bound, drift=change.high)))
    return change.high, error


def _split(energies: Energies, exponent: int, k: int, tolerance: float, conditional: bool) -> DriftSplit:
    """From the energies of the drift divided by 2^exponent."""
    scale = 2.0**exponent
    within = float(energies.each[:k].sum())
    without = float(energies.each[k:].sum() + energies.outside)
    inside, outside, total = (
        _root(value, float(ends.low[at]), float(ends.high[at]), scale)
        for value, ends, at in (
            (within, energies.leading, k),
            (without, energies.trailing, k),
            (float(energies.total), energies.trailing, 0),
        )
    )
    low, high = (float(x[k - 1]) for x in shares(energies))
    share = 0.0 if total.value == 0.0 else min(1.0, within / float(energies.total))
    ratio = Enclosure(
        _quotient(inside.value, outside.value),
        _quotient(inside.low, outside.high) / SHORT_CHAIN,
        _quotient(inside.high, outside.low) * SHORT_CHAIN,
    )
    worst = max(_off(inside), _off(outside), _off(total))
    return DriftSplit(
        inside,
        outside,
        total,
        _enclosed(share, low, high),
        ratio,
        k,
        _status(worst, total.value, tolerance, conditional),
    )


def _root(value: float, low: float, high: float, scale: float) -> Enclosure:
    upper = 0.0 if high == 0.0 else math.sqrt(high) * scale * SHORT_CHAIN
    return _enclosed(math.sqrt(value) * scale, math.sqrt(low) * scale / SHORT_CHAIN, upper)


def _enclosed(value: float, low: float, high: float) -> Enclosure:
    """The computed number, brought between its bounds where it is off by more than they allow."""
    return Enclosure(min(max(value, low), high), low, high)


def _quotient(part: float, rest: float) -> float:
    """`part / rest`; 0 for 0 / 0: nothing moved."""
    if part == 0.0 or math.isinf(rest):
        return 0.0
    return math.inf if rest == 0.0 or math.isinf(part) else part / rest


def _off(x: Enclosure) -> float:
    """Upper bound of the distance from the computed number to the exact one."""
    return max(x.high - x.value, x.value - x.low) * SHORT_CHAIN


def _status(worst: float, total: float, tolerance: float, conditional: bool) -> Status:
    relative = worst / total if total > 0 else (math.inf if worst > 0 else 0.0)
    found = Status.of_bound(
        relative,
        tolerance,
        "eigenvalues at the cut are too close, or the outputs are not known well enough. The bounds hold: use them, or "
        "another k.",
        what="the error of the drift inside and outside, relative to the whole,",
    )
    if conditional and found.certified:
        return Status(CONDITIONAL, f"{found.message} That holds for the operator as evaluated: it says no error.")
    return found
