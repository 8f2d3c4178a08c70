"""The forecast through ntkla, as a user calls it, and what its answer says about itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ntkla.forgetting.predict import predict_forgetting
from perf import parts
from perf.harness import Contender
from perf.suites.forecast_experts import work
from perf.suites.forecast_problem import Problem

_FACTOR, _REFINE, _DRIFTS = "ntkla.linalg.solve.factor", "ntkla.linalg.solve.refine", "ntkla.forgetting.drifts"
PARTS = [
    parts.Part("checks", "ntkla.linalg.checks", "matrix"),
    parts.Part("Gram", _FACTOR, "formed_normal_matrix"),
    parts.Part("Gram", _FACTOR, "formed_gram_matrix"),
    parts.Part("factor", _FACTOR, "CholeskyFactor.build"),
    parts.Part("factor", _FACTOR, "DualFactor.build"),
    parts.Part("factor", _FACTOR, "QRFactor.build"),
    parts.Part("first solve", _FACTOR, "_Primal.start"),
    parts.Part("first solve", _FACTOR, "DualFactor.start"),
    parts.Part("refinement", _REFINE, "Refinement._round"),
    parts.Part("residual", _REFINE, "Refinement._measure"),
    parts.Part("certificate", _DRIFTS, "drift_of"),
    parts.Part("certificate", _DRIFTS, "drift_scale"),
    parts.Part("certificate", "ntkla.linalg.solve.stability", "Stability.row_distances"),
    parts.Part("drift", "ntkla.linalg.design", "Design.matmul", inside="certificate"),
]
TOLERANCES = {"ntkla": None, "ntkla, tol=1e-6": 1e-6}


def contenders(problem: Problem, device: torch.device) -> list[Contender]:
    """ntkla with the default tolerance and with a loose one."""
    old, new, residual = (torch.from_numpy(a).to(device) for a in (problem.old, problem.new, problem.residual))

    found = []
    for name, tol in TOLERANCES.items():
        call = partial(predict_forgetting, old, new, residual, ridge=problem.ridge, tol=tol)
        by_part = partial(parts.split, call, PARTS, device)
        found.append(Contender(name, call, work(problem), ours=True, parts=by_part))
    return found


def facts(answer: Any) -> dict[str, Any]:
    """How the solver reached its answer, a forecast or a ridge solution."""
    diagnostics = answer.diagnostics
    return {
        "status": answer.status.code,
        "route": answer.route,
        "factor": diagnostics.factor,
        "escalations": list(diagnostics.escalations),
        "corrections": diagnostics.corrections,
        "residual_levels": diagnostics.residual_levels and list(diagnostics.residual_levels),
        "relative_bound": diagnostics.relative_bound,
        "memory_estimate": diagnostics.memory_estimate,
    }
