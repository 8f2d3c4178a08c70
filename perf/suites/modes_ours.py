"""ntkla in suite `modes`: its own choice of a route, the other route, and Lanczos with a proof by inertia."""

from __future__ import annotations

from functools import partial
from typing import Any

from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigenmodes import eigenmodes
from perf import parts
from perf.harness import Contender
from perf.suites.modes_peers import TOLERANCE, operator, work
from perf.suites.modes_problem import Problem

_LANCZOS, _FEATURES, _FULL = (
    "ntkla.linalg.eigen.lanczos",
    "ntkla.linalg.eigen.feature_lanczos",
    "ntkla.linalg.eigen.full_modes",
)
PARTS = [
    parts.Part("trace", _FEATURES, "squared_norms"),
    parts.Part("trace", _FEATURES, "summed_bounds"),
    parts.Part("products", _LANCZOS, "BlockLanczos._multiplied"),
    parts.Part("orthogonalisation", _LANCZOS, "BlockLanczos.step"),
    parts.Part("section", _LANCZOS, "BlockLanczos.ritz"),
    parts.Part("small side", "ntkla.linalg.eigen.small_side", "small_matrix"),
    parts.Part("decomposition", _FULL, "small_side"),
    parts.Part("mapping", _FEATURES, "lifted"),
    parts.Part("mapping", _FULL, "lifted"),
    parts.Part("certificate", _FEATURES, "gram_product"),
    parts.Part("certificate", _FEATURES, "FeatureLanczos._judged"),
    parts.Part("certificate", _FEATURES, "partial_modes"),
    parts.Part("certificate", "ntkla.linalg.eigen.small_side", "full_enclosure"),
    parts.Part("certificate", _FULL, "gram_residual_norms"),
    parts.Part("certificate", _FULL, "orthogonality_defect"),
    parts.Part("inertia", _FEATURES, "remainder_of_features"),
    parts.Part("inertia", _FEATURES, "by_inertia"),
]
DEFAULT, FULL, INERTIA = "ntkla", "ntkla, full", "ntkla, lanczos, inertia"
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    FULL: {"route": "full"},
    "ntkla, lanczos": {"route": "lanczos"},
    INERTIA: {"route": "lanczos", "prove": "inertia"},
}


def contenders(problem: Problem, names: tuple[str, ...]) -> list[Contender]:
    """The named ones."""
    kernel = operator(problem)
    found = []
    for name in names:
        call = partial(eigenmodes, kernel, problem.k, tol=TOLERANCE, **OPTIONS[name])
        by_part = partial(parts.split, call, PARTS, problem.x.device)
        found.append(Contender(name, call, work(problem), ours=True, digits=TOLERANCE, parts=by_part))
    return found


def facts(modes: Eigenmodes) -> dict[str, Any]:
    """How it reached its answer and what it proved."""
    return {
        "status": modes.status.code,
        "passes": modes.passes,
        "complete": modes.complete,
        "proof": modes.proof,
        "next_value_bound": modes.next_value_bound,
    }
