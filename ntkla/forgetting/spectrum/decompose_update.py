"""The energy of a drift in each eigenmode when the drift is a product with features whose modes are held small.

The same answer as `decompose`, without eigenvectors of n entries: `energies_of_update` derives its bounds.
"""

from __future__ import annotations

import math

import torch

from ntkla.forgetting.spectrum.decompose import error_norm
from ntkla.forgetting.spectrum.decomposition import Decomposition, assembled
from ntkla.forgetting.spectrum.energies import Energies, energies_in
from ntkla.forgetting.spectrum.update_energies import Known, Product, energies_of_update, scaled_spectrum
from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.errors import DtypeError, ShapeError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, SHORT_CHAIN, TINY64, gamma, norm_upper
from ntkla.linalg.solve.normal import exactly_zero


def decompose_update(
    drift: torch.Tensor,
    update: torch.Tensor,
    modes: FeatureModes,
    *,
    error_bound: torch.Tensor | None = None,
    update_error: torch.Tensor | None = None,
    tol: float | None = None,
) -> Decomposition:
    """Splits the energy of `drift = Phi update` over all modes of `G = Phi Phi^T`.

    Args:
        drift: [n, C], the product of the features behind `modes` and `update` in float64, such as `Forgetting.drift`.
        update: [columns, C], one column an output, the bias last where the modes have one: `Forgetting.head_update.T`
            with `Forgetting.bias_update` below.
        modes: `feature_modes` of the features.
        error_bound: [n, C], bounds of the drift's error, such as `Forgetting.error_bound` (infinite entries allowed);
            None when it is the rounding of the product and `update_error` only.
        update_error: [C], 2-norm bounds of the error of each column of the update, such as
            `Forgetting.update_error_bound` (infinite entries allowed); None takes the update as exact.
        tol: error of a cluster's energy, relative to the total, up to which the status is certified; 1e-10 when None.

    Returns:
        Decomposition over the m modes that can be other than zero; its tail is exactly 0.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError

    Cost: with n > columns `6 columns^2 C` operations and one pass over the drift, else that of `decompose`.
    Deterministic for fixed inputs, versions and thread count.
    """
    if not isinstance(modes, FeatureModes):
        raise DtypeError(f"modes: expected the result of feature_modes(...), got {type(modes).__name__}.")
    exact = widened(checks.matrix("drift", drift, rows=modes.spectrum.size))
    x = widened(checks.matrix("update", update, rows=modes.columns, columns=exact.shape[1]))
    checks.one_device(drift=drift, update=update, modes=modes.vectors)
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    error = _update_error(update_error, x)
    rounding = product_rounding(modes, x)
    spectrum, root_exponent = scaled_spectrum(modes)
    # Both factors are of order 1 when squared, so squares neither overflow nor underflow.
    exponent = _exponent(x) + root_exponent if modes.side == "features" else _exponent(exact)
    exponent = max(-1000, exponent)
    scale = 2.0**-exponent
    if error_bound is None:
        size = math.sqrt(float(modes.spectrum.upper[0]))
        # Features of zeros make a drift of zero, of whatever update: 0 times infinity is no bound.
        bound = (rounding + (size * error if size > 0.0 else 0.0)) * SHORT_CHAIN * scale
    else:
        bound = error_norm(error_bound, exact, scale)
    if modes.side == "samples":
        return assembled(_all_of(energies_in(exact * scale, bound, modes.eigenmodes())), modes, exponent, tolerance)
    product, update_scale = Product(exact * scale, bound, rounding * scale), 2.0 ** (root_exponent - exponent)
    energies = energies_of_update(Known(x * update_scale, error * update_scale), product, modes, spectrum)
    return assembled(energies, modes, exponent, tolerance)


def _all_of(energies: Energies) -> Energies:
    """The same for modes that are known to be all: nothing lies outside them."""
    for end in energies.trailing:
        end[-1] = 0.0
    return energies._replace(outside=torch.zeros_like(energies.outside))


def product_rounding(modes: FeatureModes, x: torch.Tensor) -> float:
    """Frobenius norm bound of the rounding of `Phi x` in float64, summed in any order: 0 for an x of zeros."""
    if exactly_zero(x):
        return 0.0
    rows, (columns, outputs) = modes.spectrum.size, x.shape
    frobenius = math.sqrt(modes.spectrum.trace + modes.spectrum.trace_error) * SHORT_CHAIN
    size = float(norm_upper(x))
    # Flushed arithmetic may drop subnormal numbers on either side, and products that underflow are lost.
    dropped = math.sqrt(rows) * size + math.sqrt(outputs) * frobenius + 2 * math.sqrt(rows * columns * outputs)
    return (gamma(columns + 2) * frobenius * size + TINY64 * math.sqrt(columns) * dropped) * SHORT_CHAIN


def _exponent(x: torch.Tensor) -> int:
    return max(-1000, math.frexp(float(x.abs().max()))[1])


def _update_error(bounds: torch.Tensor | None, x: torch.Tensor) -> float:
    """Frobenius norm of the update's error, from the 2-norm bound of each column's."""
    if bounds is None:
        return 0.0
    if isinstance(bounds, torch.Tensor):
        checks.dense("update_error", bounds)
    if not isinstance(bounds, torch.Tensor) or bounds.shape != x.shape[1:]:
        came = tuple(bounds.shape) if isinstance(bounds, torch.Tensor) else type(bounds).__name__
        raise ShapeError(f"update_error: expected one bound a column, shape {tuple(x.shape[1:])}, got {came}.")
    return error_norm(bounds[None], x[:1], 1.0, ("update", "update_error"))
