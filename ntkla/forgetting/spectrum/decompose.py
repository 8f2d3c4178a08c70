"""Which directions carry the forgetting: the energy of a drift in each eigenmode, and how many modes hold a share.

`e_m = ||u_m^T dF||^2`, summed over the outputs; `r_q` is the fewest modes that carry the share q of `||dF||_F^2`.
Vectors of one cluster (equal or indistinguishable eigenvalues) are defined as a subspace only: their single energies
belong to the basis at hand, the cluster's sum does not.  Bounds: `energies.py`.  They rest on the angles that the modes
certify: where it is not proved that the leading modes are all there, the angle bound is 1 and the energy is open.

In modes of a `SoftmaxGram`, `B^T (I (x) G) B`, energies are those of `B^T dF`.  `B B^T = diag(p) - p p^T` is the
Hessian S of the cross-entropy in the outputs, so they add up to `sum_i f_i^T S_i f_i`, f_i the rows of the drift: twice
the KL divergence that the drift makes between the predictions before and after, to second order.
"""

from __future__ import annotations

import math

import torch

from ntkla.forgetting.spectrum.decomposition import Decomposition, assembled
from ntkla.forgetting.spectrum.energies import Energies, energies_in
from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.errors import DtypeError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, norm_upper


def decompose(
    drift: torch.Tensor, modes: Eigenmodes, *, error_bound: torch.Tensor | None = None, tol: float | None = None
) -> Decomposition:
    """Splits the energy of a drift over eigenmodes.

    Args:
        drift: [n, C], one row a sample, such as `Forgetting.drift`.
        modes: `eigenmodes` of the features that the drift belongs to, of their Kronecker kernel with C outputs, of any
            other kernel over n samples and C outputs (`LayerNTK`, `EmpiricalNTK`), or of their `SoftmaxGram`: then
            energies are those of `B^T dF`, and their total is `sum_i f_i^T S_i f_i`.  They need not be complete.
        error_bound: [n, C], entrywise bounds of the drift's error, such as `Forgetting.error_bound` (infinite entries
            allowed); None takes the drift as exact.
        tol: error of a cluster's energy, relative to the total, up to which the status is certified; 1e-10 when None.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError

    Cost: 4 n k C operations.  Deterministic for fixed inputs, versions and thread count.
    """
    if not isinstance(modes, Eigenmodes):
        raise DtypeError(
            f"modes: expected the result of eigenmodes(...), got {type(modes).__name__}. "
            "For that of feature_modes(...) there is ntkla.decompose_update."
        )
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    energies, exponent = scaled_energies(drift, error_bound, modes)
    return assembled(energies, modes, exponent, tolerance)


def scaled_energies(drift: torch.Tensor, error_bound: torch.Tensor | None, modes: Eigenmodes) -> tuple[Energies, int]:
    """The energies of a drift divided by 2^e, checked and brought into the metric of the modes, and e."""
    exact, error_bound = _in_metric(drift, error_bound, modes)
    # Energies are computed for entries of order 1 and scaled back: their squares neither overflow nor underflow.
    exponent = max(-1000, math.frexp(float(exact.abs().max()))[1])
    scale = 2.0**-exponent
    return energies_in(exact * scale, error_norm(error_bound, exact, scale), modes), exponent


def _in_metric(
    drift: torch.Tensor, error_bound: torch.Tensor | None, modes: Eigenmodes
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the modes are modes of, float64: the drift [n, C], it or B^T of it as one column [nC, 1]; and its bounds."""
    if modes.softmax is not None:
        value, error = modes.softmax.half(drift, error_bound)
        return modes.flattened(value)[:, None], modes.flattened(error)[:, None]
    if modes.outputs is not None:
        rows = modes.spectrum.size // modes.outputs
        given = checks.matrix("drift", drift, rows=rows, columns=modes.outputs)
        checks.one_device(drift=given, modes=modes.basis)
        bounds = None if error_bound is None else checks.bounds("error_bound", error_bound, drift=given)
        flat = None if bounds is None else modes.flattened(widened(bounds))[:, None]
        return modes.flattened(widened(given))[:, None], flat
    outputs = None if modes.output_index is None else modes.spectrum.multiplicity
    given = checks.matrix("drift", drift, rows=modes.spectrum.size, columns=outputs)
    checks.one_device(drift=given, modes=modes.basis)
    return widened(given), error_bound


def error_norm(
    error_bound: torch.Tensor | None,
    bounded: torch.Tensor,
    scale: float,
    names: tuple[str, str] = ("drift", "error_bound"),
) -> float:
    """Frobenius norm of an array's entrywise error bound, scaled; both are checked under their names."""
    whole, name = names
    if error_bound is None:
        return 0.0
    bounds = checks.bounds(name, error_bound, **{whole: bounded})
    return math.inf if bool(bounds.isinf().any()) else float(norm_upper(widened(bounds) * scale))
