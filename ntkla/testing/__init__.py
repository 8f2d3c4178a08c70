"""Strategies and references for property tests of certified linear algebra: ours and other people's.

- *Strategies* (need `hypothesis`): `feature_specs`, `ridge_problems`, `problems` draw spectrum, seed, element type,
  layout and scale.  No hypothesis profile is loaded.
- *Problems*: `FeatureSpec`, `RidgeProblem`, `Problem` describe an instance in one line that rebuilds it;
  `sample_weights` makes weights of every kind.
- *Dense float64 references*: `dense_ridge_solution`, `dense_drift_primal`, ... are the formulas as written.
- *Exact references* (need `python-flint`): `ridge_solution`, `head_update`, `drift_of`, `gradient_descent`,
  `eigenvalues`, ... enclose the real result for the inputs as stored, as tightly as asked.
- *Verdicts*: `compare(computed, bound, exact)` lists the entries where |computed - exact| > bound, rigorously, and
  says how tight the bound is; `check_ridge`, `check_forgetting` and `check_eigenmodes` do so for ntkla's own results.
- *Random check*: `check_product` compares a large product with its factors in little time, by Freivalds' check.
- *Ambient states*: `hostile_states` and `ambient_state`.

`import ntkla.testing` needs neither hypothesis nor python-flint; what needs them says so when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntkla.linalg.backends.freivalds import ProductCheck
from ntkla.linalg.errors import MissingPackageError
from ntkla.testing.ambient import ambient_state, hostile_states
from ntkla.testing.ball_eigenspaces import eigenspace_energies, eigenspace_parts
from ntkla.testing.ball_penalty import PenaltyTerm
from ntkla.testing.ball_solutions import (
    drift_dual,
    drift_of,
    exact_rank,
    head_update,
    minimum_norm_solution,
    ridge_solution,
    ridge_solution_dual,
)
from ntkla.testing.ball_spectrum import eigenvalues, gram_eigenvalues
from ntkla.testing.ball_training import gradient_descent, gradient_flow
from ntkla.testing.balls import BallPrecisionError, Exact, ball_matrix, design_matrix, working_precision
from ntkla.testing.exact import dyadic, dyadic_number
from ntkla.testing.freivalds import check_product
from ntkla.testing.planted import hadamard_basis, planted_components, planted_energies, planted_features
from ntkla.testing.references import (
    dense_drift_dual,
    dense_drift_kronecker,
    dense_drift_penalised,
    dense_drift_primal,
    dense_kronecker,
    dense_ridge_solution,
    looped_gradient_descent,
    vec,
    with_bias,
)
from ntkla.testing.samples import WEIGHTINGS, sample_weights, targets
from ntkla.testing.specs import FeatureSpec, Problem, RidgeProblem, mean_eigenvalue
from ntkla.testing.spectra import DTYPES, LAYOUTS, SPECTRUM_NAMES, TWISTS, features_with_spectrum, laid_out
from ntkla.testing.spectral_violations import check_eigenmodes, check_feature_modes
from ntkla.testing.violations import (
    Comparison,
    Violation,
    check_forgetting,
    check_ridge,
    compare,
    compare_columns,
    exact_update,
    relative_drift_bound,
    update_with_bias,
)

if TYPE_CHECKING:
    from ntkla.testing.strategies import feature_specs, lengths, problems, ridge_problems, ridges, scales

_STRATEGIES = ("feature_specs", "lengths", "problems", "ridge_problems", "ridges", "scales")


def __getattr__(name: str) -> Any:
    """The strategies are loaded on first use, because they need hypothesis."""
    if name not in _STRATEGIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ntkla.testing import strategies
    except ModuleNotFoundError as cause:
        raise MissingPackageError(f"{name} needs hypothesis, which is not installed: pip install hypothesis") from cause
    return getattr(strategies, name)


__all__ = [
    "DTYPES",
    "LAYOUTS",
    "SPECTRUM_NAMES",
    "TWISTS",
    "WEIGHTINGS",
    "BallPrecisionError",
    "Comparison",
    "Exact",
    "FeatureSpec",
    "PenaltyTerm",
    "Problem",
    "ProductCheck",
    "RidgeProblem",
    "Violation",
    "ambient_state",
    "ball_matrix",
    "check_eigenmodes",
    "check_feature_modes",
    "check_forgetting",
    "check_product",
    "check_ridge",
    "compare",
    "compare_columns",
    "dense_drift_dual",
    "dense_drift_kronecker",
    "dense_drift_penalised",
    "dense_drift_primal",
    "dense_kronecker",
    "dense_ridge_solution",
    "design_matrix",
    "drift_dual",
    "drift_of",
    "dyadic",
    "dyadic_number",
    "eigenspace_energies",
    "eigenspace_parts",
    "eigenvalues",
    "exact_rank",
    "exact_update",
    "feature_specs",
    "features_with_spectrum",
    "gradient_descent",
    "gradient_flow",
    "gram_eigenvalues",
    "hadamard_basis",
    "head_update",
    "hostile_states",
    "laid_out",
    "lengths",
    "looped_gradient_descent",
    "mean_eigenvalue",
    "minimum_norm_solution",
    "planted_components",
    "planted_energies",
    "planted_features",
    "problems",
    "relative_drift_bound",
    "ridge_problems",
    "ridge_solution",
    "ridge_solution_dual",
    "ridges",
    "sample_weights",
    "scales",
    "targets",
    "update_with_bias",
    "vec",
    "with_bias",
    "working_precision",
]
