"""Judging the certificates of `ntkla.eigenmodes` and `ntkla.feature_modes` in ball arithmetic.

The eigenvalues are enclosed in order and with multiplicity: a lost or an invented copy is a violation like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ntkla.testing.ball_spectrum import gram_eigenvalues
from ntkla.testing.balls import Exact, ball_matrix, design_matrix, diagonal, flint
from ntkla.testing.exact import dyadic
from ntkla.testing.violations import Comparison, compare, compare_columns

if TYPE_CHECKING:
    from ntkla.linalg.eigen.feature_modes import FeatureModes
    from ntkla.linalg.eigen.modes import Eigenmodes

# Enclosures of the exact eigenvalues are this much narrower than the bounds that they judge.
_NARROWER = 2.0**-20
_LEAST_RADIUS = 2.0**-1070


def check_eigenmodes(modes: Eigenmodes, features: torch.Tensor, *, bias: bool = False) -> tuple[Comparison, ...]:
    """Judges `ntkla.eigenmodes(features, k, bias=bias)`: every bound except the angles, which need exact vectors.

    Returns:
        Verdicts on the eigenvalues, the whole spectrum, the bound of the next eigenvalue, the residual norms and the
        orthogonality.
    """
    spectrum, k, device = modes.spectrum, modes.values.shape[0], modes.basis.device
    known = spectrum.values.shape[0]
    exact = _eigenvalues(features, bias, [*spectrum.value_error.tolist(), *modes.value_error.tolist()])
    next_bound = torch.full((1, 1), modes.next_value_bound, dtype=torch.float64, device=device)
    verdicts = [
        _values("eigenvalues", modes.values[:known], modes.value_error[:known], exact),
        _values("spectrum", spectrum.values, spectrum.value_error, exact),
    ]
    if k < spectrum.size and next_bound > 0:
        verdicts.append(compare(torch.zeros_like(next_bound), next_bound, _column(exact[k : k + 1]), "next value"))
    return (*verdicts, *_vectors(modes, modes.basis, lambda: design_matrix(features, bias)))


def check_feature_modes(modes: FeatureModes, features: torch.Tensor) -> tuple[Comparison, ...]:
    """Judges `ntkla.feature_modes(features, bias=modes.bias)`: every bound except the angles.

    Returns:
        Verdicts on the spectrum, on the residual norms on the smaller side, and on the orthogonality.
    """
    spectrum = modes.spectrum
    exact = _eigenvalues(features, modes.bias, spectrum.value_error.tolist())
    turned = modes.side == "features"

    def factor() -> Any:
        phi = design_matrix(features, modes.bias)
        return phi.transpose() if turned else phi

    values = _values("spectrum", spectrum.values, spectrum.value_error, exact)
    return (values, *_vectors(modes, modes.vectors, factor))


def _vectors(modes: Eigenmodes | FeatureModes, vectors: torch.Tensor, factor: Callable[[], Any]) -> list[Comparison]:
    """Residuals and orthogonality of the stored eigenvectors of `factor factor^T`."""
    nothing, columns = torch.zeros_like(vectors), vectors.shape[1]
    residual = Exact(lambda: _residual(factor(), ball_matrix(vectors), ball_matrix(modes.values)))
    # The norm of a column is at most the 2-norm of the matrix, which is what the bound is for.
    limit = torch.full((columns,), modes.orthogonality, dtype=torch.float64, device=vectors.device)
    defect = Exact(lambda: _defect(ball_matrix(vectors)))
    return [
        compare_columns(nothing, modes.residual_norms, residual, "residuals"),
        compare_columns(nothing.new_zeros((columns, columns)), limit, defect, "orthogonality"),
    ]


def _eigenvalues(features: torch.Tensor, bias: bool, bounds: list[float]) -> list[Any]:
    """Enclosures of all eigenvalues, narrow enough to judge the positive bounds; the zero matrix is known exactly."""
    if not bias and all(m == 0 for m, _ in dyadic(features)):
        return [flint().arb(0)] * features.shape[0]
    radius = _NARROWER * min((b for b in bounds if b > 0), default=0.0)
    return gram_eigenvalues(features, bias=bias, radius=max(_LEAST_RADIUS, radius))


def _values(name: str, values: torch.Tensor, bounds: torch.Tensor, exact: list[Any]) -> Comparison:
    return compare(values[:, None], bounds[:, None], _column(exact[: values.shape[0]]), name)


def _column(balls: list[Any]) -> Exact:
    return Exact(lambda: flint().arb_mat([[b] for b in balls]))


def _residual(factor: Any, vectors: Any, values: Any) -> Any:
    return factor * (factor.transpose() * vectors) - vectors * diagonal(values.entries())


def _defect(vectors: Any) -> Any:
    return vectors.transpose() * vectors - diagonal([flint().arb(1)] * vectors.ncols())
